"""OCRmyPDF itself, with our engine as its plugin: pages of coloured bars, of which each letter is known."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pypdfium2
import pytest
from coloured_bars import bar, blank, pipeline, put
from PIL import Image

from paddle2torch.tasks.images import BGRImage

if importlib.util.find_spec("ocrmypdf") is None:
    pytest.skip("needs ocrmypdf", allow_module_level=True)
if shutil.which("tesseract") is None or shutil.which("gs") is None:
    pytest.skip("needs tesseract and gs, which OCRmyPDF asks for", allow_module_level=True)

import ocrmypdf
from ocrmypdf.exceptions import BadArgsError

from paddle2torch.plugins import ocrmypdf as plugin


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that read coloured bars, whatever is asked for."""
    monkeypatch.setattr(plugin, "_load", lambda *wanted: pipeline(turn_pages=False))


def two_lines() -> BGRImage:
    page = blank(640, 480)
    put(page, bar("ABC AA"), 40, 60)
    put(page, bar("CAB"), 40, 160)
    put(page, bar("BACA"), 40, 260)
    return page


def write_pdf(path: Path, image: BGRImage) -> Path:
    Image.fromarray(image[:, :, ::-1]).save(path, resolution=72)
    return path


def run(source: Path, target: Path, **options: object) -> str:
    """What PDFium finds in what OCRmyPDF wrote."""
    ocrmypdf.ocr(
        *(source, target),
        plugins=["paddle2torch.plugins.ocrmypdf"],
        **{"use_threads": True, "jobs": 1, "progress_bar": False, "output_type": "pdf", "oversample": 72, **options},
    )
    with pypdfium2.PdfDocument(target) as document:
        return document[0].get_textpage().get_text_range()


def test_the_words_are_in_the_pdf(tmp_path: Path) -> None:
    text = run(write_pdf(tmp_path / "a.pdf", two_lines()), tmp_path / "out.pdf", sidecar=tmp_path / "out.txt")
    assert text.split() == ["ABC", "AA", "CAB", "BACA"]
    assert (tmp_path / "out.txt").read_text().split() == ["ABC", "AA", "CAB", "BACA"]


def options(*languages: str) -> SimpleNamespace:
    return SimpleNamespace(languages=list(languages or ("eng",)), paddle2torch=plugin.Paddle2TorchOptions())


@pytest.mark.parametrize(("turns", "clockwise"), [(0, 0), (1, 90), (2, 180), (3, 270)])
def test_a_turned_page_is_told(turns: int, clockwise: int, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.rot90(two_lines(), turns))
    found = plugin.Engine.get_orientation(tmp_path / "a.png", options())
    assert (found.angle, found.confidence) == (clockwise, plugin.CERTAIN)
    # On its side a page looks like one that is written in columns.
    japanese = plugin.Engine.get_orientation(tmp_path / "a.png", options("jpn"))
    assert japanese.confidence == (0 if turns % 2 else plugin.CERTAIN)


@pytest.mark.parametrize("angle", [-4.0, 2.0])
def test_the_angle_that_levels_a_page_is_told(angle: float, tmp_path: Path) -> None:
    found = two_lines()
    put(found, bar("BABACA"), 40, 360)  # three lines that are long agree on an angle
    Image.fromarray(found[:, :, ::-1]).rotate(-angle, fillcolor="white").save(tmp_path / "a.png")
    assert abs(plugin.Engine.get_deskew(tmp_path / "a.png", options()) - angle) < 0.7


def test_languages_are_those_of_tesseract_one_at_a_time() -> None:
    plugin.check_options(options("chi_tra"))
    with pytest.raises(BadArgsError, match="one language at a time"):
        plugin.check_options(options("eng", "deu"))
    with pytest.raises(BadArgsError, match="no model that reads 'kat'"):
        plugin.check_options(options("kat"))


def test_other_engines_stay_reachable() -> None:
    assert plugin.get_ocr_engine(SimpleNamespace(ocr_engine="tesseract")) is None
    assert isinstance(plugin.get_ocr_engine(SimpleNamespace(ocr_engine="auto")), plugin.Engine)
