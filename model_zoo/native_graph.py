"""The operators of `model_zoo.native` in graphs: what the exporter and the compiler have to be told about them.

They must have been loaded before (`paddle2torch.kernels`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from paddle2torch.model_zoo.native import POINTWISE


def merge(program: torch.export.ExportedProgram) -> None:
    """Let convolutions of ours do in their graph what comes before them, where nothing else needs it: a depthwise
    convolution, or a gate (N, C, 1, 1) that a map is multiplied by.
    """
    operators = torch.ops.paddle2torch
    at = {argument.name: index for index, argument in enumerate(operators.convolve.default._schema.arguments)}
    graph = program.graph
    for node in list(graph.nodes):
        if node.target != operators.convolve.default:
            continue
        arguments: list[Any] = list(node.args)
        x = arguments[at["x"]]
        taken = arguments[at["depth_weight"]] is not None or arguments[at["gate"]] is not None
        if not isinstance(x, fx.Node) or len(x.users) > 1 or taken:
            continue
        if x.target == operators.depthwise.default and list(arguments[at["geometry"]]) == POINTWISE:
            for name, value in zip(("x", "depth_weight", "depth_bias", "geometry", "depth_tail"), x.args, strict=True):
                arguments[at[name]] = value
        elif x.target == torch.ops.aten.mul.Tensor and arguments[at["steps"]] is None and _is_gated(x):
            arguments[at["x"]], gate = x.args
            with graph.inserting_before(node):
                arguments[at["gate"]] = graph.call_function(torch.ops.aten.to.dtype, (gate, torch.float32))
        else:
            continue
        node.args = tuple(arguments)
        graph.erase_node(x)
    graph.lint()
    program.graph_module.recompile()


def _is_gated(product: fx.Node) -> bool:
    """Whether it is a map (N, C, H, W) with the channels last by a gate (N, C, 1, 1)."""
    x, gate = (factor.meta["val"] if isinstance(factor, fx.Node) else None for factor in product.args)
    if not isinstance(x, Tensor) or not isinstance(gate, Tensor) or x.dim() != 4 or gate.dim() != 4:
        return False
    return x.stride(1) == 1 and gate.shape[2:] == (1, 1) and gate.shape[:2] == x.shape[:2]


def describe_operators() -> None:
    """Tell the exporter what the operators give, for sizes that it does not know."""
    for name, fake in FAKES.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"paddle2torch::{name}", "Meta"):
            torch.library.register_fake(f"paddle2torch::{name}", fake)


def _attend(qkv: Tensor, heads: int, scale: float) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _convolve(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    *_, outputs, geometry, _, _ = arguments
    half = torch.bfloat16 in (x.dtype, weight.dtype)  # an image is float32, and so are weights of each image's own
    return _result(x, outputs, geometry, torch.bfloat16 if half else torch.float32)


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, geometry: Sequence[int], tail: Sequence[float]) -> Tensor:
    return _result(x, x.shape[1], geometry, x.dtype)


def _mean_of_channels(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.float32)


def _result(x: Tensor, outputs: int, geometry: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A map with the channels last."""
    sizes = [
        (size + 2 * geometry[4 + axis] - geometry[axis]) // geometry[2 + axis] + 1
        for axis, size in enumerate(x.shape[2:])
    ]
    return x.new_empty(x.shape[0], *sizes, outputs, dtype=dtype).permute(0, 3, 1, 2)


FAKES: Mapping[str, Callable[..., Any]] = {
    "attend": _attend,
    "convolve": _convolve,
    "depthwise": _depthwise,
    "mean_of_channels": _mean_of_channels,
}


def compiler_options() -> dict[str, Any]:
    """What lets compiled code call the operators' own functions (`kernels/operators.cpp`), not PyTorch's dispatcher."""
    tensor, maybe, result = "AtenTensorHandle", "AtenTensorHandle*", "AtenTensorHandle*"
    sizes, numbers = "const int64_t*, int64_t", "const double*, int64_t"
    arguments = {
        "attend": (tensor, "int64_t", "double"),
        "convolve": (*[tensor] * 3, *[maybe] * 5, "double", *[maybe] * 3, "int64_t", sizes, numbers, numbers),
        "depthwise": (*[tensor] * 3, sizes, numbers),
        "mean_of_channels": (tensor,),
    }
    return {
        "aot_inductor.custom_ops_to_c_shims": {
            getattr(torch.ops.paddle2torch, name).default: [
                f"AOTITorchError aoti_torch_cpu_{name}({', '.join((*types, result))})"
            ]
            for name, types in arguments.items()
        }
    }
