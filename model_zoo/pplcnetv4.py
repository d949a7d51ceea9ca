"""PPLCNetV4, the backbone of PP-OCRv6.

Source: PaddleOCR `ppocr/modeling/backbones/rec_lcnetv4.py` (Apache-2.0); re-parameterisation after RepVGG
(arXiv:2101.03697) and RepViT (arXiv:2307.09283). Each block mixes pixels by a depthwise convolution, then channels by
two pointwise ones. In training a convolution and its normalisation are two layers and most depthwise ones are sums; in
the fused form each is one convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import (
    BatchNorm2d,
    Chains,
    ConvBN,
    Reparameterised,
    SELayer,
    Size,
    fold_batch_norm,
    unfold_batch_norm,
    unfold_sum,
)
from paddle2torch.model_zoo.pphgnetv2 import pad_same
from paddle2torch.model_zoo.pplcnetv3 import pool_line
from paddle2torch.model_zoo.registry import Part, Shapes, register

ModelSize = Literal["tiny", "small", "medium"]
# Of a block: input and output channels, stride, squeeze and excitation.
Stage = tuple[tuple[int, int, Size, bool], ...]

EXPANSION = 2
# Channels inside the stem and after it.
DET_STEMS: Mapping[str, tuple[int, int]] = {"tiny": (16, 32), "small": (24, 48), "medium": (64, 128)}
REC_STEMS: Mapping[str, tuple[int, int]] = {"tiny": (24, 48), "small": (48, 96), "medium": (64, 128)}
# The smallest recogniser has two plain convolutions there.
PLAIN_STEMS = frozenset({"tiny"})


def _det_stages(channels: tuple[int, int, int, int]) -> dict[str, Stage]:
    """The four stages of a detector; all but the first begin by halving the size."""
    first, second, third, fourth = channels
    return {
        "blocks_s1": ((first, first, 1, True), (first, first, 1, False)),
        "blocks_s2": ((first, second, 2, False), *((second, second, 1, se) for se in (True, False))),
        "blocks_s3": ((second, third, 2, False), *((third, third, 1, se) for se in (True, False) * 2)),
        "blocks_s4": ((third, fourth, 2, False), *((fourth, fourth, 1, se) for se in (True, False))),
    }


DET_STAGES: Mapping[str, dict[str, Stage]] = {
    "tiny": _det_stages((32, 48, 64, 160)),
    "small": _det_stages((48, 96, 192, 384)),
    "medium": _det_stages((128, 256, 512, 896)),
}
# The last is empty in all of them; Paddle's network has it.
REC_STAGES: Mapping[str, dict[str, Stage]] = {
    "tiny": {
        "blocks2": ((48, 48, 1, True),),
        "blocks3": ((48, 48, 1, False),),
        "blocks4": ((48, 96, (2, 1), False), (96, 96, 1, True), (96, 96, 1, False)),
        "blocks5": ((96, 160, (2, 1), False), (160, 160, 1, True), *((160, 160, 1, False),) * 2),
        "blocks6": (),
    },
    "small": {
        "blocks2": ((96, 96, 1, True),),
        "blocks3": ((96, 96, 1, False),) * 2,
        "blocks4": ((96, 192, (2, 1), False), *((192, 192, 1, se) for se in (True, False) * 3)),
        "blocks5": ((192, 384, (2, 1), False), (384, 384, 1, True), (384, 384, 1, False)),
        "blocks6": (),
    },
    "medium": {
        "blocks2": ((128, 128, 1, True),),
        "blocks3": ((128, 256, 1, False), (256, 256, 1, False), (256, 256, 1, True)),
        "blocks4": ((256, 512, (2, 1), False), *((512, 512, 1, se) for se in (True, False) * 3)),
        "blocks5": ((512, 768, (2, 1), False), (768, 768, 1, True), (768, 768, 1, False)),
        "blocks6": (),
    },
}


class NormalisedConv(ConvBN, Reparameterised):
    """Convolution and normalisation whose place in the fused form one convolution takes: Paddle's `Conv2D_BN`.

    `zero` is the last of a residual branch: its weight starts at 0, so that the block starts as its input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: Size = 1,
        groups: int = 1,
        zero: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.zero = zero

    def init_weights(self) -> None:
        """See `zero`."""
        if self.zero:
            nn.init.zeros_(self.bn.weight)

    def folded(self) -> dict[str, Tensor]:
        """The convolution with bias that it replaces."""
        return dict(zip(("weight", "bias"), fold_batch_norm(self.conv.weight, self.bn), strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """Its kernel and bias."""
        unfold_batch_norm(self.conv, self.bn, fused["weight"], fused["bias"])


class ConvBNAct(Reparameterised):
    """Convolution, normalisation, ReLU; of the stem. A 2x2 kernel keeps the size by padding at the end alone."""

    CHAINS: ClassVar[Chains] = (("conv", "act"),)

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, fused: bool = False
    ) -> None:
        super().__init__()
        self.even = kernel_size % 2 == 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, bias=fused)
        self.bn = None if fused else BatchNorm2d(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.conv(pad_same(x) if self.even else x)
        return self.act(x if self.bn is None else self.bn(x))

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """Its normalisation; those of the blocks keep their decay."""
        if self.bn is not None:
            yield from self.bn.parameters()

    def folded(self) -> dict[str, Tensor]:
        """The convolution with bias."""
        assert self.bn is not None
        return dict(zip(("conv.weight", "conv.bias"), fold_batch_norm(self.conv.weight, self.bn), strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """Its kernel and bias."""
        assert self.bn is not None
        unfold_batch_norm(self.conv, self.bn, fused["conv.weight"], fused["conv.bias"])


class StemBlock(nn.Module):
    """Two branches of half the image's size, a pooling and two 2x2 convolutions, joined and halved again."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fused: bool) -> None:
        super().__init__()
        self.stem1 = ConvBNAct(in_channels, mid_channels, 3, stride=2, fused=fused)
        self.stem2a = ConvBNAct(mid_channels, mid_channels // 2, 2, fused=fused)
        self.stem2b = ConvBNAct(mid_channels // 2, mid_channels, 2, fused=fused)
        self.stem3 = ConvBNAct(2 * mid_channels, mid_channels, 3, stride=2, fused=fused)
        self.stem4 = ConvBNAct(mid_channels, out_channels, 1, fused=fused)
        self.pool = nn.MaxPool2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H / 4, W / 4), rounded up."""
        x = self.stem1(x)
        convolved = self.stem2b(self.stem2a(x))
        # Paddle pads a maximum with -inf; after a ReLU zeros are as good.
        pooled = self.pool(pad_same(x))
        return self.stem4(self.stem3(torch.cat((pooled, convolved), dim=1)))


class RepDWConv(Reparameterised):
    """A depthwise convolution as the normalised sum of a 3x3, a 1x1 and the input."""

    def __init__(self, channels: int, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        if fused:
            self.reparam_conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        else:
            self.conv = ConvBN(channels, channels, 3, groups=channels)
            self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
            self.bn = BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        return self.reparam_conv(x) if self.fused else self.bn((self.conv(x) + self.conv1(x)) + x)

    def folded(self) -> dict[str, Tensor]:
        """The one 3x3 convolution."""
        kernel, bias = fold_batch_norm(self.conv.conv.weight, self.conv.bn)
        kernel = kernel + F.pad(self.conv1.weight.double() + 1.0, [1] * 4)  # the input itself is a 1x1 of ones
        folded = fold_batch_norm(kernel, self.bn, bias)
        return dict(zip(("reparam_conv.weight", "reparam_conv.bias"), folded, strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The 3x3 takes what the 1x1 and the input do not do."""
        kernel, bias = fused["reparam_conv.weight"], fused["reparam_conv.bias"]
        unfold_sum(self.conv.conv, self.conv.bn, self.conv1, self.bn, kernel, bias)


class LCNetV4Block(nn.Module):
    """Mixes pixels, then channels; a block that changes neither size nor channels adds the second to its input."""

    RECOMPUTED = True
    CHAINS: ClassVar[Chains] = (("channel_mixer.expand", "channel_mixer.act"),)

    def __init__(self, in_channels: int, out_channels: int, *, stride: Size, se: bool, fused: bool) -> None:
        super().__init__()
        self.has_residual = stride == 1 and in_channels == out_channels
        self.token_mixer = nn.Sequential()
        if self.has_residual:
            self.token_mixer.add_module("rep_dw", RepDWConv(in_channels, fused=fused))
        else:
            convolution = _conv(in_channels, in_channels, 3, stride=stride, groups=in_channels, fused=fused)
            self.token_mixer.add_module("dw_conv", convolution)
        if se:
            self.token_mixer.add_module("se", SELayer(in_channels))
        hidden = EXPANSION * in_channels
        self.channel_mixer = nn.Sequential()
        self.channel_mixer.add_module("expand", _conv(in_channels, hidden, fused=fused))
        self.channel_mixer.add_module("act", nn.GELU())
        self.channel_mixer.add_module("compress", _conv(hidden, out_channels, zero=self.has_residual, fused=fused))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.token_mixer(x)
        return x + self.channel_mixer(x) if self.has_residual else self.channel_mixer(x)


class PPLCNetV4(nn.Module):
    """The backbone, for lines (`det=False`, one output) or pages (`det=True`, four outputs).

    Raises `ConfigError` for a size that there is not.

    Args:
        in_channels: channels of the image.
        det: the detector's stages and its four outputs.
        model_size: "tiny", "small" or "medium".
        fused: one convolution for each re-parameterised layer.
    """

    CHAINS: ClassVar[Chains] = (("conv1.0.conv", "conv1.0.bn", "conv1.1"),)  # of a plain stem

    def __init__(
        self, *, in_channels: int = 3, det: bool = False, model_size: ModelSize = "small", fused: bool = False
    ) -> None:
        super().__init__()
        if model_size not in DET_STEMS:
            raise ConfigError(f"PPLCNetV4: model_size is {model_size!r}, not one of {', '.join(DET_STEMS)}")
        stages = (DET_STAGES if det else REC_STAGES)[model_size]
        mid, width = (DET_STEMS if det else REC_STEMS)[model_size]
        self.det = det
        if det:
            self.stem = StemBlock(in_channels, mid, width, fused=fused)
        elif model_size in PLAIN_STEMS:
            # No re-parameterisation reaches these two, in Paddle's exports as here.
            self.conv1: nn.Module = nn.Sequential(
                ConvBN(in_channels, mid, 3, stride=2), nn.GELU(), ConvBN(mid, width, 3, stride=2)
            )
        else:
            self.conv1 = StemBlock(in_channels, mid, width, fused=fused)
        for name, blocks in stages.items():
            self.add_module(
                name, nn.Sequential(*(LCNetV4Block(i, o, stride=s, se=se, fused=fused) for i, o, s, se in blocks))
            )
        self.stages = tuple(stages)
        widths = tuple(blocks[-1][1] for blocks in stages.values() if blocks)
        self.out_channels: int | tuple[int, ...] = widths if det else widths[-1]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, C, 1, T), see `pool_line`. Pages: four maps of strides 4, 8, 16, 32.
        """
        x = self.stem(x) if self.det else self.conv1(x)
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps if self.det else pool_line(x, self.training)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    fused: bool,
    stride: Size = 1,
    groups: int = 1,
    zero: bool = False,
) -> nn.Module:
    if fused:
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups)
    return NormalisedConv(in_channels, out_channels, kernel_size, stride=stride, groups=groups, zero=zero)


def _pplcnetv4_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    det = "backbone.stem.stem1.conv.weight" in shapes
    widths: dict[str, list[int]] = {}
    for key, shape in shapes.items():
        if key.startswith("backbone.blocks") and key.endswith("channel_mixer.compress.conv.weight"):
            widths.setdefault(key.split(".")[1], []).append(shape[0])
    for size, stages in (DET_STAGES if det else REC_STAGES).items():
        if widths == {name: [block[1] for block in blocks] for name, blocks in stages.items() if blocks}:
            return {"model_size": size, **({"det": True} if det else {})}
    raise ValueError(f"its channels {widths} are those of no PPLCNetV4")


register(
    Part(
        "backbone",
        "PPLCNetV4",
        PPLCNetV4,
        # Before PPHGNetV2, which has a stem of the same names.
        signatures=("backbone.blocks_s1.", "backbone.blocks2.0.token_mixer."),
        rank=-1,
        read_options=_pplcnetv4_options,
        # Of settings before `model_size`: such a yml builds the small network, whatever they say.
        ignored=frozenset({"stem_type", "use_rep", "config_name", "stem_channels"}),
    )
)
