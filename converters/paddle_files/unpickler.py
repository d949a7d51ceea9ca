"""A pickle read as data: numpy arrays, dictionaries, lists, tuples, strings, numbers, and nothing else.

A pickle is a program for a stack machine, and Python's own machine will import and call whatever the file names.
This one imports and calls nothing. It knows the instructions that data needs (protocols 2 to 5); the few functions
that a pickled array names (numpy 1 and numpy 2 under their own module names) are tokens whose meaning is
written here; any other name ends the reading with an error that says what the file wanted.

Arrays are views of the file wherever the pickle holds their bytes as bytes. What the machine allocates is counted
against the size of the file, so that a small file cannot ask for much memory, nor a shared object be unfolded for ever.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from paddle2torch.converters.paddle_files.files import ByteReader

Array = npt.NDArray[Any]

# Python needs a dozen bytes for each byte that an array of one number has in a pickle (25 counting all that lives only
# while reading), so the ratio must be generous. The ceiling, a hundred thousand tensors and more, keeps a large file
# from using that generosity.
_BYTES_OF_OBJECTS_PER_BYTE_OF_FILE = 32
_BYTES_OF_OBJECTS_AT_LEAST = 1 << 20
_BYTES_OF_OBJECTS_AT_MOST = 1 << 28
_DEPTH = 32
_RANK = 32  # of numpy 1; numpy 2 allows 64
_TEXT_DECODED_AT_ONCE = 4096
_INTEGER_BYTES = 16

# What Paddle can store: no strings, no records, above all no Python objects.
_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
_ITEM_SIZES = {code: int(code[1:]) for code in _CODES}


class _Token(Enum):
    """What a pickle of arrays may name. Never looked up, only compared."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    SCALAR = "numpy.core.multiarray.scalar"
    FROM_BUFFER = "numpy.core.numeric._frombuffer"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    ORDERED_DICT = "collections.OrderedDict"
    TUPLE = "builtins.tuple"
    BYTES = "builtins.bytes"


_TOKENS = {token.value: token for token in _Token}
_RENAMED_MODULES = {
    "numpy._core.multiarray": "numpy.core.multiarray",  # numpy 2
    "numpy._core.numeric": "numpy.core.numeric",
    "__builtin__": "builtins",  # protocol 2 uses Python 2's names
}


class _Span:
    """Bytes that stay in the file until something needs them: a tensor's data, or a text too long for a name."""

    __slots__ = ("length", "start")

    def __init__(self, start: int, length: int) -> None:
        self.start = start
        self.length = length


class _LongText(_Span):
    """UTF-8 in the file. Protocol 2 stores a tensor's bytes in this way, as Latin-1 text."""


class _DataType:
    """A numpy dtype under construction: its code ("f4"), then its byte order."""

    __slots__ = ("code", "native")

    def __init__(self, code: str) -> None:
        self.code = code
        self.native = True

    @property
    def item_size(self) -> int:
        return _ITEM_SIZES[self.code]


class _ArrayShell:
    """What `_reconstruct` makes: an array whose content comes with a later BUILD."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None


class _Unset:
    """A memo slot that the file skipped."""


class Unpickler:
    """The machine. One instance reads one pickle.

    data: the whole file, read-only (`map_file`). path: for messages. `load` returns a tree of dict, list, tuple, str,
    bytes, int, float, complex, bool, None and read-only numpy arrays in native byte order.
    Raises `FileFormatError`.
    """

    def __init__(self, data: memoryview, path: str | os.PathLike[str]) -> None:
        self._reader = ByteReader(data, path)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._objects_left = _BYTES_OF_OBJECTS_AT_LEAST + min(
            _BYTES_OF_OBJECTS_PER_BYTE_OF_FILE * len(data), _BYTES_OF_OBJECTS_AT_MOST
        )
        self._copies_left = len(data)

    def load(self) -> Any:
        reader = self._reader
        if reader.size < 2 or reader.data[0] != 0x80:
            raise reader.error(f"is not a pickle: it begins with {bytes(reader.data[:4])!r}")
        stop = ord(".")
        instructions = _INSTRUCTIONS
        while True:
            code = reader.u8("the next pickle instruction")
            if code == stop:
                break
            instruction = instructions.get(code)
            if instruction is None:
                self._refuse_instruction(code)
            instruction(self)
        value = self._pop()
        if self._stack or self._marks:
            raise reader.error("the pickle ends with unfinished values")
        if reader.remaining:
            raise reader.error(f"{reader.remaining:,} bytes follow the end of the pickle; the file is corrupt")
        return self._finish(value, 0)

    # What the machine may spend.

    def _spend(self, size: int) -> None:
        self._objects_left -= size
        if self._objects_left < 0:
            raise self._reader.error("asks for far more objects than a checkpoint of its size holds")

    def _spend_copy(self, size: int) -> None:
        self._copies_left -= size
        if self._copies_left < 0:
            raise self._reader.error("asks for more memory than the whole file has bytes")

    # The stack.

    def _push(self, value: Any, size: int) -> None:
        self._spend(size)
        self._stack.append(value)

    def _pop(self) -> Any:
        # Below the last mark is what belongs to an enclosing value.
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise self._reader.error("the pickle takes a value that is not there; the file is corrupt")
        return self._stack.pop()

    def _top(self, kind: type, what: str) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0) or not isinstance(self._stack[-1], kind):
            raise self._reader.error(f"the pickle needs a {what} here; the file is corrupt")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise self._reader.error("the pickle closes a value that it never opened; the file is corrupt")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self) -> None:
        self._spend(48)
        self._marks.append(len(self._stack))

    # Constants. `_push` is told about what CPython needs for the object and its place on the stack.

    def _none(self) -> None:
        self._push(None, 8)

    def _true(self) -> None:
        self._push(True, 8)

    def _false(self) -> None:
        self._push(False, 8)

    def _integer_1(self) -> None:
        self._push(self._reader.u8("an integer"), 8)

    def _integer_2(self) -> None:
        self._push(self._reader.u16("an integer"), 40)

    def _integer_4(self) -> None:
        self._push(self._reader.i32("an integer"), 40)

    def _long(self, length: int) -> None:
        if length > _INTEGER_BYTES:
            raise self._reader.error(f"holds an integer of {length:,} bytes, which no checkpoint needs")
        self._push(int.from_bytes(self._reader.take(length, "an integer"), "little", signed=True), 48)

    def _long_1(self) -> None:
        self._long(self._reader.u8("the length of an integer"))

    def _long_4(self) -> None:
        self._long(self._reader.u32("the length of an integer"))

    def _float(self) -> None:
        self._push(struct.unpack(">d", self._reader.take(8, "a number"))[0], 32)

    def _text(self, length: int) -> None:
        start = self._reader.skip(length, "a text")
        if length > _TEXT_DECODED_AT_ONCE:
            self._push(_LongText(start, length), 64)
            return
        text = self._decode(start, length)
        self._push(text, sys.getsizeof(text) + 8)

    def _decode(self, start: int, length: int) -> str:
        try:
            return str(self._reader.data[start : start + length], "utf-8")
        except UnicodeDecodeError as error:
            raise self._reader.error("holds a text that is not UTF-8; the file is corrupt") from error

    def _text_1(self) -> None:
        self._text(self._reader.u8("the length of a text"))

    def _text_4(self) -> None:
        self._text(self._reader.u32("the length of a text"))

    def _text_8(self) -> None:
        self._text(self._reader.u64("the length of a text"))

    def _bytes(self, length: int) -> None:
        self._push(_Span(self._reader.skip(length, "the data of a tensor"), length), 64)

    def _bytes_1(self) -> None:
        self._bytes(self._reader.u8("the length of data"))

    def _bytes_4(self) -> None:
        self._bytes(self._reader.u32("the length of data"))

    def _bytes_8(self) -> None:
        self._bytes(self._reader.u64("the length of data"))

    # Containers.

    def _empty_list(self) -> None:
        self._push([], 64)

    def _empty_dict(self) -> None:
        self._push({}, 72)

    def _empty_tuple(self) -> None:
        self._push((), 8)

    def _tuple(self) -> None:
        items = self._pop_to_mark()
        self._push(tuple(items), 48 + 8 * len(items))

    def _tuple_of(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)), 48 + 8 * count)

    def _tuple_1(self) -> None:
        self._tuple_of(1)

    def _tuple_2(self) -> None:
        self._tuple_of(2)

    def _tuple_3(self) -> None:
        self._tuple_of(3)

    def _append(self) -> None:
        value = self._pop()
        self._spend(8)
        self._top(list, "list").append(value)

    def _extend(self) -> None:
        items = self._pop_to_mark()
        self._spend(8 * len(items))
        self._top(list, "list").extend(items)

    def _set_item(self) -> None:
        value = self._pop()
        key = self._pop()
        self._put(self._top(dict, "dictionary"), [key, value])

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        self._put(self._top(dict, "dictionary"), items)

    def _put(self, target: dict[str | int, Any], items: list[Any]) -> None:
        if len(items) % 2:
            raise self._reader.error("a dictionary has a key without a value; the file is corrupt")
        self._spend(64 * len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys hash by their content, which a file could choose so that all of them collide.
            if not isinstance(key, str) and not (type(key) is int and abs(key) < 1 << 31):
                raise self._reader.error(f"a dictionary has a {type(key).__name__} for a key, not a name")
            if key in target:
                raise self._reader.error(f"a dictionary has {key!r:.80} twice; the file is corrupt")
            target[key] = value

    # The memo.

    def _remember(self) -> None:
        self._spend(8)
        self._memo.append(self._top(object, "value"))

    def _remember_as(self, index: int) -> None:
        # Writers number from 0 (Python 3) or 1 (Python 2) without gaps; a gap of 2^32 would be memory.
        self._spend(16)
        if index > len(self._memo) + 1:
            raise self._reader.error(f"the pickle stores value {index:,} before value {len(self._memo):,}")
        while len(self._memo) <= index:
            self._memo.append(_Unset)
        self._memo[index] = self._top(object, "value")

    def _remember_1(self) -> None:
        self._remember_as(self._reader.u8("the number of a value"))

    def _remember_4(self) -> None:
        self._remember_as(self._reader.u32("the number of a value"))

    def _recall(self, index: int) -> None:
        if index >= len(self._memo) or self._memo[index] is _Unset:
            raise self._reader.error(f"the pickle uses value {index:,}, which it never stored; the file is corrupt")
        self._push(self._memo[index], 8)

    def _recall_1(self) -> None:
        self._recall(self._reader.u8("the number of a value"))

    def _recall_4(self) -> None:
        self._recall(self._reader.u32("the number of a value"))

    # Names, calls, state.

    def _global(self) -> None:
        reader = self._reader
        line = bytes(reader.data[reader.position : reader.position + 512])
        module, _, rest = line.partition(b"\n")
        name, end, _ = rest.partition(b"\n")
        if not end:
            raise reader.error("the pickle names a function without an end; the file is corrupt")
        reader.position += len(module) + len(name) + 2
        self._name(module.decode("utf-8", "backslashreplace"), name.decode("utf-8", "backslashreplace"))

    def _stack_global(self) -> None:
        name = self._pop()
        module = self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self._reader.error("the pickle names a function by something that is not a text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        token = _TOKENS.get(f"{_RENAMED_MODULES.get(module, module)}.{name}")
        if token is None:
            self._refuse_name(f"{module}.{name}")
        self._push(token, 8)

    def _refuse_name(self, name: str) -> NoReturn:
        # A name from the file is shown escaped: it could hold a terminal's control sequences.
        shown = name if name.isprintable() and len(name) <= 80 else repr(name[:80])
        raise self._reader.error(
            f"unpickling this file would call {shown}, which no Paddle checkpoint needs. Nothing was run. "
            "Do not open the file with paddle.load or pickle.load"
        )

    def _refuse_instruction(self, code: int) -> NoReturn:
        if code == ord("i"):
            self._global()  # names a class to make; refused there unless it is one of the tokens
        if code in (0x97, 0x98):
            raise self._reader.error(
                "the pickle keeps its tensors outside the file (out-of-band buffers of protocol 5); save without them"
            )
        if code in (ord("T"), ord("U"), ord("S")):
            raise self._reader.error("the pickle was written by Python 2; save it again under Python 3")
        name = _REFUSED_INSTRUCTIONS.get(code)
        if name is None:
            raise self._reader.error(f"0x{code:02x} is not a pickle instruction; the file is corrupt")
        raise self._reader.error(f"the pickle uses {name}, which no Paddle checkpoint needs. Nothing was run")

    def _call(self) -> None:
        arguments = self._pop()
        function = self._pop()
        if not isinstance(function, _Token) or not isinstance(arguments, tuple):
            raise self._reader.error("the pickle calls something that is not a function; the file is corrupt")
        match function, arguments:
            case _Token.RECONSTRUCT, (_Token.NDARRAY, (0,), _):
                self._push(_ArrayShell(), 48)
            case _Token.DTYPE, (str(code), bool(), bool()):
                if code not in _ITEM_SIZES:
                    raise self._reader.error(f"holds values of numpy type {code!r}, which are not numbers")
                self._push(_DataType(code), 64)
            case _Token.ENCODE, (str() | _LongText() as text, "latin1" | "latin-1"):
                encoded = self._encode(text)
                self._push(encoded, 48)
            case _Token.SCALAR, (_DataType() as dtype, _Span() | bytes() as content):
                self._push(self._array((), dtype, content, "C").item(), 48)
            case _Token.FROM_BUFFER, (_Span() | bytes() as content, _DataType() as dtype, shape, "C" | "F" as order):
                shell = _ArrayShell()
                shell.array = self._array(shape, dtype, content, order)
                self._push(shell, 48)
            case _Token.ORDERED_DICT, ():
                self._push({}, 72)
            case _Token.TUPLE, (tuple() as items,):
                self._push(items, 8)
            case _Token.BYTES, ():
                self._push(b"", 8)
            case _:
                raise self._reader.error(f"the pickle calls {function.value} in a way that no Paddle checkpoint does")

    def _build(self) -> None:
        state = self._pop()
        target = self._top(object, "value")
        match target, state:
            case _ArrayShell(array=None), (1, shape, _DataType() as dtype, bool(fortran), _Span() | bytes() as content):
                target.array = self._array(shape, dtype, content, "F" if fortran else "C")
            case _DataType(), (3 | 4, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0, *_):
                target.native = order in ("|", "=") or (order == "<") == (sys.byteorder == "little")
            case _:
                raise self._reader.error("the pickle gives a value a state that no Paddle checkpoint has")

    def _encode(self, text: str | _LongText) -> bytes:
        if isinstance(text, _LongText):
            text = self._decode(text.start, text.length)
        self._spend_copy(len(text))
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise self._reader.error("holds data that is not bytes; the file is corrupt") from error

    def _array(self, shape: object, dtype: _DataType, content: _Span | bytes, order: str) -> Array:
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise self._reader.error("a tensor has a shape that is not made of sizes; the file is corrupt")
        if len(shape) > _RANK or math.prod(size or 1 for size in shape) > 1 << 48:
            raise self._reader.error("a tensor has a shape that no tensor can have; the file is corrupt")
        length = content.length if isinstance(content, _Span) else len(content)
        wanted = math.prod(shape) * dtype.item_size
        if wanted != length:
            raise self._reader.error(f"a tensor of shape {shape} needs {wanted:,} bytes and has {length:,}")
        self._spend(128 + 16 * len(shape))
        buffer, offset = (self._reader.data, content.start) if isinstance(content, _Span) else (content, 0)
        stored = np.dtype(dtype.code)
        if not dtype.native:
            stored = stored.newbyteorder()
        array: Array = np.ndarray(shape, stored, buffer, offset, order="F" if order == "F" else "C")
        if not dtype.native:
            self._spend_copy(length)
            array = array.astype(dtype.code)
            array.setflags(write=False)
        return array

    # The result.

    def _finish(self, value: Any, depth: int) -> Any:
        """`value` as plain Python data and arrays: a tree, even where the file shares one object many times."""
        if depth > _DEPTH:
            raise self._reader.error(f"its values are nested more than {_DEPTH} deep")
        self._spend(16)
        match value:
            case None | str() | int() | float() | complex() | bytes():
                return value
            case _ArrayShell(array=np.ndarray() as array):
                return array
            case dict():
                self._spend(72 + 100 * len(value))
                return {key: self._finish(item, depth + 1) for key, item in value.items()}
            case list():
                self._spend(64 + 8 * len(value))
                return [self._finish(item, depth + 1) for item in value]
            case tuple():
                self._spend(48 + 8 * len(value))
                return tuple([self._finish(item, depth + 1) for item in value])
            case _LongText():
                self._spend_copy(value.length)
                return self._decode(value.start, value.length)
            case _Span():
                self._spend_copy(value.length)
                return bytes(self._reader.data[value.start : value.start + value.length])
            case _:
                raise self._reader.error("the pickle holds an unfinished array or a bare name; the file is corrupt")

    # Framing.

    def _protocol(self) -> None:
        protocol = self._reader.u8("the pickle protocol")
        if not 2 <= protocol <= 5:
            raise self._reader.error(f"is a pickle of protocol {protocol}; 2 to 5 are known")

    def _frame(self) -> None:
        # Only a hint for readers that buffer; checked because it is the first length that a truncated file breaks.
        length = self._reader.u64("the length of a frame")
        if length > self._reader.remaining:
            raise self._reader.error(
                f"a frame of {length:,} bytes does not fit the {self._reader.remaining:,} left; is the file truncated?"
            )


# pickletools' names of the instructions, in its order of subject.
_INSTRUCTIONS: dict[int, Callable[[Unpickler], None]] = {
    0x80: Unpickler._protocol,  # PROTO
    0x95: Unpickler._frame,  # FRAME
    ord("("): Unpickler._mark,  # MARK
    ord("N"): Unpickler._none,  # NONE
    0x88: Unpickler._true,  # NEWTRUE
    0x89: Unpickler._false,  # NEWFALSE
    ord("K"): Unpickler._integer_1,  # BININT1
    ord("M"): Unpickler._integer_2,  # BININT2
    ord("J"): Unpickler._integer_4,  # BININT
    0x8A: Unpickler._long_1,  # LONG1
    0x8B: Unpickler._long_4,  # LONG4
    ord("G"): Unpickler._float,  # BINFLOAT
    0x8C: Unpickler._text_1,  # SHORT_BINUNICODE
    ord("X"): Unpickler._text_4,  # BINUNICODE
    0x8D: Unpickler._text_8,  # BINUNICODE8
    ord("C"): Unpickler._bytes_1,  # SHORT_BINBYTES
    ord("B"): Unpickler._bytes_4,  # BINBYTES
    0x8E: Unpickler._bytes_8,  # BINBYTES8
    0x96: Unpickler._bytes_8,  # BYTEARRAY8
    ord("]"): Unpickler._empty_list,  # EMPTY_LIST
    ord("a"): Unpickler._append,  # APPEND
    ord("e"): Unpickler._extend,  # APPENDS
    ord(")"): Unpickler._empty_tuple,  # EMPTY_TUPLE
    ord("t"): Unpickler._tuple,  # TUPLE
    0x85: Unpickler._tuple_1,  # TUPLE1
    0x86: Unpickler._tuple_2,  # TUPLE2
    0x87: Unpickler._tuple_3,  # TUPLE3
    ord("}"): Unpickler._empty_dict,  # EMPTY_DICT
    ord("s"): Unpickler._set_item,  # SETITEM
    ord("u"): Unpickler._set_items,  # SETITEMS
    0x94: Unpickler._remember,  # MEMOIZE
    ord("q"): Unpickler._remember_1,  # BINPUT
    ord("r"): Unpickler._remember_4,  # LONG_BINPUT
    ord("h"): Unpickler._recall_1,  # BINGET
    ord("j"): Unpickler._recall_4,  # LONG_BINGET
    ord("c"): Unpickler._global,  # GLOBAL
    0x93: Unpickler._stack_global,  # STACK_GLOBAL
    ord("R"): Unpickler._call,  # REDUCE
    ord("b"): Unpickler._build,  # BUILD
}

_REFUSED_INSTRUCTIONS = {
    ord("P"): "PERSID",
    ord("Q"): "BINPERSID",
    ord("i"): "INST",
    ord("o"): "OBJ",
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
    ord("d"): "DICT",
    ord("l"): "LIST",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x8F: "EMPTY_SET",
    0x90: "ADDITEMS",
    0x91: "FROZENSET",
    ord("I"): "INT of protocol 0",
    ord("L"): "LONG of protocol 0",
    ord("F"): "FLOAT of protocol 0",
    ord("V"): "UNICODE of protocol 0",
    ord("g"): "GET of protocol 0",
    ord("p"): "PUT of protocol 0",
}
