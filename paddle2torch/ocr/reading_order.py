"""From boxes to blocks of rows, in the order in which a person reads them.

PaddleOCR sorts boxes by their y alone, which mixes the columns of a page. The result keeps that order, because it is
PaddleOCR's; what is written as running text (plain text, TSV, hOCR, ALTO) goes by the blocks found here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paddle2torch.tasks.geometry import TALL, Points, quad_of
from paddle2torch.tasks.skew import levelled, skew_of

COLUMN_ROWS = 4
"""A column has at least this many lines. Fewer are as likely a table or a form, which is read row by row."""

COLUMN_ASPECT = 8
"""The usual line of a column is at least this many times as wide as high: the cells of a table are shorter."""

MAX_CROSSING = 0.2
"""At most this share of the lines may cross the gap between two columns: headings, and captions as wide as both."""

ROW_OVERLAP = 0.5
"""Lines are in one row where their middles are less than this share of the lower one's height apart."""

PARAGRAPH_GAP = 0.8
"""A block ends where the gap to the next row is larger than this share of the rows' height."""

HEADING_RATIO = 1.5
"""A block ends where the height of the rows changes by more than this factor."""


@dataclass(frozen=True)
class _Line:
    """A box on the page turned so that most lines are level: its extent, and its height across the text.

    tall: text that runs downwards, or a single narrow letter.
    """

    index: int
    left: float
    right: float
    top: float
    bottom: float
    height: float
    tall: bool

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def reading_blocks(boxes: Sequence[Points]) -> list[list[list[int]]]:
    """Blocks of rows of indices into `boxes`: columns one after the other, rows from top to bottom, left to right.

    boxes: quads (4, 2) clockwise from the top left, or polygons (N, 2). A row holds the lines that are beside each
    other; a block is a paragraph, a heading, or a table.
    """
    blocks = [block for region in _regions(_level(boxes)) for block in _blocks(_rows(region))]
    return [[[line.index for line in row] for row in block] for block in blocks]


def _sides(quads: Sequence[Points]) -> NDArray[np.float64]:
    """(N, 2): the lengths of the upper and the left side of each quad."""
    return np.array([[np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[3] - quad[0])] for quad in quads])


def _direction(quads: Sequence[Points], level: NDArray[np.bool_]) -> float:
    """Degrees by which the page's text is turned, quarter turns included, which the corners of level lines tell."""
    askew = skew_of(quads)
    corners = np.asarray(quads, np.float64)[level]
    x, y = (corners[:, 1] - corners[:, 0]).sum(axis=0)  # long lines count more; without level ones there is no turn
    return askew + 90 * round((math.degrees(math.atan2(y, x)) - askew) / 90)


def _level(boxes: Sequence[Points]) -> list[_Line]:
    quads = [quad_of(box) for box in boxes]
    if not quads:
        return []
    sides = _sides(quads)
    level = sides[:, 1] < sides[:, 0] * TALL
    quads = levelled(quads, _direction(quads, level))
    lines = []
    for index, quad in enumerate(quads):
        (left, top), (right, bottom) = quad.min(axis=0), quad.max(axis=0)
        lines.append(_Line(index, left, right, top, bottom, float(sides[index, 1]), not level[index]))
    return lines


def _regions(lines: list[_Line]) -> list[list[_Line]]:
    """Columns, and the lines above, between and below them, in reading order."""
    gap = _column_gap(lines)
    if gap is None:
        return [lines] if lines else []
    regions: list[list[_Line]] = []
    band: list[_Line] = []
    crossing = [line for line in lines if line.left < gap < line.right]
    beside = sorted((line for line in lines if not line.left < gap < line.right), key=lambda line: line.middle)
    for bar in [*sorted(crossing, key=lambda line: line.middle), None]:
        while beside and (bar is None or beside[0].middle < bar.middle):
            band.append(beside.pop(0))
        for side in ([x for x in band if x.right <= gap], [x for x in band if x.left >= gap]):
            regions += _regions(side)
        band = []
        if bar is not None:
            if regions and regions[-1][-1] in crossing:
                regions[-1].append(bar)
            else:
                regions.append([bar])
    return regions


def _column_gap(lines: list[_Line]) -> float | None:
    """The x of a vertical gap with columns of running text on both sides: the one that the fewest lines cross.

    Of several such the widest one.
    """
    lefts, rights = (np.sort([getattr(line, side) for line in lines]) for side in ("left", "right"))
    gaps = []
    for x in np.unique(lefts):
        before = int(np.searchsorted(rights, x, "right"))
        after = len(lines) - int(np.searchsorted(lefts, x, "left"))
        crossing = len(lines) - before - after
        if min(before, after) >= COLUMN_ROWS and crossing <= MAX_CROSSING * len(lines):
            gaps.append((crossing, float(rights[before - 1] - x), float(x)))
    for _, negative_width, x in sorted(gaps):
        left = [line for line in lines if line.right <= x]
        right = [line for line in lines if line.left >= x]
        if _beside(left, right) and _is_column(left) and _is_column(right):
            return x + negative_width / 2
    return None


def _is_column(lines: list[_Line]) -> bool:
    aspect = np.median([(line.right - line.left) / max(line.height, 1.0) for line in lines])
    return bool(aspect >= COLUMN_ASPECT) and len(_rows(lines)) >= COLUMN_ROWS


def _beside(left: list[_Line], right: list[_Line]) -> bool:
    """Whether at least half of the shorter column is beside the other one."""
    tops = [min(line.top for line in side) for side in (left, right)]
    bottoms = [max(line.bottom for line in side) for side in (left, right)]
    shorter = min(bottom - top for top, bottom in zip(tops, bottoms, strict=True))
    return min(bottoms) - max(tops) >= shorter / 2


def _rows(lines: list[_Line]) -> list[list[_Line]]:
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line.middle):
        for row in reversed(rows[-3:]):
            if all(_same_row(line, other) for other in row):
                row.append(line)
                break
        else:
            rows.append([line])
    for row in rows:
        row.sort(key=lambda line: line.left)
    return rows


def _same_row(one: _Line, other: _Line) -> bool:
    # A narrow letter may be in a row, text that runs downwards may not.
    if max(one.height, other.height) > HEADING_RATIO * min(one.height, other.height) and (one.tall or other.tall):
        return False
    lower, higher = sorted((one, other), key=lambda line: line.bottom - line.top)
    height = lower.bottom - lower.top
    overlap = min(one.right, other.right) - max(one.left, other.left)
    near = abs(one.middle - other.middle) < ROW_OVERLAP * height
    # A unit behind a price, on its base line or raised.
    inside = higher.top <= lower.top and lower.bottom <= higher.bottom
    return (near or inside) and overlap < height


def _blocks(rows: list[list[_Line]]) -> list[list[list[_Line]]]:
    blocks: list[list[list[_Line]]] = []
    for row in rows:
        if blocks and not _new_block(blocks[-1][-1], row):
            blocks[-1].append(row)
        else:
            blocks.append([row])
    return blocks


def _new_block(above: list[_Line], below: list[_Line]) -> bool:
    heights = [float(np.median([line.height for line in row])) for row in (above, below)]
    gap = min(line.top for line in below) - max(line.bottom for line in above)
    return gap > PARAGRAPH_GAP * min(heights) or max(heights) > HEADING_RATIO * min(heights)
