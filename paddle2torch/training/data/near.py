"""Images that are the same, or nearly so: as their pixels tell, whatever the format or name of their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.tasks.images import BGRImage

LINE_GRID, PAGE_GRID = (33, 8), (17, 16)
"""Width and height to which an image is reduced; neighbours in a row make 256 differences."""

BITS = 256
NEAR = 16
"""Differences of which so many at most are others: the same image once more compressed, or a little resized."""

PLAIN = 4.0
"""Grey values whose standard deviation is lower tell nothing of an image."""

_ROWS = 2048


def content_digest(image: BGRImage) -> bytes:
    """Tells an image, as it is decoded, from any other."""
    found = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    found.update(np.ascontiguousarray(image).data)
    return found.digest()


def difference_hash(image: BGRImage, grid: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Whether each cell of the reduced grey image is brighter than the one to its left, bool (256,); None if plain."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), grid, interpolation=cv2.INTER_AREA).astype(np.int16)
    if grey.std() < PLAIN:
        return None
    return (np.diff(grey, axis=1) > 0).reshape(-1)


def near_pairs(some: Sequence[NDArray[np.bool_]], others: Sequence[NDArray[np.bool_]]) -> Iterator[tuple[int, int]]:
    """Places in both sequences of hashes that differ in `NEAR` places at most."""
    if not some or not others:
        return
    right = np.where(np.stack(others), 1, -1).astype(np.float32)
    for start in range(0, len(some), _ROWS):
        left = np.where(np.stack(some[start : start + _ROWS]), 1, -1).astype(np.float32)
        for first in range(0, len(others), _ROWS):
            close = left @ right[first : first + _ROWS].T >= BITS - 2 * NEAR
            for row, column in zip(*np.nonzero(close), strict=True):
                yield start + int(row), first + int(column)
