"""What commands print: tables, one JSON document, notes, and progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click


def print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as they need: no line is cut, so that the output can be searched and piped."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    for index, row in enumerate((header, *rows)):
        text = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(text, bold=index == 0)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, indent=2))


def print_notes(notes: Sequence[str]) -> None:
    """What should be known about a result, on stderr."""
    for note in notes:
        click.echo(f"note: {note}", err=True)


@contextmanager
def page_progress() -> Iterator[tuple[Callable[[int], None], Callable[[Any], None]]]:
    """Sources done and to do on stderr, where that is a terminal; yields what to tell their number, and each page."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def started(sources: int) -> None:
            progress.update(task, total=sources)

        def finished(page: Any) -> None:
            last = page.number is None or page.number == getattr(page, "count", None)
            progress.update(task, advance=1 if last else 0, description=f"reading {Path(page.source).name}")

        yield started, finished
