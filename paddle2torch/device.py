"""Which device networks run on, and how many cores this process may use."""

from __future__ import annotations

import functools
import logging
import os

import torch

AUTO = "auto"


def choose_device(device: torch.device | str) -> torch.device:
    """The device that a name means: "auto" is an NVIDIA or AMD GPU where PyTorch can use one, else the CPU.

    What "auto" means is logged once. Apple's GPUs are taken by their name only ("mps"). Raises RuntimeError, as PyTorch
    does, for a name that is not a device.
    """
    return _best() if device == AUTO else torch.device(device)


@functools.cache
def _best() -> torch.device:
    log = logging.getLogger("paddle2torch")
    if torch.cuda.is_available():
        log.warning("device auto: %s", torch.cuda.get_device_name())
        return torch.device("cuda")
    log.warning("device auto: the CPU, PyTorch %s finds no GPU that it can use", torch.__version__)
    return torch.device("cpu")


def available_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
