"""A searchable PDF: the pages as they are, with the text that was read invisibly in its place.

The pages of a PDF are kept, not drawn again; a picture becomes a page. A word is set in letters that are boxes, not
drawn, and stretched to the word's place, in reading order. Text of right-to-left scripts is set as it is seen, from
left to right, which is how PDFs hold it: programs that copy or search turn it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.ocr.pages import STDIN, Failure, is_pdf
from paddle2torch.ocr.pdf import PdfProcess, Picture, PlacedText
from paddle2torch.ocr.writers.shared import words_of
from paddle2torch.tasks.geometry import TALL, quad_of
from paddle2torch.tasks.images import FILE_AT_MOST
from paddle2torch.tasks.picture_headers import describe_picture
from paddle2torch.tasks.right_to_left import as_displayed, is_right_to_left

if TYPE_CHECKING:
    from paddle2torch.ocr.results import PageText, TextLine
    from paddle2torch.ocr.writers.shared import Results

DPI = 96
"""Pixels to the inch of a picture that does not say how large it is."""


def searchable_pdf(results: Results) -> Iterator[bytes]:
    """One document, when its last page is read. Raises `ConfigError` for pages of several sources."""
    with PdfProcess() as process:
        source: str | None = None
        kept = False
        for result in results:
            if source is None:
                source = result.source
                # A PDF that came through standard input is gone: it is drawn.
                kept = source not in ("", STDIN) and is_pdf(source)
                if kept:
                    process.open(Path(source), source)
                else:
                    process.create()
            elif result.source != source:
                raise ConfigError(
                    f"a PDF is made of one file, not of {source} and {result.source}: give a folder as the output, and "
                    "each file gets its own"
                )
            if isinstance(result, Failure):
                continue
            if not kept:
                process.add_page(_picture(result))
            process.add_text(result.number - 1 if kept else None, (result.width, result.height), place_text(result))
        if source is not None:
            yield process.save(source)


def _picture(page: PageText) -> Picture:
    """The page's picture: a JPEG as it is in its file, anything else by its pixels."""
    pixels = (page.width, page.height)
    header = describe_picture(page.source) if page.source not in ("", STDIN) else None
    if header is None:
        return Picture(pixels, DPI, page.image)
    size = header.upright_size
    if header.kind not in ("JPEG", "MPO") or header.mode not in ("L", "RGB") or size != pixels or page.count > 1:
        return Picture(pixels, header.dpi or DPI, page.image)
    jpeg = read_bounded(page.source, FILE_AT_MOST, "picture")
    return Picture(pixels, header.dpi or DPI, jpeg, header.orientation)


def place_text(page: PageText) -> list[PlacedText]:
    """The words of a page and the spaces between them, in reading order."""
    rows = (row for block in page.blocks for row in block)
    return [piece for row in rows for line in row for piece in _place_line(line, page.quarter_turns)]


def _place_line(line: TextLine, quarter_turns: int) -> list[PlacedText]:
    """quarter_turns: of the page, until it stands upright."""
    words = [(word.text, word.box, space) for word, space in words_of([line])] or [
        (line.text, quad_of(line.box), False)
    ]
    backwards = is_right_to_left(line.text)
    turns = turns_of(line, quarter_turns)
    pieces: list[PlacedText] = []
    for number, (text, box, space) in enumerate(words, 1):
        above, _, end, start = np.roll(box, -turns, axis=0)
        pieces.append(PlacedText(as_displayed(text) if backwards else text, start, end, above))
        if space and number < len(words):
            pieces.append(PlacedText(" ", end, end, end))  # its place follows from its neighbours
    if backwards:
        pieces.reverse()
    for before, between, after in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if between.text == " ":
            between.start, between.end = before.end, after.start
            between.above = before.above + before.end - before.start
    return pieces


def turns_of(line: TextLine, quarter_turns: int = 0) -> int:
    """How often a line has to be turned counter-clockwise by 90 degrees to be read.

    quarter_turns: of its page. They and the shape of the box say so, but for what is upside down; that is told by
    the order of the words.
    """
    quad = quad_of(line.box)
    words = [word.box for word in line.words] or [quad]
    width, height = np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[3] - quad[0])
    if quarter_turns % 2:
        width, height = height, width
    turns = (quarter_turns + (1 if height >= TALL * width else 0)) % 4
    text = np.roll(quad, -turns, axis=0)
    along = (words[-1].mean(axis=0) - words[0].mean(axis=0)) @ (text[1] - text[0])
    upside_down = along > 0 if is_right_to_left(line.text) else along < 0
    return (turns + 2) % 4 if upside_down else turns
