"""Names of files that are made of the names of others."""

from __future__ import annotations

from collections.abc import Sequence

from paddle2torch.model_zoo.errors import ConfigError


def distinct_names(names: Sequence[str], owners: Sequence[str]) -> list[str]:
    """The names, which must differ. Raises `ConfigError` that names two owners of one name."""
    seen: dict[str, str] = {}
    for name, owner in zip(names, owners, strict=True):
        # File systems that do not tell A from a.
        other = seen.setdefault(name.lower(), owner)
        if other != owner:
            raise ConfigError(f"{other} and {owner} would both be written as {name}: give them different names")
    return list(names)
