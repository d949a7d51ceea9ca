"""Convolutions in int8: inputs in 8 bits, one scale per input channel; weights in 7 bits, one scale per output channel.

Value x of input channel c becomes q = clamp(floor(x / input_scale[c] + zero_point + 0.5), 0, 255). The scales
of the channels are in the weights, so that what is computed is a sum of products of integers:

    y[o] = weight_scale[o] * sum((q - zero_point) * weight[o]) + bias[o]

Weights stay within 63: processors without VNNI add pairs of products in 16 bits, and 2 * 255 * 64 would be too much.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.forms.folded import FUNCTIONS, FoldedConv2d, onednn
from paddle2torch.model_zoo.forms.layouts import Geometry
from paddle2torch.model_zoo.network import Network, replace_module

LEVELS = 255
"""The largest input."""

WEIGHT_LIMIT = 63
"""The largest weight; the smallest is its negative."""

DONE_BY_ONEDNN = frozenset({"none", "relu", "hardswish", "swish"})
"""What oneDNN's int8 convolution can do to its output."""

ACTIVATIONS = DONE_BY_ONEDNN | {"gelu"}
"""What a convolution in int8 can do to its output; our own kernels do all of them."""

MULTIPLIES_INT8 = hasattr(torch.ops.onednn, "qconv_pointwise")
"""PyTorch 2.4 does not have oneDNN's int8 convolution under this name: the same integers as float32 there."""


class QuantizedConv2d(nn.Module):
    """A folded convolution in int8, and its tail. Input and output are float32.

    Buffers, for I input and O output channels: `weight` int8 (O, I, h, w), `weight_scale` float32 (O,), `bias` float32
    (O,), `input_scale` float32 (I,), `input_zero_point` int32 (); see the head of this module.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    _steps: Tensor
    _offset: Tensor
    _weight_zeros: Tensor

    def __init__(self, conv: FoldedConv2d, tensors: Mapping[str, Tensor]) -> None:
        """In place of `conv`, whose shape and tail it takes.

        Raises `FileFormatError` for tensors that do not fit it.
        """
        super().__init__()
        expected = expected_tensors(conv)
        if strange := ", ".join(sorted(set(tensors) - set(expected))[:8]):
            raise FileFormatError(f"{strange} is not of int8's tensors: {', '.join(expected)}")
        for name, (shape, dtype) in expected.items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
                found = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise FileFormatError(f"{name} is {found}, the network needs {dtype} {list(shape)}")
            self.register_buffer(name, tensor)
        scales = torch.cat([self.weight_scale, self.input_scale])
        steps = (1 / self.input_scale.double()).float()
        sound = bool((scales > 0).all()) and bool(torch.isfinite(torch.cat([scales, self.bias, steps])).all())
        low, high = (int(value) for value in self.weight.aminmax())  # not `abs`: of -128 it is -128
        if not sound or max(-low, high) > WEIGHT_LIMIT or not 0 <= int(self.input_zero_point) <= LEVELS:
            raise FileFormatError("scales, zero point or weights are not in the range that int8 has here")
        self.geometry: Geometry = conv.geometry
        self.tail = conv.tail
        self.zero_point = int(self.input_zero_point)
        self.register_buffer("_steps", steps.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_offset", torch.tensor(self.zero_point + 0.5), persistent=False)
        zeros = torch.zeros(len(self.weight_scale), dtype=torch.int32)
        self.register_buffer("_weight_zeros", zeros, persistent=False)
        self._prepacked: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, I, H, W); returns (N, O, H', W') of its dtype."""
        if not MULTIPLIES_INT8 or not onednn(x) or x.dtype != torch.float32:
            return self._plainly(x)
        q = self.quantized(x)
        if self._prepacked is None or self._prepacked[0] != self.weight.data_ptr():
            self._prepacked = self.weight.data_ptr(), self.prepacked()
        return self.tail.shifted(self.multiplied(q, self._prepacked[1]))

    def quantized(self, x: Tensor) -> Tensor:
        """The quantized form of float32 x (N, I, H, W): uint8 of the same shape."""
        return torch.addcmul(self._offset, x, self._steps).clamp_(0, LEVELS).to(torch.uint8)

    def prepacked(self) -> Tensor:
        """The weights as oneDNN wants them, readable by its own operators only."""
        padding, stride, dilation, groups = self.geometry
        packed: Tensor = torch.ops.onednn.qconv_prepack(
            self.weight, self.weight_scale, 1.0, self.zero_point, stride, padding, dilation, groups, None
        )
        return packed

    def multiplied(self, q: Tensor, weight: Tensor) -> Tensor:
        """oneDNN's convolution with the activation, without the affine; `weight` is prepacked."""
        padding, stride, dilation, groups = self.geometry
        activation = self.tail.activation
        result: Tensor = torch.ops.onednn.qconv_pointwise(
            *(q, 1.0, self.zero_point, weight, self.weight_scale, self._weight_zeros, self.bias),
            *(stride, padding, dilation, groups),
            *(1.0, 0, torch.float32, activation if activation in DONE_BY_ONEDNN else "none", [], ""),
        )
        return result if activation in DONE_BY_ONEDNN else FUNCTIONS[activation](result)

    def _plainly(self, x: Tensor) -> Tensor:
        """The same integers, multiplied as float32, which holds any but the largest of their sums exactly."""
        padding, stride, dilation, groups = self.geometry
        q = self.quantized(x.float()).float() - self.zero_point
        sums = F.conv2d(q, self.weight.float(), None, stride, padding, dilation, groups)
        y = sums * self.weight_scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return self.tail.shifted(FUNCTIONS[self.tail.activation](y)).to(x.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepacked": None}

    def extra_repr(self) -> str:
        """Sizes and tail."""
        outputs, inputs, *kernel = self.weight.shape
        return f"{inputs}, {outputs}, kernel_size={tuple(kernel)}, {self.tail}"


def expected_tensors(conv: FoldedConv2d) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of the tensors of a convolution in int8."""
    outputs, inputs = torch.Size([conv.out_channels]), torch.Size([conv.in_channels])
    return {
        "weight": (conv.weight.shape, torch.int8),
        "weight_scale": (outputs, torch.float32),
        "bias": (outputs, torch.float32),
        "input_scale": (inputs, torch.float32),
        "input_zero_point": (torch.Size([]), torch.int32),
    }


def quantize_network(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """A copy of a folded network with convolutions in int8: those that `tensors` has, as "path.name".

    Raises `FileFormatError` for tensors that do not fit the network.
    """
    if not tensors:
        raise FileFormatError(f"there is no tensor for any convolution of {network.config.name}")
    quantized = copy.deepcopy(network)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, name = key.rpartition(".")
        parts.setdefault(path, {})[name] = tensor
    modules = dict(quantized.named_modules())
    for path, part in parts.items():
        conv = modules.get(path)
        if not isinstance(conv, FoldedConv2d) or not can_be_quantized(conv):
            raise FileFormatError(f"{path!r} is not a convolution of {network.config.name} that int8 can stand for")
        try:
            module = QuantizedConv2d(conv, part)
        except FileFormatError as error:
            raise FileFormatError(f"{path}: {error}") from None
        replace_module(quantized, path, module.eval())
    return quantized


def can_be_quantized(conv: FoldedConv2d) -> bool:
    """Whether int8 can replace it: every output a sum over all input channels, and an activation that int8 has."""
    return conv.groups == 1 and conv.tail.activation in ACTIVATIONS
