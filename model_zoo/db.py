"""Necks and heads of the DB detectors; the neck of the server models, LKPAN, is in lkpan.py.

Source: PaddleOCR `ppocr/modeling/necks/db_fpn.py`, `heads/det_db_head.py` (Apache-2.0); differentiable binarization,
arXiv:1911.08947.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.asf import ASFBlock
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import kaiming_uniform, uniform_by_fan_in
from paddle2torch.model_zoo.layers import (
    BatchNormReLU,
    Chains,
    ConvBNAct,
    Reparameterised,
    SEModule,
    fold_batch_norm,
    unfold_batch_norm,
)
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Every cell repeated `factor` times along both axes."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="nearest")


def add_from_coarse(laterals: Sequence[Tensor]) -> list[Tensor]:
    """Each map plus the result of the one before it, doubled. The coarsest map comes first."""
    levels = [laterals[0]]
    for lateral in laterals[1:]:
        levels.append(lateral + enlarge(levels[-1], 2))
    return levels


def join_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps, coarsest first and each half as large as the next, in the size of the last; their channels in a row."""
    return torch.cat(enlarge_levels(levels), dim=1)


def enlarge_levels(levels: Sequence[Tensor]) -> list[Tensor]:
    """Maps, coarsest first and each half as large as the next, each in the size of the last."""
    coarsest = len(levels) - 1
    return [enlarge(x, 2 ** (coarsest - i)) for i, x in enumerate(levels)]


class DBFPN(nn.Module):
    """Feature pyramid of plain convolutions, of the v2.0, v2 and DB++ detectors.

    Args:
        in_channels: channels of the four maps, finest first.
        out_channels: channels of the result, a quarter from each level.
        use_asf: the levels are weighed against each other, as in DB++.
    """

    def __init__(self, in_channels: Sequence[int], *, out_channels: int, use_asf: bool = False) -> None:
        super().__init__()
        for level, channels in enumerate(in_channels, start=2):
            self.add_module(f"in{level}_conv", nn.Conv2d(channels, out_channels, 1, bias=False))
        for level in range(1 + len(in_channels), 1, -1):
            self.add_module(f"p{level}_conv", nn.Conv2d(out_channels, out_channels // 4, 3, padding=1, bias=False))
        self.asf = ASFBlock(out_channels) if use_asf else None
        self.out_channels = out_channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four floats (N, C_i, H / s, W / s) for s = 4, 8, 16, 32; returns (N, out_channels, H / 4, W / 4).

        H and W must be multiples of 32.
        """
        # Coarsest first throughout: Paddle's order of execution, by which exported parameters are found again.
        order = range(len(maps) + 1, 1, -1)
        levels = add_from_coarse([self.get_submodule(f"in{level}_conv")(maps[level - 2]) for level in order])
        narrow = [self.get_submodule(f"p{level}_conv")(x) for level, x in zip(order, levels, strict=True)]
        return join_levels(narrow) if self.asf is None else self.asf(enlarge_levels(narrow))

    def init_weights(self) -> None:
        """The pyramid's convolutions by KaimingUniform."""
        for conv in self.children():
            if isinstance(conv, nn.Conv2d):
                kaiming_uniform(conv.weight)


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

    def init_weights(self) -> None:
        """The convolution by KaimingUniform."""
        kaiming_uniform(self.in_conv.weight)


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
        levels = add_from_coarse([conv(x) for conv, x in zip(reversed(self.ins_conv), reversed(maps), strict=True)])
        return join_levels([conv(x) for conv, x in zip(reversed(self.inp_conv), levels, strict=True)])


# The levels of a pyramid that an auxiliary head of its own trains on, and what enlarges each to the finest.
AUX_LEVELS: Mapping[str, int] = {"p4": 4, "p3": 2, "p2": 1}


class DBBranch(Reparameterised):
    """From features to one map of probabilities at four times their size: Paddle's `Head` of det_db_head.py.

    With `fold_norms` its two normalisations are part of the convolutions before them in the fused form (`fused`).
    """

    CHAINS: ClassVar[Chains] = (("conv1", "conv_bn1"), ("conv2", "conv_bn2"), ("conv3", "sigmoid"))

    def __init__(
        self,
        in_channels: int,
        *,
        kernel_list: Sequence[int] = (3, 2, 2),
        fix_nan: bool,
        fold_norms: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        channels = in_channels // 4
        first, second, third = kernel_list
        self.fold_norms = fold_norms
        without = fold_norms and fused
        self.conv1 = nn.Conv2d(in_channels, channels, first, padding=first // 2, bias=without)
        self.conv_bn1: nn.Module = nn.ReLU() if without else BatchNormReLU(channels)
        self.conv2 = nn.ConvTranspose2d(channels, channels, second, 2)
        self.conv_bn2: nn.Module = nn.ReLU() if without else BatchNormReLU(channels)
        self.conv3 = nn.ConvTranspose2d(channels, 1, third, 2)
        self.sigmoid = nn.Sigmoid()
        self.fix_nan = fix_nan

    def forward(self, x: Tensor, *, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """x: float (N, in_channels, H, W); returns (N, 1, 4 H, 4 W) in [0, 1].

        With `return_features` also what the last convolution read, (N, in_channels / 4, 2 H, 2 W).
        """
        x = self._clean(self.conv_bn1(self.conv1(x)))
        features = self._clean(self.conv_bn2(self.conv2(x)))
        probability = self.sigmoid(self.conv3(features))
        return (probability, features) if return_features else probability

    def _clean(self, x: Tensor) -> Tensor:
        # Half precision overflows in training; infinities stay, as in Paddle.
        return x.masked_fill(x.isnan(), 0.0) if self.fix_nan and self.training else x

    def init_weights(self) -> None:
        """Shifts of normalisations of 1e-4; transposed convolutions by KaimingUniform."""
        for norm in (self.conv_bn1, self.conv_bn2):
            if isinstance(norm, BatchNormReLU):
                nn.init.constant_(norm.bias, 1e-4)
        for conv in (self.conv2, self.conv3):
            assert conv.bias is not None
            kaiming_uniform(conv.weight)
            uniform_by_fan_in(conv.bias, conv.in_channels)

    def folded(self) -> dict[str, Tensor]:
        """The first two convolutions with their normalisations, where these are folded."""
        first, second = self.conv_bn1, self.conv_bn2
        if not self.fold_norms:
            return {}
        assert isinstance(first, BatchNormReLU)
        assert isinstance(second, BatchNormReLU)
        weight, bias = fold_batch_norm(self.conv1.weight, first)
        # Outputs are the second axis of a transposed convolution's weight.
        turned, shift = fold_batch_norm(self.conv2.weight.transpose(0, 1), second, self.conv2.bias)
        return {
            "conv1.weight": weight,
            "conv1.bias": bias,
            "conv2.weight": turned.transpose(0, 1),
            "conv2.bias": shift,
        }

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The first two convolutions, where their normalisations are folded."""
        first, second = self.conv_bn1, self.conv_bn2
        assert isinstance(first, BatchNormReLU)
        assert isinstance(second, BatchNormReLU)
        unfold_batch_norm(self.conv1, first, fused["conv1.weight"], fused["conv1.bias"])
        unfold_batch_norm(self.conv2, second, fused["conv2.weight"], fused["conv2.bias"])


class DBHead(nn.Module):
    """Differentiable binarization: a map of shrunk text regions and, in training, its threshold.

    Args:
        in_channels: channels of the neck.
        k: steepness of the binary map.
        kernel_list: kernel sizes of the three convolutions of a branch; the first is 7 in the v3 server detector.
        fix_nan: in training, replace NaN by 0 after each normalisation.
        aux_in_channels: channels of the three levels of the neck that auxiliary branches train on; 0 for none.
        fold_norms: in the fused form the normalisations are part of the convolutions, as PaddleOCR exports since v6.
        fused: only what inference needs; threshold and auxiliary branches are left out.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        k: float = 50,
        kernel_list: Sequence[int] = (3, 2, 2),
        fix_nan: bool = False,
        aux_in_channels: int = 0,
        fold_norms: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.k = k
        options: dict[str, Any] = {"kernel_list": kernel_list, "fix_nan": fix_nan, "fold_norms": fold_norms}
        self.binarize = DBBranch(in_channels, fused=fused, **options)
        self.thresh = None if fused else DBBranch(in_channels, **options)
        self.aux_levels = AUX_LEVELS if aux_in_channels and not fused else {}
        for level in self.aux_levels:
            for name in ("binarize", "thresh"):
                self.add_module(f"aux_{name}_{level}", DBBranch(aux_in_channels, **options))

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """x: float (N, in_channels, H / 4, W / 4), or what a neck of v6 returns in training (`replk.with_levels`).

        Evaluation: `{"maps": (N, 1, H, W)}`, the probability of a shrunk text region. Training: `{"maps": (N, 3, H,
        W)}`: that, the threshold, and the binary map 1 / (1 + exp(-k (shrink - threshold))); with auxiliary branches
        the same three of each level as `aux_maps_p4`, `aux_maps_p3`, `aux_maps_p2`. Raises ValueError for training in
        the fused form.
        """
        levels, joined = (x, x["fuse"]) if isinstance(x, Mapping) else ({}, x)
        shrink = self.binarize(joined)
        if not self.training:
            return {"maps": shrink}
        threshold, binary = self.binary_map(joined, shrink)
        out = {"maps": torch.cat([shrink, threshold, binary], dim=1)}
        for level, factor in self.aux_levels.items():
            if not levels:
                raise ValueError("the auxiliary branches train on the levels of a neck of v6: RepLKFPN or RepLKPAN")
            features = levels[f"aux_{level}"]
            if factor > 1:
                features = F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
            shrink, threshold = (self.get_submodule(f"aux_{name}_{level}")(features) for name in ("binarize", "thresh"))
            out[f"aux_maps_{level}"] = torch.cat([shrink, threshold, self._step(shrink, threshold)], dim=1)
        return out

    def binary_map(self, x: Tensor, shrink: Tensor) -> tuple[Tensor, Tensor]:
        """The threshold and the binary map, each (N, 1, H, W); see `forward`."""
        if self.thresh is None:
            raise ValueError(
                "a fused detector has no threshold branch to train: convert the training checkpoint, without --fused"
            )
        threshold = self.thresh(x)
        return threshold, self._step(shrink, threshold)

    def _step(self, shrink: Tensor, threshold: Tensor) -> Tensor:
        # sigmoid is that formula without its overflow in half precision.
        return torch.sigmoid(self.k * (shrink - threshold))


class LocalModule(nn.Module):
    """From features and a first map to the logits of a second one."""

    def __init__(self, in_channels: int, mid_channels: int) -> None:
        super().__init__()
        self.last_3 = ConvBNAct(in_channels + 1, mid_channels, 3, activation="relu")
        self.last_1 = nn.Conv2d(mid_channels, 1, 1)

    def forward(self, features: Tensor, first: Tensor) -> Tensor:
        """features: float (N, in_channels, H, W), first: (N, 1, H, W); returns (N, 1, H, W)."""
        return self.last_1(self.last_3(torch.cat([first, features], dim=1)))


class PFHeadLocal(DBHead):
    """`DBHead` whose map is refined by a local module: the mean of both is the result. Of the v4 and v5 server models.

    Args:
        in_channels, k, kernel_list, fix_nan, fold_norms, fused: see `DBHead`.
        mode: width of the local module, "large" (a quarter of `in_channels`) or "small" (an eighth).

    It has no auxiliary branches.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        k: float = 50,
        mode: str = "small",
        kernel_list: Sequence[int] = (3, 2, 2),
        fix_nan: bool = False,
        fold_norms: bool = False,
        fused: bool = False,
    ) -> None:
        super().__init__(in_channels, k=k, kernel_list=kernel_list, fix_nan=fix_nan, fold_norms=fold_norms, fused=fused)
        if mode not in ("large", "small"):
            raise ConfigError(f"PFHeadLocal: mode is {mode!r}, not large or small")
        self.up_conv = nn.Upsample(scale_factor=2, mode="nearest")
        self.cbn_layer = LocalModule(in_channels // 4, in_channels // (4 if mode == "large" else 8))

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """x: see `DBHead`.

        Evaluation: `{"maps": (N, 1, H, W)}`, the mean of first and refined map. Training: `{"maps": (N, 3, H, W)}`:
        the refined map, the threshold and the binary map of the first; and `distance_maps`, the refined map, and
        `cbn_maps`, that binary map, each (N, 1, H, W), which Paddle's loss asks for by these names. Raises ValueError
        for training in the fused form.
        """
        x = x["fuse"] if isinstance(x, Mapping) else x
        shrink, features = self.binarize(x, return_features=True)
        refined = torch.sigmoid(self.cbn_layer(self.up_conv(features), shrink))
        if not self.training:
            return {"maps": 0.5 * (shrink + refined)}
        threshold, binary = self.binary_map(x, shrink)
        return {
            "maps": torch.cat([refined, threshold, binary], dim=1),
            "distance_maps": refined,
            "cbn_maps": binary,
        }


def _dbfpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    fused = {"use_asf": True} if "neck.asf.conv.weight" in shapes else {}
    return {"out_channels": shapes["neck.in2_conv.weight"][0], **fused}


def _rsefpn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"out_channels": shapes["neck.ins_conv.0.in_conv.weight"][0], "shortcut": hint.get("shortcut", True)}


def seen_shortcut(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` of a neck of `RSELayer`s with their shortcut as an exported program has it.

    Behind the gate of the first one nothing else is added before the next layer.
    """
    deepest = max(
        (layer.path.split(".")[2] for layer in seen.layers if layer.path.startswith("neck.ins_conv.")), key=int
    )
    prefix = f"neck.ins_conv.{deepest}."
    gated = seen.behind(prefix, "multiply") is not None
    return {**options, "shortcut": seen.behind(prefix, "add") is not None} if gated else options


def _db_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    kernels = [shapes[f"head.binarize.conv{i}.weight"][2] for i in (1, 2, 3)]
    auxiliary = shapes.get("head.aux_binarize_p4.conv1.weight")
    asked = {key: value for key, value in hint.items() if key not in ("aux_in_channels", "kernel_list")}
    return {
        **({"fold_norms": True} if any(key.startswith("backbone.blocks_s1.") for key in shapes) else {}),
        **asked,
        **({} if kernels == [3, 2, 2] else {"kernel_list": kernels}),
        **({} if auxiliary is None else {"aux_in_channels": auxiliary[1]}),
    }


def _pf_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    mid, features = shapes["head.cbn_layer.last_3.conv.weight"][:2]
    return {**_db_head_options(shapes, hint), "mode": "large" if mid == features - 1 else "small"}


register(Part("neck", "DBFPN", DBFPN, signatures=("neck.in2_conv.",), read_options=_dbfpn_options))
register(
    Part(
        "neck",
        "RSEFPN",
        RSEFPN,
        signatures=("neck.ins_conv.0.in_conv.",),
        read_options=_rsefpn_options,
        read_seen=seen_shortcut,
    )
)
register(
    Part(
        "head",
        "PFHeadLocal",
        PFHeadLocal,
        signatures=("head.cbn_layer.",),
        read_options=_pf_head_options,
        task="det",
        behind_neck=True,
    )
)
register(
    Part(
        "head",
        "DBHead",
        DBHead,
        signatures=("head.binarize.",),
        rank=1,
        read_options=_db_head_options,
        task="det",
        behind_neck=True,
    )
)
