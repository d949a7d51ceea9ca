"""The SVTR neck of the v3, v4 and v5 recognisers: two global attention blocks between convolutions.

Source: PaddleOCR `ppocr/modeling/necks/rnn.py` and `backbones/rec_svtrnet.py` (Apache-2.0); SVTR, arXiv:2205.00159.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import truncated_normal_linears
from paddle2torch.model_zoo.layers import ConvNormAct, Mlp
from paddle2torch.model_zoo.registry import Seen, Shapes, count_items

HEADS = 8
"""Of the attention where settings say nothing."""


class Attention(nn.Module):
    """Self-attention over all steps.

    `scale` is what queries are multiplied by, where it is not the root of a head's width.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        qkv_bias: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(f"a width of {dim} cannot be shared out to num_heads {num_heads}")
        self.num_heads = num_heads
        self.scale: float = scale or (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    @property
    def factor(self) -> float:
        """By what values are multiplied at inference, outside a layer."""
        return self.scale

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        n, t, dim = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        # attn_drop is a module of its own in every form because Paddle's reference holds its output.
        attention = self.attn_drop(self.masked((q * self.scale) @ k.transpose(-2, -1)).softmax(-1))
        return self.proj_drop(self.proj((attention @ v).transpose(1, 2).reshape(n, t, dim)))

    def masked(self, scores: Tensor) -> Tensor:
        """scores: float (N, heads, T, T); returns them with minus infinity where a step does not see another."""
        return scores


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to its input (Paddle's flag `prenorm=False` means this)."""

    RECOMPUTED = True

    def __init__(self, dim: int, *, num_heads: int, mlp_ratio: float, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = Attention(dim, num_heads=num_heads, dropout=dropout, attention_dropout=attention_dropout)
        self.drop_path = nn.Identity()  # every official model has the rate 0; the name is in Paddle's references
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), nn.SiLU(), dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, T, dim); returns the same shape."""
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class EncoderWithSVTR(nn.Module):
    """The neck on (N, C, 1, T) features.

    Args:
        in_channels: C.
        dims: channels of the output.
        depth: attention blocks.
        hidden_dims: width of the attention blocks.
        kernel_size: of the first wide convolution, `conv1`; (1, 3) since v4, (3, 3) before.
        last_kernel_size: of the last one, `conv4`, where it is not the same (checkpoints with 3x3 are about).
        use_guide: take no gradient back into the backbone, which another head then trains ("guided training of
            CTC"). Training without that other head leaves the backbone as it is.
        num_heads, mlp_ratio, drop_rate, attn_drop_rate: of the attention blocks.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        dims: int = 64,
        depth: int = 2,
        hidden_dims: int = 120,
        kernel_size: Sequence[int] = (3, 3),
        last_kernel_size: Sequence[int] | None = None,
        use_guide: bool = False,
        num_heads: int = HEADS,
        mlp_ratio: float = 2.0,
        drop_rate: float = 0.1,
        attn_drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.use_guide = use_guide
        self.out_channels = dims
        self.conv1 = _same_size(in_channels, in_channels // 8, kernel_size)
        self.conv2 = ConvNormAct(in_channels // 8, hidden_dims, 1)
        self.svtr_block = nn.ModuleList(
            Block(
                hidden_dims,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                dropout=drop_rate,
                attention_dropout=attn_drop_rate,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden_dims, eps=1e-6)
        self.conv3 = ConvNormAct(hidden_dims, in_channels, 1)
        self.conv4 = _same_size(2 * in_channels, in_channels // 8, last_kernel_size or kernel_size)
        self.conv1x1 = ConvNormAct(in_channels // 8, dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, T); returns (N, dims, H, T)."""
        if self.use_guide and torch.is_grad_enabled():
            x = x.detach()
        z = self.conv2(self.conv1(x))
        n, channels, height, width = z.shape
        z = z.flatten(2).transpose(1, 2)
        for block in self.svtr_block:
            z = block(z)
        z = self.norm(z).view(n, height, width, channels).permute(0, 3, 1, 2)
        z = torch.cat((x, self.conv3(z)), dim=1)
        return self.conv1x1(self.conv4(z))

    def init_weights(self) -> None:
        """The linear layers by TruncatedNormal."""
        truncated_normal_linears(self)


def _same_size(in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> ConvNormAct:
    height, width = kernel_size
    return ConvNormAct(in_channels, out_channels, (height, width), padding=(height // 2, width // 2))


def svtr_options(
    *, conv1: Sequence[int], conv4: Sequence[int], hidden: int, depth: int, mlp: int, dims: int, hint: Mapping[str, Any]
) -> dict[str, Any]:
    """Keywords of `EncoderWithSVTR` from kernel sizes (height, width) and widths; `hint` for what has no shape."""
    options: dict[str, Any] = {"dims": dims, "depth": depth, "hidden_dims": hidden, "kernel_size": list(conv1)}
    if list(conv4) != list(conv1):
        options["last_kernel_size"] = list(conv4)
    # Every official recogniser with this neck is trained with the guide; it changes no number in evaluation.
    options["use_guide"] = bool(hint.get("use_guide", True))
    if mlp != 2 * hidden:
        options["mlp_ratio"] = mlp / hidden
    for key in ("num_heads", "drop_rate", "attn_drop_rate"):
        if key in hint:
            options[key] = hint[key]
    return options


def svtr_options_of(shapes: Shapes, encoder: str, hint: Mapping[str, Any]) -> dict[str, Any]:
    hidden = shapes[f"{encoder}.conv2.conv.weight"][0]
    depth = count_items(shapes, encoder + ".svtr_block.{}.")
    return svtr_options(
        conv1=shapes[f"{encoder}.conv1.conv.weight"][2:],
        conv4=shapes[f"{encoder}.conv4.conv.weight"][2:],
        hidden=hidden,
        depth=depth,
        mlp=shapes[f"{encoder}.svtr_block.0.mlp.fc1.bias"][0] if depth else 2 * hidden,
        dims=shapes[f"{encoder}.conv1x1.conv.weight"][0],
        hint=hint,
    )


def seen_heads(seen: Seen, attention: str, dim: int) -> int | None:
    """How many heads the attention at the path `attention` has in an exported program; None where it does not say.

    It multiplies its queries by (dim / heads) ** -0.5.
    """
    factor = seen.behind(f"{attention}.qkv", "scale", "factor")
    scale = None if factor is None else factor.get("scale")
    if not isinstance(scale, float | np.floating) or not 0 < scale <= 1:
        return None
    heads = round(dim * float(scale) ** 2)
    return heads if heads > 0 and dim % heads == 0 else None


def seen_svtr_options(seen: Seen, encoder: str, dim: int, options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of an encoder at the path `encoder` with the heads that an exported program shows."""
    heads = seen_heads(seen, f"{encoder}.svtr_block.0.mixer", dim)
    return options if heads in (None, options.get("num_heads", HEADS)) else {**options, "num_heads": heads}
