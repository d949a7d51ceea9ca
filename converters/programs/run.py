"""Run a Paddle program operation by operation, and keep what each of its values is.

Only operations that PP-OCR networks have are run, and none that would make more values than such a network does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from paddle2torch.converters.elements import Budget, broadcast, product, windows
from paddle2torch.converters.programs.convert import read_graph
from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.graph import Graph, Node
from paddle2torch.model_zoo.programs.modules import PaddleConv, PaddleConvTranspose
from paddle2torch.model_zoo.programs.state import fill, tensors_of, to_module
from paddle2torch.model_zoo.programs.table import ProgramError

_LAYERS = """
add assign batch_norm bilinear_interp builtin.slice builtin.split cast clip combine concat conv2d conv2d_transpose
deformable_conv depthwise_conv2d depthwise_conv2d_transpose divide dropout expand expand_as flatten full
full_batch_size_like full_int_array full_with_tensor gelu grid_sample hardsigmoid hardswish layer_norm matmul max
mean multiply nearest_interp pool2d pow relu relu6 reshape rnn scale shape shape64 sigmoid silu slice softmax split
split_with_num sqrt square squeeze stack subtract swish tanh tile transpose unsqueeze unstack
"""
_SPLINES = "arange assign_value elementwise_pow eye inverse linspace log meshgrid p_norm"
KINDS = frozenset((*_LAYERS.split(), *_SPLINES.split()))
"""Kinds that are run: those of all networks, and those of which a spatial transformer makes the matrix of a spline."""
SIXTH = 1 / 6


def run_program(
    path: Path, arrays: Mapping[str, np.ndarray], bfloat16: frozenset[str], images: Tensor
) -> dict[str, Tensor]:
    """What the program in the file `path` computes of `images`, float64 (N, 3, H, W): each value, by its name.

    `arrays` are its parameters; those named in `bfloat16` are bits as uint16. All is computed in float64. Raises
    `ProgramError` for operations that no PP-OCR network has, and for values of more elements than such a network makes.
    """
    graph = read_graph(path)
    if strange := sorted({node.kind for node in graph.walk()} - KINDS):
        raise ProgramError(f"operations that no PP-OCR network has: {', '.join(strange)[:200]}")
    built = build(_with_whole_slopes(graph), torch.float64)
    fill(built, to_module(built.rows, tensors_of(arrays, bfloat16)))
    recorder = _Recorder(built.module)
    recorder.run(images)
    return recorder.values


def _with_whole_slopes(graph: Graph) -> Graph:
    """`graph` with slopes of 1/6, which Paddle writes with six digits, in full: rounding grows from layer to layer."""

    def whole(node: Node) -> Node:
        slope = node.attributes.get("slope")
        if node.kind != "hardsigmoid" or not isinstance(slope, float) or not math.isclose(slope, SIXTH, rel_tol=1e-5):
            return node
        return replace(node, attributes={**node.attributes, "slope": SIXTH})

    return replace(graph, block=replace(graph.block, nodes=tuple(map(whole, graph.block.nodes))))


class _Recorder(fx.Interpreter):
    """Runs a module and keeps what its nodes give, under the names that the program has for them."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}
        self.budget = Budget()

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        tensors = [item for item in _flat((args, kwargs)) if isinstance(item, Tensor)]
        if tensors and n.op == "call_module":
            layer = self.fetch_attr(str(n.target))
            assert isinstance(layer, nn.Module)
            self.budget.take(_most_of_layer(layer, tensors), n.name)
        elif n.op == "call_function":
            most = GROWING.get(getattr(n.target, "__name__", ""), _largest)
            self.budget.take(most(tensors, {**kwargs, "operands": args}), n.name)
        result = super().run_node(n)
        if isinstance(result, Tensor) and "value" in n.meta:
            self.values[n.meta["value"]] = result
        return result


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


Settings = Mapping[str, Any]


def _largest(tensors: Sequence[Tensor], settings: Settings) -> float:
    return max((tensor.numel() for tensor in tensors), default=0)


def _together(tensors: Sequence[Tensor], settings: Settings) -> float:
    return sum(tensor.numel() for tensor in tensors)


def _broadcast(tensors: Sequence[Tensor], settings: Settings) -> float:
    if len(tensors) < 2:
        return _largest(tensors, settings)
    a, b = (list(tensor.shape) for tensor in tensors[:2])
    axis = settings.get("axis", -1)
    if axis != -1:
        b = [1] * axis + b + [1] * (len(a) - axis - len(b))
    return broadcast(a, b)


def _product(tensors: Sequence[Tensor], settings: Settings) -> float:
    return product(tensors[0].shape, tensors[1].shape)


def _resized(tensors: Sequence[Tensor], settings: Settings) -> float:
    x = tensors[0]
    scales = [abs(item) for item in _flat(settings) if isinstance(item, float)]
    sizes = sorted(abs(item) for item in _flat(settings) if isinstance(item, int))
    given = x.shape[0] * x.shape[1] * math.prod(sizes[-2:])
    return max(windows(x, x.shape[1], max(scales, default=1), 0), given)


def _filled(tensors: Sequence[Tensor], settings: Settings) -> float:
    sizes = [max(1, abs(item)) for item in _flat(settings) if isinstance(item, int) and not isinstance(item, bool)]
    return math.prod(sizes) * max((tensor.shape[0] for tensor in tensors if tensor.dim()), default=1)


def _padded(tensors: Sequence[Tensor], settings: Settings) -> float:
    pads = [abs(item) for item in _flat(settings.get("paddings", ())) if isinstance(item, int)]
    return windows(tensors[0], tensors[0].shape[1], 1, 2 * max(pads, default=0))


def _deformed(tensors: Sequence[Tensor], settings: Settings) -> float:
    pads = [abs(item) for item in _flat(settings.get("paddings", ())) if isinstance(item, int)]
    return windows(tensors[0], max(tensors[2].shape[:2]), 1, 2 * max(pads, default=0)) * math.prod(tensors[2].shape[2:])


def _meshed(tensors: Sequence[Tensor], settings: Settings) -> float:
    return len(tensors) * math.prod(max(1, tensor.numel()) for tensor in tensors)


def _repeated(tensors: Sequence[Tensor], settings: Settings) -> float:
    return max(_filled((), settings), tensors[0].numel()) * max((tensor.numel() for tensor in tensors), default=1)


GROWING: Mapping[str, Callable[[Sequence[Tensor], Settings], float]] = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide"), _broadcast),
    **dict.fromkeys(("concat", "stack", "combine", "tensor_of"), _together),
    "matmul": _product,
    **dict.fromkeys(("nearest_interp", "bilinear_interp"), _resized),
    "pool2d": _padded,
    **dict.fromkeys(("arange", "eye", "full_batch_size_like", "full_with_tensor", "linspace"), _filled),
    "meshgrid": _meshed,
    "deformable_conv": _deformed,
    **dict.fromkeys(("expand", "expand_as", "tile"), _repeated),
}
"""How many elements an operation can make, by the function that computes it; all others make no more than they read."""


def _most_of_layer(layer: nn.Module, tensors: Sequence[Tensor]) -> float:
    x = tensors[0]
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        padding = 0 if isinstance(layer.padding, str) else max(layer.padding)
        turned = isinstance(layer, nn.ConvTranspose2d)
        extent = max(d * k for d, k in zip(layer.dilation, layer.kernel_size, strict=True)) if turned else 0
        return windows(x, layer.out_channels, max(layer.stride) if turned else 1, 2 * padding + extent)
    if isinstance(layer, PaddleConv | PaddleConvTranspose):
        turned = isinstance(layer, PaddleConvTranspose)
        settings = {key: [abs(n) for n in _flat(value) if isinstance(n, int)] for key, value in layer.settings.items()}
        more = sum(max(settings.get(key, ()), default=0) for key in ("paddings", "output_padding"))
        times = max(settings.get("strides", ()), default=1) if turned else 1
        channels = layer.weight.shape[1] * layer.settings["groups"] if turned else layer.weight.shape[0]
        extent = max(layer.weight.shape[2:], default=0) * max(settings.get("dilations", ()), default=1)
        return windows(x, channels, times, 2 * more + extent)
    if isinstance(layer, nn.Linear):
        return x.numel() / max(1, layer.in_features) * layer.out_features
    return _largest(tensors, {})
