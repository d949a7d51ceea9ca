"""Whole pages per second: ours beside RapidOCR, Paddle's own inference and other peers, same pages, same weights.

See `bench_engines` for how the engines live and take turns.
"""

from __future__ import annotations

import importlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

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
from paddle2torch.bench.networks import set_onednn
from paddle2torch.bench.processes import BenchError
from paddle2torch.model_zoo.errors import ConfigError

if TYPE_CHECKING:
    from paddle2torch.tasks.images import BGRImage

DETECTOR = "ch_PP-OCRv4_det"
CLASSIFIER = "ch_ppocr_mobile_v2.0_cls"
RECOGNIZER = "ch_PP-OCRv4_rec"

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
"""What makes the pipeline of `rapidocr-paddle` do PaddleOCR 2's work: no borders, no scaling beforehand, its
normalisation and thresholds."""

PAIRS: Mapping[str, str] = {
    "v5-mobile": "PP-OCRv5_mobile",
    "v6-tiny": "PP-OCRv6_tiny",
    "v6-small": "PP-OCRv6_small",
}
"""Pairs of models by the names of `bench pages --models`, and how the names of both begin."""

SIZES: Mapping[str, str] = {"v6-tiny": "tiny", "v6-small": "small"}
"""Those that faster-paddle has, by its own names."""

RUNTIMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "RapidOCR, OpenVINO as it comes": ("openvino", {}),
    "RapidOCR, OpenVINO in float32": ("openvino", {"precision": "f32"}),
    "RapidOCR, ONNX Runtime": ("onnxruntime", {}),
}
"""Ways to run RapidOCR 3: the distribution that computes, and what else `_peers.rapidocr` is told."""

PEERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rapidocr": {name: ("rapidocr", runtime) for name, (runtime, _) in RUNTIMES.items()},
    "rapidocrlite": {"rapidocrlite": ("rapidocrlite",)},
    "faster-paddle": {"faster-paddle": ("faster-paddle",)},
}
"""Peers, the engines of each, and the distributions that its interpreter must have for them."""

NO_ONNX = "its interpreter lacks operators of our exports: give the vendor's files with --onnx"
NO_V4 = "it reads PP-OCRv6 alone"
"""Why rapidocrlite is left out, and it and faster-paddle are."""

OURS: Mapping[str, Mapping[str, Any]] = {
    "paddle2torch": {},
    "paddle2torch, compiled": {"compiled": True},
    "paddle2torch, bfloat16, compiled": {"precision": "bf16", "compiled": True},
    "paddle2torch, int8, compiled": {"quantized": True, "compiled": True},
    "paddle2torch, fast": {"fast": True},
}
"""Our ways to read a page: what `OCR` is told."""


@dataclass(frozen=True)
class PagesBench:
    """All engines on the same pages; what an engine found in a page is the texts of its lines."""

    pages: tuple[str, ...]
    result: EnginesBench

    def pages_per_second(self, run: EngineRun) -> float:
        """Pages by the median of the passes."""
        return len(self.pages) / run.passes.median

    def texts_in_common(self, run: EngineRun) -> int:
        """Lines that it read with the same text on the same page as the first engine."""
        pairs = zip(self.result.runs[0].texts, run.texts, strict=True)
        return sum((Counter(ours) & Counter(theirs)).total() for ours, theirs in pairs)

    def detector_pixels(self, run: EngineRun) -> int | None:
        """Pixels of all inputs of its detector in a pass; None where it does not tell."""
        sizes = run.facts.get("detector")
        return sum(height * width for height, width in sizes) if sizes else None

    def to_json(self) -> dict[str, Any]:
        """All of it but the texts as JSON knows it, with what follows from it."""
        result = self.result.to_json()
        for engine, run in zip(result["engines"], self.result.runs, strict=True):
            engine["pages_per_second"] = self.pages_per_second(run)
            engine["lines"] = sum(map(len, run.texts))
            engine["texts_in_common"] = self.texts_in_common(run)
            engine["precision"] = run.facts.get("precision")
            engine["detector_inputs"] = run.facts.get("detector")
        return {"pages": list(self.pages), **result}


def bench_pages(
    images: Sequence[str | Path],
    *,
    det: Path | None = None,
    cls: Path | None = None,
    rec: Path | None = None,
    peers: Mapping[str, str] | None = None,
    onnx: tuple[Path, Path] | None = None,
    only: Sequence[str] = (),
    repeat: int = 5,
    threads: int = 2,
    compiled: bool = True,
) -> PagesBench:
    """Read the pages with PP-OCRv4 mobile: ours, the engines installed with it (`paddle2torch[bench]`), and peers.

    det, cls, rec: folders of the official exports of PP-OCRv4 (legacy format). Ours converts them first, Paddle runs
    them as they are. Without them ours takes its models from the local zoo, and Paddle those that come with
    `rapidocr-paddle`, which are the same. With `compiled`, ours is run compiled as well, which takes minutes to make
    the first time, and in int8 where detector and recogniser of the local zoo were quantized. All have the sizes,
    thresholds and classifier of PaddleOCR 2; RapidOCR has a classifier of its own. peers, onnx, only: see
    `bench_pair_pages`.
    """
    check_threads(threads)
    interpreters = _known(peers or {})
    with tempfile.TemporaryDirectory() as folder:
        models = {
            task: name if export is None else _convert(name, export, Path(folder) / task)
            for task, name, export in (("det", DETECTOR, det), ("cls", CLASSIFIER, cls), ("rec", RECOGNIZER, rec))
        }
        exports = {task: str(path) for task, path in (("Det", det), ("Cls", cls), ("Rec", rec)) if path is not None}
        chosen = list(engines(models, exports, compiled))
        chosen += _peers((models["det"], models["rec"]), 2, interpreters, onnx, Path(folder))
        result = run_engines(_named(chosen, only), images, repeat=repeat, threads=threads)
    return PagesBench(tuple(map(str, images)), result)


def bench_pair_pages(
    images: Sequence[str | Path],
    models: str,
    peers: Mapping[str, str],
    *,
    onnx: tuple[Path, Path] | None = None,
    only: Sequence[str] = (),
    repeat: int = 5,
    threads: int = 2,
    compiled: bool = True,
) -> PagesBench:
    """Read the pages with a pair of PP-OCRv5 or v6, ours beside peers of today, without a classifier of lines.

    All have PaddleOCR 3's sizes and thresholds (`_peers.SETTINGS`), as far as they have such settings.

    Args:
        images: pages.
        models: a key of `PAIRS`.
        peers: {key of `PEERS`: the interpreter that has it}, of those that take part.
        onnx: detector and recogniser as the vendor converted them, for the peers that read ONNX; by default they read
            our exports, which rapidocrlite cannot. faster-paddle has weights of its own.
        only: names of the engines that take part, those of the table; without it all do.
        repeat, threads, compiled: see `bench_pages`.

    Raises `ConfigError` for a peer or models that are not known, and where an interpreter is none.
    """
    if models not in PAIRS:
        raise ConfigError(f"models is {models!r}, not one of v4, {', '.join(PAIRS)}")
    check_threads(threads)
    interpreters = _known(peers)
    with tempfile.TemporaryDirectory() as folder:
        pair = (f"{PAIRS[models]}_det", f"{PAIRS[models]}_rec")
        chosen = [*_our_pair(pair, compiled), *_peers(pair, 3, interpreters, onnx, Path(folder), SIZES.get(models))]
        result = run_engines(_named(chosen, only), images, repeat=repeat, threads=threads)
    return PagesBench(tuple(map(str, images)), result)


def _named(engines: Sequence[Engine], only: Sequence[str]) -> Sequence[Engine]:
    names = [engine.name for engine in engines]
    if unknown := ", ".join(sorted(set(only) - set(names))):
        raise ConfigError(f"{unknown} is no engine of this run: {', '.join(names)}")
    return [engine for engine in engines if not only or engine.name in only]


def _known(peers: Mapping[str, str]) -> Mapping[str, str]:
    if unknown := ", ".join(sorted(set(peers) - set(PEERS))):
        raise ConfigError(f"{unknown} is no peer that is known: {', '.join(PEERS)}")
    return peers


def _our_pair(pair: tuple[str, str], compiled: bool) -> list[Engine]:
    from paddle2torch.zoo.resolve import obtain_converted

    # By name: of a folder the pipeline keeps the detector's own settings, which are others than PaddleOCR 3's.
    names = dict(zip(("det", "rec"), pair, strict=True))
    no_bfloat16 = None
    if compiled:
        for name in names.values():
            no_bfloat16 = compile_forms(obtain_converted(name), quantized=False)
    models = {"cls": None, **names}
    found = []
    for name, options in OURS.items():
        if not options.keys() & {"quantized", "fast"} and (compiled or "compiled" not in options):
            cannot = no_bfloat16 if "precision" in options else None
            packages = ("paddle2torch", "torch")
            found.append(Engine(name, f"{__name__}:load_ours", packages, {**models, **options}, cannot))
    # Ratios are those of the first engine: the fastest form that computes in float32.
    return found[1:2] + found[:1] + found[2:] if compiled else found


def _peers(
    models: tuple[str, str],
    pipeline: int,
    peers: Mapping[str, str],
    onnx: tuple[Path, Path] | None,
    folder: Path,
    size: str | None = None,
) -> list[Engine]:
    """Engines of the peers for a detector and a recogniser. pipeline: of PaddleOCR, 2 or 3. size: of PP-OCRv6."""
    from paddle2torch.exporting.export import export
    from paddle2torch.model_zoo.config import ModelConfig
    from paddle2torch.zoo.resolve import obtain_converted

    given: dict[str, Any] = {}
    if "rapidocr" in peers or "rapidocrlite" in peers:
        det, rec = (obtain_converted(model).absolute() for model in models)
        files = onnx or (folder / "det.onnx", folder / "rec.onnx")
        if onnx is None:
            for model, path in zip((det, rec), files, strict=True):
                export(model, "onnx", path)
        characters = ModelConfig.load(rec).charset or ()
        keys = folder / "keys.txt"
        # RapidOCR appends the space itself.
        keys.write_text("\n".join(characters[:-1] if characters[-1:] == (" ",) else characters) + "\n", "utf-8")
        given = {"det": str(files[0].absolute()), "rec": str(files[1].absolute()), "keys": str(keys)}
        given["pipeline"] = pipeline
    no_v4 = NO_V4 if size is None else None
    reasons = {"rapidocrlite": no_v4 or (NO_ONNX if onnx is None else None), "faster-paddle": no_v4}
    options: dict[str, Mapping[str, Any]] = {
        **{name: {**given, "runtime": runtime, **told} for name, (runtime, told) in RUNTIMES.items()},
        "rapidocrlite": given,
        "faster-paddle": {"size": size},
    }
    return [
        Engine(name, peer, distributions, options[name], reasons.get(peer), python)
        for peer, python in peers.items()
        for name, distributions in PEERS[peer].items()
    ]


def engines(models: Mapping[str, str], exports: Mapping[str, str], compiled: bool) -> tuple[Engine, ...]:
    """The engines of `bench_pages`.

    models: ours, by task (det, cls, rec). exports: folders for Paddle, by section. compiled: ours compiled as well.
    Ours are converted and compiled here, where it is not yet done.
    """
    from paddle2torch.zoo.folder import INT8_NAME
    from paddle2torch.zoo.resolve import obtain_converted

    folders = {task: obtain_converted(model) for task, model in models.items()}
    no_int8 = None if all((folders[task] / INT8_NAME).is_file() for task in ("det", "rec")) else NO_INT8
    no_bfloat16 = None
    if compiled:
        for task, folder in folders.items():
            no_bfloat16 = compile_forms(folder, quantized=no_int8 is None and task != "cls")

    def paddle(name: str, onednn: bool) -> Engine:
        options = {"exports": dict(exports), "onednn": onednn}
        return Engine(name, f"{__name__}:load_paddle", ("rapidocr-paddle", "paddlepaddle"), options)

    ours = {task: str(folder) for task, folder in folders.items()}
    return (
        *(
            Engine(
                name,
                f"{__name__}:load_ours",
                ("paddle2torch", "torch"),
                {**ours, **options},
                no_int8 if "quantized" in options else no_bfloat16 if "precision" in options else None,
            )
            for name, options in OURS.items()
            if compiled or "compiled" not in options
        ),
        paddle("Paddle with oneDNN", onednn=True),
        paddle("Paddle without oneDNN", onednn=False),
    )


def load_ours(threads: int, *, det: str, cls: str | None, rec: str, **options: Any) -> Reader:
    """Our pipeline with these models, names of the zoo or folders; options: see `OURS`."""
    import torch

    from paddle2torch.bench._peers import FACTS
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.ocr.pages import Failure, Page
    from paddle2torch.ocr.pipeline import OCR

    keep_freed_memory()  # as our command line does
    torch.set_num_threads(threads)
    pipeline = OCR(det=det, cls=cls, rec=rec, **options)
    half = options.get("precision") == "bf16"
    FACTS["precision"] = "int8" if options.get("quantized") else "bfloat16" if half else "float32"
    pipeline.detector.model.register_forward_pre_hook(lambda _, x: FACTS["detector"].append(list(x[0].shape[2:])))

    def read(images: Sequence[BGRImage]) -> list[list[str]]:
        results = pipeline.read_pages(Page(str(i), 1, 1, image) for i, image in enumerate(images))
        return [[line.text for line in page.lines] for page in results if not isinstance(page, Failure)]

    return read


def load_paddle(threads: int, *, exports: Mapping[str, str], onednn: bool) -> Reader:
    """Paddle's predictor in the pipeline that RapidOCR took over from PaddleOCR, with PaddleOCR's settings."""
    # RapidOCR leaves oneDNN as Paddle has it, which depends on Paddle's version.
    sessions: Any = importlib.import_module("rapidocr_paddle.utils.infer_engine")
    inference = sessions.inference

    def create_predictor(config: Any) -> Any:
        set_onednn(config, onednn)
        if config.mkldnn_enabled() != onednn:
            raise BenchError(f"this Paddle cannot run {'with' if onednn else 'without'} oneDNN")
        return inference.create_predictor(config)

    sessions.inference = SimpleNamespace(Config=inference.Config, create_predictor=create_predictor)
    return _rapidocr_paddle({"cpu_math_library_num_threads": threads}, exports)


def _rapidocr_paddle(settings: Mapping[str, Any], models: Mapping[str, str]) -> Reader:
    """RapidOCR's pipeline on Paddle. settings: for each of the networks. models: in place of its own."""
    import yaml

    module: Any = importlib.import_module("rapidocr_paddle")
    own = Path(module.__file__).parent / "config.yaml"
    config = yaml.safe_load(own.read_text(encoding="utf-8"))
    for section in ("Det", "Cls", "Rec"):
        config[section].update(settings)
        if section in models:
            config[section]["model_path"] = str(Path(models[section]).absolute())
    for section, values in PADDLEOCR_SETTINGS.items():
        config[section].update(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        pipeline = module.RapidOCR(config_path=str(path))
    detector = pipeline.text_det
    resizer = type(detector.get_preprocess(PADDLEOCR_SIDE))
    # With a limit of type max it takes 960, 1500 or 2000 pixels by the page's size, whatever its settings say.
    detector.get_preprocess = lambda _: resizer(PADDLEOCR_SIDE, "max", detector.mean, detector.std)

    def read(images: Sequence[BGRImage]) -> list[list[str]]:
        return [[text for _, text, _ in pipeline(image)[0] or ()] for image in images]

    return read


def _convert(name: str, export: Path, folder: Path) -> str:
    from paddle2torch.zoo.conversion import convert

    return str(convert(name, weights=export, output=folder, fused=True, progress=False).folder)
