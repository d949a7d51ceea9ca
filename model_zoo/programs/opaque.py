"""Functions that an exported graph holds as one operation each, which this package computes when the graph runs.

How much they work on hangs on values (how many boxes are left, how far a region reaches): PyTorch cannot look inside. A
graph that has one of them runs where this package has been imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
NAMESPACE = "paddle2torch"


def one_operation(shapes: Callable[..., Any]) -> Callable[[F], F]:
    """Let a function of tensors and numbers be one operation under `torch.export`.

    shapes: takes what the function takes and gives empty tensors of the shapes and types that it returns.
    """

    def enter(function: F) -> F:
        name = function.__name__
        torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=()).register_fake(shapes)
        held = getattr(getattr(torch.ops, NAMESPACE), name)

        @functools.wraps(function)
        def either(*arguments: Any, **options: Any) -> Any:
            return (held if torch.compiler.is_exporting() else function)(*arguments, **options)

        return either  # type: ignore[return-value]

    return enter


def open_size() -> Any:
    """A size that is known when the graph runs, for `shapes`."""
    return torch.library.get_ctx().new_dynamic_size()
