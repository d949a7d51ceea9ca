"""What a training works on, made ready: its network, data and optimiser, at the start or where it was left."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn

from paddle2torch._version import __version__
from paddle2torch.api import load_pretrained
from paddle2torch.atomic import repair_folder
from paddle2torch.device import available_cores, describe
from paddle2torch.model_zoo.config import ModelConfig, Origin
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.training.batches import Batches, MakeBatches, image_of
from paddle2torch.training.checkpoints import (
    STATE_NAME,
    Progress,
    changed_settings,
    load_checkpoint,
    refuse_other_model,
)
from paddle2torch.training.config_files import overwrite_settings
from paddle2torch.training.data.loaders import workers_here
from paddle2torch.training.distillation import Distillation, refuse_other_teachers, teachers_of, with_teachers
from paddle2torch.training.distillation_settings import DistillationSettings
from paddle2torch.training.distributed import synchronise_batch_norm
from paddle2torch.training.evaluation import Examination
from paddle2torch.training.gradient_checkpointing import recompute_blocks
from paddle2torch.training.initialisation import adopt, initialise, measure_statistics
from paddle2torch.training.log import TrainingLog
from paddle2torch.training.optimisation import (
    MovingAverage,
    Rates,
    Schedule,
    build_optimizer,
    freeze,
    leave_out_unused,
    set_training,
)
from paddle2torch.training.probe import check_sizes
from paddle2torch.training.processes import computed_in, placed
from paddle2torch.training.run_card import run_card
from paddle2torch.training.settings import Settings
from paddle2torch.training.stopping import StopRequest
from paddle2torch.training.tracking import Tracking, start_tracking
from paddle2torch.zoo.run_card import RunCard

BEST, LAST, SETTINGS = "best", "last", "settings"
"""Folders in `output.dir`."""

MEASURED = 4
"""Batches that tell the statistics of branches that were made anew."""

SHAPING_BATCHES = ("data.train.dataset.", "data.train.loader.batch", "data.train.loader.shuffle", "data.train.sampler")
"""Settings that decide which samples a batch has."""


@dataclass
class Run:
    """A training between its steps: what a step, an evaluation and a checkpoint work on.

    Attributes:
        config: of the model that is trained, with where it comes from.
        learner: what is trained, `network` or, where it learns from teachers, that and them.
        model, optimizer: `learner` and `adam` as accelerate wraps them.
        known: what was said last of the training and the evaluation data.
        steps: of the whole training.
        progress: how far it has come; everything else stays the same object.
        unread: losses of steps that were made, which are not noted yet.
        examined: evaluations of this run by name: of the start, of the best so far, and the last one. Only the main
            process, which writes the report, keeps them: each has all answers.
    """

    settings: Settings
    config: ModelConfig
    folder: Path
    accelerator: Accelerator
    stop: StopRequest
    network: Network
    learner: Network | Distillation
    model: nn.Module
    adam: torch.optim.Optimizer
    optimizer: Any
    average: MovingAverage | None
    schedule: Rates
    batches: Batches
    evaluation: Batches
    known: tuple[str, str]
    steps: int
    card: RunCard
    tracking: Tracking
    log: TrainingLog
    progress: Progress
    unread: list[Unread] = field(default_factory=list)
    examined: dict[Literal["start", "best", "last"], Examination] = field(default_factory=dict)


@dataclass(frozen=True)
class Unread:
    """The losses of a batch, float (names,), which are still where they were computed: to read them is to wait.

    share: of its step. step: of the optimiser before it. epoch, batch: which one it was.
    """

    names: tuple[str, ...]
    values: torch.Tensor
    share: float
    step: int
    epoch: int
    batch: int


def prepare(
    settings: Settings,
    config: ModelConfig,
    accelerator: Accelerator,
    stop: StopRequest,
    *,
    source: Network | None,
    resume: bool,
    make_batches: MakeBatches,
) -> Run:
    """Everything that training needs, at its start or where it was left; see `train`."""
    folder = Path(settings.output.dir)
    if not resume and (folder / LAST / STATE_NAME).exists():
        raise ConfigError(f"{folder} holds a training already: go on with it (--resume) or choose another output.dir")
    if resume:
        repair_folder(folder / LAST)
        if (folder / LAST).is_dir():
            refuse_other_model(folder / LAST, config)
    accelerator.wait_for_everyone()
    if source is None and settings.pretrained is not None and not resume:
        source = load_pretrained(settings.pretrained)
    network, made, notes = _network(settings, config, source)
    settings, learner, more = _learner(settings, network, accelerator)
    notes += more

    batches = make_batches(settings, config, True, accelerator)
    evaluation = make_batches(settings, config, False, accelerator)
    known = (str(batches.report), str(evaluation.report))
    notes.append(f"computed on {describe(accelerator.device, settings.training.precision)}")
    notes += [f"training data: {known[0]}", f"evaluation data: {known[1]}"]
    if any(part.report.indices or part.report.unseen for part in (batches, evaluation)):
        notes.append("`paddle2torch data check` looks at every label and image, and names what is wrong")
    sampler, loader = settings.data.train.sampler, settings.data.train.loader
    if loader.num_workers is None:
        workers = workers_here(loader, accelerator.num_processes)
        notes.append(f"data is loaded by {workers} processes besides this one: {available_cores()} cores are here")
    if sampler is not None and sampler.first_bs not in (None, loader.batch_size_per_card):
        notes.append(
            f"batches are those of data.train.sampler: first_bs {sampler.first_bs}; "
            f"data.train.loader.batch_size_per_card ({loader.batch_size_per_card}) has no effect beside it"
        )
    if len(batches) == 0:
        raise ConfigError(
            "the training data does not fill one batch, and drop_last is set: make data.train.loader."
            "batch_size_per_card smaller, or drop_last false"
        )
    if made:
        # Other processes see other batches; they take the values of the first one when the model is prepared.
        measure_statistics(network, made, _first_images(batches, accelerator))
    steps_per_epoch = math.ceil(len(batches) / settings.training.accumulation)
    steps = steps_per_epoch * settings.training.epochs

    schedule = Schedule(settings.optimizer.lr, settings.schedule, steps_per_epoch, settings.training.epochs)
    adam = build_optimizer(learner, settings.optimizer)
    compiled = torch.compile(learner) if settings.training.compile else learner
    model, optimizer = accelerator.prepare(compiled, adam)
    average = MovingAverage(network, settings.training.ema_decay) if settings.training.ema_decay is not None else None
    # Dropout differs between the processes.
    torch.manual_seed(settings.training.seed + accelerator.process_index)
    processes, data = accelerator.num_processes, batches.report.digest
    progress = Progress(pending=True, processes=processes, settings=settings.dumps(), data=data)
    if resume:
        progress = load_checkpoint(
            folder / LAST,
            network,
            adam,
            average,
            rank=accelerator.process_index,
            processes=processes,
            device=accelerator.device,
            peers=peers_of(learner),
        )
        refuse_other_teachers(progress.settings, settings)
        notes += _resumed(progress, steps, settings, data)
        progress = replace(progress, settings=settings.dumps(), data=data)
        if accelerator.scaler is not None and progress.scaler:
            accelerator.scaler.load_state_dict(dict(progress.scaler))
    origin = ModelConfig.load(folder / LAST).origin if resume else _origin(source)
    if accelerator.is_main_process:
        # As they are in force, --set included, to train with them again.
        overwrite_settings(settings, config, folder / SETTINGS)
    config = replace(config, origin=origin)
    card = run_card(settings, config, {"train": batches.report, "eval": evaluation.report})
    tracking = start_tracking(settings.output, accelerator, card.flat(), step=progress.step, resume=resume)
    stop.listen()
    log = TrainingLog(
        folder, accelerator, tracking, step=progress.step, steps=steps, print_steps=settings.output.print_steps
    )
    for note in notes:
        log.note(note)
    set_training(learner)
    return Run(
        settings=settings,
        config=config,
        folder=folder,
        accelerator=accelerator,
        stop=stop,
        network=network,
        learner=learner,
        model=model,
        adam=adam,
        optimizer=optimizer,
        average=average,
        schedule=schedule,
        batches=batches,
        evaluation=evaluation,
        known=known,
        steps=steps,
        card=card,
        tracking=tracking,
        log=log,
        progress=progress,
    )


def _resumed(progress: Progress, steps: int, settings: Settings, data: str) -> list[str]:
    """What is said of a training that goes on: where, and what is another now."""
    notes = [f"resumed at step {progress.step} of {steps}"] if progress.step < steps else []
    changed = changed_settings(progress.settings, settings.dumps())
    notes += [f"resumed with another {line}" for line in changed]
    other_data = bool(progress.data) and progress.data != data
    if other_data:
        notes.append("resumed with other training data: its label files have other lines than before")
    if progress.batch and (other_data or any(line.startswith(SHAPING_BATCHES) for line in changed)):
        notes.append(
            f"epoch {progress.epoch + 1} goes on behind its first {progress.batch} batches, which are others now than "
            f"those that were trained on"
        )
    return notes


def _first_images(batches: Batches, accelerator: Accelerator) -> Iterator[torch.Tensor]:
    """What training sees first, on the device."""
    batches.set_epoch(0)
    for batch in itertools.islice(batches, MEASURED):
        yield image_of(batch, accelerator.device, computed_in(accelerator))


def _network(
    settings: Settings, config: ModelConfig, source: Network | None
) -> tuple[Network, tuple[str, ...], list[str]]:
    """The network with the weights that it starts from and what of it is trained, normalisations whose statistics are
    to be measured, and notes.

    Every process draws the same new weights.
    """
    torch.manual_seed(settings.training.seed)
    network = build_model(config)
    check_sizes(settings, network)
    initialise(network)
    adopted = None if source is None else adopt(network, source)
    notes = [] if adopted is None else adopted.lines()
    frozen = freeze(network, (*(("backbone.*",) if config.freeze_backbone else ()), *settings.training.freeze))
    if frozen:
        notes.append(f"{len(frozen)} parameters are frozen")
    leave_out_unused(network)
    return network, () if adopted is None else adopted.made, notes


def _learner(
    settings: Settings, network: Network, accelerator: Accelerator
) -> tuple[Settings, Network | Distillation, list[str]]:
    """What is trained: the network, with its teachers where it has some; settings that name these; notes on them."""
    learner: Network | Distillation = network
    notes: list[str] = []
    if isinstance(settings.loss, DistillationSettings):
        learner, loss, notes = with_teachers(network, settings.loss)
        settings = replace(settings, loss=loss)
        for teacher in teachers_of(learner).values():
            check_sizes(settings, teacher)
    for module in learner.modules():
        if isinstance(module, nn.Dropout) and settings.training.dropout is not None:
            module.p = settings.training.dropout
    if accelerator.num_processes > 1 and settings.training.sync_batch_norm:
        synchronise_batch_norm(learner)
    if settings.training.gradient_checkpointing:
        notes.append(f"{recompute_blocks(learner)} blocks are computed again in the backward pass")
    return settings, placed(learner, accelerator), notes


def peers_of(learner: Network | Distillation) -> Mapping[str, nn.Module]:
    """The networks that are trained with the one that is kept."""
    return learner.learning_teachers if isinstance(learner, Distillation) else {}


def _origin(source: Network | None) -> Origin:
    """Where the result comes from."""
    if source is None:
        return Origin("trained here", source="new weights", converter=f"paddle2torch {__version__}")
    files = source.config.origin.files if source.config.origin is not None else {}
    return Origin("trained here", files, f"fine-tuned from {source.config.name}", f"paddle2torch {__version__}")
