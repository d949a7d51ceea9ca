"""What the heads of a recogniser are trained by: CTC, NRTR's and SAR's cross-entropy.

Source: PaddleOCR `ppocr/losses/` (Apache-2.0), `rec_ctc_loss.py`, `rec_nrtr_loss.py`, `rec_sar_loss.py`. The sums over
the batch go through `total`, so that processes which share a batch agree on its loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paddle2torch.training.distributed import mean_of_all, total

SMOOTHING = 0.1
"""Probability that NRTR's smoothed target spreads over the other classes."""


CTC_DEVICES = ("cpu", "cuda")
"""Where PyTorch computes CTC; of all others the CPU does it."""


def ctc_loss(logits: Tensor, labels: Tensor, lengths: Tensor, *, focal: bool = False) -> Tensor:
    """The mean over the batch of each sample's CTC loss, not divided by the length of its label.

    logits: float (N, T, classes), class 0 the blank. labels: int64 (N, L), of which `lengths` int64 (N,) count; they
    are on the CPU, where PyTorch looks at them. A label that does not fit into T steps costs 0, as in Paddle. `focal`
    weighs each loss l by (1 - exp(-l))^2.
    """
    log_probabilities = single(logits).log_softmax(-1).transpose(0, 1)
    steps = torch.full_like(lengths, logits.shape[1])
    if logits.device.type not in CTC_DEVICES:
        log_probabilities, labels = log_probabilities.cpu(), labels.cpu()
    # F.ctc_loss asks before whether other libraries can compute it, for which it brings labels back from a GPU, twice.
    losses, _ = torch.ops.aten._ctc_loss.Tensor(log_probabilities, labels, steps, lengths, 0, True)
    losses = losses.masked_fill(losses == math.inf, 0.0).to(logits.device)
    if focal:
        losses = losses * (1 - torch.exp(-losses)) ** 2
    return mean_of_all(losses)


def nrtr_loss(logits: Tensor, labels: Tensor, *, smoothing: bool = True) -> Tensor:
    """Cross-entropy of the next symbol, the mean over all positions whose target is not padding.

    logits: float (N, L, symbols), from the decoder that was given the symbols 0 … L - 1. labels: int64 (N, at least
    L + 1), start symbol first, padded with 0: the targets are the symbols 1 … L. With `smoothing` the target has the
    probability 0.9 and the other classes share 0.1 evenly: PyTorch's `label_smoothing` gives the target a share too.
    """
    log_probabilities = single(logits).log_softmax(-1)
    targets = labels[:, 1 : 1 + logits.shape[1]]
    losses = -log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        share = SMOOTHING / (logits.shape[-1] - 1)
        losses = (1 - SMOOTHING - share) * losses - share * log_probabilities.sum(-1)
    counted = (targets != 0).to(losses.dtype)
    return total((losses * counted).sum()) / total(counted.sum())


def sar_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next symbol, the mean over all positions whose target is not padding.

    logits: float (N, L, symbols), at position i of the symbol at i + 1. labels: int64 (N, L), start symbol first,
    padded with the number of symbols, which is never predicted.
    """
    log_probabilities = single(logits)[:, :-1].log_softmax(-1)
    targets = labels[:, 1:]
    counted = targets != logits.shape[-1]
    losses = -log_probabilities.gather(-1, (targets * counted).unsqueeze(-1)).squeeze(-1)
    return total((losses * counted).sum()) / total(counted.to(losses.dtype).sum())


def single(maps: Tensor) -> Tensor:
    """In float32 where they are in half precision."""
    return maps if maps.dtype == torch.float64 else maps.float()
