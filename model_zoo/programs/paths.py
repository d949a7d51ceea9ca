"""Names of layers and of what generated code calls: nothing from a file gets into code as it is."""

from __future__ import annotations

import keyword
import re

from torch import fx, nn


def identifier(text: str, default: str) -> str:
    """A name for Python code: what is in a file never gets into code as it is."""
    name = re.sub(r"[^0-9a-zA-Z_]", "_", text)[:120]
    if not name or name[0].isdigit():
        name = f"{default}_{name}" if name else default
    # Names that modules or generated code have already.
    taken = keyword.iskeyword(name) or hasattr(fx.GraphModule, name) or name in _RESERVED
    return f"{name}_" if taken else name


_RESERVED = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "training", "graph", "fx_pytree", "pytree"})


def dotted(path: str) -> str:
    return ".".join(identifier(part, "layer") for part in re.split(r"[/.]", path) if part)


def put(root: nn.Module, path: str, value: nn.Module | nn.Parameter) -> None:
    """Put a parameter or a module at a dotted path."""
    *parents, last = path.split(".")
    for name in parents:
        child = root._modules.get(name)
        if child is None:
            child = nn.Module()
            root.add_module(name, child)
        root = child
    if isinstance(value, nn.Module):
        root.add_module(last, value)
    else:
        root.register_parameter(last, value)
