"""Resizing: sizes by operand, list, scale or attribute, with Paddle's own ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.operations.convolution import channels_back, channels_first
from paddle2torch.model_zoo.programs.table import check_size, operation

_LAYOUTS = ("NCHW", "NHWC", "NCDHW", "NDHWC", "NCW", "NWC", "NCL", "NLC")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _single(value: Any) -> Any:
    """A number; Paddle's list has tensors of one element."""
    return value[0] if isinstance(value, list | tuple) else value


def _scaled(size: Any, scale: float) -> Any:
    """int(size * scale), the product rounded to float32 as Paddle's is."""
    if isinstance(size, int):
        return int(torch.tensor(size, dtype=torch.float32).mul(torch.tensor(scale, dtype=torch.float32)).item())
    if float(scale).is_integer():
        return size * int(scale)
    return torch.sym_int(size * scale)


def _resized(
    x: Tensor,
    axes: int,
    out_size: Any,
    size_tensor: Any,
    scale_tensor: Any,
    sizes: Sequence[int],
    scale: Sequence[float] | float,
    method: str,
    align_corners: bool,
    align_mode: int,
    data_format: str,
) -> Tensor:
    last = data_format in ("NHWC", "NDHWC", "NWC", "NLC")
    x = channels_first(x, "NHWC") if last else x
    scales: list[float] = []
    wanted: list[Any] = list(sizes)
    listed = [_single(item) for item in _listed(size_tensor)]
    if listed:
        wanted = listed
    else:
        given = [float(item) for item in (_listed(scale_tensor) or _listed(scale))]
        if given and all(item > 0 for item in given):
            scales = given * axes if len(given) == 1 else given
            wanted = [_scaled(size, item) for size, item in zip(x.shape[2:], scales, strict=True)]
        if out_size is not None:
            wanted = [_single(item) for item in _listed(out_size)]
    check_size([*x.shape[:2], *wanted], "resizing")
    y = _interpolated(x, wanted, scales, method, align_corners, align_mode)
    return channels_back(y, "NHWC") if last else y


def _interpolated(
    x: Tensor, sizes: Sequence[Any], scales: Sequence[float], method: str, align_corners: bool, align_mode: int
) -> Tensor:
    axes = len(sizes)
    factors: list[float | None] = list(scales) if scales else [None] * axes
    if axes == 2 and method != "nearest" and not align_corners:
        for axis, size in enumerate(sizes):
            x = _first(x, 2 + axis, method) if isinstance(size, int) and size == 1 else x
    if method == "nearest":
        if not align_corners:
            function: Any = {
                1: torch.ops.aten.upsample_nearest1d.default,
                2: torch.ops.aten.upsample_nearest2d.default,
                3: torch.ops.aten.upsample_nearest3d.default,
            }[axes]
            return function(x, list(sizes), *factors)
        for axis, size in enumerate(sizes):
            x = x.index_select(2 + axis, _nearest_places(x.shape[2 + axis], size, x.device))
        return x
    if method == "bicubic":
        return torch.ops.aten.upsample_bicubic2d.default(x, list(sizes), align_corners, *factors)
    if align_corners or align_mode == 0:
        function = {
            1: torch.ops.aten.upsample_linear1d.default,
            2: torch.ops.aten.upsample_bilinear2d.default,
            3: torch.ops.aten.upsample_trilinear3d.default,
        }[axes]
        return function(x, list(sizes), align_corners, *factors)
    for axis, size in enumerate(sizes):
        x = _linear(x, 2 + axis, size, factors[axis])
    return x


def _first(x: Tensor, axis: int, method: str) -> Tensor:
    """What an axis of a map becomes whose new size is 1: Paddle's ratio is 0 then, where PyTorch takes the middle.

    The place is -0.5, held to 0 by the linear way; the cubic one has its weights there, on the first and the second.
    """
    size = x.shape[axis]
    first = x.narrow(axis, 0, 1)
    if method != "bicubic" or size == 1:
        return first
    return first * 1.09375 - x.narrow(axis, 1, 1) * 0.09375


def _nearest_places(size: Any, wanted: Any, device: torch.device) -> Tensor:
    """With corners aligned: place i is int(ratio * i + 0.5)."""
    ratio = (size - 1) / torch.sym_max(wanted - 1, 1) if not isinstance(wanted, int) or wanted > 1 else 0.0
    places = torch.arange(wanted, dtype=torch.float32, device=device) * ratio + 0.5
    return places.to(torch.int64).clamp(0, size - 1)


def _linear(x: Tensor, axis: int, wanted: Any, scale: float | None) -> Tensor:
    """`align_mode` 1: place i is i * ratio."""
    size = x.shape[axis]
    ratio = 1.0 / scale if scale else size / wanted
    places = torch.arange(wanted, dtype=torch.float32, device=x.device) * ratio
    low = places.to(torch.int64).clamp(0, size - 1)
    high = (low + 1).clamp(max=size - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (places - low).reshape(shape).to(x.dtype)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _define(kind: str, method: str) -> None:
    def interpolate(
        x: Tensor,
        out_size: Any = None,
        size_tensor: Any = None,
        scale_tensor: Any = None,
        *,
        data_format: str = "NCHW",
        out_d: int = -1,
        out_h: int = -1,
        out_w: int = -1,
        scale: Sequence[float] | float = (),
        interp_method: str = method,
        align_corners: bool = True,
        align_mode: int = 1,
    ) -> Tensor:
        count = x.ndim - 2
        sizes = (out_d, out_h, out_w)[3 - count :]
        return _resized(
            x, count, out_size, size_tensor, scale_tensor, sizes, scale, method, align_corners, align_mode, data_format
        )

    interpolate.__name__ = interpolate.__qualname__ = kind
    interpolate.__doc__ = (
        f"Resized, {method}. The size is the list of sizes, else `out_size`, else int(size * scale), else the "
        "attributes. The ratio between places is 1 / scale where a scale is given, size / new size elsewhere, and "
        "(size - 1) / (new size - 1) with corners aligned."
    )
    operation(
        kind,
        numbers=("out_size", "size_tensor", "scale_tensor"),
        choices={"data_format": _LAYOUTS, "interp_method": (method,), "align_mode": (0, 1)},
    )(interpolate)
    globals()[kind] = interpolate


_define("bilinear_interp", "bilinear")
_define("nearest_interp", "nearest")
_define("bicubic_interp", "bicubic")
_define("linear_interp", "linear")
_define("trilinear_interp", "trilinear")
