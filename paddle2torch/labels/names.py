"""Names of files that are made of the names of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from paddle2torch.labels.model import Labels
from paddle2torch.model_zoo.errors import ConfigError


def distinct_names(labels: Sequence[Labels]) -> list[str]:
    """The names of the pictures without their ends, and without their folders unless two pictures need them.

    Pictures of one name are told apart by their folders, `a/x.png` as `a_x`. Raises `ConfigError` that names two which
    still have one name.
    """
    stems = Counter(Path(entry.path).stem.lower() for entry in labels)
    names = []
    for entry in labels:
        path = Path(entry.path)
        parts = [part for part in path.with_suffix("").parts if part not in ("..", path.anchor)]
        name = path.stem if stems[path.stem.lower()] == 1 else "_".join(parts)
        names.append(name)
    check_distinct(labels, names)
    return names


def check_distinct(labels: Sequence[Labels], names: Sequence[str]) -> None:
    """Raises `ConfigError` for two pictures of one name, and for a picture that is there twice."""
    seen: dict[str, str] = {}
    for entry, name in zip(labels, names, strict=True):
        # Some file systems do not tell A from a.
        other = seen.setdefault(name.lower(), entry.path)
        if other is not entry.path:
            twice = f"{other} is there twice, and would be written once: leave one of its lines out"
            both = f"{other} and {entry.path} would both be written as {name}: give them different names"
            raise ConfigError(twice if other == entry.path else both)
