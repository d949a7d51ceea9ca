"""MobileNetV3 for lines, crops and pages, and the classifier built on it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from small_models import classifier_config
from torch import Tensor, nn

from paddle2torch.converters.layout import layout_table
from paddle2torch.model_zoo.cls_head import ClsHead
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.mobilenetv3 import MobileNetV3, ResidualUnit
from paddle2torch.model_zoo.network import build_model, fuse

# Every tensor of ch_ppocr_mobile_v2.0_cls_train: pattern of its name (BN is the four tensors of one) and how many.
CLASSIFIER_KEYS = {
    "backbone.conv1.conv.weight": 1,
    "backbone.conv1.bn.BN": 4,
    "backbone.blocks.N.expand_conv.conv.weight": 11,
    "backbone.blocks.N.expand_conv.bn.BN": 44,
    "backbone.blocks.N.bottleneck_conv.conv.weight": 11,
    "backbone.blocks.N.bottleneck_conv.bn.BN": 44,
    "backbone.blocks.N.mid_se.conv1.weight": 9,
    "backbone.blocks.N.mid_se.conv1.bias": 9,
    "backbone.blocks.N.mid_se.conv2.weight": 9,
    "backbone.blocks.N.mid_se.conv2.bias": 9,
    "backbone.blocks.N.linear_conv.conv.weight": 11,
    "backbone.blocks.N.linear_conv.bn.BN": 44,
    "backbone.conv2.conv.weight": 1,
    "backbone.conv2.bn.BN": 4,
    "head.fc.weight": 1,
    "head.fc.bias": 1,
}


def image(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def shortcuts(backbone: MobileNetV3) -> list[bool]:
    return [module.shortcut for module in backbone.modules() if isinstance(module, ResidualUnit)]


def test_classifier_has_the_checkpoints_tensors() -> None:
    model = build_model(classifier_config("cls"))
    keys = [row.paddle_key for row in layout_table(model)]
    patterns = (re.sub(r"bn\.(weight|bias|_mean|_variance)$", "bn.BN", key) for key in keys)
    assert Counter(re.sub(r"blocks\.\d+", "blocks.N", key) for key in patterns) == CLASSIFIER_KEYS
    assert len(keys) == 213
    # An export of it has the same tensors: nothing is re-parameterised.
    assert list(fuse(model).state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"scale": 0.35, "model_name": "small"}, 128_954),
        ({"scale": 1.0, "model_name": "small"}, 921_678),
        ({"scale": 0.5, "model_name": "large", "disable_se": True, "det": True}, 398_480),
        ({"scale": 1.0, "model_name": "large"}, 2_970_406),
    ],
)
def test_number_of_parameters(options: dict[str, Any], parameters: int) -> None:
    assert sum(parameter.numel() for parameter in MobileNetV3(**options).parameters()) == parameters


def test_activation_is_relu_early_and_hardswish_late() -> None:
    for model_name, late in (("small", 3), ("large", 6)):
        units = [m for m in MobileNetV3(scale=0.5, model_name=model_name).modules() if isinstance(m, ResidualUnit)]
        for index, unit in enumerate(units):
            expected = nn.ReLU if index < late else nn.Hardswish
            assert isinstance(unit.expand_conv.act, expected)
            assert isinstance(unit.bottleneck_conv.act, expected)


def test_classifier_gives_probabilities_in_evaluation_and_logits_in_training() -> None:
    head = ClsHead(5, classes=2)
    x = image(3, 5, 2, 7)
    with torch.no_grad():
        logits = head.train()(x)
        torch.testing.assert_close(logits, x.mean((2, 3)) @ head.fc.weight.T + head.fc.bias)
        torch.testing.assert_close(head.eval()(x), logits.softmax(1))
    assert build_model(classifier_config("cls")).eval()(image(2, 3, 48, 192)).shape == (2, 2)


@pytest.mark.parametrize(("width", "steps"), [(192, 48), (100, 25), (98, 24), (5, 1)])
def test_height_is_reduced_to_one_and_width_to_a_quarter(width: int, steps: int) -> None:
    with torch.no_grad():
        cls = MobileNetV3(scale=0.35, model_name="small").eval()
        assert cls(image(1, 3, 48, width)).shape == (1, cls.out_channels, 1, steps) == (1, 200, 1, steps)
        rec = MobileNetV3(scale=0.5, model_name="small", small_stride=[1, 2, 2, 2]).eval()
        assert rec(image(1, 3, 32, width)).shape == (1, rec.out_channels, 1, steps) == (1, 288, 1, steps)


def test_a_tuple_stride_of_one_has_no_shortcut() -> None:
    """The v2.0 recogniser's first block keeps size and channels, and adds nothing all the same."""
    expected = [False, False, True, False, True, True, True, True, False, True, True]
    assert shortcuts(MobileNetV3(scale=0.5, model_name="small", small_stride=[1, 2, 2, 2])) == expected
    # The large network's first stride is an int.
    large = [True, False, True, False, True, True, False, True, True, True, False, True, False, True, True]
    assert shortcuts(MobileNetV3(scale=0.5, model_name="large")) == large


def test_residual_unit_adds_its_input() -> None:
    plain = ResidualUnit(8, 16, 8, 3, stride=(1, 1), se=True, activation="relu").eval()
    residual = ResidualUnit(8, 16, 8, 3, stride=1, se=True, activation="relu").eval()
    residual.load_state_dict(plain.state_dict())
    x = image(1, 8, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(residual(x), x + plain(x))


@pytest.mark.parametrize(
    ("model_name", "scale", "blocks", "channels"),
    [("large", 0.5, [3, 3, 6, 4], (16, 24, 56, 480)), ("small", 1.0, [1, 2, 5, 4], (16, 24, 48, 576))],
)
def test_detector_has_stages_of_strides_4_to_32(
    model_name: str, scale: float, blocks: list[int], channels: tuple[int, ...]
) -> None:
    backbone = MobileNetV3(scale=scale, model_name=model_name, disable_se=True, det=True).eval()
    assert {key.split(".")[0] for key in backbone.state_dict()} == {"conv", "stage0", "stage1", "stage2", "stage3"}
    # The last 1x1 convolution is one more member of the last stage.
    assert [len(getattr(backbone, f"stage{i}")) for i in range(4)] == blocks
    assert not any("mid_se" in key for key in backbone.state_dict())
    assert backbone.out_channels == channels
    with torch.no_grad():
        maps = backbone(image(1, 3, 64, 96))
    assert [tuple(level.shape) for level in maps] == [
        (1, count, 64 // stride, 96 // stride) for count, stride in zip(channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "medium"}, "small or large"),
        ({"small_stride": [2, 2, 2]}, "needs 4 numbers"),
        ({"det": True, "small_stride": [2, 2, 2, 2]}, "fixed strides"),
        ({"det": True, "model_name": "large", "large_stride": [1, 2, 2, 2]}, "fixed strides"),
        ({"smal_stride": [1, 2, 2, 2]}, "small_stride"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(classifier_config("cls", **options))
