"""The benchmark of single networks: what it computes, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_models import fill, small_config

from paddle2torch import bench_networks
from paddle2torch.bench import Measurement
from paddle2torch.bench_networks import Engine, NetworkBench
from paddle2torch.bench_pages import EngineRun, PagesBench
from paddle2torch.cli import main
from paddle2torch.info import cost_of
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.network import build_model
from paddle2torch.store import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = build_model(small_config(nrtr=False)).eval()
    fill(network)
    folder = tmp_path_factory.mktemp("models") / "own"
    save_model(folder, network.config, network.state_dict())
    return folder


def made_up(name: str, seconds: tuple[float, ...], *texts: tuple[str, ...]) -> EngineRun:
    return EngineRun(Measurement(name, seconds, 2**20), seconds, 2**10, texts)


def test_figures() -> None:
    ours = made_up("ours", (0.2, 0.4, 0.3), ("1", "2"), ("3", "4"))
    theirs = made_up("theirs", (0.4, 0.4, 0.9), ("1", "2"), ("3", "0"))
    result = NetworkBench("m", (2, 48, 64), 100, 1000.0, PagesBench(("a", "b"), 1, "cpu", {}, (ours, theirs), {}))
    assert result.floor == 0.1
    assert result.agreement(theirs) == 0.75
    document = result.to_json()["engines"][1]
    assert document["theirs_by_ours"] == {"median": 2.0, "min": 1.0, "max": pytest.approx(3.0)}
    assert document["by_floor"] == pytest.approx(4.0)


def test_multiply_adds_are_those_of_the_batch(folder: Path) -> None:
    config = ModelConfig.load(folder)
    one, three = (cost_of(config, (count, 3, 48, 320)).multiply_adds for count in (1, 3))
    assert three == 3 * one > 10**7


def test_the_command_with_what_is_always_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def engines(folder: Path, *_: object) -> tuple[Engine, ...]:
        options = {"model": str(folder), "compiled": False}
        ours = Engine(bench_networks.OURS, "paddle2torch.bench_networks:load_ours", ("torch",), options)
        return ours, Engine("Nobody's", "nobody:load", ("no-such-distribution",))

    monkeypatch.setattr(bench_networks, "engines", engines)
    monkeypatch.setattr(bench_networks, "matrix_peak", lambda threads: 1e9)
    chart = tmp_path / "chart.png"
    arguments = ["bench", "network", str(folder), "--no-compiled", "--repeat", "2", "--threads", "1"]
    shown = CliRunner().invoke(main, [*arguments, "--batch", "2x48x64", "--chart", str(chart), "--json"])
    assert shown.exit_code == 0, shown.output
    (document,) = json.loads(shown.stdout)
    assert [engine["name"] for engine in document["engines"]] == [bench_networks.OURS]
    assert document["batch"] == [2, 48, 64]
    assert document["engines"][0]["agreement"] == 1.0
    assert document["missing"] == {"Nobody's": ["no-such-distribution"]}
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("batch", "message"), [("6x48", "images x height x width"), ("1x32x320", "takes no images")])
def test_batches_that_cannot_be(folder: Path, batch: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_networks, "engines", lambda *_: ())
    monkeypatch.setattr(bench_networks, "matrix_peak", lambda threads: 1e9)
    result = CliRunner().invoke(main, ["bench", "network", str(folder), "--no-compiled", "--batch", batch])
    assert result.exit_code == 1
    assert message in result.output
