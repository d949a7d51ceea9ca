"""A PIR `inference.json` of any network, read into a `Graph`.

What `converters.paddle_files.pir` says of the format holds here too, but that nothing is folded away: an operand is a
value, a list (what `builtin.combine` makes) or absent, constants stay operations, and regions become blocks.

- `while`: the inputs are the condition and the loop's values; the block's `args` have negative ids, only valid
inside, and
  one for each loop value. It ends in `yield`: the next condition, then the next values.
- `if`: the input is the condition; two regions without `args`, for true and for false, each ends in `yield`.
- Ids count on through inner blocks, but negative ones start again in each: here they are called by the block that has
  them ("3:-1").
- A kind that ends in `_` works in place. It is read as a pure function of its inputs: its result has an id of its own.
  Arrays of tensors are the exception; the operations on them keep their order.
"""

from __future__ import annotations

import os
from typing import Any

from paddle2torch.converters.paddle_files.pir import PirFile
from paddle2torch.model_zoo.programs.graph import (
    BLOCKS_DEEP_AT_MOST,
    MEMBERS_AT_MOST,
    OPERATIONS_AT_MOST,
    Block,
    Graph,
    Node,
    Operand,
    TensorType,
)

_CONTROL = {"1.while": "while", "1.if": "if", "2.while": "while", "2.if": "if"}
_REGIONS = {"while": 1, "if": 2}
# What says how Paddle runs or debugs an operation, not what it computes.
_SILENT = frozenset({"is_inplace", "mkldnn_data_type", "op_namescope", "use_cudnn", "use_mkldnn"})


def read_pir_graph(path: str | os.PathLike[str]) -> Graph:
    """Read a PIR `inference.json` with all its blocks.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a program or
    corrupt.
    """
    return _GraphReader(path).read_graph()


class _GraphReader(PirFile):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.types: dict[str, TensorType] = {}
        self.names: dict[int, str] = {0: ""}
        self.made: set[str] = set()
        self.lists: dict[str, tuple[str, ...]] = {}  # members of what `combine` made, by its name
        self.parameters: list[str] = []
        self.feeds: list[tuple[str, str]] = []
        self.fetches: dict[int, str] = {}
        self.blocks = 0
        self.operations = 0
        self.members = 0

    def read_graph(self) -> Graph:
        outermost = self._load()
        if self._field(outermost, "args", list):
            self._fail("its program takes arguments; the file is corrupt")
        block = self._read_block(outermost, 1)
        self.where = f"{self.path}"
        return Graph(
            source="PIR export",
            block=block,
            types=self.types,
            parameters=tuple(sorted(self.parameters)),
            feeds=tuple(self.feeds),
            fetches=tuple(name for _, name in sorted(self.fetches.items())),
        )

    # Blocks are at most 16 deep.
    def _read_block(self, item: dict[str, Any], depth: int) -> Block:
        if depth > BLOCKS_DEEP_AT_MOST:
            self._fail(f"blocks are nested more than {BLOCKS_DEEP_AT_MOST} deep; the file is corrupt")
        number, self.blocks = self.blocks, self.blocks + 1
        where = self.where
        outer = {number: name for number, name in self.names.items() if number < 0}
        arguments = tuple(self._define(argument, number) for argument in self._field(item, "args", list))
        nodes: list[Node] = []
        results: tuple[str, ...] | None = None
        for position, operation in enumerate(self._field(item, "ops", list)):
            self.where = f"{where}: operation {position}"
            if results is not None:
                self._fail("comes after the end of its block; the file is corrupt")
            self.operations += 1
            if self.operations > OPERATIONS_AT_MOST:
                self._fail(f"more than {OPERATIONS_AT_MOST:,} operations are too many for a program")
            read = self._read_node(operation, position if depth == 1 else -1, depth)
            if isinstance(read, Node):
                nodes.append(read)
            elif read is not None:
                results = read
        self.where = where
        if (results is None) != (depth == 1):
            self._fail("a block does not end in what it gives back; the file is corrupt")
        for argument in [number for number in self.names if number < 0]:
            del self.names[argument]
        self.names.update(outer)
        return Block(arguments, tuple(nodes), results or ())

    def _read_node(self, item: object, position: int, depth: int) -> Node | tuple[str, ...] | None:
        """An operation; the results of a block for its `yield`; None for what is entered elsewhere."""
        code = self._name(self._field(item, "#", str))
        if code == "p":
            self._read_parameter(item, depth)
            return None
        kind = _CONTROL.get(code) or self._kind(code)
        self.where = f"{self.where} ({kind})"
        operands = [self._operand(operand) for operand in self._field(item, "I", list)]
        if kind == "cf.yield":
            return tuple(self._one(operand) for operand in operands)
        attributes = dict(self._attributes(self._field(item, "A", list)))
        path = attributes.pop("struct_name", "")
        if kind == "builtin.combine":
            members = tuple(self._one(operand) for operand in operands)
            results = self._field(item, "O", list)
            if len(results) != 1:
                self._fail("does not make one list; the file is corrupt")
            self.lists[self._define(results[0])] = members
            return None
        if kind in ("data", "feed"):
            self._read_feed(item, attributes)
            return None
        if kind == "fetch":
            column = attributes.get("col", 0)
            if len(operands) != 1 or type(column) is not int or column in self.fetches:
                self._fail("does not fetch one value of its own; the file is corrupt")
            self.fetches[column] = self._one(operands[0])
            for result in self._field(item, "O", list):
                self._define(result)
            return None
        regions = self._field(item, "regions", list) if isinstance(item, dict) and "regions" in item else []
        if len(regions) != _REGIONS.get(kind, 0):
            self._fail(f"has {len(regions)} regions where {_REGIONS.get(kind, 0)} belong; the file is corrupt")
        blocks = tuple(self._read_block(self._region(region), depth + 1) for region in regions)
        return Node(
            kind=kind,
            inputs=tuple(operands),
            outputs=tuple(self._define(result) for result in self._field(item, "O", list)),
            attributes={name: value for name, value in attributes.items() if name not in _SILENT},
            path=path if isinstance(path, str) else "",
            position=position,
            blocks=blocks,
        )

    def _size(self, value: object) -> int:
        # Free sizes are -1; Paddle itself writes products of them (-4) for results that no operation reads.
        return max(self._integer(value), -1)

    def _operand(self, item: object) -> Operand:
        number = self._integer(self._field(item, "%", int))
        if number not in self.names:
            self._fail(f"reads value {number}, which no operation before it makes; the file is corrupt")
        name = self.names[number]
        members = self.lists.get(name)
        self.members += 1 if members is None else len(members)
        if self.members > MEMBERS_AT_MOST:
            self._fail("reads far more values than any program; the file is corrupt")
        return (name or None) if members is None else members

    def _one(self, operand: Operand) -> str:
        if operand is None or isinstance(operand, tuple):
            self._fail("needs one value where a list or nothing stands; the file is corrupt")
        return operand

    def _define(self, result: object, block: int | None = None) -> str:
        """Enter a result, or with `block` an argument of that block, by its id; "" for an absent one."""
        number = self._integer(self._field(result, "%" if block is None else "#", int))
        if number == 0:
            return ""
        if (number < 0) != (block is not None):
            self._fail(f"value {number} cannot be made here; the file is corrupt")
        name = str(number) if block is None else f"{block}:{number}"
        self._enter(number, name, result)
        return name

    def _enter(self, number: int, name: str, result: object) -> None:
        if name in self.made or (number > 0 and number in self.names):
            self._fail(f"value {number} ({name!r}) is made twice; the file is corrupt")
        self.made.add(name)
        self.names[number] = name
        if isinstance(result, dict) and "TT" in result:
            tensor = self._tensor_type(self._field(result, "TT", dict))
            if tensor is not None:
                self.types[name] = TensorType(*tensor)

    def _read_parameter(self, item: object, depth: int) -> None:
        # Compressed: [is_distributed, is_parameter, need_clip, name].
        attributes = self._field(item, "A", list)
        if len(attributes) < 4 or depth > 1:
            self._fail("is a parameter without a name or in an inner block; the file is corrupt")
        name = self._name(attributes[3])
        result = self._field(item, "O", dict)
        number = self._integer(self._field(result, "%", int))
        if not name or number <= 0:
            self._fail("is a parameter without a name or a value; the file is corrupt")
        self._enter(number, name, result)
        if name not in self.types:
            self._fail(f"parameter {name!r} is not a tensor; the file is corrupt")
        # [persistable, stop_gradient, trainable]; left out by exports that are not trainable.
        state = self._field(item, "OA", list) if isinstance(item, dict) and "OA" in item else [1]
        if state[:1] == [1]:
            self.parameters.append(name)
        else:
            self.names[number] = ""  # the dropout state of an LSTM: a place without a value

    def _read_feed(self, item: object, attributes: dict[str, Any]) -> None:
        results = self._field(item, "O", list)
        if len(results) != 1:
            self._fail("does not feed one value; the file is corrupt")
        value = self._define(results[0])
        if value not in self.types:
            self._fail("feeds something else than a tensor; the file is corrupt")
        name = attributes.get("name")
        self.feeds.append((name if isinstance(name, str) and name else f"input_{len(self.feeds)}", value))
