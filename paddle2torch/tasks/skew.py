"""Pages that lie askew: by what angle, as their lines tell, and the page turned level.

PaddleOCR orders lines by the y of a corner and cuts them out by their corners. The first fails from a few degrees on:
the right half of a row stands lower than the left half of the next. The second holds until a line's corners can no
longer be told apart, towards 45 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from paddle2torch.tasks.geometry import Points, weighted_median
from paddle2torch.tasks.images import BGRImage

LINES = 3
"""Fewer lines do not tell how a page lies: a sign in a photograph stands as it likes."""

ASPECT = 3
"""A line tells an angle where it is so many times as long as high."""

AGREEING = 0.7
"""So much of the length of all lines must lie within `TOGETHER` degrees of the page's angle."""

TOGETHER = 3.0


def skew_of(boxes: Sequence[Points]) -> float:
    """Degrees by which the lines of a page fall to the right (y down), -45 to 45; 0 where they do not agree.

    boxes: quads (4, 2). Lines that run from top to bottom count as level ones: a quarter turn is another matter.
    """
    quads = np.array([box for box in boxes if len(box) == 4], np.float64).reshape(-1, 4, 2)
    first, second = quads[:, 1] - quads[:, 0], quads[:, 2] - quads[:, 1]
    sides = np.stack([np.hypot(*first.T), np.hypot(*second.T)], axis=1)
    long = sides.max(axis=1) >= ASPECT * sides.min(axis=1)
    if long.sum() < LINES:
        return 0.0
    along = np.where((sides[:, :1] >= sides[:, 1:]), first, second)[long]
    lengths = sides.max(axis=1)[long]
    angles = np.degrees(np.arctan2(along[:, 1], along[:, 0]))
    # Of directions that repeat every 90 degrees: the mean on the circle, then the median around it.
    mean = np.degrees(np.angle(np.sum(lengths * np.exp(4j * np.radians(angles))))) / 4
    off = (angles - mean + 45) % 90 - 45
    middle = weighted_median(off, lengths)
    if lengths[np.abs(off - middle) <= TOGETHER].sum() < AGREEING * lengths.sum():
        return 0.0
    return float((mean + middle + 45) % 90 - 45)


def levelled(boxes: Sequence[Points], angle: float) -> list[Points]:
    """Boxes around the page's origin as they would lie, were its lines level."""
    turn = math.radians(angle)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return [(box @ matrix).astype(np.float32) for box in boxes]


@dataclass(frozen=True, eq=False)
class LevelPage:
    """A page that was turned level: its image, and the way back. matrix: (2, 3), from its pixels to the page's."""

    image: BGRImage
    matrix: np.ndarray

    def back(self, points: Points) -> Points:
        """Points of the level page on the page as it is; corners stay in their order."""
        return (points @ self.matrix[:, :2].T + self.matrix[:, 2]).astype(np.float32)


def turned_level(image: BGRImage, angle: float) -> LevelPage:
    """`image` (height, width, 3) turned by so many degrees, larger by its corners; what is new there is paper."""
    height, width = image.shape[:2]
    turn = math.radians(angle)
    wide = math.ceil(width * abs(math.cos(turn)) + height * abs(math.sin(turn)))
    high = math.ceil(width * abs(math.sin(turn)) + height * abs(math.cos(turn)))
    forward = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    forward[:, 2] += ((wide - width) / 2, (high - height) / 2)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    paper = tuple(int(value) for value in np.median(edge, axis=0))
    level = cv2.warpAffine(
        image, forward, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=paper
    )
    return LevelPage(np.asarray(level, np.uint8), np.asarray(cv2.invertAffineTransform(forward)))
