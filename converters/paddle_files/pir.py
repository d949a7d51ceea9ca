"""`inference.json`: an exported program of the PIR format (Paddle 3).

The file is JSON: `base_code` (magic "pir" and a version), and one region with one block, whose `ops` are the program.
`#` is the name of an operation, a type or an attribute, with the dialect abbreviated (0 builtin, 1 pd_op); `%` the id
of a value, 0 for an absent one; `I`, `O`, `A` inputs, outputs and attributes. An operation "p" is a parameter; one that
is not persistable (the dropout state of an LSTM) is a value that `.pdiparams` does not store.
Facts from Paddle's `paddle/fluid/pir/serialize_deserialize`; versions 1 to 4 differ in attributes only.

What is normalised, so that both formats read alike:

- the kind is the name without dialect and trailing underscore (`1.batch_norm_` is "batch_norm"); a builtin
  operation that is left keeps its dialect ("builtin.split");
- a parameter is called by its name wherever it is read, every other value by its id;
- a constant (`full`, `full_int_array`) that is an operand listed in `CONSTANT_OPERANDS` becomes an attribute of that
  name: the `shape` of a reshape, the `axis` of a concat. One that something else reads stays an operation;
- `combine` disappears: who reads the list reads its members. `data` and `fetch` become `Program.feeds` and
  `Program.fetches`.

`Operation.outputs` has a name for each result, "" where it is absent, so that an index in it is the index of the
result. A result that is a list of tensors is a name without a `Value`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from paddle2torch.converters.paddle_files.files import is_name, map_file
from paddle2torch.converters.paddle_files.program import REQUIRED_INPUTS, Operation, Program, Value
from paddle2torch.model_zoo.errors import FileFormatError

# Kind -> index of an operand -> the attribute it is, where it is a constant. Legacy programs have it as an attribute.
CONSTANT_OPERANDS: Mapping[str, Mapping[int, str]] = {
    "argmax": {1: "axis"},
    "clip": {1: "min", 2: "max"},
    "concat": {1: "axis"},
    "conv2d_transpose": {2: "output_size"},
    "dropout": {2: "p"},
    "expand": {1: "shape"},
    "full_with_tensor": {0: "value", 1: "shape"},
    "max": {1: "axis"},
    "mean": {1: "axis"},
    "pool2d": {1: "kernel_size"},
    "reshape": {1: "shape"},
    "scale": {1: "scale"},
    "slice": {1: "starts", 2: "ends"},
    "split": {1: "sections", 2: "axis"},
    "split_with_num": {1: "axis"},
    "squeeze": {1: "axis"},
    "strided_slice": {1: "starts", 2: "ends", 3: "strides"},
    "sum": {1: "axis"},
    "unsqueeze": {1: "axis"},
}

_SIZE_AT_MOST = 8 << 20  # the largest PP-OCR programs have 0.5 MB; as Python objects JSON takes 25 times its size
_DIALECTS = {"0": "builtin", "1": "pd_op", "2": "cf", "3": "custom_op", "4": "dist"}
_KINDS = {"shape64": "shape", "sync_batch_norm": "batch_norm"}
_DTYPES = {
    "t_bool": "bool",
    "t_bf16": "bfloat16",
    "t_f16": "float16",
    "t_f32": "float32",
    "t_f64": "float64",
    "t_f8e4m3fn": "float8_e4m3fn",
    "t_f8e5m2": "float8_e5m2",
    "t_i8": "int8",
    "t_i16": "int16",
    "t_i32": "int32",
    "t_i64": "int64",
    "t_index": "int64",
    "t_ui8": "uint8",
    "t_c64": "complex64",
    "t_c128": "complex128",
}
_NO_NUMBERS = {"NaN": float("nan"), "INF": float("inf"), "-INF": float("-inf")}
_SILENT_ATTRIBUTES = frozenset({"place", "op_dist_attr", "op_role", "op_callstack"})
_DIMENSIONS_AT_MOST = 32
_SIZE_OF_DIMENSION_AT_MOST = 1 << 40
_DEPTH_OF_ATTRIBUTE = 4
_LIST_MEMBERS_AT_MOST = 100_000
_VERSION_AT_MOST = 99  # versions differ in attributes, which are checked one by one; this one only meets corruption


def read_pir(path: str | os.PathLike[str]) -> Program:
    """Read a PIR `inference.json`.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a program, is
    corrupt, or branches (a program with loops or conditions is more than one list of operations).
    """
    return _Reader(path).read()


T = TypeVar("T")


def _show(value: object) -> str:
    """A value of the file for a message; of lists and dictionaries, which may be large and deep, only the type."""
    return f"{value!r:.80}" if isinstance(value, str | int | float) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class _Constant:
    """A `full` or `full_int_array`: its operation, and what it is worth as an attribute."""

    operation: Operation
    value: Any


class PirFile:
    """The parts of one file that every reader of the format needs; `where` is the place that an error names."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.where = f"{path}"

    def _load(self) -> dict[str, Any]:
        """The outermost block: `args` and `ops`."""
        with map_file(self.path) as data:
            if len(data) > _SIZE_AT_MOST:
                self._fail(f"{len(data):,} bytes are too many for a program")
            try:
                document = json.loads(str(data, "utf-8"), parse_constant=self._refuse_constant)
            except RecursionError:
                self._fail("is nested deeper than any program; the file is corrupt")
            except ValueError as error:  # of the syntax, of the encoding, or of a number with thousands of digits
                self._fail(f"is not JSON: {error}; is the file truncated?")
        base = self._field(document, "base_code", dict)
        if base.get("magic") != "pir":
            self._fail("is JSON, but not a PIR program (no magic word); is it the inference.json of an export?")
        version = self._field(base, "version", int)
        if not 0 <= version <= _VERSION_AT_MOST:
            self._fail(f"is of PIR version {version}; up to {_VERSION_AT_MOST} is known")
        return self._block(self._field(document, "program", dict))

    def _block(self, item: object) -> dict[str, Any]:
        """The one block of a program, or of a region that is given as an item with `regions`."""
        regions = self._field(item, "regions", list)
        if len(regions) != 1:
            self._fail("is not one list of operations; the file is corrupt")
        return self._region(regions[0])

    def _region(self, region: object) -> dict[str, Any]:
        blocks = self._field(region, "blocks", list)
        if len(blocks) != 1 or not isinstance(blocks[0], dict):
            self._fail("has a region that is not one block; the file is corrupt")
        return blocks[0]

    def _fail(self, message: str) -> NoReturn:
        raise FileFormatError(f"{self.where}: {message}")

    def _field(self, item: object, key: str, kind: type[T]) -> T:
        value = item.get(key) if isinstance(item, dict) else None
        if type(value) is not kind:
            self._fail(f"{key!r} is missing or is not a {kind.__name__}; the file is corrupt")
        return value

    def _integer(self, value: object) -> int:
        if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
            self._fail(f"{_show(value)} stands where an integer belongs; the file is corrupt")
        return value

    def _name(self, value: object) -> str:
        if not isinstance(value, str) or not is_name(value):
            self._fail(f"{_show(value)} is not a name; the file is corrupt")
        return value

    def _refuse_constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")

    def _kind(self, code: str) -> str:
        abbreviated, _, name = code.partition(".")
        dialect = _DIALECTS.get(abbreviated, abbreviated)
        if dialect != "pd_op":
            return f"{dialect}.{name}"
        name = name.removesuffix("_")
        return _KINDS.get(name, name)

    def _tensor_type(self, item: dict[str, Any]) -> tuple[tuple[int, ...], str] | None:
        """Shape and dtype of a dense tensor; None for a list of tensors and for no type."""
        kind = self._field(item, "#", str).partition(".")[2]
        if kind != "t_dtensor":
            return None
        content = self._field(item, "D", list)
        if len(content) < 2 or not isinstance(content[1], list) or len(content[1]) > _DIMENSIONS_AT_MOST:
            self._fail("a tensor has no shape; the file is corrupt")
        shape = tuple(self._size(size) for size in content[1])
        if not all(-1 <= size <= _SIZE_OF_DIMENSION_AT_MOST for size in shape):
            self._fail(f"a tensor has the shape {shape}; the file is corrupt")
        return shape, self._dtype(content[0])

    def _size(self, value: object) -> int:
        return self._integer(value)

    def _dtype(self, item: object) -> str:
        code = self._field(item, "#", str).partition(".")[2]
        if code not in _DTYPES:
            self._fail(f"unknown type {code[:40]!r}; the file is corrupt or too new")
        return _DTYPES[code]

    def _attributes(self, items: list[Any]) -> Iterator[tuple[str, Any]]:
        for item in items:
            name = self._name(self._field(item, "N", str))
            if name not in _SILENT_ATTRIBUTES:
                yield name, self._attribute(self._field(item, "AT", dict), 0)

    def _attribute(self, item: object, depth: int) -> Any:
        """An attribute as a plain value; lists become tuples."""
        code = self._field(item, "#", str)
        if code == "NULL":
            return None
        if isinstance(item, dict) and "VD" in item:
            void = self._field(item, "VD", str)
            if void not in _NO_NUMBERS:
                self._fail("an attribute is neither a number nor one of NaN, INF, -INF; the file is corrupt")
            return _NO_NUMBERS[void]
        kind = code.partition(".")[2]
        if kind in ("a_i32", "a_i64", "a_index"):
            return self._integer(self._field(item, "D", int))
        if kind == "a_bool":
            return self._field(item, "D", bool)
        if kind in ("a_str", "a_tensorname", "a_dtype", "a_layout"):
            return self._field(item, "D", str)
        if kind in ("a_f32", "a_f64"):
            return self._real(item.get("D") if isinstance(item, dict) else None)
        if kind == "a_type":
            return self._dtype(self._field(item, "D", dict))
        content = self._field(item, "D", list)
        if kind == "a_intarray":
            return tuple(self._integer(value) for value in content)
        if kind == "a_array" and depth < _DEPTH_OF_ATTRIBUTE:
            return tuple([self._attribute(value, depth + 1) for value in content])
        if kind == "a_scalar" and len(content) == 2:  # [dtype, value]
            return content[1] if type(content[1]) is bool else self._real(content[1])
        self._fail(f"an attribute of unknown type {code[:40]!r}; the file is corrupt or too new")

    def _real(self, value: object) -> int | float:
        return value if type(value) is float else self._integer(value)


class _Reader(PirFile):
    """Reads one file, operation by operation."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.values: dict[str, Value] = {}
        self.names: dict[int, str] = {}  # by id, of every value made so far
        self.lists: dict[int, tuple[str, ...]] = {}  # members of what `combine` made
        self.list_members_read = 0
        self.constants: dict[str, _Constant] = {}
        self.constants_read: set[str] = set()  # by what needs them as values
        self.parameters: list[str] = []
        self.feeds: list[str] = []
        self.fetches: dict[int, str] = {}
        self.operations: list[Operation] = []

    def read(self) -> Program:
        block = self._load()
        if self._field(block, "args", list):
            self._fail("is not one list of operations; programs with loops or conditions are not read")
        for position, operation in enumerate(self._field(block, "ops", list)):
            self.where = f"{self.path}: operation {position}"
            self._read_operation(position, operation)
        kept = [constant.operation for name, constant in self.constants.items() if name in self.constants_read]
        return Program(
            format="pir",
            operations=tuple(sorted([*self.operations, *kept], key=lambda operation: operation.position)),
            values=self.values,
            parameters=tuple(sorted(self.parameters)),
            feeds=tuple(self.feeds),
            fetches=tuple(name for _, name in sorted(self.fetches.items())),
        )

    def _read_operation(self, position: int, item: object) -> None:
        code = self._name(self._field(item, "#", str))
        if code == "p":
            self._read_parameter(item)
            return
        kind = self._kind(code)
        self.where = f"{self.where} ({kind})"
        if isinstance(item, dict) and "regions" in item:
            self._fail("has operations inside; programs with loops or conditions are not read")
        operands = [self._integer(self._field(operand, "%", int)) for operand in self._field(item, "I", list)]
        attributes = dict(self._attributes(self._field(item, "A", list)))
        inputs = tuple(self._inputs(kind, operands, attributes))
        if kind == "builtin.combine":
            (made,) = self._results(item, 1)
            self.lists[int(made)] = inputs
            return
        if kind in ("data", "feed"):
            self.feeds += self._results(item, 1)
            return
        if kind == "fetch":
            self._results(item, 1)
            column = attributes.get("col", 0)
            if len(inputs) != 1 or column in self.fetches or type(column) is not int:
                self._fail("does not fetch one value of its own; the file is corrupt")
            self.fetches[column] = inputs[0]
            return
        required = REQUIRED_INPUTS.get(kind, 0)
        if len(inputs) < required or not all(inputs[:required]):
            self._fail(f"lacks one of its {required} inputs; the file is corrupt")
        operation = Operation(kind, inputs, tuple(self._results(item)), attributes, position)
        value = self._constant(operation)
        if value is not None:
            self.constants[operation.outputs[0]] = _Constant(operation, value)
        else:
            self.operations.append(operation)

    def _read_parameter(self, item: object) -> None:
        # Compressed: [is_distributed, is_parameter, need_clip, name].
        attributes = self._field(item, "A", list)
        if len(attributes) < 4:
            self._fail("is a parameter without a name; the file is corrupt")
        name = self._name(attributes[3])
        if self._define(self._field(item, "O", dict), name) != name or name not in self.values:
            self._fail(f"parameter {name!r} is not a tensor; the file is corrupt")
        # [persistable, stop_gradient, trainable]; left out by exports that are not trainable.
        state = self._field(item, "OA", list) if isinstance(item, dict) and "OA" in item else [1]
        if state[:1] == [1]:
            self.parameters.append(name)

    def _results(self, item: object, count: int | None = None) -> list[str]:
        results = [self._define(result) for result in self._field(item, "O", list)]
        if count is not None and (len(results) != count or not all(results)):
            self._fail(f"has {len(results)} results where {count} belongs; the file is corrupt")
        return results

    def _define(self, result: object, name: str | None = None) -> str:
        """Enter a result under `name` or its id; "" for an absent one."""
        number = self._integer(self._field(result, "%", int))
        if number == 0:
            return ""
        name = name or str(number)
        if number < 0 or number in self.names or name in self.values:
            self._fail(f"value {number} ({name!r}) is made twice or cannot be; the file is corrupt")
        self.names[number] = name
        tensor = self._tensor_type(self._field(result, "TT", dict))
        if tensor is not None:
            self.values[name] = Value(name, *tensor)
        return name

    def _inputs(self, kind: str, operands: list[int], attributes: dict[str, Any]) -> list[str]:
        """The names that an operation reads; constants that belong among its attributes go there instead."""
        folded = CONSTANT_OPERANDS.get(kind, {})
        inputs: list[str] = []
        for index, number in enumerate(operands):
            if number == 0:
                inputs.append("")
                continue
            if number not in self.names:
                self._fail(f"reads value {number}, which no operation before it makes; the file is corrupt")
            if number in self.lists:
                members = self.lists[number]
                self.list_members_read += len(members)
                if self.list_members_read > _LIST_MEMBERS_AT_MOST:
                    self._fail("reads far more lists than any program; the file is corrupt")
            else:
                members = (self.names[number],)
            constant = self.constants.get(members[0]) if index in folded and len(members) == 1 else None
            if constant is not None:
                attributes[folded[index]] = constant.value
            else:
                inputs.extend(members)
        self.constants_read.update(name for name in inputs if name in self.constants)
        while inputs and not inputs[-1]:
            inputs.pop()
        return inputs

    def _constant(self, operation: Operation) -> Any:
        """What a constant is worth as an attribute: a number, or a tuple of integers. None for everything else."""
        attributes = operation.attributes
        if operation.inputs or len(operation.outputs) != 1 or not operation.outputs[0]:
            return None
        value = attributes.get("value")
        if operation.kind == "full_int_array" and isinstance(value, tuple):
            return value
        if operation.kind == "full" and attributes.get("shape") in ((), (1,)) and isinstance(value, int | float):
            whole = str(attributes.get("dtype")).startswith(("int", "uint")) and math.isfinite(value)
            return int(value) if whole else value
        return None
