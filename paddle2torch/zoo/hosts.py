"""Hosts that could not be reached a moment ago: a run asks each of them once, whichever model it is about."""

from __future__ import annotations

import time

AS_FOUND = "cannot be reached, as it was found a moment ago"
"""What is said of a host that is not asked again."""

FORGET_SECONDS = 300.0
"""After which a process that goes on (a service) asks again."""

_unreachable: dict[str, float] = {}


def is_unreachable(host: str) -> bool:
    """Whether no connection to `host` could be made within the last `FORGET_SECONDS`."""
    noted = _unreachable.get(host)
    return noted is not None and time.monotonic() - noted < FORGET_SECONDS


def note_unreachable(host: str) -> None:
    """Record that no connection to `host` can be made."""
    _unreachable[host] = time.monotonic()


def forget() -> None:
    """Ask every host anew."""
    _unreachable.clear()
