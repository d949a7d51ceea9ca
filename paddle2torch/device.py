"""Which device networks run on, and how many cores this process may use."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

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
    """The number of cores that this process may use: of its affinity, and of its container's share of time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _control_group("cpu.max").partition(" ")
    return max(1, min(cores, int(quota) // int(period))) if quota.isdecimal() and period.isdecimal() else cores


def available_memory() -> int:
    """Bytes of memory of this machine, or of this container; 2**63 where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        return 2**63
    most = _control_group("memory.max")
    return min(memory, int(most)) if most.isdecimal() else memory


def _control_group(name: str) -> str:
    """A limit of the container, as Linux shows it inside (cgroup 2); empty where there is none."""
    try:
        return Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
