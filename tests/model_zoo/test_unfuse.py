"""Training branches made anew from a fused form: the same function, in training as well."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_models import card_network, fill, small_config
from tiny_training import TinyBatches, tiny_v4_config

from paddle2torch.model_zoo.config import Component
from paddle2torch.model_zoo.layers import BatchNorm2d
from paddle2torch.model_zoo.network import Network, build_model, fuse, unfuse
from paddle2torch.training.initialisation import initialise, measure_statistics


def made_anew(network: Network) -> tuple[Network, Network, tuple[str, ...]]:
    """The fused form, a training form that was made of it, and which normalisations were made anew."""
    fused = fuse(network)
    torch.manual_seed(7)
    training = build_model(fused.config.with_form("training"))
    initialise(training)
    return fused, training, unfuse(fused, training)


@pytest.mark.parametrize(
    "name", ["ch_PP-OCRv4_det", "ch_RepSVTR_rec", "PP-OCRv6_tiny_det", "PP-OCRv6_tiny_rec", "PP-OCRv6_medium_det"]
)
def test_branches_made_anew_fuse_to_what_they_were_made_of(name: str) -> None:
    """Of every kind of sum and of every fused convolution that the networks have."""
    fused, training, made = made_anew(card_network(name))
    assert made
    again = fuse(training).state_dict()
    for key, tensor in fused.state_dict().items():
        assert (again[key] - tensor).abs().max() <= 1e-6 * tensor.abs().max(), key


def test_a_kernel_of_nothing_and_one_branch_alone_are_made_anew() -> None:
    """What a pruned channel, or a whole pruned layer, has left; a division by its size would be no number."""
    small = build_model(small_config(nrtr=False))
    fill(small)
    for one in (small, build_model(tiny_v4_config(head={"nrtr": None}))):
        fused = copy.deepcopy(fuse(one))
        with torch.no_grad():
            fused.backbone.blocks3[0].dw_conv.reparam_conv.weight[0] = 0
            fused.backbone.blocks3[1].pw_conv.reparam_conv.weight.zero_()
        _, training, _ = made_anew(fused)
        again = fuse(training).state_dict()
        for key, tensor in fused.state_dict().items():
            assert torch.allclose(again[key], tensor, rtol=0, atol=1e-6 * max(1.0, float(tensor.abs().max()))), key


def test_what_the_fused_form_has_as_it_is_stays_as_it_is() -> None:
    """An older export of RepSVTR has its sums, a classifier has none: nothing of them is made anew."""
    network = card_network("ch_RepSVTR_rec")
    backbone = Component("RepSVTR", {**network.config.backbone.options, "keep_branches": True})
    kept = build_model(replace(network.config, backbone=backbone))
    fill(kept)
    for one in (kept, card_network("PP-LCNet_x0_25_textline_ori")):
        fused, training, made = made_anew(one)
        assert not made
        assert all(torch.equal(training.state_dict()[key], tensor) for key, tensor in fused.state_dict().items())


def test_measured_statistics_make_training_compute_what_evaluation_does() -> None:
    network = build_model(tiny_v4_config(head={"nrtr": None}))
    initialise(network)
    fused, training, made = made_anew(network)
    image = next(iter(TinyBatches(True)))["image"]
    apart = []
    for measured in ((), made):
        measure_statistics(training, measured, [image])
        with torch.no_grad():
            expected, features = fused(image), fused.backbone(image)
            assert (training(image) - expected).abs().max() <= 1e-5
            trained = copy.deepcopy(training)
            for name in made:
                trained.get_submodule(name).train()
            apart.append(float((trained.backbone(image) - features).norm() / features.norm()))
    assert apart[1] < 1e-3 < 0.1 < apart[0]
    norm = training.get_submodule(made[0])
    assert isinstance(norm, BatchNorm2d)
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))
