"""Operations of ONNX Runtime's optimiser, as the operations of ONNX that they were made of.

`com.microsoft` is the domain of what its session writes at ORT_ENABLE_EXTENDED. What is not here is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paddle2torch.converters.onnx_files.model import Node, Tensor

DOMAIN = "com.microsoft"


def expand(node: Node, makers: Mapping[str, str]) -> tuple[Node, ...] | None:
    """The nodes in place of `node`, the last of which gives its output; None where it is none of those known here.

    `makers` has the kind of the node that makes each value before it.
    """
    if not node.domain:
        return (node,)
    if node.domain != DOMAIN:
        return None
    if node.kind == "SkipLayerNormalization":
        return _norm_of_sum(node, makers)
    made = _EXPANSIONS.get(node.kind)
    return None if made is None else made(node)


def _node(
    node: Node, kind: str, inputs: tuple[str, ...], output: str, attributes: Mapping[str, Any] | None = None
) -> Node:
    return Node(kind, "", inputs, (output,), attributes or {}, node.index)


def _convolution(node: Node) -> tuple[Node, ...] | None:
    """A convolution and its activation; with a fourth input it adds that before the activation."""
    activation = node.attributes.get("activation")
    numbers = tuple(node.attributes.get("activation_params") or ())
    names = {"Relu": (), "Sigmoid": (), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}
    if activation not in names or len(numbers) > len(names[activation]):
        return None
    own = ("activation", "activation_params")
    attributes = {name: value for name, value in node.attributes.items() if name not in own}
    output = f"{node.output}@convolved"
    nodes = [_node(node, "Conv", node.inputs[:3], output, attributes)]
    if len(node.inputs) > 3 and node.inputs[3]:
        nodes.append(_node(node, "Add", (output, node.inputs[3]), f"{node.output}@added"))
        output = nodes[-1].output
    given = dict(zip(names[activation], numbers, strict=False))
    return (*nodes, _node(node, activation, (output,), node.output, given))


def _gelu(node: Node) -> tuple[Node, ...] | None:
    return (_node(node, "Gelu", node.inputs[:1], node.output),)


def _biased_gelu(node: Node) -> tuple[Node, ...] | None:
    added = _node(node, "Add", node.inputs[:2], f"{node.output}@added")
    return added, _node(node, "Gelu", (added.output,), node.output)


def _quick_gelu(node: Node) -> tuple[Node, ...] | None:
    """x * sigmoid(alpha * x), which is Swish where alpha is 1."""
    if node.attributes.get("alpha", 1.702) != 1.0:
        return None
    gate = _node(node, "Sigmoid", node.inputs[:1], f"{node.output}@gate")
    return gate, _node(node, "Mul", (*node.inputs[:1], gate.output), node.output)


def _product(node: Node) -> tuple[Node, ...] | None:
    """alpha * a b, of each the last two dimensions changed over where the attribute says so."""
    given = node.attributes
    if given.get("transBatchA") or given.get("transBatchB"):
        return None
    nodes: list[Node] = []
    factors = []
    for name, factor in zip("AB", node.inputs[:2], strict=True):
        if given.get(f"trans{name}"):
            nodes.append(_node(node, "Transpose", (factor,), f"{node.output}@turned{name}", {"last": True}))
            factor = nodes[-1].output
        factors.append(factor)
    scale = given.get("alpha", 1.0)
    if scale == 1.0:
        return (*nodes, _node(node, "MatMul", tuple(factors), node.output))
    number = Tensor("float32", (), np.array(scale, np.float32))
    constant = _node(node, "Constant", (), f"{node.output}@alpha", {"value": number})
    product = _node(node, "MatMul", tuple(factors), f"{node.output}@product")
    return (*nodes, constant, product, _node(node, "Mul", (product.output, constant.output), node.output))


def _norm_of_sum(node: Node, makers: Mapping[str, str]) -> tuple[Node, ...] | None:
    """A normalisation of x + skip, with the bias of the layer that made one of them; the fourth output is that sum."""
    inputs, outputs = [*node.inputs, "", ""], (*node.outputs, "", "", "")
    if any(outputs[1:3]):
        return None
    nodes = []
    if inputs[4]:
        of = 0 if makers.get(inputs[0]) == "MatMul" else 1
        nodes.append(_node(node, "Add", (inputs[of], inputs[4]), f"{node.output}@biased"))
        inputs[of] = nodes[-1].output
    total = outputs[3] or f"{node.output}@sum"
    nodes.append(_node(node, "Add", (inputs[0], inputs[1]), total))
    epsilon = {"epsilon": node.attributes.get("epsilon", 1e-12), "axis": -1}
    return (*nodes, _node(node, "LayerNormalization", (total, *inputs[2:4]), node.output, epsilon))


_EXPANSIONS: Mapping[str, Callable[[Node], tuple[Node, ...] | None]] = {
    "BiasGelu": _biased_gelu,
    "FusedConv": _convolution,
    "FusedMatMul": _product,
    "Gelu": _gelu,
    "QuickGelu": _quick_gelu,
}
