"""PaddleOCR's training losses: MultiLoss (CTC and NRTR or SAR) for recognisers, DBLoss for detectors, ClsLoss.

Source: PaddleOCR `ppocr/losses/` (Apache-2.0), `rec_ctc_loss.py`, `rec_nrtr_loss.py`, `rec_sar_loss.py`,
`rec_multi_loss.py`, `center_loss.py`, `det_basic_loss.py`, `det_db_loss.py`, `cls_loss.py`. Every loss is a ratio of
sums over the batch; the sums go through `total`, so that processes which share a batch agree on its loss.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.device import has_float64, send
from paddle2torch.model_zoo.db import AUX_LEVELS
from paddle2torch.training.distillation_losses import distillation_losses
from paddle2torch.training.distillation_settings import DistillationSettings
from paddle2torch.training.distributed import mean_of_all, total
from paddle2torch.training.rec_losses import ctc_loss, nrtr_loss, sar_loss, single
from paddle2torch.training.settings import ClsLossSettings, DBLossSettings, LossSettings, RecLossSettings

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]

PROBABILITY = 1e-6
"""The least of a map, and the least distance from 1, that the focal loss sees."""


CENTRE_LIMITS = 1e-12, 1e12
"""Paddle's bounds of a squared distance."""


def center_loss(features: Tensor, logits: Tensor, centres: Tensor) -> Tensor:
    """The mean squared distance of features to the centre of the class that they are read as.

    features: float (N, T, C), what the last layer reads; logits: float (N, T, classes); centres: (classes, C), in
    float64 as in Paddle, whose lower bound counts for every other class as well, or in float32 where the device has no
    other.

    Source: `ppocr/losses/center_loss.py`; Wen et al., ECCV 2016.
    """
    rows, classes = features.to(centres.dtype).flatten(0, 1), logits.argmax(-1).flatten()
    lowest, highest = CENTRE_LIMITS
    distances = (rows - centres[classes]).square().sum(1).clamp(lowest, highest)
    others = (len(centres) - 1) * lowest
    return mean_of_all(distances) + others


@functools.lru_cache(maxsize=2)
def random_centres(classes: int, channels: int, seed: int, device: torch.device) -> Tensor:
    """Standard normal centres, float64 where the device has it, (classes, channels), the same for the same seed."""
    chance = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, channels, generator=chance, dtype=torch.float32)
    return send(centres, device, torch.float64 if has_float64(device) else torch.float32)


def multi_loss(outputs: Batch, batch: Batch, settings: RecLossSettings) -> Losses:
    """`loss` and its parts `CTCLoss` and `NRTRLoss`, `SARLoss` or `CenterLoss`, each times its weight.

    outputs: `ctc` and, where the model has that head, `gtc` or `sar`, as `MultiHead` returns them, or `features`, as a
    CTC head alone does. batch: `label_ctc`,
    `label_gtc` or `label_sar`, `length`.
    """
    ctc = ctc_loss(outputs["ctc"], batch["label_ctc"], batch["length"], focal=settings.use_focal_loss)
    parts = {"CTCLoss": settings.weight_1 * ctc}
    if "gtc" in outputs:
        nrtr = nrtr_loss(outputs["gtc"], batch["label_gtc"], smoothing=settings.smoothing)
        parts["NRTRLoss"] = settings.weight_2 * nrtr
    if "sar" in outputs:
        parts["SARLoss"] = settings.weight_2 * sar_loss(outputs["sar"], batch["label_sar"])
    if settings.center_weight > 0:
        features, logits = outputs["features"], outputs["ctc"]
        sizes = (logits.shape[-1], features.shape[-1])
        centres = random_centres(*sizes, settings.center_seed, features.device)
        parts["CenterLoss"] = settings.center_weight * center_loss(features, logits, centres)
    return {"loss": sum(parts.values(), torch.zeros(())), **parts}


def dice_loss(prediction: Tensor, target: Tensor, mask: Tensor, eps: float) -> Tensor:
    """1 - 2 |prediction and target| / (|prediction| + |target| + eps) inside the mask: one number for the batch."""
    inside = prediction * mask
    overlap = total((inside * target).sum())
    return 1 - 2 * overlap / (total(inside.sum()) + total((target * mask).sum()) + eps)


def masked_l1_loss(prediction: Tensor, target: Tensor, mask: Tensor, eps: float) -> Tensor:
    """The mean distance inside the mask."""
    return total(((prediction - target).abs() * mask).sum()) / (total(mask.sum()) + eps)


def focal_loss(prediction: Tensor, target: Tensor, mask: Tensor, settings: DBLossSettings) -> Tensor:
    """The mean inside the mask of the focal loss of probabilities: `focal_alpha` for text, 1 less it for the rest.

    prediction, target, mask: float (N, H, W). The probabilities are cut off where Paddle does it, in float32.
    """
    low, high = (float(np.float32(bound)) for bound in (PROBABILITY, 1 - PROBABILITY))
    probability = prediction.clamp(low, high)
    # By way of the logit, as in Paddle: of numbers near 1 that rounds less.
    logit = torch.log(probability / (1 - probability))
    surprise = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    missed = 1 - (probability * target + (1 - probability) * (1 - target))
    weight = settings.focal_alpha * target + (1 - settings.focal_alpha) * (1 - target)
    losses = weight * missed**settings.focal_gamma * surprise
    return total((losses * mask).sum()) / (total(mask.sum()) + settings.eps)


def balanced_loss(prediction: Tensor, target: Tensor, mask: Tensor, settings: DBLossSettings) -> Tensor:
    """The loss over all positive pixels and at most `ohem_ratio` times as many negative ones, the hardest.

    prediction, target, mask: float (N, H, W); target and mask hold 0 and 1. 0 where the batch has no positive pixel.
    Among several processes each looks for hard pixels in its own part of the batch.
    """
    if settings.main_loss_type == "DiceFocalLoss":
        # No pixel is left out: balance_loss says nothing here.
        return dice_focal_loss(prediction, target, mask, settings)
    if settings.main_loss_type == "DiceLoss":
        loss = dice_loss(prediction, target, mask, settings.eps)
    else:
        loss = F.binary_cross_entropy(prediction.float(), target, reduction="none")
    if not settings.balance_loss:
        return loss
    positive, negative = target * mask, (1 - target) * mask
    positives = positive.sum().trunc()
    negatives = torch.minimum(negative.sum(), positives * settings.ohem_ratio).trunc()
    if loss.dim() == 0:
        # One number for the batch has no hardest pixels: any `negatives` of them weigh the same.
        positives, negatives = total(positives), total(negatives)
        return loss * (positives + negatives) / (positives + negatives + settings.eps)
    ordered = (negative * loss).flatten().sort(descending=True).values
    # As many as there are, which the device knows: Python, which would cut them off, would have to wait for it.
    hardest = ordered * (torch.arange(len(ordered), device=ordered.device) < negatives)
    counted = total(positives) + total(negatives) + settings.eps
    return (total((positive * loss).sum()) + total(hardest.sum())) / counted


def dice_focal_loss(prediction: Tensor, target: Tensor, mask: Tensor, settings: DBLossSettings) -> Tensor:
    """`dice_loss` plus `focal_loss`; of PP-OCRv6."""
    return dice_loss(prediction, target, mask, settings.eps) + focal_loss(prediction, target, mask, settings)


def db_loss(outputs: Batch, batch: Batch, settings: DBLossSettings) -> Losses:
    """`loss` and its parts, each times its weight but for those of auxiliary branches, which PaddleOCR logs before it.

    outputs: `maps` float (N, 3, H, W), shrink, threshold and binary map, as `DBHead` returns them, from `PFHeadLocal`
    `cbn_maps` float (N, 1, H, W), and of auxiliary branches `aux_maps_p4`, `aux_maps_p3`, `aux_maps_p2`, each as
    `maps`. batch: `threshold_map`, `threshold_mask`, `shrink_map`, `shrink_mask`, each float (N, H, W).
    """
    shrink_map, shrink_mask = batch["shrink_map"], batch["shrink_mask"]
    parts = _map_losses(outputs["maps"], batch, settings)
    if "cbn_maps" in outputs:
        cbn = single(outputs["cbn_maps"][:, 0])
        parts["loss_cbn"] = balanced_loss(cbn, shrink_map, shrink_mask, settings)
    loss = sum(parts.values(), torch.zeros(()))
    for level in AUX_LEVELS:
        if (maps := outputs.get(f"aux_maps_{level}")) is not None:
            auxiliary = sum(_map_losses(maps, batch, settings).values(), torch.zeros(()))
            parts[f"loss_aux_maps_{level}"] = auxiliary
            loss = loss + getattr(settings, f"aux_weight_{level}") * auxiliary
    return {"loss": loss, **parts}


def _map_losses(maps: Tensor, batch: Batch, settings: DBLossSettings) -> Losses:
    """The losses of a shrink, a threshold and a binary map, float (N, 3, H, W)."""
    shrink, threshold, binary = single(maps).unbind(1)
    shrink_map, shrink_mask = batch["shrink_map"], batch["shrink_mask"]
    focal = settings.main_loss_type == "DiceFocalLoss"
    return {
        "loss_shrink_maps": settings.alpha * balanced_loss(shrink, shrink_map, shrink_mask, settings),
        "loss_threshold_maps": settings.beta
        * masked_l1_loss(threshold, batch["threshold_map"], batch["threshold_mask"], settings.eps),
        "loss_binary_maps": dice_focal_loss(binary, shrink_map, shrink_mask, settings)
        if focal
        else dice_loss(binary, shrink_map, shrink_mask, settings.eps),
    }


def cls_loss(logits: Tensor, labels: Tensor, settings: ClsLossSettings) -> Losses:
    """`loss`, the mean over the batch. logits: float (N, classes). labels: int64 (N,)."""
    losses = F.cross_entropy(single(logits), labels, reduction="none", label_smoothing=settings.label_smoothing)
    return {"loss": mean_of_all(losses)}


def losses_of(outputs: Any, batch: Batch, settings: LossSettings) -> Losses:
    """The losses that `settings` describe: `loss`, the one to minimise, first. outputs: the network's, in training."""
    if isinstance(settings, ClsLossSettings):
        return cls_loss(outputs, batch["label"], settings)
    if isinstance(settings, DistillationSettings):
        return distillation_losses(outputs, batch, settings)
    if isinstance(settings, RecLossSettings):
        return multi_loss(outputs, batch, settings)
    return db_loss(outputs, batch, settings)
