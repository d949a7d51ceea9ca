"""A page as its reader gets it: a sequence of lines that can be written, shown and counted with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from result_pages import line, page

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.document import Document
from paddle2torch.ocr.formats import FORMATS
from paddle2torch.ocr.pages import Failure, Page
from paddle2torch.ocr.results import PageText
from paddle2torch.tasks.images import ImageError

PAGE = page(line("Total 12.90", 200, 10), line("one, two", 10, 12))


def test_a_page_is_the_sequence_of_its_lines() -> None:
    assert len(PAGE) == 2
    assert [found.text for found in PAGE] == ["Total 12.90", "one, two"]
    assert PAGE[0] is PAGE.lines[0]
    assert PAGE[-1] in PAGE
    assert PAGE[1:] == PAGE.lines[1:]
    assert PAGE.to_dict()["lines"][1]["text"] == "one, two"


def test_a_page_says_what_it_is() -> None:
    assert repr(PAGE) == "<a.png, 400 x 200 pixels, 2 lines: 'Total 12.90', ...>"
    assert repr(page(source="", number=2, count=3)) == "<page, page 2 of 3, 400 x 200 pixels, 0 lines>"


@pytest.mark.parametrize("suffix", [*(form.suffix for form in FORMATS.values()), ".png"])
def test_a_page_is_saved_as_its_name_ends(suffix: str, tmp_path: Path) -> None:
    path = PAGE.save(tmp_path / f"a{suffix.upper()}")
    content = path.read_bytes()
    starts = {".pdf": b"%PDF-", ".png": b"\x89PNG", ".json": b"[", ".jsonl": b'{"source"', ".tsv": b"level\t"}
    assert content.startswith(starts.get(suffix, b"<?xml" if suffix in (".xml", ".hocr") else b""))
    assert b"Total" in content or suffix in (".pdf", ".png")


def test_other_endings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format ends in '\.docx'; there are \.txt, \.md"):
        PAGE.save(tmp_path / "a.docx")
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_shows_the_picture() -> None:
    assert PAGE.picture().size == (800, 200)
    assert PAGE._repr_png_().startswith(b"\x89PNG")


def test_pandas_is_asked_for_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ModuleType("pandas")
    given.DataFrame = lambda rows, columns: SimpleNamespace(rows=rows, columns=columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", given)
    table = PAGE.to_pandas()
    assert table.columns == ["text", "score", "left", "top", "right", "bottom", "box"]
    assert table.rows[1][:6] == ("one, two", 0.87654321, 10.0, 12.0, 90.0, 32.0)


def reader(pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
    """Reads the number of each page."""
    for found in pages:
        if isinstance(found, Failure):
            yield found
        else:
            read = (line(f"page {found.number}", 10, 10),)
            yield PageText(found.source, found.number, found.count, found.image, read)


def tiff(path: Path, pages: int) -> Path:
    first, *others = [Image.fromarray(np.full((40, 60), 20 * number, np.uint8)) for number in range(pages)]
    first.save(path, save_all=True, append_images=others)
    return path


def test_a_document_is_read_page_by_page_as_it_is_asked_for(tmp_path: Path) -> None:
    loaded: list[int] = []

    def watched(pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
        for found in reader(pages):
            loaded.append(found.number or 0)
            yield found

    document = Document(watched, str(tiff(tmp_path / "a.tif", 3)))
    assert loaded == []
    assert next(iter(document)).text == "page 1"
    assert loaded == [1]
    assert document.text == "page 1\fpage 2\fpage 3"
    assert document.to_markdown() == "page 1\n\n---\n\npage 2\n\n---\n\npage 3\n"
    assert [found["page"] for found in document.to_dict()] == [1, 2, 3]
    document.save(tmp_path / "a.jsonl")
    assert [json.loads(row)["page"] for row in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_a_page_of_a_document_that_cannot_be_read_raises(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(tmp_path / "whole.tif", 3).read_bytes()[:200])
    with pytest.raises(ImageError, match=r"a\.tif"):
        list(Document(reader, str(tmp_path / "a.tif")))
    with pytest.raises(ImageError):
        Document(reader, str(tmp_path / "a.tif")).save(tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()
