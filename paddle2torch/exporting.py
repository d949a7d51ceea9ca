"""The way out: a model in another format. One job, and the registry of the formats that there are.

A format is a module of its own with one function `(network, target, *, force, **options) -> Exported`; it is imported
when it is used. A new one is one more line in `FORMATS`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.api import model_folder
from paddle2torch.model_zoo.config import ClsPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.store import load_model


@dataclass(frozen=True)
class Format:
    """A format: "module:function" that writes it, what follows the model's name where no target is given, options."""

    function: str
    suffix: str
    options: frozenset[str] = frozenset()


FORMATS: Mapping[str, Format] = {
    "paddle": Format("paddle2torch.export_paddle:export_paddle", ".pdparams", frozenset({"template"})),
    "onnx": Format("paddle2torch.export_onnx:export_onnx", ".onnx"),
    "torch": Format("paddle2torch.export_torch:export_torch", ".pt2"),
    "transformers": Format("paddle2torch.export_transformers:export_transformers", "_transformers"),
}


@dataclass(frozen=True)
class Check:
    """One input run through the export and through PyTorch: the largest difference, and that of the largest value."""

    shape: tuple[int, ...]
    absolute: float
    relative: float


@dataclass(frozen=True)
class Exported:
    """A finished export.

    `checked_by` is what ran it beside PyTorch, with its version (None: nothing could), `checks` what that gave, `notes`
    what should be known about it.
    """

    target: Path
    format: str
    checked_by: str | None = None
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> float | None:
        """The largest relative difference of all checks; None where nothing was run."""
        return max((check.relative for check in self.checks), default=None)


def export(
    model: str | Path | Network, to: str, target: str | Path | None = None, *, force: bool = False, **options: Any
) -> Exported:
    """Write a model in another format, whole or not at all.

    Args:
        model: a name of the zoo, the folder of a converted model, a Hub id, or a network.
        to: "paddle": a training checkpoint, or with `template` an inference program. "onnx" and "torch": the fused
            form for serving, with free batch and image sizes. "transformers": a folder for Hugging Face's own classes.
        target: the file to write; for "paddle" with `template`, the folder. By default it is named like the model.
        force: replace what is at `target`.
        options: `template` ("paddle"): an export of the same architecture (its folder, or a name of the zoo whose
            inference release is taken), whose program is kept and whose parameters are replaced.

    Every export is read back, and run beside PyTorch where what runs it is installed. Raises `ConfigError` for a target
    that exists, an unknown format or option; `ConversionError` for a model that the format cannot hold, and for a
    result that differs.
    """
    if to not in FORMATS:
        near = difflib.get_close_matches(to, FORMATS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{to!r} is not a format to export to: {', '.join(FORMATS)}{hint}")
    form = FORMATS[to]
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in form.options:
            known = ", ".join(sorted(form.options)) or "none"
            raise ConfigError(f"--to {to} has no option {name!r}; it has: {known}")
    network = model if isinstance(model, Network) else load_model(model_folder(model))
    suffix = "_infer" if "template" in options else form.suffix
    path = Path(target) if target is not None else Path(_plain(network.config.name) + suffix)
    refuse_existing(path, force)
    module, _, function = form.function.partition(":")
    write: Callable[..., Exported] = getattr(import_module(module), function)
    return write(network, path, force=force, **options)


def refuse_existing(target: Path, force: bool) -> None:
    """Raise `ConfigError` where something is at `target` that was not to be replaced."""
    if target.exists() and not force and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} exists; replace it (--force) or choose another name")


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name) or "model"


class Served(nn.Module):
    """A fused network as other runtimes take it: one tensor in, one tensor out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 (N, 3, H, W).

        Recogniser: probabilities (N, T, classes). Detector: a map (N, 1, H, W). Classifier: probabilities (N, labels).
        """
        output = self.network(image)
        served: Tensor = output["maps"] if isinstance(output, dict) else output
        return served


def served(network: Network) -> Served:
    """The fused form of `network` for serving: a copy in float32 on the CPU, in evaluation mode, nothing trainable."""
    model = Served(copy.deepcopy(fuse(network)).to(device="cpu", dtype=torch.float32))
    # PyTorch's annotations of `to` leave out the keyword.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)


def free_dimensions(config: ModelConfig) -> dict[int, Any]:
    """The sizes of the input that are free, as `torch.export` takes them: {dimension: size}.

    The batch always is; a recogniser's width; a detector's height and width, in multiples of 32. A recogniser's height
    and a classifier's size are the network's own.
    """
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if isinstance(config.preprocess, RecPreprocess):
        free[3] = torch.export.Dim("width", min=MIN_LINE_WIDTH)
    elif not isinstance(config.preprocess, ClsPreprocess):
        free[2] = 32 * torch.export.Dim("rows", min=1)
        free[3] = 32 * torch.export.Dim("columns", min=1)
    return free


MIN_LINE_WIDTH = 8  # below it the last pooling has less than its two columns


def example_images(config: ModelConfig) -> tuple[Tensor, ...]:
    """Five inputs of different shapes, in the range of pre-processed images; the same ones in every process."""
    preprocess = config.preprocess
    if isinstance(preprocess, RecPreprocess):
        channels, height, _ = preprocess.image_shape
        sizes = [(n, channels, height, width) for n, width in ((1, 320), (2, 48), (3, 161), (1, 800), (6, 192))]
    elif isinstance(preprocess, ClsPreprocess):
        sizes = [(n, *preprocess.image_shape) for n in (1, 2, 3, 5, 8)]
    else:
        sizes = [(n, 3, h, w) for n, h, w in ((1, 64, 64), (2, 96, 160), (1, 320, 128), (3, 64, 32), (1, 256, 416))]
    generator = np.random.Generator(np.random.PCG64(7))
    return tuple(torch.from_numpy(generator.uniform(-1, 1, size).astype(np.float32)) for size in sizes)


# What an export may differ by from PyTorch, relative to the output's largest value.
TOLERANCE = 1e-5


def compare(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], np.ndarray],
    images: tuple[Tensor, ...],
    what: str,
    tolerance: float = TOLERANCE,
) -> tuple[Check, ...]:
    """Run `images` through both; raises `ConversionError` where the results differ by more than `tolerance`."""
    checks = []
    for image in images:
        with torch.inference_mode():
            expected = ours(image).numpy()
        found = theirs(image)
        if found.shape != expected.shape:
            raise ConversionError(
                f"{what} gives {list(found.shape)} for an input of {list(image.shape)}, PyTorch "
                f"{list(expected.shape)}. Nothing was written"
            )
        absolute = float(np.abs(found - expected).max(initial=0.0))
        relative = absolute / max(float(np.abs(expected).max(initial=0.0)), np.finfo(np.float32).tiny)
        checks.append(Check(tuple(image.shape), absolute, relative))
        if not relative <= tolerance:
            raise ConversionError(
                f"{what} differs from PyTorch by {relative:.1e} of the largest value for an input of "
                f"{list(image.shape)}; at most {tolerance:.0e} is accepted. Nothing was written"
            )
    return tuple(checks)
