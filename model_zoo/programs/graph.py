"""A program as data: operations in order, in nested blocks. What both of Paddle's formats are read into.

Every value has one name and is made once, also in the blocks of a loop or a condition; a block reads values of the
blocks
around it by name. `graph.json` in the folder of a converted model is this, as JSON of one version; nothing in it is
code.

An operation's kind is PIR's without the dialect and the trailing underscore ("conv2d", "set_value_with_tensor"); the
builtin and control flow dialects keep theirs ("builtin.split"), but for "while", "if" and "combine", which is gone:
an operand is a name, a tuple of names (a list of tensors), or None where it is absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.strict_json import decode_json

GRAPH_NAME = "graph.json"
GRAPH_FORMAT = "paddle2torch program"
GRAPH_VERSION = 1

OPERATIONS_AT_MOST = 200_000
"""Operations of one program, those in inner blocks included. The largest of 99 networks has 7,248."""
MEMBERS_AT_MOST = 1_000_000
"""Names of values and numbers among the attributes, all together."""
BLOCKS_DEEP_AT_MOST = 16
GRAPH_BYTES_AT_MOST = 64 << 20
DIMENSIONS_AT_MOST = 32
SIZE_AT_MOST = 1 << 40
NAME_AT_MOST = 1000

Operand = str | tuple[str, ...] | None

DTYPES = frozenset(
    {"bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32"}
    | {"float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"}
)


@dataclass(frozen=True)
class TensorType:
    """A tensor's shape, -1 where it depends on the input, and its type by numpy's name ("bfloat16" for BF16)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Node:
    """One operation. `path` is Paddle's `struct_name`, the path of layers, "" where it is missing.

    `position` is the operation's index in the file's outermost list, by which Paddle's process finds it again; -1 in an
    inner block. `outputs` has "" for an absent result.
    """

    kind: str
    inputs: tuple[Operand, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    position: int = -1
    blocks: tuple[Block, ...] = ()

    def reads(self) -> Iterator[str]:
        """The values that it reads itself, without those of its blocks."""
        for operand in self.inputs:
            if isinstance(operand, str):
                yield operand
            elif operand is not None:
                yield from operand


@dataclass(frozen=True)
class Block:
    """Operations in order. `arguments` are what a loop hands in, `results` what is handed back."""

    arguments: tuple[str, ...]
    nodes: tuple[Node, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A program without the values of its parameters.

    `types` has those of tensors; a list or an array of tensors has none. `parameters` are in the order in which
    `.pdiparams` stores them. `feeds` are (name for the caller, value), `fetches` are values.
    """

    source: str
    block: Block
    types: Mapping[str, TensorType]
    parameters: tuple[str, ...]
    feeds: tuple[tuple[str, str], ...]
    fetches: tuple[str, ...]

    def __post_init__(self) -> None:
        check(self)

    def walk(self) -> Iterator[Node]:
        """All operations, those of inner blocks after the one that has them."""
        pending = [iter(self.block.nodes)]
        while pending:
            for node in pending[-1]:
                yield node
                if node.blocks:
                    pending += [iter(block.nodes) for block in reversed(node.blocks)]
                    break
            else:
                pending.pop()


def check(graph: Graph) -> None:  # noqa: C901, a rule after the other
    """Raise `FileFormatError` unless every value is made once, before it is read, and all parts are in bounds."""
    defined: set[str] = set()
    operations = 0

    def define(names: tuple[str, ...]) -> list[str]:
        made = [name for name in names if name]
        for name in made:
            if name in defined:
                raise FileFormatError(f"value {name!r:.80} is made twice; the program is corrupt")
            defined.add(name)
        return made

    visible: set[str] = set()
    visible.update(define(graph.parameters))
    visible.update(define(tuple(value for _, value in graph.feeds)))

    def enter(block: Block) -> list[str]:
        made = define(block.arguments)
        visible.update(made)
        return made

    # Each frame: the block, its operations that are still to come, and what it has made, which ends with it.
    stack: list[tuple[Block, Iterator[Node], list[str]]] = [(graph.block, iter(graph.block.nodes), [])]
    enter(graph.block)
    waiting: list[tuple[Node, list[Block], list[str]]] = []  # operations whose blocks are being read
    while stack:
        block, nodes, made = stack[-1]
        for node in nodes:
            operations += 1
            if operations > OPERATIONS_AT_MOST:
                raise FileFormatError(f"more than {OPERATIONS_AT_MOST:,} operations are too many for a program")
            for name in node.reads():
                if name not in visible:
                    raise FileFormatError(
                        f"operation {node.kind!r:.80} reads value {name!r:.80}, which no operation before it makes; "
                        "the program is corrupt"
                    )
            if node.blocks:
                if len(stack) >= BLOCKS_DEEP_AT_MOST:
                    raise FileFormatError(f"blocks are nested more than {BLOCKS_DEEP_AT_MOST} deep")
                waiting.append((node, list(node.blocks[1:]), made))
                first = node.blocks[0]
                stack.append((first, iter(first.nodes), enter(first)))
                break
            new = define(node.outputs)
            visible.update(new)
            made += new
        else:
            for name in block.results:
                if name and name not in visible:
                    raise FileFormatError(f"a block gives value {name!r:.80}, which it does not make or see")
            stack.pop()
            if waiting:
                visible.difference_update(made)
                node, rest, outer = waiting[-1]
                if rest:
                    following = rest.pop(0)
                    stack.append((following, iter(following.nodes), enter(following)))
                else:
                    waiting.pop()
                    new = define(node.outputs)
                    visible.update(new)
                    outer += new
    for name in graph.fetches:
        if name not in visible:
            raise FileFormatError(f"the program returns value {name!r:.80}, which no operation makes")
    for name in graph.parameters:
        if name not in graph.types or any(size < 0 for size in graph.types[name].shape):
            raise FileFormatError(f"parameter {name!r:.80} has no shape; the program is corrupt")


def dump_graph(graph: Graph) -> str:
    """The text of `graph.json`."""

    def operand(value: Operand) -> Any:
        return list(value) if isinstance(value, tuple) else value

    # Blocks are at most 16 deep (`check`).
    def block(value: Block) -> dict[str, Any]:
        return {
            "arguments": list(value.arguments),
            "results": list(value.results),
            "nodes": [
                {
                    "kind": node.kind,
                    "inputs": [operand(item) for item in node.inputs],
                    "outputs": list(node.outputs),
                    **({"attributes": _plain(node.attributes)} if node.attributes else {}),
                    **({"path": node.path} if node.path else {}),
                    "position": node.position,
                    **({"blocks": [block(inner) for inner in node.blocks]} if node.blocks else {}),
                }
                for node in value.nodes
            ],
        }

    document = {
        "format": GRAPH_FORMAT,
        "version": GRAPH_VERSION,
        "source": graph.source,
        "feeds": [list(feed) for feed in graph.feeds],
        "fetches": list(graph.fetches),
        "parameters": list(graph.parameters),
        "types": {name: [kind.dtype, list(kind.shape)] for name, kind in graph.types.items()},
        "block": block(graph.block),
    }
    return json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n"


def _plain(value: Any) -> Any:
    """JSON data of an attribute; a number that JSON does not have is a text in an object."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def load_graph(text: str, where: str) -> Graph:
    """Read the text of `graph.json`; the inverse of `dump_graph`. Raises `FileFormatError` for anything else."""
    if len(text) > GRAPH_BYTES_AT_MOST:
        raise FileFormatError(f"{where}: {len(text):,} bytes are too many for a program")
    try:
        document = decode_json(text)
    except RecursionError:
        raise FileFormatError(f"{where}: is nested deeper than any program") from None
    except ValueError as error:
        raise FileFormatError(f"{where}: is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != GRAPH_FORMAT:
        raise FileFormatError(f"{where}: is not a program that paddle2torch wrote")
    if document.get("version") != GRAPH_VERSION:
        raise FileFormatError(
            f"{where}: is of version {document.get('version')!r:.20}, this release reads {GRAPH_VERSION}; convert again"
        )
    try:
        return _Decoder(where).graph(document)
    except FileFormatError as error:
        if str(error).startswith(where):
            raise
        raise FileFormatError(f"{where}: {error}") from None


def read_graph(folder: Path) -> Graph:
    """The graph of a converted program; raises `FileFormatError` for a file that is none."""
    path = file_in(Path(folder), GRAPH_NAME)
    if not path.exists():
        raise FileFormatError(f"{folder} has no {GRAPH_NAME}")
    try:
        return load_graph(read_bounded(path, GRAPH_BYTES_AT_MOST, "program").decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise FileFormatError(f"{path} is not a text file; the file is corrupt") from None


class _Decoder:
    """Checks every part of the document on the way to the dataclasses."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.members = 0

    def fail(self, what: str) -> NoReturn:
        raise FileFormatError(f"{self.where}: {what}; the file is corrupt")

    def graph(self, document: dict[str, Any]) -> Graph:
        expected = {"format", "version", "source", "feeds", "fetches", "parameters", "types", "block"}
        if set(document) != expected:
            self.fail(f"its keys are not {', '.join(sorted(expected))}")
        feeds = [self.names(pair) for pair in self.listed(document["feeds"])]
        if any(len(pair) != 2 for pair in feeds):
            self.fail("a feed is not a name and a value")
        if not isinstance(document["types"], dict):
            self.fail("its types are not an object")
        return Graph(
            source=self.name(document["source"]),
            block=self.block(document["block"], 1),
            types={self.name(name): self.type(value) for name, value in document["types"].items()},
            parameters=self.names(document["parameters"]),
            feeds=tuple((pair[0], pair[1]) for pair in feeds),
            fetches=self.names(document["fetches"]),
        )

    def count(self, members: int = 1) -> None:
        self.members += members
        if self.members > 4 * MEMBERS_AT_MOST:
            self.fail("it has more parts than any program")

    def listed(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            self.fail(f"a {type(value).__name__} stands where a list belongs")
        self.count(len(value))
        return value

    def name(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > NAME_AT_MOST or not value.isprintable():
            self.fail("something else stands where a name belongs")
        return value

    def names(self, value: Any) -> tuple[str, ...]:
        return tuple(self.name(item) for item in self.listed(value))

    def integer(self, value: Any) -> int:
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            self.fail("something else stands where an integer belongs")
        return value

    def type(self, value: Any) -> TensorType:
        pair = self.listed(value)
        if len(pair) != 2 or not isinstance(pair[0], str) or pair[0] not in DTYPES:
            self.fail("a type of a tensor is not known")
        shape = tuple(self.integer(size) for size in self.listed(pair[1]))
        if len(shape) > DIMENSIONS_AT_MOST or not all(-1 <= size <= SIZE_AT_MOST for size in shape):
            self.fail("a shape is out of bounds")
        return TensorType(shape, pair[0])

    def block(self, value: Any, depth: int) -> Block:
        if depth > BLOCKS_DEEP_AT_MOST:
            self.fail(f"blocks are nested more than {BLOCKS_DEEP_AT_MOST} deep")
        if not isinstance(value, dict) or set(value) != {"arguments", "results", "nodes"}:
            self.fail("a block has other keys than arguments, results, nodes")
        return Block(
            arguments=self.names(value["arguments"]),
            nodes=tuple(self.node(node, depth) for node in self.listed(value["nodes"])),
            results=self.names(value["results"]),
        )

    def node(self, value: Any, depth: int) -> Node:
        known = {"kind", "inputs", "outputs", "attributes", "path", "position", "blocks"}
        if not isinstance(value, dict) or not {"kind", "inputs", "outputs", "position"} <= set(value) <= known:
            self.fail(f"an operation has other keys than {', '.join(sorted(known))}")
        attributes = value.get("attributes", {})
        if not isinstance(attributes, dict):
            self.fail("the attributes of an operation are not an object")
        return Node(
            kind=self.name(value["kind"]),
            inputs=tuple(self.operand(item) for item in self.listed(value["inputs"])),
            outputs=self.names(value["outputs"]),
            attributes={self.name(name): self.attribute(item, 0) for name, item in attributes.items()},
            path=self.name(value.get("path", "")),
            position=self.integer(value["position"]),
            blocks=tuple(self.block(inner, depth + 1) for inner in self.listed(value.get("blocks", []))),
        )

    def operand(self, value: Any) -> Operand:
        if value is None:
            return None
        return self.names(value) if isinstance(value, list) else self.name(value)

    def attribute(self, value: Any, depth: int) -> Any:
        self.count()
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and depth < 4:
            return tuple(self.attribute(item, depth + 1) for item in self.listed(value))
        if isinstance(value, dict) and set(value) == {"number"} and value["number"] in ("nan", "inf", "-inf"):
            return float(value["number"])
        self.fail("an attribute is of an unknown kind")
