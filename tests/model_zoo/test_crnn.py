"""The recognisers with one head: the LSTM behind its step to a sequence, the SVTR neck before it, and CTC alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import fill
from structure import image, parameters, patterns

from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.crnn import SequenceEncoder
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.model_zoo.rec_heads import SingleCTCHead


def recogniser(backbone: Component, neck: dict[str, Any], classes: int, **head: Any) -> Network:
    config = ModelConfig(
        name="crnn",
        task="rec",
        form="training",
        backbone=backbone,
        neck=Component("SequenceEncoder", neck),
        head=Component("CTCHead", {"classes": classes, **head}),
        preprocess=RecPreprocess(image_shape=(3, 32, 320)),
        postprocess=CTCDecode(),
        charset=tuple(map(chr, range(0x4E00, 0x4E00 + classes - 1))),
    )
    with torch.device("meta"):
        return build_model(config)


LSTM = {
    f"neck.encoder.lstm.{kind}_{source}_lN{direction}": 2
    for kind in ("weight", "bias")
    for source in ("ih", "hh")
    for direction in ("", "_reverse")
}


def test_mobile_recogniser_of_v2_0() -> None:
    options = {"scale": 0.5, "model_name": "small", "small_stride": [1, 2, 2, 2]}
    model = recogniser(Component("MobileNetV3", options), {"encoder_type": "rnn", "hidden_size": 48}, 6625)
    found = {key: count for key, count in patterns(model).items() if not key.startswith("backbone.")}
    assert found == {**LSTM, "head.fc.weight": 1, "head.fc.bias": 1}
    assert len(model.state_dict()) == 229
    assert parameters(model) == 1_081_377
    # An export has the same tensors.
    assert list(fuse(model).state_dict()) == list(model.state_dict())


def test_recogniser_of_v2() -> None:
    neck = {"encoder_type": "rnn", "hidden_size": 64}
    model = recogniser(Component("MobileNetV1Enhance", {"scale": 0.5}), neck, 6625, mid_channels=96)
    found = {key: count for key, count in patterns(model).items() if not key.startswith("backbone.")}
    assert found == {**LSTM, "head.fcN.weight": 2, "head.fcN.bias": 2}
    assert parameters(model) == 2_066_433


def test_single_head_layout_of_v3() -> None:
    svtr = {"dims": 64, "depth": 2, "hidden_dims": 120}
    pooling = {"last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]}
    backbone = Component("MobileNetV1Enhance", {"scale": 0.5, **pooling})
    model = recogniser(backbone, {"encoder_type": "svtr", "svtr": svtr}, 97)
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("neck.")} == {"encoder"}
    assert patterns(model)["neck.encoder.svtr_block.N.mixer.qkv.weight"] == 2
    assert len(model.state_dict()) == 196


def test_lstm_reads_both_ways_after_the_step_to_a_sequence() -> None:
    encoder = SequenceEncoder(5, encoder_type="rnn", hidden_size=4).eval()
    fill(encoder)
    x = image(2, 5, 1, 9)
    with torch.no_grad():
        out = encoder(x)
        assert out.shape == (2, 9, encoder.out_channels) == (2, 9, 8)
        torch.testing.assert_close(out[1:], encoder(x[1:]))
        for step in (0, 8):
            x[..., step] += 1
        changed = encoder(x) - out
    # Every step sees both ends.
    assert (changed.abs().amax((0, 2)) > 0).all()


def test_lstm_by_the_formula() -> None:
    """Gates i, f, g, o, two biases each, two layers, each of two directions side by side."""
    encoder = SequenceEncoder(3, encoder_type="rnn", hidden_size=2).double()
    fill(encoder)
    weights = {key.removeprefix("encoder.lstm."): value for key, value in encoder.state_dict().items()}
    x = image(1, 3, 1, 5).double()

    def direction(sequence: list[torch.Tensor], suffix: str) -> list[torch.Tensor]:
        h, c, outputs = torch.zeros(2).double(), torch.zeros(2).double(), []
        for value in sequence:
            gates = weights[f"weight_ih_{suffix}"] @ value + weights[f"bias_ih_{suffix}"]
            gates = gates + weights[f"weight_hh_{suffix}"] @ h + weights[f"bias_hh_{suffix}"]
            i, f, g, o = gates.split(2)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return outputs

    sequence = list(x[0, :, 0].T)
    for layer in range(2):
        forward = direction(sequence, f"l{layer}")
        backward = direction(sequence[::-1], f"l{layer}_reverse")[::-1]
        sequence = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[0], torch.stack(sequence))


def test_other_encoders_are_refused() -> None:
    with pytest.raises(ConfigError, match="not rnn, svtr, lightsvtr or reshape"):
        SequenceEncoder(8, encoder_type="fc")


@pytest.mark.parametrize("mid_channels", [None, 6])
def test_head_is_one_matrix_or_two(mid_channels: int | None) -> None:
    head = SingleCTCHead(5, classes=7, mid_channels=mid_channels)
    fill(head)
    x = image(2, 4, 5)
    with torch.no_grad():
        logits = head.train()(x)["ctc"]
        layers = [head.fc] if mid_channels is None else [head.fc1, head.fc2]
        expected = x
        for layer in layers:
            expected = expected @ layer.weight.T + layer.bias
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(head.eval()(x), logits.softmax(-1))
