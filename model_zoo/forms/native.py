"""The folded network as the ahead-of-time compiler gets it: its convolutions are our own kernels (`model_zoo/kernels`).

They do what PyTorch's own cannot: an affine after the activation, a depthwise convolution and the pointwise one after
it without the map between, a squeeze-and-excitation gate on the way in, and bfloat16 and int8 as the processor
multiplies them. They need no layout that depends on an input's size. Layers without a faster kernel stay as they are.

A detector's neck is rearranged, which changes no result but by rounding. Its head convolves four levels that were
enlarged to one size, three quarters of them by repeating cells. Such a convolution sees at most two different cells
along each axis, so it is done on the small maps, for each way in which the kernel can be on the cells. The finest
level is a few channels that a matrix and a gate make many, and then a convolution: together one convolution of the few.

The operators must have been loaded before (`paddle2torch.compiled.kernel_library`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo import pphgnetv2, pplcnetv4
from paddle2torch.model_zoo.db import RSEFPN, DBHead, RSELayer, add_from_coarse
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, PixelShuffleConv, ResidualConv2d, Tail
from paddle2torch.model_zoo.forms.operators import HALVED, POINTWISE, convolve
from paddle2torch.model_zoo.forms.quantized import QuantizedConv2d
from paddle2torch.model_zoo.layers import SEModule
from paddle2torch.model_zoo.network import Network, replace_module
from paddle2torch.model_zoo.rec_heads import CTCHead, MultiHead
from paddle2torch.model_zoo.replk import RepLKFPN, RepLKPAN
from paddle2torch.model_zoo.svtr import Attention

ACTIVATIONS = ("none", "relu", "hardswish", "swish", "sigmoid", "gelu")
"""Activations, in the order in which the kernels number them."""

VECTOR = 16
"""The widest vector of a processor: biases are padded to whole ones."""

FEW_OUTPUTS = 64
"""A convolution of larger kernels has fewer outputs, or oneDNN's is as fast: ours copies the lines under the kernel."""

DEPTHWISE: Mapping[int, tuple[int, ...]] = {3: (1, 2), 5: (1, 2), 7: (1,), 9: (1,)}
"""Kernels of depthwise convolutions, and their strides."""

LEVELS = 4
"""Maps of a detector's neck."""

BEST = 2
"""What is told of the best class of a step: its number and its probability."""

Stem = pplcnetv4.StemBlock | pphgnetv2.StemBlock

CHANNELS = 4
"""The input channels of a larger kernel are a multiple of this, in int8 of those multiplied at once; or an image's."""

IMAGE = 3
"""Channels of an image, which a kernel takes as it comes: float32, its planes one after another."""


class NativeConv2d(nn.Module):
    """A convolution, in float32, bfloat16 or int8, and its tail.

    Args:
        weight: float (O, I, h, w), or int8.
        bias: float (O,).
        geometry: kernel, strides and padding, of height and width; then the padding at the end, where it is another.
        tail: what is done to the result.
        dtype: of maps; with `weight` in int8, float32.
        quantized: scales and zero point of an int8 convolution.
    """

    weight: Tensor
    bias: Tensor
    weight_scale: Tensor | None
    steps: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        geometry: Sequence[int],
        tail: Tail,
        dtype: torch.dtype,
        quantized: QuantizedConv2d | None = None,
    ) -> None:
        super().__init__()
        self.geometry = list(geometry)
        self.tail = _numbers(tail)
        self.outputs = len(weight)
        self.offset, scale, steps = 0.0, None, None
        if quantized is not None:
            # The kernels add up q * weight; what the zero point adds to that goes into the bias.
            sums = weight.double().sum((1, 2, 3))
            bias = bias.double() - quantized.weight_scale.double() * quantized.zero_point * sums
            scale, steps = _padded(quantized.weight_scale), (1 / quantized.input_scale.double()).float()
            self.offset = quantized.zero_point + 0.5
        else:
            weight = weight.to(dtype)
        self.image = weight.shape[1] == IMAGE
        if self.image:
            weight = F.pad(weight, (0, 0, 0, 0, 0, CHANNELS - IMAGE))
        packed = torch.ops.paddle2torch.pack(weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        self.register_buffer("weight", packed)
        self.register_buffer("bias", _padded(bias))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("steps", steps)

    def forward(self, x: Tensor, coarse: Sequence[Tensor] = ()) -> Tensor:
        """x: float (N, I, H, W); returns (N, O, H', W'), with the channels last. An image is float32.

        coarse: what up to three coarser maps add before the tail, see `Cells`.
        """
        x = x.contiguous() if self.image else _channels_last(x)
        return convolve(
            x=x,
            weight=self.weight,
            bias=self.bias,
            weight_scale=self.weight_scale,
            steps=self.steps,
            offset=self.offset,
            outputs=self.outputs,
            geometry=self.geometry,
            tail=self.tail,
            **dict(zip(("coarse", "coarser", "coarsest"), coarse, strict=False)),
        )


class NativeLinear(nn.Module):
    """A linear layer on sequences: a convolution of size 1 on maps of one line."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias.detach()
        self.conv = NativeConv2d(linear.weight.detach()[..., None, None], bias, POINTWISE, Tail(), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, I); returns (N, T, O)."""
        result: Tensor = self.conv(x.transpose(1, 2).unsqueeze(2))
        return result.squeeze(2).transpose(1, 2)


class NativeClasses(nn.Module):
    """The last layer of a recogniser and its softmax, which need not write the probabilities of all classes."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.classes = linear.out_features
        self.register_buffer("weight", torch.ops.paddle2torch.pack(linear.weight.detach().to(dtype).contiguous()))
        self.register_buffer("bias", _padded(linear.bias))

    def forward(self, x: Tensor, results: Tensor) -> Tensor:
        """x: float (N, T, C); returns float32 (N, T, K), where K is the length of `results`, whose values are not read.

        A length of `BEST`: the best class of each step, the first of equal ones, and its probability. As many as there
        are classes: the probabilities of all.
        """
        result: Tensor = torch.ops.paddle2torch.classify(x.contiguous(), self.weight, self.bias, self.classes, results)
        return result


class Features(nn.Module):
    """A CTC head without its last layer."""

    def __init__(self, head: CTCHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, in_channels); returns (N, T, channels)."""
        return self.head.features(x)


class NativeAttention(nn.Module):
    """`Attention` with its products and softmax in one kernel."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.num_heads = attention.num_heads
        self.scale = attention.scale

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        result: Tensor = self.proj(torch.ops.paddle2torch.attend(self.qkv(x).contiguous(), self.num_heads, self.scale))
        return result


class NativeDepthwise(nn.Module):
    """A depthwise convolution with one of the kernels in `DEPTHWISE`, and its tail.

    Args:
        conv: folded, in float32.
        dtype: of maps and weights.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: FoldedConv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.geometry = _geometry(conv)
        self.tail = _numbers(conv.tail)
        self.register_buffer("weight", conv.weight.flatten(1).t().contiguous().to(dtype))  # (h * w, channels)
        self.register_buffer("bias", _bias(conv).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns (N, C, H', W'), of its dtype, with the channels last."""
        result: Tensor = torch.ops.paddle2torch.depthwise(
            _channels_last(x), self.weight, self.bias, self.geometry, self.tail
        )
        return result


class NativeResidualConv2d(nn.Module):
    """`ResidualConv2d`: what comes after the convolution is one pass of the compiler's."""

    def __init__(self, conv: ResidualConv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = NativeConv2d(conv.weight, _bias(conv), _geometry(conv), Tail(), dtype)
        self.tail = conv.tail

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x: float (N, I, H, W), residual: (N, O, H', W') or what is repeated to that; returns (N, O, H', W')."""
        return self.tail(self.conv(x) + residual)


class Cells(nn.Module):
    """What a 3x3 convolution of an enlarged map has to add up, computed on the map itself.

    `weight`: float (O, I, 3, 3). A map (N, I, H, W), enlarged `factor` times, gives (N, kinds * kinds * O, H + 1,
    W + 1): for both axes what the first, the inner and the last of `factor` results in a row get of the cells (for a
    factor of 2 there is no inner one); the last of cell i stands at i + 1.
    """

    def __init__(self, weight: Tensor, factor: int, dtype: torch.dtype) -> None:
        super().__init__()
        first, inner, last = [[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [1, 1, 1]], [[1, 1, 0], [0, 0, 1]]
        kinds = torch.tensor([first, last] if factor == 2 else [first, inner, last], dtype=torch.float64)
        smaller = torch.einsum("yap,xbq,oipq->yxoiab", kinds, kinds, weight.double()).flatten(0, 2)
        self.conv = NativeConv2d(smaller, smaller.new_zeros(len(smaller)), [2, 2, 1, 1, 1, 1], Tail(), dtype)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        result: Tensor = self.conv(x)
        return result


class LevelsConv2d(nn.Module):
    """A 3x3 convolution of `db.join_levels(levels)`, and its tail, that never makes that map."""

    def __init__(self, conv: FoldedConv2d, levels: int, dtype: torch.dtype) -> None:
        super().__init__()
        *coarse, finest = conv.weight.chunk(levels, dim=1)
        self.cells = nn.ModuleList(
            Cells(weight, 2 ** (levels - 1 - index), dtype) for index, weight in enumerate(coarse)
        )
        self.finest = NativeConv2d(finest, _bias(conv), _geometry(conv), conv.tail, dtype)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: floats (N, I / levels, H, W), coarsest first, each half as large as the next one."""
        *coarse, finest = levels
        cells = [cells(x) for cells, x in zip(self.cells, coarse, strict=True)]
        result: Tensor = self.finest(finest, cells)
        return result


class NativeMean(nn.Module):
    """The mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns (N, C, 1, 1), of its dtype."""
        result: Tensor = torch.ops.paddle2torch.mean_of_channels(_channels_last(x)).to(x.dtype)[..., None, None]
        return result


class NativePixelShuffleConv(nn.Module):
    """`PixelShuffleConv` that puts the pixels in their places as float32, whatever it computes in."""

    def __init__(self, shuffled: PixelShuffleConv) -> None:
        super().__init__()
        self.conv = shuffled.conv

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns float32 (N, 1, 4 H, 4 W)."""
        result: Tensor = torch.ops.paddle2torch.spread(_channels_last(self.conv(x)), 4)
        return result


class NativeStem(nn.Module):
    """A stem of two branches in one kernel, which keeps only a few lines of the maps between its convolutions."""

    def __init__(self, convs: Sequence[FoldedConv2d], dtype: torch.dtype) -> None:
        super().__init__()
        packed = [NativeConv2d(conv.weight, _bias(conv), _geometry(conv), conv.tail, dtype) for conv in convs]
        self.convs = nn.ModuleList(packed)
        self.outputs = [conv.outputs for conv in packed]
        self.tails = [number for conv in packed for number in conv.tail]

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 (N, 3, H, W); returns (N, out_channels, H / 4, W / 4), rounded up, with the channels last."""
        tensors = [tensor for conv in self.convs for tensor in (conv.weight, conv.bias)]
        result: Tensor = torch.ops.paddle2torch.stem(x.contiguous(), tensors, self.outputs, self.tails)
        return result


class NativeStemParts(nn.Module):
    """A stem of two branches: 2x2 convolutions that pad at the end alone, and a pooling that is joined to them.

    For those that `NativeStem` has no kernel for: in int8, or of another stride.
    """

    def __init__(self, stem: Stem, dtype: torch.dtype) -> None:
        super().__init__()
        self.stem1, self.stem3, self.stem4 = stem.stem1, stem.stem3, stem.stem4
        self.stem2a, self.stem2b = _even(stem.stem2a, dtype), _even(stem.stem2b, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.stem1(x)
        convolved = self.stem2b(self.stem2a(x))
        joined = torch.ops.paddle2torch.join_pooled(_channels_last(x), _channels_last(convolved))
        result: Tensor = self.stem4(self.stem3(joined))
        return result


class NativeLevels(nn.Module):
    """A neck up to the joining of its levels, which `LevelsConv2d` does without."""

    def __init__(self, neck: RepLKFPN | RepLKPAN) -> None:
        super().__init__()
        self.neck = neck
        if isinstance(neck, RepLKFPN):
            neck.ins_conv = nn.ModuleList(_lateral(cast("RSELayer", layer)) for layer in neck.ins_conv)
            gates = (NativeGate(cast("SEModule", block), neck.shortcut) for block in neck.inp_conv_se)
            neck.inp_conv_se = nn.ModuleList(gates)
            neck.shortcut = False  # it is in the gates

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32; returns the levels, coarsest first."""
        levels, _ = self.neck.levels(maps)
        return levels


class NativeGate(nn.Module):
    """Squeeze and excitation of a neck, with the shortcut around it where there is one: one factor for each channel."""

    def __init__(self, block: SEModule, shortcut: bool) -> None:
        super().__init__()
        self.block = block
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return x * self.factors(self.block.avg_pool(x))

    def factors(self, mean: Tensor) -> Tensor:
        """Of each channel, for means (N, C, 1, 1)."""
        block = self.block
        gate: Tensor = block.hardsigmoid(block.conv2(block.relu(block.conv1(mean))))
        return 1 + gate if self.shortcut else gate


class NativeRSELayer(nn.Module):
    """`RSELayer` whose gate is one factor."""

    def __init__(self, layer: RSELayer) -> None:
        super().__init__()
        self.in_conv = layer.in_conv
        self.gate = NativeGate(layer.se_block, layer.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, I, H, W); returns (N, O, H, W)."""
        result: Tensor = self.gate(self.in_conv(x))
        return result


class NativeLateral(nn.Module):
    """`RSELayer` with a pointwise convolution without a bias, whose weights hold the gate: each image has its own.

    The gate needs nothing but the mean of the convolution's result, which is that of its input times the weights.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: RSELayer) -> None:
        super().__init__()
        self.gate = NativeGate(layer.se_block, layer.shortcut)
        self.register_buffer("weight", layer.in_conv.weight.detach().flatten(1).clone())
        self.register_buffer("bias", _padded(layer.in_conv.weight.new_zeros(layer.in_conv.out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, I, H, W); returns (N, O, H, W), with the channels last."""
        x = _channels_last(x)
        return convolve(x=x, weight=self.weights(x), bias=self.bias, outputs=len(self.weight), geometry=POINTWISE)

    def weights(self, x: Tensor) -> Tensor:
        """Of each image: float32 (N, O, I)."""
        mean = F.linear(torch.ops.paddle2torch.mean_of_channels(x), self.weight)
        factors = self.gate.factors(mean.to(x.dtype)[..., None, None]).flatten(1).float()
        return self.weight * factors[:, :, None]


class NativeRSEFPN(nn.Module):
    """`RSEFPN` up to the joining of its levels, which `LevelsConv2d` does without."""

    reduce: Tensor

    def __init__(self, neck: RSEFPN, dtype: torch.dtype) -> None:
        super().__init__()
        self.ins_conv = nn.ModuleList(_lateral(cast("RSELayer", layer)) for layer in neck.ins_conv)
        self.inp_conv = nn.ModuleList(NativeRSELayer(cast("RSELayer", layer)) for layer in neck.inp_conv)
        result = cast("FoldedConv2d", neck.inp_conv[0].in_conv)
        self.cells = Cells(result.weight, 2, dtype)
        self.outputs = result.out_channels
        self.register_buffer("reduce", result.weight.permute(0, 2, 3, 1).contiguous())  # (outputs, h, w, channels)
        self.register_buffer("bias", _padded(_bias(result)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32; returns the levels, coarsest first."""
        finest, *coarse = maps
        laterals = [conv(x) for conv, x in zip(reversed(self.ins_conv[1:]), reversed(coarse), strict=True)]
        levels = add_from_coarse(laterals)
        results = [conv(x) for conv, x in zip(reversed(self.inp_conv[1:]), levels, strict=True)]
        return [*results, cast("NativeRSELayer", self.inp_conv[0]).gate(self._finest(finest, levels[-1]))]

    def _finest(self, x: Tensor, coarse: Tensor) -> Tensor:
        """The finest level after its convolution, of its map and the level below."""
        x = _channels_last(x)
        # Two matrices, of the lateral and of the convolution, are one.
        weight = self.reduce.flatten(0, 2) @ cast("NativeLateral", self.ins_conv[0]).weights(x)
        return convolve(
            x=x,
            weight=weight.unflatten(1, (self.outputs, -1)).flatten(2),
            bias=self.bias,
            coarse=self.cells(coarse),
            outputs=self.outputs,
            geometry=[3, 3, 1, 1, 1, 1],
        )


def to_native(network: Network, dtype: torch.dtype = torch.float32) -> Network:  # noqa: C901, a case for each kind of layer
    """A copy of a folded network, to be compiled, with our kernels for its convolutions where they are faster.

    dtype: float32, or bfloat16 where the processor has it, of maps and of layers without a kernel; a network with
    convolutions in int8 has float32.
    """
    native = copy.deepcopy(network)
    if type(native.head) is DBHead:
        _without_joining(native, native.head, dtype)
    for path, module in list(native.named_modules()):
        # The kernel has no mask and no projection without a bias, as two kinds of SVTRNet have them.
        if type(module) is Attention and module.qkv.bias is not None:
            replace_module(native, path, NativeAttention(module))
        elif isinstance(module, Stem):
            replace_module(native, path, _native_stem(module, dtype))
    for path, module in list(native.named_modules()):
        if isinstance(module, FoldedConv2d):
            replace_module(native, path, native_convolution(module, dtype))
        elif isinstance(module, PixelShuffleConv):
            replace_module(native, path, NativePixelShuffleConv(module))
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size == 1:
            replace_module(native, path, NativeMean())
        elif isinstance(module, nn.Linear) and isinstance(native.head, MultiHead):
            replace_module(native, path, NativeLinear(module, dtype))
        elif isinstance(module, QuantizedConv2d) and _has_int8_kernel(module):
            padding, stride, _, _ = module.geometry
            geometry = [*module.weight.shape[2:], *stride, *padding]
            conv = NativeConv2d(module.weight, module.bias, geometry, module.tail, dtype, module)
            replace_module(native, path, conv)
    if dtype != torch.float32:
        for module in native.modules():
            if not isinstance(module, NativeConv2d | NativeDepthwise | NativeLateral | NativeRSEFPN):
                for tensor in [*module._parameters.values(), *module._buffers.values()]:
                    if tensor is not None and tensor.is_floating_point():
                        tensor.data = tensor.data.to(dtype)
    return native


def native_convolution(conv: FoldedConv2d, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A folded convolution as one of our kernels where there is a faster one; else itself."""
    if _has_kernel(conv):
        if isinstance(conv, ResidualConv2d):
            return NativeResidualConv2d(conv, dtype)
        return NativeConv2d(conv.weight, _bias(conv), _geometry(conv), conv.tail, dtype)
    if _has_depthwise_kernel(conv) and not isinstance(conv, ResidualConv2d):
        return NativeDepthwise(conv, dtype)
    return conv


def without_classes(network: Network) -> tuple[Network, nn.Linear]:
    """A copy of a folded recogniser that gives what its last layer reads (N, T, C), and that layer."""
    features = copy.deepcopy(network)
    ((path, head),) = [(path, part) for path, part in features.named_modules() if isinstance(part, CTCHead)]
    last = head.last
    replace_module(features, path, Features(head))
    # Of no use any more: what is left of it would be compiled, or moved to another type, for nothing.
    head.register_module("fc" if head.mid_channels is None else "fc2", None)
    return features, last


def takes_images(network: Network) -> bool:
    """Whether the first convolution is a kernel, which takes float32 in any case."""
    return any(isinstance(module, NativeConv2d) and module.image for module in network.modules())


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16. The operators must have been loaded."""
    _, bfloat16, _ = torch.ops.paddle2torch.features()
    return bool(bfloat16)


def _without_joining(native: Network, head: DBHead, dtype: torch.dtype) -> None:
    neck, last = native.neck, head.binarize.conv1
    if not isinstance(last, FoldedConv2d) or _geometry(last) != [3, 3, 1, 1, 1, 1]:
        return
    if type(neck) is RSEFPN:
        layers = [cast("RSELayer", layer) for layer in (*neck.ins_conv, *neck.inp_conv)]
        convs = [layer.in_conv for layer in layers]
        first, result = convs[0], convs[len(neck.ins_conv)]
        if not all(isinstance(conv, FoldedConv2d) for conv in convs) or first.in_channels % CHANNELS != 0:
            return
        if _geometry(result) != [3, 3, 1, 1, 1, 1]:
            return
        native.neck = NativeRSEFPN(neck, dtype)
    elif isinstance(neck, RepLKFPN | RepLKPAN):
        native.neck = NativeLevels(neck)
    else:
        return
    replace_module(native, "head.binarize.conv1", LevelsConv2d(last, LEVELS, dtype))


def _lateral(layer: RSELayer) -> nn.Module:
    return NativeLateral(layer) if isinstance(layer.in_conv, FoldedConv2d) else NativeRSELayer(layer)


def _native_stem(stem: Stem, dtype: torch.dtype) -> nn.Module:
    layers = (stem.stem1, stem.stem2a, stem.stem2b, stem.stem3, stem.stem4)
    convs = [layer.get_submodule("conv") for layer in layers]
    plain = [conv for conv in convs if isinstance(conv, FoldedConv2d) and _has_kernel(conv)]
    halved = [_geometry(conv) == HALVED for conv in plain]
    if halved == [True, False, False, True, False] and plain[0].in_channels == IMAGE:
        return NativeStem(plain, dtype)
    return NativeStemParts(stem, dtype)


def _even(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A 2x2 convolution that pads at the end alone; what there is no kernel for stays as it is."""
    conv = layer.get_submodule("conv")
    if not isinstance(conv, FoldedConv2d) or not _has_kernel(conv):
        return layer
    return NativeConv2d(conv.weight, _bias(conv), [*_geometry(conv), 1, 1], conv.tail, dtype)


def _has_kernel(conv: FoldedConv2d) -> bool:
    if conv.groups != 1 or tuple(conv.dilation) != (1, 1):
        return False
    if _geometry(conv) == POINTWISE:
        return conv.in_channels != IMAGE
    return (conv.in_channels == IMAGE or conv.in_channels % CHANNELS == 0) and conv.out_channels < FEW_OUTPUTS


def _has_depthwise_kernel(conv: FoldedConv2d) -> bool:
    height, width, _, stride, *_ = _geometry(conv)
    depthwise = conv.groups == conv.in_channels == conv.out_channels >= 8 and tuple(conv.dilation) == (1, 1)
    return depthwise and height == width and stride in DEPTHWISE.get(width, ())


def _has_int8_kernel(conv: QuantizedConv2d) -> bool:
    _, _, dilation, groups = conv.geometry
    *_, int8 = torch.ops.paddle2torch.features()
    return bool(int8) and groups == 1 and tuple(dilation) == (1, 1) and conv.weight.shape[1] % CHANNELS == 0


def _geometry(conv: nn.Conv2d) -> list[int]:
    return [*conv.kernel_size, *conv.stride, *cast("tuple[int, int]", conv.padding)]


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


def _padded(values: Tensor) -> Tensor:
    return F.pad(values.detach().float(), (0, -len(values) % VECTOR))


def _numbers(tail: Tail) -> list[float]:
    return [float(ACTIVATIONS.index(tail.activation)), *(tail.affine or (1.0, 0.0))]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
