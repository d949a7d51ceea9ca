"""Order and crops; the golden is described in `test_detection.py`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from paddle2torch.tasks import geometry
from paddle2torch.tasks.geometry import (
    Crop,
    Points,
    crop_polygon,
    crop_quad,
    min_area_quad,
    order_clockwise,
    sorted_order,
)

GOLDEN = np.load(Path(__file__).with_name("detection_golden.npz"), allow_pickle=False)

# Under OpenCV 5 one value in 400 is off by 1.
TOLERANCE = 0 if cv2.__version__.startswith("4") else 1


def points(*corners: tuple[float, float]) -> Points:
    return np.array(corners, np.float32)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return points((left, top), (right, top), (right, bottom), (left, bottom))


@pytest.mark.parametrize("index", range(9))
def test_crops_are_those_of_paddleocr(index: int) -> None:
    crop = crop_quad(GOLDEN["page"], GOLDEN["sorted"][index])
    expected = GOLDEN[f"crop:{index}"]
    assert crop.image.shape == expected.shape
    difference = np.abs(crop.image.astype(int) - expected)
    assert difference.max() <= TOLERANCE
    assert (difference > 0).mean() <= 0.02
    # The third box is the only tall one.
    assert crop.quarter_turns == (1 if index == 2 else 0)


def test_crop_of_a_polygon_is_that_of_paddleocr() -> None:
    crop = crop_polygon(GOLDEN["page"], GOLDEN["poly:0"].astype(np.float32) / 2)
    expected = GOLDEN["poly_crop"]
    assert crop.image.shape == expected.shape
    assert np.abs(crop.image.astype(int) - expected).max() <= TOLERANCE


def test_corners_clockwise_from_the_top_left() -> None:
    quad = points((10, 5), (90, 12), (88, 40), (8, 33))
    rng = np.random.default_rng(0)
    for _ in range(10):
        np.testing.assert_array_equal(order_clockwise(rng.permutation(quad)), quad)


@pytest.mark.parametrize("angle", [-30, -5, 0, 5, 30])
def test_rectangle_around_points(angle: float) -> None:
    expected = cv2.boxPoints(((50, 60), (40, 10), angle))
    quad, side = min_area_quad(np.asarray(expected, np.float32))
    assert side == pytest.approx(10, abs=0.01)
    np.testing.assert_allclose(quad, order_clockwise(np.asarray(expected, np.float32)), atol=0.01)


def test_order_is_by_rows_of_ten_pixels() -> None:
    boxes = [rectangle(x, y, x + 30, y + 12) for x, y in [(200, 8), (100, 16), (10, 9), (10, 100), (10, 40)]]
    # 8, 9 and 16 are one row; a box moves to the left as long as its neighbour is in its row.
    assert sorted_order(boxes) == [2, 1, 0, 4, 3]
    # 18 is in the row of 16, but the box of 8, which is not, has come between them.
    stairs = [rectangle(x, y, x + 30, y + 12) for x, y in [(200, 8), (100, 16), (10, 18)]]
    assert sorted_order(stairs) == [1, 0, 2]
    far = [rectangle(x, y, x + 30, y + 12) for x, y in [(200, 8), (300, 16), (100, 18)]]
    assert sorted_order(far) == [0, 2, 1]
    assert sorted_order([]) == []


def test_a_tall_crop_is_turned_counter_clockwise() -> None:
    page = np.zeros((100, 60, 3), np.uint8)
    page[10:30, 20:40] = 255  # the upper end of the line
    crop = crop_quad(page, rectangle(20, 10, 40, 90))
    assert crop.image.shape == (20, 80, 3)
    assert crop.image[:, :18].min() == 255
    assert crop.image[:, 22:].max() == 0
    square = crop_quad(page, rectangle(20, 10, 50, 54))
    assert square.image.shape == (44, 30, 3)


@pytest.mark.parametrize("turns", range(4))
def test_columns_of_a_crop_are_found_on_the_page(turns: int) -> None:
    page = np.zeros((120, 120, 3), np.uint8)
    page[40:60, 70:80] = 255
    crop = crop_quad(page, rectangle(20, 40, 100, 60)).turned(turns)
    np.testing.assert_allclose(crop.quad(0, crop.image.shape[1]), crop.box, atol=1e-4)
    if turns % 2 == 0:
        bright = np.flatnonzero(crop.image[:, :, 0].mean(axis=0) > 128)
        np.testing.assert_allclose(crop.quad(bright.min(), bright.max() + 1), rectangle(70, 40, 80, 60), atol=1)
    assert crop.turned(4 - turns).quarter_turns == 0
    np.testing.assert_array_equal(crop.turned(4 - turns).image, crop_quad(page, rectangle(20, 40, 100, 60)).image)


def test_columns_of_a_tall_crop_are_found_on_the_page() -> None:
    page = np.zeros((120, 60, 3), np.uint8)
    page[30:40, 20:40] = 255
    crop = crop_quad(page, rectangle(20, 10, 40, 90))
    bright = np.flatnonzero(crop.image[:, :, 0].mean(axis=0) > 128)
    np.testing.assert_allclose(crop.quad(bright.min(), bright.max() + 1), rectangle(20, 30, 40, 40), atol=1)
    upside_down = crop.turned(2)
    bright = np.flatnonzero(upside_down.image[:, :, 0].mean(axis=0) > 128)
    np.testing.assert_allclose(upside_down.quad(bright.min(), bright.max() + 1), rectangle(20, 30, 40, 40), atol=1)


@pytest.mark.parametrize("left", [3, 39_700])
def test_a_page_too_long_for_opencv_is_cropped_in_its_part(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    page = np.asarray(cv2.GaussianBlur(rng.integers(0, 256, (60, 40_000, 3), np.uint8), (0, 0), 2), np.uint8)
    quad = points((left, 5), (left + 190, 9), (left + 189, 45), (left - 1, 41))
    crop = crop_quad(page, quad)
    # The same part, cut out by hand.
    start = max(left - 100, 0)
    expected = crop_quad(page[:, start : left + 300], quad - np.float32([start, 0]))
    assert np.abs(crop.image.astype(int) - expected.image).max() <= 2
    np.testing.assert_array_equal(crop.box, quad)
    monkeypatch.setattr(geometry, "WARP_LIMIT", 150)
    assert crop_quad(page, quad).image.shape[1] == 150


@pytest.mark.parametrize(
    "quad",
    [
        points((10, 0), (30, 0), (0, 34), (0, 34)),  # two corners in one place, as order_clockwise may make them
        points((5, 5), (25, 5), (45, 5), (65, 5)),
        points((0, 0), (40, 40), (40, 0), (0, 40)),
    ],
)
def test_degenerate_quads_give_some_crop(quad: Points) -> None:
    page = np.full((50, 80, 3), 7, np.uint8)
    box = quad.copy()
    box[2:] += np.float32([0, 4])
    crop = crop_quad(page, box)
    assert (crop.image == 7).all()
    assert np.isfinite(crop.quad(0, 1)).all()
    assert isinstance(crop, Crop)
