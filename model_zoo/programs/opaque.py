"""Functions that an exported graph holds as one operation each, which this package computes when the graph runs.

How much they work on hangs on values (how many boxes are left, how far a region reaches): PyTorch cannot look inside. A
graph that has one of them runs where this package has been imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
NAMESPACE = "paddle2torch"

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether `torch.export` is looking; PyTorch 2.4 tells that no nearer."""


def one_operation(shapes: Callable[..., Any]) -> Callable[[F], F]:
    """Let a function of tensors and numbers be one operation under `torch.export`.

    shapes: takes what the function takes and gives empty tensors of the shapes and types that it returns.
    """

    def enter(function: F) -> F:
        name = function.__name__
        # PyTorch 2.4 reads no annotations that are text, as they are where they are postponed.
        typed = functools.wraps(function)(lambda *arguments, **options: function(*arguments, **options))
        typed.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
        torch.library.custom_op(f"{NAMESPACE}::{name}", typed, mutates_args=()).register_fake(shapes)
        held = getattr(getattr(torch.ops, NAMESPACE), name)

        @functools.wraps(function)
        def either(*arguments: Any, **options: Any) -> Any:
            return (held if is_exporting() else function)(*arguments, **options)

        return either  # type: ignore[return-value]

    return enter


def open_size() -> Any:
    """A size that is known when the graph runs, for `shapes`."""
    return torch.library.get_ctx().new_dynamic_size()
