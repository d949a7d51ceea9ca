"""Models on the Hugging Face Hub: fetched by `load_pretrained("org/name")`, published by `push`.

Two files are ever read from there, `model.safetensors` and `model_config.json`, both of one commit: a branch or tag is
resolved first. What came is held to the digests that the Hub itself lists, and lands in the cache whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle2torch.atomic import land_file, land_folder, repair_folder
from paddle2torch.cache import cache_dir, make_private, one_at_a_time
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError, SourceError
from paddle2torch.model_zoo.names import file_in, is_name
from paddle2torch.model_zoo.strict_json import read_json
from paddle2torch.zoo import hub_access
from paddle2torch.zoo.downloads import MAX_BYTES, READ_SECONDS, UnreachableError
from paddle2torch.zoo.first_sight import check_seen, note_seen
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model
from paddle2torch.zoo.hub_card import hub_card
from paddle2torch.zoo.sources import is_hub_id

RECORD_NAME = "hub.json"
CARD_NAME = "README.md"
LEAST_RATE = 16 * 1024  # bytes a second, of a file
_CONFIG_BYTES_AT_MOST = 8 << 20  # that of the largest character set has 0.3 MB
_FIGURES_BYTES_AT_MOST = 64 << 20  # of all models of the zoo: 0.2 MB each

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pushed:
    """A published model: the address of the commit, its hash, and what should be known about it."""

    url: str
    commit: str
    notes: tuple[str, ...] = ()


def fetch(repo: str, revision: str | None = None) -> Path:
    """The folder, in the cache, of the model in the Hub repository `repo`.

    `revision` is a branch, a tag or a commit (its whole hash); None is the main branch. A commit that is here is taken
    without a network; a branch that cannot be asked for is what it last was, with a warning. `hub.json` in the folder
    says which commit it is. HF_TOKEN and HF_ENDPOINT are obeyed.

    Raises `SourceError` where the repository or revision is not there or not for this user, the network fails, or what
    came is not what the Hub lists.
    """
    home = cache_dir() / "hub" / repo.replace("/", "--")
    commit = revision if revision is not None and _COMMIT.fullmatch(revision) else None
    if commit is not None and _is_whole(home / commit):
        return home / commit
    wanted = revision or "main"
    known = home / "refs" / (wanted if is_name(wanted) else hashlib.sha256(wanted.encode()).hexdigest())
    try:
        info = _ask(repo, revision)
    except UnreachableError as error:
        last = known.read_text(encoding="utf-8").strip() if known.is_file() else ""
        if not _COMMIT.fullmatch(last) or not _is_whole(home / last):
            raise
        warnings.warn(f"{repo}: {error}; taking what it was the last time, {last}", stacklevel=4)
        return home / last
    if commit is not None and info.sha != commit:
        raise SourceError(f"{repo}: asked for the commit {commit}, the Hub answers with {info.sha}")
    if not _is_whole(home / info.sha):
        with one_at_a_time(home / info.sha, progress=True):
            # The process that was waited for may have brought it.
            if not _is_whole(home / info.sha):
                _download(repo, info, home / info.sha)
    if commit is None:
        make_private(known.parent)
        with land_file(known) as temporary:
            temporary.write_text(info.sha + "\n", encoding="utf-8")
    return home / info.sha


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

    A README.md in the folder is the card, else one that is at the repository stays, else one is written. Raises
    `ConfigError` for a folder without a model, `FileFormatError` where one of its files is a link that leads out of it
    (what it leads to would be published), `SourceError` where the Hub refuses.
    """
    if not is_hub_id(repo):
        raise ConfigError(f"{repo!r} is not the name of a Hub repository: it is org/name")
    config = load_model(folder).config  # a model that does not load is not published
    own_card = file_in(folder, CARD_NAME)
    card = own_card.read_text(encoding="utf-8") if own_card.is_file() else None
    figures = None if verification is None else _figures(verification, config)
    with _named(repo):
        return _push(folder, repo, config, card, figures, private, revision, licence)


def _push(
    folder: Path,
    repo: str,
    config: ModelConfig,
    card: str | None,
    figures: dict[str, Any] | None,
    private: bool,
    revision: str | None,
    licence: str,
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    api = HfApi(constants.ENDPOINT)
    hub_access.tell(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
    if private and not hub_access.tell(lambda: api.model_info(repo)).private:
        raise ConfigError(f"{repo} is there and public: it cannot be pushed to as private")
    if revision is not None:
        hub_access.tell(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
    notes = []
    files: dict[str, str | bytes] = {name: str(file_in(folder, name)) for name in (WEIGHTS_NAME, CONFIG_NAME)}
    if card is None and hub_access.tell(lambda: api.file_exists(repo, CARD_NAME, revision=revision)):
        notes.append(f"the {CARD_NAME} that {repo} has stays as it is")
    else:
        files[CARD_NAME] = (card if card is not None else hub_card(config, repo, licence, figures)).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    done = hub_access.tell(
        lambda: api.create_commit(
            repo, operations, commit_message=f"{config.name}, {config.form} form", revision=revision
        )
    )
    return Pushed(str(done.commit_url), str(done.oid), tuple(notes))


def _ask(repo: str, revision: str | None) -> Any:
    """What the Hub says about the repository at that revision: commit, files, their sizes and digests."""
    from huggingface_hub import HfApi, constants

    hub_access.check_online()
    api = HfApi(constants.ENDPOINT)

    def ask() -> Any:
        try:
            return api.model_info(repo, revision=revision, files_metadata=True, timeout=READ_SECONDS)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The library takes the answer for what it should be. Its own errors are none of these but for ValueError.
            if type(error).__module__ != "builtins":
                raise
            raise SourceError(f"the Hub's answer is not about a model ({type(error).__name__})") from error

    with _named(repo):
        info = hub_access.ask(ask)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise SourceError(f"{repo}: the Hub names no commit but {info.sha!r:.80}")
    return info


def _download(repo: str, info: Any, target: Path) -> None:
    listed = {file.rfilename: file for file in info.siblings or () if isinstance(file.rfilename, str)}
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if name not in listed]
    if missing:
        raise SourceError(f"{repo} at {info.sha} is not a model of paddle2torch: it has no {' and no '.join(missing)}")
    for name, most in ((CONFIG_NAME, _CONFIG_BYTES_AT_MOST), (WEIGHTS_NAME, MAX_BYTES)):
        if not isinstance(listed[name].size, int) or not 0 < listed[name].size <= most:
            raise SourceError(
                f"{repo}: {name} has {listed[name].size!r:.40} bytes by the Hub's account; {most:,} is the limit"
            )
    digests = {}
    size = sum(listed[name].size for name in (CONFIG_NAME, WEIGHTS_NAME))
    # What is there is not whole, or it would have been taken.
    shutil.rmtree(target, ignore_errors=True)
    with land_folder(target, size=size, private=True) as staging:
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            _bring(repo, name, info.sha, staging, listed[name].size)
            digests[name] = _check_digest(repo, staging / name, listed[name])
            # A commit does not change: what the Hub lists for it later must be what it listed first.
            check_seen(f"{repo} at {info.sha}, {name}", digests[name])
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # the library's notes about the download
        ModelConfig.load(staging)
        for name, digest in digests.items():
            note_seen(f"{repo} at {info.sha}, {name}", digest)
        record = {"repo": repo, "commit": info.sha, "sha256": digests}
        (staging / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _bring(repo: str, name: str, commit: str, folder: Path, size: int) -> None:
    seconds = hub_access.ANSWER_SECONDS + size / LEAST_RATE
    # Before the file come small answers about it.
    most = size + hub_access.ANSWER_BYTES_AT_MOST
    with _named(repo):
        hub_access.fetch_file(repo, name, commit, seconds=seconds, most=most, folder=folder)


def _check_digest(repo: str, path: Path, listed: Any) -> str:
    """The sha256 of what came, if it is what the Hub lists: by sha256, or for a small file by git's own digest."""
    sha256 = sha256_of(path)
    if listed.lfs is not None:
        expected, found = listed.lfs.sha256, sha256
    else:
        blob = path.read_bytes()
        expected, found = listed.blob_id, hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
    if expected != found:
        raise SourceError(
            f"{repo}: what came as {path.name} has the digest {found}, not {expected} as the Hub lists: damaged on the "
            f"way, or not the published file. It was discarded; try again"
        )
    return sha256


def _is_whole(folder: Path) -> bool:
    """Whether a commit is in the cache as it came."""
    repair_folder(folder)
    try:
        record = read_json(folder / RECORD_NAME)["sha256"]
        return all(sha256_of(folder / name) == record[name] for name in (CONFIG_NAME, WEIGHTS_NAME))
    except (OSError, KeyError, TypeError, Paddle2TorchError):
        return False


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
    return dict(found)


@contextlib.contextmanager
def _named(repo: str) -> Iterator[None]:
    """Name the repository in what the Hub refuses."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{repo}: {error}") from error
