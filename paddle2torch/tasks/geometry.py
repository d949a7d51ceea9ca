"""Boxes on a page: their corners, their order, and the crops that the recogniser reads.

Points are (x, y) in pixels of the page, x to the right and y down. A quad has its corners clockwise from the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.tasks.images import BGRImage

Points: TypeAlias = NDArray[np.float32]
Coordinates: TypeAlias = NDArray[np.integer[Any] | np.floating[Any]]

TALL = 1.5
"""A crop at least this many times as tall as wide is taken for text that runs from top to bottom."""

SAME_ROW = 10
"""Boxes whose first corners differ by less than this many pixels in y are ordered by x, as in PaddleOCR."""

WARP_LIMIT = 32766
"""OpenCV counts the pixels of a warp in 16 bits."""


def order_clockwise(points: Points) -> Points:
    """Four corners, clockwise from the top left, as PaddleOCR orders what its detector found.

    The first corner has the smallest x + y and the third the largest; of the other two, the second has the smaller
    y - x. Where that is no way around the quad, as for lines at 45 degrees, whose corners PaddleOCR mixes up, it is
    the way around from the first. points: (4, 2).
    """
    sums = points.sum(axis=1)
    first, third = int(np.argmin(sums)), int(np.argmax(sums))
    centre = points.mean(axis=0)
    around = np.argsort(np.arctan2(points[:, 1] - centre[1], points[:, 0] - centre[0]), kind="stable")
    around = np.roll(around, -int(np.flatnonzero(around == first)[0]))
    if around[2] != third:
        # At 45 degrees two corners have the same sum, and the second pair need not be opposite the first.
        return points[around].astype(np.float32)
    others = np.delete(points, (first, third), axis=0)
    differences = others[:, 1] - others[:, 0]
    second, fourth = others[np.argmin(differences)], others[np.argmax(differences)]
    return np.stack([points[first], second, points[third], fourth]).astype(np.float32)


def min_area_quad(points: Coordinates) -> tuple[Points, float]:
    """The smallest rectangle around the points, and its shorter side in pixels.

    The two leftmost corners are the first and the last, by y. points: integers or float32, (N, 2) or (N, 1, 2).
    """
    rectangle = cv2.minAreaRect(points)
    corners = np.asarray(cv2.boxPoints(rectangle), dtype=np.float32)
    corners = corners[np.argsort(corners[:, 0], kind="stable")]
    top_left, bottom_left = (0, 1) if corners[1, 1] > corners[0, 1] else (1, 0)
    top_right, bottom_right = (2, 3) if corners[3, 1] > corners[2, 1] else (3, 2)
    return corners[[top_left, top_right, bottom_right, bottom_left]], min(rectangle[1])


def quad_of(box: Points) -> Points:
    """A box as a quad: itself, or the smallest rectangle around a polygon (N, 2)."""
    return box if len(box) == 4 else min_area_quad(box)[0]


def sorted_order(boxes: Sequence[Points]) -> list[int]:
    """The order in which PaddleOCR reads boxes: by the y of their first corner, and by x within a row.

    Rows are not looked for: neighbours less than 10 pixels apart in y change places where the later one is further
    left, and a box moves on for as long as that holds.
    """
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i][0][1], boxes[i][0][0]))
    for end in range(1, len(order)):
        for j in range(end, 0, -1):
            before, after = boxes[order[j - 1]][0], boxes[order[j]][0]
            if not (abs(after[1] - before[1]) < SAME_ROW and after[0] < before[0]):
                break
            order[j - 1], order[j] = order[j], order[j - 1]
    return order


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The value up to which half of the weight is, and a half from it on. Both (N,), N at least 1."""
    order = np.argsort(values)
    position = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2))
    return float(values[order[min(position, len(order) - 1)]])  # sums that are rounded may end below the half


def turn_points(points: Points, size: tuple[int, ...], quarter_turns: int) -> Points:
    """Where points of a page of (height, width) are after this many turns of it, counter-clockwise by 90 degrees."""
    x, y = points[:, 0], points[:, 1]
    height, width = size[:2]
    turned = {
        0: (x, y),
        1: (y, width - 1 - x),
        2: (width - 1 - x, height - 1 - y),
        3: (height - 1 - y, x),
    }[quarter_turns % 4]
    return np.stack(turned, axis=1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Crop:
    """A line cut out of a page and turned upright.

    image: uint8 (height, width, 3). box: float32 (4, 2), the quad it was cut from. quarter_turns: how often it has been
    turned counter-clockwise by 90 degrees.
    """

    image: BGRImage
    box: Points
    quarter_turns: int = 0

    def turned(self, quarter_turns: int) -> Crop:
        """The crop turned counter-clockwise `quarter_turns` more times by 90 degrees."""
        image = np.ascontiguousarray(np.rot90(self.image, quarter_turns))
        return Crop(image, self.box, (self.quarter_turns + quarter_turns) % 4)

    def quad(self, start: float, end: float) -> Points:
        """Where the columns from `start` to `end` of the crop are on the page: (4, 2), clockwise.

        The columns divide the sides of the box evenly: exact for a rectangle, which a box is unless the page's edge
        cuts it. The first corner is the top left one of the upright page, not of the text, as in `box`.
        """
        top_left, top_right, bottom_right, bottom_left = np.roll(self.box, -self.quarter_turns, axis=0)
        width = self.image.shape[1]
        along = [
            top_left + (top_right - top_left) * (start / width),
            top_left + (top_right - top_left) * (end / width),
            bottom_left + (bottom_right - bottom_left) * (end / width),
            bottom_left + (bottom_right - bottom_left) * (start / width),
        ]
        return np.roll(np.stack(along), self.quarter_turns, axis=0).astype(np.float32)


def crop_quad(image: BGRImage, quad: Points) -> Crop:
    """Cut a quad out of a page by a perspective warp; a tall one is turned counter-clockwise.

    image: uint8 (height, width, 3). quad: (4, 2), sides of at least one pixel. The sampling is PaddleOCR's: cubic, and
    what is outside of the page repeats its edge.
    """
    width = int(max(np.linalg.norm(quad[0] - quad[1]), np.linalg.norm(quad[2] - quad[3])))
    height = int(max(np.linalg.norm(quad[0] - quad[3]), np.linalg.norm(quad[1] - quad[2])))
    width, height = min(width, WARP_LIMIT), min(height, WARP_LIMIT)
    part, origin = _part_that_warps(image, quad)
    crop = Crop(_warp(part, quad.astype(np.float32) - origin, width, height), quad)
    return crop.turned(1) if height / width >= TALL else crop


def crop_polygon(image: BGRImage, polygon: Points) -> Crop:
    """Cut the smallest rectangle around a polygon out of a page, as PaddleOCR does for boxes of type `poly`.

    image: uint8 (height, width, 3). polygon: (N, 2).
    """
    quad, _ = min_area_quad(polygon.astype(np.int32))
    return crop_quad(image, quad)


def _part_that_warps(image: BGRImage, quad: Points) -> tuple[BGRImage, Points]:
    """The image, or where it is too long to be warped the part around the quad, and the part's (x, y)."""
    if max(image.shape[:2]) <= WARP_LIMIT:
        return image, np.zeros(2, dtype=np.float32)
    margin = 4  # the cubic kernel reads two pixels beyond the quad
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(quad.min(axis=0)) - margin, 0, size - 1).astype(int)
    high = np.clip(np.ceil(quad.max(axis=0)) + margin, low + 1, low + WARP_LIMIT)
    high = np.minimum(high, size).astype(int)
    return image[low[1] : high[1], low[0] : high[0]], low.astype(np.float32)


_FRACTION_BITS = 5
_BLOCK_ROWS, _BLOCK_PIXELS = 16, 1024


def _warp(image: BGRImage, quad: Points, width: int, height: int) -> BGRImage:
    """`cv2.warpPerspective` of OpenCV 4 in any version of OpenCV: cubic, the edge repeated.

    Version 4 rounds the place of each sample to 1/32 of a pixel, version 5 does not. PaddleOCR crops with version 4;
    the crops of version 5 change the scores of real lines by up to 0.0016. Bit for bit under version 4; under 5 one
    value in 400 is off by 1.
    """
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    _, back = cv2.invert(cv2.getPerspectiveTransform(quad, target))
    matrix = np.asarray(back, dtype=np.float64)
    # It goes through the crop in blocks, and adds the column within the block last: that decides how halves round.
    block = min(_BLOCK_PIXELS // min(_BLOCK_ROWS, height), width)
    x, y = np.arange(width), np.arange(height)
    starts = matrix[:, :1] * (x // block * block)
    at = starts[:, None] + (matrix[:, 1:2] * y)[:, :, None] + matrix[:, 2, None, None]
    at += (matrix[:, :1] * (x % block))[:, None]
    per_pixel = np.divide(1 << _FRACTION_BITS, at[2], out=np.zeros_like(at[2]), where=at[2] != 0)
    places = np.rint(np.clip(at[:2] * per_pixel, -(2**31), 2**31 - 1)).astype(np.int32)
    whole = np.clip(places >> _FRACTION_BITS, -(2**15), 2**15 - 1).astype(np.int16)
    fractions = places & ((1 << _FRACTION_BITS) - 1)
    indices = ((fractions[1] << _FRACTION_BITS) + fractions[0]).astype(np.uint16)
    pixels = cv2.remap(
        image, np.stack([whole[0], whole[1]], axis=2), indices, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(pixels, dtype=np.uint8)
