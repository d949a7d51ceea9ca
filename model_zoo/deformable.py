"""Deformable convolution, of DB++ and of exported programs: a convolution whose taps are moved and weighed.

Source: PaddleOCR `ppocr/modeling/backbones/det_resnet_vd.py` (Apache-2.0); Deformable ConvNets v2, arXiv:1811.11168.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.initialisers import kaiming_normal
from paddle2torch.model_zoo.layers import Size


def deformable_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    dilations: Sequence[int] = (1, 1),
    deformable_groups: int = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution whose taps are moved by `offset` and weighed by `mask`.

    A tap between pixels is their bilinear mean; pixels outside of the image are 0.

    Args:
        x: float (N, C, H, W).
        offset: float (N, 2 * deformable_groups * taps, H', W'), in pixels: of each tap y, then x.
        weight: float (out, C / groups, kh, kw).
        mask: float (N, deformable_groups * taps, H', W'), or None for ones.
        strides, paddings, dilations: each of the height and of the width.
        deformable_groups: groups of channels that are moved alike.
        groups: as of a convolution.

    Returns (N, out, H', W').
    """
    n, c, height, width = x.shape
    out, _, kh, kw = weight.shape
    taps = kh * kw
    rows, columns = offset.shape[2], offset.shape[3]
    kind: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    ky = torch.arange(kh, **kind).repeat_interleave(kw) * dilations[0]
    kx = torch.arange(kw, **kind).repeat(kh) * dilations[1]
    y0 = torch.arange(rows, **kind) * strides[0] - paddings[0]
    x0 = torch.arange(columns, **kind) * strides[1] - paddings[1]
    moved = offset.reshape(n, deformable_groups, taps, 2, rows, columns)
    py = moved[:, :, :, 0] + ky.view(1, 1, -1, 1, 1) + y0.view(1, 1, 1, -1, 1)
    px = moved[:, :, :, 1] + kx.view(1, 1, -1, 1, 1) + x0.view(1, 1, 1, 1, -1)
    # From pixels to the range of grid_sample, which ends at the outer edges of the image: also right for one pixel.
    gx = (2.0 * px + 1.0) / width - 1.0
    gy = (2.0 * py + 1.0) / height - 1.0
    grid = torch.stack((gx, gy), -1).reshape(n * deformable_groups, taps * rows, columns, 2)
    maps = x.reshape(n * deformable_groups, c // deformable_groups, height, width)
    sampled = F.grid_sample(maps, grid, "bilinear", "zeros", align_corners=False)
    sampled = sampled.reshape(n, deformable_groups, c // deformable_groups, taps, rows, columns)
    if mask is not None:
        sampled = sampled * mask.reshape(n, deformable_groups, 1, taps, rows, columns)
    gathered = sampled.reshape(n, groups, c // groups * taps, rows * columns)
    return torch.matmul(weight.reshape(1, groups, out // groups, c // groups * taps), gathered).reshape(
        n, out, rows, columns
    )


class DeformConv2D(nn.Module):
    """The convolution alone, square and without bias: its offsets and weights of taps are given."""

    KIND: ClassVar[str] = "deformable_conv"

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: Size, deformable_groups: int
    ) -> None:
        super().__init__()
        self.stride = (stride, stride) if isinstance(stride, int) else stride
        self.dilation = (1, 1)
        self.padding = ((kernel_size - 1) // 2,) * 2
        self.deformable_groups = deformable_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor, *, offset: Tensor, mask: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); `offset` and `mask` as of `deformable_conv2d`, whose result it returns."""
        return deformable_conv2d(
            x,
            offset,
            self.weight,
            mask,
            strides=self.stride,
            paddings=self.padding,
            deformable_groups=self.deformable_groups,
        )

    def init_weights(self) -> None:
        """By KaimingNormal, as Paddle's class starts."""
        kaiming_normal(self.weight)


class DeformableConvV2(nn.Module):
    """A convolution that moves and weighs its taps by what another convolution sees there."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: Size, deformable_groups: int
    ) -> None:
        super().__init__()
        self.conv_dcn = DeformConv2D(
            in_channels, out_channels, kernel_size, stride=stride, deformable_groups=deformable_groups
        )
        taps = deformable_groups * kernel_size**2
        self.sizes = (2 * taps, taps)
        self.conv_offset = nn.Conv2d(in_channels, 3 * taps, kernel_size, stride, (kernel_size - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        offset, mask = self.conv_offset(x).split(self.sizes, dim=1)
        # By name: what moves the taps is no input of the layer where networks and exports are compared.
        return self.conv_dcn(x, offset=offset, mask=mask.sigmoid())

    def init_weights(self) -> None:
        """No tap is moved at first, and each counts half."""
        nn.init.zeros_(self.conv_offset.weight)
