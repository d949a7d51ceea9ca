"""Run an ONNX graph node by node, in float64, and keep what each of its values is.

Only the operations that `graph.py` lets in; sizes are computed in int64 as the file says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.converters.elements import Budget, broadcast, product, windows
from paddle2torch.converters.onnx_files.fused import expand
from paddle2torch.converters.onnx_files.model import Node, OnnxModel
from paddle2torch.converters.onnx_files.model import Tensor as Stored
from paddle2torch.model_zoo.programs.table import ProgramError

# `TensorProto.DataType` of what a Cast makes: real numbers are float64 here, integers int64.
_REAL, _INTEGER, _BOOL = (1, 10, 11, 16), (2, 3, 4, 5, 6, 7, 12, 13), 9
SIXTH = 1 / 6


def run_onnx(model: OnnxModel, images: Tensor) -> dict[str, Tensor]:
    """What the graph computes of `images`, float64 (N, 3, H, W): each value, by its name in the file.

    Raises `ProgramError` for a node that no PP-OCR network has, and for values of more elements than such a network
    makes.
    """
    if len(model.inputs) != 1:
        raise ProgramError(f"the graph has {len(model.inputs)} inputs")
    run = _Run(model.opset)
    values = {name: _tensor(stored) for name, stored in model.constants.items()}
    values[model.inputs[0]] = images
    made_by: dict[str, str] = {}
    for node in model.nodes:
        for part in expand(node, made_by) or (node,):
            inputs = [values[name] if name else None for name in part.inputs]
            try:
                results = run.node(part, inputs)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise ProgramError(f"node {node.index} ({node.kind:.40}): {error!s:.200}") from None
            made = {name: result for name, result in zip(part.outputs, results, strict=False) if name}
            values.update(made)
            made_by.update(dict.fromkeys(made, part.kind))
    return values


def _tensor(stored: Stored) -> Tensor:
    array = stored.array
    if stored.dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    kind = np.float64 if array.dtype.kind == "f" else np.bool_ if array.dtype.kind == "b" else np.int64
    made = torch.from_numpy(np.array(array.astype(kind)))
    # Exporters write 1/6 with six digits; its rounding would grow from layer to layer.
    if kind is np.float64 and made.numel() == 1 and math.isclose(float(made), SIXTH, rel_tol=1e-5):
        made = torch.full_like(made, SIXTH)
    return made


Attributes = Mapping[str, Any]
Inputs = Sequence[Tensor | None]


def _present(inputs: Inputs, place: int) -> Tensor:
    found = inputs[place] if place < len(inputs) else None
    if found is None:
        raise ValueError(f"input {place} is missing")
    return found


def _integers(inputs: Inputs, place: int, given: Attributes, name: str) -> list[int] | None:
    """A list that newer versions of an operation read and older ones have as an attribute."""
    found = inputs[place] if place < len(inputs) else None
    if found is not None:
        return [int(item) for item in found.reshape(-1)[:64].tolist()]
    value = given.get(name)
    return None if value is None else [int(item) for item in value]


Operation = Callable[["_Run", Inputs, Attributes], "Tensor | Sequence[Tensor]"]


def _unary(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda run, inputs, given: function(_present(inputs, 0))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    def operation(run: _Run, inputs: Inputs, given: Attributes) -> Tensor:
        a, b = _present(inputs, 0), _present(inputs, 1)
        if given.get("broadcast") or "axis" in given:
            raise ValueError("the broadcasting of the operations' first versions is not known")
        run.budget.take(broadcast(a.shape, b.shape), "an operation of two values")
        return function(a, b)

    return operation


class _Run:
    """One run; `opset` is the version of the operations."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.budget = Budget()

    def node(self, node: Node, inputs: Inputs) -> Sequence[Tensor]:
        """What a node gives."""
        operation = OPERATIONS.get(node.kind)
        if operation is None or node.domain:
            raise ProgramError(f"node {node.index} is of a kind that is not run: {node.kind:.40}")
        for item in inputs:
            self.budget.take(0 if item is None else item.numel(), f"node {node.index}")
        made = operation(self, inputs, node.attributes)
        return (made,) if isinstance(made, Tensor) else made

    _relu = _unary(F.relu)
    _sigmoid = _unary(torch.sigmoid)
    _sqrt = _unary(torch.sqrt)
    _erf = _unary(torch.erf)
    _hardswish = _unary(F.hardswish)
    _identity = _unary(lambda x: x)
    _dropout = _identity
    _add = _binary(torch.add)
    _sub = _binary(torch.sub)
    _mul = _binary(torch.mul)
    _pow = _binary(torch.pow)
    _div = _binary(lambda a, b: torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc"))

    def _constant(self, inputs: Inputs, given: Attributes) -> Tensor:
        value = next((given[name] for name in given if name.startswith("value")), None)
        if isinstance(value, Stored):
            return _tensor(value)
        array = np.array(value)
        return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))

    def _cast(self, inputs: Inputs, given: Attributes) -> Tensor:
        to = given.get("to")
        x = _present(inputs, 0)
        if to in _REAL:
            return x.double()
        return x.bool() if to == _BOOL else x.long() if to in _INTEGER else x

    def _gelu(self, inputs: Inputs, given: Attributes) -> Tensor:
        approximate = given.get("approximate", "none")
        return F.gelu(_present(inputs, 0), approximate=approximate)

    def _hardsigmoid(self, inputs: Inputs, given: Attributes) -> Tensor:
        slope = given.get("alpha", 0.2)
        slope = SIXTH if math.isclose(slope, SIXTH, rel_tol=1e-5) else slope
        return (_present(inputs, 0) * slope + given.get("beta", 0.5)).clamp(0, 1)

    def _clip(self, inputs: Inputs, given: Attributes) -> Tensor:
        limits = [given.get("min"), given.get("max")]
        for place in (1, 2):
            if place < len(inputs) and (found := inputs[place]) is not None:
                limits[place - 1] = float(found)
        return _present(inputs, 0).clamp(*limits)

    # Layers.

    def _pads(self, x: Tensor, given: Attributes, kernel: Sequence[int], *, extent: Sequence[int]) -> list[int]:
        """Begins, then ends, of the spatial axes."""
        axes = len(kernel)
        strides = given.get("strides") or (1,) * axes
        automatic = given.get("auto_pad", "NOTSET")
        if automatic in ("NOTSET", "VALID", ""):
            pads = list(given.get("pads") or (0,) * (2 * axes)) if automatic != "VALID" else [0] * (2 * axes)
            if len(pads) != 2 * axes or min(pads) < 0:
                raise ValueError(f"its paddings are {pads[:8]}")
        else:
            totals = [
                max(0, (math.ceil(size / stride) - 1) * stride + width - size)
                for size, stride, width in zip(x.shape[2:], strides, extent, strict=True)
            ]
            small = [total // 2 for total in totals]
            large = [total - half for total, half in zip(totals, small, strict=True)]
            pads = [*large, *small] if automatic == "SAME_LOWER" else [*small, *large]
        return pads

    def _conv(self, inputs: Inputs, given: Attributes) -> Tensor:
        x, weight = _present(inputs, 0), _present(inputs, 1)
        axes = weight.dim() - 2
        dilations = list(given.get("dilations") or (1,) * axes)
        extent = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
        pads = self._pads(x, given, weight.shape[2:], extent=extent)
        self.budget.take(windows(x, weight.shape[0], 1, 2 * max(pads)), "a convolution")
        self.budget.take(windows(x, x.shape[1], 1, 2 * max(pads)), "a convolution")
        x = F.pad(x, _sides(pads))
        function = {1: F.conv1d, 2: F.conv2d}[axes]
        strides = list(given.get("strides") or (1,) * axes)
        bias = inputs[2] if len(inputs) > 2 else None
        return function(x, weight, bias, strides, 0, dilations, given.get("group", 1))

    def _convtranspose(self, inputs: Inputs, given: Attributes) -> Tensor:
        x, weight = _present(inputs, 0), _present(inputs, 1)
        if given.get("output_shape") or any(given.get("output_padding") or ()):
            raise ValueError("it gives its output's size")
        strides = list(given.get("strides") or (1, 1))
        dilations = list(given.get("dilations") or (1, 1))
        groups = given.get("group", 1)
        more = max(weight.shape[2:]) * max(dilations)
        self.budget.take(windows(x, weight.shape[1] * groups, max(strides), more), "a transposed convolution")
        bias = inputs[2] if len(inputs) > 2 else None
        full = F.conv_transpose2d(x, weight, bias, strides, 0, 0, groups, dilations)
        if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", ""):
            raise ValueError("its padding is automatic")
        top, left, bottom, right = given.get("pads") or (0, 0, 0, 0)
        return full[:, :, top : full.shape[2] - bottom, left : full.shape[3] - right]

    def _gemm(self, inputs: Inputs, given: Attributes) -> Tensor:
        a, b = _present(inputs, 0), _present(inputs, 1)
        a, b = (a.t() if given.get("transA") else a), (b.t() if given.get("transB") else b)
        self.budget.take(product(a.shape, b.shape), "a linear layer")
        result = given.get("alpha", 1.0) * (a @ b)
        bias = inputs[2] if len(inputs) > 2 else None
        return result if bias is None else result + given.get("beta", 1.0) * bias

    def _matmul(self, inputs: Inputs, given: Attributes) -> Tensor:
        a, b = _present(inputs, 0), _present(inputs, 1)
        self.budget.take(product(a.shape, b.shape), "a product")
        return a @ b

    def _batchnormalization(self, inputs: Inputs, given: Attributes) -> Tensor:
        x, scale, bias, mean, variance = (_present(inputs, place) for place in range(5))
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, given.get("epsilon", 1e-5))

    def _layernormalization(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        shape = x.shape[given.get("axis", -1) :]
        bias = inputs[2] if len(inputs) > 2 else None
        return F.layer_norm(x, shape, _present(inputs, 1), bias, given.get("epsilon", 1e-5))

    def _simplifiedlayernormalization(self, inputs: Inputs, given: Attributes) -> Tensor:
        """ONNX Runtime's: without the mean, which was taken off before."""
        x = _present(inputs, 0)
        if given.get("axis", -1) not in (-1, x.dim() - 1):
            raise ValueError("it is over several axes")
        scale = (x.square().mean(-1, keepdim=True) + given.get("epsilon", 1e-5)).rsqrt()
        return x * scale * _present(inputs, 1)

    def _lstm(self, inputs: Inputs, given: Attributes) -> Sequence[Tensor]:
        x, weight, recurrence, bias = (_present(inputs, place) for place in range(4))
        directions, hidden = recurrence.shape[0], recurrence.shape[2]
        if (len(inputs) > 4 and inputs[4] is not None) or len(inputs) > 7 or given.get("direction") == "reverse":
            raise ValueError("it has lengths, peepholes or a direction that no network here has")
        self.budget.take(5 * directions * hidden * x.shape[0] * x.shape[1], "an LSTM")
        none = x.new_zeros(directions, x.shape[1], hidden)
        given_states = (inputs[place] if place < len(inputs) else None for place in (5, 6))
        states = [none if state is None else state for state in given_states]

        def gates(array: Tensor) -> Tensor:
            """From ONNX's order (input, output, forget, cell) to PyTorch's."""
            parts = array.chunk(4)
            return torch.cat([parts[place] for place in (0, 2, 3, 1)])

        tensors = []
        for direction in range(directions):
            tensors += [gates(array[direction]) for array in (weight, recurrence)]
            tensors += [gates(half) for half in bias[direction].chunk(2)]
        result, *last = torch.lstm(x, states, tensors, True, 1, 0.0, False, directions == 2, False)
        return (result.unflatten(2, (directions, hidden)).permute(0, 2, 1, 3), *last)

    # Windows and reductions.

    def _averagepool(self, inputs: Inputs, given: Attributes) -> Tensor:
        return self._pool(_present(inputs, 0), given, average=True)

    def _maxpool(self, inputs: Inputs, given: Attributes) -> Tensor:
        return self._pool(_present(inputs, 0), given, average=False)

    def _pool(self, x: Tensor, given: Attributes, *, average: bool) -> Tensor:
        kernel = [int(size) for size in given["kernel_shape"]]
        if len(kernel) != 2 or any(size != 1 for size in given.get("dilations") or ()):
            raise ValueError("its windows are not those of an image")
        strides = list(given.get("strides") or (1, 1))
        pads = self._pads(x, given, kernel, extent=kernel)
        self.budget.take(windows(x, x.shape[1], 1, 2 * max(pads) + max(strides)), "a pooling")
        if given.get("ceil_mode"):
            for axis in range(2):
                size = x.shape[2 + axis] + pads[axis] + pads[axis + 2]
                missing = (-(size - kernel[axis])) % strides[axis]
                # A window that would begin in the padding behind the image is left out.
                if missing and (size + missing - kernel[axis]) < x.shape[2 + axis] + pads[axis]:
                    pads[axis + 2] += missing
        padded = F.pad(x, _sides(pads), value=0.0 if average else -math.inf)
        if not average:
            return F.max_pool2d(padded, kernel, strides)
        pooled = F.avg_pool2d(padded, kernel, strides)
        if given.get("count_include_pad") and not given.get("ceil_mode"):
            return pooled
        inside = F.avg_pool2d(F.pad(torch.ones_like(x), _sides(pads)), kernel, strides)
        return pooled / inside

    def _globalaveragepool(self, inputs: Inputs, given: Attributes) -> Tensor:
        return _present(inputs, 0).mean((2, 3), keepdim=True)

    def _axes(self, x: Tensor, inputs: Inputs, given: Attributes) -> list[int]:
        axes = _integers(inputs, 1, given, "axes")
        if axes:
            return axes
        return [] if given.get("noop_with_empty_axes") else list(range(x.dim()))

    def _reducemean(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        axes = self._axes(x, inputs, given)
        return x.mean(axes, keepdim=bool(given.get("keepdims", 1))) if axes else x

    def _reducemax(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        axes = self._axes(x, inputs, given)
        return x.amax(axes, keepdim=bool(given.get("keepdims", 1))) if axes else x

    def _softmax(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        if self.opset >= 13:
            return x.softmax(given.get("axis", -1))
        # Before version 13 all axes from this one on are one.
        axis = given.get("axis", 1) % max(1, x.dim())
        return x.flatten(axis).softmax(-1).reshape(x.shape) if axis else x.flatten().softmax(-1).reshape(x.shape)

    def _pad(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        pads = _integers(inputs, 1, given, "pads") or []
        if given.get("mode", "constant") != "constant" or len(pads) != 2 * x.dim() or min(pads) < 0 or len(inputs) > 3:
            raise ValueError("it pads in a way that is not known")
        value = float(found) if len(inputs) > 2 and (found := inputs[2]) is not None else given.get("value", 0.0)
        whole = zip(pads[: x.dim()], pads[x.dim() :], x.shape, strict=True)
        self.budget.take(math.prod(before + after + size for before, after, size in whole), "a padding")
        return F.pad(x, _sides(pads), value=value)

    def _resize(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        place = 1 if self.opset < 11 else 2
        scales = inputs[place] if len(inputs) > place else None
        sizes = None if self.opset < 11 else _integers(inputs, 3, {}, "")
        if sizes is None:
            assert scales is not None
            factors = [float(factor) for factor in scales.reshape(-1)[:8].tolist()]
            sizes = [math.floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
        else:
            factors = [new / old for new, old in zip(sizes, x.shape, strict=True)]
        self.budget.take(math.prod(max(size, 1) for size in sizes), "a resize")
        coordinates = given.get("coordinate_transformation_mode", "half_pixel" if self.opset >= 11 else "asymmetric")
        rounding = given.get("nearest_mode", "round_prefer_floor" if self.opset >= 11 else "floor")
        mode = given.get("mode", "nearest")
        for axis, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
            if factor != 1:
                x = _stretched(x, axis, _places(x.shape[axis], size, factor, coordinates), mode, rounding)
        return x

    def _upsample(self, inputs: Inputs, given: Attributes) -> Tensor:
        scales = inputs[1] if len(inputs) > 1 else torch.tensor(list(given["scales"]), dtype=torch.float64)
        asked = {"mode": given.get("mode", "nearest"), "coordinate_transformation_mode": "asymmetric"}
        opset, self.opset = self.opset, 10
        try:
            return self._resize((_present(inputs, 0), scales), {**asked, "nearest_mode": "floor"})
        finally:
            self.opset = opset

    # Shapes.

    def _shape(self, inputs: Inputs, given: Attributes) -> Tensor:
        shape = list(_present(inputs, 0).shape)
        return torch.tensor(shape[given.get("start", 0) : given.get("end", len(shape))], dtype=torch.int64)

    def _reshape(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        shape = _integers(inputs, 1, given, "shape") or []
        if not given.get("allowzero"):
            shape = [x.shape[place] if size == 0 else size for place, size in enumerate(shape)]
        return x.reshape(shape)

    def _flatten(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        axis = given.get("axis", 1)
        return x.reshape(math.prod(x.shape[:axis]), -1)

    def _transpose(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        if given.get("last"):  # of a product that `fused` took apart
            return x.transpose(-1, -2)
        return x.permute(tuple(given.get("perm") or reversed(range(x.dim()))))

    def _squeeze(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        axes = _integers(inputs, 1, given, "axes")
        axes = [axis for axis, size in enumerate(x.shape) if size == 1] if axes is None else axes
        if any(x.shape[axis] != 1 for axis in axes):
            raise ValueError(f"axes {axes} of {list(x.shape)} are not of size 1")
        return x.squeeze(axes)

    def _unsqueeze(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        axes = _integers(inputs, 1, given, "axes") or []
        for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
            x = x.unsqueeze(axis)
        return x

    def _concat(self, inputs: Inputs, given: Attributes) -> Tensor:
        parts = [_present(inputs, place) for place in range(len(inputs))]
        self.budget.take(sum(part.numel() for part in parts), "a concatenation")
        return torch.cat(parts, given.get("axis", 0))

    def _split(self, inputs: Inputs, given: Attributes) -> Sequence[Tensor]:
        x, axis = _present(inputs, 0), given.get("axis", 0)
        sizes = _integers(inputs, 1, given, "split")
        if sizes is None:
            raise ValueError("it does not say the sizes of its parts")
        return x.split(sizes, axis)

    def _slice(self, inputs: Inputs, given: Attributes) -> Tensor:
        x = _present(inputs, 0)
        starts, ends = (_integers(inputs, 1, given, "starts") or [], _integers(inputs, 2, given, "ends") or [])
        axes = _integers(inputs, 3, given, "axes") or list(range(len(starts)))
        steps = _integers(inputs, 4, given, "steps") or [1] * len(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if step < 1:
                raise ValueError("it goes backwards")
            x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
        return x

    def _gather(self, inputs: Inputs, given: Attributes) -> Tensor:
        x, index, axis = (
            _present(inputs, 0),
            _present(inputs, 1).long(),
            given.get("axis", 0) % _present(inputs, 0).dim(),
        )
        self.budget.take(x.numel() / max(1, x.shape[axis]) * index.numel(), "a selection")
        chosen = x.index_select(axis, index.reshape(-1) % max(1, x.shape[axis]))
        return chosen.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])

    def _expand(self, inputs: Inputs, given: Attributes) -> Tensor:
        x, shape = _present(inputs, 0), _integers(inputs, 1, given, "shape") or []
        self.budget.take(broadcast(x.shape, shape), "an expansion")
        return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))

    def _constantofshape(self, inputs: Inputs, given: Attributes) -> Tensor:
        shape = _integers(inputs, 0, given, "shape") or []
        self.budget.take(math.prod(shape), "a constant")
        stored = given.get("value")
        value = _tensor(stored).reshape(()) if isinstance(stored, Stored) else torch.zeros((), dtype=torch.float64)
        return value.expand(shape)


OPERATIONS: Mapping[str, Operation] = {
    "Add": _Run._add,
    "AveragePool": _Run._averagepool,
    "BatchNormalization": _Run._batchnormalization,
    "Cast": _Run._cast,
    "Clip": _Run._clip,
    "Concat": _Run._concat,
    "Constant": _Run._constant,
    "ConstantOfShape": _Run._constantofshape,
    "Conv": _Run._conv,
    "ConvTranspose": _Run._convtranspose,
    "Div": _Run._div,
    "Dropout": _Run._dropout,
    "Erf": _Run._erf,
    "Expand": _Run._expand,
    "Flatten": _Run._flatten,
    "Gather": _Run._gather,
    "Gelu": _Run._gelu,
    "Gemm": _Run._gemm,
    "GlobalAveragePool": _Run._globalaveragepool,
    "HardSigmoid": _Run._hardsigmoid,
    "HardSwish": _Run._hardswish,
    "Identity": _Run._identity,
    "LSTM": _Run._lstm,
    "LayerNormalization": _Run._layernormalization,
    "MatMul": _Run._matmul,
    "MaxPool": _Run._maxpool,
    "Mul": _Run._mul,
    "Pad": _Run._pad,
    "Pow": _Run._pow,
    "ReduceMax": _Run._reducemax,
    "ReduceMean": _Run._reducemean,
    "Relu": _Run._relu,
    "Reshape": _Run._reshape,
    "Resize": _Run._resize,
    "Shape": _Run._shape,
    "Sigmoid": _Run._sigmoid,
    "SimplifiedLayerNormalization": _Run._simplifiedlayernormalization,
    "Slice": _Run._slice,
    "Softmax": _Run._softmax,
    "Split": _Run._split,
    "Sqrt": _Run._sqrt,
    "Squeeze": _Run._squeeze,
    "Sub": _Run._sub,
    "Transpose": _Run._transpose,
    "Unsqueeze": _Run._unsqueeze,
    "Upsample": _Run._upsample,
}
"""What runs a node, by the kind that the file names."""


def _sides(pads: Sequence[int]) -> list[int]:
    """ONNX's begins and ends as PyTorch has them: the last axis first, both its sides together."""
    axes = len(pads) // 2
    return [pads[place] for axis in reversed(range(axes)) for place in (axis, axis + axes)]


def _places(size: int, wanted: int, factor: float, mode: str) -> np.ndarray:
    """Where each place of a resized axis lies on the axis before."""
    places = np.arange(wanted, dtype=np.float64)
    if mode == "asymmetric":
        return places / factor
    if mode == "align_corners":
        return places * (size - 1) / max(1, wanted - 1)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and wanted > 1):
        return (places + 0.5) / factor - 0.5
    if mode == "pytorch_half_pixel":
        return np.zeros(wanted)
    raise ValueError(f"its coordinates are of the mode {mode!r:.40}")


def _stretched(x: Tensor, axis: int, places: np.ndarray, mode: str, rounding: str) -> Tensor:
    last = x.shape[axis] - 1
    if mode == "nearest":
        roundings: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
            "floor": np.floor,
            "ceil": np.ceil,
            "round_prefer_floor": lambda values: np.ceil(values - 0.5),
            "round_prefer_ceil": lambda values: np.floor(values + 0.5),
        }
        return x.index_select(axis, torch.from_numpy(roundings[rounding](places).clip(0, last).astype(np.int64)))
    if mode != "linear":
        raise ValueError(f"its mode is {mode!r:.40}")
    places = places.clip(0, last)
    low = np.floor(places).astype(np.int64)
    share = torch.from_numpy(places - low).reshape([-1 if place == axis else 1 for place in range(x.dim())])
    below, above = (x.index_select(axis, torch.from_numpy(at.clip(0, last))) for at in (low, low + 1))
    return below * (1 - share) + above * share
