"""Programs and checkpoints that declare more than their files hold, or hold more than any network."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import write_pdparams

from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_checkpoint, convert_export
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.paddle_files import protobuf
from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.programs.legacy import read_legacy_graph
from paddle2torch.converters.steps import steps_of
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.errors import ConversionError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.registry import count_items


def export(folder: Path, program: bytes, parameters: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "inference.json").write_bytes(program)
    (folder / "inference.pdiparams").write_bytes(parameters)
    return folder


def with_shapes(program: bytes, shapes: dict[str, list[int]]) -> bytes:
    """A PIR program that declares other shapes of its parameters."""
    document = json.loads(program)
    for operation in document["program"]["regions"][0]["blocks"][0]["ops"]:
        if operation["#"] == "p" and operation["A"][3] in shapes:
            operation["O"]["TT"]["D"][1] = shapes[operation["A"][3]]
    return json.dumps(document).encode()


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """What happens inside allocates at most this many bytes at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most


@pytest.fixture
def parameters(paddle_files: Any) -> bytes:
    """Those of `small_pir`."""
    bias, weight = np.zeros(4, np.float32), np.zeros((4, 3, 1, 1), np.float32)
    return b"".join(paddle_files.record(array) for array in (bias, weight))


def test_a_program_that_declares_more_than_its_file_makes_no_network(
    tmp_path: Path, paddle_files: Any, parameters: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paddle2torch.converters.convert.align", None)  # calling it would be a TypeError
    for shape, message in (
        ([30_000, 300, 7, 7], "do not belong together"),
        ([1 << 20, 1 << 20, 1, 1], "no network known here is as large"),
        ([4, 3, 0, 1], "do not belong together"),
    ):
        folder = export(tmp_path, with_shapes(paddle_files.small_pir(), {"conv2d_0.w_0": shape}), parameters)
        with pytest.raises(Paddle2TorchError, match=message):
            convert_export(folder, name="x")


def test_a_sparse_file_of_a_terabyte_ends_with_a_message(tmp_path: Path, paddle_files: Any) -> None:
    size = 1 << 38
    program = with_shapes(paddle_files.small_pir(), {"conv2d_0.w_0": [size, 1, 1, 1]})
    folder = export(tmp_path, program, b"")
    record = paddle_files.record(np.zeros(4, np.float32))
    header = paddle_files.record(np.zeros(0, np.float32), paddle_files.tensor_desc(5, (size, 1, 1, 1)))
    with (folder / "inference.pdiparams").open("wb") as file:
        file.write(record + header)
        file.truncate(len(record + header) + 4 * size)
    with pytest.raises(ConversionError, match="no network known here is as large"):
        convert_export(folder, name="x")
    (tmp_path / "x.pdparams").touch()
    with (tmp_path / "x.pdparams").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileFormatError, match=r"is a \.pdiparams"):
        convert_checkpoint(tmp_path / "x.pdparams", name="x")


@pytest.mark.parametrize("kind", ["relu", "transpose", "reshape", "add", "multiply", "rnn", "conv2d", "batch_norm"])
def test_operations_without_inputs_are_named(tmp_path: Path, paddle_files: Any, kind: str) -> None:
    document = json.loads(paddle_files.small_pir())
    operations = document["program"]["regions"][0]["blocks"][0]["ops"]
    operations += [paddle_files.pir_operation(f"1.{kind}", [], [], {})] * 10_000
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(document))
    with pytest.raises(Paddle2TorchError, match=r"operation 9 .*(has no input or no output|lacks one of its)"):
        steps_of(read_pir(path))


def test_a_product_of_one_parameter_with_itself(tmp_path: Path, paddle_files: Any) -> None:
    document = json.loads(paddle_files.small_pir())
    operations = document["program"]["regions"][0]["blocks"][0]["ops"]
    operations.append(paddle_files.pir_operation("1.multiply", [2, 2], [paddle_files.tensor(20, [4])], {}))
    path = tmp_path / "inference.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConversionError, match=r"operation 9 of the program \(multiply\) has not the inputs"):
        steps_of(read_pir(path))


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool", "uint8", "complex64"])
def test_weights_that_are_no_floating_point_numbers(tmp_path: Path, small: Any, dtype: str) -> None:
    tensors = to_paddle(layout_table(small), small.state_dict())
    key = next(iter(tensors))
    path = write_pdparams(tmp_path / "x.pdparams", {**tensors, key: np.zeros(tensors[key].shape, dtype)})
    template = Template("own", "test", charset=Charset(tuple("abcdefg"), False, "letters"))
    with pytest.raises(ConversionError, match=rf"these are not: {key} \({dtype}\)"):
        convert_checkpoint(path, template, name="x")


@pytest.mark.slow
def test_a_checkpoint_of_more_tensors_than_any(tmp_path: Path) -> None:
    tensors = {f"backbone.blocks2.0.dw_conv.conv_kxk.{i}.w": np.zeros(1, np.float32) for i in range(20_001)}
    path = write_pdparams(tmp_path / "x.pdparams", tensors)
    with pytest.raises(ConversionError, match="has 20,001 tensors of 20,001 numbers"):
        convert_checkpoint(path, name="x")


def test_names_with_numbers_are_counted_in_linear_time() -> None:
    shapes = {f"a.{i}.weight": (1,) for i in range(100_000)}
    start = time.process_time()
    assert count_items(shapes, "a.{}.") == 100_000
    assert time.process_time() - start < 2
    assert count_items({"a.0.x": (), "a.1.x": (), "a.3.x": (), "a.02.x": ()}, "a.{}.") == 2
    assert count_items({"b": ()}, "a.{}.") == 0


def bombs() -> dict[str, bytes]:
    """Programs of 4 MB that are nothing but fields."""
    field, number = protobuf.encode_bytes, protobuf.encode_integer

    def attribute(content: bytes) -> bytes:
        return field(1, field(4, field(3, b"relu") + field(4, content)))

    name = field(1, b"x")
    many = 2_000_000
    return {
        "blocks": b"\x0a\x00" * many,
        "fields of an attribute": attribute(name + number(2, 3) + b"\x30\x01" * many),
        "packed integers": attribute(name + number(2, 3) + field(6, b"\x01" * 2 * many)),
        "strings": attribute(name + number(2, 5) + b"\x42\x00" * many),
        "operations": field(1, field(4, field(3, b"a")) * (many // 3)),
        "variables": field(1, field(3, field(1, b"v") + field(2, number(1, 9))) * (many // 5)),
        "dimensions": field(
            1, field(3, name + field(2, number(1, 7) + field(3, field(1, number(1, 5) + field(2, b"\x01" * many)))))
        ),
    }


@pytest.mark.parametrize("name", bombs())
def test_programs_of_nothing_but_fields_end_soon(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many fields as a program may have take a second; tracemalloc makes that twenty.
    monkeypatch.setattr(protobuf, "FIELDS_AT_MOST", 10_000)
    path = tmp_path / "x.pdmodel"
    path.write_bytes(bombs()[name])
    with (
        bounded_memory(8 << 20),
        pytest.raises(FileFormatError, match=r"more than 10,000 fields|more than 32 dimensions|declared twice"),
    ):
        read_pdmodel(path)


@pytest.mark.slow
def test_the_most_fields_that_are_read_take_a_second(tmp_path: Path) -> None:
    path = tmp_path / "x.pdmodel"
    path.write_bytes(b"\x0a\x00" * (8 << 20))
    start = time.process_time()
    with pytest.raises(FileFormatError, match="more than 400,000 fields"):
        read_pdmodel(path)
    assert time.process_time() - start < 2


@pytest.mark.slow
def test_blocks_and_fields_of_programs_of_any_network_are_counted(tmp_path: Path, paddle_files: Any) -> None:
    path = tmp_path / "inference.pdmodel"
    path.write_bytes(b"\x0a\x00" * (1 << 20))
    with pytest.raises(FileFormatError, match=r"more than 10,000 blocks"):
        read_legacy_graph(path)
    path.write_bytes(paddle_files.field(1, b"\x28\x00" * (1 << 20)))
    with pytest.raises(FileFormatError, match="more than 1,000,000 fields"):
        read_legacy_graph(path)
