"""What 0.1 wrote is read, what a newer version wrote is not guessed at, and names that moved still work."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import torch

import paddle2torch
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.format_version import FORMAT
from paddle2torch.model_zoo.programs.config import Feed, ProgramConfig
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model, save_model

KEPT = Path(__file__).parent / "zoo" / "kept" / "model_0.1.0.tar.xz"
"""A small v4 recogniser, written by 0.1.0 itself: `save_model` there, weights in multiples of 1/32."""

# What 0.1.0 computed of it: every fifth column of the first two characters' probabilities.
BY_0_1_0 = (
    *(0.1686731, 0.1336666, 0.0999662, 0.1245562, 0.127415, 0.1129987, 0.1076649, 0.1250592),
    *(0.22305, 0.1015418, 0.0781323, 0.1511111, 0.0954518, 0.1058156, 0.0977504, 0.147147),
)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    with tarfile.open(KEPT) as archive:
        for name in (WEIGHTS_NAME, CONFIG_NAME):
            member = archive.extractfile(f"kept/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    return folder


def test_a_model_that_0_1_0_wrote_computes_what_it_computed_there(kept: Path) -> None:
    network = load_model(kept)
    image = torch.linspace(-1, 1, 3 * 48 * 80).reshape(1, 3, 48, 80).sin()
    with torch.inference_mode():
        probabilities = network(image)[0, ::5].flatten()
    assert torch.allclose(probabilities, torch.tensor(BY_0_1_0), rtol=0, atol=1e-6)
    assert network.config.origin is not None
    assert network.config.origin.converter == "paddle2torch 0.1.0"


def test_an_old_model_that_is_saved_again_names_the_format_of_today(kept: Path, tmp_path: Path) -> None:
    network = load_model(kept)
    save_model(tmp_path / "again", network.config, network.state_dict())
    settings = json.loads((tmp_path / "again" / CONFIG_NAME).read_text(encoding="utf-8"))
    assert settings["format"] == FORMAT
    assert load_model(tmp_path / "again").config == network.config


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (FORMAT + 1, f"is of format {FORMAT + 1}, which a newer paddle2torch wrote; this one reads formats up to"),
        (0, "'format' is the number of a format, from 1 on, not 0"),
        (True, "'format' is the number of a format"),
        ("2", "'format' is the number of a format"),
    ],
)
def test_a_format_that_is_not_known_is_refused_before_anything_else(kept: Path, found: object, message: str) -> None:
    settings = json.loads((kept / CONFIG_NAME).read_text(encoding="utf-8"))
    settings = {"format": found, "key of the future": 1, **settings}
    (kept / CONFIG_NAME).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        ModelConfig.load(kept)


def test_programs_name_their_format_too(tmp_path: Path) -> None:
    config = ProgramConfig("any", "program", "inference.json", (Feed("x", "float32", (-1, 3)),), 1)
    path = tmp_path / CONFIG_NAME
    path.write_text(config.dumps(), encoding="utf-8")
    assert json.loads(config.dumps())["format"] == FORMAT
    assert ProgramConfig.load(tmp_path) == config
    path.write_text(config.dumps().replace(f'"format": {FORMAT}', '"format": 99'), encoding="utf-8")
    with pytest.raises(ConfigError, match="is of format 99, which a newer paddle2torch wrote"):
        ProgramConfig.load(tmp_path)


@pytest.mark.parametrize(("module", "name"), [("ocr", "OCR"), ("zoo", "list_models"), ("api", "convert")])
def test_names_of_0_1_that_moved_work_with_a_warning(module: str, name: str) -> None:
    home = __import__(f"paddle2torch.{module}", fromlist=["x"])
    with pytest.warns(DeprecationWarning, match=rf"paddle2torch\.{module}\.{name} is paddle2torch\.{name}, and goes"):
        found = getattr(home, name)
    assert found is getattr(paddle2torch, name)
    with pytest.raises(AttributeError, match=f"module 'paddle2torch.{module}' has no attribute 'misspelt'"):
        home.misspelt  # noqa: B018
