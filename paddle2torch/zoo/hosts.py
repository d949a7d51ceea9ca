"""Hosts that could not be reached a moment ago: a run asks each of them once, whichever model it is about."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from paddle2torch.model_zoo.errors import SourceError

AS_FOUND = "cannot be reached, as it was found a moment ago"
"""What is said of a host that is not asked again."""

FORGET_SECONDS = 300.0
"""After which a process that goes on (a service) asks again."""

_unreachable: dict[str, float] = {}


class UnreachableError(SourceError):
    """No connection to the host at all: its other addresses need not be tried."""


class NotAskedError(UnreachableError):
    """The user forbids to ask the host: whether it can be reached is not known."""


@contextlib.contextmanager
def asking(host: str) -> Iterator[None]:
    """Ask a host inside. That it cannot be reached is recorded; where it was a moment ago, the error comes at once."""
    if is_unreachable(host):
        raise UnreachableError(f"{host} {AS_FOUND}")
    try:
        yield
    except NotAskedError:
        raise
    except UnreachableError:
        _unreachable[host] = time.monotonic()
        raise


def is_unreachable(host: str) -> bool:
    """Whether no connection to `host` could be made within the last `FORGET_SECONDS`."""
    noted = _unreachable.get(host)
    return noted is not None and time.monotonic() - noted < FORGET_SECONDS


def forget() -> None:
    """Ask every host anew."""
    _unreachable.clear()
