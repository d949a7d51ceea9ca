"""Sums, means, extremes, running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.table import check_size, operation


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


def in_rows(x: Tensor, axes: Sequence[int]) -> Tensor:
    """x with all of these axes as one, the last."""
    rest = [place for place in range(x.ndim) if place not in axes]
    return x.permute([*rest, *axes]).reshape([*(x.shape[place] for place in rest), -1])


def _with_axes(x: Tensor | None, axes: Sequence[int], keepdim: bool) -> Tensor | None:
    if x is None or not keepdim:
        return x
    for place in sorted(axes):
        x = x.unsqueeze(place)
    return x


@operation("median", results=2, absent={1: ("mode", "avg")})
def median(
    x: Tensor, *, axis: Sequence[int] = (), keepdim: bool = True, mode: str = "avg"
) -> tuple[Tensor | None, Tensor | None]:
    """The median; of an even number the mean of both in the middle, or with the mode "min" the smaller one and its
    place on the axis (of equal values, any). NaN where there is a NaN.
    """
    axes = axes_of(x, axis)
    flat = in_rows(x, axes)
    ordered, places = flat.sort(dim=-1, stable=True)
    count = ordered.shape[-1]
    low, high = ordered[..., (count - 1) // 2], ordered[..., count // 2]
    y, place = ((low + high) / 2, None) if mode == "avg" else (low, places[..., (count - 1) // 2])
    if x.is_floating_point():
        bad = torch.isnan(flat)
        y = torch.where(bad.any(-1), torch.full_like(y, float("nan")), y)
        place = None if place is None else torch.where(bad.any(-1), bad.to(torch.int32).argmax(-1), place)
    return _with_axes(y, axes, keepdim), _with_axes(place, axes, keepdim)


@operation("nanmedian", results=2, absent={1: ("mode", "avg")})
def nanmedian(
    x: Tensor, *, axis: Sequence[int] = (), keepdim: bool = True, mode: str = "avg"
) -> tuple[Tensor | None, Tensor | None]:
    """The median without NaN; of an even number the mean of both in the middle, or as `median` with the mode "min"."""
    axes = axes_of(x, axis)
    flat = in_rows(x, axes)
    if mode == "avg":
        return _with_axes(torch.nanquantile(flat, 0.5, -1), axes, keepdim), None
    found = torch.nanmedian(flat, -1)
    return _with_axes(found.values, axes, keepdim), _with_axes(found.indices, axes, keepdim)


@operation("reduce_as")
def reduce_as(x: Tensor, target: Tensor) -> Tensor:
    """The sum over the axes along which `target` would be repeated: of its shape."""
    return x.sum_to_size(target.shape)


def _gathered(values: Tensor, places: Tensor, rows: Any, kind: str) -> tuple[Tensor, Tensor]:
    """Rows of `values` put together by their places, and how many came to each; 0 where none did."""
    check_size([rows, *values.shape[1:]], "a sum of rows")
    places = places.to(torch.int64)
    zeros = torch.zeros((rows, *values.shape[1:]), dtype=values.dtype, device=values.device)
    counts = torch.zeros(rows, dtype=torch.int64, device=values.device)
    counts = counts.index_add(0, places, torch.ones_like(places))
    if kind in ("SUM", "MEAN"):
        total = zeros.index_add(0, places, values)
        shape = [-1] + [1] * (values.ndim - 1)
        return (total if kind == "SUM" else total / counts.clamp(min=1).reshape(shape).to(values.dtype)), counts
    index = places.reshape([-1] + [1] * (values.ndim - 1)).expand_as(values)
    how = {"MAX": "amax", "MIN": "amin"}[kind]
    return zeros.scatter_reduce(0, index, values, how, include_self=False), counts


@operation("segment_pool", results=2, choices={"pooltype": ("SUM", "MEAN", "MAX", "MIN")})
def segment_pool(x: Tensor, segment_ids: Tensor, *, pooltype: str = "SUM") -> tuple[Tensor, Tensor]:
    """Rows of the same segment put together; segments are numbered in order."""
    rows = int(segment_ids[-1]) + 1 if segment_ids.numel() else 0
    made, counts = _gathered(x, segment_ids, rows, pooltype)
    return made, counts.to(x.dtype)[:, None]


@operation("send_u_recv", numbers=("out_size",), results=2, choices={"reduce_op": ("SUM", "MEAN", "MAX", "MIN")})
def send_u_recv(
    x: Tensor, src_index: Tensor, dst_index: Tensor, out_size: Any = (), *, reduce_op: str = "SUM"
) -> tuple[Tensor, Tensor]:
    """Each edge carries the row of its source to its end, where rows are put together."""
    rows = next((size for size in (out_size or ()) if size > 0), x.shape[0])
    made, counts = _gathered(x[src_index.to(torch.int64)], dst_index, rows, reduce_op)
    return made, counts.to(torch.int32)
