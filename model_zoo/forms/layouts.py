"""How oneDNN wants a convolution's weights laid out, which depends on the input's size a little.

Plain weights are laid out anew at every call. That is half of the time of a thin network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Padding, stride, dilation and groups of a convolution, as oneDNN's operators take them."""

LAYOUTS_AT_MOST = 2
"""Of the weights of one convolution that are kept: each is as large as the weights."""
SIZES_AT_MOST = 256


def lay_out(weight: Tensor, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """The weights as oneDNN wants them for an input of this size; only its own operators can read the result."""
    made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(size))
    return made


DESCRIPTION = 772
"""Bytes of oneDNN's description of a layout, `dnnl_memory_desc`, in the versions whose fields are known here."""
GAPS = ((4, 8), (108, 112), (316, 320), (420, 424))
"""Bytes of it between two fields."""


def layout_of(weight: Tensor) -> bytes:
    """oneDNN's description of the layout of what it laid out.

    It is a C structure, and what lies between its fields is what was in the memory before: the width of the input,
    for a convolution of 3x3. So it is cleared; equal layouts would look different.
    """
    description = bytearray(torch.ops.mkldnn._get_mkldnn_serialized_md(weight).tolist())
    if len(description) == DESCRIPTION:
        for first, behind in GAPS:
            description[first:behind] = bytes(behind - first)
    return bytes(description)


class Layouts:
    """The weights of one convolution as they were laid out for the sizes that came.

    They are made where they are first asked for, and left behind where the convolution is copied or pickled. The
    weights must not change afterwards.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, Tensor] = {}
        self._by_size: dict[tuple[int, ...], Tensor] = {}

    def of(self, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
        """For an input of this size: what was laid out before; the plain weights where there are too many layouts."""
        found = self._by_size.get(size)
        if found is None or found.dtype != weight.dtype:
            made = lay_out(weight, geometry, size)
            layout = str(made.dtype).encode() + layout_of(made)
            if len(self._kept) < LAYOUTS_AT_MOST:
                self._kept.setdefault(layout, made)
            found = self._kept.get(layout, weight)
            if len(self._by_size) < SIZES_AT_MOST:
                self._by_size[size] = found
        return found

    def __reduce__(self) -> tuple[type[Layouts], tuple[()]]:
        """See `pickle`: empty again."""
        return Layouts, ()
