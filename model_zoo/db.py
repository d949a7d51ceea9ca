"""Neck and head of the mobile DB detectors: PP-OCRv3, v4 and v5.

Source: PaddleOCR `ppocr/modeling/necks/db_fpn.py`, `heads/det_db_head.py` (Apache-2.0); differentiable binarization,
arXiv:1911.08947.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import BatchNormReLU, SEModule


class RSELayer(nn.Module):
    """Convolution without bias, then squeeze and excitation, added to its input where `shortcut` is set."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, shortcut: bool) -> None:
        super().__init__()
        self.in_conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.se_block = SEModule(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        x = self.in_conv(x)
        return x + self.se_block(x) if self.shortcut else self.se_block(x)


class RSEFPN(nn.Module):
    """Feature pyramid of `RSELayer`s: four maps of the backbone become one at the finest stride.

    Args:
        in_channels: channels of the four maps, finest first.
        out_channels: channels of the result, a quarter from each level.
        shortcut: see `RSELayer`.
    """

    def __init__(self, in_channels: Sequence[int], *, out_channels: int, shortcut: bool = True) -> None:
        super().__init__()
        self.ins_conv = nn.ModuleList(
            RSELayer(channels, out_channels, 1, shortcut=shortcut) for channels in in_channels
        )
        self.inp_conv = nn.ModuleList(
            RSELayer(out_channels, out_channels // 4, 3, shortcut=shortcut) for _ in in_channels
        )
        self.out_channels = out_channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32; returns (N, out_channels, H / 4, W / 4).

        Levels are doubled and added, so H and W must be multiples of 32, as pre-processing makes them.
        """
        # Coarsest first throughout: Paddle's order of execution, by which exported parameters are found again.
        level: Tensor | None = None
        levels = []
        for conv, x in zip(reversed(self.ins_conv), reversed(maps), strict=True):
            lateral = conv(x)
            level = lateral if level is None else lateral + _enlarge(level, 2)
            levels.append(level)
        narrow = [conv(x) for conv, x in zip(reversed(self.inp_conv), levels, strict=True)]
        coarsest = len(narrow) - 1
        return torch.cat([_enlarge(x, 2 ** (coarsest - i)) for i, x in enumerate(narrow)], dim=1)


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


class DBBranch(nn.Module):
    """From features to one map of probabilities at four times their size: Paddle's `Head` of det_db_head.py."""

    def __init__(self, in_channels: int, *, fix_nan: bool) -> None:
        super().__init__()
        channels = in_channels // 4
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.conv_bn1 = BatchNormReLU(channels)
        self.conv2 = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv_bn2 = BatchNormReLU(channels)
        self.conv3 = nn.ConvTranspose2d(channels, 1, 2, 2)
        self.sigmoid = nn.Sigmoid()
        self.fix_nan = fix_nan

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, 1, 4 H, 4 W) in [0, 1]."""
        x = self._clean(self.conv_bn1(self.conv1(x)))
        x = self._clean(self.conv_bn2(self.conv2(x)))
        return self.sigmoid(self.conv3(x))

    def _clean(self, x: Tensor) -> Tensor:
        # Half precision overflows in training; infinities stay, as in Paddle.
        return x.masked_fill(x.isnan(), 0.0) if self.fix_nan and self.training else x


class DBHead(nn.Module):
    """Differentiable binarization: a map of shrunk text regions and, in training, its threshold.

    Args:
        in_channels: channels of the neck.
        k: steepness of the binary map.
        fix_nan: in training, replace NaN by 0 after each normalisation.
        fused: only what inference needs; the threshold branch is left out.
    """

    def __init__(self, in_channels: int, *, k: float = 50, fix_nan: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.k = k
        self.binarize = DBBranch(in_channels, fix_nan=fix_nan)
        self.thresh = None if fused else DBBranch(in_channels, fix_nan=fix_nan)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: float (N, in_channels, H / 4, W / 4).

        Evaluation: `{"maps": (N, 1, H, W)}`, the probability of a shrunk text region. Training: `{"maps": (N, 3, H,
        W)}`: that, the threshold, and the binary map 1 / (1 + exp(-k (shrink - threshold))). Raises ValueError for
        training in the fused form.
        """
        shrink = self.binarize(x)
        if not self.training:
            return {"maps": shrink}
        if self.thresh is None:
            raise ValueError(
                "a fused detector has no threshold branch to train: convert the training checkpoint, without --fused"
            )
        threshold = self.thresh(x)
        # sigmoid is that formula without its overflow in half precision.
        binary = torch.sigmoid(self.k * (shrink - threshold))
        return {"maps": torch.cat([shrink, threshold, binary], dim=1)}
