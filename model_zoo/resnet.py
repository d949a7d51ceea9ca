"""ResNet, the backbone of the DB++ detectors: plain, with deformable convolutions in the stages that ask for them.

Source: PaddleOCR `ppocr/modeling/backbones/det_resnet.py` (Apache-2.0); arXiv:1512.03385, DBNet++, arXiv:2202.10304.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import ConvBatchNorm, Size
from paddle2torch.model_zoo.registry import Part, Shapes, register
from paddle2torch.model_zoo.resnet_vd import (
    BOTTLENECK_FROM,
    DEPTHS,
    STAGE_CHANNELS,
    check_dcn_stage,
    deformable_stages,
    make_block,
)

LAYERS = (18, 34, 50, 101, 152)
DEFORMABLE_GROUPS = 1


def _block_name(layers: int, stage: int, block: int) -> str:
    """Paddle's name: with letters, but for the long stage of the deepest two, which has more blocks than letters."""
    if stage == 2 and layers > BOTTLENECK_FROM and block:
        return f"res{stage + 2}b{block}"
    return f"res{stage + 2}{chr(ord('a') + block)}"


class ResNet(nn.Module):
    """The backbone of pages.

    Raises `ConfigError` for options that describe no network.

    Args:
        in_channels: channels of the image.
        layers: 18, 34, 50, 101 or 152.
        dcn_stage: see `ResNetVd`.
    """

    def __init__(self, *, in_channels: int = 3, layers: int = 50, dcn_stage: Sequence[bool] | None = None) -> None:
        super().__init__()
        if layers not in LAYERS:
            raise ConfigError(f"ResNet: layers is {layers}, not one of {', '.join(map(str, LAYERS))}")
        deformable = check_dcn_stage("ResNet", layers, dcn_stage)
        bottleneck = layers >= BOTTLENECK_FROM
        width = STAGE_CHANNELS[0]
        self.conv = ConvBatchNorm(in_channels, width, 7, stride=2, activation="relu")
        self.pool2d_max = nn.MaxPool2d(3, 2, 1)
        # Paddle adds the blocks to the backbone itself: their names are flat.
        self.stages: list[list[str]] = []
        widths = []
        for stage, (depth, channels) in enumerate(zip(DEPTHS[layers], STAGE_CHANNELS, strict=True)):
            names = [_block_name(layers, stage, block) for block in range(depth)]
            for block, name in enumerate(names):
                stride: Size = 2 if stage and not block else 1
                out = 4 * channels if bottleneck else channels
                short = None if block else ConvBatchNorm(width, out, 1, stride=stride, activation=None)
                groups = DEFORMABLE_GROUPS if deformable[stage] else 0
                self.add_module(name, make_block(width, channels, bottleneck, stride, short, groups))
                width = out
            self.stages.append(names)
            widths.append(width)
        self.out_channels = tuple(widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: float (N, in_channels, H, W); returns four maps of strides 4, 8, 16, 32."""
        x = self.pool2d_max(self.conv(x))
        maps = []
        for names in self.stages:
            for name in names:
                x = self.get_submodule(name)(x)
            maps.append(x)
        return maps


def _resnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    bottleneck = "backbone.res2a.conv2._conv.weight" in shapes
    found = {key.split(".")[1] for key in shapes if key.startswith("backbone.res")}
    for layers in LAYERS:
        names = {_block_name(layers, stage, i) for stage, depth in enumerate(DEPTHS[layers]) for i in range(depth)}
        if names == found and bottleneck == (layers >= BOTTLENECK_FROM):
            return {"layers": layers, **deformable_stages(shapes, [f"res{stage}a" for stage in range(2, 6)])}
    raise ValueError(f"its {len(found)} blocks are those of no ResNet")


register(
    Part(
        "backbone",
        "ResNet",
        ResNet,
        signatures=("backbone.res2a.",),
        read_options=_resnet_options,
        # The detector's outputs, which are these.
        fixed={"out_indices": [0, 1, 2, 3]},
    )
)
