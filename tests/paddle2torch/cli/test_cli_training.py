"""`init`, `train` and `eval` as users type them, on a small recogniser."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from material import ROOT
from small_models import fill, saved
from tiny_training import tiny_config, tiny_v4_config

from paddle2torch import cli
from paddle2torch.model_zoo.config import Component, ModelConfig
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.training.config_files import read_settings
from paddle2torch.training.hard_samples import read_hard_rows
from paddle2torch.training.trainer import TrainingResult


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
    return saved(tmp_path / "model", tiny_v4_config())


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
    classes = run("init", model, "-o", tmp_path / "classes", "--classes", "a,b")
    assert classes.exit_code == 1
    assert "only a classifier takes --classes" in classes.output
    assert not (tmp_path / "classes").exists()


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
    said = f"{steps} steps; nothing was better than what training started from, 0.0000"
    assert result.stdout.splitlines() == [str(tmp_path / "run")]
    assert result.stderr.splitlines().count(said) == 1
    again = run("train", "--config", config, *data)
    assert again.exit_code == 1
    assert "holds a training already" in again.output
    over = run("train", "--config", config, *data, "--resume")
    assert over.stderr.count("nothing was done: the training is at its end already (epoch 1 of 1, step") == 1
    assert over.stdout.splitlines() == [str(tmp_path / "run")]
    # What was in force, --set included, trains again.
    kept, _ = read_settings(tmp_path / "run" / "settings" / "config.json")
    assert kept.output.dir == str(tmp_path / "run")
    after = run("eval", "--config", config, *data)
    assert after.exit_code == 0, after.output
    assert f"evaluating {tmp_path / 'run' / 'best'}" in after.stderr
    assert "norm_edit_dis" in after.stdout
    metrics = json.loads(before.stdout)
    assert metrics["figures"]["lines"] == 8
    # Training shows what it did not learn, and what was hardest at each evaluation; so does eval for any two models.
    assert "The hardest samples" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert [row.step for row in read_hard_rows(tmp_path / "run")] == [0, steps]
    page = tmp_path / "two.html"
    both = run("eval", "--config", config, *data, "--report", page, "--against", model, "--json")
    assert both.exit_code == 0, both.output
    assert json.loads(both.stdout)["against"]["figures"]["lines"] == 8
    assert f"Beside {model}" in page.read_text(encoding="utf-8")
    refused = run("eval", "--config", config, *data, "--report", page, "--as-paddleocr")
    assert "leave out --as-paddleocr" in refused.output
    assert metrics["acc"] == 0.0
    assert 0 <= metrics["norm_edit_dis"] <= 1


def test_eval_needs_a_model(data: list[str], model: Path, tmp_path: Path) -> None:
    assert run("init", model, "-o", tmp_path / "settings").exit_code == 0
    result = run("eval", "--config", tmp_path / "settings" / "config.json", *data, "--set", "pretrained=null")
    assert result.exit_code == 1
    assert "say --model" in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_training_that_was_stopped_ends_with_its_signal(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init", model, "-o", tmp_path / "settings").exit_code == 0
    stopped = TrainingResult(tmp_path, 3, 3, 0.5, 0, 0.5, signal.SIGTERM, "stopped by SIGTERM after step 3 of 9")
    monkeypatch.setattr("paddle2torch.training.trainer.train", lambda *_, **__: stopped)
    result = run("train", "--config", tmp_path / "settings" / "config.json")
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.stdout == f"{tmp_path}\n"


def test_other_characters_in_init_and_train(model: Path, data: list[str], tmp_path: Path) -> None:
    (tmp_path / "plates.txt").write_text("a\nb\nc\n9\n")
    made = run("init", model, "-o", tmp_path / "settings", "--charset", tmp_path / "plates.txt")
    assert made.exit_code == 0, made.output
    assert "character set: 4 characters of" in made.stderr
    config = tmp_path / "settings" / "config.json"
    _, settings = read_settings(config)
    assert (settings.charset, settings.classes) == (("a", "b", "c", "9"), 5)
    result = run("train", "--config", config, *data)
    assert result.exit_code == 0, result.output
    assert "3 characters keep their rows, 3 are left out, 1 start anew: 9" in result.stderr
    (tmp_path / "other.txt").write_text("c\nb\na\n9\n")
    refused = run("train", "--config", config, *data, "--resume", "--charset", tmp_path / "other.txt")
    assert refused.exit_code == 1
    assert "another character set: class 1 is 'a' there, 'c' now" in refused.output
    missing = run("init", model, "-o", tmp_path / "more", "--charset", "nowhere.txt")
    assert missing.exit_code == 1
    assert "no character set 'nowhere.txt' is bundled" in missing.output


def ways_to_start() -> list[str]:
    """The README's commands for several processes, and that of `train --help`."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (torchrun,) = re.findall(r"`(torchrun [^`]*)`", text)
    help_text = " ".join((cli.main.commands["train"].help or "").split())
    (launch,) = re.findall(r"(accelerate launch .* --config config\.json)", help_text)
    return [torchrun.replace("…", "--config config.json"), launch]


@pytest.mark.parametrize("command", ways_to_start())
def test_every_way_of_starting_several_processes_trains_once(
    model: Path, data: list[str], tmp_path: Path, command: str
) -> None:
    """As written, on a machine without a GPU and without a word to accelerate about it."""
    assert run("init", model, "-o", tmp_path / "settings").exit_code == 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    environment["PYTHONPATH"] = str(ROOT)
    program, *arguments = command.split()
    changes = [*data, "--set", "data.train.sampler.first_bs=2"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments, *changes],
        cwd=tmp_path / "settings",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run" / "train.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    # Two lines at the first size, one at each of the others: eight are three steps of two processes, or six of one.
    count = 3 if program == "torchrun" else 6
    assert steps == list(range(1, count + 1))
    assert done.stderr.count("evaluation of the start") == 1
    assert done.stdout.count(str(tmp_path / "run")) == 1


def test_an_inference_release_is_fine_tuned(data: list[str], tmp_path: Path) -> None:
    """Its branches are made anew, CTC alone trains it, and what comes out is whole: PaddleOCR could go on with it."""
    network = build_model(tiny_config(backbone=Component("PPLCNetV3", {"scale": 0.1})))
    fill(network)
    release = saved(tmp_path / "release", fuse(network))
    begun = run("init", release, "-o", tmp_path / "settings")
    assert begun.exit_code == 0, begun.output
    assert "is an inference release" in begun.stderr
    assert "no NRTR or SAR head: CTC alone trains it" in begun.stderr
    _, config = read_settings(tmp_path / "settings" / "config.json")
    assert config.form == "training"
    assert config.head.options["nrtr"] is None
    assert "use_guide" not in config.head.options["ctc"]
    words = ("--config", tmp_path / "settings" / "config.json", *data)
    before = json.loads(run("eval", *words, "--json").stdout)
    result = run("train", *words, "--set", "training.ema_decay=0.9")
    assert result.exit_code == 0, result.output
    assert "no training branches: they are made anew, and compute the same" in result.stderr
    with (tmp_path / "run" / "evaluation.csv").open(newline="") as file:
        start = next(csv.DictReader(file))
    assert float(start["norm_edit_dis"]) == pytest.approx(before["norm_edit_dis"], abs=1e-9)
    exported = run("export", tmp_path / "run" / "last", "--to", "paddle", "-o", tmp_path / "tuned.pdparams")
    assert exported.exit_code == 0, exported.output
