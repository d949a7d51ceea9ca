"""The operators of the kernels (`kernels/operators.cpp`): what each is given, declared once.

`compiled.kernel_library` compares this with the library when it is loaded; calls, graphs and the C signatures that
compiled code uses are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.errors import ConfigError

OPERATORS: Mapping[str, Mapping[str, str]] = {
    "convolve": {
        "x": "Tensor",
        "weight": "Tensor",
        "bias": "Tensor",
        "weight_scale": "Tensor?",
        "depth_weight": "Tensor?",
        "depth_bias": "Tensor?",
        "gate": "Tensor?",
        "steps": "Tensor?",
        "offset": "float",
        "coarse": "Tensor?",
        "coarser": "Tensor?",
        "coarsest": "Tensor?",
        "added": "Tensor?",
        "outputs": "int",
        "geometry": "int[]",
        "depth_tail": "float[]",
        "tail": "float[]",
        "then": "Tensor[]",
        "layout": "int[]",
        "tails": "float[]",
    },
    "depthwise": {"x": "Tensor", "weight": "Tensor", "bias": "Tensor", "geometry": "int[]", "tail": "float[]"},
    "attend": {"qkv": "Tensor", "heads": "int", "scale": "float"},
    "classify": {"x": "Tensor", "weight": "Tensor", "bias": "Tensor", "classes": "int", "results": "Tensor"},
    "mean_of_channels": {"x": "Tensor"},
    "spread": {"x": "Tensor", "factor": "int"},
    "join_pooled": {"x": "Tensor", "y": "Tensor"},
    "stem": {"x": "Tensor", "tensors": "Tensor[]", "outputs": "int[]", "tails": "float[]"},
}
"""Arguments of each in their order, with their types as PyTorch's schemas write them. Each returns one tensor."""

GEOMETRY = ("kernel height", "kernel width", "stride down", "stride across", "padding above", "padding left")
"""What a geometry has; then the padding below and to the right, of a convolution where these are others."""
TAIL = ("activation", "scale", "shift")
LAYOUT = ("outputs", "separable", *GEOMETRY)
"""What `layout` has of each convolution that follows in the same call."""
TAILS = (*("depthwise " + name for name in TAIL), *TAIL, "offset")
"""What `tails` has of each."""

NO_TAIL = [0.0, 1.0, 0.0]
POINTWISE = [1, 1, 1, 1, 0, 0]
HALVED = [3, 3, 2, 2, 1, 1]
"""Of a 3x3 convolution that halves its map."""

UNUSED: Mapping[str, Any] = {
    **{name: None for name, kind in OPERATORS["convolve"].items() if kind == "Tensor?"},
    "offset": 0.0,
    "depth_tail": NO_TAIL,
    "tail": NO_TAIL,
    # Convolutions that follow in the same call are found in the graph (`native_graph.join`).
    "then": [],
    "layout": [],
    "tails": [],
}
"""Values of the arguments of `convolve` that a convolution does without."""

_C_TYPES = {
    "Tensor": "AtenTensorHandle",
    "Tensor?": "AtenTensorHandle*",
    "Tensor[]": "const AtenTensorHandle*, int64_t",
    "int": "int64_t",
    "int[]": "const int64_t*, int64_t",
    "float": "double",
    "float[]": "const double*, int64_t",
}


def convolve(**given: Any) -> Tensor:
    """Call the operator with its arguments by name; those that are left out are of no use to this convolution."""
    arguments = {**UNUSED, **given}
    if len(arguments) != len(OPERATORS["convolve"]):
        raise TypeError(f"convolve has no arguments {sorted(arguments.keys() - OPERATORS['convolve'].keys())}")
    result: Tensor = torch.ops.paddle2torch.convolve(*[arguments[name] for name in OPERATORS["convolve"]])
    return result


def schema(name: str) -> str:
    """The operator's schema, as PyTorch prints it."""
    arguments = ", ".join(f"{kind} {argument}" for argument, kind in OPERATORS[name].items())
    return f"paddle2torch::{name}({arguments}) -> Tensor"


def c_signature(name: str) -> str:
    """The declaration of the function that compiled code calls in place of PyTorch's dispatcher."""
    types = [_C_TYPES[kind] for kind in OPERATORS[name].values()]
    return f"AOTITorchError aoti_torch_cpu_{name}({', '.join((*types, 'AtenTensorHandle*'))})"


def check_operators() -> None:
    """Raise `ConfigError` where the library that is loaded declares its operators otherwise than this module."""
    for name in OPERATORS:
        found = str(getattr(torch.ops.paddle2torch, name).default._schema)
        if found != schema(name):
            raise ConfigError(f"the kernels that are loaded have {found}, not {schema(name)}: start a new process")
