"""ONNX files of our networks as different exporters write them, independently of the reader under test.

A network is captured once for one size, and then written in a `Style`: paddle2onnx's with its splits, of several
versions of the operations, or with everything whole. What is written runs in ONNX Runtime.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from small_models import fill, lstm_config, small_config

from paddle2torch.compiled.serving import Served, served
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
)
from paddle2torch.model_zoo.network import Network, build_model


@dataclass(frozen=True)
class Style:
    """How an exporter writes a network.

    `split_bias`: a convolution's bias as an addition of [1, C, 1, 1], `reshaped` in the graph as paddle2onnx 1 does.
    `pieces`: activations and normalisations in parts. `nodes`: constants are nodes. `identities`: each value has a
    second name. `halves`: numbers are float16. `gemm`: linear layers as Gemm, where the input has two dimensions.
    """

    opset: int = 11
    split_bias: bool = False
    reshaped: bool = False
    pieces: bool = False
    nodes: bool = False
    identities: bool = False
    halves: bool = False
    gemm: bool = False


PADDLE2ONNX = Style(opset=11, split_bias=True, pieces=True, identities=True)
STYLES = {
    "paddle2onnx, version 7": Style(opset=7, split_bias=True, reshaped=True, pieces=True, nodes=True),
    "paddle2onnx, version 11": PADDLE2ONNX,
    "paddle2onnx, version 12, constants as nodes": Style(opset=12, pieces=True, nodes=True),
    "paddle2onnx, version 14": Style(opset=14, split_bias=True, identities=True),
    "whole layers, version 17": Style(opset=17, gemm=True),
    "whole layers, version 22": Style(opset=22, gemm=True),
    "half precision, version 13": Style(opset=13, pieces=True, halves=True),
}


def det_config() -> ModelConfig:
    """A small detector of the v4 architecture."""
    return ModelConfig(
        name="detector",
        task="det",
        form="training",
        backbone=Component("PPLCNetV3", {"scale": 0.35, "det": True}),
        neck=Component("RSEFPN", {"out_channels": 16}),
        head=Component("DBHead", {}),
        preprocess=DetPreprocess(),
        postprocess=DBPostprocess(),
    )


def cls_config() -> ModelConfig:
    """A small classifier of PaddleClas, whose dropout multiplies at inference."""
    return ModelConfig(
        name="classifier",
        task="cls",
        form="training",
        backbone=Component("PPLCNet", {"scale": 0.25, "stride_list": [2, [2, 1], [2, 1], [2, 1], [2, 1]]}),
        neck=None,
        head=Component("PPLCNetHead", {"classes": 2, "class_expand": 64}),
        preprocess=ClsPreprocess(image_shape=(3, 80, 160), keep_ratio=False),
        postprocess=ClsPostprocess(),
    )


def sequence_config() -> ModelConfig:
    """PP-OCRv6's tiny recogniser: its head has convolutions over the sequence."""
    head = {"classes": 8, "encoder_type": "reshape", "ctc": {}, "mid_channels": 80, "use_guide": True, "nrtr": None}
    return replace(
        small_config(),
        backbone=Component("PPLCNetV4", {"model_size": "tiny"}),
        head=Component("MultiHead", head),
    )


def recurrent_config() -> ModelConfig:
    """A small recogniser of the v2.0 architecture: its neck is a bidirectional LSTM of two layers."""
    strides = {"model_name": "small", "small_stride": [1, 2, 2, 2]}
    return replace(lstm_config(), backbone=Component("MobileNetV3", {"scale": 0.35, **strides}))


CONFIGS = {
    "rec": small_config(),
    "det": det_config(),
    "cls": cls_config(),
    "sequence": sequence_config(),
    "lstm": recurrent_config(),
}
SHAPES = {
    "rec": (1, 3, 48, 64),
    "det": (1, 3, 64, 64),
    "cls": (1, 3, 80, 160),
    "sequence": (1, 3, 48, 64),
    "lstm": (1, 3, 32, 64),
}


@cache
def network(task: str) -> Network:
    """The small network for a task, in training form."""
    model = build_model(CONFIGS[task]).eval()
    fill(model)
    return model


@cache
def captured(task: str) -> tuple[Served, torch.export.ExportedProgram]:
    """Its fused form, and the graph of that for one size."""
    model = served(network(task))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an LSTM keeps its tensors in a list as well
        return model, torch.export.export(model, (torch.zeros(SHAPES[task]),), strict=False)


def write(path: Path, task: str, style: Style = PADDLE2ONNX, **metadata: str) -> Path:
    """The network for `task` as an ONNX file in that style."""
    return save(path, proto(task, style, **metadata))


def proto(task: str, style: Style = PADDLE2ONNX, **metadata: str) -> Any:
    """The same as onnx's own object, to be spoilt before it is written."""
    return _Writer(task, style).write(metadata)


def save(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


class _Writer:
    def __init__(self, task: str, style: Style) -> None:
        self.task = task
        self.style = style
        self.model, self.program = captured(task)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.names: dict[str, str] = {}
        self.count = 0
        signature = self.program.graph_signature
        state = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        self.parameters = {
            **{name: state[key] for name, key in signature.inputs_to_parameters.items()},
            **{name: state[key] for name, key in signature.inputs_to_buffers.items()},
        }

    def write(self, metadata: dict[str, str]) -> Any:
        real = TensorProto.FLOAT16 if self.style.halves else TensorProto.FLOAT
        output, shape = "", None
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.names[node.name] = self.translate(node)
            elif node.op == "output":
                output, shape = self.names[node.args[0][0].name], node.args[0][0].meta["val"].shape
            elif node.name not in self.parameters:
                self.names[node.name] = "x"
        self.nodes.append(helper.make_node("Identity", [output], ["result"]))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", real, SHAPES[self.task])],
            [helper.make_tensor_value_info("result", real, shape)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.style.opset)], ir_version=8)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        return model

    # Values.

    def constant(self, value: Any, kind: Any = np.float32, name: str = "") -> str:
        array = np.asarray(value, kind)
        if self.style.halves and array.dtype == np.float32:
            array = array.astype(np.float16)
        self.count += 1
        name = name or f"constant.{self.count}"
        if self.style.nodes:
            tensor = numpy_helper.from_array(np.ascontiguousarray(array))
            self.nodes.insert(0, helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def parameter(self, node: Any, transposed: bool = False) -> str:
        """The constant of a parameter, made where it is first used."""
        name = node.name + (".T" if transposed else "")
        if name not in self.names:
            array = self.parameters[node.name]
            self.names[name] = self.constant(array.T if transposed else array, name=name)
        return self.names[name]

    def op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        self.count += 1
        output = f"{kind}.{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        if self.style.identities and kind != "Identity":
            return self.op("Identity", [output])
        return output

    def value(self, argument: Any) -> str:
        if isinstance(argument, float | int):
            return self.constant(argument)
        return self.names[argument.name] if argument.name not in self.parameters else self.parameter(argument)

    # Operations whose form depends on the version.

    def axes(self, kind: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        if self.style.opset < since:
            return self.op(kind, [x], axes=axes, **attributes)
        return self.op(kind, [x, self.constant(axes, np.int64)], **attributes)

    def clip(self, x: str, lowest: float, highest: float) -> str:
        if self.style.opset < 11:
            return self.op("Clip", [x], min=lowest, max=highest)
        return self.op("Clip", [x, self.constant(lowest), self.constant(highest)])

    def slice(self, x: str, index: int) -> str:
        if self.style.opset < 10:
            return self.op("Slice", [x], axes=[0], starts=[index], ends=[index + 1])
        bounds = [self.constant([value], np.int64) for value in (index, index + 1, 0)]
        return self.op("Slice", [x, *bounds])

    def reshape(self, x: str, shape: list[int]) -> str:
        return self.op("Reshape", [x, self.constant(shape, np.int64)])

    # Layers.

    def translate(self, node: Any) -> str:
        kind = getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target)))
        return str(getattr(self, f"on_{kind}")(node, *node.args))

    def convolution(self, kind: str, node: Any, x: str, weight: Any, bias: Any, **attributes: Any) -> str:
        inputs = [x, self.parameter(weight)]
        if bias is None:
            return self.op(kind, inputs, **attributes)
        if not self.style.split_bias:
            return self.op(kind, [*inputs, self.parameter(bias)], **attributes)
        flat = self.parameters[bias.name]
        out = self.op(kind, inputs, **attributes)
        if self.style.reshaped:
            return self.op("Add", [out, self.reshape(self.parameter(bias), [1, flat.size, 1, 1])])
        return self.op("Add", [out, self.constant(flat.reshape(1, -1, 1, 1), name=f"{bias.name}.reshaped")])

    def on_conv2d(self, node: Any, x: Any, weight: Any, bias: Any = None, stride: Any = (1, 1), padding: Any = (0, 0),
                  dilation: Any = (1, 1), groups: int = 1) -> str:  # fmt: skip
        return self.convolution(
            "Conv", node, self.value(x), weight, bias, strides=list(stride), pads=[*padding, *padding],
            dilations=list(dilation), group=groups, kernel_shape=list(self.parameters[weight.name].shape[2:]),
        )  # fmt: skip

    def on_conv1d(self, node: Any, x: Any, weight: Any, bias: Any = None, stride: Any = (1,), padding: Any = (0,),
                  dilation: Any = (1,), groups: int = 1) -> str:  # fmt: skip
        kernel = self.constant(self.parameters[weight.name][:, :, None], name=f"{weight.name}.raised")
        raised = self.axes("Unsqueeze", self.value(x), [2], 13)
        out = self.op("Conv", [raised, kernel], pads=[0, *padding, 0, *padding], group=groups)
        return self.axes("Squeeze", out, [2], 13)

    def on_mean(self, node: Any, x: Any, axes: Any, keepdim: bool = False) -> str:
        return self.axes("ReduceMean", self.value(x), list(axes), 18, keepdims=int(keepdim))

    def on_conv_transpose2d(self, node: Any, x: Any, weight: Any, bias: Any = None, stride: Any = (1, 1)) -> str:
        return self.convolution("ConvTranspose", node, self.value(x), weight, bias, strides=list(stride))

    def on_batch_norm(self, node: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> str:
        inputs = [self.value(x), *map(self.parameter, (weight, bias, mean, var))]
        return self.op("BatchNormalization", inputs, epsilon=rest[2])

    def on_linear(self, node: Any, x: Any, weight: Any, bias: Any) -> str:
        if self.style.gemm and len(x.meta["val"].shape) == 2:
            return self.op("Gemm", [self.value(x), self.parameter(weight), self.parameter(bias)], transB=1)
        product = self.op("MatMul", [self.value(x), self.parameter(weight, transposed=True)])
        return self.op("Add", [product, self.parameter(bias)])

    def on_layer_norm(self, node: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float, *_: Any) -> str:
        scale, shift = self.parameter(weight), self.parameter(bias)
        if not self.style.pieces and self.style.opset >= 17:
            return self.op("LayerNormalization", [self.value(x), scale, shift], epsilon=eps)
        centred = self.op("Sub", [self.value(x), self.axes("ReduceMean", self.value(x), [-1], 18)])
        square = self.op("Pow", [centred, self.constant(2.0)])
        variance = self.op("Add", [self.axes("ReduceMean", square, [-1], 18), self.constant(eps)])
        normal = self.op("Div", [centred, self.op("Sqrt", [variance])])
        return self.op("Add", [self.op("Mul", [normal, scale]), shift])

    def on_hardswish(self, node: Any, x: Any) -> str:
        if self.style.pieces:
            gate = self.clip(self.op("Add", [self.value(x), self.constant(3.0)]), 0.0, 6.0)
            return self.op("Div", [self.op("Mul", [self.value(x), gate]), self.constant(6.0)])
        if self.style.opset >= 14:
            return self.op("HardSwish", [self.value(x)])
        return self.op("Mul", [self.op("HardSigmoid", [self.value(x)], alpha=1 / 6, beta=0.5), self.value(x)])

    def on_hardsigmoid(self, node: Any, x: Any) -> str:
        return self.op("HardSigmoid", [self.value(x)], alpha=1 / 6, beta=0.5)

    def on_silu(self, node: Any, x: Any) -> str:
        inside = self.op("Mul", [self.value(x), self.constant(1.0)]) if self.style.nodes else self.value(x)
        return self.op("Mul", [self.value(x), self.op("Sigmoid", [inside])])

    def on_gelu(self, node: Any, x: Any) -> str:
        erf = self.op("Erf", [self.op("Div", [self.value(x), self.constant(math.sqrt(2))])])
        product = self.op("Mul", [self.value(x), self.op("Add", [erf, self.constant(1.0)])])
        return self.op("Mul", [product, self.constant(0.5)])

    def on_relu(self, node: Any, x: Any) -> str:
        return self.op("Relu", [self.value(x)])

    def on_sigmoid(self, node: Any, x: Any) -> str:
        return self.op("Sigmoid", [self.value(x)])

    def on_clamp(self, node: Any, x: Any, lowest: float, highest: float) -> str:
        return self.clip(self.value(x), lowest, highest)

    def on_softmax(self, node: Any, x: Any, axis: int) -> str:
        return self.op("Softmax", [self.value(x)], axis=len(node.meta["val"].shape) - 1)

    def on_mul(self, node: Any, a: Any, b: Any) -> str:
        return self.op("Mul", [self.value(a), self.value(b)])

    def on_add(self, node: Any, a: Any, b: Any) -> str:
        return self.op("Add", [self.value(a), self.value(b)])

    def on_matmul(self, node: Any, a: Any, b: Any) -> str:
        return self.op("MatMul", [self.value(a), self.value(b)])

    def on_adaptive_avg_pool2d(self, node: Any, x: Any, size: Any) -> str:
        return self.op("GlobalAveragePool", [self.value(x)])

    def on_avg_pool2d(self, node: Any, x: Any, kernel: Any, stride: Any) -> str:
        return self.op("AveragePool", [self.value(x)], kernel_shape=list(kernel), strides=list(stride))

    def on_max_pool2d(self, node: Any, x: Any, kernel: Any, stride: Any = ()) -> str:
        return self.op("MaxPool", [self.value(x)], kernel_shape=list(kernel), strides=list(stride or kernel))

    def on_upsample_nearest2d(self, node: Any, x: Any, size: Any, factors: Any) -> str:
        if self.style.opset < 9:
            return self.op("Upsample", [self.value(x)], scales=[1.0, 1.0, *factors], mode="nearest")
        scales = self.constant([1.0, 1.0, *factors])
        if self.style.halves:
            scales = self.op("Cast", [scales], to=TensorProto.FLOAT)
        if self.style.opset < 10:
            return self.op("Upsample", [self.value(x), scales], mode="nearest")
        nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        return self.op("Resize", [self.value(x), self.constant([]), scales], **nearest)

    def on_cat(self, node: Any, tensors: Any, axis: int) -> str:
        return self.op("Concat", [self.value(x) for x in tensors], axis=axis)

    def on_squeeze(self, node: Any, x: Any, axis: int) -> str:
        return self.axes("Squeeze", self.value(x), [axis], 13)

    def on_transpose(self, node: Any, x: Any, a: int, b: int) -> str:
        order = list(range(len(node.meta["val"].shape)))
        order[a], order[b] = order[b], order[a]
        return self.op("Transpose", [self.value(x)], perm=order)

    def on_permute(self, node: Any, x: Any, order: Any) -> str:
        return self.op("Transpose", [self.value(x)], perm=list(order))

    def on_view(self, node: Any, x: Any, *_: Any) -> str:
        return self.reshape(self.value(x), list(node.meta["val"].shape))

    on_reshape = on_flatten = on_view

    def on_unbind(self, node: Any, x: Any) -> str:
        return self.value(x)

    def on_zeros(self, node: Any, shape: Any) -> str:
        return ""

    def on_lstm(self, node: Any, x: Any, states: Any, parameters: Any, biases: bool, layers: int, *_: Any) -> str:
        """Both directions of each layer in a node, with the sequence first."""
        hidden = self.parameters[parameters[1].name].shape[1]
        out = self.op("Transpose", [self.value(x)], perm=[1, 0, 2])
        for layer in range(layers):
            cells = [[p.name for p in parameters[at : at + 4]] for at in (8 * layer, 8 * layer + 4)]
            tensors = [self.gates([cell[place] for cell in cells], hidden) for place in range(4)]
            if self.style.pieces:
                tensors[2:] = [self.op("Concat", tensors[2:], axis=1)]
            else:
                both = np.concatenate([self.in_order(cells, place, hidden) for place in (2, 3)], 1)
                tensors = [self.constant(self.in_order(cells, place, hidden)) for place in (0, 1)]
                tensors.append(self.constant(both))
            zeros = self.zeros(x, 2 * layers, layer, hidden)
            run = self.op("LSTM", [out, *tensors, "", zeros, zeros], direction="bidirectional", hidden_size=hidden)
            out = self.reshape(self.op("Transpose", [run], perm=[0, 2, 1, 3]), [0, 0, -1])
        return self.op("Transpose", [out], perm=[1, 0, 2])

    def in_order(self, cells: list[list[str]], place: int, hidden: int) -> np.ndarray:
        """One tensor of both directions, its gates from PyTorch's order (input, forget, cell, output) to ONNX's."""
        tensors = [np.split(self.parameters[cell[place]], 4) for cell in cells]
        return np.stack([np.concatenate([gates[gate] for gate in (0, 3, 1, 2)]) for gates in tensors])

    def gates(self, names: list[str], hidden: int) -> str:
        """The same as paddle2onnx does it, in the graph."""
        if not self.style.pieces:
            return ""
        raised = [self.axes("Unsqueeze", self.constant(self.parameters[n], name=n), [0], 13) for n in names]
        both = self.op("Concat", raised, axis=0)
        parts = [self.cut(both, 1, start * hidden, end * hidden) for start, end in ((0, 1), (3, 4), (1, 3))]
        return self.op("Concat", parts, axis=1)

    def cut(self, x: str, axis: int, start: int, end: int) -> str:
        if self.style.opset < 10:
            return self.op("Slice", [x], axes=[axis], starts=[start], ends=[end])
        return self.op("Slice", [x, *(self.constant([value], np.int64) for value in (start, end, axis))])

    def zeros(self, x: Any, states: int, layer: int, hidden: int) -> str:
        """The initial states of a layer: by paddle2onnx from those of all layers, for the size of the batch."""
        if self.style.opset < 11 or not self.style.pieces:
            return self.constant(np.zeros((2, node_size(x), hidden), np.float32))
        batch = self.cut(self.op("Shape", [self.value(x)]), 0, 0, 1)
        sizes = [self.constant([states], np.int64), batch, self.constant([hidden], np.int64)]
        every = self.op("Expand", [self.constant([0.0]), self.op("Concat", sizes, axis=0)])
        return self.cut(every, 0, 2 * layer, 2 * layer + 2)

    def on_getitem(self, node: Any, x: Any, index: int) -> str:
        if x.name.startswith("lstm"):
            return self.value(x)
        return self.axes("Squeeze", self.slice(self.value(x), index), [0], 13)

    def on_dropout(self, node: Any, x: Any, *_: Any) -> str:
        return self.op("Dropout", [self.value(x)])

    def on_detach(self, node: Any, x: Any) -> str:
        return self.op("Identity", [self.value(x)])


def node_size(node: Any) -> int:
    """How many sequences a value has."""
    return int(node.meta["val"].shape[0])


def with_external_data(path: Path, task: str, data: str) -> Path:
    """The network with its weights in a file of their own, which its entries call `data`."""
    model = proto(task, Style(opset=17))
    offset, content = 0, b""
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data), ("offset", str(offset)), ("length", str(len(values)))):
            tensor.external_data.add(key=key, value=value)
        content, offset = content + values, offset + len(values)
    (path.parent / "weights.data").write_bytes(content)
    return save(path, model)


__all__ = ["CONFIGS", "PADDLE2ONNX", "SHAPES", "STYLES", "Style", "captured", "network", "proto", "save", "write"]
assert onnx.__version__
