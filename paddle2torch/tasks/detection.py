"""Finding lines of text: a page to the detector's input, its probability map to boxes.

The steps and their roundings are PaddleOCR's (`ppocr/data/imaug/operators.py`, `ppocr/postprocess/db_postprocess.py`,
`tools/infer/predict_det.py`), so that the same map has the same boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import pyclipper
import torch
from numpy.typing import NDArray

from paddle2torch.device import fetch, send
from paddle2torch.model_zoo.config import DBPostprocess, DetPreprocess, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.tasks.failures import cannot_be_run
from paddle2torch.tasks.geometry import Coordinates, Points, min_area_quad, order_clockwise, sorted_order
from paddle2torch.tasks.images import BGRImage
from paddle2torch.tasks.interrupts import check_wanted

STRIDE = 32
"""The network halves its input five times."""

RESIZE_LONG_STRIDE = 128
"""What PaddleOCR rounds the sides up to where its settings say `resize_long`."""

MAX_SIDE = 4000
"""No side of the input grows beyond this: PaddleOCR 3's bound for `limit_type: min`, where 2.x has none. It holds for
`resize_long` as well, where the sides are multiples of 128."""

STRIP = 3
"""A page that is at least this many times as long as wide is read at its own size: made as small as others are, nothing
of its width would be left."""

SMALL_LINES = 12
"""Lines whose usual height in the detector's input is less than this many pixels are found in part at best: the page is
read again at its own size."""

SMALLER = 1.2
"""A page that is made smaller by less than this loses nothing."""

FITTING_SIDE = 64
"""PaddleOCR 3's limit: the shortest side has at least as many pixels, and a page keeps its size."""

AT_ONCE = 2_500_000
TILE, MARGIN = 1024, 128
"""Pixels of an input; a larger one is given to the network in tiles of this side, with what is around them."""

AT_MOST = 64_000_000
"""Pixels of all tiles; a page with more is made smaller."""

CANDIDATES = 100_000
"""Contours of a page at its own size that are looked at, where PaddleOCR looks at 1000 of any page."""

INK = 2e-4
"""Share of the pixels that differ from the paper; with less a page is blank."""

MIN_SIZE = 3
"""A box with a shorter side in the map is noise; after unclipping, 2 pixels more."""

MIN_SIDE = 3
"""A box whose first or last side has at most this many pixels on the page is dropped."""


@dataclass(frozen=True, eq=False)
class Box:
    """A detected line. points: float32 (4, 2), clockwise from the top left, or (N, 2) for `poly`; pixels of the page.

    score: the mean probability inside, 0 to 1.
    """

    points: Points
    score: float


def input_size(height: int, width: int, config: DetPreprocess) -> tuple[int, int]:
    """Height and width to which a page is resized: multiples of 32, so the aspect ratio changes a little."""
    longest, shortest = max(height, width), min(height, width)
    if config.limit_type == "resize_long":
        ratio = config.limit_side_len / longest
        most = MAX_SIDE // RESIZE_LONG_STRIDE
        blocks = (min(max(math.ceil(int(side * ratio) / RESIZE_LONG_STRIDE), 1), most) for side in (height, width))
        height, width = (count * RESIZE_LONG_STRIDE for count in blocks)
        return height, width
    ratio = 1.0
    if config.limit_type == "max" and longest > config.limit_side_len:
        ratio = config.limit_side_len / longest
    elif config.limit_type == "min" and shortest < config.limit_side_len:
        ratio = config.limit_side_len / shortest
    height, width = int(height * ratio), int(width * ratio)
    if max(height, width) > MAX_SIDE:
        ratio = MAX_SIDE / max(height, width)
        height, width = int(height * ratio), int(width * ratio)
    return max(round(height / STRIDE) * STRIDE, STRIDE), max(round(width / STRIDE) * STRIDE, STRIDE)


def times_smaller(size: tuple[int, ...], config: DetPreprocess) -> float:
    """How many times smaller a page of (height, width) is made for the detector; 1.0 where it is not."""
    return max(1.0, max(size[:2]) / max(input_size(size[0], size[1], config)))


def _too_small(image: BGRImage, boxes: list[Box], shrunk: float) -> bool:
    """Whether what was found of a page that was made `shrunk` times smaller tells that it was too small to be read."""
    if not boxes:
        return not _blank(image)
    heights = [min_area_quad(box.points)[1] for box in boxes]
    return float(np.median(heights)) / shrunk < SMALL_LINES


def _blank(image: BGRImage) -> bool:
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
    counts = np.bincount(grey.ravel(), minlength=256)
    paper = int(np.searchsorted(counts.cumsum(), grey.size / 2))
    return bool(counts[: max(paper - 40, 0)].sum() + counts[paper + 41 :].sum() < INK * grey.size)


def preprocess(image: BGRImage, config: DetPreprocess) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """A page as the detector's input, and the (height, width) in page pixels that the input covers.

    image: uint8 (height, width, 3), BGR. Returns float32 (3, H, W), H and W multiples of 32. A page with less than 64
    pixels in height and width together is padded with black to at least 32x32: it covers more than the page, and
    PaddleOCR, which scales such a map to the page, places its boxes too far to the top left.
    """
    height, width = image.shape[:2]
    if height + width < 2 * STRIDE:
        padded = np.zeros((max(STRIDE, height), max(STRIDE, width), 3), dtype=np.uint8)
        padded[:height, :width] = image
        image = padded
        height, width = image.shape[:2]
    to_height, to_width = input_size(height, width, config)
    resized = np.asarray(cv2.resize(image, (to_width, to_height)), dtype=np.uint8)
    return _normalised(resized, config), (height, width)


def _normalised(resized: BGRImage, config: DetPreprocess) -> NDArray[np.float32]:
    """Pixels as the network takes them: float32 (3, height, width)."""
    if config.channel_order == "RGB":
        resized = resized[:, :, ::-1]
    # A table: 256 normalisations of each channel instead of one per pixel, with the same float32 values.
    levels = np.arange(256, dtype=np.float32)[None, :, None] * np.float32(config.scale)
    table = (levels - np.array(config.mean, np.float32)) / np.array(config.std, np.float32)
    return np.ascontiguousarray(np.asarray(cv2.LUT(resized, table), np.float32).transpose(2, 0, 1))


def boxes_from_map(probabilities: NDArray[np.float32], config: DBPostprocess, covers: tuple[int, int]) -> list[Box]:
    """Boxes of a probability map, in the order of OpenCV's contours (PaddleOCR's DBPostProcess).

    probabilities: float32 (H, W), 0 to 1. covers: (height, width) of the page area that the map shows; the boxes are in
    its pixels, rounded to integers. At most `max_candidates` contours are looked at.
    """
    mask = (probabilities > config.thresh).astype(np.uint8)
    if config.use_dilation:
        mask = np.asarray(cv2.dilate(mask, np.ones((2, 2), dtype=np.uint8)), dtype=np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    find = _polygon_of_contour if config.box_type == "poly" else _quad_of_contour
    boxes = []
    for contour in contours[: config.max_candidates]:
        found = find(np.asarray(contour, dtype=np.int32), probabilities, config)
        if found is not None:
            points, score = found
            boxes.append(Box(_to_page(points, probabilities.shape, covers), score))
    return boxes


def clip_boxes(boxes: list[Box], size: tuple[int, int], box_type: Literal["quad", "poly"]) -> list[Box]:
    """Boxes inside the page; quads are ordered clockwise, and dropped where width or height is at most 3 pixels.

    size: (height, width) of the page.
    """
    limit = np.array([size[1] - 1, size[0] - 1], dtype=np.float32)
    if box_type == "poly":
        return [Box(np.clip(box.points, 0, limit), box.score) for box in boxes]
    kept = []
    for box in boxes:
        points = np.clip(order_clockwise(box.points), 0, limit)
        width, height = (int(np.linalg.norm(points[0] - points[i])) for i in (1, 3))
        if min(width, height) > MIN_SIDE:
            kept.append(Box(points, box.score))
    return kept


def _quad_of_contour(
    contour: NDArray[np.int32], probabilities: NDArray[np.float32], config: DBPostprocess
) -> tuple[Coordinates, float] | None:
    quad, side = min_area_quad(contour)
    if side < MIN_SIZE:
        return None
    score = _mean_inside(probabilities, quad if config.score_mode == "fast" else contour.reshape(-1, 2))
    if score < config.box_thresh:
        return None
    outline = _unclip(quad, config.unclip_ratio)
    if outline is None:
        return None
    quad, side = min_area_quad(outline)
    return (quad, score) if side >= MIN_SIZE + 2 else None


def _polygon_of_contour(
    contour: NDArray[np.int32], probabilities: NDArray[np.float32], config: DBPostprocess
) -> tuple[Coordinates, float] | None:
    polygon = np.asarray(cv2.approxPolyDP(contour, 0.002 * cv2.arcLength(contour, True), True)).reshape(-1, 2)
    if len(polygon) < 4:
        return None
    # PaddleOCR's polygons know no slow score.
    score = _mean_inside(probabilities, polygon)
    if score < config.box_thresh:
        return None
    outline = _unclip(polygon, config.unclip_ratio)
    if outline is None:
        return None
    _, side = min_area_quad(outline)
    return (outline, score) if side >= MIN_SIZE + 2 else None


def _mean_inside(probabilities: NDArray[np.float32], points: Coordinates) -> float:
    """The mean probability inside a polygon of the map, its edge included. points: (N, 2)."""
    height, width = probabilities.shape
    limit = np.array([width - 1, height - 1])
    left, top = np.clip(np.floor(points.min(axis=0)).astype(int), 0, limit)
    right, bottom = np.clip(np.ceil(points.max(axis=0)).astype(int), 0, limit)
    mask = np.zeros((bottom - top + 1, right - left + 1), dtype=np.uint8)
    cv2.fillPoly(mask, [(points - np.array([left, top], dtype=points.dtype)).astype(np.int32)], 1.0)
    return float(cv2.mean(probabilities[top : bottom + 1, left : right + 1], mask)[0])


def _unclip(points: Coordinates, ratio: float) -> NDArray[np.int32] | None:
    """The outline at the distance area * ratio / perimeter, (N, 2); None where it falls into several or vanishes.

    Training shrank the lines by such a distance: what the network sees is the core of a line.
    """
    x, y = points.astype(np.float64).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    perimeter = np.hypot(np.roll(x, -1) - x, np.roll(y, -1) - y).sum()
    offset = pyclipper.PyclipperOffset()
    # Clipper counts in integers: the fractions of the corners are cut off, in PaddleOCR too.
    offset.AddPath(points.astype(np.int64).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    outlines = offset.Execute(area * ratio / perimeter)
    return np.array(outlines[0], dtype=np.int32) if len(outlines) == 1 else None


def _to_page(points: Coordinates, shape: tuple[int, ...], covers: tuple[int, int]) -> Points:
    """Points of a map on the page: scaled, rounded to integers, clipped to [0, size]."""
    height, width = covers
    # Quads are float32, outlines integers: each is divided in its own precision, so that halves round as in PaddleOCR.
    scaled = points / np.array([shape[1], shape[0]], dtype=points.dtype) * np.array([width, height], dtype=np.float64)
    return np.clip(np.round(scaled), 0, (width, height)).astype(np.float32)


class DetectionError(Paddle2TorchError):
    """A model cannot be run as a detector, or its output cannot be read."""


@dataclass(frozen=True, eq=False)
class Found:
    """The boxes of a page in PaddleOCR's order, and how many times smaller the page was made for that (1.0: not)."""

    boxes: list[Box]
    shrunk: float


class Detector:
    """Finds the lines of a page with a detector in eval form.

    `model` maps float32 (1, 3, H, W) to `{"maps": (1, 1, H, W)}`, probabilities; it is run where its parameters are and
    in their dtype, on `device` if one is given (it is moved there).

    fit: pages that PaddleOCR's limit would make too small to be read, long strips and large sheets with small letters,
    are looked at in their own size: with PaddleOCR 3's limits, which make nothing smaller, and in tiles where that is
    more than the network takes at once. All others are seen as PaddleOCR sees them.

    Raises `DetectionError` for a model in training mode, or one whose map is not one.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: ModelConfig,
        *,
        fit: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(config.preprocess, DetPreprocess) or not isinstance(config.postprocess, DBPostprocess):
            raise ConfigError(f"{config.name} is not a detector (task {config.task!r})")
        self.model = model if device is None else model.to(device)
        self.config = config
        self.preprocess = config.preprocess
        self.postprocess = config.postprocess
        self.fit = fit

    def __call__(self, image: BGRImage) -> list[Box]:
        """The boxes of a page, uint8 (height, width, 3), BGR, in PaddleOCR's order: by y, and by x within a row."""
        return self.find(image).boxes

    def find(self, image: BGRImage) -> Found:
        """The boxes of a page as for a call, and how much smaller the page was made."""
        shrunk = times_smaller(image.shape[:2], self.preprocess)
        fit = self.fit and shrunk >= SMALLER
        if not (fit and max(image.shape[:2]) >= STRIP * min(image.shape[:2])):
            boxes = self._boxes(*self.map(image), image.shape[:2])
            if not (fit and _too_small(image, boxes, shrunk)):
                return Found(boxes, shrunk)
        fitting = replace(self.preprocess, limit_type="min", limit_side_len=FITTING_SIDE)
        height, width = input_size(image.shape[0], image.shape[1], fitting)
        if height * width <= AT_ONCE and times_smaller(image.shape[:2], fitting) < SMALLER:
            probabilities, shrunk = self._map(*preprocess(image, fitting))[0], 1.0
        else:
            probabilities, shrunk = self._map_in_tiles(image)
        return Found(self._boxes(probabilities, image.shape[:2], image.shape[:2], CANDIDATES), shrunk)

    def map(self, image: BGRImage) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The probability of text at each pixel of the input, float32 (H, W), and the page's (height, width) it covers.

        image: as for a call.
        """
        return self._map(*preprocess(image, self.preprocess))

    def _boxes(
        self,
        probabilities: NDArray[np.float32],
        covers: tuple[int, ...],
        size: tuple[int, ...],
        candidates: int | None = None,
    ) -> list[Box]:
        config = self.postprocess if candidates is None else replace(self.postprocess, max_candidates=candidates)
        boxes = boxes_from_map(probabilities, config, (covers[0], covers[1]))
        boxes = clip_boxes(boxes, (size[0], size[1]), config.box_type)
        return [boxes[i] for i in sorted_order([box.points for box in boxes])]

    def _map_in_tiles(self, image: BGRImage) -> tuple[NDArray[np.float32], float]:
        """The map of a page at its own size, and how many times smaller the page was made for its number of pixels."""
        height, width = image.shape[:2]
        scale = max(FITTING_SIDE / min(height, width), 1.0)
        scale *= min(1.0, math.sqrt(AT_MOST / (height * width)) / scale)
        rows, columns = (max(round(side * scale / STRIDE), 1) * STRIDE for side in (height, width))
        resized = np.asarray(cv2.resize(image, (columns, rows)), dtype=np.uint8)
        whole = np.empty((rows, columns), dtype=np.float32)
        for top in range(0, rows, TILE):
            for left in range(0, columns, TILE):
                start = max(top - MARGIN, 0), max(left - MARGIN, 0)
                tile = resized[start[0] : top + TILE + MARGIN, start[1] : left + TILE + MARGIN]
                probabilities, _ = self._map(_normalised(tile, self.preprocess), tile.shape[:2])
                inner = probabilities[top - start[0] :, left - start[1] :][:TILE, :TILE]
                whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return whole, max(1.0, 1 / scale)

    def _map(self, pixels: NDArray[np.float32], covers: tuple[int, int]) -> tuple[NDArray[np.float32], tuple[int, int]]:
        x = torch.from_numpy(pixels)[None]
        if self.model.training:
            raise DetectionError(f"{self.config.name} is in training mode: call model.eval() before reading with it")
        check_wanted()
        parameter = next(self.model.parameters(), x)
        try:
            with torch.inference_mode():
                maps = self.model(send(x, parameter.device, parameter.dtype))["maps"]
        except RuntimeError as error:
            raise DetectionError(cannot_be_run(self.config.name, x, error)) from None
        if maps.shape != (1, 1, *x.shape[2:]):
            raise DetectionError(f"{self.config.name} gives a map {tuple(maps.shape)} for an input {tuple(x.shape)}")
        probabilities: NDArray[np.float32] = fetch(maps[0, 0].float())
        if not np.isfinite(probabilities).all():
            raise DetectionError(
                f"{self.config.name} gives probabilities that are not numbers (NaN): its weights are broken, or "
                f"{str(parameter.dtype).removeprefix('torch.')} is too narrow for them"
            )
        return probabilities, covers
