"""PaddleOCR's metrics: accuracy and normalised edit distance of lines, precision, recall and hmean of boxes.

Sources: PaddleOCR `ppocr/metrics/rec_metric.py`, `eval_det_iou.py`, `ppocr/postprocess/rec_postprocess.py`
(Apache-2.0).
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
        for prediction, label in zip(map(self._normalised, predictions), map(self._normalised, labels), strict=True):
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

    def _normalised(self, text: str) -> str:
        if self.ignore_space:
            text = text.replace(" ", "")
        if self.is_filter:
            text = "".join(character for character in text if character in KEPT_BY_FILTER).lower()
        return text


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
        valid = [(_Area(polygon), ignore) for polygon, ignore in zip(polygons, ignored, strict=True) if simple(polygon)]
        wanted = [area for area, ignore in valid if not ignore]
        unwanted = [area for area, ignore in valid if ignore]
        found = [area for area in map(_Area, filter(simple, boxes)) if not self._lies_in(area, unwanted)]
        taken: set[int] = set()
        for area in wanted:
            for index, box in enumerate(found):
                if index not in taken and area.iou(box) > self.iou_constraint:
                    taken.add(index)
                    break
        self.counts += (len(taken), len(found), len(wanted))

    def result(self) -> dict[str, float]:
        """`precision`, `recall` and `hmean` of all pages counted. (`counts` of several processes may be added.)"""
        matched, found, wanted = self.counts.tolist()
        precision = matched / found if found else 0.0
        recall = matched / wanted if wanted else 0.0
        both = precision + recall
        return {"precision": precision, "recall": recall, "hmean": 2 * precision * recall / both if both else 0.0}

    def _lies_in(self, box: _Area, areas: Sequence[_Area]) -> bool:
        return any(area.overlap(box) / box.size > self.area_precision_constraint for area in areas)


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

    def iou(self, other: _Area) -> float:
        """The area in common, divided by that of both together."""
        overlap = self.overlap(other)
        return overlap / (self.size + other.size - overlap)


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
