"""Training the sum of normalised depthwise convolutions as one convolution.

A re-parameterised layer trains as a sum of branches, each a convolution and its own batch normalisation. Once the
variances of all branches are known, they add up to one kernel: the branches are convolved for their variances alone,
and only the one convolution is normalised, written and, on the way back, divided among them. Each pass over memory that
a normalisation takes, two forward and two backward, and each addition of branches falls away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from paddle2torch.model_zoo.moments import Branch

Stride = tuple[int, int]

WIDEST = 3
"""Kernels up to so many pixels wide have a fast gradient in oneDNN: one of 5x5 takes nine times as long as of 5x3."""


def normalised_depthwise_sum(
    x: Tensor, points: Sequence[Branch], wider: Sequence[Branch], stride: Stride, scale: Tensor, shift: Tensor
) -> Tensor:
    """scale * (the sum of the branches, each normalised by its statistics of this batch) + shift.

    x: float (N, C, H, W). points: the branches that see one pixel, with weights (C, 1, 1, 1) or None for the identity.
    wider: all others, (C, 1, k, k) with an odd k, padded by zeros so that `stride` alone makes the output smaller.
    scale and shift: float (1,). Returns (N, C, H', W') with the channels last, and moves the running statistics on as
    `BatchNorm2d` does.
    """
    norms = [norm for _, norm in (*points, *wider)]
    kernels = [weight for weight, _ in wider if weight is not None]
    around = kernels[0].shape[-1] // 2
    centres = [torch.ones_like(kernels[0][:, :, :1, :1]) if weight is None else weight for weight, _ in points]
    stacked = torch.stack([*(F.pad(centre, [around] * 4) for centre in centres), *kernels]).squeeze(2)
    gains = scale * torch.stack([norm.weight for norm in norms])
    shifts = scale * torch.stack([norm.bias for norm in norms]).sum(0) + shift
    epsilons = gains.new_tensor([norm.eps for norm in norms]).unsqueeze(1)
    out: Tensor
    out, means, variances = _NormalisedSum.apply(x, stacked, gains, shifts, epsilons, len(points), stride)
    for norm, mean, variance in zip(norms, means, variances, strict=True):
        norm.move_statistics(mean, variance)
    return out


class _NormalisedSum(torch.autograd.Function):
    """The sum, and means and biased variances of its branches, float (branches, C), which take no gradient.

    A branch has a kernel w, and its convolution y a mean and a variance v: the sum is the convolution with the kernel
    sum(gain / sqrt(v + epsilon) * w), less its mean. All gradients follow from that of this kernel, but for what goes
    through v: its gradient at y is 2 / count * (y - mean) times that of v.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernels: Tensor,
        gains: Tensor,
        shifts: Tensor,
        epsilons: Tensor,
        points: int,
        stride: Stride,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous(memory_format=torch.channels_last)
        x_mean, x_variance = _statistics(_seen_by_points(x, stride))
        centres = _centres(kernels[:points])
        means, variances, convolved = [*(centres * x_mean)], [*(centres.square() * x_variance)], []
        for kernel in kernels[points:]:
            y = _convolve(x, kernel, None, stride)
            mean, variance = _statistics(y)
            means.append(mean)
            variances.append(variance)
            convolved.append(y.sub_(_per_channel(mean)))
        mean, variance = torch.stack(means), torch.stack(variances)
        inverse = torch.rsqrt(variance + epsilons)
        factors = gains * inverse
        kernel = (_per_tap(factors) * kernels).sum(0)
        ctx.save_for_backward(x, kernels, gains, inverse, x_mean, x_variance, kernel, *convolved)
        ctx.points, ctx.stride = points, stride
        ctx.mark_non_differentiable(mean, variance)
        return _convolve(x, kernel, shifts - (factors * mean).sum(0), stride), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, gains, inverse, x_mean, x_variance, kernel, *convolved = ctx.saved_tensors
        points, stride = ctx.points, ctx.stride
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        count = grad.numel() // grad.shape[1]
        of_shifts = grad.sum((0, 2, 3))
        # Less its mean, as the sum is.
        grad = grad - _per_channel(of_shifts / count)
        columns = _columns(x, kernels.shape[-1])
        of_kernel = _correlate(grad, columns, kernel, stride)
        of_factors = (of_kernel * kernels).sum((2, 3))
        # Twice the gradient of each variance, by the count.
        through = -of_factors * gains * inverse**3 / count
        of_kernels = _per_tap(gains * inverse) * of_kernel
        centres = _centres(kernels[:points])
        _centres(of_kernels[:points]).add_(through[:points] * count * x_variance * centres)
        for y, slope, into in zip(convolved, through[points:], of_kernels[points:], strict=True):
            into.add_(_per_tap(slope) * _correlate(y, columns, kernel, stride))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _spread(grad, x, kernel, stride)
            for y, slope, own in zip(convolved, through[points:], kernels[points:], strict=True):
                of_x += _spread(y, x, _per_tap(slope) * own, stride)
            by_points = (through[:points] * centres.square()).sum(0)
            seen = _seen_by_points(of_x, stride)
            seen.addcmul_(_seen_by_points(x, stride), _per_channel(by_points)).sub_(_per_channel(by_points * x_mean))
        return of_x, of_kernels, of_factors * inverse, of_shifts, None, None, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel."""
    mean, variance = torch.batch_norm_update_stats(x.contiguous(memory_format=torch.channels_last), None, None, 0.0)
    return mean, variance


def _per_channel(values: Tensor) -> Tensor:
    """float (C,) beside images (N, C, H, W)."""
    return values.view(1, -1, 1, 1)


def _per_tap(values: Tensor) -> Tensor:
    """float (…, C) beside kernels (…, C, k, k)."""
    return values[..., None, None]


def _centres(kernels: Tensor) -> Tensor:
    """A view of the middle of kernels (…, k, k)."""
    middle = kernels.shape[-1] // 2
    return kernels[..., middle, middle]


def _seen_by_points(x: Tensor, stride: Stride) -> Tensor:
    """A view of the pixels that the middles of kernels see."""
    return x[:, :, :: stride[0], :: stride[1]]


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: Stride) -> Tensor:
    """x: float (N, C, H, W); kernel: (C, k, k); bias: (C,)."""
    return F.conv2d(x, kernel.unsqueeze(1), bias, stride, kernel.shape[-1] // 2, groups=len(kernel))


def _backward(
    grad: Tensor, x: Tensor, kernel: Tensor, stride: Stride, around: Stride, wanted: list[bool]
) -> tuple[Tensor, ...]:
    """The gradients of a convolution that are wanted, of its input, kernel (C, h, w) and bias.

    around: rows and columns of zeros at each side.
    """
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad, x, kernel.unsqueeze(1), None, stride, around, (1, 1), False, (0, 0), len(kernel), wanted
    )
    return gradients


def _spread(grad: Tensor, x: Tensor, kernel: Tensor, stride: Stride) -> Tensor:
    """The gradient of a convolution's input, of which `x` has the shape."""
    around = kernel.shape[-1] // 2
    return _backward(grad, x, kernel, stride, (around, around), [True, False, False])[0]


def _columns(x: Tensor, width: int) -> list[tuple[int, Tensor]]:
    """What a kernel of so many columns sees. Where it is wider than `WIDEST`, what parts of it see: the first column of
    each, and `x` with as many columns before and behind it as that part needs.
    """
    if width <= WIDEST:
        return [(0, x)]
    around = width // 2
    starts = [min(start, width - WIDEST) for start in range(0, width, WIDEST)]
    return [(start, F.pad(x, (around - start, start + WIDEST - 1 - around))) for start in starts]


def _correlate(grad: Tensor, columns: list[tuple[int, Tensor]], kernel: Tensor, stride: Stride) -> Tensor:
    """The gradient of the kernel (C, k, k) of a convolution."""
    gradient = torch.empty_like(kernel)
    around = kernel.shape[-1] // 2
    for start, x in columns:
        part = kernel[:, :, start : start + WIDEST].contiguous()
        beside = 0 if len(columns) > 1 else around
        of_part = _backward(grad, x, part, stride, (around, beside), [False, True, False])[1]
        gradient[:, :, start : start + WIDEST] = of_part.squeeze(1)
    return gradient
