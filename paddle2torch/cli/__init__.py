"""The command line: each command a thin skin over one function of the library.

Nothing heavy is imported before a command runs, so that `--help` is instant. Results go to stdout; what happens on
the way goes to stderr. With `--json` stdout is one JSON document and nothing else.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from typing import Any

import click

from paddle2torch._version import __version__
from paddle2torch.cli import bench, convert, data, doctor, export, read, serve, train
from paddle2torch.cli.output import echo, escape, let_go_of_stdout, write_any_text
from paddle2torch.model_zoo.errors import Paddle2TorchError

OF_STDOUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)
"""What writing to standard output ends in: a full disk, a reader that is gone."""


def _extra_with(module: str) -> str | None:
    """The extra of this package that brings a module; None where none does, or the package is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("paddle2torch") or ()
    except PackageNotFoundError:
        return None
    for line in lines:
        found = re.match(r"([\w.-]+).*extra == [\"'](\w+)", line)
        if found and found[1].lower().replace("-", "_") == module.lower():
            return found[2]
    return None


class Commands(click.Group):
    """Shows users' errors without a traceback; lists commands in definition order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of definition, which is the order of use."""
        return list(self.commands)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command line: every text can be printed, whatever the encoding of the terminal or the locale is."""
        write_any_text()
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What the library warns of is a note, without the place in our code."""
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if category is UserWarning:
                echo(f"note: {message}", err=True)
            else:
                show(message, category, *place, **options)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = note
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
        except Paddle2TorchError as error:
            raise click.ClickException(escape(str(error))) from None
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            extra = _extra_with(module)
            if extra is None:
                raise
            raise click.ClickException(f"{module} is not installed: pip install 'paddle2torch[{extra}]'") from None
        except OSError as error:
            # An error of a file has the file's name, one of standard output has none.
            if error.filename is not None or error.errno not in OF_STDOUT:
                raise
            let_go_of_stdout()
            reason = os.strerror(error.errno or 0)
            raise click.ClickException(f"standard output cannot be written: {reason}; choose another place") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="paddle2torch")
def main() -> None:
    """PaddleOCR's PP-OCR models in PyTorch: convert, verify, read lines, read pages."""


def _say_more(ctx: click.Context, param: click.Parameter, verbose: bool) -> None:
    """Show what the library logs: what each source of a model answered."""
    if not verbose:
        return
    import logging

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            echo(record.getMessage(), err=True)

    log, handler = logging.getLogger("paddle2torch"), Notes()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    ctx.call_on_close(lambda: log.removeHandler(handler))


VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    expose_value=False,
    callback=_say_more,
    help="Say what each source of a model answered.",
)

for command in (
    *(convert.list_command, convert.info, convert.convert, convert.verify),
    *(read.compile_command, read.quantize, read.read, read.ocr, serve.serve),
    *(data.data, train.init, train.train, train.eval_command),
    *(export.export, export.push),
    *(bench.bench, doctor.doctor),
):
    if not isinstance(command, click.Group):
        command.params.append(VERBOSE)
    main.add_command(command)
