"""labelme: a JSON file beside each picture. The text of a shape is its description, or where it has none its label.

Source: https://github.com/wkentaro/labelme (`labelme/_label_file.py`), version 5.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle2torch.atomic import land_folder
from paddle2torch.labels.model import (
    Labels,
    Losses,
    Region,
    check_list,
    check_object,
    check_points,
    check_text,
    read_json_file,
    rectangle,
    short_points,
    size_of,
    text_or_unreadable,
)
from paddle2torch.labels.names import distinct_names

CLASS = "text"
"""The label of all shapes; what they say is their description."""


def read(path: Path, losses: Losses) -> list[Labels]:
    """All JSON files of a folder, or one. Circles, lines and points are no texts: they are counted and left out."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [_picture(file, losses) for file in files]


def _picture(file: Path, losses: Losses) -> Labels:
    data = check_object(read_json_file(file, "labelme file"), f"{file}: the labelme file")
    shapes = check_list(data.get("shapes"), f"{file}: shapes")
    regions = []
    for number, shape in enumerate(shapes, 1):
        where = f"{file}, shape {number}"
        region = _region(check_object(shape, where), where, losses)
        if region is not None:
            regions.append(region)
    name = check_text(data.get("imagePath"), f"{file}: imagePath").replace("\\", "/")
    return Labels(name, tuple(regions))


def _region(shape: dict[str, Any], where: str, losses: Losses) -> Region | None:
    kind = shape.get("shape_type", "polygon")
    label = check_text(shape.get("label"), where)
    # The class that texts have here is not a text itself.
    text = shape.get("description") or ("" if label == CLASS else label)
    if kind == "polygon":
        points = check_points(shape.get("points"), where)
    elif kind == "rectangle":
        (x, y), (u, v) = check_points(shape.get("points"), where, least=2)[:2]
        points = rectangle(min(x, u), min(y, v), abs(u - x), abs(v - y))
    else:
        losses.add("shapes that are no polygons or rectangles, left out", where)
        return None
    return Region(points, text_or_unreadable(check_text(text, where), where, losses))


def write(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """A folder with a JSON file for each picture, whose path it names as the label file does."""
    names = distinct_names(labels)
    with land_folder(target) as temporary:
        for entry, name in zip(labels, names, strict=True):
            width, height = size_of(entry, pictures)
            shapes = [
                {
                    **{"label": CLASS, "description": region.text, "group_id": None, "shape_type": "polygon"},
                    **{"flags": {}, "points": short_points(region.points)},
                }
                for region in entry.regions
            ]
            data: dict[str, Any] = {
                **{"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": entry.path, "imageData": None},
                **{"imageHeight": height, "imageWidth": width},
            }
            (temporary / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")
