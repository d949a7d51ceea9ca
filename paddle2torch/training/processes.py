"""The processes that compute together, as accelerate finds them."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from accelerate import Accelerator

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.settings import Settings

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Ours to accelerate's."""


def make_accelerator(settings: Settings) -> Accelerator:
    """What distributes a training; raises `ConfigError` where this machine cannot compute as `settings` say."""
    try:
        accelerator = start_accelerator(
            lambda cpu: Accelerator(
                cpu=cpu,
                mixed_precision=PRECISIONS[settings.training.precision],
            )
        )
    except ValueError as error:
        # A device that cannot compute so, or another precision earlier in this process.
        raise ConfigError(f"training.precision {settings.training.precision}: {error}") from None
    if settings.training.precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would go on in fp32 without a word.
        raise ConfigError("training.precision fp16 needs a GPU: take bf16 or fp32 on a CPU")
    return accelerator


def start_accelerator(make: Callable[[bool], Accelerator]) -> Accelerator:
    """An accelerator that knows of all processes that were started together; `make` takes whether they are on the CPU.

    `torchrun` sets `WORLD_SIZE`. Without a GPU accelerate takes no notice of it unless it is told to use the CPU: each
    process would train a whole copy. Raises `ConfigError` where they still do not know of one another.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    wanted = int(said) if said.isdecimal() else 1
    unset = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if wanted > 1 and unset:
        raise ConfigError(
            f"WORLD_SIZE says {wanted} processes, but {', '.join(unset)} are not set, by which they find one another: "
            f"start them with torchrun or accelerate launch, or take WORLD_SIZE out of the environment"
        )
    devices = (torch.cuda, torch.xpu, torch.backends.mps)
    accelerator = make(wanted > 1 and not any(device.is_available() for device in devices))
    if accelerator.num_processes != wanted:
        raise ConfigError(
            f"{wanted} processes were started (WORLD_SIZE), but this one knows of {accelerator.num_processes}: each "
            f"would train a copy of its own. Start them with torchrun or accelerate launch, or take WORLD_SIZE out of "
            f"the environment"
        )
    return accelerator
