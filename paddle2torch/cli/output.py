"""What commands print: tables, one JSON document, notes, and progress on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.table import Table

# Control characters, but not the line feed and tab; marks that turn the direction of what follows, but not those of
# right-to-left text itself; other ends of lines.
_MISLEADING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def escape(text: str, *, lines: bool = True) -> str:
    """`text` as it may be sent to a terminal: what would move its cursor, set its title or turn text is shown escaped.

    lines: whether line feeds and tabs stay.
    """
    text = _MISLEADING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def echo(text: str, *, err: bool = False, bold: bool = False) -> None:
    """Print a line, escaped."""
    click.secho(escape(text), err=err, bold=bold)


class Terminal(io.TextIOBase):
    """A stream to a terminal, which is written to escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.write(escape(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def write_any_text() -> None:
    """Let standard output take every character: a file or a pipe as UTF-8, a terminal with ? for what it lacks.

    On Windows a redirected output has the code page's encoding, in the POSIX locale it is ASCII. What was not UTF-8 in
    the name of a file is written as it was.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.isatty():
            stream.reconfigure(errors="replace")
        elif stream is sys.stdout:
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does: files that were not finished go, processes are ended.

    The exit status is then the shell's, 143. Only the main thread can take signals; in others nothing is changed.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def let_go_of_stdout() -> None:
    """Throw away what could not be written, so that the end of the process does not try it again."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A table of whole cells, escaped, a line for each row; only its last column gives way to a narrow terminal.

    right: names of columns whose cells end below each other.
    """
    from rich.table import Table
    from rich.text import Text

    lines = [[Text(escape(cell, lines=False), no_wrap=True, overflow="ellipsis") for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        last = index == len(header) - 1
        width = 0 if last else max(len(name), *(line[index].cell_len for line in lines), 0)
        table.add_column(Text(name), min_width=width, no_wrap=not last, justify="right" if name in right else "left")
    for line in lines:
        table.add_row(*line)
    return table


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as they need: no line is cut, so that the output can be searched and piped."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=sys.maxsize, color_system=None)
    with console.capture() as captured:
        console.print(table_of(header, rows), crop=False)
    for index, line in enumerate(captured.get().splitlines()):
        echo(line.rstrip(), bold=index == 0)


def print_json(data: Any) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=2)
    # What JSON itself leaves as it is, it can also write as an escape.
    click.echo(_MISLEADING.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def print_notes(notes: Sequence[str]) -> None:
    """What should be known about a result, on stderr."""
    for note in notes:
        echo(f"note: {note}", err=True)


def name_failures(messages: Sequence[str]) -> None:
    """What could not be read, on stderr."""
    for message in messages:
        echo(f"not read: {message}", err=True)


@contextmanager
def page_progress() -> Iterator[tuple[Callable[[int], None], Callable[[Any], None]]]:
    """Sources done and to do on stderr, where that is a terminal; yields what to tell their number, and each page."""
    from rich.console import Console
    from rich.markup import escape as markup
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def started(sources: int) -> None:
            progress.update(task, total=sources)

        def finished(page: Any) -> None:
            last = page.number is None or page.number == getattr(page, "count", None)
            progress.update(
                task,
                advance=1 if last else 0,
                description=f"reading {markup(escape(Path(page.source).name, lines=False))}",
            )

        yield started, finished
