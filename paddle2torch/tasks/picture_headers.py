"""What the header of a picture says, read by Pillow and bounded."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, ImageFile

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.files import open_regular

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")

DPI = (30, 4800)
"""Pixels to the inch that a picture's header may be believed."""

_ORIENTATION = 0x0112
_SMALL = 2**20
_READS_OF_A_HEADER = 100_000
HEAD_BYTES = 1024
"""Enough of a file to tell its kind."""

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

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the picture as it is seen, in pixels."""
        return self.size if self.orientation < 5 else self.size[::-1]


def describe_picture(path: str | os.PathLike[str]) -> PictureFile | None:
    """The header of a picture; None for a file of another kind, or a broken one."""
    try:
        with open_regular(path) as file:
            image = open_picture(file, file.read(HEAD_BYTES))
            if image is None:
                return None
            with image:
                said = image.info.get("dpi")
                dots = float(said[0]) if isinstance(said, tuple) and len(said) == 2 else 0.0
                dpi = dots if DPI[0] <= dots <= DPI[1] else None
                return PictureFile(image.format or "", image.mode, image.size, orientation_of(image), dpi)
    except (*BROKEN, Paddle2TorchError):
        return None


def open_picture(file: BinaryIO, start: bytes) -> ImageFile.ImageFile | None:
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


def name_kind(start: bytes) -> str:
    """Name the files that people take for images."""
    if start.startswith(b"%PDF"):
        return "is a PDF, whose pages have to be rendered first"
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "is a HEIC photo, which has to be converted first"
    return "is not an image"


def orientation_of(image: Image.Image) -> int:
    """How the picture is to be turned, as EXIF counts: 1 to 8, 1 for what is upright.

    That of a PNG may come after its pixels, and is known only when they are loaded.
    """
    try:
        unread = image.format == "PNG" and isinstance(image, ImageFile.ImageFile) and image.tile
        if unread and "exif" not in image.info:
            return 1
        value = image.getexif().get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


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
