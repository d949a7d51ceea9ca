"""Operations on numbers that depend on shapes: each runs on arrays of Python numbers and of nodes that make one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from paddle2torch.model_zoo.programs import numbers
from paddle2torch.model_zoo.programs.graph import Node
from paddle2torch.model_zoo.programs.table import ProgramError, torch_dtype
from paddle2torch.model_zoo.programs.values import Known, Sizes

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.block import BlockBuilder

_SIZES_AT_MOST = 256


def symbolic(block: BlockBuilder, node: Node, operands: list[Any]) -> list[Any] | None:
    """The results of an operation on numbers that depend on shapes; None where it is not one of those known here."""
    arrays: list[Any] = []
    dtypes: list[torch.dtype] = []
    for operand in operands:
        items = operand if isinstance(operand, list) else [operand]
        listed = []
        for item in items:
            if isinstance(item, Known) and item.tensor.numel() <= _SIZES_AT_MOST and not item.tensor.dtype.is_complex:
                array = np.empty(tuple(item.tensor.shape), dtype=object)
                array.reshape(-1)[:] = item.tensor.reshape(-1).tolist()
                listed.append(array)
                dtypes.append(item.tensor.dtype)
            elif isinstance(item, Sizes) and item.array.size <= _SIZES_AT_MOST:
                listed.append(item.array)
                dtypes.append(item.dtype)
            elif item is not None:
                return None
        arrays.append(listed if isinstance(operand, list) else (listed[0] if listed else None))
    handler = _SYMBOLIC.get(node.kind)
    if handler is None:
        return None
    made = handler(block, node, arrays, dtypes)
    return None if made is None else [made]


def _apply(block: BlockBuilder, function: Callable[..., Any], *items: Any) -> Any:
    if any(isinstance(item, fx.Node) for item in items):
        return block.fx.call_function(function, items)
    return function(*items)


def _each(block: BlockBuilder, function: Callable[..., Any], *arrays: Any) -> np.ndarray[Any, Any]:
    broadcast = np.broadcast_arrays(*arrays)
    made = np.empty(broadcast[0].shape, dtype=object)
    for place in np.ndindex(made.shape):
        made[place] = _apply(block, function, *(array[place] for array in broadcast))
    return made


def _sizes_arithmetic(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    if node.attributes.get("axis", -1) != -1:
        return None
    dtype = torch.promote_types(dtypes[0], dtypes[1])
    if dtype == torch.bool:
        return None
    table = numbers.REAL if dtype.is_floating_point else numbers.INTEGER
    return Sizes(_each(block, table[node.kind], *arrays[:2]), dtype)


def _sizes_comparison(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    return Sizes(_each(block, numbers.COMPARISONS[node.kind], *arrays[:2]), torch.bool)


def _sizes_logic(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    if any(dtype != torch.bool for dtype in dtypes):
        return None
    return Sizes(_each(block, numbers.LOGIC[node.kind], *arrays[:2]), torch.bool)


def _sizes_not(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    return Sizes(_each(block, torch.sym_not, arrays[0]), torch.bool) if dtypes[0] == torch.bool else None


def _sizes_cast(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    dtype = torch_dtype(node.attributes["dtype"])
    if dtype == dtypes[0]:
        return Sizes(arrays[0], dtype)
    if dtype == torch.bool:
        return Sizes(_each(block, numbers.to_bool, arrays[0]), dtype)
    if dtype.is_floating_point:
        return Sizes(_each(block, torch.sym_float, arrays[0]), dtype)
    return Sizes(_each(block, torch.sym_int, arrays[0]), dtype)


def _sizes_scale(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    scale = arrays[1].reshape(-1)[0] if len(arrays) > 1 and arrays[1] is not None else node.attributes.get("scale", 1.0)
    bias, after = node.attributes.get("bias", 0.0), node.attributes.get("bias_after_scale", True)
    if isinstance(scale, fx.Node):
        return None
    real = dtypes[0].is_floating_point
    if not real:
        scale, bias = int(scale), int(bias)
    plus = numbers.real_add if real else operator.add
    times = numbers.real_multiply if real else operator.mul

    def one(x: Any) -> Any:
        steps = [(times, scale, 1), (plus, bias, 0)]
        for function, number, neutral in steps if after else reversed(steps):
            x = x if number == neutral else _apply(block, function, x, number)
        return x

    made = np.empty(arrays[0].shape, dtype=object)
    for place in np.ndindex(made.shape):
        made[place] = one(arrays[0][place])
    return Sizes(made, dtypes[0])


def _concrete(array: Any) -> list[int] | None:
    if array is None:
        return None
    items = array if isinstance(array, list) else list(np.asarray(array, dtype=object).reshape(-1))
    items = [item.reshape(-1)[0] if isinstance(item, np.ndarray) else item for item in items]
    return None if any(isinstance(item, fx.Node) for item in items) else [int(item) for item in items]


def _sizes_slice(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    if isinstance(arrays[0], list):
        return None
    starts, ends = _concrete(arrays[1]), _concrete(arrays[2])
    axes, gone = node.attributes["axes"], node.attributes.get("decrease_axis", ())
    if starts is None or ends is None:
        return None
    made = arrays[0]
    for axis, start, end in zip(axes, starts, ends, strict=True):
        stop = None if (start, end) == (-1, 0) and axis in gone else end
        made = made[(slice(None),) * axis + (slice(start, stop),)]
    for axis in sorted(gone, reverse=True):
        if made.shape[axis] != 1:
            raise ProgramError(f"a slice takes {made.shape[axis]} places of axis {axis} where one belongs")
        made = made.reshape(made.shape[:axis] + made.shape[axis + 1 :])
    return Sizes(_array(made), dtypes[0])


def _array(made: Any) -> np.ndarray[Any, Any]:
    if isinstance(made, np.ndarray):
        return made
    array = np.empty((), dtype=object)
    array[()] = made
    return array


def _sizes_strided_slice(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    starts, ends, steps = (_concrete(item) for item in arrays[1:4])
    if starts is None or ends is None or steps is None or any(step < 1 for step in steps):
        return None
    made = arrays[0]
    for axis, start, end, step in zip(node.attributes["axes"], starts, ends, steps, strict=True):
        made = made[(slice(None),) * axis + (slice(start, end, step),)]
    return Sizes(_array(made), dtypes[0])


def _sizes_concat(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    axis = _concrete(arrays[1]) if len(arrays) > 1 else [node.attributes.get("axis", 0)]
    if axis is None or not isinstance(arrays[0], list):
        return None
    dtype = dtypes[0]
    for other in dtypes[1 : len(arrays[0])]:
        dtype = torch.promote_types(dtype, other)
    return Sizes(np.concatenate(arrays[0], axis[0]), dtype)


def _sizes_stack(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    if not isinstance(arrays[0], list):
        return None
    return Sizes(np.stack(arrays[0], node.attributes.get("axis", 0)), dtypes[0])


def _sizes_reshape(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    shape = _concrete(arrays[1]) if len(arrays) > 1 else list(node.attributes.get("shape", ()))
    if shape is None:
        return None
    wanted = [
        arrays[0].shape[place] if size == 0 and place < arrays[0].ndim else size for place, size in enumerate(shape)
    ]
    return Sizes(arrays[0].reshape(wanted), dtypes[0])


def _sizes_squeeze(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    axes = _concrete(arrays[1]) if len(arrays) > 1 else list(node.attributes.get("axis", ()))
    made = arrays[0]
    if axes is None:
        return None
    chosen = {axis % made.ndim for axis in axes} if axes and made.ndim else set(range(made.ndim))
    shape = [size for axis, size in enumerate(made.shape) if axis not in chosen or size != 1]
    return Sizes(made.reshape(shape), dtypes[0])


def _sizes_unsqueeze(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    axes = _concrete(arrays[1]) if len(arrays) > 1 else list(node.attributes.get("axis", ()))
    if axes is None:
        return None
    made = arrays[0]
    for axis in axes:
        made = np.expand_dims(made, axis)
    return Sizes(made, dtypes[0])


def _sizes_flatten(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    return Sizes(arrays[0].reshape(-1), dtypes[0]) if arrays[0].ndim < 2 else None


def _sizes_gather(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    index = _concrete(arrays[1])
    if index is None or arrays[0].ndim != 1 or arrays[1].ndim > 1:
        return None
    made = arrays[0][index]
    return Sizes(made if arrays[1].ndim else made.reshape(()), dtypes[0])


def _sizes_same(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
    return Sizes(arrays[0], dtypes[0])


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Sizes | None]:
    def reduce(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
        if arrays[0].ndim > 1 or node.attributes.get("keepdim") or dtypes[0].is_floating_point or not arrays[0].size:
            return None
        items = list(arrays[0].reshape(-1))
        total = items[0]
        for item in items[1:]:
            total = _apply(block, function, total, item)
        return Sizes(_array(total), dtypes[0] if dtypes[0] == torch.int32 and node.kind == "prod" else torch.int64)

    return reduce


def _sizes_round(function: Callable[[Any], Any]) -> Callable[..., Sizes | None]:
    def one(block: BlockBuilder, node: Node, arrays: list[Any], dtypes: list[torch.dtype]) -> Sizes | None:
        if not dtypes[0].is_floating_point:
            return Sizes(arrays[0], dtypes[0])
        return Sizes(_each(block, function, arrays[0]), dtypes[0])

    return one


_SYMBOLIC: dict[str, Callable[..., Sizes | None]] = {
    **dict.fromkeys(numbers.INTEGER, _sizes_arithmetic),
    **dict.fromkeys(numbers.COMPARISONS, _sizes_comparison),
    **dict.fromkeys(numbers.LOGIC, _sizes_logic),
    "logical_not": _sizes_not,
    "cast": _sizes_cast,
    "scale": _sizes_scale,
    "slice": _sizes_slice,
    "strided_slice": _sizes_strided_slice,
    "concat": _sizes_concat,
    "stack": _sizes_stack,
    "reshape": _sizes_reshape,
    "squeeze": _sizes_squeeze,
    "unsqueeze": _sizes_unsqueeze,
    "flatten": _sizes_flatten,
    "gather": _sizes_gather,
    "index_select": _sizes_gather,
    "assign": _sizes_same,
    "memcpy": _sizes_same,
    "prod": _folded(operator.mul),
    "sum": _folded(operator.add),
    "floor": _sizes_round(numbers.round_down),
    "ceil": _sizes_round(numbers.round_up),
}
