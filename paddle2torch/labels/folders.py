"""Folders of pictures with their texts: tesstrain's line pictures, and the folders that Hugging Face `datasets` reads.

Source: https://github.com/tesseract-ocr/tesstrain (NAME.png or .tif beside NAME.gt.txt);
https://huggingface.co/docs/datasets/image_dataset (`imagefolder`, metadata.jsonl with `file_name`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2

from paddle2torch.atomic import land_folder
from paddle2torch.labels.model import (
    Labels,
    Losses,
    Region,
    check_list,
    check_object,
    check_points,
    check_text,
    picture_of,
    read_text,
    short_points,
)
from paddle2torch.labels.names import check_distinct, distinct_names
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.tasks.images import BGRImage, load_image

TEXT = ".gt.txt"
PICTURES = (".png", ".tif", ".bin.png", ".nrm.png", ".tiff", ".jpg", ".jpeg")
KEPT = (".png", ".tif")
"""What tesstrain reads; other pictures are written as PNG."""
METADATA = "metadata.jsonl"


def read_tesstrain(path: Path, losses: Losses) -> list[Labels]:
    """All `NAME.gt.txt` of a folder with a picture beside them; those without are counted and left out."""
    labels = []
    for file in sorted(path.glob(f"*{TEXT}")):
        name = file.name.removesuffix(TEXT)
        picture = next((name + ending for ending in PICTURES if (path / (name + ending)).is_file()), None)
        if picture is None:
            losses.add("texts without a picture, left out", str(file))
            continue
        labels.append(Labels(picture, text=read_text(file, "text").rstrip("\r\n")))
    if not labels:
        raise FileFormatError(f"{path} has no files NAME{TEXT} with a picture beside them")
    return labels


def write_tesstrain(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """A folder of pictures, each with its text beside it."""
    names = distinct_names(labels)
    with land_folder(target) as temporary:
        for entry, name in zip(labels, names, strict=True):
            source = picture_of(entry, pictures)
            if source.suffix.lower() in KEPT:
                _copy(source, temporary / (name + source.suffix.lower()))
            else:
                write_png(temporary / f"{name}.png", load_image(source, reduce=False))
            (temporary / f"{name}{TEXT}").write_text(f"{entry.text}\n", encoding="utf-8")


def write_png(path: Path, image: BGRImage) -> None:
    """A picture as PNG."""
    written, data = cv2.imencode(".png", image)
    assert written
    path.write_bytes(data.tobytes())


def _copy(source: Path, target: Path) -> None:
    with open_regular(source) as file, open(target, "wb") as copy:
        shutil.copyfileobj(file, copy)


def read_imagefolder(path: Path, losses: Losses) -> list[Labels]:
    """The rows of `metadata.jsonl`: `file_name` with `text`, or with `objects` (`polygons` and `text`)."""
    file = path / METADATA if path.is_dir() else path
    labels = []
    for number, line in enumerate(read_text(file, "text").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = check_object(decode_json(line), where)
        except (ValueError, RecursionError) as error:
            raise FileFormatError(f"{where} is not JSON: {error}") from None
        name = check_text(row.get("file_name"), f"{where}: file_name")
        if "objects" in row:
            labels.append(Labels(name, _objects(row["objects"], where)))
        else:
            labels.append(Labels(name, text=check_text(row.get("text"), where)))
    return labels


def _objects(value: Any, where: str) -> tuple[Region, ...]:
    objects = check_object(value, f"{where}: objects")
    polygons = check_list(objects.get("polygons"), f"{where}: polygons")
    texts = check_list(objects.get("text"), f"{where}: text")
    if len(polygons) != len(texts):
        raise FileFormatError(f"{where}: {len(polygons)} polygons have {len(texts)} texts")
    return tuple(
        Region(check_points(points, where), check_text(text, where))
        for points, text in zip(polygons, texts, strict=True)
    )


def write_imagefolder(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """A folder that `datasets.load_dataset("imagefolder", data_dir=…)` reads: the pictures and `metadata.jsonl`."""
    names = [_name_inside(entry.path) for entry in labels]
    check_distinct(labels, names)
    with land_folder(target) as temporary:
        with open(temporary / METADATA, "w", encoding="utf-8", newline="\n") as file:
            for entry, name in zip(labels, names, strict=True):
                if name != PurePath(entry.path).as_posix():
                    losses.add("pictures from outside the folder, of whose paths the name is kept", entry.path)
                row: dict[str, Any] = {"file_name": name}
                if entry.text is not None:
                    row["text"] = entry.text
                else:
                    points = [short_points(region.points) for region in entry.regions]
                    row["objects"] = {"polygons": points, "text": [region.text for region in entry.regions]}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for entry, name in zip(labels, names, strict=True):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(picture_of(entry, pictures), temporary / name)


def _name_inside(path: str) -> str:
    """A path that stays in a folder as it is; of one that leads out of it the name."""
    parts = PurePath(path)
    return parts.name if parts.is_absolute() or ".." in parts.parts else parts.as_posix()
