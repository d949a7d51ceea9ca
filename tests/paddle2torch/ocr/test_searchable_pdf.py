"""PDFs in which what was read can be searched and copied: as PDFium finds it, in its order and in its place."""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
import pytest
from PIL import Image
from result_pages import box, line, page, right_to_left_line, vertical_line

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.formats import write_documents, write_stream
from paddle2torch.ocr.pages import Failure, read_pages
from paddle2torch.ocr.results import PageText, TextLine, TextWord
from paddle2torch.tasks.geometry import order_clockwise, turn_points

TWO_PIXELS = 2.0


def text_of(path: Path, index: int = 0) -> str:
    with pypdfium2.PdfDocument(path) as document:
        return document[index].get_textpage().get_text_range().replace("\r\n", "\n")


def word_box(path: Path, word: str, index: int = 0) -> np.ndarray:
    """left, bottom, right, top of a word in points of the page."""
    with pypdfium2.PdfDocument(path) as document:
        words = document[index].get_textpage()
        start = words.get_text_range().index(word)
        boxes = np.array([words.get_charbox(place) for place in range(start, start + len(word))])
    return np.concatenate([boxes.min(axis=0)[:2], boxes.max(axis=0)[2:]])


PAGE = page(
    line("one, two", 10, 10), line("Total 12.90", 200, 12), line("名前 end", 10, 100), line("\U0001f600x", 10, 170)
)


def test_text_is_found_in_its_order_and_place(tmp_path: Path) -> None:
    path = PAGE.save(tmp_path / "a.pdf")
    assert text_of(path) == "one, two Total 12.90\n名前 end\n\U0001f600x"
    # 96 pixels to the inch, 72 points; y up.
    expected = np.array([260, 200 - 32, 310, 200 - 12]) * 0.75
    assert np.abs(word_box(path, "12.90") - expected).max() < 0.75 * TWO_PIXELS


@pytest.mark.parametrize("text", ["שלום עולם (2024) 12/05 abc", "مرحبا بالعالم"])
def test_right_to_left_text_is_copied_in_the_order_of_reading(text: str, tmp_path: Path) -> None:
    path = page(right_to_left_line(text, 390, 50)).save(tmp_path / "a.pdf")
    assert text_of(path) == text


def test_columns_are_copied_from_the_right(tmp_path: Path) -> None:
    # A page of columns is read like one that lies on its side.
    columns = page(vertical_line("縦書きの文", 300, 20), vertical_line("二行目です", 270, 20), quarter_turns=1)
    assert text_of(columns.save(tmp_path / "a.pdf")) == "縦書きの文\n二行目です"


def rows_of(path: Path) -> list[str]:
    return [row.strip() for row in text_of(path).split("\n")]


@pytest.mark.parametrize("texts", [("one two", "three four"), ("אחת שתיים", "שלוש ארבע")])
def test_rows_whose_boxes_overlap_stay_rows(texts: tuple[str, str], tmp_path: Path) -> None:
    make = right_to_left_line if "א" in texts[0] else line
    lower = make(texts[1], 390 if "א" in texts[0] else 250, 27)
    assert rows_of(page(make(texts[0], 120, 10), lower).save(tmp_path / "a.pdf")) == list(texts)


def test_lines_without_text_leave_no_trace(tmp_path: Path) -> None:
    nothing = TextLine("", 0.0, box(10, 40, 60, 60), ())
    assert rows_of(page(line("a", 10, 10), nothing).save(tmp_path / "a.pdf")) == ["a"]


def test_lines_of_a_row_are_divided_by_a_space_though_they_overlap(tmp_path: Path) -> None:
    assert rows_of(page(line("5.8", 10, 10, 40), line("off", 65, 25)).save(tmp_path / "a.pdf")) == ["5.8 off"]


def test_a_gap_that_was_not_read_is_no_space(tmp_path: Path) -> None:
    words = tuple(TextWord(text, 0.9, box(left, 10, left + 18, 34), (0.9,)) for text, left in (("文", 10), ("与", 34)))
    found = TextLine("文与", 0.9, box(10, 10, 52, 34), words)
    assert rows_of(page(found).save(tmp_path / "a.pdf")) == ["文与"]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_turned_pages_are_copied_in_the_order_of_reading(turns: int, tmp_path: Path) -> None:
    upright = page(line("one a two", 10, 10), line("three four", 10, 40), line("five", 10, 70))
    boxes = {}

    def turned(points: np.ndarray) -> np.ndarray:
        return order_clockwise(turn_points(points, upright.image.shape, -turns))

    for found in upright:
        words = tuple(replace(word, box=turned(word.box)) for word in found.words)
        boxes[found.text] = replace(found, box=turned(found.box), words=words)
    image = np.ascontiguousarray(np.rot90(upright.image, -turns))
    path = PageText("a.png", 1, 1, image, tuple(boxes.values()), quarter_turns=turns).save(tmp_path / "a.pdf")
    assert rows_of(path) == ["one a two", "three four", "five"]


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext")
def test_poppler_finds_the_same_words(tmp_path: Path) -> None:
    path = PAGE.save(tmp_path / "a.pdf")
    done = subprocess.run(["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["one,", "two", "Total", "12.90", "名前", "end", "\U0001f600x"]


def test_upside_down_text_stands_on_its_head(tmp_path: Path) -> None:
    words = tuple(
        TextWord(text, 0.9, box(left, 50, left + 50, 70), (0.9,) * 5) for text, left in (("first", 200), ("later", 140))
    )
    path = page(TextLine("first later", 0.9, box(140, 50, 250, 70), words)).save(tmp_path / "a.pdf")
    with pypdfium2.PdfDocument(path) as document:
        first = next(iter(document[0].get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT])))
        across, _, _, up, left, _ = first.get_matrix().get()
    assert across < 0, "from right to left"
    assert up < 0
    assert abs(left - 250 * 0.75) < 0.01


def test_a_jpeg_is_kept_as_it_is_and_upright(tmp_path: Path) -> None:
    stored = np.full((60, 100, 3), 255, np.uint8)
    stored[:10, :20] = (255, 0, 0)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        source = tmp_path / f"{orientation}.jpg"
        Image.fromarray(stored).save(source, exif=exif, quality=95, dpi=(72, 72))
        (found,) = read_pages([str(source)])
        assert not isinstance(found, Failure)
        path = PageText(str(source), 1, 1, found.image, ()).save(tmp_path / f"{orientation}.pdf")
        assert source.read_bytes()[-500:] in path.read_bytes(), "the file's own bytes"
        (drawn,) = read_pages([str(path)], dpi=72)
        assert not isinstance(drawn, Failure)
        assert drawn.image.shape == found.image.shape
        assert np.abs(drawn.image.astype(int) - found.image).mean() < 3, orientation


def test_other_pictures_are_kept_to_the_pixel(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for number, image in enumerate((noise, np.repeat(noise[..., :1], 3, axis=2))):
        source = tmp_path / f"{number}.png"
        Image.fromarray(image[:, :, ::-1]).save(source, dpi=(72, 72))
        path = PageText(str(source), 1, 1, image, ()).save(tmp_path / f"{number}.pdf")
        with pypdfium2.PdfDocument(path) as document:
            (picture,) = document[0].get_objects()
            pixels = picture.get_bitmap().to_numpy()
            assert np.array_equal(
                pixels.reshape(40, 50, -1)[..., :3], image[..., : pixels.reshape(40, 50, -1).shape[2]]
            )


def drawn_pdf(path: Path, rotation: int) -> Path:
    """A page of 300 x 200 points with a black bar at (120, 80) to (220, 100), of which a part is shown, turned."""
    document = pypdfium2.PdfDocument.new()
    sheet = document.new_page(300, 200)
    bar = pdfium.FPDFPageObj_CreateNewRect(120, 80, 100, 20)
    pdfium.FPDFPageObj_SetFillColor(bar, 0, 0, 0, 255)
    pdfium.FPDFPath_SetDrawMode(bar, pdfium.FPDF_FILLMODE_ALTERNATE, 0)
    pdfium.FPDFPage_InsertObject(sheet.raw, bar)
    sheet.gen_content()
    sheet.set_cropbox(40, 30, 290, 180)
    sheet.set_rotation(rotation)
    document.save(path)
    document.close()
    return path


def read_bar(source: Path) -> PageText:
    """The page, and the word "mark" where the bar is."""
    (found,) = read_pages([str(source)])
    assert not isinstance(found, Failure)
    rows, columns = np.nonzero(found.image[..., 0] < 128)
    extent = box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    word = TextWord("mark", 0.9, extent, (0.9,) * 4)
    return PageText(str(source), found.number, found.count, found.image, (TextLine("mark", 0.9, extent, (word,)),))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pages_of_a_pdf_are_kept_whatever_their_rotation_and_box(rotation: int, tmp_path: Path) -> None:
    source = drawn_pdf(tmp_path / "a.pdf", rotation)
    path = read_bar(source).save(tmp_path / "out.pdf")
    assert np.abs(word_box(path, "mark") - (120, 80, 220, 100)).max() < 0.5 * TWO_PIXELS
    with pypdfium2.PdfDocument(path) as document:
        kinds = [found.type for found in document[0].get_objects()]
    assert kinds == [pdfium.FPDF_PAGEOBJ_PATH, pdfium.FPDF_PAGEOBJ_TEXT], "not drawn again"
    before, after = (next(iter(read_pages([str(name)]))) for name in (source, path))
    assert not isinstance(before, Failure)
    assert not isinstance(after, Failure)
    assert np.array_equal(before.image, after.image), "the text is not seen"


def test_a_page_with_text_of_its_own_stays_as_it_is(tmp_path: Path) -> None:
    once = read_bar(drawn_pdf(tmp_path / "a.pdf", 0)).save(tmp_path / "once.pdf")
    twice = read_bar(once).save(tmp_path / "twice.pdf")
    assert text_of(twice) == "mark"


def test_pages_that_fail_are_kept_without_text(tmp_path: Path) -> None:
    source = str(drawn_pdf(tmp_path / "a.pdf", 0))
    failed = write_documents([Failure(source, 1, "page 1 is broken")], {source: tmp_path / "out.pdf"}, "pdf")
    assert failed == []
    assert text_of(tmp_path / "out.pdf") == ""


def test_a_pdf_is_of_one_source_and_not_for_a_terminal() -> None:
    stream = io.TextIOWrapper(io.BytesIO())
    with pytest.raises(ConfigError, match=r"a PDF is made of one file, not of a\.png and b\.png"):
        write_stream([page(), page(source="b.png")], "pdf", stream)
    with pytest.raises(ConfigError, match="pdf cannot be shown here"):
        write_stream([page()], "pdf", io.StringIO())


def test_a_source_that_breaks_while_it_is_written_is_named(tmp_path: Path) -> None:
    source = tmp_path / "a.pdf"
    source.write_bytes(b"%PDF-1.4 broken")
    (failed,) = write_documents([page(source=str(source))], {str(source): tmp_path / "out.pdf"}, "pdf")
    assert "a.pdf cannot be written as pdf" in failed.message
    assert not (tmp_path / "out.pdf").exists()
