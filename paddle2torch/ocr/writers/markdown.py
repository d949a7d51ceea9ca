"""Markdown: headings, paragraphs, lists and tables in reading order (CommonMark, with tables as GitHub has them)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from paddle2torch.ocr.writers.shared import pages_read
from paddle2torch.tasks.geometry import quad_of

if TYPE_CHECKING:
    from paddle2torch.ocr.results import PageText, TextLine
    from paddle2torch.ocr.writers.shared import Results

HEADING = 1.22
"""Text this many times as high as the page's usual lines is a heading: boxes of letters twice as large are often no
more than a quarter higher, and those of one size differ by a sixth."""
HEADING_ROWS = 3
"""A block of more rows is set large, and is not a heading."""
MOST_LEVELS = 3

TABLE_ROWS = 2
"""The least number of rows side by side that are taken for a table."""
TABLE_INSIDE = 3
"""The least number of such rows that are taken for a table between other rows of their block."""
CROSSED = 0.1
"""Share of the rows whose text may run across the gap between two columns of a table."""

# Dots are close to their text, too.
_BULLET = re.compile(r"(?:[-*+\u00b7\u2013]\s+|[\u2022\u2023\u25aa\u25cf\u25e6]\s*)(?=\S)")
_NUMBER = re.compile(r"(\d{1,9})[.)]\s+(?=\S)")
# What CommonMark takes for markup anywhere, and what at the beginning of a line.
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&]|(?<=!)(?=\[)")
_AT_START = re.compile(r"(?:[#+=-](?=\s|$|[-=#])|\d{1,9}(?=[.)](?:\s|$)))")
_IDEOGRAPHIC = re.compile("[\u2e80-\u312f\u3190-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


def markdown(results: Results) -> Iterator[str]:
    """One document; a rule between two pages."""
    for number, page in pages_read(results):
        yield ("\n---\n\n" if number > 1 else "") + page_markdown(page)


def page_markdown(page: PageText) -> str:
    """A page, ending in a line feed; empty where nothing was read."""
    blocks = [part for block in page.blocks for part in _parted([list(row) for row in block])]
    levels = _heading_levels(blocks)
    parts: list[str] = []
    index = 0
    while index < len(blocks):
        if levels[index]:
            parts.append("#" * levels[index] + " " + _flowing(blocks[index]).replace("\n", " "))
            index += 1
            continue
        # A table may have gaps that divide it into blocks.
        end = index + 1
        columns = _table(_rows(blocks[index:end]))
        while end < len(blocks) and not levels[end] and (wider := _table(_rows(blocks[index : end + 1]))):
            columns, end = wider, end + 1
        rows = _rows(blocks[index:end])
        parts += [_written_table(rows, columns)] if columns else _paragraphs(rows)
        index = end
    return "\n\n".join(parts) + ("\n" if parts else "")


def _parted(block: list[list[TextLine]]) -> list[list[list[TextLine]]]:
    """A block in parts: each table in it, and what is before and after."""
    parts: list[list[list[TextLine]]] = [[]]
    for several, group in itertools.groupby(block, key=lambda row: len(row) > 1):
        rows = list(group)
        if several and len(rows) >= TABLE_INSIDE and _table(rows):
            parts += [rows, []]
        else:
            parts[-1] += rows
    return [part for part in parts if part]


def _rows(blocks: Sequence[Sequence[Sequence[TextLine]]]) -> list[Sequence[TextLine]]:
    return [row for block in blocks for row in block]


def _heading_levels(blocks: Sequence[Sequence[Sequence[TextLine]]]) -> list[int]:
    """The level of each block as a heading, 1 for the largest; 0 for one that is not a heading."""
    heights = [[_height(line) for row in block for line in row] for block in blocks]
    lengths = [[max(len(line.text), 1) for row in block for line in row] for block in blocks]
    everything = np.repeat(
        np.array([h for block in heights for h in block]), np.array([n for block in lengths for n in block], dtype=int)
    )
    if not len(everything):
        return []
    usual = float(np.median(everything))
    sizes = [float(np.median(block)) if block else 0.0 for block in heights]
    large = [
        size >= HEADING * usual and len(block) <= HEADING_ROWS and all(len(row) == 1 for row in block)
        for size, block in zip(sizes, blocks, strict=True)
    ]
    # Sizes that differ by less than a tenth are the same letters.
    steps: list[float] = []
    for size in sorted((size for size, is_large in zip(sizes, large, strict=True) if is_large), reverse=True):
        if not steps or size < 0.9 * steps[-1]:
            steps.append(size)
    return [
        min(1 + sum(size < 0.9 * step for step in steps), MOST_LEVELS) if is_large else 0
        for size, is_large in zip(sizes, large, strict=True)
    ]


def _height(line: TextLine) -> float:
    quad = quad_of(line.box)
    sides = np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[1] - quad[0])
    return float(min(sides))


def _paragraphs(rows: Sequence[Sequence[TextLine]]) -> list[str]:
    """A block as a paragraph, a list, or a list behind the words that announce it."""
    groups: list[tuple[str, list[Sequence[TextLine]]]] = []
    for row in rows:
        marker = _list_marker(_text(row))
        if marker or not groups:
            groups.append((marker, [row]))
        else:
            groups[-1][1].append(row)
    parts = [_flowing(group) for marker, group in groups if not marker]
    items = [_list_item(marker, group) for marker, group in groups if marker]
    return parts + (["\n".join(items)] if items else [])


def _list_item(marker: str, rows: Sequence[Sequence[TextLine]]) -> str:
    number = _NUMBER.match(marker + "x")
    written = f"{number[1]}." if number else "-"
    return f"{written} {_flowing(rows, skip=len(marker))}".replace("\n", "\n" + " " * (len(written) + 1))


def _list_marker(text: str) -> str:
    """What begins an item of a list, up to its text; empty where the text does not begin one."""
    found = _BULLET.match(text) or _NUMBER.match(text)
    return found[0] if found else ""


def _text(row: Sequence[TextLine]) -> str:
    return " ".join(line.text for line in row)


def _flowing(rows: Sequence[Sequence[TextLine]], skip: int = 0) -> str:
    """Rows as one text. A line break stays where a row ends in a hyphen: whether it belongs to the word is not known.

    skip: characters of the first row that are left out.
    """
    text = ""
    for number, row in enumerate(rows):
        words = _text(row)[0 if number else skip :]
        if not text or text.endswith("-"):
            joint = "\n" if text else ""
        else:
            joint = "" if _IDEOGRAPHIC.match(text[-1]) and _IDEOGRAPHIC.match(words[:1]) else " "
        text += joint + words
    return "\n".join(_escaped(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    """Text in which CommonMark sees nothing but text."""
    text = _SPECIAL.sub(lambda match: "\\" + match[0], text)
    start = _AT_START.match(text)
    if start is None:
        return text
    return text[: start.end()] + "\\" + text[start.end() :] if start[0].isdigit() else "\\" + text


@dataclass(frozen=True)
class _Column:
    left: float
    right: float


def _table(rows: Sequence[Sequence[TextLine]]) -> list[_Column]:
    """The columns of rows that form a table; none where they do not."""
    if len(rows) < TABLE_ROWS or sum(len(row) > 1 for row in rows) < max(TABLE_ROWS, len(rows) / 2):
        return []
    extents = [[(float(line.box[:, 0].min()), float(line.box[:, 0].max())) for line in row] for row in rows]
    columns = _columns(extents)
    if len(columns) < 2:
        return []
    # Each row has at most one text in a column, or the columns are chance.
    filled = [{_column_of(extent, columns) for extent in row} for row in extents]
    if any(len(places) < len(row) for places, row in zip(filled, extents, strict=True)):
        return []
    used = [sum(index in places for places in filled) for index in range(len(columns))]
    return columns if min(used) >= max(TABLE_ROWS, len(rows) / 4) else []


def _columns(extents: Sequence[Sequence[tuple[float, float]]]) -> list[_Column]:
    """What is between gaps that (nearly) no row's text crosses."""
    edges = sorted({edge for row in extents for extent in row for edge in extent})
    covered = [
        sum(any(left <= one and other <= right for left, right in row) for row in extents)
        for one, other in itertools.pairwise(edges)
    ]
    columns: list[_Column] = []
    start: float | None = None
    for (one, other), count in zip(itertools.pairwise(edges), covered, strict=True):
        if count > CROSSED * len(extents):
            start = one if start is None else start
            end = other
        elif start is not None:
            columns.append(_Column(start, end))
            start = None
    if start is not None:
        columns.append(_Column(start, end))
    return columns


def _column_of(extent: tuple[float, float], columns: Sequence[_Column]) -> int:
    overlaps = [min(extent[1], column.right) - max(extent[0], column.left) for column in columns]
    return int(np.argmax(overlaps))


def _written_table(rows: Sequence[Sequence[TextLine]], columns: Sequence[_Column]) -> str:
    """The first row is the header, which such tables must have."""
    lines = []
    for number, row in enumerate(rows):
        cells = [""] * len(columns)
        for line in row:
            extent = (float(line.box[:, 0].min()), float(line.box[:, 0].max()))
            cells[_column_of(extent, columns)] = _SPECIAL.sub(lambda match: "\\" + match[0], line.text)
        lines.append(f"| {' | '.join(cells)} |")
        if number == 0:
            lines.append("|" + " --- |" * len(columns))
    return "\n".join(lines)
