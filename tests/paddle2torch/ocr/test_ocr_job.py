"""A run over many pages: written as it comes, gone on with where it was cut off, failures named and harmless."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from paddle2torch import cli
from paddle2torch.atomic import WriteError
from paddle2torch.cli import read
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.ocr.formats import FORMATS, append_pages
from paddle2torch.ocr.job import run_job
from paddle2torch.ocr.pages import Failure, Page, read_pages
from paddle2torch.ocr.results import PageText, TextLine, TextWord

BOX = np.array([[1, 1], [30, 1], [30, 12], [1, 12]], np.float32)


class Reader:
    """Stands for the pipeline: reads the brightness of a page."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def read_pages(self, pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
        for page in pages:
            if isinstance(page, Failure):
                yield page
                continue
            self.read.append(Path(page.source).name)
            text = f"grey {int(page.image.mean())}"
            word = TextWord(text, 0.9, BOX, tuple([0.9] * len(text)))
            yield PageText(page.source, page.number, page.count, page.image, (TextLine(text, 0.9, BOX, (word,)),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((20, 40, 3), 50 * (index + 1), np.uint8))
    (folder / "1b.png").write_bytes(b"broken")
    return folder


def job(reader: Reader, folder: Path, **options: object) -> tuple[str, list[Failure]]:
    stream = io.StringIO()
    failures = run_job(reader, [folder], stream=stream, **options)  # type: ignore[arg-type]
    return stream.getvalue(), failures


def test_a_broken_file_is_named_and_stops_nothing(folder: Path) -> None:
    text, failures = job(Reader(), folder)
    assert [line for line in text.replace("\f", "").splitlines() if line] == ["grey 50", "grey 100", "grey 150"]
    assert [Path(failure.source).name for failure in failures] == ["1b.png"]


def test_documents_are_resumed_source_by_source(folder: Path, tmp_path: Path) -> None:
    reader = Reader()
    job(reader, folder, output=tmp_path / "out", format="text")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png.txt", "1.png.txt", "2.png.txt"]
    with pytest.raises(ConfigError, match="--resume"):
        job(reader, folder, output=tmp_path / "out", format="text")
    (tmp_path / "out" / "1.png.txt").unlink()
    again = Reader()
    job(again, folder, output=tmp_path / "out", format="text", resume=True)
    assert again.read == ["1.png"]


def test_lines_of_a_killed_run_are_gone_on_with(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages.jsonl"
    job(Reader(), folder, output=out)
    whole = out.read_bytes()
    assert [json.loads(line)["page"] for line in whole.splitlines()] == [1, 1, 1]
    out.write_bytes(whole[: len(whole) - 30])
    with pytest.raises(ConfigError, match="--resume"):
        job(Reader(), folder, output=out)
    again = Reader()
    job(again, folder, output=out, resume=True)
    assert again.read == ["2.png"]
    assert out.read_bytes() == whole


def test_resuming_what_is_something_else(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n')
    with pytest.raises(FileFormatError, match="line 1"):
        job(Reader(), folder, output=other, resume=True)
    assert other.read_text() == '{"a": 1}\n'
    with pytest.raises(ConfigError, match="--output"):
        job(Reader(), folder, resume=True)


def test_pictures_and_progress(folder: Path, tmp_path: Path) -> None:
    seen: list[object] = []
    job(
        Reader(),
        folder,
        pictures=tmp_path / "pictures",
        started=seen.append,
        finished=lambda page: seen.append(page.source),
    )
    assert seen[0] == 4
    assert len(seen) == 5
    picture = cv2.imread(str(tmp_path / "pictures" / "0.png.png"))
    assert picture.shape == (20, 80, 3)


def test_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.ocr.pipeline.OCR", lambda *a, **k: Reader())
    result = CliRunner().invoke(cli.main, ["ocr", str(folder), "--json"])
    assert result.exit_code == 1
    pages = json.loads(result.stdout)
    assert [page and page[0]["text"] for page in pages] == ["grey 50", "grey 100", None, "grey 150"]
    assert set(pages[0][0]) == {"box", "text", "score", "words"}
    assert "not read: " in result.stderr
    assert "1b.png" in result.stderr
    (folder / "1b.png").unlink()
    assert (
        CliRunner().invoke(cli.main, ["ocr", str(folder), "-o", str(tmp_path / "o"), "--format", "hocr"]).exit_code == 0
    )
    assert (tmp_path / "o" / "2.png.hocr").is_file()


def test_options_have_paddleocrs_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr("paddle2torch.ocr.pipeline.OCR", lambda *a, **k: given.append(k) or Reader())
    for options in (
        "--det-limit-side-len 64 --det-limit-type min --det-db-thresh 0.2 --det-db-box-thresh 0.4",
        "--det_limit_side_len 64 --det_limit_type min --det_db_thresh 0.2 --det_db_box_thresh 0.4",
        "--text-det-limit-side-len 64 --text-det-limit-type min --text-det-thresh 0.2 --text-det-box-thresh 0.4",
        "--text_det_limit_side_len 64 --text_det_limit_type min --text_det_thresh 0.2 --text_det_box_thresh 0.4",
    ):
        arguments = ["ocr", str(folder / "0.png"), *options.split(), "--dpi", "200"]
        assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    assert all(options == given[0] for options in given)
    expected = {"det_limit_side_len": 64, "det_limit_type": "min", "det_db_thresh": 0.2, "det_db_box_thresh": 0.4}
    assert expected.items() <= given[0].items()
    assert given[0]["det_db_unclip_ratio"] is None


def test_pages_that_were_made_much_smaller_are_one_note(folder: Path) -> None:
    class Small(Reader):
        def read_pages(self, pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
            for number, page in enumerate(super().read_pages(pages)):
                yield replace(page, shrunk=1 + number) if isinstance(page, PageText) else page

    with pytest.warns(
        UserWarning, match=r"2 pages were made up to 4\.0 times smaller .*first: .*1\.png, page 1"
    ) as notes:
        job(Small(), folder)
    assert len(notes) == 1


def test_lines_that_cannot_be_written_are_one_message(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "file").touch()
    for output, resume, message in (
        (tmp_path / "folder.jsonl", True, r"folder\.jsonl is a folder; .* choose another name"),
        (tmp_path / "file" / "pages.jsonl", False, r"pages\.jsonl cannot be written: .*; choose another place"),
        (Path("/proc/pages.jsonl"), False, r"pages\.jsonl cannot be written: .*; choose another place"),
    ):
        with pytest.raises(Paddle2TorchError, match=message):
            job(Reader(), folder, output=output, resume=resume)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_under_the_lines_is_one_message(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pages.jsonl").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match="is not a regular file"):
        job(Reader(), folder, output=tmp_path / "pages.jsonl", resume=True)
    with pytest.raises(WriteError, match="No space left on device; choose another place"):
        append_pages(Reader().read_pages(read_pages([str(folder / "0.png")])), tmp_path / "pages.jsonl")


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == read.FORMATS, "listed a second time, so that --help imports nothing"
