"""Engines that do the same work side by side: each in a process of its own, taking turns.

Paddle and torch crash each other in one process. An engine reads the first images once to warm up, and then waits for
its turn: one pass over the images. So a noisy moment falls on all of them.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from paddle2torch.bench._peers import serve
from paddle2torch.bench.processes import BenchError, Measurement, describe_cpu, last_words, version_of
from paddle2torch.model_zoo.errors import ConfigError

if TYPE_CHECKING:
    from paddle2torch.tasks.images import BGRImage

WARM_UP = 8
"""Images that each engine reads before its turns."""

REST = 0.2
"""Seconds between two turns: the threads of the engine before go on spinning for a moment after its last image."""

PEERS = Path(__file__).with_name("_peers.py")
"""What a peer's interpreter runs."""

VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""
"""Asks an interpreter for the versions of distributions."""

NO_INT8 = "the model was not quantized: paddle2torch quantize"
"""Why our int8 form is left out."""

NO_BFLOAT16 = "this processor does not multiply bfloat16"
"""Why what runs in bfloat16 is left out."""

Reader: TypeAlias = "Callable[[Sequence[BGRImage]], list[list[str]]]"
"""Images in, what was found in each image out: the texts of its lines, or what else engines can be compared by."""


@dataclass(frozen=True)
class Engine:
    """One way to do the work. loader: `module:function`, which makes a `Reader` from threads and `options`.

    distributions: what must be installed for it. options: of any kind that JSON has. cannot: why it cannot take part,
    whatever is installed. python: the interpreter of a peer, which has `distributions` and not this package; its loader
    is a name in `_peers.LOADERS`.
    """

    name: str
    loader: str
    distributions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    cannot: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class EngineRun:
    """What an engine needed for each pass over all images, and what it found in the last one.

    passes: wall-clock seconds, and the peak memory of its process. cpu_seconds: of all its threads, per pass.
    loaded_memory: peak bytes before the first image. texts: what it found in each image. facts: what it turned out to
    do in the last pass, see `_peers.FACTS`.
    """

    passes: Measurement
    cpu_seconds: tuple[float, ...]
    loaded_memory: int
    texts: tuple[tuple[str, ...], ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnginesBench:
    """All engines in one run; the first is ours.

    missing: engines that were left out for want of distributions, and which. left_out: others, and why.
    """

    threads: int
    cpu: str
    versions: Mapping[str, str]
    runs: tuple[EngineRun, ...]
    missing: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def ratios(self, run: EngineRun) -> tuple[float, float, float]:
        """How many times as fast as `run` ours is; see `Measurement.times_as_fast_as`."""
        return self.runs[0].passes.times_as_fast_as(run.passes)

    def to_json(self) -> dict[str, Any]:
        """All of it but the texts as JSON knows it, with what follows from it."""
        engines = []
        for run in self.runs:
            ratio, least, most = self.ratios(run)
            engines.append(
                {
                    **run.passes.to_json(),
                    "cpu_seconds": list(run.cpu_seconds),
                    "loaded_memory": run.loaded_memory,
                    "ours_times_as_fast": {"median": ratio, "min": least, "max": most},
                }
            )
        return {
            "threads": self.threads,
            "cpu": self.cpu,
            "versions": dict(self.versions),
            "engines": engines,
            "missing": {name: list(distributions) for name, distributions in self.missing.items()},
            "left_out": dict(self.left_out),
        }


def check_threads(threads: int) -> None:
    """Raise `ConfigError` for more threads than the machine has cores, which not every engine takes notice of."""
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        raise ConfigError(f"threads is 1 to {cores}, the cores of this machine, not {threads}")


def compile_forms(folder: Path, *, quantized: bool) -> str | None:
    """Compile our forms of a converted model, where that is not yet done: in its process an engine that cannot be
    compiled would run without it. Returns the reason where there is no form in bfloat16, else None.
    """
    import torch

    from paddle2torch.compiled.network import load_compiled
    from paddle2torch.model_zoo.forms.native import has_bfloat16

    load_compiled(folder)
    if quantized:
        load_compiled(folder, quantized=True)
    if not has_bfloat16():
        return NO_BFLOAT16
    load_compiled(folder, dtype=torch.bfloat16)
    return None


def run_engines(
    engines: Sequence[Engine],
    images: Sequence[str | Path],
    *,
    repeat: int = 5,
    threads: int = 2,
    own_inputs: bool = False,
) -> EnginesBench:
    """Start the engines that can take part, warm them up, and let them read the images in turn, `repeat` times each.

    The first one, ours, must be able to. own_inputs: each engine has inputs of its own, so that there need be no image.
    Raises `BenchError` with an engine's last words where one fails.
    """
    if not images and not own_inputs:
        raise ConfigError("a benchmark needs at least one image")
    check_threads(threads)
    versions = {"python": platform.python_version()}
    missing: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    taking_part = []
    for engine in engines:
        found = versions_in(engine.python, engine.distributions)
        versions.update({name: version for name, version in found.items() if version is not None})
        if engine.cannot is not None:
            left_out[engine.name] = engine.cannot
        elif None in found.values():
            missing[engine.name] = tuple(name for name, version in found.items() if version is None)
        else:
            taking_part.append(engine)
    if engines[0].name in missing:
        raise BenchError(f"{engines[0].name} is not installed: {', '.join(missing[engines[0].name])} not found")
    paths = tuple(str(image) for image in images)
    with ExitStack() as stack:
        running = [stack.enter_context(_start(engine, paths, threads)) for engine in taking_part]
        loaded = [process.answer() for process in running]
        versions["opencv"] = loaded[0]["opencv"]
        for process in running:
            process.read(WARM_UP)
        passes: list[list[dict[str, Any]]] = [[] for _ in running]
        for _ in range(repeat):
            for process, answers in zip(running, passes, strict=True):
                time.sleep(REST)
                answers.append(process.read())
    runs = tuple(
        _run(process.name, first["memory"], answers)
        for process, first, answers in zip(running, loaded, passes, strict=True)
    )
    return EnginesBench(threads, describe_cpu(), versions, runs, missing, left_out)


def versions_in(python: str | None, distributions: Sequence[str]) -> dict[str, str | None]:
    """Versions of `distributions` in an interpreter, by default this one; None for what is not installed there.

    Raises `ConfigError` where `python` is no interpreter.
    """
    if python is None:
        return {name: version_of(name) for name in distributions}
    try:
        done = subprocess.run(
            [python, "-c", VERSIONS, *distributions], capture_output=True, text=True, encoding="utf-8", timeout=60
        )
        found: dict[str, str | None] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{python} is no Python that runs: give the interpreter of the peer's environment") from error
    return found


def _run(name: str, loaded_memory: int, answers: Sequence[Mapping[str, Any]]) -> EngineRun:
    seconds = tuple(answer["seconds"] for answer in answers)
    return EngineRun(
        Measurement(name, seconds, max(answer["memory"] for answer in answers)),
        tuple(answer["cpu_seconds"] for answer in answers),
        loaded_memory,
        tuple(tuple(page) for page in answers[-1]["texts"]),
        answers[-1]["facts"],
    )


class _Process:
    """An engine that waits in its process: a line of JSON for each time that it is told to read."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    def read(self, most: int | None = None) -> dict[str, Any]:
        """One pass over the images, or over at most the first `most`."""
        self.tell(json.dumps(most))
        return self.answer()

    def tell(self, message: str) -> None:
        """Send one line; an engine that is gone is found out by `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()

    def answer(self) -> dict[str, Any]:
        """What it says next; raises `BenchError` where it has stopped."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = last_words(self._errors.read().decode(errors="replace"))
            raise BenchError(f"{self.name} stopped: {words or f'exit status {self._process.returncode}'}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def _start(engine: Engine, images: Sequence[str], threads: int) -> Iterator[_Process]:
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
    if engine.python is not None:
        # What this interpreter is to find is not that one's business.
        environment = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", __name__] if engine.python is None else [engine.python, str(PEERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=environment,
        ) as process,
    ):
        running = _Process(engine.name, process, errors)
        request = {"loader": engine.loader, "options": dict(engine.options), "threads": threads, "images": images}
        running.tell(json.dumps(request))
        try:
            yield running
        finally:
            process.kill()


def _load(request: dict[str, Any]) -> tuple[Callable[[int | None], list[list[str]]], dict[str, Any]]:
    """The reader that a request names, on its images."""
    import cv2

    from paddle2torch.tasks.images import load_image

    cv2.setNumThreads(request["threads"])
    images = [load_image(image) for image in request["images"]]
    module, _, function = request["loader"].partition(":")
    read: Reader = getattr(importlib.import_module(module), function)(request["threads"], **request["options"])
    return lambda most: read(images[:most]), {"opencv": cv2.__version__}


if __name__ == "__main__":
    serve(_load)
