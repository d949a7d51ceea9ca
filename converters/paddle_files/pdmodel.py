"""`.pdmodel`: an exported program of the legacy format, a protobuf `ProgramDesc`.

Field numbers are those of Paddle's `paddle/fluid/framework/framework.proto` (as paddlepaddle 3.3.1 ships it).

What is normalised, so that both formats read alike:

- kinds and attributes take PIR's names (`hard_swish` is "hardswish", `trans_x` is "transpose_x");
- inputs are in the order of `INPUT_ORDER`; of other kinds the main input (`X`, `Input`) comes first. Outputs
  likewise: the main one (`Out`, `Output`, `Y`) first, then the file's order;
- `feed` and `fetch` become `Program.feeds` and `Program.fetches`;
- attributes that only concern how Paddle runs or debugs an operation are left out.

A bias of a convolution is an "add" of its own: with attribute `axis` 1 where the parameter itself is added (exports of
Paddle 2.4), or after a "reshape" of the parameter (2.6). A `fill_constant` stays an operation of kind "full". Variables
that are not dense tensors (holders of feeds, arrays of tensors) are names without a `Value`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdiparams import DTYPES, read_tensor_desc
from paddle2torch.converters.paddle_files.program import INPUT_ORDER, REQUIRED_INPUTS, Operation, Program, Value
from paddle2torch.model_zoo.errors import FileFormatError

_SIZE_AT_MOST = 16 << 20  # the largest PP-OCR programs, with call stacks inside, have 2 MB

_KINDS = {
    "arg_max": "argmax",
    "bilinear_interp_v2": "bilinear_interp",
    "elementwise_add": "add",
    "elementwise_div": "divide",
    "elementwise_max": "maximum",
    "elementwise_min": "minimum",
    "elementwise_mul": "multiply",
    "elementwise_sub": "subtract",
    "expand_as_v2": "expand_as",
    "expand_v2": "expand",
    "fill_constant": "full",
    "flatten_contiguous_range": "flatten",
    "hard_sigmoid": "hardsigmoid",
    "hard_swish": "hardswish",
    "lookup_table_v2": "embedding",
    "matmul_v2": "matmul",
    "mul": "matmul",
    "nearest_interp_v2": "nearest_interp",
    "reduce_max": "max",
    "reduce_mean": "mean",
    "reduce_sum": "sum",
    "reshape2": "reshape",
    "squeeze2": "squeeze",
    "sync_batch_norm": "batch_norm",
    "transpose2": "transpose",
    "unsqueeze2": "unsqueeze",
}
_ATTRIBUTES = {
    "data_layout": "data_format",
    "ksize": "kernel_size",
    "trans_x": "transpose_x",
    "trans_y": "transpose_y",
    "transpose_X": "transpose_x",
    "transpose_Y": "transpose_y",
}
_ATTRIBUTES_OF_KIND = {
    "dropout": {"dropout_prob": "p", "dropout_implementation": "mode"},
    "max": {"dim": "axis", "keep_dim": "keepdim"},
    "mean": {"dim": "axis", "keep_dim": "keepdim"},
    "sum": {"dim": "axis", "keep_dim": "keepdim"},
    "squeeze": {"axes": "axis"},
    "transpose": {"axis": "perm"},
    "unsqueeze": {"axes": "axis"},
}
# Call stacks, placement and what oneDNN, cuDNN and quantisation passes left behind. What a fusion took into an
# operation (`fuse_relu`) is not among them: it decides about values.
_SILENT_ATTRIBUTES = (
    "exhaustive_search",
    "force_cpu",
    "mkldnn_",
    "op_",
    "place_type",
    "use_addto",
    "use_cudnn",
    "use_mkldnn",
    "use_quantizer",
    "with_quant_attr",
    "workspace_size_MB",
)

_MAIN_INPUTS = ("X", "Input")
_MAIN_OUTPUTS = ("Out", "Output", "Y")
_DENSE_TENSOR = 7

# `AttrType`: the field that holds the value, and how it is read. Types 8 and 10 refer to other blocks.
_SUB_BLOCK_TYPES = (8, 10)
_BLOCK, _BLOCK_FIELD = 8, 12
_INT, _FLOAT, _STRING, _BOOL, _DOUBLE, _SCALAR = range(6)
_ONE_VALUE = {
    0: (3, _INT),
    1: (4, _FLOAT),
    2: (5, _STRING),
    6: (10, _BOOL),
    9: (13, _INT),
    13: (17, _STRING),
    15: (19, _DOUBLE),
    16: (20, _SCALAR),
}
_MANY_VALUES = {
    3: (6, _INT),
    4: (7, _FLOAT),
    5: (8, _STRING),
    7: (11, _BOOL),
    11: (15, _INT),
    12: (16, _DOUBLE),
    14: (18, _STRING),
    17: (21, _SCALAR),
}


def read_pdmodel(path: str | os.PathLike[str]) -> Program:
    """Read a `.pdmodel` file.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a program, is
    corrupt, or branches (a program with loops or conditions is more than one list of operations).
    """
    data = map_file(path)
    if len(data) > _SIZE_AT_MOST:
        raise FileFormatError(f"{path}: {len(data):,} bytes are too many for a program; is it a .pdiparams?")
    with protobuf.counted():
        return _read_program(data, path)


def _read_program(data: memoryview, path: str | os.PathLike[str]) -> Program:  # noqa: C901, a case for each field of the file
    # The operations of further blocks belong to an operation of the first that names them, which is refused there.
    block: protobuf.Field | None = None
    for number, found in protobuf.fields(data, f"{path}"):
        if number == 1 and block is None:
            block = found
    if block is None:
        raise FileFormatError(f"{path}: holds no program; it is not a .pdmodel or is corrupt")

    values: dict[str, Value] = {}
    variables: set[str] = set()
    parameters: list[str] = []
    operations: list[Operation] = []
    feeds: dict[int, str] = {}
    fetches: dict[int, str] = {}
    for number, field in protobuf.fields(protobuf.message(block, f"{path}"), f"{path}: the program"):
        if number == 3:
            variable = read_variable(protobuf.message(field, f"{path}"), f"{path}: a variable")
            if variable.name in variables:
                raise FileFormatError(f"{path}: variable {variable.name!r} is declared twice")
            variables.add(variable.name)
            if variable.value is not None:
                values[variable.name] = variable.value
                if variable.persistable:
                    parameters.append(variable.name)
        elif number == 4:
            position = len(operations) + len(feeds) + len(fetches)
            where = f"{path}: operation {position}"
            operation = _read_operation(protobuf.message(field, where), position, where)
            if operation.kind == "feed":
                _add_end(feeds, operation, operation.outputs, where)
            elif operation.kind == "fetch":
                _add_end(fetches, operation, operation.inputs, where)
            else:
                operations.append(operation)

    for operation in operations:
        for name in (*operation.inputs, *operation.outputs):
            if name and name not in variables:
                raise FileFormatError(
                    f"{path}: operation {operation.position} ({operation.kind}) uses {name!r}, which is not declared"
                )
    for name in (*feeds.values(), *fetches.values()):
        if name not in values:
            raise FileFormatError(f"{path}: the program's input or output {name!r} is not declared")
    return Program(
        format="legacy",
        operations=tuple(operations),
        values=values,
        parameters=tuple(sorted(parameters)),
        feeds=tuple(name for _, name in sorted(feeds.items())),
        fetches=tuple(name for _, name in sorted(fetches.items())),
    )


def _add_end(ends: dict[int, str], operation: Operation, names: tuple[str, ...], where: str) -> None:
    column = operation.attributes.get("col", 0)
    if len(names) != 1 or type(column) is not int or column in ends:
        raise FileFormatError(f"{where}: does not {operation.kind} one value of its own; the file is corrupt")
    ends[column] = names[0]


@dataclass(frozen=True)
class Variable:
    """A `VarDesc`. `kind` is Paddle's code of what it holds, `value` what it is if that is a tensor.

    A `persistable` one outlives a run, as a parameter does.
    """

    name: str
    kind: int
    value: Value | None
    persistable: bool


def read_variable(description: memoryview, where: str) -> Variable:
    """Read a `VarDesc`; an error names the variable."""
    name: str | None = None
    kind: memoryview | None = None
    persistable = False
    for number, field in protobuf.fields(description, where):
        if number == 1:
            name = protobuf.name(field, where)
            where = f"{where} {name!r}"
        elif number == 2:
            kind = protobuf.message(field, where)
        elif number == 3:
            persistable = bool(protobuf.integer(field, where))
    if not name or kind is None:
        raise FileFormatError(f"{where}: has no name or no type; the file is corrupt")

    code = -1
    tensor: memoryview | None = None
    for number, field in protobuf.fields(kind, where):
        if number == 1:
            code = protobuf.integer(field, where)
        elif number == 3:
            for inner, value in protobuf.fields(protobuf.message(field, where), where):
                if inner == 1:
                    tensor = protobuf.message(value, where)
    if code != _DENSE_TENSOR:
        return Variable(name, code, None, persistable)
    if tensor is None:
        raise FileFormatError(f"{where}: a tensor without a type; the file is corrupt")
    dtype, shape = read_tensor_desc(tensor, where)
    return Variable(name, code, Value(name, shape, dtype), persistable)


@dataclass(frozen=True)
class Op:
    """An `OpDesc`: its kind, variables by slot and attributes, under the names that the file has for them."""

    kind: str
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]


def read_op(
    description: memoryview, where: str, *, blocks: bool = False, count: Callable[[int], None] = lambda names: None
) -> Op:
    """Read an `OpDesc`; with `blocks` it may have blocks of its own (see `BlockReference`).

    count: is told how many names each slot has, as they are read: also of a slot that a later one takes the place of.
    """
    kind: str | None = None
    inputs: dict[str, tuple[str, ...]] = {}
    outputs: dict[str, tuple[str, ...]] = {}
    attributes: dict[str, Any] = {}
    for number, field in protobuf.fields(description, where):
        if number == 3:
            kind = protobuf.name(field, where)
        elif number in (1, 2):
            slot, names = _read_slot(protobuf.message(field, where), where)
            count(len(names))
            (inputs if number == 1 else outputs)[slot] = names
        elif number == 4:
            attributes.update(_read_attribute(protobuf.message(field, where), where, blocks))
    if not kind:
        raise FileFormatError(f"{where}: has no type; the file is corrupt")
    return Op(kind, inputs, outputs, attributes)


def _read_operation(description: memoryview, position: int, where: str) -> Operation:
    op = read_op(description, where)
    kind = _KINDS.get(op.kind, op.kind)
    renamed = _ATTRIBUTES | _ATTRIBUTES_OF_KIND.get(kind, {})
    attributes = {renamed.get(name, name): value for name, value in op.attributes.items()}
    if kind == "full":
        _name_constant(attributes, where)
    ordered = _order(kind, op.inputs)
    required = REQUIRED_INPUTS.get(kind, 0)
    if len(ordered) < required or not all(ordered[:required]):
        raise FileFormatError(f"{where} ({kind}): lacks one of its {required} inputs; the file is corrupt")
    return Operation(kind, ordered, _main_first(op.outputs, _MAIN_OUTPUTS), attributes, position)


def _name_constant(attributes: dict[str, Any], where: str) -> None:
    """Give a `fill_constant` PIR's `dtype` and `value`: it has the type as a code, and may have the value as a text."""
    code = attributes.get("dtype")
    written = attributes.pop("str_value", "")
    if not isinstance(code, int) or code not in DTYPES or not isinstance(written, str):
        raise FileFormatError(f"{where}: a constant of unknown type {code!r}; the file is corrupt or too new")
    attributes["dtype"] = DTYPES[code]
    if written:
        try:
            attributes["value"] = float(written)
        except ValueError as error:
            raise FileFormatError(f"{where}: the constant {written[:80]!r} is not a number") from error


def _read_slot(description: memoryview, where: str) -> tuple[str, tuple[str, ...]]:
    """An operation's `Var`: the name of the slot, and the values in it."""
    slot = ""
    names = []
    for number, field in protobuf.fields(description, where):
        if number == 1:
            slot = protobuf.name(field, where)
        elif number == 2:
            names.append(protobuf.name(field, where))
    return slot, tuple(names)


def _order(kind: str, inputs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if kind not in INPUT_ORDER:
        return _main_first(inputs, _MAIN_INPUTS)
    by_name = {parameter.lower(): arguments for parameter, arguments in inputs.items()}
    # A place in the order is kept where a later one is filled (a LayerNorm with a bias and no scale).
    ordered = [name for parameter in INPUT_ORDER[kind] for name in by_name.pop(parameter, ()) or ("",)]
    ordered += [name for arguments in by_name.values() for name in arguments]
    while ordered and not ordered[-1]:
        ordered.pop()
    return tuple(ordered)


def _main_first(arguments: Mapping[str, tuple[str, ...]], main: tuple[str, ...]) -> tuple[str, ...]:
    parameters = sorted(arguments, key=lambda parameter: parameter not in main)
    return tuple(name for parameter in parameters for name in arguments[parameter])


@dataclass(frozen=True)
class BlockReference:
    """An attribute that names a block of the program by its index."""

    index: int


def _read_attribute(description: memoryview, where: str, blocks: bool) -> Iterator[tuple[str, Any]]:
    """An `Attr` as (name, value); nothing where it does not concern the result.

    An attribute that refers to a block is a `BlockReference` with `blocks`, else it is refused.
    """
    stored = list(protobuf.fields(description, where))
    name = next((protobuf.name(field, where) for number, field in stored if number == 1), None)
    code = next((protobuf.integer(field, where) for number, field in stored if number == 2), None)
    if name is None or code is None:
        raise FileFormatError(f"{where}: an attribute has no name or no type; the file is corrupt")
    if name.startswith(_SILENT_ATTRIBUTES):
        return
    where = f"{where}: attribute {name!r}"
    if code == _BLOCK and blocks:
        found = [protobuf.integer(field, where) for number, field in stored if number == _BLOCK_FIELD]
        if len(found) != 1:
            raise FileFormatError(f"{where}: names {len(found)} blocks where one belongs; the file is corrupt")
        yield name, BlockReference(found[0])
    elif code in _SUB_BLOCK_TYPES:
        raise FileFormatError(f"{where}: refers to a block of its own; programs with loops or conditions are not read")
    elif code in _ONE_VALUE:
        number, form = _ONE_VALUE[code]
        found = [value for key, field in stored if key == number for value in _read_values(field, form, where)]
        if len(found) != 1:
            raise FileFormatError(f"{where}: holds {len(found)} values where one belongs; the file is corrupt")
        yield name, found[0]
    elif code in _MANY_VALUES:
        number, form = _MANY_VALUES[code]
        yield name, tuple(value for key, field in stored if key == number for value in _read_values(field, form, where))
    else:
        raise FileFormatError(f"{where}: is of unknown type {code}; the file is corrupt or too new")


def _read_values(field: protobuf.Field, form: int, where: str) -> Iterator[Any]:
    if form == _INT:
        yield from protobuf.integers(field, where)
    elif form == _BOOL:
        yield from (bool(value) for value in protobuf.integers(field, where))
    elif form == _FLOAT:
        yield from protobuf.reals(field, where, "f")
    elif form == _DOUBLE:
        yield from protobuf.reals(field, where, "d")
    elif form == _STRING:
        yield protobuf.text(field, where)
    else:
        yield _read_scalar(protobuf.message(field, where), where)


def _read_scalar(description: memoryview, where: str) -> bool | int | float:
    """A `Scalar`: a number with its own type. Paddle writes complex ones too; no network here has them."""
    for number, field in protobuf.fields(description, where):
        if number == 2:
            return bool(protobuf.integer(field, where))
        if number == 3:
            return protobuf.integer(field, where)
        if number == 4:
            return protobuf.reals(field, where, "d")[0]
    raise FileFormatError(f"{where}: a number of unknown kind; the file is corrupt or too new")
