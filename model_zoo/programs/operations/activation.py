"""Activations. Where Paddle's default or formula is another than PyTorch's, the docstring says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError, operation


@operation()
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@operation()
def relu6(x: Tensor, *, threshold: float = 6.0) -> Tensor:
    """x held between 0 and the threshold."""
    return torch.clamp(x, 0.0, threshold)


@operation()
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operation("logsigmoid")
def logsigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x))."""
    return F.logsigmoid(x)


@operation()
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


@operation()
def swish(x: Tensor, *, beta: float = 1.0) -> Tensor:
    """x * sigmoid(beta * x)."""
    return F.silu(x) if beta == 1.0 else x * torch.sigmoid(beta * x)


@operation()
def swiglu(x: Tensor, y: Tensor | None = None) -> Tensor:
    """silu(x) * y; without y both are halves of the last axis."""
    if y is None:
        x, y = x.chunk(2, -1)
    return F.silu(x) * y


@operation()
def gelu(x: Tensor, *, approximate: bool = False) -> Tensor:
    """x times the normal distribution up to x, by erf or, approximate, by tanh."""
    return F.gelu(x, approximate="tanh" if approximate else "none")


@operation()
def hardswish(x: Tensor, *, threshold: float = 6.0, scale: float = 6.0, offset: float = 3.0) -> Tensor:
    """x * clamp(x + offset, 0, threshold) / scale."""
    if (threshold, scale, offset) == (6.0, 6.0, 3.0):
        return F.hardswish(x)
    return x * torch.clamp(x + offset, 0.0, threshold) / scale


@operation()
def hardsigmoid(x: Tensor, *, slope: float = 0.2, offset: float = 0.5) -> Tensor:
    """clamp(slope * x + offset, 0, 1); PyTorch's has the slope 1/6 always."""
    return torch.clamp(x * slope + offset, 0.0, 1.0)


@operation("mish", choices={"lambda_": (20.0, 20)})
def mish(x: Tensor, *, lambda_: float = 20.0, threshold: float = 20.0) -> Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


@operation()
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above 0, alpha * (exp(x) - 1) below."""
    return F.elu(x, alpha)


@operation()
def selu(x: Tensor, *, scale: float = 1.0507009873554805, alpha: float = 1.6732632423543772) -> Tensor:
    """scale * elu(x, alpha); both are attributes."""
    return scale * torch.where(x > 0, x, alpha * torch.expm1(x))


@operation()
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    return F.celu(x, alpha)


@operation()
def leaky_relu(x: Tensor, *, negative_slope: float = 0.02) -> Tensor:
    """x above 0, negative_slope * x below."""
    return F.leaky_relu(x, negative_slope)


@operation()
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@operation()
def softplus(x: Tensor, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""
    return F.softplus(x, beta, threshold)


@operation()
def softshrink(x: Tensor, *, threshold: float = 0.5) -> Tensor:
    """x nearer to 0 by the threshold, 0 within it."""
    return F.softshrink(x, threshold)


@operation("hardshrink", "hard_shrink")
def hardshrink(x: Tensor, *, threshold: float = 0.5) -> Tensor:
    """x, but 0 within the threshold."""
    return F.hardshrink(x, threshold)


@operation()
def tanh_shrink(x: Tensor) -> Tensor:
    """x - tanh(x)."""
    return x - torch.tanh(x)


@operation("hardtanh", "brelu")
def hardtanh(x: Tensor, *, t_min: float = -1.0, t_max: float = 1.0) -> Tensor:
    """x held between two numbers."""
    return torch.clamp(x, t_min, t_max)


@operation()
def thresholded_relu(x: Tensor, *, threshold: float = 1.0, value: float = 0.0) -> Tensor:
    """x above the threshold, the value elsewhere."""
    return torch.where(x > threshold, x, value)


@operation()
def maxout(x: Tensor, *, groups: int, axis: int = 1) -> Tensor:
    """The largest of `groups` neighbouring channels; the axis has a number of channels that `groups` divides."""
    axis = axis % x.ndim
    shape = [*x.shape[:axis], x.shape[axis] // groups, groups, *x.shape[axis + 1 :]]
    return x.reshape(shape).amax(axis + 1)


@operation(
    "prelu", choices={"mode": ("all", "channel", "element"), "data_format": ("NCHW", "NHWC", "NC", "NCL", "NLC")}
)
def prelu(x: Tensor, alpha: Tensor, *, data_format: str = "NCHW", mode: str = "all") -> Tensor:
    """x above 0, alpha * x below: one alpha, one for each channel, or one for each element of a sample."""
    if mode == "all":
        slope = alpha.reshape(())
    elif mode == "channel":
        slope = alpha.reshape([-1] if data_format[-1] == "C" else [1, -1] + [1] * (x.ndim - 2))
    else:
        slope = alpha.reshape([1, *x.shape[1:]])
    return torch.where(x > 0, x, slope * x)


@operation()
def softmax(x: Tensor, *, axis: int = -1, data_format: str = "AnyLayout") -> Tensor:
    """exp(x) over its sum along the axis; old programs give a layout, which changes nothing."""
    return torch.softmax(x, axis) if x.ndim else torch.ones_like(x)


@operation()
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """The logarithm of softmax."""
    return torch.log_softmax(x, axis) if x.ndim else torch.zeros_like(x)


@operation("dropout", results=2, scalars=("p",), choices={"is_test": (True,)})
def dropout(
    x: Tensor,
    seed_tensor: Tensor | None = None,
    p: Any = 0.5,
    *,
    is_test: bool = True,
    mode: str = "downgrade_in_infer",
    dropout_prob: float | None = None,
) -> tuple[Tensor, None]:
    """At inference x itself; with the mode `downgrade_in_infer`, x times (1 - p). The mask has no value then."""
    share = p if dropout_prob is None else dropout_prob
    return (x * (1.0 - share) if mode == "downgrade_in_infer" else x), None


@operation("fused_softmax_mask")
def fused_softmax_mask(x: Tensor, mask: Tensor) -> Tensor:
    """softmax of x + mask on the last axis."""
    return torch.softmax(x + mask, -1)


@operation("fused_softmax_mask_upper_triangle")
def fused_softmax_mask_upper_triangle(x: Tensor) -> Tensor:
    """softmax on the last axis of what is not above the diagonal."""
    above = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
    return torch.softmax(x.masked_fill(above, float("-inf")), -1)


@operation("dropout_nd", results=2)
def dropout_nd(
    x: Tensor, seed_tensor: Tensor | None = None, *, p: float, is_test: bool, mode: str, axis: Sequence[int] = ()
) -> tuple[Tensor, None]:
    """As `dropout`."""
    if not is_test:
        raise ProgramError("dropout_nd was exported in training mode")
    return (x * (1.0 - p) if mode == "downgrade_in_infer" else x), None


@operation("rrelu", results=2)
def rrelu(x: Tensor, *, lower: float, upper: float, is_test: bool = False) -> tuple[Tensor, None]:
    """x above 0, below it times the mean of both slopes."""
    if not is_test:
        raise ProgramError("rrelu was exported in training mode: it draws random slopes")
    return torch.where(x >= 0, x, x * ((lower + upper) / 2)), None
