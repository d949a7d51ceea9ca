"""What moves elements about and leaves their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError, check_size, operation


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


@operation("reshape", "view_shape", numbers=("shape",))
def reshape(x: Tensor, shape: Any = None, *, dims: Sequence[int] | None = None) -> Tensor:
    """x in another shape; 0 copies the size of that place, one -1 takes what is left."""
    wanted = _listed(dims if shape is None else shape)
    sizes: list[Any] = []
    for place, size in enumerate(wanted):
        if isinstance(size, int) and size == 0:
            if place >= x.ndim:
                raise ProgramError(f"reshape: size {place} is to be copied, but the tensor has {x.ndim}")
            sizes.append(x.shape[place])
        else:
            sizes.append(size)
    return x.reshape(sizes)


@operation("squeeze", numbers=("axis",))
def squeeze(x: Tensor, axis: Any = ()) -> Tensor:
    """Without these axes where their size is 1, or without all such axes where none are named."""
    axes = {item % x.ndim for item in _listed(axis)} if x.ndim else set()
    if not axes:
        return x.squeeze()
    return x.squeeze(tuple(sorted(axes)))


@operation("unsqueeze", numbers=("axis",))
def unsqueeze(x: Tensor, axis: Any = ()) -> Tensor:
    """With axes of size 1 inserted, one after the other."""
    for item in _listed(axis):
        x = x.unsqueeze(item)
    return x


@operation("flatten", "flatten_contiguous_range")
def flatten(x: Tensor, *, start_axis: int = 1, stop_axis: int = 1) -> Tensor:
    """These axes as one."""
    return x.flatten(start_axis, stop_axis) if x.ndim else x.reshape(1)


@operation("flatten2")
def flatten2(x: Tensor, *, axis: int = 1) -> Tensor:
    """The axes before one as rows, the others as columns (older programs)."""
    return x.reshape(math.prod(x.shape[:axis]), -1) if axis else x.reshape(1, -1)


@operation("transpose")
def transpose(x: Tensor, *, perm: Sequence[int]) -> Tensor:
    """The axes in this order."""
    return x.permute(tuple(perm))


@operation("concat", scalars=("axis",))
def concat(x: list[Tensor], axis: Any = 0) -> Tensor:
    """Tensors one behind the other along an axis."""
    dtype = x[0].dtype
    for item in x[1:]:
        dtype = torch.promote_types(dtype, item.dtype)
    return torch.cat([item.to(dtype) for item in x], axis)


@operation("stack")
def stack(x: list[Tensor], *, axis: int = 0) -> Tensor:
    """Tensors of one shape along a new axis."""
    return torch.stack(x, axis)


@operation("unstack", "unbind", results="list")
def unstack(x: Tensor, *, axis: int = 0, num: int = 0) -> list[Tensor]:
    """One tensor for each place on the axis, which is gone."""
    return list(torch.unbind(x, axis))


@operation("split", numbers=("sections",), scalars=("axis",), results="list")
def split(x: Tensor, sections: Any, axis: Any = 0) -> list[Tensor]:
    """Parts along an axis, of these sizes; one of them may be -1 and is what is left."""
    place = axis
    sizes = _listed(sections)
    rest = [index for index, size in enumerate(sizes) if isinstance(size, int) and size < 0]
    if len(rest) > 1:
        raise ProgramError(f"split: more than one of the sizes {sizes} is to be what is left")
    for index in rest:
        sizes[index] = x.shape[place] - sum(size for other, size in enumerate(sizes) if other != index)
    return list(torch.split(x, sizes, place))


@operation("split_with_num", scalars=("axis",), results="list")
def split_with_num(x: Tensor, axis: Any = 0, *, num: int) -> list[Tensor]:
    """So many equal parts along an axis."""
    place = axis
    if isinstance(x.shape[place], int) and (num < 1 or x.shape[place] % num):
        raise ProgramError(f"split_with_num: {x.shape[place]} places do not make {num} equal parts")
    size = x.shape[place] // num
    return list(torch.split(x, [size] * num, place))


@operation("tile", numbers=("repeat_times",))
def tile(x: Tensor, repeat_times: Any = ()) -> Tensor:
    """x repeated along its axes; of too few numbers the first are 1."""
    times = _listed(repeat_times)
    times = [1] * (x.ndim - len(times)) + times
    shape = [1] * (len(times) - x.ndim) + list(x.shape)
    check_size(
        [a * b if isinstance(a, int) and isinstance(b, int) else a for a, b in zip(shape, times, strict=True)], "tile"
    )
    return x.repeat(times) if times else x


@operation("expand", "expand_v2", numbers=("shape",))
def expand(x: Tensor, shape: Any = ()) -> Tensor:
    """x repeated along axes of size 1 and along new ones in front; -1 leaves a size, and so does 0 of an empty one."""
    wanted = _listed(shape)
    sizes = []
    for place, size in enumerate(wanted):
        own = place - (len(wanted) - x.ndim)
        sizes.append(x.shape[own] if own >= 0 and isinstance(size, int) and size == -1 else size)
    check_size(sizes, "expand")
    return x.expand(sizes)


@operation("expand_as")
def expand_as(x: Tensor, y: Tensor | None = None, *, target_shape: Sequence[int] = ()) -> Tensor:
    """x repeated to the shape of y."""
    return x.expand(y.shape) if y is not None else expand(x, list(target_shape))


@operation("broadcast_tensors", results="list")
def broadcast_tensors(input: list[Tensor]) -> list[Tensor]:
    """All in the shape that they have together."""
    return list(torch.broadcast_tensors(*input))


@operation("flip", "reverse", numbers=("axis_tensor",))
def flip(x: Tensor, axis_tensor: Any = None, *, axis: Sequence[int] = ()) -> Tensor:
    """The other way round along these axes."""
    return torch.flip(x, tuple(_listed(axis if axis_tensor is None else axis_tensor)))


@operation("roll", numbers=("shifts",))
def roll(x: Tensor, shifts: Any, *, axis: Sequence[int] = ()) -> Tensor:
    """Moved along these axes, what leaves at one end comes in at the other; without axes as one long row."""
    places = tuple(axis)
    return torch.roll(x, _listed(shifts), places) if places else torch.roll(x, _listed(shifts)[0])


@operation("repeat_interleave")
def repeat_interleave(x: Tensor, *, repeats: int, axis: int = 0, output_size: int = -1) -> Tensor:
    """Each place on the axis so many times."""
    return torch.repeat_interleave(x, repeats, axis)


@operation("repeat_interleave_with_tensor_index")
def repeat_interleave_with_tensor_index(x: Tensor, repeats: Tensor, *, axis: int = 0, output_size: int = -1) -> Tensor:
    """Each place on the axis as often as its number says."""
    return torch.repeat_interleave(x, repeats.reshape(-1).to(torch.int64), axis)


@operation("pad", scalars=("pad_value",))
def pad(x: Tensor, pad_value: Any = 0.0, *, paddings: Sequence[int], mode: str = "constant") -> Tensor:
    """A border of one value: (before, after) for each axis, the first axis first; a negative width cuts off."""
    turned = [width for pair in reversed(list(zip(paddings[::2], paddings[1::2], strict=True))) for width in pair]
    check_size(
        [
            s + a + b if isinstance(s, int) else s
            for s, a, b in zip(x.shape, paddings[::2], paddings[1::2], strict=True)
        ],
        "pad",
    )
    return F.pad(x, turned, value=pad_value)


@operation(
    "pad3d",
    numbers=("paddings",),
    choices={"mode": ("constant", "reflect", "replicate", "circular"), "data_format": ("NCDHW", "NDHWC")},
)
def pad3d(
    x: Tensor, paddings: Any, *, mode: str = "constant", pad_value: float = 0.0, data_format: str = "NCDHW"
) -> Tensor:
    """A border around depth, height and width; widths are left, right, top, bottom, front, back, a negative one cuts
    off.
    """
    widths = _listed(paddings)
    if data_format == "NDHWC":
        x = x.permute(0, 4, 1, 2, 3)
    check_size(
        [
            *x.shape[:2],
            *(
                s + a + b if isinstance(s, int) else s
                for s, a, b in zip(x.shape[:1:-1], widths[::2], widths[1::2], strict=True)
            ),
        ],
        "pad3d",
    )
    if mode != "constant" and widths[4] == 0 and widths[5] == 0:
        # PyTorch's reflection needs an axis of more than one place, whatever its width.
        size = x.shape
        flat = x.reshape(size[0], size[1] * size[2], size[3], size[4])
        flat = F.pad(flat, widths[:4], mode)
        x = flat.reshape(size[0], size[1], size[2], flat.shape[-2], flat.shape[-1])
    else:
        x = F.pad(x, widths, mode, pad_value) if mode == "constant" else F.pad(x, widths, mode)
    return x.permute(0, 2, 3, 4, 1) if data_format == "NDHWC" else x


@operation(
    "pad2d",
    numbers=("paddings_tensor",),
    choices={"mode": ("constant", "reflect", "edge"), "data_format": ("NCHW", "NHWC")},
)
def pad2d(
    x: Tensor,
    paddings_tensor: Any = None,
    *,
    paddings: Sequence[int] = (0, 0, 0, 0),
    mode: str = "constant",
    pad_value: float = 0.0,
    data_format: str = "NCHW",
) -> Tensor:
    """A border around height and width; widths are top, bottom, left, right."""
    top, bottom, left, right = _listed(paddings if paddings_tensor is None else paddings_tensor)
    if data_format == "NHWC":
        x = x.permute(0, 3, 1, 2)
    widths = (left, right, top, bottom)
    if mode == "constant":
        x = F.pad(x, widths, value=pad_value)
    else:
        x = F.pad(x, widths, "replicate" if mode == "edge" else "reflect")
    return x.permute(0, 2, 3, 1) if data_format == "NHWC" else x


@operation("unfold")
def unfold(
    x: Tensor, *, kernel_sizes: Sequence[int], strides: Sequence[int], paddings: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """Each window as a column: (N, C * kh * kw, windows); paddings are top, left, bottom, right."""
    top, left, bottom, right = (*paddings, *paddings) if len(paddings) == 2 else paddings
    x = F.pad(x, (left, right, top, bottom))
    return F.unfold(x, tuple(kernel_sizes), tuple(dilations), 0, tuple(strides))


@operation("fold", numbers=("output_sizes_tensor",))
def fold(
    x: Tensor,
    output_sizes_tensor: Any = None,
    *,
    output_sizes: Sequence[int] = (),
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
) -> Tensor:
    """The sum of columns put back to their windows; paddings are top, left, bottom, right."""
    sizes = _listed(output_sizes if output_sizes_tensor is None else output_sizes_tensor)
    top, left, bottom, right = (*paddings, *paddings) if len(paddings) == 2 else paddings
    padded = (sizes[0] + top + bottom, sizes[1] + left + right)
    whole = F.fold(x, padded, tuple(kernel_sizes), tuple(dilations), 0, tuple(strides))
    return whole[:, :, top : top + sizes[0], left : left + sizes[1]]


@operation("pixel_shuffle", choices={"data_format": ("NCHW", "NHWC")})
def pixel_shuffle(x: Tensor, *, upscale_factor: int = 1, data_format: str = "NCHW") -> Tensor:
    """Channels to pixels: (N, C * r * r, H, W) to (N, C, H * r, W * r)."""
    if data_format == "NCHW":
        return F.pixel_shuffle(x, upscale_factor)
    return F.pixel_shuffle(x.permute(0, 3, 1, 2), upscale_factor).permute(0, 2, 3, 1)


@operation("pixel_unshuffle", choices={"data_format": ("NCHW", "NHWC")})
def pixel_unshuffle(x: Tensor, *, downscale_factor: int = 1, data_format: str = "NCHW") -> Tensor:
    """Pixels to channels: (N, C, H * r, W * r) to (N, C * r * r, H, W)."""
    if data_format == "NCHW":
        return F.pixel_unshuffle(x, downscale_factor)
    # Channels last they are in another order: the place within the cell comes first.
    n, h, w, c = x.shape
    r = downscale_factor
    return x.reshape(n, h // r, r, w // r, r, c).permute(0, 1, 3, 5, 2, 4).reshape(n, h // r, w // r, c * r * r)


@operation("channel_shuffle", "shuffle_channel", choices={"data_format": ("NCHW", "NHWC")})
def channel_shuffle(x: Tensor, *, groups: int = 1, data_format: str = "NCHW") -> Tensor:
    """Channels in another order: those of all groups by turns."""
    axis = 1 if data_format == "NCHW" else 3
    shape = list(x.shape)
    split = [*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]
    return x.reshape(split).transpose(axis, axis + 1).reshape(shape)


@operation("space_to_depth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of pixels to channels, the place within the block before the channel."""
    n, c, h, w = x.shape
    b = blocksize
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


@operation("temporal_shift", choices={"data_format": ("NCHW", "NHWC")})
def temporal_shift(x: Tensor, *, seg_num: int, shift_ratio: float = 0.25, data_format: str = "NCHW") -> Tensor:
    """In each clip, a share of the channels comes from the frame before, as many from the frame behind."""
    if data_format == "NHWC":
        x = x.permute(0, 3, 1, 2)
    frames, c, h, w = x.shape
    clips = x.reshape(-1, seg_num, c, h, w)
    first, second = int(c * shift_ratio), int(c * 2 * shift_ratio)
    zeros = torch.zeros_like(clips[:, :1])
    before = torch.cat([zeros, clips[:, :-1]], 1)[:, :, :first]
    behind = torch.cat([clips[:, 1:], zeros], 1)[:, :, first:second]
    moved = torch.cat([before, behind, clips[:, :, second:]], 2).reshape(frames, c, h, w)
    return moved.permute(0, 2, 3, 1) if data_format == "NHWC" else moved


@operation("crop", numbers=("shape_tensor", "offsets_tensor"))
def crop(
    x: Tensor,
    shape_tensor: Any = None,
    offsets_tensor: Any = None,
    *,
    shape: Sequence[int] = (),
    offsets: Sequence[int] = (),
) -> Tensor:
    """A part of this shape from these places on; -1 takes all that is left."""
    sizes = _listed(shape if shape_tensor is None else shape_tensor)
    starts = _listed(offsets if offsets_tensor is None else offsets_tensor) or [0] * x.ndim
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        x = x.narrow(axis, start, x.shape[axis] - start if isinstance(size, int) and size == -1 else size)
    return x


@operation("tril")
def tril(x: Tensor, *, diagonal: int = 0) -> Tensor:
    """Zeros above a diagonal."""
    return torch.tril(x, diagonal)


@operation("triu")
def triu(x: Tensor, *, diagonal: int = 0) -> Tensor:
    """Zeros below a diagonal."""
    return torch.triu(x, diagonal)


@operation("tril_triu")
def tril_triu(x: Tensor, *, diagonal: int = 0, lower: bool = True) -> Tensor:
    """`tril` or `triu` (older programs)."""
    return torch.tril(x, diagonal) if lower else torch.triu(x, diagonal)


@operation("diag")
def diag(x: Tensor, *, offset: int = 0, padding_value: float = 0.0) -> Tensor:
    """A vector on a diagonal of a matrix, or the diagonal of a matrix."""
    made = torch.diag(x, offset)
    if x.ndim == 1 and padding_value != 0:
        on = torch.diag(torch.ones_like(x, dtype=torch.bool), offset)
        made = torch.where(on, made, torch.full_like(made, padding_value))
    return made


@operation("diag_embed")
def diag_embed(x: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last axis on a diagonal of two new axes."""
    return torch.diag_embed(x, offset, dim1, dim2)


@operation("diagonal")
def diagonal(x: Tensor, *, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """A diagonal of two axes as the last axis."""
    return torch.diagonal(x, offset, axis1, axis2)


@operation("shape64", "shape")
def shape(x: Tensor) -> Tensor:
    """The sizes of x as int64."""
    return torch.tensor(list(x.shape), dtype=torch.int64, device=x.device)


@operation("numel")
def numel(x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.full((), x.numel(), dtype=torch.int64, device=x.device)


@operation("as_strided")
def as_strided(x: Tensor, *, dims: Sequence[int], stride: Sequence[int], offset: int = 0) -> Tensor:
    """Elements at these strides, counted in a row; all of them must be within x."""
    check_size(dims, "as_strided")
    last = offset + sum((size - 1) * step for size, step in zip(dims, stride, strict=True))
    if min(stride, default=0) < 0 or offset < 0 or last >= x.numel():
        raise ProgramError("as_strided: reaches beyond the tensor")
    return torch.as_strided(x.contiguous(), tuple(dims), tuple(stride), offset)


@operation("kron")
def kron(x: Tensor, y: Tensor) -> Tensor:
    """The Kronecker product."""
    return torch.kron(x, y)


@operation("is_empty")
def is_empty(x: Tensor) -> Tensor:
    """Whether there is no element."""
    return torch.full((), x.numel() == 0, dtype=torch.bool, device=x.device)
