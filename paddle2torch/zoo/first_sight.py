"""Digests of files for which none is published, as this machine first fetched them.

As with the keys of SSH hosts: the first answer is taken and recorded in the cache, every later one is held to it. That
does not say that the first was right, only that nothing has changed since.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from paddle2torch.atomic import land_file
from paddle2torch.cache import cache_dir, make_private
from paddle2torch.model_zoo.errors import Paddle2TorchError, SourceError
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json


@dataclass(frozen=True)
class _Seen:
    """A file as it first came: its address, its sha256, and the day."""

    address: str
    sha256: str
    first_seen: str


def check_seen(address: str, digest: str) -> None:
    """Raise `SourceError` where `address` has given another file before, with how to accept the new one."""
    path = _path(address)
    known = _read(path)
    if known is not None and known.sha256 != digest:
        raise SourceError(
            f"{address} gives another file than on {known.first_seen}: its sha256 is {digest}, and was {known.sha256}. "
            f"It was discarded: no digest is published that would say which is right. If its publisher has announced "
            f"another file, accept it by removing {path}"
        )


def note_seen(address: str, digest: str) -> None:
    """Record what `address` gave, where nothing is recorded yet."""
    path = _path(address)
    if path.exists():
        return
    make_private(path.parent)
    record = _Seen(address, digest, datetime.datetime.now(datetime.timezone.utc).date().isoformat())
    with land_file(path) as temporary:
        temporary.write_text(json.dumps(to_json(record), indent=1) + "\n", encoding="utf-8")


def _path(address: str) -> Path:
    return cache_dir() / "first_seen" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> _Seen | None:
    if not path.exists():
        return None
    try:
        return from_json(_Seen, read_json(path), str(path))
    except Paddle2TorchError as error:
        raise SourceError(
            f"{path}, which says what came the last time, cannot be read: {error}. Remove it to take what comes now"
        ) from None
