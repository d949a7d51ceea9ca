"""The way out: a model in another format. One job, and the registry of the formats that there are.

A format is a module of its own with one function `(network, target, *, force, **options) -> Exported`; it is imported
when it is used. A new one is one more line in `FORMATS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from paddle2torch.compiled.serving import Check
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, FoldedConvTranspose2d
from paddle2torch.model_zoo.forms.folding import drop_denormals
from paddle2torch.model_zoo.names import file_in, plain_name
from paddle2torch.model_zoo.network import Network
from paddle2torch.model_zoo.programs.config import is_program
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.zoo.folder import load_model, quantized_file
from paddle2torch.zoo.programs import load_program
from paddle2torch.zoo.resolve import obtain_converted


@dataclass(frozen=True)
class Format:
    """A format: "module:function" that writes it, what follows the model's name where no target is given, options."""

    function: str
    suffix: str
    options: frozenset[str] = frozenset()


FORMATS: Mapping[str, Format] = {
    "paddle": Format("paddle2torch.exporting.paddle:export_paddle", ".pdparams", frozenset({"template"})),
    "onnx": Format("paddle2torch.exporting.onnx:export_onnx", ".onnx"),
    "torch": Format("paddle2torch.exporting.torch:export_torch", ".pt2"),
    "transformers": Format("paddle2torch.exporting.transformers:export_transformers", "_transformers"),
}


INT8_FORMATS: Mapping[str, Format] = {
    "onnx": Format("paddle2torch.exporting.onnx_int8:export_onnx_int8", "_int8.onnx"),
}
"""Formats that have an int8 form. Their functions take the folder in the network's place: int8 is a file in it."""

PROGRAM_FORMATS: Mapping[str, Format] = {
    "paddle": Format("paddle2torch.exporting.programs:export_paddle", "_infer"),
    "onnx": Format("paddle2torch.exporting.programs:export_onnx", ".onnx"),
    "torch": Format("paddle2torch.exporting.programs:export_torch", ".pt2"),
}
"""Formats of a program, whose network is not known here by name."""

TRAINING_FOLDERS = ("best", "last", "output")
"""Folders of any training: they name no model."""

PDPARAMS = ".pdparams"

FOLDED = (FoldedConv2d, FoldedConvTranspose2d)


def without_denormals(model: nn.Module) -> tuple[str, ...]:
    """Put zeros for `model`'s denormal values (see `folding.drop_denormals`); returns a note where there were any."""
    count = drop_denormals(model)
    if count == 0:
        return ()
    return (f"{count} values below float32's smallest normal one are zeros: processors are slow with them",)


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

    @property
    def rounding(self) -> float | None:
        """PyTorch's own largest error in float32, from float64."""
        return max((check.rounding for check in self.checks), default=None)

    def to_json(self) -> dict[str, Any]:
        """What `export --json` prints."""
        return {
            "target": str(self.target),
            "format": self.format,
            "checked_by": self.checked_by,
            "checks": [{**vars(check), "shape": list(check.shape)} for check in self.checks],
            "notes": list(self.notes),
        }


def export(
    model: str | Path | Network | Program,
    to: str,
    target: str | Path | None = None,
    *,
    force: bool = False,
    quantized: bool = False,
    **options: Any,
) -> Exported:
    """Write a model in another format, whole or not at all.

    Args:
        model: a name of the zoo, the folder of a converted model, a Hub id, or a network.
        to: "paddle": a training checkpoint, or with `template` an inference program. "onnx" and "torch": the fused
            form for serving, with free batch and image sizes. "transformers": a folder for Hugging Face's own classes.
        target: the file to write; for "paddle" with `template`, the folder. By default it is named like the model.
        force: replace what is at `target`.
        quantized: "onnx" alone, of a model by its name or folder: its int8 form (`paddle2torch.quantize`), see
            `exporting.onnx_int8`.
        options: `template` ("paddle"): an export of the same architecture (its folder, or a name of the zoo whose
            inference release is taken), whose program is kept and whose parameters are replaced.

    Every export is read back, and run beside PyTorch where what runs it is installed.

    Returns:
        What was written, what ran it, and how far the results were apart.

    Raises:
        ConfigError: for a target that exists, an unknown format or option, and in int8 for a model that was not
            quantized.
        ConversionError: for a model that the format cannot hold, and for a result that differs.
    """
    if to not in FORMATS:
        near = difflib.get_close_matches(to, FORMATS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{to!r} is not a format to export to: {', '.join(FORMATS)}{hint}")
    network = _load(model)
    formats = PROGRAM_FORMATS if isinstance(network, Program) else FORMATS
    if to not in formats:
        raise ConfigError(f"a program cannot be exported to {to!r}, only to {', '.join(formats)}")
    options = {name: value for name, value in options.items() if value is not None}
    folder = _quantized_folder(model, network, to) if quantized else None
    form = formats[to] if folder is None else INT8_FORMATS[to]
    for name in options:
        if name not in form.options:
            known = ", ".join(sorted(form.options)) or "none"
            raise ConfigError(f"--to {to} has no option {name!r}; it has: {known}")
    if any(isinstance(module, FOLDED) for module in network.modules()):
        raise ConversionError(
            f"{network.config.name} was loaded with fused=True, which folds layers for running here: "
            f"export the model by its name or folder, or load it without"
        )
    suffix = "_infer" if "template" in options else form.suffix
    path = Path(target) if target is not None else file_in(Path(), _own_name(model, network) + suffix)
    if suffix == PDPARAMS and path.suffix != PDPARAMS:
        # By its ending it is known for what it is, here and by PaddleOCR.
        path = path.with_name(path.name + PDPARAMS)
    refuse_existing(path, force)
    module, _, function = form.function.partition(":")
    write: Callable[..., Exported] = getattr(import_module(module), function)
    return write(network if folder is None else folder, path, force=force, **options)


def _quantized_folder(model: str | Path | Network | Program, network: Network | Program, to: str) -> Path:
    """Where the int8 form of a model is. Raises `ConfigError` where it has none, or the format has none."""
    if to not in INT8_FORMATS or isinstance(network, Program) or isinstance(model, Network | Program):
        raise ConfigError(
            f"in int8 go models that were quantized, by their name or folder, to {', '.join(INT8_FORMATS)}; "
            f"not {network.config.name} to {to}"
        )
    folder = obtain_converted(model)
    quantized_file(folder)
    return folder


def _own_name(model: str | Path | Network | Program, network: Network | Program) -> str:
    """The model's name; of one that was trained here that of the folder it was trained in, not of what it began as."""
    name = network.config.name
    if isinstance(model, Network | Program) or isinstance(network, Program):
        return name
    origin = network.config.origin
    if origin is None or origin.kind != "trained here":
        return name
    parts = Path(model).resolve().parts[1:]
    return plain_name(next((part for part in reversed(parts) if part not in TRAINING_FOLDERS), ""), name)


def _load(model: str | Path | Network | Program) -> Network | Program:
    if isinstance(model, Network | Program):
        return model
    folder = obtain_converted(model)
    return load_program(folder) if is_program(folder) else load_model(folder)


def refuse_existing(target: Path, force: bool) -> None:
    """Raise `ConfigError` where something is at `target` that was not to be replaced."""
    if target.exists() and not force and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"{target} exists; replace it (--force) or choose another name")
