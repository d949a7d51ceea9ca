"""Other OCR engines, in processes of their own interpreters: run as a program by one that has no paddle2torch.

`bench.engines` starts it as `PYTHON _peers.py` and speaks with it as with its own processes: a request, then a pass
over the pages for each further line of stdin, which says how many of them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Read = Callable[["int | None"], "list[list[str]]"]
"""A pass over the pages, or over the first ones: how many."""

SETTINGS: dict[int, dict[str, Any]] = {
    2: {
        "Det.limit_side_len": 960,
        "Det.limit_type": "max",
        "Global.min_side_len": 1,
        "Global.max_side_len": 1 << 20,
        "Global.text_score": 0.5,
        "Global.use_cls": True,
    },
    3: {
        "Det.limit_side_len": 64,
        "Det.limit_type": "min",
        "Global.max_side_len": 4000,
        "Global.text_score": 0.0,
        "Global.use_cls": False,
    },
}
"""Sizes and scores of the pipelines of PaddleOCR 2 and 3 in RapidOCR's names; 3 has no classifier by default."""

DETECTION = {
    "Det.mean": [0.485, 0.456, 0.406],
    "Det.std": [0.229, 0.224, 0.225],
    "Det.thresh": 0.3,
    "Det.box_thresh": 0.6,
    "Det.unclip_ratio": 1.5,
    "Det.use_dilation": False,
}
"""PaddleOCR's normalisation and thresholds in RapidOCR's names."""

FACTS: dict[str, Any] = {}
"""What an engine turns out to do: `precision`, as its runtime names it, and `detector`, the (height, width) of each
input of its detector. What a library does not tell is missing."""


def rapidocr(
    pages: Sequence[str],
    threads: int,
    *,
    det: str,
    rec: str,
    keys: str,
    pipeline: int,
    runtime: str,
    precision: str | None = None,
) -> Read:
    """RapidOCR 3. runtime: "openvino" or "onnxruntime". precision: of OpenVINO, "f32", or None for what it takes."""
    package: Any = importlib.import_module("rapidocr")
    if runtime == "openvino":
        _tell_openvino(precision)
        settings = {"EngineConfig.openvino.inference_num_threads": threads}
    else:
        FACTS["precision"] = "float32"
        settings = {"EngineConfig.onnxruntime.intra_op_num_threads": threads}
    for task in ("Det", "Cls", "Rec"):
        settings[f"{task}.engine_type"] = package.EngineType(runtime)
    engine = _engine(package, {**settings, **_models(det, rec, keys)}, pipeline)
    detector: Any = importlib.import_module("rapidocr.ch_ppocr_det").TextDetector
    prepare = detector.get_preprocess

    def prepare_and_note(self: Any) -> Any:
        resize = prepare(self)

        def noted(image: Any) -> Any:
            x = resize(image)
            FACTS["detector"].append(list(x.shape[2:]))
            return x

        return noted

    detector.get_preprocess = prepare_and_note
    return _reader(engine, pages)


def _tell_openvino(precision: str | None) -> None:
    """Have OpenVINO compute in that precision, and note which one it takes."""
    core = importlib.import_module("openvino").Core
    compile_model = core.compile_model

    def compile_as_told(self: Any, model: Any, device_name: str, config: Any = None) -> Any:
        told = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
        compiled = compile_model(self, model, device_name, {**(config or {}), **told})
        FACTS["precision"] = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return compiled

    core.compile_model = compile_as_told


def rapidocrlite(pages: Sequence[str], threads: int, *, det: str, rec: str, keys: str, pipeline: int) -> Read:
    """RapidOCR's own interpreter in C++; the import name is RapidOCR's."""
    package: Any = importlib.import_module("rapidocr")
    settings = {"EngineConfig.onnxruntime.intra_op_num_threads": threads}
    return _reader(_engine(package, {**settings, **_models(det, rec, keys)}, pipeline), pages)


def faster_paddle(pages: Sequence[str], threads: int, *, size: str) -> Read:
    """faster-paddle with the weights of its wheel. It takes files, and decodes them each time."""
    package: Any = importlib.import_module("faster_paddle")
    engine = package.OcrEngine(size, threads, None, 4000, det_min_side=64)
    files = [Path(page).read_bytes() for page in pages]
    return lambda most: [[line["text"] for line in engine.ocr(file)["bounds"].values()] for file in files[:most]]


def _models(det: str, rec: str, keys: str) -> dict[str, str]:
    return {"Det.model_path": det, "Rec.model_path": rec, "Rec.rec_keys_path": keys}


def _engine(package: Any, settings: dict[str, Any], pipeline: int) -> Any:
    return package.RapidOCR(params={**DETECTION, **SETTINGS[pipeline], **settings, "Global.log_level": "error"})


def _reader(engine: Any, pages: Sequence[str]) -> Read:
    images = [_load(page) for page in pages]
    return lambda most: [list(engine(image).txts or ()) for image in images[:most]]


def _load(page: str) -> Any:
    """uint8 BGR (H, W, 3), as RapidOCR takes arrays."""
    numpy: Any = importlib.import_module("numpy")
    image: Any = importlib.import_module("PIL.Image")
    return numpy.ascontiguousarray(numpy.asarray(image.open(page).convert("RGB"))[:, :, ::-1])


LOADERS: dict[str, Callable[..., Read]] = {
    "rapidocr": rapidocr,
    "rapidocrlite": rapidocrlite,
    "faster-paddle": faster_paddle,
}
"""By the distribution that has it."""


def serve(load: Callable[[dict[str, Any]], tuple[Read, dict[str, Any]]]) -> None:
    """An engine's side: `load` what the first line of stdin asks for, then a pass for each further line.

    `load` returns what makes a pass, and what else the answer to the first line says.
    """
    # Libraries print to stdout: only the answers may go there.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(**values: Any) -> None:
        answers.write(json.dumps({**values, "memory": _peak_memory()}) + "\n")
        answers.flush()

    read, said = load(json.loads(sys.stdin.readline()))
    answer(**said)
    for line in sys.stdin:
        FACTS["detector"], most = [], json.loads(line)
        cpu, start = time.process_time(), time.perf_counter()
        texts = read(most)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer(seconds=seconds, cpu_seconds=cpu, texts=texts, facts=FACTS)


def _peak_memory() -> int:
    """Most bytes that were resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Of this program alone: what `getrusage` says begins with the memory of the process that started it.
        high = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(high.split()[1]) * 1024
    resource: Any = importlib.import_module("resource")
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _by_request(request: dict[str, Any]) -> tuple[Read, dict[str, Any]]:
    return LOADERS[request["loader"]](request["images"], request["threads"], **request["options"]), {}


if __name__ == "__main__":
    serve(_by_request)
