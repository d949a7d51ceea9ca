"""How many numbers a program may make while it is run beside a network: no file makes us allocate more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError

AT_MOST = 1 << 24
"""Of one value; the largest of an official program has 160,000 on an image of 64 x 64."""
IN_ALL_AT_MOST = 1 << 29


class Budget:
    """What is left of them."""

    def __init__(self) -> None:
        self.made = 0

    def take(self, elements: float, what: str) -> None:
        """Count a value that is about to be made. Raises `ProgramError`, with `what` makes it, for too many."""
        self.made += int(min(elements, 2 * AT_MOST))
        if elements > AT_MOST or self.made > IN_ALL_AT_MOST:
            raise ProgramError(f"{what} makes more values of a small image than any PP-OCR network")


def broadcast(a: Sequence[int], b: Sequence[int]) -> int:
    """Elements of what two shapes broadcast to, their last axes together; at least that where they do not fit."""
    length = max(len(a), len(b))
    sides = zip([1] * (length - len(a)) + list(a), [1] * (length - len(b)) + list(b), strict=True)
    return math.prod(max(sizes) for sizes in sides)


def product(x: Sequence[int], y: Sequence[int]) -> int:
    """Elements of a matrix product of these shapes, of rows by columns, whichever are transposed: at most."""
    if min(len(x), len(y)) < 2:
        return max(math.prod(x), math.prod(y))
    return broadcast(x[:-2], y[:-2]) * max(x[-2:]) * max(y[-2:])


def windows(x: Tensor, channels: int, times: float, more: float) -> float:
    """Elements where each axis of an image becomes `times` as long after `more` was added."""
    return x.shape[0] * channels * math.prod((size + more) * times for size in x.shape[2:])
