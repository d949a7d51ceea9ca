"""Files and folders that land whole or not at all.

Whatever is written goes to a temporary name beside its target, reaches the disk, and is renamed into place. A
process that is killed leaves the old one or none; what it was writing is swept by the next writer of that target.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class WriteError(Paddle2TorchError):
    """A place cannot be written: the disk is full, read-only, or belongs to another user."""


# `.NAME.TOKEN.landing` is being written; `.NAME.TOKEN.former` was moved aside to make room (see `_replace_folder`).
_TOKEN_BYTES = 8
_LEFTOVER_AGE = 24 * 3600.0


@contextlib.contextmanager
def land_file(path: Path, *, size: int | None = None) -> Iterator[Path]:
    """Write a file atomically: the block fills the (empty) file at the path it is given.

    When the block ends well, the file replaces `path`, an existing file included. When it raises, `path` is as it
    was and nothing is left. `size`, in bytes where known, is checked against the free space before anything is
    written. Raises `WriteError` for a full disk (with what was needed) or a place that cannot be written.

    >>> with land_file(Path("model_config.json")) as temporary:
    ...     temporary.write_text("{}")
    """
    target = _resolved(path)
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; a file is to be written there")
    with _temporary(target, folder=False, size=size) as temporary:
        yield temporary
        with _write_errors(target):
            _flush(temporary)
            os.replace(temporary, target)
            _flush_folder(target.parent)


@contextlib.contextmanager
def land_folder(
    path: Path, *, overwrite: bool = False, size: int | None = None, private: bool = False
) -> Iterator[Path]:
    """Write a folder atomically: the block fills the (empty) folder at the path it is given.

    When the block ends well, the folder becomes `path`; when it raises, `path` is as it was and nothing is left.
    With `overwrite` it takes the place of an older folder, at every instant one of them complete; without,
    an existing folder that is not empty raises `ConfigError`. An older folder that holds files which the new one
    does not have is a user's data, and never replaced. `size` as for `land_file`. `private`: no other user may enter
    it, whatever the umask.
    """
    target = _resolved(path)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file; a folder is to be written there. Choose another name")
    if target.exists() and Path.cwd().is_relative_to(target):
        # Replacing it would leave this process, and the user's shell, in a folder that is gone.
        raise ConfigError(f"{target} is the working folder or holds it; choose a folder of its own")
    if os.path.ismount(target):
        raise ConfigError(f"{target} is where a file system is mounted, and cannot be renamed; choose a folder in it")
    repair_folder(target)
    _refuse_existing(target, overwrite)
    with _temporary(target, folder=True, size=size, private=private) as temporary:
        yield temporary
        with _write_errors(target):
            for root, _, files in os.walk(temporary):
                for name in files:
                    _flush(Path(root, name))
                _flush_folder(Path(root))
            # Looked at again: the block may have taken minutes.
            _refuse_existing(target, overwrite)
            _refuse_foreign(target, temporary)
            _replace_folder(temporary, target, overwrite)
            _flush_folder(target.parent)


@contextlib.contextmanager
def keep_mode(path: Path) -> Iterator[None]:
    """Give the file at `path` the mode of a file that Python creates: safetensors writes for its owner alone."""
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


def repair_folder(path: Path) -> None:
    """Bring back a folder whose replacement was cut off while neither the old nor the new one had its name.

    That state only exists where two names cannot be exchanged in one step (see `_replace_folder`). Readers of a
    folder that may just have been overwritten call this first; it costs one look where the folder is there.
    """
    target = _resolved(path)
    if target.exists() or not target.parent.is_dir():
        return
    for former in sorted(_leftovers(target, "former"), key=lambda entry: entry.stat().st_mtime, reverse=True):
        lock = _lock(former)
        if lock is None:
            continue
        with contextlib.suppress(OSError), contextlib.closing(lock):
            os.rename(former, target)
            return


def disk_full(place: Path, needed: int | None, written: int = 0) -> WriteError:
    """The error for a disk without room: how much was needed and how much is free. All in bytes."""
    free = shutil.disk_usage(place).free
    need = _readable(needed) if needed is not None else f"more than {_readable(written)}"
    return WriteError(
        f"the disk of {place} is full: {need} needed, {_readable(free)} free. "
        f"Nothing was left behind; free some space or choose another place"
    )


class _Lock:
    """Says that a temporary name is in use; the system lets go of it when its process dies, however it dies."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _lock(path: Path, *, wait: bool = False) -> _Lock | None:
    """The lock of a temporary file or folder, or None where a living process has it or the name is gone."""
    try:
        if fcntl is None:
            return _lock_by_age(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            # Some network file systems have no locks: only "it is locked" is an answer.
            return None if error.errno in (errno.EAGAIN, errno.EACCES) else _lock_by_age(path)
    except OSError:
        return None
    return _Lock(descriptor)


def _lock_by_age(path: Path) -> _Lock | None:
    """Where there are no locks, only what has not been touched for a day counts as abandoned."""
    return _Lock(-1) if time.time() - path.stat().st_mtime > _LEFTOVER_AGE else None


def _create(target: Path, *, folder: bool, private: bool) -> tuple[Path, _Lock | None]:
    """A new temporary file or folder beside `target`, and its lock where the file system has locks."""
    while True:
        temporary = _beside(target, "landing")
        if folder:
            temporary.mkdir(mode=0o700 if private else 0o777)
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        lock = _lock(temporary, wait=True)
        # A neighbour may have swept it in the moment before it was locked; from now on none can.
        if temporary.exists():
            return temporary, lock
        if lock is not None:
            lock.close()


@contextlib.contextmanager
def _temporary(target: Path, *, folder: bool, size: int | None, private: bool = False) -> Iterator[Path]:
    """A temporary file or folder that is gone afterwards: renamed by the block, or removed."""
    with _write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder moved aside is the only complete one as long as the target is not there.
        for kind in ("landing", "former") if target.exists() else ("landing",):
            for leftover in _leftovers(target, kind):
                abandoned = _lock(leftover)
                if abandoned is not None:
                    _remove(leftover)
                    abandoned.close()
        if size is not None and shutil.disk_usage(target.parent).free < size:
            raise disk_full(target.parent, size)
        temporary, lock = _create(target, folder=folder, private=private)
    try:
        yield temporary
    except BaseException as error:
        if not _says_full(error):
            raise
        written = _size(temporary)
        _remove(temporary)
        raise disk_full(target.parent, size, written) from error
    finally:
        _remove(temporary)
        if lock is not None:
            lock.close()


def _replace_folder(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give `temporary` the name `target`; an older folder of that name then has the temporary one, or is removed."""
    try:
        os.rename(temporary, target)
        return
    except OSError as error:
        if not overwrite or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    try:
        _exchange(temporary, target)
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
    # No exchange in one step here. Between the two renames neither folder has the name; a process that is killed
    # right there leaves the older one complete beside it, and `repair_folder` brings it back.
    former = _beside(target, "former")
    lock = _lock(target, wait=True)
    try:
        os.rename(target, former)
        try:
            os.rename(temporary, target)
        except BaseException:
            os.rename(former, target)
            raise
        _remove(former)
    finally:
        if lock is not None:
            lock.close()


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (Linux, renameat2); `OSError` ENOSYS or EINVAL where that cannot be done."""
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:  # a C library older than the system call
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    at_fdcwd, rename_exchange = -100, 2
    if rename(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"{target} exists and is not empty; overwrite it (--overwrite) or choose another folder")


def _refuse_foreign(target: Path, replacement: Path) -> None:
    foreign: list[str] = []
    for root, _, files in os.walk(target):
        for name in files:
            inside = Path(root, name).relative_to(target)
            if not (replacement / inside).exists():
                foreign.append(str(inside))
        if len(foreign) > 3:
            break
    if foreign:
        names = ", ".join(sorted(foreign)[:3]) + (", …" if len(foreign) > 3 else "")
        raise ConfigError(
            f"{target} holds files that overwriting it would lose: {names}. Move them, or choose another folder"
        )


def _resolved(path: Path) -> Path:
    # Through a symbolic link: the temporary name must be on the file system of what it replaces.
    return Path(path).expanduser().resolve()


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(_TOKEN_BYTES)}.{kind}")


def _leftovers(target: Path, kind: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{target.name}.") + f"[0-9a-f]{{{2 * _TOKEN_BYTES}}}" + re.escape(f".{kind}"))
    return [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there. What cannot be removed now is the next sweep's."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    if os.name != "nt":
        _flush(path)


@contextlib.contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    """Errors of writing at `target` as ours; a full disk is left to `_temporary`, which knows how much was written."""
    try:
        yield
    except OSError as error:
        if _says_full(error):
            raise
        raise WriteError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Extensions in Rust (safetensors) raise errors of their own that carry the system's number as text only.
    return any(f"os error {code})" in str(error) for code in (errno.ENOSPC, errno.EDQUOT))


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)


def _readable(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
