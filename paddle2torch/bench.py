"""Speed and memory, measured in whole processes and beside what they are to be compared with, in one run.

Machines differ and are noisy: what is said is medians, their spread, and ratios within the run.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


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


@dataclass(frozen=True)
class ConversionBench:
    """Conversion of one checkpoint beside `import torch` alone; `file_size` in bytes."""

    checkpoint: str
    file_size: int
    help: Measurement
    import_torch: Measurement
    convert: Measurement

    @property
    def above_import(self) -> float:
        """Seconds that a conversion takes more than `import torch`, medians."""
        return self.convert.median - self.import_torch.median

    @property
    def memory_ratio(self) -> float:
        """Peak memory above that of `import torch`, in sizes of the file."""
        return (self.convert.peak_memory - self.import_torch.peak_memory) / self.file_size


def bench_conversion(weights: Path | None = None, *, repeat: int = 5) -> ConversionBench:
    """Measure `paddle2torch convert` of a checkpoint of en_PP-OCRv4_rec as whole processes.

    Without `weights` a checkpoint of that size is made up. The three commands take turns, so that a noisy moment
    falls on all of them; each has one turn that does not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "made_up.pdparams" if weights is None else Path(weights)
        if weights is None:
            # In a process of its own: a child's peak memory counts from that of the process that starts it.
            code = "import sys, pathlib, paddle2torch.bench as b; b.write_checkpoint(pathlib.Path(sys.argv[1]))"
            subprocess.run([sys.executable, "-c", code, str(checkpoint)], check=True)
        cli = [sys.executable, "-m", "paddle2torch.cli"]
        output = str(Path(folder) / "model")
        commands = {
            "help": [*cli, "--help"],
            "import torch": [sys.executable, "-c", "import torch"],
            "convert": [*cli, "convert", "en_PP-OCRv4_rec", "--weights", str(checkpoint), "-o", output, "--overwrite"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        memory = dict.fromkeys(commands, 0)
        for turn in range(repeat + 1):
            for name, command in commands.items():
                took, peak = _run(command)
                if turn > 0:
                    seconds[name].append(took)
                memory[name] = max(memory[name], peak)
        results = {name: Measurement(name, tuple(seconds[name]), memory[name]) for name in commands}
        return ConversionBench(
            str(checkpoint if weights else "made up"),
            checkpoint.stat().st_size,
            results["help"],
            results["import torch"],
            results["convert"],
        )


def bench_growth(folder: Path, counts: Sequence[int]) -> tuple[Measurement, ...]:
    """Run `paddle2torch read` on so many lines each: the bundled ones, again and again."""
    images = sorted((Path(__file__).parent / "assets").glob("line_*.png"))
    cli = [sys.executable, "-m", "paddle2torch.cli", "read", str(folder)]
    results = []
    for count in counts:
        took, peak = _run([*cli, *(str(images[index % len(images)]) for index in range(count))])
        results.append(Measurement(f"{count} lines", (took,), peak))
    return tuple(results)


def write_checkpoint(path: Path) -> None:
    """A checkpoint of en_PP-OCRv4_rec with zeros for weights, as Paddle writes one."""
    import torch

    from paddle2torch.converters.layout import layout_table, to_paddle
    from paddle2torch.converters.templates import from_card
    from paddle2torch.model_zoo.cards import load_card
    from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, RecPreprocess
    from paddle2torch.model_zoo.network import build_model

    card = load_card("en_PP-OCRv4_rec")
    architecture = from_card(card).architecture
    assert architecture is not None
    head = Component(architecture.head.name, {**architecture.head.options, "classes": card.classes})
    config = ModelConfig(
        card.name, "rec", "training", architecture.backbone, None, head, RecPreprocess(), CTCDecode(), card.characters()
    )
    with torch.device("meta"):
        model = build_model(config)
    state = {key: torch.zeros(value.shape) for key, value in model.state_dict().items()}
    tensors: dict[str, np.ndarray | dict[str, str]] = dict(to_paddle(layout_table(model), state))
    tensors["StructuredToParameterName@@"] = {key: f"tensor_{i}" for i, key in enumerate(state)}
    with path.open("wb") as file:
        pickle.dump(tensors, file, protocol=4)


def _run(command: Sequence[str]) -> tuple[float, int]:
    """Run a process to its end: seconds and peak resident memory in bytes. Raises where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - start
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {errors.decode(errors='replace')[-500:]}")
    return took, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
