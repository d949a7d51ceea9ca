"""Sums, means, extremes, running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.table import operation


def axes_of(x: Tensor, axis: Any, reduce_all: bool = False) -> tuple[int, ...]:
    """The axes that are reduced: all of them where none are named."""
    listed = list(axis) if isinstance(axis, list | tuple) else ([] if axis is None else [axis])
    if reduce_all or not listed:
        return tuple(range(x.ndim))
    return tuple(item % x.ndim for item in listed) if x.ndim else ()


@operation("sum", numbers=("axis",))
def sum_(
    x: Tensor, axis: Any = (), *, dtype: torch.dtype | None = None, keepdim: bool = False, reduce_all: bool = False
) -> Tensor:
    """The sum; of bool and int32 it is int64, unless the program says otherwise."""
    if dtype is None and x.dtype in (torch.bool, torch.int32):
        dtype = torch.int64
    axes = axes_of(x, axis, reduce_all)
    return torch.sum(x, axes, keepdim, dtype=x.dtype if dtype is None else dtype) if axes else x.to(dtype or x.dtype)


@operation("mean", numbers=("axis",))
def mean(x: Tensor, axis: Any = (), *, keepdim: bool = False, reduce_all: bool = False) -> Tensor:
    """The mean."""
    axes = axes_of(x, axis, reduce_all)
    return torch.mean(x, axes, keepdim) if axes else x


@operation("mean_all")
def mean_all(x: Tensor) -> Tensor:
    """The mean of all elements."""
    return x.mean()


@operation("max", numbers=("axis",))
def max_(x: Tensor, axis: Any = (), *, keepdim: bool = False, reduce_all: bool = False) -> Tensor:
    """The largest."""
    axes = axes_of(x, axis, reduce_all)
    return torch.amax(x, axes, keepdim) if axes else x


@operation("min", numbers=("axis",))
def min_(x: Tensor, axis: Any = (), *, keepdim: bool = False, reduce_all: bool = False) -> Tensor:
    """The smallest."""
    axes = axes_of(x, axis, reduce_all)
    return torch.amin(x, axes, keepdim) if axes else x


@operation("amax", numbers=("axis_tensor",))
def amax(
    x: Tensor,
    axis_tensor: Any = None,
    *,
    axis: Sequence[int] = (),
    keepdim: bool = False,
    reduce_all: bool = False,
) -> Tensor:
    """The largest; gradients are shared by equal ones."""
    return max_(x, axis if axis_tensor is None else axis_tensor, keepdim=keepdim, reduce_all=reduce_all)


@operation("amin", numbers=("axis_tensor",))
def amin(
    x: Tensor,
    axis_tensor: Any = None,
    *,
    axis: Sequence[int] = (),
    keepdim: bool = False,
    reduce_all: bool = False,
) -> Tensor:
    """The smallest; gradients are shared by equal ones."""
    return min_(x, axis if axis_tensor is None else axis_tensor, keepdim=keepdim, reduce_all=reduce_all)


@operation("prod", numbers=("axis",))
def prod(
    x: Tensor, axis: Any = (), *, keepdim: bool = False, reduce_all: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """The product, in the type of x."""
    dtype = x.dtype if dtype is None else dtype
    for place in sorted(axes_of(x, axis, reduce_all), reverse=True):
        x = torch.prod(x, place, True, dtype=dtype) if keepdim else torch.prod(x, place, dtype=dtype)
    return x.to(dtype)


@operation("all", "reduce_all", numbers=("axis_tensor",))
def all_(
    x: Tensor, axis_tensor: Any = None, *, axis: Sequence[int] = (), keepdim: bool = False, reduce_all: bool = False
) -> Tensor:
    """Whether all are true."""
    axes = axes_of(x, axis if axis_tensor is None else axis_tensor, reduce_all)
    return torch.all(x.bool(), axes, keepdim) if axes else x.bool()


@operation("any", "reduce_any", numbers=("axis_tensor",))
def any_(
    x: Tensor, axis_tensor: Any = None, *, axis: Sequence[int] = (), keepdim: bool = False, reduce_all: bool = False
) -> Tensor:
    """Whether one is true."""
    axes = axes_of(x, axis if axis_tensor is None else axis_tensor, reduce_all)
    return torch.any(x.bool(), axes, keepdim) if axes else x.bool()


@operation("logsumexp")
def logsumexp(x: Tensor, *, axis: Sequence[int] = (), keepdim: bool = False, reduce_all: bool = False) -> Tensor:
    """The logarithm of the sum of exp(x)."""
    axes = axes_of(x, axis, reduce_all)
    return torch.logsumexp(x, axes, keepdim) if axes else x


def _extreme(function: Any, x: Tensor, axis: Any, keepdims: bool, flatten: bool, dtype: torch.dtype) -> Tensor:
    if flatten or x.ndim == 0:
        place = function(x.reshape(-1), 0)
        place = place.reshape([1] * x.ndim) if keepdims else place
    else:
        place = function(x, int(axis), keepdims)
    return place.to(dtype)


@operation("argmax", scalars=("axis",))
def argmax(
    x: Tensor, axis: Any = 0, *, keepdims: bool = False, flatten: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """The place of the largest along an axis, the first of several."""
    return _extreme(torch.argmax, x, axis, keepdims, flatten, dtype or torch.int64)


@operation("argmin", scalars=("axis",))
def argmin(
    x: Tensor, axis: Any = 0, *, keepdims: bool = False, flatten: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """The place of the smallest along an axis, the first of several."""
    return _extreme(torch.argmin, x, axis, keepdims, flatten, dtype or torch.int64)


def _running(function: Any, x: Tensor, axis: Any, flatten: bool, exclusive: bool, reverse: bool, zero: float) -> Tensor:
    if flatten or x.ndim == 0:
        x, place = x.reshape(-1), 0
    else:
        place = int(axis)
    x = x.flip(place) if reverse else x
    y = function(x, place)
    if exclusive:
        first = torch.full_like(y.narrow(place, 0, 1), zero)
        y = torch.cat([first, y.narrow(place, 0, y.shape[place] - 1)], place)
    return y.flip(place) if reverse else y


@operation("cumsum", scalars=("axis",))
def cumsum(
    x: Tensor,
    axis: Any = -1,
    *,
    flatten: bool = False,
    exclusive: bool = False,
    reverse: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The running sum; `exclusive` without the place itself, `reverse` from the end."""
    wanted = x.dtype if dtype is None else dtype
    return _running(lambda t, d: torch.cumsum(t, d, dtype=wanted), x, axis, flatten, exclusive, reverse, 0.0)


@operation("cumprod")
def cumprod(x: Tensor, *, dim: int, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """The running product."""
    return _running(lambda t, d: torch.cumprod(t, d, dtype=x.dtype), x, dim, False, exclusive, reverse, 1.0)


@operation("logcumsumexp")
def logcumsumexp(
    x: Tensor, *, axis: int = -1, flatten: bool = False, exclusive: bool = False, reverse: bool = False
) -> Tensor:
    """The logarithm of the running sum of exp(x)."""
    return _running(torch.logcumsumexp, x, axis, flatten, exclusive, reverse, torch.finfo(x.dtype).min)


@operation("cummax", results=2)
def cummax(x: Tensor, *, axis: int = -1, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """The running largest and its place."""
    values, places = torch.cummax(x, axis)
    return values, places.to(dtype)


@operation("cummin", results=2)
def cummin(x: Tensor, *, axis: int = -1, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """The running smallest and its place."""
    values, places = torch.cummin(x, axis)
    return values, places.to(dtype)


@operation("trace")
def trace(x: Tensor, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of a diagonal."""
    return torch.diagonal(x, offset, axis1, axis2).sum(-1, dtype=x.dtype)


@operation("median", results=2)
def median(x: Tensor, *, axis: Sequence[int] = (), keepdim: bool = True, mode: str = "avg") -> tuple[Tensor, None]:
    """The median; of an even number the mean of both in the middle, or with the mode "min" the smaller one. NaN where
    there is a NaN."""
    axes = axes_of(x, axis)
    rest = [place for place in range(x.ndim) if place not in axes]
    flat = x.permute([*rest, *axes]).reshape([*(x.shape[place] for place in rest), -1])
    ordered = flat.sort(dim=-1).values
    count = ordered.shape[-1]
    low, high = ordered[..., (count - 1) // 2], ordered[..., count // 2]
    y = (low + high) / 2 if mode == "avg" else low
    y = torch.where(torch.isnan(flat).any(-1), torch.full_like(y, float("nan")), y) if x.is_floating_point() else y
    if keepdim:
        for place in sorted(axes):
            y = y.unsqueeze(place)
    return y, None


@operation("nanmedian", results=2)
def nanmedian(x: Tensor, *, axis: Sequence[int] = (), keepdim: bool = True, mode: str = "avg") -> tuple[Tensor, None]:
    """The median without NaN; of an even number the mean of both in the middle."""
    axes = axes_of(x, axis)
    rest = [place for place in range(x.ndim) if place not in axes]
    flat = x.permute([*rest, *axes]).reshape([*(x.shape[place] for place in rest), -1])
    y = torch.nanquantile(flat, 0.5, -1) if mode == "avg" else torch.nanmedian(flat, -1).values
    if keepdim:
        for place in sorted(axes):
            y = y.unsqueeze(place)
    return y, None
