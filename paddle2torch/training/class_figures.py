"""Figures of a classifier's answers: which classes it takes for which, and how sure it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from paddle2torch.training.answers import ClassAnswer
from paddle2torch.training.calibration import Calibration, calibrate
from paddle2torch.training.line_figures import Advice, Group, grouped, of_groups, of_the_sure

PAIRS_ADVISED = 5


@dataclass(frozen=True)
class ClassFigures:
    """The figures of an evaluation.

    labels: the model's classes, and behind them what else labels are. matrix: of each of `labels` how many images were
    taken for each class of the model, those that could not be read left out. by_class: the share of each label's images
    that is right. precision: of each class of the model, how many were taken for it, and how many of them rightly.
    worst: the samples that are wrong, those of which the model was surest first.
    """

    images: int
    right: int
    labels: tuple[str, ...]
    classes: int
    matrix: tuple[tuple[int, ...], ...]
    by_class: tuple[Group, ...]
    precision: tuple[Group, ...]
    by_source: tuple[Group, ...]
    calibration: Calibration
    worst: tuple[int, ...]
    advice: tuple[Advice, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `eval --json` prints it; of the worst images the first fifty."""
        return {
            "images": self.images,
            "right": self.right,
            "labels": list(self.labels),
            "classes": self.classes,
            "matrix": [list(row) for row in self.matrix],
            **{
                name: [group.to_json() for group in getattr(self, name)]
                for name in ("by_class", "precision", "by_source")
            },
            "calibration": self.calibration.to_json(),
            "worst": list(self.worst[:50]),
            "advice": [asdict(advice) for advice in self.advice],
        }


def class_figures(
    answers: Sequence[ClassAnswer], *, source: Callable[[int], str], labels: Sequence[str]
) -> ClassFigures:
    """The figures of at least one answer. source: which label file a sample is of. labels: the model's classes."""
    others = sorted({answer.label for answer in answers} - set(labels))
    pairs = Counter((answer.label, answer.found) for answer in answers if not answer.unread)
    wrong = [answer for answer in answers if not answer.right]
    every = (*labels, *others)
    found = Counter(answer.found for answer in answers if not answer.unread)
    figures = ClassFigures(
        images=len(answers),
        right=len(answers) - len(wrong),
        labels=every,
        classes=len(labels),
        matrix=tuple(tuple(pairs[label, other] for other in labels) for label in every),
        by_class=_groups(answers, lambda answer: answer.label),
        precision=tuple(Group(label, found[label], pairs[label, label]) for label in labels if found[label]),
        by_source=_groups(answers, lambda answer: source(answer.index)),
        calibration=calibrate([(answer.score, answer.right) for answer in answers]),
        worst=tuple(answer.index for answer in sorted(wrong, key=lambda answer: (-answer.score, answer.index))),
    )
    return replace(figures, advice=tuple(_advice(figures, answers, pairs)))


def _groups(answers: Sequence[ClassAnswer], name: Callable[[ClassAnswer], str]) -> tuple[Group, ...]:
    """Images by a name of theirs, the largest groups first."""
    groups = grouped((name(answer), answer.right) for answer in answers)
    return tuple(sorted(groups, key=lambda group: -group.count))


def _advice(figures: ClassFigures, answers: Sequence[ClassAnswer], pairs: Counter[tuple[str, str]]) -> Iterator[Advice]:
    """What keeps images from being right, most images first. An image may be counted under several."""
    advice = []
    if unread := sum(answer.unread for answer in answers):
        advice.append(Advice(unread, "they cannot be read: `paddle2torch data check` names them"))
    for label in figures.labels[figures.classes :]:
        count = sum(answer.label == label for answer in answers)
        advice.append(Advice(count, f"{label!r} is no class of the model: mend the labels, or train with --classes"))
    known = figures.labels[: figures.classes]
    mixed = [(count, pair) for pair, count in pairs.items() if pair[0] != pair[1] and pair[0] in known]
    advice += [
        Advice(count, f"{label!r} is taken for {other!r}")
        for count, (label, other) in sorted(mixed, key=lambda one: -one[0])[:PAIRS_ADVISED]
        if count > 1
    ]
    share = figures.right / figures.images
    advice += [
        *of_groups(figures.by_class, share, lambda name: f"images of class {name}"),
        *of_groups(figures.by_source, share, lambda name: f"images of {name}"),
    ]
    yield from sorted(advice, key=lambda one: -one.lines)
    wrong = [answer.score for answer in answers if not answer.right and not answer.unread]
    yield from of_the_sure(wrong, [answer.score for answer in answers], "images")
