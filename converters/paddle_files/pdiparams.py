"""`.pdiparams`: the parameters of an exported program, one record after the other, without names.

A record, little-endian: uint32 version 0; uint64 count of LoD levels, each a uint64 length and that many bytes (a
parameter has none); uint32 version 0; int32 length of a `TensorDesc` message; the message (type, dimensions); the
values, dense, in C order. The names are the program's: its parameters, sorted.
Facts from Paddle's `SerializeToStream` (paddle/phi/core/framework/dense_tensor_serialize.cc).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import BinaryIO

import numpy as np

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import ByteReader, map_file
from paddle2torch.converters.paddle_files.pdparams import Array, Checkpoint
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.model_zoo.errors import FileFormatError

# `VarType.Type` of framework.proto: the types that a tensor can have, by numpy's names.
DTYPES = {
    0: "bool",
    1: "int16",
    2: "int32",
    3: "int64",
    4: "float16",
    5: "float32",
    6: "float64",
    19: "uint64",  # SIZE_T
    20: "uint8",
    21: "int8",
    22: "bfloat16",
    23: "complex64",
    24: "complex128",
    32: "float8_e4m3fn",
    33: "float8_e5m2",
    36: "uint16",
    37: "uint32",
    38: "uint64",
}
_DIMENSIONS_AT_MOST = 32  # of numpy 1


def read_pdiparams(path: str | os.PathLike[str], names: Sequence[str]) -> Checkpoint:
    """Read a `.pdiparams` file whose tensors are called `names`, in the file's order.

    The arrays are read-only views of the mapped file; bfloat16 comes as uint16 and is named in `Checkpoint.bfloat16`.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is truncated or corrupt, or
    has more or fewer tensors than `names`.
    """
    reader = ByteReader(map_file(path), path)
    tensors: dict[str, Array] = {}
    bfloat16 = set()
    for index, name in enumerate(names):
        if reader.remaining == 0:
            raise reader.error(f"ends after {index} of the program's {len(names)} parameters; the next is {name!r}")
        if name in tensors:
            raise FileFormatError(f"{path}: two parameters are called {name!r}")
        tensors[name], dtype = _read_tensor(reader, f"parameter {name!r}")
        if dtype == "bfloat16":
            bfloat16.add(name)
    if reader.remaining:
        raise reader.error(
            f"{reader.remaining:,} bytes follow the last of the program's {len(names)} parameters: "
            "the file belongs to another program or is corrupt"
        )
    return Checkpoint(tensors, static_names={}, bfloat16=frozenset(bfloat16), extras={})


def read_parameters(program: Program, path: str | os.PathLike[str]) -> Checkpoint:
    """Read the parameters of `program` from its `.pdiparams` at `path`, each with the shape and type it declares.

    Raises as `read_pdiparams`, and `FileFormatError` where file and program do not agree.
    """
    checkpoint = read_pdiparams(path, program.parameters)
    for name, array in checkpoint.tensors.items():
        declared = program.values[name]
        dtype = "bfloat16" if name in checkpoint.bfloat16 else array.dtype.name
        if (array.shape, dtype) != (declared.shape, declared.dtype):
            raise FileFormatError(
                f"{path}: parameter {name!r} is {dtype} {array.shape}, but its program declares {declared.dtype} "
                f"{declared.shape}; the two files do not belong together"
            )
    return checkpoint


def write_parameters(file: BinaryIO, program: Program, tensors: Mapping[str, Array]) -> None:
    """Write the parameters of `program` as Paddle does: each of them, in its order, with the type that it declares.

    bfloat16 is given as its bits in uint16. Raises `FileFormatError` where a tensor has not the shape or type that
    the program declares: Paddle would take the bytes for something else.
    """
    for name in program.parameters:
        array, declared = tensors[name], program.values[name]
        stored = np.dtype("uint16" if declared.dtype == "bfloat16" else declared.dtype)
        if (array.shape, array.dtype) != (declared.shape, stored):
            raise FileFormatError(
                f"parameter {name!r} is {array.dtype} {array.shape}, but the program declares {declared.dtype} "
                f"{declared.shape}"
            )
        description = write_tensor_desc(declared.dtype, declared.shape)
        file.write(struct.pack("<IQIi", 0, 0, 0, len(description)) + description)
        content = np.ascontiguousarray(array.astype(stored.newbyteorder("<"), copy=False))
        file.write(content.reshape(-1).view(np.uint8).data)


def write_tensor_desc(dtype: str, shape: Sequence[int]) -> bytes:
    """The inverse of `read_tensor_desc`."""
    code = next(code for code, name in DTYPES.items() if name == dtype)
    return protobuf.encode_integer(1, code) + b"".join(protobuf.encode_integer(2, size) for size in shape)


def read_tensor_desc(description: memoryview, where: str) -> tuple[str, tuple[int, ...]]:
    """A `TensorDesc` message: numpy's name of the type, and the shape (-1 where it is not fixed)."""
    dtype: str | None = None
    shape: list[int] = []
    for number, value in protobuf.fields(description, where):
        if number == 1:
            code = protobuf.integer(value, where)
            dtype = DTYPES.get(code)
            if dtype is None:
                raise FileFormatError(f"{where}: unknown tensor type {code}; the file is corrupt or too new")
        elif number == 2:
            shape.extend(islice(protobuf.integers(value, where), _DIMENSIONS_AT_MOST + 1))
            if len(shape) > _DIMENSIONS_AT_MOST:
                break
    if dtype is None or len(shape) > _DIMENSIONS_AT_MOST:
        raise FileFormatError(f"{where}: no type, or more than {_DIMENSIONS_AT_MOST} dimensions; the file is corrupt")
    return dtype, tuple(shape)


def _read_tensor(reader: ByteReader, what: str) -> tuple[Array, str]:
    if reader.u32(f"the header of {what}") != 0:
        raise reader.error(f"{what} does not begin with a tensor header; the file is not a .pdiparams or is corrupt")
    for _ in range(reader.u64(f"the header of {what}")):
        reader.skip(reader.u64(f"the header of {what}"), f"the header of {what}")
    if reader.u32(f"the header of {what}") != 0:
        raise reader.error(f"{what} is of an unknown tensor version; the file is corrupt or too new")
    description = reader.take(reader.i32(f"the header of {what}"), f"the description of {what}")
    dtype, shape = read_tensor_desc(description, f"{reader.path}: {what}")
    if any(size < 0 for size in shape) or math.prod(size or 1 for size in shape) > 1 << 48:
        raise reader.error(f"{what} has the shape {shape}; the file is corrupt")
    stored = np.dtype("uint16" if dtype == "bfloat16" else _numpy_type(dtype, reader, what)).newbyteorder("<")
    offset = reader.skip(math.prod(shape) * stored.itemsize, f"the data of {what}")
    array: Array = np.ndarray(shape, stored, reader.data, offset)
    return array, dtype


def _numpy_type(dtype: str, reader: ByteReader, what: str) -> str:
    if dtype.startswith("float8"):
        raise reader.error(f"{what} is {dtype}, which numpy cannot hold; export the model in float32 or float16")
    return dtype
