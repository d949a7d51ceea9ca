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

from paddle2torch.model_zoo.forms.folded import FUNCTIONS

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
    "7x7": (1, 10, 29, 24, 16, (7, 7), (1, 1), (3, 3)),
    "9x9": (2, 5, 21, 40, 8, (9, 9), (1, 1), (4, 4)),
    "without padding": (1, 9, 21, 16, 16, (3, 3), (1, 1), (0, 0)),
}
# An image or a map, and convolutions one after another: outputs, kernel and stride of each. The first is plain, the
# others are separable, or pointwise where the kernel is 1.
Chain = tuple[tuple[int, int, int, int], tuple[tuple[int, int, tuple[int, int]], ...]]
CHAINS: Mapping[str, Chain] = {
    "of an image": ((1, 3, 40, 9001), ((16, 3, (2, 2)), (32, 3, (1, 1)), (48, 3, (2, 2)), (40, 3, (1, 1)))),
    "of a map": ((2, 20, 40, 3003), ((24, 3, (1, 1)), (96, 1, (1, 1)), (16, 1, (1, 1)))),
    "to a side": ((3, 16, 33, 2000), ((64, 3, (1, 1)), (33, 3, (2, 1)), (17, 5, (1, 2)))),
    "small": ((2, 3, 20, 33), ((16, 3, (2, 2)), (32, 3, (1, 1)), (48, 3, (2, 1)))),
}
TAILS = tuple((activation, affine) for activation in FUNCTIONS for affine in ((1.0, 0.0), (-0.7, 0.3)))

NOTHING_ELSE: tuple[list[object], list[int], list[float]] = ([], [], [])
"""Of convolutions that follow in the same call."""


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
        *(x, packed, padded(bias), None, None, None, gate, None, 0.0, *[None] * 4, outputs),
        *([*kernel, *stride, *padding], [0.0, 1.0, 0.0], numbers, *NOTHING_ELSE),
    )
    assert found.dtype == dtype
    return relative_error(found, expected)


def separable_error(shape: Shape, tail: tuple[str, tuple[float, float]], dtype: torch.dtype) -> float:
    """A depthwise convolution and a pointwise one, in one go."""
    n, h, w, inputs, outputs, kernel, stride, padding = shape
    numbers, finish = tail_of(*tail)
    first, finish_first = tail_of("hardswish", (1.1, 0.05))
    x = values(n, inputs, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    depth, depth_bias = (values(inputs, 1, *kernel) / kernel[0]).to(dtype), values(inputs) * 0.1
    weight, bias = (values(outputs, inputs) / inputs**0.5).to(dtype), values(outputs)
    middle = finish_first(F.conv2d(x.double(), depth.double(), depth_bias.double(), stride, padding, 1, inputs))
    if dtype == torch.bfloat16:
        middle = middle.float().bfloat16().double()
    expected = finish(F.conv2d(middle, weight.double()[..., None, None], bias.double()))
    found = torch.ops.paddle2torch.convolve(
        *(x, torch.ops.paddle2torch.pack(weight), padded(bias), None, depth.flatten(1).t().contiguous(), depth_bias),
        *(None, None, 0.0, *[None] * 4, outputs, [*kernel, *stride, *padding], first, numbers),
        *NOTHING_ELSE,
    )
    return relative_error(found, expected)


def chain_error(chain: Chain, dtype: torch.dtype) -> float:
    """Convolutions one after another in one call, beside the same in as many. dtype: also int8, of the weights."""
    (n, channels, h, w), rest = chain
    image, quantized = channels == 3, dtype == torch.int8
    stored = torch.float32 if quantized else dtype
    x = values(n, channels, h, w)
    if not image:
        x = x.to(stored).contiguous(memory_format=torch.channels_last)
    call = torch.ops.paddle2torch.convolve
    following: tuple[list[Tensor], list[int], list[float]] = ([], [], [])
    result, first = x, ()
    for number, (outputs, kernel, stride) in enumerate(rest):
        (tail, _), (depth_tail, _) = (tail_of(*TAILS[(3 * number + k) % 6]) for k in (2, 1))
        separable = number > 0 and kernel > 1
        inputs = channels + image if number == 0 else rest[number - 1][0]
        sizes = (outputs, inputs, 1, 1) if separable else (outputs, inputs, kernel, kernel)
        weight = values(*sizes) / (1 if quantized else (inputs * sizes[2] ** 2) ** 0.5)
        weight = (weight * 25).clamp(-63, 63).to(dtype) if quantized else weight.to(dtype)
        scale = padded(values(outputs).abs() / 1000) if quantized else None
        steps, offset = (values(inputs).abs() + 5, 41.5) if quantized else (None, 0.0)
        packed = torch.ops.paddle2torch.pack(weight.permute(0, 2, 3, 1).flatten(1).contiguous())
        depth = (values(kernel * kernel, inputs) / kernel).to(stored) if separable else None
        depth_bias = values(inputs) if separable else None
        geometry = [kernel, kernel, *stride, kernel // 2, kernel // 2]
        of_one = (packed, padded(values(outputs)), scale, depth, depth_bias, None, steps, offset, *[None] * 4)
        of_one = (*of_one, outputs, geometry, depth_tail, tail)
        result = call(result, *of_one, *NOTHING_ELSE)
        if number == 0:
            first = of_one
        else:
            always = (packed, of_one[1], depth, depth_bias)
            following[0].extend([packed if tensor is None else tensor for tensor in always])
            following[0].extend([] if scale is None or steps is None else [scale, steps])
            following[1].extend([outputs, int(separable), *geometry])
            following[2].extend([*depth_tail, *tail, offset])
    return relative_error(call(x, *first, *following), result.double())


def depthwise_error(shape: Shape, dtype: torch.dtype) -> float:
    """A depthwise convolution alone."""
    n, h, w, inputs, _, kernel, stride, padding = shape
    numbers, finish = tail_of("hardswish", (1.1, 0.05))
    x = values(n, inputs, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = values(inputs, 1, *kernel).to(dtype), values(inputs)
    expected = finish(F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, 1, inputs))
    found = torch.ops.paddle2torch.depthwise(
        x, weight.flatten(1).t().contiguous(), bias, [*kernel, *stride, *padding], numbers
    )
    return relative_error(found, expected)


# Sequences, steps, channels, classes.
CLASSES: Mapping[str, tuple[int, int, int, int]] = {
    "of Chinese": (3, 43, 120, 6625),
    "of English": (2, 41, 64, 97),
    "a few steps": (1, 3, 17, 438),
    "more steps than are done at once": (7, 43, 16, 40),
}


def classes_error(case: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    """The largest difference of a probability. The best class is the first of the largest probability of all."""
    n, steps, inputs, classes = case
    x, weight = values(n, steps, inputs).to(dtype), (values(classes, inputs) / inputs**0.5).to(dtype)
    bias = values(classes)
    logits = x.double() @ weight.double().T + bias.double()
    logits = logits if dtype == torch.float32 else logits.to(dtype).double()
    packed = torch.ops.paddle2torch.pack(weight)
    found, best = (
        torch.ops.paddle2torch.classify(x, packed, padded(bias), classes, torch.empty(results))
        for results in (classes, 2)
    )
    assert torch.equal(best[..., 0].long(), found.argmax(-1))
    assert float((best[..., 1] - found.amax(-1)).abs().max()) < 1e-6
    return float((found - logits.softmax(-1)).abs().max())


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
    for chain in CHAINS.values():
        worst = max(worst, chain_error(chain, torch.float32))
    for case in CLASSES.values():
        worst = max(worst, classes_error(case, torch.float32))
    print(worst, torch.ops.paddle2torch.features()[0])


if __name__ == "__main__":
    main(sys.argv[1])
