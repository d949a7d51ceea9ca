"""What a training leaves behind for people: lines on stderr, a progress bar, CSV files, TensorBoard, a plot."""

from __future__ import annotations

import csv
import importlib.util
import io
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from paddle2torch.atomic import land_file

TRAIN_NAME, EVALUATION_NAME, CURVES_NAME = "train.csv", "evaluation.csv", "curves.png"
STEP = "step"


class TrainingLog:
    """Collects what each step reports, and says the mean of it every `print_steps` steps.

    All methods may be called in every process; only the main one writes. `step` is that of the checkpoint which
    training goes on from: what the files say of later steps is dropped, because it is done again.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, *, step: int, steps: int, print_steps: int) -> None:
        self._folder = folder
        self._accelerator = accelerator
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
        self._since = step
        self._images = 0
        self._waited = 0.0
        self._started = time.perf_counter()
        if self._main:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (TRAIN_NAME, EVALUATION_NAME):
                _drop_later(folder / name, step)

    def __enter__(self) -> TrainingLog:
        self._bar.start()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Say something, once."""
        if self._main:
            self._console.print(text, markup=False)

    def train(
        self, step: int, epoch: int, losses: Mapping[str, float], rate: float, *, images: int, waited: float
    ) -> None:
        """Note a step: its losses and learning rate, the images it used, and the seconds it waited for them."""
        for name, value in losses.items():
            self._sums[name] += value
        self._images += images
        self._waited += waited
        self._bar.update(self._task, completed=step, description=f"epoch {epoch + 1}  loss {losses['loss']:.4f}")
        if step % self._print_steps and step != self._steps:
            return
        seconds, count = time.perf_counter() - self._started, step - self._since
        row = {
            STEP: step,
            "epoch": epoch + 1,
            **{name: total / count for name, total in self._sums.items()},
            "lr": rate,
            "images_per_second": self._images / seconds,
            "data_share": self._waited / seconds,
        }
        left = (self._steps - step) * seconds / count
        self.note(
            f"epoch {epoch + 1}, step {step}/{self._steps}: "
            + ", ".join(f"{name} {row[name]:.4f}" for name in self._sums)
            + f", lr {rate:.3g}, {row['images_per_second']:.1f} images/s ({row['data_share']:.0%} waiting for data), "
            f"{_duration(left)} left"
        )
        self._write(TRAIN_NAME, row)
        self._sums.clear()
        self._since, self._images, self._waited = step, 0, 0.0
        self._started = time.perf_counter()

    def evaluation(self, step: int, metrics: Mapping[str, float], *, best: bool) -> None:
        """Note an evaluation. Its time is not training's."""
        said = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.note(f"evaluation at step {step}: {said}{', the best so far' if best else ''}")
        self._write(EVALUATION_NAME, {STEP: step, **metrics})
        self._started = time.perf_counter()
        self._since, self._images, self._waited = step, 0, 0.0
        self._sums.clear()

    def plot(self) -> None:
        """Draw the curves of both files, where matplotlib is there."""
        if self._main and not plot_curves(self._folder):
            self.note(f"no {CURVES_NAME}: matplotlib is not installed")

    def _write(self, name: str, row: Mapping[str, float]) -> None:
        prefix = name.partition(".")[0]
        self._accelerator.log({f"{prefix}/{key}": value for key, value in row.items() if key != STEP}, int(row[STEP]))
        if not self._main:
            return
        path = self._folder / name
        fresh = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)


def plot_curves(folder: Path) -> bool:
    """Draw `curves.png` from the CSV files of a training; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4))
    axes = figure.subplots(1, 2)
    for axis, name, left_out in (
        (axes[0], TRAIN_NAME, {"epoch", "lr", "images_per_second", "data_share"}),
        (axes[1], EVALUATION_NAME, set()),
    ):
        rows = _rows(folder / name)
        for key in dict.fromkeys(key for row in rows for key in row if key not in left_out | {STEP}):
            axis.plot([float(row[STEP]) for row in rows], [float(row[key]) for row in rows], marker=".", label=key)
        axis.set(xlabel="step", title=name.partition(".")[0])
        if rows:
            axis.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with land_file(folder / CURVES_NAME) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return True


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


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
