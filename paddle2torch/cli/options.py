"""Options that several commands share."""

from __future__ import annotations

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
QUANTIZED = click.option("--quantized", is_flag=True, help="In int8; see `paddle2torch quantize`.")
BFLOAT16 = click.option("--bfloat16", is_flag=True, help="In bfloat16, where the processor has it: less exact.")

DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="Where to run, as PyTorch names it; auto: a GPU if there is one."
)


def bytes_of(megabytes: int | None) -> int | None:
    """What `--max-picture-mb` means."""
    return None if megabytes is None else megabytes * 1_000_000


def dtype_of(bfloat16: bool) -> Any:
    """The dtype that the option `--bfloat16` means."""
    import torch

    return torch.bfloat16 if bfloat16 else torch.float32


def with_settings(command: Any) -> Any:
    """The options of commands that read both settings files."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override: optimizer.lr=1e-4"),
        click.option("--model-config", "--model_config", type=PATH, help="By default model_config.json beside it."),
        click.option("--config", type=PATH, required=True, help="config.json, as `paddle2torch init` writes it."),
    ):
        command = option(command)
    return command
