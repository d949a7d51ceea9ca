"""RepSVTR, the backbone of `ch_RepSVTR_rec` and of a detector that has no release.

RepViT blocks whose convolutions are, in training, sums of branches.

Source: PaddleOCR `ppocr/modeling/backbones/rec_repvit.py` (Apache-2.0); RepViT, arXiv:2307.09283.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.layers import (
    BatchNorm2d,
    Chains,
    Reparameterised,
    Size,
    fold_batch_norm,
    unfold_batch_norm,
    unfold_sum,
)
from paddle2torch.model_zoo.pplcnetv3 import make_divisible
from paddle2torch.model_zoo.registry import Part, Shapes, register

# Per block: channels, squeeze-and-excitation, stride.
BLOCKS: tuple[tuple[int, bool, Size], ...] = (
    (96, True, 1),
    (96, False, 1),
    (96, False, 1),
    (192, False, (2, 1)),
    (192, True, 1),
    (192, False, 1),
    (192, True, 1),
    (192, False, 1),
    (192, True, 1),
    (192, False, 1),
    (384, False, (2, 1)),
    (384, True, 1),
    (384, False, 1),
)
DET_BLOCKS: tuple[tuple[int, bool, Size], ...] = (
    (48, True, 1),
    (48, False, 1),
    (96, False, 2),
    (96, True, 1),
    (96, False, 1),
    (192, False, 2),
    (192, True, 1),
    (192, False, 1),
    (192, True, 1),
    (192, False, 1),
    (384, False, 2),
    (384, True, 1),
    (384, False, 1),
)
# The detector's outputs: after these of its blocks.
DET_OUTPUTS = (2, 5, 10, 13)


class Conv2dBN(Reparameterised):
    """Convolution without bias, then batch normalisation: Paddle's `Conv2D_BN`, whose names are `c` and `bn`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, stride: Size = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False
        )
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.bn(self.c(x))

    def folded(self) -> dict[str, Tensor]:
        """The convolution with bias that it replaces."""
        return dict(zip(("weight", "bias"), fold_batch_norm(self.c.weight, self.bn), strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """Its kernel and bias."""
        unfold_batch_norm(self.c, self.bn, fused["weight"], fused["bias"])


class RepVGGDW(Reparameterised):
    """A depthwise convolution as the sum of a 3x3, a 1x1 and the input, normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2dBN(channels, channels, 3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        return self.bn((self.conv(x) + self.conv1(x)) + x)

    def folded(self) -> dict[str, Tensor]:
        """The 3x3 convolution with bias that it replaces."""
        kernel, bias = fold_batch_norm(self.conv.c.weight, self.conv.bn)
        assert self.conv1.bias is not None
        kernel = kernel + F.pad(self.conv1.weight.double() + 1.0, [1] * 4)  # the input itself is a 1x1 of ones
        folded = fold_batch_norm(kernel, self.bn, bias + self.conv1.bias.double())
        return dict(zip(("weight", "bias"), folded, strict=True))

    def unfold(self, fused: Mapping[str, Tensor]) -> None:
        """The 3x3 takes what the 1x1 and the input do not do."""
        assert self.conv1.bias is not None
        nn.init.zeros_(self.conv1.bias)
        unfold_sum(self.conv.c, self.conv.bn, self.conv1, self.bn, fused["weight"], fused["bias"])


class SEModule(nn.Module):
    """Squeeze and excitation with a sigmoid; Paddle's names are `fc1` and `fc2`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels / 4, 8)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, channels, H, W); returns the same shape."""
        return x * self.sigmoid(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """x + m(x)."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns the same shape."""
        return x + self.m(x)


class RepViTBlock(nn.Module):
    """Mixes pixels by a depthwise convolution, then channels by two pointwise ones."""

    RECOMPUTED = True
    CHAINS: ClassVar[Chains] = (("channel_mixer.m.0", "channel_mixer.m.1"),)

    def __init__(self, in_channels: int, out_channels: int, *, se: bool, stride: Size, fused: bool) -> None:
        super().__init__()
        attention = SEModule(in_channels) if se else nn.Identity()
        if stride == 1:
            mixer = nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels) if fused else RepVGGDW(in_channels)
            self.token_mixer = nn.Sequential(mixer, attention)
        else:
            self.token_mixer = nn.Sequential(
                _conv(in_channels, in_channels, 3, stride=stride, groups=in_channels, fused=fused),
                attention,
                _conv(in_channels, out_channels, fused=fused),
            )
        self.channel_mixer = Residual(
            nn.Sequential(
                _conv(out_channels, 2 * out_channels, fused=fused),
                nn.GELU(),
                _conv(2 * out_channels, out_channels, fused=fused),
            )
        )

    def init_weights(self) -> None:
        """Start with nothing added to the mixed pixels: the last normalisation is 0."""
        last = self.channel_mixer.m.get_submodule("2")
        if isinstance(last, Conv2dBN):
            nn.init.zeros_(last.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.channel_mixer(self.token_mixer(x))


class RepSVTR(nn.Module):
    """The backbone, for lines (`det=False`, one output) or pages (`det=True`, four outputs).

    Args:
        in_channels: channels of the image.
        det: the detector's blocks and its four outputs; Paddle's name of it is `RepSVTR_det`.
        keep_branches: sums and normalisations stay in the fused form too, as PaddleOCR exported them before it could
            re-parameterise this network.
        fused: one convolution for each sum of branches and each normalised convolution.
    """

    CHAINS: ClassVar[Chains] = (("features.0.0", "features.0.1"),)

    def __init__(
        self, *, in_channels: int = 3, det: bool = False, keep_branches: bool = False, fused: bool = False
    ) -> None:
        super().__init__()
        fused = fused and not keep_branches
        blocks = DET_BLOCKS if det else BLOCKS
        width = blocks[0][0]
        layers: list[nn.Module] = [
            nn.Sequential(
                _conv(in_channels, width // 2, 3, stride=2, fused=fused),
                nn.GELU(),
                _conv(width // 2, width, 3, stride=2, fused=fused),
            )
        ]
        for channels, se, stride in blocks:
            layers.append(RepViTBlock(width, channels, se=se, stride=stride, fused=fused))
            width = channels
        self.features = nn.ModuleList(layers)
        self.det = det
        self.out_channels: int | tuple[int, ...] = tuple(blocks[i - 1][0] for i in DET_OUTPUTS) if det else width

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, 384, 1, T), T being an eighth of W. Pages: four maps of strides 4, 8, 16, 32.
        """
        maps = []
        for layer in self.features:
            x = layer(x)
            maps.append(x)
        return [maps[i] for i in DET_OUTPUTS] if self.det else F.avg_pool2d(x, (x.shape[2], 2))


def _conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, fused: bool, stride: Size = 1, groups: int = 1
) -> nn.Module:
    if fused:
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups)
    return Conv2dBN(in_channels, out_channels, kernel_size, stride=stride, groups=groups)


def _repsvtr_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    # The second sum of the first stage; the detector's begins half as wide.
    det = shapes["backbone.features.1.token_mixer.0.conv.c.weight"][0] == DET_BLOCKS[0][0]
    return {**{key: value for key, value in hint.items() if key != "det"}, **({"det": True} if det else {})}


register(
    Part(
        "backbone",
        "RepSVTR",
        RepSVTR,
        signatures=("backbone.features.1.token_mixer.",),
        read_options=_repsvtr_options,
        # The detector's outputs, which are these.
        fixed={"out_indices": list(DET_OUTPUTS)},
    )
)
