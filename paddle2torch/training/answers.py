"""What a model answered to each sample of an evaluation: what figures and reports are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddle2torch.tasks.detection import Box
from paddle2torch.tasks.recognition import run_starts

MOST_KEPT = 100_000
"""Samples of an evaluation whose answers are kept: what figures and reports are of."""


@dataclass(frozen=True)
class LineAnswer:
    """A line: its label, the text that was read, and the probability of each of that text's characters.

    unread: the image could not be read; the text is then empty, and wrong.
    """

    index: int
    label: str
    text: str
    scores: tuple[float, ...]
    unread: bool = False

    @property
    def score(self) -> float:
        """The confidence: the mean over the characters, 0.0 for an empty text."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


@dataclass(frozen=True)
class PageAnswer:
    """A page: its size (height, width), and the boxes that were found, also those with a score below the model's.

    unread: the image could not be read; no box is then found. The size is (0, 0).
    """

    index: int
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    unread: bool = False


@dataclass(frozen=True)
class ClassAnswer:
    """An image: its label, the class that it was taken for, and that class's probability.

    unread: the image could not be read; it is then of no class, and wrong.
    """

    index: int
    label: str
    found: str
    score: float
    unread: bool = False

    @property
    def right(self) -> bool:
        """Whether it was taken for what it is."""
        return self.found == self.label and not self.unread


Answer = LineAnswer | PageAnswer | ClassAnswer


def ctc_scores(ids: NDArray[np.integer], best: NDArray[np.float32]) -> list[tuple[float, ...]]:
    """The probabilities of the characters that `metrics.ctc_texts` reads, from each step's class and its probability.

    Both (N, T). Of a run of one class the first step counts, as in PaddleOCR.
    """
    kept = run_starts(ids) & (ids != 0)
    return [tuple(row[keep].tolist()) for row, keep in zip(best, kept, strict=True)]


def in_order(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """By their samples, each once, and not more than are kept."""
    return tuple({answer.index: answer for answer in sorted(answers, key=lambda answer: answer.index)}.values())[
        :MOST_KEPT
    ]
