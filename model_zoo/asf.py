"""Adaptive scale fusion, the end of the neck of the DB++ detectors.

Source: PaddleOCR `ppocr/modeling/necks/db_fpn.py` (Apache-2.0); DBNet++, arXiv:2202.10304.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.initialisers import kaiming_uniform

LEVELS = 4


class ASFBlock(nn.Module):
    """Weighs the levels of a pyramid against each other, cell by cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // LEVELS, 3, padding=1)
        self.spatial_scale = nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False), nn.Sigmoid()
        )
        self.channel_scale = nn.Sequential(nn.Conv2d(channels // LEVELS, LEVELS, 1, bias=False), nn.Sigmoid())

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: four floats (N, channels / 4, H, W); returns them weighed, their channels in a row."""
        features = self.conv(torch.cat(list(levels), dim=1))
        weights = self.channel_scale(self.spatial_scale(features.mean(1, keepdim=True)) + features)
        return torch.cat([weights[:, i : i + 1] * level for i, level in enumerate(levels)], dim=1)

    def init_weights(self) -> None:
        """The convolutions to weights by KaimingUniform."""
        for conv in (*self.spatial_scale, *self.channel_scale):
            if isinstance(conv, nn.Conv2d):
                kaiming_uniform(conv.weight)
