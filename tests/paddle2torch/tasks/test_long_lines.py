"""Where very long lines are cut; what is read of the pieces is joined in `test_recognition.py`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from paddle2torch.tasks.images import BGRImage
from paddle2torch.tasks.long_lines import MARGIN, PIECE, first_of, pieces_of


def line(text: str, ground: int = 255, ink: int = 0) -> BGRImage:
    font = ImageFont.load_default(size=22)
    image = Image.new("L", (int(font.getlength(text)) + 20, 32), ground)
    ImageDraw.Draw(image).text((10, 2), text, fill=ink, font=font)
    return np.repeat(np.asarray(image)[:, :, None], 3, axis=2)


WORDS = "Quick brown foxes jump over lazy dogs; 12 monkeys wait. " * 8


@pytest.mark.parametrize("ground", ["paper", "dark", "noise", "shade", "rule"])
def test_lines_are_cut_between_words_on_any_ground(ground: str) -> None:
    image = line(WORDS)
    clean = image
    if ground == "dark":
        image = 255 - image
    elif ground == "noise":
        noise = np.random.default_rng(0).normal(0, 8, image.shape)
        image = np.clip(image * 0.7 + 40 + noise, 0, 255).astype(np.uint8)
    elif ground == "shade":
        image = (image * np.linspace(0.4, 1, image.shape[1])[None, :, None]).astype(np.uint8)
    elif ground == "rule":
        image = image.copy()
        image[-3:-1] = 0
    pieces = pieces_of(image)
    assert len(pieces) > 4
    for piece, following in pairwise(pieces):
        assert piece.last == following.first
        cut = int(piece.last)
        # A gap between words is wider than one between letters.
        assert (clean[:, cut - 2 : cut + 3] == 255).all()
        assert piece.right == min(cut + MARGIN * 32, image.shape[1])
        assert following.left == cut - MARGIN * 32
    assert (pieces[0].left, pieces[-1].right) == (0, image.shape[1])
    assert max(piece.right - piece.left for piece in pieces) <= (PIECE + 2 * MARGIN) * 32


def test_a_line_without_gaps_is_cut_all_the_same() -> None:
    dark = np.zeros((20, 5000, 3), np.uint8)
    widths = [piece.right - piece.left for piece in pieces_of(dark)]
    assert max(widths) <= (PIECE + 2 * MARGIN) * 20
    assert len(pieces_of(np.zeros((1, 300, 3), np.uint8))) > 1


def test_what_a_classifier_is_shown_is_the_beginning() -> None:
    image = line(WORDS)
    assert (first_of(image) == image[:, : 6 * 32]).all()
