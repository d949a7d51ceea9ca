"""An exported program made to fit another number of classes: another character set, other labels.

The number is not written as such: it is the size of the last linear layer, and of every value between that layer and
the program's output. Those shapes are rewritten in the program's file, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.files import map_file
from paddle2torch.converters.paddle_files.pdiparams import read_tensor_desc, write_tensor_desc
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.steps import steps_of
from paddle2torch.model_zoo.errors import ConversionError

Shapes = Mapping[str, tuple[int, ...]]


def class_count(program: Program) -> int | None:
    """How many classes the program's last linear layer tells apart; None for a program without one (a detector)."""
    linears = [step for step in steps_of(program) if step.kind == "linear"]
    if not linears:
        return None
    shape = program.values[linears[-1].parameters["weight"]].shape
    return shape[0] if linears[-1].attributes.get("transpose_y") else shape[-1]


def class_shapes(program: Program, classes: int) -> dict[str, tuple[int, ...]]:
    """The new shape of each value of `program` that has one element per class, for `classes` of them.

    Raises `ConversionError` where a value between the last linear layer and the output hides its classes in another
    dimension than the last: such a program cannot be changed safely.
    """
    head = [step for step in steps_of(program) if step.kind == "linear"][-1]
    weight = program.values[head.parameters["weight"]].shape
    turned = bool(head.attributes.get("transpose_y"))
    before = weight[0] if turned else weight[-1]
    shapes: dict[str, tuple[int, ...]] = {
        head.parameters["weight"]: (classes, *weight[1:]) if turned else (*weight[:-1], classes)
    }
    if "bias" in head.parameters:
        shapes[head.parameters["bias"]] = (classes,)
    reached = set(shapes)
    for operation in program.operations:
        if not reached.intersection(operation.inputs):
            continue
        for name in operation.outputs:
            value = program.values.get(name)
            if value is None:
                continue
            if not value.shape or value.shape[-1] != before:
                raise ConversionError(
                    f"the program's classes cannot be changed from {before} to {classes}: operation "
                    f"{operation.position} ({operation.kind}) makes {list(value.shape)} of them"
                )
            reached.add(name)
            shapes[name] = (*value.shape[:-1], classes)
    return shapes


def with_shapes(path: Path, shapes: Shapes) -> bytes:
    """The program file at `path` (PIR or legacy), with the values named in `shapes` of those shapes."""
    return _pir_with_shapes(path, shapes) if path.suffix == ".json" else _legacy_with_shapes(path, shapes)


def _pir_with_shapes(path: Path, shapes: Shapes) -> bytes:
    # Read by `read_pir` before: what its operations are made of has been checked.
    with map_file(path) as data:
        document = json.loads(str(data, "utf-8"))
    for operation in document["program"]["regions"][0]["blocks"][0]["ops"]:
        if operation["#"] == "p":
            if operation["A"][3] in shapes:
                operation["O"]["TT"]["D"][1] = list(shapes[operation["A"][3]])
            continue
        fetched = str(operation["I"][0]["%"]) if operation["#"].endswith(".fetch") else None
        for result in operation["O"]:
            shape = shapes.get(fetched or str(result["%"]))
            if shape is not None:
                result["TT"]["D"][1] = list(shape)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _legacy_with_shapes(path: Path, shapes: Shapes) -> bytes:
    where = f"{path}"

    def edit_program(number: int, field: protobuf.Field) -> bytes | None:
        return protobuf.edited(protobuf.message(field, where), edit_block, where) if number == 1 else None

    def edit_block(number: int, field: protobuf.Field) -> bytes | None:
        if number != 3:
            return None
        variable = protobuf.message(field, where)
        name = next((protobuf.name(value, where) for key, value in protobuf.fields(variable, where) if key == 1), "")
        if name not in shapes:
            return None

        def edit(depth: int, content: memoryview) -> bytes:
            # VarDesc.type, VarType.lod_tensor, LoDTensorDesc.tensor.
            wanted = (2, 3, 1)
            if depth == len(wanted):
                return write_tensor_desc(read_tensor_desc(content, where)[0], shapes[name])
            return protobuf.edited(
                content,
                lambda n, f: edit(depth + 1, protobuf.message(f, where)) if n == wanted[depth] else None,
                where,
            )

        return edit(0, variable)

    with map_file(path) as data:
        return protobuf.edited(data, edit_program, where)
