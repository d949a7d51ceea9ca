"""`data check`, `data import`, `data export`, `data crop`: data sets, and their labels."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddle2torch.cli.options import AS_JSON, CHARSET, PATH, SETTINGS
from paddle2torch.cli.output import echo, print_json, print_notes, print_table

if TYPE_CHECKING:
    from paddle2torch.labels.carry import Carried

KINDS = click.Choice(["label-studio", "labelme", "coco", "icdar2015", "tesstrain", "imagefolder"])
PICTURES = click.option("--pictures", type=PATH, help="Folder that paths start at. Default: that of the label file.")
OUTPUT = click.option("-o", "--output", type=PATH, required=True, help="What is written; it must not exist.")


@click.group()
def data() -> None:
    """Check data before training; carry labels to and from other tools; cut lines out of labelled pages."""


@data.command("check")
@SETTINGS
@CHARSET
@click.option("--report", type=PATH, help="Write one HTML page: what was found, figures, and augmented samples.")
@AS_JSON
def check_command(
    config: Path,
    model_config: Path | None,
    assignments: tuple[str, ...],
    charset: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Look at all training and evaluation data before training: each label, and each image decoded.

    Finds images that cannot be read or are in both splits, label lines that do not parse, labels that are empty, too
    long, no class, or have characters outside the set, paths that lead out of data_dir, lines that would be squeezed,
    boxes off their page. Where something should be mended the exit status is 1.
    """
    from paddle2torch.training.config_files import read_settings
    from paddle2torch.training.data.check import check_data
    from paddle2torch.training.data.check_report import write_check_report

    settings, model = read_settings(config, model_config, assignments, charset=charset)
    check = check_data(settings, model)
    if report is not None:
        write_check_report(check, settings, model, report)
        echo(f"report: {report}", err=True)
    if as_json:
        print_json(check.to_json())
    else:
        rows = [
            ("fault" if one.fault else "note", one.split, f"{one.count:,}", one.kind.value, one.examples[0])
            for one in check.findings
        ]
        if rows:
            print_table(("", "data", "count", "what", "first"), rows)
        for name, figures in check.splits.items():
            echo(f"{name}: {figures.samples:,} samples")
        echo("nothing has to be mended" if check.good else "faults were found: --json or --report name more of them")
    if not check.good:
        sys.exit(1)


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
