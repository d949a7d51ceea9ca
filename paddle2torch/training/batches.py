"""The batches that training and evaluation take: what they need of them, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from paddle2torch.device import copies_while_computing, memory_format
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data import build_loader
from paddle2torch.training.data.drops import DropReport
from paddle2torch.training.processes import computed_in
from paddle2torch.training.settings import Settings

Batch = Mapping[str, Tensor]


class Batches(Protocol):
    """The batches of one process, epoch by epoch: what `paddle2torch.training.data.build_loader` makes."""

    @property
    def report(self) -> DropReport:
        """What could not be used of the data, as far as it was read."""

    def __len__(self) -> int:
        """How many batches an epoch has."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches of the epoch that was set last."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Go to an epoch (from 0), past its first `start_batch` batches."""

    def requests(self) -> Iterator[Sequence[Any]]:
        """Which samples the batches to come have: their `index`."""

    def where(self, index: int) -> str:
        """Where a sample is, for messages."""

    def label(self, index: int) -> str:
        """The text, or the JSON of the boxes, of a sample; asked only where batches have an `index`."""

    def source(self, index: int) -> str:
        """Which label file or database a sample is of; asked only where batches have an `index`."""

    def picture(self, index: int) -> BGRImage:
        """The image of a sample, uint8 (H, W, 3), BGR; asked only where batches have an `index`."""


MakeBatches = Callable[[Settings, ModelConfig, bool, Accelerator], Batches]


def batches_of(settings: Settings, config: ModelConfig, training: bool, accelerator: Accelerator) -> Batches:
    """The training or the evaluation data of this process."""
    return build_loader(
        settings.data.train if training else settings.data.eval,
        config,
        training=training,
        max_text_length=settings.data.max_text_length,
        seed=settings.training.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=copies_while_computing(accelerator.device),
        each_once=not training and not settings.evaluation.as_paddleocr,
    )


ON_THE_CPU = ("length", "index")
"""Of a batch: what is looked at from Python, which would wait for the device."""


def to_device(batch: Batch, accelerator: Accelerator) -> dict[str, Tensor]:
    """The batch there, its images in the memory layout that the network computes in; lengths stay on the CPU."""
    return on_device(batch, accelerator.device, computed_in(accelerator))


def on_device(batch: Batch, device: torch.device, computed: torch.dtype) -> dict[str, Tensor]:
    """The same for networks that compute in that dtype."""
    others = {key: value for key, value in batch.items() if key != "image"}
    moved = {key: value if key in ON_THE_CPU else value.to(device, non_blocking=True) for key, value in others.items()}
    return {"image": image_of(batch, device, computed), **moved}


def image_of(batch: Batch, device: torch.device, computed: torch.dtype) -> Tensor:
    """The images of a batch on the device, in the memory layout that networks have which compute in that dtype."""
    image = batch["image"].to(device, non_blocking=True)
    return image.contiguous(memory_format=memory_format(device, computed))


def guide_targets(batch: Batch) -> dict[str, Tensor]:
    """What the second head reads of a batch: its labels, cut off behind the longest, and the share of padding.

    The lengths are on the CPU, and outside of the network, in the middle of which a compiler would have to stop.
    """
    targets = {key: batch[key] for key in ("label_sar", "valid_ratio") if key in batch}
    if "label_gtc" in batch:
        targets["label_gtc"] = batch["label_gtc"][:, : 2 + int(batch["length"].max())]
    return targets
