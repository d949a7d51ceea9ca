"""`init`, `train`, `eval`: fine-tuning."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from paddle2torch.cli.options import (
    AS_JSON,
    CHARSET,
    PATH,
    PRECISION,
    SETTINGS,
    TRAINING_DEVICE,
    TRAINING_PRECISION,
)
from paddle2torch.cli.output import echo, print_json, print_notes, print_table
from paddle2torch.model_zoo.errors import Paddle2TorchError

if TYPE_CHECKING:
    from paddle2torch.device import Precision


@click.command()
@click.argument("name")
@click.option("-o", "--output", type=PATH, required=True, help="Folder for the two files.")
@click.option("--from", "yml", type=PATH, help="A PaddleOCR training yml whose values are taken.")
@CHARSET
@click.option("--classes", metavar="LABELS", help="A classifier's own: a file of one label a line, or a,b,c.")
@click.option("--teacher", metavar="MODEL", help="A recogniser of the same characters to learn from: name or folder.")
@click.option("--official", is_flag=True, help="The recipe as it is, for new weights on 8 GPUs: nothing is scaled.")
@click.option("--full", is_flag=True, help="Write every setting, not only those that one changes.")
def init(name: str, output: Path, **options: Any) -> None:
    """Write config.json and model_config.json for fine-tuning, ready to edit.

    NAME is a name of the zoo or the folder of a converted model: where training starts. The values are those of the
    official recipe, scaled to this machine and to fine-tuning, or of the yml. config.json has what one changes: data,
    batch, epochs, rate, freezing; the rest is the recipe's.
    """
    from paddle2torch.training.recipes import init as run

    print_notes(run(name, output, **options))
    echo(str(output))


@click.command()
@SETTINGS
@CHARSET
@TRAINING_DEVICE
@TRAINING_PRECISION
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option(
    "--export-best",
    "to",
    type=click.Choice(["onnx", "paddle"]),
    help="At its end write the best model in this format too, beside it, where this run made it.",
)
@click.option("--find-rate", is_flag=True, help="Train nothing: try rates in a hundred steps, and suggest one.")
def train(
    config: Path,
    model_config: Path | None,
    assignments: tuple[str, ...],
    charset: Path | None,
    device: str | None,
    precision: str | None,
    resume: bool,
    to: Literal["onnx", "paddle"] | None,
    find_rate: bool,
) -> None:
    """Fine-tune a converted model, as PaddleOCR would.

    Ctrl-C and SIGTERM finish the step and save it. For several processes or machines: accelerate launch -m
    paddle2torch.cli train --config config.json
    """
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.training.config_files import read_settings
    from paddle2torch.training.export_best import export_best
    from paddle2torch.training.trainer import train as run

    keep_freed_memory()
    assignments = (*assignments, *_assigned(device=device, precision=precision))
    settings, model = read_settings(config, model_config, assignments, charset=charset)
    main = os.environ.get("RANK", "0") == "0"
    if find_rate:
        if resume:
            raise Paddle2TorchError(
                "--find-rate tries rates on the weights that training starts from, not with --resume"
            )
        from paddle2torch.training.rate_finder import PICTURE_NAME
        from paddle2torch.training.rate_finder import find_rate as try_rates

        tried = try_rates(settings, model)
        if main:
            echo(f"{tried.line}\n{Path(settings.output.dir) / PICTURE_NAME}")
        return
    result = run(settings, model, resume=resume)
    if main:
        echo(str(result.folder))  # how it ended is the last line of the log
    if main and to is not None and result.stopped is None and (exported := export_best(result, to)) is not None:
        print_notes(exported.notes)
        echo(str(exported.target))
    if result.stopped is not None:
        sys.exit(128 + result.stopped)


def _assigned(**chosen: str | None) -> list[str]:
    """The assignments that options for settings of the same name under `training` mean."""
    return [f"training.{name}={json.dumps(value)}" for name, value in chosen.items() if value is not None]


@click.command("eval")
@SETTINGS
@TRAINING_DEVICE
@PRECISION
@click.option(
    "--model", help="What to evaluate: name or folder; by default the best checkpoint, else where it started."
)
@click.option(
    "--as-paddleocr",
    is_flag=True,
    help="The next sample counts again for what is of no use; of labels, known characters alone.",
)
@click.option(
    "--report", type=PATH, help="Write one HTML page of what the model does not read: what to fix, figures, pictures."
)
@click.option("--against", metavar="MODEL", help="Evaluate this one too, and show what is better and worse than there.")
@AS_JSON
def eval_command(
    config: Path,
    model_config: Path | None,
    assignments: tuple[str, ...],
    device: str | None,
    precision: Precision,
    model: str | None,
    as_paddleocr: bool,
    report: Path | None,
    against: str | None,
    as_json: bool,
) -> None:
    """Evaluate a model with PaddleOCR's metrics on the settings' evaluation data.

    Each label counts once: an image that cannot be read counts as wrong, and so does a text with characters that the
    model's set lacks, or a label that is no class of it. Both are named with file and line. Where images cannot be read
    the exit status is 1.
    """
    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.training.config_files import read_settings
    from paddle2torch.training.evaluation import Examination, examine
    from paddle2torch.training.evaluation_report import write_evaluation_report

    keep_freed_memory()
    if as_paddleocr:
        if report is not None or against is not None:
            raise Paddle2TorchError("--report and --against count each label once: leave out --as-paddleocr")
        assignments = (*assignments, "evaluation.as_paddleocr=true")
    settings, _ = read_settings(config, model_config, (*assignments, *_assigned(device=device)))
    best = Path(settings.output.dir) / "best"
    chosen = model or (str(best) if best.is_dir() else settings.pretrained)
    if chosen is None:
        raise Paddle2TorchError("nothing is trained yet and the settings start from nothing: say --model")

    def examined(name: str) -> Examination:
        echo(f"evaluating {name}", err=True)
        return examine(settings, load_pretrained(name), name=name, precision=precision)

    this, other = examined(chosen), None if against is None else examined(against)
    print_notes(this.evaluation.lines())
    if report is not None:
        write_evaluation_report(this, report, against=other)
        echo(f"report: {report}", err=True)
    if as_json:
        print_json({**this.to_json(), **({} if other is None else {"against": other.to_json()})})
    else:
        columns = {"value": this.evaluation.metrics}
        if other is not None:
            columns[other.name] = other.evaluation.metrics
        rows = [(name, *(f"{column[name]:.4f}" for column in columns.values())) for name in this.evaluation.metrics]
        print_table(("metric", *columns), rows)
    if not this.evaluation.complete:
        sys.exit(1)
