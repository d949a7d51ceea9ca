"""What a network's tensors are called in Paddle, as patterns that can be counted, and inputs for it."""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor, nn

from paddle2torch.converters.layout import layout_table


def patterns(model: nn.Module) -> dict[str, int]:
    """How many tensors have each name. N means any number, BN the four tensors of a batch normalisation."""
    modules = dict(model.named_modules())
    found: Counter[str] = Counter()
    for row in layout_table(model):
        path = row.torch_key.rpartition(".")[0]
        key = f"{path}.BN" if isinstance(modules[path], nn.BatchNorm2d) else row.paddle_key
        found[re.sub(r"(?<![a-z0-9])\d+|(?<=[a-z])\d+(?![a-z])", "N", key)] += 1
    return dict(found)


def parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def image(*shape: int) -> Tensor:
    """float32 in [-1, 1), the same for the same shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
