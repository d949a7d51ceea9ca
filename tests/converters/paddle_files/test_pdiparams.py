"""`.pdiparams`: records in the program's order, checked against the file and against the program."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle2torch.converters.paddle_files.exports import find_export, read_program
from paddle2torch.converters.paddle_files.pdiparams import read_parameters, read_pdiparams
from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError

ARRAYS = {
    "b": np.arange(4, dtype="float32"),
    "empty": np.zeros((0, 3), "float32"),
    "half": np.array([0x3F80], "uint16"),  # bfloat16
    "i": np.arange(-3, 3, dtype="int64").reshape(2, 3),
    "s": np.array(2.5, "float64"),
    "w": np.linspace(0, 1, 30, dtype="float32").reshape(5, 2, 3, 1),
}


def write(path: Path, paddle_files: Any, arrays: dict[str, np.ndarray]) -> Path:
    path.write_bytes(b"".join(paddle_files.record(array) for array in arrays.values()))
    return path


def test_records_in_order(tmp_path: Path, paddle_files: Any) -> None:
    checkpoint = read_pdiparams(write(tmp_path / "a.pdiparams", paddle_files, ARRAYS), list(ARRAYS))
    assert list(checkpoint.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        read = checkpoint.tensors[name]
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert not read.flags.writeable
        assert not read.flags.owndata
    assert checkpoint.bfloat16 == {"half"}
    assert checkpoint.static_names == {}
    assert checkpoint.extras == {}


def test_packed_dimensions_and_levels(tmp_path: Path, paddle_files: Any) -> None:
    """What Paddle does not write but its format allows: packed dimensions, levels of detail before the tensor."""
    description = paddle_files.field(1, 5) + paddle_files.field(2, b"\x02\x03")
    record = paddle_files.record(np.ones((2, 3), "float32"), description)
    levels = struct.pack("<QQ8xQ", 2, 8, 0)  # in place of "no levels"
    path = tmp_path / "a.pdiparams"
    path.write_bytes(record[:4] + levels + record[12:])
    assert read_pdiparams(path, ["w"]).tensors["w"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b"], "bytes follow the last of the program's 1 parameters"),
        ([*ARRAYS, "z"], "ends after 6 of the program's 7 parameters; the next is 'z'"),
        (["b", "empty", "half", "i", "s", "b"], "two parameters are called 'b'"),
    ],
)
def test_too_few_and_too_many(tmp_path: Path, paddle_files: Any, names: list[str], message: str) -> None:
    path = write(tmp_path / "a.pdiparams", paddle_files, ARRAYS)
    with pytest.raises(FileFormatError, match=message):
        read_pdiparams(path, names)


def test_broken_records(tmp_path: Path, paddle_files: Any) -> None:
    path = tmp_path / "a.pdiparams"
    one = np.ones((2, 3), "float32")
    good = paddle_files.record(one)
    for content, message in [
        (b"\x01" + good[1:], "does not begin with a tensor header"),
        (good[:12] + b"\x01" + good[13:], "unknown tensor version"),
        (good[:16] + struct.pack("<i", -1) + good[20:], "description of parameter 'w' needs -1 bytes"),
        (good[:16] + struct.pack("<i", 2**31 - 1) + good[20:], "needs 2,147,483,647 bytes"),
        (good[:4] + struct.pack("<Q", 2**60) + good[12:], "truncated"),
        (good[:-1], "the data of parameter 'w' needs 24 bytes, the file has 23 left"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (2, -3))), r"shape \(2, -3\)"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (2**60,))), "shape"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (2**32, 2**32))), "shape"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (0, 2**60))), "shape"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (2**40,))), "needs 4,398,046,511,104 bytes"),
        (paddle_files.record(one, paddle_files.tensor_desc(5, (1,) * 40)), "more than 32 dimensions"),
        (paddle_files.record(one, paddle_files.tensor_desc(7, (2, 3))), "unknown tensor type 7"),
        (paddle_files.record(one, paddle_files.tensor_desc(32, (2, 3))), "float8_e4m3fn, which numpy cannot hold"),
        (paddle_files.record(one, paddle_files.field(2, 6)), "no type"),
        (paddle_files.record(one, b"\x08"), "ends within a number"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=message) as caught:
            read_pdiparams(path, ["w"])
        assert str(path) in str(caught.value)


def test_checked_against_the_program(tmp_path: Path, paddle_files: Any) -> None:
    program_path = tmp_path / "inference.pdmodel"
    program_path.write_bytes(paddle_files.small_pdmodel())
    program = read_pdmodel(program_path)
    good = {"conv2d_0.b_0": np.ones(4, "float32"), "conv2d_0.w_0": np.ones((4, 3, 1, 1), "float32")}
    path = tmp_path / "inference.pdiparams"
    assert list(read_parameters(program, write(path, paddle_files, good)).tensors) == list(good)
    for name, other, message in [
        ("conv2d_0.w_0", np.ones((4, 1, 3, 1), "float32"), r"'conv2d_0.w_0' is float32 \(4, 1, 3, 1\)"),
        ("conv2d_0.b_0", np.ones(4, "float64"), r"declares float32 \(4,\)"),
        ("conv2d_0.b_0", np.ones(4, "uint16"), r"is bfloat16 \(4,\)"),
    ]:
        write(path, paddle_files, good | {name: other})
        with pytest.raises(FileFormatError, match=message):
            read_parameters(program, path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Paddle2TorchError, match="no such file"):
        read_pdiparams(tmp_path / "missing.pdiparams", ["w"])


READ_WITH_PADDLE = """
import sys
import numpy as np
import paddle

save, *prefixes = sys.argv[1:]
paddle.enable_static()
for index, prefix in enumerate(prefixes):
    executor = paddle.static.Executor(paddle.CPUPlace())
    scope = paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        program, *_ = paddle.static.load_inference_model(prefix, executor)
        if paddle.framework.in_pir_mode():
            operations = [op for op in program.global_block().ops if op.name() == "builtin.parameter"]
            names = [op.attrs()["parameter_name"] for op in operations]
        else:
            names = [v.name for v in program.list_vars() if v.persistable and v.name not in ("feed", "fetch")]
        np.savez(f"{save}/{index}.npz", **{name: np.array(scope.find_var(name).get_tensor()) for name in names})
"""


@pytest.mark.slow
@pytest.mark.usefixtures("paddle")
def test_real_parameters_equal_paddles(shared: Path, tmp_path: Path) -> None:
    """Every export with parameters; legacy and PIR in a Paddle process each, a flag at import decides the format."""
    exports = sorted([*(shared / "models").glob("*_infer"), *(shared / "reference/zoo").glob("*_infer")])
    exports = [folder for folder in exports if (folder / "inference.pdiparams").is_file()]
    assert len(exports) == 15
    for suffix, flag in ((".pdmodel", "0"), (".json", "1")):
        chosen = [folder for folder in exports if find_export(folder)[0].suffix == suffix]
        folder = tmp_path / flag
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", READ_WITH_PADDLE, str(folder), *(str(export / "inference") for export in chosen)],
            env=os.environ | {"FLAGS_enable_pir_api": flag},
            check=True,
            capture_output=True,
        )
        for index, export in enumerate(chosen):
            program, path = read_program(export)
            tensors = read_parameters(program, path).tensors
            expected = np.load(folder / f"{index}.npz")
            assert set(tensors) == set(expected.files), export
            for name, array in tensors.items():
                assert array.dtype == expected[name].dtype
                assert array.shape == expected[name].shape
                assert array.tobytes() == expected[name].tobytes(), (export, name)
