"""The folder of the cache and of converted models: it is its user's alone."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from paddle2torch.atomic import WriteError
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.progress import spinner


def cache_dir() -> Path:
    """The cache folder: everything in it can be downloaded or computed again.

    PADDLE2TORCH_HOME, else `paddle2torch` in XDG_CACHE_HOME, else `~/.cache/paddle2torch`.
    """
    home = os.environ.get("PADDLE2TORCH_HOME")
    if home:
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path("~/.cache").expanduser()
    return root / "paddle2torch"


def zoo_dir() -> Path:
    """The folder of converted models: `zoo_dir() / NAME` is where `convert NAME` puts and `load_pretrained` looks."""
    return cache_dir() / "zoo"


def native_home() -> Path:
    """The folder for native code: kernels and compiled networks. Its files are named by digests alone."""
    return cache_dir() / "compiled"


def make_private(folder: Path) -> None:
    """Make a folder of the cache, and those above it that are not there, so that no other user may enter them.

    That is mode 0700, whatever the umask. A folder that is there keeps its mode: it may be shared on purpose.
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                path.chmod(0o700)  # the umask may have taken the user's own rights
    except OSError as error:
        raise _not_writable(error, folder) from error


def make_native_home() -> None:
    """Make the folder for native code; from one of this user's that is there, the right of others to write goes."""
    folder = native_home()
    make_private(folder)
    about = folder.stat()
    if hasattr(os, "geteuid") and about.st_uid == os.geteuid() and about.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(about.st_mode) & ~0o022)


def check_native(path: Path) -> None:
    """Raise `ConfigError` unless only this user, or root, can have written the file at `path`: it is about to run.

    It must be a regular file and not a link, which others may not write, in a folder that they may not write either;
    both must belong to this user or to root. On Windows, which has no such modes, nothing is looked at.
    """
    if not hasattr(os, "geteuid"):
        return
    for place, about in ((path, path.lstat()), (path.parent, path.parent.stat())):
        if place == path and not stat.S_ISREG(about.st_mode):
            reason = "is not a regular file"
        elif about.st_uid not in (os.geteuid(), 0):
            reason = f"belongs to another user ({about.st_uid})"
        elif about.st_mode & 0o022:
            reason = f"can be written by others (mode {stat.S_IMODE(about.st_mode):04o})"
        else:
            continue
        raise ConfigError(
            f"{place} {reason}, and it would run as native code: it is not loaded. Remove {path.parent}, which is made "
            f"again, or set PADDLE2TORCH_HOME to a folder of your own"
        )


def _not_writable(error: OSError, folder: Path) -> WriteError:
    return WriteError(
        f"the cache {folder} cannot be written: {error.strerror}; set PADDLE2TORCH_HOME to a folder that can"
    )


@contextlib.contextmanager
def one_at_a_time(folder: Path, progress: bool) -> Iterator[None]:
    """Only one process fetches into the folders beside `folder`; the others wait and find what it brought."""
    from filelock import FileLock, Timeout  # costs a quarter of a second, which only a download should pay

    try:
        make_private(folder.parent)
        lock = FileLock(folder.parent / ".lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            with spinner(f"waiting for another process that fetches {folder.parent.name}", progress):
                lock.acquire()
    except OSError as error:
        raise _not_writable(error, folder.parent) from error
    try:
        yield
    finally:
        lock.release()
