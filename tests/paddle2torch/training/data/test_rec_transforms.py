"""Lines are augmented as PaddleOCR does, bit for bit.

`paddleocr_transforms.npz` was made by PaddleOCR 2.10.0's own transforms, whose random functions drew from the numpy
generators of the seeds named here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from paddle2torch.model_zoo.config import RecPreprocess
from paddle2torch.training.data.rec_transforms import (
    Line,
    LineRequest,
    RecAug,
    RecConAug,
    resize_line,
    tia_distort,
    tia_perspective,
    tia_stretch,
    warp_mls,
)

GOLDEN = np.load(Path(__file__).with_name("paddleocr_transforms.npz"))
IMAGE = GOLDEN["line"]


def no_other() -> Line:
    raise AssertionError("no other line is needed")


def request(seed: int) -> LineRequest:
    return LineRequest(np.random.default_rng(seed), no_other)


def points(array: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in array]


def test_a_warp_is_paddleocrs() -> None:
    warped = warp_mls(IMAGE, points(GOLDEN["warp_source"]), points(GOLDEN["warp_target"]))
    assert np.array_equal(warped, GOLDEN["warped"])


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_is_paddleocrs(seed: int) -> None:
    before = IMAGE.copy()
    augmented = RecAug(tia_prob=0.7)(Line(IMAGE, ""), request(seed)).image
    assert np.array_equal(augmented, GOLDEN[f"augmented{seed}"])
    assert np.array_equal(IMAGE, before)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (100, 101), (101, 200), (33, 201), (230, 45)])
def test_points_that_stay_move_nothing(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]
    difference = warp_mls(image, corners, corners).astype(int) - image
    # What is computed as 41.9999 is cut to 41.
    assert difference.min() >= -1
    assert difference.max() <= 0


def test_a_shift_shifts() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 230, 3), dtype=np.uint8)
    corners = [(0.0, 0.0), (230.0, 0.0), (230.0, 60.0), (0.0, 60.0)]
    moved = warp_mls(image, corners, [(x + 16, y + 8) for x, y in corners])
    assert np.abs(moved[8:, 16:].astype(int) - image[:-8, :-16]).max() <= 1


@pytest.mark.parametrize("size", [(20, 20), (32, 64), (70, 900)])
def test_every_warp_keeps_the_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, dtype=np.uint8)
    rng = np.random.default_rng(1)
    for warped in (tia_distort(image, 6, rng), tia_stretch(image, 6, rng), tia_perspective(image, rng)):
        assert warped.shape == image.shape
        assert np.array_equal(warped, image)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (19, 300)])
def test_tiny_images_pass(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 77, dtype=np.uint8)
    always = RecAug(1, 1, 1, 1, 1, 1, 1)
    assert always(Line(image, ""), request(0)).image.shape == image.shape


def test_jitter_leaves_ghosts_of_large_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (320, 400, 3), dtype=np.uint8)
    others = dict.fromkeys(("tia_prob", "crop_prob", "reverse_prob", "noise_prob", "blur_prob", "hsv_aug_prob"), 0.0)
    only = RecAug(jitter_prob=1, **others)
    shifts = set()
    for seed in range(20):
        result = only(Line(image, ""), request(seed)).image
        # Each shift writes over the one before; the last one has all but the first rows and columns.
        (shift,) = (s for s in range(3) if np.array_equal(result[s:, s:], image[: 320 - s, : 400 - s]))
        shifts.add(shift)
    assert shifts == {0, 1, 2}


def joined(prob: float, texts: list[str], widths: list[int], text_limit: int = 25) -> Line:
    lines = [
        Line(np.full((48, width, 3), number, dtype=np.uint8), text)
        for number, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    others = iter(lines[1:])
    step = RecConAug(prob, (48, 320, 3), text_limit, len(lines) - 1)
    return step(lines[0], LineRequest(np.random.default_rng(0), lambda: next(others)))


def test_lines_are_joined() -> None:
    line = joined(1, ["ab", "c", "de"], [100, 60, 80])
    assert line.text == "abcde"
    assert line.image.shape == (48, 240, 3)
    assert [int(line.image[0, x, 0]) for x in (99, 100, 159, 160)] == [0, 1, 1, 2]


def test_joining_stops() -> None:
    assert joined(0, ["ab", "c"], [100, 60]).text == "ab"
    # The first that does not fit ends it, even where the next one would.
    assert joined(1, ["ab", "c" * 24, "d"], [10, 10, 10]).text == "ab"
    assert joined(1, ["ab", "c" * 23, "d"], [10, 10, 10]).text == "ab" + "c" * 23
    assert joined(1, ["ab", "c", "d"], [200, 121, 10]).text == "ab"
    assert joined(1, ["ab", "c", "d"], [200, 120, 10]).text == "abc"


def test_joined_lines_have_one_height() -> None:
    others = iter([Line(np.zeros((200, 1, 3), dtype=np.uint8), "b")])
    line = Line(np.zeros((24, 48, 3), dtype=np.uint8), "a")
    step = RecConAug(1, (48, 320, 3), 25, 1)
    assert step(line, LineRequest(np.random.default_rng(0), lambda: next(others))).image.shape == (48, 97, 3)


def test_resizing() -> None:
    image = np.full((30, 61, 3), 255, dtype=np.uint8)
    resized, valid_ratio = resize_line(image, (320, 48), RecPreprocess())
    # The width is rounded up: 48 * 61 / 30 = 97.6.
    assert valid_ratio == 98 / 320
    assert (resized[:, :, :98] == 1).all()
    assert (resized[:, :, 98:] == 0).all()
    assert resized.dtype == np.float32
    assert resize_line(np.zeros((30, 3000, 3), dtype=np.uint8), (320, 32), RecPreprocess())[1] == 1
