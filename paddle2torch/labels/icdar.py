"""ICDAR 2015: a text file for each picture, `gt_NAME.txt`, a line `x1,y1,x2,y2,x3,y3,x4,y4,text` for each quad.

Source: https://rrc.cvc.uab.es/?ch=4 (task 4.1 and 4.4); `###` stands for what nobody could read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle2torch.atomic import land_folder
from paddle2torch.labels.model import Labels, Losses, Point, Region, check_points, read_text, text_or_unreadable
from paddle2torch.labels.names import distinct_names
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.geometry import min_area_quad

ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".PNG")


def read(path: Path, losses: Losses) -> list[Labels]:
    """All `gt_*.txt` of a folder. A picture's name is looked for beside its file, and is taken for NAME.jpg if not."""
    files = sorted(path.glob("gt_*.txt"))
    if not files:
        raise FileFormatError(f"{path} has no files gt_NAME.txt")
    return [_picture(file, losses) for file in files]


def _picture(file: Path, losses: Losses) -> Labels:
    regions = []
    for number, line in enumerate(read_text(file, "label file").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        fields = line.rstrip("\r").split(",", 8)
        if len(fields) < 9:
            raise FileFormatError(f"{where} is not x1,y1,x2,y2,x3,y3,x4,y4,text")
        regions.append(Region(_quad(fields[:8], where), text_or_unreadable(fields[8], where, losses)))
    name = file.stem.removeprefix("gt_")
    found = next((name + ending for ending in ENDINGS if (file.parent / (name + ending)).is_file()), None)
    if found is None:
        losses.add("pictures that are not beside their label file, taken for NAME.jpg", str(file))
    return Labels(found or f"{name}.jpg", tuple(regions))


def _quad(fields: Sequence[str], where: str) -> tuple[Point, ...]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        raise FileFormatError(f"{where} does not begin with eight numbers") from None
    return check_points([[x, y] for x, y in zip(numbers[::2], numbers[1::2], strict=True)], where)


def write(labels: Sequence[Labels], target: Path, pictures: Path, losses: Losses) -> None:
    """A folder of `gt_NAME.txt`. What these do not hold is counted: parts of pixels, other polygons, folders."""
    names = distinct_names(labels)
    with land_folder(target) as temporary:
        for entry, name in zip(labels, names, strict=True):
            if entry.path != f"{name}.jpg":
                losses.add("names that a label file does not hold, with their folder or as no .jpg", entry.path)
            lines = [_line(region, entry.path, losses) for region in entry.regions]
            (temporary / f"gt_{name}.txt").write_text("".join(lines), encoding="utf-8")


def _line(region: Region, where: str, losses: Losses) -> str:
    points = np.array(region.points, dtype=np.float32)
    if len(points) != 4:
        losses.add("polygons that are not quads, made their smallest rectangle", where)
        points = min_area_quad(points)[0]
    whole = np.round(points).astype(int)
    if np.any(whole != points):
        losses.add("regions whose points were rounded to whole pixels", where)
    text = " ".join(region.text.splitlines())
    if text != region.text:
        losses.add("line breaks in texts, made spaces", where)
    return ",".join(map(str, whole.ravel().tolist())) + f",{text}\n"
