"""Pictures of samples as pages have them: small, and in the page itself."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from paddle2torch.tasks.images import BGRImage


@dataclass(frozen=True)
class Picture:
    """A picture in the page: JPEG as a data address, and its width and height in pixels."""

    address: str
    width: int
    height: int


def embed(image: BGRImage, quality: int, most: tuple[int, int] | None = None) -> Picture | None:
    """The picture of an image uint8 (H, W, 3), BGR; None where OpenCV makes none of it.

    quality: JPEG's, up to 100. most: its width and height at most, to which it is shrunk.
    """
    if most is not None:
        image = shrunk(image, most)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    height, width = image.shape[:2]
    address = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    return Picture(address, width, height) if done else None


def shrunk(image: BGRImage, most: tuple[int, int]) -> BGRImage:
    """The image with at most the width and height `most`; one that is small enough stays as it is."""
    height, width = image.shape[:2]
    scale = min(1.0, most[0] / width, most[1] / height)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
