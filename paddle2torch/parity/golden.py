"""Activations that Paddle left behind, for machines without Paddle.

A golden is one safetensors file: the input, of the output and of each layer a sample of its values, evenly spaced over
the flattened array, and what a recogniser read. It belongs to weights, and names them by the sha256 of their files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from paddle2torch.assets import ASSETS
from paddle2torch.atomic import keep_mode, land_file
from paddle2torch.model_zoo.config import MOST_PIXELS, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.show import show_all, show_text
from paddle2torch.model_zoo.strict_json import decode_json, from_json

MOST_BYTES = 64 << 20
"""Bytes of a stored golden; the one that ships has 0.4 MB."""

OUTPUT = "output"  # what the network returns, beside the layers


@dataclass(frozen=True)
class Golden:
    """What Paddle computed: `layers` maps a module path to sampled values, in order of execution; `OUTPUT` is last.

    `shapes` and `largest` (absolute value) are of the whole layer; `weights` maps file names to sha256. Of a
    recogniser `ids` int64 (N, T) and `scores` float32 (N, T) are the best class of each step and its probability.
    """

    source: str
    form: Literal["training", "fused"]
    paddle_version: str
    weights: Mapping[str, str]
    input: np.ndarray
    layers: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    largest: Mapping[str, float]
    ids: np.ndarray | None = None
    scores: np.ndarray | None = None


def sample(array: np.ndarray, count: int) -> np.ndarray:
    """`count` values evenly spaced over the flattened array; all of them where there are no more."""
    flat = array.reshape(-1)
    return flat if flat.size <= count else flat[np.linspace(0, flat.size - 1, count).astype(np.int64)]


def save_golden(golden: Golden, path: Path) -> None:
    """Write a golden atomically."""
    tensors = {"input": golden.input}
    if golden.ids is not None and golden.scores is not None:
        tensors |= {"ids": golden.ids, "scores": golden.scores}
    tensors |= {f"layer:{name}": np.ascontiguousarray(values) for name, values in golden.layers.items()}
    header = {
        "form": golden.form,
        "paddle": golden.paddle_version,
        "weights": dict(golden.weights),
        "layers": [[name, list(golden.shapes[name]), golden.largest[name]] for name in golden.layers],
    }
    with land_file(Path(path)) as temporary, keep_mode(temporary):
        save_file(tensors, temporary, {"golden": json.dumps(header)})


@dataclass(frozen=True)
class _Header:
    """What the metadata of the file say: `layers` has path, shape and largest value of each."""

    form: Literal["training", "fused"]
    paddle: str
    weights: Mapping[str, str]
    layers: tuple[tuple[str, tuple[int, ...], float], ...]


def load_golden(path: Path) -> Golden:
    """Read a golden; raises `FileFormatError` for any other file."""
    path = Path(path)
    open_regular(path).close()
    if path.stat().st_size > MOST_BYTES:
        raise FileFormatError(f"{path} has more than {MOST_BYTES:,} bytes, which no stored golden has")
    try:
        with safe_open(path, framework="np") as file:
            header = from_json(_Header, decode_json((file.metadata() or {})["golden"]), "its description")
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        _check(header, tensors)
    except (OSError, SafetensorError, ConfigError, KeyError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not a stored golden: {show_text(str(error), 300)}") from None
    return Golden(
        source=str(path),
        form=header.form,
        paddle_version=header.paddle,
        weights=header.weights,
        input=tensors["input"],
        layers={name: tensors[f"layer:{name}"] for name, _, _ in header.layers},
        shapes={name: shape for name, shape, _ in header.layers},
        largest={name: largest for name, _, largest in header.layers},
        ids=tensors.get("ids"),
        scores=tensors.get("scores"),
    )


def _check(header: _Header, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise `ValueError` unless the tensors are those that the header describes."""
    names = [name for name, _, _ in header.layers]
    if not names or names[-1] != OUTPUT:
        raise ValueError("its last layer is not the output")
    if len(set(names)) != len(names):
        raise ValueError("it describes a layer twice")
    expected = {"input": ("float32", 4), **{f"layer:{name}": ("float32", 1) for name in names}}
    if "ids" in tensors or "scores" in tensors:
        expected |= {"ids": ("int64", 2), "scores": ("float32", 2)}
    if set(tensors) != set(expected):
        raise ValueError(f"it has tensors too many or too few: {show_all(sorted(set(tensors) ^ set(expected)))}")
    for name, (dtype, dimensions) in expected.items():
        if tensors[name].dtype != dtype or tensors[name].ndim != dimensions:
            raise ValueError(f"{show_text(name)} is not {dtype} of {dimensions} dimensions")
    if not 0 < tensors["input"].size <= 3 * MOST_PIXELS or tensors["input"].shape[1] != 3:
        raise ValueError(f"its input is {list(tensors['input'].shape)}, not images of three channels")
    if "ids" in tensors:
        ids, lines = tensors["ids"], len(tensors["input"])
        if ids.shape != tensors["scores"].shape or len(ids) != lines or (ids < 0).any():
            raise ValueError(f"its ids are not classes of {lines} lines")


def shipped_golden(config: ModelConfig) -> Golden | None:
    """The golden that the package ships for a model, where it belongs to the very weights the model was made from."""
    path = ASSETS / f"{config.name}.golden.safetensors"
    if config.origin is None or not path.is_file():
        return None
    golden = load_golden(path)
    return golden if dict(golden.weights) == dict(config.origin.files) else None
