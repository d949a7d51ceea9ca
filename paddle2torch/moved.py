"""Names that stood elsewhere in paddle2torch 0.1: they work for one minor version, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

UNTIL = "0.3"


def moved(module: str, *names: str) -> Callable[[str], Any]:
    """A `__getattr__` for `module`, in which 0.1 had `names`: they are names of the package itself now."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is paddle2torch.{name}, and goes from here with paddle2torch {UNTIL}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module("paddle2torch"), name)

    return find
