"""Convolutions: paddings by algorithm, two or four of them, layouts, deformable ones, grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.deformable import deformable_conv2d
from paddle2torch.model_zoo.programs.table import ProgramError, operation

_ALGORITHMS = ("EXPLICIT", "SAME", "VALID")
_LAYOUTS = ("NCHW", "NHWC", "AnyLayout", "NCDHW", "NDHWC", "NCL", "NLC")
CHOICES = {"padding_algorithm": _ALGORITHMS, "data_format": _LAYOUTS}

Paddings = list[tuple[Any, Any]]


def channels_first(x: Tensor, data_format: str) -> Tensor:
    """x with its channels on axis 1."""
    return x.movedim(-1, 1) if data_format in ("NHWC", "NDHWC", "NLC") else x


def channels_back(x: Tensor, data_format: str) -> Tensor:
    """The inverse of `channels_first`."""
    return x.movedim(1, -1) if data_format in ("NHWC", "NDHWC", "NLC") else x


def pairs(paddings: Sequence[int], axes: int) -> Paddings:
    """(before, after) for each axis: Paddle has one number for both, or two."""
    if len(paddings) == axes:
        return [(width, width) for width in paddings]
    if len(paddings) == 2 * axes:
        return list(zip(paddings[::2], paddings[1::2], strict=True))
    if len(paddings) == 1:
        return [(paddings[0], paddings[0])] * axes
    raise ProgramError(f"{len(paddings)} paddings for {axes} axes")


def same(sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int]) -> Paddings:
    """Paddle's SAME: as many places as strides fit into the input, the odd one of the padding at the end."""
    result = []
    for size, width, stride in zip(sizes, kernel, strides, strict=True):
        total = (-(-size // stride) - 1) * stride + width - size
        total = max(total, 0) if isinstance(total, int) else torch.sym_max(total, 0)
        result.append((total // 2, total - total // 2))
    return result


def _widths(paddings: Paddings) -> list[Any]:
    """As `F.pad` has them: the last axis first."""
    return [width for pair in reversed(paddings) for width in pair]


def resolve(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], paddings: Sequence[int], algorithm: str, axes: int
) -> Paddings:
    """(before, after) for each axis by the algorithm."""
    if algorithm == "SAME":
        return same(x.shape[2:], kernel, strides)
    if algorithm == "VALID":
        return [(0, 0)] * axes
    return pairs(paddings, axes)


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    paddings: Sequence[int],
    padding_algorithm: str,
    groups: int,
    dilations: Sequence[int],
    data_format: str,
) -> Tensor:
    """Any of Paddle's convolutions of 1 to 3 axes; the weight is (out, in / groups, …) in every layout."""
    axes = weight.ndim - 2
    x = channels_first(x, data_format)
    if padding_algorithm == "SAME":
        dilations = [1] * axes  # Paddle ignores it here
    widths = resolve(x, weight.shape[2:], strides, paddings, padding_algorithm, axes)
    if all(isinstance(a, int) and isinstance(b, int) and a == b and a >= 0 for a, b in widths):
        padding = [a for a, _ in widths]
    else:
        x = F.pad(x, _widths(widths))
        padding = [0] * axes
    y = _CONVOLUTIONS[axes](x, weight, bias, tuple(strides), padding, tuple(dilations), groups)
    return channels_back(y, data_format)


@operation("conv2d", "depthwise_conv2d", "conv3d", choices=CHOICES)
def conv(
    x: Tensor,
    filter: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    padding_algorithm: str = "EXPLICIT",
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    data_format: str = "NCHW",
) -> Tensor:
    """A convolution; with SAME the dilation is ignored."""
    return convolve(x, filter, bias, strides, paddings, padding_algorithm, groups, dilations, data_format)


def transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    paddings: Sequence[int],
    output_padding: Sequence[int],
    output_size: Sequence[Any],
    padding_algorithm: str,
    groups: int,
    dilations: Sequence[int],
    data_format: str,
) -> Tensor:
    """A transposed convolution: the full result, cut as the paddings say; `output_size` counts before
    `output_padding`.
    """
    axes = weight.ndim - 2
    x = channels_first(x, data_format)
    if padding_algorithm == "SAME":
        dilations = [1] * axes
    widths = resolve(x, weight.shape[2:], strides, paddings, padding_algorithm, axes)
    sizes = list(output_size)
    simple = not sizes and all(isinstance(a, int) and isinstance(b, int) and a == b and a >= 0 for a, b in widths)
    extra = list(output_padding) or [0] * axes
    if len(extra) == 1:
        extra = extra * axes
    if simple and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        padding = [a for a, _ in widths]
        y = _TRANSPOSED[axes](x, weight, bias, tuple(strides), padding, extra, groups, tuple(dilations))
        return channels_back(y, data_format)
    y = _TRANSPOSED[axes](x, weight, None, tuple(strides), 0, 0, groups, tuple(dilations))
    for axis, (before, after) in enumerate(widths):
        full = y.shape[2 + axis]
        least = full - before - after
        size = least + extra[axis] if not sizes else sizes[axis]
        known = isinstance(size, int) and isinstance(least, int)
        if sizes and known and not least <= size < least + strides[axis]:
            raise ProgramError(
                f"the program asks for {size} places of a transposed convolution that makes {least} of this input: "
                "it is for inputs of another size"
            )
        missing = before + size - full
        if not isinstance(missing, int) or missing > 0:
            pad = [0, 0] * (axes - 1 - axis) + [0, missing if isinstance(missing, int) else torch.sym_max(missing, 0)]
            y = F.pad(y, pad)
        y = y.narrow(2 + axis, before, size)
    if bias is not None:
        y = y + bias.reshape([1, -1] + [1] * axes)
    return channels_back(y, data_format)


@operation(
    "conv2d_transpose",
    "depthwise_conv2d_transpose",
    numbers=("output_size",),
    choices=CHOICES,
)
def conv_transpose(
    x: Tensor,
    filter: Tensor,
    output_size: Any = (),
    *,
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (),
    padding_algorithm: str = "EXPLICIT",
    groups: int = 1,
    dilations: Sequence[int] = (1, 1),
    data_format: str = "NCHW",
) -> Tensor:
    """A transposed convolution; the weight is (in, out / groups, …)."""
    sizes = list(output_size) if isinstance(output_size, list | tuple) else [output_size]
    return transposed(
        x, filter, None, strides, paddings, output_padding, sizes, padding_algorithm, groups, dilations, data_format
    )


@operation("conv3d_transpose", choices=CHOICES)
def conv3d_transpose(
    x: Tensor,
    filter: Tensor,
    *,
    strides: Sequence[int] = (1, 1, 1),
    paddings: Sequence[int] = (0, 0, 0),
    output_padding: Sequence[int] = (),
    output_size: Sequence[int] = (),
    padding_algorithm: str = "EXPLICIT",
    groups: int = 1,
    dilations: Sequence[int] = (1, 1, 1),
    data_format: str = "NCHW",
) -> Tensor:
    """As `conv_transpose`, with depth."""
    return transposed(
        x,
        filter,
        None,
        strides,
        paddings,
        output_padding,
        output_size,
        padding_algorithm,
        groups,
        dilations,
        data_format,
    )


@operation("deformable_conv")
def deformable_conv(
    x: Tensor,
    offset: Tensor,
    filter: Tensor,
    mask: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    dilations: Sequence[int] = (1, 1),
    deformable_groups: int = 1,
    groups: int = 1,
) -> Tensor:
    """See `deformable_conv2d`, whose names for the operands are PyTorch's."""
    return deformable_conv2d(
        x,
        offset,
        filter,
        mask,
        strides=strides,
        paddings=paddings,
        dilations=dilations,
        deformable_groups=deformable_groups,
        groups=groups,
    )


@operation("grid_sample", choices={"mode": ("bilinear", "nearest"), "padding_mode": ("zeros", "border", "reflection")})
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """x at the places of the grid, which has -1 and 1 at both ends."""
    return F.grid_sample(x, grid, mode, padding_mode, align_corners)


@operation("affine_grid", numbers=("output_shape",))
def affine_grid(theta: Tensor, output_shape: Any = None, *, align_corners: bool = True) -> Tensor:
    """A grid for `grid_sample` of one affine transformation for each image."""
    shape = list(output_shape)
    return F.affine_grid(theta, shape, align_corners)


@operation("affine_channel", choices={"data_layout": ("NCHW", "NHWC"), "data_format": ("NCHW", "NHWC")})
def affine_channel(
    x: Tensor, scale: Tensor, bias: Tensor, *, data_layout: str = "NCHW", data_format: str = "NCHW"
) -> Tensor:
    """x * scale + bias, a pair for each channel."""
    shape = [1, -1] + [1] * (x.ndim - 2) if "NHWC" not in (data_layout, data_format) else [-1]
    return x * scale.reshape(shape) + bias.reshape(shape)


@operation("correlation")
def correlation(
    input1: Tensor,
    input2: Tensor,
    *,
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
    corr_type_multiply: int = 1,
) -> Tensor:
    """The mean product of two maps under each displacement."""
    if kernel_size != 1 or stride1 != 1 or pad_size != max_displacement:
        raise ProgramError("correlation with another kernel than 1, stride than 1, or padding is not known")
    reach = max_displacement // stride2
    padded = F.pad(input2, (pad_size,) * 4)
    height, width = input1.shape[2:]
    maps = []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            top, left = pad_size + dy * stride2, pad_size + dx * stride2
            maps.append((input1 * padded[:, :, top : top + height, left : left + width]).mean(1))
    return torch.stack(maps, 1)
