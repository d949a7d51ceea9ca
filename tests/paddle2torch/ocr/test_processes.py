"""Pages read in several processes: the same results in the same order, whatever dies on the way."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pypdfium2
import pytest
from click.testing import CliRunner
from coloured_bars import Colours, Ink, page_of, pipeline, settings
from PIL import Image
from torch import Tensor

from paddle2torch import cli
from paddle2torch.cli.output import ended_by_sigterm
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.ocr import processes
from paddle2torch.ocr.job import run_job
from paddle2torch.ocr.pages import Failure, PageRange, find_ranges
from paddle2torch.ocr.processes import Processes, best_count
from paddle2torch.ocr.results import PageText

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")

MAGENTA = (255, 0, 255)
"""The colour of a letter of which `Deadly` dies and for which `Hungry` asks for 4 GB."""


class Deadly(Colours):
    """A recogniser that ends its process, as the system does where memory runs out."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_magenta(x):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Hungry(Colours):
    def forward(self, x: Tensor) -> Tensor:
        if _is_magenta(x):
            x.new_ones(2**30)
        return super().forward(x)


class Growing(Colours):
    """A recogniser that keeps 200 MB, and says so."""

    kept = None

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("200 MB are kept", stacklevel=2)
        self.kept = x.new_ones(50 * 2**20)
        return super().forward(x)


class Unloadable(Ink):
    """A network that ends the process that loads it."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


def _is_magenta(x: Tensor) -> bool:
    blue, green, red = x[:, :, 20].unbind(1)
    return bool(((blue > 0.5) & (red > 0.5) & (green < -0.5)).any())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a PDF of six pages, a TIFF of two, and a broken file between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index, text in enumerate(("A", "AB", "ABC", "B", "BC", "C")):
        cv2.imwrite(str(folder / f"{index}.png"), page_of(text))
    (folder / "2b.png").write_bytes(b"broken")
    frames = [Image.fromarray(page_of(text)[..., ::-1]) for text in ("CC", "BB", "AA", "CB", "BA", "AC")]
    frames[0].save(folder / "4b.tif", save_all=True, append_images=frames[1:2])
    frames[0].save(folder / "3b.pdf", save_all=True, append_images=frames[1:], resolution=144)
    return folder


def results(reader: Processes, *inputs: Path) -> list[str]:
    """What was read of each page, and of what failed its name."""
    return [
        " ".join(line.text for line in result) if isinstance(result, PageText) else Path(result.source).name
        for result in reader.read(map(str, inputs))
    ]


@pytest.fixture
def two() -> Iterator[Processes]:
    with Processes(settings(rec=Deadly().eval()), count=2) as two:
        yield two


def workers(of: Processes) -> list[Any]:
    return [worker.process for worker in of._workers]


@pytest.mark.parametrize("fast", [False, True])
def test_all_formats_are_those_of_one_process(folder: Path, tmp_path: Path, fast: bool) -> None:
    one = pipeline(fast=fast)
    with Processes(settings(fast=fast), count=2) as two:
        for format in ("jsonl",) if fast else ("jsonl", "text", "pdf"):
            for name, reader in (("one", one), ("two", two)):
                output = tmp_path / (f"{name}.jsonl" if format == "jsonl" else f"{name}-{format}")
                failures = run_job(reader, [folder], stream=io.StringIO(), format=format, output=output)
                assert [Path(failure.source).name for failure in failures] == ["2b.png"]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    if not fast:
        for path in (tmp_path / "one-text").iterdir():
            assert path.read_bytes() == (tmp_path / "two-text" / path.name).read_bytes()
        sizes = [
            pypdfium2.PdfDocument(tmp_path / name / "0.png.pdf")[0].render().to_numpy()
            for name in ("one-pdf", "two-pdf")
        ]
        np.testing.assert_array_equal(*sizes)


def test_a_run_that_was_cut_off_is_gone_on_with(folder: Path, tmp_path: Path, two: Processes) -> None:
    run_job(two, [folder], stream=io.StringIO(), output=tmp_path / "all.jsonl")
    whole = (tmp_path / "all.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "all.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])
    read: list[Any] = []
    run_job(two, [folder], stream=io.StringIO(), output=tmp_path / "all.jsonl", resume=True, finished=read.append)
    assert (tmp_path / "all.jsonl").read_bytes() == whole
    assert len(read) == 10, "nine of fourteen pages, and what is broken again"


def test_a_page_that_kills_is_a_failure_and_the_others_are_read(folder: Path, two: Processes) -> None:
    deadly = folder / "1b.png"
    cv2.imwrite(str(deadly), page_of("A", MAGENTA))
    frames = [Image.fromarray(page_of("A", colour)[..., ::-1]) for colour in (None, MAGENTA, None, None)]
    frames[0].save(folder / "1c.pdf", save_all=True, append_images=frames[1:], resolution=72)
    found = list(two.read([str(folder / name) for name in ("0.png", "1b.png", "1c.pdf", "5.png")]))
    assert [(Path(result.source).name, result.number, isinstance(result, Failure)) for result in found] == [
        ("0.png", 1, False),
        ("1b.png", 1, True),
        *[("1c.pdf", number, number == 2) for number in (1, 2, 3, 4)],
        ("5.png", 1, False),
    ]
    assert isinstance(found[1], Failure)
    assert found[1].message == (
        f"{deadly}, page 1 cannot be read: 2 processes ended while they read it (the last: SIGKILL); it may take more "
        "memory than there is"
    )


def test_processes_that_are_killed_lose_no_page(folder: Path, two: Processes) -> None:
    names = [folder / f"{index % 6}.png" for index in range(60)]
    found = []
    for number, result in enumerate(two.read(map(str, names))):
        found.append(result)
        if number % 9 == 4:
            os.kill(workers(two)[number % len(workers(two))].pid, signal.SIGKILL)
    assert [Path(result.source).name for result in found] == [name.name for name in names]
    assert sum(isinstance(result, Failure) for result in found) <= 3, "whose processes were killed twice"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has a limit that counts what is used")
def test_a_page_that_needs_too_much_memory_is_a_failure(folder: Path) -> None:
    cv2.imwrite(str(folder / "1b.png"), page_of("A", MAGENTA))
    with Processes(settings(rec=Hungry().eval()), count=1, memory=2**31) as one:
        first = workers(one)[0].pid
        found = list(one.read([str(folder / name) for name in ("0.png", "1b.png", "5.png")]))
        assert [worker.pid for worker in workers(one)] == [first]
    assert isinstance(found[1], Failure)
    assert found[1].message.endswith("not enough memory for it: --process-memory gives a process 2,048 MB")
    assert isinstance(found[2], PageText)
    with pytest.raises(Paddle2TorchError, match=r"--process-memory is at least twice that, not 20 MB"):
        Processes(settings(), count=1, memory=20 * 2**20).__enter__()


def test_a_process_that_has_grown_is_replaced_and_its_notes_are_warnings(folder: Path) -> None:
    with Processes(settings(), count=1) as one:
        before = workers(one)[0].pid
        assert results(one, folder / "0.png") == ["A"]
        # What a process holds when it has read depends on PyTorch's build.
        statm, held = Path(f"/proc/{before}/statm"), 250 * 2**20
        if statm.is_file():
            held = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        one.memory = 2 * (held + 100 * 2**20)
        assert results(one, folder / "0.png", folder / "1.png") == ["A", "AB"]
        assert [worker.pid for worker in workers(one)] == [before]
    with Processes(settings(rec=Growing().eval()), count=1, memory=one.memory) as one:
        before = workers(one)[0].pid
        with pytest.warns(UserWarning, match="200 MB are kept"):
            assert results(one, folder / "0.png", folder / "1.png") == ["A", "AB"]
        assert before not in [worker.pid for worker in workers(one)]


def test_what_cannot_be_loaded_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Paddle2TorchError, match="'xx'"):
        Processes({"lang": "xx"}, count=2).__enter__()
    monkeypatch.setattr(processes, "LOADS", 2)
    with pytest.raises(Paddle2TorchError, match=r"2 processes in a row ended .*exit status 7.*__main__"):
        Processes(settings(det=Unloadable().eval()), count=2).__enter__()


def test_reading_that_is_left_in_the_middle_ends_what_was_under_way(folder: Path, two: Processes) -> None:
    reading = two.read([str(folder / f"{index % 6}.png") for index in range(40)])
    next(reading)
    started = workers(two)
    reading.close()
    assert all(process.is_alive() for process in workers(two))
    assert results(two, folder / "5.png") == ["C"]
    two._end(two._workers)
    assert not any(process.is_alive() for process in started)


def test_ranges_of_pages(folder: Path) -> None:
    found = find_ranges([str(folder / name) for name in ("0.png", "3b.pdf", "4b.tif", "none.pdf")], most=4)
    assert [
        (Path(pages.source).name, *((pages.first, pages.last) if isinstance(pages, PageRange) else ()))
        for pages in found
    ] == [("0.png", 1, 1), ("3b.pdf", 1, 4), ("3b.pdf", 5, 6), ("4b.tif", 1, 2), ("none.pdf", 1, 1)]
    done = {1, 3, 4}
    found = find_ranges([str(folder / "3b.pdf")], lambda source, number: number in done, most=4)
    assert [(pages.first, pages.last) for pages in found if isinstance(pages, PageRange)] == [(2, 2), (5, 6)]


def test_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "available_cores", lambda: 8)
    monkeypatch.setattr(processes, "available_memory", lambda: 2**34)
    assert best_count(2**33) == 4, "as many as have 4 GiB of the 16"
    assert best_count() == 8
    assert best_count(2**40) == 1
    assert best_count(2**30, "cuda") == 1
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        Processes({}, count=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "2", "--workers", "2"], "leave them or --processes out"),
        (["--process-memory", "2000"], "belongs to --processes"),
        (["--processes", "scans/"], "put --processes behind the files"),
        (["--processes", "0"], "is not a number of processes"),
    ],
)
def test_options_that_contradict_each_other(folder: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.main, ["ocr", *options, str(folder)])
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())


def test_standard_input_is_read_by_one_process(two: Processes) -> None:
    with pytest.raises(ConfigError, match="save it to a file, or leave --processes out"):
        next(two.read(["-"]))


def _run(folder: Path, output: Path, said: Connection) -> None:
    with ended_by_sigterm(), Processes(settings(), count=2) as two:
        names = [folder / "0.png", *(folder / f"link{number}.png" for number in range(2000))]
        run_job(
            two, names, stream=io.StringIO(), output=output, finished=lambda _: said.send([x.pid for x in workers(two)])
        )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_processes_too(folder: Path, tmp_path: Path, number: int, status: int) -> None:
    for index in range(2000):
        (folder / f"link{index}.png").symlink_to(folder / "0.png")
    output = tmp_path / "out" / "all.txt"
    ours, theirs = multiprocessing.Pipe(duplex=False)
    run = multiprocessing.get_context("forkserver").Process(target=_run, args=(folder, output, theirs))
    run.start()
    theirs.close()
    started = [ours.recv() for _ in range(3)][-1]
    assert run.pid is not None
    os.kill(run.pid, number)
    with contextlib.suppress(EOFError, OSError):
        while True:
            ours.recv()
    run.join(10)
    assert run.exitcode == status
    until = time.monotonic() + 10
    while any(map(_is_there, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_is_there, started))
    if number == signal.SIGTERM:
        assert list(output.parent.iterdir()) == []


def _is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
