"""What a terminal shows while something takes its time; nothing where stderr is not a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def spinner(message: str, shown: bool = True) -> Iterator[None]:
    """A line on stderr while the block runs, where that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if shown and console.is_terminal:
        with console.status(message):
            yield
    else:
        yield
