"""Other OCR engines, in processes of their own interpreters: run as a program by one that has no paddle2torch.

`bench.engines` starts it as `PYTHON _peers.py` and speaks with it as with its own processes: a request, then a pass
over the pages for each further line of stdin.
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

Read = Callable[[], "list[list[str]]"]

DETECTION = {
    "Det.limit_side_len": 64,
    "Det.limit_type": "min",
    "Det.mean": [0.485, 0.456, 0.406],
    "Det.std": [0.229, 0.224, 0.225],
    "Det.thresh": 0.3,
    "Det.box_thresh": 0.6,
    "Det.unclip_ratio": 1.5,
    "Det.use_dilation": False,
    "Global.max_side_len": 4000,
    "Global.text_score": 0.0,
    "Global.use_cls": False,
}
"""PaddleOCR 3's sizes and thresholds in RapidOCR's names; no classifier."""


def rapidocr(pages: Sequence[str], threads: int, *, det: str, rec: str, keys: str, precision: str | None) -> Read:
    """RapidOCR 3 on OpenVINO. precision: "f32", or None for what OpenVINO takes by itself."""
    package: Any = importlib.import_module("rapidocr")
    if precision is not None:
        core = importlib.import_module("openvino").Core
        compile_model = core.compile_model

        def compile_as_told(self: Any, model: Any, device_name: str, config: Any = None) -> Any:
            return compile_model(self, model, device_name, {**(config or {}), "INFERENCE_PRECISION_HINT": precision})

        core.compile_model = compile_as_told
    settings = {
        "Det.engine_type": package.EngineType.OPENVINO,
        "Rec.engine_type": package.EngineType.OPENVINO,
        "EngineConfig.openvino.inference_num_threads": threads,
    }
    return _rapidocr(package, pages, {**settings, **_models(det, rec, keys)})


def rapidocrlite(pages: Sequence[str], threads: int, *, det: str, rec: str, keys: str) -> Read:
    """RapidOCR's own interpreter in C++; the import name is RapidOCR's."""
    package: Any = importlib.import_module("rapidocr")
    settings = {"EngineConfig.onnxruntime.intra_op_num_threads": threads}
    return _rapidocr(package, pages, {**settings, **_models(det, rec, keys)})


def faster_paddle(pages: Sequence[str], threads: int, *, size: str) -> Read:
    """faster-paddle with the weights of its wheel. It takes files, and decodes them each time."""
    package: Any = importlib.import_module("faster_paddle")
    engine = package.OcrEngine(size, threads, None, 4000, det_min_side=64)
    files = [Path(page).read_bytes() for page in pages]
    return lambda: [[line["text"] for line in engine.ocr(file)["bounds"].values()] for file in files]


def _models(det: str, rec: str, keys: str) -> dict[str, str]:
    return {"Det.model_path": det, "Rec.model_path": rec, "Rec.rec_keys_path": keys}


def _rapidocr(package: Any, pages: Sequence[str], settings: dict[str, Any]) -> Read:
    engine = package.RapidOCR(params={**DETECTION, **settings, "Global.log_level": "error"})
    images = [_load(page) for page in pages]
    return lambda: [list(engine(image).txts or ()) for image in images]


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
    for _ in sys.stdin:
        cpu, start = time.process_time(), time.perf_counter()
        texts = read()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer(seconds=seconds, cpu_seconds=cpu, texts=texts)


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
