"""Turning lines that are upside down: PaddleOCR's text direction classifier (`tools/infer/predict_cls.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paddle2torch.device import fetch, send
from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.tasks.failures import cannot_be_run
from paddle2torch.tasks.images import BGRImage
from paddle2torch.tasks.interrupts import check_wanted
from paddle2torch.tasks.recognition import resize_norm
from paddle2torch.threads import Crew, share

MAX_RATIO = 64
"""A page that is longer than this many times its width is cut before it is resized."""


class OrientationError(Paddle2TorchError):
    """A model cannot be run as a direction classifier, or its output cannot be read."""


@dataclass(frozen=True)
class Direction:
    """The direction of a line, in degrees as the model's labels say, and its probability.

    upside_down: 180 degrees, and sure enough of it to turn the line.
    """

    label: str
    score: float
    upside_down: bool


def preprocess(image: BGRImage, config: ClsPreprocess) -> NDArray[np.float32]:
    """A line as the classifier's input: float32 of `config.image_shape`.

    image: uint8 (height, width, 3), BGR. With `keep_ratio` it is resized to the input's height, at most to its width,
    and padded on the right with zeros after normalisation; with `resize_short` the centre is cut out; else it is
    stretched.
    """
    _, height, width = config.image_shape
    if config.resize_short is not None:
        image = _centre(image, config.resize_short, height, width)
    elif not config.keep_ratio:
        image = np.asarray(cv2.resize(image, (width, height)), dtype=np.uint8)
    like_a_line = RecPreprocess(
        image_shape=config.image_shape,
        channel_order=config.channel_order,
        scale=config.scale,
        mean=config.mean,
        std=config.std,
    )
    return resize_norm(image, height, width, like_a_line)


def _centre(image: BGRImage, short: int, height: int, width: int) -> BGRImage:
    """`height` x `width` pixels from the middle of the image at the size at which its shortest side is `short`."""
    side = min(image.shape[:2])
    # Of a strip only the middle is looked at, and the whole of it at that size could fill the memory.
    image = _cut(image, MAX_RATIO * side, MAX_RATIO * side)
    scale = short / side
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return _cut(np.asarray(cv2.resize(image, size), dtype=np.uint8), height, width)


def _cut(image: BGRImage, height: int, width: int) -> BGRImage:
    """The middle of the image, at most `height` x `width`."""
    top, left = max(0, (image.shape[0] - height) // 2), max(0, (image.shape[1] - width) // 2)
    return image[top : top + height, left : left + width]


class Classifier:
    """Tells upright lines from those that are upside down.

    `model` maps float32 (N, 3, H, W) to probabilities (N, classes) in eval form; it is run where its parameters are and
    in their dtype, on `device` if one is given (it is moved there). `batch_size` is the most lines that run at once.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        *,
        batch_size: int = 6,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(config.preprocess, ClsPreprocess) or not isinstance(config.postprocess, ClsPostprocess):
            raise ConfigError(f"{config.name} is not a direction classifier (task {config.task!r})")
        self.model = model if device is None else model.to(device)
        self.config = config
        self.preprocess = config.preprocess
        self.postprocess = config.postprocess
        self.batch_size = batch_size

    def __call__(self, images: Sequence[BGRImage], *, crew: Crew | None = None) -> list[Direction]:
        """The direction of each line; images uint8 (height, width, 3), BGR, of any sizes. crew: to run batches on."""
        if self.model.training:
            raise OrientationError(f"{self.config.name} is in training mode: call model.eval() before reading with it")
        batches = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return [direction for batch in share(crew, self._batch, batches) for direction in batch]

    def _batch(self, images: Sequence[BGRImage]) -> list[Direction]:
        labels, thresh = self.postprocess.labels, self.postprocess.thresh
        x = torch.from_numpy(np.stack([preprocess(image, self.preprocess) for image in images]))
        check_wanted()
        parameter = next(self.model.parameters(), x)
        try:
            with torch.inference_mode():
                probabilities = torch.from_numpy(fetch(self.model(send(x, parameter.device, parameter.dtype)).float()))
        except RuntimeError as error:
            raise OrientationError(cannot_be_run(self.config.name, x, error)) from None
        if probabilities.shape != (len(images), len(labels)) or not bool(torch.isfinite(probabilities).all()):
            raise OrientationError(
                f"{self.config.name} gives {tuple(probabilities.shape)} for {len(images)} lines, or values that are no "
                f"numbers; expected {len(images)} x {len(labels)} probabilities"
            )
        scores, indices = probabilities.max(dim=1)
        return [
            Direction(labels[index], score, "180" in labels[index] and (thresh is None or score > thresh))
            for score, index in zip(scores.tolist(), indices.tolist(), strict=True)
        ]
