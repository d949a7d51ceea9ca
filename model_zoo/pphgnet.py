"""PPHGNet_small, the backbone of the PP-OCRv4 server models.

Source: PaddleOCR `ppocr/modeling/backbones/rec_hgnet.py` (Apache-2.0). Each block runs a chain of 3x3 convolutions
and mixes the outputs of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import Chains, ConvBN, ConvBNAct, Size, parameters_of_norms
from paddle2torch.model_zoo.pplcnetv3 import pool_line
from paddle2torch.model_zoo.registry import Part, Shapes, register

STEM_CHANNELS = (64, 64, 128)
# Per stage: input, inner and output channels, blocks.
STAGES = ((128, 128, 256, 1), (256, 160, 512, 1), (512, 192, 768, 2), (768, 224, 1024, 1))
LAYERS = 6
# Strides of the stages. A page is halved by a pooling before the first stage instead.
REC_STRIDES: tuple[Size | None, ...] = ((2, 1), (1, 2), (2, 1), (2, 1))
DET_STRIDES: tuple[Size | None, ...] = (None, 2, 2, 2)


class ESEModule(nn.Module):
    """Effective squeeze and excitation: a gate per channel from one convolution of the image's mean."""

    CHAINS: ClassVar[Chains] = (("conv", "sigmoid"),)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(channels, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        return x * self.sigmoid(self.conv(self.avg_pool(x)))


class HGBlock(nn.Module):
    """Six 3x3 convolutions in a row; the input and all six outputs are mixed, gated and, with `residual`, added."""

    RECOMPUTED = True

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            ConvBNAct(mid_channels if i else in_channels, mid_channels, 3, activation="relu") for i in range(LAYERS)
        )
        total = in_channels + LAYERS * mid_channels
        self.aggregation_conv = ConvBNAct(total, out_channels, 1, activation="relu")
        self.att = ESEModule(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        out = self.att(self.aggregation_conv(torch.cat(outputs, dim=1)))
        return out + x if self.residual else out


class HGStage(nn.Module):
    """A depthwise convolution with the stride (without activation; none where `stride` is None), then blocks."""

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, blocks: int, *, stride: Size | None
    ) -> None:
        super().__init__()
        self.downsample = (
            None if stride is None else ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        )
        self.blocks = nn.Sequential(
            *(
                HGBlock(out_channels if i else in_channels, mid_channels, out_channels, residual=i > 0)
                for i in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.blocks(x if self.downsample is None else self.downsample(x))


class PPHGNetSmall(nn.Module):
    """The backbone, for lines (`det=False`, one output) or pages (`det=True`, four outputs).

    Args:
        in_channels: channels of the image.
        det: for pages.
    """

    def __init__(self, *, in_channels: int = 3, det: bool = False) -> None:
        super().__init__()
        channels = (in_channels, *STEM_CHANNELS)
        self.stem = nn.Sequential(
            *(
                ConvBNAct(channels[i], channels[i + 1], 3, stride=1 if i else 2, activation="relu")
                for i in range(len(STEM_CHANNELS))
            )
        )
        self.pool = nn.MaxPool2d(3, 2, 1) if det else None
        self.stages = nn.ModuleList(
            HGStage(*stage, stride=stride)
            for stage, stride in zip(STAGES, DET_STRIDES if det else REC_STRIDES, strict=True)
        )
        widths = tuple(stage[2] for stage in STAGES)
        self.out_channels: int | tuple[int, ...] = widths if det else widths[-1]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, 1024, 1, T), see `pool_line`. Pages: four maps of strides 4, 8, 16, 32.
        """
        x = self.stem(x)
        if self.pool is not None:
            x = self.pool(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return pool_line(x, self.training) if self.pool is None else maps

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """All normalisations train without L2."""
        return parameters_of_norms(self)


def _pphgnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {} if "backbone.stages.0.downsample.conv.weight" in shapes else {"det": True}


register(
    Part(
        "backbone",
        "PPHGNet_small",
        PPHGNetSmall,
        signatures=("backbone.stem.0.",),
        read_options=_pphgnet_options,
    )
)
