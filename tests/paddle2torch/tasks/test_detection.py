"""PaddleOCR's detection steps against our own.

`detection_golden.npz` was made by the files of PaddleOCR 2.10 under OpenCV 4.14: a page that we rendered, the map of
ch_PP-OCRv4_det for it under Paddle (in 255ths), the results of DBPostProcess, and get_rotate_crop_image's crops.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from coloured_bars import Ink

from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    DBPostprocess,
    DetPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.detection import (
    MAX_SIDE,
    Box,
    DetectionError,
    Detector,
    boxes_from_map,
    clip_boxes,
    input_size,
    preprocess,
)
from paddle2torch.tasks.geometry import sorted_order

GOLDEN = np.load(Path(__file__).with_name("detection_golden.npz"), allow_pickle=False)
MAP = GOLDEN["map"].astype(np.float32) / np.float32(255)
CASES = {
    "quad": DBPostprocess(),
    "slow_dilated": DBPostprocess(score_mode="slow", use_dilation=True, thresh=0.2, box_thresh=0.5, unclip_ratio=2.0),
    "poly": DBPostprocess(box_type="poly"),
    "few": DBPostprocess(max_candidates=3, box_thresh=0.3),
}


@pytest.mark.parametrize("case", CASES)
def test_boxes_and_scores_are_those_of_paddleocr(case: str) -> None:
    height, width = GOLDEN["size"].tolist()
    boxes = boxes_from_map(MAP, CASES[case], (height, width))
    scores = GOLDEN[f"{case}:scores"]
    assert len(boxes) == len(scores)
    for index, box in enumerate(boxes):
        expected = GOLDEN[f"{case}:{index}"]
        assert box.points.shape == expected.shape
        # Equal on the OpenCV that made them; the rectangles of others may round to the next pixel.
        np.testing.assert_allclose(box.points, expected, atol=0 if cv2.__version__.startswith("4.14") else 1)
        assert box.score == pytest.approx(scores[index], abs=1e-6)


def test_boxes_of_a_page_are_ordered_as_in_paddleocr() -> None:
    boxes = clip_boxes(boxes_from_map(MAP, DBPostprocess(), (224, 320)), (224, 320), "quad")
    points = [boxes[i].points for i in sorted_order([box.points for box in boxes])]
    np.testing.assert_allclose(np.stack(points), GOLDEN["sorted"], atol=1)
    assert all(p.dtype == np.float32 for p in points)


def test_input_is_normalised_as_imagenet_on_bgr() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    x, covers = preprocess(image, DetPreprocess())
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(x, ((image / 255 - mean) / std).transpose(2, 0, 1), atol=2e-6)
    assert x.dtype == np.float32
    assert covers == (64, 96)
    swapped, _ = preprocess(image, DetPreprocess(channel_order="RGB"))
    np.testing.assert_array_equal(swapped, preprocess(np.ascontiguousarray(image[:, :, ::-1]), DetPreprocess())[0])


@pytest.mark.parametrize(
    ("size", "config", "expected"),
    [
        ((600, 900), DetPreprocess(), (608, 896)),  # inside the limit: multiples of 32 only
        ((1000, 2000), DetPreprocess(), (480, 960)),
        ((2000, 1000), DetPreprocess(limit_side_len=672), (672, 320)),  # 336 is halfway: to the even multiple
        ((300, 600), DetPreprocess(limit_side_len=736, limit_type="min"), (736, 1472)),
        ((800, 900), DetPreprocess(limit_side_len=736, limit_type="min"), (800, 896)),
        ((50, 20000), DetPreprocess(), (32, 960)),
        ((1, 1), DetPreprocess(), (32, 32)),
        ((50, 20000), DetPreprocess(limit_side_len=736, limit_type="min"), (32, 4000)),
    ],
)
def test_size_of_the_input(size: tuple[int, int], config: DetPreprocess, expected: tuple[int, int]) -> None:
    assert input_size(*size, config) == expected


@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("limit", [64, 736, 960])
def test_size_of_the_input_is_bounded(kind: Literal["max", "min"], limit: int) -> None:
    config = DetPreprocess(limit_side_len=limit, limit_type=kind)
    sizes = (1, 2, 31, 33, 736, 959, 961, 4001, 20_000, 65_535)
    sides = {side for height in sizes for width in sizes for side in input_size(height, width, config)}
    assert all(side % 32 == 0 and 32 <= side <= MAX_SIDE for side in sides)


def test_a_tiny_page_is_padded_and_its_boxes_stay_in_place() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    x, covers = preprocess(image, DetPreprocess())
    assert covers == (32, 40)
    # Black below the page.
    assert x.shape == (3, 32, 32)
    np.testing.assert_allclose(x[:, 20:].std(axis=(1, 2)), 0, atol=1e-6)
    probabilities = np.zeros((32, 32), np.float32)
    probabilities[6:14, 4:28] = 1
    (box,) = clip_boxes(boxes_from_map(probabilities, DBPostprocess(), covers), image.shape[:2], "quad")
    # The map's rows are the page's: the line is around row 10, not at 10 * 20 / 32.
    assert box.points[:, 1].mean() == pytest.approx(9.5, abs=1.5)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("box_type", ["quad", "poly"])
def test_uniform_maps(value: float, box_type: Literal["quad", "poly"]) -> None:
    boxes = boxes_from_map(np.full((64, 96), value, np.float32), DBPostprocess(box_type=box_type), (640, 960))
    assert len(boxes) == value
    for box in boxes:
        assert box.points.min(axis=0).tolist() == [0, 0]
        assert box.points.max(axis=0).tolist() == [960, 640]


@pytest.mark.parametrize("box_type", ["quad", "poly"])
@pytest.mark.parametrize("score_mode", ["fast", "slow"])
@pytest.mark.parametrize("blur", [0.1, 0.7, 1.5, 4.0])
def test_noise_gives_boxes_inside_the_page(
    box_type: Literal["quad", "poly"], score_mode: Literal["fast", "slow"], blur: float
) -> None:
    noise = np.random.default_rng(0).random((64, 96), dtype=np.float32)
    blurred = np.asarray(cv2.GaussianBlur(noise, (0, 0), blur), np.float32)
    config = DBPostprocess(
        thresh=float(np.median(blurred)),
        box_thresh=float(np.median(blurred)),
        box_type=box_type,
        score_mode=score_mode,
        use_dilation=blur < 1,
    )
    for box in clip_boxes(boxes_from_map(blurred, config, (130, 55)), (130, 55), config.box_type):
        assert (box.points >= 0).all()
        assert (box.points <= [54, 129]).all()
        assert config.box_thresh <= box.score <= 1
        if box_type == "quad":
            assert min(np.linalg.norm(box.points[0] - box.points[i]) for i in (1, 3)) > 3


def test_small_and_flat_boxes_are_dropped() -> None:
    def box(width: float, height: float) -> Box:
        corners = [[5, 5], [5 + width, 5], [5 + width, 5 + height], [5, 5 + height]]
        return Box(np.array(corners, np.float32), 0.9)

    kept = clip_boxes([box(3.9, 20), box(20, 3), box(4, 4), box(200, 10)], (50, 60), "quad")
    assert [b.points[2].tolist() for b in kept] == [[9, 9], [59, 15]]


class Network(torch.nn.Module):
    """Gives the same map for every input, and counts its inputs."""

    def __init__(self, value: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
        self.value = value
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        assert x.dtype == self.anchor.dtype
        self.shapes.append(tuple(x.shape))
        return {"maps": self.value.to(x.dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_detector_runs_the_network_in_its_own_type(dtype: torch.dtype) -> None:
    value = torch.from_numpy(MAP)[None, None]
    network = Network(value, dtype).eval()
    boxes = Detector(network, Ink.config)(GOLDEN["page"])
    assert network.shapes == [(1, 3, 224, 320)]
    np.testing.assert_allclose(np.stack([box.points for box in boxes]), GOLDEN["sorted"], atol=1)


def test_detector_refuses_what_cannot_be_read() -> None:
    page, config = GOLDEN["page"], Ink.config
    good = torch.zeros(1, 1, 224, 320)
    with pytest.raises(DetectionError, match="training mode"):
        Detector(Network(good).train(), config)(page)
    with pytest.raises(DetectionError, match=r"\(1, 1, 56, 80\)"):
        Detector(Network(good[:, :, ::4, ::4]).eval(), config)(page)
    with pytest.raises(DetectionError, match="NaN"):
        Detector(Network(good * math.nan).eval(), config)(page)
    classifier = replace(config, task="cls", preprocess=ClsPreprocess(), postprocess=ClsPostprocess())
    with pytest.raises(ConfigError, match="not a detector"):
        Detector(Network(good).eval(), classifier)


@pytest.mark.parametrize("side", [960, 4000, 4096, 65_536])
@pytest.mark.parametrize("limit_type", ["max", "min", "resize_long"])
def test_no_side_of_the_input_is_longer_than_the_limit(
    side: int, limit_type: Literal["max", "min", "resize_long"]
) -> None:
    config = DetPreprocess(limit_side_len=side, limit_type=limit_type)
    for height, width in ((5000, 5000), (10, 10_000), (100, 100), (1, 1)):
        assert max(input_size(height, width, config)) <= MAX_SIDE
