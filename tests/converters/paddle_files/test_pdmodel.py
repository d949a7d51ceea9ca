"""`.pdmodel`: what a ProgramDesc says, in the words of the program type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Operation, Program, Value
from paddle2torch.model_zoo.errors import FileFormatError

# folder -> operations, parameters, input and output
REAL = {
    "ch_PP-OCRv4_det_infer": (310, 234, "x", "sigmoid_0.tmp_0"),
    "ch_PP-OCRv4_rec_infer": (321, 234, "x", "softmax_11.tmp_0"),
    "ch_ppocr_mobile_v2.0_cls_infer": (182, 213, "x", "softmax_0.tmp_0"),
    "en_PP-OCRv4_rec_infer": (338, 234, "x", "save_infer_model/scale_0.tmp_0"),
}


def read(tmp_path: Path, content: bytes) -> Program:
    path = tmp_path / "inference.pdmodel"
    path.write_bytes(content)
    return read_pdmodel(path)


def one_operation(tmp_path: Path, files: Any, kind: str, inputs: Any, outputs: Any, attributes: Any) -> Operation:
    """A program of this operation alone, all its names declared."""
    names = {name for arguments in (*inputs.values(), *outputs.values()) for name in arguments}
    variables = [files.variable(name, (2, 3)) for name in sorted(names)]
    operation = files.operation(kind, inputs, outputs, attributes)
    return read(tmp_path, files.program_desc([operation], variables)).operations[0]


def test_a_small_program(tmp_path: Path, paddle_files: Any) -> None:
    program = read(tmp_path, paddle_files.small_pdmodel())
    attributes = {"strides": (2, 1), "paddings": (0, 0), "groups": 1, "data_format": "NCHW"}
    assert program.operations == (
        Operation("conv2d", ("x", "conv2d_0.w_0"), ("a",), attributes, 1),
        Operation("add", ("a", "conv2d_0.b_0"), ("b",), {"axis": 1}, 2),
        Operation("hardswish", ("b",), ("c",), {"offset": 3.0}, 3),
    )
    assert program.format == "legacy"
    assert program.feeds == ("x",)
    assert program.fetches == ("c",)
    assert program.parameters == ("conv2d_0.b_0", "conv2d_0.w_0")
    assert program.values["x"] == Value("x", (-1, 3, -1, -1), "float32")
    assert program.values["conv2d_0.w_0"] == Value("conv2d_0.w_0", (4, 3, 1, 1), "float32")
    assert "feed" not in program.values


def test_order_of_inputs_and_outputs(tmp_path: Path, paddle_files: Any) -> None:
    inputs = {
        "Bias": ["bias"],
        "Mean": ["mean"],
        "MomentumTensor": [],
        "Scale": ["scale"],
        "Variance": ["variance"],
        "X": ["x"],
    }
    outputs = {"MeanOut": ["mean"], "SavedMean": ["saved"], "Y": ["y"]}
    operation = one_operation(tmp_path, paddle_files, "batch_norm", inputs, outputs, {"data_layout": "NCHW"})
    assert operation.inputs == ("x", "mean", "variance", "scale", "bias")
    assert operation.outputs == ("y", "mean", "saved")
    assert operation.attributes == {"data_format": "NCHW"}

    inputs = {"Bias": ["bias"], "Scale": [], "X": ["x"]}
    operation = one_operation(tmp_path, paddle_files, "layer_norm", inputs, {"Y": ["y"]}, {})
    assert operation.inputs == ("x", "", "bias")

    inputs = {"ShapeTensor": ["s", "t"], "X": ["x"]}
    operation = one_operation(tmp_path, paddle_files, "reshape2", inputs, {"XShape": ["z"], "Out": ["y"]}, {})
    assert (operation.kind, operation.inputs, operation.outputs) == ("reshape", ("x", "s", "t"), ("y", "z"))


@pytest.mark.parametrize(
    ("kind", "attributes", "expected_kind", "expected"),
    [
        ("matmul_v2", {"trans_x": False, "trans_y": True}, "matmul", {"transpose_x": False, "transpose_y": True}),
        ("matmul", {"transpose_X": True, "alpha": 2.0}, "matmul", {"transpose_x": True, "alpha": 2.0}),
        ("elementwise_mul", {"axis": -1}, "multiply", {"axis": -1}),
    ],
)
def test_names_of_two_operands(
    tmp_path: Path, paddle_files: Any, kind: str, attributes: Any, expected_kind: str, expected: Any
) -> None:
    operation = one_operation(tmp_path, paddle_files, kind, {"Y": ["y"], "X": ["x"]}, {"Out": ["o"]}, attributes)
    assert (operation.kind, operation.inputs, operation.attributes) == (expected_kind, ("x", "y"), expected)


@pytest.mark.parametrize(
    ("kind", "attributes", "expected_kind", "expected"),
    [
        ("hard_sigmoid", {"slope": 0.25, "offset": 0.5}, "hardsigmoid", {"slope": 0.25, "offset": 0.5}),
        ("transpose2", {"axis": [0, 2, 1]}, "transpose", {"perm": (0, 2, 1)}),
        ("squeeze2", {"axes": [2]}, "squeeze", {"axis": (2,)}),
        ("pool2d", {"ksize": [3, 2], "use_cudnn": True}, "pool2d", {"kernel_size": (3, 2)}),
        ("dropout", {"dropout_prob": 0.5, "dropout_implementation": "m"}, "dropout", {"p": 0.5, "mode": "m"}),
        ("softmax", {"axis": -1, "op_device": ""}, "softmax", {"axis": -1}),
        ("instance_norm", {"use_global_stats": True}, "instance_norm", {"use_global_stats": True}),
    ],
)
def test_names_of_attributes(
    tmp_path: Path, paddle_files: Any, kind: str, attributes: Any, expected_kind: str, expected: Any
) -> None:
    operation = one_operation(tmp_path, paddle_files, kind, {"X": ["x"]}, {"Out": ["o"]}, attributes)
    assert (operation.kind, operation.attributes) == (expected_kind, expected)


def test_constants(tmp_path: Path, paddle_files: Any) -> None:
    for written, value in (("", 2.0), ("7", 7.0), ("-inf", float("-inf"))):
        attributes = {"shape": [1], "dtype": 2, "value": 2.0, "str_value": written, "place_type": -1}
        operation = one_operation(tmp_path, paddle_files, "fill_constant", {}, {"Out": ["o"]}, attributes)
        assert operation.kind == "full"
        assert operation.attributes == {"shape": (1,), "dtype": "int32", "value": value}
    attributes["str_value"] = "seven"
    with pytest.raises(FileFormatError, match="'seven' is not a number"):
        one_operation(tmp_path, paddle_files, "fill_constant", {}, {"Out": ["o"]}, attributes)


def test_every_type_of_attribute(tmp_path: Path, paddle_files: Any) -> None:
    field = paddle_files.field
    attributes = {
        "floats": field(2, 4) + field(7, 0.5) + field(7, 1.5),
        "packed": field(2, 3) + field(6, b"\x01\x02"),
        "strings": field(2, 5) + field(8, "a") + field(8, "b"),
        "bools": field(2, 7) + field(11, 1) + field(11, 0),
        "long": field(2, 9) + field(13, -(2**40)),
        "longs": field(2, 11) + field(15, 2**40),
        "float64": field(2, 15) + b"\x99\x01" + b"\0\0\0\0\0\0\xe0\x3f",  # 19, 64 bits: 0.5
        "float64s": field(2, 12) + b"\x81\x01" + b"\0\0\0\0\0\0\xe0\x3f",
        "scalar": field(2, 16) + field(20, field(1, 3) + field(3, -4)),
        "scalars": field(2, 17) + field(21, field(1, 1) + field(2, 1)),
        "variable": field(2, 13) + field(17, "x"),
    }
    read = one_operation(tmp_path, paddle_files, "op", {"X": ["x"]}, {}, attributes).attributes
    assert read == {
        "floats": (0.5, 1.5),
        "packed": (1, 2),
        "strings": ("a", "b"),
        "bools": (True, False),
        "long": -(2**40),
        "longs": (2**40,),
        "float64": 0.5,
        "float64s": (0.5,),
        "scalar": -4,
        "scalars": (True,),
        "variable": "x",
    }


def test_programs_that_are_refused(tmp_path: Path, paddle_files: Any) -> None:
    files, field = paddle_files, paddle_files.field
    x = files.variable("x", (2,))
    use = files.operation("relu", {"X": ["x"]}, {"Out": ["x"]}, {})
    feed = files.operation("feed", {}, {"Out": ["x"]}, {"col": 0})
    loop = files.operation("while", {"X": ["x"]}, {}, {"sub_block": field(2, 8) + field(12, 1)})
    for content, message in [
        (b"\x22\x02\x08\x00", "holds no program"),
        (b"<html>not a program</html>", "corrupt|truncated"),
        (files.program_desc([loop], [x]), r"'sub_block': refers to a block of its own"),
        (files.program_desc([use], []), "operation 0 .relu. uses 'x', which is not declared"),
        (files.program_desc([feed], []), "'x' is not declared"),
        (files.program_desc([feed, feed], [x]), "operation 1: does not feed one value"),
        (files.program_desc([files.operation("fetch", {"X": ["x"]}, {}, {"col": "a"})], [x]), "does not fetch one"),
        (files.program_desc([files.operation("mul", {"X": ["x"]}, {}, {})], [x]), r"\(matmul\): lacks one of its 2"),
        (files.program_desc([], [x, x]), "'x' is declared twice"),
        (files.program_desc([], [files.variable("\x1b[2J", ())]), r"'\\x1b\[2J' is not a name"),
        (files.program_desc([], [files.variable("x", (), code=99)]), "unknown tensor type 99"),
        (files.program_desc([], [field(1, "x")]), "no name or no type"),
        (files.program_desc([field(1, field(1, "X"))], []), "operation 0: has no type"),
        (files.program_desc([files.operation("a", {}, {}, {"b": field(2, 99)})], []), "'b': is of unknown type 99"),
        (files.program_desc([files.operation("a", {}, {}, {"b": field(2, 0)})], []), "holds 0 values"),
        (field(1, 5), "a number where a message belongs"),
        (files.varint(1 << 3 | 2) + files.varint(2**60), "needs 1,152,921,504,606,846,976 bytes"),
        (b"\x0f", "unknown wire type 7"),
        (b"\xff" * 12, "more than ten bytes"),
    ]:
        with pytest.raises(FileFormatError, match=message) as caught:
            read(tmp_path, content)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("folder", REAL)
def test_real_programs(shared: Path, folder: str) -> None:
    operations, parameters, feed, fetch = REAL[folder]
    program = read_pdmodel(shared / "models" / folder / "inference.pdmodel")
    assert (len(program.operations), len(program.parameters)) == (operations, parameters)
    assert (program.feeds, program.fetches) == ((feed,), (fetch,))
    assert list(program.parameters) == sorted(program.parameters)
    positions = [operation.position for operation in program.operations]
    assert positions == sorted(set(positions))
    used = {name for operation in program.operations for name in operation.inputs}
    assert used >= set(program.parameters)


@pytest.mark.parametrize(
    ("legacy", "pir"),
    [
        ("en_PP-OCRv4_rec_infer", "en_PP-OCRv4_mobile_rec_infer"),
        ("ch_PP-OCRv4_det_infer", "PP-OCRv4_mobile_det_infer"),
    ],
)
def test_both_formats_read_alike(shared: Path, legacy: str, pir: str) -> None:
    """The same network exported in both: the same kinds, parameters and attributes, in the same order."""
    old = read_pdmodel(shared / "models" / legacy / "inference.pdmodel")
    new = read_pir(shared / "models" / pir / "inference.json")
    plumbing = {"reshape", "full", "shape", "slice", "stack", "scale", "assign"}  # differ with the exporter
    one_sided = {"struct_name", "seed", "fix_seed"}
    one_sided_legacy = {("hardswish", "offset"), ("hardswish", "scale"), ("hardswish", "threshold")}
    one_sided_legacy |= {("add", "axis"), ("multiply", "axis")}

    def steps(program: Program) -> list[tuple[Any, ...]]:
        found = []
        for operation in program.operations:
            if operation.kind in plumbing:
                continue
            kept = {
                name: value
                for name, value in operation.attributes.items()
                if name not in one_sided and (operation.kind, name) not in one_sided_legacy
            }
            parameters = [program.values[name].shape for name in operation.inputs if name in program.parameters]
            # A bias reaches its "add" directly in the one and reshaped in the other.
            found.append((operation.kind, kept, [] if operation.kind == "add" else parameters))
        return found

    assert len(steps(old)) > 250
    assert steps(old) == steps(new)
