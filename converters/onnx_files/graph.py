"""An ONNX graph with its constants known and its names settled.

Nodes that only look at a constant in another way are carried out here; those that pass a value on give it a second
name. What is left is what computes with the image, in the file's order, each node with who reads what it makes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from paddle2torch.converters.onnx_files.fused import expand
from paddle2torch.converters.onnx_files.model import Node, OnnxModel, Tensor
from paddle2torch.converters.paddle_files.pdparams import Array
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.show import show, show_path, show_text

# What passes a value on at inference.
_ALIASES = frozenset({"Identity", "Cast", "Dropout"})
_SHAPES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten", "Concat", "Gather", "Expand", "Shape"}
)
# Operations that the networks here have, and whose constants are sizes, if they have any.
PLAIN: Mapping[str, str] = {
    **{kind: kind.lower() for kind in _SHAPES},
    "Add": "add",
    "AveragePool": "pool2d",
    "Clip": "clip",
    "ConstantOfShape": "full",
    "Div": "divide",
    "Erf": "erf",
    "GlobalAveragePool": "pool2d",
    "MatMul": "matmul",
    "MaxPool": "pool2d",
    "Mul": "multiply",
    "Pad": "pad",
    "Pow": "pow",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "Relu": "relu",
    "Resize": "interpolate",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Sqrt": "sqrt",
    "Sub": "subtract",
    "Upsample": "interpolate",
}
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "LayerNormalization", "LSTM"})
# Of ONNX Runtime, though without its domain.
RUNTIME = frozenset({"SimplifiedLayerNormalization"})
ACTIVATIONS = frozenset({"HardSigmoid", "HardSwish", "Gelu"})
_QUANTIZED = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    }
)
_KNOWN = frozenset({*PLAIN, *_LAYERS, *ACTIVATIONS, *_ALIASES, *RUNTIME, "Constant"})
# How many inputs an operation cannot do without; one where nothing is said.
_LEAST_INPUTS: Mapping[str, int] = {
    **dict.fromkeys(("Add", "Conv", "ConvTranspose", "Div", "Gemm", "LayerNormalization", "MatMul", "Mul"), 2),
    **dict.fromkeys(("BiasGelu", "FusedConv", "FusedMatMul", "Pow", "SimplifiedLayerNormalization", "Sub"), 2),
    **dict.fromkeys(("LSTM", "SkipLayerNormalization"), 3),
    "BatchNormalization": 5,
    "Constant": 0,
}
_LOOPS = frozenset({"If", "Loop", "Scan"})
# How many values may be there beyond what the constants explain.
SMALL = 1_000_000
# Names of floating-point types that parameters can have.
REALS = ("float16", "float32", "float64", "bfloat16")
WIDTHS = ("float16", "float32", "bfloat16")
# A file holds a constant as float32 or float16; exporters write some with six digits.
CLOSE = 1e-3


@dataclass(frozen=True)
class Constant:
    """A constant as it is used: `root` is the name in the file of what it was reshaped from.

    `parts` are the roots of the constants that it was cut from or joined of.
    """

    tensor: Tensor
    root: str
    parts: frozenset[str] = frozenset()

    @property
    def sources(self) -> frozenset[str]:
        """The constants of the file whose numbers it has."""
        return self.parts or frozenset({self.root})


class Graph:
    """`nodes` that compute with the image, `constants` by name, who makes and who reads each value.

    Names are those of the file, after `Identity` and its like are seen through. Raises `FileFormatError` for a graph
    that is not in order, that has operations which no network here has, or that is quantized.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        self.where = show_path(model.path)
        self.constants = {name: Constant(tensor, name) for name, tensor in model.constants.items()}
        self.made_by: dict[str, str] = {}  # the kind of the node that makes a value
        self.opaque: dict[str, Node] = {}  # computed of constants, in a way that is not followed
        self.alias: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.maker: dict[str, Node] = {}
        self.readers: dict[str, list[Node]] = defaultdict(list)
        self.halves = any(tensor.dtype == "float16" and tensor.shape for tensor in model.constants.values())
        self.held = sum(tensor.array.size for tensor in model.constants.values())
        self.copied = 0
        known = {*model.inputs, *self.constants, ""}
        for node in model.nodes:
            for part in self._expanded(node):
                self._enter(part, known)
        for node in self.nodes:
            for name in node.inputs:
                self.readers[name].append(node)
            self.maker.update({name: node for name in node.outputs if name})
        self.served = {self.see(name) for name in model.outputs}
        for name in self.served:
            if name not in self.maker:
                self.fail(f"no node makes the output {show(name)}; the file is corrupt")

    def fail(self, message: str, node: Node | None = None) -> NoReturn:
        """Raise the error of this file, at `node`."""
        place = "" if node is None else f": node {node.index} ({show_text(node.kind)})"
        raise FileFormatError(f"{self.where}{place}: {message}")

    def see(self, name: str) -> str:
        """The value that `name` is, or passes on."""
        return self.alias.get(name, name)

    def _expanded(self, node: Node) -> tuple[Node, ...]:
        """`node`, or the nodes that ONNX Runtime's optimiser made it of."""
        least = _LEAST_INPUTS.get(node.kind, 1)
        if node.domain and (not node.outputs or not node.outputs[0] or len(node.inputs) < least):
            self.fail(f"lacks its output, or one of its {least} inputs; the file is corrupt", node)
        nodes = expand(node, self.made_by)
        if nodes is None:
            self.fail(
                f"is an operation of {show(node.domain)}, not of ONNX itself: the file was optimised for one runtime; "
                f"give the file as it was exported",
                node,
            )
        return nodes

    def one(self, name: str) -> str:
        """The name of a constant 1, made for the constant `name`."""
        made = f"{name}@one"
        self.constants[made] = Constant(Tensor("float32", (1,), np.ones(1, np.float32)), made)
        return made

    def _enter(self, node: Node, known: set[str]) -> None:
        """Take a node in: constants are folded, what passes a value on becomes a second name of it."""
        self._refuse(node)
        for name in node.inputs:
            if name not in known:
                self.fail(
                    f"reads {show(name)}, which no node before it makes; the file is not in order or corrupt", node
                )
        for name in node.outputs:
            if name and name in known:
                self.fail(f"makes {show(name)}, which is there already; the file is corrupt", node)
            known.add(name)
            self.made_by[name] = node.kind
        if not node.outputs or not node.outputs[0]:
            self.fail("has no output; the file is corrupt", node)
        least = _LEAST_INPUTS.get(node.kind, 1)
        if len(node.inputs) < least or not all(node.inputs[:least]):
            self.fail(f"lacks one of its {least} inputs; the file is corrupt", node)
        inputs = tuple(self.see(name) for name in node.inputs)
        node = Node(node.kind, node.domain, inputs, node.outputs, node.attributes, node.index)
        output = node.outputs[0]
        if node.kind == "Constant":
            tensor = self._constant(node)
            self.held += tensor.array.size
            self.halves = self.halves or bool(tensor.dtype == "float16" and tensor.shape)
            self.constants[output] = Constant(tensor, output)
        elif inputs and all(name in self.constants or name in self.opaque or not name for name in inputs):
            folded = self._fold(node)
            if folded is None:
                self.opaque.update(dict.fromkeys(node.outputs, node))
            else:
                self.constants[output] = folded
        elif node.kind in _ALIASES:
            self.alias[output] = inputs[0]
        else:
            self.nodes.append(node)

    def _refuse(self, node: Node) -> None:
        if node.kind in _QUANTIZED:
            self.fail(
                "the model is quantized, its weights are integers: give the float model that it was made from", node
            )
        if node.kind in _LOOPS:
            self.fail("has operations inside; graphs with loops or conditions are not read", node)
        if node.kind not in _KNOWN:
            self.fail("no PP-OCR network has this operation", node)

    def _constant(self, node: Node) -> Tensor:
        value = next((node.attributes[name] for name in node.attributes if name.startswith("value")), None)
        if isinstance(value, Tensor):
            return value
        if isinstance(value, int | float | tuple) and not (isinstance(value, tuple) and isinstance(value[0], str)):
            array = np.array(value, np.float32 if np.array(value).dtype.kind == "f" else np.int64)
            return Tensor(array.dtype.name, array.shape, array)
        self.fail("has no value of a kind that is read", node)

    def _fold(self, node: Node) -> Constant | None:
        """The constant that `node` makes of constants by looking at them in another way; None where it computes."""
        source = self.constants.get(node.inputs[0])
        if source is None:
            return None
        array = source.tensor.array
        dtype = source.tensor.dtype
        try:
            if node.kind == "Identity":
                return source
            if node.kind == "Cast" and node.attributes.get("to") == 1 and dtype in ("float16", "float32"):
                self._copy(array.size if dtype == "float16" else 0, node)
                array, dtype = array.astype(np.float32, copy=False), "float32"
            elif node.kind == "Transpose":
                perm = (*range(array.ndim - 2), -1, -2) if node.attributes.get("last") else node.attributes.get("perm")
                array = array.transpose(perm or None)
            elif node.kind in ("Reshape", "Squeeze", "Unsqueeze"):
                shape = self._folded_shape(node, array)
                if shape is None:
                    return None
                self._copy(0 if array.flags.c_contiguous else array.size, node)
                array = array.reshape(shape)
            elif node.kind in ("Concat", "Slice") and dtype in REALS:
                return self._joined(node) if node.kind == "Concat" else self._cut(node, source)
            else:
                return None
        except (ValueError, TypeError, IndexError):
            self.fail(f"does not fit its constant of shape {list(array.shape)}; the file is corrupt", node)
        return Constant(Tensor(dtype, array.shape, array), source.root, source.parts)

    # Of real numbers, which paddle2onnx puts into another order for an LSTM; sizes stay what is computed.

    def _joined(self, node: Node) -> Constant | None:
        found = [self.constants[name] for name in node.inputs if name in self.constants]
        dtype = found[0].tensor.dtype
        if len(found) < sum(map(bool, node.inputs)) or any(constant.tensor.dtype != dtype for constant in found):
            return None
        self._copy(sum(constant.tensor.array.size for constant in found), node)
        array = np.concatenate([constant.tensor.array for constant in found], axis=node.attributes.get("axis", 1))
        sources = frozenset().union(*(constant.sources for constant in found))
        return Constant(Tensor(dtype, array.shape, array), node.output, sources)

    def _cut(self, node: Node, source: Constant) -> Constant | None:
        starts, ends = self.integers(node, "starts", 1), self.integers(node, "ends", 2)
        axes, steps = self.integers(node, "axes", 3), self.integers(node, "steps", 4)
        if not starts or not ends or axes is None or steps is None or any(step != 1 for step in steps):
            return None
        where = [slice(None)] * source.tensor.array.ndim
        for start, end, axis in zip(starts, ends, axes or range(len(starts)), strict=True):
            where[axis] = slice(start, end)
        array = source.tensor.array[tuple(where)]
        return Constant(Tensor(source.tensor.dtype, array.shape, array), node.output, source.sources)

    def _copy(self, values: int, node: Node) -> None:
        """Nodes may turn one constant around any number of times; copies are made of no more than the file holds."""
        self.copied += values
        if self.copied > 2 * self.held + SMALL:
            self.fail("turns constants around more often than any model of text", node)

    def _folded_shape(self, node: Node, array: Array) -> list[int] | None:
        given = node.attributes.get("shape" if node.kind == "Reshape" else "axes")
        if given is None and len(node.inputs) > 1:
            constant = self.constants.get(node.inputs[1])
            if constant is None:
                return None
            given = [int(size) for size in constant.tensor.array.reshape(-1)[:32]]
        axes = [int(axis) for axis in (given or ())]
        if node.kind == "Reshape":
            return [array.shape[index] if size == 0 else size for index, size in enumerate(axes)]
        if node.kind == "Unsqueeze":
            shape: list[int] = list(array.shape)
            rank = len(shape) + len(axes)
            for axis in sorted(axis % rank for axis in axes):
                shape.insert(axis, 1)
            return shape
        squeezed = {axis % array.ndim for axis in axes} or {i for i, size in enumerate(array.shape) if size == 1}
        return [size for index, size in enumerate(array.shape) if index not in squeezed]

    def integers(self, node: Node, name: str, place: int = 1) -> tuple[int, ...] | None:
        """The sizes or axes that a node has as an attribute or, in newer versions, as its input at `place`.

        () where it has none, None where they are not known.
        """
        given = node.attributes.get(name)
        if given is None:
            if len(node.inputs) <= place or not node.inputs[place]:
                return ()
            constant = self.constants.get(node.inputs[place])
            if constant is None or constant.tensor.dtype not in ("int32", "int64"):
                return None
            given = tuple(constant.tensor.array.reshape(-1)[:8].tolist())
        return given if isinstance(given, tuple) and all(isinstance(item, int) for item in given) else None

    def number(self, name: str) -> float | None:
        """The value of a constant that is a single real number."""
        constant = self.constants.get(name)
        if constant is None or constant.tensor.dtype not in REALS[:3] or constant.tensor.array.size != 1:
            return None
        return float(constant.tensor.array.reshape(-1)[0])

    def is_number(self, name: str, value: float) -> bool:
        number = self.number(name)
        return number is not None and math.isclose(number, value, rel_tol=CLOSE)

    def pair(self, node: Node | None, kind: str) -> tuple[str, float] | None:
        """(value, number) of a `kind` of a value with a number; for subtraction and division in this order."""
        if node is None or node.kind != kind or len(node.inputs) != 2:
            return None
        a, b = node.inputs
        number = self.number(b)
        if number is not None and a not in self.constants:
            return a, number
        if kind in ("Add", "Mul") and (number := self.number(a)) is not None and b not in self.constants:
            return b, number
        return None

    def pair_of(self, node: Node | None, kind: str, value: float) -> str | None:
        """What `node` combines with exactly that number, as `kind`."""
        found = self.pair(node, kind)
        return found[0] if found is not None and math.isclose(found[1], value, rel_tol=CLOSE) else None

    def only_reader(self, name: str) -> Node | None:
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.served else None

    def sole(self, name: str) -> Node | None:
        """The node that makes `name`, where one node alone reads it."""
        return self.maker.get(name) if self.only_reader(name) is not None else None

    def clip(self, node: Node | None) -> tuple[str, float, float] | None:
        """(value, lowest, highest) of a Clip; up to version 10 of the operations the numbers are attributes."""
        if node is None or node.kind != "Clip" or not node.inputs:
            return None
        lowest, highest = node.attributes.get("min", -math.inf), node.attributes.get("max", math.inf)
        numbers = [self.number(name) for name in node.inputs[1:3]]
        lowest = numbers[0] if len(numbers) > 0 and numbers[0] is not None else lowest
        highest = numbers[1] if len(numbers) > 1 and numbers[1] is not None else highest
        return node.inputs[0], float(lowest), float(highest)


def close(found: float, expected: float) -> bool:
    """Whether a constant of the file is that number."""
    return math.isclose(found, expected, rel_tol=CLOSE)
