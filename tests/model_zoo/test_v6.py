"""PP-OCRv6: what the official code's numbers (`test_family_parity.py`) do not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from family_networks import golden, images, network
from goldens.family import SIZES
from torch import Tensor, nn

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.db import DBHead
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.forms.folded import Folded
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.layers import BatchNorm2d
from paddle2torch.model_zoo.lightsvtr import EncoderWithLightSVTR
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.model_zoo.pplcnetv4 import LCNetV4Block, PPLCNetV4
from paddle2torch.model_zoo.replk import BRANCHES, DilatedReparamBlock, RepLKFPN
from paddle2torch.parity.golden import OUTPUT, sample
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.optimisation import treatments
from paddle2torch.training.settings import OptimizerSettings

NAMES = [name for name in SIZES if "v6" in name]


def output_of(model: Network, x: Tensor) -> Tensor:
    with torch.inference_mode():
        result = model(x)
    return result["maps"] if isinstance(result, dict) else result


@pytest.mark.parametrize("name", NAMES)
def test_fused_and_folded_equal_paddles_output(name: str) -> None:
    model = network(name)
    *expected, largest = golden(name)[f"layer:{OUTPUT}"]
    count, height, width = SIZES[name]
    x = images("family", count, 3, height, width)
    fused, folded = fuse(model), fold(model)
    # Paddle's export keeps the normalisations of what has no `rep()`: tiny's stem and guide, the neck of the others.
    kept = {"tiny_rec": 4, "small_rec": 3, "medium_rec": 3, "medium_det": 4}.get(name.removeprefix("PP-OCRv6_"), 0)
    assert sum(isinstance(module, BatchNorm2d) for module in fused.modules()) == kept
    assert any(isinstance(module, Folded) for module in folded.modules())
    for form in (fused, folded):
        found = sample(output_of(form, x).numpy(), len(expected))
        assert np.abs(found - expected).max() <= 2e-5 * largest


@pytest.mark.parametrize("size", sorted(BRANCHES))
def test_dilated_kernels_are_one_large_kernel(size: int) -> None:
    torch.manual_seed(0)
    block, fused = DilatedReparamBlock(3, size, fused=False), DilatedReparamBlock(3, size, fused=True)
    for module in block.modules():
        if isinstance(module, BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    block.eval().double()
    fused.double().load_state_dict(block.folded())
    x = torch.randn(1, 3, 15, 17, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), block(x))


def test_an_official_block_starts_as_its_input() -> None:
    """The last normalisation of a block with a residual starts at zero, no other does."""
    backbone = PPLCNetV4(det=True, model_size="tiny")
    initialise(backbone)
    blocks = [module for module in backbone.modules() if isinstance(module, LCNetV4Block)]
    starts = [block.channel_mixer.get_submodule("compress.bn").weight.abs().max().item() for block in blocks]
    assert starts == [0.0 if block.has_residual else 1.0 for block in blocks]
    assert {block.has_residual for block in blocks} == {True, False}
    expand = [module for name, module in backbone.named_modules() if name.endswith("expand.bn")]
    assert all(norm.weight.min().item() == 1.0 for norm in expand)


def test_only_the_stem_trains_its_normalisations_without_decay() -> None:
    backbone = PPLCNetV4(det=True, model_size="tiny")
    free = {name for name, way in treatments(backbone, OptimizerSettings(lr=1e-3, l2=1e-6)).items() if way.l2 == 0.0}
    assert free == {f"stem.{part}.bn.{kind}" for part in STEM for kind in ("weight", "bias")}


STEM = ("stem1", "stem2a", "stem2b", "stem3", "stem4")


def test_auxiliary_maps_are_of_the_size_of_the_page() -> None:
    model = network("PP-OCRv6_tiny_det").train()
    with torch.no_grad():
        out = model(images("aux", 2, 3, 64, 96))
    assert {key: tuple(maps.shape) for key, maps in out.items()} == dict.fromkeys(
        ("maps", "aux_maps_p4", "aux_maps_p3", "aux_maps_p2"), (2, 3, 64, 96)
    )
    for maps in out.values():
        shrink, threshold, binary = maps.unbind(1)
        torch.testing.assert_close(binary, torch.sigmoid(50 * (shrink - threshold)))
    with pytest.raises(ValueError, match="a fused detector has no threshold branch"):
        fuse(model).train()(images("aux", 1, 3, 64, 64))
    head = DBHead(8, aux_in_channels=8)
    with pytest.raises(ValueError, match="train on the levels of a neck of v6"):
        head(torch.zeros(1, 8, 4, 4))


@pytest.mark.parametrize("guided", [True, False])
def test_the_light_neck_trains_the_backbone_unless_it_guides(guided: bool) -> None:
    neck = EncoderWithLightSVTR(6, dims=16, use_guide=guided)
    x = torch.randn(2, 6, 1, 5, requires_grad=True)
    neck(x).square().sum().backward()
    assert (x.grad is None) == guided


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PPLCNetV4(model_size="large"), "model_size is 'large', not one of tiny, small, medium"),  # type: ignore[arg-type]
        (lambda: RepLKFPN((8, 8), out_channels=8, dilated_kernel_size=6), "6 is not one of 5, 7, 9, 11, 13"),
    ],
)
def test_what_there_is_not(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_settings_of_earlier_releases() -> None:
    """They name classes and options that the last release does not have; it builds the small network then."""
    card = load_card("PP-OCRv6_small_det")
    assert card.architecture is not None
    settings: dict[str, Any] = {**card.architecture}
    settings["Backbone"] = {
        "name": "PPLCNetV4",
        "det": True,
        "stem_type": "branch",
        "use_rep": True,
        "config_name": "x",
    }
    settings["Neck"] = {**card.architecture["Neck"], "name": "UniRepLKFPN"}
    found = from_paddleocr(settings, "det", "a test")
    known = from_card(card).architecture
    assert known is not None
    assert replace(found, backbone=known.backbone) == known
    assert found.backbone.options == {"det": True}
