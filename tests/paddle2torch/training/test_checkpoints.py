"""What a checkpoint brings back, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_training import tiny_config

from paddle2torch import atomic as landing
from paddle2torch.device import random_states
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.checkpoints import (
    STATE_NAME,
    Progress,
    changed_settings,
    load_checkpoint,
    save_checkpoint,
)
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.optimisation import MovingAverage, build_optimizer, freeze, set_rate
from paddle2torch.training.settings import OptimizerSettings
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model

CPU = torch.device("cpu")
PROGRESS = Progress(step=3, epoch=1, batch=2, best=0.25, best_step=2, stale=1, settings='{"a": 1}')


class Training:
    """A network with an optimiser that has made a few steps, and an average."""

    def __init__(self, seed: int, *, steps: int = 0, frozen: str | None = None, ema: bool = False) -> None:
        torch.manual_seed(seed)
        self.network: Network = build_model(tiny_config())
        initialise(self.network)
        if frozen:
            freeze(self.network, (frozen,))
        self.network.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(self.network, OptimizerSettings(0.1))
        self.average = MovingAverage(self.network, 0.9) if ema else None
        for step in range(steps):
            self.step(step)

    def step(self, number: int) -> None:
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
        set_rate(self.optimizer, 0.1)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(number)

    def save(self, folder: Path, progress: Progress = PROGRESS) -> None:
        states = [random_states(CPU)] * progress.processes
        save_checkpoint(
            folder,
            self.network.config,
            self.network,
            self.optimizer,
            self.average,
            progress,
            states,
            beside={"more.txt": "x"},
        )

    def load(self, folder: Path, *, processes: int = 1) -> Progress:
        return load_checkpoint(
            folder, self.network, self.optimizer, self.average, rank=0, processes=processes, device=CPU
        )


@pytest.mark.slow
@pytest.mark.parametrize("ema", [False, True])
def test_training_goes_on_where_it_was(tmp_path: Path, ema: bool) -> None:
    """The next step after loading, random numbers included, is that of the training that was saved."""
    first = Training(0, steps=3, ema=ema)
    first.save(tmp_path / "last")
    first.step(3)
    second = Training(1, ema=ema)
    assert second.load(tmp_path / "last") == PROGRESS
    second.step(3)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
        assert tensor.stride() == second.network.state_dict()[name].stride(), name
    if first.average is not None and second.average is not None:
        for name, tensor in first.average.tensors.items():
            assert torch.equal(tensor, second.average.tensors[name]), name


def test_it_is_a_model_and_nothing_is_pickled(tmp_path: Path) -> None:
    training = Training(0, steps=1, ema=True)
    training.save(tmp_path / "last")
    assert {path.name for path in (tmp_path / "last").iterdir()} == {
        *(WEIGHTS_NAME, STATE_NAME, "model_config.json", "more.txt")
    }
    assert training.average is not None
    weights = load_model(tmp_path / "last").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in training.average.tensors.items())
    with safe_open(tmp_path / "last" / STATE_NAME, framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 3


def test_frozen_parameters_have_no_moments(tmp_path: Path) -> None:
    Training(0, steps=1, frozen="backbone.*").save(tmp_path / "last")
    Training(1, frozen="backbone.*").load(tmp_path / "last")
    with safe_open(tmp_path / "last" / STATE_NAME, framework="pt") as file:
        assert not any(key.startswith("optimizer/backbone.") for key in file.keys())  # noqa: SIM118 - no mapping
    Training(0, steps=1).save(tmp_path / "all")
    with pytest.raises(FileFormatError, match=r"not trained, or of another optimizer: backbone\."):
        Training(1, frozen="backbone.*").load(tmp_path / "all")


def test_what_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    training = Training(0, steps=1)
    with pytest.raises(ConfigError, match="there is no training to resume"):
        training.load(tmp_path / "nothing")
    training.save(tmp_path / "last")
    with pytest.raises(ConfigError, match="written by 1 processes, now there are 2"):
        training.load(tmp_path / "last", processes=2)
    with pytest.raises(FileFormatError, match="different tensors"):
        Training(1, ema=True).load(tmp_path / "last")


def test_broken_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    training = Training(0, steps=1)
    training.save(folder)
    path = folder / STATE_NAME
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:100], b"", b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(FileFormatError, match="not a sound safetensors file"):
            training.load(folder)
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, path, {"progress": "{"})
    with pytest.raises(FileFormatError, match="does not say how far"):
        training.load(folder)
    save_file(tensors, path, {"progress": '{"stepp": 1}'})
    with pytest.raises(ConfigError, match="did you mean 'step'"):
        training.load(folder)


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(0, steps=1)
    training.save(tmp_path / "last")
    before = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()}
    training.step(1)
    usage = landing.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(landing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Paddle2TorchError, match=r"the disk of .* is full: .* needed, 1,000 bytes free"):
        training.save(tmp_path / "last")
    assert {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 1


def test_changed_settings_are_named() -> None:
    before, now = '{"a": {"b": 1, "c": [1]}, "d": null}', '{"a": {"b": 2, "c": [1]}, "d": null, "e": 0}'
    assert changed_settings(before, now) == ["a.b: 2, was 1", "e: 0, was None"]


def test_processes_have_their_own_random_numbers(tmp_path: Path) -> None:
    training = Training(0, steps=1)
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(random_states(CPU))
    progress = replace(PROGRESS, processes=2)
    save_checkpoint(
        tmp_path / "x", training.network.config, training.network, training.optimizer, None, progress, states, beside={}
    )
    load_checkpoint(tmp_path / "x", training.network, training.optimizer, None, rank=1, processes=2, device=CPU)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    assert torch.equal(drawn, torch.rand(3))
