"""SVTRNet's augmentation is PaddleOCR's, bit for bit.

`paddleocr_svtr_transforms.npz` was made by the official classes (`abinet_aug.py`, a checkout of December 2025, Paddle
3.3.1), made anew for each line, whose random functions drew from the numpy generators of the seeds named here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.data import svtr_transforms
from paddle2torch.training.data.rec_transforms import Line, LineRequest
from paddle2torch.training.data.steps import REC_KEYS, REC_STEPS, read_steps
from paddle2torch.training.data.svtr_transforms import SVTRRecAug
from paddle2torch.training.settings import Transform

FOLDER = Path(__file__).parent
IMAGE = np.load(FOLDER / "paddleocr_transforms.npz")["line"]
GOLDEN = np.load(FOLDER / "paddleocr_svtr_transforms.npz")


def no_other() -> Line:
    raise AssertionError("no other line is needed")


def request(seed: int) -> LineRequest:
    return LineRequest(np.random.default_rng(seed), no_other)


@pytest.mark.parametrize("seed", range(8))
def test_augmentation_is_paddleocrs(seed: int) -> None:
    before = IMAGE.copy()
    step = SVTRRecAug(aug_type=seed % 2, geometry_p=0.8, deterioration_p=0.8, colorjitter_p=0.8)
    assert np.array_equal(step(Line(IMAGE, ""), request(seed)).image, GOLDEN[f"augmented{seed}"])
    assert np.array_equal(IMAGE, before)


def test_nothing_is_done_without_a_chance() -> None:
    assert SVTRRecAug(0, 0, 0, 0)(Line(IMAGE, ""), request(0)).image is IMAGE


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (9, 40)])
def test_tiny_images_pass(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 77, dtype=np.uint8)
    for seed in range(24):
        found = SVTRRecAug(seed % 2, 1, 1, 0)(Line(image, ""), request(seed)).image
        assert min(found.shape[:2]) > 0


def test_what_would_be_too_large_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svtr_transforms, "MOST_PIXELS", 1000)
    assert all(SVTRRecAug(0, 1, 0, 0)(Line(IMAGE, ""), request(seed)).image is IMAGE for seed in range(6))


def test_its_options_are_paddleocrs() -> None:
    decode, encode = Transform("DecodeImage", {"img_mode": "BGR"}), Transform("CTCLabelEncode")
    keep = Transform("KeepKeys", {"keep_keys": ["image", "label", "length"]})
    steps = read_steps([decode, Transform("SVTRRecAug", {"aug_type": 1}), encode, keep], REC_STEPS, REC_KEYS)
    assert steps["SVTRRecAug"] == SVTRRecAug(1, 0.5, 0.25, 0.25)
    with pytest.raises(ConfigError, match="aug_type"):
        SVTRRecAug(aug_type=2)
