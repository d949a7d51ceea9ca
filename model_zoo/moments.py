"""Training the sum of normalised 1x1 convolutions as one matrix product.

A re-parameterised layer trains as a sum of branches, each a convolution and its own batch normalisation. A 1x1
convolution is linear in the channels, so mean m and covariance C of the input over the positions tell what every
normalisation would see: a branch with the weights W has the mean W m and the variances diag(W C W'). With them the
branches add up to one kernel before anything is multiplied with the picture: five matrix products of its size,
forward and backward, in place of twelve for four branches, and none of the normalisations' passes over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import BatchNorm2d

Branch = tuple[Tensor | None, BatchNorm2d]
"""Weights (out, in) and their normalisation; None for the identity."""


def has_moments(x: Tensor, layer: nn.Module) -> bool:
    """Whether `normalised_sum` may replace the branches of a layer: on a CPU, in training, in full precision.

    Normalisation that is frozen, or sees the batches of other processes too, needs the output of its own branch. So
    does bfloat16, in which a covariance would be too coarse.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and all(
            type(norm) is BatchNorm2d and norm.training for norm in layer.modules() if isinstance(norm, nn.BatchNorm2d)
        )
    )


def normalised_sum(x: Tensor, branches: Sequence[Branch], scale: Tensor, shift: Tensor) -> Tensor:
    """scale * (the sum of the branches, each normalised by its statistics of this batch) + shift.

    x: float (N, in, H, W); scale and shift: float (1,). Returns (N, out, H, W) with the channels last, and moves the
    running statistics on as `BatchNorm2d` does.
    """
    n, channels, height, width = x.shape
    rows, covariance, mean = _Moments.apply(x.permute(0, 2, 3, 1).reshape(-1, channels))
    kernels: list[Tensor] = []
    biases: list[Tensor] = []
    for weight, norm in branches:
        if weight is None:
            variance = covariance.diagonal()
            kernels.append(torch.diag(norm.weight * torch.rsqrt(variance + norm.eps)))
        else:
            variance = ((weight @ covariance) * weight).sum(1).clamp_min(0.0)
            kernels.append((norm.weight * torch.rsqrt(variance + norm.eps)).unsqueeze(1) * weight)
        biases.append(norm.bias)
        norm.move_statistics(mean if weight is None else weight.detach() @ mean, variance)
    kernel = scale * torch.stack(kernels).sum(0)
    bias = scale * torch.stack(biases).sum(0) + shift
    return torch.addmm(bias, rows, kernel.T).view(n, height, width, -1).permute(0, 3, 1, 2)


class _Moments(torch.autograd.Function):
    """x (P, C) to x less its mean, its covariance (C, C), and its mean (C,), which takes no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(0)
        centred = x - mean
        ctx.save_for_backward(centred)
        ctx.mark_non_differentiable(mean)
        return centred, centred.T @ centred / len(x), mean

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        of_centred, of_covariance, _ = grads
        (centred,) = ctx.saved_tensors
        through = (of_covariance + of_covariance.T) / len(centred)
        grad = torch.addmm(of_centred, centred, through)
        return grad.sub_(grad.mean(0))
