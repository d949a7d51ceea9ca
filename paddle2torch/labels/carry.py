"""Labels into PaddleOCR's label file and out of it, and lines cut out of labelled pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from paddle2torch.atomic import land_folder
from paddle2torch.labels import coco, folders, icdar, label_studio, labelme
from paddle2torch.labels.model import LabelFormat, Labels, Losses
from paddle2torch.labels.names import distinct_names
from paddle2torch.labels.paddleocr import read_labels, write_labels
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.geometry import crop_polygon, crop_quad
from paddle2torch.tasks.images import ImageError, load_image

FORMATS: Mapping[str, LabelFormat] = {
    "label-studio": LabelFormat(label_studio.read, label_studio.write, pages=True),
    "labelme": LabelFormat(labelme.read, labelme.write, pages=True),
    "coco": LabelFormat(coco.read, coco.write, pages=True),
    "icdar2015": LabelFormat(icdar.read, icdar.write, pages=True),
    "tesstrain": LabelFormat(folders.read_tesstrain, folders.write_tesstrain, lines=True),
    "imagefolder": LabelFormat(folders.read_imagefolder, folders.write_imagefolder, lines=True, pages=True),
}
"""The kinds of label files by name."""

CROPS = "crop_img"
RECOGNITION = "rec_gt.txt"
"""What PPOCRLabel calls the folder of cut lines, and their label file."""


@dataclass(frozen=True)
class Carried:
    """What was written: pictures, regions in them, and what was lost or guessed, a line for each kind."""

    path: Path
    pictures: int
    regions: int
    notes: tuple[str, ...]


def import_labels(format: str, source: Path, output: Path) -> Carried:
    """Write PaddleOCR's label file from labels of another kind.

    Raises `FileFormatError` with file and place for what is malformed, `ConfigError` for an output that exists.
    """
    losses = Losses()
    labels = _format(format).read(source, losses)
    _refuse_existing(output)
    write_labels(labels, output, losses)
    return _carried(output, labels, losses)


def export_labels(format: str, label_file: Path, output: Path, pictures: Path | None = None) -> Carried:
    """Write labels of another kind from PaddleOCR's label file.

    pictures: the folder that its paths start at, by default the one of the label file. Raises as `import_labels`, and
    `ConfigError` where the format has no place for labels of lines, or of pages.
    """
    chosen = _format(format)
    labels = read_labels(label_file)
    of_lines = labels[0].text is not None
    if not (chosen.lines if of_lines else chosen.pages):
        has, takes = ("lines", "pages") if of_lines else ("pages", "pictures of lines")
        cut = "" if of_lines else "; `paddle2torch data crop` cuts lines out of pages"
        raise ConfigError(f"{label_file} has labels of {has}, and {format} is for {takes}{cut}")
    _refuse_existing(output)
    losses = Losses()
    chosen.write(labels, output, pictures or label_file.parent, losses)
    return _carried(output, labels, losses)


def cut_lines(label_file: Path, output: Path, pictures: Path | None = None) -> Carried:
    """Cut the lines out of labelled pages, as PPOCRLabel does: pictures in `crop_img`, their texts in `rec_gt.txt`.

    A quad is warped upright, and turned where it is tall, as before it is read; another polygon by its smallest
    rectangle. What nobody could read is left out and counted, and so are pages that cannot be read.
    """
    labels = read_labels(label_file)
    if labels[0].text is not None:
        raise ConfigError(f"{label_file} has labels of lines, not of pages")
    _refuse_existing(output)
    losses = Losses()
    names = distinct_names(labels)
    lines: list[Labels] = []
    with land_folder(output) as temporary:
        (temporary / CROPS).mkdir()
        for entry, name in zip(labels, names, strict=True):
            lines += _cut_page(entry, name, temporary, pictures or label_file.parent, losses)
        write_labels(lines, temporary / RECOGNITION, losses)
    return _carried(output, lines, losses)


def _cut_page(page: Labels, name: str, folder: Path, pictures: Path, losses: Losses) -> list[Labels]:
    try:
        image = load_image(pictures / page.path, reduce=False)
    except ImageError as error:
        losses.add(f"pages that cannot be read, left out: {error}", page.path)
        return []
    lines = []
    for number, region in enumerate(page.regions):
        if region.ignore or not region.text:
            losses.add("regions without a text that can be read, left out", page.path)
            continue
        points = np.array(region.points, dtype=np.float32)
        try:
            crop = crop_quad(image, points) if len(points) == 4 else crop_polygon(image, points)
        except (cv2.error, ValueError, ZeroDivisionError):
            losses.add("regions without an area, left out", page.path)
            continue
        path = f"{CROPS}/{name}_crop_{number}.png"
        folders.write_png(folder / path, crop.image)
        lines.append(Labels(path, text=region.text))
    return lines


def _format(name: str) -> LabelFormat:
    if name not in FORMATS:
        raise ConfigError(f"{name!r} is not a kind of labels; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists: choose another name")


def _carried(path: Path, labels: Sequence[Labels], losses: Losses) -> Carried:
    regions = sum(len(entry.regions) for entry in labels)
    return Carried(path, len(labels), regions, tuple(losses.lines()))
