"""Schedules against Paddle's own values; which parameter is trained how; what is frozen; averages; new weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from goldens.make_optimisation import OPTIMISERS, PARAMETERS, SCHEDULES, STEPS, gradient, values
from material import TESTS
from tiny_training import tiny_config, tiny_det_config, tiny_v4_config
from torch import nn

from paddle2torch.model_zoo.config import Component
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.initialisation import adopt, initialise
from paddle2torch.training.optimisation import (
    MovingAverage,
    Schedule,
    build_optimizer,
    clip_gradients,
    freeze,
    leave_out_unused,
    set_rate,
    set_training,
    treatments,
)
from paddle2torch.training.optimisation_yml import read_optimizer, read_schedule
from paddle2torch.training.settings import OptimizerSettings, ScheduleSettings
from paddle2torch.training.yml_reader import Reader

# What paddle.optimizer.lr of paddlepaddle 3.3.1 returns step by step.
PADDLE_COSINE = (5e-4, 0.0004809698831278217, 0.0004267766952966369, 0.00034567085809127253, 2.5e-4)
PADDLE_COSINE_AFTER_WARM_UP = {
    **{0: 0.0, 1: 5e-5, 9: 4.5e-4, 10: 5e-4, 11: 0.0004972077065562821, 12: 0.0004888932014465351},
    **{17: 0.000375, 20: 0.00026868252339660607},
}
PADDLE_LINEAR = (1e-3, 0.00076796875, 0.000566875, 0.00039671875, 0.0002575, 0.00014921875, 7.1875e-05, 2.546875e-05)
PADDLE_PIECEWISE = (0.0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5)


def test_cosine_is_paddles() -> None:
    schedule = Schedule(5e-4, ScheduleSettings(), steps_per_epoch=4, epochs=2)
    assert [schedule.rate(step) for step in range(5)] == pytest.approx(PADDLE_COSINE)


def test_cosine_starts_after_the_warm_up() -> None:
    """3 epochs of 7 steps, 1.5 of them warm-up: round(10.5) is 10, as Python rounds; and the end is far from 0."""
    schedule = Schedule(5e-4, ScheduleSettings(warmup_epoch=1.5), steps_per_epoch=7, epochs=3)
    for step, rate in PADDLE_COSINE_AFTER_WARM_UP.items():
        assert schedule.rate(step) == pytest.approx(rate), step


def test_other_schedules_are_paddles() -> None:
    schedule = Schedule(1e-3, ScheduleSettings("Linear", end_lr=1e-5, power=2.0), steps_per_epoch=4, epochs=2)
    assert [schedule.rate(step) for step in range(8)] == pytest.approx(PADDLE_LINEAR)
    assert schedule.rate(9) == pytest.approx(1e-5)
    settings = ScheduleSettings("Piecewise", warmup_epoch=1, decay_epochs=(2, 3), values=(1e-3, 1e-4, 1e-5))
    schedule = Schedule(1.0, settings, steps_per_epoch=2, epochs=5)
    assert [schedule.rate(step) for step in range(10)] == pytest.approx(PADDLE_PIECEWISE)
    assert Schedule(0.5, ScheduleSettings("Const"), steps_per_epoch=2, epochs=2).rate(3) == 0.5


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    """What PaddleOCR's optimisers and schedules do under Paddle."""
    with np.load(TESTS / "goldens" / "optimisation.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_of_a_yml_is_stepped_as_paddle_steps_it(official: dict[str, Any], name: str) -> None:
    options, epochs, steps = SCHEDULES[name]
    reader = Reader({"Optimizer": {"name": "Adam", "lr": options}}, name)
    lr, settings = read_schedule(reader, epochs)
    schedule = Schedule(lr, settings, steps, epochs)
    rates = [schedule.rate(step) for step in range(epochs * steps)]
    assert len(rates) == 280 or epochs == 300
    # Paddle makes some of them from the rate before; near 0 that adds up.
    np.testing.assert_allclose(rates, official[f"rate/{name}"], rtol=1e-9, atol=1e-17)


class Own(nn.Module):
    """Sets an L2 for its parameters, as the last layer of CTC does."""

    DECAY_SETTING = "fc_decay"


class Affine(nn.Module):
    """Has a factor on the rate."""

    RATE_SETTING = "lab_lr"


def small_network() -> nn.Module:
    """The network of the goldens, float64."""
    network, parts = nn.Module(), {"own": Own(), "lab": Affine()}
    for name in PARAMETERS:
        *path, last = name.split(".")
        parent = network
        for part in path:
            parent = parts.setdefault(part, nn.Module())
            network.add_module(part, parent)
        parent.register_parameter(last, nn.Parameter(torch.from_numpy(values(name))))
    return network


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_moves_parameters_as_paddle_moves_them(official: dict[str, Any], name: str) -> None:
    """Words and dimensions without decay, a layer's own L2, factors on the rate, clipping: float64, five steps."""
    reader = Reader({"Optimizer": dict(OPTIMISERS[name]), "Architecture": {"Head": {}}}, name)
    settings = read_optimizer(reader, "det", 0.01)
    settings = replace(settings, fc_decay=0.125)
    network = small_network()
    optimizer = build_optimizer(network, settings)
    schedule = Schedule(0.01, ScheduleSettings(), STEPS, 2)
    for step in range(STEPS):
        set_rate(optimizer, schedule.rate(step))
        for key, parameter in network.named_parameters():
            parameter.grad = torch.from_numpy(gradient(key, step))
        if settings.clip_norm_global is not None:
            clip_gradients(network.parameters(), settings.clip_norm_global)
        optimizer.step()
        for key, parameter in network.named_parameters():
            expected = official[f"{name}/{key}"][step]
            np.testing.assert_allclose(parameter.detach(), expected, rtol=0, atol=1e-12, err_msg=f"{key}, {step}")


def test_layers_say_how_they_are_trained() -> None:
    network = build_model(tiny_v4_config())
    treated = treatments(network, OptimizerSettings(1.0, l2=3e-5, fc_decay=1e-5))
    assert treated.keys() == dict(network.named_parameters()).keys()
    expected = {
        "backbone.conv1.bn.weight": (1.0, 0.0),
        "backbone.blocks3.1.dw_conv.conv_kxk.0.bn.bias": (1.0, 0.0),
        "backbone.blocks3.1.dw_conv.conv_1x1.bn.weight": (1.0, 0.0),
        "backbone.blocks3.1.dw_conv.identity.weight": (1.0, 3e-5),  # no ConvBN: it keeps the decay
        "backbone.blocks3.1.dw_conv.conv_kxk.0.conv.weight": (1.0, 3e-5),
        "backbone.blocks3.1.dw_conv.lab.scale": (0.1, 3e-5),
        "backbone.blocks3.1.dw_conv.act.lab.bias": (0.1, 3e-5),
        "head.ctc_encoder.encoder.conv1.norm.weight": (1.0, 3e-5),
        "head.ctc_head.fc.weight": (1.0, 1e-5),
        "head.ctc_head.fc.bias": (1.0, 1e-5),
        "head.gtc_head.embedding.embedding.weight": (1.0, 3e-5),
    }
    for name, (factor, l2) in expected.items():
        assert (treated[name].lr_factor, treated[name].l2) == (factor, l2), name


def test_the_server_backbone_normalises_without_decay() -> None:
    network = build_model(tiny_config(backbone=Component("PPHGNet_small"), freeze_backbone=True))
    treated = treatments(network, OptimizerSettings(1.0, l2=3e-5))
    norms = {name: one.l2 for name, one in treated.items() if ".bn." in name and name.startswith("backbone.")}
    assert norms
    assert not any(norms.values())
    assert treated["backbone.stem.0.conv.weight"].l2 == 3e-5
    assert treated["head.ctc_encoder.encoder.conv1.norm.weight"].l2 == 3e-5


def test_l2_is_coupled_and_rates_have_factors() -> None:
    """The first step of Adam is the rate times the sign of gradient + l2 * weight: decoupled decay would differ."""
    network = build_model(tiny_v4_config())
    settings = OptimizerSettings(0.1, l2=1.0, fc_decay=0.0)
    optimizer = build_optimizer(network, settings)
    set_rate(optimizer, 0.2)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())

    def moved(name: str) -> torch.Tensor:
        return (after[name] - before[name]).detach()

    name = "backbone.blocks3.1.dw_conv.conv_kxk.0.conv.weight"
    torch.testing.assert_close(moved(name), -0.2 * before[name].sign(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(moved("backbone.blocks3.1.dw_conv.lab.scale"), torch.tensor([-0.02]))
    assert not moved("head.ctc_head.fc.weight").any()
    assert not moved("backbone.conv1.bn.weight").any()


def test_frozen_normalisation_keeps_its_statistics() -> None:
    network = build_model(tiny_v4_config())
    names = freeze(network, ("backbone.*", "head.ctc_head.fc.bias"))
    assert "head.ctc_head.fc.bias" in names
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    set_training(network)
    batch = {"label_gtc": torch.tensor([[2, 4, 3, 0]]), "length": torch.tensor([1])}
    out = network(torch.randn(1, 3, 48, 64), batch)
    sum(part.sum() for part in out.values()).backward()
    optimizer = build_optimizer(network, OptimizerSettings(0.1, l2=0.1))
    optimizer.step()
    for name, tensor in network.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(network.head.ctc_encoder.encoder.conv1.norm.running_mean, torch.zeros(2))
    # The mode of the modules around them is still training: the backbone pools to 40 steps there.
    assert network.backbone.training
    assert out["ctc"].shape[1] == 40


def test_freezing_nothing_or_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no parameter has a name like 'backbon\.\*'"):
        freeze(build_model(tiny_config()), ("backbon.*",))
    with pytest.raises(ConfigError, match="leave nothing to train"):
        freeze(build_model(tiny_config()), ("*",))
    assert freeze(build_model(tiny_config()), ()) == ()


def test_activations_that_never_run_take_no_gradient() -> None:
    """The detector's layers of stride 2 hold an affine that Paddle never runs, and never trains."""
    network = build_model(tiny_det_config())
    leave_out_unused(network)
    network.train()(torch.randn(2, 3, 64, 64))["maps"].sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert unused == [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert unused
    assert all(".dw_conv.act.lab." in name for name in unused)


def test_average_forgets_the_start_first() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = MovingAverage(network, decay=0.5)
    value, shadow = network[0].weight.item(), 0.0
    for step in range(30):
        value += 1.0
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * value
        expected = shadow / (1 - decay ** (step + 1))
    state = average.state_dict(network)
    assert state["0.weight"].item() == pytest.approx(expected)
    assert state["1.running_mean"].item() == pytest.approx(expected, rel=0.05)
    assert state["1.num_batches_tracked"].item() == 0


def test_the_average_of_a_constant_is_a_little_too_large_as_paddles() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average = MovingAverage(network, decay=0.9998)
    read = []
    for step in range(2000):
        average.update(step)
        read.append(average.tensors["weight"].item())
    assert [round(read[count - 1], 4) for count in (1, 2, 5, 20, 2000)] == [1.0, 1.0154, 1.0053, 1.0006, 1.0001]


def test_repsvtr_starts_with_nothing_added() -> None:
    network = build_model(tiny_config(backbone=Component("RepSVTR")))
    initialise(network)
    last = {
        name: float(tensor.abs().max())
        for name, tensor in network.state_dict().items()
        if ".channel_mixer." in name and name.endswith(".bn.weight")
    }
    assert {value for name, value in last.items() if ".m.2." in name} == {0.0}
    assert {value for name, value in last.items() if ".m.0." in name} == {1.0}


@pytest.fixture
def pretrained() -> Network:
    torch.manual_seed(1)
    network = build_model(tiny_config(charset=("a", " ", "b", " ")))
    initialise(network)
    return network


def test_the_same_set_takes_everything_over(pretrained: Network) -> None:
    network = build_model(pretrained.config)
    adopted = adopt(network, pretrained)
    assert adopted.lines() == []
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, pretrained.state_dict()[name]), name


def test_a_new_set_keeps_the_rows_of_shared_characters(pretrained: Network) -> None:
    """Of the two spaces the last one is trained; `b` moves; `é` is new."""
    torch.manual_seed(2)
    network = build_model(tiny_config(charset=("b", "é", " ", "a")))
    initialise(network)
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adopted = adopt(network, pretrained)
    assert adopted.shared == ("b", " ", "a")
    assert adopted.added == ("é",)
    assert "3 characters keep their rows, 0 are left out, 1 start anew: é" in adopted.lines()[0]
    old, new = pretrained.state_dict(), network.state_dict()
    for key, first, extra in (
        ("head.ctc_head.fc.weight", 1, 0),
        ("head.ctc_head.fc.bias", 1, 0),
        ("head.gtc_head.embedding.embedding.weight", 4, 1),
        ("head.gtc_head.tgt_word_prj.weight", 4, 1),
    ):
        assert torch.equal(new[key][:first], old[key][:first]), key
        for place, origin in ((0, 2), (2, 3), (3, 0)):
            assert torch.equal(new[key][first + place], old[key][first + origin]), (key, place)
        assert torch.equal(new[key][first + 1], fresh[key][first + 1]), key
        if extra:
            assert torch.equal(new[key][-1], old[key][-1])
    assert torch.equal(new["backbone.conv1._conv.weight"], old["backbone.conv1._conv.weight"])


def test_a_sar_head_keeps_the_rows_of_shared_characters() -> None:
    """Its characters count from 0; unknown, ends and padding come after them."""
    sar = {"nrtr": None, "sar": {"enc_dim": 8, "d_k": 4}}
    old = build_model(tiny_config(charset=("a", "b", "c"), head=sar))
    initialise(old)
    new = build_model(tiny_config(charset=("c", "x", "a"), head=sar))
    adopt(new, old)
    before, after = old.state_dict(), new.state_dict()
    for key, extra in (("embedding.weight", 3), ("prediction.weight", 2), ("prediction.bias", 2)):
        name = f"head.sar_head.decoder.{key}"
        assert torch.equal(after[name][[0, 2]], before[name][[2, 0]]), name
        assert torch.equal(after[name][-extra:], before[name][-extra:]), name
        assert not torch.equal(after[name][1], before[name][1]), name
    assert not old.head.sar_head.decoder.embedding.weight.std() > 0.5  # Paddle's Xavier, not NRTR's


def test_a_smaller_set_says_what_is_left_out(pretrained: Network) -> None:
    adopted = adopt(build_model(tiny_config(charset=("a",))), pretrained)
    assert adopted.left_out == (" ", "b")
    assert adopted.lines() == ["character set: 1 characters keep their rows, 2 are left out, 0 start anew"]


def test_a_model_without_the_second_head_gets_a_new_one(pretrained: Network) -> None:
    exported = build_model(tiny_config(charset=("a", " ", "b", " "), head={"nrtr": None}))
    adopted = adopt(pretrained, exported)
    assert adopted.new
    assert all(name.startswith(("head.gtc_head.", "head.before_gtc.")) for name in adopted.new)
    assert "start anew" in adopted.lines()[0]
    assert "alone train the backbone (head.ctc.use_guide)" in adopted.lines()[1]


def test_another_architecture_is_refused(pretrained: Network) -> None:
    other = build_model(tiny_config(head={"nrtr": {"nrtr_dim": 64, "num_decoder_layers": 1, "max_text_length": 12}}))
    with pytest.raises(ConfigError, match=r"cannot start from tiny: .* of another shape"):
        adopt(other, pretrained)


def test_new_weights_have_paddles_distributions() -> None:
    """Standard deviations and limits as measured from paddlepaddle 3.3.1's initialisers."""
    torch.manual_seed(0)
    network = build_model(tiny_v4_config(charset=tuple(chr(0x4E00 + i) for i in range(500))))
    initialise(network)
    state = network.state_dict()

    def std(name: str) -> float:
        return float(state[name].std())

    conv = state["backbone.blocks6.1.pw_conv.conv_kxk.0.conv.weight"]
    assert std("backbone.blocks6.1.pw_conv.conv_kxk.0.conv.weight") == pytest.approx(math.sqrt(2 / conv.shape[1]), 0.1)
    depthwise = state["backbone.blocks6.1.dw_conv.conv_kxk.0.conv.weight"]
    assert float(depthwise.std()) == pytest.approx(math.sqrt(2 / 25), 0.1)
    assert std("head.ctc_encoder.encoder.svtr_block.0.mixer.qkv.weight") == pytest.approx(0.02, 0.1)
    fc = state["head.ctc_head.fc.weight"]
    assert float(fc.abs().max()) == pytest.approx(16**-0.5, 0.01)
    assert std("head.ctc_head.fc.bias") == pytest.approx(16**-0.5 / math.sqrt(3), 0.1)
    assert std("head.gtc_head.tgt_word_prj.weight") == pytest.approx(32**-0.5, 0.05)
    assert std("head.gtc_head.embedding.embedding.weight") == pytest.approx(32**-0.5, 0.05)
    qkv = state["head.gtc_head.decoder.0.self_attn.qkv.weight"]
    assert float(qkv.abs().max()) == pytest.approx(math.sqrt(6 / (32 + 96)), 0.01)
    assert not state["head.gtc_head.decoder.0.self_attn.qkv.bias"].any()
    assert float(state["head.ctc_encoder.encoder.conv3.conv.weight"].abs().max()) == pytest.approx(
        math.sqrt(6 / 16), 0.02
    )

    det = build_model(tiny_det_config())
    initialise(det)
    state = det.state_dict()
    up = state["head.thresh.conv2.weight"]
    assert float(up.abs().max()) == pytest.approx(math.sqrt(6 / (up.shape[1] * 4)), 0.05)
    assert float(state["head.thresh.conv_bn1.bias"].mean()) == pytest.approx(1e-4)
    assert not state["backbone.layer_list.0.bias"].any()
