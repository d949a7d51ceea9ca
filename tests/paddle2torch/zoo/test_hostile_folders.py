"""Folders of converted models from outside: weights that are not what the settings need, before they are read."""

from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import saved, small_config

from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.zoo.folder import CONFIG_NAME, INT8_NAME, WEIGHTS_NAME, load_model, load_quantized


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "m", small_config("fused"))


def sparse(path: Path, tensors: dict[str, Any]) -> None:
    """A safetensors file with this header, and no block of a disk for its data."""
    header = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + max(tensor["data_offsets"][1] for tensor in tensors.values()))


def refused(folder: Path, message: str, load: Any = load_model) -> None:
    start = time.process_time()
    with pytest.raises(Paddle2TorchError, match=message) as caught:
        load(folder)
    assert time.process_time() - start < 2
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).isprintable()


def test_a_terabyte_that_a_file_only_claims_is_not_read(folder: Path) -> None:
    tensors, end = {}, 0
    for key in load_file(folder / WEIGHTS_NAME):
        size = 1 << 38 if not tensors else 1
        tensors[key] = {"dtype": "F32", "shape": [size], "data_offsets": [end, end + 4 * size]}
        end += 4 * size
    sparse(folder / WEIGHTS_NAME, tensors)
    refused(folder, r"has 1,099,5\d\d,\d\d\d,\d\d\d bytes, more than the tensors of any network")
    first = next(iter(tensors))
    for key, tensor in tensors.items():
        start, end = (offset - (4 * ((1 << 38) - (1 << 28)) if offset else 0) for offset in tensor["data_offsets"])
        tensors[key] = {**tensor, "data_offsets": [start, end]}
    tensors[first]["shape"] = [1 << 28]
    sparse(folder / WEIGHTS_NAME, tensors)  # a gigabyte
    refused(folder, r"is \[.*\], the settings need")


def test_weights_of_another_kind_of_number(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_NAME)
    key = next(iter(weights))
    for dtype, name in ((torch.int8, "I8"), (torch.bool, "BOOL"), (torch.int64, "I64")):
        save_file({**weights, key: weights[key].to(dtype)}, folder / WEIGHTS_NAME)
        refused(folder, f"{key} is of type {name}; weights are of type F16, BF16, F32, F64")


def test_names_of_tensors_are_shown_escaped_and_short(folder: Path) -> None:
    save_file({"\x1b[2J" + "x" * 100_000: torch.zeros(1)}, folder / WEIGHTS_NAME)
    refused(folder, "does not hold the tensors of")


def test_a_pipe_is_no_weights_file(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    refused(folder, "has no model.safetensors")
    os.mkfifo(folder / WEIGHTS_NAME)
    refused(folder, "is not a regular file")
    (folder / CONFIG_NAME).unlink()
    os.mkfifo(folder / CONFIG_NAME)
    refused(folder, "is not a regular file")


def test_int8_weights_of_other_weights_are_not_read(folder: Path) -> None:
    for size, message in ((1 << 40, "more than the tensors of any network"), (1 << 30, "was made of other weights")):
        sparse(folder / INT8_NAME, {"a.weight": {"dtype": "I8", "shape": [size], "data_offsets": [0, size]}})
        refused(folder, message, load_quantized)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("head", "ctc", {"num_heads": 0}),
        ("head", "ctc", {"num_heads": 7}),
        ("head", "ctc", {"kernel_size": "x"}),
        ("head", "ctc", {"kernel_size": [10**6, 10**6]}),
        ("head", "ctc", {"depth": 10**9}),
        ("head", "ctc", {"hidden_dims": 60_000}),
        ("head", "ctc", 5),
        ("backbone", "scale", "x"),
        ("backbone", "scale", 1e9),
        ("backbone", "scale", -1),
        ("preprocess", "image_shape", [3, 0, 320]),
        ("preprocess", "image_shape", [3, 48, 10**8]),
        ("preprocess", "scale", 0),
    ],
)
def test_settings_that_make_no_network(folder: Path, part: str, key: str, value: Any) -> None:
    settings = json.loads((folder / CONFIG_NAME).read_text())
    settings[part][key] = value
    (folder / CONFIG_NAME).write_text(json.dumps(settings))
    start = time.process_time()
    with pytest.raises(Paddle2TorchError):
        load_model(folder)
    assert time.process_time() - start < 2


def test_what_comes_back_is_what_was_saved(folder: Path) -> None:
    assert load_model(folder).config == small_config("fused")
    (folder / WEIGHTS_NAME).write_bytes(b"\xff" * 1000)
    with pytest.raises(FileFormatError, match="is not a sound safetensors file"):
        load_model(folder)
