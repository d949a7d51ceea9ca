"""Whether a model is right as often as it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

BINS = 10
LIMITS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Confidences from which on answers might be taken without a look."""


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence from `low` to `high`: how many, how sure, and the share of them that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Limit:
    """What is taken where answers from a confidence on are: the share of all, and how much of that is right."""

    confidence: float
    share: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Bins that have answers; error: the expected calibration error, 0 where confidence and accuracy agree."""

    bins: tuple[Bin, ...]
    error: float
    limits: tuple[Limit, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is printed."""
        return asdict(self)


def calibrate(answers: Sequence[tuple[float, bool]]) -> Calibration:
    """Of pairs of a confidence, 0 to 1, and whether the answer is right."""
    bins = []
    for number in range(BINS):
        inside = [pair for pair in answers if min(int(pair[0] * BINS), BINS - 1) == number]
        if inside:
            confidence = sum(score for score, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            bins.append(Bin(number / BINS, (number + 1) / BINS, len(inside), confidence, accuracy))
    error = sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / max(len(answers), 1)
    limits = []
    for limit in LIMITS:
        taken = [right for score, right in answers if score >= limit]
        if taken:
            limits.append(Limit(limit, len(taken) / len(answers), sum(taken) / len(taken)))
    return Calibration(tuple(bins), error, tuple(limits))
