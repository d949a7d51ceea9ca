"""How long a step takes is told before the first one, and training is not touched by that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_training import TinyBatches, tiny_config, tiny_det_config, tiny_settings

from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.training import trainer
from paddle2torch.training.data.loaders import workers_here
from paddle2torch.training.losses import losses_of
from paddle2torch.training.official import official_settings
from paddle2torch.training.optimisation import leave_out_unused, set_training
from paddle2torch.training.probe import check_sizes, made_up_batch, seconds_per_batch
from paddle2torch.training.settings import LoaderSettings, MultiScaleSampler, Settings, Transform
from paddle2torch.training.trainer import train


def small(config: ModelConfig) -> Settings:
    """The recipe of a model with a batch of two; of pages, small ones."""
    settings = official_settings(config, pretrained=None)
    split = settings.data.train
    crop = Transform("EastRandomCropData", {"size": [64, 96]})
    transforms = tuple(crop if one.name == crop.name else one for one in split.dataset.transforms)
    split = replace(
        split,
        dataset=replace(split.dataset, transforms=transforms),
        loader=replace(split.loader, batch_size_per_card=2),
    )
    return replace(settings, data=replace(settings.data, train=split))


@pytest.mark.parametrize("config", [tiny_config(), tiny_det_config()], ids=["rec", "det"])
def test_a_made_up_batch_is_measured_and_nothing_else_changes(config: ModelConfig) -> None:
    settings = small(config)
    network = build_model(config)
    leave_out_unused(network)
    set_training(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    seconds = seconds_per_batch(settings, network, Accelerator(cpu=True))
    assert seconds is not None
    assert 0 < seconds < 60
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    batch = made_up_batch(settings, config)
    assert batch is not None
    assert batch["image"].shape == ((2, 3, 32, 64) if config.task == "rec" else (2, 3, 96, 64))


def test_sizes_are_tried_as_batches_have_them() -> None:
    """v2's backbone leaves one row of 48 pixels, and two of 63."""
    settings, network = small(tiny_config()), build_model(tiny_config())
    for scale, factor in (((64, 63), (8, 16)), ((64, 48), (1, 1))):
        split = replace(settings.data.train, sampler=MultiScaleSampler((scale,), divided_factor=factor))
        check_sizes(replace(settings, data=replace(settings.data, train=split)), network)
    split = replace(settings.data.train, sampler=MultiScaleSampler(((64, 63),), divided_factor=(1, 1)))
    with pytest.raises(ConfigError, match=r"64x63: .* leaves 2 rows"):
        check_sizes(replace(settings, data=replace(settings.data, train=split)), network)


def test_a_made_up_label_has_a_loss() -> None:
    config = tiny_config()
    settings = small(config)
    network = build_model(config)
    set_training(network)
    batch = made_up_batch(settings, config)
    assert batch is not None
    assert torch.isfinite(losses_of(network(batch["image"], batch), batch, settings.loss)["loss"])


def test_training_says_it_before_the_first_step_where_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "seconds_per_batch", lambda *_: 2.5)
    settings = tiny_settings(tmp_path / "short")
    train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert "an epoch has" not in capsys.readouterr().err
    monkeypatch.setattr(trainer, "LONG", 10)
    train(tiny_settings(tmp_path / "long"), tiny_config(), make_batches=TinyBatches.make)
    said = capsys.readouterr().err
    told = (
        "an epoch has 5 batches of 2.5 s, as a made-up one takes: 0:12 if the data keeps up; the 10 steps to the end of"
    )
    assert told in said
    assert said.index(told) < said.index("step 1/10")


def test_workers_are_those_that_the_machine_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.training.data.loaders.available_cores", lambda: 16)
    assert workers_here(LoaderSettings(4, num_workers=3), 1) == 3
    assert [workers_here(LoaderSettings(4), processes) for processes in (1, 4, 16)] == [8, 3, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert workers_here(LoaderSettings(4), 64) == 7
