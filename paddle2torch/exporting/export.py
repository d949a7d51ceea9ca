"""The way out: a model in another format. One job, and the registry of the formats that there are.

A format is a module of its own with one function `(network, target, *, force, **options) -> Exported`; it is imported
when it is used. A new one is one more line in `FORMATS`.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import warnings
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
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, FoldedConvTranspose2d
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.zoo.folder import load_model


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


FOLDED = (FoldedConv2d, FoldedConvTranspose2d)


@dataclass(frozen=True)
class Check:
    """One input run through the export and through PyTorch, both in float32.

    `absolute` is the largest difference, `relative` the same of the output's largest value, and `rounding` how far
    PyTorch itself is from the network computed in float64, relative as well.
    """

    shape: tuple[int, ...]
    absolute: float
    relative: float
    rounding: float


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
    if any(isinstance(module, FOLDED) for module in network.modules()):
        raise ConversionError(
            f"{network.config.name} was loaded with fused=True, which folds layers for running here: "
            f"export the model by its name or folder, or load it without"
        )
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


LINE_WIDTH_AT_LEAST = 16  # pixels


def free_dimensions(config: ModelConfig) -> dict[int, Any]:
    """The sizes of the input that are free, as `torch.export` takes them: {dimension: size}.

    The batch always is; a recogniser's width; a detector's height and width, in multiples of 32. A recogniser's height
    and a classifier's size are the network's own. A size of one is a case of its own for `torch.export`: what is free
    begins where every map of the network has two columns.
    """
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if isinstance(config.preprocess, RecPreprocess):
        free[3] = torch.export.Dim("width", min=LINE_WIDTH_AT_LEAST)
    elif not isinstance(config.preprocess, ClsPreprocess):
        free[2] = 32 * torch.export.Dim("rows", min=2)
        free[3] = 32 * torch.export.Dim("columns", min=2)
    return free


def example_images(config: ModelConfig) -> tuple[Tensor, ...]:
    """Five inputs of different shapes: dark text on white, pre-processed.

    Text, because what a network gives for noise can be so small that nothing is left but rounding.
    """
    preprocess = config.preprocess
    if isinstance(preprocess, RecPreprocess):
        channels, height, _ = preprocess.image_shape
        sizes = [(n, channels, height, width) for n, width in ((1, 320), (2, 48), (3, 161), (1, 800), (6, 192))]
    elif isinstance(preprocess, ClsPreprocess):
        sizes = [(n, *preprocess.image_shape) for n in (1, 2, 3, 5, 8)]
    else:
        sizes = [(n, 3, h, w) for n, h, w in ((1, 64, 64), (2, 96, 160), (1, 320, 128), (3, 64, 96), (1, 256, 416))]
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    images = []
    for count, _, height, width in sizes:
        pages = np.stack([_page(height, width, number) for number in range(count)]).astype(np.float32)
        images.append(torch.from_numpy(((pages * preprocess.scale - mean) / std).transpose(0, 3, 1, 2).copy()))
    return tuple(images)


def _page(height: int, width: int, number: int) -> np.ndarray:
    """uint8 (height, width, 3): lines of text, another text for each `number`."""
    import cv2  # a fifth of a second that other formats need not wait for

    page = np.full((height, width, 3), 255, np.uint8)
    for line, base in enumerate(range(32, height, 40)):
        text = f"{number + 1} Sample {line + 7}: Text 0123456789 {'and more of it ' * 4}"
        cv2.putText(page, text, (3, base), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 40, 50), 2, cv2.LINE_AA)
    return page


# How far an export may be from the network computed in float64, relative to the output's largest value. PyTorch's own
# float32 can be further off than that (a detector's by 3.5e-5): then twice as far as it is accepted.
TOLERANCE = 1e-5


def compare(
    model: Served,
    theirs: Callable[[Tensor], np.ndarray],
    images: tuple[Tensor, ...],
    what: str,
    tolerance: float = TOLERANCE,
) -> tuple[Check, ...]:
    """Run `images` through both; raises `ConversionError` where the results differ by more than rounding explains."""
    exact = copy.deepcopy(model).double()
    checks, errors = [], []
    for image in images:
        with torch.inference_mode():
            ours, truth = model(image).numpy(), exact(image.double()).numpy()
        found = theirs(image)
        if found.shape != ours.shape:
            raise ConversionError(
                f"{what} is {list(found.shape)} for an input of {list(image.shape)}, PyTorch's {list(ours.shape)}. "
                f"Nothing was written"
            )
        largest = max(float(np.abs(truth).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        absolute = float(np.abs(found - ours).max(initial=0.0))
        rounding = float(np.abs(ours - truth).max(initial=0.0)) / largest
        checks.append(Check(tuple(image.shape), absolute, absolute / largest, rounding))
        errors.append(float(np.abs(found - truth).max(initial=0.0)) / largest)
    accepted = max(tolerance, 2 * max(check.rounding for check in checks))
    for check, error in zip(checks, errors, strict=True):
        if not error <= accepted:
            raise ConversionError(
                f"{what} differs from the network's by {error:.1e} of the largest value for an input of "
                f"{list(check.shape)}; at most {accepted:.1e} is rounding. Nothing was written"
            )
    return tuple(checks)


def captured(model: Served) -> torch.export.ExportedProgram:
    """`model` as a graph that needs no Python of ours, with its free sizes.

    Raises `ConversionError` for a network that cannot be captured so.
    """
    config = model.network.config
    if any(isinstance(module, nn.LSTM) for module in model.modules()):
        raise ConversionError(
            f"{config.name} has an LSTM, which PyTorch's exporter writes out step by step, for lines of one width; "
            f"with free widths it can go to Paddle (--to paddle), or stay in PyTorch"
        )
    if "prefer_deferred_runtime_asserts_over_guards" not in inspect.signature(torch.export.export).parameters:
        raise ConversionError(
            f"PyTorch {torch.__version__} is too old to export a network with free sizes; 2.13 does it"
        )
    with torch.no_grad(), warnings.catch_warnings():
        # Of PyTorch's own parts, about what they will call each other one day.
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model,
            (example_images(config)[1],),
            dynamic_shapes=(free_dimensions(config),),
            # What is true of every size but beyond its solver (a map of two columns is not one column wide) is
            # checked when the graph runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        # Where our code lies on this machine is nobody's business.
        node.meta.pop("stack_trace", None)
    return program
