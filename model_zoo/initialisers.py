"""Distributions that Paddle's initialisers draw from, by PyTorch's generator."""

from __future__ import annotations

import math

from torch import Tensor, nn


def kaiming_uniform(weight: Tensor) -> None:
    """Paddle's KaimingUniform. The second axis counts as the input for transposed convolutions too."""
    limit = math.sqrt(6 / weight[0].numel())
    nn.init.uniform_(weight, -limit, limit)


def kaiming_normal(weight: Tensor) -> None:
    """Paddle's KaimingNormal, which counts the input channels of one group."""
    nn.init.normal_(weight, std=math.sqrt(2 / weight[0].numel()))


def truncated_normal(tensor: Tensor) -> None:
    """Paddle's TruncatedNormal of 0.02, which cuts off at 2.0, not at two standard deviations."""
    nn.init.normal_(tensor, std=0.02)


def truncated_normal_linears(module: nn.Module) -> None:
    """The weights of all linear layers in `module` by `truncated_normal`."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            truncated_normal(linear.weight)


def uniform_by_fan_in(tensor: Tensor, fan_in: int) -> None:
    """Uniform between plus and minus 1 / sqrt(fan_in)."""
    nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5)
