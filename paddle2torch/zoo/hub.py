"""Models on the Hugging Face Hub: fetched by `load_pretrained("org/name")`, published by `push`.

Two files are ever read from there, `model.safetensors` and `model_config.json`, both of one commit: a branch or tag is
resolved first. What came is held to the digests that the Hub itself lists, and lands in the cache whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle2torch.cache import cache_dir
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig, Origin
from paddle2torch.model_zoo.errors import ConfigError, SourceError
from paddle2torch.model_zoo.names import file_in, is_hub_id
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json
from paddle2torch.zoo import hub_access
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model
from paddle2torch.zoo.hub_card import hub_card
from paddle2torch.zoo.published import without_folders
from paddle2torch.zoo.repositories import Wanted, fetch_commit, named
from paddle2torch.zoo.run_card import METRICS_NAME, RUN_CARD_NAME, read_trained

CARD_NAME = "README.md"
_FIGURES_BYTES_AT_MOST = 64 << 20  # of all models of the zoo: 0.2 MB each


@dataclass(frozen=True)
class Pushed:
    """A published model: the address of the commit, its hash, and what should be known about it."""

    url: str
    commit: str
    notes: tuple[str, ...] = ()


def fetch(repo: str, revision: str | None = None) -> Path:
    """The folder, in the cache, of the model in the Hub repository `repo`; see `fetch_commit`."""
    home = cache_dir() / "hub" / repo.replace("/", "--")
    return fetch_commit(home, repo, revision, Wanted(_choose, ModelConfig.load, depth=5))


def _choose(where: str, listed: Sequence[str]) -> Sequence[str]:
    names = (CONFIG_NAME, WEIGHTS_NAME)
    missing = [name for name in names if name not in listed]
    if missing:
        raise SourceError(f"{where} is not a model of paddle2torch: it has no {' and no '.join(missing)}")
    return names


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str = "apache-2.0",
    verification: Path | None = None,
) -> Pushed:
    """Publish the converted model in `folder` as the Hub repository `repo`, which is made where there is none.

    Args:
        private: for a new repository; one that is there must be private already.
        revision: a branch, made where there is none; None is the main branch.
        licence: of the weights, as the Hub names it. Converted official weights are Apache-2.0.
        verification: what `paddle2torch verify --json` printed about this model; its figures go into the card.

    A README.md in the folder is the card, else one that is at the repository stays, else one is written. What a
    training left beside its weights (settings, data, versions, metrics) goes along, and into that card. Nothing that
    is published but the user's own README.md holds an absolute path of this machine. Raises
    `ConfigError` for a folder without a model, `FileFormatError` where one of its files is a link that leads out of it
    (what it leads to would be published), `SourceError` where the Hub refuses.
    """
    if not is_hub_id(repo):
        raise ConfigError(f"{repo!r} is not the name of a Hub repository: it is org/name")
    config = load_model(folder).config  # a model that does not load is not published
    own_card = file_in(folder, CARD_NAME)
    card = own_card.read_text(encoding="utf-8") if own_card.is_file() else None
    trained = read_trained(folder)
    figures = None if verification is None else _figures(verification, config)
    config = _without_folders(config)
    texts = {CONFIG_NAME: config.dumps()}
    if trained is not None:
        texts |= {RUN_CARD_NAME: trained.card.text(), METRICS_NAME: trained.metrics_text()}
    with named(repo):
        written = hub_card(config, repo, licence, figures, trained)
        return _push(folder, repo, f"{config.name}, {config.form} form", texts, card, written, private, revision)


def _without_folders(config: ModelConfig) -> ModelConfig:
    """The settings as they are published: of models converted by 0.1 they name the folder that those came from."""
    if config.origin is None:
        return config
    return replace(config, origin=from_json(Origin, without_folders(to_json(config.origin)), "origin"))


def _push(
    folder: Path,
    repo: str,
    message: str,
    texts: Mapping[str, str],
    card: str | None,
    written: str,
    private: bool,
    revision: str | None,
) -> Pushed:
    """Publish the weights in `folder` and `texts` by file; `card` is the user's own, `written` for where none is."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    api = HfApi(constants.ENDPOINT)
    hub_access.tell(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    if private and not hub_access.tell(lambda: api.model_info(repo)).private:
        raise ConfigError(f"{repo} is there and public: it cannot be pushed to as private")
    if revision is not None:
        hub_access.tell(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
    notes = []
    files: dict[str, str | bytes] = {WEIGHTS_NAME: str(file_in(folder, WEIGHTS_NAME))}
    files |= {name: text.encode() for name, text in texts.items()}
    if card is None and hub_access.tell(lambda: api.file_exists(repo, CARD_NAME, revision=revision)):
        notes.append(f"the {CARD_NAME} that {repo} has stays as it is")
    else:
        files[CARD_NAME] = (card if card is not None else written).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    done = hub_access.tell(lambda: api.create_commit(repo, operations, commit_message=message, revision=revision))
    return Pushed(str(done.commit_url), str(done.oid), tuple(notes))


def _figures(path: Path, config: ModelConfig) -> dict[str, Any]:
    """One model's entry of what `paddle2torch verify --json` printed."""
    try:
        entries = read_json(path, "list of figures", _FIGURES_BYTES_AT_MOST)
        found = next((entry for entry in entries if entry["model"] == config.name), None)
    except (ConfigError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not what `paddle2torch verify --json` prints: {error!r}") from None
    if found is None:
        raise ConfigError(f"{path} has no figures of {config.name}")
    try:
        hub_card(config, "org/name", "other", found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not what `paddle2torch verify --json` prints: {error!r:.200}") from None
    # The reference may be a path of this machine.
    return dict(without_folders(found))
