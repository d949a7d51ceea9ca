"""The structure of a `.pdmodel` file: blocks of operations on variables, whose types it declares."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NoReturn

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdmodel import Op, read_op, read_variable
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.programs.graph import (
    DIMENSIONS_AT_MOST,
    MEMBERS_AT_MOST,
    OPERATIONS_AT_MOST,
    SIZE_AT_MOST,
    TensorType,
)

_SIZE_AT_MOST = 64 << 20  # with call stacks; the fields themselves are counted
_FIELDS_AT_MOST = 1_000_000  # 25 times those of the largest PP-OCR programs
_BLOCKS_AT_MOST = 10_000
ARRAY = 13  # the kind of an array of tensors


@dataclass
class BlockDesc:
    """Variables by name with the code of their kind, and operations in order."""

    variables: dict[str, int] = field(default_factory=dict)  # name -> kind
    ops: list[Op] = field(default_factory=list)


class LegacyFile:
    """Reads the file; `types` are those of tensors by variable, `parameters` the names of what has weights."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.where = f"{path}"
        self.blocks: list[BlockDesc] = []
        self.types: dict[str, TensorType] = {}
        self.parameters: list[str] = []
        self.operations = 0
        self.members = 0

    def fail(self, message: str) -> NoReturn:
        raise FileFormatError(f"{self.where}: {message}")

    def load(self) -> None:
        data = map_file(self.path)
        if len(data) > _SIZE_AT_MOST:
            self.fail(f"{len(data):,} bytes are too many for a program; is it a .pdiparams?")
        with protobuf.counted(_FIELDS_AT_MOST):
            for number, value in protobuf.fields(data, self.where):
                if number == 1:
                    if len(self.blocks) == _BLOCKS_AT_MOST:
                        self.fail(f"has more than {_BLOCKS_AT_MOST:,} blocks, as no program has")
                    self.blocks.append(self._load_block(protobuf.message(value, self.where), len(self.blocks)))
        if not self.blocks:
            self.fail("holds no program; it is not a .pdmodel or is corrupt")

    def _load_block(self, data: memoryview, index: int) -> BlockDesc:
        block = BlockDesc()
        for number, value in protobuf.fields(data, self.where):
            if number == 3:
                self._load_variable(protobuf.message(value, self.where), block, index)
            elif number == 4:
                self.operations += 1
                if self.operations > OPERATIONS_AT_MOST:
                    self.fail(f"more than {OPERATIONS_AT_MOST:,} operations are too many for a program")
                block.ops.append(self._load_op(protobuf.message(value, self.where), len(block.ops)))
        return block

    def _load_variable(self, data: memoryview, block: BlockDesc, index: int) -> None:
        variable = read_variable(data, f"{self.where}: a variable")
        name, value = variable.name, variable.value
        if name in block.variables:
            self.fail(f"variable {name!r} is declared twice")
        block.variables[name] = variable.kind
        if value is None:
            return
        if len(value.shape) > DIMENSIONS_AT_MOST or not all(size <= SIZE_AT_MOST for size in value.shape):
            self.fail(f"variable {name!r} has a shape that is out of bounds; the file is corrupt")
        # Free sizes are -1; Paddle itself writes products of them (-4) for results that no operation reads.
        self.types[name] = TensorType(tuple(max(size, -1) for size in value.shape), value.dtype)
        if variable.persistable and index == 0:
            self.parameters.append(name)

    def _load_op(self, data: memoryview, position: int) -> Op:
        where = f"{self.path}: operation {position}"

        def count(names: int) -> None:
            self.members += names
            if self.members > MEMBERS_AT_MOST:
                raise FileFormatError(f"{where}: reads far more values than any program; the file is corrupt")

        return read_op(data, where, blocks=True, count=count)
