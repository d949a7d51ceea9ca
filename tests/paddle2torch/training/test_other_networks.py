"""Training of networks that only PaddleOCR's settings know: they learn, and start as Paddle starts them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import TinyBatches, tiny_config, tiny_settings
from torch import nn

from paddle2torch.model_zoo.config import Component, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.db import DBFPN, DBHead
from paddle2torch.model_zoo.deformable import DeformableConvV2
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.resnet import ResNet
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.losses import losses_of
from paddle2torch.training.official import official_settings
from paddle2torch.training.optimisation import treatments
from paddle2torch.training.settings import DBLossSettings, OptimizerSettings
from paddle2torch.training.trainer import train

SVTR: dict[str, Any] = {
    "img_size": [48, 64],
    "out_char_num": 12,
    "out_channels": 16,
    "embed_dim": [8, 12, 16],
    "depth": [1, 2, 1],
    "num_heads": [2, 3, 4],
    "mixer": ["Local", "Conv", "Global", "Local"],
    "local_mixer": [[3, 5], [3, 3], [1, 4]],
}
RESHAPE = Component("SequenceEncoder", {"encoder_type": "reshape"})
STN = Component("STN_ON", {"tps_inputsize": [32, 64], "tps_outputsize": [48, 64], "num_control_points": 6})
ONE_SIZE = RecPreprocess((3, 48, 64), max_width=64)


def alone(**changes: Any) -> ModelConfig:
    """A recogniser with a CTC head alone."""
    config = tiny_config(preprocess=ONE_SIZE, neck=RESHAPE, **changes)
    return ModelConfig(**{**vars(config), "head": Component("CTCHead", {"classes": config.classes})})


def spread(network: nn.Module, name: str) -> float:
    """The standard deviation of a parameter's values."""
    return float(network.get_parameter(name).detach().std())


MV3 = Component("MobileNetV3", {"scale": 0.35, "model_name": "small", "small_stride": [1, 2, 2, 2]})
LSTM = Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": 8})
CONFIGS = {
    "mv3 with lstm": replace(alone(backbone=MV3), neck=LSTM),
    "svtr with stn": alone(backbone=Component("SVTRNet", {**SVTR, "prenorm": False}), transform=STN),
    "svtr of poolings": alone(backbone=Component("SVTRNet", {**SVTR, "patch_merging": "Pool"})),
    "svtr with nrtr": tiny_config(
        preprocess=ONE_SIZE,
        backbone=Component("SVTRNet", {**SVTR, "last_stage": False}),
        head={"use_pool": True, "use_pos": True},
    ),
    "mv3 with tps": alone(
        backbone=MV3,
        transform=Component("TPS", {"num_fiducial": 6}),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_learns(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    torch.manual_seed(0)
    result = train(tiny_settings(tmp_path, training={"epochs": 1}), config, make_batches=TinyBatches.make)
    assert result.steps == 5
    losses = [float(line.split(",")[3]) for line in (tmp_path / "train.csv").read_text().splitlines()[1:]]
    assert all(np.isfinite(losses))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(CONFIGS[name])
    initialise(network)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.01)  # what starts at zero lets no gradient through
    batch = next(iter(TinyBatches(True)))
    losses_of(network(batch["image"], batch), batch, tiny_settings(Path()).loss)["loss"].backward()
    without = [key for key, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # The guide leaves the backbone to the other head, and embeddings of symbols that no label has stay.
    assert [key for key in without if not key.endswith(("qkv.bias", "conv.bias", "0.bias"))] == []
    # In Paddle, too, this layer never learns.
    frozen = {key for key, p in network.named_parameters() if not p.requires_grad}
    still = {f"transform.grid_generator.fc.{kind}" for kind in ("weight", "bias")}
    assert frozen == (still if "tps" in name else set())


def test_what_finds_the_text_learns_slowly() -> None:
    network = build_model(CONFIGS["mv3 with tps"])
    found = treatments(network, OptimizerSettings(1e-3))
    slow = {key.removeprefix("transform.loc_net.") for key, treatment in found.items() if treatment.lr_factor == 0.1}
    assert slow == {"fc1.weight", "fc2.weight", "fc2.bias"}


def test_transforms_start_as_in_paddle() -> None:
    torch.manual_seed(0)
    tps = build_model(CONFIGS["mv3 with tps"])
    initialise(tps)
    # PaddleOCR's get_initial_fiducials: edges that run towards each other.
    expected = [-1, 0, 0, -0.5, 1, -1, -1, 1, 0, 0.5, 1, 0]
    assert tps.get_parameter("transform.loc_net.fc2.bias").tolist() == expected
    assert not tps.get_parameter("transform.loc_net.fc2.weight").any()
    bound = 128**-0.5
    fc1 = tps.get_parameter("transform.loc_net.fc1.weight").detach()
    assert 0.95 * bound < float(fc1.abs().max()) <= bound
    stn = build_model(CONFIGS["svtr with stn"])
    initialise(stn)
    frame = [0.01, 0.01, 0.5, 0.01, 0.99, 0.01, 0.01, 0.99, 0.5, 0.99, 0.99, 0.99]
    assert stn.get_parameter("transform.stn_head.stn_fc2.bias").tolist() == pytest.approx(frame)
    assert spread(stn, "transform.stn_head.stn_fc1.0.weight") == pytest.approx(1e-3, rel=0.02)
    assert spread(stn, "transform.stn_head.stn_convnet.4.0.weight") == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    # The image is straightened to itself but for the margins, where nothing is known of it yet.
    image = torch.linspace(-1, 1, 64).expand(1, 3, 48, 64)
    with torch.no_grad():
        straight = stn.eval().transform(image)
    assert float((straight - image).abs().max()) < 0.12


def test_svtrnet_starts_as_in_paddle() -> None:
    torch.manual_seed(0)
    network = build_model(alone(backbone=Component("SVTRNet", {**SVTR, "embed_dim": [48, 48, 64]})))
    initialise(network)
    assert spread(network, "backbone.position.pos_embed") == pytest.approx(0.02, rel=0.05)
    assert spread(network, "backbone.blocks1.0.mlp.fc1.weight") == pytest.approx(0.02, rel=0.05)
    # Paddle's KaimingNormal counts the channels of one group: 16 here.
    std = (2 / (16 * 9)) ** 0.5
    assert spread(network, "backbone.blocks2.0.mixer.local_mixer.weight") == pytest.approx(std, rel=0.05)
    patch = network.get_parameter("backbone.patch_embed.proj.1.conv.weight").detach()
    limit = (6 / (24 * 9)) ** 0.5
    assert 0.98 * limit < float(patch.abs().max()) <= limit


def test_a_deformable_detector_learns_to_move_its_taps() -> None:
    torch.manual_seed(0)
    backbone = ResNet(layers=50, dcn_stage=[False, False, False, True])
    neck = DBFPN(backbone.out_channels, out_channels=16, use_asf=True)
    network = nn.Sequential(backbone, neck, DBHead(16)).train()
    initialise(network)
    (moving, *others) = (module for module in network.modules() if isinstance(module, DeformableConvV2))
    assert len(others) == 2
    assert not moving.conv_offset.weight.any()
    batch = next(iter(TinyBatches(True, det=True)))
    losses_of(network(batch["image"]), batch, DBLossSettings())["loss"].backward()
    gradient = moving.conv_offset.weight.grad
    assert gradient is not None
    # Of the taps' shifts and of their weights.
    assert gradient[:18].any()
    assert gradient[18:].any()
    weight = moving.conv_dcn.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)


def test_the_recipe_of_lines_of_one_size() -> None:
    for config, padding in ((CONFIGS["svtr of poolings"], {}), (CONFIGS["mv3 with tps"], {"padding": False})):
        if padding:
            preprocess = RecPreprocess((3, 48, 64), max_width=64, keep_ratio=False)
            config = ModelConfig(**{**vars(config), "preprocess": preprocess})
        split = official_settings(config, pretrained=None).data.train
        assert (split.dataset.name, split.sampler) == ("SimpleDataSet", None)
        options = {step.name: step.options for step in split.dataset.transforms}
        assert options["RecResizeImg"] == {"image_shape": [3, 48, 64], **padding}
