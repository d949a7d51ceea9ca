"""The command line: each command a thin skin over one function of the library.

Nothing heavy is imported before a command runs, so that `--help` is instant. Results go to stdout; what happens on
the way goes to stderr. With `--json` stdout is one JSON document and nothing else.
"""

from __future__ import annotations

import warnings
from typing import Any

import click

from paddle2torch._version import __version__
from paddle2torch.cli import bench, convert, export, read, train
from paddle2torch.model_zoo.errors import Paddle2TorchError


class Commands(click.Group):
    """Shows users' errors without a traceback; lists commands in definition order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of definition, which is the order of use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What the library warns of is a note, without the place in our code."""
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if category is UserWarning:
                click.echo(f"note: {message}", err=True)
            else:
                show(message, category, *place, **options)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = note
                return super().invoke(ctx)
        except Paddle2TorchError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="paddle2torch")
def main() -> None:
    """PaddleOCR's PP-OCR models in PyTorch: convert, verify, read lines, read pages."""


for command in (
    *(convert.list_command, convert.info, convert.convert, convert.verify),
    *(read.compile_command, read.quantize, read.read, read.ocr),
    *(train.init, train.train, train.eval_command),
    *(export.export, export.push),
    bench.bench,
):
    main.add_command(command)
