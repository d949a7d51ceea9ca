"""Less memory for more time: blocks keep their input alone, and are computed again in the backward pass.

The gradients are the same bit for bit: dropout draws the same numbers again, and batch normalisation counts a batch
once. (`torch.utils.checkpoint` sees to the first.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from paddle2torch.model_zoo.errors import ConfigError

RECOMPUTED = "RECOMPUTED"
"""Attribute of classes that repeat in a network, and need much more for their backward pass than their input."""


def recompute_blocks(network: nn.Module) -> int:
    """Let the blocks of a network, or of several, be computed again in the backward pass; returns how many they are.

    Raises `ConfigError` where there are no such blocks.
    """
    blocks = [module for module in network.modules() if getattr(type(module), RECOMPUTED, False)]
    if not blocks:
        raise ConfigError("training.gradient_checkpointing: this network has no blocks that could be computed again")
    for block in blocks:
        # Not a function with the block in it: a copy of the network would run the block that it was copied from.
        block.forward = functools.partial(_forward, block)
    return len(blocks)


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    run = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return run(*args, **kwargs)
    return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: _contexts(block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the forward pass is run in, and what computing again is."""
    return contextlib.nullcontext(), _statistics_stay(block)


@contextlib.contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """Let normalisation move copies of its running statistics; its own saw this batch in the forward pass.

    Its own are put aside, not put back: autograd notices tensors that change between both passes.
    """
    norms = [norm for norm in block.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    before: list[tuple[Tensor | None, Tensor | None]] = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm, (mean, var) in zip(norms, before, strict=True):
        norm.running_mean = None if mean is None else mean.clone()
        norm.running_var = None if var is None else var.clone()
    try:
        yield
    finally:
        for norm, (mean, var) in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var = mean, var
