"""PaddleOCR's LMDB layout, and databases that are not what they say."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.images import ImageError
from paddle2torch.training.data import lmdb as lmdb_module
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group
from paddle2torch.training.data.lmdb import LmdbFolders

lmdb = pytest.importorskip("lmdb")


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((8, 30, 3), value, dtype=np.uint8))[1])


def database(folder: Path, entries: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True)
    environment = lmdb.open(str(folder), map_size=2**20)
    with environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    environment.close()
    return folder


def texts(folder: Path, *values: str) -> Path:
    entries = {b"num-samples": str(len(values)).encode()}
    for number, value in enumerate(values, 1):
        entries[b"label-%09d" % number] = value.encode()
        entries[b"image-%09d" % number] = png(len(value))
    return database(folder, entries)


def test_a_folder_of_databases(tmp_path: Path) -> None:
    texts(tmp_path / "b" / "deep", "drei", "vier!")
    texts(tmp_path / "a", "é")
    samples = LmdbFolders(str(tmp_path))
    assert [samples.label(index) for index in range(len(samples))] == ["é", "drei", "vier!"]
    assert samples.groups == [Group(3, 1.0)]
    assert samples.where(2) == f"{tmp_path / 'b' / 'deep'}, sample 2"
    rng = np.random.default_rng(0)
    assert [int(samples.image(index, rng)[0, 0, 0]) for index in range(3)] == [1, 4, 5]
    # Workers that are not forked get a copy, and training and evaluation may share a database.
    again = pickle.loads(pickle.dumps(samples))
    assert again.image(2, rng)[0, 0, 0] == LmdbFolders(str(tmp_path)).image(2, rng)[0, 0, 0] == 5


def test_missing_entries(tmp_path: Path) -> None:
    folder = database(tmp_path / "x", {b"num-samples": b"2", b"label-000000001": b"a", b"image-000000002": png(1)})
    samples = LmdbFolders(str(folder))
    assert [samples.label(0), samples.label(1)] == ["a", ""]
    with pytest.raises(ImageError, match="there is no image-000000001"):
        samples.image(0, np.random.default_rng(0))


@pytest.mark.parametrize("count", [b"999999999999", b"-1", b"0", b"many", None])
def test_counts_that_cannot_be(tmp_path: Path, count: bytes | None) -> None:
    entries = {b"label-000000001": b"a"} | ({} if count is None else {b"num-samples": count})
    database(tmp_path / "x", entries)
    with pytest.raises(FileFormatError, match=r"is not a PaddleOCR database: it has .*num-samples"):
        LmdbFolders(str(tmp_path))


def test_broken_files(tmp_path: Path) -> None:
    file = texts(tmp_path / "whole", *"abcdefghij" * 30) / "data.mdb"
    for name, content in (
        ("truncated", file.read_bytes()[: file.stat().st_size // 2 // 4096 * 4096]),
        ("other", b"no database" * 1000),
        ("empty", b""),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.mdb").write_bytes(content)
        with pytest.raises(FileFormatError, match=f"{name}/data.mdb (is truncated: it has|cannot be opened:)"):
            LmdbFolders(str(tmp_path / name))


def test_no_database(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data\.mdb in"):
        LmdbFolders(str(tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        LmdbFolders(str(tmp_path / "none"))


def test_a_label_that_is_not_utf8(tmp_path: Path) -> None:
    database(tmp_path / "x", {b"num-samples": b"1", b"label-000000001": b"\xff", b"image-000000001": png(1)})
    with pytest.raises(FileFormatError, match="label-000000001 is not UTF-8"):
        LmdbFolders(str(tmp_path))


def damaged(folder: Path, whole: Path, keys: int) -> Path:
    """A database whose leaves claim to be branches with `keys` keys."""
    data = bytearray((whole / "data.mdb").read_bytes())
    for page in range(2 * 4096, len(data), 4096):
        if data[page + 10 : page + 12] == b"\x02\x00":
            data[page + 10] = 1
            data[page + 12 : page + 14] = (16 + 2 * keys).to_bytes(2, "little")
    folder.mkdir()
    (folder / "data.mdb").write_bytes(data)
    return folder


@pytest.mark.parametrize("keys", [0, 1])
def test_a_corrupt_database_ends_nothing_but_its_own_process(tmp_path: Path, keys: int) -> None:
    whole = texts(tmp_path / "whole", *"abcdefghij" * 30)
    with pytest.raises(FileFormatError, match=r"data\.mdb is corrupt: the process that reads it ended with SIG"):
        LmdbFolders(str(damaged(tmp_path / "damaged", whole, keys)))
    # The next database is read as ever.
    assert LmdbFolders(str(whole)).label(3) == "d"


def test_a_sample_that_ends_the_process_is_one_sample(tmp_path: Path) -> None:
    samples = LmdbFolders(str(texts(tmp_path / "x", "one", "two")))
    reader = lmdb_module._reader(tmp_path / "x")
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()
    with pytest.raises(ImageError, match="is corrupt: the process that reads it ended with"):
        samples.image(0, np.random.default_rng(0))
    assert samples.image(0, np.random.default_rng(0))[0, 0, 0] == 3


def test_a_database_that_answers_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = LmdbFolders(str(texts(tmp_path / "x", "one")))
    monkeypatch.setattr(lmdb_module, "ANSWER_SECONDS", 0.3)
    process = lmdb_module._reader(tmp_path / "x")._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(ImageError, match="SIGKILL"):
        samples.image(0, np.random.default_rng(0))


def test_a_database_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.mdb")
    with pytest.raises(FileFormatError, match="is not a regular file"):
        LmdbFolders(str(tmp_path))


def test_labels_of_more_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts(tmp_path / "x", "a" * 200)
    monkeypatch.setattr(lmdb_module, "LABEL_BYTES_AT_MOST", 100)
    with pytest.raises(FileFormatError, match="labels take more than the 100 bytes"):
        LmdbFolders(str(tmp_path / "x"))
