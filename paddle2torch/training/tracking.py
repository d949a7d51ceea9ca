"""Where a training is followed from outside: accelerate's trackers by name, and pictures where a tracker takes them.

A tracker that is not there or does not start is an error before the first step. Once training runs, nothing that a
tracker does ends it: the CSV files have every row anyway.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from numpy.typing import NDArray

from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.show import show, show_text
from paddle2torch.model_zoo.strict_json import read_json
from paddle2torch.training.settings import OutputSettings, Tracker

RUNS_NAME = "trackers.json"
"""In `output.dir`: the run of each tracker, with which a resumed training goes on."""

HARDEST = "evaluation/hardest"

FAILURES = 3
"""A tracker that failed so many times in a row is left alone: each time may have waited for a network."""

OFFLINE = {
    "wandb": "WANDB_MODE=offline keeps its files here",
    "comet_ml": "COMET_START_ONLINE=0 keeps its files here",
    "mlflow": "MLFLOW_TRACKING_URI=sqlite:///mlflow.db keeps its files here",
    "clearml": "CLEARML_OFFLINE_MODE=1 keeps its files here",
    "swanlab": "SWANLAB_MODE=offline keeps its files here",
}
"""What helps where a service cannot be reached."""


@dataclass(frozen=True)
class Shown:
    """A picture for trackers: RGB, uint8 (H, W, 3), and what is said of it."""

    image: NDArray[np.uint8]
    said: str


class Tracking:
    """The trackers of a training that runs. Outside of the main process there are none."""

    def __init__(self, trackers: Mapping[str, Any]) -> None:
        self._trackers = trackers
        self._failures = dict.fromkeys(trackers, 0)
        self._told: set[str] = set()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(lambda name, tracker: _finish(name, tracker, failed=kind is not None))

    def log(self, values: Mapping[str, float], step: int) -> list[str]:
        """Give every tracker the values of a step; returns what is to be said of those that failed."""
        return self._each(lambda name, tracker: tracker.log(dict(values), step=step))

    def show(self, pictures: Callable[[], Sequence[Shown]], step: int) -> list[str]:
        """Give the hardest samples after a step to every tracker that takes pictures; returns what is to be said."""
        if not any(name in _SHOW or hasattr(tracker, "log_images") for name, tracker in self._trackers.items()):
            return []
        made = pictures()
        return self._each(lambda name, tracker: _show(name, tracker, made, step)) if made else []

    def _each(self, do: Callable[[str, Any], None]) -> list[str]:
        """Do something with every tracker that works; returns what is to be said of those that failed, once each."""
        said = []
        for name, tracker in self._trackers.items():
            if self._failures[name] == FAILURES:
                continue
            try:
                do(name, tracker)
            except Exception as error:  # whatever a tracker raises, training goes on
                self._failures[name] += 1
                if name not in self._told:
                    self._told.add(name)
                    said.append(
                        f"the tracker {name} failed ({_reason(error)}): training goes on without it where it fails, "
                        f"and after {FAILURES} times in a row altogether. The CSV files have every row"
                    )
            else:
                self._failures[name] = 0
        return said


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raise `ConfigError` for a tracker that accelerate does not know, or whose package is not installed."""
    for tracker in trackers:
        if tracker.name not in LOGGER_TYPE_TO_CLASS:
            near = difflib.get_close_matches(tracker.name[:40], LOGGER_TYPE_TO_CLASS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
            raise ConfigError(f"output.trackers: there is no tracker {show(tracker.name)}; {hint}")
        if tracker.name in _RUNS and importlib.util.find_spec(tracker.name) is None:
            raise ConfigError(f"output.trackers: {tracker.name} is not installed: pip install {tracker.name}")


def start_tracking(
    output: OutputSettings, accelerator: Accelerator, config: Mapping[str, Any], *, step: int, resume: bool
) -> Tracking:
    """Start the trackers of a training, or go on with their runs where one is resumed after `step`.

    config: what they note of the training, flat. Raises `ConfigError` where a tracker does not start.
    """
    if not accelerator.is_main_process or not output.trackers:
        return Tracking({})
    folder = Path(output.dir)
    runs = _read_runs(folder) if resume else {}
    started: dict[str, Any] = {}
    for tracker in output.trackers:
        name, run = tracker.name, runs.get(tracker.name)
        options = {**_defaults(name, folder)}
        if run is not None and name in _RUNS:
            options |= _RUNS[name].again(run, step)
        try:
            started[name] = _start(name, output, {**options, **tracker.options})
            if run is None:
                started[name].store_init_configuration(dict(config))
            runs[name] = _RUNS[name].of(started[name]) if name in _RUNS else ""
        except Exception as error:  # of a package that is not ours
            Tracking(started).__exit__(type(error), error, None)
            hint = f". {OFFLINE[name]}" if name in OFFLINE else ""
            raise ConfigError(f"output.trackers: {name} does not start: {_reason(error)}{hint}") from error
    with land_file(folder / RUNS_NAME) as temporary:
        temporary.write_text(json.dumps({name: runs[name] for name in started}, indent=2) + "\n", encoding="utf-8")
    return Tracking(started)


def _start(name: str, output: OutputSettings, options: Mapping[str, Any]) -> Any:
    kind = LOGGER_TYPE_TO_CLASS[name]
    # TensorBoard's name of a run is a folder of its own, in which the events are.
    project = "tensorboard" if name == "tensorboard" else output.project
    tracker = kind(project, *([output.dir] if kind.requires_logging_directory else []), **options)
    tracker.start()
    return tracker


def _read_runs(folder: Path) -> dict[str, str]:
    """The runs of the trackers of a training that is resumed; none where they cannot be told any more."""
    if not (folder / RUNS_NAME).is_file():
        return {}
    try:
        runs = read_json(folder / RUNS_NAME, "list of runs")
    except Paddle2TorchError:
        return {}
    return {name: run for name, run in runs.items() if isinstance(run, str)} if isinstance(runs, dict) else {}


def _defaults(name: str, folder: Path) -> dict[str, Any]:
    """What a tracker is started with unless the settings say otherwise: files in `output.dir`, a run named after it."""
    title = folder.resolve().name
    known: dict[str, dict[str, Any]] = {
        "wandb": {"name": title, "dir": str(folder)},
        "mlflow": {"run_name": title},
        "clearml": {"task_name": title},
        # Without this it would commit the experiment to the user's git repository.
        "dvclive": {"dir": str(folder / "dvclive"), "save_dvc_exp": False},
        "swanlab": {"experiment_name": title, "logdir": str(folder / "swanlog")},
        "trackio": {"name": title},
    }
    return known.get(name, {})


@dataclass(frozen=True)
class _Run:
    """How a tracker tells its run (`of` its accelerate object), and the options that go on with it after a step."""

    of: Callable[[Any], str]
    again: Callable[[str, int], Mapping[str, Any]]


_RUNS: Mapping[str, _Run] = {
    # What was written of later steps is done again: TensorBoard leaves it out.
    "tensorboard": _Run(lambda tracker: "tensorboard", lambda run, step: {"purge_step": step + 1}),
    "wandb": _Run(lambda tracker: tracker.run.id, lambda run, step: {"id": run, "resume": "allow"}),
    "mlflow": _Run(lambda tracker: tracker.active_run.info.run_id, lambda run, step: {"run_id": run}),
    "aim": _Run(lambda tracker: tracker.writer.hash, lambda run, step: {"run_hash": run}),
    "comet_ml": _Run(
        lambda tracker: tracker.writer.get_key(), lambda run, step: {"experiment_key": run, "mode": "get_or_create"}
    ),
    "clearml": _Run(lambda tracker: tracker.task.id, lambda run, step: {"continue_last_task": run}),
    "dvclive": _Run(lambda tracker: "dvclive", lambda run, step: {"resume": True}),
    "swanlab": _Run(lambda tracker: tracker.run.id, lambda run, step: {"id": run, "resume": "allow"}),
    "trackio": _Run(lambda tracker: tracker.run.name, lambda run, step: {"name": run, "resume": "allow"}),
}


def _show(name: str, tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    if name in _SHOW:
        _SHOW[name](tracker, pictures, step)
    elif hasattr(tracker, "log_images"):
        tracker.log_images({HARDEST: [picture.image for picture in pictures]}, step=step)


def _show_tensorboard(tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    for place, picture in enumerate(pictures, 1):
        tracker.writer.add_image(f"{HARDEST}/{place}", picture.image, step, dataformats="HWC")
    rows = "".join(f"{place}. `{picture.said}`\n" for place, picture in enumerate(pictures, 1))
    tracker.writer.add_text(HARDEST, rows, step)
    tracker.writer.flush()


def _show_wandb(tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    import wandb

    tracker.log({HARDEST: [wandb.Image(picture.image, caption=picture.said) for picture in pictures]}, step=step)


def _show_mlflow(tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    import mlflow

    client, run = mlflow.MlflowClient(), tracker.active_run.info.run_id
    for place, picture in enumerate(pictures, 1):
        client.log_image(run, picture.image, key=f"{HARDEST}_{place}", step=step)
    said = [{"place": place, "said": picture.said} for place, picture in enumerate(pictures, 1)]
    client.log_dict(run, {"step": step, "samples": said}, f"{HARDEST}/{step}.json")


def _show_each(tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    """Where accelerate takes one picture for a name."""
    for place, picture in enumerate(pictures, 1):
        tracker.log_images({f"{HARDEST}/{place}": picture.image}, step=step)


def _show_aim(tracker: Any, pictures: Sequence[Shown], step: int) -> None:
    for place, picture in enumerate(pictures, 1):
        tracker.log_images({f"{HARDEST}/{place}": (picture.image, picture.said)}, step=step)


_SHOW: Mapping[str, Callable[[Any, Sequence[Shown], int], None]] = {
    "tensorboard": _show_tensorboard,
    "wandb": _show_wandb,
    "mlflow": _show_mlflow,
    "aim": _show_aim,
    "clearml": _show_each,
}


def _finish(name: str, tracker: Any, *, failed: bool) -> None:
    """End a run; one of a training that failed as what it is, where accelerate's own ending would call it finished."""
    if failed and name == "wandb":
        tracker.run.finish(exit_code=1)
    elif failed and name == "mlflow":
        import mlflow

        mlflow.end_run("FAILED")
    else:
        tracker.finish()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {show_text(str(error).strip().partition(chr(10))[0], 300)}"
