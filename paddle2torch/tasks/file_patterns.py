"""The files that a pattern of a user means, however links lie."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path

FOLDERS_AT_MOST = 100_000
"""Folders that one `**` looks into."""

# `**` as a whole part of a path, several of them as one; the parts before and after keep their separators.
_RECURSIVE = re.compile(r"(^|.*?[/\\])(?:\*\*(?:[/\\]+|$))+" if os.altsep else r"(^|.*?/)(?:\*\*(?:/+|$))+", re.DOTALL)


def matching_paths(pattern: str) -> list[str]:
    """What `pattern` matches, as `glob.glob` finds it, but each folder below a `**` once, by its shortest name.

    Links may lead in circles, in which `glob.glob` goes round until the system refuses the path.
    """
    return _matches(pattern, [], 0)


def _matches(pattern: str, walked: list[set[tuple[int, int]]], depth: int) -> list[str]:
    """walked: the folders that each `**` of the whole pattern has looked into, by device and number."""
    recursive = _RECURSIVE.search(pattern)
    if recursive is None:
        return glob.glob(pattern)
    if len(walked) == depth:
        walked.append(set())
    before, after = pattern[: recursive.end(1)], pattern[recursive.end() :] or "*"
    found: dict[str, None] = {}
    for start in glob.glob(before) if before else [""]:
        for folder in _folders(start, pattern, walked[depth]):
            found |= dict.fromkeys(_matches(glob.escape(folder) + after, walked, depth + 1))
    return list(found)


def _folders(start: str, pattern: str, walked: set[tuple[int, int]]) -> Iterator[str]:
    """A folder and those in it, the nearest first; hidden ones are left out. Their names end in a separator."""
    waiting = deque([start])
    while waiting:
        folder = waiting.popleft()
        try:
            status = os.stat(folder or os.curdir)
            if (status.st_dev, status.st_ino) in walked:
                continue
            if len(walked) == FOLDERS_AT_MOST:
                warnings.warn(f"{pattern}: after {FOLDERS_AT_MOST:,} folders the others are left", stacklevel=2)
                return
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder or os.curdir) as entries:
                inside = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:  # it may not be looked into
            continue
        yield folder
        # `entry.is_dir()` raises where a link leads to itself, `Path.is_dir()` says no.
        names = sorted(entry.name for entry in inside if Path(entry.path).is_dir())
        waiting.extend(f"{folder}{name}{os.sep}" for name in names)
