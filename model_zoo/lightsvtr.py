"""The light SVTR neck of the PP-OCRv6 recognisers: attention after a small convolution, and a shortcut around both.

Source: PaddleOCR `ppocr/modeling/necks/rnn.py` (Apache-2.0); SVTR, arXiv:2205.00159.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.initialisers import truncated_normal_linears
from paddle2torch.model_zoo.layers import BatchNorm2d, Chains, ConvNormAct
from paddle2torch.model_zoo.registry import Shapes, count_items
from paddle2torch.model_zoo.svtr import HEADS, Block


class EncoderWithLightSVTR(nn.Module):
    """The neck on (N, C, 1, T) features.

    Args:
        in_channels: C.
        dims: channels of the output and width of the attention blocks.
        depth: attention blocks.
        local_kernel: time steps that the convolution before them sees.
        use_guide: take no gradient back into the backbone; of no official model of v6.
        num_heads, mlp_ratio, drop_rate, attn_drop_rate: of the attention blocks.
    """

    CHAINS: ClassVar[Chains] = (("local_conv.0", "local_conv.1", "local_conv.2"),)

    def __init__(
        self,
        in_channels: int,
        *,
        dims: int = 64,
        depth: int = 1,
        num_heads: int = HEADS,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.1,
        attn_drop_rate: float = 0.1,
        local_kernel: int = 7,
        use_guide: bool = False,
    ) -> None:
        super().__init__()
        self.use_guide = use_guide
        self.out_channels = dims
        self.conv_reduce = ConvNormAct(in_channels, dims, 1)
        self.local_conv = nn.Sequential(
            nn.Conv2d(dims, dims, (1, local_kernel), padding=(0, local_kernel // 2), groups=dims, bias=False),
            BatchNorm2d(dims),
            nn.SiLU(),
        )
        self.svtr_block = nn.ModuleList(
            Block(dims, num_heads=num_heads, mlp_ratio=mlp_ratio, dropout=drop_rate, attention_dropout=attn_drop_rate)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.skip_conv = ConvNormAct(in_channels, dims, 1)

    def init_weights(self) -> None:
        """The linear layers and the depthwise convolution."""
        truncated_normal_linears(self)
        local = self.local_conv.get_submodule("0")
        assert isinstance(local, nn.Conv2d)
        nn.init.kaiming_normal_(local.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, T); returns (N, dims, H, T)."""
        if self.use_guide and torch.is_grad_enabled():
            x = x.detach()
        # First, as in Paddle: by the order of execution exported parameters are found again.
        skip = self.skip_conv(x)
        z = self.conv_reduce(x)
        z = z + self.local_conv(z)
        n, channels, height, width = z.shape
        z = z.flatten(2).transpose(1, 2)
        for block in self.svtr_block:
            z = block(z)
        return self.norm(z).view(n, height, width, channels).permute(0, 3, 1, 2) + skip


def light_svtr_options(*, dims: int, local: int, depth: int, mlp: int, hint: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `EncoderWithLightSVTR` from widths; `hint` for what has no shape."""
    options: dict[str, Any] = {"dims": dims, "depth": depth, "mlp_ratio": mlp / dims, "local_kernel": local}
    return options | {
        key: hint[key] for key in ("use_guide", "num_heads", "drop_rate", "attn_drop_rate") if key in hint
    }


def light_svtr_options_of(shapes: Shapes, encoder: str, hint: Mapping[str, Any]) -> dict[str, Any]:
    """The same from a checkpoint's tensors, whose names begin with `encoder`."""
    dims, _, _, local = shapes[f"{encoder}.local_conv.0.weight"]
    depth = count_items(shapes, encoder + ".svtr_block.{}.")
    mlp = shapes[f"{encoder}.svtr_block.0.mlp.fc1.bias"][0] if depth else 4 * dims
    return light_svtr_options(dims=dims, local=local, depth=depth, mlp=mlp, hint=hint)
