"""Names of files that are made of the names of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paddle2torch.labels.model import Labels
from paddle2torch.model_zoo.errors import ConfigError


def distinct_names(labels: Sequence[Labels], *, suffix: bool = False) -> list[str]:
    """The names of the pictures without their folders, and without the ends of the names unless `suffix`.

    They must differ: raises `ConfigError` that names two pictures of one name.
    """
    seen: dict[str, str] = {}
    names = []
    for entry in labels:
        name = Path(entry.path).name if suffix else Path(entry.path).stem
        # File systems that do not tell A from a.
        other = seen.setdefault(name.lower(), entry.path)
        if other != entry.path:
            raise ConfigError(f"{other} and {entry.path} would both be written as {name}: give them different names")
        names.append(name)
    return names
