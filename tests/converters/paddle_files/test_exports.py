"""Finding the two files of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paddle2torch.converters.paddle_files.exports import find_export, read_program
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError


@pytest.mark.parametrize(
    ("files", "given", "program", "parameters"),
    [
        (["inference.json", "inference.pdiparams"], "", "inference.json", "inference.pdiparams"),
        (["inference.pdmodel", "inference.pdiparams", "config.json"], "", "inference.pdmodel", "inference.pdiparams"),
        (["inference.json", "inference.pdmodel", "inference.pdiparams"], "", "inference.json", "inference.pdiparams"),
        (["model.pdmodel", "model.pdiparams"], "", "model.pdmodel", "model.pdiparams"),
        (["a.json", "a.pdiparams", "inference.json", "inference.pdiparams"], "a.json", "a.json", "a.pdiparams"),
        (["a.json", "a.pdiparams", "inference.json", "inference.pdiparams"], "", "inference.json", None),
        (["b.pdmodel", "b.pdiparams", "c.pdmodel", "c.pdiparams"], "c.pdiparams", "c.pdmodel", "c.pdiparams"),
    ],
)
def test_found(tmp_path: Path, files: list[str], given: str, program: str, parameters: str | None) -> None:
    for name in files:
        (tmp_path / name).touch()
    found = find_export(tmp_path / given)
    assert found == (tmp_path / program, tmp_path / (parameters or "inference.pdiparams"))


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        ([], "", "holds no export"),
        (["inference.json"], "", "holds no export"),
        (["inference.json"], "inference.json", "its parameters are missing: no inference.pdiparams"),
        (["a.pdiparams"], "a.pdiparams", "its program is missing: no a.json or a.pdmodel"),
        (["a.pdparams"], "a.pdparams", "is not a file of an export"),
        (["b.pdmodel", "b.pdiparams", "c.pdmodel", "c.pdiparams"], "", "several exports .'b.pdmodel', 'c.pdmodel'"),
    ],
)
def test_not_found(tmp_path: Path, files: list[str], given: str, message: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(FileFormatError, match=message):
        find_export(tmp_path / given)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(Paddle2TorchError, match="no such file or folder"):
        find_export(tmp_path / "missing")


def test_read_program(tmp_path: Path, paddle_files: Any) -> None:
    (tmp_path / "inference.pdiparams").touch()
    (tmp_path / "inference.pdmodel").write_bytes(paddle_files.small_pdmodel())
    program, parameters = read_program(tmp_path)
    assert program.format == "legacy"
    assert parameters == tmp_path / "inference.pdiparams"
    (tmp_path / "inference.json").write_bytes(paddle_files.small_pir())
    assert read_program(tmp_path)[0].format == "pir"
