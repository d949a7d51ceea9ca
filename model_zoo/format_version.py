"""The version of the format of converted models: of `model_config.json` and what it describes.

It goes up when an older paddle2torch would misread a folder. Older folders are read; of a newer one nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show

FORMAT = 2
"""1 is that of paddle2torch 0.1.0, which did not write it; 2 that of 0.2.0."""

FORMAT_KEY = "format"


def with_format(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a converted model as they are written: their format first."""
    return {FORMAT_KEY: FORMAT, **settings}


def without_format(data: Any, where: str) -> Any:
    """What was read from `where`, without its format; what is no object is left to its reader.

    Raises `ConfigError` for a format that this version does not know.
    """
    if not isinstance(data, dict) or FORMAT_KEY not in data:
        return data
    found = data[FORMAT_KEY]
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ConfigError(f"{where}: {FORMAT_KEY!r} is the number of a format, from 1 on, not {show(found)}")
    if found > FORMAT:
        raise ConfigError(
            f"{where} is of format {found}, which a newer paddle2torch wrote; this one reads formats up to {FORMAT}: "
            f"pip install -U paddle2torch, or convert the model again with this version"
        )
    return {key: value for key, value in data.items() if key != FORMAT_KEY}
