"""Fold a fused network for speed: one convolution does its normalisation, its activation and its affines as well.

`fuse` returns the structure of Paddle's exports; on a CPU that form spends half of its time in elementwise passes over
memory. Folding changes no operation that is not exact to fold: what remains of a chain is one convolution whose weights
hold the normalisations and the affines before the activation. The modules keep their paths; those whose work is done
elsewhere become identities, so that the network can still be compared with Paddle's layer by layer.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.db import DBBranch, DBHead
from paddle2torch.model_zoo.forms.folded import (
    GELU_BY_ERF,
    Folded,
    FoldedConv2d,
    FoldedConvTranspose2d,
    PixelShuffleConv,
    PushedAffine,
    ResidualConv2d,
    Tail,
)
from paddle2torch.model_zoo.layers import (
    BatchNormHardswish,
    BatchNormReLU,
    fold_batch_norm,
)
from paddle2torch.model_zoo.network import Network, channels_last, fuse, replace_module
from paddle2torch.model_zoo.pplcnetv3 import LCNetV3Block, LearnableAffineBlock

Convolution: TypeAlias = "nn.Conv2d | nn.ConvTranspose2d"

# Activations by the name that oneDNN's fused convolution has for them. GELU is the one with erf, see `_activation`.
ACTIVATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ReLU, "relu"),
    (nn.Hardswish, "hardswish"),
    (nn.SiLU, "swish"),
    (nn.Sigmoid, "sigmoid"),
    (nn.GELU, "gelu"),
)
NORMALISATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (BatchNormReLU, "relu"),
    (BatchNormHardswish, "hardswish"),
    (nn.BatchNorm2d, "none"),
)


def fold(model: Network) -> Network:
    """The form for running a network: fused, folded, channels last, in evaluation mode, nothing trainable.

    A new model that shares no folded tensor with `model`; it is for memory only, `fuse` is the form to save. Outputs
    differ from the fused form's by rounding.
    """
    fused = fuse(model)
    device = next(fused.parameters()).device
    # In float64, which some devices lack.
    network = copy.deepcopy(fused).cpu().eval().requires_grad_(False)
    with torch.no_grad():
        for module in list(network.modules()):
            if isinstance(module, LCNetV3Block):
                _push_affine(module)
        for module in list(network.modules()):
            for chain in getattr(module, "CHAINS", ()):
                _fold_chain(module, chain)
        if type(network.head) is DBHead:  # the other head reads the map between the two
            _spread(network.head.binarize)
        for path, module in list(network.named_modules()):
            if type(module) in (nn.Conv2d, nn.ConvTranspose2d):
                replace_module(network, path, folded(module, module.weight.double(), bias_of(module), Tail()))
        drop_denormals(network)
    return channels_last(network).to(device)


def drop_denormals(network: nn.Module) -> int:
    """Put zero for values that are too small for float32's usual form; returns their number.

    They change no sum, and a processor takes a hundred times as long to multiply by one: PP-OCRv6's small detector has
    256,000 of them, where training let channels decay, and spends nine tenths of its time on them. A tensor of one
    value keeps it: it may be the floor of a divisor.
    """
    count = 0
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and tensor.numel() > 1:
            small = (tensor.abs() < torch.finfo(tensor.dtype).tiny) & (tensor != 0)
            count += int(small.sum())
            tensor.masked_fill_(small, 0)
    return count


def _push_affine(block: LCNetV3Block) -> None:
    """Put the affine after the depthwise convolution's activation into the pointwise one, which pads nothing."""
    act = block.dw_conv.act
    if act is None or block.se is not None or not isinstance(act.lab, LearnableAffineBlock):
        return
    conv = block.pw_conv.reparam_conv
    scale, shift = act.lab.scale.double(), act.lab.bias.double()
    weight = conv.weight.double()
    conv.bias = nn.Parameter((bias_of(conv) + weight.sum((1, 2, 3)) * shift).to(conv.weight.dtype), requires_grad=False)
    conv.weight.copy_(weight * scale)
    replace_module(act, "lab", PushedAffine())


def _fold_chain(parent: nn.Module, chain: tuple[str, ...]) -> None:
    first = _child(parent, chain[0])
    if type(first) not in (nn.Conv2d, nn.ConvTranspose2d):  # a larger module's chain may have folded it
        return
    assert isinstance(first, nn.Conv2d | nn.ConvTranspose2d)
    weight, bias = first.weight.double(), bias_of(first)
    outputs = int(isinstance(first, nn.ConvTranspose2d))  # the axis of the weights that they are
    activation, affine = "none", None
    for name in chain[1:]:
        layer = _child(parent, name)
        found = _activation(layer)
        if isinstance(layer, LearnableAffineBlock):
            if activation == "none":
                scale, shift = layer.scale.double(), layer.bias.double()
                weight, bias = weight * scale, bias * scale + shift
            else:
                affine = (float(layer.scale), float(layer.bias))
        elif isinstance(layer, nn.BatchNorm2d) and activation == "none":
            weight, bias = fold_batch_norm(weight.transpose(0, outputs), layer, bias)
            weight, activation = weight.transpose(0, outputs), found or "none"
        elif found is not None and activation == "none":
            activation = found
        else:
            break
        replace_module(parent, name, Folded())
        if affine is not None:
            break
    replace_module(parent, chain[0], folded(first, weight, bias, Tail(activation, affine)))


def _activation(layer: nn.Module | None) -> str | None:
    """The activation of a layer, "none" for a normalisation alone; None where a convolution cannot hold the layer."""
    if isinstance(layer, nn.GELU) and layer.approximate != GELU_BY_ERF:
        return None
    return next((act for type_, act in (*NORMALISATIONS, *ACTIVATIONS) if isinstance(layer, type_)), None)


def _spread(branch: DBBranch) -> None:
    """Two transposed convolutions with kernel and stride 2 as convolutions of size 1, and one shuffle at the end.

    The four pixels that the first makes of one stay beside each other as channels, and so do the sixteen of the second:
    the large maps between are never laid out. The second then has a block for each of the four, and zeros.
    """
    first, second = branch.get_submodule("conv2"), branch.get_submodule("conv3")
    if not isinstance(first, FoldedConvTranspose2d) or not isinstance(second, FoldedConvTranspose2d):
        return
    for conv in (first, second):
        plain = conv.padding == conv.output_padding == (0, 0) and conv.groups == 1
        if not conv.kernel_size == conv.stride == (2, 2) or not plain:
            return
    first_bias, second_bias = bias_of(first), bias_of(second)
    channels = first.out_channels
    weight = first.weight.permute(2, 3, 1, 0).reshape(4 * channels, first.in_channels, 1, 1)
    pixels = nn.Conv2d(first.in_channels, 4 * channels, 1, device="meta", dtype=weight.dtype)
    replace_module(branch, "conv2", folded(pixels, weight, first_bias.repeat(4), first.tail))
    blocks = second.weight.new_zeros(4, 4, 2, 2, channels)  # row and column in the square, then the pixel before
    for row in range(4):
        for column in range(4):
            blocks[row, column, row // 2, column // 2] = second.weight[:, 0, row % 2, column % 2]
    square = nn.Conv2d(4 * channels, 16, 1, device="meta", dtype=weight.dtype)
    sixteen = folded(square, blocks.view(16, 4 * channels, 1, 1), second_bias.repeat(16), second.tail)
    replace_module(branch, "conv3", PixelShuffleConv(sixteen))


def folded(
    conv: Convolution, weight: Tensor, bias: Tensor, tail: Tail, *, residual: bool = False
) -> FoldedConv2d | FoldedConvTranspose2d:
    """A convolution of the same geometry with these weights, float64, and this tail; residual: see `ResidualConv2d`."""
    options: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "device": "meta",
    }
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size)
    made: FoldedConv2d | FoldedConvTranspose2d
    if isinstance(conv, nn.ConvTranspose2d):
        made = FoldedConvTranspose2d(*sizes, output_padding=conv.output_padding, tail=tail, **options)
    else:
        made = (ResidualConv2d if residual else FoldedConv2d)(*sizes, tail=tail, **options)
    dtype = conv.weight.dtype
    made.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    made.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return made.eval()


def bias_of(conv: Convolution) -> Tensor:
    """The bias, float64; zeros where the convolution has none."""
    outputs = conv.out_channels
    return conv.weight.new_zeros(outputs, dtype=torch.float64) if conv.bias is None else conv.bias.double()


def _child(parent: nn.Module, path: str) -> nn.Module | None:
    """A child by its path; None where any of it is missing."""
    module: nn.Module | None = parent
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
