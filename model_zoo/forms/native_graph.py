"""The operators of `model_zoo.forms.native` in graphs: what the exporter and the compiler have to be told about them.

They must have been loaded before (`paddle2torch.compiled.kernel_library`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from paddle2torch.model_zoo.forms.operators import (
    HALVED,
    LAYOUT,
    NO_TAIL,
    OPERATORS,
    POINTWISE,
    TAIL,
    c_signature,
)

LARGEST_JOINED = 3
"""The largest kernel of a separable convolution that is done together with the one before."""

MOST_WEIGHTS = 40000
"""Weights of a convolution that is done together with the one before: all are read again for each line."""

PLACES = {name: place for place, name in enumerate(OPERATORS["convolve"])}
"""Where a call of `convolve` has each of its arguments."""


def merge(program: torch.export.ExportedProgram) -> None:
    """Let our convolutions do in their graph what comes before them, where nothing else needs it: a depthwise
    convolution, or a gate (N, C, 1, 1) that a map is multiplied by.
    """
    operators = torch.ops.paddle2torch
    at = PLACES
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


def join(program: torch.export.ExportedProgram) -> None:
    """Let convolutions that follow on one another be one call, which keeps only a few lines of the maps between them.

    `merge` must have been before. The first may be any, the others are pointwise, or separable with a kernel of 3: with
    a larger one and more channels, computing takes longer than fetching, and strips beside each other share too much.
    Pointwise ones alone are joined where the map between them is the largest.
    """
    graph = program.graph
    joined: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node in joined or node.target != torch.ops.paddle2torch.convolve.default:
            continue
        nodes = [node]
        while (following := _follower(nodes[-1])) is not None:
            nodes.append(following)
        if len(nodes) == 1 or (all(_argument(each, "geometry") == POINTWISE for each in nodes) and not _widens(nodes)):
            continue
        joined.update(nodes)
        tensors: list[Any] = []
        layout: list[int] = []
        tails: list[float] = []
        for each in nodes[1:]:
            names = ("weight", "bias", "depth_weight", "depth_bias", "weight_scale", "steps")
            *always, scale, steps = (_argument(each, name) for name in names)
            separable = always[2] is not None
            # A list cannot hold None.
            tensors += [always[0] if tensor is None else tensor for tensor in always]
            tensors += [] if scale is None else [scale, steps]
            layout += [_argument(each, "outputs"), int(separable), *_argument(each, "geometry")]
            tails += [*_argument(each, "depth_tail"), *_argument(each, "tail"), _argument(each, "offset")]
        last = nodes[-1]
        arguments = {**dict(zip(PLACES, node.args, strict=True)), "then": tensors, "layout": layout, "tails": tails}
        last.args = tuple(arguments[name] for name in PLACES)
        for each in reversed(nodes[:-1]):
            graph.erase_node(each)
    graph.lint()
    program.graph_module.recompile()


def add(program: torch.export.ExportedProgram) -> None:
    """Let convolutions in their graph add to their result what is added to it next: a map, or one enlarged to its size.

    `join` must have been before.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.target != torch.ops.aten.add.Tensor or len(node.args) != 2 or node.kwargs:
            continue
        for conv, added in (node.args, node.args[::-1]):
            if not _can_add(conv, added):
                continue
            if added.target == torch.ops.aten.upsample_nearest2d.vec and added.args[2] == [2.0, 2.0]:
                added = added.args[0]
            arguments = list(conv.args)
            arguments[PLACES["added"]] = added
            with graph.inserting_before(node):
                made = graph.call_function(conv.target, tuple(arguments))
            made.meta.update(node.meta)
            node.replace_all_uses_with(made)
            graph.erase_node(node)
            graph.erase_node(conv)
            break
    graph.eliminate_dead_code()
    graph.lint()
    program.graph_module.recompile()


def _can_add(conv: Any, added: Any) -> bool:
    """Whether it is a convolution that can add that map to its result, which nothing else needs."""
    if not isinstance(conv, fx.Node) or not isinstance(added, fx.Node) or len(conv.users) > 1:
        return False
    if conv.target != torch.ops.paddle2torch.convolve.default or _argument(conv, "added") is not None:
        return False
    tails = _argument(conv, "tails")
    tail = tails[-len(TAIL) - 1 : -1] if tails else _argument(conv, "tail")
    result, value = conv.meta["val"], added.meta["val"]
    fits = isinstance(value, Tensor) and value.dtype == result.dtype and str(value.shape) == str(result.shape)
    return fits and list(tail) == NO_TAIL and value.stride(1) == 1


def _argument(node: fx.Node, name: str) -> Any:
    """What our convolution is given."""
    return node.args[PLACES[name]]


def _widens(nodes: Sequence[fx.Node]) -> bool:
    """Whether the first of two convolutions gives more channels than it takes, and the second takes them away again:
    the map between is the largest of the three.
    """
    inputs = _argument(nodes[0], "x").meta["val"].shape[1]
    first, *_, last = (_argument(node, "outputs") for node in nodes)
    return len(nodes) == 2 and bool(first > max(inputs, last))


def _follower(node: fx.Node) -> fx.Node | None:
    """The convolution that can be done together with this one, whose result nothing else needs."""
    if len(node.users) != 1:
        return None
    following = next(iter(node.users))
    if following.target != torch.ops.paddle2torch.convolve.default or _argument(following, "x") is not node:
        return None
    if any(_argument(following, name) is not None for name in ("gate", "coarse")):
        return None
    geometry = _argument(following, "geometry")
    if geometry != POINTWISE and (_argument(following, "depth_weight") is None or geometry[0] > LARGEST_JOINED):
        return None
    before, weight = (_argument(each, "weight").meta["val"] for each in (node, following))
    same = weight.dim() == before.dim() == 1 and weight.dtype == before.dtype
    return following if same and len(weight) <= MOST_WEIGHTS else None


def _is_gated(product: fx.Node) -> bool:
    """Whether it is a map (N, C, H, W) with the channels last by a gate (N, C, 1, 1)."""
    x, gate = (factor.meta["val"] if isinstance(factor, fx.Node) else None for factor in product.args)
    if not isinstance(x, Tensor) or not isinstance(gate, Tensor) or x.dim() != 4 or gate.dim() != 4:
        return False
    return x.stride(1) == 1 and gate.shape[2:] == (1, 1) and gate.shape[:2] == x.shape[:2]


def describe_operators() -> None:
    """Tell the exporter what the operators return, for sizes that it does not know."""
    for name, fake in FAKES.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"paddle2torch::{name}", "Meta"):
            torch.library.register_fake(f"paddle2torch::{name}", fake)


def _attend(qkv: Tensor, heads: int, scale: float) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


def _classify(x: Tensor, weight: Tensor, bias: Tensor, classes: int, results: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], results.shape[0], dtype=torch.float32)


def _convolve(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    given = dict(zip(PLACES, (x, weight, *arguments), strict=True))
    outputs, geometry, layout = given["outputs"], given["geometry"], given["layout"]
    half = torch.bfloat16 in (x.dtype, weight.dtype)  # an image is float32, and so are weights of each image's own
    result = _result(x, outputs, geometry, torch.bfloat16 if half else torch.float32)
    for first in range(0, len(layout), len(LAYOUT)):
        outputs, _, *geometry = layout[first : first + len(LAYOUT)]
        result = _result(result, outputs, geometry, result.dtype)
    return result


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor, geometry: Sequence[int], tail: Sequence[float]) -> Tensor:
    return _result(x, x.shape[1], geometry, x.dtype)


def _mean_of_channels(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.float32)


def _spread(x: Tensor, factor: int) -> Tensor:
    return x.new_empty(x.shape[0], 1, x.shape[2] * factor, x.shape[3] * factor, dtype=torch.float32)


def _join_pooled(x: Tensor, y: Tensor) -> Tensor:
    return _result(x, x.shape[1] + y.shape[1], POINTWISE, x.dtype)


def _stem(x: Tensor, tensors: Sequence[Tensor], outputs: Sequence[int], tails: Sequence[float]) -> Tensor:
    halved = _result(x, outputs[0], HALVED, tensors[0].dtype)
    return _result(halved, outputs[-1], HALVED, tensors[0].dtype)


def _result(x: Tensor, outputs: int, geometry: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A map with the channels last."""
    before, after = geometry[4:6], geometry[-2:]
    sizes = [
        (size + before[axis] + after[axis] - geometry[axis]) // geometry[2 + axis] + 1
        for axis, size in enumerate(x.shape[2:])
    ]
    return x.new_empty(x.shape[0], *sizes, outputs, dtype=dtype).permute(0, 3, 1, 2)


FAKES: Mapping[str, Callable[..., Any]] = {
    "attend": _attend,
    "classify": _classify,
    "convolve": _convolve,
    "depthwise": _depthwise,
    "join_pooled": _join_pooled,
    "mean_of_channels": _mean_of_channels,
    "spread": _spread,
    "stem": _stem,
}


def compiler_options() -> dict[str, Any]:
    """What lets compiled code call the operators' own functions (`kernels/operators.cpp`), not PyTorch's dispatcher."""
    return {
        "aot_inductor.custom_ops_to_c_shims": {
            getattr(torch.ops.paddle2torch, name).default: [c_signature(name)] for name in OPERATORS
        }
    }
