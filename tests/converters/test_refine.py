"""Exported networks of sizes that no official one has, and of parts that no official one joins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import small_config

from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_onnx
from paddle2torch.converters.refine import _resized
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.config import Component, ModelConfig
from paddle2torch.model_zoo.network import fuse

pytest.importorskip("onnx")
import onnx_writer

SVTR = {"dims": 96, "depth": 1, "hidden_dims": 64, "kernel_size": [3, 3], "use_guide": True}
REC, DET = replace(small_config(), preprocess=onnx_writer.CONFIGS["rec"].preprocess), onnx_writer.CONFIGS["det"]


def rec(scale: float, **svtr: object) -> ModelConfig:
    head = Component("MultiHead", {"classes": 8, "ctc": {**SVTR, **svtr}, "nrtr": None})
    return replace(REC, backbone=Component("PPLCNetV3", {"scale": scale}), head=head)


def det(scale: float, neck: str, width: int) -> ModelConfig:
    backbone = Component("PPLCNetV3", {"scale": scale, "det": True})
    return replace(DET, backbone=backbone, neck=Component(neck, {"out_channels": width}))


NETWORKS = {
    "dims 96, depth 1": rec(0.5),
    "three blocks, wide mlp": rec(0.25, depth=3, mlp_ratio=4.0),
    "no block": rec(0.35, depth=0),
    "RSEFPN of 64 channels": det(0.5, "RSEFPN", 64),
    "LKPAN behind PPLCNetV3": det(0.35, "LKPAN", 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_of_ones_own_are_read_from_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = NETWORKS[name]
    task = config.task
    monkeypatch.setitem(onnx_writer.CONFIGS, name, config)
    monkeypatch.setitem(onnx_writer.SHAPES, name, onnx_writer.SHAPES[task])
    characters = Charset(tuple("abcdefg"), False, "a test") if task == "rec" else None
    file = onnx_writer.write(tmp_path / "a.onnx", name)
    converted = convert_onnx(file, Template("own", "a test", charset=characters), name="own")
    expected = fuse(onnx_writer.network(name))
    assert converted.config.backbone == expected.config.backbone
    assert set(converted.state) == set(expected.state_dict())
    for key, tensor in expected.state_dict().items():
        assert torch.equal(converted.state[key], tensor), key


@pytest.mark.parametrize(
    ("branch", "expected"),
    [((16, 8, 3, 3), (24, 12, 3, 3)), ((16, 8, 1, 1), (24, 12, 1, 1)), ((16,), (24,)), ((1,), (1,))],
)
def test_branches_have_the_channels_of_their_sum_and_kernels_of_their_own(
    branch: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert _resized(branch, (16, 8, 3, 3), (24, 12, 3, 3)) == expected
