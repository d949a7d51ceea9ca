"""One network beside the engines that run the same weights: OpenVINO, ONNX Runtime, Paddle. Same input, in turns.

See `bench_engines` for how the engines live and take turns. What an engine reads here is one batch of a fixed size;
what is timed is the network alone. Beside the times is the floor: the network's operations at the rate that a plain
matrix product reaches on the machine's cores in the same run.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from paddle2torch.atomic import land_file
from paddle2torch.bench.engines import (
    NO_INT8,
    Engine,
    EngineRun,
    EnginesBench,
    Reader,
    check_threads,
    compile_forms,
    run_engines,
)
from paddle2torch.bench.processes import version_of
from paddle2torch.model_zoo.config import ModelConfig, RecPreprocess, one_size
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from paddle2torch.tasks.images import BGRImage

Shape: TypeAlias = tuple[int, int, int]
"""Images in a batch, height, width."""

SHAPES: Mapping[str, tuple[Shape, ...]] = {
    "rec": ((6, 48, 320), (1, 48, 320), (1, 48, 1280)),
    "det": ((1, 736, 1280),),
    "cls": ((6, 48, 192),),
}
"""What is measured of each task without other wishes."""

OURS: Mapping[str, Mapping[str, Any]] = {
    "paddle2torch": {},
    "paddle2torch, compiled": {"compiled": True},
    "paddle2torch, bfloat16, compiled": {"precision": "bf16", "compiled": True},
    "paddle2torch, int8": {"quantized": True},
    "paddle2torch, int8, compiled": {"quantized": True, "compiled": True},
}
"""Our forms of a network: what `load_pretrained` is told, beside fused=True."""

RUNS = 5
"""Passes of the network in a turn: a page has many lines, and only the first finds the caches cold."""

MATRIX = 2048
MATRIX_SECONDS = 2.0

NO_LSTM = "the model has an LSTM, which PyTorch's exporter cannot write for free widths"
NO_EXPORT = "runs the Paddle export of the same weights: give it with --export"


@dataclass(frozen=True)
class NetworkBench:
    """One batch shape; what an engine found in an image is the class of each step, or how many pixels are text.

    multiply_adds: of the fused network. peaks: those per second of a matrix product, before and after the turns.
    """

    model: str
    shape: Shape
    multiply_adds: int
    peaks: tuple[float, float]
    result: EnginesBench

    @property
    def floor(self) -> float:
        """Seconds that the multiply-adds alone take at the better peak: the machine can do that much."""
        return self.multiply_adds / max(self.peaks)

    def agreement(self, run: EngineRun) -> float:
        """The share of what it found that is what the first engine found: steps, or pages."""
        pairs = [
            (a, b)
            for ours, theirs in zip(self.result.runs[0].texts, run.texts, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        ]
        return sum(a == b for a, b in pairs) / len(pairs)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        result = self.result.to_json()
        for engine, run in zip(result["engines"], self.result.runs, strict=True):
            engine["fastest_seconds"] = min(run.passes.seconds)
            engine["by_floor"] = run.passes.median / self.floor
            engine["agreement"] = self.agreement(run)
        before, after = self.peaks
        return {
            "model": self.model,
            "batch": list(self.shape),
            "multiply_adds": self.multiply_adds,
            "peak_multiply_adds_per_second": {"before": before, "after": after, "best": max(self.peaks)},
            "floor_seconds": self.floor,
            **result,
        }


def bench_networks(
    model: str | Path,
    *,
    export: Path | None = None,
    shapes: Sequence[Shape] | None = None,
    repeat: int = 7,
    threads: int = 2,
    compiled: bool = True,
) -> tuple[NetworkBench, ...]:
    """Run a converted model beside the engines that are installed (`paddle2torch[bench]`).

    Args:
        model: a name of the zoo or the folder of a converted model.
        export: the Paddle export of the same weights, which Paddle runs; without it that is left out. OpenVINO runs it
            too where it is in the legacy format, else our own export to ONNX. Where the model was quantized both
            runtimes run its int8 form as well.
        shapes: batches as (images, height, width); by default those of `SHAPES`.
        repeat: turns of `RUNS` runs that count, after one that does not.
        threads: of each engine.
        compiled: run the compiled form as well; it is made first where it is missing.

    What cannot take part is left out and named with the reason. Raises `ConfigError` for threads or a shape that cannot
    be, `BenchError` where an engine fails.
    """
    from paddle2torch.zoo.info import cost_of
    from paddle2torch.zoo.resolve import obtain_converted

    folder = obtain_converted(model).absolute()
    config = ModelConfig.load(folder)
    check_threads(threads)
    chosen_shapes = shapes or SHAPES[config.task]
    for shape in chosen_shapes:
        _check_shape(shape, config)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        chosen = engines(folder, export, compiled, Path(temporary))
        peak = matrix_peak(threads)
        for shape in chosen_shapes:
            images = _images(shape, Path(temporary))
            result = of_one_run(run_engines(chosen, images, repeat=repeat, threads=threads))
            before, peak = peak, matrix_peak(threads)
            cost = cost_of(config, (shape[0], 3, *shape[1:]))
            results.append(NetworkBench(config.name, shape, cost.multiply_adds, (before, peak), result))
    return tuple(results)


def of_one_run(result: EnginesBench) -> EnginesBench:
    """The times of a turn of `RUNS` runs, by the run."""

    def each(seconds: Sequence[float]) -> tuple[float, ...]:
        return tuple(value / RUNS for value in seconds)

    runs = [
        replace(
            run,
            passes=replace(run.passes, seconds=each(run.passes.seconds)),
            cpu_seconds=each(run.cpu_seconds),
        )
        for run in result.runs
    ]
    return replace(result, runs=tuple(runs))


def engines(folder: Path, export: Path | None, compiled: bool, temporary: Path) -> tuple[Engine, ...]:
    """The engines of `bench_networks` for the converted model in `folder`, which is compiled where it is not yet.

    ONNX Runtime gets our export of it, in `temporary`, and so does OpenVINO without a Paddle export that it reads.
    """
    from paddle2torch.converters.paddle_files.exports import find_export
    from paddle2torch.exporting.export import export as write
    from paddle2torch.zoo.folder import INT8_NAME
    from paddle2torch.zoo.info import cost_of

    no_graph = NO_LSTM if "lstm" in cost_of(ModelConfig.load(folder)).layers else None
    no_int8 = None if (folder / INT8_NAME).is_file() else NO_INT8
    no_bfloat16 = None
    if compiled and no_graph is None:
        no_bfloat16 = compile_forms(folder, quantized=no_int8 is None)
    onnx, qdq, onnx_packages = temporary / "model.onnx", temporary / "int8.onnx", ("onnxruntime", "onnx", "onnxscript")
    if no_graph is None and all(version_of(name) for name in onnx_packages):
        write(folder, "onnx", onnx)
        if no_int8 is None:
            write(folder, "onnx", qdq, quantized=True)
    model = {"model": str(folder)}
    reasons = {"quantized": no_int8, "precision": no_bfloat16, "compiled": no_graph}
    found = []
    for name, options in OURS.items():
        if compiled or "compiled" not in options:
            cannot = next((reason for key, reason in reasons.items() if key in options and reason is not None), None)
            packages = ("paddle2torch", "torch")
            found.append(Engine(name, f"{__name__}:load_ours", packages, {**model, **options}, cannot))
    given = {**model, "onnx": str(onnx)}
    found.append(Engine("ONNX Runtime", f"{__name__}:load_onnxruntime", onnx_packages, given, no_graph))
    files = [str(onnx)]
    if export is not None:
        program, parameters = find_export(export)
        given = {**model, "program": str(program.absolute()), "parameters": str(parameters.absolute())}
        if program.suffix == ".pdmodel":
            files = [given["program"], given["parameters"]]
    no_openvino = no_graph if len(files) == 1 else None
    for name, precision in (("OpenVINO", "f32"), ("OpenVINO, bfloat16", "bf16")):
        if precision == "bf16" and (not compiled or no_bfloat16 is not None):
            continue  # there is none of our results to compare it with
        options = {**model, "files": files, "precision": precision}
        needed = ("openvino",) if len(files) == 2 else ("openvino", "onnx", "onnxscript")
        found.append(Engine(name, f"{__name__}:load_openvino", needed, options, no_openvino))
    options = {**model, "files": [str(qdq)], "precision": "f32"}
    needed = ("openvino", "onnx", "onnxscript")
    found.append(Engine("OpenVINO, int8", f"{__name__}:load_openvino", needed, options, no_graph or no_int8))
    options = {**model, "onnx": str(qdq)}
    found.append(
        Engine("ONNX Runtime, int8", f"{__name__}:load_onnxruntime", onnx_packages, options, no_graph or no_int8)
    )
    no_paddle = NO_EXPORT if export is None else None
    found.append(Engine("Paddle with oneDNN", f"{__name__}:load_paddle", ("paddlepaddle",), given, no_paddle))
    return tuple(found)


def load_ours(threads: int, *, model: str, **options: Any) -> Reader:
    """Ours in the form for running; options: see `OURS`."""
    import torch

    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory

    keep_freed_memory()  # as our command line does
    torch.set_num_threads(threads)
    network = load_pretrained(model, fused=True, **options)

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            output = network(torch.from_numpy(x))
        return np.asarray((output["maps"] if isinstance(output, dict) else output).numpy())

    return _reader(model, run)


def load_onnxruntime(threads: int, *, model: str, onnx: str) -> Reader:
    """ONNX Runtime on the CPU."""
    session = onnxruntime_session(threads, onnx)
    name = session.get_inputs()[0].name
    return _reader(model, lambda x: session.run(None, {name: x})[0])


def onnxruntime_session(threads: int, onnx: str) -> Any:
    """An ONNX file in ONNX Runtime on the CPU."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def load_openvino(threads: int, *, model: str, files: Sequence[str], precision: str) -> Reader:
    """OpenVINO on the CPU. files: an .onnx, or program and parameters in Paddle's legacy format. precision: "f32" or
    "bf16"; what a file has in int8 stays in int8.
    """
    core = importlib.import_module("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(*files), "CPU", settings)
    return _reader(model, lambda x: compiled(x)[compiled.output(0)])


def load_paddle(threads: int, *, model: str, program: str, parameters: str) -> Reader:
    """Paddle's predictor with oneDNN, set up as PaddleOCR does."""
    predictor = paddle_predictor(threads, program, parameters, onednn=True)
    given = predictor.get_input_handle(predictor.get_input_names()[0])
    output = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        given.copy_from_cpu(x)
        predictor.run()
        return np.asarray(output.copy_to_cpu())

    return _reader(model, run)


def paddle_predictor(threads: int, program: str, parameters: str, *, onednn: bool) -> Any:
    """Paddle's predictor of an export, with oneDNN or with its plain kernels."""
    # In a process that never imports torch: the two crash in one process.
    inference: Any = importlib.import_module("paddle.inference")
    config = inference.Config(program, parameters)
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(threads)
    config.enable_memory_optim()
    set_onednn(config, onednn)
    if program.endswith(".json"):
        # Paddle 3.3 cannot plan the memory of its newer format without these.
        config.enable_new_ir()
        config.enable_new_executor()
    return inference.create_predictor(config)


def set_onednn(config: Any, on: bool) -> None:
    """Have a predictor use oneDNN, or Paddle's plain kernels."""
    if on:
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(10)  # as PaddleOCR: shapes differ from line to line
    else:
        config.disable_mkldnn()


def _reader(model: str, run: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Reader:
    """Runs the batch of all images; what it reads is the class of each step, or how many pixels are text."""
    config = ModelConfig.load(Path(model))
    batches: list[NDArray[np.float32]] = []

    def read(images: Sequence[BGRImage]) -> list[list[str]]:
        if not batches:
            batches.append(_batch(images, config))
        for _ in range(RUNS):
            output = run(batches[0])
        if config.task == "det":
            return [[str(int((page > 0.3).sum()))] for page in output]
        return [[str(index) for index in np.atleast_1d(line.argmax(-1))] for line in output]

    return read


def _batch(images: Sequence[BGRImage], config: ModelConfig) -> NDArray[np.float32]:
    settings = config.preprocess
    pixels = np.stack(images).astype(np.float32) * settings.scale
    normalised = (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), dtype=np.float32)


def _images(shape: Shape, folder: Path) -> list[Path]:
    """A batch of rendered text, as files."""
    import cv2

    count, height, width = shape
    paths = []
    for number in range(count):
        page = np.full((height, width, 3), 255, np.uint8)
        for line, base in enumerate(range(34, height + 1, 44)):
            text = f"{number}{line} The quick brown fox 0123456789 " * (1 + width // 600)
            cv2.putText(page, text, (4, base), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (30, 40, 50), 2, cv2.LINE_AA)
        paths.append(folder / f"{count}x{height}x{width}.{number}.png")
        cv2.imwrite(str(paths[-1]), page)
    return paths


def _check_shape(shape: Shape, config: ModelConfig) -> None:
    _, height, width = shape
    settings = config.preprocess
    fits = height % 32 == width % 32 == 0
    if (size := one_size(settings)) is not None:
        fits = (height, width) == size[1:]
    elif isinstance(settings, RecPreprocess):
        fits = height == settings.image_shape[1]
    if not fits or min(shape) < 1:
        raise ConfigError(f"{config.name} takes no images of {height}x{width}: see its preprocess settings")


def matrix_peak(threads: int) -> float:
    """Multiply-adds per second that a product of two large float32 matrices reaches: the best of a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
        best, end = float("inf"), time.perf_counter() + MATRIX_SECONDS
        while time.perf_counter() < end:
            start = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return MATRIX**3 / best


def need_matplotlib() -> None:
    """Raise `Paddle2TorchError` where no chart can be drawn, before anybody has waited for what it is to show."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Paddle2TorchError("a chart needs matplotlib: pip install 'paddle2torch[train]'")


def write_chart(results: Sequence[NetworkBench], path: Path) -> None:
    """A bar chart as PNG: medians of each engine, a panel per batch, the floor as a line."""
    need_matplotlib()
    figure_module = importlib.import_module("matplotlib.figure")
    figure = figure_module.Figure(figsize=(9, 2.2 * len(results) + 0.6), layout="constrained")
    for index, bench in enumerate(results, start=1):
        axes = figure.add_subplot(len(results), 1, index)
        runs = bench.result.runs
        milliseconds = [[1000 * value for value in run.passes.seconds] for run in runs]
        medians = [statistics.median(values) for values in milliseconds]
        spread = [
            [median - min(values) for median, values in zip(medians, milliseconds, strict=True)],
            [max(values) - median for median, values in zip(medians, milliseconds, strict=True)],
        ]
        names = [run.passes.name for run in runs]
        colours = ["#2b6cb0" if name in OURS else "#a0aec0" for name in names]
        axes.barh(names, medians, xerr=spread, color=colours, ecolor="#4a5568", capsize=2)
        axes.axvline(1000 * bench.floor, color="#c53030", linestyle="--", linewidth=1, label="floor")
        axes.invert_yaxis()
        count, height, width = bench.shape
        axes.set_title(f"{bench.model}, {count} x {height} x {width}, {bench.result.threads} threads", fontsize=9)
        axes.set_xlabel("milliseconds", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7)
    with land_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
