"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
CHARSET = click.option(
    "--charset", type=PATH, help="The characters to learn: a file of one a line, or a bundled one's name."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
MAX_PICTURE = click.option(
    "--max-picture-mb",
    type=click.IntRange(min=1),
    help="Memory for decoding one picture, as long as it takes. Default: 300, or 8 times its file.",
)
PRECISION_WORD = click.Choice(["fp32", "bf16", "fp16"])
"""The words of `device.PRECISIONS`, which --help gives without PyTorch."""
BFLOAT16 = f"{__name__}.bfloat16"
"""Where a command notes that `--precision` was given by its old name."""
QUANTIZED = click.option("--quantized", is_flag=True, help="In int8; see `paddle2torch quantize`.")
DEVICE = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where to run: cpu, cuda, cuda:1, mps, … as PyTorch names it; auto: a GPU if there is one.",
)


def _note_bfloat16(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given:
        click.echo("--bfloat16 is called --precision bf16 now", err=True)
        ctx.meta[BFLOAT16] = True


def _precision(ctx: click.Context, param: click.Parameter, chosen: str) -> str:
    """What was chosen, also by the option's old name; options that are given are looked at before others."""
    return "bf16" if BFLOAT16 in ctx.meta else chosen


TRAINING_DEVICE = click.option(
    "--device", help="Where to compute: cpu, cuda, cuda:1, mps, …, or auto. Default: training.device."
)
TRAINING_PRECISION = click.option("--precision", type=PRECISION_WORD, help="Default: training.precision.")


def _together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator; --help shows them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PRECISION = _together(
    click.option(
        "--precision",
        type=PRECISION_WORD,
        default="fp32",
        show_default=True,
        callback=_precision,
        help="What networks compute in: bf16 where the processor or the GPU has it, fp16 on a GPU: less exact.",
    ),
    click.option("--bfloat16", is_flag=True, hidden=True, expose_value=False, callback=_note_bfloat16),
)


def _names(name: str, of_paddleocr3: str) -> tuple[str, ...]:
    """An option under our name, which is PaddleOCR 2's, and under PaddleOCR 3's, with _ as they write them as well."""
    spelled = (f"--{name}", f"--{name.replace('-', '_')}", f"--{of_paddleocr3}", f"--{of_paddleocr3.replace('-', '_')}")
    return (*spelled, name.replace("-", "_"))


SETTINGS = _together(
    click.option("--config", type=PATH, required=True, help="config.json, as `paddle2torch init` writes it."),
    click.option("--model-config", "--model_config", type=PATH, help="By default model_config.json beside it."),
    click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override: optimizer.lr=1e-4"),
)
"""The options of commands that read both settings files."""

PIPELINE = _together(
    click.option(
        "--version", help="Of the models: v3 to v6. Default: the newest that PaddleOCR takes for the language."
    ),
    click.option("--det", help="Another detector: name or folder."),
    click.option("--rec", help="Another recogniser: name or folder."),
    click.option("--cls", help="Another orientation classifier: name or folder."),
    click.option("--no-cls", is_flag=True, help="Do not turn lines that stand on their heads."),
    click.option("--compiled", is_flag=True, help="Run networks compiled for this CPU; see `paddle2torch compile`."),
    QUANTIZED,
    PRECISION,
    click.option(
        "--fast", is_flag=True, help="Tight padding, lines of several pages together: texts may differ a little."
    ),
    click.option(
        *_names("drop-score", "text-rec-score-thresh"),
        type=float,
        help="Leave out lines with less confidence. Default: 0.5; for v5, v6 none.",
    ),
    click.option(
        *_names("det-limit-side-len", "text-det-limit-side-len"),
        type=click.IntRange(min=1),
        help="Pixels to which a side of the page is brought for the detector.",
    ),
    click.option(
        *_names("det-limit-type", "text-det-limit-type"),
        type=click.Choice(["max", "min", "resize_long"]),
        help="Which side that is: the longest, where it is longer, or the shortest, where it is shorter.",
    ),
    click.option(
        *_names("det-db-thresh", "text-det-thresh"), type=float, help="From which probability on a pixel is text."
    ),
    click.option(
        *_names("det-db-box-thresh", "text-det-box-thresh"), type=float, help="The least mean probability of a box."
    ),
    click.option(
        *_names("det-db-unclip-ratio", "text-det-unclip-ratio"), type=float, help="How far boxes are widened."
    ),
    click.option(
        *("--orientation", "--use-doc-orientation-classify", "--use_doc_orientation_classify", "orientation"),
        is_flag=True,
        help="Let PP-LCNet_x1_0_doc_ori say how a page stands; otherwise most of its lines do.",
    ),
    click.option("--no-turn", is_flag=True, help="Take every page for upright."),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Lines run at once, where they are of one width. Default: 6 on a CPU, 64 on a GPU. No result changes.",
    ),
    DEVICE,
)
"""The options of commands that read pages, but for the language; see `pipeline_settings`."""


def pipeline_settings(cls: str | None, no_cls: bool, orientation: bool, no_turn: bool, **others: Any) -> dict[str, Any]:
    """The settings of `OCR` that the options mean."""
    from paddle2torch.ocr.pipeline import AUTO

    return {
        **others,
        "cls": None if no_cls else cls or AUTO,
        "orientation": "PP-LCNet_x1_0_doc_ori" if orientation else None,
        "turn_pages": not no_turn,
    }


def bytes_of(megabytes: int | None) -> int | None:
    """What `--max-picture-mb` means."""
    return None if megabytes is None else megabytes * 1_000_000
