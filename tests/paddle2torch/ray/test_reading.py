"""What an actor does with its rows, and which files there are: all of it without Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner
from coloured_bars import page_of, settings
from PIL import Image
from small_models import saved, small_config

from paddle2torch import cli
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.pages import HEAD
from paddle2torch.ray import reading
from paddle2torch.ray.files import fetch, find_files, is_address
from paddle2torch.ray.reading import Options, PageReader, count_pages, pack_model
from paddle2torch.tasks.images import ImageError

pa = pytest.importorskip("pyarrow", reason="needs pyarrow")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A store with addresses, in memory: pictures, a PDF of three pages, a broken file, others."""
    import fsspec

    memory = fsspec.filesystem("memory")
    files = {"a.png": "A", "b c#.png": "AB", "deep/d.png": "C", ".hidden.png": "C"}
    for name, text in files.items():
        memory.pipe(f"/scans/{name}", cv2.imencode(".png", page_of(text))[1].tobytes())
    frames = [Image.fromarray(page_of(text)[..., ::-1]) for text in ("CC", "BB", "AA")]
    with memory.open("/scans/p.pdf", "wb") as file:
        frames[0].save(file, "PDF", save_all=True, append_images=frames[1:], resolution=144)
    memory.pipe("/scans/broken.pdf", b"%PDF-1.4 nothing")
    memory.pipe("/scans/notes.txt", b"")
    yield "memory://scans"
    memory.rm("/scans", recursive=True)


@pytest.fixture(scope="module")
def reader() -> Iterator[PageReader]:
    reader = PageReader(settings(), Options())
    yield reader
    reader.close()


def read(reader: PageReader, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = reader(pa.Table.from_pylist(list(rows))).to_pylist()
    return found


def test_each_page_of_a_range_is_a_row(reader: PageReader, store: str) -> None:
    found = read(
        reader,
        {"source": f"{store}/p.pdf", "first": 2, "last": 3},
        {"source": f"{store}/a.png", "first": None, "last": None},
        {"source": f"{store}/p.pdf", "first": 1, "last": 1},
    )
    assert [(row["source"].rpartition("/")[2], row["page"], row["pages"], row["text"]) for row in found] == [
        ("p.pdf", 2, 3, "BB"),
        ("p.pdf", 3, 3, "AA"),
        ("a.png", 1, 1, "A"),
        ("p.pdf", 1, 3, "CC"),
    ]
    assert [row["id"] for row in found[:2]] == [f"{store}/p.pdf#2", f"{store}/p.pdf#3"]
    assert found[0]["models"] == {"det": "ink", "cls": "shadow", "rec": "colours", "orientation": None}


def test_counted_pages_have_one_row_each_whatever_is_wrong_with_them(reader: PageReader, store: str) -> None:
    sources = [f"{store}/{name}" for name in ("a.png", "p.pdf", "broken.pdf", "none.png")]
    asked = list(count_pages([*sources, "/no/such.png"]))
    assert [(row["source"], row["first"], row["last"]) for row in asked] == [
        (sources[0], 1, 1),
        *((sources[1], number, number) for number in (1, 2, 3)),
        *((source, 1, 1) for source in (*sources[2:], "/no/such.png")),
    ]
    for row in asked:
        row["id"] = "own " + row["id"]
    found = read(reader, *asked)
    assert [row["id"] for row in found] == [row["id"] for row in asked]
    assert [row["page"] for row in found] == [row["first"] for row in asked]
    assert [row["text"] for row in found] == ["A", "CC", "BB", "AA", None, None, None]
    assert all(row["error"] is None for row in found[:4])
    assert f"{store}/broken.pdf is broken" in found[4]["error"], "by the name of the source, not of a copy"
    assert f"{store}/none.png cannot be read" in found[5]["error"]
    assert "/no/such.png" in found[6]["error"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "a.png", "first": 0, "last": 1}, "a.png: pages 0 to 1 are no pages"),
        ({"source": "a.png", "first": 3, "last": 2}, "a.png: pages 3 to 2 are no pages"),
        ({"source": None, "first": 1, "last": 1}, "the source is None"),
        ({"source": "magic://x/a.png", "first": 1, "last": 1}, "magic:// is no store that can be read|magic://x"),
        ({"source": "STORE/p.pdf", "first": 4, "last": 2**30}, "p.pdf has no page 4"),
    ],
)
def test_rows_that_ask_for_nothing_are_failures(
    reader: PageReader, store: str, row: dict[str, Any], message: str
) -> None:
    if row["source"]:
        row = {**row, "source": row["source"].replace("STORE", store)}
    (found,) = read(reader, row)
    assert found["lines"] is None
    assert any(part in found["error"] for part in message.split("|"))


def test_pages_beyond_the_end_are_left(reader: PageReader, store: str) -> None:
    found = read(reader, {"source": f"{store}/p.pdf", "first": 2, "last": 2**30})
    assert [row["text"] for row in found] == ["BB", "AA"]


def test_files_behind_addresses(store: str, tmp_path: Path) -> None:
    assert (
        find_files([store])
        == find_files([f"{store}/"])
        == [f"{store}/{name}" for name in ("a.png", "b c#.png", "broken.pdf", "p.pdf")]
    )
    assert find_files([f"{store}/*.png"]) == [f"{store}/a.png", f"{store}/b c#.png"]
    assert find_files([f"{store}/**/*.png", f"{store}/a.png"]) == [
        f"{store}/{name}" for name in ("a.png", "b c#.png", "deep/d.png")
    ]
    assert find_files([f"{store}/[!a]*.pdf"]) == [f"{store}/broken.pdf", f"{store}/p.pdf"]
    assert find_files([f"{store}/none.png"]) == [f"{store}/none.png"]
    (tmp_path / "x.png").touch()
    assert find_files([tmp_path, f"file://{tmp_path}"]) == [str(tmp_path / "x.png")]
    for wrong, message in (("magic://x", "magic://x is no store that can be read"), ("-", "by one machine")):
        with pytest.raises(ConfigError, match=message):
            find_files([wrong])
    assert not is_address("scans/a.png")
    assert not is_address("C:\\scans\\a.png")


def test_files_of_stores_are_copied_and_others_are_not(store: str, tmp_path: Path) -> None:
    copy = fetch(f"{store}/b c#.png", tmp_path)
    assert copy.parent == tmp_path
    assert cv2.imread(str(copy)).shape == (64, 160, 3)
    assert fetch("scans/a.png", tmp_path) == Path("scans/a.png")
    with pytest.raises(ImageError, match=r"none\.png cannot be read"):
        fetch(f"{store}/none.png", tmp_path)
    assert list(tmp_path.iterdir()) == [copy]


def test_pictures_of_a_store_are_counted_by_their_first_bytes(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    starts = {"large.png": b"\x89PNG", "small.png": b"", "a.tif": b"II*\0", "late.pdf": bytes(HEAD - 5) + b"%PDF-"}
    for name, start in starts.items():
        memory.pipe(f"/counted/{name}", start + bytes(10 if name == "small.png" else 5000))
    copied = {name: fetch(f"memory://counted/{name}", tmp_path, to_count=True).stat().st_size for name in starts}
    memory.rm("/counted", recursive=True)
    assert copied == {"large.png": HEAD, "small.png": 10, "a.tif": 5004, "late.pdf": HEAD + 5000}


def test_a_model_is_sent_and_unpacked_once(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_model(saved(tmp_path / "own", small_config(nrtr=False)))
    folder = packed.unpack()
    assert folder.is_relative_to(home)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "model_config.json"]
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "own" / "model.safetensors").read_bytes()
    monkeypatch.setattr(reading, "land_folder", None)
    assert packed.unpack() == folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "ray"], "--engine ray writes Parquet to --output"),
        (["--engine", "ray", "-o", "x", "--format", "text"], "leave --format"),
        (["--actors", "2"], "belong to --engine ray"),
    ],
)
def test_options_that_contradict_each_other(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.main, ["ocr", "a.png", *options])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_without_ray_one_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "paddle2torch.ray.datasets", raising=False)
    result = CliRunner().invoke(cli.main, ["ocr", "a.png", "--engine", "ray", "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "pip install 'paddle2torch[ray]'" in result.stderr
