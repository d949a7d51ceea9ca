"""Sorting, the largest few, counts, sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.numbers import is_open
from paddle2torch.model_zoo.programs.table import ProgramError, operation


@operation("argsort", results=2)
def argsort(x: Tensor, *, axis: int = -1, descending: bool = False, stable: bool = False) -> tuple[Tensor, Tensor]:
    """Values in order and their places; of equal ones the earlier place first."""
    if x.ndim == 0:
        return x, torch.zeros((), dtype=torch.int64, device=x.device)
    values, places = torch.sort(x, dim=axis, descending=descending, stable=True)
    return values, places


@operation("topk", "top_k", scalars=("k_tensor",), results=2)
def topk(
    x: Tensor, k_tensor: Any = None, *, k: int = 1, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along an axis, and their places."""
    count = k if k_tensor is None else k_tensor
    if x.ndim == 0:
        return x, torch.zeros((), dtype=torch.int64, device=x.device)
    if is_open(x.shape[axis]):
        # Programs ask first whether there are as many; in a graph this is computed whatever the answer.
        count = torch.sym_min(count, x.shape[axis])
    values, places = torch.topk(x, count, axis, largest, sorted)
    return values, places


@operation("kthvalue", results=2)
def kthvalue(x: Tensor, *, k: int = 1, axis: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The k-th smallest along an axis and its place."""
    values, places = torch.kthvalue(x, k, axis, keepdim)
    return values, places


@operation("mode", results=2)
def mode(x: Tensor, *, axis: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The most frequent value along an axis and its last place."""
    values, places = torch.mode(x, axis, keepdim)
    return values, places


@operation("unique", results=4)
def unique(
    x: Tensor,
    *,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: Sequence[int] = (),
    dtype: torch.dtype = torch.int64,
    is_sorted: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The different values in order; first places, where each went, how often it occurs."""
    dim = axis[0] if axis else None
    values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=dim)
    flat = inverse.reshape(-1)
    first = torch.full((counts.shape[0],), flat.shape[0], dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, flat, torch.arange(flat.shape[0], device=x.device), "amin")
    return values, first.to(dtype), flat.to(dtype), counts.to(dtype)


@operation("unique_consecutive", results=3)
def unique_consecutive(
    x: Tensor,
    *,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: Sequence[int] = (),
    dtype: torch.dtype = torch.int64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs of equal values made one; where each went, how long its run is."""
    values, inverse, counts = torch.unique_consecutive(x, True, True, axis[0] if axis else None)
    return values, inverse.reshape(-1).to(dtype), counts.to(dtype)


@operation("searchsorted")
def searchsorted(sorted_sequence: Tensor, values: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Where each value would be put into the ordered row."""
    return torch.searchsorted(sorted_sequence.contiguous(), values.contiguous(), out_int32=out_int32, right=right)


@operation("bucketize")
def bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Between which boundaries each value is."""
    return torch.bucketize(x, boundaries, out_int32=out_int32, right=right)


@operation("bincount", scalars=("minlength",))
def bincount(x: Tensor, weights: Tensor | None = None, minlength: Any = 0) -> Tensor:
    """How often each number occurs, or the sum of its weights."""
    return torch.bincount(x.to(torch.int64), weights, int(minlength))


@operation("histogram")
def histogram(
    input: Tensor,
    weight: Tensor | None = None,
    *,
    bins: int = 100,
    min: float = 0.0,
    max: float = 0.0,
    density: bool = False,
) -> Tensor:
    """How many values are in each of `bins` equal parts of the range."""
    if weight is not None or density:
        raise ProgramError("histogram with weights or as a density is not known")
    return torch.histc(input.float(), bins, min, max).to(torch.int64)


@operation("gather_tree")
def gather_tree(ids: Tensor, parents: Tensor) -> Tensor:
    """Beams of a search from their end back: ids and parents (steps, N, beams)."""
    beam = torch.arange(ids.shape[2], device=ids.device).expand(ids.shape[1:])
    found = []
    for step in range(ids.shape[0] - 1, -1, -1):
        found.append(ids[step].gather(1, beam))
        beam = parents[step].to(torch.int64).gather(1, beam)
    return torch.stack(found[::-1]) if found else ids
