"""Arrays of tensors: Python lists that an operation changes in place. The only operations with an effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.numbers import tensor_of
from paddle2torch.model_zoo.programs.table import ProgramError, operation

LENGTH_AT_MOST = 1_000_000

EFFECTS = frozenset({"array_write", "array_pop", "write_to_array"})
"""Kinds that change an array: they stay where they are, read or not."""

LENGTHS = frozenset({"array_length", "lod_array_length"})


@operation("create_array")
def create_array(*, dtype: torch.dtype | None = None) -> list[Tensor]:
    """An empty array."""
    return []


@operation("create_array_like")
def create_array_like(input: list[Tensor], *, val: float = 0.0) -> list[Tensor]:
    """An array of as many tensors, of one value."""
    return [torch.full_like(item, val) for item in input]


@operation("array_write", "write_to_array", scalars=("i",))
def array_write(array: list[Tensor], x: Tensor, i: Any) -> list[Tensor]:
    """x at a place of the array, which grows up to it."""
    if not 0 <= i <= min(len(array), LENGTH_AT_MOST):
        raise ProgramError(f"an array of {len(array)} tensors is written at {i}")
    if i == len(array):
        array.append(x)
    else:
        array[i] = x
    return array


@operation("array_read", "read_from_array", scalars=("i",))
def array_read(array: list[Tensor], i: Any) -> Tensor:
    """The tensor at a place of the array."""
    if not 0 <= i < len(array):
        raise ProgramError(f"an array of {len(array)} tensors is read at {i}")
    return array[i]


@operation("array_length", "lod_array_length")
def array_length(x: list[Tensor], *, device: Any = None) -> Tensor:
    """How many tensors the array has: int64 (1,)."""
    return torch.full((1,), len(x), dtype=torch.int64, device=device)


@operation("array_pop")
def array_pop(input: list[Tensor], *, index: int = -1) -> Tensor:
    """Takes a tensor out of the array."""
    return input.pop(index)


@operation("array_to_tensor", "tensor_array_to_tensor", results=2)
def array_to_tensor(x: list[Tensor], *, axis: int = 0, use_stack: bool = False) -> tuple[Tensor, Tensor]:
    """The tensors of the array joined along an axis, or along a new one, and how much each had on it."""
    if not x:
        raise ProgramError("an empty array of tensors is joined")
    sizes = [1] * len(x) if use_stack else [item.shape[axis] for item in x]
    joined = torch.stack(x, axis) if use_stack else torch.cat(x, axis)
    return joined, tensor_of(sizes, [len(sizes)], torch.int32, joined.device)


@operation("slice_array", scalars=("starts", "ends"))
def slice_array(input: list[Tensor], starts: Any, ends: Any) -> list[Tensor]:
    """A part of the array."""
    return list(input[starts:ends])


@operation("slice_array_dense", scalars=("starts",))
def slice_array_dense(input: list[Tensor], starts: Any) -> Tensor:
    """One tensor of the array."""
    if not -len(input) <= starts < len(input):
        raise ProgramError(f"an array of {len(input)} tensors is read at {starts}")
    return input[starts]


@operation("select_input", scalars=("mask",))
def select_input(x: list[Any], mask: Any) -> Any:
    """The one of several values that the mask names (older programs: the results of both branches of a condition)."""
    place = int(mask)
    if not 0 <= place < len(x) or x[place] is None:
        raise ProgramError(f"a condition gives no value {place}")
    return x[place]
