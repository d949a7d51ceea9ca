"""PaddleOCR's losses between networks that are trained together.

Source: PaddleOCR `ppocr/losses/distillation_loss.py`, `basic_loss.py`, `rec_ce_loss.py` (Apache-2.0). As elsewhere
every loss is a ratio of sums over the batch, and the sums go through `total`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.distillation_settings import (
    DistillationCTCLoss,
    DistillationDistanceLoss,
    DistillationDKDLoss,
    DistillationDMLLoss,
    DistillationKLDivLoss,
    DistillationNRTRLoss,
    DistillationSARLoss,
    DistillationSettings,
    DistillCTCLogits,
    Term,
)
from paddle2torch.training.distributed import mean_of_all, total
from paddle2torch.training.rec_losses import ctc_loss, nrtr_loss, sar_loss, single

Batch = Mapping[str, Tensor]

BACKBONE = "backbone_out"
"""Beside the heads' names: what the backbone gives."""

TINY = 1e-10
SMALL, SHARP = 1e-6, 0.5
"""What DistillCTCLogits adds to probabilities, and its temperature."""


def distillation_losses(
    outputs: Mapping[str, Batch], batch: Batch, settings: DistillationSettings
) -> dict[str, Tensor]:
    """`loss` and its terms, each times its weight.

    outputs: of each network by name its heads' logits, `ctc` float (N, T, classes), `gtc` and `sar` float
    (N, L, symbols), and `backbone_out`. batch: `label_ctc`, `label_gtc` or `label_sar`, `length`.

    Raises `ConfigError` where two networks give what cannot be compared.
    """
    parts = {name: loss.weight * _term(loss, networks, outputs, batch) for name, loss, networks in settings.terms()}
    return {"loss": sum(parts.values(), torch.zeros(())), **parts}


def _term(loss: Term, networks: tuple[str, ...], outputs: Mapping[str, Batch], batch: Batch) -> Tensor:
    given = [single(outputs[name][loss.dis_head or BACKBONE]) for name in networks]
    if isinstance(loss, DistillationCTCLoss):
        return ctc_loss(given[0], batch["label_ctc"], batch["length"])
    if isinstance(loss, DistillationNRTRLoss):
        return _nrtr(given[0], batch, smoothing=loss.smoothing)
    if isinstance(loss, DistillationSARLoss):
        return sar_loss(given[0], batch["label_sar"])
    first, second = given
    _check_shapes(loss, networks, first, second)
    if isinstance(loss, DistillationDMLLoss):
        return dml_loss(first, second)
    if isinstance(loss, DistillationKLDivLoss):
        mask = _symbols(batch, first) != 0 if loss.dis_head == "gtc" else None
        return kl_loss(first, second, mask)
    if isinstance(loss, DistillationDKDLoss):
        return dkd_loss(first, second, _symbols(batch, first), loss)
    if isinstance(loss, DistillationDistanceLoss):
        return distance_loss(first, second, loss)
    return ctc_logits_loss(first, second)


def _check_shapes(loss: Term, networks: tuple[str, ...], first: Tensor, second: Tensor) -> None:
    # What is averaged over the steps may have any number of them.
    places = (0, 2) if isinstance(loss, DistillCTCLogits) else range(first.dim())
    if first.dim() != second.dim() or any(first.shape[place] != second.shape[place] for place in places):
        one, other = networks
        raise ConfigError(
            f"{type(loss).__name__}: what it compares is {list(first.shape)} of {one} and {list(second.shape)} of "
            f"{other}: leave it out of loss.losses, or take a teacher that gives as much as the student"
        )


def _symbols(batch: Batch, logits: Tensor) -> Tensor:
    """The symbols that an NRTR head should give, int64 (N, L)."""
    return batch["label_gtc"][:, 1 : 1 + logits.shape[1]]


def _nrtr(logits: Tensor, batch: Batch, *, smoothing: bool) -> Tensor:
    """As `nrtr_loss`, but without smoothing, padding counts as a symbol."""
    if smoothing:
        return nrtr_loss(logits, batch["label_gtc"])
    targets = _symbols(batch, logits)
    return mean_of_all(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))


def _divergence(log_given: Tensor, wanted: Tensor) -> Tensor:
    return wanted * (torch.log(wanted + TINY) - log_given)


def dml_loss(first: Tensor, second: Tensor) -> Tensor:
    """The mean of both divergences, summed over steps and classes, per sample. first, second: float (N, T, classes)."""
    one, other = (logits.softmax(-1) + TINY for logits in (first, second))
    both = _divergence(one.log(), other) + _divergence(other.log(), one)
    return mean_of_all(both, len(first)) / 2


def kl_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Divergence of the teacher's probabilities: the mean over the places of `mask` bool (N, L), else the sum per
    sample. student, teacher: float (N, T, classes).
    """
    losses = _divergence(student.log_softmax(-1), teacher.softmax(-1)).sum(-1)
    if mask is None:
        return mean_of_all(losses, len(student))
    return total((losses * mask).sum()) / total(mask.sum().to(losses.dtype))


def dkd_loss(student: Tensor, teacher: Tensor, targets: Tensor, settings: DistillationDKDLoss) -> Tensor:
    """The mean over all places. student, teacher: float (N, L, symbols). targets: int64 (N, L)."""
    own, others = (logits.flatten(0, 1) / settings.temperature for logits in (student, teacher))
    there = F.one_hot(targets.flatten(), own.shape[1]).bool()
    target = mean_of_all(_divergence(_in_two(own, there), _in_two(others, there).exp()).sum(1))
    rest = mean_of_all(_divergence(_without(own, there), _without(others, there).exp()).sum(1))
    return (settings.alpha * target + settings.beta * rest) * settings.temperature**2


def _in_two(logits: Tensor, there: Tensor) -> Tensor:
    """The logarithms of the probabilities of the target and of all else (rows, 2); Paddle's sum may round to 0."""
    every = logits.logsumexp(1)
    rest = logits.masked_fill(there, -torch.inf).logsumexp(1)
    return torch.stack(((logits * there).sum(1) - every, rest - every), dim=1)


def _without(logits: Tensor, there: Tensor) -> Tensor:
    """The logarithms of the probabilities among all but the target, which PaddleOCR makes 1000 smaller."""
    return (logits - 1000.0 * there).log_softmax(1)


def distance_loss(first: Tensor, second: Tensor, settings: DistillationDistanceLoss) -> Tensor:
    """The mean over all values of both, float of any one shape."""
    if settings.mode == "l2":
        return mean_of_all((first - second).square())
    if settings.mode == "l1":
        return mean_of_all((first - second).abs())
    return mean_of_all(F.smooth_l1_loss(first, second, reduction="none"))


def ctc_logits_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Per sample. student float (N, T, classes), teacher float (N, T', classes); class 0 is the blank."""

    def averaged(logits: Tensor) -> Tensor:
        sign = torch.ones_like(logits[0, 0])
        sign[0] = -1
        return ((logits * sign) / SHARP).softmax(-1).mean(1)

    own, others = averaged(student), averaged(teacher)
    return mean_of_all(others * torch.log((others + SMALL) / (own + SMALL) + SMALL), len(own))
