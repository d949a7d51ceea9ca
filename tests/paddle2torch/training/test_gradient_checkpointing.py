"""Blocks that are computed again: the same training, bit for bit, with less kept."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from tiny_training import TinyBatches, tiny_config, tiny_det_config, tiny_settings, tiny_v4_config
from torch import Tensor

from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import list_cards
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.batches import guide_targets
from paddle2torch.training.gradient_checkpointing import recompute_blocks
from paddle2torch.training.losses import losses_of


def step(network: Network, batch: dict[str, Tensor], settings: Any) -> int:
    """Forward and backward with dropout; returns the bytes that autograd kept in between."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(5)
    inputs = (guide_targets(batch),) if network.config.task == "rec" else ()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = losses_of(network(batch["image"], *inputs), batch, settings.loss)["loss"]
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize(
    "config", [tiny_config(), tiny_v4_config(), tiny_det_config()], ids=["v2's backbone", "v4's backbone", "detector"]
)
def test_gradients_statistics_and_random_numbers_are_the_same_bit_for_bit(tmp_path: Any, config: ModelConfig) -> None:
    torch.manual_seed(3)
    plain = build_model(config).train()
    frugal = copy.deepcopy(plain)
    recompute_blocks(frugal)
    det = config.task == "det"
    settings, batch = tiny_settings(tmp_path, det=det), next(iter(TinyBatches(True, det=det)))
    # A copy is a network of its own: running it leaves the statistics of this one alone.
    frugal = copy.deepcopy(frugal)
    kept, random = [], []
    for network in (plain, frugal):
        kept.append(step(network, batch, settings))
        random.append(torch.get_rng_state())
    assert torch.equal(*random)
    assert kept[1] < 0.8 * kept[0]
    for name, parameter in plain.named_parameters():
        gradient = frugal.get_parameter(name).grad
        assert parameter.grad is None or torch.equal(parameter.grad, gradient), name
    for name, statistics in plain.named_buffers():
        assert torch.equal(statistics, frugal.get_buffer(name)), name
    assert any(not torch.equal(a, b) for a, b in zip(plain.buffers(), build_model(config).buffers(), strict=True))


def test_every_backbone_of_the_zoo_has_such_blocks() -> None:
    configs = {}
    for template in map(from_card, list_cards()):
        described = template.architecture is not None and (template.task == "det" or template.charset is not None)
        if described and template.task != "cls":
            with contextlib.suppress(ConfigError):  # of some it is not known whether a space follows their characters
                config = template.config()
                configs.setdefault(config.backbone.name, config)
    assert len(configs) > 8
    for name, config in configs.items():
        with torch.device("meta"):
            assert recompute_blocks(build_model(config)) >= 4, name


def test_a_network_without_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.training.gradient_checkpointing.RECOMPUTED", "NEVER")
    with pytest.raises(
        ConfigError, match="gradient_checkpointing: this network has no blocks that could be computed again"
    ):
        recompute_blocks(build_model(tiny_config()))
