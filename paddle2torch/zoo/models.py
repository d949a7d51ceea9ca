"""What models there are: the cards, what of them is converted here, and which of them read a language.

Imports neither torch nor cv2, so that `paddle2torch list` is quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle2torch.cache import zoo_dir
from paddle2torch.model_zoo.cards import Card, list_cards
from paddle2torch.model_zoo.config import CONFIG_NAME, Form, ModelConfig, Task
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.languages import find_language


@dataclass(frozen=True)
class ZooModel:
    """A released model and, where it was converted here, its folder and form."""

    card: Card
    folder: Path | None
    form: Form | None

    @property
    def bytes(self) -> int | None:
        """What the converted model takes on disk; None where it is not converted here."""
        return None if self.folder is None else _size(self.folder)

    def to_json(self) -> dict[str, Any]:
        """What `list --json` prints of it."""
        return {
            "name": self.card.name,
            "aliases": list(self.card.aliases),
            "task": self.card.task,
            "version": self.card.version,
            "tier": self.card.tier,
            "languages": list(self.card.languages),
            "licence": self.card.licence,
            "parameters": self.card.parameters.fused,
            "converted": None if self.folder is None else str(self.folder),
            "form": self.form,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class OwnModel:
    """A converted model of the local zoo that no card is about."""

    name: str
    task: Task
    form: Form
    folder: Path
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """What `list --json` prints of it."""
        return {
            "name": self.name,
            "task": self.task,
            "version": None,
            "converted": str(self.folder),
            "form": self.form,
            "bytes": self.bytes,
        }


def list_models(
    *, task: str | None = None, language: str | None = None, version: str | None = None
) -> tuple[ZooModel, ...]:
    """All released models that have a card, sorted by name, and what of them is converted here.

    Args:
        task: "rec", "det" or "cls".
        language: any of its names; recognisers of it.
        version: "v2.0", "v2", "v3", "v4" or "v5" ("v3.x" are the PP-LCNet classifiers).

    Raises `ConfigError` for a task, language or version that no card has.
    """
    cards = list_cards()
    code = None if language is None else find_language(language)
    for what, value, known in (
        ("task", task, {card.task for card in cards}),
        ("version", version, {card.version for card in cards}),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"no model is of {what} {value!r}; there are {', '.join(sorted(known))}")
    models = []
    for card in cards:
        wanted = task in (None, card.task) and version in (None, card.version)
        if not wanted or (code is not None and not (card.task == "rec" and code in languages_of(card))):
            continue
        folder = zoo_dir() / card.name
        converted = (folder / CONFIG_NAME).is_file()
        form = ModelConfig.load(folder).form if converted else None
        models.append(ZooModel(card, folder if converted else None, form))
    return tuple(models)


def own_models(*, task: str | None = None) -> tuple[OwnModel, ...]:
    """The models of the local zoo that are not released ones, sorted by name."""
    released = {card.name for card in list_cards()}
    home = zoo_dir()
    models = []
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        # What is being written has a name with a dot in front.
        if folder.name in released or folder.name.startswith(".") or not (folder / CONFIG_NAME).is_file():
            continue
        try:
            config = ModelConfig.load(folder)
        except Paddle2TorchError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        if task in (None, config.task):
            models.append(OwnModel(folder.name, config.task, config.form, folder, _size(folder)))
    return tuple(models)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def languages_of(card: Card) -> tuple[str, ...]:
    """The languages of a card, each under one name ("french" is "fr")."""
    names = []
    for name in card.languages:
        try:
            names.append(find_language(name))
        except ConfigError:
            names.append(name)  # no language: "digits", "any"
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Pipeline:
    """Names of the models that read a language: detector, recogniser, classifier of the lines' direction."""

    det: str
    rec: str
    cls: str


# Of recognisers, the preferred version first, with the detector and the classifier that belong to each. PaddleOCR takes
# the detector of the recogniser's version; here it is the mobile one, as the recogniser is.
VERSIONS: tuple[tuple[str, str, str], ...] = (
    ("v4", "ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls"),
    ("v5", "PP-OCRv5_mobile_det", "PP-LCNet_x1_0_textline_ori"),
    ("v3", "ch_PP-OCRv3_det", "ch_ppocr_mobile_v2.0_cls"),
)
# Where two recognisers read a language, PaddleOCR asks these in this order, and those of one language before them.
GROUPS = ("latin", "eslav", "arabic", "cyrillic", "devanagari")


def pipeline_of(lang: str) -> Pipeline:
    """The models of the zoo for a language, by any of its names, or for a script ("latin", "cyrillic", …).

    The recogniser is the mobile one of v4 where its network is known, else of v5, else of v3. Raises `ConfigError` for
    a language that nobody knows, with the nearest names.
    """
    code = find_language(lang)
    cards = [card for card in list_cards() if card.task == "rec" and card.tier == "mobile" and card.architecture]
    for version, det, cls in VERSIONS:
        able = [card for card in cards if card.version == version and code in languages_of(card)]
        if able:
            return Pipeline(det, _first(able, code).name, cls)
    raise ConfigError(f"no recogniser of the zoo reads {lang!r}; give one with rec=…")


def _first(able: Iterable[Card], code: str) -> Card:
    def order(card: Card) -> tuple[int, int]:
        group = card.name.partition("_")[0]
        # ch reads English, too: the model whose own language it is goes first.
        return GROUPS.index(group) if group in GROUPS else -1, languages_of(card).index(code)

    return min(able, key=order)
