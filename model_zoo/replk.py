"""The necks of the PP-OCRv6 detectors: pyramids whose large depthwise kernels train as sums of dilated ones.

Source: PaddleOCR `ppocr/modeling/necks/db_fpn.py` (Apache-2.0); UniRepLKNet, arXiv:2311.15599.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.db import RSELayer, add_from_coarse, join_levels, seen_shortcut
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import kaiming_uniform
from paddle2torch.model_zoo.layers import (
    BatchNorm2d,
    Reparameterised,
    SEModule,
    fold_batch_norm,
    set_batch_norm,
    unfold_batch_norm,
)
from paddle2torch.model_zoo.lkpan import IntraCLBlock
from paddle2torch.model_zoo.registry import Part, Shapes, register

# Of each size of kernel, the smaller kernels that are added to it in training and how far their cells are apart.
BRANCHES: Mapping[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
}
PAN_KERNEL = 9


class DilatedReparamBlock(Reparameterised):
    """A large depthwise convolution, in training the sum of itself and of dilated smaller ones, each normalised.

    Raises `ConfigError` for a size that has no branches.
    """

    def __init__(self, channels: int, kernel_size: int, *, fused: bool) -> None:
        super().__init__()
        if kernel_size not in BRANCHES:
            raise ConfigError(f"a dilated kernel of size {kernel_size!r} is not one of {', '.join(map(str, BRANCHES))}")
        self.branches = () if fused else BRANCHES[kernel_size]
        self.lk_origin = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=fused
        )
        self.origin_bn = None if fused else BatchNorm2d(channels)
        for size, dilation in self.branches:
            padding = (dilation * (size - 1) + 1) // 2
            conv = nn.Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=channels, bias=False)
            self.add_module(f"dil_conv_k{size}_{dilation}", conv)
            self.add_module(f"dil_bn_k{size}_{dilation}", BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        out = self.lk_origin(x)
        if self.origin_bn is not None:
            out = self.origin_bn(out)
        for size, dilation in self.branches:
            conv = self.get_submodule(f"dil_conv_k{size}_{dilation}")
            out = out + self.get_submodule(f"dil_bn_k{size}_{dilation}")(conv(x))
        return out

    def folded(self) -> dict[str, Tensor]:
        """The one large convolution."""
        assert self.origin_bn is not None
        kernel, bias = fold_batch_norm(self.lk_origin.weight, self.origin_bn)
        for size, dilation in self.branches:
            conv, norm = (self.get_submodule(f"dil_{part}_k{size}_{dilation}") for part in ("conv", "bn"))
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, BatchNorm2d)
            weight, shift = fold_batch_norm(conv.weight, norm)
            first = kernel.shape[-1] // 2 - dilation * (size // 2)
            cells = slice(first, kernel.shape[-1] - first, dilation)
            kernel[:, :, cells, cells] += weight
            bias = bias + shift
        return {"lk_origin.weight": kernel, "lk_origin.bias": bias}

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The large kernel is all of it, the smaller ones begin with a gain of 0."""
        assert self.origin_bn is not None
        unfold_batch_norm(self.lk_origin, self.origin_bn, fused["lk_origin.weight"], fused["lk_origin.bias"])
        for size, dilation in self.branches:
            norm = self.get_submodule(f"dil_bn_k{size}_{dilation}")
            assert isinstance(norm, BatchNorm2d)
            set_batch_norm(norm, 0.0, 0.0)


class DilatedReparamConv(Reparameterised):
    """`DilatedReparamBlock`, then a normalised 1x1 convolution: in place of one full convolution with that kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, fused: bool) -> None:
        super().__init__()
        self.dw = DilatedReparamBlock(in_channels, kernel_size, fused=fused)
        self.pw = nn.Conv2d(in_channels, out_channels, 1, bias=fused)
        self.bn = None if fused else BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H, W)."""
        x = self.pw(self.dw(x))
        return x if self.bn is None else self.bn(x)

    def init_weights(self) -> None:
        """The 1x1 convolution."""
        kaiming_uniform(self.pw.weight)

    def folded(self) -> dict[str, Tensor]:
        """The 1x1 convolution with its normalisation; the other one folds by itself."""
        assert self.bn is not None
        return dict(zip(("pw.weight", "pw.bias"), fold_batch_norm(self.pw.weight, self.bn), strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The 1x1 convolution with its normalisation."""
        assert self.bn is not None
        unfold_batch_norm(self.pw, self.bn, fused["pw.weight"], fused["pw.bias"])


Pyramid = Tensor | dict[str, Tensor]
"""What the necks return: in evaluation the joined levels, in training a dict of them and of the levels before."""


def with_levels(joined: Tensor, levels: Sequence[Tensor]) -> dict[str, Tensor]:
    """`fuse`, the joined levels, and the maps of strides 16, 8 and 4, on which the head trains too.

    levels: the sums of the way down, coarsest first.
    """
    _, p4, p3, p2 = levels
    return {"fuse": joined, "aux_p4": p4, "aux_p3": p3, "aux_p2": p2}


def _draw(convolutions: Iterable[nn.Module]) -> None:
    for conv in convolutions:
        assert isinstance(conv, nn.Conv2d)
        kaiming_uniform(conv.weight)


class _IntraCL(nn.Module):
    """Adds an `IntraCLBlock` to each of four levels of `channels`, where `intracl` is set."""

    intracl: bool

    def _add_blocks(self, channels: int, levels: int) -> None:
        for level in range(1, levels + 1):
            self.add_module(f"incl{level}", IntraCLBlock(channels, reduce_factor=2))

    def _mixed(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """levels: coarsest first."""
        if not self.intracl:
            return list(levels)
        return [self.get_submodule(f"incl{len(levels) - i}")(x) for i, x in enumerate(levels)]


class RepLKFPN(_IntraCL):
    """`RSEFPN` with a large depthwise and a 1x1 convolution in place of each 3x3; of the tiny and small detectors.

    Args:
        in_channels: channels of the four maps, finest first.
        out_channels: channels of the result, a quarter from each level.
        shortcut: see `RSELayer`.
        dilated_kernel_size: 5, 7, 9, 11 or 13.
        intracl: an `IntraCLBlock` on each level.
        fused: one convolution for each sum.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        out_channels: int,
        shortcut: bool = True,
        dilated_kernel_size: int = 7,
        intracl: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        narrow, levels = out_channels // 4, len(in_channels)
        self.shortcut = shortcut
        self.ins_conv = nn.ModuleList(
            RSELayer(channels, out_channels, 1, shortcut=shortcut) for channels in in_channels
        )
        self.inp_conv_dw = nn.ModuleList(
            DilatedReparamBlock(out_channels, dilated_kernel_size, fused=fused) for _ in range(levels)
        )
        self.inp_conv_pw = nn.ModuleList(nn.Conv2d(out_channels, narrow, 1, bias=False) for _ in range(levels))
        self.inp_conv_se = nn.ModuleList(SEModule(narrow) for _ in range(levels))
        self.intracl = intracl
        if intracl:
            self._add_blocks(narrow, levels)
        self.out_channels = out_channels

    def init_weights(self) -> None:
        """The 1x1 convolutions."""
        _draw(self.inp_conv_pw)

    def forward(self, maps: Sequence[Tensor]) -> Pyramid:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32.

        Evaluation: (N, out_channels, H / 4, W / 4). Training: see `with_levels`. H and W must be multiples of 32.
        """
        levels, down = self.levels(maps)
        joined = join_levels(levels)
        return with_levels(joined, down) if self.training else joined

    def levels(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The levels that are joined, (N, out_channels / 4, H / s, W / s), and the sums of the way down."""
        # Coarsest first throughout: Paddle's order of execution, by which exported parameters are found again.
        down = add_from_coarse([conv(x) for conv, x in zip(reversed(self.ins_conv), reversed(maps), strict=True)])
        levels = []
        for x, *layers in zip(
            down, *map(reversed, (self.inp_conv_dw, self.inp_conv_pw, self.inp_conv_se)), strict=True
        ):
            depthwise, pointwise, gate = layers
            x = pointwise(depthwise(x))
            levels.append(x + gate(x) if self.shortcut else gate(x))
        return self._mixed(levels), down


class RepLKPAN(_IntraCL):
    """`LKPAN` with `DilatedReparamConv` in place of each 9x9; of the medium detector.

    Args:
        in_channels, out_channels, intracl: see `LKPAN`.
        fused: two convolutions for each sum and what follows.
    """

    def __init__(
        self, in_channels: Sequence[int], *, out_channels: int, intracl: bool = False, fused: bool = False
    ) -> None:
        super().__init__()
        narrow, levels = out_channels // 4, len(in_channels)
        self.ins_conv = nn.ModuleList(nn.Conv2d(channels, out_channels, 1, bias=False) for channels in in_channels)
        self.inp_conv = nn.ModuleList(
            DilatedReparamConv(out_channels, narrow, PAN_KERNEL, fused=fused) for _ in range(levels)
        )
        self.pan_head_conv = nn.ModuleList(nn.Conv2d(narrow, narrow, 3, 2, 1, bias=False) for _ in range(levels - 1))
        self.pan_lat_conv = nn.ModuleList(
            DilatedReparamConv(narrow, narrow, PAN_KERNEL, fused=fused) for _ in range(levels)
        )
        self.intracl = intracl
        if intracl:
            self._add_blocks(narrow, levels)
        self.out_channels = out_channels

    def init_weights(self) -> None:
        """The plain convolutions."""
        _draw((*self.ins_conv, *self.pan_head_conv))

    def forward(self, maps: Sequence[Tensor]) -> Pyramid:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32.

        Evaluation: (N, out_channels, H / 4, W / 4). Training: see `with_levels`. H and W must be multiples of 32.
        """
        levels, down = self.levels(maps)
        joined = join_levels(levels)
        return with_levels(joined, down) if self.training else joined

    def levels(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The levels that are joined, coarsest first, and the sums of the way down; see `RepLKFPN.levels`."""
        # Coarsest or finest first as in Paddle: by the order of execution exported parameters are found again.
        down = add_from_coarse([conv(x) for conv, x in zip(reversed(self.ins_conv), reversed(maps), strict=True)])
        finest, *coarser = reversed([conv(x) for conv, x in zip(reversed(self.inp_conv), down, strict=True)])
        up = [finest]
        for conv, x in zip(self.pan_head_conv, coarser, strict=True):
            up.append(x + conv(up[-1]))
        levels = [conv(x) for conv, x in zip(self.pan_lat_conv, up, strict=True)][::-1]
        return self._mixed(levels), down


def _intracl(shapes: Shapes) -> dict[str, Any]:
    return {"intracl": True} if any(key.startswith("neck.incl1.") for key in shapes) else {}


def _fpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "out_channels": shapes["neck.ins_conv.0.in_conv.weight"][0],
        "shortcut": hint.get("shortcut", True),
        "dilated_kernel_size": shapes["neck.inp_conv_dw.0.lk_origin.weight"][2],
        **_intracl(shapes),
    }


def _pan_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_channels": shapes["neck.ins_conv.0.weight"][0], **_intracl(shapes)}


# Both before the necks that they were made of.
register(
    Part(
        "neck",
        "RepLKFPN",
        RepLKFPN,
        signatures=("neck.inp_conv_dw.",),
        rank=-1,
        read_options=_fpn_options,
        read_seen=seen_shortcut,
    )
)
register(Part("neck", "RepLKPAN", RepLKPAN, signatures=("neck.inp_conv.0.dw.",), rank=-1, read_options=_pan_options))
