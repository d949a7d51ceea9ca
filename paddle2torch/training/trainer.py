"""Fine-tuning. `train` reads from top to bottom; evaluation is in `evaluation.py`.

    settings, config = read_settings(Path("config.json"))
    train(settings, config)

`accelerate` brings distribution, mixed precision and tracking: the same code runs on one CPU, under `torchrun` on
several GPUs, or under `accelerate launch` on several machines.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn

from paddle2torch.atomic import WriteError
from paddle2torch.device import fetch, random_states
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.batches import Batch, Batches, MakeBatches, batches_of, guide_targets, to_device
from paddle2torch.training.checkpoints import (
    Progress,
    on_cpu,
    save_checkpoint,
)
from paddle2torch.training.early_stopping import is_better, is_over, value_of, watched
from paddle2torch.training.evaluation import Examination, examination, measure
from paddle2torch.training.evaluation_report import hard_pictures, hard_samples, write_evaluation_report
from paddle2torch.training.hard_samples import HardRow, read_hard_rows
from paddle2torch.training.log import duration
from paddle2torch.training.losses import losses_of
from paddle2torch.training.optimisation import (
    MovingAverage,
    clip_gradients,
    set_rate,
)
from paddle2torch.training.preparation import BEST, LAST, Run, Unread, peers_of, prepare
from paddle2torch.training.probe import seconds_per_batch
from paddle2torch.training.processes import make_accelerator
from paddle2torch.training.settings import EvaluationSettings, Settings, check_fit
from paddle2torch.training.stopping import Asked, StopRequest, alone_in
from paddle2torch.training.tracking import check_trackers
from paddle2torch.zoo.folder import save_model
from paddle2torch.zoo.run_card import METRICS_NAME, RUN_CARD_NAME, Trained

LONG = 20
"""With fewer steps the time that training takes is not measured before."""

REPORT = "report.html"
"""What the model does not read, in `output.dir`."""


class TrainingError(Paddle2TorchError):
    """Training cannot go on."""


@dataclass(frozen=True)
class TrainingResult:
    """A training that ended, or was asked to: its folder, how far it came, and the best value of the main metric.

    steps: of all runs together; made: of this one. best_step: 0 where nothing was better than what it started from,
    whose value is `start`. stopped: the signal that asked for it. line: all this, to be read.
    """

    folder: Path
    steps: int
    made: int
    best: float | None
    best_step: int
    start: float | None
    stopped: signal.Signals | None
    line: str


def train(
    settings: Settings,
    config: ModelConfig,
    *,
    source: Network | None = None,
    resume: bool = False,
    make_batches: MakeBatches = batches_of,
) -> TrainingResult:
    """Train the model that `config` describes, as `settings` say; the results are in `settings.output.dir`.

    Asked to stop by Ctrl-C or SIGTERM, it finishes its step and saves it.

    Args:
        source: the model to start from in place of `settings.pretrained`.
        resume: go on from the folder `last` of an earlier run; on the CPU the result is then, bit for bit, that of a
            run which was never stopped.
        make_batches: where the data comes from.

    Raises `ConfigError` for settings that contradict each other, `DataError` for data of no use, `TrainingError` where
    the loss is not a number, and `Paddle2TorchError` for a full disk; `last` is then the last good checkpoint.
    """
    check_fit(settings, config)
    check_trackers(settings.output.trackers)
    accelerator = make_accelerator(settings)
    with alone_in(Path(settings.output.dir), accelerator), StopRequest() as stop:
        run = prepare(settings, config, accelerator, stop, source=source, resume=resume, make_batches=make_batches)
        begin = run.progress.step
        with run.tracking:
            with run.log, _compiler_errors(settings):
                steps_of(run)
                read_losses(run)
            run.log.flush()
            line = _ending(run, begin)
            run.log.note(line)
            run.log.plot()
            _write_report(run)
        accelerator.end_training()
    progress = run.progress
    return TrainingResult(
        run.folder,
        progress.step,
        progress.step - begin,
        progress.best,
        progress.best_step,
        progress.start,
        stop.signal if progress.step < run.steps else None,
        line,
    )


def steps_of(run: Run) -> None:
    """All steps from where training stands to its end, with their evaluations and checkpoints."""
    settings, start = run.settings, run.progress
    if run.progress.pending:
        evaluate_and_keep(run)
        if run.progress.step or run.stop.everywhere(run.accelerator):
            save(run)
    if run.stop.everywhere(run.accelerator):
        return
    _say_how_long(run)
    for window in windows(run.batches, settings, start):
        if is_over(settings.evaluation.early_stopping, run.progress):
            run.log.note(f"no better evaluation in {run.progress.stale}: stopped early")
            break
        first = (window.epoch, window.batch) == (start.epoch, start.batch)
        step(run, window, check_gradients=first)
        due = _is_due(run.progress, settings.evaluation) or run.progress.step == run.steps
        run.progress = replace(run.progress, pending=due)
        asked = run.stop.everywhere(run.accelerator)
        if due and not asked:
            evaluate_and_keep(run)
            asked = run.stop.everywhere(run.accelerator)
        if run.progress.batch == 0:
            _say_drops(run, reasons_only=True)
        if due or asked or run.progress.batch == 0 or run.progress.step % settings.output.save_steps == 0:
            save(run)
        if asked:
            break
    _say_drops(run)


def _say_how_long(run: Run) -> None:
    """Say before the first step how long an epoch and the training will take, where they are long.

    Of several processes none can say what the others take.
    """
    left, epochs = run.steps - run.progress.step, run.settings.training.epochs
    if left < LONG or run.accelerator.num_processes > 1 or run.settings.training.compile:
        return
    seconds = seconds_per_batch(run.settings, run.learner, run.accelerator)
    if seconds is None:
        return
    batches = len(run.batches)
    rest = left * run.settings.training.accumulation * seconds
    run.log.note(
        f"an epoch has {batches:,} batches of {seconds:.2g} s, as a made-up one takes: {duration(batches * seconds)} "
        f"if the data keeps up; the {left:,} steps to the end of epoch {epochs:,} {duration(rest)}, and evaluations"
    )


def _ending(run: Run, begin: int) -> str:
    """How a run ended, as one line."""
    progress, settings = run.progress, run.settings
    if run.stop.signal is not None and progress.step < run.steps:
        return (
            f"stopped by {run.stop.signal.name} after step {progress.step} of {run.steps}, which is saved: go on with "
            f"--resume"
        )
    if progress.step == begin:
        return (
            f"nothing was done: the training is at its end already (epoch {progress.epoch} of "
            f"{settings.training.epochs}, step {progress.step} of {run.steps}). More training.epochs go on from here"
        )
    made = f"{progress.step} steps"
    if progress.best is None:
        return made
    if progress.start is not None and not is_better(settings.evaluation.main_indicator, progress.best, progress.start):
        return f"{made}; nothing was better than what training started from, {progress.start:.4f}"
    return f"{made}, best {progress.best:.4f} at step {progress.best_step}"


def step(run: Run, window: Window, *, check_gradients: bool = False) -> None:
    """One step of the optimiser on the batches of `window`; `run.progress` is then past them.

    check_gradients: raise `ConfigError` where the loss does not reach a parameter that is to be trained.
    """
    accelerator, settings = run.accelerator, run.settings
    rate = run.schedule.rate(run.progress.step)
    set_rate(run.adam, rate)
    for number, batch in enumerate(window.batches):
        last = number == len(window.batches) - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(run.model):
            _backward(run, window, number, to_device(batch, accelerator))
    if check_gradients:
        _refuse_untrained(run.learner)
    if settings.optimizer.clip_norm_global is not None:
        accelerator.unscale_gradients(run.optimizer)
        clip_gradients(run.learner.parameters(), settings.optimizer.clip_norm_global)
    run.optimizer.step()
    run.optimizer.zero_grad()
    if run.average is not None:
        run.average.update(run.progress.step)
    run.progress = replace(run.progress, step=run.progress.step + 1, epoch=window.next_epoch, batch=window.next_batch)
    images = sum(len(batch["image"]) for batch in window.batches) * accelerator.num_processes
    due = run.log.is_due(run.progress.step)
    if due:
        read_losses(run)
    run.log.train(run.progress.step, window.epoch, rate, images=images, waited=window.waited, said=due)


def _backward(run: Run, window: Window, number: int, batch: Batch) -> None:
    """Add the gradients of one batch, and its losses to those that are unread."""
    outputs = run.model(batch["image"], guide_targets(batch)) if run.config.task == "rec" else run.model(batch["image"])
    parts = losses_of(outputs, batch, run.settings.loss)
    names, values = tuple(parts), torch.stack([part.detach() for part in parts.values()])
    run.unread.append(
        Unread(names, values, 1 / len(window.batches), run.progress.step, window.epoch, window.batch + number)
    )
    if values.device.type == "cpu":
        read_losses(run)
    # Each process has its share of the sum's gradient, and accelerate takes the mean.
    run.accelerator.backward(parts["loss"] * (run.accelerator.num_processes / len(window.batches)))


def read_losses(run: Run) -> None:
    """Wait for the losses that are not yet noted, and note them; at least before anything is kept of their steps.

    Raises `TrainingError` where one is not a number.
    """
    if not run.unread:
        return
    for unread, row in zip(run.unread, fetch(torch.stack([each.values for each in run.unread])), strict=True):
        values = dict(zip(unread.names, row.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise TrainingError(_not_a_number(values, unread, run.batches, run.folder))
        run.log.losses({name: value * unread.share for name, value in values.items()})
    run.unread.clear()


def evaluate_and_keep(run: Run) -> None:
    """Evaluate, and keep the weights as `best` where none were better. Asked to stop, it is left for later."""
    read_losses(run)
    reader = _averaged(run.network, run.average)
    began = time.perf_counter()
    try:
        measured = measure(reader, run.evaluation, run.settings.evaluation, run.accelerator, run.stop)
    except Asked:
        return
    settings, best = run.settings.evaluation, run.progress.best
    name = f"{run.config.name}, step {run.progress.step}"
    examined = examination(name, run.config, settings, measured, run.evaluation)
    metrics, main = examined.metrics, settings.main_indicator or measured.main
    value = value_of(metrics, main, "main_indicator")
    # As in PaddleOCR the later of two equals is kept; it is not better, though.
    kept = best is None or not is_better(main, best, value)
    if run.accelerator.is_main_process:
        _look_into(run, examined, value, kept=kept)
    # Said and noted first: a full disk loses no measurement.
    run.log.evaluation(run.progress.step, metrics, best=kept, seconds=time.perf_counter() - began)
    run.progress = replace(
        watched(settings, main, metrics, run.progress),
        pending=False,
        metrics={**metrics},
        measured=run.progress.step,
        start=value if run.progress.step == 0 else run.progress.start,
    )
    if kept and _keep_best(run, reader):
        run.progress = replace(run.progress, best=value, best_step=run.progress.step)


def _look_into(run: Run, examined: Examination, value: float, *, kept: bool) -> None:
    """Note the hardest samples of an evaluation, and keep it for the report."""
    if samples := hard_samples(examined):
        row = HardRow(run.progress.step, value, samples)
        run.log.hard(row, lambda: hard_pictures(examined, samples))
    run.examined["last"] = examined
    if kept:
        run.examined["best"] = examined
    if run.progress.step == 0:
        run.examined["start"] = examined


def _write_report(run: Run) -> None:
    """Show the best evaluation of this run beside the start; the last one, where nothing was better than the start."""
    start, last = run.examined.get("start"), run.examined.get("last")
    best = run.examined.get("best")
    shown = last if best is None or best is start else best
    if shown is None or shown.figures is None:
        return
    against = None if start is shown else start
    try:
        write_evaluation_report(shown, run.folder / REPORT, against=against, hard=read_hard_rows(run.folder))
    except (OSError, WriteError) as error:
        run.log.note(f"no {REPORT}: {error}")
    else:
        run.log.note(f"what it learns, and what not: {run.folder / REPORT}")


def _keep_best(run: Run, reader: Network) -> bool:
    """Write `best`; whether that went well, in all processes. The next as good evaluation tries it again."""
    written = True
    if run.accelerator.is_main_process:
        try:
            save_model(run.folder / BEST, run.config, on_cpu(reader.state_dict()), overwrite=True, beside=_beside(run))
        except WriteError as error:
            written = False
            run.log.note(f"{run.folder / BEST} is not of this step: {error}")
    flags: list[bool] = gather_object([written])
    return all(flags)


def _beside(run: Run) -> dict[str, str]:
    """What stands beside weights, by file: what was measured, and the card of the training."""
    trained = Trained(run.card, run.progress.step, run.progress.measured, run.progress.metrics)
    return {METRICS_NAME: trained.metrics_text(), RUN_CARD_NAME: run.card.text()}


def save(run: Run) -> None:
    """Write the checkpoint `last`, from which training goes on as if it had not stopped."""
    read_losses(run)
    _refuse_broken(run.learner, run.progress)
    run.log.flush()
    accelerator = run.accelerator
    states = gather_object([random_states(accelerator.device)])
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
    if accelerator.is_main_process:
        state = replace(run.progress, scaler=scaler)
        save_checkpoint(
            run.folder / LAST,
            run.config,
            run.network,
            run.adam,
            run.average,
            state,
            states,
            beside=_beside(run),
            peers=peers_of(run.learner),
        )
    accelerator.wait_for_everyone()


def _say_drops(run: Run, *, reasons_only: bool = False) -> None:
    """Say what reading the images showed of the data, where that is more than before.

    reasons_only: how many requests took another sample, which grows with each epoch, is no news.
    """
    known = []
    for what, before, batches in zip(("training", "evaluation"), run.known, (run.batches, run.evaluation), strict=True):
        after = str(batches.report)
        news = after.partition("\n")[2] != before.partition("\n")[2] if reasons_only else after != before
        if news:
            run.log.note(f"{what} data, once its images were read: {after}")
        known.append(after if news else before)
    run.known = known[0], known[1]


@dataclass(frozen=True)
class Window:
    """The batches of one step of the optimiser, where they are, and what comes after them.

    `waited`: seconds until they were there.
    """

    batches: Sequence[Batch]
    epoch: int
    batch: int
    next_epoch: int
    next_batch: int
    waited: float


def windows(batches: Batches, settings: Settings, progress: Progress) -> Iterator[Window]:
    """The steps to come, from where training is to its end. What is left over of an epoch makes a step, too."""
    start = progress.batch
    for epoch in range(progress.epoch, settings.training.epochs):
        batches.set_epoch(epoch, start_batch=start)
        stream = iter(batches)
        clock = time.perf_counter()
        while window := list(itertools.islice(stream, settings.training.accumulation)):
            end = start + len(window)
            following = (epoch, end) if end < len(batches) else (epoch + 1, 0)
            yield Window(window, epoch, start, *following, time.perf_counter() - clock)
            clock = time.perf_counter()
            start = end
        start = 0


@contextlib.contextmanager
def _compiler_errors(settings: Settings) -> Iterator[None]:
    """Say what `torch.compile` lacks; it compiles in the first step, and needs a C++ compiler for that."""
    if not settings.training.compile:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"training.compile: torch.compile failed ({reason}). It needs a working C++ compiler; set training.compile "
            f"to false to train without it"
        ) from error


def _averaged(network: Network, average: MovingAverage | None) -> Network:
    """The weights to evaluate and keep."""
    if average is None:
        return network
    with torch.device("meta"):
        averaged = build_model(network.config)
    averaged.load_state_dict(average.state_dict(network), assign=True)
    return averaged


def _is_due(progress: Progress, settings: EvaluationSettings) -> bool:
    """Whether a step is evaluated: every so many, and at the end of each epoch."""
    behind = progress.step - settings.start_step
    return behind > 0 and (behind % settings.every_steps == 0 or (settings.every_epoch and progress.batch == 0))


def _refuse_broken(network: nn.Module, progress: Progress) -> None:
    """Raise rather than save weights that are not numbers: the checkpoint that is there is the last good one."""
    state = network.state_dict()
    whole = fetch(torch.stack([torch.isfinite(tensor).all() for tensor in state.values()]))
    broken = [name for name, good in zip(state, whole, strict=True) if not good]
    if broken:
        raise TrainingError(
            f"after step {progress.step} {len(broken)} tensors are not finite numbers ({broken[0]}, …): the checkpoint "
            f"was not overwritten. Resume from it with a smaller learning rate, or set optimizer.clip_norm_global"
        )


def _refuse_untrained(network: nn.Module) -> None:
    """Raise where the loss does not reach a parameter that is to be trained."""
    missed = [name for name, tensor in network.named_parameters() if tensor.requires_grad and tensor.grad is None]
    if missed:
        raise ConfigError(
            f"the loss gives no gradient to {len(missed)} parameters ({missed[0]}, …): freeze them (training.freeze), "
            f"or set use_guide to false where it keeps the gradient of CTC from the backbone"
        )


def _not_a_number(values: Mapping[str, float], unread: Unread, batches: Batches, folder: Path) -> str:
    batches.set_epoch(unread.epoch, start_batch=unread.batch)
    samples = "\n  ".join(batches.where(request.index) for request in next(batches.requests()))
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return (
        f"the loss is not a number in batch {unread.batch} of epoch {unread.epoch + 1}, at step {unread.step + 1}: "
        f"{said}. {folder / LAST} is the last good checkpoint, if one was written. Look at the samples, or resume with "
        f"a smaller learning rate. The batch:\n  {samples}"
    )
