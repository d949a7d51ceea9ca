"""Columns are read one after the other, tables and forms row by row."""

from __future__ import annotations

import numpy as np
import pytest

from paddle2torch.ocr.reading_order import reading_blocks
from paddle2torch.tasks.geometry import Points


def line(left: float, top: float, width: float, height: float = 20) -> Points:
    corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    return np.array(corners, np.float32)


def flat(blocks: list[list[list[int]]]) -> list[int]:
    return [index for block in blocks for row in block for index in row]


def turned(boxes: list[Points], degrees: float) -> list[Points]:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [(box @ turn).astype(np.float32) + np.float32([300, 300]) for box in boxes]


def two_columns() -> list[Points]:
    """A heading over two columns of six lines, and a line below them, in PaddleOCR's order: by rows."""
    boxes = [line(100, 0, 500, 40)]
    for row in range(6):
        boxes += [line(0, 80 + 30 * row, 320), line(380, 80 + 30 * row, 320)]
    return [*boxes, line(50, 290, 600)]


@pytest.mark.parametrize("degrees", [0, -4, 7])
def test_columns_one_after_the_other(degrees: float) -> None:
    blocks = reading_blocks(turned(two_columns(), degrees))
    assert flat(blocks) == [0, *range(1, 13, 2), *range(2, 13, 2), 13]
    assert blocks[0] == [[0]]
    assert blocks[1] == [[i] for i in range(1, 13, 2)]


def test_three_columns() -> None:
    boxes = [line(300 * column, 30 * row, 260) for row in range(5) for column in range(3)]
    assert flat(reading_blocks(boxes)) == [*range(0, 15, 3), *range(1, 15, 3), *range(2, 15, 3)]


@pytest.mark.parametrize("degrees", [0, -3, 5])
def test_a_receipt_is_read_row_by_row(degrees: float) -> None:
    boxes = []
    for row in range(8):
        boxes += [line(400, 40 * row + 4, 80), line(0, 40 * row, 150), line(250, 40 * row - 3, 60)]
    blocks = reading_blocks(turned(boxes, degrees))
    assert [row for block in blocks for row in block] == [[3 * i + 1, 3 * i + 2, 3 * i] for i in range(8)]


def test_a_form_is_read_row_by_row() -> None:
    """Long labels on the left, short values on the right."""
    boxes = [box for row in range(6) for box in (line(0, 40 * row, 300), line(360, 40 * row, 90))]
    assert flat(reading_blocks(boxes)) == list(range(12))


def test_blocks_end_at_gaps_and_where_the_letters_change_size() -> None:
    boxes = [line(0, 0, 300, 50), line(0, 58, 300), line(0, 84, 300), line(0, 140, 300), line(0, 166, 120)]
    assert reading_blocks(boxes) == [[[0]], [[1], [2]], [[3], [4]]]


def test_lines_above_each_other_share_no_row() -> None:
    # They overlap in height, as slanted lines do, but one is above the other.
    assert reading_blocks([line(0, 0, 300), line(10, 9, 300)]) == [[[0], [1]]]


def test_tall_boxes_and_polygons_have_their_place() -> None:
    tall = line(400, 0, 20, 200)
    polygon = np.array([(0, 30), (100, 28), (200, 30), (200, 50), (100, 48), (0, 50)], np.float32)
    assert sorted(flat(reading_blocks([line(0, 0, 300), polygon, tall]))) == [0, 1, 2]
    assert flat(reading_blocks([tall])) == [0]
    # Beside the middle of the tall box, but not in its row; the letter I is in the row.
    rows = [row for block in reading_blocks([line(0, 90, 300), tall, line(320, 88, 6, 24)]) for row in block]
    assert sorted(rows) == [[0, 2], [1]]


def test_nothing_has_no_blocks() -> None:
    assert reading_blocks([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_line_is_read_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [
        line(rng.uniform(0, 800), rng.uniform(0, 1000), rng.uniform(5, 400), rng.uniform(5, 40))
        for _ in range(rng.integers(1, 80))
    ]
    assert sorted(flat(reading_blocks(turned(boxes, rng.uniform(-90, 90))))) == list(range(len(boxes)))


@pytest.mark.parametrize("top", [2, 34])
def test_small_text_beside_a_price_is_in_its_row(top: float) -> None:
    assert reading_blocks([line(60, 0, 90, 56), line(10, top, 45, 16)]) == [[[1, 0]]]
