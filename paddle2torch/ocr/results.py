"""What is read of a page: its lines, their words, and where they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from paddle2torch.ocr.reading_order import reading_blocks
from paddle2torch.tasks.geometry import Points, order_clockwise, turn_points
from paddle2torch.tasks.images import BGRImage


@dataclass(frozen=True, eq=False)
class TextWord:
    """A word of a line. box: float32 (4, 2) on the page, clockwise from the top left. Scores are 0 to 1.

    char_scores: one per character of `text`.
    """

    text: str
    score: float
    box: Points
    char_scores: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """`{box, text, score, char_scores}`."""
        scores = [_score(score) for score in self.char_scores]
        return {"box": _points(self.box), "text": self.text, "score": _score(self.score), "char_scores": scores}


@dataclass(frozen=True, eq=False)
class TextLine:
    """A line of a page. box: float32 (4, 2), clockwise from the top left, or (N, 2) for a detector of polygons.

    score: 0 to 1, the mean over the characters. words: what stands between spaces; ideographs one by one.
    """

    text: str
    score: float
    box: Points
    words: tuple[TextWord, ...]

    def to_json(self) -> dict[str, Any]:
        """`{box, text, score, words}`."""
        words = [word.to_json() for word in self.words]
        return {"box": _points(self.box), "text": self.text, "score": _score(self.score), "words": words}


@dataclass(frozen=True, eq=False)
class PageText:
    """What is read of page `number` of `count` (both from 1) of `source`; its size in pixels.

    lines: in PaddleOCR's order, by y and x. image: the page itself, uint8 (height, width, 3), BGR. shrunk: how many
    times smaller the detector saw it. quarter_turns: how often it had to be turned counter-clockwise by 90 degrees to
    stand upright; all boxes are those of the page as it is.
    """

    source: str
    number: int
    count: int
    image: BGRImage = field(repr=False)
    lines: tuple[TextLine, ...]
    shrunk: float = 1.0
    quarter_turns: int = 0

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @cached_property
    def blocks(self) -> list[list[list[TextLine]]]:
        """The lines in reading order: blocks (paragraphs, headings, tables) of rows of lines side by side."""
        boxes = [line.box for line in self.lines]
        if self.quarter_turns:
            boxes = [_upright(turn_points(box, self.image.shape, self.quarter_turns)) for box in boxes]
        indices = reading_blocks(boxes)
        return [[[self.lines[i] for i in row] for row in block] for block in indices]

    @property
    def text(self) -> str:
        """The page as plain text: a line per row, an empty line between blocks."""
        blocks = ("\n".join(" ".join(line.text for line in row) for row in block) for block in self.blocks)
        return "\n\n".join(blocks)

    def to_json(self) -> dict[str, Any]:
        """`{source, page, pages, width, height, lines}`: a line of the JSON-lines format."""
        return {
            "source": self.source,
            "page": self.number,
            "pages": self.count,
            "width": self.width,
            "height": self.height,
            "lines": [line.to_json() for line in self.lines],
        }


def _upright(box: Points) -> Points:
    """A quad with its corners clockwise from the top left again, after the page was turned."""
    return order_clockwise(box) if len(box) == 4 else box


def _score(score: float) -> float:
    return round(score, 5)


def _points(points: Points) -> list[list[float]]:
    return [[round(float(x), 1), round(float(y), 1)] for x, y in points]
