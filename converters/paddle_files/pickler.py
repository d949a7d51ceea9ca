"""`.pdparams` written: named arrays as the pickle that `paddle.save` makes of a state dict.

Written by hand, because Python's own pickling of an array under numpy 2 names modules that numpy 1 does not have, and
because it would hold the whole file in memory. Protocol 4, as Paddle's; the functions are named as numpy 1 calls them,
which numpy 2 still answers to. `unpickler.py` reads it back.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from paddle2torch.converters.paddle_files.pdparams import STATIC_NAMES, Array

_PROTOCOL = b"\x80\x04"
_STOP, _MARK, _TUPLE, _REDUCE, _BUILD, _NONE, _FALSE = b".", b"(", b"t", b"R", b"b", b"N", b"\x89"
_EMPTY_DICT, _SET_ITEMS = b"}", b"u"


def write_pdparams(file: BinaryIO, tensors: Mapping[str, Array]) -> None:
    """Write `tensors` by structured name, in their order. bfloat16 is given as its bits in uint16, as Paddle has it.

    The table of static names that Paddle adds maps each tensor to its structured name: nothing but another process'
    optimiser state would look for a static one, and those are counters of the process that made them.
    """
    file.write(_PROTOCOL + _EMPTY_DICT + _MARK)
    for name, array in tensors.items():
        file.write(_text(name))
        _write_array(file, array)
    file.write(_text(STATIC_NAMES) + _EMPTY_DICT + _MARK)
    for name in tensors:
        file.write(_text(name) * 2)
    file.write(_SET_ITEMS + _SET_ITEMS + _STOP)


def _write_array(file: BinaryIO, array: npt.NDArray[np.generic]) -> None:
    """An array as numpy pickles it: an empty one is made, then given version, shape, type, order and bytes."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    order = "|" if little.dtype.itemsize == 1 else "<"
    shape = _MARK + b"".join(map(_integer, array.shape)) + _TUPLE
    make = _global("numpy.core.multiarray", "_reconstruct")
    made = make + _MARK + _global("numpy", "ndarray") + _MARK + _integer(0) + _TUPLE + _bytes(b"b") + _TUPLE + _REDUCE
    kind = _global("numpy", "dtype") + _MARK + _text(little.dtype.str[1:]) + _FALSE + b"\x88" + _TUPLE + _REDUCE
    kind += _MARK + _integer(3) + _text(order) + _NONE * 3 + _integer(-1) * 2 + _integer(0) + _TUPLE + _BUILD
    file.write(made + _MARK + _integer(1) + shape + kind + _FALSE)
    content = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    file.write(_bytes_header(content.nbytes))
    file.write(content.data)
    file.write(_TUPLE + _BUILD)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if -(1 << 31) <= number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _bytes_header(length: int) -> bytes:
    return b"B" + struct.pack("<I", length) if length < 1 << 32 else b"\x8e" + struct.pack("<Q", length)


def _bytes(content: bytes) -> bytes:
    return _bytes_header(len(content)) + content
