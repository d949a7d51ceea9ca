"""SVTRv2, the backbone of `ch_SVTRv2_rec`: blocks that mix by convolution, then by attention.

Source: PaddleOCR `ppocr/modeling/backbones/rec_svtrv2.py` (Apache-2.0); SVTRv2, arXiv:2411.15858.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import kaiming_normal, kaiming_uniform, truncated_normal_linears
from paddle2torch.model_zoo.layers import BatchNorm2d, Chains, Mlp
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register
from paddle2torch.model_zoo.svtr import Attention, seen_heads

Mixer = Literal["Conv", "Global"]

EPSILON = 1e-6
MOST_STAGES = 20
"""Stages of a checkpoint; official networks have three."""

MIXER_KERNEL = 5
MLP_RATIO = 4


class ConvNormGELU(nn.Module):
    """A 3x3 convolution with bias and stride 2, batch normalisation, GELU."""

    CHAINS: ClassVar[Chains] = (("conv", "norm", "act"),)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.norm = BatchNorm2d(out_channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        return self.act(self.norm(self.conv(x)))

    def init_weights(self) -> None:
        """The convolution by KaimingUniform."""
        kaiming_uniform(self.conv.weight)


class POPatchEmbed(nn.Module):
    """The image at a quarter of its size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            ConvNormGELU(in_channels, out_channels // 2), ConvNormGELU(out_channels // 2, out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H / 4, W / 4), rounded up twice."""
        return self.patch_embed(x)


class DropPath(nn.Module):
    """In training, leaves out a branch of random images and scales it up for the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, …), the branch; returns the same shape."""
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x / (1 - self.rate) * kept

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


class Block(nn.Module):
    """Attention and MLP, each added to its input and normalised after that."""

    RECOMPUTED = True

    def __init__(self, dim: int, *, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.mixer = Attention(dim, num_heads=num_heads, dropout=0.0, attention_dropout=0.0)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = Mlp(dim, dim * MLP_RATIO, nn.GELU(), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        x = self.norm1(x + self.drop_path(self.mixer(x)))
        return self.norm2(x + self.drop_path(self.mlp(x)))


class ConvBlock(nn.Module):
    """The same on maps, with a grouped convolution in place of attention."""

    RECOMPUTED = True

    def __init__(self, dim: int, *, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.mixer = nn.Conv2d(dim, dim, MIXER_KERNEL, padding=MIXER_KERNEL // 2, groups=num_heads)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = Mlp(dim, dim * MLP_RATIO, nn.GELU(), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, dim, H, W); returns the same shape."""
        shape = x.shape
        x = self.norm1((x + self.drop_path(self.mixer(x))).flatten(2).transpose(1, 2))
        x = self.norm2(x + self.drop_path(self.mlp(x)))
        return x.transpose(1, 2).reshape(shape)

    def init_weights(self) -> None:
        """The mixer by KaimingNormal."""
        kaiming_normal(self.mixer.weight)


class FlattenTranspose(nn.Module):
    """A map to its sequence. It has a number in its stage, so that the blocks behind it are counted on."""

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, C, H, W); returns (N, H * W, C)."""
        return x.flatten(2).transpose(1, 2)


class SubSample(nn.Module):
    """A 3x3 convolution with stride, then layer normalisation, on maps or (`sequence`) on their sequences."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: Sequence[int], sequence: bool) -> None:
        super().__init__()
        self.sequence = sequence
        height, width = stride
        self.conv = nn.Conv2d(in_channels, out_channels, 3, (height, width), 1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """x: float (N, C, H, W), or (N, H * W, C) of `size` (H, W); returns it smaller, and its new size."""
        x = self.conv(to_map(x, size) if self.sequence else x)
        size = (x.shape[2], x.shape[3])
        x = self.norm(x.flatten(2).transpose(1, 2))
        return (x if self.sequence else to_map(x, size)), size


class SVTRStage(nn.Module):
    """Blocks of one width, then a `SubSample` where another stage follows."""

    def __init__(
        self,
        dim: int,
        out_dim: int | None,
        *,
        mixer: Sequence[Mixer],
        sub_k: Sequence[int],
        num_heads: int,
        drop_path: Sequence[float],
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        convolutions = sum(kind == "Conv" for kind in mixer)
        for index, kind in enumerate(mixer):
            block = ConvBlock if kind == "Conv" else Block
            blocks.append(block(dim, num_heads=num_heads, drop_path=drop_path[index]))
            if index == convolutions - 1 and mixer[-1] != "Conv":
                blocks.append(FlattenTranspose())
        self.blocks = nn.Sequential(*blocks)
        sequence = mixer[-1] == "Global"
        self.downsample = None if out_dim is None else SubSample(dim, out_dim, stride=sub_k, sequence=sequence)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """x: float (N, dim, H, W), or (N, H * W, dim) of `size`; returns what the next stage takes, and its size."""
        x = self.blocks(x)
        return (x, size) if self.downsample is None else self.downsample(x, size)


class OutPool(nn.Module):
    """The sequence as one row, averaged over the height and every two columns."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: float (N, H * W, C) of `size` (H, W); returns (N, C, 1, W // 2)."""
        return F.avg_pool2d(to_map(x, size), (size[0], 2))


class SVTRv2(nn.Module):
    """The backbone of lines.

    Raises `ConfigError` for stages that do not fit each other.

    Args:
        in_channels: channels of the image.
        dims: width of each stage.
        depths: blocks of each stage.
        num_heads: of the attention of each stage, and groups of its convolutions.
        mixer: "Conv" or "Global" for each block of each stage: convolutions first, and attention to the end of the
            network once it has begun.
        sub_k: stride (height, width) of the convolution behind each stage but the last.
        drop_path_rate: of the last block, in training; the blocks before it have less, the first has none.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        dims: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 6, 3),
        num_heads: Sequence[int] = (2, 4, 8),
        mixer: Sequence[Sequence[Mixer]] = (("Conv",) * 3, ("Conv",) * 3 + ("Global",) * 3, ("Global",) * 3),
        sub_k: Sequence[Sequence[int]] = ((1, 1), (2, 1), (1, 1)),
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        if len({len(dims), len(depths), len(num_heads), len(mixer), len(sub_k)}) != 1:
            raise ConfigError("SVTRv2: dims, depths, num_heads, mixer and sub_k have an entry for each stage")
        if any(depth != len(kinds) for depth, kinds in zip(depths, mixer, strict=True)):
            raise ConfigError("SVTRv2: mixer has an entry for each of the blocks that depths counts")
        kinds = [kind for stage in mixer for kind in stage]
        first = kinds.index("Global") if "Global" in kinds else len(kinds)
        if not 0 < first < len(kinds) or set(kinds[:first]) != {"Conv"} or set(kinds[first:]) != {"Global"}:
            raise ConfigError('SVTRv2: the mixers are "Conv" up to one block and "Global" from there on')
        if any(heads < 1 or dim % heads for dim, heads in zip(dims, num_heads, strict=True)):
            raise ConfigError(f"SVTRv2: dims {list(dims)} cannot be shared out to num_heads {list(num_heads)}")
        self.pope = POPatchEmbed(in_channels, dims[0])
        # Stochastic depth grows from the first block to the last.
        rates = torch.linspace(0, drop_path_rate, len(kinds), dtype=torch.float64, device="cpu").tolist()
        self.stages = nn.ModuleList()
        for index, dim in enumerate(dims):
            before, after = sum(depths[:index]), sum(depths[: index + 1])
            stage = SVTRStage(
                dim,
                dims[index + 1] if index + 1 < len(dims) else None,
                mixer=mixer[index],
                sub_k=sub_k[index],
                num_heads=num_heads[index],
                drop_path=rates[before:after],
            )
            self.stages.append(stage)
        self.stages.append(OutPool())
        self.out_channels = dims[-1]

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, dims[-1], 1, T), T being an eighth of W (strides (2, 1))."""
        x = self.pope(x)
        size = (x.shape[2], x.shape[3])
        *stages, pool = self.stages
        for stage in stages:
            x, size = stage(x, size)
        return pool(x, size)

    def init_weights(self) -> None:
        """The linear layers by TruncatedNormal."""
        truncated_normal_linears(self)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H * W, C) of `size` (H, W) to (N, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, size)


def _svtrv2_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    dims: list[int] = []
    mixer: list[list[str]] = []
    heads: list[int] = []
    asked_heads = list(hint.get("num_heads", ()))
    while (prefix := f"backbone.stages.{len(dims)}.blocks.") + "0.norm1.weight" in shapes:
        if len(dims) == MOST_STAGES:
            raise ValueError(f"it has more than {MOST_STAGES} stages")
        dim = shapes[f"{prefix}0.norm1.weight"][0]
        kernels = [shape for key, shape in shapes.items() if key.startswith(prefix) and key.endswith(".mixer.weight")]
        attentions = sum(key.startswith(prefix) and key.endswith(".mixer.qkv.weight") for key in shapes)
        mixer.append(["Conv"] * len(kernels) + ["Global"] * attentions)
        # Attention does not show its heads: those of official models are 32 wide, as their groups are.
        asked = asked_heads[len(dims)] if len(asked_heads) > len(dims) else 0
        fits = isinstance(asked, int) and asked > 0 and dim % asked == 0
        heads.append(dim // max(1, kernels[0][1]) if kernels else asked if fits else max(1, dim // 32))
        dims.append(dim)
    options: dict[str, Any] = {"dims": dims, "depths": [len(stage) for stage in mixer], "num_heads": heads}
    # Strides leave no trace in the tensors.
    strides = [[2, 1]] * (len(dims) - 1) + [[-1, -1]]
    if len(hint.get("sub_k", ())) == len(dims):
        strides = hint["sub_k"]
    rate = {"drop_path_rate": hint["drop_path_rate"]} if "drop_path_rate" in hint else {}
    return {**options, "mixer": mixer, "sub_k": strides, **rate}


def _seen_options(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the strides and heads of an exported program."""
    strides = [seen.strides(f"backbone.stages.{stage}.downsample.conv") for stage in range(len(options["dims"]))]
    pairs = zip(strides, options["sub_k"], strict=True)
    sub_k = [old if new is None or list(old) == list(new) else list(new) for new, old in pairs]
    heads = list(options["num_heads"])
    for stage, (dim, mixer) in enumerate(zip(options["dims"], options["mixer"], strict=True)):
        if "Conv" not in mixer:
            heads[stage] = seen_heads(seen, f"backbone.stages.{stage}.blocks.0.mixer", dim) or heads[stage]
    return {**options, "sub_k": sub_k, "num_heads": heads}


register(
    Part(
        "backbone",
        "SVTRv2",
        SVTRv2,
        signatures=("backbone.pope.patch_embed.",),
        read_options=_svtrv2_options,
        read_seen=_seen_options,
        ignored=frozenset({"local_k"}),
        fixed={"use_pos_embed": False, "last_stage": False, "use_pool": True},
    )
)
