"""Files of a Hugging Face Hub repository at one commit: a branch or tag is resolved to a commit first, what came is
held to the digests that the Hub itself lists, and lands in the cache whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from paddle2torch.atomic import land_file, land_folder, repair_folder
from paddle2torch.cache import make_private, one_at_a_time
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.model_zoo.errors import Paddle2TorchError, SourceError
from paddle2torch.model_zoo.names import is_name
from paddle2torch.model_zoo.strict_json import read_json
from paddle2torch.zoo import hub_access
from paddle2torch.zoo.downloads import MAX_BYTES, READ_SECONDS
from paddle2torch.zoo.first_sight import check_seen, note_seen
from paddle2torch.zoo.hosts import UnreachableError

RECORD_NAME = "hub.json"
LEAST_RATE = 16 * 1024  # bytes a second, of a file
SETTINGS_BYTES_AT_MOST = 8 << 20
"""Of a file of settings: that of the largest character set has 0.3 MB, the largest program 4 MB."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SETTINGS = (".json", ".yml", ".txt")


@dataclass(frozen=True)
class Wanted:
    """Which files are taken of a commit.

    `choose` gets the commit in words and the paths of its files, and returns the paths to take; it raises `SourceError`
    or `FileFormatError` where there is nothing to take. `check` raises where what came is not a model. `depth` is how
    far up the warnings point.
    """

    choose: Callable[[str, Sequence[str]], Sequence[str]]
    check: Callable[[Path], Any] = lambda folder: None
    depth: int = 4


def fetch_commit(home: Path, repo: str, revision: str | None, wanted: Wanted) -> Path:
    """The folder, in `home`, of the wanted files of the Hub repository `repo`, under the paths that they have there.

    `revision` is a branch, a tag or a commit (its whole hash); None is the main branch. A commit that is here is taken
    without a network; a branch that cannot be asked for is what it last was, with a warning. `hub.json` in the folder
    says which commit it is. HF_TOKEN and HF_ENDPOINT are obeyed.

    Raises `SourceError` where the repository or revision is not there or not for this user, the network fails, or what
    came is not what the Hub lists; and what `wanted` raises.
    """
    commit = revision if revision is not None and _COMMIT.fullmatch(revision) else None
    if commit is not None and _is_whole(home / commit):
        return home / commit
    branch = revision or "main"
    known = home / "refs" / (branch if is_name(branch) else hashlib.sha256(branch.encode()).hexdigest())
    try:
        info = _ask(repo, revision)
    except UnreachableError as error:
        last = known.read_text(encoding="utf-8").strip() if known.is_file() else ""
        if not _COMMIT.fullmatch(last) or not _is_whole(home / last):
            raise
        warnings.warn(f"{repo}: {error}; taking what it was the last time, {last}", stacklevel=wanted.depth)
        return home / last
    if commit is not None and info.sha != commit:
        raise SourceError(f"{repo}: asked for the commit {commit}, the Hub answers with {info.sha}")
    if not _is_whole(home / info.sha):
        with one_at_a_time(home / info.sha, progress=True):
            # The process that was waited for may have brought it.
            if not _is_whole(home / info.sha):
                _download(repo, info, home / info.sha, wanted)
    if commit is None:
        make_private(known.parent)
        with land_file(known) as temporary:
            temporary.write_text(info.sha + "\n", encoding="utf-8")
    return home / info.sha


@contextlib.contextmanager
def named(repo: str) -> Iterator[None]:
    """Name the repository in what the Hub refuses."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{repo}: {error}") from error


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

    with named(repo):
        info = hub_access.ask(ask)
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise SourceError(f"{repo}: the Hub names no commit but {info.sha!r:.80}")
    return info


def _download(repo: str, info: Any, target: Path, wanted: Wanted) -> None:
    listed = {
        file.rfilename: file
        for file in info.siblings or ()
        # What is called otherwise is no file of a model.
        if isinstance(file.rfilename, str) and all(map(is_name, file.rfilename.split("/")))
    }
    chosen = wanted.choose(f"{repo} at {info.sha}", tuple(listed))
    for name in chosen:
        most = SETTINGS_BYTES_AT_MOST if PurePosixPath(name).suffix in _SETTINGS else MAX_BYTES
        if not isinstance(listed[name].size, int) or not 0 < listed[name].size <= most:
            raise SourceError(
                f"{repo}: {name} has {listed[name].size!r:.40} bytes by the Hub's account; {most:,} is the limit"
            )
    digests = {}
    size = sum(listed[name].size for name in chosen)
    # What is there is not whole, or it would have been taken.
    shutil.rmtree(target, ignore_errors=True)
    with land_folder(target, size=size, private=True) as staging:
        for name in chosen:
            _bring(repo, name, info.sha, staging, listed[name].size)
            digests[name] = _check_digest(repo, staging / name, listed[name])
            # A commit does not change: what the Hub lists for it later must be what it listed first.
            check_seen(f"{repo} at {info.sha}, {name}", digests[name])
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # the library's notes about the download
        wanted.check(staging)
        for name, digest in digests.items():
            note_seen(f"{repo} at {info.sha}, {name}", digest)
        record = {"repo": repo, "commit": info.sha, "sha256": digests}
        (staging / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _bring(repo: str, name: str, commit: str, folder: Path, size: int) -> None:
    seconds = hub_access.ANSWER_SECONDS + size / LEAST_RATE
    # Before the file come small answers about it.
    most = size + hub_access.ANSWER_BYTES_AT_MOST
    with named(repo):
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
        record: Mapping[str, str] = read_json(folder / RECORD_NAME)["sha256"]
        return bool(record) and all(sha256_of(folder / name) == digest for name, digest in record.items())
    except (OSError, KeyError, TypeError, AttributeError, Paddle2TorchError):
        return False
