"""Asking a server again, where its answer says that the failure may pass."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_DELAY, MAX_DELAY = 0.5, 8.0  # seconds, doubled each time where the server does not say
MAX_RETRY_AFTER = 30.0
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of HTTP for what may be otherwise soon."""

_NUMBER = re.compile(r"[0-9]{1,15}")


def retry(call: Callable[[], T], passing: Callable[[Exception], str | None]) -> T:
    """What `call` returns, which is called up to `ATTEMPTS` times while it fails in a way that may pass.

    passing: for an error that may pass, what the server said in `Retry-After` ("" for nothing), which is obeyed up to
    `MAX_RETRY_AFTER`; None for one that is final. The last error is raised as it came.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except Exception as error:
            asked = passing(error)
            if asked is None:
                raise
        delay = _seconds(asked)
        time.sleep(min(FIRST_DELAY * 2 ** (attempt - 1), MAX_DELAY) if delay is None else delay)
    return call()


def _seconds(retry_after: str) -> float | None:
    """Seconds that the server asks to wait, at most `MAX_RETRY_AFTER`."""
    date = parsedate_tz(retry_after)
    if _NUMBER.fullmatch(retry_after):
        seconds = float(retry_after)
    elif date is not None:
        seconds = mktime_tz(date) - time.time()
    else:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
