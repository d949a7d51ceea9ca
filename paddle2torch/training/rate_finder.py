"""Which learning rate to take: it rises from step to step, and the loss tells where it learns and where it breaks.

The real step of a training on its real data, on weights that are thrown away. Source: L. Smith, "Cyclical learning
rates for training neural networks", 2017; the smoothing and the end are those of fastai's and Lightning's finders.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network
from paddle2torch.training.batches import MakeBatches, batches_of
from paddle2torch.training.log import TrainingLog, write_figure
from paddle2torch.training.preparation import prepare
from paddle2torch.training.processes import make_accelerator
from paddle2torch.training.settings import Settings, check_fit
from paddle2torch.training.stopping import StopRequest
from paddle2torch.training.trainer import TrainingError, windows
from paddle2torch.training.trainer import step as make_step

RATES_NAME, PICTURE_NAME = "learning_rates.json", "learning_rates.png"

LEAST, MOST = 1e-7, 1.0
STEPS = 100
SMOOTHING = 0.9
"""Of the running mean of the losses: each loss has the rest of the weight."""
BROKEN = 4.0
"""The sweep ends where the smoothed loss is so many times the least before."""
SAID_STEPS = 10
FEWEST = 8
"""With fewer steps before the loss breaks there is nothing to see."""


@dataclass(frozen=True)
class RatesTried:
    """The sweep: the rate of each step, its loss, and the losses' smoothed course.

    steepest: the rate at which the smoothed loss falls fastest. suggestion: the same, but at most a tenth of the rate
    at which that loss is least: behind it the training would stand at the edge. None where no loss fell.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    suggestion: float | None

    @property
    def line(self) -> str:
        """What came out, as one line."""
        if self.suggestion is None:
            return f"no rate up to {self.rates[-1]:.2g} made the loss fall: is there something to learn?"
        return (
            f"optimizer.lr {self.suggestion:.2g} is suggested: the loss falls fastest at {self.steepest:.2g}, and is "
            f"least at {self.rates[_least(self.smoothed)]:.2g}, of the rates from {self.rates[0]:.2g} to "
            f"{self.rates[-1]:.2g}"
        )


class Sweep:
    """The rates of a sweep, in place of a schedule: each is the one before times the same factor."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def rate(self, step: int) -> float:
        """The rate of a step, from 0."""
        return LEAST * (MOST / LEAST) ** (step / (self._steps - 1))


class _Losses(TrainingLog):
    """Keeps the loss of each step in place of writing it."""

    def __init__(self) -> None:
        self.kept: list[float] = []
        self._sum = 0.0

    def is_due(self, step: int) -> bool:
        """Each loss is looked at: the next rate is tried where it is good."""
        return True

    def losses(self, losses: Mapping[str, float]) -> None:
        """Add the share of a batch."""
        self._sum += losses["loss"]

    def train(self, step: int, epoch: int, rate: float, *, images: int, waited: float, said: bool) -> None:
        """Keep the loss of a step."""
        self.kept.append(self._sum)
        self._sum = 0.0


def find_rate(
    settings: Settings,
    config: ModelConfig,
    *,
    steps: int = STEPS,
    source: Network | None = None,
    make_batches: MakeBatches = batches_of,
) -> RatesTried:
    """Try rates from 1e-7 to 1 in so many steps, as `train` would make them, and leave what was found in `output.dir`.

    No weights are written, and none that are there are touched. Raises what `train` raises.
    """
    if steps < FEWEST:
        raise ConfigError(f"a sweep has {FEWEST} steps at least, not {steps}")
    check_fit(settings, config)
    accelerator = make_accelerator(settings)
    with tempfile.TemporaryDirectory() as nowhere, StopRequest() as stop:
        trial = replace(
            settings,
            output=replace(settings.output, dir=nowhere, trackers=()),
            training=replace(settings.training, epochs=steps, compile=False),
        )
        run = prepare(trial, config, accelerator, stop, source=source, resume=False, make_batches=make_batches)
        sweep, said, losses = Sweep(steps), run.log, _Losses()
        run.schedule, run.log = sweep, losses
        for number, window in enumerate(windows(run.batches, trial, run.progress), 1):
            try:
                make_step(run, window, check_gradients=number == 1)
            except TrainingError:  # the loss is not a number any more
                break
            if number % SAID_STEPS == 0:
                said.note(
                    f"step {number} of {steps} at most: rate {sweep.rate(number - 1):.2g}, loss {losses.kept[-1]:.4f}"
                )
            if number == steps or _is_broken(losses.kept) or stop.everywhere(accelerator):
                break
    tried = rates_tried([sweep.rate(step) for step in range(len(losses.kept))], losses.kept)
    if accelerator.is_main_process:
        _write(Path(settings.output.dir), tried)
    return tried


def rates_tried(rates: Sequence[float], losses: Sequence[float]) -> RatesTried:
    """What losses tell of the rates of their steps. Raises `ConfigError` where they are too few."""
    if len(losses) < FEWEST:
        raise ConfigError(
            f"the loss was broken after {len(losses)} steps, at a rate of {(rates or [LEAST])[-1]:.2g}: there is no "
            f"rate to be found. Are the labels right?"
        )
    smoothed = _smooth(losses)
    end = _least(smoothed)
    # Slopes over the logarithm of the rate, which rises by the same at each step, up to the least loss. The first means
    # are of few losses, and fall and rise with each batch.
    slopes = {step: smoothed[step + 1] - smoothed[step - 1] for step in range(max(1, len(losses) // 10), end)}
    falling = {step: slope for step, slope in slopes.items() if slope < 0}
    steepest = min(falling, key=falling.__getitem__, default=None)
    suggestion = None if steepest is None else min(rates[steepest], rates[end] / 10)
    return RatesTried(
        tuple(rates[: len(losses)]),
        tuple(losses),
        tuple(smoothed),
        None if steepest is None else rates[steepest],
        suggestion,
    )


def _smooth(losses: Sequence[float]) -> list[float]:
    """The running mean, free of its start."""
    mean, smoothed = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**number))
    return smoothed


def _least(smoothed: Sequence[float]) -> int:
    return min(range(len(smoothed)), key=smoothed.__getitem__)


def _is_broken(losses: Sequence[float]) -> bool:
    smoothed = _smooth(losses)
    return len(losses) >= FEWEST and not smoothed[-1] <= BROKEN * min(smoothed)


def _write(folder: Path, tried: RatesTried) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with land_file(folder / RATES_NAME) as temporary:
        temporary.write_text(json.dumps(asdict(tried), indent=2) + "\n", encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    axes.plot(tried.rates, tried.losses, color="0.75", label="loss")
    axes.plot(tried.rates, tried.smoothed, label="smoothed")
    if tried.suggestion is not None:
        axes.axvline(tried.suggestion, color="C2", linestyle="--", label=f"suggested: {tried.suggestion:.2g}")
    low, high = min(tried.smoothed), max(tried.smoothed[0], min(tried.smoothed))
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0.9 * low, low + 1.5 * (high - low) + 0.1 * low)
    )
    axes.legend()
    write_figure(figure, folder / PICTURE_NAME)
