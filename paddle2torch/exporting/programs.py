"""The way out of a converted program: Paddle's own program again, a `.pt2`, an `.onnx`."""

from __future__ import annotations

import copy
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paddle2torch.atomic import land_file, land_folder
from paddle2torch.compiled.program_graphs import capture, check, compare, listed, notes_of
from paddle2torch.compiled.quiet import quiet
from paddle2torch.compiled.serving import Check
from paddle2torch.exporting.export import Exported
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.programs.inputs import example_inputs
from paddle2torch.model_zoo.programs.network import Program
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

    sets = sorted({node.kind for node in program.program.walk()} & SETS)
    if sets:
        raise ConversionError(
            f"{', '.join(sets)}: this suppression of boxes has no form in ONNX here. Export the network without it, or "
            "with --to torch, where it stays one operation"
        )
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


def _has(name: str) -> bool:
    """Whether a package is installed here."""
    return importlib.util.find_spec(name) is not None
