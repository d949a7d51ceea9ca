"""Giving up on pages in the middle: a thread's work ends before the next network runs, where nobody waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from paddle2torch.model_zoo.errors import Paddle2TorchError


class GivenUpError(Paddle2TorchError):
    """What was being computed is not wanted any more."""


_thread = threading.local()


@contextlib.contextmanager
def given_up(asked: Callable[[], bool]) -> Iterator[None]:
    """Ask `asked` before each run of a network in this thread, while the block runs; `GivenUpError` once it is true."""
    former = getattr(_thread, "asked", None)
    _thread.asked = asked
    try:
        yield
    finally:
        _thread.asked = former


def check_wanted() -> None:
    """Raise `GivenUpError` where this thread works for nobody any more."""
    asked = getattr(_thread, "asked", None)
    if asked is not None and asked():
        raise GivenUpError("given up: nobody waits for the result any more")
