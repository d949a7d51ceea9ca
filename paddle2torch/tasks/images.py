"""Images of every kind to the one form that the networks take: uint8 (H, W, 3), BGR, as OpenCV reads them.

JPEG is decoded by OpenCV, because another decoder may differ in the last bit and PaddleOCR decodes with OpenCV. The
other formats are decoded by Pillow, which knows all their modes and says when a file is cut short.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.show import show_path, show_text
from paddle2torch.tasks.jpeg_markers import END, read_markers
from paddle2torch.tasks.picture_budget import WHILE_DECODING, Limits, bytes_needed, pixels_of, size_behind, stored_size
from paddle2torch.tasks.picture_headers import BROKEN, FORMATS, HEAD_BYTES, name_kind, open_picture, orientation_of
from paddle2torch.tasks.pixels import (
    BGRImage,
    ImageError,
    convert,
    from_array,
    join_pieces,
    no_white,
    turn_upright,
    undecodable,
)
from paddle2torch.tasks.png_rows import STRIP_BYTES, read_header, read_rows
from paddle2torch.tasks.tiff_pieces import can_be_cut, read_pieces
from paddle2torch.tasks.transparency import STRIP_PIXELS, WHITE, lay_on

__all__ = ["FILE_AT_MOST", "BGRImage", "ImageError", "ImageSource", "load_image"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8] | Image.Image"

FILE_AT_MOST = 2**30
"""Bytes of a file that has to be read whole to be decoded: all formats but TIFF and PNG."""

_HOLES_AT_MOST = 2**20
"""Such a file has at most twice the bytes that are stored on the disk, and this many more: the rest would be holes."""

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
_READ_IN_PARTS = (b"\x89PNG", b"II", b"MM", b"BM", b"P")
_TIFF_PIECE = 2**23  # pixels of the largest strip, or row of tiles, of which a TIFF may be read one by one


def load_image(source: ImageSource, *, max_bytes: int | None = None, reduce: bool = True) -> BGRImage:
    """Read an image as uint8 (H, W, 3), BGR.

    `source` is one of
    - a path, or the bytes of a file, in any of `FORMATS`; of animations the first frame, of multi-page TIFF the first
      page; turned as its EXIF orientation says;
    - a numpy array, uint8: (H, W) or (H, W, 1) grey, (H, W, 3) BGR or (H, W, 4) BGRA. The result may be the array
      itself;
    - a PIL image in any mode. It is turned by its EXIF orientation only where it is as `PIL.Image.open` gave it: what
      has been worked on is taken to be upright.

    Transparency is laid on white, and 16 bits are cut to their upper 8, as PaddleOCR does (its `alpha_to_color`). Where
    things that are drawn on nothing would be lost on white, as white letters, it is laid on black, or on grey where
    that loses fewer, with a warning that says so. Pictures too large to be decoded at once are always laid on white.

    max_bytes: memory that decoding a file may take, by default `BUDGET` or `BUDGET_PER_BYTE` times the file's size,
    whichever is more. What needs more at its full size is read a whole number of times smaller, with a warning that
    says so; with `reduce=False`, and where the format cannot be read in parts, it is refused. So is, unless `max_bytes`
    is given, what unpacks to more than `WORK_AT_MOST` and `WORK_PER_BYTE` times its file.

    Raises `ImageError`, also for files that are cut short: half an image is not given.
    """
    if isinstance(source, np.ndarray):
        return from_array(source)
    limits = Limits(max_bytes, reduce)
    if isinstance(source, Image.Image):
        if isinstance(source, ImageFile.ImageFile) and source.tile:
            limits = limits.of(size_behind(source))
            limits.check_work("the PIL image", source)
            return _decode_opened(source, "the PIL image", limits)
        return convert(source, "the PIL image", 1, 1)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "the image", limits.of(len(source)))
    if isinstance(source, (str, os.PathLike)):
        name = show_path(source)
        try:
            with open_regular(source) as file:
                return _decode(file, name, limits.of(stored_size(file)))
        except ImageError:
            raise
        except Paddle2TorchError as error:
            raise ImageError(str(error)) from None
    raise ImageError(f"an image is a path, bytes, a numpy array or a PIL image, not {type(source).__name__}")


def _decode(file: BinaryIO, name: str, limits: Limits) -> BGRImage:
    start = file.read(HEAD_BYTES)
    if not start:
        raise ImageError(f"{name} is empty (0 bytes)")
    if not start.startswith(_READ_IN_PARTS):
        _check_size(file, name, limits)
    try:
        image = open_picture(file, start)
    except BROKEN as error:
        raise ImageError(f"{name} is broken: {show_text(str(error))}") from None
    if image is None:
        raise ImageError(f"{name} {name_kind(start)}; images are read in {', '.join(FORMATS)}")
    limits.check_work(name, image)
    with image:
        # MPO: a JPEG with further pictures behind it, as phones write them.
        if image.format in ("JPEG", "MPO"):
            return _decode_jpeg(file, image, name, limits)
        if image.format == "PNG":
            return _decode_png(file, image, name, limits)
        # Pillow gives black where all tiles are missing. The end marker cannot occur in the compressed data.
        if image.format == "JPEG2000" and bytes((0xFF, END)) not in _read_whole(file):
            raise ImageError(f"{name} is truncated: the JPEG 2000 ends before its end marker")
        if image.format == "WEBP" and WHILE_DECODING["WEBP"] * image.width * image.height > limits.budget:
            return _decode_large_webp(file, image, name, limits)
        return _decode_opened(image, name, limits)


def _check_size(file: BinaryIO, name: str, limits: Limits) -> None:
    """Formats that are read whole: not more than there may be, and nothing that is a hole for the most part."""
    size = file.seek(0, os.SEEK_END)
    if size > min(FILE_AT_MOST, 2 * limits.size + _HOLES_AT_MOST):
        raise ImageError(
            f"{name} has {size:,} bytes, of which {limits.size:,} are stored; an image that is read has at most "
            f"{FILE_AT_MOST:,}"
        )


def _read_whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _decode_jpeg(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: Limits) -> BGRImage:
    data = _read_whole(file)
    found = read_markers(data)
    # OpenCV before 5 fills what is missing with grey.
    if not found.whole:
        raise ImageError(f"{name} is truncated: the JPEG ends before its end marker")
    pixels = image.width * image.height
    if found.scans * pixels > max(_JPEG_SCANNED, len(data) * _JPEG_SCANNED_PER_BYTE):
        raise ImageError(f"{name} is broken: a JPEG of {pixels_of(image.size)} in {found.scans:,} scans")
    if pixels * max(found.coefficients + 3, _OPENCV_PIXEL) <= limits.budget:
        return _decode_by_opencv(data, name, "JPEG")
    orientation = orientation_of(image)
    pixel = _opencv_bytes_per_pixel(file, orientation)

    def needed(factor: int) -> float:
        return pixels * max(found.coefficients + 3 / factor**2, pixel / factor**2)

    factor = limits.reduction(name, image.size, needed, _JPEG_REDUCTIONS)
    return _decode_large_by_opencv(file, image, name, _JPEG_REDUCTIONS[factor], factor)


def _decode_by_opencv(data: bytes, name: str, kind: str, flag: int = cv2.IMREAD_COLOR) -> BGRImage:
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


def _opencv_bytes_per_pixel(file: BinaryIO, orientation: int) -> float:
    """Bytes per pixel that `_decode_large_by_opencv` takes."""
    if _open_path(file) is None:
        return _OPENCV_PIXEL
    return _OPENCV_INTO_PIXEL * (2 if orientation > 1 else 1)


def _decode_large_by_opencv(
    file: BinaryIO, image: ImageFile.ImageFile, name: str, flag: int, factor: int = 1
) -> BGRImage:
    """As `_decode_by_opencv`, where possible without the copy that OpenCV makes of its results for Python."""
    path, kind, flag = _open_path(file), str(image.format), flag | cv2.IMREAD_IGNORE_ORIENTATION
    if path is None:
        stored = _decode_by_opencv(_read_whole(file), name, kind, flag)
    else:
        stored = np.empty((-(-image.height // factor), -(-image.width // factor), 3), np.uint8)
        try:
            read = cv2.imread(path, stored, flag)
        except (cv2.error, MemoryError) as error:
            raise ImageError(f"{name} is broken: {show_text(str(error))}") from None
        if read is None:
            raise ImageError(f"{name} is broken: OpenCV cannot decode this {kind}")
    return turn_upright(stored, orientation_of(image))


def _decode_png(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: Limits) -> BGRImage:
    """As Pillow gives it where that fits into the budget; otherwise row by row, and smaller where that does not."""
    if bytes_needed(image, 1) <= limits.budget:
        return _decode_opened(image, name, limits)
    try:
        header = read_header(file)
    except (ValueError, OSError) as error:
        raise ImageError(f"{name} is broken: {error}") from None
    if header.interlaced or header.keyed or (header.width, header.height) != image.size:
        return _decode_opened(image, name, limits)

    def rows() -> Iterator[BGRImage]:
        for strip in read_rows(file, header):
            yield strip if strip.shape[2:] != (4,) else lay_on(WHITE, np.ascontiguousarray(strip))

    return _decode_pieces(rows(), image, name, limits, 8 * STRIP_BYTES)


def _decode_pieces(
    pieces: Iterable[BGRImage], image: ImageFile.ImageFile, name: str, limits: Limits, while_decoding: float
) -> BGRImage:
    """A picture of pieces from the top down, (n, width) grey or (n, width, 3) BGR, as small as the budget needs it."""
    orientation = orientation_of(image)
    pixels = image.width * image.height

    def needed(factor: int) -> float:
        return (3 if orientation < 5 else 6) * pixels / factor**2 + while_decoding

    factor = limits.reduction(name, image.size, needed, range(1, min(image.size) + 1))
    try:
        result = join_pieces(pieces, image.size, factor)
    except (*BROKEN, cv2.error) as error:
        raise undecodable(name, error) from None
    return turn_upright(result, orientation)


def _decode_large_webp(file: BinaryIO, image: ImageFile.ImageFile, name: str, limits: Limits) -> BGRImage:
    """By OpenCV, which takes less than half of the memory, and gives the same."""
    needed = (_opencv_bytes_per_pixel(file, orientation_of(image)) + _WEBP_MORE) * image.width * image.height
    if image.mode != "RGB" or getattr(image, "n_frames", 1) > 1 or needed > limits.budget:
        raise limits.too_large(name, image.size, needed)
    return _decode_large_by_opencv(file, image, name, cv2.IMREAD_COLOR)


def _decode_opened(image: ImageFile.ImageFile, name: str, limits: Limits) -> BGRImage:
    """An image that is opened and not loaded."""
    if image.mode in ("I", "F") and image.format not in ("PNG", "PPM"):
        raise no_white(image.mode, name)
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and can_be_cut(image, _TIFF_PIECE):
        # Pillow warns of larger ones, and refuses those of twice as many pixels.
        warned = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
        if warned or bytes_needed(image, 1) > limits.budget:
            return _decode_tiff_pieces(image, name, limits)
    jpeg2000 = image.format == "JPEG2000"
    choices: Iterable[int] = _JPEG2000_REDUCTIONS if jpeg2000 else range(1, min(image.size) + 1)
    factor = limits.reduction(name, image.size, lambda factor: bytes_needed(image, factor), choices)
    try:
        if jpeg2000 and factor > 1:
            image.reduce = factor.bit_length() - 1  # type: ignore[method-assign, assignment]
            factor = 1
        # Loading first: only that tells whether a TIFF reader has turned it by itself.
        image.load()
    except BROKEN as error:
        raise undecodable(name, error) from None
    return convert(image, name, factor, orientation_of(image))


def _decode_tiff_pieces(image: TiffImagePlugin.TiffImageFile, name: str, limits: Limits) -> BGRImage:
    def pieces() -> Iterator[BGRImage]:
        for piece in read_pieces(cast(BinaryIO, image.fp), image, STRIP_PIXELS):
            with piece:
                piece.load()
                yield convert(piece, name, 1, 1, whole=False)

    return _decode_pieces(pieces(), image, name, limits, 12 * _TIFF_PIECE)
