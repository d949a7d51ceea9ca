"""Programs made to fit another number of classes, in both formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle2torch.converters.class_count import class_count, class_shapes, with_shapes
from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.model_zoo.errors import ConversionError


def legacy(paddle_files: Any, folder: Path, last: tuple[int, ...] = (-1, -1, 5)) -> Path:
    """Two linear layers, the second one to five classes, and a softmax."""
    f = paddle_files
    variables = [
        f.variable("x", (-1, -1, 5)),
        f.variable("w0", (5, 5), persistable=True),
        f.variable("h", (-1, -1, 5)),
        f.variable("w1", (5, 5), persistable=True),
        f.variable("b1", (5,), persistable=True),
        f.variable("y", (-1, -1, 5)),
        f.variable("z", (-1, -1, 5)),
        f.variable("p", last),
    ]
    operations = [
        f.operation("feed", {"X": ["x"]}, {"Out": ["x"]}, {"col": 0}),
        f.operation("matmul_v2", {"X": ["x"], "Y": ["w0"]}, {"Out": ["h"]}, {"trans_y": False}),
        f.operation("matmul_v2", {"X": ["h"], "Y": ["w1"]}, {"Out": ["y"]}, {"trans_y": False}),
        f.operation("elementwise_add", {"X": ["y"], "Y": ["b1"]}, {"Out": ["z"]}, {"axis": -1}),
        f.operation("softmax", {"X": ["z"]}, {"Out": ["p"]}, {"axis": 2}),
        f.operation("fetch", {"X": ["p"]}, {"Out": ["p"]}, {"col": 0}),
    ]
    path = folder / "inference.pdmodel"
    path.write_bytes(f.program_desc(operations, variables))
    return path


def pir(paddle_files: Any, folder: Path) -> Path:
    f, shape = paddle_files, [-1, -1, 5]
    no = {"transpose_y": ("0.a_bool", False)}
    path = folder / "inference.json"
    path.write_bytes(
        f.pir_program(
            [
                f.pir_parameter(1, "w0", [5, 5]),
                f.pir_parameter(2, "w1", [5, 5]),
                f.pir_parameter(3, "b1", [5]),
                f.pir_operation("1.data", [], [f.tensor(4, shape)], {"name": ("0.a_str", "x")}),
                f.pir_operation("1.matmul", [4, 1], [f.tensor(5, shape)], no),
                f.pir_operation("1.matmul", [5, 2], [f.tensor(6, shape)], no),
                f.pir_operation("1.add", [6, 3], [f.tensor(7, shape)], {}),
                f.pir_operation("1.softmax", [7], [f.tensor(8, shape)], {"axis": ("0.a_i32", 2)}),
                f.pir_operation("1.fetch", [8], [f.tensor(9, shape)], {"col": ("0.a_i32", 0)}),
            ]
        )
    )
    return path


@pytest.mark.parametrize("make", [legacy, pir])
def test_only_what_has_a_place_per_class_changes(make: Any, paddle_files: Any, tmp_path: Path) -> None:
    read = read_pir if make is pir else read_pdmodel
    path = make(paddle_files, tmp_path)
    before: Program = read(path)
    assert class_count(before) == 5
    path.write_bytes(with_shapes(path, class_shapes(before, 9)))
    after: Program = read(path)
    assert class_count(after) == 9
    assert after.operations == before.operations
    changed = {name: value.shape for name, value in after.values.items() if value != before.values[name]}
    outputs = ("6", "7", "8", "9") if make is pir else ("y", "z", "p")
    assert changed == {"w1": (5, 9), "b1": (9,)} | dict.fromkeys(outputs, (-1, -1, 9))


@pytest.mark.parametrize("make", [legacy, pir])
def test_nothing_to_change_is_the_same_file(make: Any, paddle_files: Any, tmp_path: Path) -> None:
    path = make(paddle_files, tmp_path)
    again = with_shapes(path, {})
    path.write_bytes(again)
    assert with_shapes(path, {"w1": (5, 5)}) == again


def test_classes_in_another_place_are_an_error(paddle_files: Any, tmp_path: Path) -> None:
    program = read_pdmodel(legacy(paddle_files, tmp_path, last=(-1, 5, -1)))
    with pytest.raises(ConversionError, match=r"softmax\) makes \[-1, 5, -1\]"):
        class_shapes(program, 9)


def test_a_program_without_a_linear_layer_has_none(paddle_files: Any, tmp_path: Path) -> None:
    path = tmp_path / "inference.pdmodel"
    path.write_bytes(paddle_files.small_pdmodel())
    assert class_count(read_pdmodel(path)) is None
