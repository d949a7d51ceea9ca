"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
QUANTIZED = click.option("--quantized", is_flag=True, help="In int8; see `paddle2torch quantize`.")
BFLOAT16 = click.option("--bfloat16", is_flag=True, help="In bfloat16, where the processor has it: less exact.")


def dtype_of(bfloat16: bool) -> Any:
    """The dtype that the option `--bfloat16` means."""
    import torch

    return torch.bfloat16 if bfloat16 else torch.float32
