"""Images of every kind to the one form that the networks take: uint8 (H, W, 3), BGR, as OpenCV reads them.

JPEG is decoded by OpenCV, because another decoder may differ in the last bit and PaddleOCR decodes with OpenCV. The
other formats are decoded by Pillow, which knows all their modes and says when a file is cut short.
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from paddle2torch.model_zoo.errors import Paddle2TorchError

BGRImage: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8] | Image.Image"

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

# 16384 x 16384, nearly twice an A0 sheet at 300 dpi. A file of 32 KB can hold as many; decoded they are 0.8 GB, and
# reading takes up to 3 GB.
MAX_PIXELS = 2**28

# A marker of JPEG is 0xFF and a code; in compressed data 0xFF is followed by 0 or by a restart code (0xD0 to 0xD7).
_JPEG_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9
_JPEG_BARE = (0x01, 0xD8)  # markers without a length, besides the restart codes

_ROWS = 256  # of a transparent image at a time: the composition is in float64

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
    struct.error,
    Image.DecompressionBombError,
)


class ImageError(Paddle2TorchError):
    """An image is missing, empty, broken, too large, or of a kind that is not read."""


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> BGRImage:
    """Read an image as uint8 (H, W, 3), BGR.

    `source` is one of
    - a path, or the bytes of a file, in any of `FORMATS`; of animations the first frame, of multi-page TIFF the first
      page; turned as its EXIF orientation says;
    - a numpy array, uint8: (H, W) or (H, W, 1) grey, (H, W, 3) BGR or (H, W, 4) BGRA. The result may be the array
      itself;
    - a PIL image in any mode. It is turned by its EXIF orientation only where it is as `PIL.Image.open` gave it: what
      has been worked on is taken to be upright.

    Transparency is laid on white, and 16 bits are cut to their upper 8, as PaddleOCR does (its `alpha_to_color`).
    Files of more than `max_pixels` pixels are refused before anything is decoded.

    Raises `ImageError`, also for files that are cut short: half an image is not given.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), "the image", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _decode(_read(Path(source)), str(source), max_pixels)
    raise ImageError(f"an image is a path, bytes, a numpy array or a PIL image, not {type(source).__name__}")


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a directory, not an image")
        # A pipe or a device may never end.
        if path.exists() and not path.is_file():
            raise ImageError(f"{path} is not a regular file; pass the bytes themselves")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {error}") from None


def _decode(data: bytes, name: str, max_pixels: int) -> BGRImage:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        image = _open(data)
    except BROKEN as error:
        raise ImageError(f"{name} is broken: {error}") from None
    if image is None:
        raise ImageError(f"{name} {_what_it_is(data)}; images are read in {', '.join(FORMATS)}")
    with image:
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{name} has {image.width} x {image.height} pixels, more than the {max_pixels:,} that are read; "
                "load_image(..., max_pixels=...) raises the limit"
            )
        # MPO: a JPEG with further pictures behind it, as phones write them.
        if image.format in ("JPEG", "MPO"):
            return _decode_jpeg(data, name)
        # Pillow gives black where all tiles are missing. The end marker cannot occur in the compressed data.
        if image.format == "JPEG2000" and bytes((0xFF, _JPEG_END)) not in data:
            raise ImageError(f"{name} is truncated: the JPEG 2000 ends before its end marker")
        return _from_pil(image, name)


def _open(data: bytes) -> ImageFile.ImageFile | None:
    """Read the header alone; None where it is the header of no image that is read.

    `PIL.Image.open` does the same, but refuses or warns at a limit of its own that only a global can change.
    """
    Image.preinit()
    if any(name not in Image.OPEN for name in FORMATS):
        Image.init()
    prefix = data[:16].ljust(16, b"\0")
    broken = None
    for name in FORMATS:
        if name not in Image.OPEN:  # Pillow is built without its library
            continue
        factory, accept = Image.OPEN[name]
        if accept is None or accept(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except BROKEN as error:
            broken = error
    if broken is not None:
        raise broken
    return None


def _what_it_is(data: bytes) -> str:
    """Name the files that people take for images."""
    if data.startswith(b"%PDF"):
        return "is a PDF, whose pages have to be rendered first"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photo, which has to be converted first"
    return "is not an image"


def _decode_jpeg(data: bytes, name: str) -> BGRImage:
    # OpenCV before 5 fills what is missing with grey.
    if not _jpeg_is_whole(data):
        raise ImageError(f"{name} is truncated: the JPEG ends before its end marker")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"{name} is broken: {error}") from None
    if image is None:
        raise ImageError(f"{name} is broken: OpenCV cannot decode this JPEG")
    return np.asarray(image, np.uint8)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the end marker is there; the one of an embedded thumbnail does not count."""
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        position = match.end()
        marker = data[position - 1]
        if marker == _JPEG_END:
            return True
        if marker not in _JPEG_BARE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return False


def _from_pil(image: Image.Image, name: str) -> BGRImage:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    try:
        if isinstance(image, ImageFile.ImageFile):
            # Loading first: only that tells a TIFF reader whether it has turned the image by itself.
            image.load()
            turned = ImageOps.exif_transpose(image)
        else:
            turned = image
        # 16 bits: PNG and TIFF say so, PGM is widened to 32.
        if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format in ("PNG", "PPM")):
            return _from_array((np.asarray(turned) >> 8).astype(np.uint8))
        if turned.mode in ("I", "F"):
            raise ImageError(
                f"{name} has {'32-bit integers' if turned.mode == 'I' else 'floating-point numbers'} for pixels, of "
                "which nobody knows which is white; convert it to 8 bits first"
            )
        if turned.has_transparency_data:
            pixels = cv2.cvtColor(np.asarray(turned.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        elif turned.mode in ("1", "L"):
            pixels = np.asarray(turned.convert("L"))
        else:
            pixels = cv2.cvtColor(np.asarray(turned.convert("RGB")), cv2.COLOR_RGB2BGR)
    except BROKEN as error:
        problem = "is truncated" if "truncated" in str(error).lower() else "cannot be decoded"
        raise ImageError(f"{name} {problem}: {error}") from None
    return _from_array(np.asarray(pixels))


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


def _on_white(image: BGRImage) -> BGRImage:
    """BGRA on white, truncated from float64 to whole values as PaddleOCR has it."""
    result = np.empty((*image.shape[:2], 3), np.uint8)
    for top in range(0, len(image), _ROWS):
        rows = image[top : top + _ROWS]
        alpha = rows[:, :, 3:] / 255
        result[top : top + _ROWS] = 255 * (1 - alpha) + rows[:, :, :3] * alpha
    return result
