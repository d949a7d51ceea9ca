"""Pixels of every kind as uint8 (H, W, 3), BGR, not transparent, upright, and smaller where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.show import show_text
from paddle2torch.tasks.picture_headers import BROKEN
from paddle2torch.tasks.transparency import STRIP_PIXELS, WHITE, ground_of, lay_on

BGRImage: TypeAlias = npt.NDArray[np.uint8]


class ImageError(Paddle2TorchError):
    """An image is missing, empty, broken, too large, or of a kind that is not read."""


def from_array(array: npt.NDArray[np.generic]) -> BGRImage:
    """See `load_image`; raises `ImageError` for other types and shapes."""
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
    return lay_on(ground_of([pixels], "the image array"), pixels) if pixels.shape[2] == 4 else pixels


def convert(image: Image.Image, name: str, factor: int, orientation: int, *, whole: bool = True) -> BGRImage:
    """A PIL image in BGR, `factor` times smaller, a strip at a time; a part of one (not `whole`) on white."""
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: {image.width} x {image.height}")
    # 16 bits: PNG and TIFF say so, PGM is widened to 32.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise no_white(image.mode, name)
    try:
        ground = ground_of(_strips(image, sixteen), name) if whole and image.has_transparency_data else WHITE
        pieces = (lay_on(ground, piece) if piece.shape[2:] == (4,) else piece for piece in _strips(image, sixteen))
        return turn_upright(join_pieces(pieces, image.size, factor), orientation)
    except (*BROKEN, cv2.error) as error:
        raise undecodable(name, error) from None


def turn_upright(image: BGRImage, orientation: int) -> BGRImage:
    """The picture upright."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def join_pieces(pieces: Iterable[BGRImage], size: tuple[int, int], factor: int) -> BGRImage:
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


def undecodable(name: str, error: BaseException) -> ImageError:
    """The error for a picture whose pixels cannot be read."""
    problem = "is truncated" if "truncated" in str(error).lower() else "cannot be decoded"
    return ImageError(f"{name} {problem}: {show_text(str(error))}")


def no_white(mode: str, name: str) -> ImageError:
    """The error for pixels whose range is not known."""
    return ImageError(
        f"{name} has {'32-bit integers' if mode == 'I' else 'floating-point numbers'} for pixels, of which nobody "
        "knows which is white; convert it to 8 bits first"
    )


def _strips(image: Image.Image, sixteen: bool) -> Iterator[BGRImage]:
    """The picture from the top down: (n, width) grey, (n, width, 3) BGR, or (n, width, 4) BGRA."""
    nothing = image.info.get("transparency")
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if sixteen:
            values = np.asarray(strip)
            grey = (values >> 8).astype(np.uint8)
            alpha = np.where(values == nothing, 0, 255).astype(np.uint8)
            yield grey if not isinstance(nothing, int) else np.stack([grey, grey, grey, alpha], axis=2)
        elif image.has_transparency_data:
            yield np.asarray(cv2.cvtColor(np.asarray(strip.convert("RGBA")), cv2.COLOR_RGBA2BGRA), np.uint8)
        elif image.mode in ("1", "L"):
            yield np.asarray(strip.convert("L"))
        else:
            yield np.asarray(cv2.cvtColor(np.asarray(strip.convert("RGB")), cv2.COLOR_RGB2BGR), np.uint8)
