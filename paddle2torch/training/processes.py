"""The processes that compute together, as accelerate finds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

from paddle2torch.device import AUTO, PRECISIONS, Module, best_device, choose_device, choose_dtype, place_network
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.settings import Settings

WORDS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Ours for precisions to accelerate's."""

DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"


def make_accelerator(settings: Settings) -> Accelerator:
    """What distributes a training; raises `ConfigError` where this machine cannot compute as `settings` say."""
    try:
        accelerator = start_accelerator(
            lambda cpu: Accelerator(
                cpu=cpu,
                mixed_precision=WORDS[settings.training.precision],
            ),
            settings.training.device,
        )
        choose_dtype(settings.training.precision, accelerator.device)
    except ValueError as error:
        # A device that cannot compute so, or another precision earlier in this process.
        raise ConfigError(f"training.precision {settings.training.precision}: {error}") from None
    if settings.training.precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would go on in fp32 without a word.
        raise ConfigError("training.precision fp16 needs a GPU: take bf16 or fp32 on a CPU")
    return accelerator


def placed(network: Module, accelerator: Accelerator) -> Module:
    """The network itself, on the device, its weights laid out as the device computes fastest."""
    return place_network(network, accelerator.device, computed_in(accelerator))


def computed_in(accelerator: Accelerator) -> torch.dtype:
    """What most of a network is computed in, while its weights are float32."""
    words = {theirs: ours for ours, theirs in WORDS.items()}
    return PRECISIONS[words[accelerator.mixed_precision]]


def start_accelerator(make: Callable[[bool], Accelerator], device: str) -> Accelerator:
    """An accelerator on that device, which knows of all processes that were started together; `make` takes whether they
    are on the CPU.

    `torchrun` sets `WORLD_SIZE`. Without a GPU accelerate takes no notice of it unless it is told to use the CPU: each
    process would train a whole copy. Raises `ConfigError` where they still do not know of one another, and for a device
    that is not there, or is another one than this process has begun with.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    wanted = int(said) if said.isdecimal() else 1
    unset = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if wanted > 1 and unset:
        raise ConfigError(
            f"WORLD_SIZE says {wanted} processes, but {', '.join(unset)} are not set, by which they find one another: "
            f"start them with torchrun or accelerate launch, or take WORLD_SIZE out of the environment"
        )
    chosen = _chosen(device)
    if wanted > 1 and chosen.index is not None:
        raise ConfigError(f"{wanted} processes take a device each: give {chosen.type} as the device, not {chosen}")
    with _told(None if wanted > 1 or chosen.type == "cpu" else chosen):
        accelerator = make(chosen.type == "cpu")
    if (accelerator.device.type, chosen.index or 0) != (chosen.type, accelerator.device.index or 0) and wanted == 1:
        raise ConfigError(
            f"this process has begun to compute on {accelerator.device}, and accelerate keeps to that: take {chosen} "
            f"in another process"
        )
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were started (WORLD_SIZE), but this one knows of {accelerator.num_processes}: each "
            f"would train a copy of its own. Start them with torchrun or accelerate launch, or take WORLD_SIZE out of "
            f"the environment"
        )
    return accelerator


def _chosen(device: str) -> torch.device:
    """The device; "auto" is the CPU too where accelerate was told so (`accelerate launch --cpu`)."""
    if device == AUTO and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on"):
        return torch.device("cpu")
    return best_device() if device == AUTO else choose_device(device)


@contextlib.contextmanager
def _told(device: torch.device | None) -> Iterator[None]:
    """Tell accelerate, which has no argument for it, on which device this process computes."""
    if device is None:
        yield
        return
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate's scaler asks for the current one
    before = os.environ.get(DEVICE_VARIABLE)
    os.environ[DEVICE_VARIABLE] = str(device)
    try:
        yield
    finally:
        os.environ.pop(DEVICE_VARIABLE)
        if before is not None:
            os.environ[DEVICE_VARIABLE] = before
