"""Label Studio's JSON: tasks with regions whose places are percentages of the picture.

The names of controls are those of its template for OCR: bbox, poly, label, transcription; the picture is `$ocr`.
Source: https://labelstud.io/guide/export (JSON) and https://labelstud.io/templates/optical_character_recognition.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from paddle2torch.atomic import land_file
from paddle2torch.labels.model import (
    Labels,
    Losses,
    Point,
    Region,
    check_list,
    check_numbers,
    check_object,
    check_points,
    check_text,
    read_json_file,
    size_of,
    text_or_unreadable,
)
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.ocr.writers.label_tools import label_studio_results


def read(path: Path, losses: Losses) -> list[Labels]:
    """The tasks of an export ("JSON"); of several annotations of a task the first that was not cancelled."""
    tasks = check_list(read_json_file(path, "export of Label Studio"), f"{path}: the export")
    return [_task(task, f"{path}, task {number}", losses) for number, task in enumerate(tasks, 1)]


def _task(value: Any, where: str, losses: Losses) -> Labels:
    task = check_object(value, where)
    data = check_object(task.get("data"), f"{where}: data")
    address = next((data[name] for name in ("ocr", "image", "captioning") if isinstance(data.get(name), str)), None)
    if address is None:
        raise FileFormatError(f'{where}: data has no "ocr" or "image", the address of the picture')
    annotations = check_list(task.get("annotations", []), f"{where}: annotations")
    kept = [entry for entry in annotations if isinstance(entry, dict) and not entry.get("was_cancelled")]
    if len(kept) > 1:
        losses.add("tasks with several annotations, of which the first is taken", where)
    if not kept:
        losses.add("tasks without an annotation, which have no regions", where)
    results = check_list(kept[0].get("result", []) if kept else [], f"{where}: result")
    return Labels(_picture(address), tuple(_regions(results, where, losses)))


def _picture(address: str) -> str:
    """The path of a picture: of a local one below the folder that Label Studio serves, of an upload its name."""
    parts = urlsplit(address)
    if parts.path.endswith("/data/local-files/") or parts.path.endswith("/data/local-files"):
        return parse_qs(parts.query).get("d", [address])[0]
    if parts.scheme or parts.path.startswith("/data/"):
        return unquote(parts.path.rsplit("/", 1)[-1])
    return address


def _regions(results: list[Any], where: str, losses: Losses) -> list[Region]:
    """What is said of one region is divided over results of one id."""
    shapes: dict[str, tuple[Point, ...]] = {}
    texts: dict[str, str] = {}
    for number, result in enumerate(results, 1):
        place = f"{where}, result {number}"
        entry = check_object(result, place)
        value = check_object(entry.get("value", {}), f"{place}: value")
        key = str(entry.get("id", number))
        if "points" in value or "width" in value:
            shapes.setdefault(key, _shape(value, entry, place))
        if "text" in value:
            text = value["text"]
            texts[key] = check_text(" ".join(map(str, text)) if isinstance(text, list) else text, place)
    return [
        Region(points, text_or_unreadable(texts.get(key, ""), f"{where}, region {key}", losses))
        for key, points in shapes.items()
    ]


def _shape(value: dict[str, Any], entry: dict[str, Any], where: str) -> tuple[Point, ...]:
    width, height = check_numbers([entry.get("original_width"), entry.get("original_height")], 2, f"{where}: sizes")
    if "points" in value:
        return tuple((x * width / 100, y * height / 100) for x, y in check_points(value["points"], where))
    names = ("x", "y", "width", "height")
    left, top, wide, high = check_numbers([value.get(name) for name in names], 4, f"{where}: the rectangle")
    (angle,) = check_numbers([value.get("rotation", 0)], 1, f"{where}: rotation")
    left, wide, top, high = left * width / 100, wide * width / 100, top * height / 100, high * height / 100
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
    return tuple((left + x * cosine - y * sine, top + x * sine + y * cosine) for x, y in corners)


def write(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """Tasks to import, with annotations. Label Studio must serve the pictures under their paths."""
    tasks = []
    for entry in labels:
        regions = [(region.points, region.text, None) for region in entry.regions]
        results = label_studio_results(size_of(entry, pictures), regions)
        tasks.append({"data": {"ocr": entry.path}, "annotations": [{"result": results}]})
    with land_file(target) as temporary:
        temporary.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
