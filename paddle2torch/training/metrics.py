"""PaddleOCR's metrics: accuracy and normalised edit distance of lines, precision, recall and hmean of boxes, accuracy
of classes.

Sources: PaddleOCR `ppocr/metrics/rec_metric.py`, `eval_det_iou.py`, `cls_metric.py`,
`ppocr/postprocess/rec_postprocess.py` (Apache-2.0).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyclipper
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from paddle2torch.tasks.recognition import run_starts

EPS = 1e-5
"""Added to counts of lines before they divide; official figures have it."""

KEPT_BY_FILTER = frozenset(string.digits + string.ascii_letters)

CLIPPER_UNITS = 1 << 16
"""Clipper counts in integers: this many to a pixel."""

Polygon = NDArray[np.floating]


def ctc_texts(ids: NDArray[np.integer], charset: Sequence[str]) -> list[str]:
    """The texts of each step's best class (N, T): repeats are one, class 0 is nothing, class i is `charset[i - 1]`."""
    kept = run_starts(ids) & (ids != 0)
    return ["".join(charset[index - 1] for index in row[keep]) for row, keep in zip(ids, kept, strict=True)]


def label_texts(labels: NDArray[np.integer], lengths: NDArray[np.integer], charset: Sequence[str]) -> list[str]:
    """The texts of encoded labels (N, L), of which `lengths` (N,) classes count."""
    return ["".join(charset[index - 1] for index in row[:length]) for row, length in zip(labels, lengths, strict=True)]


@dataclass
class RecMetric:
    """Share of lines read without a mistake, and 1 - the mean edit distance divided by the longer length.

    `ignore_space` takes spaces out first; `is_filter` keeps digits and ASCII letters and ignores case.
    """

    ignore_space: bool = True
    is_filter: bool = False
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    main = "acc"

    def add(self, predictions: Sequence[str], labels: Sequence[str]) -> None:
        """Count some lines."""
        for prediction, label in zip(map(self.normalised, predictions), map(self.normalised, labels), strict=True):
            longer = max(len(prediction), len(label))
            distance = Levenshtein.distance(prediction, label) / longer if prediction != label else 0.0
            self.counts += (prediction == label, distance, 1)

    def add_unread(self, lines: int) -> None:
        """Count lines whose images cannot be read: wrong in every character."""
        self.counts += (0, lines, lines)

    def result(self) -> dict[str, float]:
        """`acc` and `norm_edit_dis` of all lines counted. (`counts` of several processes may be added.)"""
        right, distance, lines = self.counts.tolist()
        return {"acc": right / (lines + EPS), "norm_edit_dis": 1 - distance / (lines + EPS)}

    def normalised(self, text: str) -> str:
        """What is compared of a text."""
        if self.ignore_space:
            text = text.replace(" ", "")
        if self.is_filter:
            text = "".join(character for character in text if character in KEPT_BY_FILTER).lower()
        return text


@dataclass
class ClsMetric:
    """Share of images whose class is right."""

    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    main = "acc"

    def add(self, predictions: Sequence[str], labels: Sequence[str]) -> None:
        """Count some images."""
        self.counts += (sum(map(str.__eq__, predictions, labels)), len(labels))

    def add_unread(self, images: int) -> None:
        """Count images that cannot be read: wrong."""
        self.counts += (0, images)

    def result(self) -> dict[str, float]:
        """`acc` of all images counted. (`counts` of several processes may be added.)"""
        right, images = self.counts.tolist()
        return {"acc": right / (images + EPS)}


@dataclass
class DetMetric:
    """Precision and recall of boxes that overlap a labelled polygon by an IoU above 0.5, over all pages together.

    Polygons that cross or touch themselves, or have no area, are left out. A box that is by more than half in a
    polygon to be ignored does not count.
    """

    iou_constraint: float = 0.5
    area_precision_constraint: float = 0.5
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    main = "hmean"

    def add(self, boxes: Sequence[Polygon], polygons: Sequence[Polygon], ignored: Sequence[bool]) -> None:
        """Count a page: the boxes found, and its labelled polygons, some of them to be ignored. Each (K, 2)."""
        overlaps = Overlaps(boxes, polygons, ignored, self.iou_constraint, self.area_precision_constraint)
        self.counts += (len(overlaps.match(overlaps.counted)), len(overlaps.counted), len(overlaps.wanted))

    def result(self) -> dict[str, float]:
        """`precision`, `recall` and `hmean` of all pages counted. (`counts` of several processes may be added.)"""
        matched, found, wanted = self.counts.tolist()
        return scores_of(matched, found, wanted)


def scores_of(matched: float, found: float, wanted: float) -> dict[str, float]:
    """`precision`, `recall` and `hmean` of so many boxes."""
    precision = matched / found if found else 0.0
    recall = matched / wanted if wanted else 0.0
    both = precision + recall
    return {"precision": precision, "recall": recall, "hmean": 2 * precision * recall / both if both else 0.0}


class Overlaps:
    """The boxes found on a page beside its labelled polygons; see `DetMetric`.

    wanted: polygons (their places in the list) that are to be found. counted: boxes that count, in their order.
    """

    def __init__(
        self,
        boxes: Sequence[Polygon],
        polygons: Sequence[Polygon],
        ignored: Sequence[bool],
        iou_constraint: float = 0.5,
        area_precision_constraint: float = 0.5,
    ) -> None:
        self._iou_constraint = iou_constraint
        self._areas = {place: _Area(polygon) for place, polygon in enumerate(polygons) if simple(polygon)}
        self._boxes = {place: _Area(box) for place, box in enumerate(boxes) if simple(box)}
        self.wanted = [place for place in self._areas if not ignored[place]]
        unwanted = [area for place, area in self._areas.items() if ignored[place]]
        self.counted = [
            place
            for place, box in self._boxes.items()
            if not any(area.overlap(box) / box.size > area_precision_constraint for area in unwanted)
        ]
        self._low = np.array([self._boxes[place].low for place in self.counted]).reshape(-1, 2)
        self._high = np.array([self._boxes[place].high for place in self.counted]).reshape(-1, 2)
        self._shared: dict[int, dict[int, float]] = {}

    def match(self, counted: Sequence[int]) -> dict[int, int]:
        """For each polygon that one of the boxes `counted` finds, the first of them that no other polygon has."""
        taken: dict[int, int] = {}
        used: set[int] = set()
        for place in self.wanted:
            area, shared = self._areas[place], self.shared(place)
            for index in counted:
                if index in used or index not in shared:
                    continue
                if shared[index] / (area.size + self._boxes[index].size - shared[index]) > self._iou_constraint:
                    taken[place] = index
                    used.add(index)
                    break
        return taken

    def shared(self, place: int) -> dict[int, float]:
        """The area, in square pixels, that a polygon has in common with each box that touches it."""
        if place not in self._shared:
            area = self._areas[place]
            near = (self._low < area.high).all(1) & (area.low < self._high).all(1)
            found = ((self.counted[number], self._boxes[self.counted[number]]) for number in np.flatnonzero(near))
            shared = {index: area.overlap(box) for index, box in found}
            self._shared[place] = {index: overlap for index, overlap in shared.items() if overlap}
        return self._shared[place]

    def size(self, place: int) -> float:
        """The area of a polygon, in square pixels."""
        return self._areas[place].size

    def box_size(self, index: int) -> float:
        """The area of a box, in square pixels."""
        return self._boxes[index].size


class _Area:
    """A simple polygon, in Clipper's integers."""

    def __init__(self, polygon: Polygon) -> None:
        points = np.asarray(polygon, dtype=np.float64)
        self.low, self.high = points.min(0), points.max(0)
        self.path = np.rint(points * CLIPPER_UNITS).astype(np.int64).tolist()
        self.size = abs(pyclipper.Area(self.path)) / CLIPPER_UNITS**2

    def overlap(self, other: _Area) -> float:
        """The area in common, in square pixels."""
        if (self.low >= other.high).any() or (other.low >= self.high).any():
            return 0.0
        clipper = pyclipper.Pyclipper()
        clipper.AddPath(self.path, pyclipper.PT_SUBJECT, True)
        clipper.AddPath(other.path, pyclipper.PT_CLIP, True)
        # Holes come with the opposite sign.
        return abs(sum(map(pyclipper.Area, clipper.Execute(pyclipper.CT_INTERSECTION)))) / CLIPPER_UNITS**2


def simple(polygon: Polygon) -> bool:
    """Whether a polygon (K, 2) has an area and an outline that neither crosses nor touches itself.

    The same as Shapely's `is_valid`; points that repeat the one before them do no harm.
    """
    points = np.asarray(polygon, dtype=np.float64)
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    count = len(points)
    if count < 3 or not np.isfinite(points).all():
        return False
    ends = np.roll(points, -1, axis=0)
    first, second = np.triu_indices(count, k=1)
    a, b, c, d = points[first], ends[first], points[second], ends[second]
    neighbours = (second - first == 1) | ((first == 0) & (second == count - 1))
    # Neighbours share a corner; they may not fold back on each other.
    folded = (_side(a, b, c) == 0) & (_side(a, b, d) == 0) & (((b - a) * (d - c)).sum(1) < 0)
    if (folded & neighbours).any():
        return False
    crossing = (_side(a, b, c) != _side(a, b, d)) & (_side(c, d, a) != _side(c, d, b))
    touching = _on(a, b, c) | _on(a, b, d) | _on(c, d, a) | _on(c, d, b)
    return not ((crossing | touching) & ~neighbours).any()


def _side(a: Polygon, b: Polygon, c: Polygon) -> NDArray[np.float64]:
    """On which side of the line from a to b each c is: 1, 0 or -1."""
    u, v = b - a, c - a
    return np.sign(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])


def _on(a: Polygon, b: Polygon, c: Polygon) -> NDArray[np.bool_]:
    """Whether each c is on the segment from a to b."""
    between = (np.minimum(a, b) <= c).all(1) & (c <= np.maximum(a, b)).all(1)
    return between & (_side(a, b, c) == 0)
