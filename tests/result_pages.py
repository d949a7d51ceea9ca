"""Pages as if they had been read, for tests of what is done with results."""

from __future__ import annotations

import numpy as np

from paddle2torch.ocr.results import PageText, TextLine, TextWord


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """An upright quad."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def line(text: str, left: float, top: float, height: float = 20) -> TextLine:
    """A line whose characters are half as wide as high; ideographs are words."""
    step = height / 2
    words: list[TextWord] = []
    position = left
    for part in text.split(" "):
        pieces = list(part) if part[:1] > "\u3000" else [part]
        for piece in pieces:
            right = position + step * len(piece)
            words.append(TextWord(piece, 0.9, box(position, top, right, top + height), (0.9,) * len(piece)))
            position = right
        position += step
    return TextLine(text, 0.87654321, box(left, top, left + step * len(text), top + height), tuple(words))


def right_to_left_line(text: str, right: float, top: float) -> TextLine:
    """A line of 10 pixels a character that is read from the right."""
    words = []
    position = right
    for part in text.split(" "):
        left = position - 10 * len(part)
        words.append(TextWord(part, 0.9, box(left, top, position, top + 20), (0.9,) * len(part)))
        position = left - 10
    return TextLine(text, 0.9, box(position + 10, top, right, top + 20), tuple(words))


def vertical_line(text: str, left: float, top: float) -> TextLine:
    """A column of characters of 20 pixels."""
    words = [
        TextWord(character, 0.9, box(left, top + 20 * place, left + 20, top + 20 * place + 20), (0.9,))
        for place, character in enumerate(text)
    ]
    return TextLine(text, 0.9, box(left, top, left + 20, top + 20 * len(text)), tuple(words))


def page(*lines: TextLine, source: str = "a.png", number: int = 1, count: int = 1, quarter_turns: int = 0) -> PageText:
    """A white page of 200 x 400 pixels (height, width)."""
    image = np.full((200, 400, 3), 255, np.uint8)
    return PageText(source, number, count, image, lines, quarter_turns=quarter_turns)
