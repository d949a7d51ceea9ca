"""A PNG a few rows at a time, for pictures that are too large to be decoded whole.

Pillow and OpenCV decode the whole picture or nothing, and 32 KB of PNG can hold a gigabyte of it. Here the compressed
data is unpacked piece by piece. The filters of the rows are undone by OpenCV's own reader: a piece is given to it as a
PNG of its own, in a pixel format of the same number of bytes, below the row that came before.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
STRIP_BYTES = 2**22
"""Bytes of unpacked data, and of pixels, in one piece."""

_READ = 2**16
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

# Bytes of a pixel, as the filters count them: the PNG depth and colour type that OpenCV gives back without loss.
_CARRIER = {1: (8, 0), 2: (16, 0), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PngHeader:
    """What is known before the pixels. palette: uint8 (N, 4), BGRA. keyed: one colour of a picture without alpha is
    transparent, which is not read here.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    palette: Bytes | None
    keyed: bool

    @property
    def bits(self) -> int:
        """Bits of a pixel."""
        return _CHANNELS[self.colour] * self.depth

    @property
    def row_bytes(self) -> int:
        """Bytes of an unpacked row, without the byte that says its filter."""
        return (self.width * self.bits + 7) // 8

    @property
    def unpacked(self) -> int:
        """Bytes of all rows, unpacked."""
        return (self.row_bytes + 1) * self.height


def read_header(file: BinaryIO) -> PngHeader:
    """The chunks before the first pixels; the file stays at the first of those. Raises `ValueError` or `OSError`."""
    file.seek(len(SIGNATURE))
    header: tuple[int, ...] | None = None
    palette: Bytes | None = None
    transparency: bytes | None = None
    while True:
        length, kind = _chunk(file)
        if kind == b"IDAT":
            break
        if kind == b"IEND":
            raise ValueError("there are no pixels in it")
        if kind == b"IHDR" and length == 13:
            header = struct.unpack(">IIBBBBB", _exactly(file, 13))
        elif kind == b"PLTE" and length <= 768 and length % 3 == 0:
            rgb = np.frombuffer(_exactly(file, length), np.uint8).reshape(-1, 3)
            palette = np.full((256, 4), 255, np.uint8)
            palette[:, :3] = 0
            palette[: len(rgb), :3] = rgb[:, ::-1]
        elif kind == b"tRNS" and length <= 256:
            transparency = _exactly(file, length)
        else:
            file.seek(length, 1)
        file.seek(4, 1)
    file.seek(-8, 1)
    if header is None or header[2] not in _DEPTHS.get(header[3], ()) or (header[3] == 3 and palette is None):
        raise ValueError("its header is broken")
    width, height, depth, colour, _, _, interlace = header
    if colour == 3 and palette is not None and transparency:
        palette[: len(transparency), 3] = np.frombuffer(transparency, np.uint8)
    keyed = transparency is not None and colour in (0, 2)
    return PngHeader(width, height, depth, colour, interlace != 0, palette, keyed)


def read_rows(file: BinaryIO, header: PngHeader) -> Iterator[Bytes]:
    """The rows from the top, some at a time: uint8 (n, width) grey, (n, width, 3) BGR or (n, width, 4) BGRA.

    16 bits are cut to their upper 8. The file is where `read_header` left it. Raises `ValueError` where the
    data is broken or ends early ("truncated").
    """
    size = header.row_bytes + 1
    rows = max(STRIP_BYTES // max(size, header.width * 4), 1)
    before = bytes(header.row_bytes)
    left = header.height
    unpacked = _Unpacked(file)
    while left:
        count = min(rows, left)
        data = unpacked.take(count * size)
        raw = _unfiltered(data, before, count, header)
        before = raw[-1].tobytes()
        left -= count
        yield _pixels(raw, header)


class _Unpacked:
    """The data of all IDAT chunks, unpacked as far as it is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()
        self._left = 0
        self._ended = False

    def take(self, count: int) -> bytearray:
        data = bytearray()
        packed = self._inflate.unconsumed_tail
        while len(data) < count:
            if not packed:
                packed = self._packed()
            try:
                piece = self._inflate.decompress(packed, count - len(data))
            except zlib.error as error:
                raise ValueError(f"its pixels are broken ({error})") from None
            packed = self._inflate.unconsumed_tail
            data += piece
            if not piece and (self._inflate.eof or self._ended):
                raise ValueError("it is truncated: rows are missing")
        return data

    def _packed(self) -> bytes:
        while not self._left:
            try:
                length, kind = _chunk(self._file)
            except ValueError:
                kind = b""
            if kind != b"IDAT":
                self._ended = True
                return b""
            self._left = length
        packed = self._file.read(min(self._left, _READ))
        self._left -= len(packed)
        if not packed:
            self._ended, self._left = True, 0
        elif not self._left:
            self._file.seek(4, 1)
        return packed


def _chunk(file: BinaryIO) -> tuple[int, bytes]:
    length, kind = struct.unpack(">I4s", _exactly(file, 8))
    return length, kind


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("it is truncated")
    return data


def _unfiltered(data: bytearray, before: bytes, count: int, header: PngHeader) -> Bytes:
    """The bytes of the rows, uint8 (count, row_bytes)."""
    rows = np.frombuffer(data, np.uint8).reshape(count, -1)
    if not rows[:, 0].any():
        return rows[:, 1:]
    pixel = max(1, header.bits // 8)
    depth, colour = _CARRIER[pixel]
    size = struct.pack(">IIBBBBB", header.row_bytes // pixel, count + 1, depth, colour, 0, 0, 0)
    packed = zlib.compress(b"\0" + before + data, 0)
    png = SIGNATURE + b"".join(
        _written(kind, body) for kind, body in ((b"IHDR", size), (b"IDAT", packed), (b"IEND", b""))
    )
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("its pixels are broken (a row has a filter that there is not)")
    image = image[1:]
    if image.ndim == 3:  # OpenCV's order of channels back to the file's
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    stored = np.ascontiguousarray(image.astype(">u2") if depth == 16 else image)
    return np.asarray(stored.view(np.uint8).reshape(count, -1))


def _written(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _pixels(raw: Bytes, header: PngHeader) -> Bytes:
    """Bytes of rows as pixels."""
    if header.depth == 16:
        raw = raw[:, ::2]
    elif header.depth < 8:
        bits = np.unpackbits(raw, axis=1)
        if header.depth > 1:
            packed = np.packbits(bits.reshape(len(raw), -1, header.depth), axis=2)[:, :, 0]
            bits = packed >> np.uint8(8 - header.depth)
        raw = bits[:, : header.width]
    if header.colour == 3:
        assert header.palette is not None
        opaque = (header.palette[:, 3] == 255).all()
        return header.palette[:, :3][raw] if opaque else header.palette[raw]
    if header.colour == 0:
        return raw * np.uint8(255 // (2**header.depth - 1)) if header.depth < 8 else raw
    channels = np.ascontiguousarray(raw).reshape(len(raw), header.width, -1)
    if header.colour == 4:
        return np.asarray(channels[:, :, [0, 0, 0, 1]])
    order = cv2.COLOR_RGB2BGR if header.colour == 2 else cv2.COLOR_RGBA2BGRA
    return np.asarray(cv2.cvtColor(channels, order), np.uint8)
