"""What all kinds of label files say: regions of pages with their texts, or the text of a picture of one line."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.tasks.picture_headers import describe_picture
from paddle2torch.training.data.labels import COORDINATE_LIMIT, IGNORED, is_coordinate, is_point

MOST_BYTES = 1 << 30
"""Bytes of a file of labels."""

UNREADABLE = IGNORED[1]
"""What PaddleOCR's label files have as the text of what nobody could read."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Region:
    """A text on a page. points: three or more (x, y), pixels of the picture as it is seen, y down.

    ignore: nobody could read it; its text is `UNREADABLE` then.
    """

    points: tuple[Point, ...]
    text: str

    @property
    def ignore(self) -> bool:
        return self.text in IGNORED


@dataclass(frozen=True)
class Labels:
    """The labels of one picture. path: as the file has it.

    text: of a picture of one line; None for a page, which has regions.
    """

    path: str
    regions: tuple[Region, ...] = ()
    text: str | None = None


@dataclass
class Losses:
    """What a format cannot hold, or was not said: how often, and where first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str) -> None:
        """One more of a kind."""
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def lines(self) -> list[str]:
        """A line for each kind."""
        return [f"{count:,} {what} (first: {self.first[what]})" for what, count in self.counts.items()]


@dataclass(frozen=True)
class LabelFormat:
    """A kind of label files.

    read: all labels of a file or folder. write: them into a place that does not exist yet; `pictures` is the folder
    that their paths start at. lines: whether it is for pictures of lines, pages: for pages with regions.
    """

    read: Callable[[Path, Losses], list[Labels]]
    write: Callable[[Sequence[Labels], Path, Path, Losses], None]
    lines: bool = False
    pages: bool = False


def read_json_file(path: Path, what: str) -> Any:
    """The content of a JSON file of a label tool. Raises `FileFormatError` for what is not JSON."""
    try:
        return decode_json(read_bounded(path, MOST_BYTES, what).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: the {what} is not JSON: {error}") from None


def read_text(path: Path, what: str) -> str:
    """The content of a file of texts, called `what` in messages. Raises `FileFormatError` for what is not UTF-8."""
    try:
        return read_bounded(path, MOST_BYTES, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileFormatError(f"{path} is not UTF-8") from None


def check_points(value: Any, where: str, least: int = 3) -> tuple[Point, ...]:
    """Points [[x, y], …] from a file. Raises `FileFormatError` for anything else."""
    if isinstance(value, list) and len(value) >= least and all(is_point(point) for point in value):
        return tuple((float(x), float(y)) for x, y in value)
    raise FileFormatError(
        f"{where}: the points are not {least} or more [x, y], numbers of at most {COORDINATE_LIMIT:,.0f}"
    )


def check_numbers(values: Any, count: int, where: str) -> list[float]:
    """So many numbers from a file."""
    if isinstance(values, list) and len(values) == count and all(is_coordinate(value) for value in values):
        return [float(value) for value in values]
    raise FileFormatError(f"{where}: there are not {count} numbers of at most {COORDINATE_LIMIT:,.0f}")


def check_text(value: Any, where: str) -> str:
    """A text from a file."""
    if isinstance(value, str):
        return value
    raise FileFormatError(f"{where}: the text is not a string")


def check_list(value: Any, where: str) -> list[Any]:
    """A list from a file."""
    if isinstance(value, list):
        return value
    raise FileFormatError(f"{where} is not a list")


def check_object(value: Any, where: str) -> dict[str, Any]:
    """An object from a file."""
    if isinstance(value, dict):
        return value
    raise FileFormatError(f"{where} is not an object")


def text_or_unreadable(text: str, where: str, losses: Losses) -> str:
    """The text of a region; a region without one is marked as unreadable, and counted."""
    if text:
        return text
    losses.add(f"regions without a text, marked as {UNREADABLE}", where)
    return UNREADABLE


def rectangle(left: float, top: float, width: float, height: float) -> tuple[Point, ...]:
    """An upright rectangle, clockwise from the top left."""
    return ((left, top), (left + width, top), (left + width, top + height), (left, top + height))


def picture_of(labels: Labels, pictures: Path) -> Path:
    """The file of a picture. Raises `FileFormatError` where there is none."""
    path = pictures / labels.path
    if not os.path.exists(path):
        forward = labels.path.replace("\\", "/")
        hint = f", but there is {forward}: write / between folders" if os.path.exists(pictures / forward) else ""
        raise FileFormatError(f"{path}: there is no such file{hint or '; --pictures names the folder of the pictures'}")
    return path


def size_of(labels: Labels, pictures: Path) -> tuple[int, int]:
    """Width and height of a picture as it is seen, in pixels. Raises `FileFormatError` where it cannot be read."""
    path = picture_of(labels, pictures)
    header = describe_picture(path)
    if header is None:
        raise FileFormatError(f"{path} is not a picture that can be read: its size is needed here")
    return header.upright_size


def short(number: float) -> float:
    """A coordinate as it is written: two decimals, none where there are none."""
    rounded = round(number, 2)
    return int(rounded) if rounded == int(rounded) else rounded


def short_points(points: Sequence[Point]) -> list[list[float]]:
    """Points as they are written: [[x, y], …]."""
    return [[short(x), short(y)] for x, y in points]
