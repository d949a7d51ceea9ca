"""Results as first labels: for PPOCRLabel (PaddleOCR's label file) and for Label Studio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from paddle2torch._version import __version__
from paddle2torch.ocr.writers.shared import pages_read

if TYPE_CHECKING:
    from paddle2torch.ocr.results import PageText
    from paddle2torch.ocr.writers.shared import Results


def ppocr_label(results: Results) -> Iterator[str]:
    """A line per page: the path of the picture, a tab, and the JSON list of its lines."""
    for _, page in pages_read(results):
        boxes = [
            {"transcription": line.text, "points": [[round(float(x)), round(float(y))] for x, y in line.box]}
            for line in page.lines
        ]
        yield f"{_one_line(_name(page))}\t{json.dumps(boxes, ensure_ascii=False)}\n"


def label_studio(results: Results) -> Iterator[str]:
    """Tasks with predictions, to be imported into a project with the template for OCR."""
    yield "["
    for number, page in pages_read(results):
        regions = [(line.box.tolist(), line.text, line.score) for line in page.lines]
        scores = [line.score for line in page.lines]
        prediction: dict[str, Any] = {
            "model_version": f"paddle2torch {__version__}",
            "score": round(sum(scores) / len(scores), 5) if scores else 0.0,
            "result": label_studio_results((page.width, page.height), regions),
        }
        task = {"data": {"ocr": _one_line(_name(page))}, "predictions": [prediction]}
        yield (",\n" if number > 1 else "\n") + json.dumps(task, ensure_ascii=False)
    yield "\n]\n"


def label_studio_results(
    size: tuple[int, int], regions: Sequence[tuple[Sequence[Sequence[float]], str, float | None]]
) -> list[dict[str, Any]]:
    """The results of one annotation: three for each region (points in pixels, text, score or None), of one id.

    size: width and height of the picture, in pixels.
    """
    width, height = size
    results: list[dict[str, Any]] = []
    for number, (points, text, score) in enumerate(regions, 1):
        place = {"points": [[100 * x / width, 100 * y / height] for x, y in points], "closed": True}
        common = {
            **{"id": f"r{number}", "to_name": "image", "original_width": width, "original_height": height},
            **({} if score is None else {"score": round(score, 5)}),
        }
        results += [
            {**common, "type": "polygon", "from_name": "poly", "value": place},
            {**common, "type": "labels", "from_name": "label", "value": {**place, "labels": ["Text"]}},
            {**common, "type": "textarea", "from_name": "transcription", "value": {**place, "text": [text]}},
        ]
    return results


def _name(page: PageText) -> str:
    return page.source if page.count == 1 else f"{page.source}#page={page.number}"


def _one_line(name: str) -> str:
    # What is not UTF-8 in a name, and what ends a field or a line.
    return name.encode("utf-8", "replace").decode("utf-8").translate({ord(mark): " " for mark in "\t\n\r"})
