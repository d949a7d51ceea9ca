"""SVTRNet, the backbone of the SVTR recognisers: blocks of attention or convolution between which the height halves.

Source: PaddleOCR `ppocr/modeling/backbones/rec_svtrnet.py` (Apache-2.0); SVTR, arXiv:2205.00159. The settings of its
sizes (tiny, small, base, large) are those of that paper and of PaddleOCR's ymls.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import kaiming_normal, truncated_normal, truncated_normal_linears
from paddle2torch.model_zoo.layers import Constant, Mlp
from paddle2torch.model_zoo.pplcnet import DownscaledDropout
from paddle2torch.model_zoo.registry import Part, Shapes, count_items, register
from paddle2torch.model_zoo.svtr import Attention
from paddle2torch.model_zoo.svtrv2 import ConvNormGELU, DropPath, to_map

Mixer = Literal["Global", "Local", "Conv"]
Merging = Literal["Conv", "Pool"]
STAGES = 3
IMAGE_SIZE = (32, 100)
MIXER: tuple[Mixer, ...] = ("Local",) * 6 + ("Global",) * 6
"""Where settings say nothing: (height, width) of images, and what mixes in each block."""
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"nn.GELU": nn.GELU, "nn.Swish": nn.SiLU, "nn.ReLU": nn.ReLU}
"""Paddle's settings name a class of its own."""

Grid = tuple[int, int]
"""Rows and columns of the map whose cells are the steps of a sequence."""


class PatchEmbed(nn.Module):
    """The image at a quarter or an eighth of its size (`halvings` 2 or 3), as a sequence."""

    def __init__(self, in_channels: int, dim: int, *, halvings: int) -> None:
        super().__init__()
        widths = [in_channels, *(dim // 2**step for step in range(halvings - 1, -1, -1))]
        self.proj = nn.Sequential(*(ConvNormGELU(*pair) for pair in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, H' * W', dim)."""
        return _to_sequence(self.proj(x))


class Position(nn.Module):
    """Adds a learned vector to each step. In Paddle the parameter is the backbone's own."""

    KIND: ClassVar[str] = "addition"
    OF_PARENT: ClassVar[bool] = True

    def __init__(self, steps: int, dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, steps, dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, steps, dim); returns the same shape."""
        return x + self.pos_embed


@functools.lru_cache(maxsize=8)
def _local_mask(grid: Grid, window: Grid) -> Tensor:
    """float32 (1, 1, T, T): 0 where a cell lies in the window around another, else minus infinity."""
    rows, columns = grid
    y, x = np.divmod(np.arange(rows * columns), columns)
    # An even window reaches one cell further up and left than down and right, as Paddle cuts it out.
    dy, dx = y[None, :] - y[:, None] + window[0] // 2, x[None, :] - x[:, None] + window[1] // 2
    seen = (dy >= 0) & (dy < window[0]) & (dx >= 0) & (dx < window[1])
    with torch.inference_mode(False):
        return torch.from_numpy(np.where(seen, 0, -np.inf).astype(np.float32)[None, None])


class LocalMask(Constant):
    """Lets each cell of a map see a window (height, width) around it alone."""

    def __init__(self, grid: Grid, window: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.window = window

    def forward(self, scores: Tensor) -> Tensor:
        """scores: float (N, heads, T, T); returns the same shape, minus infinity for what is not seen."""
        return scores + self.values().to(scores.device, scores.dtype)

    def values(self) -> Tensor:
        """float32 (1, 1, T, T): 0 or minus infinity."""
        return _local_mask(self.grid, self.window)


class LocalAttention(Attention):
    """Attention to the cells of a map within a window (height, width) around each."""

    def __init__(self, dim: int, *, grid: Grid, window: Grid, **options: Any) -> None:
        super().__init__(dim, **options)
        self.mask = LocalMask(grid, window)

    def masked(self, scores: Tensor) -> Tensor:
        """scores: float (N, heads, T, T)."""
        return self.mask(scores)


class ConvMixer(nn.Module):
    """Mixes the cells of a map by a grouped convolution."""

    def __init__(self, dim: int, *, groups: int, grid: Grid, kernel: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.local_mixer = nn.Conv2d(dim, dim, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        return _to_sequence(self.local_mixer(to_map(x, self.grid)))

    def init_weights(self) -> None:
        """By KaimingNormal."""
        kaiming_normal(self.local_mixer.weight)


class Block(nn.Module):
    """A mixer and an MLP, each added to its input and normalised after that (`prenorm`), or before the layer.

    The flag has Paddle's meaning, which is the opposite of its name.
    """

    RECOMPUTED = True

    def __init__(
        self,
        mixer: nn.Module,
        dim: int,
        *,
        hidden: int,
        activation: str,
        dropout: float,
        drop_path: float,
        epsilon: float,
        prenorm: bool,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.norm1 = nn.LayerNorm(dim, eps=epsilon)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=epsilon)
        self.mlp = Mlp(dim, hidden, ACTIVATIONS[activation](), dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        if self.prenorm:
            x = self.norm1(x + self.drop_path(self.mixer(x)))
            return self.norm2(x + self.drop_path(self.mlp(x)))
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SubSample(nn.Module):
    """Half the height, by a convolution ("Conv") or by poolings and a linear layer ("Pool"); then normalised."""

    def __init__(self, in_channels: int, out_channels: int, *, types: Merging) -> None:
        super().__init__()
        self.types = types
        if types == "Pool":
            self.avgpool = nn.AvgPool2d((3, 5), (2, 1), (1, 2), count_include_pad=False)
            self.maxpool = nn.MaxPool2d((3, 5), (2, 1), (1, 2))
            self.proj = nn.Linear(in_channels, out_channels)
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, (2, 1), 1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns the sequence (N, H' * W, out_channels), H' being half of H."""
        if self.types == "Pool":
            return self.norm(self.proj(_to_sequence((self.avgpool(x) + self.maxpool(x)) * 0.5)))
        return self.norm(_to_sequence(self.conv(x)))


def _mixer(kind: Mixer, dim: int, heads: int, grid: Grid, window: Grid, attention: Mapping[str, Any]) -> nn.Module:
    if kind == "Conv":
        if not (window[0] % 2 and window[1] % 2):
            raise ConfigError(f"SVTRNet: a convolution of {list(window)} makes a map of another size: take odd numbers")
        return ConvMixer(dim, groups=heads, grid=grid, kernel=window)
    if kind == "Local":
        return LocalAttention(dim, grid=grid, window=window, num_heads=heads, **attention)
    return Attention(dim, num_heads=heads, **attention)


class SVTRNet(nn.Module):
    """The backbone of lines, all of one size.

    Raises `ConfigError` for options that describe no network.

    Args:
        in_channels: channels of the image.
        img_size: (height, width) that images have.
        embed_dim, depth, num_heads: width, blocks, and heads or groups of each of the three stages.
        mixer: "Local" or "Global" attention, or "Conv", of each block.
        local_mixer: of each stage the window (height, width) of local attention, which is the kernel of convolutions.
        patch_merging: how the height halves between stages; anything else than "Conv" and "Pool": not at all.
        mlp_ratio: width of the MLPs relative to their stage.
        qkv_bias: a bias for queries, keys and values.
        qk_scale: what queries are multiplied by; None for the root of a head's width.
        drop_rate, last_drop, attn_drop_rate, drop_path_rate: dropout in training; the last grows with the depth.
        epsilon: of the normalisations in the blocks.
        out_channels: of the last stage, see `last_stage`.
        out_char_num: steps of the output with `last_stage`.
        act: activation of the MLPs.
        last_stage: ends in one row of `out_char_num` steps of `out_channels`; else in the sequence of all cells.
        sub_num: how often the image is halved at first, 2 or 3.
        prenorm: see `Block`; without it the last block is followed by a normalisation.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        img_size: Sequence[int] = IMAGE_SIZE,
        embed_dim: Sequence[int] = (64, 128, 256),
        depth: Sequence[int] = (3, 6, 3),
        num_heads: Sequence[int] = (2, 4, 8),
        mixer: Sequence[Mixer] = MIXER,
        local_mixer: Sequence[Sequence[int]] = ((7, 11),) * STAGES,
        patch_merging: str | None = "Conv",
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        last_drop: float = 0.1,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        epsilon: float = 1e-6,
        out_channels: int = 192,
        out_char_num: int = 25,
        act: str = "nn.GELU",
        last_stage: bool = True,
        sub_num: int = 2,
        prenorm: bool = True,
    ) -> None:
        super().__init__()
        if {len(embed_dim), len(depth), len(num_heads), len(local_mixer)} != {STAGES}:
            raise ConfigError(f"SVTRNet: embed_dim, depth, num_heads and local_mixer have {STAGES} entries each")
        if len(mixer) != sum(depth):
            raise ConfigError(f"SVTRNet: mixer has {len(mixer)} entries for the {sum(depth)} blocks that depth counts")
        if act not in ACTIVATIONS:
            raise ConfigError(f"SVTRNet: act is {act!r}, not {' or '.join(ACTIVATIONS)}")
        if sub_num not in (2, 3):
            raise ConfigError(f"SVTRNet: sub_num is {sub_num}, not 2 or 3")
        merging: Merging | None = "Conv" if patch_merging == "Conv" else "Pool" if patch_merging == "Pool" else None
        if not last_stage and out_channels != embed_dim[-1]:
            raise ConfigError(
                f"SVTRNet: without last_stage the output is {embed_dim[-1]} wide, which out_channels has to be too, "
                f"not {out_channels}: Paddle's head reads it in steps of so many values"
            )
        rows, columns = img_size
        self.image_size = (rows, columns)
        grid = (rows // 2**sub_num, columns // 2**sub_num)
        if merging is not None and grid[0] % 4:
            raise ConfigError(f"SVTRNet: img_size {list(img_size)} makes {grid[0]} rows, which cannot halve twice")
        # First, as Paddle has it among the tensors: they are in the order of a checkpoint's.
        self.position = Position(grid[0] * grid[1], embed_dim[0])
        self.patch_embed = PatchEmbed(in_channels, embed_dim[0], halvings=sub_num)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = torch.linspace(0, drop_path_rate, len(mixer), dtype=torch.float64, device="cpu").tolist()
        options: dict[str, Any] = {"activation": act, "dropout": drop_rate, "epsilon": epsilon, "prenorm": prenorm}
        attention: dict[str, Any] = {
            "dropout": drop_rate,
            "attention_dropout": attn_drop_rate,
            "qkv_bias": qkv_bias,
            "scale": qk_scale,
        }
        self.grids: list[Grid] = []
        first = 0
        for stage, dim in enumerate(embed_dim):
            self.grids.append(grid)
            window = (local_mixer[stage][0], local_mixer[stage][1])
            blocks = []
            for kind, rate in zip(mixer[first : first + depth[stage]], rates[first:], strict=False):
                blocks.append(
                    Block(
                        _mixer(kind, dim, num_heads[stage], grid, window, attention),
                        dim,
                        hidden=int(dim * mlp_ratio),
                        drop_path=rate,
                        **options,
                    )
                )
            first += depth[stage]
            self.add_module(f"blocks{stage + 1}", nn.ModuleList(blocks))
            if merging is not None and stage + 1 < STAGES:
                self.add_module(f"sub_sample{stage + 1}", SubSample(dim, embed_dim[stage + 1], types=merging))
                grid = (grid[0] // 2, grid[1])
        self.merging = merging
        self.last_stage = last_stage
        self.out_channels = embed_dim[-1]
        if last_stage:
            self.avg_pool = nn.AdaptiveAvgPool2d((1, out_char_num))
            self.last_conv = nn.Conv2d(embed_dim[-1], out_channels, 1, bias=False)
            self.hardswish = nn.Hardswish()
            self.dropout = DownscaledDropout(last_drop)
            self.out_channels = out_channels
        self.norm = None if prenorm else nn.LayerNorm(embed_dim[-1], eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, *img_size).

        Returns (N, out_channels, 1, out_char_num), or without `last_stage` the sequence (N, T, embed_dim[-1]).
        Raises ValueError for images of another size.
        """
        if tuple(x.shape[2:]) != self.image_size:
            raise ValueError(f"SVTRNet takes images of {self.image_size} alone, not of {tuple(x.shape[2:])}")
        x = self.pos_drop(self.position(self.patch_embed(x)))
        for stage in range(STAGES):
            for block in self.get_submodule(f"blocks{stage + 1}").children():
                x = block(x)
            if self.merging is not None and stage + 1 < STAGES:
                x = self.get_submodule(f"sub_sample{stage + 1}")(to_map(x, self.grids[stage]))
        if self.norm is not None:
            x = self.norm(x)
        if not self.last_stage:
            return x
        return self.dropout(self.hardswish(self.last_conv(self.avg_pool(to_map(x, self.grids[-1])))))

    def init_weights(self) -> None:
        """Positions and linear layers by TruncatedNormal."""
        truncated_normal(self.position.pos_embed)
        truncated_normal_linears(self)


def _to_sequence(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


# What tensors show; all else is the hint's.
_SHOWN = ("embed_dim", "depth", "mixer", "sub_num", "mlp_ratio", "qkv_bias", "prenorm", "last_stage", "patch_merging")


def _svtrnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    if not hint:
        raise ValueError(
            "its image size, and which of its blocks see a window alone, leave no trace in tensors: give its yml "
            "(--config)"
        )
    steps, dim = shapes["backbone.pos_embed"][1:]
    depth = [count_items(shapes, f"backbone.blocks{stage}.{{}}.") for stage in range(1, STAGES + 1)]
    first = [f"backbone.blocks{stage + 1}.0." for stage in range(STAGES) if depth[stage]]
    if len(first) < STAGES:
        raise ValueError("one of its stages has no block")
    dims = [shapes[f"{block}norm1.weight"][0] for block in first]
    asked = list(hint.get("mixer", MIXER))
    mixer: list[str] = []
    for stage, blocks in enumerate(depth):
        for block in range(blocks):
            given = asked[len(mixer)] if len(mixer) < len(asked) else "Global"
            if f"backbone.blocks{stage + 1}.{block}.mixer.local_mixer.weight" in shapes:
                mixer.append("Conv")
            elif given == "Conv":
                raise ValueError(f"block {block} of its stage {stage + 1} has attention, where the settings have Conv")
            else:
                mixer.append(given)
    sub_num = count_items(shapes, "backbone.patch_embed.proj.{}.")
    rows, columns = hint.get("img_size", IMAGE_SIZE)
    if (rows // 2**sub_num) * (columns // 2**sub_num) != steps:
        raise ValueError(f"it has {steps} positions, images of {rows}x{columns} make another number")
    options: dict[str, Any] = {key: value for key, value in hint.items() if key not in _SHOWN}
    if "backbone.sub_sample1.conv.weight" in shapes:
        merging: str | None = "Conv"
    else:
        merging = "Pool" if "backbone.sub_sample1.proj.weight" in shapes else None
    attention = next((key for key in shapes if re.fullmatch(r"backbone\.blocks.+\.mixer\.qkv\.weight", key)), None)
    if attention is not None and attention.replace("qkv.weight", "qkv.bias") not in shapes:
        options["qkv_bias"] = False
    hidden = shapes[f"{first[0]}mlp.fc1.bias"][0]
    if hidden != 4 * dim:
        options["mlp_ratio"] = hidden / dim
    last = shapes.get("backbone.last_conv.weight")
    options["out_channels"] = dims[-1] if last is None else last[0]
    return {
        **options,
        "embed_dim": dims,
        "depth": depth,
        "mixer": mixer,
        "sub_num": sub_num,
        "patch_merging": merging,
        "prenorm": "backbone.norm.weight" not in shapes,
        "last_stage": last is not None,
    }


register(
    Part(
        "backbone",
        "SVTRNet",
        SVTRNet,
        signatures=("backbone.blocks1.0.mixer.",),
        read_options=_svtrnet_options,
        one_size=True,
        fixed={
            "block_unit": "Block",
            "norm_layer": "nn.LayerNorm",
            "sub_norm": "nn.LayerNorm",
            # Its second result is a vector that no CTC head takes.
            "use_lenhead": False,
        },
    )
)
