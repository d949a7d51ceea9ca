"""The layers of a folded network (`model_zoo.forms.folding`): convolutions that do what came after them as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.forms.layouts import Geometry, Layouts

Affine: TypeAlias = tuple[float, float]

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "hardswish": F.hardswish,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
}

GELU_BY_ERF = "none"
"""The exact GELU among those that oneDNN has."""


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


def algorithm_of(activation: str) -> str:
    """What oneDNN's operators want to know of an activation beside its name."""
    return GELU_BY_ERF if activation == "gelu" else ""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str) -> Tensor:
    """oneDNN's convolution with an activation, which PyTorch's own compiler takes; `weight` may be laid out for it."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, *geometry, activation, [], algorithm_of(activation)
    )
    return result


class FoldedConv2d(nn.Conv2d):
    """`nn.Conv2d` and its tail.

    layouts: where its weights are kept as oneDNN wants them; None where they are laid out anew at every call.
    """

    def __init__(self, *args: Any, tail: Tail, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tail = tail
        self.layouts: Layouts | None = None

    def weight_for(self, x: Tensor) -> Tensor:
        """The weights for oneDNN and this input, laid out where that is kept."""
        return self.weight if self.layouts is None else self.layouts.of(self.weight, self.geometry, tuple(x.shape))

    @property
    def geometry(self) -> Geometry:
        """See `Geometry`."""
        padding, stride, dilation = (cast("tuple[int, ...]", v) for v in (self.padding, self.stride, self.dilation))
        return padding, stride, dilation, self.groups

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        if not onednn(x):
            return self.tail(super().forward(x))
        # `F.conv2d` has no activation, and leaves oneDNN for a slower way of its own where it has one thread.
        return self.tail.shifted(pointwise(x, self.weight_for(x), self.bias, self.geometry, self.tail.activation))

    def extra_repr(self) -> str:
        """The convolution and its tail."""
        return f"{super().extra_repr()}, {self.tail}"


class ResidualConv2d(FoldedConv2d):
    """A convolution that adds a map of its output's size before its activation, which is ReLU or none."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]  # a second input
        """x: float (N, in_channels, H, W), residual: (N, out_channels, H', W') or what is repeated to that."""
        if not onednn(x) or residual.dtype != x.dtype or residual.shape != self.output_shape(x):
            # oneDNN's operator would take another size for its own.
            return self.tail(nn.Conv2d.forward(self, x) + residual)
        activation = None if self.tail.activation == "none" else self.tail.activation
        made = torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual, self.weight_for(x), self.bias, *self.geometry, "add", 1.0, activation, [], None
        )
        return self.tail.shifted(made)

    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """Of a map of x's size."""
        padding, stride, dilation, _ = self.geometry
        sides = zip(x.shape[2:], padding, stride, dilation, self.kernel_size, strict=True)
        return (
            x.shape[0],
            self.out_channels,
            *((size + 2 * pad - space * (cells - 1) - 1) // step + 1 for size, pad, step, space, cells in sides),
        )


class FoldedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` and its tail."""

    def __init__(self, *args: Any, tail: Tail, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tail = tail

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        if output_size is not None or not onednn(x):
            return self.tail(super().forward(x, output_size))
        geometry = (self.padding, self.output_padding, self.stride, self.dilation, self.groups)
        return self.tail.shifted(
            torch.ops.mkldnn._convolution_transpose_pointwise(
                x, self.weight, self.bias, *geometry, self.tail.activation, [], algorithm_of(self.tail.activation)
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


@contextmanager
def watching(network: nn.Module, see: Callable[[str, FoldedConv2d, Tensor, Tensor], object]) -> Iterator[None]:
    """Call `see(path, convolution, input, output)` whenever a folded convolution has run inside the block."""

    def hook(path: str) -> Callable[[FoldedConv2d, tuple[Tensor, ...], Tensor], None]:
        def call(conv: FoldedConv2d, args: tuple[Tensor, ...], output: Tensor) -> None:
            see(path, conv, args[0], output)

        return call

    hooks = [
        module.register_forward_hook(hook(path))
        for path, module in network.named_modules()
        if isinstance(module, FoldedConv2d)
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def onednn(x: Tensor) -> bool:
    """Whether oneDNN's own operators can be called: on a CPU, for inference, outside compilers and exporters."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32
