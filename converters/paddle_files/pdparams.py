"""`.pdparams`: a training checkpoint, which is a pickle of numpy arrays, read without running it.

`paddle.save` writes a dictionary: structured name (`backbone.conv1.conv.weight`) to array, and under
`StructuredToParameterName@@` a table from structured to static names (`conv2d_0.w_0`). If anything else is in the
dictionary (an epoch, a nested dictionary) it writes no table, and each tensor as a tuple (static name, array).
Protocols 2 and 3 cannot hold a tensor of 1 GiB: Paddle cuts it into flat slices `NAME@@.0`, `NAME@@.1`, … and
describes them under `UnpackBigParamInfor@@`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from paddle2torch.converters.paddle_files.files import is_name, map_file
from paddle2torch.converters.paddle_files.unpickler import Unpickler
from paddle2torch.model_zoo.errors import FileFormatError

Array = npt.NDArray[Any]

NESTED = ("state_dict", "model", "ema")
"""Names under which training scripts put the network's tensors; the first that is there is taken."""

STATIC_NAMES = "StructuredToParameterName@@"
_BIG_TENSORS = "UnpackBigParamInfor@@"  # Paddle's spelling


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one Paddle file, by name.

    `tensors` in the file's order, read-only, in native byte order; most are views of the mapped file, so neither
    alignment nor C order is promised (a Fortran-ordered array stays one). `bfloat16` names those whose uint16 values
    are bfloat16 bits: numpy has no such type. `static_names` maps structured to static names, as far as the file
    says. `extras` is what else a training script put beside the tensors (an epoch, a score), as plain Python data.
    `notes` say what was around the tensors and was taken off.
    """

    tensors: dict[str, Array]
    static_names: dict[str, str]
    bfloat16: frozenset[str]
    extras: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_pdparams(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a `.pdparams` file.

    Written under numpy 1 or 2, pickle protocols 2 to 5; float16, bfloat16, float32, float64, integers, bool, complex.
    Paddle 3.3.1 writes bfloat16 as uint16 and float8 as int8, which therefore cannot be told from int8.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a checkpoint.
    """
    data = map_file(path)
    _refuse_other_formats(data, path)
    saved = Unpickler(data, path).load()
    if not isinstance(saved, dict):
        raise FileFormatError(f"{path}: holds a {_describe(saved)}, not a dictionary of named tensors")
    saved, notes = _unnested(saved)

    static_names = _static_names(saved.pop(STATIC_NAMES, {}), path)
    slices = saved.pop(_BIG_TENSORS, {})
    tensors: dict[str, Array] = {}
    extras: dict[str, Any] = {}
    for name, value in saved.items():
        if not isinstance(name, str) or not is_name(name):
            raise FileFormatError(f"{path}: {name!r:.80} is not a name of a tensor")
        match value:
            case np.ndarray():
                tensors[name] = value
            case (str(static_name), np.ndarray() as array):
                tensors[name] = array
                static_names.setdefault(name, static_name)
            case _:
                extras[name] = value
    _join_slices(tensors, slices, path, len(data))
    if not tensors:
        raise FileFormatError(f"{path}: holds no tensors, only {_some(extras)}")
    # Paddle has no tensors of uint16, and numpy none of bfloat16.
    bfloat16 = frozenset(name for name, array in tensors.items() if array.dtype == np.uint16)
    return Checkpoint(tensors, static_names, bfloat16, extras, notes)


def _unnested(saved: dict[Any, Any]) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """The dictionary of the network's tensors, where a script put it into another beside an epoch and so on."""
    if any(_is_tensor(value) for value in saved.values()):
        return saved, ()
    found = [key for key in NESTED if isinstance(saved.get(key), dict) and any(map(_is_tensor, saved[key].values()))]
    if not found:
        return saved, ()
    left = f", left out {', '.join(map(repr, found[1:]))}" if found[1:] else ""
    return dict(saved[found[0]]), (f"the file has its tensors inside {found[0]!r}: took them{left}",)


def _is_tensor(value: object) -> bool:
    return isinstance(value, np.ndarray) or (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray)
    )


def _refuse_other_formats(data: memoryview, path: str | os.PathLike[str]) -> None:
    """Say what a file is that is often taken for a `.pdparams`."""
    start = bytes(data[:16])
    if start.startswith(b"PK\x03\x04"):
        raise FileFormatError(f"{path}: is a zip archive (a PyTorch checkpoint?), not a Paddle .pdparams")
    if start.startswith((b"\x1f\x8b", b"BZh")):
        raise FileFormatError(f"{path}: is a compressed archive; unpack it first")
    if start[8:].startswith(b'{"'):
        raise FileFormatError(f"{path}: is a safetensors file, not a Paddle .pdparams")
    if start.startswith(bytes(12)):
        raise FileFormatError(f"{path}: is a .pdiparams of an export; give it together with its program")


def _static_names(table: object, path: str | os.PathLike[str]) -> dict[str, str]:
    if not isinstance(table, dict) or not all(
        isinstance(item, str) and is_name(item) for pair in table.items() for item in pair
    ):
        raise FileFormatError(f"{path}: its table {STATIC_NAMES} does not map names to names")
    return dict(table)


def _join_slices(tensors: dict[str, Array], slices: object, path: str | os.PathLike[str], file_size: int) -> None:
    """Replace the slices of big tensors by the tensors. `slices`: name -> {"OriginShape": (…), "slices": [names]}."""
    if not isinstance(slices, dict):
        raise FileFormatError(f"{path}: its table {_BIG_TENSORS} is not a dictionary")
    joined_bytes = 0
    for name, description in slices.items():
        match description:
            case {"OriginShape": tuple(shape), "slices": [*names]} if (
                isinstance(name, str) and is_name(name) and name not in tensors and len(shape) <= 32
            ):
                parts = [tensors.pop(part, None) if isinstance(part, str) else None for part in names]
            case _:
                raise FileFormatError(f"{path}: {_BIG_TENSORS} describes {name!r:.80} in an unknown way")
        if not parts or any(part is None for part in parts):
            raise FileFormatError(f"{path}: slices of the tensor {name!r} are missing")
        # What the slices view may be one and the same bytes of the file: count before joining.
        joined_bytes += sum(part.nbytes for part in parts if part is not None)
        if joined_bytes > file_size:
            raise FileFormatError(f"{path}: the slices of its big tensors are larger than the file")
        whole: Array = np.concatenate([part.reshape(-1) for part in parts if part is not None])
        if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) != whole.size:
            raise FileFormatError(f"{path}: the slices of {name!r} do not make up its shape {shape!s:.80}")
        whole = whole.reshape(shape)
        whole.setflags(write=False)
        tensors[name] = whole


def _describe(value: object) -> str:
    return "tensor" if isinstance(value, np.ndarray) else type(value).__name__


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"{name!r:.80}" for name in names[:5]) + ("…" if len(names) > 5 else "") if names else "nothing"
