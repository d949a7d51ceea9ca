"""PaddleOCR's LMDB layout: `num-samples`, and for each sample, counted from 1, `image-%09d` and `label-%09d`.

Facts: `ppocr/data/lmdb_dataset.py`. LMDB maps the file into memory and trusts its structure: a database is as
trusted as a program. What can be checked from outside is checked: the size, and that there are as many entries as
`num-samples` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group

DATA_FILE = "data.mdb"


class LmdbFolders:
    """The samples of a database, or of all databases under a folder, in the order of their paths.

    Raises `DataError` where there is none and `FileFormatError` for one that is broken.
    """

    def __init__(self, data_dir: str) -> None:
        folder = Path(data_dir)
        if not folder.is_dir():
            raise DataError(f"data_dir: {folder} is not a folder; an LMDBDataSet needs a folder with {DATA_FILE}")
        self._folders = sorted(path.parent for path in folder.rglob(DATA_FILE))
        if not self._folders:
            raise DataError(f"data_dir: there is no {DATA_FILE} in {folder} or below it")
        self._labels: list[str | None] = []
        self._starts: list[int] = []
        for database in self._folders:
            self._starts.append(len(self._labels))
            self._labels += _read_labels(database)

    @property
    def groups(self) -> Sequence[Group]:
        """All samples, each epoch."""
        return [Group(len(self._labels), 1.0)]

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> str:
        """The text of a sample; empty where the database has none."""
        return self._labels[index] or ""

    def where(self, index: int) -> str:
        """Folder and key."""
        number, key = self._place(index)
        return f"{self._folders[number]}, sample {key}"

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        number, key = self._place(index)
        with _environment(self._folders[number]).begin() as transaction:
            data = transaction.get(b"image-%09d" % key)
        if data is None:
            raise ImageError(f"there is no image-{key:09d}")
        return load_image(data)

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - self._starts[number] + 1


_environments: dict[Path, Any] = {}


def _environment(folder: Path) -> Any:
    """The open database: a process must not open it twice."""
    if folder not in _environments:
        _environments[folder] = _open(folder)
    return _environments[folder]


def _close_all() -> None:
    while _environments:
        _environments.popitem()[1].close()


# A database must not be used by another process than the one that opened it, and a worker that inherits it open cannot
# open it again: it is closed before workers fork, and opened by each of them when it needs it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all)


def _read_labels(folder: Path) -> list[str | None]:
    environment = _environment(folder)
    with environment.begin() as transaction:
        count = transaction.get(b"num-samples")
        # An entry per sample at least: a number that the file cannot hold must not make us count to it.
        if count is None or not count.isdigit() or not 0 < int(count) <= environment.stat()["entries"]:
            found = "no num-samples" if count is None else f"num-samples {count[:20]!r}"
            raise FileFormatError(
                f"{folder} is not a PaddleOCR database: it has {found} and {environment.stat()['entries']} entries"
            )
        labels: list[str | None] = []
        for key in range(1, int(count) + 1):
            label = transaction.get(b"label-%09d" % key)
            try:
                labels.append(None if label is None else label.decode("utf-8"))
            except UnicodeDecodeError:
                raise FileFormatError(f"{folder}: label-{key:09d} is not UTF-8") from None
        return labels


def _open(folder: Path) -> Any:
    try:
        import lmdb
    except ImportError:
        raise DataError("reading LMDB databases needs the package lmdb: pip install lmdb") from None
    try:
        environment = lmdb.open(
            str(folder), max_readers=32, readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
    except lmdb.Error as error:
        raise FileFormatError(f"{folder / DATA_FILE} cannot be opened: {error}") from None
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    present = (folder / DATA_FILE).stat().st_size
    if present < needed:
        environment.close()
        raise FileFormatError(f"{folder / DATA_FILE} is truncated: it has {present:,} of {needed:,} bytes")
    return environment
