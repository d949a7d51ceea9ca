"""The layout of transformers, the way in: what our export wrote comes back, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from onnx_writer import CONFIGS, network
from safetensors.torch import load_file, save_file

from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.transformers import _architecture, transformers_names
from paddle2torch.exporting.transformers import processor_config, transformers_config, transformers_state
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.folder import load_model
from paddle2torch.zoo.info import card_config


def written(folder: Path, task: str) -> Path:
    """The small network for a task as a folder for transformers."""
    folder.mkdir()
    model = network(task)
    state, _ = transformers_state(model)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(transformers_config(model)))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor_config(model.config)))
    return folder


def test_a_recogniser_comes_back_in_training_form(tmp_path: Path) -> None:
    conversion = convert("own", weights=written(tmp_path / "in", "rec"), output=tmp_path / "out")
    model, before = load_model(conversion.folder), network("rec").state_dict()
    assert model.config.form == "training"
    assert model.config.charset == CONFIGS["rec"].charset
    assert any("no second head" in note for note in conversion.notes)
    after = model.state_dict()
    assert set(before) - set(after) == {key for key in before if key.startswith(("head.gtc_head.", "head.before_gtc."))}
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())


@pytest.mark.slow
def test_a_detector_comes_back_in_fused_form(tmp_path: Path) -> None:
    conversion = convert("own", weights=written(tmp_path / "in", "det"), output=tmp_path / "out")
    assert conversion.config.form == "fused"
    assert any("no thresh" in note for note in conversion.notes)
    expected = fuse(network("det")).state_dict()
    state = load_model(conversion.folder).state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def test_a_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "rec")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConversionError, match="'bert' is none of the classes pp_ocrv5_mobile_rec"):
        convert("own", weights=folder, output=tmp_path / "out")
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        convert("own", weights=folder, output=tmp_path / "out")


@pytest.mark.parametrize("spoil", ["missing", "surplus", "shape", "truncated", "integers"])
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, spoil: str) -> None:
    folder = written(tmp_path / "in", "rec")
    path = folder / "model.safetensors"
    state = load_file(path)
    name = "head.encoder.norm.weight"
    error: type[Exception] = ConversionError
    message = f"{name}|tensor '.*' is missing|another shape"
    if spoil == "missing":
        del state[name]
    elif spoil == "surplus":
        message, state["more"] = "does not have: 'more'", torch.zeros(1)
    elif spoil == "shape":
        state[name] = torch.zeros(3)
    elif spoil == "integers":
        error, message, state[name] = FileFormatError, "not floating-point", state[name].to(torch.int64)
    save_file(state, path)
    if spoil == "truncated":
        error, message = FileFormatError, "is not a sound safetensors file"
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(error, match=message):
        convert("own", weights=folder, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_characters_of_the_folder_go_before_those_of_a_card(tmp_path: Path) -> None:
    folder = written(tmp_path / "in", "rec")
    settings = processor_config(replace(CONFIGS["rec"], charset=tuple("tuvwxyz")))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert convert("own", weights=folder, output=tmp_path / "out").config.charset == tuple("tuvwxyz")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["PP-OCRv5_mobile_det", "PP-OCRv5_mobile_rec", "PP-OCRv5_server_det", "PP-OCRv5_server_rec"]
)
def test_official_networks_are_told_from_their_tensors(name: str) -> None:
    """The names of the way out are the names of the way in, of every network that has a class there."""
    config = card_config(load_card(name))
    assert config is not None
    with torch.device("meta"):
        state = build_model(config).state_dict()
    shapes = {there: tuple(state[here].shape) for here, there in transformers_names(config, state).items()}
    hint = Architecture(config.backbone, config.neck, config.head)
    found = _architecture(hint, shapes, Path(name))
    assert found.backbone == config.backbone
    with torch.device("meta"):
        again = build_model(replace(config, backbone=found.backbone, neck=found.neck, head=found.head)).state_dict()
    assert {there: tuple(again[here].shape) for here, there in transformers_names(config, again).items()} == shapes
