"""`init`, `train` and `eval` as users type them, on a small recogniser."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from small_models import saved
from tiny_training import tiny_config

from paddle2torch import cli
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.training.settings import read_settings


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its precision for a process; here each test is a process of its own."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A converted recogniser of six characters."""
    return saved(tmp_path / "model", tiny_config())


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Eight line images with labels, as overrides of the settings."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "lines"
    folder.mkdir()
    for number in range(8):
        assert cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (40, 70, 3), dtype=np.uint8))
    (folder / "list.txt").write_text("".join(f"{number}.png\tabc\n" for number in range(8)))
    overrides = [
        f"data.{part}.dataset.{key}={value}"
        for part in ("train", "eval")
        for key, value in (("data_dir", folder), ("label_file_list.0", folder / "list.txt"))
    ]
    overrides += [
        "data.train.loader.num_workers=0",
        "data.eval.loader.num_workers=0",
        "training.epochs=1",
        "output.print_steps=1",
    ]
    overrides += ["data.train.sampler.first_bs=4", f"output.dir={tmp_path / 'run'}"]
    return [word for override in overrides for word in ("--set", override)]


def test_init_writes_the_recipe_for_a_model(model: Path, tmp_path: Path) -> None:
    result = run("init", model, "-o", tmp_path / "settings")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'settings'}\n"
    settings, config = read_settings(tmp_path / "settings" / "config.json")
    assert settings.pretrained == str(model)
    assert config == ModelConfig.load(model)
    again = run("init", model, "-o", tmp_path / "settings")
    assert again.exit_code == 1
    assert "exists: choose another folder" in again.output
    classifier = run("init", "ch_ppocr_mobile_v2.0_cls", "-o", tmp_path / "cls")
    assert classifier.exit_code == 1
    assert "recognisers and detectors can be trained" in classifier.output
    assert not (tmp_path / "cls").exists()


def test_train_and_eval(model: Path, data: list[str], tmp_path: Path) -> None:
    assert run("init", model, "-o", tmp_path / "settings").exit_code == 0
    config = tmp_path / "settings" / "config.json"
    before = run("eval", "--config", config, *data, "--json")
    assert before.exit_code == 0, before.output
    assert f"evaluating {model}" in before.stderr
    result = run("train", "--config", config, *data)
    assert result.exit_code == 0, result.output
    with (tmp_path / "run" / "train.csv").open(newline="") as file:
        steps = len(list(csv.DictReader(file)))
    assert result.stdout.splitlines() == [f"{steps} steps, best 0.0000 at step {steps}", str(tmp_path / "run")]
    again = run("train", "--config", config, *data)
    assert again.exit_code == 1
    assert "holds a training already" in again.output
    assert run("train", "--config", config, *data, "--resume").stdout.startswith(f"{steps} steps")
    after = run("eval", "--config", config, *data)
    assert after.exit_code == 0, after.output
    assert f"evaluating {tmp_path / 'run' / 'best'}" in after.stderr
    assert "norm_edit_dis" in after.stdout
    metrics = json.loads(before.stdout)
    assert metrics["acc"] == 0.0
    assert 0 <= metrics["norm_edit_dis"] <= 1


def test_eval_needs_a_model(data: list[str], model: Path, tmp_path: Path) -> None:
    assert run("init", model, "-o", tmp_path / "settings").exit_code == 0
    result = run("eval", "--config", tmp_path / "settings" / "config.json", *data, "--set", "pretrained=null")
    assert result.exit_code == 1
    assert "say --model" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
