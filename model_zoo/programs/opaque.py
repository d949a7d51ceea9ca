"""Functions that an exported graph holds as one operation each, which this package computes when the graph runs.

How much they work on hangs on values (how many boxes are left, how far a region reaches): PyTorch cannot look inside. A
graph that has one of them runs where this package has been imported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])
NAMESPACE = "paddle2torch"

is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether `torch.export` is looking; PyTorch 2.4 tells that no nearer."""


def one_operation(shapes: Callable[..., Any]) -> Callable[[F], F]:
    """Let a function of tensors and numbers be one operation under `torch.export`, which has all arguments in a row and
    no defaults: what reads a graph finds each of them in its place.

    shapes: takes what the function takes and gives empty tensors of the shapes and types that it returns.
    """

    def enter(function: F) -> F:
        name = function.__name__
        # PyTorch 2.4 reads no annotations that are text, as they are where they are postponed.
        signature = inspect.signature(function, eval_str=True)
        row = [
            item.replace(kind=item.POSITIONAL_OR_KEYWORD, default=item.empty) for item in signature.parameters.values()
        ]

        def in_a_row(inner: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *arguments: inner(**dict(zip(signature.parameters, arguments, strict=True)))

        typed: Any = in_a_row(function)
        typed.__signature__ = signature.replace(parameters=row)
        torch.library.custom_op(f"{NAMESPACE}::{name}", typed, mutates_args=()).register_fake(in_a_row(shapes))
        held = getattr(getattr(torch.ops, NAMESPACE), name)

        @functools.wraps(function)
        def either(*arguments: Any, **options: Any) -> Any:
            if not is_exporting():
                return function(*arguments, **options)
            given = signature.bind(*arguments, **options)
            given.apply_defaults()
            return held(*given.arguments.values())

        return cast("F", either)

    return enter


def open_size() -> Any:
    """A size that is known when the graph runs, for `shapes`."""
    return torch.library.get_ctx().new_dynamic_size()
