"""Layers that several networks share, where PyTorch's own differ from Paddle's in numerics or in names."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.initialisers import kaiming_uniform

Size = int | tuple[int, int]
Activation = Literal["relu", "hardswish"]


@runtime_checkable
class DrawsItsWeights(Protocol):
    """A module whose weights start from other distributions than Paddle's defaults for its layers."""

    def init_weights(self) -> None:
        """Draw them anew."""


@runtime_checkable
class SparesDecay(Protocol):
    """A module some of whose parameters train without L2."""

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """Those parameters."""


@runtime_checkable
class SetsItsRates(Protocol):
    """A module some of whose parameters learn by a share of the learning rate."""

    def rate_factors(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Those parameters, and their factor on the rate."""


Chains: TypeAlias = "tuple[tuple[str, ...], ...]"
"""Children that a module runs one after another with nothing between, beginning with a convolution: `forms.folding`
makes one convolution of each chain."""


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with Paddle's running statistics.

    Paddle moves the running variance by the biased batch variance, PyTorch by the unbiased one; Paddle counts no
    batches, so there is no `num_batches_tracked`. Evaluation and the gradient are the same in both.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.num_batches_tracked = None

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        # The unbiased variance is count / (count - 1) times the biased one. PyTorch's step of a running variance that
        # is so many times as large is Paddle's step, so many times as large.
        count = x.numel() // x.shape[1]
        larger = count / max(count - 1, 1)
        self.running_var.mul_(larger)
        # By their `data`, whose changes are counted apart: autograd keeps what it is given, and must not see it scaled.
        mean, var = self.running_mean.data, self.running_var.data
        out = F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        self.running_var.div_(larger)
        return out

    @torch.no_grad()
    def move_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics on as training does, for a batch of this mean and biased variance, float (C,)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

    def _load_from_state_dict(self, *args: object) -> None:
        # BatchNorm's own version adds num_batches_tracked to state dicts that have none.
        nn.Module._load_from_state_dict(self, *args)


class BatchNorm1d(BatchNorm2d):
    """The same of sequences, float (N, C, T)."""


class BatchNormReLU(BatchNorm2d):
    """Batch normalisation, then ReLU, in one module: Paddle's `nn.BatchNorm(act="relu")`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return F.relu(super().forward(x))


class BatchNormHardswish(BatchNorm2d):
    """Batch normalisation, then Hardswish, in one module: Paddle's `nn.BatchNorm(act="hard_swish")`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return F.hardswish(super().forward(x))


def parameters_of_norms(module: nn.Module) -> Iterator[nn.Parameter]:
    """Scales and shifts of all batch normalisations of `module`."""
    for norm in module.modules():
        if isinstance(norm, BatchNorm2d):
            yield from norm.parameters()


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` whose padding id returns zeros, whatever its row holds, as Paddle's does.

    PyTorch only zeroes that row at initialisation; official checkpoints have values there.
    """

    def reset_parameters(self) -> None:
        """Normal with a standard deviation of `embedding_dim ** -0.5`, as Paddle's NRTR head starts."""
        if not self.weight.is_meta:  # there are no values, and normal_ would load the compiler (2 s) to find that out
            nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 (…); returns float (…, embedding_dim)."""
        out = super().forward(ids)
        if self.padding_idx is not None:
            out = out.masked_fill((ids == self.padding_idx).unsqueeze(-1), 0.0)
        return out


class ConvBN(nn.Module):
    """Convolution without bias, then batch normalisation: Paddle's `ConvBNLayer` of the LCNet family."""

    CHAINS: ClassVar[Chains] = (("conv", "bn", "act"),)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: Size = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
        )
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.bn(self.conv(x))


class ConvBNAct(ConvBN):
    """Convolution, batch normalisation, activation: Paddle's `ConvBNLayer` of det_mobilenet_v3.py and its like."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        activation: Activation,
        stride: Size = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.act = nn.ReLU() if activation == "relu" else nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.act(super().forward(x))


class ConvBatchNorm(nn.Module):
    """Convolution, batch normalisation with its activation: `ConvBNLayer` of Paddle's older backbones.

    They call the two `_conv` and `_batch_norm`, and the activation is part of the second.
    """

    CHAINS: ClassVar[Chains] = (("_conv", "_batch_norm"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        activation: Activation | None,
        stride: Size = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self._conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
        )
        norms = {"relu": BatchNormReLU, "hardswish": BatchNormHardswish, None: BatchNorm2d}
        self._batch_norm = norms[activation](out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self._batch_norm(self._conv(x))


class ConvNormAct(nn.Module):
    """Convolution, batch normalisation, SiLU: Paddle's `ConvBNLayer` of the SVTR family (its attribute is `norm`)."""

    CHAINS: ClassVar[Chains] = (("conv", "norm", "act"),)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, *, stride: Size = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = BatchNorm2d(out_channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.act(self.norm(self.conv(x)))

    def init_weights(self) -> None:
        """The convolution by KaimingUniform."""
        kaiming_uniform(self.conv.weight)


class Hardsigmoid(nn.Module):
    """min(max(slope * x + offset, 0), 1). `torch.nn.Hardsigmoid` is the one with the slope 1/6."""

    def __init__(self, slope: float, offset: float = 0.5) -> None:
        super().__init__()
        self.slope = slope
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        """x: float of any shape; returns the same shape."""
        return (self.slope * x + self.offset).clamp(0.0, 1.0)

    def extra_repr(self) -> str:
        """The two constants."""
        return f"slope={self.slope}, offset={self.offset}"


class SEModule(nn.Module):
    """Squeeze and excitation as the detectors and MobileNetV3 have it: the gate's Hardsigmoid has the slope 0.2."""

    CHAINS: ClassVar[Chains] = (("conv1", "relu"),)

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // reduction, channels, 1)
        self.hardsigmoid: nn.Module = Hardsigmoid(slope=0.2)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        return x * self.hardsigmoid(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))


class SELayer(SEModule):
    """The same with the slope 1/6, as the LCNet family and MobileNetV1Enhance have it."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__(channels, reduction)
        self.hardsigmoid = nn.Hardsigmoid()


class Constant(nn.Module, ABC):
    """Applies numbers that follow from the settings and are not learned. An export has them among its parameters."""

    KIND: ClassVar[str] = "constant"

    @abstractmethod
    def values(self) -> Tensor:
        """They, float32 on the CPU, in the shape that Paddle has."""


class Mlp(nn.Module):
    """Two linear layers with an activation between, dropout after each: Paddle's `Mlp` of rec_svtrnet.py."""

    def __init__(self, features: int, hidden: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.act = activation
        self.fc2 = nn.Linear(hidden, features)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (…, features); returns the same shape."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Reparameterised(nn.Module, ABC):
    """A layer in training form that one convolution replaces in the fused form."""

    @abstractmethod
    def folded(self) -> dict[str, Tensor]:
        """Names, in the fused layer, and float64 values of what equals this layer in evaluation."""

    @abstractmethod
    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """Take on the function of a fused layer: `folded` gives these values again, but for float32's rounding.

        The layer has new weights. They say how large the kernels of its branches become, and how these differ.
        """


def fold_batch_norm(weight: Tensor, bn: nn.BatchNorm2d, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution `weight`, `bias` followed by `bn` in evaluation, both float64.

    Folding in float64 keeps the rounding of the sum over branches out of the fused weights.
    """
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    shift = -bn.running_mean.double() if bias is None else bias.double() - bn.running_mean.double()
    return weight.double() * gain.view(-1, 1, 1, 1), bn.bias.double() + shift * gain


@torch.no_grad()
def unfold_batch_norm(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.BatchNorm2d, kernel: Tensor, bias: Tensor) -> None:
    """Let `conv`, then `bn` in evaluation, compute what a convolution with `kernel` and `bias` does.

    The kernel is scaled to the size of the weights that `conv` has, which says how fast it learns, and the
    normalisation takes that back. Its statistics are 0 and 1 until they are measured.
    """
    before, size = float(conv.weight.double().norm()), float(kernel.double().norm())
    scale = before / size if before and size else 1.0
    if size:
        conv.weight.copy_(kernel.double() * scale)
    if conv.bias is not None:
        conv.bias.zero_()
    set_batch_norm(bn, math.sqrt(1.0 + bn.eps) / scale if size else 0.0, bias)


@torch.no_grad()
def unfold_sum(
    conv: nn.Conv2d, inner: nn.BatchNorm2d, small: nn.Conv2d, outer: nn.BatchNorm2d, kernel: Tensor, bias: Tensor
) -> None:
    """Let `outer` of the sum of `conv` and `inner`, the 1x1 `small` and the input compute what one convolution does.

    All are depthwise. What is normalised last is as large as the input, so that none of the three is small beside the
    others.
    """
    channels = len(kernel)
    gain = float(kernel.double().norm()) / math.sqrt(channels) or 1.0
    rest = kernel.double() / gain - F.pad(small.weight.double() + 1.0, [kernel.shape[-1] // 2] * 4)
    unfold_batch_norm(conv, inner, rest, torch.zeros(channels))
    set_batch_norm(outer, gain * math.sqrt(1.0 + outer.eps), bias)


@torch.no_grad()
def set_batch_norm(bn: nn.BatchNorm2d, weight: float, bias: Tensor | float) -> None:
    """Give a normalisation this weight and shift, and statistics of 0 and 1."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    bn.running_mean.zero_()
    bn.running_var.fill_(1.0)
    bn.weight.fill_(weight)
    bn.bias.copy_(torch.as_tensor(bias))
