"""The structure of a `.pdmodel` file: blocks of operations on variables, whose types it declares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdiparams import read_tensor_desc
from paddle2torch.converters.paddle_files.pdmodel import read_arguments, read_attribute
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
_DENSE_TENSOR, ARRAY = 7, 13


@dataclass(frozen=True)
class Op:
    """An operation: its kind, variables by slot, attributes."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]


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

    def _load_variable(self, data: memoryview, block: BlockDesc, index: int) -> None:  # noqa: C901, a case for each kind of variable
        name: str | None = None
        kind: memoryview | None = None
        persistable = False
        for number, value in protobuf.fields(data, self.where):
            if number == 1:
                name = protobuf.name(value, self.where)
            elif number == 2:
                kind = protobuf.message(value, self.where)
            elif number == 3:
                persistable = bool(protobuf.integer(value, self.where))
        if not name or kind is None:
            self.fail("a variable has no name or no type; the file is corrupt")
        if name in block.variables:
            self.fail(f"variable {name!r} is declared twice")
        code, tensor = -1, None
        for number, value in protobuf.fields(kind, self.where):
            if number == 1:
                code = protobuf.integer(value, self.where)
            elif number == 3:
                for inner, item in protobuf.fields(protobuf.message(value, self.where), self.where):
                    if inner == 1:
                        tensor = protobuf.message(item, self.where)
        block.variables[name] = code
        if code != _DENSE_TENSOR:
            return
        if tensor is None:
            self.fail(f"variable {name!r} is a tensor without a type; the file is corrupt")
        dtype, shape = read_tensor_desc(tensor, f"{self.where}: variable {name!r}")
        if len(shape) > DIMENSIONS_AT_MOST or not all(size <= SIZE_AT_MOST for size in shape):
            self.fail(f"variable {name!r} has a shape that is out of bounds; the file is corrupt")
        # Free sizes are -1; Paddle itself writes products of them (-4) for results that no operation reads.
        self.types[name] = TensorType(tuple(max(size, -1) for size in shape), dtype)
        if persistable and index == 0:
            self.parameters.append(name)

    def _load_op(self, data: memoryview, position: int) -> Op:
        where = f"{self.path}: operation {position}"
        kind = ""
        inputs: dict[str, tuple[str, ...]] = {}
        outputs: dict[str, tuple[str, ...]] = {}
        attributes: dict[str, Any] = {}
        for number, value in protobuf.fields(data, where):
            if number == 3:
                kind = protobuf.name(value, where)
            elif number in (1, 2):
                slot, names = read_arguments(protobuf.message(value, where), where)
                self.members += len(names)
                (inputs if number == 1 else outputs)[slot] = names
            elif number == 4:
                attributes.update(read_attribute(protobuf.message(value, where), where, blocks=True))
        if not kind:
            raise FileFormatError(f"{where}: has no type; the file is corrupt")
        if self.members > MEMBERS_AT_MOST:
            raise FileFormatError(f"{where}: reads far more values than any program; the file is corrupt")
        return Op(kind, inputs, outputs, attributes)
