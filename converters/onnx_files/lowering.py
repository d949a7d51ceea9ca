"""An ONNX graph as a `Program`: the layers that an exporter split are put together again.

ONNX has few operations and no parameters, only constants. paddle2onnx writes a convolution's bias as an addition of
[1, C, 1, 1], and Hardswish, GELU, Swish and LayerNorm in pieces; PyTorch's exporter writes Hardsigmoid in pieces and
folds normalisations into convolutions (`align.py` unfolds them). What is put together is recognised by its constants:
an addition of 3 between two other numbers is not a Hardswish.

Every number of the file must find its place: a constant is a parameter of a layer, or part of what was recognised, or
describes shapes. Anything else is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle2torch.converters.onnx_files.graph import ACTIVATIONS, PLAIN, REALS, RUNTIME, SMALL, WIDTHS, Constant, Graph
from paddle2torch.converters.onnx_files.model import Node, OnnxModel, Tensor
from paddle2torch.converters.onnx_files.patterns import Made, Patterns
from paddle2torch.converters.onnx_files.recurrent import Recurrent, RecurrentLayers
from paddle2torch.converters.paddle_files.pdparams import Array
from paddle2torch.converters.paddle_files.program import Operation, Program, Value
from paddle2torch.model_zoo.show import show, show_all, show_text


@dataclass(frozen=True)
class Lowered:
    """An ONNX graph as a program, and its parameters by name, in float32.

    `widened` names the types in the file that have become float32, which they fit into exactly.
    """

    program: Program
    tensors: Mapping[str, Array]
    widened: tuple[str, ...]


def lower(model: OnnxModel) -> Lowered:
    """The program of `model`.

    Raises `FileFormatError` as `Graph`, and where a constant has no place in a layer.
    """
    return _Lowering(Graph(model)).run()


class _Lowering:
    """A graph on its way to a program."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.patterns = Patterns(graph)
        self.recurrent = RecurrentLayers(graph)
        self.operations: list[Operation] = []
        self.parameters: dict[str, Constant] = {}
        self.values: dict[str, Value] = {}
        self.lines: set[str] = set()  # images one pixel high that were made of sequences

    def run(self) -> Lowered:
        for node in self.graph.nodes:
            if node.output in self.recurrent.found:
                self._emit_recurrent(node, self.recurrent.found[node.output])
            elif node.output not in self.patterns.absorbed and node.output not in self.recurrent.absorbed:
                self._emit(node)
                self._follow_line(node)
        self._check_coverage()
        model = self.graph.model
        self.values.update({name: Value(name, shape, "float32") for name, shape in model.shapes.items()})
        program = Program(
            format="onnx",
            operations=tuple(self.operations),
            values=self.values,
            parameters=tuple(sorted(self.parameters)),
            feeds=model.inputs,
            fetches=tuple(self.graph.see(name) for name in model.outputs),
        )
        tensors = {name: _single(constant.tensor) for name, constant in self.parameters.items()}
        types = {constant.tensor.dtype for constant in self.parameters.values()} - {"float32"}
        return Lowered(program, tensors, tuple(sorted(types)))

    def _emit(self, node: Node) -> None:
        made = self.patterns.made.get(node.output)
        if made is not None:
            self._emit_made(node, made)
        elif node.kind in ("Conv", "ConvTranspose"):
            self._emit_convolution(node)
        elif node.kind == "Gemm":
            self._emit_gemm(node)
        elif node.kind == "MatMul" and node.inputs[-1] in self.graph.constants:
            self._add(node, "matmul", self._weight(node), {"transpose_y": False})
        elif node.kind == "BatchNormalization":
            self._emit_batch_norm(node)
        elif node.kind == "LayerNormalization":
            self._emit_layer_norm(node)
        elif node.kind == "HardSigmoid":
            slope, offset = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
            self._add(node, "hardsigmoid", node.inputs[:1], {"slope": slope, "offset": offset})
        elif node.kind == "HardSwish":
            self._add(node, "hardswish", node.inputs[:1], {})
        elif node.kind == "Gelu":
            if node.attributes.get("approximate", "none") != "none":
                self.graph.fail("is the approximated GELU, which no PP-OCR network has", node)
            self._add(node, "gelu", node.inputs[:1], {})
        elif node.kind == "Add" and (bias := self._bias_of(node)) is not None:
            self._add(node, "add", bias, {})
        else:
            self._emit_plain(node)

    def _follow_line(self, node: Node) -> None:
        """Note what is still an image one pixel high; an optimiser lets several layers work on it."""
        made = self.patterns.made.get(node.output)
        reads = made.reads if made is not None else node.inputs[0]
        keeps = made is not None or node.kind in ("Conv", "BatchNormalization", *ACTIVATIONS)
        if node.kind == "Unsqueeze" or (keeps and reads in self.lines):
            self.lines.add(node.output)

    def _add(
        self, node: Node, kind: str, inputs: Sequence[str], attributes: Mapping[str, Any], output: str | None = None
    ) -> None:
        outputs = node.outputs if output is None else (output,)
        if self.graph.halves:
            # Their constants are rounded so: who compares them must know.
            attributes = {k: np.float16(v) if isinstance(v, float) else v for k, v in attributes.items()}
        self.operations.append(Operation(kind, tuple(inputs), outputs, attributes, node.index))

    def _emit_made(self, node: Node, made: Made) -> None:
        if made.turned:
            self._add(node, "transpose", (made.turned,), {"perm": (0, 2, 1)}, made.reads)
        if made.kind == "affine":
            assert made.scale is not None
            assert made.bias is not None
            scaled = f"{node.output}@scaled"
            self._add(node, "multiply", (made.reads, self._parameter(made.scale, node)), {}, scaled)
            self._add(node, "add", (scaled, self._parameter(made.bias, node)), {})
            return
        parameters = [self._parameter(name, node) if name else "" for name in (made.scale, made.bias)]
        while parameters and not parameters[-1]:
            parameters.pop()
        # Of what is twice as large as in a network there is no value; who reads it has half the weights.
        output = f"{node.output}@half" if node.output in self.patterns.doubled else None
        self._add(node, made.kind, (made.reads, *parameters), made.attributes, output)

    def _weight(self, node: Node, shape: tuple[int, ...] | None = None) -> tuple[str, str]:
        """What a layer reads and its weight, as they are where no factor of 2 was moved between the two."""
        twice = node.inputs[0] in self.patterns.doubled
        reads = f"{node.inputs[0]}@half" if twice else node.inputs[0]
        return reads, self._parameter(node.inputs[1], node, shape, twice=twice)

    def _parameter(self, name: str, node: Node, shape: tuple[int, ...] | None = None, *, twice: bool = False) -> str:
        """The constant `name` as a parameter, in the shape that its layer needs: the name it has in the program."""
        constant = self.graph.constants.get(name)
        if constant is None:
            made = self.graph.opaque.get(name)
            by = f"node {made.index} ({show_text(made.kind)}) computes" if made is not None else "the image decides"
            self.graph.fail(f"takes for its parameter {show(name)} what {by}", node)
        tensor = constant.tensor
        if tensor.dtype not in WIDTHS:
            self.graph.fail(
                f"takes for its parameter {show(name)}, which is {tensor.dtype}: not float32 or half of it", node
            )
        if shape is not None and shape != tensor.shape:
            tensor = Tensor(tensor.dtype, shape, tensor.array.reshape(shape))
        if twice:
            tensor = Tensor("float32", tensor.shape, 2 * _single(tensor))
        # By the name in the file, which may say what it is; one that is used in two shapes is two parameters.
        chosen = f"{constant.root}@twice" if twice else constant.root
        while chosen in self.parameters and self.parameters[chosen].tensor.shape != tensor.shape:
            chosen = f"{chosen}@{'x'.join(map(str, tensor.shape))}"
        self.parameters[chosen] = Constant(tensor, constant.root)
        self.values[chosen] = Value(chosen, tensor.shape, "float32")
        return chosen

    def _emit_convolution(self, node: Node) -> None:
        constant = self.graph.constants.get(node.inputs[1])
        shape = constant.tensor.shape if constant is not None else ()
        spatial = len(shape) - 2
        # Of a sequence, which is an image one pixel high here: the parameter is without that dimension.
        raised = node.inputs[0] in self.lines and spatial == 2 and shape[2] == 1
        reads, weight = self._weight(node, (*shape[:2], shape[3]) if raised else None)
        if spatial < 1:
            self.graph.fail(f"has a kernel of shape {list(shape)}; the file is corrupt", node)
        attributes = self._geometry(node, spatial)
        transposed = node.kind == "ConvTranspose"
        if transposed and any(node.attributes.get("output_padding") or ()):
            self.graph.fail("has output_padding, which no PP-OCR network has", node)
        kind = "conv2d_transpose" if transposed else "conv2d"
        if len(node.inputs) > 2 and node.inputs[2]:
            bare = f"{node.outputs[0]}@without_bias"
            self._add(node, kind, (reads, weight), attributes, bare)
            self._add(node, "add", (bare, self._parameter(node.inputs[2], node)), {})
        else:
            self._add(node, kind, (reads, weight), attributes)

    def _geometry(self, node: Node, spatial: int) -> dict[str, Any]:
        """Strides, dilations, groups and paddings, as Paddle's programs have them."""
        given = node.attributes
        ones = (1,) * spatial
        attributes: dict[str, Any] = {
            "strides": given.get("strides") or ones,
            "dilations": given.get("dilations") or ones,
            "groups": given.get("group", 1),
            "padding_algorithm": "EXPLICIT",
        }
        automatic = given.get("auto_pad", "NOTSET")
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            # Which side gets the odd row is not in Paddle's attribute; its SAME is the upper one.
            attributes["padding_algorithm"] = "SAME" if automatic == "SAME_UPPER" else "SAME_LOWER"
            return attributes
        pads = tuple(given.get("pads") or (0,) * (2 * spatial))
        if len(pads) != 2 * spatial:
            self.graph.fail(f"has {len(pads)} paddings; the file is corrupt", node)
        before, after = pads[:spatial], pads[spatial:]
        attributes["paddings"] = before if before == after else pads
        return attributes

    def _emit_gemm(self, node: Node) -> None:
        given = node.attributes
        if given.get("transA", 0) or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            self.graph.fail("is not a plain linear layer (transA, alpha or beta)", node)
        weight = self._parameter(node.inputs[1], node)
        attributes = {"transpose_y": bool(given.get("transB", 0))}
        if len(node.inputs) > 2 and node.inputs[2]:
            bare = f"{node.outputs[0]}@without_bias"
            self._add(node, "matmul", (node.inputs[0], weight), attributes, bare)
            self._add(node, "add", (bare, self._parameter(node.inputs[2], node)), {})
        else:
            self._add(node, "matmul", (node.inputs[0], weight), attributes)

    def _emit_batch_norm(self, node: Node) -> None:
        if node.attributes.get("training_mode", 0):
            self.graph.fail("is in training mode: the file was not exported for inference", node)
        scale, bias, mean, variance = (self._parameter(name, node) for name in node.inputs[1:5])
        attributes = {"epsilon": node.attributes.get("epsilon", 1e-5)}
        self._add(node, "batch_norm", (node.inputs[0], mean, variance, scale, bias), attributes)

    def _emit_layer_norm(self, node: Node) -> None:
        if node.attributes.get("axis", -1) not in (-1, 2):
            self.graph.fail("normalises over more than the last dimension, which no PP-OCR network does", node)
        parameters = [self._parameter(name, node) for name in node.inputs[1:3] if name]
        attributes = {"epsilon": node.attributes.get("epsilon", 1e-5)}
        self._add(node, "layer_norm", (node.inputs[0], *parameters), attributes)

    def _bias_of(self, node: Node) -> tuple[str, str] | None:
        """(value, parameter) where `node` adds a bias to a convolution or a linear layer."""
        if len(node.inputs) != 2:
            return None
        for x, bias in (node.inputs, node.inputs[::-1]):
            maker, constant = self.graph.maker.get(x), self.graph.constants.get(bias)
            if maker is None or constant is None or constant.tensor.dtype not in REALS:
                continue
            shape = constant.tensor.shape
            flat = (constant.tensor.array.size,)
            if maker.kind in ("Conv", "ConvTranspose") and maker.inputs[1] in self.graph.constants:
                spatial = len(self.graph.constants[maker.inputs[1]].tensor.shape) - 2
                if shape in ((1, *flat, *(1,) * spatial), (*flat, *(1,) * spatial)):
                    return x, self._parameter(bias, node, flat)
            elif maker.kind == "MatMul" and shape in (flat, (1, *flat), (1, 1, *flat)):
                return x, self._parameter(bias, node, flat)
        return None

    def _emit_recurrent(self, node: Node, made: Recurrent) -> None:
        names = []
        for name, constant in made.parameters(self.graph):
            chosen = f"{node.output}@{name}"
            self.parameters[chosen] = constant
            self.values[chosen] = Value(chosen, constant.tensor.shape, "float32")
            names.append(chosen)
        # Paddle's operation reads the two initial states before its parameters.
        self._add(node, "rnn", (made.reads, "", "", *names), made.attributes(self.graph))

    def _emit_plain(self, node: Node) -> None:
        if node.kind in RUNTIME:
            self.graph.fail("normalises without a mean, which no PP-OCR network does", node)
        inputs = []
        for name in node.inputs:
            constant = self.graph.constants.get(name)
            # Sizes, axes and limits are not parameters; what is multiplied or added with values is.
            computes = node.kind in ("Add", "Mul", "Sub", "Div", "MatMul", "Pow")
            if constant is not None and computes and constant.tensor.dtype in REALS:
                name = self._parameter(name, node)
            inputs.append(name)
        self._add(node, PLAIN[node.kind], inputs, self._plain_attributes(node))

    def _plain_attributes(self, node: Node) -> Mapping[str, Any]:
        """Those of `node`; of a pooling under Paddle's names."""
        given = node.attributes
        if node.kind not in ("AveragePool", "MaxPool", "GlobalAveragePool"):
            return given
        kind = "max" if node.kind == "MaxPool" else "avg"
        if node.kind == "GlobalAveragePool":
            return {"pooling_type": kind, "global_pooling": True}
        return {**given, "pooling_type": kind, "kernel_size": given.get("kernel_shape", ())}

    def _check_coverage(self) -> None:
        """Every real constant that the graph reads is a parameter, or belongs to what was recognised."""
        graph, patterns = self.graph, self.patterns
        used = sum(constant.tensor.array.size for constant in self.parameters.values())
        if used > 2 * graph.held + SMALL:
            graph.fail(
                f"its layers have {used:,} values, its constants {graph.held:,}: no model of text shares them so"
            )
        placed = {name for constant in self.parameters.values() for name in constant.sources}
        for made in patterns.made.values():
            placed.update(name for name in (made.scale, made.bias) if name)
        read: set[str] = set()
        described = {node.output for node in graph.opaque.values()}
        for node in (*graph.nodes, *graph.opaque.values()):
            found = [(name, graph.constants[name]) for name in node.inputs if name in graph.constants]
            read.update(name for _, constant in found for name in constant.sources)
            # Of those that describe shapes, limits and factors of sizes have their place.
            recognised = node.output in patterns.absorbed or node.output in patterns.made
            recognised = recognised or node.output in self.recurrent.absorbed
            if recognised or node.kind in ("Resize", "Upsample", "Clip") or node.output in described:
                continue
            for name, constant in found:
                if constant.tensor.dtype in REALS and not constant.sources <= placed:
                    shape = list(constant.tensor.shape)
                    graph.fail(f"the constant {show(name)} {shape} has no place in a layer", node)
        placed |= read
        unread = [
            name
            for name, constant in graph.constants.items()
            if constant.root == name and not constant.parts and name not in placed
            if constant.tensor.dtype in REALS and constant.tensor.array.size > 1
        ]
        if unread:
            graph.fail(f"it has constants that nothing reads: {show_all(unread)}")


def _single(tensor: Tensor) -> Array:
    if tensor.dtype == "bfloat16":
        widened: Array = (tensor.array.astype(np.uint32) << 16).view(np.float32)
        return widened
    return tensor.array.astype(np.float32, copy=False)
