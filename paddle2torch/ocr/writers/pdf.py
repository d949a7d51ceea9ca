"""A searchable PDF: the pages as they are, with the text that was read invisibly in its place.

The pages of a PDF are kept, not drawn again; a picture becomes a page. A word is set in letters that are boxes, not
drawn, and stretched to the word's place, in reading order. Text of right-to-left scripts is set as it is seen, from
left to right, which is how PDFs hold it: programs that copy or search turn it back.
"""

from __future__ import annotations

import itertools
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

CLOSE = 0.15
"""The gap between two words, as a share of a letter's width, up to which PDFium sees no space."""

RAISED = 0.7
"""How much higher than its line a space stands where the line is on its head, as a share of the line's height."""


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
    pieces: list[PlacedText] = []
    for row in (row for block in page.blocks for row in block):
        placed: list[PlacedText] = []
        for line in row:
            placed += [_space(placed[-1])] if placed else []
            placed += _place_line(line, page.quarter_turns)
        _settle_gaps(placed)
        if pieces and _overlap(pieces[-1], placed[0]):
            pieces.append(_end_of_row(pieces[-1]))
        pieces += placed
    return pieces


def _place_line(line: TextLine, quarter_turns: int) -> list[PlacedText]:
    """Words and spaces, these without a place, as they are seen.

    quarter_turns: of the page, until it stands upright.
    """
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
            pieces += _space_behind(pieces[-1], turns, backwards)
    if backwards:
        pieces.reverse()
    return pieces


def _space_behind(word: PlacedText, turns: int, backwards: bool) -> list[PlacedText]:
    """A piece for the space, or none: on a line that runs up or down, a single letter ends PDFium's line."""
    if turns % 2 == 0:
        return [_space(word)]
    letter = (word.end - word.start) / len(word.text)
    if backwards:
        word.text, word.start, word.above = f" {word.text}", word.start - letter, word.above - letter
    else:
        word.text, word.end = f"{word.text} ", word.end + letter
    return []


def _space(beside: PlacedText) -> PlacedText:
    return PlacedText(" ", beside.end, beside.end, beside.above + beside.end - beside.start)


def _settle_gaps(row: list[PlacedText]) -> None:
    """Put spaces between words, and words without a space between them side by side, or readers would see one."""
    for place, (before, after) in enumerate(itertools.pairwise(row)):
        if before.text == " ":
            continue
        up = before.above - before.start
        length = float(np.linalg.norm(before.end - before.start))
        along = (before.end - before.start) / max(length, 1.0)
        if after.text == " ":
            following = row[place + 2].start
            apart = (following - before.end) @ along > 0
            after.start, after.end = (before.end if apart else following - along), following
            if along[0] < -abs(along[1]):
                # PDFium sorts what stands equally high from left to right, which turns text that stands on its head.
                after.start, after.end = after.start + RAISED * up, after.end + RAISED * up
            after.above = after.start + up
        elif " " not in (before.text[-1], after.text[0]):
            gap = float((after.start - before.end) @ along)
            if CLOSE < gap * len(before.text) / max(length, 1.0) < 1:
                before.end = before.end + along * gap / 2
                after.start, after.above = after.start - along * gap / 2, after.above - along * gap / 2


def _overlap(before: PlacedText, after: PlacedText) -> bool:
    """Whether what ends a level row reaches down to the next one, or nearly: PDFium's numbers are rounded."""
    if abs(before.end[0] - before.start[0]) < abs(before.end[1] - before.start[1]):
        return False
    spans = [[point[1] for point in (p.start, p.end, p.above, p.above + p.end - p.start)] for p in (before, after)]
    return max(map(min, spans)) - min(map(max, spans)) < 1.0


def _end_of_row(last: PlacedText) -> PlacedText:
    """A space in the middle of the height of what ends a row, and half as high.

    PDFium ends a row where the next text stands lower by the height of the last one, or does not reach up to it.
    """
    up = last.above - last.start
    start = last.end + up / 4
    return PlacedText(" ", start, start + (last.end - last.start) / (4 * len(last.text)), start + up / 2)


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
