"""The way out of a converted program: Paddle's own program again, a `.pt2`, an `.onnx`."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paddle2torch.atomic import land_file, land_folder
from paddle2torch.compiled.program_graphs import (
    Compared,
    capture,
    check,
    compare,
    listed,
    notes_of,
)
from paddle2torch.compiled.serving import Check
from paddle2torch.exporting.export import Exported
from paddle2torch.exporting.onnx import check_installed, onnx_bytes, open_session
from paddle2torch.exporting.suppression import check_suppression, translations
from paddle2torch.exporting.torch import save_graph
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.programs import operations
from paddle2torch.model_zoo.programs.inputs import example_inputs
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.model_zoo.programs.opaque import NAMESPACE
from paddle2torch.model_zoo.programs.rows import SETS, matched
from paddle2torch.parity.reference import run_program
from paddle2torch.zoo.programs import write_paddle

PADDLE_TOLERANCE = 5e-5


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
        if importlib.util.find_spec("paddle") is not None:
            inputs = example_inputs(program)
            run = run_program(path, parameters, inputs, [])
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
    """Write a `.pt2` for PyTorch; `model_config.json` is inside. A note says where it needs this package imported."""
    with land_file(target) as temporary:
        captured = capture(program)
        loaded = save_graph(captured.program, temporary, {CONFIG_NAME: program.config.dumps()})
        compared = compare(program, captured, loaded, "the exported graph")
    notes = notes_of(captured) + _left_out(compared) + operations_of(captured.program)
    return Exported(target, "torch", f"torch {torch.__version__}", compared.checks, notes)


def operations_of(graph: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Which operations of a graph this package computes, as a note; none where PyTorch's own are enough."""
    held = _opaque_operations(graph)
    if not held:
        return ()
    return (f"{_named(held)}: this package computes them; import {operations.__name__} before torch.export.load",)


def _opaque_operations(graph: torch.export.ExportedProgram) -> set[Any]:
    return {node.target for node in graph.graph.nodes if str(node.target).startswith(f"{NAMESPACE}.")}


def _named(held: Iterable[Any]) -> str:
    return ", ".join(sorted(str(target).split(".")[1] for target in held))


def export_onnx(program: Program, target: Path, *, force: bool = False) -> Exported:
    """Write an `.onnx` and run it with ONNX Runtime at several sizes; `model_config.json` is inside."""
    check_installed()
    import onnxruntime

    check_suppression(program.program)
    with land_file(target) as temporary:
        captured = capture(program)
        missing = _opaque_operations(captured.program) - translations().keys()
        if missing:
            raise ConversionError(
                f"{_named(missing)}: an operation that this package computes, without a form in ONNX here. Export with "
                "--to torch, where it stays one operation"
            )
        try:
            content = onnx_bytes(
                captured.program,
                {CONFIG_NAME: program.config.dumps()},
                custom_translation_table=translations(),
            )
        except Exception as error:  # what the exporter raises has no common class
            raise ConversionError(f"PyTorch cannot write this program as ONNX: {error!s:.300}") from None
        temporary.write_bytes(content)
        try:
            session = open_session(temporary)
        except Exception as error:  # as above
            raise ConversionError(f"ONNX Runtime does not load what PyTorch wrote: {error!s:.300}") from None
        names = [item.name for item in session.get_inputs()]

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            outputs = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
            return tuple(torch.from_numpy(np.asarray(output)) for output in outputs)

        compared = compare(program, captured, run, "ONNX Runtime's output")
    notes = notes_of(captured) + _left_out(compared)
    return Exported(target, "onnx", f"ONNX Runtime {onnxruntime.__version__}", compared.checks, notes)


def _left_out(compared: Compared) -> tuple[str, ...]:
    """A note where some of the sizes that were meant to be tried are not the graph's."""
    if not compared.left_out:
        return ()
    return (
        f"not every size fits: PyTorch's graph is not for {' or '.join(compared.left_out)}. A .pt2 refuses such "
        "sizes; ONNX Runtime fails or gives something else",
    )
