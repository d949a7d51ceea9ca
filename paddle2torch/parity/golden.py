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
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import FileFormatError

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


def load_golden(path: Path) -> Golden:
    """Read a golden; raises `FileFormatError` for a file that is none."""
    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["golden"])
            stored = set(file.keys())
            if header["layers"][-1][0] != OUTPUT:
                raise ValueError("its last layer is not the output")
            layers = {name: file.get_tensor(f"layer:{name}") for name, _, _ in header["layers"]}
            return Golden(
                source=str(path),
                form=header["form"],
                paddle_version=header["paddle"],
                weights=header["weights"],
                input=file.get_tensor("input"),
                layers=layers,
                shapes={name: tuple(shape) for name, shape, _ in header["layers"]},
                largest={name: float(largest) for name, _, largest in header["layers"]},
                ids=file.get_tensor("ids") if "ids" in stored else None,
                scores=file.get_tensor("scores") if "scores" in stored else None,
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is no stored golden: {error}") from None


def shipped_golden(config: ModelConfig) -> Golden | None:
    """The golden that the package ships for a model, where it belongs to the very weights the model was made from."""
    path = ASSETS / f"{config.name}.golden.safetensors"
    if config.origin is None or not path.is_file():
        return None
    golden = load_golden(path)
    return golden if dict(golden.weights) == dict(config.origin.files) else None
