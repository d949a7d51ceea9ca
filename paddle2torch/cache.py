"""The folder for what can be fetched or made again, and for converted models."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.progress import spinner


def cache_dir() -> Path:
    """The folder for everything that can be fetched or made again.

    PADDLE2TORCH_HOME, else `paddle2torch` in XDG_CACHE_HOME, else `~/.cache/paddle2torch`.
    """
    home = os.environ.get("PADDLE2TORCH_HOME")
    if home:
        return Path(home).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return root / "paddle2torch"


def zoo_dir() -> Path:
    """The folder of converted models: `zoo_dir() / NAME` is where `convert NAME` puts and `load_pretrained` looks."""
    return cache_dir() / "zoo"


@contextlib.contextmanager
def one_at_a_time(folder: Path, progress: bool) -> Iterator[None]:
    """Only one process fetches into the folders beside `folder`; the others wait and find what it brought."""
    from filelock import FileLock, Timeout  # costs a quarter of a second, which only a download should pay

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / ".lock")
        try:
            lock.acquire(timeout=0.1)
        except Timeout:
            with spinner(f"waiting for another process that fetches {folder.parent.name}", progress):
                lock.acquire()
    except OSError as error:
        raise Paddle2TorchError(
            f"the cache {folder.parent} cannot be written: {error.strerror}; set PADDLE2TORCH_HOME to a folder that can"
        ) from error
    try:
        yield
    finally:
        lock.release()
