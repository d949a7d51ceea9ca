"""PIR `inference.json`: what the file says, with constants folded and lists unfolded."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Operation, Program, Value
from paddle2torch.model_zoo.errors import FileFormatError

ONE = ("0.a_i32", 1)


def read(tmp_path: Path, content: bytes) -> Program:
    path = tmp_path / "inference.json"
    path.write_bytes(content)
    return read_pir(path)


def test_a_small_program(tmp_path: Path, paddle_files: Any) -> None:
    program = read(tmp_path, paddle_files.small_pir())
    attributes = {"strides": (2, 1), "paddings": (0, 0), "groups": 1, "data_format": "NCHW"}
    assert program.operations == (
        Operation("conv2d", ("3", "conv2d_0.w_0"), ("4",), attributes, 3),
        Operation("reshape", ("conv2d_0.b_0",), ("6",), {"shape": (1, -1, 1, 1)}, 5),
        Operation("add", ("4", "6"), ("7",), {}, 6),
        Operation("hardswish", ("7",), ("8",), {}, 7),
    )
    assert program.format == "pir"
    assert program.feeds == ("3",)
    assert program.fetches == ("8",)
    assert program.parameters == ("conv2d_0.b_0", "conv2d_0.w_0")
    assert program.values["3"] == Value("3", (-1, 3, -1, -1), "float32")
    assert program.values["conv2d_0.w_0"] == Value("conv2d_0.w_0", (4, 3, 1, 1), "float32")
    assert program.values["5"].dtype == "int64"


@pytest.mark.parametrize("version", [0, 1, 4])
def test_versions(tmp_path: Path, paddle_files: Any, version: int) -> None:
    assert read(tmp_path, paddle_files.pir_program([], version)).operations == ()


def test_lists_and_constants(tmp_path: Path, paddle_files: Any) -> None:
    """A combined list is read as its members; a constant is folded where it is an operand, kept where it is data."""
    files = paddle_files
    operation, tensor = files.pir_operation, files.tensor
    whole = {"shape": ("1.a_intarray", [1]), "value": ("0.a_f64", 1.0), "dtype": ("1.a_dtype", "int32")}
    program = read(
        tmp_path,
        files.pir_program(
            [
                operation("1.data", [], [tensor(1, [2])], {}),
                operation("1.full", [], [tensor(2, [1], "i32")], whole),
                operation("0.combine", [1, 1], [{"%": 3, "TT": {"#": "0.t_vec", "D": []}}], {}),
                operation("1.concat", [3, 2], [tensor(4, [4])], {}),
                operation("0.combine", [2, 1], [{"%": 5, "TT": {"#": "0.t_vec", "D": []}}], {}),
                operation("1.stack", [5], [tensor(6, [2, 2])], {"axis": ("0.a_i32", 0)}),
                operation("1.full", [], [tensor(7, [2])], whole | {"shape": ("1.a_intarray", [2])}),
                operation("1.scale", [6, 7], [tensor(8, [2, 2])], {"place": ("1.a_place", [0, 0, ""])}),
                operation("1.fetch", [8], [tensor(9, [2, 2])], {}),
            ]
        ),
    )
    assert program.operations == (
        Operation("full", (), ("2",), {"shape": (1,), "value": 1.0, "dtype": "int32"}, 1),
        Operation("concat", ("1", "1"), ("4",), {"axis": 1}, 3),
        Operation("stack", ("2", "1"), ("6",), {"axis": 0}, 5),
        Operation("full", (), ("7",), {"shape": (2,), "value": 1.0, "dtype": "int32"}, 6),
        Operation("scale", ("6", "7"), ("8",), {}, 7),
    )
    assert type(program.operations[1].attributes["axis"]) is int


def test_names_and_absent_values(tmp_path: Path, paddle_files: Any) -> None:
    files = paddle_files
    operation, tensor = files.pir_operation, files.tensor
    state = files.pir_parameter(1, "lstm.dropout_state", [])
    absent = {"%": 0, "TT": {"#": "NULL"}}
    vector = {"%": 5, "TT": {"#": "0.t_vec", "D": []}}
    program = read(
        tmp_path,
        files.pir_program(
            [
                state | {"OA": [0, 1, 0]},  # not persistable: no file stores it
                {key: value for key, value in files.pir_parameter(2, "layer_norm.b_0", [2]).items() if key != "OA"},
                operation("pd_op.layer_norm_", [1, 0, 2], [tensor(3, [2]), absent, tensor(4, [1])], {}),
                operation("1.dropout", [3, 0, 0], [vector], {}),
                operation("0.split", [5], [tensor(6, []), tensor(7, [])], {}),
                operation("1.shape64", [6], [tensor(8, [1], "i64")], {}),
                operation("3.my_op", [8], [tensor(9, [1], "bf16")], {}),
            ]
        ),
    )
    assert program.parameters == ("layer_norm.b_0",)
    assert [(step.kind, step.inputs, step.outputs) for step in program.operations] == [
        ("layer_norm", ("lstm.dropout_state", "", "layer_norm.b_0"), ("3", "", "4")),
        ("dropout", ("3",), ("5",)),
        ("builtin.split", ("5",), ("6", "7")),
        ("shape", ("6",), ("8",)),
        ("custom_op.my_op", ("8",), ("9",)),
    ]
    assert "5" not in program.values
    assert program.values["9"].dtype == "bfloat16"


def test_every_type_of_attribute(tmp_path: Path, paddle_files: Any) -> None:
    attributes = {
        "bool": ("0.a_bool", True),
        "long": ("0.a_i64", -(2**40)),
        "index": ("0.a_index", 3),
        "single": ("0.a_f32", 0.5),
        "whole": ("0.a_f64", 2),
        "text": ("0.a_str", "NCHW"),
        "type": ("1.a_dtype", "float32"),
        "scalar": ("1.a_scalar", ["float32", 0.25]),
        "flag": ("1.a_scalar", ["bool", False]),
        "of_type": ("0.a_type", {"#": "0.t_f16"}),
        "nested": [[("0.a_i32", 1)], []],
    }
    operation = paddle_files.pir_operation("1.op", [], [], attributes)
    operation["A"].append({"N": "infinite", "AT": {"#": "0.a_f32", "VD": "-INF"}})
    operation["A"].append({"N": "none", "AT": {"#": "NULL"}})
    operation["A"].append({"N": "no_number", "AT": {"#": "0.a_f64", "VD": "NaN"}})
    read_attributes = dict(read(tmp_path, paddle_files.pir_program([operation])).operations[0].attributes)
    assert math.isnan(read_attributes.pop("no_number"))
    assert read_attributes == {
        "bool": True,
        "long": -(2**40),
        "index": 3,
        "single": 0.5,
        "whole": 2,
        "text": "NCHW",
        "type": "float32",
        "scalar": 0.25,
        "flag": False,
        "of_type": "float16",
        "nested": ((1,), ()),
        "infinite": float("-inf"),
        "none": None,
    }


def test_programs_that_are_refused(tmp_path: Path, paddle_files: Any) -> None:
    files = paddle_files
    operation, tensor, program = files.pir_operation, files.tensor, files.pir_program
    parameter = files.pir_parameter(1, "w", [2])
    for content, message in [
        (b"{}", "'base_code' is missing"),
        (b"[1]", "'base_code' is missing"),
        (b'{"base_code": {"magic": "onnx"}}', "not a PIR program"),
        (files.small_pir().replace(b'"version": 4', b'"version": 400'), "PIR version 400"),
        (files.small_pir().replace(b'"version": 4', b'"version": "4"'), "'version' is missing or is not a int"),
        (b'{"base_code": {"magic": "pir", "version": 4}, "program": {"regions": []}}', "not one list of operations"),
        (b"\xff\xfe{}", "is not JSON"),
        (files.small_pir()[:-1], "is not JSON: .* truncated"),
        (files.small_pir().replace(b"NCHW", b"NC\nHW", 1), "is not JSON"),
        (program([operation("1.op", [7], [], {})]), r"operation 0 .op.: reads value 7, which no operation before"),
        (program([parameter, parameter]), "made twice"),
        (program([parameter, files.pir_parameter(2, "w", [2])]), "made twice"),
        (program([files.pir_parameter(-1, "w", [2])]), "cannot be"),
        (program([files.pir_parameter(1, "\x1b[2J", [2])]), r"'\\x1b\[2J' is not a name"),
        (program([files.pir_parameter(1, "\ud800", [2])]), "is not a name"),
        (program([files.pir_parameter(1, "w", [-2])]), "shape"),
        (program([files.pir_parameter(1, "w", [2**60])]), "shape"),
        (program([files.pir_parameter(1, "w", [10**30])]), "stands where an integer belongs"),
        (program([files.pir_parameter(1, "w", [0.5])]), "stands where an integer belongs"),
        (program([files.pir_parameter(1, "w", [1] * 40)]), "no shape"),
        (program([parameter | {"A": [0, 1, 1]}]), "without a name"),
        (program([parameter | {"O": {"%": 1, "TT": {"#": "0.t_vec"}}}]), "'w' is not a tensor"),
        (program([operation("1.op", [], [tensor(1, [2], "f9")], {})]), "unknown type 't_f9'"),
        (program([operation("1.op", [], [], {"a": ("0.a_new", [])})]), "unknown type '0.a_new'"),
        (program([operation("1.op", [], [], {"a": ("0.a_i32", 1.5)})]), "'D' is missing or is not a int"),
        (program([operation("1.op", [], [], {"a": [[[[[[]]]]]]})]), "unknown type '0.a_array'"),
        (program([operation("1.while", [], [], {}) | {"regions": []}]), "loops or conditions"),
        (program([operation("1.conv2d", [0, 0], [], {})]), r"\(conv2d\): lacks one of its 2 inputs"),
        (program([operation("1.batch_norm_", [1, 1], [], {})]), "reads value 1"),
        (program([operation("1.op", [], [], {}) | {"A": [{"N": "a", "AT": {"#": "0.a_f32", "VD": []}}]}]), "'VD'"),
        (program([operation("1.op", [], [], {}) | {"A": [{"N": "a", "AT": {"#": "0.a_f32", "VD": "x"}}]}]), "NaN, INF"),
        (files.small_pir().replace(b"[4, 3, 1, 1]", b"[%s1%s]" % (b"[" * 300, b"]" * 300)), "a list stands where"),
        (program([files.pir_parameter(1, "n" * 1001, [2])]), "'n{79} is not a name"),
        (program([operation("1.fetch", [], [tensor(1, [])], {})]), "does not fetch one value"),
        (program([operation("1.data", [], [], {})]), "has 0 results where 1 belongs"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
    ]:
        with pytest.raises(FileFormatError, match=message) as caught:
            read(tmp_path, content)
        assert str(tmp_path) in str(caught.value)


def real_programs(shared: Path) -> list[Path]:
    return sorted([*shared.glob("models/*/inference.json"), *shared.glob("reference/zoo/*/inference.json")])


def test_real_programs_count(shared: Path) -> None:
    assert len(real_programs(shared)) == 20


@pytest.mark.slow
def test_real_programs(shared: Path) -> None:
    """All twelve: every operation accounted for, every stored parameter read by one, names as the manifest has them."""
    for path in real_programs(shared):
        program = read_pir(path)
        written = json.loads(path.read_text())["program"]["regions"][0]["blocks"][0]["ops"]
        counts = Counter(operation["#"] for operation in written)
        stored = [operation for operation in written if operation["#"] == "p" and operation["OA"][0]]
        assert program.parameters == tuple(sorted(operation["A"][3] for operation in stored))
        left_out = counts["p"] + counts["1.data"] + counts["1.fetch"] + counts["0.combine"]
        constants = counts["1.full"] + counts["1.full_int_array"]
        kept = Counter(operation.kind for operation in program.operations)
        assert len(program.operations) - kept["full"] == len(written) - left_out - constants
        for operation in program.operations:
            source = written[operation.position]["#"].partition(".")[2].removesuffix("_")
            assert operation.kind == source.removesuffix("64")
        used = {name for operation in program.operations for name in operation.inputs}
        assert used >= set(program.parameters)
        manifest = path.parent.parent / (path.parent.name.removesuffix("_infer") + ".manifest.json")
        if manifest.is_file():
            assert set(json.loads(manifest.read_text())["fused_names"]) >= set(program.parameters)
