"""MobileNetV3, the backbone of the v2.0 classifier and mobile recogniser and of the mobile detectors before v4.

Source: PaddleOCR `ppocr/modeling/backbones/rec_mobilenet_v3.py`, `det_mobilenet_v3.py` (Apache-2.0);
arXiv:1905.02244.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import Activation, ConvBN, ConvBNAct, SEModule, Size
from paddle2torch.model_zoo.pplcnetv3 import make_divisible
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register

# Per block: kernel size, expanded and output channels at scale 1, squeeze-and-excitation, activation.
Blocks = tuple[tuple[int, int, int, bool, Activation], ...]

BLOCKS: Mapping[str, Blocks] = {
    "small": (
        (3, 16, 16, True, "relu"),
        (3, 72, 24, False, "relu"),
        (3, 88, 24, False, "relu"),
        (5, 96, 40, True, "hardswish"),
        (5, 240, 40, True, "hardswish"),
        (5, 240, 40, True, "hardswish"),
        (5, 120, 48, True, "hardswish"),
        (5, 144, 48, True, "hardswish"),
        (5, 288, 96, True, "hardswish"),
        (5, 576, 96, True, "hardswish"),
        (5, 576, 96, True, "hardswish"),
    ),
    "large": (
        (3, 16, 16, False, "relu"),
        (3, 64, 24, False, "relu"),
        (3, 72, 24, False, "relu"),
        (5, 72, 40, True, "relu"),
        (5, 120, 40, True, "relu"),
        (5, 120, 40, True, "relu"),
        (3, 240, 80, False, "hardswish"),
        (3, 200, 80, False, "hardswish"),
        (3, 184, 80, False, "hardswish"),
        (3, 184, 80, False, "hardswish"),
        (3, 480, 112, True, "hardswish"),
        (3, 672, 112, True, "hardswish"),
        (5, 672, 160, True, "hardswish"),
        (5, 960, 160, True, "hardswish"),
        (5, 960, 160, True, "hardswish"),
    ),
}
# Channels of the last 1x1 convolution at scale 1.
TAIL_CHANNELS = {"small": 576, "large": 960}
# The blocks that have a stride. In pages each is 2, and all but the first begin a new stage; in lines it is an option.
PAGE_STRIDED = {"small": (0, 1, 3, 8), "large": (1, 3, 6, 12)}
LINE_STRIDED = {"small": (0, 1, 3, 8), "large": (0, 1, 3, 12)}
# Their strides where settings say none.
DEFAULT_STRIDES = {"small": (2, 2, 2, 2), "large": (1, 2, 2, 2)}


class ResidualUnit(nn.Module):
    """Inverted residual: 1x1 to `mid_channels`, depthwise, optional squeeze and excitation, 1x1 without activation."""

    RECOMPUTED = True

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: Size,
        se: bool,
        activation: Activation,
    ) -> None:
        super().__init__()
        # Paddle compares the stride with the int 1: the tuple (1, 1) of the v2.0 recogniser's first block is not it.
        self.shortcut = stride == 1 and in_channels == out_channels
        self.expand_conv = ConvBNAct(in_channels, mid_channels, 1, activation=activation)
        self.bottleneck_conv = ConvBNAct(
            mid_channels, mid_channels, kernel_size, stride=stride, groups=mid_channels, activation=activation
        )
        self.mid_se = SEModule(mid_channels) if se else None
        self.linear_conv = ConvBN(mid_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        out = self.bottleneck_conv(self.expand_conv(x))
        if self.mid_se is not None:
            out = self.mid_se(out)
        out = self.linear_conv(out)
        return x + out if self.shortcut else out


class MobileNetV3(nn.Module):
    """The backbone, for lines and crops (`det=False`, one output) or pages (`det=True`, four outputs).

    Paddle has two classes of this name, whose modules have different names. Raises `ConfigError` for options that
    describe no network.

    Args:
        in_channels: channels of the image.
        scale: width multiplier; 0.35 in the classifier, 0.5 elsewhere.
        model_name: "small" or "large".
        det: for pages.
        small_stride: lines only: strides of the height at the four blocks that have one, by default (2, 2, 2, 2).
        large_stride: the same for "large", by default (1, 2, 2, 2); the first is of the width as well.
        disable_se: no squeeze and excitation.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        scale: float,
        model_name: str,
        det: bool = False,
        small_stride: Sequence[int] | None = None,
        large_stride: Sequence[int] | None = None,
        disable_se: bool = False,
    ) -> None:
        super().__init__()
        if model_name not in BLOCKS:
            raise ConfigError(f"MobileNetV3: model_name is {model_name!r}, not {' or '.join(BLOCKS)}")
        if det:
            if small_stride is not None or large_stride is not None:
                raise ConfigError("MobileNetV3: a detector has fixed strides: leave small_stride and large_stride out")
            strides: dict[int, Size] = dict.fromkeys(PAGE_STRIDED[model_name], 2)
        elif model_name == "small":
            strides = _line_strides("small", small_stride or DEFAULT_STRIDES["small"])
        else:
            strides = _line_strides("large", large_stride or DEFAULT_STRIDES["large"])

        width = make_divisible(16 * scale, 8)
        stem = ConvBNAct(in_channels, width, 3, stride=2, activation="hardswish")
        units: list[nn.Module] = []
        for index, (kernel, mid, out, se, activation) in enumerate(BLOCKS[model_name]):
            out_channels = make_divisible(out * scale, 8)
            units.append(
                ResidualUnit(
                    width,
                    make_divisible(mid * scale, 8),
                    out_channels,
                    kernel,
                    stride=strides.get(index, 1),
                    se=se and not disable_se,
                    activation=activation,
                )
            )
            width = out_channels
        tail_channels = make_divisible(TAIL_CHANNELS[model_name] * scale, 8)
        tail = ConvBNAct(width, tail_channels, 1, activation="hardswish")

        self.det = det
        self.out_channels: int | tuple[int, ...] = tail_channels
        if det:
            starts = PAGE_STRIDED[model_name][1:]
            self.conv = stem
            self.stage0 = nn.Sequential(*units[: starts[0]])
            self.stage1 = nn.Sequential(*units[starts[0] : starts[1]])
            self.stage2 = nn.Sequential(*units[starts[1] : starts[2]])
            self.stage3 = nn.Sequential(*units[starts[2] :], tail)
            ends = (BLOCKS[model_name][start - 1][2] for start in starts)
            self.out_channels = (*(make_divisible(end * scale, 8) for end in ends), tail_channels)
        else:
            self.conv1 = stem
            self.blocks = nn.Sequential(*units)
            self.conv2 = tail
            self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x: float (N, in_channels, H, W).

        Lines: (N, C, H', W / 4), H' from the strides: 1 for the classifier's 48 and the v2.0 recogniser's 32.
        Pages: four maps of strides 4, 8, 16, 32.
        """
        if not self.det:
            return self.pool(self.conv2(self.blocks(self.conv1(x))))
        x = self.conv(x)
        maps = []
        for stage in (self.stage0, self.stage1, self.stage2, self.stage3):
            x = stage(x)
            maps.append(x)
        return maps


def _line_strides(model_name: str, values: Sequence[int]) -> dict[int, Size]:
    blocks = LINE_STRIDED[model_name]
    if len(values) != len(blocks):
        raise ConfigError(f"MobileNetV3: {model_name}_stride needs {len(blocks)} numbers, found {list(values)}")
    strides: dict[int, Size] = {block: (value, 1) for block, value in zip(blocks, values, strict=True)}
    if model_name == "large":
        strides[0] = values[0]
    return strides


def _mobilenetv3_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    det = "backbone.conv.conv.weight" in shapes
    projections = [
        shape[0]
        for key, shape in shapes.items()
        if key.startswith("backbone.") and key.endswith("linear_conv.conv.weight")
    ]
    scales = (*((hint["scale"],) if "scale" in hint else ()), 0.35, 0.5, 0.75, 1.0, 1.25)
    for name, blocks in BLOCKS.items():
        for scale in scales:
            if [make_divisible(block[2] * scale, 8) for block in blocks] == projections:
                options: dict[str, Any] = {"scale": scale, "model_name": name}
                # Strides leave no trace in the tensors.
                options |= {key: hint[key] for key in ("small_stride", "large_stride") if key in hint}
                if not hint and name == "small" and any(key.startswith("neck.encoder.lstm.") for key in shapes):
                    options["small_stride"] = [1, 2, 2, 2]  # of all official recognisers
                if det:
                    options["det"] = True
                if not any(".mid_se." in key for key in shapes):
                    options["disable_se"] = True
                return options
    raise ValueError(f"its channels {projections} are those of no MobileNetV3")


def _seen_options(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the strides of an exported network of lines."""
    if options.get("det"):
        return options
    name = str(options["model_name"])
    found = [seen.strides(f"backbone.blocks.{block}.bottleneck_conv.conv") for block in LINE_STRIDED[name]]
    strides = [stride[0] for stride in found if stride is not None]
    if len(strides) != len(found) or strides == list(options.get(f"{name}_stride") or DEFAULT_STRIDES[name]):
        return options
    return {**options, f"{name}_stride": strides}


register(
    Part(
        "backbone",
        "MobileNetV3",
        MobileNetV3,
        signatures=("backbone.stage0.", "backbone.blocks.0.expand_conv."),
        rank=1,
        read_options=_mobilenetv3_options,
        variants=tuple({"model_name": name, "disable_se": plain} for name in BLOCKS for plain in (False, True)),
        read_seen=_seen_options,
    )
)
