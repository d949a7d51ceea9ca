"""Tensors from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.opaque import is_exporting
from paddle2torch.model_zoo.programs.table import ProgramError, check_size, operation


@operation("full")
def full(*, shape: Sequence[int], value: Any, dtype: torch.dtype, device: Any = None) -> Tensor:
    """A tensor of one value, both from attributes."""
    check_size(shape, "full")
    return torch.full(tuple(shape), _cast(value, dtype), dtype=dtype, device=device)


@operation("full_int_array")
def full_int_array(*, value: Sequence[int], dtype: torch.dtype, device: Any = None) -> Tensor:
    """A list of integers as a tensor."""
    return torch.tensor(list(value), dtype=dtype, device=device)


@operation("full_with_tensor", numbers=("shape",))
def full_with_tensor(value: Any, shape: Any, *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """A tensor of one value, both computed."""
    shape = [shape] if not isinstance(shape, list | tuple) else shape
    check_size(shape, "full_with_tensor")
    if isinstance(value, Tensor):
        return value.reshape(()).to(dtype).expand(list(shape)).clone()
    return torch.full(list(shape), _cast(value, dtype), dtype=dtype, device=device)


@operation("full_like")
def full_like(x: Tensor, value: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """As x in shape, of one value."""
    dtype = x.dtype if dtype is None else dtype
    if isinstance(value, Tensor):
        return value.reshape(()).to(dtype).expand(x.shape).clone()
    return torch.full_like(x, _cast(value, dtype), dtype=dtype)


@operation("zeros_like", "fill_zeros_like")
def zeros_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """As x in shape, of zeros."""
    return torch.zeros_like(x, dtype=dtype)


@operation("ones_like")
def ones_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """As x in shape, of ones."""
    return torch.ones_like(x, dtype=dtype)


@operation("fill_any_like")
def fill_any_like(x: Tensor, *, value: float = 0.0, dtype: torch.dtype | None = None) -> Tensor:
    """As x in shape, of one value (older programs)."""
    dtype = x.dtype if dtype is None else dtype
    return torch.full_like(x, _cast(value, dtype), dtype=dtype)


@operation("full_batch_size_like")
def full_batch_size_like(
    input: Tensor,
    *,
    shape: Sequence[int],
    dtype: torch.dtype,
    value: Any,
    input_dim_idx: int = 0,
    output_dim_idx: int = 0,
) -> Tensor:
    """A tensor of one value with one size taken from the input."""
    sizes: list[Any] = list(shape)
    sizes[output_dim_idx] = input.shape[input_dim_idx]
    check_size(sizes, "full_batch_size_like")
    return torch.full(sizes, _cast(value, dtype), dtype=dtype, device=input.device)


@operation("empty", numbers=("shape",))
def empty(shape: Any, *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """A tensor that the program writes to before it reads it; zeros here."""
    shape = [shape] if not isinstance(shape, list | tuple) else shape
    check_size(shape, "empty")
    return torch.zeros(list(shape), dtype=dtype, device=device)


@operation("arange", scalars=("start", "end", "step"))
def arange(start: Any, end: Any, step: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """start, start + step, … up to end, which is not in it."""
    if isinstance(step, int | float) and step == 0:
        raise ProgramError("arange: the step is 0")
    if all(isinstance(item, int | float) for item in (start, end, step)):
        check_size([max(0, int((end - start) / step) + 1)], "arange")
        if (end - start) * step <= 0:
            return torch.zeros(0, dtype=dtype, device=device)
        if is_exporting() and (start, end, step) == (0, 1, 1):
            return torch.tensor([start], dtype=dtype, device=device)  # a constant whose number PyTorch follows
    return torch.arange(start, end, step, dtype=dtype, device=device)


@operation("linspace", scalars=("start", "stop", "number"))
def linspace(start: Any, stop: Any, number: Any, *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """So many numbers from start to stop, both in it."""
    number = torch.sym_int(number)
    check_size([number], "linspace")
    if isinstance(number, torch.SymInt) and dtype.is_floating_point:
        return _evenly(start, stop, number, dtype, device)
    return torch.linspace(start, stop, number, dtype=dtype, device=device)


def _evenly(start: Any, stop: Any, number: Any, dtype: torch.dtype, device: Any) -> Tensor:
    """`linspace` of so many numbers as a graph says; PyTorch's own would take the example's count for all."""
    place = torch.arange(number, device=device)
    step = torch.scalar_tensor(stop - start, dtype=dtype, device=device) / torch.sym_max(number - 1, 1)
    return torch.where(place < number // 2, start + step * place, stop - step * (number - 1 - place))


@operation("logspace", scalars=("start", "stop", "number", "base"))
def logspace(start: Any, stop: Any, number: Any, base: Any, *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """Powers of the base, their exponents as `linspace` gives them."""
    number = torch.sym_int(number)
    check_size([number], "logspace")
    if isinstance(number, torch.SymInt):
        return torch.pow(float(base), linspace(start, stop, number, dtype=dtype, device=device))
    return torch.logspace(start, stop, number, float(base), dtype=dtype, device=device)


@operation("eye", scalars=("num_rows", "num_columns"))
def eye(num_rows: Any, num_columns: Any = None, *, dtype: torch.dtype, device: Any = None) -> Tensor:
    """Ones on the diagonal; as many columns as rows where their number is missing or negative."""
    rows = num_rows
    columns = rows if num_columns is None or (isinstance(num_columns, int) and num_columns < 0) else num_columns
    rows, columns = torch.sym_int(rows), torch.sym_int(columns)
    check_size([rows, columns], "eye")
    return torch.eye(rows, columns, dtype=dtype, device=device)


@operation("assign_value")
def assign_value(
    output: Tensor | None = None, *, shape: Sequence[int], dtype: torch.dtype, values: Sequence[Any], device: Any = None
) -> Tensor:
    """A tensor whose values are in the program; what the output was before does not count."""
    numbers = [_cast(value, dtype) for value in values]
    check_size(shape, "assign_value")
    size = 1
    for extent in shape:
        size *= extent
    if size != len(numbers):
        raise ProgramError(f"assign_value: {len(numbers)} values for the shape {tuple(shape)}")
    return torch.tensor(numbers, dtype=dtype, device=device).reshape(tuple(shape))


@operation("assign", "share_data", "memcpy", "memcpy_h2d", "memcpy_d2h", "print", "npu_identity", "shadow_output")
def assign(x: Any) -> Any:
    """x itself."""
    return x


@operation("assign_out")
def assign_out(x: Tensor, output: Tensor) -> Tensor:
    """x; what the output was before does not count."""
    return x


@operation("tril_indices")
def tril_indices(*, rows: int, cols: int, offset: int, dtype: torch.dtype, device: Any = None) -> Tensor:
    """Rows and columns of the elements on and below a diagonal: (2, n)."""
    check_size([rows, cols], "tril_indices")
    return torch.tril_indices(rows, cols, offset, dtype=dtype, device=device)


@operation("triu_indices")
def triu_indices(*, row: int, col: int, offset: int, dtype: torch.dtype, device: Any = None) -> Tensor:
    """Rows and columns of the elements on and above a diagonal: (2, n)."""
    check_size([row, col], "triu_indices")
    return torch.triu_indices(row, col, offset, dtype=dtype, device=device)


@operation("meshgrid", results="list")
def meshgrid(inputs: list[Tensor]) -> list[Tensor]:
    """Each vector spread over a grid of all, the first along the rows."""
    return list(torch.meshgrid(*[item.reshape(-1) for item in inputs], indexing="ij"))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """A number as the type holds it: integers are cut off towards zero."""
    if isinstance(value, list | tuple):
        value = value[0]
    if isinstance(value, str):
        value = float(value)
    if dtype == torch.bool:
        return bool(value)
    if isinstance(value, float) and not dtype.is_floating_point and not dtype.is_complex:
        limits = torch.iinfo(dtype)
        if value != value:
            return limits.min
        return min(
            max(int(value) if abs(value) < 1e19 else (limits.max if value > 0 else limits.min), limits.min), limits.max
        )
    if isinstance(value, int) and not dtype.is_floating_point and not dtype.is_complex:
        limits = torch.iinfo(dtype)
        if not limits.min <= value <= limits.max:
            raise ProgramError(f"the number {value} does not fit into {dtype}")
    return value
