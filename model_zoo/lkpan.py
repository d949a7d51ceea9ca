"""LKPAN, the neck of the server detectors: a pyramid run down and up again, with large kernels.

Source: PaddleOCR `ppocr/modeling/necks/db_fpn.py`, `necks/intracl.py` (Apache-2.0); PP-OCRv3, arXiv:2206.03001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.db import add_from_coarse, join_levels
from paddle2torch.model_zoo.initialisers import kaiming_uniform
from paddle2torch.model_zoo.layers import BatchNorm2d
from paddle2torch.model_zoo.registry import Part, Shapes, register

INTRACL_KERNELS = (7, 5, 3)


class IntraCLBlock(nn.Module):
    """Square, tall and wide convolutions of three sizes, one size after the other, added to the input.

    Args:
        in_channels: of input and output.
        reduce_factor: by which the convolutions are narrower.
    """

    def __init__(self, in_channels: int, *, reduce_factor: int) -> None:
        super().__init__()
        channels = in_channels // reduce_factor
        # In Paddle's order, which is that of a checkpoint's tensors.
        self.conv1x1_reduce_channel = nn.Conv2d(in_channels, channels, 1)
        self.conv1x1_return_channel = nn.Conv2d(channels, in_channels, 1)
        for letter, tall, wide in (("v", True, False), ("q", False, True), ("c", True, True)):
            for size in INTRACL_KERNELS:
                height, width = size if tall else 1, size if wide else 1
                conv = nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2))
                self.add_module(f"{letter}_layer_{height}x{width}", conv)
        self.bn = BatchNorm2d(in_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns the same shape."""
        relation = self.conv1x1_reduce_channel(x)
        for size in INTRACL_KERNELS:
            square = self.get_submodule(f"c_layer_{size}x{size}")(relation)
            tall = self.get_submodule(f"v_layer_{size}x1")(relation)
            wide = self.get_submodule(f"q_layer_1x{size}")(relation)
            relation = square + tall + wide
        return x + self.relu(self.bn(self.conv1x1_return_channel(relation)))


class LKPAN(nn.Module):
    """The neck in Paddle's mode "large", the one that official models have.

    Args:
        in_channels: channels of the four maps, finest first.
        out_channels: channels of the result, a quarter from each level.
        intracl: an `IntraCLBlock` on each level; in v4 and v5.
    """

    def __init__(self, in_channels: Sequence[int], *, out_channels: int, intracl: bool = False) -> None:
        super().__init__()
        narrow, levels = out_channels // 4, len(in_channels)
        self.ins_conv = nn.ModuleList(nn.Conv2d(channels, out_channels, 1, bias=False) for channels in in_channels)
        self.inp_conv = nn.ModuleList(_large_kernel(out_channels, narrow) for _ in range(levels))
        self.pan_head_conv = nn.ModuleList(nn.Conv2d(narrow, narrow, 3, 2, 1, bias=False) for _ in range(levels - 1))
        self.pan_lat_conv = nn.ModuleList(_large_kernel(narrow, narrow) for _ in range(levels))
        self.intracl = intracl
        if intracl:
            for level in range(1, levels + 1):
                self.add_module(f"incl{level}", IntraCLBlock(narrow, reduce_factor=2))
        self.out_channels = out_channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32; returns (N, out_channels, H / 4, W / 4).

        H and W must be multiples of 32.
        """
        # Coarsest or finest first as in Paddle: by the order of execution exported parameters are found again.
        down = add_from_coarse([conv(x) for conv, x in zip(reversed(self.ins_conv), reversed(maps), strict=True)])
        finest, *coarser = reversed([conv(x) for conv, x in zip(reversed(self.inp_conv), down, strict=True)])
        up = [finest]
        for conv, x in zip(self.pan_head_conv, coarser, strict=True):
            up.append(x + conv(up[-1]))
        levels = [conv(x) for conv, x in zip(self.pan_lat_conv, up, strict=True)][::-1]
        if self.intracl:
            levels = [self.get_submodule(f"incl{len(levels) - i}")(x) for i, x in enumerate(levels)]
        return join_levels(levels)

    def init_weights(self) -> None:
        """The pyramid's convolutions by KaimingUniform."""
        for conv in (*self.ins_conv, *self.inp_conv, *self.pan_head_conv, *self.pan_lat_conv):
            if isinstance(conv, nn.Conv2d):
                kaiming_uniform(conv.weight)


def _large_kernel(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 9, padding=4, bias=False)


def _lkpan_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    intracl = any(key.startswith("neck.incl1.") for key in shapes)
    return {"out_channels": shapes["neck.ins_conv.0.weight"][0], **({"intracl": True} if intracl else {})}


register(Part("neck", "LKPAN", LKPAN, signatures=("neck.ins_conv.0.weight",), read_options=_lkpan_options))
