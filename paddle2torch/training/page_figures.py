"""Figures of a detector's answers: what it misses, finds where nothing is, and takes for one line or for several."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from paddle2torch.tasks.geometry import min_area_quad
from paddle2torch.training.answers import PageAnswer
from paddle2torch.training.calibration import Calibration, calibrate
from paddle2torch.training.data.labels import TextBoxes
from paddle2torch.training.line_figures import Advice, Group, grouped
from paddle2torch.training.metrics import Overlaps, scores_of

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Values of box_thresh for which precision and recall are told."""

LEAST_SCORE = THRESHOLDS[0]
"""Boxes with less are not looked at."""

HEIGHTS = (0, 8, 12, 16, 24, 32, 48, 64, 96)
"""Pixels: the least height of each row of the recall by the height of lines."""

KINDS = ("missed", "false", "merged", "split", "loose")
"""What may be wrong, as `PageFaults` has it."""

COVERED = 0.5
"""A line is in a box, or a box in a line, by more than this share of its area."""


@dataclass(frozen=True)
class PageFaults:
    """What is wrong on one page, by places in its labels and in the answer's boxes.

    missed: labelled lines that no box covers. false: boxes on no line. merged: boxes that hold several lines, and those
    lines. split: lines found in several parts, and the parts. loose: lines of which a box has too much or too little,
    and the box.
    """

    index: int
    missed: tuple[int, ...] = ()
    false: tuple[int, ...] = ()
    merged: tuple[tuple[int, tuple[int, ...]], ...] = ()
    split: tuple[tuple[int, tuple[int, ...]], ...] = ()
    loose: tuple[tuple[int, int], ...] = ()

    @property
    def kinds(self) -> dict[str, int]:
        """How many things of each kind are wrong."""
        return {kind: len(getattr(self, kind)) for kind in KINDS}

    @property
    def count(self) -> int:
        """How many things are wrong."""
        return sum(self.kinds.values())


@dataclass(frozen=True)
class AtThreshold:
    """Precision, recall and hmean where boxes with a score from `box_thresh` on are taken."""

    box_thresh: float
    precision: float
    recall: float
    hmean: float


@dataclass(frozen=True)
class PageFigures:
    """The figures of an evaluation; `faults` are the pages with something wrong, the worst first."""

    pages: int
    wanted: int
    found: int
    box_thresh: float
    kinds: dict[str, int]
    thresholds: tuple[AtThreshold, ...]
    by_height: tuple[Group, ...]
    by_source: tuple[Group, ...]
    calibration: Calibration
    faults: tuple[PageFaults, ...] = field(repr=False)
    advice: tuple[Advice, ...] = ()

    @property
    def best(self) -> AtThreshold:
        """The threshold with the highest hmean; of equals the one that is nearest to the model's own."""
        return max(self.thresholds, key=lambda one: (one.hmean, -abs(one.box_thresh - self.box_thresh)))

    def to_json(self) -> dict[str, Any]:
        """As `eval --json` prints it; of the pages with faults the first fifty."""
        return {
            "pages": self.pages,
            "wanted": self.wanted,
            "found": self.found,
            "box_thresh": self.box_thresh,
            "kinds": self.kinds,
            "thresholds": [asdict(one) for one in self.thresholds],
            "by_height": [group.to_json() for group in self.by_height],
            "by_source": [group.to_json() for group in self.by_source],
            "calibration": self.calibration.to_json(),
            "faults": [asdict(page) for page in self.faults[:50]],
            "advice": [asdict(advice) for advice in self.advice],
        }


def page_figures(
    answers: Sequence[PageAnswer],
    *,
    labels: Callable[[int], TextBoxes],
    source: Callable[[int], str],
    box_thresh: float,
) -> PageFigures:
    """The figures of at least one answer.

    labels: the lines of a sample. source: which label file it is of. box_thresh: the model's own.
    """
    counts = np.zeros((len(THRESHOLDS), 3))
    heights: defaultdict[int, list[bool]] = defaultdict(list)
    sources: list[tuple[str, bool]] = []
    sure: list[tuple[float, bool]] = []
    kinds = Counter(dict.fromkeys(KINDS, 0))
    faults, wanted, found = [], 0, 0
    for answer in answers:
        boxes = labels(answer.index)
        overlaps = Overlaps([box.points for box in answer.boxes], list(boxes.polygons), boxes.ignore.tolist())
        scores = [box.score for box in answer.boxes]
        for row, threshold in zip(counts, THRESHOLDS, strict=True):
            taken = [index for index in overlaps.counted if scores[index] >= threshold]
            row += (len(overlaps.match(taken)), len(taken), len(overlaps.wanted))
        own = [index for index in overlaps.counted if scores[index] >= box_thresh]
        match = overlaps.match(own)
        hit = set(match.values())
        sure += [(scores[index], index in hit) for index in own]
        for place in overlaps.wanted:
            height = min_area_quad(np.asarray(boxes.polygons[place], dtype=np.float32))[1]
            heights[max(row for row, least in enumerate(HEIGHTS) if least <= height)].append(place in match)
            sources.append((source(answer.index), place in match))
        page = _faults(answer.index, overlaps, own, match)
        kinds.update(page.kinds)
        if page.count:
            faults.append(page)
        wanted, found = wanted + len(overlaps.wanted), found + len(own)
    thresholds = tuple(
        AtThreshold(threshold, **scores_of(*row.tolist())) for threshold, row in zip(THRESHOLDS, counts, strict=True)
    )
    figures = PageFigures(
        pages=len(answers),
        wanted=wanted,
        found=found,
        box_thresh=box_thresh,
        kinds=dict(kinds),
        thresholds=thresholds,
        by_height=tuple(Group(_height_row(row), len(hits), sum(hits)) for row, hits in sorted(heights.items())),
        by_source=tuple(grouped(sources)),
        calibration=calibrate(sure),
        faults=tuple(sorted(faults, key=lambda page: (-page.count, page.index))),
    )
    return replace(figures, advice=_advice(figures))


def _faults(index: int, overlaps: Overlaps, own: Sequence[int], match: dict[int, int]) -> PageFaults:
    """What each line and box that found no partner is."""
    hit, counted = set(match.values()), set(own)
    lost = [place for place in overlaps.wanted if place not in match]
    in_box: defaultdict[int, list[int]] = defaultdict(list)  # for each box the lines in it, found or not
    parts: dict[int, list[int]] = {}
    for place in overlaps.wanted:
        shared = {box: area for box, area in overlaps.shared(place).items() if box in counted}
        for box, area in shared.items():
            if area > COVERED * overlaps.size(place):
                in_box[box].append(place)
        if place not in match:
            parts[place] = [box for box, area in shared.items() if area > COVERED * overlaps.box_size(box)]
    merged = {
        box: tuple(places)
        for box, places in in_box.items()
        if len(places) > 1 and any(place not in match for place in places)
    }
    explained = {place for places in merged.values() for place in places}
    split = {
        place: tuple(boxes)
        for place, boxes in parts.items()
        if len(boxes) > 1 and place not in explained and not hit & set(boxes)
    }
    explained |= set(split)
    used = hit | set(merged) | {box for boxes in split.values() for box in boxes}
    loose = []
    for place in lost:
        near = [box for box in overlaps.shared(place) if box in counted and box not in used]
        if place not in explained and near:
            box = max(near, key=lambda box: overlaps.shared(place)[box])
            if overlaps.shared(place)[box] > COVERED * min(overlaps.size(place), overlaps.box_size(box)):
                loose.append((place, box))
                used.add(box)
                explained.add(place)
    return PageFaults(
        index,
        missed=tuple(place for place in lost if place not in explained),
        false=tuple(box for box in own if box not in used),
        merged=tuple(merged.items()),
        split=tuple(split.items()),
        loose=tuple(loose),
    )


def _height_row(row: int) -> str:
    if row == len(HEIGHTS) - 1:
        return f"{HEIGHTS[row]} pixels and more"
    return f"{HEIGHTS[row]} to {HEIGHTS[row + 1] - 1} pixels"


def _advice(figures: PageFigures) -> tuple[Advice, ...]:
    """What keeps most lines from being found."""
    kinds, advice = figures.kinds, []
    now = min(figures.thresholds, key=lambda one: abs(one.box_thresh - figures.box_thresh))
    if figures.best.hmean > now.hmean + 0.005:
        advice.append(
            Advice(
                round((figures.best.recall - now.recall) * figures.wanted),
                f"box_thresh {figures.best.box_thresh:g} would do better than {figures.box_thresh:g}: hmean "
                f"{figures.best.hmean:.4f}, not {now.hmean:.4f} (postprocess in model_config.json)",
            )
        )
    told = {
        "missed": "lines are missed: look below whether they are smaller, fainter or otherwise unlike the others",
        "false": "boxes are on nothing: unlabelled text in the evaluation data, or a box_thresh that is too low",
        "merged": "boxes hold several lines: larger pages (DetResizeForTest), or a smaller unclip_ratio",
        "split": "lines are found in parts: gaps within lines, or labels that join what stands apart",
        "loose": "boxes have too much or too little of a line: unclip_ratio does not fit how lines are labelled",
    }
    advice += [Advice(kinds[kind], text) for kind, text in told.items() if kinds[kind]]
    return tuple(sorted(advice, key=lambda one: -one.lines))
