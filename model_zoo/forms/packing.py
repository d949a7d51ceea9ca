"""The folded network as the ahead-of-time compiler gets it: weights laid out for oneDNN once, when it is compiled.

What layout oneDNN wants depends on the input's size. Where sizes are free PyTorch's compiler leaves the weights plain,
and they are laid out anew at every call: a seventh of a recogniser's time for one line. In fact most convolutions have
one layout for all sizes that occur. Those get it here; the others stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.forms.folded import FoldedConv2d, pointwise, watching
from paddle2torch.model_zoo.forms.layouts import lay_out, layout_of
from paddle2torch.model_zoo.forms.quantized import QuantizedConv2d
from paddle2torch.model_zoo.network import replace_module

M = TypeVar("M", bound=nn.Module)

LAY_OUT = ("mkldnn::_reorder_convolution_weight", "onednn::qconv_prepack")
"""Operators that lay out weights."""


class PackedConv2d(nn.Module):
    """A folded convolution that lays out its weights first, which the compiler does once and for all.

    `size` is the input's, (N, C, H, W), for which they are laid out.
    """

    def __init__(self, conv: FoldedConv2d, size: Sequence[int]) -> None:
        super().__init__()
        self.conv = conv
        self.size = list(size)

    def forward(self, x: Tensor, *residual: Tensor) -> Tensor:
        """x: float32 (N, in_channels, H, W) on the CPU; returns (N, out_channels, H', W').

        residual: the map that a `ResidualConv2d` adds, which the compiler does in one pass with what comes after it:
        PyTorch's exporter does not take oneDNN's convolution with a sum.
        """
        conv = self.conv
        weight = lay_out(conv.weight, conv.geometry, self.size)
        if residual:
            return conv.tail(pointwise(x, weight, conv.bias, conv.geometry, "none") + residual[0])
        return conv.tail.shifted(pointwise(x, weight, conv.bias, conv.geometry, conv.tail.activation))


class PackedQuantizedConv2d(nn.Module):
    """The same for a convolution in int8, whose layout depends on no size."""

    def __init__(self, conv: QuantizedConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """x: float32 (N, I, H, W) on the CPU; returns (N, O, H', W')."""
        conv = self.conv
        return conv.tail.shifted(conv.multiplied(conv.quantized(x), conv.prepacked()))


def pack(network: M, inputs: Sequence[Sequence[Tensor]]) -> M:
    """A copy of a folded network, to be compiled, whose convolutions are laid out where all `inputs` agree on how.

    inputs: what it is called with, of sizes that will occur. To change from one of its layouts to another takes oneDNN
    longer than to begin with plain weights. What is packed already stays as it is. Where PyTorch has no oneDNN the
    network itself is returned.
    """
    if not torch.backends.mkldnn.is_available():
        return network
    _declare_layouts()
    packed = copy.deepcopy(network)
    sizes: dict[str, set[tuple[int, ...]]] = {}

    def see(path: str, _: FoldedConv2d, x: Tensor, __: Tensor) -> None:
        sizes.setdefault(path, set()).add(tuple(x.shape))

    with torch.inference_mode(), watching(packed, see):
        for given in inputs:
            packed(*given)
    for path, module in list(packed.named_modules()):
        if isinstance(packed.get_submodule(path.rpartition(".")[0]), PackedConv2d | PackedQuantizedConv2d):
            continue
        if isinstance(module, QuantizedConv2d):
            replace_module(packed, path, PackedQuantizedConv2d(module))
        elif isinstance(module, FoldedConv2d):
            found = sorted(sizes.get(path, ()))
            if len({layout_of(lay_out(module.weight, module.geometry, size)) for size in found}) == 1:
                replace_module(packed, path, PackedConv2d(module, found[0]))
    return packed


def _declare_layouts() -> None:
    """Tell the exporter what laying out returns, which PyTorch 2.13 does not: a tensor of the weights' shape."""
    for operator in LAY_OUT:
        if not torch._C._dispatch_has_kernel_for_dispatch_key(operator, "Meta"):
            torch.library.register_fake(operator, lambda weight, *_: torch.empty_like(weight))
