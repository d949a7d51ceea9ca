"""`model_config.json` of a program: its inputs and outputs, and where it came from. The network is in `graph.json`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paddle2torch.model_zoo.config import CONFIG_NAME, Origin
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.format_version import with_format, without_format
from paddle2torch.model_zoo.names import check_name, file_in
from paddle2torch.model_zoo.programs.graph import DIMENSIONS_AT_MOST, DTYPES, SIZE_AT_MOST
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json

PROGRAM_FORM: Literal["program"] = "program"
FEEDS_AT_MOST = 1000


@dataclass(frozen=True)
class Feed:
    """An input: its name as the file has it, its type, and its shape, -1 where the size is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or len(self.shape) > DIMENSIONS_AT_MOST:
            raise ConfigError(f"input {self.name!r:.80} has a type or a shape that no tensor has")
        if not all(-1 <= size <= SIZE_AT_MOST for size in self.shape):
            raise ConfigError(f"input {self.name!r:.80} has the shape {self.shape}")


@dataclass(frozen=True)
class ProgramConfig:
    """One converted program. `file` is Paddle's own program, kept beside it, `fetches` the number of outputs."""

    name: str
    form: Literal["program"]
    file: Literal["inference.json", "inference.pdmodel"]
    feeds: tuple[Feed, ...]
    fetches: int
    origin: Origin | None = None

    def __post_init__(self) -> None:
        check_name(self.name, '"name" of the model')
        if len(self.feeds) > FEEDS_AT_MOST or not 0 <= self.fetches <= FEEDS_AT_MOST:
            raise ConfigError(f"{self.name}: {len(self.feeds)} inputs and {self.fetches} outputs are too many")

    @classmethod
    def load(cls, folder: Path) -> ProgramConfig:
        """Read `model_config.json` of a converted program's folder."""
        path = file_in(Path(folder), CONFIG_NAME)
        return from_json(cls, without_format(read_json(path), str(path)), str(path))

    def dumps(self) -> str:
        """The text of `model_config.json`."""
        return json.dumps(with_format(to_json(self)), ensure_ascii=False, indent=1) + "\n"


def is_program(folder: Path) -> bool:
    """Whether the folder of a converted model holds a program, and not a network that is known here by name."""
    path = file_in(Path(folder), CONFIG_NAME)
    if not os.path.exists(path):
        return False
    data: Any = read_json(path)
    return isinstance(data, dict) and data.get("form") == PROGRAM_FORM
