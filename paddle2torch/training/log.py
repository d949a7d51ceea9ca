"""What a training leaves behind for people: lines on stderr and in a file, a progress bar, CSV files, a plot; its
trackers get the same rows.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paddle2torch.atomic import WriteError, land_file
from paddle2torch.device import peak_memory
from paddle2torch.training.hard_samples import HARD_NAME, HardRow, drop_later_rows
from paddle2torch.training.tracking import Shown, Tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TRAIN_NAME, EVALUATION_NAME, CURVES_NAME, LOG_NAME = "train.csv", "evaluation.csv", "curves.png", "train.log"
STEP = "step"

MEASURED = ("images_per_second", "data_share", "seconds_per_step", "peak_memory_gb")
"""Columns that say nothing of what is learnt."""

DRAWN_SECONDS = 5.0
"""Curves are not drawn anew for evaluations that follow one another faster."""

QUIET_SECONDS = 10.0
"""At least so often a line is said, however long a step takes."""


class TrainingLog:
    """Collects what each step reports, and notes the mean of it every `print_steps` steps and before each checkpoint.

    Every step is so in one row, whenever training is stopped. All methods may be called in every process; only the
    main one writes. `step` is that of the checkpoint which training goes on from: what the files say of later steps is
    dropped, because it is done again. What cannot be written, to a full disk, is said once and does not end a training.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, tracking: Tracking, *, step: int, steps: int, print_steps: int
    ) -> None:
        self._folder = folder
        self._accelerator = accelerator
        self._tracking = tracking
        self._steps = steps
        self._print_steps = print_steps
        self._main = accelerator.is_main_process
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._main and self._console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=steps, completed=step)
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._step = self._since = step
        self._images = 0
        self._waited = 0.0
        self._rate = 0.0
        self._loss = math.nan
        self._epoch = 0
        self._started = self._said = time.perf_counter()
        self._drawn = -math.inf
        self._failed: set[str] = set()
        if self._main:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (TRAIN_NAME, EVALUATION_NAME):
                _drop_later(folder / name, step)
            drop_later_rows(folder, step)

    def __enter__(self) -> TrainingLog:
        self._bar.start()
        self._started = self._said = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Say something, and keep it in the file."""
        if not self._main:
            return
        self._said = time.perf_counter()
        self._console.print(text, markup=False)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._append(LOG_NAME, "".join(f"{stamp} {line}\n" for line in text.split("\n")))

    def is_due(self, step: int) -> bool:
        """Whether the losses up to this step, which is to be noted next, are needed for that."""
        ends_row = step % self._print_steps == 0 or step == self._steps
        return ends_row or time.perf_counter() - self._said >= QUIET_SECONDS

    def losses(self, losses: Mapping[str, float]) -> None:
        """Note losses, or their share in a step's; several times a step, or for several steps at once."""
        for name, value in losses.items():
            self._sums[name] += value
        self._loss = losses["loss"]

    def train(self, step: int, epoch: int, rate: float, *, images: int, waited: float, said: bool) -> None:
        """Note a step: its learning rate, the images it used, and the seconds it waited for them. said: whether it is
        due, and all losses up to it are noted.
        """
        self._step, self._epoch, self._rate = step, epoch, rate
        self._images += images
        self._waited += waited
        self._bar.update(self._task, completed=step, description=f"epoch {epoch + 1}  loss {self._loss:.4f}")
        if step % self._print_steps == 0 or step == self._steps:
            self.flush()
        elif said:
            self._say(self._row())

    def flush(self) -> None:
        """Note the steps that are in no row yet."""
        if self._step == self._since:
            return
        row = self._row()
        self._say(row)
        self._write(TRAIN_NAME, row)
        self._sums.clear()
        self._since, self._images, self._waited = self._step, 0, 0.0
        self._started = time.perf_counter()

    def _row(self) -> dict[str, float]:
        """The means since the last row."""
        seconds, count = time.perf_counter() - self._started, self._step - self._since
        return {
            STEP: self._step,
            "epoch": self._epoch + 1,
            **{name: total / count for name, total in self._sums.items()},
            "lr": self._rate,
            "images_per_second": self._images / seconds,
            "data_share": self._waited / seconds,
            "seconds_per_step": seconds / count,
            "peak_memory_gb": most_memory(self._accelerator.device),
        }

    def _say(self, row: Mapping[str, float]) -> None:
        self.note(
            f"epoch {self._epoch + 1}, step {self._step}/{self._steps}: "
            + ", ".join(f"{name} {row[name]:.4f}" for name in self._sums)
            + f", lr {row['lr']:.3g}, {row['seconds_per_step']:.2f} s a step, {row['images_per_second']:.1f} images/s "
            f"({row['data_share']:.0%} waiting for data), {row['peak_memory_gb']:.1f} GB at most, "
            f"{duration((self._steps - self._step) * row['seconds_per_step'])} left"
        )

    def evaluation(self, step: int, metrics: Mapping[str, float], *, best: bool, seconds: float) -> None:
        """Note an evaluation, which took so many `seconds`: they are not training's. Draw the curves, unless that was
        done a moment ago.
        """
        self._started += seconds
        said = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        of_what = "the start" if step == 0 else f"step {step}"
        self.note(f"evaluation of {of_what}: {said}{', the best so far' if best else ''} ({seconds:.1f} s)")
        self._write(EVALUATION_NAME, {STEP: step, **metrics, "seconds": seconds})
        began = time.perf_counter()
        if began - self._drawn >= DRAWN_SECONDS:
            self.plot()
            self._drawn = time.perf_counter()
            self._started += self._drawn - began

    def hard(self, row: HardRow, pictures: Callable[[], Sequence[Shown]]) -> None:
        """Note the hardest samples of an evaluation. `pictures` are made only where a tracker takes them."""
        if not self._main:
            return
        self._append(HARD_NAME, row.line())
        for line in self._tracking.show(pictures, row.step):
            self.note(line)

    def plot(self) -> None:
        """Draw the curves of both files, where matplotlib is there."""
        if not self._main:
            return
        try:
            if not plot_curves(self._folder):
                self._fail(CURVES_NAME, "matplotlib is not installed")
        except (OSError, WriteError) as error:
            self._fail(CURVES_NAME, str(error))

    def _write(self, name: str, row: Mapping[str, float]) -> None:
        prefix = name.partition(".")[0]
        if not self._main:
            return
        values = {f"{prefix}/{key}": value for key, value in row.items() if key != STEP}
        for line in self._tracking.log(values, int(row[STEP])):
            self.note(line)
        # A file of an earlier run may have fewer columns.
        columns = _columns(self._folder / name)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns or list(row), extrasaction="ignore", restval="", lineterminator="\n")
        if not columns:
            writer.writeheader()
        writer.writerow(row)
        self._append(name, text.getvalue())

    def _append(self, name: str, text: str) -> None:
        try:
            with open(self._folder / name, "a", newline="", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._fail(name, error.strerror or str(error))

    def _fail(self, name: str, reason: str) -> None:
        """Say once that a file is not written."""
        if name not in self._failed:
            self._failed.add(name)
            self.note(f"no {name}: {reason}")


def most_memory(device: torch.device) -> float:
    """The most memory that this process had so far, of the GPU where it trains on one; GB. 0 where it is not known."""
    if (of_device := peak_memory(device)) is not None:
        return of_device / 1e9
    if resource is None:
        return 0.0
    # In bytes on macOS, in kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def plot_curves(folder: Path) -> bool:
    """Draw `curves.png` from the CSV files of a training; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4))
    axes = figure.subplots(1, 2)
    for axis, name, left_out in (
        (axes[0], TRAIN_NAME, {"epoch", "lr", *MEASURED}),
        (axes[1], EVALUATION_NAME, {"seconds"}),
    ):
        rows = _rows(folder / name)
        for key in dict.fromkeys(key for row in rows for key in row if key not in left_out | {STEP}):
            there = [row for row in rows if row.get(key)]
            axis.plot([float(row[STEP]) for row in there], [float(row[key]) for row in there], marker=".", label=key)
        axis.set(xlabel="step", title=name.partition(".")[0])
        if rows:
            axis.legend()
    write_figure(figure, folder / CURVES_NAME)
    return True


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure of matplotlib as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with land_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _columns(path: Path) -> list[str]:
    """The header of a CSV file; empty where there is none."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _rows(path: Path) -> Sequence[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        # A line that was cut off when the process was killed has no last field.
        return [row for row in csv.DictReader(file) if None not in row.values()]


def _drop_later(path: Path, step: int) -> None:
    rows = [row for row in _rows(path) if int(row[STEP]) <= step]
    if not path.exists():
        return
    if not rows:
        path.unlink()
        return
    with land_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
