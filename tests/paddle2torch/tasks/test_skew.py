"""By what angle a page lies askew, as its lines tell."""

from __future__ import annotations

import numpy as np
import pytest

from paddle2torch.tasks.geometry import Points, order_clockwise, sorted_order
from paddle2torch.tasks.skew import levelled, skew_of, turned_level


def lines(angle: float, count: int = 6, length: float = 200) -> list[Points]:
    """Two columns of lines, turned by so many degrees around the origin, as PaddleOCR orders corners."""
    boxes = [
        np.array([(x, y), (x + length, y), (x + length, y + 20), (x, y + 20)], np.float32)
        for y in range(0, 40 * count, 40)
        for x in (0, 300)
    ]
    return [order_clockwise(box) for box in levelled(boxes, -angle)]


@pytest.mark.parametrize("angle", [0, 0.3, -2, 7.5, -20, 33, 44.9, -44.9])
def test_the_angle_is_that_of_the_lines(angle: float) -> None:
    assert skew_of(lines(angle)) == pytest.approx(angle, abs=0.01)


@pytest.mark.parametrize(("turned", "angle"), [(90, 0), (100, 10), (-120, -30), (180, 0), (225, 45)])
def test_quarter_turns_are_another_matter(turned: float, angle: float) -> None:
    assert abs(skew_of(lines(turned))) == pytest.approx(abs(angle), abs=0.01)


def test_few_lines_and_lines_of_several_angles_tell_nothing() -> None:
    assert skew_of([]) == 0
    assert skew_of(lines(20)[:2]) == 0
    assert skew_of(lines(20, length=40)) == 0
    assert skew_of([*lines(20), *lines(-15)]) == 0
    assert skew_of([*lines(20), *lines(-15)[:3]]) == pytest.approx(20, abs=0.01)


def test_rows_of_a_page_askew_are_rows() -> None:
    boxes = lines(8)
    assert sorted_order(boxes) != list(range(12))
    assert sorted_order(levelled(boxes, skew_of(boxes))) == list(range(12))


@pytest.mark.parametrize("angle", [45, -45, 135])
def test_corners_of_a_line_at_45_degrees_are_four_corners_in_a_row(angle: float) -> None:
    for box in lines(angle):
        rounded = np.round(box).astype(np.float32)
        for shift in range(4):
            ordered = order_clockwise(np.roll(rounded, shift, axis=0))
            assert {tuple(point) for point in ordered} == {tuple(point) for point in rounded}
            sides = np.linalg.norm(np.roll(ordered, -1, axis=0) - ordered, axis=1)
            assert sorted(sides) == pytest.approx([20, 20, 200, 200], abs=1.5)


def test_a_page_is_turned_level_with_all_its_corners_and_back() -> None:
    page = np.full((100, 200, 3), 250, np.uint8)
    page[40:60, 30:170] = 0
    level = turned_level(page, 30)
    assert level.image.shape[0] > 180
    assert tuple(level.image[0, 0]) == (250, 250, 250)
    dark = np.argwhere(level.image[:, :, 0] < 100)[:, ::-1].astype(np.float32)
    back = level.back(dark)
    assert back.min(axis=0) == pytest.approx((30, 40), abs=1.5)
    assert back.max(axis=0) == pytest.approx((169, 59), abs=1.5)
