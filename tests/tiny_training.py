"""A training small enough for tests: a tiny recogniser on random lines, and a program that trains it in processes.

As a program it trains once for every line of JSON on stdin, each time in a process of its own that it forks, and that
it can kill at any moment; PyTorch is imported only once. It prints the exit code of each. Of several jobs in one line
all run at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from paddle2torch.model_zoo.config import Component, CTCDecode, DBPostprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.strict_json import from_json, to_json
from paddle2torch.training.data.drops import DropReport
from paddle2torch.training.log import TRAIN_NAME
from paddle2torch.training.settings import (
    DatasetSettings,
    DataSettings,
    DBLossSettings,
    EvaluationSettings,
    LoaderSettings,
    OptimizerSettings,
    OutputSettings,
    RecLossSettings,
    Settings,
    SplitSettings,
    TrainingSettings,
)
from paddle2torch.training.trainer import train

CHARSET = tuple("abcdef")
LENGTH = 12  # of label rows
CLASSES = len(CHARSET) + 1


def tiny_config(*, charset: tuple[str, ...] = CHARSET, **changes: Any) -> ModelConfig:
    """A recogniser with v4's head over v2's backbone, which has the fewest modules: they cost the time."""
    head = {
        "classes": len(charset) + 1,
        "ctc": {"dims": 16, "depth": 1, "hidden_dims": 16, "kernel_size": [1, 3], "use_guide": True},
        "nrtr": {"nrtr_dim": 32, "num_decoder_layers": 1, "max_text_length": LENGTH},
    }
    head |= changes.pop("head", {})
    config = ModelConfig(
        name="tiny",
        task="rec",
        form="training",
        backbone=Component("MobileNetV1Enhance", {"scale": 0.125}),
        neck=None,
        head=Component("MultiHead", head),
        preprocess=RecPreprocess(image_shape=(3, 48, 64)),
        postprocess=CTCDecode(),
        charset=charset,
    )
    return replace(config, **changes)


def tiny_v4_config(**changes: Any) -> ModelConfig:
    """A recogniser with v4's backbone too: for what is its own, and for lines of 64 pixels, which v2's cannot read."""
    return tiny_config(backbone=Component("PPLCNetV3", {"scale": 0.1, "conv_kxk_num": 1}), **changes)


def tiny_det_config() -> ModelConfig:
    """A detector of the v4 architecture, as small as it can be."""
    return ModelConfig(
        name="tiny_det",
        task="det",
        form="training",
        backbone=Component("PPLCNetV3", {"scale": 0.2, "det": True, "conv_kxk_num": 1}),
        neck=Component("RSEFPN", {"out_channels": 16, "shortcut": True}),
        head=Component("DBHead", {"k": 50}),
        preprocess=DetPreprocess(),
        postprocess=DBPostprocess(),
    )


def tiny_settings(folder: Path, *, det: bool = False, **sections: Mapping[str, Any]) -> Settings:
    """Settings for two epochs; `sections` change single keys: `training={"epochs": 3}`."""
    split = SplitSettings(DatasetSettings("nowhere", ("none.txt",)), LoaderSettings(4))
    settings = Settings(
        pretrained=None,
        data=DataSettings(split, split, LENGTH),
        loss=DBLossSettings() if det else RecLossSettings(),
        optimizer=OptimizerSettings(2e-3, l2=3e-5, fc_decay=1e-5),
        training=TrainingSettings(epochs=2, seed=7),
        evaluation=EvaluationSettings(every_steps=4, every_epoch=False),
        output=OutputSettings(str(folder), print_steps=1, save_steps=3),
    )
    return replace(settings, **{name: replace(getattr(settings, name), **keys) for name, keys in sections.items()})


class Request(NamedTuple):
    """Names a sample, as the real loader's does."""

    index: int


@dataclass
class TinyBatches:
    """Random lines that follow from (epoch, index) alone: `size` samples in batches of `batch` per process.

    `broken` is a sample whose image is not a number.
    """

    training: bool
    rank: int = 0
    world_size: int = 1
    size: int = 20
    batch: int = 4
    det: bool = False
    broken: int | None = None
    epoch: int = 0
    start: int = 0
    report: DropReport = field(default_factory=lambda: DropReport(20))

    @classmethod
    def make(cls, settings: Settings, config: ModelConfig, training: bool, accelerator: Accelerator) -> TinyBatches:
        """What `train` calls; the batch size is the loader's."""
        batch = settings.data.train.loader.batch_size_per_card
        world_size = accelerator.num_processes
        return cls(training, accelerator.process_index, world_size, batch=batch, det=config.task == "det")

    def __len__(self) -> int:
        return self.size // (self.batch * self.world_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch

    def requests(self) -> Iterator[list[Request]]:
        rng = np.random.default_rng([1, self.epoch])
        order = rng.permutation(self.size) if self.training else np.arange(self.size)
        step = self.batch * self.world_size
        for number in range(self.start, len(self)):
            part = order[number * step : (number + 1) * step]
            yield [Request(int(index)) for index in part[self.rank :: self.world_size]]

    def where(self, index: int) -> str:
        return f"sample {index}"

    def label(self, index: int) -> str:
        raise NotImplementedError("these batches have labels, not indices")

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        make = self._page if self.det else self._line
        for requests in self.requests():
            samples = [make(request.index) for request in requests]
            yield {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    def _line(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([2, index])
        text = rng.integers(0, len(CHARSET), 3)
        image = torch.from_numpy(rng.uniform(-1, 1, (3, 48, 64)).astype(np.float32))
        for place, character in enumerate(text):
            image[:, :, 8 + 16 * place : 16 + 16 * place] += float(character) - 2
        if index == self.broken:
            image[:] = float("nan")
        ctc, gtc = torch.zeros(LENGTH, dtype=torch.long), torch.zeros(LENGTH, dtype=torch.long)
        ctc[:3] = torch.from_numpy(text) + 1
        gtc[:5] = torch.tensor([2, *(text + 4), 3])
        return {"image": image, "label_ctc": ctc, "label_gtc": gtc, "length": torch.tensor(3)}

    def _page(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([3, index])
        image = torch.from_numpy(rng.uniform(-1, 1, (3, 64, 64)).astype(np.float32))
        image[:, 16:48, 8:56] += 2
        if not self.training:
            box = torch.tensor([[[8.0, 16], [56, 16], [56, 48], [8, 48]]])
            return {"image": image, "polys": box, "ignore_tags": torch.tensor([False]), "shape": torch.full((4,), 64.0)}
        maps = {name: torch.zeros(64, 64) for name in ("threshold_map", "threshold_mask", "shrink_map")}
        maps["shrink_map"][22:42, 14:50] = 1
        maps["threshold_mask"][10:54, 2:62] = 1
        maps["threshold_map"][14:50, 6:58] = 0.6
        return {"image": image, "shrink_mask": torch.ones(64, 64), **maps}


def job(
    settings: Settings,
    config: ModelConfig,
    *,
    resume: bool = False,
    killed_at: tuple[int, float] | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """One of the jobs in a line that this program takes. `killed_at`: so many seconds after so many steps have been
    noted.
    """
    return {
        "settings": to_json(settings),
        "config": to_json(config),
        "resume": resume,
        "killed_at": killed_at,
        "environment": environment or {},
    }


def _train(data: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(data["environment"])
    settings, config = from_json(Settings, data["settings"], "job"), from_json(ModelConfig, data["config"], "job")
    train(settings, config, resume=data["resume"], make_batches=TinyBatches.make)


def _steps(data: Any) -> int:
    try:
        return (Path(data["settings"]["output"]["dir"]) / TRAIN_NAME).read_text().count("\n") - 1
    except FileNotFoundError:
        return 0


def _wait(child: int, data: Any) -> int:
    """The exit code; the child is killed when its time has come."""
    if data["killed_at"] is not None:
        steps, seconds = data["killed_at"]
        while _steps(data) < steps and os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.01)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# What a training imports on its way. In each fork anew that takes three seconds, more than the training.
ON_THE_WAY = ("matplotlib.backends.backend_agg", "torch._dynamo", "torch.utils.tensorboard")


def main() -> None:
    for name in ON_THE_WAY:
        import_module(name)
    for line in sys.stdin:
        started = [(_fork(data), data) for data in json.loads(line)]
        for child, data in started:
            print(_wait(child, data), flush=True)


def _fork(data: Any) -> int:
    """The process that trains."""
    if child := os.fork():
        return child
    try:
        _train(data)
    except Paddle2TorchError as error:
        print(error, file=sys.stderr)
        os._exit(1)
    except BaseException:
        traceback.print_exc()
        os._exit(2)
    os._exit(0)


if __name__ == "__main__":
    main()
