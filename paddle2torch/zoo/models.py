"""What models there are: the cards, what of them is converted here, and which of them read a language.

Imports neither torch nor cv2, so that `paddle2torch list` is quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paddle2torch.cache import zoo_dir
from paddle2torch.model_zoo.cards import Card, cards_named, find_card, list_cards
from paddle2torch.model_zoo.config import CONFIG_NAME, Form, ModelConfig, Task
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.languages import LANGUAGES, find_language
from paddle2torch.model_zoo.programs.cards import ProgramCard, list_program_cards
from paddle2torch.model_zoo.programs.config import ProgramConfig, is_program
from paddle2torch.model_zoo.show import show


@dataclass(frozen=True)
class ZooModel:
    """A released model and, where it was converted here, its folder and form."""

    card: Card
    folder: Path | None
    form: Form | None

    @property
    def bytes(self) -> int | None:
        """What the converted model takes on disk; None where it is not converted here."""
        return None if self.folder is None else size_of(self.folder)

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
    task: Task | Literal["any"]
    form: Form | Literal["program"]
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


@dataclass(frozen=True)
class ProgramModel:
    """An official model that is known as a program and, where it was converted here, its folder."""

    card: ProgramCard
    folder: Path | None

    @property
    def bytes(self) -> int | None:
        """What the converted program takes on disk; None where it is not converted here."""
        return None if self.folder is None else size_of(self.folder)

    def to_json(self) -> dict[str, Any]:
        """What `list --json` prints of it."""
        return {
            "name": self.card.name,
            "aliases": list(self.card.aliases),
            "task": self.card.task,
            "version": None,
            "licence": self.card.licence,
            "converted": None if self.folder is None else str(self.folder),
            "form": "program",
            "bytes": self.bytes,
        }


def program_models() -> tuple[ProgramModel, ...]:
    """The official models that are known as programs, by task and name, and what of them is converted here."""
    return tuple(ProgramModel(card, _converted(card.name)) for card in list_program_cards())


def _converted(name: str) -> Path | None:
    """The folder of a model in the local zoo; None where it is not converted here."""
    folder = zoo_dir() / name
    return folder if (folder / CONFIG_NAME).is_file() else None


def list_models(
    *, task: str | None = None, language: str | None = None, version: str | None = None
) -> tuple[ZooModel, ...]:
    """All released models that have a card, sorted by name, and what of them is converted here.

    Args:
        task: "rec", "det" or "cls".
        language: any of its names; recognisers of it.
        version: "v2.0", "v2", "v3", "v4", "v5" or "v6" ("v3.x" are the PP-LCNet classifiers).

    Returns:
        A `ZooModel` for each: its card, and its folder and form where it is converted here.

    Raises:
        ConfigError: for a task, language or version that no card has.
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
        folder = _converted(card.name)
        models.append(ZooModel(card, folder, None if folder is None else ModelConfig.load(folder).form))
    return tuple(models)


def own_models(*, task: str | None = None) -> tuple[OwnModel, ...]:
    """The models of the local zoo that are not released ones, sorted by name."""
    released = {card.name for card in list_cards()} | {card.name for card in list_program_cards()}
    home = zoo_dir()
    models = []
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        # What is being written has a name with a dot in front.
        if folder.name in released or folder.name.startswith(".") or not (folder / CONFIG_NAME).is_file():
            continue
        try:
            if is_program(folder):
                if task is None:
                    form = ProgramConfig.load(folder).form
                    models.append(OwnModel(folder.name, "any", form, folder, size_of(folder)))
                continue
            config = ModelConfig.load(folder)
        except Paddle2TorchError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        if task in (None, config.task):
            models.append(OwnModel(folder.name, config.task, config.form, folder, size_of(folder)))
    return tuple(models)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder."""
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


Generation = Literal[2, 3]
"""PaddleOCR's major version."""


@dataclass(frozen=True)
class Pipeline:
    """Names of the models that read a language: detector, recogniser, classifier of the lines' direction.

    `generation` says which PaddleOCR's steps and settings belong to them, 2 or 3. `note` says what is taken in place of
    what was asked for. `stand_in` has what can be taken where no source of these answers; of a version that was asked
    for there is none.
    """

    det: str
    rec: str
    cls: str
    generation: Generation = 2
    note: str | None = None
    version: str = ""
    stand_in: Pipeline | None = None


@dataclass(frozen=True)
class _Choice:
    """The models of a version: detector, classifier, and the tiers of its recognisers, the preferred one first."""

    det: str
    cls: str
    tiers: tuple[str, ...]
    generation: Generation


# The newest first. Those of PaddleOCR 3 are its own choice; of v4 and v3 the mobile models, with the steps of PaddleOCR
# 2, to which they belong.
VERSIONS: Mapping[str, _Choice] = {
    "v6": _Choice("PP-OCRv6_medium_det", "PP-LCNet_x1_0_textline_ori", ("medium",), 3),
    "v5": _Choice("PP-OCRv5_server_det", "PP-LCNet_x1_0_textline_ori", ("server", "mobile"), 3),
    "v4": _Choice("ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls", ("mobile",), 2),
    "v3": _Choice("ch_PP-OCRv3_det", "ch_ppocr_mobile_v2.0_cls", ("mobile",), 2),
}
# In place of a version's own choice, where no source of that answers: the nearest models that wheels on PyPI carry.
STAND_INS: Mapping[str, _Choice] = {
    "v6": _Choice("PP-OCRv6_small_det", "ch_ppocr_mobile_v2.0_cls", ("small",), 3),
}
# Where two recognisers read a language, PaddleOCR asks these in this order, and those of one language before them.
GROUPS = ("latin", "eslav", "arabic", "cyrillic", "devanagari")


def pipeline_of(lang: str, version: str | None = None) -> Pipeline:
    """The models of the zoo for a language, by any of its names, or for a script ("latin", "cyrillic", …).

    version: "v6", "v5", "v4" or "v3"; None for the newest that PaddleOCR 3 takes for the language. Where a version does
    not read it, the next older one that does is taken, and the note says so. Raises `ConfigError` for a language or a
    unknown version, with the nearest names, and where no version so old reads the language.
    """
    code = find_language(lang)
    if version is not None and version not in VERSIONS:
        raise ConfigError(f"version is one of {', '.join(VERSIONS)}, not {show(version)}")
    older = [name for name in VERSIONS if version is None or name <= version]
    found, rec = next(_readers(code, older), ("", None))
    if rec is None:
        newer = [name for name, _ in _readers(code, VERSIONS)]
        others = f"; of {', '.join(newer)} does: leave the version out" if newer else "; give one with rec=…"
        raise ConfigError(f"no recogniser of PP-OCR{version or ''} reads {lang!r}{others}")
    note = None
    if version not in (None, found):
        note = f"PP-OCR{version} does not read {LANGUAGES[code]} ({code}): {rec} of PP-OCR{found} is taken"
    choice = VERSIONS[found]
    stand_in = None
    if version is None and found in STAND_INS:
        other = STAND_INS[found]
        smaller = _recogniser(code, found, other.tiers)
        stand_in = None if smaller is None else Pipeline(other.det, smaller, other.cls, other.generation, version=found)
    return Pipeline(choice.det, rec, choice.cls, choice.generation, note, found, stand_in)


def generation_of(model: str) -> Generation:
    """The major version of PaddleOCR with the steps and settings of a model of this name: PaddleOCR 3's from v5 on."""
    card = find_card(model)
    return 3 if card is not None and card.version in ("v5", "v6") else 2


def _readers(code: str, versions: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The versions that read a language, each with its own recogniser of it; no further than they are asked for."""
    for version in versions:
        if (rec := _recogniser(code, version, VERSIONS[version].tiers)) is not None:
            yield version, rec


def _recogniser(code: str, version: str, tiers: Sequence[str]) -> str | None:
    able = [
        card
        for card in cards_named(f"PP-OCR{version}_")
        if (card.task, card.version) == ("rec", version)
        and card.tier in tiers
        and card.architecture is not None
        and code in languages_of(card)
    ]

    def order(card: Card) -> tuple[int, int, int]:
        group = card.name.partition("_")[0]
        # ch reads English, too: the model whose own language it is goes first.
        place = GROUPS.index(group) if group in GROUPS else -1
        return place, languages_of(card).index(code), tiers.index(card.tier)

    return min(able, key=order).name if able else None
