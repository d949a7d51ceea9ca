"""How much memory and work a picture may take, and how much it needs."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from PIL import ImageFile

from paddle2torch.tasks.picture_headers import orientation_of
from paddle2torch.tasks.pixels import ImageError
from paddle2torch.tasks.transparency import STRIP_PIXELS

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

# Bytes that Pillow holds per pixel of a mode.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_STORED_OTHERWISE = 4

# Bytes per pixel of a mode as work is counted: as many as are unpacked. To lay alpha on white takes about half as long
# again as to unpack it; bits and palettes are written out.
_WORK = {**_STORED, "RGB": 3, "YCbCr": 3, "LAB": 3}
_WORK_OTHERWISE = 4
_WORK_OF_ALPHA = 6

# Measured: bytes per pixel at the most while a format is decoded, where that is more than what is stored in the end.
WHILE_DECODING = {"WEBP": 16.1, "AVIF": 11.0, "JPEG2000": 19.3}
_TIFF_BITS, _TIFF_ROWS, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 258, 278, 322, 323


@dataclass(frozen=True)
class Limits:
    """How much memory a file may take, and whether it may be made smaller for that."""

    max_bytes: int | None
    reduce: bool
    size: int = 0
    """Of the file, in bytes that are stored: what is a hole in it allows nothing."""

    def of(self, size: int) -> Limits:
        """The limits of a file of `size` bytes."""
        return replace(self, size=size)

    @property
    def budget(self) -> int:
        """Bytes that decoding may take."""
        return max(BUDGET, BUDGET_PER_BYTE * self.size) if self.max_bytes is None else self.max_bytes

    def check_work(self, name: str, image: ImageFile.ImageFile) -> None:
        """Refuse what unpacks to more than a file of its size may. Whoever sets `max_bytes` waits."""
        most = max(WORK_AT_MOST, WORK_PER_BYTE * self.size)
        work = image.width * image.height * _work_of_a_pixel(image)
        if self.max_bytes is None and work > most:
            raise ImageError(
                f"{name}: {pixels_of(image.size)} are {work / 1e6:,.0f} MB of work to unpack, and a file of its size "
                f"({self.size:,} bytes) is given {most / 1e6:,.0f}; {OPTION} reads it all the same"
            )

    def too_large(self, name: str, size: tuple[int, int], needed: float) -> ImageError:
        """The error for a picture that needs more than the budget."""
        return ImageError(
            f"{name}: {pixels_of(size)} need about {needed / 1e6:,.0f} MB to be decoded, and a file of its size "
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
            f"{name} is read {factor} times smaller, {size[0] // factor} x {size[1] // factor} of {pixels_of(size)}: "
            f"at its full size it needs about {needed / 1e6:,.0f} MB, and a file of {self.size:,} bytes is given "
            f"{self.budget / 1e6:,.0f} MB; {OPTION} allows more",
            stacklevel=2,
        )


def bytes_needed(image: ImageFile.ImageFile, factor: int) -> float:
    """Bytes that Pillow takes for decoding an image that is opened, and we for our result."""
    pixels = image.width * image.height
    stored = _STORED.get(image.mode, _STORED_OTHERWISE)
    if image.format == "JPEG2000":
        return pixels * WHILE_DECODING["JPEG2000"] * (1 if stored == 4 else 1 / 3) / factor**2
    decoding: float = stored * pixels
    # Frames of an animation are laid over one another; TIFFs are turned by Pillow itself; other readers go by a row.
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        decoding += 2 * stored * pixels
    elif image.format == "TIFF":
        decoding += _tiff_piece(image) + (stored * pixels if orientation_of(image) > 1 else 0)
    elif image.format in ("BMP", "PPM") and image.tile and image.tile[0][0] not in ("raw", "ppm"):
        decoding += 2 * pixels
    converting = decoding + 3 * pixels / factor**2 + 8 * STRIP_PIXELS
    turning = 6 * pixels / factor**2
    return max(WHILE_DECODING.get(image.format or "", 0) * pixels, converting, turning)


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


def _work_of_a_pixel(image: ImageFile.ImageFile) -> int:
    alpha = image.has_transparency_data
    work = _WORK_OF_ALPHA if alpha else _WORK.get(image.mode, _WORK_OTHERWISE)
    # Pillow keeps 8 of the 16 bits of a colour, and says so in the format that it unpacks from.
    raw = image.tile[0][3] if image.tile else None
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    return work * 2 if isinstance(raw, str) and "16" in raw and not image.mode.startswith("I") else work


def pixels_of(size: tuple[int, int]) -> str:
    """A picture's size, for messages."""
    return f"{size[0]:,} x {size[1]:,} pixels"


def stored_size(file: BinaryIO) -> int:
    """The size of an open file, without its holes where the system tells of them."""
    status = os.fstat(file.fileno())
    blocks = getattr(status, "st_blocks", None)
    # A small file may be kept beside its name, in no block at all.
    return status.st_size if blocks is None else min(status.st_size, max(512 * blocks, 2**16))


def size_behind(image: ImageFile.ImageFile) -> int:
    """The size of the file that an opened PIL image still has to read; 0 where it has no such file."""
    file = image.fp
    try:
        if isinstance(file, io.BytesIO):
            return file.getbuffer().nbytes
        return stored_size(file)  # type: ignore[arg-type]
    except (OSError, AttributeError, ValueError):
        return 0
