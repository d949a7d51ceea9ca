"""ResNet_vd, the backbone of the server models before v4: the v2.0 and v3 detectors, the v2.0 recogniser.

Source: PaddleOCR `ppocr/modeling/backbones/det_resnet_vd.py`, `rec_resnet_vd.py` (Apache-2.0); ResNet-D,
arXiv:1812.01187: three 3x3 convolutions for a stem, and an average pooling where a shortcut has a stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.deformable import DeformableConvV2
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import BatchNormReLU, ConvBatchNorm, Size
from paddle2torch.model_zoo.registry import Part, Shapes, count_items, register

# Blocks per stage, by the number of layers in the name.
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 12, 48, 3),
}
# From this number of layers on, blocks are bottlenecks, whose output is four times as wide as their inside.
BOTTLENECK_FROM = 50
# Of the deformable convolutions: groups of channels that are moved alike.
DEFORMABLE_GROUPS = 2
STEM_CHANNELS = (32, 32, 64)
STAGE_CHANNELS = (64, 128, 256, 512)


class Shortcut(ConvBatchNorm):
    """1x1 convolution and batch normalisation, after an average pooling where there is a stride."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size) -> None:
        super().__init__(in_channels, out_channels, 1, activation=None)
        self._pool2d_avg = None if stride == 1 else nn.AvgPool2d(stride, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return super().forward(x if self._pool2d_avg is None else self._pool2d_avg(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first has the stride. `short`: what the shortcut does to the input."""

    RECOMPUTED = True

    def __init__(self, in_channels: int, channels: int, *, stride: Size, short: nn.Module | None) -> None:
        super().__init__()
        self.conv0 = ConvBatchNorm(in_channels, channels, 3, stride=stride, activation="relu")
        self.conv1 = ConvBatchNorm(channels, channels, 3, activation=None)
        self.short = short

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, channels, H', W')."""
        out = self.conv1(self.conv0(x))
        return F.relu(out + (x if self.short is None else self.short(x)))


class DeformableConvBatchNorm(nn.Module):
    """A 3x3 deformable convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, *, stride: Size, deformable_groups: int) -> None:
        super().__init__()
        self._conv = DeformableConvV2(channels, channels, 3, stride=stride, deformable_groups=deformable_groups)
        self._batch_norm = BatchNormReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns (N, channels, H', W')."""
        return self._batch_norm(self._conv(x))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width. `short` as in `BasicBlock`.

    `deformable_groups`: of the 3x3 convolution, where it is deformable.
    """

    RECOMPUTED = True

    def __init__(
        self, in_channels: int, channels: int, *, stride: Size, short: nn.Module | None, deformable_groups: int = 0
    ) -> None:
        super().__init__()
        self.conv0 = ConvBatchNorm(in_channels, channels, 1, activation="relu")
        self.conv1: nn.Module = (
            DeformableConvBatchNorm(channels, stride=stride, deformable_groups=deformable_groups)
            if deformable_groups
            else ConvBatchNorm(channels, channels, 3, stride=stride, activation="relu")
        )
        self.conv2 = ConvBatchNorm(channels, 4 * channels, 1, activation=None)
        self.short = short

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, 4 * channels, H', W')."""
        out = self.conv2(self.conv1(self.conv0(x)))
        return F.relu(out + (x if self.short is None else self.short(x)))


class ResNetVd(nn.Module):
    """The backbone, for lines (`det=False`, one output) or pages (`det=True`, four outputs).

    Paddle has two classes, `ResNet` for lines and `ResNet_vd` for pages. Raises `ConfigError` for a number of layers
    that no official model has.

    Args:
        in_channels: channels of the image.
        layers: 18, 34, 50, 101, 152 or 200.
        det: for pages.
        dcn_stage: whether the 3x3 convolutions of each stage are deformable, from 50 layers on; for none where left
            out.
    """

    def __init__(
        self, *, in_channels: int = 3, layers: int, det: bool = False, dcn_stage: Sequence[bool] | None = None
    ) -> None:
        super().__init__()
        if layers not in DEPTHS:
            raise ConfigError(f"ResNet_vd: layers is {layers}, not one of {', '.join(map(str, DEPTHS))}")
        deformable = check_dcn_stage("ResNet_vd", layers, dcn_stage)
        stem = (in_channels, *STEM_CHANNELS)
        for i, (c_in, c_out) in enumerate(pairwise(stem)):
            conv = ConvBatchNorm(c_in, c_out, 3, stride=2 if det and i == 0 else 1, activation="relu")
            self.add_module(f"conv1_{i + 1}", conv)
        self.pool2d_max = nn.MaxPool2d(3, 2, 1)
        bottleneck = layers >= BOTTLENECK_FROM
        width = stem[-1]
        widths = []
        # Paddle adds the blocks to the backbone itself: their names are flat.
        self.stages: list[list[str]] = []
        for stage, (depth, channels) in enumerate(zip(DEPTHS[layers], STAGE_CHANNELS, strict=True)):
            names = []
            for i in range(depth):
                stride: Size = 1 if stage == 0 or i > 0 else 2 if det else (2, 1)
                names.append(f"bb_{stage}_{i}")
                out = 4 * channels if bottleneck else channels
                short = Shortcut(width, out, stride=stride) if i == 0 else None
                groups = DEFORMABLE_GROUPS if deformable[stage] else 0
                self.add_module(names[-1], make_block(width, channels, bottleneck, stride, short, groups))
                width = out
            self.stages.append(names)
            widths.append(width)
        self.out_pool = None if det else nn.MaxPool2d(2)
        self.out_channels: int | tuple[int, ...] = tuple(widths) if det else width

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, C, H / 32, W / 4): one row for a height of 32. Pages: four maps of strides 4, 8, 16, 32.
        """
        for i in range(len(STEM_CHANNELS)):
            x = self.get_submodule(f"conv1_{i + 1}")(x)
        x = self.pool2d_max(x)
        maps = []
        for names in self.stages:
            for name in names:
                x = self.get_submodule(name)(x)
            maps.append(x)
        return maps if self.out_pool is None else self.out_pool(x)


def make_block(
    in_channels: int, channels: int, bottleneck: bool, stride: Size, short: nn.Module | None, deformable_groups: int
) -> BasicBlock | BottleneckBlock:
    """A block of either kind."""
    if bottleneck:
        return BottleneckBlock(in_channels, channels, stride=stride, short=short, deformable_groups=deformable_groups)
    return BasicBlock(in_channels, channels, stride=stride, short=short)


def check_dcn_stage(name: str, layers: int, dcn_stage: Sequence[bool] | None) -> Sequence[bool]:
    """Which stages are deformable; raises `ConfigError` where there cannot be so many, or none can."""
    stages = dcn_stage or (False,) * len(STAGE_CHANNELS)
    if len(stages) != len(STAGE_CHANNELS) or (any(stages) and layers < BOTTLENECK_FROM):
        raise ConfigError(
            f"{name}: dcn_stage is {list(stages)}: it has an entry for each of {len(STAGE_CHANNELS)} stages, and "
            f"networks of less than {BOTTLENECK_FROM} layers have no deformable convolutions"
        )
    return stages


def deformable_stages(shapes: Shapes, first_blocks: Sequence[str]) -> dict[str, Any]:
    """`dcn_stage` of a checkpoint, from the names of each stage's first block."""
    stages = [f"backbone.{block}.conv1._conv.conv_dcn.weight" in shapes for block in first_blocks]
    return {"dcn_stage": stages} if any(stages) else {}


def _resnet_vd_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    depths = tuple(count_items(shapes, f"backbone.bb_{stage}_{{}}.") for stage in range(4))
    bottleneck = "backbone.bb_0_0.conv2._conv.weight" in shapes
    for layers, official in DEPTHS.items():
        if depths == official and bottleneck == (layers >= BOTTLENECK_FROM):
            det = any(key.startswith("head.binarize.") for key in shapes)
            return {
                "layers": layers,
                **({"det": True} if det else {}),
                **deformable_stages(shapes, [f"bb_{stage}_0" for stage in range(4)]),
            }
    raise ValueError(f"its stages of {depths} blocks are those of no ResNet_vd")


register(
    Part(
        "backbone",
        "ResNet_vd",
        ResNetVd,
        signatures=("backbone.bb_0_0.",),
        read_options=_resnet_vd_options,
        variants=tuple({"layers": layers} for layers in DEPTHS),
        ignored=frozenset({"disable_se"}),
        # The detector's outputs, which are these.
        fixed={"out_indices": [0, 1, 2, 3]},
    )
)
