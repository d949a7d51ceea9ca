"""Images per second of one training step: ours beside PaddleOCR's own code, same batch, same weights, one run.

A step is forward, CTC and NRTR loss, backward, and Adam, in float32 with dropout on, as both trainers run it; decoding
and augmentation are left out. As in `bench_engines` each engine lives in a process of its own, makes one step that does
not count, and then they take turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle2torch.bench.engines import Engine, EngineRun, EnginesBench, Reader, run_engines
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.data.encode import LabelEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from paddle2torch.tasks.images import BGRImage

MODEL = "en_PP-OCRv4_rec"
CONFIGS = ("configs/rec/PP-OCRv4/en_PP-OCRv4_rec.yml", "configs/rec/PP-OCRv4/en_PP-OCRv4_mobile_rec.yml")
"""The model's settings in a checkout of PaddleOCR, before and since version 3."""

HEIGHT, WIDTH = 48, 320
LABEL_LENGTH = 8


@dataclass(frozen=True)
class TrainBench:
    """Both engines on the same batch, ours first; what an engine found in each image is the loss of the step."""

    batch: int
    result: EnginesBench

    def images_per_second(self, run: EngineRun) -> float:
        """Images of a batch by the median of the steps."""
        return self.batch / run.passes.median

    def loss(self, run: EngineRun) -> float:
        """The loss of its last step."""
        return float(run.texts[0][0])

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        result = self.result.to_json()
        for engine, run in zip(result["engines"], self.result.runs, strict=True):
            engine["images_per_second"] = self.images_per_second(run)
            engine["loss"] = self.loss(run)
        return {"batch": self.batch, **result}


def bench_train(
    checkout: Path, *, weights: Path | None = None, batch: int = 24, repeat: int = 5, threads: int = 2
) -> TrainBench:
    """Train `en_PP-OCRv4_rec` on a batch of noise with ours and with the PaddleOCR code in `checkout`, in turns.

    weights: its training checkpoint (`.pdparams`), which both start from; without it both start anew. What takes time
    does not depend on it. Raises `ConfigError` where `checkout` is not a PaddleOCR checkout with this model.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = None if weights is None else _convert(weights, Path(folder) / "model")
        return run_steps(engines(checkout, model, weights), batch=batch, repeat=repeat, threads=threads)


def engines(checkout: Path, model: str | None, weights: Path | None) -> tuple[Engine, ...]:
    """Ours on the converted `model`, and PaddleOCR's code on the `weights` that it was converted from."""
    config = next((Path(checkout) / name for name in CONFIGS if (Path(checkout) / name).is_file()), None)
    if config is None or not (Path(checkout) / "ppocr").is_dir():
        raise ConfigError(f"{checkout} is not a checkout of PaddleOCR: it needs the folder ppocr and {CONFIGS[0]}")
    theirs = {
        "checkout": str(Path(checkout).absolute()),
        "config": str(config.absolute()),
        "weights": None if weights is None else str(Path(weights).absolute()),
    }
    return (
        Engine("paddle2torch", f"{__name__}:load_ours", ("paddle2torch", "torch"), {"model": model}),
        Engine("PaddleOCR", "paddle2torch.bench._paddle_training:load_training", ("paddlepaddle",), theirs),
    )


def run_steps(engines: Sequence[Engine], *, batch: int, repeat: int, threads: int) -> TrainBench:
    """Let the engines that are installed train on the same noise, in turns; each image's text is the step's loss."""
    import cv2

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images = [Path(folder) / f"{index}.png" for index in range(batch)]
        for image in images:
            cv2.imwrite(str(image), rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        return TrainBench(batch, run_engines(engines, images, repeat=repeat, threads=threads))


def batch_of(images: Sequence[BGRImage]) -> dict[str, NDArray[Any]]:
    """The batch that both trainers take, in PaddleOCR's order: images of 48x320 with random digits for labels."""
    encode = LabelEncoder("0123456789")
    rng = np.random.default_rng(1)
    rows = [encode("".join(rng.choice(list("0123456789"), LABEL_LENGTH))) for _ in images]
    return {
        "image": np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1),
        "label_ctc": np.stack([row.ctc for row in rows]),
        "label_gtc": np.stack([row.guide for row in rows if row.guide is not None]),
        "length": np.array([row.length for row in rows]),
        "valid_ratio": np.ones(len(rows), np.float32),
    }


def load_ours(threads: int, *, model: str | None) -> Reader:
    """Our training step on this model, or on new weights."""
    import torch

    from paddle2torch.api import load_pretrained
    from paddle2torch.converters.templates import from_card
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.model_zoo.cards import load_card
    from paddle2torch.model_zoo.network import build_model, channels_last
    from paddle2torch.training.initialisation import initialise
    from paddle2torch.training.losses import losses_of
    from paddle2torch.training.official import official_settings
    from paddle2torch.training.optimisation import build_optimizer, leave_out_unused, set_training

    keep_freed_memory()  # as our command line does
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if model is None:
        network = build_model(from_card(load_card(MODEL)).config())
        initialise(network)
    else:
        network = load_pretrained(model)
    settings = official_settings(network.config, pretrained=None)
    leave_out_unused(network)
    set_training(channels_last(network))
    optimizer = build_optimizer(network, settings.optimizer)

    def step(images: Sequence[BGRImage]) -> list[list[str]]:
        batch = {key: torch.from_numpy(values) for key, values in batch_of(images).items()}
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        loss = losses_of(network(batch["image"], batch), batch, settings.loss)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [[str(loss.item())]] * len(images)

    return step


def _convert(weights: Path, folder: Path) -> str:
    from paddle2torch.zoo.conversion import convert

    return str(convert(MODEL, weights=weights, output=folder, progress=False).folder)
