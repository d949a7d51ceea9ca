"""PPHGNetV2_B4, the backbone of the PP-OCRv5 server models.

Source: PaddleOCR `ppocr/modeling/backbones/rec_pphgnetv2.py` (Apache-2.0), after PaddleClas' `pp_hgnet_v2.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNorm2d, Chains, ConvBN, ConvBNAct, Size, parameters_of_norms
from paddle2torch.model_zoo.pplcnetv3 import pool_line
from paddle2torch.model_zoo.registry import Part, Shapes, register

# Channels inside the stem and after it.
STEM_CHANNELS = (32, 48)
# Per stage: input, inner and output channels, blocks, kernel size, and whether its convolutions are separable.
STAGES = (
    (48, 48, 128, 1, 3, False),
    (128, 96, 512, 1, 3, False),
    (512, 192, 1024, 3, 5, True),
    (1024, 384, 2048, 1, 5, True),
)
LAYERS = 6
# Strides of the stages. A page is halved in the stem instead of the first.
REC_STRIDES: tuple[Size | None, ...] = ((2, 1), (1, 2), (2, 1), (2, 1))
DET_STRIDES: tuple[Size | None, ...] = (None, 2, 2, 2)


def pad_same(x: Tensor) -> Tensor:
    """What Paddle's padding "SAME" adds for a 2x2 kernel: one row at the bottom and one column at the right."""
    return F.pad(x, (0, 1, 0, 1))


class EvenConvBNAct(nn.Module):
    """2x2 convolution that keeps the size, batch normalisation, ReLU."""

    CHAINS: ClassVar[Chains] = (("conv", "bn", "act"),)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 2, bias=False)
        self.bn = BatchNorm2d(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        return self.act(self.bn(self.conv(pad_same(x))))


class StemBlock(nn.Module):
    """Two branches of half the image's size, a pooling and two 2x2 convolutions, joined by a third convolution."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(in_channels, mid_channels, 3, stride=2, activation="relu")
        self.stem2a = EvenConvBNAct(mid_channels, mid_channels // 2)
        self.stem2b = EvenConvBNAct(mid_channels // 2, mid_channels)
        self.stem3 = ConvBNAct(2 * mid_channels, mid_channels, 3, stride=stride, activation="relu")
        self.stem4 = ConvBNAct(mid_channels, out_channels, 1, activation="relu")
        self.pool = nn.MaxPool2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.stem1(x)
        convolved = self.stem2b(self.stem2a(x))
        # Paddle pads a maximum with -inf; after a ReLU zeros are as good.
        pooled = self.pool(pad_same(x))
        return self.stem4(self.stem3(torch.cat((pooled, convolved), dim=1)))


class LightConvBNAct(nn.Module):
    """1x1 convolution without activation, then a depthwise one with ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels, 1)
        self.conv2 = ConvBNAct(out_channels, out_channels, kernel_size, groups=out_channels, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        return self.conv2(self.conv1(x))


class HGV2Block(nn.Module):
    """Six convolutions in a row; the input and all six outputs are mixed by two more and, with `residual`, added."""

    RECOMPUTED = True

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, kernel_size: int, *, light: bool, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        inputs = (in_channels, *(mid_channels,) * (LAYERS - 1))
        self.layers = nn.ModuleList(
            LightConvBNAct(channels, mid_channels, kernel_size)
            if light
            else ConvBNAct(channels, mid_channels, kernel_size, activation="relu")
            for channels in inputs
        )
        total = in_channels + LAYERS * mid_channels
        self.aggregation_squeeze_conv = ConvBNAct(total, out_channels // 2, 1, activation="relu")
        self.aggregation_excitation_conv = ConvBNAct(out_channels // 2, out_channels, 1, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        out = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(torch.cat(outputs, dim=1)))
        return out + x if self.residual else out


class HGV2Stage(nn.Module):
    """A depthwise convolution with the stride (without activation; none where `stride` is None), then blocks."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        blocks: int,
        kernel_size: int,
        light: bool,
        *,
        stride: Size | None,
    ) -> None:
        super().__init__()
        self.downsample = (
            None if stride is None else ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels)
        )
        self.blocks = nn.Sequential(
            *(
                HGV2Block(
                    out_channels if i else in_channels,
                    mid_channels,
                    out_channels,
                    kernel_size,
                    light=light,
                    residual=i > 0,
                )
                for i in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.blocks(x if self.downsample is None else self.downsample(x))


class PPHGNetV2B4(nn.Module):
    """The backbone, for lines (`text_rec=True`, one output) or pages (`det=True`, four outputs).

    Raises `ConfigError` unless it is for exactly one of the two: Paddle's class has a third use, the classification of
    images.

    Args:
        in_channels: channels of the image.
        det: for pages.
        text_rec: for lines.
    """

    def __init__(self, *, in_channels: int = 3, det: bool = False, text_rec: bool = False) -> None:
        super().__init__()
        if det == text_rec:
            raise ConfigError("PPHGNetV2_B4: set either det (for pages) or text_rec (for lines)")
        self.det = det
        self.stem = StemBlock(in_channels, *STEM_CHANNELS, stride=2 if det else 1)
        self.stages = nn.ModuleList(
            HGV2Stage(*stage, stride=stride)
            for stage, stride in zip(STAGES, DET_STRIDES if det else REC_STRIDES, strict=True)
        )
        widths = tuple(stage[2] for stage in STAGES)
        self.out_channels: int | tuple[int, ...] = widths if det else widths[-1]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, 2048, 1, T), see `pool_line`. Pages: four maps of strides 4, 8, 16, 32.
        """
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps if self.det else pool_line(x, self.training)

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """All normalisations train without L2."""
        return parameters_of_norms(self)


def _pphgnetv2_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"text_rec" if "backbone.stages.0.downsample.conv.weight" in shapes else "det": True}


register(
    Part(
        "backbone",
        "PPHGNetV2_B4",
        PPHGNetV2B4,
        signatures=("backbone.stem.stem1.",),
        read_options=_pphgnetv2_options,
    )
)
