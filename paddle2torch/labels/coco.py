"""COCO's JSON with the texts that COCO-Text added: `utf8_string` and `legibility` of an annotation.

Source: https://cocodataset.org/#format-data and https://bgshih.github.io/cocotext.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle2torch.atomic import land_file
from paddle2torch.labels.model import (
    UNREADABLE,
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
    rectangle,
    short,
    size_of,
    text_or_unreadable,
)
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.training.data.labels import IGNORED


def read(path: Path, losses: Losses) -> list[Labels]:
    """The pictures in their order, each with its annotations in theirs."""
    data = check_object(read_json_file(path, "COCO file"), f"{path}: the COCO file")
    pictures: dict[Any, str] = {}
    regions: dict[Any, list[Region]] = {}
    for number, entry in enumerate(check_list(data.get("images"), f"{path}: images"), 1):
        where = f"{path}, image {number}"
        picture = check_object(entry, where)
        key = check_id(picture.get("id"), where)
        pictures[key] = check_text(picture.get("file_name"), f"{where}: file_name")
        regions[key] = []
    for number, entry in enumerate(check_list(data.get("annotations"), f"{path}: annotations"), 1):
        where = f"{path}, annotation {number}"
        annotation = check_object(entry, where)
        key = check_id(annotation.get("image_id"), where)
        if key not in regions:
            raise FileFormatError(f"{where}: there is no image {key!r}")
        regions[key].append(_region(annotation, where, losses))
    return [Labels(name, tuple(regions[key])) for key, name in pictures.items()]


def check_id(value: Any, where: str) -> int | str:
    """A number or name that stands for a picture."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise FileFormatError(f"{where}: its id is not a number or a string")


def _region(annotation: dict[str, Any], where: str, losses: Losses) -> Region:
    attributes = annotation.get("attributes")
    inside = attributes if isinstance(attributes, dict) else {}
    names = ("utf8_string", "text", "transcription", "caption")
    text = next(
        (place[name] for place in (annotation, inside) for name in names if isinstance(place.get(name), str)), ""
    )
    if annotation.get("legibility") == "illegible" and text not in IGNORED:
        text = UNREADABLE
    return Region(_points(annotation, where, losses), text_or_unreadable(text, where, losses))


def _points(annotation: dict[str, Any], where: str, losses: Losses) -> tuple[Point, ...]:
    outline = annotation.get("segmentation")
    if isinstance(outline, list) and outline:
        if len(outline) > 1 and isinstance(outline[0], list):
            losses.add("outlines of several parts, of which the first is taken", where)
        flat = outline[0] if isinstance(outline[0], list) else outline
        if len(flat) >= 6 and len(flat) % 2 == 0:
            return check_points([list(pair) for pair in zip(flat[::2], flat[1::2], strict=True)], where)
        raise FileFormatError(f"{where}: the segmentation is not x, y, x, y, … of three or more points")
    if isinstance(outline, dict):
        losses.add("outlines as run lengths, of which the box is taken", where)
    return rectangle(*check_numbers(annotation.get("bbox"), 4, f"{where}: bbox"))


def write(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """One file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(labels, 1):
        width, height = size_of(entry, pictures)
        images.append({"id": number, "file_name": entry.path, "width": width, "height": height})
        for region in entry.regions:
            xs, ys = zip(*region.points, strict=True)
            extent = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0},
                    "bbox": [short(value) for value in extent],
                    "segmentation": [[short(value) for point in region.points for value in point]],
                    "area": short(_area(region.points)),
                    "utf8_string": "" if region.text == UNREADABLE else region.text,
                    "legibility": "illegible" if region.ignore else "legible",
                }
            )
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "text"}]}
    with land_file(target) as temporary:
        temporary.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _area(points: Sequence[Point]) -> float:
    following = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
