"""What is read of a page: its lines, their words, and where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from paddle2torch.atomic import land_file
from paddle2torch.ocr.formats import format_of, write_document
from paddle2torch.ocr.reading_order import reading_blocks
from paddle2torch.ocr.visualize import draw_png, visualize
from paddle2torch.ocr.writers.markdown import page_markdown
from paddle2torch.tasks.geometry import Points, order_clockwise, turn_points
from paddle2torch.tasks.images import BGRImage

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class TextWord:
    """A word of a line.

    Attributes:
        text: without spaces.
        score: 0 to 1, the mean over the characters.
        box: float32 (4, 2), pixels of the page, clockwise from the top left of the text.
        char_scores: 0 to 1, one per character of `text`.
    """

    text: str
    score: float
    box: Points
    char_scores: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """`{box, text, score, char_scores}`."""
        scores = [_score(score) for score in self.char_scores]
        return {"box": _points(self.box), "text": self.text, "score": _score(self.score), "char_scores": scores}


@dataclass(frozen=True, eq=False)
class TextLine:
    """A line of a page.

    Attributes:
        text: in reading order.
        score: 0 to 1, the mean over the characters.
        box: float32 (4, 2), pixels, clockwise from the top left of the text, or (N, 2) for a detector of polygons.
        words: the texts between spaces; ideographs one by one.
    """

    text: str
    score: float
    box: Points
    words: tuple[TextWord, ...]

    def to_dict(self) -> dict[str, Any]:
        """`{box, text, score, words}`."""
        words = [word.to_dict() for word in self.words]
        return {"box": _points(self.box), "text": self.text, "score": _score(self.score), "words": words}


@dataclass(frozen=True, eq=False, repr=False)
class PageText:
    """What is read of page `number` of `count` (both from 1) of `source`: a sequence of its lines.

    Attributes:
        source: the path, `-`, or nothing for an image that was given.
        number: of the page, from 1.
        count: pages that the source has.
        image: the page itself, uint8 (height, width, 3), BGR.
        lines: in PaddleOCR's order, by y and x.
        shrunk: how many times smaller the detector saw it.
        quarter_turns: how often it had to be turned counter-clockwise by 90 degrees to stand upright; all boxes are
            those of the page as it is.
        models: the names of those that read it, by what they are for: det, cls, rec, orientation.
    """

    source: str
    number: int
    count: int
    image: BGRImage
    lines: tuple[TextLine, ...]
    shrunk: float = 1.0
    quarter_turns: int = 0
    models: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[TextLine]:
        return iter(self.lines)

    @overload
    def __getitem__(self, index: int) -> TextLine: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TextLine, ...]: ...
    def __getitem__(self, index: int | slice) -> TextLine | tuple[TextLine, ...]:
        return self.lines[index]

    def __repr__(self) -> str:
        page = f", page {self.number} of {self.count}" if self.count > 1 else ""
        first = f": {self.lines[0].text!r}{', ...' if len(self) > 1 else ''}" if self.lines else ""
        lines = f"{len(self)} line{'' if len(self) == 1 else 's'}"
        return f"<{self.source or 'page'}{page}, {self.width} x {self.height} pixels, {lines}{first}>"

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.image.shape[1])

    @cached_property
    def blocks(self) -> list[list[list[TextLine]]]:
        """The lines in reading order: blocks (paragraphs, headings, tables) of rows of lines side by side.

        Lines in which nothing was read, which PaddleOCR 3 keeps, are in `lines` alone.
        """
        lines = [line for line in self.lines if line.text.strip()]
        boxes = [line.box for line in lines]
        if self.quarter_turns:
            boxes = [_upright(turn_points(box, self.image.shape, self.quarter_turns)) for box in boxes]
        indices = reading_blocks(boxes)
        return [[[lines[i] for i in row] for row in block] for block in indices]

    @property
    def text(self) -> str:
        """The page as plain text: a line per row, an empty line between blocks."""
        blocks = ("\n".join(" ".join(line.text for line in row) for row in block) for block in self.blocks)
        return "\n\n".join(blocks)

    def to_dict(self) -> dict[str, Any]:
        """`{source, page, pages, width, height, lines}`, ready for JSON: a line of the JSON-lines format."""
        return {
            "source": self.source,
            "page": self.number,
            "pages": self.count,
            "width": self.width,
            "height": self.height,
            "lines": [line.to_dict() for line in self.lines],
        }

    def to_markdown(self) -> str:
        """The page as Markdown: headings, paragraphs, lists, tables, in reading order."""
        return page_markdown(self)

    def to_pandas(self) -> pandas.DataFrame:
        """A row per line: text, score, left, top, right, bottom (pixels), box. Raises ImportError without pandas."""
        import pandas

        extents = [(*line.box.min(axis=0).tolist(), *line.box.max(axis=0).tolist()) for line in self.lines]
        rows = [
            (line.text, line.score, *extent, line.box.tolist())
            for line, extent in zip(self.lines, extents, strict=True)
        ]
        return pandas.DataFrame(rows, columns=["text", "score", "left", "top", "right", "bottom", "box"])

    def picture(self) -> Image.Image:
        """The page with its boxes, beside its texts in their places."""
        return Image.fromarray(np.ascontiguousarray(visualize(self)[:, :, ::-1]))

    def show(self) -> None:
        """Show `picture` in the system's viewer of pictures."""
        self.picture().show()

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all, as the end of the name says, and return the path.

        `.txt`, `.md`, `.json`, `.jsonl`, `.tsv`, `.hocr`, `.xml` (ALTO), `.parquet`, `.pdf` (the page with its text
        invisibly in its place) or `.png` (`picture`).

        Raises:
            ConfigError: for another end.
            WriteError: for a place that cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            with land_file(path) as temporary:
                temporary.write_bytes(draw_png(self))
        else:
            write_document([self], path, format_of(path))
        return path

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return draw_png(self)


def _upright(box: Points) -> Points:
    """A quad with its corners clockwise from the top left again, after the page was turned."""
    return order_clockwise(box) if len(box) == 4 else box


def _score(score: float) -> float:
    return round(score, 5)


def _points(points: Points) -> list[list[float]]:
    return [[round(float(x), 1), round(float(y), 1)] for x, y in points]
