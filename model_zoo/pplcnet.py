"""PP-LCNet, the classifiers of orientation: of text lines (two classes) and of documents (four).

Source: PaddleClas `ppcls/arch/backbone/legendary_models/pp_lcnet.py` (Apache-2.0); arXiv:2109.15099. There the
backbone and the classifier are one class; here they are the two parts of a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import kaiming_normal
from paddle2torch.model_zoo.layers import Chains, ConvBNAct, SELayer, Size, parameters_of_norms
from paddle2torch.model_zoo.pplcnetv3 import make_divisible
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register, stride_option

# Per stage: kernel size, input and output channels at scale 1, squeeze-and-excitation. The first block of each stage
# but blocks2 has a stride, which is an option.
STAGES: dict[str, tuple[tuple[int, int, int, bool], ...]] = {
    "blocks2": ((3, 16, 32, False),),
    "blocks3": ((3, 32, 64, False), (3, 64, 64, False)),
    "blocks4": ((3, 64, 128, False), (3, 128, 128, False)),
    "blocks5": ((3, 128, 256, False), *((5, 256, 256, False),) * 5),
    "blocks6": ((5, 256, 512, True), (5, 512, 512, True)),
}


class DownscaledDropout(nn.Module):
    """Paddle's `Dropout(mode="downscale_in_infer")`: training keeps values as they are, evaluation times 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def factor(self) -> float:
        """By what values are multiplied at inference, outside a layer."""
        return 1 - self.p

    def forward(self, x: Tensor) -> Tensor:
        """x: float of any shape; returns the same shape."""
        if not self.training:
            return x * self.factor
        return x * x.new_empty(x.shape).bernoulli_(1 - self.p)

    def extra_repr(self) -> str:
        """The probability of dropping."""
        return f"p={self.p}"


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, optional squeeze and excitation, pointwise convolution. No residual around it."""

    RECOMPUTED = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: Size, se: bool) -> None:
        super().__init__()
        self.dw_conv = ConvBNAct(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, activation="hardswish"
        )
        self.se = SELayer(in_channels) if se else None
        self.pw_conv = ConvBNAct(in_channels, out_channels, 1, activation="hardswish")

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self.dw_conv(x)
        if self.se is not None:
            x = self.se(x)
        return self.pw_conv(x)


class PPLCNet(nn.Module):
    """The backbone. Raises `ConfigError` for strides that are not those of five stages.

    Args:
        in_channels: channels of the image.
        scale: width multiplier.
        stride_list: of the first convolution and of the first block in each of blocks3 to blocks6, of both axes or
            (height, width).
    """

    def __init__(
        self, *, in_channels: int = 3, scale: float = 1.0, stride_list: Sequence[int | Sequence[int]] = (2, 2, 2, 2, 2)
    ) -> None:
        super().__init__()
        if len(stride_list) != len(STAGES):
            raise ConfigError(f"PPLCNet: stride_list needs {len(STAGES)} strides, found {list(stride_list)}")
        first, *others = (_stride(stride) for stride in stride_list)
        self.conv1 = ConvBNAct(in_channels, _width(16, scale), 3, stride=first, activation="hardswish")
        strides = (1, *others)
        for (name, blocks), stride in zip(STAGES.items(), strides, strict=True):
            stage = nn.Sequential(
                *(
                    DepthwiseSeparable(
                        _width(c_in, scale), _width(c_out, scale), kernel, stride=1 if i else stride, se=se
                    )
                    for i, (kernel, c_in, c_out, se) in enumerate(blocks)
                )
            )
            self.add_module(name, stage)
        self.out_channels = _width(512, scale)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W'), reduced by the product of the strides."""
        x = self.conv1(x)
        for name in STAGES:
            x = self.get_submodule(name)(x)
        return x

    def init_weights(self) -> None:
        """Convolutions before a normalisation are drawn by the inputs of one group."""
        for module in self.modules():
            if isinstance(module, ConvBNAct):
                kaiming_normal(module.conv.weight)

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """All normalisations train without L2."""
        return parameters_of_norms(self)


class PPLCNetHead(nn.Module):
    """Mean over the image, a wide 1x1 convolution, then a linear layer to the classes.

    Args:
        in_channels: channels of the backbone.
        classes: number of classes.
        class_expand: width of the convolution; None for a network without it.
        dropout_prob: dropout after the convolution.
    """

    CHAINS: ClassVar[Chains] = (("last_conv", "act"),)

    def __init__(
        self, in_channels: int, *, classes: int, class_expand: int | None = 1280, dropout_prob: float = 0.2
    ) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.last_conv = None if class_expand is None else nn.Conv2d(in_channels, class_expand, 1, bias=False)
        self.act = nn.Hardswish()
        self.dropout = DownscaledDropout(dropout_prob)
        self.fc = nn.Linear(class_expand or in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, classes): logits in training, else probabilities."""
        x = self.avg_pool(x)
        if self.last_conv is not None:
            x = self.dropout(self.act(self.last_conv(x)))
        logits = self.fc(x.flatten(1))
        return logits if self.training else logits.softmax(-1)


def _width(channels: int, scale: float) -> int:
    return make_divisible(channels * scale, 8)


def _stride(stride: int | Sequence[int]) -> Size:
    if isinstance(stride, int):
        return stride
    height, width = stride
    return height, width


def _pplcnet_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    widths = [shapes["backbone.conv1.conv.weight"][0]]
    expected = [16]
    for name, blocks in STAGES.items():
        for index, block in enumerate(blocks):
            widths.append(shapes[f"backbone.{name}.{index}.pw_conv.conv.weight"][0])
            expected.append(block[2])
    # Strides leave no trace in the tensors: the official classifiers of lines have two classes, of documents four.
    lines = [2, [2, 1], [2, 1], [2, 1], [2, 1]]
    strides = hint.get("stride_list", lines if shapes["head.fc.bias"][0] == 2 else [2, 2, 2, 2, 2])
    for scale in (*((hint["scale"],) if "scale" in hint else ()), 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5):
        if [make_divisible(channels * scale, 8) for channels in expected] == widths:
            return {"scale": scale, "stride_list": strides}
    raise ValueError(f"its channels {widths} are those of no PPLCNet")


def _pplcnet_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    expand = shapes["head.last_conv.weight"][0] if "head.last_conv.weight" in shapes else None
    dropout = {"dropout_prob": hint["dropout_prob"]} if "dropout_prob" in hint else {}
    return {"classes": shapes["head.fc.bias"][0], "class_expand": expand, **dropout}


def _seen_strides(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the strides of an exported program."""
    paths = ["backbone.conv1.conv", *(f"backbone.{stage}.0.dw_conv.conv" for stage in list(STAGES)[1:])]
    found = [seen.strides(path) for path in paths]
    given = options["stride_list"]
    strides = [old if new is None else stride_option(new, old) for new, old in zip(found, given, strict=True)]
    return {**options, "stride_list": strides}


def _seen_dropout(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the dropout of an exported program, which multiplies by 1 - p."""
    dropout = seen.behind("head.act", "dropout", "factor")
    if dropout is None:
        return options
    scale = dropout.get("scale")
    keeps = dropout.get("mode") == "upscale_in_train"
    p = 1 - float(scale) if scale is not None else 0.0 if keeps else float(dropout.get("p", 0.0))
    # A file holds float32, or half of it, of what settings say in decimals.
    p = float(f"{p:.3g}" if isinstance(scale, np.float16) else f"{p:.6g}")
    return options if p == options.get("dropout_prob", 0.2) else {**options, "dropout_prob": p}


register(
    Part(
        "backbone",
        "PPLCNet",
        PPLCNet,
        signatures=("backbone.blocks2.0.dw_conv.conv.",),
        read_options=_pplcnet_options,
        read_seen=_seen_strides,
    )
)
register(
    Part(
        "head",
        "PPLCNetHead",
        PPLCNetHead,
        signatures=("backbone.blocks2.0.dw_conv.conv.",),
        rank=2,
        read_options=_pplcnet_head_options,
        read_seen=_seen_dropout,
        task="cls",
    )
)
