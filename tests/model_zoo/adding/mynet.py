"""A backbone that the package does not have, written as `docs/adding-a-model.md` says: one file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.layers import ConvBNAct
from paddle2torch.model_zoo.registry import Part, Shapes, register


class MyNet(nn.Module):
    """x: float (N, 3, H, W) to float (N, out_channels, 1, W / 4)."""

    def __init__(self, width: int = 8, in_channels: int = 3) -> None:
        super().__init__()
        self.my_blocks = nn.ModuleList(
            [
                ConvBNAct(in_channels, width, 3, activation="relu", stride=2),
                ConvBNAct(width, 2 * width, 3, activation="relu", stride=2),
            ]
        )
        self.pool = nn.AdaptiveAvgPool2d((1, None))
        self.out_channels = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        for block in self.my_blocks:
            x = block(x)
        return self.pool(x)

    def init_weights(self) -> None:
        """Convolutions by the inputs of one group, half as wide as Paddle's default."""
        for block in self.my_blocks:
            weight = block.get_parameter("conv.weight")
            nn.init.normal_(weight, std=0.5 * math.sqrt(2 / weight[0].numel()))


def _read_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"width": shapes["backbone.my_blocks.0.conv.weight"][0]}


register(Part("backbone", "MyNet", MyNet, signatures=("backbone.my_blocks.",), read_options=_read_options))
