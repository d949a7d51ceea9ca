"""Python numbers in a graph: sizes of tensors, what is computed from them, and the way to tensors and back.

Under `torch.export` the numbers are symbolic, so nothing here may ask for their value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.opaque import is_exporting
from paddle2torch.model_zoo.programs.table import ProgramError

LENGTH_AT_MOST = 100_000
"""Numbers that one tensor is read as: shapes, axes and the like have a few."""


def numbers_of(x: Tensor) -> Any:
    """A tensor that holds a shape, an axis or the like, as a number or a list of numbers."""
    if x.numel() > LENGTH_AT_MOST:
        raise ProgramError(f"a tensor of {x.numel()} elements stands where a shape or an axis belongs")
    return x.tolist()


def number_of(x: Tensor) -> Any:
    """A tensor of one element as a number."""
    return x.reshape(()).item()


def places_of(x: Tensor) -> Any:
    """A tensor of places on an axis, as a number or a list of numbers; as tensors of one element each under
    `torch.export`, where a number that is computed cannot be looked at.
    """
    if is_exporting():
        return list(x.reshape(-1).unbind(0))
    return numbers_of(x)


def place_of(x: Tensor) -> Any:
    """The same of a tensor of one element."""
    return x.reshape(()) if is_exporting() else number_of(x)


def is_open(x: Any) -> bool:
    """Whether a number, or what was asked of one, is known only when an exported graph runs: it hangs on values, as
    how many boxes are left does.
    """
    if not isinstance(x, torch.SymInt | torch.SymBool):
        return False
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(x))


def tensor_of(numbers: Sequence[Any], shape: Sequence[int], dtype: torch.dtype, device: Any = None) -> Tensor:
    """A small tensor of numbers, given in a row."""
    items = [torch.scalar_tensor(number, dtype=dtype, device=device) for number in numbers]
    if not items:
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    return torch.stack(items).reshape(tuple(shape))


def rounded(x: Any) -> Any:
    """A real number as float32 holds it: Paddle computes sizes in that type."""
    return float(np.float32(x)) if isinstance(x, float) else x


def quotient(x: Any, y: Any) -> Any:
    """x / y of integers, cut off towards zero."""
    if isinstance(x, int) and isinstance(y, int) and not isinstance(x, torch.SymInt):
        if y == 0:
            raise ProgramError("a size is divided by 0")
        return math.trunc(x / y) if abs(x) < 1 << 52 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    return x // y


def ratio(x: Any, y: Any) -> Any:
    """x / y of real numbers."""
    if isinstance(y, int | float) and y == 0:
        raise ProgramError("a size is divided by 0")
    return rounded(x / y)


def real_add(x: Any, y: Any) -> Any:
    """x + y of real numbers."""
    return rounded(x + y)


def real_subtract(x: Any, y: Any) -> Any:
    """x - y of real numbers."""
    return rounded(x - y)


def real_multiply(x: Any, y: Any) -> Any:
    """x * y of real numbers."""
    return rounded(x * y)


def floor_divide(x: Any, y: Any) -> Any:
    """x / y, rounded down."""
    if isinstance(y, int | float) and y == 0:
        raise ProgramError("a size is divided by 0")
    return x // y


def modulo(x: Any, y: Any) -> Any:
    """What the division leaves, with the sign of y."""
    if isinstance(y, int | float) and y == 0:
        raise ProgramError("a size is divided by 0")
    return x % y


def round_down(x: Any) -> Any:
    """The integer below, as a real number."""
    return torch.sym_float(math.floor(x))


def round_up(x: Any) -> Any:
    """The integer above, as a real number."""
    return torch.sym_float(math.ceil(x))


def to_bool(x: Any) -> Any:
    """Whether x is not 0."""
    return x != 0 if not isinstance(x, bool | torch.SymBool) else x


INTEGER: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": quotient,
    "floor_divide": floor_divide,
    "remainder": modulo,
    "maximum": torch.sym_max,
    "minimum": torch.sym_min,
}
REAL: dict[str, Callable[[Any, Any], Any]] = {
    **INTEGER,
    "add": real_add,
    "subtract": real_subtract,
    "multiply": real_multiply,
    "divide": ratio,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less_than": operator.lt,
    "less_equal": operator.le,
    "greater_than": operator.gt,
    "greater_equal": operator.ge,
}
LOGIC: dict[str, Callable[[Any, Any], Any]] = {"logical_and": operator.and_, "logical_or": operator.or_}
