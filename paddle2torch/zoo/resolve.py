"""Which model a user means: one answer for every command and function that takes a model."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from paddle2torch.cache import zoo_dir
from paddle2torch.model_zoo.cards import Card, find_card, load_card
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.names import is_hub_id, is_name
from paddle2torch.model_zoo.programs.cards import ProgramCard, find_program_card, program_names


@dataclass(frozen=True)
class Resolved:
    """What a model's name, folder or Hub repository stands for.

    Exactly one of three: a folder that the user gave or a model of their own in the local zoo (`folder` alone), a
    released model (`card`, or `program` where it is known as a program alone, and `folder`, where it is or will be
    converted), a Hub repository (`repo`, and `revision`).
    """

    asked: str
    card: Card | None = None
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None
    program: ProgramCard | None = None

    @property
    def converted(self) -> Path | None:
        """The folder of the converted model where it is on this machine under that name; of a Hub repository None."""
        return self.folder if self.folder is not None and (self.folder / CONFIG_NAME).is_file() else None


def resolve(model: str | Path, revision: str | None = None) -> Resolved:
    """What `model` is: the folder of a converted model, else a name or alias of a released model, else the name of a
    model in the local zoo, else a Hub repository "org/name" (always, where a `revision` is given).

    Nothing is read, fetched or converted; only whether folders are there is looked at. Raises `ConfigError` for what
    is none of these, with the nearest names.
    """
    asked = str(model)
    if (
        "\0" in asked
        or len(os.fsencode(asked)) > 4096
        or any(len(os.fsencode(part)) > 255 for part in Path(asked).parts)
    ):
        raise ConfigError(f"{asked[:60]!r} … can be no name, folder or Hub repository: it is too long, or holds a NUL")
    if revision is not None:
        if isinstance(model, Path) or not is_hub_id(asked):
            raise ConfigError(f"{model} is not a Hub repository (org/name): it has no revision {revision!r}")
        return Resolved(asked, repo=asked, revision=revision)
    if isinstance(model, Path) or (Path(model) / CONFIG_NAME).is_file():
        folder = Path(model)
        if not (folder / CONFIG_NAME).is_file():
            raise ConfigError(f"{model} is not a converted model: it has no {CONFIG_NAME}")
        return Resolved(asked, folder=folder)
    card = find_card(model)
    if card is not None:
        return Resolved(asked, card=card, folder=zoo_dir() / card.name)
    program = find_program_card(model)
    if program is not None:
        return Resolved(asked, program=program, folder=zoo_dir() / program.name)
    if Path(model).exists():
        raise ConfigError(f"{model} is not a converted model: it has no {CONFIG_NAME}")
    local = zoo_dir() / model
    if is_name(asked) and (local / CONFIG_NAME).is_file():
        return Resolved(asked, folder=local)
    if is_hub_id(model):
        return Resolved(asked, repo=model)
    load_card(model, program_names())  # raises, with the nearest names
    raise AssertionError("load_card knows no more names than find_card")


def obtain_converted(model: str | Path | Resolved, revision: str | None = None) -> Path:
    """The folder of the converted model, which is made here where it is not: a released model is converted (which may
    download), a Hub repository is fetched.

    Raises what `resolve`, `convert` and the Hub raise.
    """
    resolved = model if isinstance(model, Resolved) else resolve(model, revision)
    if resolved.repo is not None:
        from paddle2torch.zoo import hub  # half a second that what is local need not wait for

        return hub.fetch(resolved.repo, resolved.revision)
    assert resolved.folder is not None
    released = resolved.card or resolved.program
    if resolved.converted is None and released is not None:
        from paddle2torch.zoo.conversion import convert  # imports torch, which a folder that is there need not wait for

        for note in convert(released.name).notes:
            warnings.warn(f"{released.name}: {note}", stacklevel=3)
    return resolved.folder
