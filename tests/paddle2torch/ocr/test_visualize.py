"""Boxes and texts side by side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import features

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr import visualize as module
from paddle2torch.ocr.results import PageText, TextLine
from paddle2torch.ocr.visualize import find_font, system_fonts, visualize
from paddle2torch.tasks.geometry import Points

NEEDS_FONT = pytest.mark.skipif(not system_fonts(), reason="needs a font on this machine")
NEEDS_OPENCV_5 = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="needs the font that OpenCV 5 brings")


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def page(*lines: tuple[str, Points], size: tuple[int, int] = (120, 200)) -> PageText:
    texts = tuple(TextLine(text, 0.9, box, ()) for text, box in lines)
    return PageText("a.png", 1, 1, np.full((*size, 3), 180, np.uint8), texts)


def letters(picture: np.ndarray, box: Points) -> np.ndarray:
    """Where it is dark inside of the outline, on the right half."""
    left, top = (box.min(axis=0) + 3).astype(int)
    right, bottom = (box.max(axis=0) - 2).astype(int)
    width = picture.shape[1] // 2
    dark: np.ndarray = picture[top:bottom, width + left : width + right].max(axis=2) < 100
    return dark


def test_boxes_on_the_left_and_texts_on_the_right() -> None:
    boxes = [rectangle(20, 10, 180, 40), rectangle(20, 60, 100, 90)]
    picture = visualize(page(("Total 12.90", boxes[0]), ("cash", boxes[1])))
    assert picture.shape == (120, 400, 3)
    assert picture.dtype == np.uint8
    colours = [picture[25, 100].tolist(), picture[75, 60].tolist()]
    assert colours[0] != colours[1]
    assert all(colour != [180, 180, 180] for colour in colours)
    # Outside of the boxes: the page on the left, white on the right.
    assert (picture[50, :200] == 180).all()
    assert (picture[50, 200:] == 255).all()
    for box in boxes:
        assert 0.02 < letters(picture, box).mean() < 0.6
    np.testing.assert_array_equal(picture, visualize(page(("Total 12.90", boxes[0]), ("cash", boxes[1]))))


def test_the_page_itself_is_not_drawn_on() -> None:
    shown = page(("x", rectangle(20, 10, 180, 40)))
    visualize(shown)
    assert (shown.image == 180).all()


def test_long_texts_are_shrunk_to_their_box() -> None:
    box = rectangle(20, 10, 80, 40)
    dark = letters(visualize(page(("a rather long line of text", box))), box)
    assert dark.any()
    # Small letters leave the upper and lower third empty.
    assert not dark[:6].any()
    assert not dark[-6:].any()


def test_text_of_a_tall_box_runs_downwards() -> None:
    level, tall = rectangle(0, 0, 100, 24), rectangle(0, 0, 24, 100)
    flat = letters(visualize(page(("LLL i", level), size=(24, 100))), level)
    upright = letters(visualize(page(("LLL i", tall), size=(100, 24))), tall)
    turned = np.rot90(upright)
    assert (flat[: turned.shape[0], : turned.shape[1]] == turned[: flat.shape[0], : flat.shape[1]]).mean() > 0.85
    assert upright[:50].sum() > 2 * upright[50:].sum()


@pytest.mark.parametrize(
    "box",
    [
        rectangle(0, 0, 5, 5),
        rectangle(-20, -20, 250, 150),
        rectangle(195, 100, 240, 160),
        np.array([(10, 10), (90, 5), (180, 10), (180, 40), (90, 35), (10, 40)], np.float32),
    ],
)
def test_small_cut_off_and_many_cornered_boxes(box: Points) -> None:
    assert visualize(page(("text", box), ("", box), (" ", box))).shape == (120, 400, 3)


def test_letters_of_a_huge_box_are_enlarged() -> None:
    box = rectangle(10, 10, 2900, 900)
    dark = letters(visualize(page(("Total", box), size=(1000, 3000))), box)
    assert np.flatnonzero(dark.any(axis=1)).size > 300


@NEEDS_OPENCV_5
def test_characters_that_no_font_of_the_system_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "system_fonts", lambda: ())
    box = rectangle(10, 10, 190, 50)
    one, other = (letters(visualize(page((text, box))), box) for text in ("正品促销", "强力去污"))
    assert one.mean() > 0.05
    assert (one != other).mean() > 0.05


@NEEDS_FONT
def test_a_font_is_taken_for_its_glyphs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_font(frozenset("Total 12.90")) in system_fonts()
    # No font has a noncharacter.
    missing = frozenset("T\ufffe")
    if hasattr(cv2, "FontFace"):
        assert find_font(missing) is None
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    assert find_font(missing) in system_fonts()
    monkeypatch.setattr(module, "system_fonts", lambda: ())
    with pytest.raises(ConfigError, match="no font"):
        find_font(missing)


@NEEDS_FONT
@pytest.mark.skipif(not features.check("freetype2"), reason="needs Pillow with FreeType")
def test_a_font_of_ones_own(tmp_path: Path) -> None:
    box = rectangle(20, 10, 180, 40)
    font = next(path for path in system_fonts() if find_font(frozenset("T")) == path)
    assert letters(visualize(page(("Total", box)), font), box).any()
    (tmp_path / "no.ttf").write_bytes(b"no font")
    for path in (tmp_path / "no.ttf", tmp_path / "missing.ttf"):
        with pytest.raises(ConfigError, match="cannot be read as a font"):
            visualize(page(("Total", box)), path)
