"""The backbone of the v2 and v3 recognisers: its names, its two ends, its activated normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import fill
from structure import image, parameters, patterns
from torch import nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNorm2d, BatchNormHardswish
from paddle2torch.model_zoo.mobilenetv1_enhance import MobileNetV1Enhance

V3 = {"last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]}


def test_names_and_number_of_parameters() -> None:
    model = MobileNetV1Enhance(scale=0.5)
    assert patterns(model) == {
        "convN._conv.weight": 1,
        "convN._batch_norm.BN": 4,
        "block_list.N._depthwise_conv._conv.weight": 13,
        "block_list.N._depthwise_conv._batch_norm.BN": 52,
        "block_list.N._se.convN.weight": 4,
        "block_list.N._se.convN.bias": 4,
        "block_list.N._pointwise_conv._conv.weight": 13,
        "block_list.N._pointwise_conv._batch_norm.BN": 52,
    }
    assert parameters(model) == 1_016_160
    # Stride and pooling have no tensors.
    assert parameters(MobileNetV1Enhance(scale=0.5, **V3)) == 1_016_160


@pytest.mark.parametrize(("width", "v2", "v3"), [(320, 80, 40), (101, 25, 13), (98, 24, 12)])
def test_one_row_of_a_quarter_or_an_eighth_of_the_width(width: int, v2: int, v3: int) -> None:
    with torch.no_grad():
        old = MobileNetV1Enhance().eval()
        assert old(image(1, 3, 32, width)).shape == (1, old.out_channels, 1, v2) == (1, 512, 1, v2)
        new = MobileNetV1Enhance(**V3).eval()
        assert new(image(1, 3, 48, width)).shape == (1, new.out_channels, 1, v3) == (1, 512, 1, v3)


def test_the_last_block_has_the_stride_and_the_pooling_is_an_option() -> None:
    old, new = MobileNetV1Enhance(scale=0.25), MobileNetV1Enhance(scale=0.25, **V3)
    strides = [[m.stride for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1] for model in (old, new)]
    assert strides[0][:-1] == strides[1][:-1]
    assert (strides[0][-1], strides[1][-1]) == ((1, 1), (1, 2))
    x = image(1, 256, 3, 8)
    assert torch.equal(old.pool(x), F.max_pool2d(x, 2))
    assert torch.equal(new.pool(x), F.avg_pool2d(x, 2))


def test_norm_and_hardswish_are_one_module_under_the_norms_names() -> None:
    plain, activated = BatchNorm2d(4), BatchNormHardswish(4)
    fill(plain)
    activated.load_state_dict(plain.state_dict())
    x = 3 * image(3, 4, 5, 6)
    for training in (True, False):
        plain.train(training)
        activated.train(training)
        assert torch.equal(activated(x), F.hardswish(plain(x)))
    assert torch.equal(activated.running_var, plain.running_var)


def test_gate_of_squeeze_and_excitation_has_the_slope_of_one_sixth() -> None:
    gates = [module for module in MobileNetV1Enhance().modules() if isinstance(module, nn.Hardsigmoid)]
    assert len(gates) == 2


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match="not avg or max"):
        MobileNetV1Enhance(last_pool_type="mean")  # type: ignore[arg-type]
