"""What a terminal shows while something takes its time; nothing where stderr is not a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_shown: list[Progress] = []
"""What is shown and, before it, what waits until that has ended."""


@contextlib.contextmanager
def alone(display: Progress) -> Iterator[None]:
    """Show `display` while the block runs, in place of what was shown before: two would overwrite each other."""
    if _shown:
        _shown[-1].stop()
    _shown.append(display)
    display.start()
    try:
        yield
    finally:
        display.stop()
        _shown.remove(display)
        if _shown:
            _shown[-1].start()


@contextlib.contextmanager
def spinner(message: str, shown: bool = True) -> Iterator[None]:
    """A line on stderr while the block runs, where that is a terminal, with the time since it began."""
    from rich.console import Console

    console = Console(stderr=True)
    if not shown or not console.is_terminal:
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    display = Progress(*columns, console=console, transient=True)
    display.add_task(message, total=None)
    with alone(display):
        yield
