"""Where networks run and how exactly they compute: the one place that chooses device and precision.

Reading, training, evaluation and verification name both by the same words: a device as PyTorch does ("cpu", "cuda",
"cuda:1", "mps", "xpu") or "auto", and a precision "fp32", "fp16" or "bf16". Tensors come to a network by `send`, and
what NumPy works on comes back by `fetch`, which waits for the device.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show

Module = TypeVar("Module", bound=nn.Module)

AUTO = "auto"

PRECISIONS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]

_EXAMPLES = "cpu, cuda, cuda:1, mps, xpu, or auto"
_WITHOUT_CHOICE = ("cpu", "meta")
"""Devices that are there with every PyTorch."""


def choose_device(device: torch.device | str) -> torch.device:
    """The device that a name means: "auto" is an NVIDIA or AMD GPU where PyTorch can use one, else the CPU.

    What "auto" means is logged once. Apple's GPUs are taken by their name only ("mps"). Raises `ConfigError` for a name
    that is not a device, and for a device that is not there.
    """
    if device == AUTO:
        return _best_and_said()
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device {show(device)} is none that PyTorch knows: {_EXAMPLES}") from None
    if chosen.type not in _WITHOUT_CHOICE:
        _need(chosen)
    return chosen


def _need(device: torch.device) -> None:
    """Raise `ConfigError` where PyTorch cannot use the device."""
    module = device_module(device)
    count = 0 if module is None or not module.is_available() else module.device_count()
    if count == 0:
        raise ConfigError(
            f"device {device} is not there: PyTorch {torch.__version__} finds no {device.type} device that it can use "
            f"(`paddle2torch doctor` shows what there is). Take cpu, or auto for a GPU where there is one"
        )
    if device.index is not None and device.index >= count:
        raise ConfigError(f"device {device} is not there: of {device.type} there are {count}, counted from 0")


def device_module(device: torch.device) -> ModuleType | None:
    """What PyTorch knows of this kind of device (`torch.cuda`, `torch.mps`, …); None where it knows nothing."""
    try:
        return torch.get_device_module(device)
    except RuntimeError:
        return None


def best_device() -> torch.device:
    """What "auto" means, without a word."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def _best_and_said() -> torch.device:
    log, best = logging.getLogger("paddle2torch"), best_device()
    if best.type == "cuda":
        log.warning("device auto: %s", torch.cuda.get_device_name())
    else:
        log.warning("device auto: the CPU, PyTorch %s finds no GPU that it can use", torch.__version__)
    return best


def choose_dtype(precision: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that a precision means; a dtype means itself.

    Raises `ConfigError` for a word that is no precision, and where the device cannot compute so.
    """
    dtype = PRECISIONS.get(precision) if isinstance(precision, str) else precision
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}, not {show(precision)}")
    if dtype == torch.float64 and not has_float64(device):
        raise ConfigError(f"{device} has no float64: take fp32, or the CPU")
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"{device} does not compute in bf16: take fp16 or fp32")
    return dtype


def called_precision(precision: str | torch.dtype, dtype: torch.dtype | None) -> str | torch.dtype:
    """The precision, also where a caller still calls it `dtype`."""
    if dtype is None:
        return precision
    warnings.warn('dtype is called precision now: precision="bf16", or a dtype', FutureWarning, stacklevel=3)
    return dtype


def has_float64(device: torch.device) -> bool:
    """Whether the device has float64. Apple's GPUs do not."""
    return device.type != "mps"


def copies_while_computing(device: torch.device) -> bool:
    """Whether the device copies out of pinned memory while it computes."""
    return device.type in ("cuda", "xpu")


def memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """The order in memory of images and of the weights of convolutions in which the device computes fastest.

    Channels last on a CPU, and for the half precisions of NVIDIA's tensor cores.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    last = device.type == "cpu" or (device.type == "cuda" and half)
    return torch.channels_last if last else torch.contiguous_format


def place_network(network: Module, device: torch.device, dtype: torch.dtype) -> Module:
    """The network itself, on the device, its weights laid out as the device computes fastest in `dtype`.

    The weights keep their own dtype.
    """
    # PyTorch's annotations of `to` leave out the keyword.
    return network.to(device=device, memory_format=memory_format(device, dtype))  # type: ignore[call-overload]


def describe(device: torch.device, precision: str) -> str:
    """A device and a precision, for people; on NVIDIA's GPUs with what becomes of float32."""
    if device.type != "cuda":
        return f"{device}, {precision}"
    named = f"{device} ({torch.cuda.get_device_name(device)}), {precision}"
    if precision != "fp32":
        return named
    convolutions, _, products = ("TF32" if part.fp32_precision == "tf32" else "float32" for part in _of_float32())
    return f"{named}: convolutions in {convolutions}, matrix products in {products}"


def _of_float32() -> tuple[Any, Any, Any]:
    """What says how NVIDIA's GPUs compute float32: in convolutions, recurrent layers and matrix products."""
    cudnn: Any = torch.backends.cudnn  # PyTorch's annotations do not know its parts
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


@contextlib.contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Let the device compute float32 as float32 inside.

    NVIDIA's GPUs otherwise multiply with 10 bits of a number's 23 (TF32), in convolutions unasked.
    """
    # Asked for on such a device alone: PyTorch before 2.9 does not have them.
    parts = _of_float32() if device.type == "cuda" else ()
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def send(x: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of this process's memory on the device, by way of pinned memory where it can be copied out of that while
    the device computes; there in `dtype`, or its own.
    """
    if copies_while_computing(device) and x.device.type == "cpu":
        x = x.pin_memory().to(device, non_blocking=True)
    return x.to(device=device, dtype=dtype)


def fetch(x: Tensor) -> NDArray[Any]:
    """The values for NumPy, of any dtype that it has. Here, and nowhere else in reading, one waits for the device."""
    values: NDArray[Any] = x.detach().cpu().numpy()
    return values


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's generators for the CPU and the device, uint8, by kind of device."""
    states = {"cpu": torch.get_rng_state()}
    module = None if device.type in _WITHOUT_CHOICE else device_module(device)
    if module is not None:
        states[device.type] = module.get_rng_state(*_which(device))
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_states`; what is of another kind of device is left out."""
    torch.set_rng_state(states["cpu"])
    module = None if device.type in _WITHOUT_CHOICE else device_module(device)
    if module is not None and device.type in states:
        module.set_rng_state(states[device.type], *_which(device))


@contextlib.contextmanager
def unchanged_random_states(device: torch.device) -> Iterator[None]:
    """Put the generators of the CPU and of the device back to where they were before."""
    states = random_states(device)
    try:
        yield
    finally:
        set_random_states(states, device)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """What the functions of a device's module are given: of Apple's GPUs there is one."""
    return () if device.type == "mps" else (device,)


def peak_memory(device: torch.device) -> int | None:
    """Bytes of the device that tensors had at most so far; None where the device does not tell."""
    module = None if device.type in _WITHOUT_CHOICE else device_module(device)
    if module is not None and hasattr(module, "max_memory_allocated"):
        return int(module.max_memory_allocated(device))
    if device.type == "mps" and module is not None:
        return int(module.driver_allocated_memory())
    return None


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
