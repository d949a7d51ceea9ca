"""Sources besides label files: tars, the Hub's data sets, rendered lines, and all of them mixed."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from material import FONT
from numpy.typing import NDArray
from tiny_training import tiny_config, tiny_det_config

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.tasks.images import ImageError
from paddle2torch.training.data import DataError, build_loader
from paddle2torch.training.data.hub_rows import HuggingFace, open_rows
from paddle2torch.training.data.rendered import Rendered, RenderedLines
from paddle2torch.training.data.sources import open_samples
from paddle2torch.training.data.tar_shards import TarShards, WebDataset
from paddle2torch.training.official import official_settings
from paddle2torch.training.settings import DatasetSettings, SplitSettings, Transform


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((20, 30, 3), value, dtype=np.uint8))[1])


def tar_of(path: Path, members: Sequence[tuple[str, bytes]], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in more:
            tar.addfile(member)
    return path


def shards(*paths: Path, **options: Any) -> TarShards:
    return TarShards(WebDataset(tuple(map(str, paths)), **options))


def draw(samples: Any, index: int, seed: int = 0) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = samples.image(index, np.random.default_rng(seed))
    return image


def test_members_of_one_name_are_a_sample(tmp_path: Path) -> None:
    tar_of(tmp_path / "b.tar", [("x/2.png", png(2)), ("x/2.txt", b"zwei\n")])
    tar_of(
        tmp_path / "a.tar",
        [("x/1.JPG", png(1)), ("x/1.txt", b"one"), ("y/1.txt", b"other"), ("y/1.png", png(7)), ("y/1.cls", b"3")],
    )
    samples = shards(tmp_path / "*.tar")
    assert [samples.label(index) for index in range(len(samples))] == ["one", "other", "zwei"]
    assert [int(draw(samples, index)[0, 0, 0]) for index in range(3)] == [1, 7, 2]
    assert samples.where(2) == f"{tmp_path / 'b.tar'}, x/2"
    assert samples.left_out["have another ending"] == 1
    assert samples.digest() != shards(tmp_path / "a.tar").digest()


def test_a_shard_in_a_circle_of_links_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    tar_of(tmp_path / "inside" / "a.tar", [("1.png", png(1)), ("1.txt", b"one")])
    (tmp_path / "inside" / "round").symlink_to(tmp_path, target_is_directory=True)
    assert len(shards(tmp_path / "**" / "*.tar")) == 1


def test_labels_in_json(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("1.png", png(1)), ("1.json", b'{"text": "abc"}')])
    assert shards(path, label="json", key="text").label(0) == "abc"
    with pytest.raises(FileFormatError, match="no text under 'caption'"):
        shards(path, label="json", key="caption")


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def test_hostile_members_are_not_followed(tmp_path: Path) -> None:
    """Names may say what they like: nothing is written. Links are left out."""
    path = tar_of(
        tmp_path / "a.tar",
        [("../../1.png", png(1)), ("../../1.txt", b"up"), ("/etc/2.png", png(2)), ("/etc/2.txt", b"root")],
        link("3.png", tarfile.SYMTYPE),
        link("3.txt", tarfile.LNKTYPE),
    )
    samples = shards(path)
    assert [samples.label(index) for index in range(len(samples))] == ["up", "root"]
    assert samples.left_out["are links, devices or sparse"] == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar"]


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar's header with any size field and a right checksum."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


HUGE = b"\x80" + (1 << 40).to_bytes(11, "big")
BELOW_ZERO = b"\xff" + (-1024 + (1 << 88)).to_bytes(11, "big")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("1.png", HUGE), "more than the file holds"),
        (header("1.png", HUGE, tarfile.GNUTYPE_LONGNAME), "a header claims"),
        (header("1.png", HUGE, tarfile.XHDTYPE), "a header claims"),
        (header("0.cls", b"00000000000\0") + header("1.png", BELOW_ZERO), "more than the file holds|leads back"),
        (b"\x1f\x8b" + bytes(600), "is compressed"),
        (b"no tar at all" + bytes(600), "is no tar"),
    ],
)
def test_tars_that_are_none_or_lie_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content + bytes(1024))
    with pytest.raises(FileFormatError, match=message):
        shards(tmp_path / "a.tar")


def test_tars_without_samples(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("1.png", png(1)), ("2.txt", b"x"), ("3.mp3", b"x")])
    with pytest.raises(DataError, match=r"no sample has an image .* 2 members have no partner"):
        shards(path)
    with pytest.raises(DataError, match="there is no"):
        shards(tmp_path / "nowhere*.tar")
    with pytest.raises(ConfigError, match="ratio"):
        WebDataset(("a.tar",), ratio=2.0)


def test_a_shard_that_became_shorter_is_one_bad_sample(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("1.txt", b"x"), ("1.png", png(1))])
    samples = shards(path)
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(ImageError, match="shorter than"):
        draw(samples, 0)


def lines(**options: Any) -> Rendered:
    return Rendered(RenderedLines(**{"count": 8, "fonts": (FONT,), **options}), tuple("abc1"), 3)


def test_rendered_lines_follow_from_their_numbers() -> None:
    one, again = lines(), lines()
    assert [one.label(index) for index in range(8)] == [again.label(index) for index in range(8)]
    assert set("".join(one.label(index) for index in range(8))) <= set("abc1")
    assert np.array_equal(draw(one, 2), draw(again, 2))
    assert not np.array_equal(draw(one, 2, 1)[:20, :20], draw(one, 2, 2)[:20, :20])
    assert one.digest() == again.digest() != lines(count=9).digest()
    grey = draw(one, 0).mean(2)
    assert grey.max() - grey.min() >= 60  # a person could read it


def test_rendered_lines_of_a_file_on_pictures(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("Straße 7\n\nzwei\n", encoding="utf-8")
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert cv2.imwrite(str(folder / "1.png"), np.full((4, 5, 3), 9, dtype=np.uint8))
    samples = lines(texts=str(tmp_path / "texts.txt"), backgrounds=str(folder), sizes=(20, 20))
    assert [samples.label(index) for index in range(3)] == ["Straße 7", "zwei", "Straße 7"]
    image = draw(samples, 0)
    assert (image == 9).mean() > 0.3
    assert image.shape[1] > 80


def test_labels_of_rendered_lines_are_what_is_seen_from_the_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CTC's steps go from left to right: it cannot learn the end of a line first."""
    monkeypatch.setattr("paddle2torch.training.data.rendered.features.check", lambda name: True)
    (tmp_path / "texts.txt").write_text("שלום 12\nabc\n", encoding="utf-8")
    samples = lines(texts=str(tmp_path / "texts.txt"))
    assert [samples.label(index) for index in range(2)] == ["12 םולש", "abc"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"characters": "a漢"}, ConfigError, "no font has '漢'"),
        ({"fonts": ("nowhere.ttf",)}, DataError, "nowhere.ttf: there is no such file"),
        ({"fonts": (__file__,)}, DataError, "is no font that can be read"),
        ({"backgrounds": "nowhere"}, DataError, "is no folder"),
        ({"texts": "nowhere.txt"}, DataError, "there is no such file"),
        ({"lengths": (5, 2)}, ConfigError, "the least and the largest"),
        ({"fonts": ()}, ConfigError, "1 to 1,000 fonts"),
    ],
)
def test_what_cannot_be_rendered_is_said(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lines(**options)


def test_characters_that_join_need_a_library_that_places_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.training.data.rendered.features.check", lambda name: False)
    with pytest.raises(ConfigError, match="needs the library Raqm"):
        lines(characters="\u0628")


def split_of(
    config: Any, folder: Path, *sources: dict[str, dict[str, Any]], files: tuple[str, ...] = ()
) -> SplitSettings:
    split = official_settings(config, pretrained=None).data.train
    dataset = replace(
        split.dataset,
        data_dir=str(folder),
        label_file_list=files,
        sources=tuple(Transform.from_json(source, "sources") for source in sources),
    )
    sampler = None if split.sampler is None else replace(split.sampler, first_bs=4)
    return replace(split, dataset=dataset, loader=replace(split.loader, num_workers=0), sampler=sampler)


def test_sources_are_mixed_by_ratio_and_go_on_where_they_were_left(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "1.png"), np.full((30, 60, 3), 50, dtype=np.uint8))
    (tmp_path / "train.txt").write_text("1.png\tabc\n" * 4 + "missing.png\tabc\n")
    tar_of(
        tmp_path / "a.tar",
        [(f"{n}.{end}", data) for n in range(10) for end, data in (("png", png(n)), ("txt", b"def"))],
    )
    config = tiny_config()
    split = split_of(
        config,
        tmp_path,
        {"WebDataset": {"shards": [str(tmp_path / "a.tar")], "ratio": 0.5}},
        {"RenderedLines": {"count": 6, "fonts": [FONT]}},
        files=(str(tmp_path / "train.txt"),),
    )
    samples = open_samples(split.dataset, config, seed=1)
    assert [(group.count, group.ratio) for group in samples.groups] == [(5, 1.0), (10, 0.5), (6, 1.0)]
    assert [Path(samples.source(index)).name for index in (0, 5, 15)] == [
        "train.txt",
        "a.tar",
        "rendered lines",
    ]

    def batches(start: int) -> list[dict[str, torch.Tensor]]:
        loader = build_loader(split, config, training=True, max_text_length=12, seed=1)
        loader.set_epoch(2, start_batch=start)
        found = list(loader)
        assert "missing.png" in str(loader.report)
        return found

    whole, rest = batches(0), batches(2)
    assert len(whole) == len(rest) + 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_sources_are_checked_by_name_and_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="WebDataset"):
        open_samples(split_of(tiny_config(), tmp_path, {"WebDataSet": {}}).dataset, tiny_config())
    rendered = {"RenderedLines": {"count": 1, "fonts": [FONT]}}
    with pytest.raises(ConfigError, match="are for recognisers"):
        open_samples(split_of(tiny_det_config(), tmp_path, rendered).dataset, tiny_det_config())
    with pytest.raises(ConfigError, match="needs a label_file_list, or sources"):
        DatasetSettings("folder")


class Rows:
    """Stands for a data set of the library: rows with an image and a text."""

    column_names = ("image", "text")

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = list(rows)

    def cast_column(self, name: str, kind: object) -> Rows:
        return self

    def with_format(self, kind: None) -> Rows:
        return self

    def take(self, count: int) -> list[dict[str, Any]]:
        return self.rows[:count]

    def __getitem__(self, key: int | str) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The library, as far as it is asked; what was asked of it."""
    asked: list[dict[str, Any]] = []
    rows = [
        {"image": {"bytes": png(5), "path": None}, "text": "abc"},
        {"image": {"bytes": None, "path": "/etc/passwd"}, "text": "outside"},
        {"image": None, "text": None},
    ]

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Rows:
        asked.append({"path": path, **options})
        if path == "org/nothing":
            raise ConnectionError("no network")
        return Rows(rows)

    library = SimpleNamespace(
        __version__="4.1.0",
        __spec__=importlib.util.find_spec("json"),
        load_dataset=load_dataset,
        Image=lambda decode: None,
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    return asked


def test_rows_of_the_hub(hub: list[dict[str, Any]]) -> None:
    samples = open_rows(HuggingFace("org/lines", revision="abc"))
    assert [samples.label(index) for index in range(3)] == ["abc", "outside", ""]
    assert int(draw(samples, 0)[0, 0, 0]) == 5
    assert samples.where(1) == "org/lines (train), row 1"
    with pytest.raises(ImageError, match="outside of its data set"):
        draw(samples, 1)
    with pytest.raises(ImageError, match="no image"):
        draw(samples, 2)
    with pytest.raises(DataError, match="has no column 'picture', only 'image', 'text'"):
        open_rows(HuggingFace("org/lines", image="picture"))
    with pytest.raises(DataError, match="org/nothing cannot be had: 'no network'"):
        open_rows(HuggingFace("org/nothing"))


def test_a_stream_is_taken_once_and_read_in_any_order(hub: list[dict[str, Any]]) -> None:
    options = HuggingFace("org/lines", take=2)
    samples = open_rows(options)
    again = open_rows(replace(options, ratio=0.5))
    assert len(hub) == 1
    assert hub[0]["streaming"] is True
    assert [again.label(index) for index in range(len(again))] == ["abc", "outside"]
    assert int(draw(samples, 0)[0, 0, 0]) == 5
    with pytest.raises(ImageError):
        draw(samples, 1)
    assert samples.digest() == again.digest()


def test_a_library_that_runs_code_of_data_sets_is_refused(
    hub: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["datasets"], "__version__", "3.6.0")
    with pytest.raises(DataError, match="runs code that data sets bring"):
        open_rows(HuggingFace("org/lines"))
    assert hub == []


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.training.data.hub_rows.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        open_rows(HuggingFace("org/lines"))


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
def test_rows_of_the_librarys_own_formats(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict(
        {"picture": [{"bytes": png(number), "path": None} for number in range(4)], "words": list("abcd")},
        features=datasets.Features({"picture": datasets.Image(), "words": datasets.Value("string")}),
    )
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    for path in ("saved", "rows.parquet"):
        for take in (None, 3):
            samples = open_rows(HuggingFace(str(tmp_path / path), image="picture", text="words", take=take))
            assert [samples.label(index) for index in range(len(samples))] == list("abcd")[:take]
            assert int(draw(samples, 2)[0, 0, 0]) == 2
