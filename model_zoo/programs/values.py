"""What a value of a program is while its graph is built: known, sizes, or a node; and where a parameter went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paddle2torch.model_zoo.programs import numbers
from paddle2torch.model_zoo.programs.table import ProgramError


@dataclass(frozen=True)
class Known:
    """A constant."""

    tensor: Tensor


@dataclass(frozen=True)
class Sizes:
    """Numbers that depend on shapes: an array of Python numbers and of nodes that make one."""

    array: np.ndarray[Any, Any]
    dtype: torch.dtype

    @property
    def elements(self) -> list[Any]:
        return list(self.array.reshape(-1))


@dataclass(frozen=True)
class Row:
    """Where a parameter of the program went: a key of the state dict, and whether it is transposed there."""

    key: str
    parameter: str
    transposed: bool = False
    shape: tuple[int, ...] | None = None


def unwrapped(value: Any) -> Any:
    if isinstance(value, Known):
        return value.tensor
    return [unwrapped(item) for item in value] if isinstance(value, list) else value


def plain_numbers(value: Any) -> Any:
    if isinstance(value, Known):
        return numbers.numbers_of(value.tensor)
    if isinstance(value, Sizes):
        return value.elements if value.array.ndim else value.elements[0]
    if isinstance(value, list):
        return [plain_number(item) for item in value]
    return value


def plain_number(value: Any) -> Any:
    made = plain_numbers(value)
    while isinstance(made, list):
        if len(made) != 1:
            raise ProgramError(f"{len(made)} numbers stand where one belongs")
        made = made[0]
    return made


def is_known(value: Any) -> bool:
    return value is None or isinstance(value, Known) or (isinstance(value, list) and all(map(is_known, value)))


def has_sizes(value: Any) -> bool:
    return isinstance(value, Sizes) or (isinstance(value, list) and any(map(has_sizes, value)))


def wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Known(value)
    return [wrapped(item) for item in value] if isinstance(value, list) else value


def count_elements(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(count_elements, value)) if isinstance(value, list | tuple) else 0
