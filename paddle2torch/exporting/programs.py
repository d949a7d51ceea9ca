"""The way out of a converted program: Paddle's own program again, a `.pt2`, an `.onnx`.

Sizes that the program leaves free are free in a graph too, where `torch.export` can prove it; else only the batch is,
or none, and a note says so. Every graph is run beside the module at several sizes: one that is right at the example's
size alone would be wrong in silence.
"""

from __future__ import annotations

import copy
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.atomic import land_file, land_folder
from paddle2torch.compiled.serving import Check
from paddle2torch.exporting.export import Exported
from paddle2torch.exporting.onnx import quiet
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.parity.programs import SETS, example_inputs, sorted_rows
from paddle2torch.parity.reference import run_program
from paddle2torch.zoo.programs import write_paddle

TOLERANCE = 1e-5
"""Of an output's largest value, between the module and a graph that was made of it."""
PADDLE_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Captured:
    """A graph, the inputs it was made with, and which sizes are free: "all", "batch" or "none"."""

    program: torch.export.ExportedProgram
    inputs: tuple[Tensor, ...]
    free: str


def export_paddle(program: Program, target: Path, *, force: bool = False) -> Exported:
    """Write Paddle's own program with this module's weights: the folder `target`, which Paddle loads as it is."""
    folder = program.meta.get("folder")
    if not isinstance(folder, Path):
        raise ConversionError("this program was not loaded from a folder, which has Paddle's own program file")
    checked_by: str | None = None
    checks: list[Check] = []
    notes: list[str] = []
    with land_folder(target, overwrite=force) as temporary:
        path, parameters = write_paddle(program, folder, temporary)
        if _has("paddle"):
            inputs = example_inputs(program.config)
            placeholder = parameters or temporary / "inference.pdiparams"
            if parameters is None:
                placeholder.touch()
            run = run_program(path, placeholder, inputs, [])
            if parameters is None:
                placeholder.unlink()
            checked_by = f"Paddle {run.version}"
            arguments = [torch.from_numpy(array) for array in inputs.values()]
            with torch.inference_mode():
                found = listed(copy.deepcopy(program).float().cpu().eval()(*arguments))
            shape = tuple(arguments[0].shape) if arguments else ()
            suppressed = any(node.kind in SETS for node in program.program.walk())
            expected = [matched(a, b) if suppressed else b for a, b in zip(found, run.outputs, strict=True)]
            checks.append(check(found, expected, shape, "Paddle's run of the program", PADDLE_TOLERANCE))
        else:
            notes.append("Paddle is not installed here: the program was written, but not run")
    return Exported(target, "paddle", checked_by, tuple(checks), tuple(notes))


def export_torch(program: Program, target: Path, *, force: bool = False) -> Exported:
    """Write a `.pt2` for PyTorch without this package; `model_config.json` is inside."""
    with land_file(target) as temporary:
        captured = capture(program)
        buffer = io.BytesIO()
        torch.export.save(captured.program, buffer, extra_files={CONFIG_NAME: program.config.dumps()})
        temporary.write_bytes(buffer.getbuffer())
        loaded = torch.export.load(io.BytesIO(temporary.read_bytes())).module()
        checks = compare(program, captured, loaded, "the exported graph")
    return Exported(target, "torch", f"torch {torch.__version__}", checks, notes_of(captured))


def export_onnx(program: Program, target: Path, *, force: bool = False) -> Exported:
    """Write an `.onnx` and run it with ONNX Runtime at several sizes; `model_config.json` is inside."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not _has(name)]
    if missing:
        raise Paddle2TorchError(
            f"an export to ONNX is written and checked with {', '.join(missing)}, not installed here: "
            f"pip install 'paddle2torch[onnx]'"
        )
    import onnxruntime

    with land_file(target) as temporary:
        captured = capture(program)
        try:
            with quiet():
                made = torch.onnx.export(captured.program, dynamo=True, verbose=False)
        except Exception as error:  # what the exporter raises has no common class
            raise ConversionError(f"PyTorch cannot write this program as ONNX: {error!s:.300}") from None
        assert made is not None
        proto = made.model_proto
        for node in proto.graph.node:
            del node.metadata_props[:]
        proto.metadata_props.add(key=CONFIG_NAME, value=program.config.dumps())
        temporary.write_bytes(proto.SerializeToString())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ConversionError(f"ONNX Runtime does not load what PyTorch wrote: {error!s:.300}") from None
        names = [item.name for item in session.get_inputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
            return tuple(torch.from_numpy(np.asarray(output)) for output in outputs)

        checks = compare(program, captured, run, "ONNX Runtime's output")
    return Exported(target, "onnx", f"ONNX Runtime {onnxruntime.__version__}", checks, notes_of(captured))


def capture(program: Program) -> Captured:
    """The program as a graph of `torch.export`, with as many free sizes as can be proven.

    Raises `ConversionError` where control flow or an operation forbids it.
    """
    module = copy.deepcopy(program).cpu().float().eval().requires_grad_(False)
    reason = ""
    for free in ("all", "batch", "none"):
        inputs, shapes = _example(program, free)
        if free == "batch" and not any(shapes) and not any(-1 in feed.shape for feed in program.config.feeds):
            continue
        try:
            with quiet():
                graph = torch.export.export(_Positional(module), inputs, dynamic_shapes=(shapes,), strict=False)
        except Paddle2TorchError:
            raise
        except Exception as error:  # what the exporter raises has no common class
            reason = reason or str(error)
            continue
        return Captured(graph, inputs, free)
    first = next((line.strip() for line in reason.splitlines() if line.strip()), "")
    raise ConversionError(f"PyTorch cannot capture {program.config.name} as a graph: {first[:300]}")


class _Positional(nn.Module):
    """The program with its inputs as one tuple, so that their names do not matter."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        return self.program(*inputs)


def _example(program: Program, free: str) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs, and for each of them its free dimensions as `torch.export` takes them."""
    inputs, shapes = [], []
    for feed, array in zip(program.config.feeds, example_inputs(program.config).values(), strict=True):
        # A batch of one would become a constant of the graph.
        repeats = [2 if axis == 0 and size == -1 else 1 for axis, size in enumerate(feed.shape)]
        inputs.append(torch.from_numpy(np.tile(array, repeats)))
        axes = [axis for axis, size in enumerate(feed.shape) if size == -1 and (free == "all" or axis == 0)]
        shapes.append(dict.fromkeys(axes, torch.export.Dim.AUTO) if free != "none" else {})
    return tuple(inputs), tuple(shapes)


def _others(program: Program, captured: Captured) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of the example's sizes, and of other ones where these are free."""
    yield captured.inputs
    if captured.free == "none" or not any(-1 in feed.shape for feed in program.config.feeds):
        return
    for batch, extra in ((1, 0), (3, 32)):
        inputs = []
        for feed, x in zip(program.config.feeds, captured.inputs, strict=True):
            sizes = [
                batch
                if axis == 0 and size == -1
                else x.shape[axis] + (extra if len(feed.shape) == 4 else 0)
                if size == -1 and captured.free == "all"
                else x.shape[axis]
                for axis, size in enumerate(feed.shape)
            ]
            random = np.random.default_rng(sizes)
            flat = x.reshape(-1).numpy()
            values = random.uniform(-1, 1, sizes).astype(flat.dtype) if x.is_floating_point() and x.ndim == 4 else None
            inputs.append(torch.from_numpy(np.resize(flat, sizes) if values is None else values))
        yield tuple(inputs)


def compare(program: Program, captured: Captured, run: Callable[..., Any], what: str) -> tuple[Check, ...]:
    """What `run` gives beside the module, at several sizes; raises `ConversionError` where it differs.

    A size that the module itself refuses is left out, and one that the graph refuses is an error of its own.
    """
    module = copy.deepcopy(program).cpu().float().eval()
    checks: list[Check] = []
    for inputs in _others(program, captured):
        with torch.inference_mode():
            try:
                expected = [item.numpy() for item in listed(module(*inputs))]
            except Exception:
                if not checks:
                    raise
                continue
            try:
                found = listed(run(*inputs))
            except Exception as error:
                if checks and "guard" in str(error).lower():
                    continue  # said by the graph itself: it is not for this size
                raise ConversionError(
                    f"{what} cannot be computed at {[tuple(x.shape) for x in inputs]}: {error!s:.200}"
                ) from None
        checks.append(check(found, expected, tuple(inputs[0].shape) if inputs else (), what, TOLERANCE))
    return tuple(checks)


def check(
    found: Sequence[Any], expected: Sequence[np.ndarray], shape: tuple[int, ...], what: str, tolerance: float
) -> Check:
    """The largest difference of all outputs; raises `ConversionError` where it is too large."""
    absolute = relative = 0.0
    for output, wanted in zip(found, expected, strict=True):
        array = output.numpy() if isinstance(output, Tensor) else np.asarray(output)
        if array.shape != wanted.shape:
            raise ConversionError(f"{what} has the shape {array.shape} where {wanted.shape} belongs")
        if wanted.size == 0:
            continue
        if not np.issubdtype(wanted.dtype, np.floating):
            if not np.array_equal(array, wanted):
                raise ConversionError(f"{what} has other integers")
            continue
        same = (array == wanted) | (np.isnan(array) & np.isnan(wanted))
        largest = np.where(np.isfinite(wanted), np.abs(wanted), 0.0).max()
        difference = float(np.where(same, 0.0, np.abs(array - wanted)).max())
        absolute = max(absolute, difference)
        relative = max(relative, difference / max(float(largest), 1e-30))
    if not relative <= tolerance:
        raise ConversionError(f"{what} differs by {relative:.1e} of the largest value, at an input of {shape}")
    return Check(shape, absolute, relative, 0.0)


def matched(found: Tensor, expected: np.ndarray) -> np.ndarray:
    """Paddle's rows in our order: suppression of boxes returns rows of equal score in any."""
    array = found.numpy()
    if array.shape != expected.shape or array.ndim != 2:
        return expected
    ordered, _ = sorted_rows(expected, array)
    return ordered


def listed(outputs: Any) -> list[Any]:
    """The outputs of a program as a list."""
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def notes_of(captured: Captured) -> tuple[str, ...]:
    """Which sizes are not free, though the program leaves them."""
    if captured.free == "all":
        return ()
    rest = "only the batch is free" if captured.free == "batch" else "no size is free"
    return (f"{rest}: PyTorch could not prove more for this program",)


def _has(name: str) -> bool:
    """Whether a package is installed here."""
    return importlib.util.find_spec(name) is not None
