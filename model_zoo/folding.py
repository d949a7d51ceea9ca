"""Fold a fused network for speed: one convolution does its normalisation, its activation and its affines as well.

`fuse` gives the structure of Paddle's exports; on a CPU that form spends half of its time in elementwise passes over
memory. Folding changes no operation that is not exact to fold: what remains of a chain is one convolution whose weights
hold the normalisations and the affines before the activation. The modules keep their paths; those whose work is done
elsewhere become identities, so that the network can still be compared with Paddle's layer by layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.db import DBBranch, DBHead
from paddle2torch.model_zoo.layers import (
    BatchNormHardswish,
    BatchNormReLU,
    ConvBatchNorm,
    ConvBN,
    ConvBNAct,
    ConvNormAct,
    SEModule,
    fold_batch_norm,
)
from paddle2torch.model_zoo.network import Network, channels_last, fuse
from paddle2torch.model_zoo.pphgnet import ESEModule
from paddle2torch.model_zoo.pphgnetv2 import EvenConvBNAct
from paddle2torch.model_zoo.pplcnet import PPLCNetHead
from paddle2torch.model_zoo.pplcnetv3 import LCNetV3Block, LearnableAffineBlock, LearnableRepLayer

Convolution: TypeAlias = "nn.Conv2d | nn.ConvTranspose2d"
Affine: TypeAlias = tuple[float, float]

CHAINS: tuple[tuple[type[nn.Module], tuple[tuple[str, ...], ...]], ...] = (
    (ConvBN, (("conv", "bn", "act"),)),
    (ConvBNAct, (("conv", "bn", "act"),)),
    (EvenConvBNAct, (("conv", "bn", "act"),)),
    (ConvBatchNorm, (("_conv", "_batch_norm"),)),
    (ConvNormAct, (("conv", "norm", "act"),)),
    (LearnableRepLayer, (("reparam_conv", "lab", "act.act", "act.lab"),)),
    (SEModule, (("conv1", "relu"),)),
    (ESEModule, (("conv", "sigmoid"),)),
    (DBBranch, (("conv1", "conv_bn1"), ("conv2", "conv_bn2"), ("conv3", "sigmoid"))),
    (PPLCNetHead, (("last_conv", "act"),)),
)
"""Children that a module runs one after another with nothing between, beginning with a convolution."""

# Activations by the name that oneDNN's fused convolution has for them.
ACTIVATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ReLU, "relu"),
    (nn.Hardswish, "hardswish"),
    (nn.SiLU, "swish"),
    (nn.Sigmoid, "sigmoid"),
)
NORMALISATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (BatchNormReLU, "relu"),
    (BatchNormHardswish, "hardswish"),
    (nn.BatchNorm2d, "none"),
)
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "hardswish": F.hardswish,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
}


class Folded(nn.Identity):
    """Stands where a layer was whose work the convolution before it does now."""


class PushedAffine(nn.Identity):
    """Stands where an affine was that the weights of the convolution after it hold now."""


@dataclass(frozen=True)
class Tail:
    """What a folded convolution does to its output: an activation, then scale * y + shift with one number each.

    Such an affine is left where no weight can hold it: where the next convolution pads with zeros.
    """

    activation: str = "none"
    affine: Affine | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x: float of any shape; returns the same shape."""
        return self.shifted(FUNCTIONS[self.activation](x))

    def shifted(self, x: Tensor) -> Tensor:
        """The affine alone. `x` may be changed in place: it is the convolution's own output, still in the cache."""
        if self.affine is None:
            return x
        scale, shift = self.affine
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return x * scale + shift
        return torch.add(torch.scalar_tensor(shift, dtype=x.dtype), x, alpha=scale, out=x)


class FoldedConv2d(nn.Conv2d):
    """`nn.Conv2d` and its tail."""

    def __init__(self, *args: Any, tail: Tail, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        if not _onednn(x):
            return self.tail(super().forward(x))
        # The operator that PyTorch's own compiler takes: `F.conv2d` has no activation, and leaves oneDNN for a slower
        # way of its own where it has one thread.
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return self.tail.shifted(
            torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, self.tail.activation, [], "")
        )

    def extra_repr(self) -> str:
        """The convolution and its tail."""
        return f"{super().extra_repr()}, {self.tail}"


class FoldedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` and its tail."""

    def __init__(self, *args: Any, tail: Tail, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tail = tail

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        if output_size is not None or not _onednn(x):
            return self.tail(super().forward(x, output_size))
        geometry = (self.padding, self.output_padding, self.stride, self.dilation, self.groups)
        return self.tail.shifted(
            torch.ops.mkldnn._convolution_transpose_pointwise(
                x, self.weight, self.bias, *geometry, self.tail.activation, [], ""
            )
        )

    def extra_repr(self) -> str:
        """The convolution and its tail."""
        return f"{super().extra_repr()}, {self.tail}"


class PixelShuffleConv(nn.Module):
    """A convolution to the pixels of a 4x4 square, which are then put in their places."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns (N, 1, 4 H, 4 W)."""
        return F.pixel_shuffle(self.conv(x), 4)


def _onednn(x: Tensor) -> bool:
    """Whether oneDNN's own operators can be called: on a CPU, for inference, outside compilers and exporters."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32


def fold(model: Network) -> Network:
    """The form for running a network: fused, folded, channels last, in evaluation mode, nothing trainable.

    A new model that shares no folded tensor with `model`; it is for memory only, `fuse` is the form to save. Outputs
    differ from the fused form's by rounding.
    """
    network = copy.deepcopy(fuse(model)).eval().requires_grad_(False)
    with torch.no_grad():
        for module in list(network.modules()):
            if isinstance(module, LCNetV3Block):
                _push_affine(module)
        for module in list(network.modules()):
            for type_, chains in CHAINS:
                if isinstance(module, type_):
                    for chain in chains:
                        _fold_chain(module, chain)
                    break
        if type(network.head) is DBHead:  # the other head reads what lies between the two
            _spread(network.head.binarize)
        for path, module in list(network.named_modules()):
            if type(module) in (nn.Conv2d, nn.ConvTranspose2d):
                _replace(network, path, _folded(module, module.weight.double(), _bias(module), Tail()))
    return channels_last(network)


def _push_affine(block: LCNetV3Block) -> None:
    """Put the affine after the depthwise convolution's activation into the pointwise one, which pads nothing."""
    act = block.dw_conv.act
    if act is None or block.se is not None or not isinstance(act.lab, LearnableAffineBlock):
        return
    conv = block.pw_conv.reparam_conv
    scale, shift = act.lab.scale.double(), act.lab.bias.double()
    weight = conv.weight.double()
    conv.bias = nn.Parameter((_bias(conv) + weight.sum((1, 2, 3)) * shift).to(conv.weight.dtype), requires_grad=False)
    conv.weight.copy_(weight * scale)
    _replace(act, "lab", PushedAffine())


def _fold_chain(parent: nn.Module, chain: tuple[str, ...]) -> None:
    first = _child(parent, chain[0])
    if not isinstance(first, nn.Conv2d | nn.ConvTranspose2d):
        return
    weight, bias = first.weight.double(), _bias(first)
    outputs = int(isinstance(first, nn.ConvTranspose2d))  # the axis of the weights that they are
    activation, affine = "none", None
    for name in chain[1:]:
        layer = _child(parent, name)
        found = next((act for type_, act in (*NORMALISATIONS, *ACTIVATIONS) if isinstance(layer, type_)), None)
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
        _replace(parent, name, Folded())
        if affine is not None:
            break
    _replace(parent, chain[0], _folded(first, weight, bias, Tail(activation, affine)))


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
    first_bias, second_bias = _bias(first), _bias(second)
    channels = first.out_channels
    weight = first.weight.permute(2, 3, 1, 0).reshape(4 * channels, first.in_channels, 1, 1)
    pixels = nn.Conv2d(first.in_channels, 4 * channels, 1, device="meta", dtype=weight.dtype)
    _replace(branch, "conv2", _folded(pixels, weight, first_bias.repeat(4), first.tail))
    blocks = second.weight.new_zeros(4, 4, 2, 2, channels)  # row and column in the square, then the pixel before
    for row in range(4):
        for column in range(4):
            blocks[row, column, row // 2, column // 2] = second.weight[:, 0, row % 2, column % 2]
    square = nn.Conv2d(4 * channels, 16, 1, device="meta", dtype=weight.dtype)
    sixteen = _folded(square, blocks.view(16, 4 * channels, 1, 1), second_bias.repeat(16), second.tail)
    _replace(branch, "conv3", PixelShuffleConv(sixteen))


def _folded(conv: Convolution, weight: Tensor, bias: Tensor, tail: Tail) -> nn.Module:
    """A convolution of the same geometry with these weights, float64, and this tail."""
    options: dict[str, Any] = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "device": "meta",
    }
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size)
    folded: Convolution
    if isinstance(conv, nn.ConvTranspose2d):
        folded = FoldedConvTranspose2d(*sizes, output_padding=conv.output_padding, tail=tail, **options)
    else:
        folded = FoldedConv2d(*sizes, tail=tail, **options)
    dtype = conv.weight.dtype
    folded.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return folded.eval()


def _bias(conv: Convolution) -> Tensor:
    outputs = conv.out_channels
    return conv.weight.new_zeros(outputs, dtype=torch.float64) if conv.bias is None else conv.bias.double()


def _child(parent: nn.Module, path: str) -> nn.Module | None:
    """A child by its path; None where any of it is missing."""
    module: nn.Module | None = parent
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).register_module(name, module)
