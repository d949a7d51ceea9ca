"""Whole processes beside each other: turns, figures, and the commands that measure them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from coloured_bars import bar, blank, pipeline, put
from material import TESTS
from reference import record
from small_models import saved, small_config

from paddle2torch.bench import processes as bench
from paddle2torch.bench import serving
from paddle2torch.bench.processes import BenchError, ConversionBench, Measurement, run_in_turns
from paddle2torch.cli import main
from paddle2torch.model_zoo.network import fuse
from paddle2torch.parity.golden import OUTPUT, Golden, save_golden


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command runs once: what is looked at is not how fast it is."""

    def once(commands: Mapping[str, Sequence[str]], repeat: int) -> tuple[Measurement, ...]:
        assert repeat == 5
        measured = ((name, *bench._run(command)) for name, command in commands.items())
        return tuple(Measurement(name, (seconds,), memory) for name, seconds, memory in measured)

    monkeypatch.setattr(bench, "run_in_turns", once)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "own", small_config("fused", nrtr=False))


@pytest.fixture(scope="module")
def golden(folder: Path) -> Path:
    """The model's own output, as if Paddle had recorded it."""
    from paddle2torch import load_pretrained

    x = np.random.default_rng(0).random((1, 3, 48, 64), np.float32)
    network = fuse(load_pretrained(folder))
    with torch.inference_mode(), record(network) as layers:
        output = network(torch.from_numpy(x))
    first = "backbone.conv1.conv"
    found = {first: layers[first].numpy(), OUTPUT: output.numpy()}
    path = folder.parent / "own.golden.safetensors"
    save_golden(
        Golden(
            *("", "fused", "3", {}, x),
            {name: values.ravel() for name, values in found.items()},
            {name: values.shape for name, values in found.items()},
            {name: float(np.abs(values).max()) for name, values in found.items()},
        ),
        path,
    )
    return path


def test_commands_take_turns_after_one_that_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write({{!r}})"
    commands = {
        "A": (sys.executable, "-c", write.format("A")),
        "B": (sys.executable, "-c", write.format("B") + "; import time; time.sleep(0.1); x = b'x' * (64 << 20)"),
    }
    first, second = run_in_turns(commands, 2)
    assert log.read_text() == "ABABAB"
    assert (first.name, len(first.seconds)) == ("A", 2)
    assert min(second.seconds) >= 0.1
    assert second.peak_memory - first.peak_memory > 48 << 20


def test_what_a_process_starts_counts_for_its_memory() -> None:
    inner = "x = b'x' * (64 << 20)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    alone, around = run_in_turns({"inner": (sys.executable, "-c", inner), "outer": (sys.executable, "-c", outer)}, 1)
    assert around.peak_memory > 64 << 20
    assert abs(around.peak_memory - alone.peak_memory) < 16 << 20


def test_a_process_that_fails_is_named_with_its_own_words() -> None:
    with pytest.raises(BenchError, match=r"python.* failed: ValueError: out of ink"):
        run_in_turns({"A": (sys.executable, "-c", "raise ValueError('out of ink')")}, 1)
    with pytest.raises(BenchError, match="failed: exit status 3"):
        run_in_turns({"A": (sys.executable, "-c", "raise SystemExit(3)")}, 1)


def test_figures() -> None:
    start = Measurement("import torch", (1.0, 2.0, 1.0), 100)
    command = Measurement("convert", (3.0, 4.0, 2.0), 350)
    result = ConversionBench((start, command), "a cpu", {"torch": "2"}, "made up", 125)
    assert result.import_torch is start
    assert result.ratios(command) == (2.0, 2.0, 3.0)
    assert (result.seconds_above_import, result.memory_above_import, result.memory_ratio) == (2.0, 250, 2.0)
    document = result.to_json()
    assert document["processes"][1] == {
        "name": "convert",
        "seconds": [3.0, 4.0, 2.0],
        "median_seconds": 3.0,
        "spread_seconds": 2.0,
        "peak_memory": 350,
        "by_import_torch": {"median": 2.0, "min": 2.0, "max": 3.0},
    }
    assert (document["memory_in_file_sizes"], document["seconds_above_import"]) == (2.0, 2.0)


def test_conversion_and_imports(one_turn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(main, ["bench", "convert", "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    seconds = {process["name"]: process["median_seconds"] for process in document["processes"]}
    memory = {process["name"]: process["peak_memory"] for process in document["processes"]}
    last = "from paddle2torch import load_pretrained"
    assert list(seconds) == ["paddle2torch --help", "import paddle2torch", "import torch", last, "convert"]
    assert max(memory["paddle2torch --help"], memory["import paddle2torch"]) < memory["import torch"] / 2
    assert document["file_size"] > 60 << 20
    # The import of a PyTorch for a GPU takes some tens of MB more for a moment, so that the conversion adds less to it.
    least = 0.5 if torch.backends.cuda.is_built() else 1
    assert least < document["memory_in_file_sizes"] < 3


def test_verification(folder: Path, golden: Path, one_turn: None) -> None:
    shown = CliRunner().invoke(main, ["bench", "verify", str(folder), "--reference", str(golden)])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["process", "import torch", "verify"]
    assert f"against {golden}" in lines[3]
    assert f"torch {version('torch')}" in lines[4]
    assert len(lines) == 5


def test_verification_beside_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"holds": True, "model": "m", "reference": "export", "input_shape": [1, 3, 48, 320]}
    monkeypatch.setattr(bench, "_verification", lambda *_: found)
    commands: dict[str, Sequence[str]] = {}

    def fake(asked: Mapping[str, Sequence[str]], repeat: int) -> tuple[Measurement, ...]:
        commands.update(asked)
        return tuple(Measurement(name, (1.0,) * repeat, 1) for name in asked)

    monkeypatch.setattr(bench, "run_in_turns", fake)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    result = bench.bench_verification("m", repeat=3)
    assert [process.name for process in result.processes] == ["import torch", "Paddle alone", "verify"]
    assert commands["Paddle alone"][-5:] == ("export", "1", "3", "48", "320")
    assert commands["verify"][-2:] == ("verify", "m")


def test_paddle_alone(ch_export: Path, paddle: None) -> None:
    bench.run_paddle(str(ch_export), "1", "3", "48", "32")
    with pytest.raises(bench.Paddle2TorchError, match="the program takes"):
        bench.run_paddle(str(ch_export), "1", "4", "48", "32")


def test_a_model_that_is_not_equal_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    said = '[{"holds": false, "reference": "golden"}]'
    command = (sys.executable, "-c", f"import sys; print({said!r}); sys.exit(1)")
    with pytest.raises(BenchError, match="m is not equal to golden: see paddle2torch verify m"):
        bench._verification(command, "m")
    command = (sys.executable, "-c", "import sys; sys.exit('Error: no model is called that')")
    with pytest.raises(BenchError, match="m cannot be verified: no model is called that"):
        bench._verification(command, "m")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"cpu_name": "AMD EPYC", "avx2": True, "avx512_f": False}, "AMD EPYC, {} cores, AVX2"),
        (
            {"cpu_name": "Xeon", "avx2": True, "avx512_f": True, "avx_vnni": True, "amx_tile": True, "amx_bf16": True},
            "Xeon, {} cores, AVX2, AVX-512, VNNI, AMX, bfloat16",
        ),
        ({"cpu_name": "Neoverse", "neon": True, "sve": True, "bf16": True}, "Neoverse, {} cores, NEON, SVE, bfloat16"),
    ],
)
def test_the_processor(found: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert bench.describe_cpu() == said.format(bench.os.cpu_count())


def test_the_processor_as_an_older_pytorch_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert bench.describe_cpu().endswith(torch.backends.cpu.get_cpu_capability())


def test_growth(folder: Path) -> None:
    arguments = ["bench", "growth", str(folder), "--lines", "4"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    (run,) = document["runs"]
    assert run["lines"] == 4
    assert run["seconds"] > 0
    assert run["peak_memory"] > 10 << 20
    assert document["versions"]["torch"] == version("torch")


def test_a_server_under_load_is_checked_answer_by_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    for text in ("AB", "BA", "ABA"):
        page = blank(64, 320)
        put(page, bar(text), 20, 18)
        cv2.imwrite(str(tmp_path / f"{text}.png"), page)
    monkeypatch.setattr(serving, "CLI", (sys.executable, str(TESTS / "served_bars.py")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    sources = [str(path) for path in sorted(tmp_path.iterdir())]
    read = {str(source): [line.to_dict() for line in pipeline()(source)] for source in sources}
    monkeypatch.setattr(serving, "_read_by_ocr", lambda sources, options: (read, 1.0))
    # An answer of another picture is seen: two expect each other's.
    read[sources[0]], read[sources[2]] = read[sources[2]], read[sources[0]]
    result = serving.bench_serving(sources, clients=4, requests=60)
    assert (result.tally.read, result.tally.refused, result.tally.cancelled) == (48, 6, 6)
    assert 0 < result.tally.mixed == len(result.tally.faults) < 48
    assert all(re.search(r"/(AB|BA)\.png: has the answer of .*/(BA|AB)\.png", fault) for fault in result.tally.faults)
    assert result.tally.lost == 0
    assert 0 < result.percentile(0.5) <= result.percentile(0.99)
