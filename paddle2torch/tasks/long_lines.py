"""Lines that are far longer than a recogniser's input: where to cut them, and how what is read of the pieces is joined.

A line is cut in the gaps between words, else where there is least ink. Each piece is read with some of its neighbours
on both sides, so that no character and no space stands at the edge of what the network sees; of each piece those
characters are kept that lie between its cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.tasks.images import BGRImage

PIECE = 22
"""Heights of a line from one cut to the next, at most."""

MARGIN = 2
"""Heights of a line that are seen beyond each cut."""

SHOWN = 6
"""Heights of a line that a classifier of lines is shown."""

INK = 0.25
"""Of the line's contrast: what differs so much from its column's paper is ink."""

STAINS = 0.03
"""Share of a column that may be ink in a gap."""


class Placed(Protocol):
    """A character and its extent along the line, in pixels."""

    @property
    def char(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


@dataclass(frozen=True)
class Piece:
    """Columns of a line: what is seen of it, and between which cuts characters are kept."""

    left: int
    right: int
    first: float
    last: float


def pieces_of(image: BGRImage) -> list[Piece]:
    """How to cut a line, uint8 (height, width, 3): pieces from left to right."""
    height, width = image.shape[:2]
    cuts = [0, *_cuts(_ink(image), PIECE * height), width]
    margin = MARGIN * height
    pieces = [Piece(max(0, first - margin), min(width, last + margin), first, last) for first, last in pairwise(cuts)]
    # What stands at an end may reach beyond it.
    pieces[0] = replace(pieces[0], first=-np.inf)
    pieces[-1] = replace(pieces[-1], last=np.inf)
    return pieces


def first_of(image: BGRImage) -> BGRImage:
    """As much of the beginning of a line as tells which way up it is."""
    return np.ascontiguousarray(image[:, : SHOWN * image.shape[0]])


def _ink(image: BGRImage) -> NDArray[np.float64]:
    """The share of each column that is ink."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.int16)
    contrast = float(np.percentile(grey, 99) - np.percentile(grey, 1))
    paper = np.median(grey, axis=0)
    share = (np.abs(grey - paper) > max(INK * contrast, 1)).mean(axis=0)
    # A rule below or above the text is in every column.
    return np.asarray(share - np.percentile(share, 2))


def _cuts(ink: NDArray[np.float64], most: int) -> list[int]:
    cuts: list[int] = []
    start = 0
    while len(ink) - start > most:
        low = start + most // 2
        start = low + _place(ink[low : start + most])
        cuts.append(start)
    return cuts


def _place(ink: NDArray[np.float64]) -> int:
    """The middle of the widest gap; of no gap, the column with the least ink."""
    empty = np.concatenate([[0], (ink <= STAINS).astype(np.int8), [0]])
    begins, ends = np.flatnonzero(np.diff(empty) == 1), np.flatnonzero(np.diff(empty) == -1)
    if len(begins):
        widest = int(np.argmax(ends - begins))
        return int(begins[widest] + ends[widest]) // 2
    return int(np.argmin(ink))


Character = TypeVar("Character", bound=Placed)


def join(readings: Sequence[Sequence[Character]], pieces: Sequence[Piece], height: int) -> list[Character]:
    """The characters of a line, from left to right, from those of its pieces.

    readings: of each piece, all that was read of what is seen, in pixels of the line. A space at a cut is one space, if
    either side saw one; a character on a cut, which the two sides place a little differently, is there once.
    """
    joined: list[Character] = []
    for number, (reading, piece) in enumerate(zip(readings, pieces, strict=True)):
        own = [char for char in reading if piece.first <= _middle(char) < piece.last]
        if number == 0:
            joined += own
            continue
        before = readings[number - 1]
        spaces = [char for char in (*before, *reading) if _at(char, piece.first, height)]
        near = _pitch(reading) / 2
        while joined and joined[-1].char.isspace():
            joined.pop()
        while own and own[0].char.isspace():
            own.pop(0)
        if joined and own and _same(joined[-1], own[0], near):
            own.pop(0)
        elif (lost := _lost(before, reading, piece.first, near)) is not None:
            own.insert(0, lost)
        if joined and own:
            between = [space for space in spaces if _middle(joined[-1]) < _middle(space) < _middle(own[0])]
            joined += sorted(between, key=lambda char: char.score)[-1:]
        joined += own
    return joined


def _middle(char: Placed) -> float:
    return (char.start + char.end) / 2


def _at(char: Placed, cut: float, height: int) -> bool:
    return char.char.isspace() and abs(_middle(char) - cut) < 1.5 * height


def _pitch(reading: Sequence[Placed]) -> float:
    middles = sorted(_middle(char) for char in reading)
    return float(np.median(np.diff(middles))) if len(middles) > 1 else 0.0


def _same(one: Placed, other: Placed, near: float) -> bool:
    return one.char == other.char and abs(_middle(one) - _middle(other)) < near


def _lost(before: Sequence[Character], after: Sequence[Character], cut: float, near: float) -> Character | None:
    """A character that each side places on the other."""
    beyond = next((char for char in before if _middle(char) >= cut and not char.char.isspace()), None)
    short = next((char for char in reversed(after) if _middle(char) < cut and not char.char.isspace()), None)
    if beyond is None or short is None or not _same(beyond, short, near):
        return None
    return beyond if beyond.score >= short.score else short
