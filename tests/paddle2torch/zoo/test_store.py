"""A converted model on disk: whole or not at all, and strictly read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paddle2torch.model_zoo.config import CONFIG_NAME, Origin
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError
from paddle2torch.model_zoo.network import Network
from paddle2torch.zoo import folder as store
from paddle2torch.zoo.folder import INT8_NAME, WEIGHTS_NAME, load_model, load_quantized, save_model, save_quantized


@pytest.fixture
def folder(small: Network, tmp_path: Path) -> Path:
    config = replace(small.config, origin=Origin("training checkpoint", {"a.pdparams": "0" * 64}))
    save_model(tmp_path / "model", config, small.state_dict())
    return tmp_path / "model"


@pytest.mark.slow
def test_what_is_written_is_what_is_read(small: Network, folder: Path) -> None:
    again = load_model(folder)
    assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS_NAME, CONFIG_NAME]
    assert not again.training
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in again.state_dict().items())
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["name"], metadata["form"], len(metadata["source"])) == ("small", "training", 64)


def test_others_may_read_it_as_they_may_read_its_settings(folder: Path) -> None:
    assert (folder / WEIGHTS_NAME).stat().st_mode == (folder / CONFIG_NAME).stat().st_mode


def test_bits_that_no_comparison_of_numbers_sees(small: Network, tmp_path: Path) -> None:
    state = dict(small.state_dict())
    odd = torch.tensor(np.array([0x7FC00001, 0x80000000], "uint32").view("float32"))
    state["head.ctc_head.fc.bias"] = torch.cat((odd, state["head.ctc_head.fc.bias"][2:]))
    save_model(tmp_path / "m", small.config, state)
    bits = load_model(tmp_path / "m").head.ctc_head.fc.bias.detach().numpy().view("uint32")
    assert bits[:2].tolist() == [0x7FC00001, 0x80000000]


def test_a_disk_that_gives_back_other_bits(small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_wrongly(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        tensors["head.ctc_head.fc.bias"] = -tensors["head.ctc_head.fc.bias"]
        save_file(tensors, path, metadata)

    monkeypatch.setattr(store, "save_file", write_wrongly)
    with pytest.raises(ConversionError, match=r"head.ctc_head.fc.bias was read back with other bits"):
        save_model(tmp_path / "m", small.config, small.state_dict())
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_there_is_not_replaced_unasked(small: Network, folder: Path) -> None:
    with pytest.raises(ConfigError, match="overwrite"):
        save_model(folder, small.config, small.state_dict())
    save_model(folder, replace(small.config, name="other"), small.state_dict(), overwrite=True)
    assert load_model(folder).config.name == "other"


def change_settings(folder: Path) -> None:
    data = json.loads((folder / CONFIG_NAME).read_text())
    data["head"]["ctc"]["dims"] = 48
    (folder / CONFIG_NAME).write_text(json.dumps(data))


def drop_a_tensor(folder: Path) -> None:
    state = load_file(folder / WEIGHTS_NAME)
    del state["head.ctc_head.fc.bias"]
    save_file(state, folder / WEIGHTS_NAME)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            change_settings,
            FileFormatError,
            r"conv1x1.conv.weight is \[32, 32, 1, 1\], the settings need \[48, 32, 1, 1\]",
        ),
        (drop_a_tensor, FileFormatError, "does not hold the tensors of .*head.ctc_head.fc.bias"),
        (lambda f: (f / WEIGHTS_NAME).unlink(), FileFormatError, f"has no {WEIGHTS_NAME}"),
        (lambda f: (f / CONFIG_NAME).unlink(), ConfigError, f"it has no {CONFIG_NAME}"),
        (
            lambda f: (f / WEIGHTS_NAME).write_bytes(b"\xff" * 8 + b"{}"),
            FileFormatError,
            "not a sound safetensors file",
        ),
        (lambda f: os.truncate(f / WEIGHTS_NAME, 5000), FileFormatError, "not a sound safetensors file"),
        (lambda f: (f / WEIGHTS_NAME).write_bytes(b""), FileFormatError, "not a sound safetensors file"),
    ],
)
def test_a_damaged_model(folder: Path, damage: object, error: type[Exception], message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(error, match=message):
        load_model(folder)


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.zoo.folder import load_model, save_model

torch.set_num_threads(1)  # a process with threads cannot be forked
folder = Path(sys.argv[1])
model = load_model(folder)
old = dict(model.state_dict())
new = {key: value + 1 for key, value in old.items()}


def whole():
    found = load_file(folder / "model.safetensors")
    return any(all(torch.equal(found[key], state[key]) for key in state) for state in (old, new))


started = time.monotonic()
save_model(folder, model.config, old, overwrite=True)
takes = time.monotonic() - started
random.seed(0)
for _ in range(50):
    child = os.fork()
    if child == 0:
        while True:
            save_model(folder, model.config, new, overwrite=True)
    time.sleep(random.uniform(0, 2 * takes))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert whole()
    assert ModelConfig.load(folder) == model.config
save_model(folder, model.config, old, overwrite=True)
assert os.listdir(folder.parent) == [folder.name], os.listdir(folder.parent)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_model(folder: Path) -> None:
    """50 kills at random moments; what is there after each loads, and is one of the two models."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", KILLS, str(folder)], check=True, env=environment)


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
def test_a_model_whose_files_lead_out_of_its_folder(tmp_path: Path, small: Network, name: str) -> None:
    save_model(tmp_path / "model", small.config, small.state_dict())
    (tmp_path / "model" / name).rename(tmp_path / name)
    (tmp_path / "model" / name).symlink_to(tmp_path / name)
    with pytest.raises(FileFormatError, match="leads out of its folder"):
        load_model(tmp_path / "model")


def test_the_int8_form_is_neither_read_nor_written_through_a_link(tmp_path: Path, small: Network) -> None:
    save_model(tmp_path / "model", small.config, small.state_dict())
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "model" / INT8_NAME).symlink_to(tmp_path / "mine")
    for use in (
        lambda: save_quantized(tmp_path / "model", small, {}),
        lambda: load_quantized(tmp_path / "model"),
        lambda: save_model(tmp_path / "model", small.config, small.state_dict(), overwrite=True),
    ):
        with pytest.raises(FileFormatError, match="leads out of its folder"):
            use()
    assert (tmp_path / "mine").read_text() == "mine"
