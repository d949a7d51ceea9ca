"""A TIFF a few strips or tiles at a time, for pictures that are too large to be decoded whole.

Pillow decodes a page whole or not at all. Strips and rows of tiles do not depend on one another: some of them with the
page's own tags are a TIFF again, in memory, which Pillow reads as it reads the page.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import TiffImagePlugin

_WIDTH, _LENGTH, _COMPRESSION, _PLANAR = 256, 257, 259, 284
_STRIPS, _STRIP_SIZES, _ROWS = 273, 279, 278
_TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_SIZES = 322, 323, 324, 325
_OLD_JPEG = 6
_LONG, _RATIONAL = 4, 5
_FORMATS = {1: "B", 3: "H", _LONG: "L", 7: "B"}

# What says how the pixels are written: bits, photometric, fill order, samples, options of fax, predictor, colours,
# inks, extra samples, format, tables of JPEG, subsampling, reference values.
_KEPT = (258, _COMPRESSION, 262, 266, 277, _PLANAR, 292, 293, 317, 320, 332, 338, 339, 347, 530, 531, 532)


def can_be_cut(image: TiffImagePlugin.TiffImageFile, pixels: int) -> bool:
    """Whether the page comes in pieces of at most this many pixels."""
    tags: Any = image.tag_v2
    try:
        layout = _layout(tags)
        if layout is None or tags.get(_PLANAR, 1) != 1 or tags.get(_COMPRESSION, 1) == _OLD_JPEG:
            return False
        _, _, rows, across = layout
        kinds = {tags.tagtype[tag] for tag in (*_KEPT, _WIDTH, _TILE_WIDTH, _TILE_LENGTH) if tag in tags}
        known = kinds <= {*_FORMATS, _RATIONAL}
        return known and 0 < rows * tags[_WIDTH] <= pixels and across > 0 and _complete(tags, layout)
    except (KeyError, TypeError, ArithmeticError, ValueError):
        return False


def read_pieces(
    file: BinaryIO, image: TiffImagePlugin.TiffImageFile, pixels: int
) -> Iterator[TiffImagePlugin.TiffImageFile]:
    """The page from the top in pieces of about `pixels` pixels, each an opened TIFF of the page's width.

    It must be one that `can_be_cut`. Raises `ValueError` or `OSError` where the file ends early, or where strips
    overlap so much that they are more than the file.
    """
    tags: Any = image.tag_v2
    layout = _layout(tags)
    assert layout is not None
    offset_tag, size_tag, rows, across = layout
    offsets, sizes = tags[offset_tag], tags[size_tag]
    length = tags[_LENGTH]
    total = file.seek(0, io.SEEK_END)
    if sum(sizes) > 2 * total:
        raise ValueError("its strips overlap")
    together = max(pixels // (rows * tags[_WIDTH]), 1)
    for first in range(0, math.ceil(length / rows), together):
        top = first * rows
        count = min(together * rows, length - top)
        chosen = slice(first * across, (first + math.ceil(count / rows)) * across)
        data = []
        for offset, size in zip(offsets[chosen], sizes[chosen], strict=True):
            file.seek(offset)
            data.append(file.read(size))
            if len(data[-1]) < size:
                raise ValueError("it is truncated: strips are missing")
        yield TiffImagePlugin.TiffImageFile(io.BytesIO(_tiff(tags, layout, count, data)))


Layout = tuple[int, int, int, int]
"""The tags of offsets and of sizes, rows of a strip or tile, strips or tiles side by side."""


def _layout(tags: Any) -> Layout | None:
    if _TILES in tags:
        return _TILES, _TILE_SIZES, tags[_TILE_LENGTH], math.ceil(tags[_WIDTH] / tags[_TILE_WIDTH])
    if _STRIPS in tags and _STRIP_SIZES in tags:
        return _STRIPS, _STRIP_SIZES, min(tags.get(_ROWS, tags[_LENGTH]), tags[_LENGTH]), 1
    return None


def _complete(tags: Any, layout: Layout) -> bool:
    """Whether there is an offset and a size for each strip or tile."""
    offsets, sizes, rows, across = layout
    needed = math.ceil(tags[_LENGTH] / rows) * across
    return needed == len(tags[offsets]) == len(tags[sizes])


def _tiff(tags: Any, layout: Layout, rows: int, data: list[bytes]) -> bytes:
    prefix = tags.prefix
    order = "<" if prefix == b"II" else ">"
    offset_tag, size_tag, *_ = layout
    position, offsets = 8, []
    for piece in data:
        offsets.append(position)
        position += len(piece)
    entries = {
        _LENGTH: (_LONG, [rows]),
        offset_tag: (_LONG, offsets),
        size_tag: (_LONG, [len(piece) for piece in data]),
    }
    if offset_tag == _STRIPS:
        entries[_ROWS] = (_LONG, [layout[2]])
    for tag in (*_KEPT, _WIDTH, _TILE_WIDTH, _TILE_LENGTH):
        if tag in tags:
            value = tags[tag]
            entries[tag] = tags.tagtype[tag], list(value) if isinstance(value, (tuple, bytes)) else [value]
    # The values that do not fit into their entries are between the pixels and the directory.
    values, directory = b"", struct.pack(f"{order}H", len(entries))
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = _packed(order, kind, numbers)
        if len(packed) > 4:
            values += bytes((position + len(values)) % 2)
            place = struct.pack(f"{order}L", position + len(values))
            values += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHL", tag, kind, len(numbers)) + place
    values += bytes((position + len(values)) % 2)
    header = prefix + struct.pack(f"{order}HL", 42, position + len(values))
    return b"".join([header, *data, values, directory, bytes(4)])


def _packed(order: str, kind: int, numbers: list[Any]) -> bytes:
    if kind == _RATIONAL:
        parts = [part for number in numbers for part in (number.numerator, number.denominator)]
        return struct.pack(f"{order}{len(parts)}L", *parts)
    return struct.pack(f"{order}{len(numbers)}{_FORMATS[kind]}", *numbers)
