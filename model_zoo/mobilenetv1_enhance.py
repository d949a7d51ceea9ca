"""MobileNetV1Enhance, the backbone of the PP-OCRv2 and v3 recognisers.

Source: PaddleOCR `ppocr/modeling/backbones/rec_mv1_enhance.py` (Apache-2.0); MobileNet, arXiv:1704.04861, with the
larger kernels, squeeze and excitation and Hardswish of PP-LCNet, arXiv:2109.15099.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import ConvBatchNorm, SELayer, Size, parameters_of_norms
from paddle2torch.model_zoo.registry import Part, Seen, Shapes, register, stride_option

# Per block: kernel size, input and output channels at scale 1, stride, squeeze-and-excitation. The stride of the last
# block is an option.
BLOCKS: tuple[tuple[int, int, int, Size, bool], ...] = (
    (3, 32, 64, 1, False),
    (3, 64, 128, 1, False),
    (3, 128, 128, 1, False),
    (3, 128, 256, (2, 1), False),
    (3, 256, 256, 1, False),
    (3, 256, 512, (2, 1), False),
    *((5, 512, 512, 1, False),) * 5,
    (5, 512, 1024, (2, 1), True),
    (5, 1024, 1024, 1, True),
)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, optional squeeze and excitation, pointwise convolution."""

    RECOMPUTED = True

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, stride: Size, se: bool) -> None:
        super().__init__()
        self._depthwise_conv = ConvBatchNorm(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, activation="hardswish"
        )
        self._se = SELayer(in_channels) if se else None
        self._pointwise_conv = ConvBatchNorm(in_channels, out_channels, 1, activation="hardswish")

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, H', W')."""
        x = self._depthwise_conv(x)
        if self._se is not None:
            x = self._se(x)
        return self._pointwise_conv(x)


class MobileNetV1Enhance(nn.Module):
    """The backbone, for lines.

    Args:
        in_channels: channels of the image.
        scale: width multiplier; 0.5 in all official models.
        last_conv_stride: stride of the last block, of both axes or (height, width); (1, 2) in v3, 1 in v2.
        last_pool_type: "avg" in v3, "max" in v2.
        last_pool_kernel_size: (height, width) of an average pooling; a maximum is always over 2x2.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        scale: float = 0.5,
        last_conv_stride: int | Sequence[int] = 1,
        last_pool_type: Literal["avg", "max"] = "max",
        last_pool_kernel_size: Sequence[int] = (3, 2),
    ) -> None:
        super().__init__()
        if last_pool_type not in ("avg", "max"):
            raise ConfigError(f"MobileNetV1Enhance: last_pool_type is {last_pool_type!r}, not avg or max")
        self.conv1 = ConvBatchNorm(in_channels, int(32 * scale), 3, stride=2, activation="hardswish")
        strides: list[Size] = [stride for _, _, _, stride, _ in BLOCKS]
        strides[-1] = last_conv_stride if isinstance(last_conv_stride, int) else _pair(last_conv_stride)
        self.block_list = nn.Sequential(
            *(
                DepthwiseSeparable(int(c_in * scale), int(c_out * scale), kernel, stride=stride, se=se)
                for (kernel, c_in, c_out, _, se), stride in zip(BLOCKS, strides, strict=True)
            )
        )
        self.pool = nn.AvgPool2d(_pair(last_pool_kernel_size)) if last_pool_type == "avg" else nn.MaxPool2d(2)
        self.out_channels = int(1024 * scale)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, out_channels, 1, T).

        T is W / 8 in v3, for a height of 48, and W / 4 in v2, for 32; both are rounded down after the first halving.
        """
        return self.pool(self.block_list(self.conv1(x)))

    def parameters_without_decay(self) -> Iterator[nn.Parameter]:
        """All normalisations train without L2."""
        return parameters_of_norms(self)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    height, width = values
    return height, width


def _mobilenetv1_enhance_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {"scale": shapes["backbone.conv1._conv.weight"][0] / 32}
    # Stride and pooling leave no trace in the tensors. Both versions are told by their neck.
    v3 = {"last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]}
    lstm = any(key.startswith("neck.encoder.lstm.") for key in shapes)
    given = hint if hint else {} if lstm else v3
    return options | {key: given[key] for key in v3 if key in given}


def _seen_options(seen: Seen, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the last stride and pooling of an exported program."""
    last = f"backbone.block_list.{len(BLOCKS) - 1}."
    options = dict(options)
    stride = seen.strides(f"{last}_depthwise_conv._conv")
    if stride is not None and stride != (1, 1):
        options["last_conv_stride"] = stride_option(stride, options.get("last_conv_stride", 1))
    elif stride is not None:
        options.pop("last_conv_stride", None)
    pool = seen.behind(last, "pool2d")
    if pool is not None:
        kernel = [int(size) for size in pool.get("kernel_size", ())]
        average = pool.get("pooling_type") == "avg"
        given = options.pop("last_pool_kernel_size", None)
        options["last_pool_type"] = "avg" if average else "max"
        if average:
            options["last_pool_kernel_size"] = given if given is not None and list(given) == kernel else kernel
    return options


register(
    Part(
        "backbone",
        "MobileNetV1Enhance",
        MobileNetV1Enhance,
        signatures=("backbone.block_list.",),
        read_options=_mobilenetv1_enhance_options,
        read_seen=_seen_options,
    )
)
