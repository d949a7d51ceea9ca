"""The loop: it learns, repeats, goes on after any death, and agrees with itself across processes."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from material import FONT, TESTS
from safetensors.torch import load_file
from small_models import saved
from tiny_training import TinyBatches, job, tiny_config, tiny_det_config, tiny_settings, tiny_v4_config

from paddle2torch import atomic as landing
from paddle2torch.api import load_pretrained
from paddle2torch.atomic import WriteError
from paddle2torch.model_zoo.config import Component, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.training import trainer
from paddle2torch.training.batches import batches_of
from paddle2torch.training.checkpoints import STATE_NAME
from paddle2torch.training.config_files import read_settings
from paddle2torch.training.distillation_settings import (
    DistillationCTCLoss,
    DistillationDistanceLoss,
    DistillationDKDLoss,
    DistillationDMLLoss,
    DistillationNRTRLoss,
    DistillationSettings,
    LossTerm,
    TeacherSettings,
)
from paddle2torch.training.evaluation import Measurement, evaluate
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.losses import losses_of
from paddle2torch.training.official import official_settings
from paddle2torch.training.optimisation import build_optimizer, set_rate, set_training
from paddle2torch.training.processes import make_accelerator
from paddle2torch.training.settings import (
    EarlyStopping,
    LoaderSettings,
    MultiScaleSampler,
    Settings,
    Tracker,
    Transform,
)
from paddle2torch.training.trainer import TrainingError, train
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model
from paddle2torch.zoo.run_card import read_trained

# The package first: tests/ has a folder of its name.
PROGRAM = (
    "import paddle2torch.training.trainer, sys; "
    f"sys.path.append({str(TESTS)!r}); import tiny_training; tiny_training.main()"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of two epochs leaves, which nothing stopped."""
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of one epoch leaves."""
    return trained(tmp_path_factory.mktemp("short"), epochs=1)


def trained(folder: Path, **training: Any) -> Path:
    train(tiny_settings(folder, training=training), tiny_config(), make_batches=TinyBatches.make)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def evaluations(folder: Path) -> list[dict[str, str]]:
    """What was measured, without how long it took."""
    return [{key: row[key] for key in row if key != "seconds"} for row in rows(folder / "evaluation.csv")]


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in rows(folder / "train.csv")]


def weights(folder: Path) -> dict[str, bytes]:
    """The bits of all tensors that a finished training leaves."""
    return {
        f"{name}/{key}": tensor.numpy().tobytes()
        for name, file in (("best", WEIGHTS_NAME), ("last", WEIGHTS_NAME), ("last", STATE_NAME))
        for key, tensor in load_file(folder / name / file).items()
    }


@pytest.mark.parametrize("config", [tiny_config(), tiny_det_config()], ids=lambda config: config.task)
def test_it_learns_and_leaves_a_model(tmp_path: Path, config: ModelConfig, drawn: None) -> None:
    settings = tiny_settings(tmp_path, det=config.task == "det", training={"epochs": 4}, evaluation={"every_steps": 8})
    result = train(settings, config, make_batches=TinyBatches.make)
    assert result.steps == 20
    assert losses(tmp_path)[-1] < 0.97 * losses(tmp_path)[0]
    table = rows(tmp_path / "train.csv")
    assert [int(row["step"]) for row in table] == list(range(1, 21))
    assert float(table[0]["lr"]) == 2e-3
    assert float(table[0]["images_per_second"]) > 0
    assert [int(row["step"]) for row in rows(tmp_path / "evaluation.csv")] == [0, 8, 16, 20]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"

    model = load_pretrained(tmp_path / "last")
    assert model.config == replace(config, origin=model.config.origin)
    assert model.config.origin is not None
    assert model.config.origin.kind == "trained here"
    measured = evaluate(settings, model, make_batches=TinyBatches.make).metrics
    last = rows(tmp_path / "evaluation.csv")[-1]
    assert measured == {name: pytest.approx(float(last[name]), abs=1e-12) for name in measured}
    assert measured == evaluate(settings, fuse(model), make_batches=TinyBatches.make).metrics


def test_a_trained_folder_is_not_trained_over(tmp_path: Path, short: Path) -> None:
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    settings = tiny_settings(tmp_path, training={"epochs": 1})
    with pytest.raises(ConfigError, match="holds a training already"):
        train(settings, tiny_config(), make_batches=TinyBatches.make)
    # What is finished stays so.
    before = weights(tmp_path)
    assert train(settings, tiny_config(), make_batches=TinyBatches.make, resume=True).steps == 5
    assert weights(tmp_path) == before


class StopHere(Exception):  # noqa: N818 - whatever it is
    """Stands for whatever stops a training."""


def interrupted_after(count: int) -> Any:
    """Batches that end with an exception."""

    class Stopping(TinyBatches):
        given = 0

        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for batch in super().__iter__():
                if self.training and Stopping.given == count:
                    raise StopHere
                Stopping.given += self.training
                yield batch

    return Stopping.make


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"training": {"epochs": 2, "ema_decay": 0.9, "accumulation": 2}, "optimizer": {"clip_norm_global": 1.0}},
        {"optimizer": {"name": "AdamW", "l2": 0.0, "weight_decay": 0.05}, "schedule": {"name": "OneCycle"}},
        {
            "optimizer": {"name": "Momentum", "lr": 1e-4},
            "training": {"gradient_checkpointing": True},
            "evaluation": {"every_steps": 4, "early_stopping": EarlyStopping(9, "acc")},
        },
    ],
    ids=["plain", "average, accumulation and clipping", "AdamW", "Momentum, checkpointing and early stopping"],
)
def test_resuming_is_bit_for_bit(tmp_path: Path, whole: Path, sections: dict[str, dict[str, Any]]) -> None:
    """Dropout is on; the checkpoint is older than the interruption; the files have each step once."""
    if sections:
        whole = tmp_path / "whole"
        train(tiny_settings(whole, **sections), tiny_config(), make_batches=TinyBatches.make)
    broken = tiny_settings(tmp_path / "broken", **sections)
    with pytest.raises(StopHere):
        train(broken, tiny_config(), make_batches=interrupted_after(7))
    torch.manual_seed(99)
    train(broken, tiny_config(), make_batches=TinyBatches.make, resume=True)
    assert weights(tmp_path / "broken") == weights(whole)
    assert losses(tmp_path / "broken") == losses(whole)
    assert evaluations(tmp_path / "broken") == evaluations(whole)


Program = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def program() -> Iterator[Program]:
    """Starts processes that train on demand, in forks of themselves."""
    started = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def ask(process: subprocess.Popen[str], *jobs: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(jobs) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_killed_at_any_moment_it_goes_on(tmp_path: Path, program: Program) -> None:
    """SIGKILL at random moments of a run, in its start, its steps and its saving; in the end it is as if never."""
    process = program()
    sections: dict[str, Any] = {
        "training": {"gradient_checkpointing": True},
        "evaluation": {"every_steps": 4, "early_stopping": EarlyStopping(9)},
        "output": {"print_steps": 1, "save_steps": 3, "trackers": (Tracker("tensorboard"),)},
    }
    whole, killed = (tiny_settings(tmp_path / name, **sections) for name in ("whole", "killed"))
    ask(process, job(whole, tiny_config()))
    assert answer(process) == 0
    moments = random.Random(5)
    for steps in (0, 3, 5, 6, 9):
        resume = (tmp_path / "killed" / "last").exists()
        ask(process, job(killed, tiny_config(), resume=resume, killed_at=(steps, moments.uniform(0.0, 0.2))))
        assert answer(process) in (0, -signal.SIGKILL)
    ask(process, job(killed, tiny_config(), resume=True))
    assert answer(process) == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("killed", "whole")]
    assert files[0] == files[1]


@needs_fork
def test_two_processes_give_the_losses_of_one(tmp_path: Path, program: Program) -> None:
    """Batches of 4 in two processes are a batch of 8: statistics, losses and gradients are those of all 8.

    With Adam's usual epsilon of 1e-8, gradients that are 0 but for rounding move their parameters by whole steps: two
    runs of one process whose images differ by 1e-6 are then 1e-4 apart after five steps.
    """
    training = {"epochs": 2, "dropout": 0.0, "gradient_checkpointing": True}
    sections = {"training": training, "optimizer": {"epsilon": 1e-3, "lr": 2e-4}}
    configs = {"rec": tiny_config(), "det": tiny_det_config(), "taught": tiny_config()}
    teachers = {
        "Peer": TeacherSettings(str(saved(tmp_path / "peer", tiny_config())), freeze=False),
        "Teacher": TeacherSettings(str(saved(tmp_path / "teacher", tiny_config(head={"nrtr": None})))),
    }
    pairs = (("Student", "Peer"), ("Student", "Teacher"))
    both: tuple[Any, ...] = ("Student", "Peer")
    terms = (
        *(DistillationCTCLoss(model_name_list=both), DistillationNRTRLoss(model_name_list=both)),
        *(DistillationDMLLoss(0.1, pairs), DistillationDKDLoss(0.1, pairs[:1]), DistillationDistanceLoss(0.1, pairs)),
    )
    loss = {"taught": DistillationSettings(teachers, tuple(map(LossTerm, terms)))}
    process = program()
    for task, config in configs.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = tiny_settings(tmp_path / task / "two", det=task == "det", **sections)
        if task in loss:
            once = replace(settings.training, epochs=1)
            settings = replace(settings, loss=loss[task], training=once)
        everywhere = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [{"RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true", **everywhere} for rank in "01"]
        ask(process, *(job(settings, config, environment=rank) for rank in ranks))
        assert [answer(process), answer(process)] == [0, 0]

    for task, config in configs.items():
        settings = tiny_settings(tmp_path / task / "one", det=task == "det", **sections)
        if task in loss:
            once = replace(settings.training, epochs=1)
            settings = replace(settings, loss=loss[task], training=once)
        eight = replace(settings.data.train, loader=LoaderSettings(8))
        train(replace(settings, data=replace(settings.data, train=eight)), config, make_batches=TinyBatches.make)
        one, two = losses(tmp_path / task / "one"), losses(tmp_path / task / "two")
        assert len(one) == (2 if task in loss else 4)
        assert two == pytest.approx(one, rel=5e-5), task
        states = [load_file(tmp_path / task / name / "last" / WEIGHTS_NAME) for name in ("one", "two")]
        for key, tensor in states[0].items():
            torch.testing.assert_close(states[1][key], tensor, rtol=1e-3, atol=1e-4, msg=f"{task}: {key}")


def test_accumulation_is_the_mean_gradient(tmp_path: Path) -> None:
    """Two batches, one step: by hand and by the loop."""
    sections: dict[str, dict[str, Any]] = {"training": {"epochs": 1, "accumulation": 2, "dropout": 0.0}}
    settings = tiny_settings(tmp_path, **sections, output={"save_steps": 1}, evaluation={"every_steps": 1})
    config = tiny_config()
    with pytest.raises(StopHere):
        train(settings, config, make_batches=interrupted_after(2))
    torch.manual_seed(settings.training.seed)
    network = build_model(config)
    initialise(network)
    network.to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    set_training(network)
    optimizer = build_optimizer(network, settings.optimizer)
    set_rate(optimizer, settings.optimizer.lr)
    for _, batch in zip(range(2), TinyBatches(True), strict=False):
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        (losses_of(network(image, batch), batch, settings.loss)["loss"] / 2).backward()
    optimizer.step()
    saved = load_file(tmp_path / "last" / WEIGHTS_NAME)
    for name, tensor in network.state_dict().items():
        assert torch.equal(saved[name], tensor), name


def test_the_average_is_what_is_kept(tmp_path: Path) -> None:
    train(tiny_settings(tmp_path, training={"ema_decay": 0.99}), tiny_config(), make_batches=TinyBatches.make)
    averaged, state = load_file(tmp_path / "last" / WEIGHTS_NAME), load_file(tmp_path / "last" / STATE_NAME)
    key = "backbone.conv1._conv.weight"
    assert not torch.equal(averaged[key], state[f"network/{key}"])
    settings = tiny_settings(tmp_path)
    measured = evaluate(settings, load_model(tmp_path / "last"), make_batches=TinyBatches.make).metrics
    last = rows(tmp_path / "evaluation.csv")[-1]
    assert measured["norm_edit_dis"] == pytest.approx(float(last["norm_edit_dis"]), abs=1e-12)


def test_a_frozen_backbone_does_not_change_by_a_bit(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_model(tiny_config())
    initialise(source)
    settings = tiny_settings(tmp_path, training={"freeze": ["head.ctc_head.*"]})
    config = tiny_config(freeze_backbone=True)
    train(settings, config, source=source, make_batches=TinyBatches.make)
    before = source.state_dict()
    changed = {
        name
        for name, tensor in load_file(tmp_path / "last" / WEIGHTS_NAME).items()
        if not torch.equal(tensor, before[name])
    }
    assert not any(name.startswith(("backbone.", "head.ctc_head.")) for name in changed)
    assert "head.ctc_encoder.encoder.conv1.norm.running_var" in changed
    assert "head.gtc_head.tgt_word_prj.weight" in changed


def broken_sample(number: int) -> Any:
    """Training batches of which one sample is not a number."""

    def make(settings: Settings, config: ModelConfig, training: bool, accelerator: Accelerator) -> TinyBatches:
        batches = TinyBatches.make(settings, config, training, accelerator)
        return replace(batches, broken=number if training else None)

    return make


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    """The message names the batch and where its samples stand; the checkpoint is from before, and sound."""
    batches = TinyBatches(True)
    batches.set_epoch(0)
    numbers = [[request.index for request in requests] for requests in batches.requests()]
    settings = tiny_settings(tmp_path, output={"save_steps": 1})
    with pytest.raises(TrainingError) as raised:
        train(settings, tiny_config(), make_batches=broken_sample(numbers[3][0]))
    message = str(raised.value)
    assert "not a number in batch 3 of epoch 1, at step 4: loss nan, CTCLoss nan, NRTRLoss nan" in message
    assert message.endswith("".join(f"\n  sample {number}" for number in numbers[3]))
    assert str(tmp_path / "last") in message
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "last" / WEIGHTS_NAME).values())
    assert train(settings, tiny_config(), make_batches=TinyBatches.make, resume=True).steps == 10


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    train(
        tiny_settings(tmp_path, training={"epochs": 1}),
        tiny_v4_config(),
        make_batches=TinyBatches.make,
    )
    saved = (tmp_path / "last" / WEIGHTS_NAME).read_bytes()
    settings = tiny_settings(tmp_path, optimizer={"lr": 1e38}, output={"save_steps": 1})
    with pytest.raises(TrainingError, match=r"after step 6 .* are not finite .* was not overwritten"):
        train(settings, tiny_v4_config(), make_batches=TinyBatches.make, resume=True)
    assert (tmp_path / "last" / WEIGHTS_NAME).read_bytes() == saved


def test_a_full_disk_stops_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(tmp_path, output={"save_steps": 2}, evaluation={"every_steps": 100})
    real = landing.shutil.disk_usage
    calls = 0

    def full_after_the_first(path: Path) -> Any:
        nonlocal calls
        calls += 1
        # The start as `best`, then `last`.
        return real(path) if calls <= 2 else real(path)._replace(free=10)

    monkeypatch.setattr(landing.shutil, "disk_usage", full_after_the_first)
    with pytest.raises(Paddle2TorchError, match="is full"):
        train(settings, tiny_config(), make_batches=TinyBatches.make)
    monkeypatch.setattr(landing.shutil, "disk_usage", real)
    with_metadata = load_model(tmp_path / "last")
    assert with_metadata.config.name == "tiny"
    assert train(settings, tiny_config(), make_batches=TinyBatches.make, resume=True).steps == 10


@pytest.mark.parametrize(
    ("rule", "values", "steps", "best"),
    [
        (EarlyStopping(2), [0.5, 0.5, 0.5], 2, (0.5, 2)),  # equal is no better, but kept
        (EarlyStopping(2, min_delta=0.1), [0.5, 0.55, 0.59, 0.9], 2, (0.59, 2)),
        (EarlyStopping(1, metric="cer"), [0.5, 0.4, 0.6], 2, (0.6, 2)),
        (EarlyStopping(1, mode="min"), [0.5, 0.4, 0.6], 2, (0.6, 2)),
    ],
    ids=["patience", "min_delta", "another metric, of which less is better", "mode"],
)
def test_it_stops_when_nothing_gets_better(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: EarlyStopping,
    values: list[float],
    steps: int,
    best: tuple[float, int],
) -> None:
    """Stopped and resumed in between it counts on."""
    found = iter(values)

    def measure(*_: Any) -> Measurement:
        value = next(found)
        return Measurement({"acc": value, "cer": value}, "acc")

    monkeypatch.setattr(trainer, "measure", measure)
    sections: dict[str, Any] = {"training": {"epochs": 5}, "output": {"save_steps": 1}}
    settings = tiny_settings(tmp_path, **sections, evaluation={"every_steps": 1, "early_stopping": rule})
    with pytest.raises(StopHere):
        train(settings, tiny_config(), make_batches=interrupted_after(1))
    for _ in range(2):
        result = train(settings, tiny_config(), make_batches=TinyBatches.make, resume=True)
        assert (result.steps, result.best, result.best_step) == (steps, *best)


def test_the_best_is_by_the_metric_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([(0.1, 0.5), (0.3, 0.6), (0.2, 0.4)])

    def measure(*_: Any) -> Measurement:
        return Measurement(dict(zip(("acc", "cer"), next(found), strict=True)), "acc")

    monkeypatch.setattr(trainer, "measure", measure)
    settings = tiny_settings(tmp_path, training={"epochs": 1}, evaluation={"every_steps": 3, "main_indicator": "cer"})
    result = train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert (result.best, result.best_step, result.start) == (0.4, 5, 0.5)
    assert result.line == "5 steps, best 0.4000 at step 5"


def test_changed_settings_are_said_on_resuming(tmp_path: Path, short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    more = tiny_settings(tmp_path, training={"epochs": 2})
    assert train(more, tiny_config(), make_batches=TinyBatches.make, resume=True).steps == 10
    said = capsys.readouterr().err
    assert "resumed with another training.epochs: 2, was 1" in said
    assert "resumed at step 5 of 10" in said


def test_no_batch_no_training(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    data = replace(settings.data, train=replace(settings.data.train, loader=LoaderSettings(64, drop_last=True)))
    with pytest.raises(ConfigError, match="does not fill one batch"):
        train(replace(settings, data=data), tiny_config(), make_batches=TinyBatches.make)
    assert not (tmp_path / "last").exists()


def test_parameters_that_no_loss_reaches_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paddle would leave them as they are, in silence."""
    monkeypatch.setattr("paddle2torch.training.trainer.check_fit", lambda settings, config: None)
    config = tiny_config(head={"nrtr": None})
    with pytest.raises(ConfigError, match=r"no gradient to \d+ parameters \(backbone\."):
        train(tiny_settings(tmp_path), config, make_batches=TinyBatches.make)


def test_half_precision_goes_where_full_does(tmp_path: Path) -> None:
    values = []
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state(True)
        settings = tiny_settings(tmp_path / precision, training={"precision": precision, "epochs": 1, "dropout": 0.0})
        train(settings, tiny_v4_config(), make_batches=TinyBatches.make)
        values.append(losses(tmp_path / precision))
    assert values[0] != values[1]
    assert len(values[1]) == 5
    assert values[1] == pytest.approx(values[0], rel=0.02)
    state = load_file(tmp_path / "bf16" / "last" / WEIGHTS_NAME)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_half_precision_with_loss_scaling_is_for_gpus(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, for which fp16 is")
    with pytest.raises(ConfigError, match="fp16 needs a GPU: take bf16"):
        train(tiny_settings(tmp_path, training={"precision": "fp16"}), tiny_config(), make_batches=TinyBatches.make)


def test_one_process_has_one_precision(tmp_path: Path) -> None:
    """accelerate holds on to the first."""
    make_accelerator(tiny_settings(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"training\.precision bf16: AcceleratorState has already been initialized"):
        train(
            tiny_settings(tmp_path / "b", training={"precision": "bf16"}), tiny_config(), make_batches=TinyBatches.make
        )


class Uncompilable(torch.nn.Module):
    """What `torch.compile` gives where there is no compiler."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *_: Any) -> None:
        from torch._dynamo.exc import TorchDynamoException

        raise TorchDynamoException("no C++ compiler found\nmany more lines")


def test_compiling_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Uncompilable)
    settings = tiny_settings(tmp_path, training={"compile": True})
    with pytest.raises(ConfigError, match=r"torch.compile failed \(no C\+\+ compiler found\)\. It needs"):
        train(settings, tiny_config(), make_batches=TinyBatches.make)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Images of lines and PaddleOCR's label files; one label has a character outside the set, one is too long."""
    rng = np.random.Generator(np.random.PCG64(0))
    folder = tmp_path / "lines"
    folder.mkdir()
    labels = ["".join(rng.choice(list("abcdef"), 3)) for _ in range(14)]
    labels[4], labels[7] = "aXb", "abc" * 9
    for number in range(len(labels)):
        image = rng.integers(0, 256, (40, int(rng.integers(50, 90)), 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    for name, part in (("train", range(10)), ("val", range(10, 14))):
        rows = [f"{number}.png\t{labels[number]}\n" for number in part]
        (folder / f"{name}.txt").write_text("".join(rows))
    return folder


def real_settings(lines: Path, output: Path) -> Settings:
    """The official recipe on those lines: every augmentation, three sizes, workers."""
    settings = official_settings(tiny_v4_config(), pretrained=None)
    data = settings.data
    dataset = {"data_dir": str(lines)}
    train_set = replace(data.train.dataset, label_file_list=(str(lines / "train.txt"),), **dataset)
    loader = replace(data.train.loader, num_workers=2)
    scales = replace(data.train.sampler or MultiScaleSampler(), first_bs=4)
    eval_set = replace(data.eval.dataset, label_file_list=(str(lines / "val.txt"),), **dataset)
    return replace(
        settings,
        data=replace(
            data,
            train=replace(data.train, dataset=train_set, loader=loader, sampler=scales),
            eval=replace(data.eval, dataset=eval_set, loader=replace(data.eval.loader, num_workers=0)),
        ),
        training=replace(settings.training, epochs=2),
        output=replace(settings.output, dir=str(output), print_steps=1, save_steps=1),
    )


def _stopping_after(count: int) -> Any:
    """The real batches, that end with an exception."""
    given = 0

    def stopping(settings: Settings, config: ModelConfig, training: bool, accelerator: Accelerator) -> Any:
        class Stopping:
            def __init__(self) -> None:
                self.batches = batches_of(settings, config, training, accelerator)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.batches, name)

            def __len__(self) -> int:
                return len(self.batches)

            def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
                nonlocal given
                for batch in self.batches:
                    given += training
                    if given == count + 1:
                        raise StopHere
                    yield batch

        return Stopping()

    return stopping


def with_sources(settings: Settings, lines: Path) -> Settings:
    """With four lines of a tar and four rendered ones beside the label files."""
    with tarfile.open(lines / "more.tar", "w") as tar:
        for number in range(4):
            for ending, data in (("png", (lines / f"{number}.png").read_bytes()), ("txt", b"abc")):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    sources = (
        Transform("WebDataset", {"shards": [str(lines / "more.tar")]}),
        Transform("RenderedLines", {"count": 4, "fonts": [FONT]}),
    )
    split = settings.data.train
    split = replace(split, dataset=replace(split.dataset, sources=sources))
    return replace(settings, data=replace(settings.data, train=split))


def test_official_recipe_on_files(tmp_path: Path, lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Label files and other sources, augmentation and sampler as the recipe has them; stopped and resumed it is bit for
    bit the same.
    """
    settings = with_sources(real_settings(lines, tmp_path / "whole"), lines)
    result = train(settings, tiny_v4_config())
    assert result.steps == len(losses(tmp_path / "whole")) > 4
    said = capsys.readouterr().err
    assert "18 samples, 1 dropped" in said
    assert "1 x label too long" in said
    assert "'X' 1x" in said

    settings = with_sources(real_settings(lines, tmp_path / "broken"), lines)
    with pytest.raises(StopHere):
        train(settings, tiny_v4_config(), make_batches=_stopping_after(3))
    train(settings, tiny_v4_config(), resume=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_a_finer_set_ends_better_than_from_scratch(tmp_path: Path) -> None:
    """A model that has learnt some of the lines learns the rest with another order of characters, and a new one."""
    sparse = {"evaluation": {"every_steps": 100}, "output": {"save_steps": 100}}
    first = tiny_settings(tmp_path / "first", training={"epochs": 8}, **sparse)
    train(first, tiny_v4_config(), make_batches=TinyBatches.make)
    source = load_pretrained(tmp_path / "first" / "last")
    charset = ("f", "e", "d", "c", "b", "a", "z")
    ends = {}
    for name, start in (("tuned", source), ("scratch", None)):
        settings = tiny_settings(tmp_path / name, **sparse)
        train(settings, tiny_v4_config(charset=charset), source=start, make_batches=Reordered.make)
        ends[name] = losses(tmp_path / name)
    assert ends["tuned"][0] < 0.95 * ends["scratch"][0]
    assert ends["tuned"][-1] < 0.95 * ends["scratch"][-1]


class Reordered(TinyBatches):
    """The same lines in the set f e d c b a z."""

    def _line(self, index: int) -> dict[str, torch.Tensor]:
        line = super()._line(index)
        line["label_ctc"][:3] = 7 - line["label_ctc"][:3]
        line["label_gtc"][1:4] = 13 - line["label_gtc"][1:4]
        return line


# What a team runs into


def measured(*values: float) -> Any:
    """Stands for evaluations that find these accuracies, one after another."""
    found = iter(values)
    return lambda *_: Measurement({"acc": next(found)}, "acc")


def test_the_start_is_evaluated_and_kept_where_nothing_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    source = build_model(tiny_config())
    initialise(source)
    monkeypatch.setattr(trainer, "measure", measured(0.5, 0.25, 0.375))
    settings = tiny_settings(tmp_path, training={"epochs": 1}, evaluation={"every_steps": 3})
    result = train(settings, tiny_config(), source=source, make_batches=TinyBatches.make)
    assert (result.steps, result.best, result.best_step, result.start) == (5, 0.5, 0, 0.5)
    assert result.line == "5 steps; nothing was better than what training started from, 0.5000"
    assert [(row["step"], row["acc"]) for row in evaluations(tmp_path)] == [("0", "0.5"), ("3", "0.25"), ("5", "0.375")]
    best = load_file(tmp_path / "best" / WEIGHTS_NAME)
    assert all(torch.equal(best[name], tensor) for name, tensor in source.state_dict().items())
    said = capsys.readouterr().err
    assert "evaluation of the start: acc 0.5000, the best so far (" in said
    assert "evaluation of step 3: acc 0.2500 (" in said
    # What was said, what was measured and how it was trained lie beside the weights.
    assert "nothing was better" in (tmp_path / "train.log").read_text()
    assert json.loads((tmp_path / "best" / "metrics.json").read_text()) == {"step": 0, "measured": 0, "acc": 0.5}
    assert json.loads((tmp_path / "last" / "metrics.json").read_text()) == {"step": 5, "measured": 5, "acc": 0.375}
    trained = read_trained(tmp_path / "best")
    assert trained is not None
    assert (trained.step, trained.metrics, trained.card.data["train"].samples) == (0, {"acc": 0.5}, 20)
    assert trained.card.started_from == "fine-tuned from tiny"
    again, config = read_settings(tmp_path / "settings" / "config.json")
    assert (again, config) == (settings, tiny_config())


def signalled(number: int, at: int, *, training: bool = True) -> Any:
    """Batches during which this process gets a signal."""

    class Signalled(TinyBatches):
        given = 0

        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for batch in super().__iter__():
                Signalled.given += self.training is training
                if self.training is training and Signalled.given == at:
                    os.kill(os.getpid(), number)
                yield batch

    return Signalled.make


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_finishes_the_step_and_goes_on_from_there(
    tmp_path: Path, whole: Path, drawn: None, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a step behind which nothing else would save."""
    stopped = tiny_settings(tmp_path / "stopped")
    before = signal.getsignal(number)
    result = train(stopped, tiny_config(), make_batches=signalled(number, 2))
    assert signal.getsignal(number) is before
    assert (result.steps, result.made, result.stopped) == (2, 2, number)
    assert (
        f"stopped by {number.name} after step 2 of 10, which is saved: go on with --resume" in capsys.readouterr().err
    )
    assert (tmp_path / "stopped" / "curves.png").exists()
    train(stopped, tiny_config(), make_batches=TinyBatches.make, resume=True)
    assert weights(tmp_path / "stopped") == weights(whole)
    assert losses(tmp_path / "stopped") == losses(whole)


@pytest.mark.parametrize("at", [2, 8], ids=["of the start", "of step 4"])
def test_an_evaluation_that_was_left_is_made_up_for(tmp_path: Path, whole: Path, at: int) -> None:
    """Nobody waits for the end of a long one; what was never stopped and what was evaluate the same steps."""
    stopped = tiny_settings(tmp_path / "stopped")
    result = train(stopped, tiny_config(), make_batches=signalled(signal.SIGINT, at, training=False))
    assert result.steps == (0 if at == 2 else 4)
    assert len(rows(tmp_path / "stopped" / "evaluation.csv")) == 1 if at == 8 else True
    train(stopped, tiny_config(), make_batches=TinyBatches.make, resume=True)
    assert evaluations(tmp_path / "stopped") == evaluations(whole)
    assert weights(tmp_path / "stopped") == weights(whole)


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    class Twice(TinyBatches):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for batch in super().__iter__():
                if self.training:
                    os.kill(os.getpid(), signal.SIGINT)
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    with pytest.raises(KeyboardInterrupt):
        train(tiny_settings(tmp_path), tiny_config(), make_batches=Twice.make)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, training={"epochs": 1})

    def second(*arguments: Any) -> TinyBatches:
        with pytest.raises(ConfigError, match=r"another training is running in .*: wait for its end, or choose"):
            train(settings, tiny_config(), make_batches=TinyBatches.make)
        return TinyBatches.make(*arguments)

    assert train(settings, tiny_config(), make_batches=second).steps == 5
    # Its end lets others in, a failure too.
    more = tiny_settings(tmp_path)
    with pytest.raises(StopHere):
        train(more, tiny_config(), make_batches=interrupted_after(0), resume=True)
    assert train(more, tiny_config(), make_batches=TinyBatches.make, resume=True).steps == 10


def test_every_step_is_in_one_row(tmp_path: Path, whole: Path) -> None:
    """Rows every three steps and before each checkpoint, evaluations in between: their means are those of all steps."""
    few = tiny_settings(tmp_path / "few", output={"print_steps": 3, "save_steps": 5})
    train(few, tiny_config(), make_batches=TinyBatches.make)
    single = losses(whole)
    table = rows(tmp_path / "few" / "train.csv")
    ends = [int(row["step"]) for row in table]
    assert ends == [3, 4, 5, 6, 8, 9, 10]
    for start, end, mean in zip([0, *ends], ends, losses(tmp_path / "few"), strict=False):
        assert mean == pytest.approx(float(np.mean(single[start:end])), rel=1e-9), end
    assert all(float(row["seconds_per_step"]) > 0 and float(row["peak_memory_gb"]) > 0.01 for row in table)
    assert all(float(row["seconds"]) > 0 for row in rows(tmp_path / "few" / "evaluation.csv"))


def test_a_line_is_said_at_least_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paddle2torch.training.log.QUIET_SECONDS", 0.0)
    settings = tiny_settings(
        tmp_path, training={"epochs": 1}, output={"print_steps": 100}, evaluation={"every_steps": 9}
    )
    train(settings, tiny_config(), make_batches=TinyBatches.make)
    said = capsys.readouterr().err
    assert all(f"step {step}/5: loss" in said for step in range(1, 6))
    assert [row["step"] for row in rows(tmp_path / "train.csv")] == ["3", "5"]


def test_each_epoch_is_evaluated(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, evaluation={"every_steps": 2000, "every_epoch": True})
    train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert [row["step"] for row in evaluations(tmp_path)] == ["0", "5", "10"]


def test_resuming_a_training_that_is_over_says_so(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = weights(tmp_path)
    fewer = tiny_settings(tmp_path, training={"epochs": 1})
    result = train(fewer, tiny_config(), make_batches=TinyBatches.make, resume=True)
    assert (result.steps, result.made) == (10, 0)
    said = capsys.readouterr().err
    assert "nothing was done: the training is at its end already (epoch 2 of 1, step 10 of 5)" in said
    assert "resumed at step" not in said
    assert weights(tmp_path) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(charset=tuple("fedcba")), r"another character set: class 1 is 'a' there, 'f' now.*keep what they"),
        (tiny_config(charset=tuple("abcdefg")), r"is of another network: head.classes: 8, was 7"),
        (
            tiny_config(backbone=Component("MobileNetV1Enhance", {"scale": 0.25})),
            r"network: backbone.scale: 0.25, was 0.125",
        ),
        (tiny_config(preprocess=RecPreprocess(image_shape=(3, 48, 64), std=(0.25, 0.25, 0.25))), r"preprocess\.std"),
    ],
)
def test_resuming_with_another_model_is_refused(tmp_path: Path, short: Path, config: ModelConfig, message: str) -> None:
    shutil.copytree(short, tmp_path, dirs_exist_ok=True)
    before = weights(tmp_path)
    with pytest.raises(ConfigError, match=message):
        train(tiny_settings(tmp_path), config, make_batches=TinyBatches.make, resume=True)
    assert weights(tmp_path) == before


def test_lines_that_the_network_cannot_read_are_refused_before_the_first_step(tmp_path: Path, lines: Path) -> None:
    """v2's backbone halves a line of 64 pixels to two rows, where its head reads one."""
    with pytest.raises(ConfigError, match=r"data\.train\.sampler\.scales: 64x64: .* leaves 2 rows"):
        train(real_settings(lines, tmp_path / "run"), tiny_config())
    assert not (tmp_path / "run" / "last").exists()


def test_other_data_is_said_on_resuming(tmp_path: Path, lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = real_settings(lines, tmp_path / "run")
    sparse = replace(settings, output=replace(settings.output, save_steps=1))
    with pytest.raises(StopHere):
        train(sparse, tiny_v4_config(), make_batches=_stopping_after(1))
    with open(lines / "train.txt", "a", encoding="utf-8") as file:
        file.write("0.png\tabc\n")
    train(sparse, tiny_v4_config(), resume=True)
    said = capsys.readouterr().err
    assert "resumed with other training data: its label files have other lines than before" in said
    assert "epoch 1 goes on behind its first 1 batches, which are others now" in said


def test_a_full_disk_loses_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`best` cannot be written once: the figure is there, training goes on, and the next as good one is kept."""
    real, calls = trainer.save_model, 0

    def full_once(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise WriteError("the disk of best is full: 3 MB needed, 1 MB free")
        real(*arguments, **options)

    monkeypatch.setattr(trainer, "save_model", full_once)
    monkeypatch.setattr(trainer, "measure", measured(0.25, 0.75, 0.5))
    settings = tiny_settings(tmp_path, training={"epochs": 1}, evaluation={"every_steps": 3})
    result = train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert [row["acc"] for row in evaluations(tmp_path)] == ["0.25", "0.75", "0.5"]
    assert (result.best, result.best_step) == (0.5, 5)
    assert "is not of this step: the disk of best is full" in capsys.readouterr().err


def test_processes_that_do_not_know_of_one_another_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE says 2 processes, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PO"):
        train(tiny_settings(tmp_path), tiny_config(), make_batches=TinyBatches.make)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(
        "paddle2torch.training.processes.Accelerator",
        lambda **_: SimpleNamespace(num_processes=1, device=torch.device("cpu")),
    )
    with pytest.raises(ConfigError, match=r"2 processes were started \(WORLD_SIZE\), but this one knows of 1: each"):
        train(tiny_settings(tmp_path), tiny_config(), make_batches=TinyBatches.make)


def test_a_compiler_sees_the_network_as_one_graph() -> None:
    """Nothing in it waits for a value: the longest label is looked up before."""
    model = build_model(tiny_v4_config()).train()
    batch = next(iter(TinyBatches(True)))
    found = torch._dynamo.explain(model)(batch["image"], trainer.guide_targets(batch))
    assert found.graph_break_count == 0, found.break_reasons
