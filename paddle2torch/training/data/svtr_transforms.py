"""What SVTRNet's recipe does to lines: turn, shear, tilt, blur and coarsen them, change their colours.

Facts: PaddleOCR `ppocr/data/imaug/abinet_aug.py`, `rec_img_aug.py` (Apache-2.0; after ABINet, arXiv:2103.06495) and
`paddle.vision.transforms`. Given the same random draws, in the same order, the images are PaddleOCR's bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.rec_transforms import Line, LineRequest
from paddle2torch.training.data.v6_transforms import ColorJitter

DEGREES = 45.0
"""By which a line is turned at most, to either side."""

SHEAR = (45.0, 15.0)
"""Degrees by which it is sheared at most, along and across."""

SCALES = (0.5, 2.0)
DISTORTION = 0.5
"""The share of half a side that a corner moves inwards at most."""

NOISE = 20.0
"""The largest variance of the noise, of values from 0 to 255."""

BLUR = 6.0
"""The largest length of a motion blur, in pixels."""

HALVINGS = 4.0
COARSE_SIZE = (512, 128)
"""Width and height that a line is brought to before it is halved up to `HALVINGS` times."""

JITTER = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)

MOST_PIXELS = 1 << 24
"""A line that would become larger stays as it is: PaddleOCR has no limit."""

_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)

Change = Callable[[BGRImage, np.random.Generator], BGRImage]


@dataclass(frozen=True)
class SVTRRecAug:
    """Move the line in space, make it worse, change its colours: each with its own probability, in this order.

    With `aug_type` 0 it is moved in one of three ways (turned, sheared with another size, seen from another side), with
    1 in one to three of them. PaddleOCR draws how much noise, which blur and how coarse once for a whole run; here each
    line has its own.
    """

    aug_type: int = 0
    geometry_p: float = 0.5
    deterioration_p: float = 0.25
    colorjitter_p: float = 0.25

    def __post_init__(self) -> None:
        within(self, aug_type=(0, 1), geometry_p=(0, 1), deterioration_p=(0, 1), colorjitter_p=(0, 1))

    def __call__(self, line: Line, request: LineRequest) -> Line:
        rng, image = request.rng, line.image
        worse = _deteriorations(rng)
        if rng.random() < self.geometry_p:
            moves: tuple[Change, ...] = (_turn, _shear, _tilt)
            if self.aug_type:
                order = rng.permutation(3)
                chosen = [moves[place] for place in order[: rng.integers(1, 4)]]
            else:
                chosen = [moves[rng.integers(3)]]
            for move in chosen:
                image = move(image, rng)
        if rng.random() < self.deterioration_p:
            for place in rng.permutation(3):
                image = worse[place](image, rng)
        if rng.random() < self.colorjitter_p:
            image = JITTER.change(image, rng)
        return replace(line, image=image)


def _skewed(rng: np.random.Generator, most: float) -> float:
    """From 0 to `most`, small ones more often."""
    return float(rng.beta(1, 4)) * most


def _around_zero(rng: np.random.Generator, most: float) -> float:
    return (float(rng.beta(4, 4)) - 0.5) * 2 * most


def _any_interpolation(rng: np.random.Generator) -> int:
    return _INTERPOLATIONS[rng.integers(len(_INTERPOLATIONS))]


def _turn(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    """On a canvas that holds all of it."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), _around_zero(rng, DEGREES), 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = int(height * sin + width * cos), int(height * cos + width * sin)
    return _warp(image, np.asarray(matrix), size, rng)


def _shear(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    height, width = image.shape[:2]
    angle = _around_zero(rng, DEGREES)
    rng.beta(4, 4, size=2)  # where to move it, which PaddleOCR draws and multiplies by 0
    scale = rng.uniform(*SCALES)
    along, across = (_around_zero(rng, most) for most in SHEAR)
    matrix = _inverse_affine((width / 2, height / 2), angle, scale, along, across)
    corners = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    ends = np.array([[int(a * x + b * y + c) for a, b, c in matrix] for x, y in corners], dtype=np.int32)
    box = cv2.boxPoints(cv2.minAreaRect(ends)).astype(np.int32)
    extent = box.max(0) - box.min(0)
    return _warp(image, matrix, (int(extent[0]), int(extent[1])), rng)


def _inverse_affine(
    centre: tuple[float, float], angle: float, scale: float, along: float, across: float
) -> NDArray[np.float64]:
    """Of rotation, shear and scale around the centre, (2, 3); degrees."""
    rotation, x, y = math.radians(angle), math.radians(along), math.radians(across)
    a = math.cos(rotation - y) / math.cos(y)
    b = -math.cos(rotation - y) * math.tan(x) / math.cos(y) - math.sin(rotation)
    c = math.sin(rotation - y) / math.cos(y)
    d = -math.sin(rotation - y) * math.tan(x) / math.cos(y) + math.cos(rotation)
    m = [value / scale for value in (d, -b, 0, -c, a, 0)]
    cx, cy = centre
    m[2] += m[0] * -cx + m[1] * -cy
    m[5] += m[3] * -cx + m[4] * -cy
    m[2] += cx
    m[5] += cy
    return np.array(m).reshape(2, 3)


def _warp(image: BGRImage, matrix: NDArray[np.float64], size: tuple[int, int], rng: np.random.Generator) -> BGRImage:
    """With its centre in the centre of a canvas of (width, height); its border goes on outside."""
    height, width = image.shape[:2]
    moved = matrix.copy()
    moved[0, 2] += (size[0] - width) / 2
    moved[1, 2] += (size[1] - height) / 2
    how = _any_interpolation(rng)
    if not _is_possible(*size):
        return image
    return np.asarray(cv2.warpAffine(image, moved, size, flags=how, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)


def _is_possible(width: int, height: int) -> bool:
    return min(width, height) > 0 and width * height <= MOST_PIXELS


def _tilt(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    height, width = image.shape[:2]
    down = (rng.beta(1, 4, size=4) * (DISTORTION * height / 2)).astype(np.int32)
    right = (rng.beta(1, 4, size=4) * (DISTORTION * width / 2)).astype(np.int32)
    before = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    after = [
        (right[0], down[0]),
        (width - 1 - right[1], down[1]),
        (width - 1 - right[2], height - 1 - down[2]),
        (right[3], height - 1 - down[3]),
    ]
    starts, ends = np.array(before, dtype=np.float32), np.array(after, dtype=np.float32)
    box = cv2.boxPoints(cv2.minAreaRect(ends)).astype(np.int32)
    left, top = (max(0, int(value)) for value in box.min(0))
    size = int(box[:, 0].max()), int(box[:, 1].max())
    how = _any_interpolation(rng)
    if not _is_possible(*size) or min(size[0] - left, size[1] - top) < 1 or min(height, width) < 2:
        return image  # too small to be seen from another side
    matrix = cv2.getPerspectiveTransform(starts, ends)
    seen = cv2.warpPerspective(image, matrix, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen[top:, left:], dtype=np.uint8)


def _deteriorations(rng: np.random.Generator) -> tuple[Change, Change, Change]:
    """Noise, motion blur and a coarser line, with what PaddleOCR draws before it sees an image."""
    variance = max(int(_skewed(rng, NOISE)), 1)
    length = max(int(_skewed(rng, BLUR)), 1)
    direction = rng.uniform(-90, 90)
    halvings = round(rng.uniform(0, HALVINGS))

    def add_noise(image: BGRImage, rng: np.random.Generator) -> BGRImage:
        noisy: BGRImage = np.clip(image + rng.normal(0, variance**0.5, image.shape), 0, 255).astype(np.uint8)
        return noisy

    def blur(image: BGRImage, rng: np.random.Generator) -> BGRImage:
        turn = cv2.getRotationMatrix2D((length // 2, length // 2), direction, 1)
        kernel = np.zeros((length, length))
        kernel[length // 2] = 1
        kernel = cv2.warpAffine(kernel, turn, (length, length)) / length
        return np.asarray(cv2.filter2D(image, -1, kernel), dtype=np.uint8)

    def coarsen(image: BGRImage, rng: np.random.Generator) -> BGRImage:
        if halvings == 0:
            return image
        height, width = image.shape[:2]
        coarse = cv2.resize(image, COARSE_SIZE, interpolation=_any_interpolation(rng))
        for _ in range(halvings):
            coarse = cv2.pyrDown(coarse)
        return np.asarray(cv2.resize(coarse, (width, height), interpolation=_any_interpolation(rng)), dtype=np.uint8)

    return add_noise, blur, coarsen
