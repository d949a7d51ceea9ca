"""What made-up batches tell before the first step: which sizes the network cannot read, and how long a step takes."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from paddle2torch.device import fetch, unchanged_random_states
from paddle2torch.model_zoo.config import ClsPreprocess, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network
from paddle2torch.model_zoo.strict_json import from_json, to_json
from paddle2torch.training.batches import guide_targets, to_device
from paddle2torch.training.data.det_transforms import EastRandomCropData
from paddle2torch.training.data.rec_transforms import RecResizeImg
from paddle2torch.training.data.v6_transforms import RandomCrop
from paddle2torch.training.distillation import Distillation
from paddle2torch.training.losses import losses_of
from paddle2torch.training.settings import Settings, Transform

WARM_UP = 4
"""The first run, which finds out how to compute, has this part of the batch."""

TEXT = 8
"""Characters of a made-up label, where so many are allowed."""

_SIZES: dict[str, type] = {
    "RecResizeImg": RecResizeImg,
    "EastRandomCropData": EastRandomCropData,
    "RandomCrop": RandomCrop,
}


@torch.no_grad()
def check_sizes(settings: Settings, network: Network) -> None:
    """Raise `ConfigError` where the sampler makes lines of a height that `network`, on the CPU, cannot read."""
    sampler = settings.data.train.sampler
    if sampler is None or network.config.task != "rec":
        return
    network.eval()
    for width, height in sampler.sizes:
        try:
            network(torch.zeros(1, 3, height, width))
        except ConfigError as error:
            raise ConfigError(f"data.train.sampler.scales: {width}x{height}: {error}") from None


def seconds_per_batch(settings: Settings, network: Network | Distillation, accelerator: Accelerator) -> float | None:
    """What a batch takes forward and backward, without waiting for data; None where its size is not known.

    Neither the network nor any random number that training draws is touched.
    """
    batch = made_up_batch(settings, network.config)
    if batch is None:
        return None
    with unchanged_random_states(accelerator.device):
        copied = copy.deepcopy(network)
        part = {key: value[: max(1, len(value) // WARM_UP)] for key, value in batch.items()}
        _run(settings, copied, part, accelerator)
        began = time.perf_counter()
        _run(settings, copied, batch, accelerator)
        return time.perf_counter() - began


def _run(
    settings: Settings, network: Network | Distillation, batch: dict[str, Tensor], accelerator: Accelerator
) -> None:
    moved = to_device(batch, accelerator)
    with accelerator.autocast():
        inputs = (guide_targets(moved),) if network.config.task == "rec" else ()
        outputs = network(moved["image"], *inputs)
    loss = losses_of(outputs, moved, settings.loss)["loss"]
    loss.backward()
    fetch(loss)  # waits for the device


def made_up_batch(settings: Settings, config: ModelConfig) -> dict[str, Tensor] | None:
    """A batch of the size that training has, of noise."""
    split = settings.data.train
    size, count = _size(split.dataset.transforms), split.loader.batch_size_per_card
    if split.sampler is not None:
        size = split.sampler.sizes[0]
        count = split.sampler.first_bs or count
    if isinstance(config.preprocess, ClsPreprocess):
        size = config.preprocess.image_shape[2], config.preprocess.image_shape[1]
    if size is None:
        return None
    width, height = size
    if config.task == "rec":
        return lines_of_noise((height, width), settings, config, count)
    image = _noise(count, height, width)
    if config.task == "cls":
        return {"image": image * 2 - 1, "label": torch.arange(count) % config.classes}
    maps = ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
    return {"image": image, **{name: (image[:, 0] > 0.8).float() for name in maps}}


def lines_of_noise(size: tuple[int, int], settings: Settings, config: ModelConfig, count: int) -> dict[str, Tensor]:
    """A batch of lines of that height and width."""
    image = _noise(count, *size) * 2 - 1
    return {"image": image, **_labels(settings.data.max_text_length, count, config)}


def _noise(count: int, height: int, width: int) -> Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(0))


def _size(transforms: tuple[Transform, ...]) -> tuple[int, int] | None:
    """Width and height to which a transform brings samples."""
    for transform in transforms:
        if transform.name not in _SIZES:
            continue
        try:
            options: Any = from_json(_SIZES[transform.name], to_json(transform.options), transform.name)
        except ConfigError:  # the loader says so
            return None
        if isinstance(options, RecResizeImg):
            return options.image_shape[2], options.image_shape[1]
        return options.size[0], options.size[1]
    return None


def _labels(longest: int, count: int, config: ModelConfig) -> dict[str, Tensor]:
    length = max(1, min(TEXT, longest - 2))
    row = torch.zeros((count, longest), dtype=torch.int64)
    ctc, gtc, sar = row.clone(), row.clone(), row.clone()
    # Neighbours differ, as CTC needs no room between them then.
    ctc[:, :length] = 1 + torch.arange(length) % max(1, config.classes - 1)
    gtc[:, 0], gtc[:, 1 : length + 1] = 2, 4
    gtc[:, min(length + 1, longest - 1)] = 3
    labels = {"label_ctc": ctc, "length": torch.full((count,), length, dtype=torch.int64)}
    if config.head.options.get("nrtr") is not None:
        labels["label_gtc"] = gtc
    elif config.head.options.get("sar") is not None:
        labels |= {"label_sar": sar, "valid_ratio": torch.ones(count)}
    return labels
