"""The SAR head: what it computes, written out step by step; what it must not see; and when it is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import fill, small_config
from structure import image, patterns
from torch import Tensor

from paddle2torch.model_zoo.config import Component, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.model_zoo.sar import SARHead

SYMBOLS = 9
LABELS = torch.tensor([[7, 1, 2, 7, 8, 8], [7, 3, 0, 5, 4, 7]])
RATIOS = torch.tensor([0.4, 1.0])


def head(**options: Any) -> SARHead:
    model = SARHead(6, symbols=SYMBOLS, enc_dim=5, d_k=4, enc_drop_rnn=0.0, pred_dropout=0.0, **options).eval()
    fill(model)
    return model


def slowly(model: SARHead, x: Tensor, labels: Tensor, ratio: float) -> Tensor:
    """The same for one line, a loop for each index. x: (C, H, W)."""
    encoder, decoder = model.encoder, model.decoder
    width = x.shape[2]
    valid = min(width, int(torch.ceil(torch.tensor(ratio) * width)))
    states = encoder.rnn_encoder(x.max(1).values.T)[0]
    line = encoder.linear(states[valid - 1])
    table = decoder.embedding.weight.clone()
    table[SYMBOLS - 1] = 0
    steps = decoder.rnn_decoder(torch.stack([line, *(table[symbol] for symbol in labels)]))[0]
    keys = decoder.conv3x3_1(x.unsqueeze(0))[0]
    rows = []
    for state in steps[1:]:
        query = decoder.conv1x1_1(state)
        cells = [(h, w) for h in range(x.shape[1]) for w in range(valid)]
        scores = torch.stack([decoder.conv1x1_2(torch.tanh(keys[:, h, w] + query))[0] for h, w in cells])
        weights = scores.softmax(0)
        seen = sum((weight * x[:, h, w] for weight, (h, w) in zip(weights, cells, strict=True)), torch.zeros(()))
        rows.append(decoder.prediction(torch.cat((state, seen, line))))
    return torch.stack(rows)


def test_names() -> None:
    assert patterns(head()) == {
        **{f"encoder.rnn_encoder.{kind}_{source}_lN": 2 for kind in ("weight", "bias") for source in ("ih", "hh")},
        **{f"decoder.rnn_decoder.{kind}_{source}_lN": 2 for kind in ("weight", "bias") for source in ("ih", "hh")},
        **{f"encoder.linear.{name}": 1 for name in ("weight", "bias")},
        **{f"decoder.conv1xN_N.{name}": 2 for name in ("weight", "bias")},
        **{f"decoder.conv3xN_N.{name}": 1 for name in ("weight", "bias")},
        **{f"decoder.prediction.{name}": 1 for name in ("weight", "bias")},
        "decoder.embedding.weight": 1,
    }


def test_logits_step_by_step() -> None:
    model, x = head(), image(2, 6, 3, 7)
    with torch.no_grad():
        found = model(x, LABELS, RATIOS)
        assert found.shape == (2, 6, SYMBOLS - 1)
        for i in range(2):
            torch.testing.assert_close(found[i], slowly(model, x[i], LABELS[i], float(RATIOS[i])))


def test_padding_of_the_image_is_not_seen() -> None:
    model, x = head(), image(2, 6, 1, 10)
    with torch.no_grad():
        expected = model(x, LABELS, RATIOS)
        # 4 of 10 columns of the first line count; the 3x3 convolution looks one further.
        x[0, :, :, 5:] += 3
        torch.testing.assert_close(model(x, LABELS, RATIOS), expected)
        x[0, :, :, 3] += 3
        assert not torch.allclose(model(x, LABELS, RATIOS)[0], expected[0])


def test_a_symbol_is_predicted_from_those_before_it() -> None:
    model, x = head(), image(2, 6, 1, 10)
    changed = LABELS.clone()
    changed[:, 3] = 6
    with torch.no_grad():
        before, after = model(x, LABELS, RATIOS), model(x, changed, RATIOS)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def config(**options: Any) -> ModelConfig:
    small = small_config(nrtr=False)
    pooling = {"last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]}
    head = {**small.head.options, "sar": {"enc_dim": 8, "d_k": 4}, **options}
    backbone = Component("MobileNetV1Enhance", {"scale": 0.125, **pooling})
    return replace(small, backbone=backbone, head=Component("MultiHead", head))


def test_it_trains_beside_ctc_and_trains_the_backbone() -> None:
    model = build_model(config()).train()
    targets = {
        "label_sar": torch.tensor([[8, 1, 2, 8, 9, 9], [8, 3, 0, 8, 9, 9]]),
        "valid_ratio": torch.tensor([1.0, 0.5]),
    }
    out = model(torch.rand(2, 3, 48, 64), targets)
    # Eight classes with the blank are seven characters, unknown, start and end, and padding, which is not predicted.
    assert {key: tuple(value.shape) for key, value in out.items()} == {"ctc": (2, 8, 8), "sar": (2, 6, 9)}
    out["ctc"].sum().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    out["sar"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())


def test_it_is_absent_where_lines_are_read() -> None:
    model = build_model(config()).eval()
    assert any(key.startswith("head.sar_head.") for key in model.state_dict())
    fused = fuse(model)
    assert not any("sar" in key for key in fused.state_dict())
    x = image(1, 3, 48, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), model(x))


def test_training_without_targets_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="label_sar and valid_ratio"):
        build_model(config()).train()(torch.rand(1, 3, 48, 64))


def test_one_guide_is_enough() -> None:
    with pytest.raises(ConfigError, match="set one of them to null"):
        build_model(config(nrtr={"nrtr_dim": 32, "num_decoder_layers": 1}))
