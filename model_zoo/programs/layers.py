"""Operations that become layers: those with weights of their own.

Each function puts a layer into the tree and a call of it into the graph, and says whether it could: where a weight is
computed or shared, the operation stays a call into the table.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from paddle2torch.model_zoo.programs.graph import Node
from paddle2torch.model_zoo.programs.modules import (
    ChannelsLast,
    Embedding,
    FlatLayerNorm,
    PaddleConv,
    PaddleConvTranspose,
    Recurrent,
    ScaledDropout,
    recurrent_keys,
)
from paddle2torch.model_zoo.programs.paths import dotted, put
from paddle2torch.model_zoo.programs.table import TABLE
from paddle2torch.model_zoo.programs.values import Known

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.block import BlockBuilder

_CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv3d")
_TRANSPOSED = ("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose")


def _conv_layer(block: BlockBuilder, node: Node) -> bool:
    weight = node.inputs[1]
    if not block.own(weight) or any(item is not None for item in node.inputs[2:]) or not isinstance(weight, str):
        return False
    shape = block.owner.graph.types[weight].shape
    axes = len(shape) - 2
    attributes = block.keywords(node, TABLE[node.kind])
    layout = attributes.get("data_format", "NCHW")
    strides, dilations = tuple(attributes["strides"]), tuple(attributes["dilations"])
    paddings, groups = tuple(attributes["paddings"]), attributes["groups"]
    algorithm = attributes.get("padding_algorithm", "EXPLICIT")
    declared = block.owner.type_of(node.outputs[0])
    if declared is None or len(declared.shape) != len(shape) or axes not in (2, 3) or groups < 1 or shape[0] % groups:
        return False
    last = layout in ("NHWC", "NDHWC")
    bias = block.bias(node, shape[0], -1 if last else 1)
    even = algorithm in ("EXPLICIT", "VALID") and (len(paddings) == axes or paddings[::2] == paddings[1::2])
    with torch.device("meta"):
        if even and not last and all(width >= 0 for width in paddings):
            widths = paddings if len(paddings) == axes else paddings[::2]
            kind = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
            module: nn.Module = kind(
                shape[1] * groups,
                shape[0],
                shape[2:],  # type: ignore[arg-type]
                strides,  # type: ignore[arg-type]
                widths if algorithm == "EXPLICIT" else 0,  # type: ignore[arg-type]
                dilations,  # type: ignore[arg-type]
                groups,
                bias is not None,
                dtype=block.owner.dtype,
            )
        else:
            module = PaddleConv(
                shape,
                bias is not None,
                strides=strides,
                paddings=paddings,
                padding_algorithm=algorithm,
                groups=groups,
                dilations=dilations,
                data_format=layout,
            ).to(block.owner.dtype)
    source = block.tensor(block.get(node.inputs[0] if isinstance(node.inputs[0], str) else None))
    weights = {"weight": (weight, False)} | ({"bias": (bias[0], False)} if bias else {})
    path = block.layer(node, module, weights, weight)
    block.finish_layer(node, block.fx.call_module(path, (source,)), bias)
    return True


def _conv_transpose_layer(block: BlockBuilder, node: Node) -> bool:
    weight = node.inputs[1]
    if not block.own(weight) or not isinstance(weight, str):
        return False
    shape = block.owner.graph.types[weight].shape
    attributes = block.keywords(node, TABLE[node.kind])
    layout, groups = attributes.get("data_format", "NCHW"), attributes["groups"]
    declared = block.owner.type_of(node.outputs[0])
    if declared is None or len(declared.shape) != len(shape) or groups < 1:
        return False
    sizes = block.get(node.inputs[2]) if len(node.inputs) > 2 and isinstance(node.inputs[2], str) else None
    wanted = attributes.get("output_size", ()) if sizes is None else block.as_numbers(sizes)
    bias = block.bias(node, shape[1] * groups, -1 if layout in ("NHWC", "NDHWC") else 1)
    axes = len(shape) - 2
    paddings = tuple(attributes["paddings"])
    extra = tuple(attributes.get("output_padding", ())) or (0,) * axes
    even = attributes.get("padding_algorithm", "EXPLICIT") == "EXPLICIT" and (
        len(paddings) == axes or paddings[::2] == paddings[1::2]
    )
    fits = all(e < max(s, d) for e, s, d in zip(extra, attributes["strides"], attributes["dilations"], strict=False))
    with torch.device("meta"):
        if even and not wanted and layout in ("NCHW", "NCDHW") and axes in (2, 3) and len(extra) == axes and fits:
            kind = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[axes]
            module: nn.Module = kind(
                shape[0],
                shape[1] * groups,
                shape[2:],  # type: ignore[arg-type]
                tuple(attributes["strides"]),  # type: ignore[arg-type]
                paddings if len(paddings) == axes else paddings[::2],  # type: ignore[arg-type]
                extra,  # type: ignore[arg-type]
                groups,
                bias is not None,
                tuple(attributes["dilations"]),  # type: ignore[arg-type]
                dtype=block.owner.dtype,
            )
            arguments: tuple[Any, ...] = ()
        else:
            attributes.pop("output_size", None)
            module = PaddleConvTranspose(shape, bias is not None, **attributes).to(block.owner.dtype)
            arguments = (wanted,) if wanted else ()
    source = block.tensor(block.get(node.inputs[0] if isinstance(node.inputs[0], str) else None))
    weights = {"weight": (weight, False)} | ({"bias": (bias[0], False)} if bias else {})
    path = block.layer(node, module, weights, weight)
    block.finish_layer(node, block.fx.call_module(path, (source, *arguments)), bias)
    return True


def _batch_norm_layer(block: BlockBuilder, node: Node) -> bool:
    x, *weights = node.inputs
    if len(weights) != 4 or not all(map(block.own, weights)) or not isinstance(x, str):
        return False
    declared = block.owner.type_of(x)
    attributes = node.attributes
    held = attributes.get("is_test") and not attributes.get("trainable_statistics")
    if declared is None or not (held or attributes.get("use_global_stats")):
        return False
    mean, variance, scale, bias = (str(name) for name in weights)
    size = math.prod(block.owner.graph.types[mean].shape)
    rank = len(declared.shape)
    kinds: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if rank not in kinds:
        return False
    with torch.device("meta"):
        momentum = 1.0 - float(attributes.get("momentum", 0.9))
        module = kinds[rank](size, attributes.get("epsilon", 1e-5), momentum, dtype=block.owner.dtype)
        last = attributes.get("data_format", "NCHW")[-1] == "C" and rank > 2
        module = ChannelsLast(module) if last else module
    front = "inner." if last else ""
    rows = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
    path = block.layer(node, module, {front + key: (name, False) for key, name in rows.items()}, scale)
    made = block.fx.call_module(path, (block.tensor(block.get(x)),))
    block.name(made, node.outputs[0])
    return True


def _layer_norm_layer(block: BlockBuilder, node: Node) -> bool:
    x, *weights = [*node.inputs, None, None][:3]
    if not all(name is None or block.own(name) for name in weights) or not any(weights) or not isinstance(x, str):
        return False
    scale, bias = (name if isinstance(name, str) else None for name in weights)
    main = scale or bias
    assert main is not None
    size = math.prod(block.owner.graph.types[main].shape)
    declared = block.owner.type_of(x)
    begin = node.attributes.get("begin_norm_axis", 1)
    if declared is None:
        return False
    epsilon = node.attributes.get("epsilon", 1e-5)
    with torch.device("meta"):
        if begin == len(declared.shape) - 1 and scale is not None:
            module: nn.Module = nn.LayerNorm(size, epsilon, bias=bias is not None, dtype=block.owner.dtype)
        else:
            module = FlatLayerNorm(size, epsilon, begin, scale is not None, bias is not None).to(block.owner.dtype)
    rows = {"weight": scale, "bias": bias}
    path = block.layer(node, module, {key: (name, False) for key, name in rows.items() if name}, main)
    block.name(block.fx.call_module(path, (block.tensor(block.get(x)),)), node.outputs[0])
    return True


def _group_norm_layer(block: BlockBuilder, node: Node) -> bool:
    x, *weights = [*node.inputs, None, None][:3]
    if not all(map(block.own, weights)) or node.attributes.get("data_format", "NCHW") not in ("NCHW", "NCL", "NCDHW"):
        return False
    scale, bias = (str(name) for name in weights)
    size, groups = math.prod(block.owner.graph.types[scale].shape), node.attributes.get("groups", -1)
    if groups < 1 or size % groups or not isinstance(x, str):
        return False
    with torch.device("meta"):
        module = nn.GroupNorm(groups, size, node.attributes.get("epsilon", 1e-5), dtype=block.owner.dtype)
    path = block.layer(node, module, {"weight": (scale, False), "bias": (bias, False)}, scale)
    block.name(block.fx.call_module(path, (block.tensor(block.get(x)),)), node.outputs[0])
    return True


def _linear_layer(block: BlockBuilder, node: Node) -> bool:
    if len(node.inputs) != 2 or not block.own(node.inputs[1]) or node.attributes.get("transpose_x"):
        return False
    x, weight = node.inputs
    if not isinstance(x, str) or not isinstance(weight, str):
        return False
    attributes = node.attributes
    shape = block.owner.graph.types[weight].shape
    declared, made = block.owner.type_of(x), block.owner.type_of(node.outputs[0])
    if len(shape) != 2 or declared is None or made is None or attributes.get("alpha", 1.0) != 1.0:
        return False
    if "x_num_col_dims" in attributes and (
        attributes["x_num_col_dims"] != len(declared.shape) - 1 or attributes.get("y_num_col_dims", 1) != 1
    ):
        return False
    transposed = not attributes.get("transpose_y", False)
    inputs, outputs = shape if transposed else shape[::-1]
    bias = block.bias(node, outputs, -1) if len(made.shape) > 0 else None
    with torch.device("meta"):
        module = nn.Linear(inputs, outputs, bias is not None, dtype=block.owner.dtype)
    weights = {"weight": (weight, transposed)} | ({"bias": (bias[0], False)} if bias else {})
    path = block.layer(node, module, weights, weight)
    block.finish_layer(node, block.fx.call_module(path, (block.tensor(block.get(x)),)), bias)
    return True


def _embedding_layer(block: BlockBuilder, node: Node) -> bool:
    x, weight = node.inputs[:2]
    if not block.own(weight) or not isinstance(weight, str) or not isinstance(x, str):
        return False
    shape = block.owner.graph.types[weight].shape
    if len(shape) != 2:
        return False
    with torch.device("meta"):
        padding = node.attributes.get("padding_idx", -1)
        module = Embedding(shape[0], shape[1], padding).to(block.owner.dtype)
    path = block.layer(node, module, {"weight": (weight, False)}, weight)
    block.name(block.fx.call_module(path, (block.tensor(block.get(x)),)), node.outputs[0])
    return True


def _dropout_layer(block: BlockBuilder, node: Node) -> bool:
    share = block.get(node.inputs[2]) if len(node.inputs) > 2 and isinstance(node.inputs[2], str) else None
    p = node.attributes.get("dropout_prob")
    if isinstance(share, Known) and share.tensor.numel() == 1:
        p = share.tensor.item()
    value = block.get(node.inputs[0] if isinstance(node.inputs[0], str) else None)
    if not isinstance(p, int | float) or not 0 <= p <= 1 or not isinstance(value, fx.Node):
        return False
    upscale = node.attributes.get("mode", "downgrade_in_infer") == "upscale_in_train"
    module = nn.Dropout(p) if upscale else ScaledDropout(p)
    path = block.owner.unique(
        dotted(node.path) if node.path and dotted(node.path) not in block.owner.containers else "dropout"
    )
    put(block.root, path, module)
    block.name(block.fx.call_module(path, (value,)), node.outputs[0])
    return True


def _recurrent_layer(block: BlockBuilder, node: Node) -> bool:
    if len(node.inputs) < 3:
        return False
    x, states, weights = node.inputs[:3]
    lengths = node.inputs[3] if len(node.inputs) > 3 else None
    if not isinstance(weights, tuple) or not all(map(block.own, weights)) or not isinstance(states, tuple):
        return False
    attributes = node.attributes
    layers, both = attributes.get("num_layers", 1), attributes.get("is_bidirec", False)
    mode = attributes.get("mode", "RNN_TANH")
    if not isinstance(layers, int) or not 1 <= layers <= 64:
        return False
    count = 4 * layers * (2 if both else 1)
    if len(weights) not in (count, count // 2) or not isinstance(x, str):
        return False
    with torch.device("meta"):
        common: dict[str, Any] = {
            "num_layers": layers,
            "bias": len(weights) == count,
            "bidirectional": both,
            "dtype": block.owner.dtype,
        }
        sizes = (block.owner.graph.types[weights[0]].shape[-1], attributes.get("hidden_size", 1))
        if mode in ("LSTM", "GRU"):
            layer: nn.RNNBase = (nn.LSTM if mode == "LSTM" else nn.GRU)(*sizes, **common)
        else:
            layer = nn.RNN(*sizes, nonlinearity="tanh" if mode == "RNN_TANH" else "relu", **common)
        module = Recurrent(layer)
    keys = recurrent_keys(layers, both, len(weights) == count)
    rows = {f"layer.{key}": (name, False) for key, name in zip(keys, weights, strict=True)}
    path = block.layer(node, module, rows, weights[0])
    arguments = [block.tensor(block.get(x)), [block.tensor(block.get(name)) for name in states]]
    if isinstance(lengths, str):
        arguments.append(block.tensor(block.get(lengths)))
    made = block.fx.call_module(path, tuple(arguments))
    for place, result in ((0, 0), (2, 1)):
        if place < len(node.outputs) and node.outputs[place]:
            block.name(block.fx.call_function(operator.getitem, (made, result)), node.outputs[place])
    return True


LAYERS: dict[str, Callable[[BlockBuilder, Node], bool]] = {
    **dict.fromkeys(_CONVOLUTIONS, _conv_layer),
    **dict.fromkeys(_TRANSPOSED, _conv_transpose_layer),
    **dict.fromkeys(("batch_norm", "sync_batch_norm"), _batch_norm_layer),
    "layer_norm": _layer_norm_layer,
    "group_norm": _group_norm_layer,
    "matmul": _linear_layer,
    "embedding": _embedding_layer,
    "dropout": _dropout_layer,
    "rnn": _recurrent_layer,
}
