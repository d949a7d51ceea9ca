"""What an evaluation shows of a model, as one HTML page: what to fix first, figures, and the samples it fails on.

The page is one file that asks the network for nothing; its pictures take `PICTURE_BYTES` together at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from paddle2torch.html_page import differing, render_page, write_page
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.answers import ClassAnswer, LineAnswer, PageAnswer
from paddle2torch.training.batches import Batches
from paddle2torch.training.class_figures import ClassFigures
from paddle2torch.training.data.labels import parse_boxes
from paddle2torch.training.evaluation import Examination
from paddle2torch.training.hard_samples import HardRow, HardSample
from paddle2torch.training.line_figures import LineFigures
from paddle2torch.training.page_figures import PageFaults, PageFigures
from paddle2torch.training.pictures import Picture, embed, shrunk
from paddle2torch.training.tracking import Shown

TEMPLATE = "evaluation.html"

WORST_LINES, WORST_PAGES, WORST_IMAGES = 50, 12, 50
COMPARED = 20
"""Samples that are shown of those that got better, and of those that got worse."""
PAIRS_SHOWN = 24
HARD_ROWS, HARD_SAMPLES = 30, 6
"""Evaluations of a training, the last ones, whose hardest samples are shown, and how many each."""

PICTURE_BYTES = 12_000_000
LINE_SIZE = (960, 64)
PAGE_SIZE = (1100, 1600)
IMAGE_SIZE = (480, 320)
"""Width and height in pixels that pictures in the page have at most."""

TRACKED_SIZE = (800, 800)
"""The same for trackers."""
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "right": (0x3C, 0x8F, 0x1A),
    "missed": (0x1B, 0x11, 0xD4),
    "false": (0x00, 0x7B, 0xE0),
    "merged": (0xE2, 0x2B, 0x8A),
    "split": (0xFF, 0x6C, 0x0A),
    "loose": (0x9A, 0x9A, 0x00),
    "label": (0x44, 0x44, 0x44),
}
"""BGR, of what is drawn on a page for trackers, as in the report's style."""

TEXT_AT_MOST = 300
"""Characters of a text that are shown."""

A = TypeVar("A", LineAnswer, PageAnswer, ClassAnswer)


@dataclass
class _Album:
    """Makes pictures of samples until the page has as many bytes of them as it may have."""

    read: Callable[[int], BGRImage | None]
    most: tuple[int, int]
    quality: int
    left: int
    refused: int = 0
    known: dict[int, Picture | None] = field(default_factory=dict)

    def picture(self, index: int) -> Picture | None:
        """None where the sample cannot be read, or there is no room any more."""
        if index not in self.known:
            self.known[index] = self._make(index)
        made = self.known[index]
        # One that is shown again is in the page again.
        if made is not None and len(made.address) > self.left:
            self.refused += 1
            return None
        self.left -= len(made.address) if made is not None else 0
        return made

    def _make(self, index: int) -> Picture | None:
        image = self.read(index)
        return None if image is None else embed(image, self.quality, self.most)


def _image(batches: Batches, index: int) -> BGRImage | None:
    """The image of a sample; None where it cannot be read, as some of the hardest cannot."""
    try:
        return batches.picture(index)
    except Exception:  # whatever a decoder raises for a file: the page says so in its place, and training goes on
        return None


def hard_samples(examined: Examination) -> tuple[HardSample, ...]:
    """The hardest samples of an evaluation."""
    figures, batches = examined.figures, examined.batches
    if isinstance(figures, LineFigures):
        answers = _by_index(examined, LineAnswer)
        return tuple(
            HardSample(
                index, batches.where(index), *(_cut(text) for text in (answers[index].label, answers[index].text))
            )
            for index in figures.worst[:HARD_SAMPLES]
        )
    if isinstance(figures, ClassFigures):
        images = _by_index(examined, ClassAnswer)
        return tuple(
            HardSample(index, batches.where(index), images[index].label, images[index].found)
            for index in figures.worst[:HARD_SAMPLES]
        )
    if isinstance(figures, PageFigures):
        return tuple(
            HardSample(page.index, batches.where(page.index), "", _counted(page))
            for page in figures.faults[:HARD_SAMPLES]
        )
    return ()


def hard_pictures(examined: Examination, samples: Sequence[HardSample]) -> list[Shown]:
    """The pictures of hard samples, with what is wrong drawn on pages; those that cannot be read are left out."""
    shown, figures = [], examined.figures
    faults = {page.index: page for page in figures.faults} if isinstance(figures, PageFigures) else {}
    pages = _by_index(examined, PageAnswer)
    for sample in samples:
        found = _image(examined.batches, sample.index)
        if found is None:
            continue
        image = np.array(found)
        said = f"{sample.label} read as {sample.said or 'nothing'}"
        if sample.index in faults:
            said = sample.said
            for kind, points in _shapes(faults[sample.index], pages[sample.index], examined):
                cv2.polylines(image, [np.rint(points).astype(np.int32)], True, COLOURS[kind], thickness=2)
        shown.append(Shown(np.ascontiguousarray(shrunk(image, TRACKED_SIZE)[..., ::-1]), said))
    return shown


def write_evaluation_report(
    examined: Examination, path: Path, *, against: Examination | None = None, hard: Sequence[HardRow] = ()
) -> None:
    """Write the page of an evaluation; it lands whole or not at all.

    against: of another model on the same data. hard: the hardest samples of each evaluation of a training.

    Raises `ConfigError` where there is nothing to show.
    """
    write_page(path, report_page(examined, against=against, hard=hard))


def report_page(examined: Examination, *, against: Examination | None = None, hard: Sequence[HardRow] = ()) -> str:
    """The page as text."""
    figures = examined.figures
    if figures is None:
        raise ConfigError(
            "there are no answers to make a report of: no sample is evaluated, or evaluation.as_paddleocr is set, with "
            "which a sample may count twice"
        )
    if against is not None and type(against.figures) is not type(figures):
        raise ConfigError(f"{against.name} and {examined.name} are models of different tasks: they cannot be compared")
    size, quality, make, unit = {
        LineFigures: (LINE_SIZE, 85, _lines, "lines"),
        PageFigures: (PAGE_SIZE, 70, _pages, "pages"),
        ClassFigures: (IMAGE_SIZE, 80, _classes, "images"),
    }[type(figures)]
    album = _Album(partial(_image, examined.batches), size, quality, left=PICTURE_BYTES)
    parts = make(examined, against, album)
    hard_rows = [_hard_row(row, unit != "pages", album) for row in hard[-HARD_ROWS:]]
    return render_page(
        TEMPLATE,
        {"percent": _percent, "per_cent": lambda value: f"{100 * value:.2f}", "number": lambda value: f"{value:,}"},
        examined=examined,
        evaluation=examined.evaluation,
        figures=figures,
        against=against,
        unit=unit,
        metrics=_metrics(examined, against),
        torch_version=str(torch.__version__),
        hard=hard_rows,
        hard_left_out=max(0, len(hard) - HARD_ROWS),
        album=album,
        **parts,
    )


def _metrics(examined: Examination, against: Examination | None) -> list[tuple[str, float, float | None]]:
    """Name, value, and the other model's value."""

    def values(one: Examination) -> dict[str, float]:
        figures = one.figures
        rates = {"CER": figures.cer, "WER": figures.wer} if isinstance(figures, LineFigures) else {}
        return {**one.evaluation.metrics, **rates}

    others = values(against) if against is not None else {}
    return [(name, value, others.get(name)) for name, value in values(examined).items()]


def _lines(examined: Examination, against: Examination | None, album: _Album) -> dict[str, Any]:
    figures = examined.figures
    assert isinstance(figures, LineFigures)
    answers = _by_index(examined, LineAnswer)
    wrong = frozenset(figures.worst)
    others, others_wrong = dict[int, LineAnswer](), frozenset[int]()
    if against is not None:
        assert isinstance(against.figures, LineFigures)
        others, others_wrong = _by_index(against, LineAnswer), frozenset(against.figures.worst)

    def card(index: int) -> dict[str, Any]:
        answer, other = answers[index], others.get(index)
        return {
            "where": examined.batches.where(index),
            "picture": album.picture(index),
            "unread": answer.unread,
            "right": index not in wrong,
            "label": differing(_cut(answer.label), _cut(answer.text))[0],
            "chars": _characters(answer),
            "score": answer.score,
            "other": None if other is None else differing(_cut(other.label), _cut(other.text))[1],
            "other_score": None if other is None else other.score,
        }

    def pictures(indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{"picture": album.picture(index), "where": examined.batches.where(index)} for index in indices]

    better = [index for index in answers if index not in wrong and index in others_wrong]
    worse = [index for index in answers if index in wrong and index in others and index not in others_wrong]
    return {
        "worst": [card(index) for index in figures.worst[:WORST_LINES]],
        "pairs": [(pair, pictures(pair.examples)) for pair in figures.confusions[:PAIRS_SHOWN]],
        **_changes(better, worse, card),
    }


def _classes(examined: Examination, against: Examination | None, album: _Album) -> dict[str, Any]:
    figures = examined.figures
    assert isinstance(figures, ClassFigures)
    answers = _by_index(examined, ClassAnswer)
    others = _by_index(against, ClassAnswer) if against is not None else {}

    def card(index: int) -> dict[str, Any]:
        answer, other = answers[index], others.get(index)
        return {
            "where": examined.batches.where(index),
            "picture": album.picture(index),
            "right": answer.right,
            "label": _cut(answer.label),
            "found": "the image cannot be read" if answer.unread else _cut(answer.found),
            "score": answer.score,
            "other": None if other is None else _cut(other.found),
            "other_score": None if other is None else other.score,
        }

    pairs = [(index, answers[index], others[index]) for index in answers if index in others]
    better = [index for index, this, other in pairs if this.right and not other.right]
    worse = [index for index, this, other in pairs if other.right and not this.right]
    return {
        "worst": [card(index) for index in figures.worst[:WORST_IMAGES]],
        **_changes(better, worse, card),
    }


def _by_index(examined: Examination, kind: type[A]) -> dict[int, A]:
    return {answer.index: answer for answer in examined.evaluation.answers if isinstance(answer, kind)}


def _changes(better: Sequence[int], worse: Sequence[int], shown: Callable[[int], Any]) -> dict[str, Any]:
    """Where this model is better than the other, and where worse: the first samples as `shown`, and how many."""
    return {
        "better": [shown(index) for index in better[:COMPARED]],
        "worse": [shown(index) for index in worse[:COMPARED]],
        "better_count": len(better),
        "worse_count": len(worse),
    }


def _characters(answer: LineAnswer) -> list[tuple[str, int | None, str, bool]]:
    """Of each character that was read: itself, its probability in percent, how sure that is, whether it is wrong."""
    pieces = differing(_cut(answer.label), _cut(answer.text))[1]
    flat = [(character, differs) for piece, differs in pieces for character in piece]
    # A class of the network may be several characters; they have no probability of their own then.
    scores: Sequence[float | None] = answer.scores if len(answer.scores) == len(answer.text) else [None] * len(flat)
    return [
        (character, None if score is None else round(100 * score), _level(score), differs)
        for (character, differs), score in zip(flat, scores, strict=False)
    ]


def _level(score: float | None) -> str:
    return "sure" if score is None or score >= 0.9 else "unsure" if score >= 0.5 else "guess"


def _pages(examined: Examination, against: Examination | None, album: _Album) -> dict[str, Any]:
    figures = examined.figures
    assert isinstance(figures, PageFigures)
    pages = _by_index(examined, PageAnswer)
    counts = {page.index: page.count for page in figures.faults}
    other = against.figures if against is not None else None
    others = {page.index: page.count for page in other.faults} if isinstance(other, PageFigures) else {}
    changes = sorted(
        ((others.get(index, 0) - counts.get(index, 0), index) for index in pages), key=lambda pair: (-pair[0], pair[1])
    )

    def row(index: int) -> tuple[str, int, int]:
        return examined.batches.where(index), counts.get(index, 0), others.get(index, 0)

    better = [index for change, index in changes if change > 0] if against is not None else []
    worse = [index for change, index in reversed(changes) if change < 0] if against is not None else []
    return {
        "worst": [
            {
                "where": examined.batches.where(page.index),
                "picture": album.picture(page.index),
                "size": pages[page.index].size,
                "shapes": [(kind, _svg_points(points)) for kind, points in _shapes(page, pages[page.index], examined)],
                "said": _counted(page),
            }
            for page in figures.faults[:WORST_PAGES]
        ],
        "plot": _plot(figures),
        **_changes(better, worse, row),
        "other_kinds": other.kinds if isinstance(other, PageFigures) else {},
    }


def _counted(page: PageFaults) -> str:
    """`2 missed, 1 false`."""
    return ", ".join(f"{count:,} {kind}" for kind, count in page.kinds.items() if count)


def _shapes(page: PageFaults, answer: PageAnswer, examined: Examination) -> list[tuple[str, NDArray[np.floating[Any]]]]:
    """What is drawn on a page: the kind, and the points (K, 2) of a polygon; what is right first."""
    labels = parse_boxes(examined.batches.label(page.index), examined.batches.where(page.index)).polygons
    assert isinstance(examined.figures, PageFigures)
    boxes = [box.points for box in answer.boxes]
    kinds: dict[int, str] = {
        **dict.fromkeys(page.false, "false"),
        **{box: "merged" for box, _ in page.merged},
        **{box: "split" for _, parts in page.split for box in parts},
        **{box: "loose" for _, box in page.loose},
    }
    shown = [
        (kinds.get(index, "right"), boxes[index])
        for index, box in enumerate(answer.boxes)
        if box.score >= examined.figures.box_thresh
    ]
    shown += [("label", labels[place]) for _, places in page.merged for place in places]
    shown += [("label", labels[place]) for place, _ in (*page.split, *page.loose)]
    shown += [("missed", labels[place]) for place in page.missed]
    return [(kind, np.asarray(points)) for kind, points in shown]


def _svg_points(points: NDArray[np.floating[Any]]) -> str:
    """The points of a polygon as SVG takes them."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist())


def _plot(figures: PageFigures) -> Mapping[str, str]:
    """Lines of precision, recall and hmean over the threshold, in a square of 100."""
    return {
        name: " ".join(f"{100 * one.box_thresh:.1f},{100 - 100 * getattr(one, name):.2f}" for one in figures.thresholds)
        for name in ("precision", "recall", "hmean")
    }


def _hard_row(row: HardRow, shown: bool, album: _Album) -> dict[str, Any]:
    """shown: with pictures, and what was read beside the label; of pages what is wrong is said."""
    samples = [
        {
            "where": sample.where,
            "picture": album.picture(sample.index) if shown else None,
            "label": sample.label,
            "said": differing(sample.label, sample.said)[1] if shown else [(sample.said, False)],
        }
        for sample in row.samples
    ]
    return {"step": row.step, "value": row.value, "samples": samples}


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_AT_MOST else text[:TEXT_AT_MOST] + "…"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
