"""Pages as rows of Parquet: one schema for one process, several, and Ray; what failed is a row."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from result_pages import line, page

from paddle2torch._version import __version__
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.ocr.job import run_job
from paddle2torch.ocr.pages import Failure, Page
from paddle2torch.ocr.results import PageText
from paddle2torch.ocr.writers import parquet

pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


class Reader:
    """Stands for the pipeline: reads the brightness of a page. stop: the page at which it is interrupted."""

    def __init__(self, stop: int = sys.maxsize) -> None:
        self.stop = stop
        self.read: list[str] = []

    def read_pages(self, pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
        for number, found in enumerate(pages):
            if number == self.stop:
                raise KeyboardInterrupt
            if isinstance(found, Failure):
                yield found
                continue
            self.read.append(Path(found.source).name)
            text = line(f"grey {int(found.image.mean())}", 1, 1, 10)
            yield PageText(found.source, found.number, found.count, found.image, (text,), models={"rec": "grey"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((20, 40, 3), 50 * index, np.uint8))
    (folder / "1b.png").write_bytes(b"broken")
    return folder


def job(reader: Any, folder: Path, output: Path, **options: Any) -> list[Failure]:
    return run_job(reader, [folder], stream=io.StringIO(), output=output, **options)


def test_a_row_has_everything_that_is_known_of_its_page(tmp_path: Path) -> None:
    read = page(line("Größe 12", 20, 10), source="scan-\udce4.pdf", number=3, count=7, quarter_turns=1)
    failed = Failure("b.png", 2, "b.png, page 2 cannot be read: \udcff")
    (tmp_path / "two.parquet").write_bytes(b"".join(parquet.parquet([read, failed])))
    table = pq.read_table(tmp_path / "two.parquet")
    assert table.schema.equals(parquet.page_schema())
    first, second = table.to_pylist()
    assert (first["id"], second["id"]) == (r"scan-\udce4.pdf#3", "b.png#2")
    assert (first["schema_version"], first["source"], first["page"], first["pages"]) == (1, r"scan-\udce4.pdf", 3, 7)
    assert (first["width"], first["height"], first["quarter_turns"], first["shrunk"]) == (400, 200, 1, 1.0)
    assert first["text"] == "Größe 12"
    assert first["error"] is None
    (expected,) = read.to_dict()["lines"]
    (found,) = first["lines"]
    assert found["text"] == expected["text"]
    assert found["score"] == pytest.approx(expected["score"])
    assert found["box"] == expected["box"]
    assert [word["text"] for word in found["words"]] == ["Größe", "12"]
    assert found["words"][0]["char_scores"] == pytest.approx([0.9] * 5)
    assert first["versions"]["paddle2torch"] == second["versions"]["paddle2torch"] == __version__
    assert second["error"] == r"b.png, page 2 cannot be read: \udcff"
    assert {name for name, value in second.items() if value is None} == {
        *("pages", "width", "height", "quarter_turns", "shrunk", "text", "lines", "models")
    }


def test_one_file_lands_whole_with_its_failures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PAGES_TOGETHER", 2)
    output = tmp_path / "all.parquet"
    with pytest.raises(KeyboardInterrupt):
        job(Reader(stop=4), folder, output)
    assert not output.exists()
    job(Reader(), folder, output)
    rows = pq.read_table(output).to_pylist()
    assert [Path(row["source"]).name for row in rows] == [path.name for path in sorted(folder.iterdir())]
    assert [row["text"] for row in rows] == ["grey 0", "grey 50", None, "grey 100", "grey 150", "grey 200"]
    assert [row["error"] is None for row in rows] == [True, True, False, True, True, True]
    assert rows[0]["models"] == {"det": None, "cls": None, "rec": "grey", "orientation": None}
    assert pq.ParquetFile(output).num_row_groups == 3
    with pytest.raises(ConfigError, match="exists"):
        job(Reader(), folder, output)


def test_a_folder_is_one_data_set_that_is_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PAGES_TOGETHER", 2)
    output = tmp_path / "rows"
    with pytest.raises(KeyboardInterrupt):
        job(Reader(stop=3), folder, output, format="parquet")
    assert [path.name for path in sorted(output.iterdir())] == ["part-00000.parquet", "part-00001.parquet"]
    with pytest.raises(ConfigError, match="--resume"):
        job(Reader(), folder, output, format="parquet")
    again = Reader()
    assert job(again, folder, output, format="parquet", resume=True) == []
    assert again.read == ["2.png", "3.png", "4.png"], "neither what was read nor what failed is read again"
    rows = pq.read_table(output).to_pylist()
    assert sorted(Path(row["source"]).name for row in rows) == [path.name for path in sorted(folder.iterdir())]
    assert sum(row["error"] is not None for row in rows) == 1


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows"
    job(Reader(), folder, output, format="parquet")
    table = pq.read_table(output / "part-00000.parquet")
    newer = table.set_column(1, "schema_version", [[2] * len(table)])
    for name, message in (
        ("newer", r"newer\.parquet is of another version of paddle2torch \(schema \[2\], not 1\)"),
        ("other", r"other\.parquet has no pages that were read"),
        ("broken", r"broken\.parquet has no pages that were read"),
    ):
        path = output / f"{name}.parquet"
        if name == "broken":
            path.write_bytes(b"PAR1")
        else:
            pq.write_table(newer if name == "newer" else table.select(["text"]), path)
        with pytest.raises(FileFormatError, match=message):
            job(Reader(), folder, output, format="parquet", resume=True)
        path.unlink()


def test_a_page_can_be_saved_and_a_terminal_shows_none(tmp_path: Path) -> None:
    saved = page(line("Text", 20, 10)).save(tmp_path / "page.parquet")
    assert pq.read_table(saved)["text"].to_pylist() == ["Text"]
    reader: Any = Reader()
    with pytest.raises(ConfigError, match="parquet cannot be shown here: give --output"):
        run_job(reader, ["none.png"], stream=io.StringIO(), format="parquet")


def test_without_pyarrow_one_message_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    reader = Reader()
    with pytest.raises(ConfigError, match=r"pip install 'paddle2torch\[parquet\]'"):
        job(reader, folder, tmp_path / "rows", format="parquet")
    assert reader.read == []
