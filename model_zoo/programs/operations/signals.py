"""Spectra and frames of signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError, check_size, operation

_CHOICES = {"normalization": ("backward", "forward", "ortho")}


def _scaled(y: Tensor, count: Any, normalization: str, forward: bool) -> Tensor:
    """An unscaled transform of so many places, divided as Paddle does: "backward" divides on the way back, "forward"
    on the way there, "ortho" by the root both ways.
    """
    if normalization == "ortho":
        return y / math.sqrt(count)
    return y / count if (normalization == "forward") == forward else y


def _count(x: Tensor, axes: Sequence[int]) -> Any:
    return math.prod(x.shape[axis] for axis in axes)


@operation("fft_c2c", choices=_CHOICES)
def fft_c2c(x: Tensor, *, axes: Sequence[int], normalization: str, forward: bool) -> Tensor:
    """The discrete Fourier transform of complex values on some axes, or its inverse."""
    dims = tuple(axes)
    y = torch.fft.fftn(x, dim=dims) if forward else torch.fft.ifftn(x, dim=dims, norm="forward")
    return _scaled(y, _count(x, axes), normalization, forward)


@operation("fft_r2c", choices=_CHOICES)
def fft_r2c(x: Tensor, *, axes: Sequence[int], normalization: str, forward: bool, onesided: bool = True) -> Tensor:
    """The transform of real values; `onesided`: the first half of the last axis alone."""
    y = torch.fft.rfftn(x, dim=tuple(axes)) if onesided else torch.fft.fftn(x, dim=tuple(axes))
    return _scaled(y if forward else y.conj().resolve_conj(), _count(x, axes), normalization, forward)


@operation("fft_c2r", choices=_CHOICES)
def fft_c2r(x: Tensor, *, axes: Sequence[int], normalization: str, forward: bool, last_dim_size: int = 0) -> Tensor:
    """Real values of which x is the one-sided spectrum; `last_dim_size`: of the last axis, 0 for the even one."""
    last = last_dim_size or 2 * (x.shape[axes[-1]] - 1)
    sizes = [*(x.shape[axis] for axis in axes[:-1]), last]
    y = torch.fft.irfftn(x.conj() if forward else x, s=sizes, dim=tuple(axes), norm="forward")
    return _scaled(y, math.prod(sizes), normalization, forward)


@operation("frame")
def frame(x: Tensor, *, frame_length: int, hop_length: int, axis: int = -1) -> Tensor:
    """Parts of a signal that begin `hop_length` apart: (…, length, frames), or (frames, length, …) with axis 0."""
    if axis not in (0, -1):
        raise ProgramError(f"frame along axis {axis}")
    parts = x.unfold(axis, frame_length, hop_length)  # (…, frames, length) or (frames, …, length)
    return parts.movedim(-1, 1) if axis == 0 else parts.transpose(-1, -2)


@operation("overlap_add")
def overlap_add(x: Tensor, *, hop_length: int, axis: int = -1) -> Tensor:
    """The signal of which x are frames, added up: the inverse of `frame`."""
    if axis not in (0, -1):
        raise ProgramError(f"overlap_add along axis {axis}")
    frames = x.movedim((1, 0), (-2, -1)) if axis == 0 else x
    length, count = frames.shape[-2:]
    total = (count - 1) * hop_length + length
    check_size([*frames.shape[:-2], total], "overlap_add")
    flat = frames.reshape(-1, length, count)
    made = F.fold(flat, (1, total), (1, length), stride=(1, hop_length)).reshape(*frames.shape[:-2], total)
    return made.movedim(-1, 0) if axis == 0 else made
