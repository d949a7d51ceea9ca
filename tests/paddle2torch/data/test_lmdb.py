"""PaddleOCR's LMDB layout, and databases that are not what they say."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.images import ImageError
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
