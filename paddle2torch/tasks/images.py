"""Images of every kind to the one form that the networks take: uint8 (H, W, 3), BGR, as OpenCV reads them.

JPEG is decoded by OpenCV, because another decoder may differ in the last bit and PaddleOCR decodes with OpenCV. The
other formats are decoded by Pillow, which knows all their modes and says when a file is cut short.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.show import show_path, show_text
from paddle2torch.tasks.png_rows import STRIP_BYTES, read_header, read_rows
from paddle2torch.tasks.tiff_pieces import can_be_cut, read_pieces

BGRImage: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8] | Image.Image"

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

BUDGET = 300_000_000
"""Bytes that decoding a file may take, and `BUDGET_PER_BYTE` times its size where that is more. The smallest of files
can hold the largest of pictures; a photo or a scan at its full size stays below.
"""

BUDGET_PER_BYTE = 8

WORK_AT_MOST = 200_000_000
"""Bytes that a file may unpack to, and `WORK_PER_BYTE` times its size where that is more: what two seconds of a
processor can do. A drawing of a square metre in two colours has fewer than 256 pixels for each byte of its file; an
empty sheet can have 8,000.
"""

WORK_PER_BYTE = 256

OPTION = "--max-picture-mb on the command line, max_bytes of load_image,"
"""What messages name that allows a picture more."""

FILE_AT_MOST = 2**30
"""Bytes of a file that has to be read whole to be decoded: all formats but TIFF and PNG."""

# Bytes that Pillow holds per pixel of a mode.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_STORED_OTHERWISE = 4

# Bytes per pixel of a mode as work is counted: as many as are unpacked. To lay alpha on white takes about half as long
# again as to unpack it; bits and palettes are written out.
_WORK = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2, "RGB": 3, "YCbCr": 3, "LAB": 3}
_WORK_OTHERWISE = 4
_WORK_OF_ALPHA = 6

# Measured: bytes per pixel at the most while a format is decoded, where that is more than what is stored in the end.
_WHILE_DECODING = {"WEBP": 16.1, "AVIF": 11.0, "JPEG2000": 19.3}
_OPENCV_PIXEL = 6.1
_OPENCV_INTO_PIXEL = 3.1
_WEBP_MORE = 1.0
_READS_INTO = int(cv2.__version__.split(".")[0]) >= 5

_JPEG_REDUCTIONS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG2000_REDUCTIONS = (1, 2, 4, 8, 16)

# Work that a JPEG may ask for: each of its scans passes over all pixels, and needs hardly any bytes for that. A second
# does this much; a photograph in the usual ten scans has fewer for each of its bytes.
_JPEG_SCANNED = 2**31
_JPEG_SCANNED_PER_BYTE = 2**11

# A marker of JPEG is 0xFF and a code; in compressed data 0xFF is followed by 0 or by a restart code (0xD0 to 0xD7).
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9
_JPEG_BARE = (0x01, 0xD8)  # markers without a length, besides the restart codes
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)

_TIFF_BITS, _TIFF_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 258, 278, 322, 323
_ORIENTATION = 0x0112
_HEAD = 1024
_SMALL = 2**20
_READS_OF_A_HEADER = 100_000
_READ_IN_PARTS = (b"\x89PNG", b"II", b"MM", b"BM", b"P")

_STRIP = 2**20  # pixels that are converted at a time
_TIFF_PIECE = 2**23  # pixels of the largest strip, or row of tiles, of which a TIFF may be read one by one

# What Pillow's readers raise on broken files: not one type, but what their parsing runs into.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
)


DPI = (30, 4800)
"""Pixels to the inch that a picture's header may be believed."""


class ImageError(Paddle2TorchError):
    """An image is missing, empty, broken, too large, or of a kind that is not read."""


def load_image(source: ImageSource, *, max_bytes: int | None = None, reduce: bool = True) -> BGRImage:
    """Read an image as uint8 (H, W, 3), BGR.

    `source` is one of
    - a path, or the bytes of a file, in any of `FORMATS`; of animations the first frame, of multi-page TIFF the first
      page; turned as its EXIF orientation says;
    - a numpy array, uint8: (H, W) or (H, W, 1) grey, (H, W, 3) BGR or (H, W, 4) BGRA. The result may be the array
      itself;
    - a PIL image in any mode. It is turned by its EXIF orientation only where it is as `PIL.Image.open` gave it: what
      has been worked on is taken to be upright.

    Transparency is laid on white, and 16 bits are cut to their upper 8, as PaddleOCR does (its `alpha_to_color`).

    max_bytes: memory that decoding a file may take, by default `BUDGET` or `BUDGET_PER_BYTE` times the file's size,
    whichever is more. What needs more at its full size is read a whole number of times smaller, with a warning that
    says so; with `reduce=False`, and where the format cannot be read in parts, it is refused. So is, unless `max_bytes`
    is given, what unpacks to more than `WORK_AT_MOST` and `WORK_PER_BYTE` times its file.

    Raises `ImageError`, also for files that are cut short: half an image is not given.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    limits = _Limits(max_bytes, reduce)
    if isinstance(source, Image.Image):
        if isinstance(source, ImageFile.ImageFile) and source.tile:
            limits = limits.of(_size_behind(source))
            limits.check_work("the PIL image", source)
            return _decode_opened(source, "the PIL image", limits)
        return _convert(source, "the PIL image", 1, 1)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the image", limits.of(len(source)))
    if isinstance(source, (str, os.PathLike)):
        name = show_path(source)
        try:
            with open_regular(source) as file:
                return _decode(file, name, limits.of(_allocated(file)))
        except ImageError:
            raise
        except Paddle2TorchError as error:
            raise ImageError(str(error)) from None
    raise ImageError(f"an image is a path, bytes, a numpy array or a PIL image, not {type(source).__name__}")


@dataclass(frozen=True)
class PictureFile:
    """What the header of a picture says: Pillow's name of the kind and the mode, width and height as stored, in pixels.

    orientation: as EXIF counts, 1 to 8. dpi: pixels to the inch, None where the file does not say so.
    """

    kind: str
    mode: str
    size: tuple[int, int]
    orientation: int
    dpi: float | None


def describe_picture(path: str | os.PathLike[str]) -> PictureFile | None:
    """The header of a picture; None for a file of another kind, or a broken one."""
    try:
        with open_regular(path) as file:
            image = _open(file, file.read(_HEAD))
            if image is None:
                return None
            with image:
                said = image.info.get("dpi")
                dots = float(said[0]) if isinstance(said, tuple) and len(said) == 2 else 0.0
                dpi = dots if DPI[0] <= dots <= DPI[1] else None
                return PictureFile(image.format or "", image.mode, image.size, _orientation(image), dpi)
    except (*BROKEN, Paddle2TorchError):
        return None


@dataclass(frozen=True)
class _Limits:
    """How much memory a file may take, and whether it may be made smaller for that."""

    max_bytes: int | None
    reduce: bool
    size: int = 0
    """Of the file, in bytes that are stored: what is a hole in it allows nothing."""

    def of(self, size: int) -> _Limits:
        return replace(self, size=size)

    @property
    def budget(self) -> int:
        return max(BUDGET, BUDGET_PER_BYTE * self.size) if self.max_bytes is None else self.max_bytes

    def check_work(self, name: str, image: ImageFile.ImageFile) -> None:
        """Refuse what unpacks to more than a file of its size may. Whoever sets `max_bytes` waits."""
        most = max(WORK_AT_MOST, WORK_PER_BYTE * self.size)
        work = image.width * image.height * _work_of_a_pixel(image)
        if self.max_bytes is None and work > most:
            raise ImageError(
                f"{name}: {_pixels_of(image.size)} are {work / 1e6:,.0f} MB of work to unpack, and a file of its size "
                f"({self.size:,} bytes) is given {most / 1e6:,.0f}; {OPTION} reads it all the same"
            )

    def too_large(self, name: str, size: tuple[int, int], needed: float) -> ImageError:
        return ImageError(
            f"{name}: {_pixels_of(size)} need about {needed / 1e6:,.0f} MB to be decoded, and a file of its size "
            f"({self.size:,} bytes) is given {self.budget / 1e6:,.0f} MB; {OPTION} allows more"
        )

    def reduction(
        self, name: str, size: tuple[int, int], needed: Callable[[int], float], choices: Iterable[int]
    ) -> int:
        """The first of the choices, by which the sides are divided, that needs no more than there is.

        One that makes the picture smaller also leaves a quarter of the budget to what comes after decoding.
        """
        for factor in choices:
            kept = 0 if factor == 1 else 4 * (size[0] // factor) * (size[1] // factor)
            if max(needed(factor), kept) <= self.budget:
                if factor > 1:
                    self._say(name, size, factor, needed(1))
                return factor
            if not self.reduce:
                break
        raise self.too_large(name, size, needed(1))

    def _say(self, name: str, size: tuple[int, int], factor: int, needed: float) -> None:
        warnings.warn(
            f"{name} is read {factor} times smaller, {size[0] // factor} x {size[1] // factor} of {_pixels_of(size)}: "
            f"at its full size it needs about {needed / 1e6:,.0f} MB, and a file of {self.size:,} bytes is given "
            f"{self.budget / 1e6:,.0f} MB; {OPTION} allows more",
            stacklevel=2,
        )


def _work_of_a_pixel(image: ImageFile.ImageFile) -> int:
    alpha = image.has_transparency_data
    work = _WORK_OF_ALPHA if alpha else _WORK.get(image.mode, _WORK_OTHERWISE)
    # Pillow keeps 8 of the 16 bits of a colour, and says so in the format that it unpacks from.
    raw = image.tile[0][3] if image.tile else None
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return work * 2 if isinstance(raw, str) and "16" in raw and not image.mode.startswith("I") else work


def _pixels_of(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,} pixels"


def _allocated(file: BinaryIO) -> int:
    """The size of an open file, without its holes where the system tells of them."""
    status = os.fstat(file.fileno())
    blocks = getattr(status, "st_blocks", None)
    # A small file may be kept beside its name, in no block at all.
    return status.st_size if blocks is None else min(status.st_size, max(512 * blocks, 2**16))


def _size_behind(image: ImageFile.ImageFile) -> int:
    """The size of the file that an opened PIL image still has to read; 0 where it has no such file."""
    file = image.fp
    try:
        if isinstance(file, io.BytesIO):
            return file.getbuffer().nbytes
        return _allocated(file)  # type: ignore[arg-type]
    except (OSError, AttributeError, ValueError):
        return 0


def _decode(file: BinaryIO, name: str, limits: _Limits) -> BGRImage:
    start = file.read(_HEAD)
    if not start:
        raise ImageError(f"{name} is empty (0 bytes)")
    if not start.startswith(_READ_IN_PARTS):
        _check_size(file, name, limits)
    try:
        image = _open(file, start)
    except BROKEN as error:
        raise ImageError(f"{name} is broken: {show_text(str(error))}") from None
    if image is None:
        raise ImageError(f"{name} {_what_it_is(start)}; images are read in {', '.join(FORMATS)}")
    limits.check_work(name, image)
    with image:
        # MPO: a JPEG with further pictures behind it, as phones write them.
        if image.format in ("JPEG", "MPO"):
            return _decode_jpeg(file, image, name, limits)
        if image.format == "PNG":
            return _decode_png(file, image, name, limits)
        # Pillow gives black where all tiles are missing. The end marker cannot occur in the compressed data.
        if image.format == "JPEG2000" and bytes((0xFF, _JPEG_END)) not in _whole(file):
            raise ImageError(f"{name} is truncated: the JPEG 2000 ends before its end marker")
        if image.format == "WEBP" and _WHILE_DECODING["WEBP"] * image.width * image.height > limits.budget:
            return _decode_large_webp(file, image, name, limits)
        return _decode_opened(image, name, limits)


def _check_size(file: BinaryIO, name: str, limits: _Limits) -> None:
    """Formats that are read whole: not more than there may be, and nothing that is a hole for the most part."""
    size = file.seek(0, os.SEEK_END)
    if size > min(FILE_AT_MOST, 2 * limits.size + _SMALL):
        raise ImageError(
            f"{name} has {size:,} bytes, of which {limits.size:,} are stored; an image that is read has at most "
            f"{FILE_AT_MOST:,}"
        )


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


class _Counted(io.RawIOBase):
    """A file that ends the search for a header: Pillow looks for the next mark byte by byte, to the end of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads = 0

    def read(self, size: int = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _READS_OF_A_HEADER:
            raise ValueError("its header does not end")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _open(file: BinaryIO, start: bytes) -> ImageFile.ImageFile | None:
    """Read the header alone; None where it is the header of no image that is read.

    `PIL.Image.open` does the same, but refuses or warns at a limit of its own that only a global can change.
    """
    Image.preinit()
    if any(name not in Image.OPEN for name in FORMATS):
        Image.init()
    prefix = start[:16].ljust(16, b"\0")
    large = file.seek(0, os.SEEK_END) > _SMALL
    broken = None
    for name in FORMATS:
        if name not in Image.OPEN:  # Pillow is built without its library
            continue
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is not True:
            continue
        try:
            if large:
                file.seek(0)
                factory(_Counted(file), "")  # type: ignore[arg-type]
            file.seek(0)
            return factory(file, "")
        except BROKEN as error:
            broken = error
    if broken is not None:
        raise broken
    return None


def _what_it_is(start: bytes) -> str:
    """Name the files that people take for images."""
    if start.startswith(b"%PDF"):
        return "is a PDF, whose pages have to be rendered first"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photo, which has to be converted first"
    return "is not an image"


def _decode_jpeg(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: _Limits) -> BGRImage:
    data = _whole(file)
    found = _look_through_jpeg(data)
    # OpenCV before 5 fills what is missing with grey.
    if not found.whole:
        raise ImageError(f"{name} is truncated: the JPEG ends before its end marker")
    pixels = image.width * image.height
    if found.scans * pixels > max(_JPEG_SCANNED, len(data) * _JPEG_SCANNED_PER_BYTE):
        raise ImageError(f"{name} is broken: a JPEG of {_pixels_of(image.size)} in {found.scans:,} scans")
    if pixels * max(found.coefficients + 3, _OPENCV_PIXEL) <= limits.budget:
        return _by_opencv(data, name, "JPEG")
    orientation = _orientation(image)
    pixel = _opencv_pixel(file, orientation)

    def needed(factor: int) -> float:
        return pixels * max(found.coefficients + 3 / factor**2, pixel / factor**2)

    factor = limits.reduction(name, image.size, needed, _JPEG_REDUCTIONS)
    return _large_by_opencv(file, image, name, _JPEG_REDUCTIONS[factor], factor)


def _by_opencv(data: bytes, name: str, kind: str, flag: int = cv2.IMREAD_COLOR) -> BGRImage:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"{name} is broken: {show_text(str(error))}") from None
    if image is None:
        raise ImageError(f"{name} is broken: OpenCV cannot decode this {kind}")
    return np.asarray(image, np.uint8)


def _open_path(file: BinaryIO) -> str | None:
    """A path that opens the very file that is open, where the system has such paths and OpenCV reads into an array."""
    path = None if isinstance(file, io.BytesIO) or not _READS_INTO else f"/proc/self/fd/{file.fileno()}"
    return path if path is not None and os.path.exists(path) else None


def _opencv_pixel(file: BinaryIO, orientation: int) -> float:
    """Bytes per pixel that `_large_by_opencv` takes."""
    if _open_path(file) is None:
        return _OPENCV_PIXEL
    return _OPENCV_INTO_PIXEL * (2 if orientation > 1 else 1)


def _large_by_opencv(file: BinaryIO, image: ImageFile.ImageFile, name: str, flag: int, factor: int = 1) -> BGRImage:
    """As `_by_opencv`, without the second copy that OpenCV's results are given to Python by, where that is possible."""
    path, kind, flag = _open_path(file), str(image.format), flag | cv2.IMREAD_IGNORE_ORIENTATION
    if path is None:
        stored = _by_opencv(_whole(file), name, kind, flag)
    else:
        stored = np.empty((-(-image.height // factor), -(-image.width // factor), 3), np.uint8)
        try:
            read = cv2.imread(path, stored, flag)
        except (cv2.error, MemoryError) as error:
            raise ImageError(f"{name} is broken: {show_text(str(error))}") from None
        if read is None:
            raise ImageError(f"{name} is broken: OpenCV cannot decode this {kind}")
    return _turned(stored, _orientation(image))


@dataclass
class _JpegFound:
    """What the markers of a JPEG say. whole: the end marker is there; the one of an embedded thumbnail does not count.

    coefficients: bytes per pixel that a decoder keeps through all scans; none where one scan has all of it.
    """

    whole: bool = False
    scans: int = 0
    coefficients: float = 0.0


def _look_through_jpeg(data: bytes) -> _JpegFound:
    found = _JpegFound()
    position, components, progressive = 2, 0, False
    kept = 0.0
    while match := _JPEG_MARKER.search(data, position):
        position = match.end()
        marker = data[position - 1]
        if marker == _JPEG_END:
            found.whole = True
            break
        if marker in _JPEG_BARE:
            continue
        segment = data[position : position + max(2, int.from_bytes(data[position : position + 2], "big"))]
        position += max(2, len(segment))
        if marker in _JPEG_FRAMES and len(segment) > 7:
            components, progressive = segment[7], marker in _JPEG_PROGRESSIVE
            factors = [(byte >> 4) * (byte & 15) for byte in segment[9 : 8 + 3 * components : 3]]
            kept = 2 * sum(factors) / max(1, *factors) if factors else 0.0
        elif marker == _JPEG_SCAN and len(segment) > 2:
            found.scans += 1
            if progressive or segment[2] < components:
                found.coefficients = kept
    return found


def _decode_png(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: _Limits) -> BGRImage:
    """As Pillow gives it where that fits into the budget; otherwise row by row, and smaller where that does not."""
    if _needed(image, 1) <= limits.budget:
        return _decode_opened(image, name, limits)
    try:
        header = read_header(file)
    except (ValueError, OSError) as error:
        raise ImageError(f"{name} is broken: {error}") from None
    if header.interlaced or header.keyed or (header.width, header.height) != image.size:
        return _decode_opened(image, name, limits)

    def rows() -> Iterator[BGRImage]:
        for strip in read_rows(file, header):
            yield strip if strip.shape[2:] != (4,) else _on_white(np.ascontiguousarray(strip))

    return _in_pieces(rows(), image, name, limits, 8 * STRIP_BYTES)


def _in_pieces(
    pieces: Iterable[BGRImage], image: ImageFile.ImageFile, name: str, limits: _Limits, while_decoding: float
) -> BGRImage:
    """A picture of pieces from the top down, (n, width) grey or (n, width, 3) BGR, as small as the budget needs it."""
    orientation = _orientation(image)
    pixels = image.width * image.height

    def needed(factor: int) -> float:
        return (3 if orientation < 5 else 6) * pixels / factor**2 + while_decoding

    factor = limits.reduction(name, image.size, needed, range(1, min(image.size) + 1))
    try:
        result = _reduced(pieces, image.size, factor)
    except (*BROKEN, cv2.error) as error:
        raise _undecodable(name, error) from None
    return _turned(result, orientation)


def _decode_large_webp(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: _Limits) -> BGRImage:
    """By OpenCV, which takes less than half of the memory, and gives the same."""
    needed = (_opencv_pixel(file, _orientation(image)) + _WEBP_MORE) * image.width * image.height
    if image.mode != "RGB" or getattr(image, "n_frames", 1) > 1 or needed > limits.budget:
        raise limits.too_large(name, image.size, needed)
    return _large_by_opencv(file, image, name, cv2.IMREAD_COLOR)


def _needed(image: ImageFile.ImageFile, factor: int) -> float:
    """Bytes that Pillow takes for decoding an image that is opened, and we for our result."""
    pixels = image.width * image.height
    stored = _STORED.get(image.mode, _STORED_OTHERWISE)
    if image.format == "JPEG2000":
        return pixels * _WHILE_DECODING["JPEG2000"] * (1 if stored == 4 else 1 / 3) / factor**2
    decoding: float = stored * pixels
    # Frames of an animation are laid over one another; TIFFs are turned by Pillow itself; other readers go by a row.
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        decoding += 2 * stored * pixels
    elif image.format == "TIFF":
        decoding += _tiff_piece(image) + (stored * pixels if _orientation(image) > 1 else 0)
    elif image.format in ("BMP", "PPM") and image.tile and image.tile[0][0] not in ("raw", "ppm"):
        decoding += 2 * pixels
    converting = decoding + 3 * pixels / factor**2 + 8 * _STRIP
    turning = 6 * pixels / factor**2
    return max(_WHILE_DECODING.get(image.format or "", 0) * pixels, converting, turning)


def _tiff_piece(image: ImageFile.ImageFile) -> float:
    """Bytes of the largest strip or tile of a TIFF, unpacked."""
    tags: Any = getattr(image, "tag_v2", {})

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return value if isinstance(value, int) and value > 0 else default

    bits = tags.get(_TIFF_BITS, (1,))
    pixel = sum(bit for bit in bits if isinstance(bit, int)) / 8 if isinstance(bits, tuple) else 1
    if _TIFF_TILE_WIDTH in tags:
        return pixel * number(_TIFF_TILE_WIDTH, 1) * number(_TIFF_TILE_LENGTH, 1)
    return pixel * image.width * min(image.height, number(_TIFF_ROWS, image.height))


def _decode_opened(image: ImageFile.ImageFile, name: str, limits: _Limits) -> BGRImage:
    """An image that is opened and not loaded."""
    if image.mode in ("I", "F") and image.format not in ("PNG", "PPM"):
        raise _no_white(image.mode, name)
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and can_be_cut(image, _TIFF_PIECE):
        # Pillow warns of larger ones, and refuses those of twice as many pixels.
        warned = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
        if warned or _needed(image, 1) > limits.budget:
            return _cut_tiff(image, name, limits)
    jpeg2000 = image.format == "JPEG2000"
    choices: Iterable[int] = _JPEG2000_REDUCTIONS if jpeg2000 else range(1, min(image.size) + 1)
    factor = limits.reduction(name, image.size, lambda factor: _needed(image, factor), choices)
    try:
        if jpeg2000 and factor > 1:
            image.reduce = factor.bit_length() - 1  # type: ignore[method-assign, assignment]
            factor = 1
        # Loading first: only that tells whether a TIFF reader has turned it by itself.
        image.load()
    except BROKEN as error:
        raise _undecodable(name, error) from None
    return _convert(image, name, factor, _orientation(image))


def _cut_tiff(image: TiffImagePlugin.TiffImageFile, name: str, limits: _Limits) -> BGRImage:
    def pieces() -> Iterator[BGRImage]:
        for piece in read_pieces(cast(BinaryIO, image.fp), image, _STRIP):
            with piece:
                piece.load()
                yield _convert(piece, name, 1, 1)

    return _in_pieces(pieces(), image, name, limits, 12 * _TIFF_PIECE)


def _orientation(image: Image.Image) -> int:
    """How the picture is to be turned, as EXIF counts: 1 to 8, 1 for what is upright.

    That of a PNG may stand behind its pixels, and is known only when they are loaded.
    """
    try:
        unread = image.format == "PNG" and isinstance(image, ImageFile.ImageFile) and image.tile
        if unread and "exif" not in image.info:
            return 1
        value = image.getexif().get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: BGRImage, orientation: int) -> BGRImage:
    """The picture upright."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _convert(image: Image.Image, name: str, factor: int, orientation: int) -> BGRImage:
    """A PIL image in BGR on white, so many times smaller, a strip at a time."""
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    # 16 bits: PNG and TIFF say so, PGM is widened to 32.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise _no_white(image.mode, name)
    try:
        return _turned(_reduced(_strips(image, sixteen), image.size, factor), orientation)
    except (*BROKEN, cv2.error) as error:
        raise _undecodable(name, error) from None


def _strips(image: Image.Image, sixteen: bool) -> Iterator[BGRImage]:
    transparent = not sixteen and image.has_transparency_data
    rows = max(_STRIP // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if sixteen:
            yield (np.asarray(strip) >> 8).astype(np.uint8)
        elif transparent:
            yield _on_white(np.asarray(cv2.cvtColor(np.asarray(strip.convert("RGBA")), cv2.COLOR_RGBA2BGRA), np.uint8))
        elif image.mode in ("1", "L"):
            yield np.asarray(strip.convert("L"))
        else:
            yield np.asarray(cv2.cvtColor(np.asarray(strip.convert("RGB")), cv2.COLOR_RGB2BGR), np.uint8)


def _reduced(pieces: Iterable[BGRImage], size: tuple[int, int], factor: int) -> BGRImage:
    """Pieces from the top down in one array, uint8 (height, width, 3): means of `factor` x `factor` pixels.

    What is left over at the right and at the bottom is cut off.
    """
    width, height = size[0] // factor, size[1] // factor
    result = np.empty((height, width, 3), np.uint8)
    top = 0
    rest: BGRImage | None = None
    for piece in pieces:
        if rest is not None and len(rest):
            piece = np.concatenate([rest, piece])
        rows = min(len(piece) // factor, height - top)
        rest = piece[rows * factor :]
        if not rows:
            continue
        whole = piece[: rows * factor, : width * factor]
        if factor > 1:
            whole = np.asarray(cv2.resize(whole, (width, rows), interpolation=cv2.INTER_AREA), np.uint8)
        result[top : top + rows] = whole if whole.ndim == 3 else whole[:, :, None]
        top += rows
    if top < height:
        raise ValueError("it is truncated: rows are missing")
    return result


def _undecodable(name: str, error: BaseException) -> ImageError:
    problem = "is truncated" if "truncated" in str(error).lower() else "cannot be decoded"
    return ImageError(f"{name} {problem}: {show_text(str(error))}")


def _no_white(mode: str, name: str) -> ImageError:
    return ImageError(
        f"{name} has {'32-bit integers' if mode == 'I' else 'floating-point numbers'} for pixels, of which nobody "
        "knows which is white; convert it to 8 bits first"
    )


def _from_array(array: npt.NDArray[np.generic]) -> BGRImage:
    if array.dtype != np.uint8:
        raise ImageError(
            f"an image array is uint8 (0 to 255), not {array.dtype}; scale and convert it with .astype(numpy.uint8)"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        shape = " x ".join(map(str, array.shape))
        raise ImageError(
            f"an image array is (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA, not {shape}"
            + ("; move its channels to the end" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else "")
        )
    if array.size == 0:
        raise ImageError(f"an image array has no pixels: {array.shape[1]} x {array.shape[0]}")
    pixels: BGRImage = np.ascontiguousarray(array, np.uint8)
    if pixels.shape[2] == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8)
    return _on_white(pixels) if pixels.shape[2] == 4 else pixels


def _on_white(image: npt.NDArray[np.uint8]) -> BGRImage:
    """BGRA on white, truncated from float64 to whole values as PaddleOCR has it."""
    lowest, highest = image[:, :, 3].min(), image[:, :, 3].max()
    if lowest == 255:
        return np.ascontiguousarray(image[:, :, :3])
    if highest == 0:
        return np.full((*image.shape[:2], 3), 255, np.uint8)
    result = np.empty((*image.shape[:2], 3), np.uint8)
    rows = max(_STRIP // image.shape[1], 1)
    for top in range(0, len(image), rows):
        strip = image[top : top + rows]
        result[top : top + rows] = _ON_WHITE[strip[:, :, 3:], strip[:, :, :3]]
    return result


def _table_on_white() -> npt.NDArray[np.uint8]:
    """By alpha and value. The composition is in float64."""
    alpha = np.arange(256)[:, None] / 255
    return np.asarray(255 * (1 - alpha) + np.arange(256)[None] * alpha).astype(np.uint8)


_ON_WHITE = _table_on_white()
