"""PP-LCNet: its names, its strides, its head and the dropout that scales in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import fill
from structure import image, parameters, patterns

from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, Component, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.model_zoo.pplcnet import DownscaledDropout, PPLCNet, PPLCNetHead

LINES = [2, [2, 1], [2, 1], [2, 1], [2, 1]]


def config(scale: float, classes: int, **options: Any) -> ModelConfig:
    return ModelConfig(
        name="orientation",
        task="cls",
        form="training",
        backbone=Component("PPLCNet", {"scale": scale, **options}),
        neck=None,
        head=Component("PPLCNetHead", {"classes": classes}),
        preprocess=ClsPreprocess(),
        postprocess=ClsPostprocess(),
    )


def test_names_and_number_of_parameters() -> None:
    model = build_model(config(0.25, 2, stride_list=LINES))
    assert patterns(model) == {
        "backbone.convN.conv.weight": 1,
        "backbone.convN.bn.BN": 4,
        "backbone.blocksN.N.dw_conv.conv.weight": 13,
        "backbone.blocksN.N.dw_conv.bn.BN": 52,
        "backbone.blocksN.N.se.convN.weight": 4,
        "backbone.blocksN.N.se.convN.bias": 4,
        "backbone.blocksN.N.pw_conv.conv.weight": 13,
        "backbone.blocksN.N.pw_conv.bn.BN": 52,
        "head.last_conv.weight": 1,
        "head.fc.weight": 1,
        "head.fc.bias": 1,
    }
    # In float32 0.97 and 6.7 MB, as PaddleX's list has them.
    assert parameters(model) == 242_746
    assert parameters(build_model(config(1.0, 2))) == 1_674_082
    assert list(fuse(model).state_dict()) == list(model.state_dict())


def test_strides_are_an_option() -> None:
    with torch.inference_mode():
        assert PPLCNet(scale=0.25, stride_list=LINES).eval()(image(1, 3, 80, 160)).shape == (1, 128, 3, 80)
        assert PPLCNet(scale=0.25).eval()(image(1, 3, 96, 160)).shape == (1, 128, 3, 5)
        assert build_model(config(0.25, 4)).eval()(image(2, 3, 96, 64)).shape == (2, 4)
    with pytest.raises(ConfigError, match="needs 5 strides"):
        PPLCNet(stride_list=[2, 2])


def test_head_by_the_formula() -> None:
    head = PPLCNetHead(6, classes=3, class_expand=10, dropout_prob=0.2)
    fill(head)
    x = image(2, 6, 4, 5)
    assert head.last_conv is not None
    with torch.no_grad():
        wide = F.hardswish(x.mean((2, 3)) @ head.last_conv.weight[..., 0, 0].T)
        logits = 0.8 * wide @ head.fc.weight.T + head.fc.bias
        torch.testing.assert_close(head.eval()(x), logits.softmax(1))
        head.dropout.p = 0.0
        torch.testing.assert_close(head.train()(x), wide @ head.fc.weight.T + head.fc.bias)
        plain = PPLCNetHead(6, classes=3, class_expand=None)
        assert patterns(plain) == {"fc.weight": 1, "fc.bias": 1}
        torch.testing.assert_close(plain.train()(x), x.mean((2, 3)) @ plain.fc.weight.T + plain.fc.bias)


def test_dropout_scales_in_evaluation_and_not_in_training() -> None:
    dropout = DownscaledDropout(0.25)
    x = torch.full((4000,), 2.0)
    torch.testing.assert_close(dropout.eval()(x), torch.full_like(x, 1.5))
    kept = dropout.train()(x)
    assert set(kept.tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.5, abs=0.1)
