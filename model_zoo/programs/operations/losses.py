"""Losses and what prepares their targets: some networks give them as outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.table import operation


@operation("label_smooth")
def label_smooth(label: Tensor, prior_dist: Tensor | None = None, *, epsilon: float = 0.0) -> Tensor:
    """(1 - epsilon) * label, and epsilon shared by the classes as `prior_dist` says, evenly without."""
    share = 1.0 / label.shape[-1] if prior_dist is None else prior_dist.reshape(-1)
    return (1.0 - epsilon) * label + epsilon * share


@operation("nll_loss", results=2, choices={"reduction": ("none", "mean", "sum")})
def nll_loss(
    input: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """-input at each label, times the weight of its class; the sum of the weights that count."""
    weights = input.new_ones(input.shape[1]) if weight is None else weight
    counted = label != ignore_index
    total = weights[torch.where(counted, label, 0)] * counted
    return F.nll_loss(input, label, weight, ignore_index=ignore_index, reduction=reduction), total.sum()


@operation("bce_loss")
def bce_loss(input: Tensor, label: Tensor) -> Tensor:
    """-label * log(input) - (1 - label) * log(1 - input); logarithms are held at -100."""
    return F.binary_cross_entropy(input, label, reduction="none")


@operation("sigmoid_cross_entropy_with_logits")
def sigmoid_cross_entropy_with_logits(
    x: Tensor, label: Tensor, pos_weight: Tensor | None = None, *, normalize: bool = False, ignore_index: int = -100
) -> Tensor:
    """The same of logits; 0 where the label is `ignore_index`, over the number of the others with `normalize`."""
    loss = F.binary_cross_entropy_with_logits(x, label, reduction="none", pos_weight=pos_weight)
    counted = (label - ignore_index).abs() > 1e-5
    loss = torch.where(counted, loss, torch.zeros_like(loss))
    return loss / counted.sum().clamp(min=1e-5) if normalize else loss


@operation("huber_loss", results=2)
def huber_loss(input: Tensor, label: Tensor, *, delta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Half the square of the difference up to `delta`, straight beyond; and the difference."""
    return F.huber_loss(input, label, reduction="none", delta=delta), label - input


@operation("kldiv_loss", choices={"reduction": ("none", "mean", "sum", "batchmean")})
def kldiv_loss(x: Tensor, label: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """label * (log(label) - x), 0 where the label is not positive."""
    if log_target:
        loss = label.exp() * (label - x)
    else:
        loss = torch.where(label > 0, label * (label.clamp(min=1e-38).log() - x), torch.zeros_like(x))
    if reduction == "none":
        return loss
    total = loss.sum()
    return total / (loss.numel() if reduction == "mean" else x.shape[0]) if reduction != "sum" else total


@operation("log_loss")
def log_loss(input: Tensor, label: Tensor, *, epsilon: float) -> Tensor:
    """-label * log(input + epsilon) - (1 - label) * log(1 - input + epsilon)."""
    return -label * torch.log(input + epsilon) - (1 - label) * torch.log(1 - input + epsilon)
