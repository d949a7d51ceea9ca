"""Slices, gathers, scatters, assignments to parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.numbers import is_open, number_of
from paddle2torch.model_zoo.programs.table import ProgramError, operation


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


_FAR = (1 << 31) - 1


@operation("slice", places=("starts", "ends"))
def slice_(input: Any, starts: Any, ends: Any, *, axes: Sequence[int], decrease_axis: Sequence[int] = ()) -> Any:
    """x[start:end] along these axes; both are clipped, negative ones count from the end. `decrease_axis` goes."""
    if isinstance(input, list):  # of an array of tensors
        return input[_listed(starts)[0] : _listed(ends)[0]] if not decrease_axis else input[_listed(starts)[0]]
    x = input
    for axis, start, end in zip(axes, _listed(starts), _listed(ends), strict=True):
        if axis in decrease_axis and isinstance(start, int) and isinstance(end, int) and (start, end) == (-1, 0):
            end = _FAR  # x[-1]
        if isinstance(start, Tensor) or isinstance(end, Tensor):
            x = _narrowed(x, axis, start, end, one=axis in decrease_axis)
            continue
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end),)]
    return _without(x, decrease_axis)


def _narrowed(x: Tensor, axis: int, start: Any, end: Any, *, one: bool) -> Tensor:
    """x[start:end] along an axis at places of which one at least is a tensor; one: a single place is taken."""
    size = x.shape[axis]
    first, last = _clipped(start, size), _clipped(end, size)
    if one:
        place = first if isinstance(first, Tensor) else torch.tensor(first, device=x.device)
        return x.index_select(axis, place.reshape(1))
    length = _as_size((last - first).clamp(min=0), size)
    return x.narrow(axis, _as_size(first, size) if isinstance(first, Tensor) else first, length)


def _as_size(x: Tensor, most: Any) -> Any:
    """A number that a tensor holds, of which PyTorch may know that it is between 0 and `most`."""
    number = number_of(x)
    torch._check(number >= 0)
    torch._check(number <= most)
    return number


def _without(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in sorted({axis % x.ndim for axis in axes}, reverse=True) if x.ndim else ():
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise ProgramError(f"a slice takes {x.shape[axis]} places of axis {axis} where one belongs")
        x = x.squeeze(axis)
    return x


def _extent(start: Any, end: Any, step: int, size: Any) -> tuple[Any, Any]:
    """First place and the one behind the last, both counted upwards, of a slice as Paddle clips it."""
    start = max(start + size, 0) if start < 0 else start
    if end < 0 and not (end == -1 and step < 0):
        end = end + size
    if step < 0:
        start, end = start + 1, end + 1
        return max(0, end), min(size, start)
    return max(0, start), min(size, end)


def _steps(start: Any, end: Any, step: Any, size: Any) -> tuple[slice, bool]:
    """A slice with a positive step, and whether what it takes is to be turned round."""
    step = int(step)
    if step == 0:
        raise ProgramError("a slice has the step 0")
    if step > 0:
        return slice(start, end, step), False
    low, high = _extent(start, end, step, size)
    if low >= high:
        return slice(0, 0), False
    count = (high - low + -step - 1) // -step
    return slice(high - 1 - (count - 1) * -step, high, -step), True


@operation("strided_slice", numbers=("starts", "ends", "strides"))
def strided_slice(
    x: Tensor, starts: Any, ends: Any, strides: Any, *, axes: Sequence[int], decrease_axis: Sequence[int] = ()
) -> Tensor:
    """x[start:end:step] along these axes; a negative step goes backwards, -1 as its end is before the first place."""
    for axis, start, end, step in zip(axes, _listed(starts), _listed(ends), _listed(strides), strict=True):
        places, turned = _steps(start, end, step, x.shape[axis])
        x = x[(slice(None),) * (axis % x.ndim) + (places,)]
        x = x.flip(axis) if turned else x
    return _without(x, decrease_axis)


Part = tuple[int, Any, Any, Any]
"""Of an axis: its number, start, end and step."""


def _assigned(
    x: Tensor, value: Any, parts: Sequence[Part], decrease_axes: Sequence[int], none_axes: Sequence[int]
) -> Tensor:
    """A copy of x with a part replaced; the value is broadcast to it, after `decrease_axes` go and `none_axes` come."""
    if isinstance(value, Tensor):
        value = _laid_on(value, x.ndim, decrease_axes, none_axes).to(x.dtype)
    if any(isinstance(place, Tensor) for _, start, end, _ in parts for place in (start, end)):
        return _assigned_where(x, value, parts)
    target = x.clone()
    view = target
    turned = []
    for axis, start, end, step in parts:
        places, backwards = _steps(start, end, step, x.shape[axis])
        view = view[(slice(None),) * (axis % x.ndim) + (places,)]
        if backwards:
            turned.append(axis % x.ndim)
    if isinstance(value, Tensor):
        value = value.expand(view.shape)
        view.copy_(value.flip(turned) if turned else value)
    else:
        view.fill_(value)
    return target


def _laid_on(value: Tensor, rank: int, decrease_axes: Sequence[int], none_axes: Sequence[int]) -> Tensor:
    """A value with the axes of what it replaces a part of, which has `rank` of them."""
    gone = sorted(axis % rank for axis in decrease_axes)
    own = rank - len(gone) + len(none_axes)
    # What has too many axes of 1 in front fits as well.
    while value.ndim > own and value.shape[0] == 1:
        value = value[0]
    value = value.reshape([1] * (own - value.ndim) + list(value.shape))
    for axis in sorted(none_axes, reverse=True):
        value = value.squeeze(axis)
    for axis in gone:
        value = value.unsqueeze(axis)
    return value


def _assigned_where(x: Tensor, value: Any, parts: Sequence[Part]) -> Tensor:
    """As `_assigned` at places that are tensors: every place of x is asked whether it is in the part."""
    inside: Any = True
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=x.dtype, device=x.device)
    for axis, start, end, step in parts:
        if not isinstance(step, int) or step < 1:
            raise ProgramError("an assignment at computed places with a step backwards cannot be exported")
        axis, size = axis % x.ndim, x.shape[axis]
        places = torch.arange(size, device=x.device)
        first = _clipped(start, size)
        behind = places - first
        here = (behind >= 0) & (places < _clipped(end, size))
        if step > 1:
            here, behind = here & (behind % step == 0), behind // step
        if value.ndim and is_open(value.shape[axis]):
            # It may have no place, or one for all: with zeros behind it there is one to take in any case.
            last = torch.sym_max(value.shape[axis] - 1, 0)
            value = with_a_zero(value, axis).index_select(axis, behind.clamp(0, last))
        elif value.ndim and value.shape[axis] != 1:
            value = value.index_select(axis, behind.clamp(0, value.shape[axis] - 1))
        inside = inside & here.reshape([-1] + [1] * (x.ndim - 1 - axis))
    return torch.where(inside, value, x)


def with_a_zero(x: Tensor, axis: int) -> Tensor:
    """x with one more place along an axis, which holds zeros."""
    rest = x.new_zeros([1 if place == axis else extent for place, extent in enumerate(x.shape)])
    return torch.cat([x, rest], axis)


def _clipped(place: Any, size: Any) -> Any:
    """A place from the front, between 0 and the size."""
    if isinstance(place, Tensor):
        return _wrapped(place, size).clamp(0, size)
    return torch.sym_min(place if place >= 0 else torch.sym_max(place + size, 0), size)


@operation("set_value", numbers=("steps",), places=("starts", "ends"))
def set_value(
    x: Tensor,
    starts: Any,
    ends: Any,
    steps: Any,
    *,
    axes: Sequence[int],
    decrease_axes: Sequence[int] = (),
    none_axes: Sequence[int] = (),
    shape: Sequence[int] = (),
    values: Sequence[Any] = (),
) -> Tensor:
    """x with x[start:end:step] replaced by values in the program."""
    numbers = [int(value) if not (x.is_floating_point() or x.is_complex()) else value for value in values]
    value = (
        torch.tensor(numbers, dtype=x.dtype, device=x.device).reshape(tuple(shape)) if len(numbers) != 1 else numbers[0]
    )
    parts = list(zip(axes, _listed(starts), _listed(ends), _listed(steps), strict=True))
    return _assigned(x, value, parts, decrease_axes, none_axes)


@operation("set_value_with_tensor", numbers=("steps",), places=("starts", "ends"))
def set_value_with_tensor(
    x: Tensor,
    values: Any,
    starts: Any,
    ends: Any,
    steps: Any,
    *,
    axes: Sequence[int],
    decrease_axes: Sequence[int] = (),
    none_axes: Sequence[int] = (),
) -> Tensor:
    """x with x[start:end:step] replaced by a tensor."""
    parts = list(zip(axes, _listed(starts), _listed(ends), _listed(steps), strict=True))
    return _assigned(x, values, parts, decrease_axes, none_axes)


def _wrapped(index: Tensor, size: Any) -> Tensor:
    """Negative places count from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@operation("gather", scalars=("axis",))
def gather(x: Tensor, index: Tensor, axis: Any = 0) -> Tensor:
    """Places of one axis by their numbers; of one number without axes the axis goes."""
    place = (0 if axis is None else axis) % max(x.ndim, 1)
    if index.ndim == 0:
        return x.index_select(place, _wrapped(index, x.shape[place]).reshape(1)).squeeze(place)
    if index.ndim == 2 and index.shape[1] == 1:
        index = index[:, 0]
    if index.ndim == 1:
        return x.index_select(place, _wrapped(index, x.shape[place]))
    taken = x.index_select(place, _wrapped(index, x.shape[place]).reshape(-1))
    return taken.reshape([*x.shape[:place], *index.shape, *x.shape[place + 1 :]])


@operation("index_select")
def index_select(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Places of one axis by their numbers."""
    return x.index_select(axis, _wrapped(index, x.shape[axis]))


@operation("gather_nd")
def gather_nd(x: Tensor, index: Tensor) -> Tensor:
    """The last axis of the index holds places on the first axes of x."""
    depth = index.shape[-1]
    if depth == 0:
        return x.expand([*index.shape[:-1], *x.shape])
    return x[tuple(index.to(torch.int64).unbind(-1))]


@operation("index_sample")
def index_sample(x: Tensor, index: Tensor) -> Tensor:
    """The columns of each row that its row of the index names."""
    return torch.gather(x, 1, index.to(torch.int64))


@operation("take_along_axis")
def take_along_axis(arr: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Along the axis the places that the index names, everything else in its place."""
    return torch.gather(arr, axis, _wrapped(indices, arr.shape[axis]))


_REDUCTIONS = {"add": "sum", "mul": "prod", "multiply": "prod", "amin": "amin", "amax": "amax", "mean": "mean"}


@operation("put_along_axis", choices={"reduce": ("assign", *_REDUCTIONS)})
def put_along_axis(
    arr: Tensor, indices: Tensor, values: Tensor, *, axis: int = 0, reduce: str = "assign", include_self: bool = True
) -> Tensor:
    """arr with values at the places that the index names along the axis: put there, or added, multiplied, …"""
    index = _wrapped(indices, arr.shape[axis])
    values = values.to(arr.dtype).expand(index.shape)
    if reduce == "assign":
        return arr.scatter(axis, index, values)
    return arr.scatter_reduce(axis, index, values, _REDUCTIONS[reduce], include_self=include_self)


@operation("scatter")
def scatter(x: Tensor, index: Tensor, updates: Tensor, *, overwrite: bool = True) -> Tensor:
    """Rows of x replaced; with `overwrite` false these rows are zeroed first, then all updates are added."""
    places = _wrapped(index.reshape(-1), x.shape[0])
    if index.ndim == 0 and updates.ndim < x.ndim:
        updates = updates.unsqueeze(0)
    if overwrite:
        return x.index_copy(0, places, updates.to(x.dtype))
    return x.index_fill(0, places, 0).index_add(0, places, updates.to(x.dtype))


@operation("scatter_nd_add")
def scatter_nd_add(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Updates added at places on the first axes of x, which the last axis of the index holds."""
    if index.shape[-1] == 0:
        return x + updates.reshape([-1, *x.shape]).sum(0)
    return x.index_put(tuple(index.to(torch.int64).unbind(-1)), updates.to(x.dtype), accumulate=True)


@operation("index_add")
def index_add(x: Tensor, index: Tensor, add_value: Tensor, *, axis: int = 0) -> Tensor:
    """Values added at places of one axis."""
    return x.index_add(axis, _wrapped(index, x.shape[axis]), add_value.to(x.dtype))


@operation("index_put")
def index_put(x: Tensor, indices: list[Tensor], value: Tensor, *, accumulate: bool = False) -> Tensor:
    """x[indices] = value, or += with `accumulate`."""
    places = tuple(item if item.dtype == torch.bool else item.to(torch.int64) for item in indices)
    return x.index_put(places, value.to(x.dtype), accumulate)


@operation("index_elementwise_get")
def index_elementwise_get(
    x: Tensor,
    index: list[Tensor],
    *,
    input_dims: Sequence[int] = (),
    input_strides: Sequence[int] = (),
    index_dims: Sequence[int] = (),
    index_stride: Sequence[int] = (),
    slice_offset: int = 0,
    accumulate: bool = True,
    is_combined: bool = False,
) -> Tensor:
    """x[index] on the first axes."""
    if slice_offset:
        raise ProgramError("index_elementwise_get with an offset is not known")
    return x[tuple(item if item.dtype == torch.bool else item.to(torch.int64) for item in index)]


@operation("index_fill", scalars=("value",))
def index_fill(x: Tensor, index: Tensor, value: Any = 0.0, *, axis: int = 0) -> Tensor:
    """One value at places of one axis."""
    return x.index_fill(axis, _wrapped(index, x.shape[axis]), value)


@operation("masked_select")
def masked_select(x: Tensor, mask: Tensor) -> Tensor:
    """What the mask names, as one row."""
    return torch.masked_select(x, mask)


@operation("masked_fill")
def masked_fill(x: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """One value where the mask is true."""
    return torch.where(mask, value.to(x.dtype), x)


@operation("where")
def where(condition: Tensor, x: Any, y: Any) -> Tensor:
    """x where the condition is true, y elsewhere."""
    return torch.where(condition, x, y)


@operation("nonzero", "where_index")
def nonzero(condition: Tensor) -> Tensor:
    """The places of what is not 0: int64 (count, axes)."""
    return torch.nonzero(condition)


@operation("one_hot", scalars=("num_classes",))
def one_hot(
    x: Tensor,
    num_classes: Any = None,
    *,
    depth: int = -1,
    dtype: torch.dtype = torch.float32,
    allow_out_of_range: bool = False,
) -> Tensor:
    """1 at the place that x names on a new last axis, 0 elsewhere: float32."""
    count = depth if num_classes is None else num_classes
    return (x.unsqueeze(-1) == torch.arange(count, dtype=x.dtype, device=x.device)).to(dtype)


@operation("embedding")
def embedding(x: Tensor, weight: Tensor, *, padding_idx: int = -1) -> Tensor:
    """Rows of the weight by their numbers; zeros for `padding_idx`, unless it is -1."""
    rows = torch.nn.functional.embedding(x.to(torch.int64), weight)
    return rows if padding_idx == -1 else rows * (x != padding_idx).unsqueeze(-1).to(rows.dtype)


@operation("multiplex")
def multiplex(inputs: list[Tensor], index: Tensor) -> Tensor:
    """Row i of the input that the index names for it."""
    stacked = torch.stack(inputs)
    rows = torch.arange(stacked.shape[1], device=stacked.device)
    return stacked[index.reshape(-1).to(torch.int64), rows[: index.numel()]]


@operation("shard_index")
def shard_index(input: Tensor, *, index_num: int, nshards: int, shard_id: int, ignore_value: int = -1) -> Tensor:
    """Numbers within one of several shards; the value to ignore for those of other shards."""
    size = (index_num + nshards - 1) // nshards
    return torch.where(input // size == shard_id, input % size, torch.full_like(input, ignore_value))


@operation("sequence_mask", scalars=("max_len_tensor",))
def sequence_mask(
    x: Tensor, max_len_tensor: Any = None, *, max_len: int = -1, out_dtype: torch.dtype = torch.int64
) -> Tensor:
    """For each length as many ones, then zeros, on a new last axis."""
    length = max_len if max_len_tensor is None else max_len_tensor
    if isinstance(length, int) and length < 0:
        length = int(x.max())
    return (torch.arange(length, device=x.device) < x.unsqueeze(-1)).to(out_dtype)


@operation("fill_diagonal_tensor")
def fill_diagonal_tensor(x: Tensor, y: Tensor, *, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """x with y on a diagonal of two of its axes."""
    shape = torch.diagonal(x, offset, dim1, dim2).shape
    return torch.diagonal_scatter(x, y.reshape(shape), offset, dim1, dim2)
