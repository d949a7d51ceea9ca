"""The benchmark of single networks: what it computes, and that it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_models import lstm_config, saved, small_config

from paddle2torch.bench import networks as bench_networks
from paddle2torch.bench.engines import NO_INT8, Engine, EngineRun, EnginesBench, run_engines
from paddle2torch.bench.networks import NetworkBench
from paddle2torch.bench.processes import Measurement
from paddle2torch.cli import main
from paddle2torch.model_zoo.config import Component, ModelConfig
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.zoo.info import cost_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "own", small_config(nrtr=False))


def made_up(name: str, seconds: tuple[float, ...], *texts: tuple[str, ...]) -> EngineRun:
    return EngineRun(Measurement(name, seconds, 2**20), seconds, 2**10, texts)


def test_figures() -> None:
    ours = made_up("ours", (0.2, 0.4, 0.3), ("1", "2"), ("3", "4"))
    theirs = made_up("theirs", (0.4, 0.4, 0.9), ("1", "2"), ("3", "0"))
    result = NetworkBench("m", (2, 48, 64), 100, (400.0, 1000.0), EnginesBench(1, "cpu", {}, (ours, theirs), {}))
    assert result.floor == 0.1, "of the better peak"
    assert result.agreement(theirs) == 0.75
    document = result.to_json()
    assert document["peak_multiply_adds_per_second"] == {"before": 400.0, "after": 1000.0, "best": 1000.0}
    engine = document["engines"][1]
    assert engine["ours_times_as_fast"] == {"median": 2.0, "min": 1.0, "max": pytest.approx(3.0)}
    assert (engine["by_floor"], engine["fastest_seconds"]) == (pytest.approx(4.0), 0.4)


def test_multiply_adds_are_those_of_the_batch(folder: Path) -> None:
    config = ModelConfig.load(folder)
    one, three = (cost_of(config, (count, 3, 48, 320)).multiply_adds for count in (1, 3))
    assert three == 3 * one > 10**7


def test_the_command_with_what_is_always_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def engines(folder: Path, *_: object) -> tuple[Engine, ...]:
        options = {"model": str(folder), "compiled": False}
        ours = Engine("paddle2torch", "paddle2torch.bench.networks:load_ours", ("torch",), options)
        return ours, Engine("Nobody's", "nobody:load", ("no-such-distribution",))

    monkeypatch.setattr(bench_networks, "engines", engines)
    peaks = iter((1e9, 3e9))
    monkeypatch.setattr(bench_networks, "matrix_peak", lambda threads: next(peaks))
    chart = tmp_path / "chart.png"
    arguments = ["bench", "network", str(folder), "--no-compiled", "--repeat", "2", "--threads", "1"]
    shown = CliRunner().invoke(main, [*arguments, "--batch", "2x48x64", "--chart", str(chart), "--json"])
    assert shown.exit_code == 0, shown.output
    (document,) = json.loads(shown.stdout)
    assert [engine["name"] for engine in document["engines"]] == ["paddle2torch"]
    assert document["peak_multiply_adds_per_second"] == {"before": 1e9, "after": 3e9, "best": 3e9}
    assert document["batch"] == [2, 48, 64]
    assert document["engines"][0]["agreement"] == 1.0
    assert document["missing"] == {"Nobody's": ["no-such-distribution"]}
    assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("batch", "message"), [("6x48", "images x height x width"), ("1x32x320", "takes no images")])
def test_batches_that_cannot_be(folder: Path, batch: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(bench_networks, "engines")  # nothing is compiled or exported before it is known
    result = CliRunner().invoke(main, ["bench", "network", str(folder), "--threads", "1", "--batch", batch])
    assert result.exit_code == 1
    assert message in result.output


def test_a_chart_that_cannot_be_drawn_is_known_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = bench_networks.importlib.util.find_spec
    monkeypatch.setattr(
        bench_networks.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    monkeypatch.setattr(bench_networks, "bench_networks", lambda *_, **__: pytest.fail("it was run"))
    result = CliRunner().invoke(main, ["bench", "network", str(folder), "--chart", "chart.png"])
    assert result.exit_code == 1
    assert "a chart needs matplotlib" in result.output


def test_a_model_with_an_lstm_is_not_compiled_or_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Component("MobileNetV3", {"scale": 0.35, "model_name": "small", "small_stride": [1, 2, 2, 2]})
    saved(tmp_path / "crnn", replace(lstm_config(), backbone=backbone))
    monkeypatch.setattr(bench_networks, "MATRIX_SECONDS", 0.1)
    arguments = ["bench", "network", str(tmp_path / "crnn"), "--batch", "1x32x64", "--threads", "1", "--repeat", "1"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[1].startswith("paddle2torch  ")
    for name in ("paddle2torch, compiled", "ONNX Runtime", "OpenVINO"):
        assert f"left out: {name} (the model has an LSTM" in shown.stdout
    assert "left out: Paddle with oneDNN (runs the Paddle export" in shown.stdout
    for name in ("OpenVINO, int8", "ONNX Runtime, int8"):
        assert f"left out: {name} (the model has an LSTM" in shown.stdout


def test_what_fails_for_another_reason_ends_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object) -> None:
        raise ConversionError("ONNX Runtime's output differs")

    monkeypatch.setattr("paddle2torch.exporting.export.export", export)
    monkeypatch.setattr(bench_networks, "version_of", lambda name: "1")
    with pytest.raises(ConversionError, match="ONNX Runtime's output differs"):
        bench_networks.bench_networks(folder, compiled=False, threads=1)


@pytest.mark.parametrize("program", ["inference.pdmodel", "inference.json"])
def test_openvino_runs_the_legacy_format_or_our_export(
    folder: Path, tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_networks, "version_of", lambda name: None)  # nothing is exported
    for name in (program, "inference.pdiparams"):
        (tmp_path / name).touch()
    found = {engine.name: engine for engine in bench_networks.engines(folder, tmp_path, False, tmp_path)}
    ours, runtimes = ["paddle2torch", "paddle2torch, int8"], ["OpenVINO, int8", "ONNX Runtime, int8"]
    assert list(found) == [*ours, "ONNX Runtime", "OpenVINO", *runtimes, "Paddle with oneDNN"]
    assert all(found[name].cannot == NO_INT8 for name in ("paddle2torch, int8", *runtimes))
    assert all(found[name].cannot is None for name in ("OpenVINO", "Paddle with oneDNN"))
    legacy = [str(tmp_path / program), str(tmp_path / "inference.pdiparams")]
    assert found["OpenVINO"].options["files"] == (
        legacy if program == "inference.pdmodel" else [str(tmp_path / "model.onnx")]
    )
    qdq = str(tmp_path / "int8.onnx")
    assert found["OpenVINO, int8"].options["files"] == [found["ONNX Runtime, int8"].options["onnx"]] == [qdq]


def test_paddle_runs_an_export_of_its_newer_format(folder: Path, shared: Path, paddle: None, tmp_path: Path) -> None:
    export = shared / "models" / "en_PP-OCRv4_mobile_rec_infer"
    options = {
        "model": str(folder),
        "program": str(export / "inference.json"),
        "parameters": str(export / "inference.pdiparams"),
    }
    engine = Engine("Paddle", "paddle2torch.bench.networks:load_paddle", options=options)
    result = run_engines([engine], bench_networks._images((1, 48, 64), tmp_path), repeat=1, threads=1)
    assert len(result.runs[0].texts[0]) == 8, "a class for each step"
