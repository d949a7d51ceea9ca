"""The samples that were hardest at each evaluation of a training, in a file beside its metrics."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle2torch.atomic import land_file

HARD_NAME = "hard.jsonl"

MOST_ROWS = 10_000
"""Rows that are read: of longer files the last ones."""


@dataclass(frozen=True)
class HardSample:
    """A sample: its index, where it is, its label, and what was read of a line, or is wrong on a page."""

    index: int
    where: str
    label: str
    said: str


@dataclass(frozen=True)
class HardRow:
    """The hardest samples after `step`, when the main metric was `value`."""

    step: int
    value: float
    samples: tuple[HardSample, ...]

    def line(self) -> str:
        """As a line of the file."""
        return json.dumps(asdict(self), ensure_ascii=True) + "\n"


def read_hard_rows(folder: Path) -> list[HardRow]:
    """The rows of a training's folder; those that a process left half written are passed over."""
    path = folder / HARD_NAME
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[-MOST_ROWS:]:
        try:
            data = json.loads(line)
            samples = tuple(HardSample(**sample) for sample in data["samples"])
            rows.append(HardRow(int(data["step"]), float(data["value"]), samples))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return rows


def drop_later_rows(folder: Path, step: int) -> None:
    """Leave only the rows of steps up to `step`: training goes on from there."""
    if not (folder / HARD_NAME).exists():
        return
    rows = [row for row in read_hard_rows(folder) if row.step <= step]
    with land_file(folder / HARD_NAME) as temporary:
        temporary.write_text("".join(row.line() for row in rows), encoding="utf-8")
