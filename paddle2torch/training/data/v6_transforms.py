"""What PP-OCRv6's recipe does to pages: other colours, another perspective, parts cut out anywhere.

Facts: PaddleOCR 3.7 `ppocr/data/imaug/` (ColorJitter.py, operators.py, random_crop_data.py; Apache-2.0) and
`paddle.vision.transforms`. Draws come from other generators in another order: the distributions are PaddleOCR's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.detection import MAX_SIDE
from paddle2torch.training.data.det_transforms import RESIZED_PIXELS, Page, PageRequest, RandomCropOptions, outside
from paddle2torch.training.data.labels import stack_polygons

CONTRAST_CENTRE = 74
"""The grey that a change of contrast leaves as it is."""

REFERENCE_SIDE = 640
"""Pixels of the longest side at which `RandomPerspective.perspective` is what it says."""

LARGEST_PART = 3
"""How many times as large as the network's input a part of `RandomCrop` can be, along each side."""

LEAST_AREA = 80
"""The least area, in pixels, of a polygon that is cut at the border of a part; else it is left out."""

LEAST_SHARE = 0.35
"""The least share of its height that a polygon keeps when it is cut at the border; else it is left out."""


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, each by a random amount up to its option, in random order.

    A saturation is drawn twice, as `paddle.vision` does: how far it may go, and then where to.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        within(self, brightness=(0, 10), contrast=(0, 10), saturation=(0, 10), hue=(0, 0.5))

    def __call__(self, page: Page, request: PageRequest) -> Page:
        return replace(page, image=self.change(np.asarray(page.image, dtype=np.uint8), request.rng))

    def change(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The colours of an image uint8 (H, W, 3), BGR."""
        for name in rng.permutation(("brightness", "contrast", "saturation", "hue")):
            most = getattr(self, name)
            if most == 0:
                continue
            if name == "hue":
                image = _turn_hue(image, rng.uniform(-most, most))
                continue
            factor = rng.uniform(max(0.0, 1 - most), 1 + most)
            if name == "saturation":
                factor = rng.uniform(max(0.0, 1 - factor), 1 + factor)
                single = image.astype(np.float32)
                grey = cv2.cvtColor(single, cv2.COLOR_BGR2GRAY)[..., None]
                image = (single * factor + grey * (1 - factor)).clip(0, 255).astype(np.uint8)
            else:
                centre = CONTRAST_CENTRE if name == "contrast" else 0
                table = ((np.arange(256) - centre) * factor + centre).clip(0, 255).astype(np.uint8)
                image = np.asarray(cv2.LUT(image, table), dtype=np.uint8)
        return image


def _turn_hue(image: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """`share` of the whole circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + int(share * 255)) % 256
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL), dtype=np.uint8)


@dataclass(frozen=True)
class RandomPerspective:
    """With the probability `prob` see the page from another side: scaled, turned, sheared, tilted.

    Args:
        prob: how often.
        degrees, scale, shear: a rotation of up to `degrees`, a factor of 1 plus or minus `scale`, shears of up to
            `shear` degrees along both axes.
        perspective: how much nearer a pixel is than its neighbour, for a page of 640 pixels; less for a larger one.
        fit_output: the canvas grows to hold the page; it must be true: without it PaddleOCR puts the page elsewhere.
        fill_value: of what comes in, one value or three.
        min_area_ratio: polygons of less of their area are left out, and those whose centre is outside.
    """

    prob: float = 0.3
    degrees: float = 0.0
    scale: float = 0.2
    shear: float = 5.0
    perspective: float = 0.0002
    fit_output: bool = True
    fill_value: float | tuple[float, float, float] = (123.675, 116.28, 103.53)
    min_area_ratio: float = 0.1

    def __post_init__(self) -> None:
        within(self, prob=(0, 1), degrees=(0, 180), scale=(0, 0.99), shear=(0, 80), perspective=(0, 0.001))
        within(self, min_area_ratio=(0, 1), fill_value=(0, 255))
        if not self.fit_output:
            raise ConfigError(
                "RandomPerspective: fit_output must be true: else PaddleOCR moves the page off its canvas"
            )

    def __call__(self, page: Page, request: PageRequest) -> Page:
        rng = request.rng
        if rng.random() > self.prob:
            return page
        image = np.asarray(page.image, dtype=np.uint8)
        height, width = image.shape[:2]
        matrix = self._matrix(height, width, rng)
        corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], dtype=np.float64)
        moved = cv2.perspectiveTransform(corners, matrix)[0]
        low, high = np.floor(moved.min(axis=0)), np.ceil(moved.max(axis=0))
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        if size[0] * size[1] > RESIZED_PIXELS or max(size) > MAX_SIDE * LARGEST_PART:
            return page
        shift = np.eye(3)
        shift[:2, 2] = -low
        matrix = shift @ matrix
        fill = self.fill_value if isinstance(self.fill_value, tuple) else (self.fill_value,) * 3
        warped = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=fill)
        if not len(page.polygons):
            return replace(page, image=warped)
        polygons = cv2.perspectiveTransform(page.polygons.reshape(1, -1, 2), matrix).reshape(page.polygons.shape)
        before, after = (np.array([_area(p) for p in some]) for some in (page.polygons, polygons))
        centres = polygons.mean(axis=1)
        kept = (after > before * self.min_area_ratio) & (centres > 0).all(axis=1) & (centres < size).all(axis=1)
        return replace(page, image=warped, polygons=polygons[kept], ignore=page.ignore[kept])

    def _matrix(self, height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
        centre, tilt, turn, shear = (np.eye(3) for _ in range(4))
        centre[:2, 2] = -width / 2, -height / 2
        most = self.perspective * REFERENCE_SIDE / max(height, width)
        tilt[2, :2] = rng.uniform(-most, most, 2)
        factor, angle = rng.uniform(1 - self.scale, 1 + self.scale), rng.uniform(-self.degrees, self.degrees)
        turn[:2] = cv2.getRotationMatrix2D((0, 0), angle, factor)
        shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-self.shear, self.shear, 2)))
        return np.asarray(shear @ turn @ tilt @ centre)


@dataclass(frozen=True)
class RandomCrop(RandomCropOptions):
    """A random part of the page, somewhere in a black picture of `size` (width, height); it is never enlarged.

    The sides of the part are drawn between `min_crop_side_ratio` of the page's and three times `size`. At most
    `max_tries` parts are looked at for one with a line, whole or cut at the border, that is still large enough; else
    all of the page is taken. Lines to ignore stay where a corner of their bounding box is inside.
    """

    def __call__(self, page: Page, request: PageRequest) -> Page:
        rng = request.rng
        image = np.asarray(page.image, dtype=np.uint8)
        part, lines = self._part(page, rng)
        x, y, width, height = part
        scale = min(1.0, self.size[0] / width, self.size[1] / height)
        to_width, to_height = max(1, int(width * scale)), max(1, int(height * scale))
        left, top = int(rng.integers(self.size[0] - to_width + 1)), int(rng.integers(self.size[1] - to_height + 1))
        piece = image[y : y + height, x : x + width]
        if scale < 1:
            piece = np.asarray(cv2.resize(piece, (to_width, to_height)), dtype=np.uint8)
        result = np.zeros((self.size[1], self.size[0], 3), dtype=np.uint8)
        result[top : top + to_height, left : left + to_width] = piece
        polygons, ignore = [], []
        for index, polygon in enumerate(page.polygons):
            found: NDArray[np.float64] | None
            if page.ignore[index]:
                inside = not outside(polygon[None], np.array([x, y]), np.array([x + width, y + height]))[0]
                found = polygon if inside else None
            else:
                found = lines.get(index)
            if found is not None:
                placed = (found - (x, y)) * scale + (left, top)
                polygons.append(np.clip(placed, 0, self.size) if page.ignore[index] else placed)
                ignore.append(bool(page.ignore[index]))
        return replace(page, image=result, polygons=stack_polygons(polygons), ignore=np.array(ignore, dtype=np.bool_))

    def _part(
        self, page: Page, rng: np.random.Generator
    ) -> tuple[tuple[int, int, int, int], dict[int, NDArray[np.float64]]]:
        """x, y, width and height of the part, and the lines in it by their index, cut at its border."""
        height, width = page.image.shape[:2]
        everything = {int(index): page.polygons[index] for index in np.flatnonzero(~page.ignore)}
        heights = {index: _short_side(polygon) for index, polygon in everything.items()}
        for _ in range(self.max_tries if everything else 0):
            part_width, part_height = (
                self._side(side, most, rng) for side, most in zip((width, height), self.size, strict=True)
            )
            x, y = int(rng.integers(width - part_width + 1)), int(rng.integers(height - part_height + 1))
            low, high = np.array([x, y]), np.array([x + part_width, y + part_height])
            lines = {
                index: kept
                for index, polygon in everything.items()
                if (kept := _kept(polygon, low, high, heights[index])) is not None
            }
            if lines:
                return (x, y, part_width, part_height), lines
        return (0, 0, width, height), everything

    def _side(self, side: int, size: int, rng: np.random.Generator) -> int:
        least, most = max(1, min(int(side * self.min_crop_side_ratio), size)), LARGEST_PART * size
        return min(int(rng.integers(least, most + 1)), side)


def _kept(
    polygon: NDArray[np.float64], low: NDArray[Any], high: NDArray[Any], height: float
) -> NDArray[np.float64] | None:
    """What of a line is in the part from `low` to `high`, or None where that is nothing, or too little to read."""
    if ((polygon >= low) & (polygon <= high)).all():
        return polygon
    if outside(polygon[None], low, high)[0]:
        return None
    cut = _four_corners(_cut(polygon, low, high))
    if cut is None or _area(cut) < LEAST_AREA or _short_side(cut) < LEAST_SHARE * height:
        return None
    sides = np.linalg.norm(cut - np.roll(cut, 1, axis=0), axis=1)
    return None if len(cut) == 4 and min(sides) < LEAST_SHARE * height else cut


def _cut(polygon: NDArray[np.float64], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.float64]:
    """The polygon's part in a rectangle: cut at one side of it after the other (Sutherland and Hodgman)."""
    points = list(polygon)
    for axis in (0, 1):
        for bound, sign in ((low[axis], 1), (high[axis], -1)):
            before, points = points, []
            for start, end in zip(before, (*before[1:], *before[:1]), strict=True):
                from_start, from_end = (sign * (point[axis] - bound) for point in (start, end))
                if from_start >= 0:
                    points.append(start)
                if (from_start > 0 > from_end) or (from_start < 0 < from_end):
                    points.append(start + (end - start) * (from_start / (from_start - from_end)))
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _four_corners(polygon: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """At most four of the corners, those that show the shape best; None for fewer than four."""
    distinct = [
        point for point, after in zip(polygon, np.roll(polygon, -1, axis=0), strict=True) if (point != after).any()
    ]
    if len(distinct) < 4:
        return None
    points = np.array(distinct)
    if len(points) == 4:
        return points
    contour = points.astype(np.float32)[:, None]
    length = cv2.arcLength(contour, True)
    low, high, best = 0.0, 0.5, None
    for _ in range(50):
        middle = (low + high) / 2
        simple = cv2.approxPolyDP(contour, middle * length, True)
        if len(simple) <= 4:
            best, high = simple, middle
        else:
            low = middle
    return None if best is None or len(best) < 3 else np.asarray(best, dtype=np.float64).reshape(-1, 2)


def _area(polygon: NDArray[np.float64]) -> float:
    return float(cv2.contourArea(polygon.astype(np.float32)))


def _short_side(polygon: NDArray[np.float64]) -> float:
    """The short side of the smallest rectangle around the polygon."""
    return float(min(cv2.minAreaRect(polygon.astype(np.float32))[1]))
