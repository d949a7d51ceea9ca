"""Normalisations and norms."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.operations.convolution import channels_back, channels_first
from paddle2torch.model_zoo.programs.table import ProgramError, operation

_LAYOUTS = ("NCHW", "NHWC", "NCL", "NLC", "NC", "NCDHW", "NDHWC", "AnyLayout")


@operation("batch_norm", "sync_batch_norm", results=6, choices={"data_format": _LAYOUTS})
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    is_test: bool = False,
    epsilon: float = 1e-5,
    data_format: str = "NCHW",
    use_global_stats: bool = False,
    trainable_statistics: bool = False,
) -> tuple[Tensor, None, None, None, None, None]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with the statistics of training.

    `trainable_statistics` without `use_global_stats` takes those of the input at inference too.
    """
    if not (is_test or use_global_stats):
        raise ProgramError("batch_norm was exported in training mode: its statistics would be those of the input")
    last = data_format[-1] == "C" and x.ndim > 2
    moved = x.movedim(-1, 1) if last else x
    if trainable_statistics and not use_global_stats:
        y = F.batch_norm(moved, None, None, scale, bias, True, 0.0, epsilon)
    else:
        y = F.batch_norm(moved, mean, variance, scale, bias, False, 0.0, epsilon)
    return (y.movedim(1, -1) if last else y), None, None, None, None, None


@operation("layer_norm", results=3)
def layer_norm(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
    begin_norm_axis: int = 1,
) -> tuple[Tensor, None, None]:
    """Mean 0 and variance 1 over all axes from `begin_norm_axis` on, then scale and bias."""
    shape = list(x.shape[begin_norm_axis:])
    weight = None if scale is None else scale.reshape(shape)
    return F.layer_norm(x, shape, weight, None if bias is None else bias.reshape(shape), epsilon), None, None


@operation("rms_norm", "fused_rms_norm_quant", results=3)
def rms_norm(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    epsilon: float = 1e-6,
    begin_norm_axis: int = -1,
    quant_scale: float = -1.0,
    quant_round_type: int = 0,
    quant_max_bound: float = 0.0,
    quant_min_bound: float = 0.0,
) -> tuple[Tensor, Any, None]:
    """x over the root of the mean of its squares, then scale and bias."""
    if quant_scale > 0:
        raise ProgramError("rms_norm with quantisation is not known")
    for item in (bias, residual):
        x = x if item is None else x + item
    axes = tuple(range(begin_norm_axis % x.ndim, x.ndim))
    y = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon)
    y = y if norm_weight is None else y * norm_weight
    return (y if norm_bias is None else y + norm_bias), x, None


@operation("group_norm", results=3, choices={"data_format": _LAYOUTS, "data_layout": _LAYOUTS})
def group_norm(
    x: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
    groups: int = -1,
    data_format: str = "NCHW",
) -> tuple[Tensor, None, None]:
    """Mean 0 and variance 1 within each group of channels, then scale and bias."""
    y = F.group_norm(channels_first(x, data_format), groups, scale, bias, epsilon)
    return channels_back(y, data_format), None, None


@operation("instance_norm", results=3)
def instance_norm(
    x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float = 1e-5
) -> tuple[Tensor, None, None]:
    """Mean 0 and variance 1 within each channel of a sample, then scale and bias."""
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    shape = [1, -1] + [1] * (x.ndim - 2)
    y = y if scale is None else y * scale.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape)), None, None


@operation("norm", results=2)
def norm(x: Tensor, *, axis: int = -1, epsilon: float = 1e-10, is_test: bool = False) -> tuple[Tensor, Tensor]:
    """x over sqrt(sum of squares along the axis + epsilon), and that root."""
    root = torch.sqrt(x.square().sum(axis, keepdim=True) + epsilon)
    return x / root, root


@operation("p_norm")
def p_norm(
    x: Tensor,
    *,
    porder: float = 2.0,
    axis: int = -1,
    epsilon: float = 1e-12,
    keepdim: bool = False,
    asvector: bool = False,
) -> Tensor:
    """The p-norm along an axis, or of all elements; of order 0 how many are not 0, of infinity the largest."""
    if asvector:
        y = torch.linalg.vector_norm(x, porder)
        return y.reshape([1] * x.ndim) if keepdim else y
    return torch.linalg.vector_norm(x, porder, axis, keepdim)


@operation("frobenius_norm", numbers=("axis",))
def frobenius_norm(
    x: Tensor, axis: Any = (), *, keep_dim: bool = False, keepdim: bool = False, reduce_all: bool = False
) -> Tensor:
    """The root of the sum of squares."""
    axes = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
    keep = keep_dim or keepdim
    return torch.linalg.vector_norm(x, 2, None if reduce_all or not axes else axes, keep)


@operation("l1_norm")
def l1_norm(x: Tensor) -> Tensor:
    """The sum of absolute values."""
    return x.abs().sum()


@operation("squared_l2_norm")
def squared_l2_norm(x: Tensor) -> Tensor:
    """The sum of squares: one element on one axis."""
    return x.square().sum().reshape(1)


@operation("lrn", results=2, choices={"data_format": ("NCHW", "AnyLayout", "NHWC")})
def lrn(
    x: Tensor, *, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, data_format: str = "AnyLayout"
) -> tuple[Tensor, Tensor]:
    """x over (k + alpha * the sum of squares over n neighbouring channels) to the power of beta."""
    x = channels_first(x, data_format)
    squares = F.pad(x.square().movedim(1, -1), ((n - 1) // 2, n - 1 - (n - 1) // 2))
    middle = k + alpha * squares.unfold(-1, n, 1).sum(-1).movedim(-1, 1)
    return channels_back(x * torch.pow(middle, -beta), data_format), channels_back(middle, data_format)


@operation("dist")
def dist(x: Tensor, y: Tensor, *, p: float = 2.0) -> Tensor:
    """The p-norm of x - y."""
    return torch.linalg.vector_norm(x - y, math.inf if p == math.inf else p)


@operation("renorm")
def renorm(x: Tensor, *, p: float, axis: int, max_norm: float) -> Tensor:
    """Each part along the axis made smaller where its p-norm is above a number."""
    return torch.renorm(x, p, axis, max_norm)


@operation("clip_by_norm")
def clip_by_norm(x: Tensor, *, max_norm: float) -> Tensor:
    """x made smaller where its root of squares is above a number."""
    size = torch.linalg.vector_norm(x)
    return torch.where(size > max_norm, x * (max_norm / size), x)


@operation("spectral_norm")
def spectral_norm(
    weight: Tensor, u: Tensor, v: Tensor, *, dim: int = 0, power_iters: int = 1, eps: float = 1e-12
) -> Tensor:
    """The weight over its largest singular value, as `power_iters` iterations from u and v estimate it."""
    if not 0 <= power_iters <= 1000:
        raise ProgramError(f"spectral_norm with {power_iters} iterations")
    matrix = weight.movedim(dim, 0).flatten(1)
    for _ in range(power_iters):
        v = matrix.t() @ u.reshape(-1)
        v = v / (v.norm() + eps)
        u = matrix @ v
        u = u / (u.norm() + eps)
    return weight / (u.reshape(-1) @ (matrix @ v.reshape(-1)))


@operation("fused_bias_residual_layernorm", results=4)
def fused_bias_residual_layernorm(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    epsilon: float,
    residual_alpha: float = 1.0,
    begin_norm_axis: int = 1,
    quant_scale: float = -1.0,
    quant_round_type: int = 0,
    quant_max_bound: float = 0.0,
    quant_min_bound: float = 0.0,
) -> tuple[Tensor, Any, None, None]:
    """`layer_norm` of x + bias + residual_alpha * residual, and that sum."""
    if quant_scale > 0:
        raise ProgramError("fused_bias_residual_layernorm with quantisation is not known")
    x = x if bias is None else x + bias
    x = x if residual is None else x + residual_alpha * residual
    shape = list(x.shape[begin_norm_axis:])
    weights = [None if item is None else item.reshape(shape) for item in (norm_weight, norm_bias)]
    return F.layer_norm(x, shape, weights[0], weights[1], epsilon), x, None, None
