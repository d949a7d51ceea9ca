"""PaddleOCR's LMDB layout: `num-samples`, and for each sample, counted from 1, `image-%09d` and `label-%09d`.

Facts: `ppocr/data/lmdb_dataset.py`. LMDB maps the file into memory and trusts its structure, so a corrupt database ends
the process that reads it. That is one of its own (`_lmdb_process.py`), for each process that asks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.training.data._lmdb_process import DATA_FILE, NO_LABEL
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group, digest_of_lines

IMAGE_BYTES_AT_MOST = 512 << 20
LABEL_BYTES_AT_MOST = 2 << 30
ANSWER_SECONDS = 60.0

_PROGRAM = Path(__file__).with_name("_lmdb_process.py")


class LmdbFolders:
    """The samples of a database, or of all databases under a folder, in the order of their paths.

    Raises `DataError` for a missing database and `FileFormatError` for a broken one.
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

    def source(self, index: int) -> str:
        """The database's folder."""
        return str(self._folders[self._place(index)[0]])

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        number, key = self._place(index)
        try:
            data = _reader(self._folders[number]).ask("image", key)
        except FileFormatError as error:
            raise ImageError(str(error)) from None
        if data is None:
            raise ImageError(f"there is no image-{key:09d}")
        return load_image(data, reduce=False)

    def missing(self, index: int) -> str | None:
        """Nothing: a database says which images it has when it is asked for them."""
        return None

    def digest(self) -> str:
        """Of the databases' names and the labels, in their order."""
        return digest_of_lines(itertools.chain((folder.name for folder in self._folders), self._labels))

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - self._starts[number] + 1


class _Reader:
    """The process that reads one database (`_lmdb_process.py`), started when it is first asked."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("lmdb") is None:
            raise DataError("reading LMDB databases needs the package lmdb: pip install lmdb")
        self.folder = folder
        size = (folder / DATA_FILE).stat().st_size
        self._most = {"image": min(size, IMAGE_BYTES_AT_MOST), "labels": min(size, LABEL_BYTES_AT_MOST)}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, question: str, *number: int) -> bytes | None:
        """The answer; None where the database has no such entry.

        Raises `FileFormatError` for what is broken, also where that has ended the process: the next question starts
        another one.
        """
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            # Pages that refer to one another in a circle are read for ever.
            timer = threading.Timer(ANSWER_SECONDS, process.kill)
            timer.daemon = True
            timer.start()
            try:
                process.stdin.write(" ".join((question, *map(str, number))).encode() + b"\n")
                process.stdin.flush()
                head = process.stdout.read(9)
                size = int.from_bytes(head[1:], "little")
                # Each label has four bytes of its own.
                if len(head) == 9 and size <= 2 * self._most[question] + 4096:
                    value = process.stdout.read(size)
                    if len(value) == size:
                        return self._value(head[:1], value)
            except (BrokenPipeError, ConnectionError):
                pass
            finally:
                timer.cancel()
            status = self._end(kill=True)
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise FileFormatError(
            f"{self.folder / DATA_FILE} is corrupt: the process that reads it ended with {how} at "
            f"{' '.join((question, *map(str, number)))}"
        )

    def close(self) -> None:
        """End the process; it is started again where something is asked."""
        with self._lock:
            self._end()

    def _value(self, kind: bytes, value: bytes) -> bytes | None:
        if kind == b"e":
            raise FileFormatError(value.decode("utf-8", "replace"))
        return value if kind == b"v" else None

    def _start(self) -> subprocess.Popen[bytes]:
        # As a file, without its folder on the import path: our lmdb.py is there.
        run = "import runpy, sys; sys.path.pop(0); del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
        limits = (str(self._most["image"]), str(self._most["labels"]))
        return subprocess.Popen(
            [sys.executable, "-c", run, str(_PROGRAM), str(self.folder.absolute()), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal is for the training, which finishes its step.
            start_new_session=True,
        )

    def _end(self, kill: bool = False) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(OSError):
            process.communicate(timeout=2 if not kill else 0.2)
        if process.poll() is None:
            process.kill()
        return process.wait()


_readers: dict[Path, _Reader] = {}


def _reader(folder: Path) -> _Reader:
    """The reader of a database in this process: training and evaluation may share one."""
    if folder not in _readers:
        _readers[folder] = _Reader(folder)
    return _readers[folder]


def _close_all() -> None:
    while _readers:
        _readers.popitem()[1].close()


# Two processes that share the pipes of one reader would get each other's answers: it is ended before workers fork, and
# each of them starts its own when it needs it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_all)
atexit.register(_close_all)


def _read_labels(folder: Path) -> list[str | None]:
    data = _reader(folder).ask("labels")
    labels: list[str | None] = []
    place = 0
    while data is not None and place < len(data):
        size = int.from_bytes(data[place : place + 4], "little")
        place += 4
        if size == NO_LABEL:
            labels.append(None)
            continue
        try:
            labels.append(data[place : place + size].decode("utf-8"))
        except UnicodeDecodeError:
            raise FileFormatError(f"{folder}: label-{len(labels) + 1:09d} is not UTF-8") from None
        place += size
    return labels
