"""The LSTM layers of an ONNX graph, put together as PyTorch and Paddle have them.

ONNX has a node for each layer, both directions in it, its gates in another order, and the directions as an axis of its
result. paddle2onnx cuts and joins Paddle's tensors for that in the graph itself, and computes the initial states, which
are zeros, from the size of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle2torch.converters.onnx_files.graph import WIDTHS, Constant, Graph
from paddle2torch.converters.onnx_files.model import Node, Tensor
from paddle2torch.converters.paddle_files.pdparams import Array

LAYERS_AT_MOST = 16

_GATES = (0, 2, 3, 1)
"""Input, forget, cell and output gate, as Paddle and PyTorch order them, among ONNX's."""
_FUNCTIONS = ("Sigmoid", "Tanh", "Tanh")
# What turns zeros into zeros, whatever else it reads.
_KEEP_ZEROS = frozenset({"Cast", "Expand", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class Recurrent:
    """LSTM layers one after another, each of them reading what the one before gives.

    `nodes` are the layers themselves, `last` the node that gives the result (T, N, directions * hidden size).
    """

    reads: str
    nodes: tuple[Node, ...]
    last: Node

    @property
    def directions(self) -> tuple[str, ...]:
        """What PyTorch's names of their parameters end in."""
        return ("", "_reverse") if self.nodes[0].attributes.get("direction") == "bidirectional" else ("",)

    def attributes(self, graph: Graph) -> dict[str, Any]:
        """Those of Paddle's operation."""
        return {
            "mode": "LSTM",
            "is_bidirec": len(self.directions) == 2,
            "hidden_size": self.nodes[0].attributes["hidden_size"],
            "input_size": graph.constants[self.nodes[0].inputs[1]].tensor.shape[2],
            "num_layers": len(self.nodes),
        }

    def parameters(self, graph: Graph) -> Iterator[tuple[str, Constant]]:
        """Paddle's parameters in the order of its operation, all weights and then all biases, and PyTorch's names."""
        biases: list[tuple[str, Constant]] = []
        for layer, node in enumerate(self.nodes):
            hidden = node.attributes["hidden_size"]
            weights = [graph.constants[name] for name in node.inputs[1:4]]
            for direction, suffix in enumerate(self.directions):
                for source, given in zip(("ih", "hh"), weights, strict=False):
                    yield f"weight_{source}_l{layer}{suffix}", _gates(given, given.tensor.array[direction], hidden)
                halves = weights[2].tensor.array[direction].reshape(2, 4 * hidden)
                biases += [
                    (f"bias_{source}_l{layer}{suffix}", _gates(weights[2], half, hidden))
                    for source, half in zip(("ih", "hh"), halves, strict=True)
                ]
        yield from biases


def _gates(of: Constant, array: Array, hidden: int) -> Constant:
    """A part of the constant `of`, (4 * hidden, …), with its gates in Paddle's order."""
    ordered = array.reshape(4, hidden, *array.shape[1:])[list(_GATES)].reshape(array.shape)
    return Constant(Tensor(of.tensor.dtype, ordered.shape, ordered), of.root, of.sources)


class RecurrentLayers:
    """`found` by the output of their last node; `absorbed` the outputs of all others that belong to them.

    Raises `FileFormatError` for an LSTM that is none of Paddle's.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: dict[str, Recurrent] = {}
        self.absorbed: set[str] = set()
        taken: set[str] = set()
        for node in graph.nodes:
            if node.kind == "LSTM" and node.output not in taken:
                made = self._chain(node)
                taken.update(layer.output for layer in made.nodes)
                self.found[made.last.output] = made
        for output in self.absorbed:
            for reader in graph.readers[output]:
                if reader.output not in self.absorbed and reader.output not in self.found and reader.kind != "LSTM":
                    graph.fail("reads what belongs to an LSTM", reader)

    def _chain(self, first: Node) -> Recurrent:
        nodes: list[Node] = []
        following: Node | None = first
        last = first
        while following is not None and following.kind == "LSTM" and self._continues(following, nodes):
            self._check(following)
            nodes.append(following)
            last, parts = self._joined(following)
            self.absorbed.update(part.output for part in (following, *parts))
            following = self.graph.only_reader(last.output)
        self.absorbed.discard(last.output)
        return Recurrent(first.inputs[0], tuple(nodes), last)

    def _continues(self, node: Node, nodes: list[Node]) -> bool:
        """Whether `node` is the next layer of the same LSTM."""
        if not nodes:
            return True
        same = all(node.attributes.get(name) == nodes[0].attributes.get(name) for name in ("hidden_size", "direction"))
        return same and len(nodes) < LAYERS_AT_MOST

    def _check(self, node: Node) -> None:
        given, graph = node.attributes, self.graph
        directions = 2 if given.get("direction") == "bidirectional" else 1
        usual = (
            given.get("direction", "forward") in ("forward", "bidirectional")
            and given.get("activations") in (None, (), _FUNCTIONS * directions)
            and not any(given.get(name) for name in ("clip", "input_forget", "layout"))
        )
        inputs = (*node.inputs, *("",) * 8)
        if not usual or inputs[4] or inputs[7]:
            graph.fail("is an LSTM of another kind than Paddle's (direction, functions, lengths or peepholes)", node)
        hidden = given.get("hidden_size")
        shapes = [graph.constants[name].tensor.shape if name in graph.constants else None for name in inputs[1:4]]
        if not isinstance(hidden, int) or hidden < 1 or shapes[0] is None or len(shapes[0]) != 3:
            graph.fail("has no hidden size, or no weights that are constants", node)
        expected = [(directions, 4 * hidden, shapes[0][2]), (directions, 4 * hidden, hidden), (directions, 8 * hidden)]
        if shapes != expected:
            graph.fail(f"has weights and biases of shapes {shapes}, where an LSTM has {expected}", node)
        for name in inputs[1:4]:
            if (dtype := graph.constants[name].tensor.dtype) not in WIDTHS:
                graph.fail(f"has weights of the type {dtype}", node)
        for name in inputs[5:7]:
            if name and not self._is_zero(name, 0):
                graph.fail("begins with a state that is not zero, or not known", node)
        if any(graph.readers[name] or name in graph.served for name in node.outputs[1:] if name):
            graph.fail("gives its last states to another node, which no PP-OCR network does", node)

    def _is_zero(self, name: str, depth: int) -> bool:
        """Whether a value is made of zeros alone; the nodes that make it belong to the LSTM."""
        constant = self.graph.constants.get(name)
        if constant is not None:
            return not np.any(constant.tensor.array)
        node = self.graph.maker.get(name) or self.graph.opaque.get(name)
        if node is None or depth > LAYERS_AT_MOST:
            return False
        if node.kind == "ConstantOfShape":
            value = node.attributes.get("value")
            zero = value is None or (isinstance(value, Tensor) and not np.any(value.array))
        else:
            zero = node.kind in _KEEP_ZEROS and self._is_zero(node.inputs[0], depth + 1)
        if zero:
            self.absorbed.add(node.output)
        return zero

    def _joined(self, node: Node) -> tuple[Node, list[Node]]:
        """The node after which the directions of a layer's result are beside each other, and those on the way there."""
        graph, following = self.graph, self.graph.only_reader(node.output)
        width = node.attributes["hidden_size"] * (2 if node.attributes.get("direction") == "bidirectional" else 1)
        if following is not None and following.kind == "Squeeze":
            # Of one direction.
            if width == node.attributes["hidden_size"] and graph.integers(following, "axes") == (1,):
                return following, [following]
        elif following is not None and following.attributes.get("perm") == (0, 2, 1, 3):
            reshaped = graph.only_reader(following.output)
            if reshaped is not None and reshaped.kind == "Reshape":
                shape = graph.integers(reshaped, "shape") or ()
                # The sizes of sequence and batch are what is left, or kept.
                if shape == (0, 0, -1) or (len(shape) == 3 and shape[2] == width):
                    return reshaped, [following, reshaped]
        graph.fail("is not followed by what puts its directions beside each other", node)
