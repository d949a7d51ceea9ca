"""One card per official model that is known as a program: what it is for, what it takes and gives, where its files are.

These networks have no classes here: their exports are converted as they are, operation by operation. A card holds the
facts of pre- and post-processing as data, in PaddleX's order of steps; no code here does them. What is not known is
null, and the export's own `inference.yml` has it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paddle2torch.model_zoo.cards import Sources, WheelSource, check_names, find_card
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.names import is_name
from paddle2torch.model_zoo.strict_json import from_json, read_json

CARDS = Path(__file__).parents[1] / "program_cards"

ProgramTask = Literal[
    "table structure", "table class", "table cells", "layout", "image unwarping", "formula", "page orientation"
]


@dataclass(frozen=True)
class Step:
    """One step of pre- or post-processing: what is done ("resize", "normalise", …), and with which settings.

    Sizes are (height, width) in pixels. `normalise` is (v * scale - mean) / std on the channels in the card's order.
    """

    step: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ProgramCard:
    """One official model that is known as a program.

    `inputs` are what its program takes, in PaddleX's words, in the order in which PaddleX gives them (an export may
    have left out what no output needs). `labels` are the names of classes by number. `channel_order` is that of the
    image. `settings` says where the facts are from.
    """

    name: str
    aliases: tuple[str, ...]
    task: ProgramTask
    network: str
    licence: str
    channel_order: Literal["RGB", "BGR"]
    inputs: tuple[str, ...]
    preprocess: tuple[Step, ...]
    postprocess: tuple[Step, ...]
    labels: tuple[str, ...] | None
    settings: str
    notes: tuple[str, ...]
    sources: Sources

    def __post_init__(self) -> None:
        check_names((self.name, *self.aliases), self.name)
        if self.sources.training or not self.sources.inference:
            raise ConfigError(f"{self.name}: a program comes from an export, so its card lists sources of those alone")
        if any(isinstance(source, WheelSource) for source in self.sources.inference):
            raise ConfigError(f"{self.name}: no wheel ships this program")


@functools.cache
def _read_card(path: Path) -> ProgramCard:
    card = from_json(ProgramCard, read_json(path, "card"), str(path))
    if card.name != path.stem:
        raise ConfigError(f"{path}: the card calls itself {card.name!r}; file name and name must agree")
    return card


@functools.cache
def _index() -> Mapping[str, ProgramCard]:
    index: dict[str, ProgramCard] = {}
    for path in sorted(CARDS.glob("*.json")):
        card = _read_card(path)
        for name in (card.name, *card.aliases):
            if name in index or find_card(name) is not None:
                raise ConfigError(f"{path}: {name!r} is also a name of another model")
            index[name] = card
    return index


def list_program_cards() -> tuple[ProgramCard, ...]:
    """All cards of programs, sorted by task and name."""
    cards = {card.name: card for card in _index().values()}
    return tuple(sorted(cards.values(), key=lambda card: (card.task, card.name)))


def program_names() -> tuple[str, ...]:
    """All names and aliases of programs."""
    return tuple(_index())


def find_program_card(name: str) -> ProgramCard | None:
    """The card of a program by its name or an alias; None where no card has it."""
    path = CARDS / f"{name}.json"
    if is_name(name) and path.is_file():
        return _read_card(path)
    return _index().get(name)
