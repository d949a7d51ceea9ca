"""Results as JSON, JSON lines, text, TSV, hOCR and ALTO, written page by page; killed runs go on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from result_pages import box, line, page

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.ocr.formats import (
    FORMATS,
    append_pages,
    document_paths,
    finished_pages,
    write_documents,
    write_stream,
)
from paddle2torch.ocr.pages import Failure
from paddle2torch.ocr.results import PageText, TextLine, TextWord
from paddle2torch.ocr.writers.tables import TSV_COLUMNS

HOSTILE = "<b a='1' c=\"2\">&\t\n\x00\x1b\ufffe\U0001f600</b>"


def written(format: str, *results: PageText | Failure) -> str:
    stream = io.StringIO()
    write_stream(results, format, stream)
    return stream.getvalue()


PAGE = page(line("Total 12.90", 200, 10), line("one, two", 10, 12), line("名前 end", 10, 100))


def test_json_is_a_list_of_lines_per_page() -> None:
    document = json.loads(written("json", PAGE, Failure("b.png", None, "b.png is broken"), page(source="c.png")))
    assert len(document) == 3
    assert document[1] is None
    assert document[2] == []
    first = document[0][0]
    assert list(first) == ["box", "text", "score", "words"]
    # The order is the result's, PaddleOCR's.
    assert [entry["text"] for entry in document[0]] == ["Total 12.90", "one, two", "名前 end"]
    assert first["box"] == [[200, 10], [310, 10], [310, 30], [200, 30]]
    assert first["score"] == 0.87654
    assert first["words"][1] == {
        "box": [[260, 10], [310, 10], [310, 30], [260, 30]],
        "text": "12.90",
        "score": 0.9,
        "char_scores": [0.9] * 5,
    }
    assert json.loads(written("json")) == []


def test_json_lines_name_their_pages() -> None:
    text = written("jsonl", PAGE, Failure("b.png", None, "broken"), page(source="c.pdf", number=2, count=5))
    first, second = (json.loads(row) for row in text.splitlines())
    assert list(first) == ["source", "page", "pages", "width", "height", "lines"]
    assert (second["source"], second["page"], second["pages"], second["width"], second["height"]) == (
        *("c.pdf", 2, 5),
        *(400, 200),
    )


def test_text_is_in_reading_order() -> None:
    assert PAGE.text == "one, two Total 12.90\n\n名前 end"
    assert written("text", PAGE, page(), page(line("x", 0, 0))) == "one, two Total 12.90\n\n名前 end\n\f\n\fx\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|'/C calc'!A0", "'=cmd|'/C calc'!A0"),
        ("+A1", "'+A1"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d", "'\uff1d"),
        ("'quoted'", "''quoted'"),
        ("-12.50", "-12.50"),
        ("+49", "+49"),
        ("-", "-"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_of_a_tsv_is_a_formula(text: str, cell: str) -> None:
    rows = [row.split("\t") for row in written("tsv", page(line(text, 0, 0), source="=x.png")).splitlines()]
    assert next(row[11] for row in rows if row[0] == "5") == cell.split()[0]
    assert {row[12] for row in rows[1:]} == {"'=x.png"}
    document = json.loads(written("json", page(line(text, 0, 0), source="=x.png")))
    assert document[0][0]["text"] == text, "JSON is exact"


def test_tsv_has_tesseracts_columns() -> None:
    text = written("tsv", PAGE, page(line("x", 0, 0), source="c\td.png"))
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert tuple(rows[0]) == TSV_COLUMNS
    words = [row for row in rows if row["level"] == "5"]
    assert [word["text"] for word in words] == ["one,", "two", "Total", "12.90", "名", "前", "end", "x"]
    assert [int(words[3][key]) for key in ("left", "top", "width", "height")] == [260, 10, 50, 20]
    assert [words[3][key] for key in ("page_num", "block_num", "line_num", "word_num")] == ["1", "1", "1", "4"]
    assert words[3]["conf"] == "90.00"
    assert (words[7]["page_num"], words[7]["source"]) == ("2", "c d.png")
    assert [row["level"] for row in rows[:4]] == ["1", "2", "3", "4"]
    assert all(row["conf"] == "-1" for row in rows if row["level"] != "5")


def test_hocr_is_xhtml_with_words_and_confidences() -> None:
    text = written("hocr", PAGE, page(line(HOSTILE, 0, 0), source=HOSTILE))
    root = ElementTree.fromstring(text.split("?>", 1)[1].split(">", 1)[1])
    names = "{http://www.w3.org/1999/xhtml}"
    first, second = root.findall(f".//{names}div[@class='ocr_page']")
    assert first.get("title") == 'image "a.png"; bbox 0 0 400 200; ppageno 0'
    rows = first.findall(f".//{names}span[@class='ocr_line']")
    assert ["".join(row.itertext()) for row in rows] == ["one, two Total 12.90", "名前 end"]
    word = rows[0].findall(f"{names}span")[3]
    assert word.get("title") == "bbox 260 10 310 30; x_wconf 90; x_confs 90 90 90 90 90"
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    # What XML cannot hold is replaced, what it can is kept.
    assert "\U0001f600" in "".join(second.itertext())
    assert "\x00" not in text


def test_alto_places_words_and_spaces() -> None:
    text = written("alto", PAGE, page(line(HOSTILE, 0, 0), number=2, count=2))
    root = ElementTree.fromstring(text.encode())
    names = "{http://www.loc.gov/standards/alto/ns-v4#}"
    assert root.findtext(f".//{names}fileName") == "a.png"
    pages = root.findall(f".//{names}Page")
    assert [(p.get("PHYSICAL_IMG_NR"), p.get("WIDTH"), p.get("HEIGHT")) for p in pages] == [
        ("1", "400", "200"),
        ("2", "400", "200"),
    ]
    rows = pages[0].findall(f".//{names}TextLine")
    kinds = [[e.get("CONTENT") or "SP" for e in row] for row in rows]
    assert kinds == [["one,", "SP", "two", "SP", "Total", "SP", "12.90"], ["名", "前", "SP", "end"]]
    word = rows[0][6]
    assert [word.get(key) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT", "WC")] == ["260", "10", "50", "20", "0.9000"]
    with pytest.raises(ConfigError, match="one file"):
        written("alto", PAGE, page(source="other.png"))


def test_boxes_beyond_the_page_are_clipped_to_it() -> None:
    outside = TextLine("x", 0.9, box(-5, -5, 500, 300), (TextWord("x", 0.9, box(-5, -5, 500, 300), (0.9,)),))
    assert "bbox 0 0 400 200; x_wconf" in written("hocr", page(outside))


TEXTS = [name for name, form in FORMATS.items() if not form.binary]


@pytest.mark.parametrize("format", TEXTS)
def test_every_format_is_written_page_by_page(format: str) -> None:
    stream = io.StringIO()
    seen: list[int] = []

    def results() -> Iterator[PageText]:
        for number in range(1, 4):
            seen.append(len(stream.getvalue()))
            yield page(line(f"text {number}", 10, 10), number=number, count=3)

    write_stream(results(), format, stream)
    assert seen[0] < seen[1] < seen[2] < len(stream.getvalue())


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match="docx"):
        written("docx", PAGE)


@pytest.mark.parametrize("format", TEXTS)
def test_names_that_are_no_text_do_not_stop_a_run(format: str, tmp_path: Path) -> None:
    strange = "caf\udce9.png"  # Latin-1 where UTF-8 is the rule
    append_pages([page(line("x", 0, 0), source=strange)], tmp_path / "a.jsonl")
    assert finished_pages(tmp_path / "a.jsonl") == {(strange, 1)}
    written(format, page(line("x", 0, 0), source=strange)).encode()


def test_a_killed_run_goes_on_after_its_last_whole_page(tmp_path: Path) -> None:
    path = tmp_path / "out" / "pages.jsonl"
    assert finished_pages(path) == set()
    append_pages([PAGE, page(source="b.pdf", number=1, count=2)], path)
    whole = path.read_bytes()
    for cut in (1, 50):
        # Killed while the last line was written, for example inside a character.
        path.write_bytes(whole + '{"source": "b.pdf", "page": 2, "lines": ["名'.encode()[:-cut])
        assert finished_pages(path) == {("a.png", 1), ("b.pdf", 1)}
        assert path.read_bytes() == whole
    append_pages([page(source="b.pdf", number=2, count=2)], path)
    assert finished_pages(path) == {("a.png", 1), ("b.pdf", 1), ("b.pdf", 2)}


@pytest.mark.parametrize("content", ["x\n", "[]\n", "{}\n", '{"source": "a", "page": null}\n', "[" * 100_000 + "\n"])
def test_another_file_is_not_appended_to(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(FileFormatError, match="line 1 is not a page"):
        finished_pages(path)
    assert path.read_text() == content


def test_a_document_per_source(tmp_path: Path) -> None:
    sources = ["in/a.png", "in/b.pdf", "in/c.png", "-"]
    paths = document_paths(sources, tmp_path / "out", "alto")
    assert [path.name for path in paths.values()] == ["a.png.xml", "b.pdf.xml", "c.png.xml", "stdin.xml"]
    results: list[PageText | Failure] = [
        page(line("a", 0, 0), source="in/a.png"),
        Failure("in/b.pdf", 1, "page 1 is broken"),
        page(line("b", 0, 0), source="in/b.pdf", number=2, count=2),
        Failure("in/c.png", None, "c.png is broken"),
        page(line("d", 0, 0), source="-"),
    ]
    write_documents(results, paths, "alto")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png.xml", "b.pdf.xml", "stdin.xml"]
    text = paths["in/b.pdf"].read_text(encoding="utf-8")
    assert 'PHYSICAL_IMG_NR="2"' in text
    assert 'PHYSICAL_IMG_NR="1"' not in text


def test_a_source_that_is_cut_off_leaves_no_document(tmp_path: Path) -> None:
    paths = document_paths(["a.png", "b.pdf"], tmp_path, "text")

    def results() -> Iterator[PageText]:
        yield page(line("a", 0, 0), source="a.png")
        yield page(line("b", 0, 0), source="b.pdf", count=2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_documents(results(), paths, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png.txt"]


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one/a.png and two/a.png"):
        document_paths(["one/a.png", "two/a.png"], tmp_path, "text")
    assert len(document_paths(["one/a.png", "one/a.jpg"], tmp_path, "text")) == 2
