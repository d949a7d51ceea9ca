"""`data import`, `data export`, `data crop`: labels of data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddle2torch.cli.options import AS_JSON, PATH
from paddle2torch.cli.output import echo, print_json, print_notes

if TYPE_CHECKING:
    from paddle2torch.labels.carry import Carried

KINDS = click.Choice(["label-studio", "labelme", "coco", "icdar2015", "tesstrain", "imagefolder"])
PICTURES = click.option("--pictures", type=PATH, help="Folder that paths start at. Default: that of the label file.")
OUTPUT = click.option("-o", "--output", type=PATH, required=True, help="What is written; it must not exist.")


@click.group()
def data() -> None:
    """Carry labels between PaddleOCR's label files and other tools, and cut lines out of labelled pages."""


@data.command("import")
@click.argument("kind", type=KINDS)
@click.argument("source", type=PATH)
@OUTPUT
@AS_JSON
def import_command(kind: str, source: Path, output: Path, as_json: bool) -> None:
    """Write PaddleOCR's label file from labels of another KIND: SOURCE is its file or folder.

    What the label file has no place for is counted and named.
    """
    from paddle2torch.labels.carry import import_labels

    _show(import_labels(kind, source, output), as_json)


@data.command("export")
@click.argument("kind", type=KINDS)
@click.argument("label_file", type=PATH)
@PICTURES
@OUTPUT
@AS_JSON
def export_command(kind: str, label_file: Path, pictures: Path | None, output: Path, as_json: bool) -> None:
    """Write labels of another KIND from PaddleOCR's LABEL_FILE.

    tesstrain is for pictures of lines, imagefolder (Hugging Face datasets) for lines and pages, the others for pages.
    """
    from paddle2torch.labels.carry import export_labels

    _show(export_labels(kind, label_file, output, pictures), as_json)


@data.command("crop")
@click.argument("label_file", type=PATH)
@PICTURES
@OUTPUT
@AS_JSON
def crop_command(label_file: Path, pictures: Path | None, output: Path, as_json: bool) -> None:
    """Cut the lines out of the pages of LABEL_FILE, for a recogniser: OUTPUT/crop_img and OUTPUT/rec_gt.txt."""
    from paddle2torch.labels.carry import cut_lines

    _show(cut_lines(label_file, output, pictures), as_json)


def _show(carried: Carried, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(carried), "path": str(carried.path)})
        return
    print_notes(carried.notes)
    regions = f", {carried.regions:,} regions" if carried.regions else ""
    echo(f"{carried.pictures:,} pictures{regions}\n{carried.path}")
