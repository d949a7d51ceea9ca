"""A training is followed by accelerate's trackers, which never end it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tiny_training import CHARSET, TinyBatches, tiny_config, tiny_settings

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training import tracking
from paddle2torch.training.settings import Tracker
from paddle2torch.training.trainer import train


class Indexed(TinyBatches):
    """Lines whose evaluation says which sample each is, as files do: what is hard can be shown."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for requests, batch in zip(self.requests(), super().__iter__(), strict=True):
            index = torch.tensor([request.index for request in requests])
            yield batch if self.training else {**batch, "index": index}

    def label(self, index: int) -> str:
        text = np.random.default_rng([2, index]).integers(0, len(CHARSET), 3)
        return "".join(CHARSET[number] for number in text)

    def source(self, index: int) -> str:
        return "made up"

    def picture(self, index: int) -> BGRImage:
        return np.full((48, 64, 3), (0, 0, 200), dtype=np.uint8)


class Notebook(GeneralTracker):
    """Keeps what it is given; `broken` are the steps at which it fails."""

    name = "notebook"
    requires_logging_directory = False
    main_process_only = True
    made: list[Notebook] = []  # noqa: RUF012 - one for all of a test

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options = project, options
        self.config: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.pictures: dict[int, list[Any]] = {}
        self.finished = self.asked = 0
        Notebook.made.append(self)

    def start(self) -> None:
        if "refuses" in self.options:
            raise RuntimeError("no key\nlong help")

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.asked += 1
        if step in self.options.get("broken", ()):
            raise ConnectionError("the server is gone")
        self.rows.append((step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.pictures[step] = values["evaluation/hardest"]

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> list[Notebook]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    Notebook.made = []
    return Notebook.made


def tracked(folder: Path, **options: Any) -> Any:
    sections: dict[str, Any] = {"training": {"epochs": 1}}
    return tiny_settings(folder, **sections, output={"trackers": (Tracker("notebook", options),), "save_steps": 100})


def test_a_tracker_gets_settings_rows_and_pictures(tmp_path: Path, notebooks: list[Notebook]) -> None:
    train(tracked(tmp_path, key="secret"), tiny_config(), make_batches=Indexed.make)
    (notebook,) = notebooks
    assert (notebook.project, notebook.options) == ("paddle2torch", {"key": "secret"})
    assert notebook.config["settings.optimizer.lr"] == 2e-3
    assert notebook.config["settings.output.trackers"] == '["notebook"]'
    assert notebook.config["settings.output.dir"] == tmp_path.name
    assert notebook.config["versions.torch"] == torch.__version__
    assert notebook.config["data.eval.samples"] == 20
    assert {type(value) for value in notebook.config.values()} <= {bool, int, float, str}  # no class of their own
    assert [(step, next(iter(row)).partition("/")[0]) for step, row in notebook.rows] == [
        *((0, "evaluation"), (1, "train"), (2, "train"), (3, "train"), (4, "train"), (4, "evaluation")),
        *((5, "train"), (5, "evaluation")),
    ]
    assert set(notebook.pictures) == {0, 4, 5}
    (first, *others) = notebook.pictures[0]
    assert first.shape == (48, 64, 3)
    assert first[0, 0].tolist() == [200, 0, 0]  # RGB
    assert len(others) == 5
    assert notebook.finished == 1


def test_a_tracker_that_fails_ends_no_training(
    tmp_path: Path, notebooks: list[Notebook], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once; what failed three times in a row is not asked again."""
    train(tracked(tmp_path, broken=[1, 3, 4]), tiny_config(), make_batches=TinyBatches.make)
    (notebook,) = notebooks
    assert [step for step, _ in notebook.rows] == [0, 2]
    assert notebook.asked == 6
    said = capsys.readouterr().err
    assert said.count("the tracker notebook failed (ConnectionError: the server is gone): training goes on") == 1
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 6


def test_a_tracker_that_does_not_start_is_an_error_before_the_first_step(
    tmp_path: Path, notebooks: list[Notebook]
) -> None:
    with pytest.raises(ConfigError, match=r"output.trackers: notebook does not start: RuntimeError: no key$"):
        train(tracked(tmp_path, refuses=True), tiny_config(), make_batches=TinyBatches.make)
    assert not (tmp_path / "train.csv").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r"there is no tracker 'tensorbord'; did you mean 'tensorboard'\?"),
        ("paper", r"there is no tracker 'paper'; there are aim, clearml, comet_ml, .*wandb"),
        ("wandb", r"wandb is not installed: pip install wandb"),
    ],
)
def test_a_tracker_that_is_not_there_is_named(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    settings = tiny_settings(tmp_path / "run", output={"trackers": (Tracker(name),)})
    with pytest.raises(ConfigError, match=rf"^output\.trackers: {message}"):
        train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert not (tmp_path / "run").exists()


def test_tensorboard_goes_on_where_training_does(tmp_path: Path) -> None:
    """Rows of steps that are done again are there once; the pictures and what was read of them are there."""
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    settings = tiny_settings(tmp_path, training={"epochs": 1}, output={"trackers": (Tracker("tensorboard"),)})

    class Killed(Indexed):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for number, batch in enumerate(super().__iter__()):
                if self.training and number == 4:
                    raise ZeroDivisionError  # step 4 is noted, the checkpoint is of step 3
                yield batch

    with pytest.raises(ZeroDivisionError):
        train(settings, tiny_config(), make_batches=Killed.make)
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"tensorboard": "tensorboard"}
    before = signal.getsignal(signal.SIGTERM)
    train(settings, tiny_config(), make_batches=Indexed.make, resume=True)
    assert signal.getsignal(signal.SIGTERM) is before
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert [event.step for event in accumulator.Images("evaluation/hardest/1")] == [0, 4, 5]
    assert "evaluation/hardest/text_summary" in accumulator.Tags()["tensors"]
