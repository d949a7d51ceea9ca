"""A training step of PaddleOCR's own code, which imports paddle: loaded in a process of its own alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from paddle2torch.bench.train import batch_of


def load_training(threads: int, *, checkout: str, config: str, weights: str | None) -> Callable[[Any], list[list[str]]]:
    """The other engine of `bench_train`: a training step of PaddleOCR's own code, as its `tools/train.py` builds it.

    threads: those of the environment, which Paddle reads on import. checkout: a folder with PaddleOCR's `ppocr`.
    config: its training yml. Returns a function that makes a step with the images and returns the loss once for
    each image.
    """
    sys.path.insert(0, checkout)
    paddle: Any = importlib.import_module("paddle")
    settings = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    with Path(checkout, settings["Global"]["character_dict_path"]).open(encoding="utf-8") as file:
        classes = len(file.readlines()) + settings["Global"]["use_space_char"] + 1
    settings["Architecture"]["Head"]["out_channels_list"] = {
        "CTCLabelDecode": classes,
        "NRTRLabelDecode": classes + 3,
    }
    model = importlib.import_module("ppocr.modeling.architectures").build_model(settings["Architecture"])
    if weights is not None:
        model.set_state_dict(paddle.load(weights))
    loss_of = importlib.import_module("ppocr.losses").build_loss(settings["Loss"])
    build_optimizer = importlib.import_module("ppocr.optimizer").build_optimizer
    optimizer, schedule = build_optimizer(settings["Optimizer"], epochs=1, step_each_epoch=1000, model=model)
    model.train()

    def step(images: Any) -> list[list[str]]:
        batch = [paddle.to_tensor(values) for values in batch_of(images).values()]
        loss = loss_of(model(batch[0], data=batch[1:]), batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
        return [[str(float(loss))]] * len(images)

    return step
