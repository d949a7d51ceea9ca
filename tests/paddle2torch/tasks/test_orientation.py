"""Upside-down lines are told by PaddleOCR's rule: label 180, and surer than the threshold."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from coloured_bars import Shadow
from torch import Tensor, nn

from paddle2torch.model_zoo.config import (
    ClsPreprocess,
    DBPostprocess,
    DetPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.orientation import Classifier, Direction, OrientationError, preprocess

CONFIG = replace(Shadow.config, name="directions")


class Brightness(nn.Module):
    """The probability of 180 degrees is the brightness of the top left pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        score = (x[:, 0, 0, 0] + 1) / 2
        return torch.stack([1 - score, score], dim=1)


def lines(*values: int) -> list[np.ndarray]:
    return [np.full((20 + i, 60 + 9 * i, 3), value, np.uint8) for i, value in enumerate(values)]


def test_a_line_is_turned_where_the_model_is_sure() -> None:
    found = Classifier(Brightness().eval(), CONFIG)(lines(255, 235, 225, 0))
    assert [direction.label for direction in found] == ["180", "180", "180", "0"]
    assert [direction.upside_down for direction in found] == [True, True, False, False]
    assert found[1].score == pytest.approx(235 / 255)
    assert found[3] == Direction("0", 1.0, False)


def test_lines_run_in_batches_and_keep_their_order() -> None:
    model = Brightness().eval()
    values = [255 * (i % 2) for i in range(14)]
    found = Classifier(model, CONFIG)(lines(*values))
    assert model.batches == [6, 6, 2]
    assert [direction.upside_down for direction in found] == [bool(value) for value in values]
    assert Classifier(model, CONFIG)([]) == []


def test_input_keeps_its_ratio_and_is_padded_with_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 50, 3), np.uint8)
    x = preprocess(image, ClsPreprocess())
    assert x.shape == (3, 48, 192)
    resized = np.asarray(cv2.resize(image, (100, 48)))
    np.testing.assert_allclose(x[:, :, :100], (resized.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)
    assert (x[:, :, 100:] == 0).all()
    wide = np.full((10, 900, 3), 255, np.uint8)
    assert (preprocess(wide, ClsPreprocess()) == 1).all()


def test_input_without_ratio_is_stretched() -> None:
    image = np.full((24, 50, 3), 255, np.uint8)
    x = preprocess(image, ClsPreprocess(image_shape=(3, 80, 160), keep_ratio=False))
    assert x.shape == (3, 80, 160)
    assert (x == 1).all()


def test_what_cannot_be_read_is_refused() -> None:
    class Broken(nn.Module):
        def __init__(self, value: Tensor) -> None:
            super().__init__()
            self.value = value

        def forward(self, x: Tensor) -> Tensor:
            return self.value

    with pytest.raises(OrientationError, match="training mode"):
        Classifier(Brightness(), CONFIG)(lines(0))
    for value in (torch.full((1, 2), math.nan), torch.zeros(1, 4)):
        with pytest.raises(OrientationError, match="expected 1 x 2"):
            Classifier(Broken(value).eval(), CONFIG)(lines(0))
    detector = replace(CONFIG, task="det", preprocess=DetPreprocess(), postprocess=DBPostprocess())
    with pytest.raises(ConfigError, match="not a direction classifier"):
        Classifier(Brightness(), detector)
