"""The measuring of engines, on fake ones, and of pages: turns, figures, what is said of those that do not run."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_training import tiny_config

from paddle2torch.bench import engines as bench_engines
from paddle2torch.bench import pages as bench_pages
from paddle2torch.bench.engines import (
    NO_BFLOAT16,
    Engine,
    EngineRun,
    EnginesBench,
    compile_forms,
    run_engines,
)
from paddle2torch.bench.mixed import write_mixed_pages
from paddle2torch.bench.pages import PagesBench
from paddle2torch.bench.processes import BenchError, Measurement
from paddle2torch.cli import main
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

FAKE = """
import os, sys, time
from pathlib import Path

def load(threads, *, log, seconds=0.0, held=0, words="hello", exits_at=None):
    name, reads = Path(log).stem, 0
    ballast = b"x" * held
    print("libraries print what they like")
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    def read(images):
        nonlocal reads
        reads += 1
        if reads == exits_at:
            raise ValueError("out of ink")
        print("and go on printing")
        with (Path(log).parent / "turns").open("a") as file:
            file.write(name)
        time.sleep(seconds)
        return [[words, f"{image.shape[1]}x{image.shape[0]}"] for image in images]
    return read
"""


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two small pages; fake engines can be loaded, and their turns cost no rest."""
    (tmp_path / "fake_engines.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    monkeypatch.setattr(bench_engines, "REST", 0.0)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, width in zip(paths, (8, 9), strict=True):
        cv2.imwrite(str(path), np.zeros((4, width, 3), np.uint8))
    return paths


def fake(name: str, folder: Path, **options: object) -> Engine:
    return Engine(name, "fake_engines:load", options={"log": str(folder / name), **options})


def made_up(name: str, seconds: tuple[float, ...], *texts: tuple[str, ...]) -> EngineRun:
    return EngineRun(Measurement(name, seconds, 2**20), seconds, 2**10, texts)


def test_engines_take_turns_after_each_has_warmed_up(pages: list[Path], tmp_path: Path) -> None:
    slow = fake("B", tmp_path, seconds=0.1, held=64 << 20, words="world")
    result = run_engines([fake("A", tmp_path), slow], pages, repeat=3, threads=1)
    assert (tmp_path / "turns").read_text() == "AB" + "ABABAB"
    first, second = result.runs
    assert first.texts == (("hello", "8x4"), ("hello", "9x4"))
    assert second.texts == (("world", "8x4"), ("world", "9x4"))
    assert len(second.passes.seconds) == 3
    assert min(second.passes.seconds) >= 0.1
    for cpu, wall in zip(second.cpu_seconds, second.passes.seconds, strict=True):
        assert cpu < wall / 2, "sleeping takes no processor time"
    assert second.loaded_memory - first.loaded_memory > 48 << 20
    assert second.passes.peak_memory >= second.loaded_memory
    assert (result.threads, result.missing, result.left_out) == (1, {}, {})


def test_an_engine_that_is_not_installed_is_left_out_and_named(pages: list[Path], tmp_path: Path) -> None:
    absent = Engine("C", "no_such_module:load", ("numpy", "no-such-distribution"))
    result = run_engines([fake("A", tmp_path), absent], pages, repeat=1, threads=1)
    assert [run.passes.name for run in result.runs] == ["A"]
    assert (result.missing, result.left_out) == ({"C": ("no-such-distribution",)}, {})
    assert result.versions["numpy"] == np.__version__
    with pytest.raises(BenchError, match="C is not installed: no-such-distribution"):
        run_engines([absent, fake("A", tmp_path)], pages, repeat=1, threads=1)


def test_an_engine_that_fails_ends_the_run_with_its_own_words(pages: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="B stopped: ValueError: out of ink"):
        run_engines([fake("A", tmp_path), fake("B", tmp_path, exits_at=2)], pages, repeat=2, threads=1)
    with pytest.raises(BenchError, match=r"A stopped: .*ImageError: .*gone\.png"):
        run_engines([fake("A", tmp_path)], [tmp_path / "gone.png"], repeat=1, threads=1)


def test_an_engine_that_cannot_take_part_is_named_with_the_reason(pages: list[Path], tmp_path: Path) -> None:
    cannot = replace(fake("B", tmp_path, exits_at=1), cannot="it is Sunday", distributions=("no-such-distribution",))
    result = run_engines([fake("A", tmp_path), cannot], pages, repeat=1, threads=1)
    assert [run.passes.name for run in result.runs] == ["A"]
    assert (result.missing, result.left_out) == ({}, {"B": "it is Sunday"})
    assert result.to_json()["left_out"] == {"B": "it is Sunday"}


@pytest.mark.parametrize("threads", [0, (os.cpu_count() or 1) + 1])
def test_threads_that_the_machine_does_not_have_are_refused(pages: list[Path], tmp_path: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"not {threads}"):
        run_engines([fake("A", tmp_path)], pages, threads=threads)
    with pytest.raises(ConfigError, match="at least one image"):
        run_engines([fake("A", tmp_path)], [])


def test_ratios_are_taken_within_each_turn() -> None:
    ours = made_up("ours", (1.0, 4.0, 2.0), ("a", "b", "b"), ("c",))
    theirs = made_up("theirs", (2.0, 4.0, 8.0), ("b", "b", "x"), ("a",))
    result = EnginesBench(1, "a cpu", {}, (ours, theirs), {})
    assert result.ratios(theirs) == (2.0, 1.0, 4.0)
    assert result.ratios(ours) == (1.0, 1.0, 1.0)
    assert result.to_json()["engines"][1]["ours_times_as_fast"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    pages = PagesBench(("1", "2"), result)
    assert pages.pages_per_second(ours) == 1.0
    assert pages.texts_in_common(theirs) == 2, "texts count as often as both have them, page by page"


def test_the_command_prints_a_table_or_json(pages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Engine("C", "no_such_module:load", ("no-such-distribution",))
    monkeypatch.setattr(bench_pages, "engines", lambda *_: (fake("A", tmp_path), fake("B", tmp_path), absent))
    arguments = ["bench", "pages", *map(str, pages), "--repeat", "2", "--threads", "1"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert [engine["name"] for engine in document["engines"]] == ["A", "B"]
    second = document["engines"][1]
    assert (second["lines"], second["texts_in_common"], len(second["seconds"])) == (4, 4, 2)
    assert second["pages_per_second"] == pytest.approx(2 / second["median_seconds"])
    assert document["missing"] == {"C": ["no-such-distribution"]}
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0, table.output
    assert "4 of 4" in table.stdout
    assert "left out: C (no-such-distribution not installed)" in table.stdout


def test_a_mixed_folder_is_rendered_and_read_by_the_engines_that_are_named(
    pages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_pages, "engines", lambda *_: [fake("A", tmp_path), fake("B", tmp_path)])
    monkeypatch.setattr(bench_engines, "WARM_UP", 2)
    arguments = ["bench", "pages", str(pages[0]), "--mixed", "4", "--repeat", "1", "--threads", "1", "--json"]
    shown = CliRunner().invoke(main, [*arguments, "--engine", "A"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert [engine["name"] for engine in document["engines"]] == ["A"]
    assert document["engines"][0]["lines"] == 8
    assert document["pages"][0] == str(pages[0])
    assert {Path(page).stem[:4] for page in document["pages"][1:]} == {"000_", "001_", "002_"}
    assert "C is no engine of this run: A, B" in CliRunner().invoke(main, [*arguments, "--engine", "C"]).output
    assert "needs at least one image" in CliRunner().invoke(main, ["bench", "pages"]).output


def test_mixed_pages_are_the_same_for_a_seed(tmp_path: Path) -> None:
    found = []
    for name, count, seed in (("one", 20, 3), ("two", 2, 3), ("other", 2, 4)):
        (tmp_path / name).mkdir()
        found.append([path.read_bytes() for path in write_mixed_pages(tmp_path / name, count, seed)])
    assert found[0][:2] == found[1] != found[2]
    names = [path.stem.partition("_")[2] for path in (tmp_path / "one").iterdir()]
    assert {kind: names.count(kind) for kind in names} == {"receipt": 14, "scan": 3, "photo": 3}


FASTER_PADDLE = """
class OcrEngine:
    def __init__(self, model_size, threads, rec_batch, det_max_side, *, det_min_side):
        assert (model_size, threads, det_max_side, det_min_side) == ("tiny", 1, 4000, 64)
        print("libraries print what they like")

    def ocr(self, content):
        return {"bounds": {0: {"text": "hello"}, 1: {"text": str(len(content))}}}
"""


@pytest.fixture
def peer(tmp_path: Path) -> Path:
    """An interpreter that has faster-paddle, or something that passes for it, and not this package."""
    site = tmp_path / "site"
    (site / "faster_paddle-1.0.9.dist-info").mkdir(parents=True)
    (site / "faster_paddle-1.0.9.dist-info" / "METADATA").write_text("Name: faster-paddle\nVersion: 1.0.9\n")
    (site / "faster_paddle.py").write_text(FASTER_PADDLE)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_a_peer_runs_in_its_own_interpreter(
    pages: list[Path], peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_pages, "_our_pair", lambda *_: [fake("A", tmp_path)])
    arguments = ["bench", "pages", *map(str, pages), "--models", "v6-tiny", "--repeat", "2", "--threads", "1", "--json"]
    shown = CliRunner().invoke(main, [*arguments, "--peer", f"faster-paddle={peer}"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    ours, theirs = document["engines"]
    assert document["versions"]["faster-paddle"] == "1.0.9"
    assert (theirs["name"], theirs["lines"], theirs["texts_in_common"]) == ("faster-paddle", 4, 2)
    assert (theirs["precision"], theirs["detector_inputs"]) == (None, [])
    assert theirs["loaded_memory"] > 0
    assert len(theirs["seconds"]) == len(ours["seconds"]) == 2


def test_peers_that_cannot_take_part(
    pages: list[Path], peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(models: str, *options: str) -> str:
        arguments = ["bench", "pages", *map(str, pages), "--models", models, "--repeat", "1", "--threads", "1"]
        return CliRunner().invoke(main, [*arguments, *options]).output

    monkeypatch.setattr(bench_pages, "_our_pair", lambda *_: [fake("A", tmp_path)])
    onnx = ("--onnx", str(pages[0]), str(pages[1]))
    monkeypatch.setattr("paddle2torch.zoo.resolve.obtain_converted", lambda name: tmp_path)
    monkeypatch.setattr(ModelConfig, "load", lambda folder: tiny_config())
    absent = run("v6-small", "--peer", f"rapidocr={peer}", *onnx)
    assert "left out: RapidOCR, OpenVINO as it comes (rapidocr, openvino not installed)" in absent
    monkeypatch.setattr("paddle2torch.exporting.export.export", lambda model, to, path: None)
    assert "left out: rapidocrlite (its interpreter lacks operators" in run(
        "v6-small", "--peer", f"rapidocrlite={peer}"
    )
    assert "tesseract is no peer that is known: rapidocr, " in run("v6-tiny", "--peer", f"tesseract={peer}")
    assert "is no Python that runs" in run("v6-tiny", "--peer", f"faster-paddle={pages[0]}")
    assert "is not NAME=PYTHON" in run("v6-tiny", "--peer", "faster-paddle")
    monkeypatch.setattr(bench_pages, "engines", lambda *_: [fake("A", tmp_path)])
    assert "left out: faster-paddle (it reads PP-OCRv6 alone)" in run("v4", "--peer", f"faster-paddle={peer}")
    assert "belong to --models v4" in run("v6-tiny", "--det", str(tmp_path))


def test_an_export_that_cannot_be_converted_is_named(pages: list[Path], tmp_path: Path) -> None:
    with pytest.raises(Paddle2TorchError, match="nowhere"):
        bench_pages.bench_pages(pages, threads=1, det=tmp_path / "nowhere")


def test_threads_are_looked_at_before_anything_is_converted(pages: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threads is 1 to"):
        bench_pages.bench_pages(pages, threads=0, det=tmp_path / "nowhere")


def test_ours_are_prepared_before_their_processes_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled engine whose model cannot be compiled would run without it unnoticed."""
    from paddle2torch.compiled import network as compiled

    def load_compiled(folder: Path) -> None:
        raise compiled.CompilerError(f"no compiler for {folder.name}")

    monkeypatch.setattr(compiled, "load_compiled", load_compiled)
    models = {task: str(tmp_path / task) for task in ("det", "cls", "rec")}
    for folder in models.values():
        Path(folder).mkdir()
        (Path(folder) / "model_config.json").write_text("{}")
    with pytest.raises(compiled.CompilerError, match="no compiler for det"):
        bench_pages.engines(models, {}, compiled=True)
    found = bench_pages.engines(models, {}, compiled=False)
    assert [engine.name for engine in found[:2]] == ["paddle2torch", "paddle2torch, fast"]
    assert found[1].options == {**models, "fast": True}


@pytest.mark.parametrize(("quantized", "bfloat16"), [(False, True), (True, True), (True, False)])
def test_every_form_that_there_can_be_is_compiled(
    quantized: bool, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        "paddle2torch.compiled.network.load_compiled", lambda folder, **form: made.append((folder, form))
    )
    monkeypatch.setattr("paddle2torch.model_zoo.forms.native.has_bfloat16", lambda: bfloat16)
    folder = Path("model")
    assert compile_forms(folder, quantized=quantized) == (None if bfloat16 else NO_BFLOAT16)
    wanted = [{}, *[{"quantized": True}] * quantized, *[{"dtype": torch.bfloat16}] * bfloat16]
    assert made == [(folder, form) for form in wanted]
