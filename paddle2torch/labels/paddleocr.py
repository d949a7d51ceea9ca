"""PaddleOCR's own label files, between which and all others labels are carried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from paddle2torch.atomic import land_file
from paddle2torch.labels.model import Labels, Losses, Region, short_points
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.training.data.labels import LabelFiles, decode_boxes


def read_labels(path: Path) -> list[Labels]:
    """The labels of a file: of pages where its first label is a JSON list, else of lines."""
    file = LabelFiles([str(path)], "")
    if _is_page(file.label(0)):
        return [_page(file, index) for index in range(len(file))]
    return [Labels(file.path(index), text=file.label(index)) for index in range(len(file))]


def _is_page(label: str) -> bool:
    """Whether a label is a list of boxes; the text of a line may look much like one."""
    try:
        boxes = decode_json(label)
    except (ValueError, RecursionError):
        return label.startswith('[{"')  # a page whose label is broken, which reading it says
    return isinstance(boxes, list) and all(isinstance(box, dict) for box in boxes)


def _page(file: LabelFiles, index: int) -> Labels:
    boxes = decode_boxes(file.label(index), file.where(index))
    regions = [Region(tuple((float(x), float(y)) for x, y in box["points"]), box["transcription"]) for box in boxes]
    return Labels(file.path(index), tuple(regions))


def write_labels(labels: Sequence[Labels], path: Path, losses: Losses) -> None:
    """A label file, whole or not at all. A line break or tab in a text or a name has no place in it: a space is put."""
    with land_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for entry in labels:
            if any(mark in entry.path for mark in "\t\n\r"):
                raise FileFormatError(f"{entry.path!r} has a tab or line break in its name: rename the picture")
            file.write(f"{entry.path}\t{_label(entry, losses)}\n")


def _label(labels: Labels, losses: Losses) -> str:
    if labels.text is not None:
        text = labels.text.translate({ord(mark): " " for mark in "\t\n\r"})
        if text != labels.text:
            losses.add("tabs and line breaks in texts, made spaces", labels.path)
        return text
    boxes = [{"transcription": region.text, "points": short_points(region.points)} for region in labels.regions]
    return json.dumps(boxes, ensure_ascii=False)
