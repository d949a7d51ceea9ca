"""`.onnx`: a `ModelProto` read without trust, and without the `onnx` package.

Nodes, constants and texts are read; what shapes the exporter inferred is not. A tensor is a view of the mapped file,
whose size has been compared with the shape before anything else is done; one in a file of its own
("external data") must be in the folder of the model.
Facts from `onnx/onnx.proto` (IR versions 3 to 11).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdparams import Array
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.names import leads_out
from paddle2torch.model_zoo.show import show, show_path

# The largest text recogniser has 1,300 nodes. Reading costs time for each, whatever it does.
NODES_AT_MOST = 20_000
FIELDS_AT_MOST = 200_000
# A recogniser's settings with all its characters have 0.3 MB.
TEXT_AT_MOST = 8 << 20

_DIMENSIONS_AT_MOST = 32
_SIZE_AT_MOST = 1 << 40
# `TensorProto.DataType`, by numpy's names.
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
# Where a tensor has no raw bytes, its values are in the field of its type: number of the field, and the type there.
# Integers of 32 bits and less, and the bits of half-precision numbers, are in one field of varints.
_FLOAT_DATA, _INT32_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 7, 10, 11
_VALUE_FIELDS = {
    "float32": _FLOAT_DATA,
    "float64": _DOUBLE_DATA,
    "int64": _INT64_DATA,
    "uint32": _UINT64_DATA,
    "uint64": _UINT64_DATA,
}
_EXTERNAL = 1


@dataclass(frozen=True)
class Tensor:
    """A constant: numpy's name of its type ("bfloat16": its bits as uint16), its shape, its values, read-only."""

    dtype: str
    shape: tuple[int, ...]
    array: Array = field(repr=False)


@dataclass(frozen=True)
class Node:
    """One operation: `inputs` has "" for an input that is left out. `index` counts in the file's order."""

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    index: int

    @property
    def output(self) -> str:
        """The first value that it makes, which no other node makes."""
        return self.outputs[0]


@dataclass(frozen=True)
class OnnxModel:
    """What a `.onnx` holds: the graph in its order, constants by name, names of inputs and outputs, and texts.

    `inputs` leaves out the constants, which older files list there as well. `shapes` has the declared shape of an
    input (-1 where a size is free). `opset` is the version of the operations.
    """

    path: Path
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    external_files: tuple[Path, ...]


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Read a `.onnx`.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not an ONNX file, is
    corrupt, or larger than any model of text.
    """
    return _Reader(Path(path)).read()


class _Reader:
    """Reads one file; `where` is the place that an error names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = show_path(path)
        self.fields_read = 0
        self.external: dict[Path, memoryview] = {}

    def read(self) -> OnnxModel:
        graph: memoryview | None = None
        metadata: dict[str, str] = {}
        opsets: dict[str, int] = {}
        version = None
        for number, value in self._fields(map_file(self.path), self.where):
            if number == 1:
                version = protobuf.integer(value, self.where)
            elif number == 7:
                if graph is not None:
                    self._fail("has two graphs; the file is corrupt")
                graph = protobuf.message(value, self.where)
            elif number == 8:
                domain, opset = self._opset(protobuf.message(value, self.where))
                opsets[domain] = opset
            elif number == 14:
                key, text = self._entry(protobuf.message(value, self.where), TEXT_AT_MOST)
                metadata[key] = text
        if graph is None or version is None:
            self._fail("is no ONNX file: it has no graph or no version")
        opset = opsets.get("", opsets.get("ai.onnx", 0))
        if not 1 <= opset <= 99:
            self._fail("does not say which version of ONNX's operations it uses; the file is corrupt")
        return self._graph(graph, opset, metadata)

    def _fail(self, message: str) -> NoReturn:
        raise FileFormatError(f"{self.where}: {message}")

    def _fields(self, data: memoryview, where: str) -> Iterator[tuple[int, protobuf.Field]]:
        for number, value in protobuf.fields(data, where):
            self._count(1)
            yield number, value

    def _opset(self, data: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self._fields(data, self.where):
            if number == 1:
                domain = protobuf.name(value, self.where)
            elif number == 2:
                version = protobuf.integer(value, self.where)
        return domain, version

    def _entry(self, data: memoryview, longest: int) -> tuple[str, str]:
        key = text = ""
        for number, value in self._fields(data, self.where):
            if number == 1:
                key = protobuf.name(value, self.where)
            elif number == 2:
                if len(protobuf.message(value, self.where)) > longest:
                    self._fail(f"the text {show(key)} is longer than {longest:,} bytes")
                text = protobuf.text(value, self.where)
        return key, text

    def _graph(self, data: memoryview, opset: int, metadata: dict[str, str]) -> OnnxModel:
        nodes: list[Node] = []
        constants: dict[str, Tensor] = {}
        inputs: dict[str, tuple[int, ...]] = {}
        outputs: list[str] = []
        for number, value in self._fields(data, self.where):
            if number not in (1, 5, 11, 12, 15):
                continue
            content = protobuf.message(value, self.where)
            if number == 1:
                if len(nodes) == NODES_AT_MOST:
                    self._fail(f"has more than {NODES_AT_MOST:,} nodes, which no model of text has")
                nodes.append(self._node(content, len(nodes)))
            elif number == 5:
                name, tensor = self._tensor(content)
                if not name or name in constants:
                    self._fail(f"has two constants {show(name)}, or one without a name; the file is corrupt")
                constants[name] = tensor
            elif number == 11:
                name, shape = self._value(content)
                inputs[name] = shape
            elif number == 12:
                outputs.append(self._value(content)[0])
            else:
                self._fail("has sparse constants, which are not read: save it with dense ones")
        return OnnxModel(
            path=self.path,
            opset=opset,
            nodes=tuple(nodes),
            constants=constants,
            inputs=tuple(name for name in inputs if name not in constants),
            outputs=tuple(outputs),
            shapes={name: shape for name, shape in inputs.items() if name not in constants},
            metadata=metadata,
            external_files=tuple(self.external),
        )

    def _node(self, data: memoryview, index: int) -> Node:
        where = f"{self.where}: node {index}"
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Any] = {}
        kind = domain = ""
        for number, value in self._fields(data, where):
            if number == 1:
                inputs.append(protobuf.name(value, where))
            elif number == 2:
                outputs.append(protobuf.name(value, where))
            elif number == 4:
                kind = protobuf.name(value, where)
            elif number == 5:
                name, content = self._attribute(protobuf.message(value, where), where)
                attributes[name] = content
            elif number == 7:
                domain = protobuf.name(value, where)
        if not kind:
            raise FileFormatError(f"{where}: has no kind; the file is corrupt")
        return Node(kind, "" if domain == "ai.onnx" else domain, tuple(inputs), tuple(outputs), attributes, index)

    def _attribute(self, data: memoryview, where: str) -> tuple[str, Any]:
        """Name and value: a number, a text, a `Tensor`, a tuple of numbers or texts; None for what is not read."""
        name = ""
        one: float | str | Tensor | None = None
        floats: list[float] = []
        integers: list[int] = []
        texts: list[str] = []
        for number, value in self._fields(data, where):
            if number == 1:
                name = protobuf.name(value, where)
            elif number == 2:
                one = _only(protobuf.reals(value, where, "f"), where)
            elif number == 3:
                one = protobuf.integer(value, where)
            elif number == 4:
                one = str(protobuf.message(value, where), "utf-8", "replace")
            elif number == 5:
                one = self._tensor(protobuf.message(value, where))[1]
            elif number == 7:
                floats.extend(self._floats(value, where))
            elif number == 8:
                integers.extend(self._integers(value, where))
            elif number == 9:
                texts.append(str(protobuf.message(value, where), "utf-8", "replace"))
        return name, tuple(floats) or tuple(integers) or tuple(texts) or one

    def _integers(self, value: protobuf.Field, where: str) -> Iterator[int]:
        for number in protobuf.integers(value, where):
            self._count(1)
            yield number

    def _floats(self, value: protobuf.Field, where: str) -> tuple[float, ...]:
        self._count(1 if isinstance(value, int) else len(value) // 4)
        return protobuf.reals(value, where, "f")

    def _count(self, fields: int) -> None:
        self.fields_read += fields
        if self.fields_read > FIELDS_AT_MOST:
            self._fail(f"has more than {FIELDS_AT_MOST:,} fields, which no model of text has")

    def _value(self, data: memoryview) -> tuple[str, tuple[int, ...]]:
        """Name and shape of an input or output, -1 where a size is not a number; () without a shape."""
        name, shape = "", []
        for number, value in self._fields(data, self.where):
            if number == 1:
                name = protobuf.name(value, self.where)
            elif number == 2:
                # TypeProto.tensor_type, its shape, its dimensions, the value of one.
                for dimension in self._inside(protobuf.message(value, self.where), (1, 2, 1)):
                    sizes = [protobuf.integer(v, self.where) for n, v in self._fields(dimension, self.where) if n == 1]
                    shape.append(sizes[0] if sizes else -1)
        return name, tuple(shape)

    def _inside(self, data: memoryview, path: tuple[int, ...]) -> Iterator[memoryview]:
        for number, value in self._fields(data, self.where):
            if number == path[0]:
                content = protobuf.message(value, self.where)
                if len(path) == 1:
                    yield content
                else:
                    yield from self._inside(content, path[1:])

    def _tensor(self, data: memoryview) -> tuple[str, Tensor]:
        name, code, location = "", 0, 0
        shape: list[int] = []
        raw: memoryview | None = None
        values: dict[int, list[protobuf.Field]] = {}
        external: dict[str, str] = {}
        for number, value in self._fields(data, self.where):
            if number == 1:
                shape.extend(self._integers(value, self.where))
            elif number == 2:
                code = protobuf.integer(value, self.where)
            elif number in (_FLOAT_DATA, _INT32_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA):
                values.setdefault(number, []).append(value)
            elif number == 8:
                name = protobuf.name(value, self.where)
            elif number == 9:
                raw = protobuf.message(value, self.where)
            elif number == 13:
                key, text = self._entry(protobuf.message(value, self.where), 4096)
                external[key] = text
            elif number == 14:
                location = protobuf.integer(value, self.where)
        what = f"constant {show(name)}"
        dtype = _DTYPES.get(code)
        if dtype is None:
            self._fail(f"{what} is of type {code}, which no model of text has (8: text, 17 and more: 8 or 4 bits)")
        if len(shape) > _DIMENSIONS_AT_MOST or any(not 0 <= size <= _SIZE_AT_MOST for size in shape):
            self._fail(f"{what} has the shape {show(shape)}; the file is corrupt")
        stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
        count = 1
        for size in shape:
            count *= size
        if location == _EXTERNAL:
            raw = self._external(external, count * stored.itemsize, what)
        if raw is None:
            array = self._listed(values, dtype, stored, count, what)
        else:
            if len(raw) != count * stored.itemsize:
                self._fail(
                    f"{what}, {dtype} {shape}, needs {count * stored.itemsize:,} bytes and has {len(raw):,}; is the "
                    f"file truncated?"
                )
            array = np.frombuffer(raw, stored) if count else np.empty(0, stored)
        return name, Tensor(dtype, tuple(shape), array.reshape(shape))

    def _listed(
        self, values: dict[int, list[protobuf.Field]], dtype: str, stored: np.dtype[Any], count: int, what: str
    ) -> Array:
        """The values of a tensor without raw bytes, flat."""
        number = _VALUE_FIELDS.get(dtype, _INT32_DATA)
        parts = values.get(number, [])
        if number in (_FLOAT_DATA, _DOUBLE_DATA):
            packed = [protobuf.message(part, f"{self.where}: {what}") for part in parts]
            sizes = sum(len(part) for part in packed)
            if sizes != count * stored.itemsize or any(len(part) % stored.itemsize for part in packed):
                self._fail(f"{what} has {sizes:,} bytes where {count:,} numbers belong; is the file truncated?")
            arrays = [np.frombuffer(part, stored) for part in packed]
            return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, stored), *arrays])
        chunks = [np.array([part], np.uint64) if isinstance(part, int) else _varints(part) for part in parts]
        found = np.concatenate([np.empty(0, np.uint64), *chunks])
        if len(found) != count:
            self._fail(f"{what} has {len(found):,} numbers where {count:,} belong; is the file truncated?")
        # Negative ones come as 64 bits; half-precision ones as their 16 bits.
        if dtype in ("float16", "bfloat16"):
            return found.astype(np.uint16).view(stored)
        return found.astype(np.int64).astype(stored)

    def _external(self, entries: Mapping[str, str], needed: int, what: str) -> memoryview:
        """The bytes of a tensor in a file of its own, which must be in the model's folder."""
        location = entries.get("location", "")
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(needed)))
        except ValueError:
            offset = length = -1
        if not 0 <= offset < 1 << 62:
            self._fail(f"{what} does not say where in {show(location)} it lies; the file is corrupt")
        target = self._external_path(location, what)
        if target not in self.external:
            try:
                self.external[target] = map_file(target)
            except Paddle2TorchError as error:
                self._fail(f"{what} lies in a file of its own, which belongs beside the model: {error}")
        data = self.external[target]
        if length != needed or offset > len(data) - length:
            self._fail(
                f"{what} needs {needed:,} bytes at {offset:,} of {show(target.name)}, which has {len(data):,}; is it "
                f"truncated?"
            )
        return data[offset : offset + length]

    def _external_path(self, location: str, what: str) -> Path:
        """Where `location` points to: a plain relative path to a file in the model's folder, links followed."""
        strange = not location or not location.isprintable() or "\\" in location
        if strange or leads_out(location):
            self._fail(f"{what} would lie in {show(location)}, which is not in the folder of the model; not read")
        target = self.path.parent.joinpath(location)
        # A download of the Hub is a link into a folder where all its files are side by side.
        allowed = {self.path.parent.resolve(), self.path.resolve().parent}
        if not any(target.resolve().is_relative_to(folder) for folder in allowed):
            self._fail(f"{what} would lie in {show(location)}, a link out of the folder of the model; not read")
        return target


def _only(numbers: tuple[float, ...], where: str) -> float:
    if len(numbers) != 1:
        raise FileFormatError(f"{where}: {len(numbers)} numbers where one belongs; the file is corrupt")
    return numbers[0]


def _varints(data: memoryview) -> Array:
    """All numbers of a packed field, uint64: at once, since a constant may have millions of them."""
    content = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(content < 0x80)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        return np.empty(0, np.uint64)  # ends within a number: their count shows it
    starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    numbers = np.zeros(len(ends), np.uint64)
    for place in range(10):
        inside = starts + place <= ends
        if not inside.any():
            break
        numbers[inside] |= (content[starts[inside] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return numbers
