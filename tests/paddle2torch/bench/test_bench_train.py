"""The training benchmark: turns and figures on fake engines, and one step of our own code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from paddle2torch.bench import engines as bench_engines
from paddle2torch.bench import train as bench_train
from paddle2torch.bench.engines import Engine, EngineRun, EnginesBench
from paddle2torch.bench.processes import Measurement
from paddle2torch.bench.train import TrainBench, batch_of, load_ours, run_steps
from paddle2torch.cli import main
from paddle2torch.model_zoo.errors import ConfigError

FAKE = """
def load(threads, *, losses):
    losses = iter(losses)
    def step(images):
        assert all(image.shape == (48, 320, 3) for image in images)
        return [[str(next(losses))]] * len(images)
    return step
"""


def engine(name: str, losses: list[float], *distributions: str) -> Engine:
    return Engine(name, "fake_trainers:load", distributions, {"losses": losses})


@pytest.fixture(autouse=True)
def fake_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_trainers.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    monkeypatch.setattr(bench_engines, "REST", 0.0)


def test_the_first_step_does_not_count() -> None:
    result = run_steps([engine("ours", [3.0, 2.0, 1.0]), engine("theirs", [6, 5, 4])], batch=2, repeat=2, threads=1)
    runs = result.result.runs
    assert [result.loss(run) for run in runs] == [1.0, 4.0]
    assert [len(run.passes.seconds) for run in runs] == [2, 2]
    assert (result.batch, result.result.threads, result.result.missing) == (2, 1, {})


def test_figures() -> None:
    ours, theirs = (
        EngineRun(Measurement(name, seconds, 1), seconds, 1, (("0.5",),))
        for name, seconds in (("ours", (1.0, 2.0, 4.0)), ("theirs", (6.0, 8.0, 12.0)))
    )
    result = TrainBench(24, EnginesBench(2, "a cpu", {}, (ours, theirs), {}))
    assert result.images_per_second(ours) == 12
    document = result.to_json()["engines"][1]
    assert document["ours_times_as_fast"] == {"median": 4.0, "min": 3.0, "max": 6.0}
    assert (document["images_per_second"], document["loss"]) == (3, 0.5)


def test_the_batch_is_what_both_take() -> None:
    black, white = np.zeros((48, 320, 3), np.uint8), np.full((48, 320, 3), 255, np.uint8)
    batch = batch_of([black, white])
    assert list(batch) == ["image", "label_ctc", "label_gtc", "length", "valid_ratio"]
    assert batch["image"].shape == (2, 3, 48, 320)
    assert (batch["image"].min(), batch["image"].max()) == (-1, 1)
    assert batch["length"].tolist() == [8, 8]
    # The start, the same characters three classes further on, and the end.
    assert batch["label_gtc"][:, 0].tolist() == [2, 2]
    np.testing.assert_array_equal(batch["label_gtc"][:, 1:9], batch["label_ctc"][:, :8] + 3)
    assert batch["label_gtc"][:, 9].tolist() == [3, 3]


def test_our_step_trains() -> None:
    step = load_ours(1, model=None)
    images = [np.random.default_rng(0).integers(0, 256, (48, 320, 3), dtype=np.uint8)]
    first, second = (float(step(images)[0][0]) for _ in range(2))
    assert np.isfinite((first, second)).all()
    assert first != second


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "PaddleOCR"
    arguments = ["bench", "train", "--paddleocr", str(checkout), "--batch", "2", "--repeat", "1", "--threads", "1"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 1
    assert "is not a checkout of PaddleOCR" in shown.stderr

    monkeypatch.setattr(bench_train, "engines", lambda *_: (engine("A", [2, 1]), engine("B", [2, 1], "not-there")))
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert [run["loss"] for run in document["engines"]] == [1.0]
    assert document["missing"] == {"B": ["not-there"]}
    table = CliRunner().invoke(main, arguments)
    assert "left out: B (not-there not installed)" in table.stdout


def test_a_folder_without_the_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ppocr").mkdir()
    with pytest.raises(ConfigError, match="needs the folder ppocr and configs"):
        bench_train.bench_train(tmp_path)
