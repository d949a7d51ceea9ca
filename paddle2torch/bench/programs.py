"""One forward pass of a program beside Paddle, with and without oneDNN, and ONNX Runtime. Same inputs, in turns.

See `bench.engines` for how the engines live and take turns. The inputs are made up as `verify` makes them, or come from
an `.npz`; every engine reads them from the same file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle2torch.bench.engines import Engine, EngineRun, EnginesBench, Reader, check_threads, run_engines
from paddle2torch.bench.networks import RUNS, of_one_run, onnxruntime_session, paddle_predictor
from paddle2torch.bench.processes import BenchError
from paddle2torch.model_zoo.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]


@dataclass(frozen=True)
class ProgramBench:
    """One program on one set of inputs, by name and shape; the first engine is ours, in the form for running."""

    model: str
    inputs: Mapping[str, tuple[int, ...]]
    result: EnginesBench

    def difference(self, run: EngineRun) -> float:
        """How far the sizes of its outputs are from those of the first engine, relative: a guard against another
        computation, not a comparison (`verify` is one).
        """
        ours, theirs = (np.array([float(text) for text in found.texts[0]]) for found in (self.result.runs[0], run))
        if ours.shape != theirs.shape:
            return math.inf
        return float((np.abs(ours - theirs) / np.maximum(np.abs(ours), 1e-30)).max(initial=0.0))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        result = self.result.to_json()
        for engine, run in zip(result["engines"], self.result.runs, strict=True):
            engine["fastest_seconds"] = min(run.passes.seconds)
            engine["difference"] = self.difference(run)
        return {"model": self.model, "inputs": {name: list(shape) for name, shape in self.inputs.items()}, **result}


def bench_program(
    model: str | Path,
    *,
    inputs: Path | None = None,
    onnx: Path | None = None,
    repeat: int = 7,
    threads: int = 2,
    compiled: bool = True,
) -> ProgramBench:
    """Run a converted program beside the engines that are installed.

    Args:
        model: the folder of a converted program, or its name.
        inputs: an `.npz` with one array for each input; without it they are made up.
        onnx: the same network as ONNX, which ONNX Runtime runs; without it that engine is left out.
        repeat: turns of `RUNS` runs that count, after one that does not.
        threads: of each engine.
        compiled: run the compiled form as well, which is made first where there is none.

    What cannot take part is left out and named with the reason. Raises `ConfigError` for what is not a program.
    """
    from paddle2torch.model_zoo.programs.config import is_program
    from paddle2torch.model_zoo.programs.inputs import example_inputs
    from paddle2torch.parity.program_inputs import read_inputs
    from paddle2torch.zoo.programs import load_program, write_paddle
    from paddle2torch.zoo.resolve import obtain_converted

    folder = obtain_converted(model).absolute()
    if not is_program(folder):
        raise ConfigError(f"{model} is not a program: paddle2torch bench network measures it")
    check_threads(threads)
    program = load_program(folder)
    arrays = example_inputs(program) if inputs is None else read_inputs(inputs, program.config)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        # numpy's annotations take every keyword for its own `allow_pickle`.
        np.savez(temporary / "inputs.npz", **arrays)  # type: ignore[arg-type]
        given = {"inputs": str(temporary / "inputs.npz")}
        path, parameters = write_paddle(program, folder, temporary)
        if parameters is None:
            parameters = temporary / "inference.pdiparams"
            parameters.touch()
        ours = {**given, "model": str(folder)}
        paddle = {**given, "program": str(path), "parameters": str(parameters)}
        engines = [
            Engine("paddle2torch", f"{__name__}:load_ours", ("torch",), {**ours, "compiled": False}),
            Engine("Paddle", f"{__name__}:load_paddle", ("paddlepaddle",), {**paddle, "onednn": False}),
            Engine("Paddle with oneDNN", f"{__name__}:load_paddle", ("paddlepaddle",), {**paddle, "onednn": True}),
            Engine(
                "ONNX Runtime",
                f"{__name__}:load_onnxruntime",
                ("onnxruntime",),
                {**given, "onnx": str(onnx)},
                None if onnx is not None else "runs an ONNX file of the same network: give it with --onnx",
            ),
        ]
        if compiled:
            form = Engine("paddle2torch, compiled", f"{__name__}:load_ours", ("torch",), {**ours, "compiled": True})
            engines.insert(1, replace(form, cannot=_not_compiled(folder)))
        able = [engines[0], *(_able(engine, threads) for engine in engines[1:])]
        result = of_one_run(run_engines(able, (), repeat=repeat, threads=threads, own_inputs=True))
    return ProgramBench(program.config.name, {name: array.shape for name, array in arrays.items()}, result)


def _not_compiled(folder: Path) -> str | None:
    """Why a program has no compiled form here; it is made first."""
    from paddle2torch.compiled.programs import load_compiled_program
    from paddle2torch.model_zoo.errors import ConversionError

    try:
        load_compiled_program(folder)
    except ConversionError as error:
        return str(error)
    return None


def _able(engine: Engine, threads: int) -> Engine:
    """The engine, with the reason where it cannot run this program: it is tried alone first."""
    if engine.cannot is not None:
        return engine
    try:
        run_engines([engine], (), repeat=1, threads=threads, own_inputs=True)
    except BenchError as error:
        return replace(engine, cannot=str(error)[:300])
    return engine


def load_ours(threads: int, *, inputs: str, model: str, compiled: bool) -> Reader:
    """Ours: the form for running, or compiled."""
    import torch

    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory

    keep_freed_memory()  # as our command line does
    torch.set_num_threads(threads)
    program = load_pretrained(model, fused=not compiled, compiled=compiled)

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        with torch.inference_mode():
            outputs = program(*(torch.from_numpy(array) for array in arrays.values()))
        listed = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return [output.numpy() for output in listed]

    return _reader(inputs, run)


def load_paddle(threads: int, *, inputs: str, program: str, parameters: str, onednn: bool) -> Reader:
    """Paddle's predictor with oneDNN or with its plain kernels."""
    predictor = paddle_predictor(threads, program, parameters, onednn=onednn)
    given = {name: predictor.get_input_handle(name) for name in predictor.get_input_names()}
    outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        for name, handle in given.items():
            handle.copy_from_cpu(arrays[name])
        predictor.run()
        return [np.asarray(output.copy_to_cpu()) for output in outputs]

    return _reader(inputs, run)


def load_onnxruntime(threads: int, *, inputs: str, onnx: str) -> Reader:
    """ONNX Runtime on the CPU; inputs go by name, else by place."""
    session = onnxruntime_session(threads, onnx)
    names = [item.name for item in session.get_inputs()]

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        named = arrays if set(names) <= set(arrays) else dict(zip(names, arrays.values(), strict=False))
        found: list[NDArray[Any]] = session.run(None, {name: named[name] for name in names})
        return found

    return _reader(inputs, run)


def _reader(inputs: str, run: Callable[[Arrays], list[NDArray[Any]]]) -> Reader:
    """Runs the program `RUNS` times; what it finds are the sizes of its outputs: the mean of their absolute values."""
    with np.load(inputs, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}

    def read(images: Sequence[Any]) -> list[list[str]]:
        for _ in range(RUNS):
            outputs = run(arrays)
        return [[repr(float(np.abs(output.astype(np.float64)).mean())) if output.size else "0.0" for output in outputs]]

    return read
