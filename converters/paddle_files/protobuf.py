"""Protocol buffers as far as Paddle's `framework.proto` needs them: the wire format, bounds-checked.

Only what is on the wire; what a field means is in the readers (`pdmodel.py`, `pdiparams.py`). Everywhere
here `where` is the file and the part of it that an error names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from paddle2torch.converters.paddle_files.files import is_name
from paddle2torch.model_zoo.errors import FileFormatError

Field = int | memoryview

FIELDS_AT_MOST = 400_000
"""Fields in one file, integers that are packed together counted one by one. The largest PP-OCR programs have 40,000."""

_fields_left: ContextVar[list[int] | None] = ContextVar("fields_left", default=None)


@contextmanager
def counted(most: int | None = None) -> Iterator[None]:
    """What is read inside has at most `most` fields (None: `FIELDS_AT_MOST`): each costs more than its two bytes."""
    most = FIELDS_AT_MOST if most is None else most
    token = _fields_left.set([most, most])
    try:
        yield
    finally:
        _fields_left.reset(token)


def _count(left: list[int] | None, where: str) -> None:
    if left is not None:
        left[0] -= 1
        if left[0] < 0:
            raise FileFormatError(f"{where}: the file has more than {left[1]:,} fields, as no program has")


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: memoryview, where: str) -> Iterator[tuple[int, Field]]:
    """The fields of one encoded message in order: number and value.

    The value is an unsigned integer for a varint and the bytes themselves for everything else.
    """
    for number, value, _ in _fields(data, where):
        yield number, value


def edited(data: memoryview, edit: Callable[[int, Field], bytes | None], where: str) -> bytes:
    """A message with some of its messages replaced: `edit` returns the new content of a field, None to leave it."""
    out = bytearray()
    for number, value, encoded in _fields(data, where):
        content = edit(number, value)
        out += encoded if content is None else encode_bytes(number, content)
    return bytes(out)


def encode_bytes(number: int, content: bytes) -> bytes:
    """A field that holds a message or text."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(content)) + content


def encode_integer(number: int, value: int) -> bytes:
    """An integer field; a negative one takes ten bytes, as int64 does."""
    return _encode_varint(number << 3 | _VARINT) + _encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fields(data: memoryview, where: str) -> Iterator[tuple[int, Field, memoryview]]:
    """`fields`, each with its own encoding."""
    position, end, left = 0, len(data), _fields_left.get()
    while position < end:
        _count(left, where)
        start = position
        key, position = _varint(data, position, where)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position, where)
            yield number, value, data[start:position]
            continue
        if wire_type == _BYTES:
            length, position = _varint(data, position, where)
        elif wire_type == _FIXED32:
            length = 4
        elif wire_type == _FIXED64:
            length = 8
        else:
            raise FileFormatError(f"{where}: a field of unknown wire type {wire_type}; the file is corrupt")
        if length > end - position:
            raise FileFormatError(
                f"{where}: a field needs {length:,} bytes, {end - position:,} are left; is the file truncated?"
            )
        value_start = position
        position += length
        yield number, data[value_start:position], data[start:position]


def message(value: Field, where: str) -> memoryview:
    """A field that is a message of its own."""
    if isinstance(value, int):
        raise FileFormatError(f"{where}: a number where a message belongs; the file is corrupt")
    return value


def integer(value: Field, where: str) -> int:
    """An int32, int64, bool or enum field."""
    if not isinstance(value, int):
        raise FileFormatError(f"{where}: bytes where an integer belongs; the file is corrupt")
    return value - (1 << 64) if value >= 1 << 63 else value


def integers(value: Field, where: str) -> Iterator[int]:
    """One occurrence of a repeated integer field: one number, or several packed together."""
    if isinstance(value, int):
        yield integer(value, where)
        return
    position, left = 0, _fields_left.get()
    while position < len(value):
        _count(left, where)
        number, position = _varint(value, position, where)
        yield integer(number, where)


def reals(value: Field, where: str, code: str) -> tuple[float, ...]:
    """One occurrence of a float (code "f") or double ("d") field: one number, or several packed together."""
    size = struct.calcsize(code)
    if isinstance(value, int) or len(value) % size:
        raise FileFormatError(f"{where}: something else where a real number belongs; the file is corrupt")
    return struct.unpack(f"<{len(value) // size}{code}", value)


def text(value: Field, where: str) -> str:
    """A string field."""
    try:
        return str(message(value, where), "utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{where}: a text that is not UTF-8; the file is corrupt") from error


def name(value: Field, where: str) -> str:
    """A string field that names something."""
    decoded = text(value, where)
    if not is_name(decoded):
        raise FileFormatError(f"{where}: {decoded[:80]!r} is not a name; the file is corrupt")
    return decoded


def _varint(data: memoryview, position: int, where: str) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise FileFormatError(f"{where}: ends within a number; is the file truncated?")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, position
    raise FileFormatError(f"{where}: a number of more than ten bytes; the file is corrupt")
