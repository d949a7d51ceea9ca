"""Speed and memory, measured in whole processes and beside what they are to be compared with, in one run.

Machines differ and are noisy: what is said is medians, their spread, and ratios within the run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from paddle2torch.assets import ASSETS
from paddle2torch.model_zoo.errors import Paddle2TorchError

CLI = (sys.executable, "-m", "paddle2torch.cli")
PYTHON = (sys.executable, "-c")

IMPORT_TORCH = "import torch"
"""What each command that runs a network has to do first, and what it is compared with."""

LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
process.returncode = os.waitstatus_to_exitcode(status)
sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)
"""
"""Runs a command from a small process: a command's peak memory begins with that of the process that starts it."""

CPU_FEATURES: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512_f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile",),
    "NEON": ("neon",),
    "SVE": ("sve",),
    "I8MM": ("i8mm",),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
}
"""Instructions that decide how fast a network runs, with PyTorch's names for them, any of which is enough."""


class BenchError(Paddle2TorchError):
    """What was to be measured could not be started, or stopped in the middle of it."""


@dataclass(frozen=True)
class Measurement:
    """Wall-clock seconds of each repetition of a process, and its largest resident memory in bytes."""

    name: str
    seconds: tuple[float, ...]
    peak_memory: int

    @property
    def median(self) -> float:
        """Median of the repetitions, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest minus fastest, in seconds."""
        return max(self.seconds) - min(self.seconds)

    def times_as_fast_as(self, other: Measurement) -> tuple[float, float, float]:
        """`other`'s seconds by these: median, least and most over the turns, each turn within itself."""
        turns = [theirs / ours for ours, theirs in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(turns), min(turns), max(turns)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        return {
            "name": self.name,
            "seconds": list(self.seconds),
            "median_seconds": self.median,
            "spread_seconds": self.spread,
            "peak_memory": self.peak_memory,
        }


@dataclass(frozen=True)
class ProcessBench:
    """A command, the last of `processes`, beside those that it is compared with; `import torch` is one of them."""

    processes: tuple[Measurement, ...]
    cpu: str
    versions: Mapping[str, str]

    @property
    def import_torch(self) -> Measurement:
        """What the others are compared with."""
        return next(process for process in self.processes if process.name == IMPORT_TORCH)

    @property
    def seconds_above_import(self) -> float:
        """What the command takes more than `import torch`, medians."""
        return self.processes[-1].median - self.import_torch.median

    @property
    def memory_above_import(self) -> int:
        """Bytes by which the command's peak is above that of `import torch`."""
        return self.processes[-1].peak_memory - self.import_torch.peak_memory

    def ratios(self, process: Measurement) -> tuple[float, float, float]:
        """Its seconds by those of `import torch`; see `Measurement.times_as_fast_as`."""
        return self.import_torch.times_as_fast_as(process)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        processes = []
        for process in self.processes:
            ratio, least, most = self.ratios(process)
            by_import = {"median": ratio, "min": least, "max": most}
            processes.append({**process.to_json(), "by_import_torch": by_import})
        return {
            "processes": processes,
            "seconds_above_import": self.seconds_above_import,
            "memory_above_import": self.memory_above_import,
            "cpu": self.cpu,
            "versions": dict(self.versions),
        }


@dataclass(frozen=True)
class ConversionBench(ProcessBench):
    """Conversion of one checkpoint beside the imports; `file_size` in bytes."""

    checkpoint: str
    file_size: int

    @property
    def memory_ratio(self) -> float:
        """Peak memory above that of `import torch`, in sizes of the file."""
        return self.memory_above_import / self.file_size

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        file = {"checkpoint": self.checkpoint, "file_size": self.file_size, "memory_in_file_sizes": self.memory_ratio}
        return {**file, **super().to_json()}


@dataclass(frozen=True)
class VerificationBench(ProcessBench):
    """Verification of one model beside `import torch` and, where Paddle runs, beside Paddle alone."""

    model: str
    reference: str

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        return {"model": self.model, "reference": self.reference, **super().to_json()}


@dataclass(frozen=True)
class GrowthBench:
    """Reading different numbers of lines: a process for each of `lines`."""

    lines: tuple[int, ...]
    processes: tuple[Measurement, ...]
    cpu: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        runs = zip(self.lines, self.processes, strict=True)
        return {
            "runs": [{"lines": lines, "seconds": run.median, "peak_memory": run.peak_memory} for lines, run in runs],
            "cpu": self.cpu,
            "versions": dict(self.versions),
        }


def bench_conversion(weights: Path | None = None, *, repeat: int = 5) -> ConversionBench:
    """Measure `paddle2torch convert` of a checkpoint of en_PP-OCRv4_rec, and the ways to import the package.

    Without `weights` a checkpoint of that size is made up. Raises `BenchError` where a process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "made_up.pdparams" if weights is None else Path(weights)
        if weights is None:
            write_checkpoint(checkpoint)
        output = str(Path(folder) / "model")
        convert = (*CLI, "convert", "en_PP-OCRv4_rec")
        load_pretrained = "from paddle2torch import load_pretrained"
        processes = run_in_turns(
            {
                "paddle2torch --help": (*CLI, "--help"),
                "import paddle2torch": (*PYTHON, "import paddle2torch"),
                IMPORT_TORCH: (*PYTHON, IMPORT_TORCH),
                load_pretrained: (*PYTHON, load_pretrained),
                "convert": (*convert, "--weights", str(checkpoint), "-o", output, "--overwrite"),
            },
            repeat,
        )
        name = "made up" if weights is None else str(weights)
        return ConversionBench(processes, describe_cpu(), versions_of("torch"), name, checkpoint.stat().st_size)


def bench_verification(model: str | Path, *, reference: Path | None = None, repeat: int = 5) -> VerificationBench:
    """Measure `paddle2torch verify` of a model: a name of the zoo or the folder of a converted one.

    reference: an exported program or a stored golden; without it as for `verify`. Where it is a program, a process is
    measured as well that only runs it once in Paddle, and asks for no layer's values. Raises `BenchError` where a
    process fails, and for a model that is not equal to its reference.
    """
    command = (*CLI, "verify", str(model), *(("--reference", str(reference)) if reference is not None else ()))
    found = _verification(command, str(model))
    commands = {IMPORT_TORCH: (*PYTHON, IMPORT_TORCH)}
    packages = ["torch"]
    program = reference is None or reference.suffix != ".safetensors"
    if program and importlib.util.find_spec("paddle") is not None:
        code = "import sys, paddle2torch.bench.processes as b; b.run_paddle(*sys.argv[1:])"
        commands["Paddle alone"] = (*PYTHON, code, found["reference"], *map(str, found["input_shape"]))
        packages.append("paddlepaddle")
    processes = run_in_turns({**commands, "verify": command}, repeat)
    return VerificationBench(processes, describe_cpu(), versions_of(*packages), found["model"], found["reference"])


def _verification(command: Sequence[str], model: str) -> dict[str, Any]:
    """What `verify --json` says of the one model, which may be converted for it; raises where it does not hold."""
    shown = subprocess.run((*command, "--json"), capture_output=True, text=True, encoding="utf-8")
    if not shown.stdout:
        raise BenchError(f"{model} cannot be verified: {last_words(shown.stderr)}")
    found: dict[str, Any] = json.loads(shown.stdout)[0]
    if not found["holds"]:
        raise BenchError(f"{model} is not equal to {found['reference']}: see paddle2torch verify {model}")
    return found


def run_paddle(reference: str, *shape: str) -> None:
    """Run an exported program in Paddle's own process on zeros of this shape, as `verify` does on its images."""
    from paddle2torch.converters.paddle_files.exports import find_export
    from paddle2torch.parity.reference import run_program

    program, parameters = find_export(reference)
    run_program(program, parameters, np.zeros([int(size) for size in shape], np.float32), wanted=[])


def bench_growth(model: str | Path, counts: Sequence[int]) -> GrowthBench:
    """Run `paddle2torch read` on each number of lines: the bundled ones, repeated. A first run does not count."""
    images = sorted(ASSETS.glob("line_*.png"))
    command = (*CLI, "read", str(model))
    _run((*command, str(images[0])))
    processes = []
    for count in counts:
        took, peak = _run((*command, *(str(images[index % len(images)]) for index in range(count))))
        processes.append(Measurement(f"{count} lines", (took,), peak))
    return GrowthBench(tuple(counts), tuple(processes), describe_cpu(), versions_of("torch"))


def run_in_turns(commands: Mapping[str, Sequence[str]], repeat: int) -> tuple[Measurement, ...]:
    """Run each command `repeat` times after one turn that does not count.

    They take turns, so that a noisy moment falls on all of them. Raises `BenchError` where one fails.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory = dict.fromkeys(commands, 0)
    for turn in range(repeat + 1):
        for name, command in commands.items():
            took, peak = _run(command)
            if turn > 0:
                seconds[name].append(took)
            memory[name] = max(memory[name], peak)
    return tuple(Measurement(name, tuple(seconds[name]), memory[name]) for name in commands)


def write_checkpoint(path: Path) -> None:
    """A checkpoint of en_PP-OCRv4_rec with zeros for weights, as Paddle writes one."""
    import torch

    from paddle2torch.converters.layout import layout_table, to_paddle
    from paddle2torch.converters.templates import from_card
    from paddle2torch.model_zoo.cards import load_card
    from paddle2torch.model_zoo.network import build_model

    with torch.device("meta"):
        model = build_model(from_card(load_card("en_PP-OCRv4_rec")).config())
    state = {key: torch.zeros(value.shape) for key, value in model.state_dict().items()}
    tensors: dict[str, np.ndarray | dict[str, str]] = dict(to_paddle(layout_table(model), state))
    tensors["StructuredToParameterName@@"] = {key: f"tensor_{i}" for i, key in enumerate(state)}
    with path.open("wb") as file:
        pickle.dump(tensors, file, protocol=4)


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Run a process to its end: seconds, and peak resident memory in bytes, of it or of the largest that it started.

    Raises `BenchError` where it fails.
    """
    done = subprocess.run(
        (sys.executable, "-I", "-S", "-c", LAUNCHER, *command), stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode != 0:
        words = last_words(done.stderr.decode(errors="replace")) or f"exit status {done.returncode}"
        raise BenchError(f"{shlex.join(command)[:200]} failed: {words}")
    seconds, memory = done.stdout.split()
    return float(seconds), int(memory) * (1 if sys.platform == "darwin" else 1024)


def last_words(errors: str) -> str:
    """The last line of what a process wrote to stderr: the error, after a traceback or without one."""
    return errors.strip().rpartition("\n")[2].removeprefix("Error: ")


def describe_cpu() -> str:
    """The processor's name, the number of its cores, and of its `CPU_FEATURES` those that it has. Imports torch."""
    import torch

    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        name = found.get("cpu_name") or name
        features = [feature for feature, keys in CPU_FEATURES.items() if any(found.get(key) for key in keys)]
    else:
        # An older PyTorch only says which of its own kernels it takes.
        features = [torch.backends.cpu.get_cpu_capability()]
    return ", ".join((name, f"{os.cpu_count()} cores", *features))


def versions_of(*distributions: str) -> dict[str, str]:
    """Versions of Python, of this package, and of the distributions among these that are installed."""
    found = {name: version_of(name) for name in ("paddle2torch", *distributions)}
    return {"python": platform.python_version(), **{name: text for name, text in found.items() if text is not None}}


def version_of(distribution: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
