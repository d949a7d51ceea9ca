"""A converted model on disk: a folder with `model.safetensors` and `model_config.json`.

Written means read back: a folder appears whole under its name, after what was written has been compared bit for bit
with what was to be written, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from paddle2torch.atomic import keep_mode, land_file, land_folder, repair_folder
from paddle2torch.forks import survive_forks
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.quantized import quantize_network
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.network import MOST_PARAMETERS, Network, build_model
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.model_zoo.show import show, show_all, show_text

WEIGHTS_NAME = "model.safetensors"
_FLOATING = ("F16", "BF16", "F32", "F64")

MOST_BYTES = 16 * MOST_PARAMETERS
"""Bytes of a file of tensors: weights in float64, or float32 with two moments and an average of each for a training."""

INT8_NAME = "int8.safetensors"
"""Beside the weights, where the model was quantized (`paddle2torch.quantization`)."""


def save_model(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    overwrite: bool = False,
    private: bool = False,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model's folder atomically and read it back. `private`: no other user may enter it. `beside`: more texts.

    Raises `ConfigError` where the folder is there and `overwrite` is not given, `Paddle2TorchError` for a full disk,
    `ConversionError` should the disk not return what was written.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with land_folder(Path(folder), overwrite=overwrite, size=size, private=private) as temporary:
        write_state(temporary / WEIGHTS_NAME, state, metadata(config))
        (temporary / CONFIG_NAME).write_text(config.dumps(), encoding="utf-8")
        for name, text in (beside or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        former = file_in(Path(folder), INT8_NAME)
        if former.is_file():
            # Of the same weights again it is still good; of others, loading it says so.
            shutil.copyfile(former, temporary / INT8_NAME)
        if ModelConfig.load(temporary) != config:
            raise ConversionError(f"{folder}: the settings read back are not those that were written")


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, then compare every one bit for bit with what is read back."""
    with keep_mode(path):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, {"format": "pt", **metadata})
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(state):
            raise ConversionError(f"{path}: the tensors read back are not those that were written")
        for key, tensor in state.items():
            if not _same_bits(file.get_tensor(key), tensor):
                raise ConversionError(f"{path}: {key} was read back with other bits; is the disk sound?")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata. Raises `FileFormatError` for one that is not sound."""
    with _open_tensors(path) as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    """The safetensors file at `path`; raises `FileFormatError` where it is something else, `Paddle2TorchError` where it
    cannot be opened.
    """
    with open_regular(path) as stored:
        size = os.fstat(stored.fileno()).st_size
    if size > MOST_BYTES:
        raise FileFormatError(f"{path} has {size:,} bytes, more than the tensors of any network")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise FileFormatError(f"{path} is not a sound safetensors file: {show_text(str(error), 300)}") from None


def _check_state(file: Any, expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise `FileFormatError` unless the file's header has the tensors of a network: names, shapes, kinds of numbers.

    Before any of them is read: a file of a terabyte need not take more than a few bytes of a disk.
    """
    found = set(file.keys())
    if found != set(expected):
        raise FileFormatError(
            f"{path} does not hold the tensors of {path.with_name(CONFIG_NAME)}: "
            f"{show_all(sorted(found ^ set(expected)))}"
        )
    for key, tensor in expected.items():
        part = file.get_slice(key)
        if tuple(part.get_shape()) != tuple(tensor.shape):
            raise FileFormatError(f"{path}: {key} is {show(part.get_shape())}, the settings need {list(tensor.shape)}")
        if (part.get_dtype() in _FLOATING) != tensor.is_floating_point():
            raise FileFormatError(
                f"{path}: {key} is of type {part.get_dtype()}; weights are of type {', '.join(_FLOATING)}"
            )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    # Compared as bytes: NaN is equal to itself and -0.0 is not 0.0.
    return np.array_equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    # For numpy, several times faster at comparing them.
    flat: NDArray[np.uint8] = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return flat


def metadata(config: ModelConfig | ProgramConfig) -> dict[str, str]:
    """What the safetensors file itself says: form, name and the hash of the files it came from."""
    source = json.dumps(dict(sorted(config.origin.files.items()))) if config.origin else ""
    return {"name": config.name, "form": config.form, "source": hashlib.sha256(source.encode()).hexdigest()}


def save_quantized(folder: Path, network: Network, tensors: Mapping[str, Tensor]) -> Path:
    """Write the int8 convolutions beside the weights of `network`, whole or not at all; returns the file."""
    path = file_in(Path(folder), INT8_NAME)
    with land_file(path) as temporary:
        write_state(temporary, tensors, {"weights": digest_of(network)})
    return path


def load_quantized(folder: Path) -> Network:
    """The folded network of a converted model, with convolutions in int8 (`model_zoo.forms.quantized`).

    Raises `ConfigError` where it was not quantized, `FileFormatError` for a file that does not belong to the weights.
    """
    path = quantized_file(folder)
    network = load_model(folder)
    with _open_tensors(path) as file:
        # Before the tensors are read, which may be many.
        if (file.metadata() or {}).get("weights") != digest_of(network):
            raise FileFormatError(f"{path} was made of other weights than those beside it: quantize the model again")
        size = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        if size > 2 * sum(tensor.numel() for tensor in network.state_dict().values()):
            raise FileFormatError(f"{path} has {size:,} numbers, more than the int8 form of the weights beside it")
    tensors, _ = read_state(path)
    try:
        return quantize_network(fold(network), tensors)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None


def quantized_file(folder: Path) -> Path:
    """The file of a model's int8 form; raises `ConfigError` where it was not quantized."""
    path = file_in(Path(folder), INT8_NAME)
    if not path.is_file():
        raise ConfigError(
            f"{ModelConfig.load(folder).name} has no int8 form yet: paddle2torch quantize {folder} IMAGES, with images "
            f"like those that it will read"
        )
    return path


def digest_of(network: Network) -> str:
    """sha256 of a network's tensors and their names: that of the file changes, for its metadata come in any order."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor).data)
    return digest.hexdigest()


def load_model(folder: Path) -> Network:
    """Read a model's folder: the network in the form it was saved in, in evaluation mode, on the CPU.

    Raises `ConfigError` for settings that are not a model's and `FileFormatError` for weights that do not fit them, or
    for files that are links out of the folder.
    """
    survive_forks()
    folder = Path(folder)
    repair_folder(folder)
    config = ModelConfig.load(folder)
    with torch.device("meta"):
        model = build_model(config)
    path = file_in(folder, WEIGHTS_NAME)
    expected = model.state_dict()
    if not path.exists():
        raise FileFormatError(f"{folder} has no {WEIGHTS_NAME}")
    with _open_tensors(path) as file:
        _check_state(file, expected, path)
        state = {key: file.get_tensor(key) for key in expected}
    model.load_state_dict(state, assign=True)
    return model.eval()
