"""Pooling: paddings by algorithm, windows that reach beyond the border, adaptive sizes, indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.opaque import is_exporting
from paddle2torch.model_zoo.programs.operations.convolution import CHOICES, channels_back, channels_first, resolve
from paddle2torch.model_zoo.programs.table import ProgramError, check_size, operation

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_ADAPTIVE_MAX: dict[int, Any] = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_ADAPTIVE_AVERAGE: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_POOL_CHOICES = {**CHOICES, "pooling_type": ("max", "avg", "lp")}


def _extents(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], widths: Any, ceil_mode: bool
) -> list[tuple[Any, Any]]:
    """(before, after) for each axis, such that a pooling without padding has Paddle's number of windows."""
    result = []
    for size, k, s, (before, after) in zip(x.shape[2:], kernel, strides, widths, strict=True):
        if ceil_mode:
            windows = (size - k + before + after + s - 1) // s + 1
            after = (windows - 1) * s + k - size - before
        result.append((before, after))
    return result


def _pad(x: Tensor, widths: Sequence[tuple[Any, Any]], value: float) -> Tensor:
    flat = [width for pair in reversed(widths) for width in pair]
    if all(isinstance(width, int) and width == 0 for width in flat):
        return x
    return F.pad(x, flat, value=value)


def _bins(size: Any, count: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(count, size): in row i 1 / n at the n places of window i, from floor(i * size / count) to ceil((i + 1) * size
    / count).
    """
    first = torch.arange(count, device=device) * size // count
    last = -(-(torch.arange(count, device=device) + 1) * size // count)
    places = torch.arange(size, device=device)
    within = (places >= first[:, None]) & (places < last[:, None])
    return within.to(dtype) / (last - first)[:, None].to(dtype)


def adaptive_average(x: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Means of windows, so many along each axis. While a graph is exported the windows are products with 0/1 weights,
    because an exporter writes the example's kernel, which is wrong at other sizes."""
    axes = len(sizes)
    if all(isinstance(size, int) and size == 1 for size in sizes):
        return x.mean(tuple(range(2, 2 + axes)), keepdim=True)
    if not is_exporting():
        return _ADAPTIVE_AVERAGE[axes](x, tuple(sizes))
    for axis, count in enumerate(sizes):
        weights = _bins(x.shape[2 + axis], count, x.device, x.dtype)
        x = _product(x, weights, 2 + axis)
    return x


def _product(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    return torch.matmul(x.movedim(axis, -1), weights.t()).movedim(-1, axis)


def pool(
    x: Tensor,
    kernel: Sequence[Any],
    strides: Sequence[int],
    paddings: Sequence[int],
    ceil_mode: bool,
    exclusive: bool,
    data_format: str,
    pooling_type: str,
    global_pooling: bool,
    adaptive: bool,
    padding_algorithm: str,
) -> Tensor:
    """Any of Paddle's poolings. The mean is over the cells within the image where `exclusive` is set; else over the
    kernel,
    with `ceil_mode` over the part of it that is within the padding."""
    x = channels_first(x, data_format)
    axes = x.ndim - 2
    if global_pooling or (adaptive and all(isinstance(size, int) and size == 1 for size in kernel)):
        over = tuple(range(2, 2 + axes))
        y = x.amax(over, keepdim=True) if pooling_type == "max" else x.mean(over, keepdim=True)
        return channels_back(y, data_format)
    if len(kernel) == 1:
        kernel = list(kernel) * axes
    if adaptive:
        sizes = [
            x.shape[2 + axis] if isinstance(size, int) and size == -1 else size for axis, size in enumerate(kernel)
        ]
        y = _ADAPTIVE_MAX[axes](x, tuple(sizes)) if pooling_type == "max" else adaptive_average(x, sizes)
        return channels_back(y, data_format)
    strides = list(strides) * axes if len(strides) == 1 else list(strides)
    widths = resolve(x, kernel, strides, paddings, padding_algorithm, axes)
    plain = not ceil_mode and all(
        isinstance(a, int) and isinstance(b, int) and a == b and 2 * a <= k
        for (a, b), k in zip(widths, kernel, strict=True)
    )
    k, s = tuple(kernel), tuple(strides)
    if pooling_type == "max":
        if plain:
            return channels_back(_MAX[axes](x, k, s, tuple(a for a, _ in widths)), data_format)
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        y = _MAX[axes](_pad(x, _extents(x, kernel, strides, widths, ceil_mode), lowest), k, s)
        return channels_back(y, data_format)
    if plain:
        y = _AVERAGE[axes](x, k, s, tuple(a for a, _ in widths), False, not exclusive)
        return channels_back(y, data_format)
    whole = _extents(x, kernel, strides, widths, ceil_mode)
    cells = float(torch.Size(k).numel())
    total = _AVERAGE[axes](_pad(x, whole, 0.0), k, s) * cells
    # How many cells of each window count: those of the image, or those of the image and its padding.
    inside = torch.ones_like(x[:1, :1])
    if not exclusive:
        # Paddle counts the padding before an axis on both of its sides.
        inside = _pad(inside, [(before, before) for before, _ in widths], 1.0)
        rest = [(0, after - before) for (_, after), (before, _) in zip(whole, widths, strict=True)]
        counted = _AVERAGE[axes](_pad(inside, rest, 0.0), k, s) * cells
    else:
        counted = _AVERAGE[axes](_pad(inside, whole, 0.0), k, s) * cells
    return channels_back(total / counted, data_format)


@operation("pool2d", numbers=("kernel_size",), choices=_POOL_CHOICES)
def pool2d(
    x: Tensor,
    kernel_size: Any,
    *,
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    exclusive: bool = True,
    data_format: str = "NCHW",
    pooling_type: str = "max",
    global_pooling: bool = False,
    adaptive: bool = False,
    padding_algorithm: str = "EXPLICIT",
) -> Tensor:
    """The largest or the mean of each window; see `pool`."""
    kernel = list(kernel_size) if isinstance(kernel_size, list | tuple) else [kernel_size]
    return pool(
        x,
        kernel,
        strides,
        paddings,
        ceil_mode,
        exclusive,
        data_format,
        pooling_type,
        global_pooling,
        adaptive,
        padding_algorithm,
    )


@operation("pool3d", choices=_POOL_CHOICES)
def pool3d(
    x: Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1, 1),
    paddings: Sequence[int] = (0, 0, 0),
    ceil_mode: bool = False,
    exclusive: bool = True,
    data_format: str = "NCDHW",
    pooling_type: str = "max",
    global_pooling: bool = False,
    adaptive: bool = False,
    padding_algorithm: str = "EXPLICIT",
) -> Tensor:
    """As `pool2d`, with depth."""
    return pool(
        x,
        list(kernel_size),
        strides,
        paddings,
        ceil_mode,
        exclusive,
        data_format,
        pooling_type,
        global_pooling,
        adaptive,
        padding_algorithm,
    )


@operation("lp_pool2d", numbers=(), choices=_POOL_CHOICES)
def lp_pool2d(
    x: Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    exclusive: bool = True,
    data_format: str = "NCHW",
    pooling_type: str = "lp",
    global_pooling: bool = False,
    adaptive: bool = False,
    padding_algorithm: str = "EXPLICIT",
    norm_type: float = 2.0,
) -> Tensor:
    """The p-norm of each window: the p-th root of the sum of x to the power of p."""
    if adaptive:
        raise ProgramError("lp_pool2d with an adaptive size is not known")
    x = channels_first(x, data_format)
    powers = torch.pow(x, norm_type)
    if global_pooling:
        return channels_back(torch.pow(powers.sum((2, 3), keepdim=True), 1.0 / norm_type), data_format)
    widths = resolve(x, kernel_size, strides, paddings, padding_algorithm, 2)
    whole = _extents(x, kernel_size, strides, widths, ceil_mode)
    k = tuple(kernel_size)
    total = F.avg_pool2d(_pad(powers, whole, 0.0), k, tuple(strides)) * float(k[0] * k[1])
    return channels_back(torch.pow(total, 1.0 / norm_type), data_format)


def _max_with_index(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    ceil_mode: bool,
    adaptive: bool,
    axes: int,
) -> tuple[Tensor, Tensor]:
    if adaptive:
        function: Any = {2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[axes]
        y, places = function(x, tuple(kernel), return_indices=True)
    else:
        function = {2: F.max_pool2d, 3: F.max_pool3d}[axes]
        y, places = function(x, tuple(kernel), tuple(strides), tuple(paddings), 1, ceil_mode, return_indices=True)
    return y, places.to(torch.int32)


@operation("max_pool2d_with_index", results=2)
def max_pool2d_with_index(
    x: Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1),
    paddings: Sequence[int] = (0, 0),
    global_pooling: bool = False,
    adaptive: bool = False,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """The largest of each window, and its place in the map counted row by row: int32."""
    if global_pooling:
        kernel_size, adaptive = (1, 1), True
    return _max_with_index(x, kernel_size, strides, paddings, ceil_mode, adaptive, 2)


@operation("max_pool3d_with_index", results=2)
def max_pool3d_with_index(
    x: Tensor,
    *,
    kernel_size: Sequence[int],
    strides: Sequence[int] = (1, 1, 1),
    paddings: Sequence[int] = (0, 0, 0),
    global_pooling: bool = False,
    adaptive: bool = False,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `max_pool2d_with_index`, with depth."""
    if global_pooling:
        kernel_size, adaptive = (1, 1, 1), True
    return _max_with_index(x, kernel_size, strides, paddings, ceil_mode, adaptive, 3)


@operation("unpool", numbers=("output_size",), choices={"unpooling_type": ("max",), "data_format": ("NCHW",)})
def unpool(
    x: Tensor,
    indices: Tensor,
    output_size: Any = (),
    *,
    unpooling_type: str = "max",
    ksize: Sequence[int] = (),
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    data_format: str = "NCHW",
) -> Tensor:
    """Zeros, but each value at the place that its index names in the larger map."""
    n, c, height, width = x.shape
    sizes = list(output_size)[-2:] if output_size else []
    if not sizes:
        sizes = [
            (size - 1) * step - 2 * pad + k
            for size, step, pad, k in zip((height, width), strides, padding, ksize, strict=True)
        ]
    flat = torch.zeros((n, c, sizes[0] * sizes[1]), dtype=x.dtype, device=x.device)
    flat = flat.scatter(2, indices.to(torch.int64).flatten(2), x.flatten(2))
    return flat.reshape(n, c, sizes[0], sizes[1])


@operation("unpool3d", choices={"data_format": ("NCDHW",)})
def unpool3d(
    x: Tensor,
    indices: Tensor,
    *,
    ksize: Sequence[int] = (),
    strides: Sequence[int] = (1, 1, 1),
    paddings: Sequence[int] = (0, 0, 0),
    output_size: Sequence[int],
    data_format: str = "NCDHW",
) -> Tensor:
    """As `unpool`, with a depth."""
    sizes = list(output_size)[-3:]
    check_size([*x.shape[:2], *sizes], "unpool3d")
    flat = torch.zeros((*x.shape[:2], sizes[0] * sizes[1] * sizes[2]), dtype=x.dtype, device=x.device)
    return flat.scatter(2, indices.to(torch.int64).flatten(2), x.flatten(2)).reshape(*x.shape[:2], *sizes)
