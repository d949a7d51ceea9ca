"""Convolutions for the kernels to compute, and what they are in float64. Run as a program: all of them, with a library.

That is how the tests try kernels made for other processors, each in a process of its own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.folded import FUNCTIONS

# Images, height, width; input and output channels; kernel, stride and padding, of height and width.
Shape = tuple[int, int, int, int, int, tuple[int, int], tuple[int, int], tuple[int, int]]

ONE = ((1, 1), (1, 1), (0, 0))
THREE = ((3, 3), (1, 1), (1, 1))
FIVE = ((5, 5), (1, 1), (2, 2))
PLAIN: Mapping[str, Shape] = {
    "pointwise": (2, 12, 37, 240, 240, *ONE),
    "square, few results": (1, 3, 3, 40, 40, *ONE),
    "one cell": (6, 1, 1, 480, 120, *ONE),
    "odd channels": (3, 2, 5, 18, 7, *ONE),
    "many outputs": (2, 1, 40, 120, 6625, *ONE),
    "3x3, half a vector": (2, 23, 40, 96, 24, *THREE),
    "3x3, narrow": (1, 9, 2, 16, 16, *THREE),
    "1x3 of a line": (3, 1, 41, 60, 12, (1, 3), (1, 1), (0, 1)),
    "2x2 with padding": (2, 7, 9, 64, 33, (2, 2), (1, 1), (1, 1)),
    "7x7": (1, 8, 11, 4, 11, (7, 7), (1, 1), (3, 3)),
    "strides": (2, 17, 33, 8, 20, (3, 3), (2, 1), (1, 1)),
    "1x1 with a stride": (1, 8, 9, 8, 11, (1, 1), (2, 2), (0, 0)),
}
DEPTHWISE: Mapping[str, Shape] = {
    "5x5": (2, 12, 37, 240, 240, *FIVE),
    "3x3, to the side": (1, 9, 5, 16, 24, (3, 3), (2, 2), (1, 1)),
    "height alone": (1, 9, 50, 24, 97, (5, 5), (2, 1), (2, 2)),
    "width alone": (2, 7, 33, 40, 12, (3, 3), (1, 2), (1, 1)),
    "fewer channels than a vector": (1, 20, 30, 8, 16, *THREE),
    "a map smaller than the kernel": (2, 2, 3, 16, 16, *FIVE),
    "without padding": (1, 9, 21, 16, 16, (3, 3), (1, 1), (0, 0)),
}
TAILS = tuple((activation, affine) for activation in FUNCTIONS for affine in ((1.0, 0.0), (-0.7, 0.3)))


def values(*shape: int, seed: int = 0) -> Tensor:
    """Normal, float32, the same for the same arguments."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * len(shape) + sum(shape) + seed))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference by the largest value."""
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    return float((found.double() - expected).abs().max() / expected.abs().max())


def tail_of(activation: str, affine: tuple[float, float]) -> tuple[list[float], Callable[[Tensor], Tensor]]:
    """A tail as the kernels take it, and as a function."""
    number = float(tuple(FUNCTIONS).index(activation))
    return [number, *affine], lambda y: FUNCTIONS[activation](y) * affine[0] + affine[1]


def plain_error(
    shape: Shape, tail: tuple[str, tuple[float, float]], dtype: torch.dtype, *, gated: bool = False
) -> float:
    """A convolution in float32 or bfloat16."""
    n, h, w, inputs, outputs, kernel, stride, padding = shape
    numbers, finish = tail_of(*tail)
    x = values(n, inputs, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = (values(outputs, inputs, *kernel) / (inputs * kernel[0] * kernel[1]) ** 0.5).to(dtype)
    bias = values(outputs)
    gate = values(n, inputs).abs() if gated else None
    sources = x.double() if gate is None else x.double() * gate.double()[..., None, None]
    if gate is not None and dtype == torch.bfloat16:
        sources = sources.float().bfloat16().double()
    expected = finish(F.conv2d(sources, weight.double(), bias.double(), stride, padding))
    packed = torch.ops.paddle2torch.pack(weight.permute(0, 2, 3, 1).flatten(1).contiguous())
    found = torch.ops.paddle2torch.convolve(
        *(x, packed, padded(bias), None, None, None, gate, None, 0.0, None, None, None, outputs),
        *([*kernel, *stride, *padding], [0.0, 1.0, 0.0], numbers),
    )
    assert found.dtype == dtype
    return relative_error(found, expected)


def separable_error(shape: Shape, tail: tuple[str, tuple[float, float]], dtype: torch.dtype) -> float:
    """A depthwise convolution and a pointwise one, in one go."""
    n, h, w, inputs, outputs, kernel, stride, padding = shape
    numbers, finish = tail_of(*tail)
    first, finish_first = tail_of("hardswish", (1.1, 0.05))
    x = values(n, inputs, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    depth, depth_bias = values(inputs, 1, *kernel) / kernel[0], values(inputs) * 0.1
    weight, bias = (values(outputs, inputs) / inputs**0.5).to(dtype), values(outputs)
    middle = finish_first(F.conv2d(x.double(), depth.double(), depth_bias.double(), stride, padding, 1, inputs))
    if dtype == torch.bfloat16:
        middle = middle.float().bfloat16().double()
    expected = finish(F.conv2d(middle, weight.double()[..., None, None], bias.double()))
    found = torch.ops.paddle2torch.convolve(
        *(x, torch.ops.paddle2torch.pack(weight), padded(bias), None, depth.flatten(1).t().contiguous(), depth_bias),
        *(None, None, 0.0, None, None, None, outputs, [*kernel, *stride, *padding], first, numbers),
    )
    return relative_error(found, expected)


def depthwise_error(shape: Shape, dtype: torch.dtype) -> float:
    """A depthwise convolution alone."""
    n, h, w, inputs, _, kernel, stride, padding = shape
    numbers, finish = tail_of("hardswish", (1.1, 0.05))
    x = values(n, inputs, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = values(inputs, 1, *kernel), values(inputs)
    expected = finish(F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, 1, inputs))
    found = torch.ops.paddle2torch.depthwise(
        x, weight.flatten(1).t().contiguous(), bias, [*kernel, *stride, *padding], numbers
    )
    return relative_error(found, expected)


def padded(bias: Tensor) -> Tensor:
    """With zeros, to whole vectors of every processor."""
    return F.pad(bias, (0, -len(bias) % 16))


def main(library: str) -> None:
    """The worst error in float32, of everything above."""
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    worst = 0.0
    for number, shape in enumerate(PLAIN.values()):
        worst = max(worst, plain_error(shape, TAILS[number % len(TAILS)], torch.float32))
        worst = max(worst, plain_error(shape, TAILS[-1 - number % len(TAILS)], torch.float32, gated=True))
    for number, shape in enumerate(DEPTHWISE.values()):
        worst = max(worst, separable_error(shape, TAILS[number % len(TAILS)], torch.float32))
        worst = max(worst, depthwise_error(shape, torch.float32))
    print(worst, torch.ops.paddle2torch.features()[0])


if __name__ == "__main__":
    main(sys.argv[1])
