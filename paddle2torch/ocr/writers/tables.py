"""Tesseract's tab-separated values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paddle2torch.ocr.writers.shared import Extent, extent_of, pages_read, xml_text

if TYPE_CHECKING:
    from paddle2torch.ocr.writers.shared import Results

TSV_COLUMNS = (
    *("level", "page_num", "block_num", "par_num", "line_num", "word_num"),
    *("left", "top", "width", "height", "conf", "text", "source"),
)
"""The columns of Tesseract's TSV, which has tools, and the source. Level 5 is a word, `conf` its score in percent."""


def tsv(results: Results) -> Iterator[str]:
    def row(level: int, where: Sequence[int], extent: Extent, conf: str, text: str, source: str) -> str:
        numbers = (*where, 0, 0, 0, 0, 0)[:5]
        # A tab or line break in a field would shift the others.
        words = (_cell(xml_text(re.sub(r"[\t\r\n]", " ", field))) for field in (text, source))
        return "\t".join(map(str, (level, *numbers, *extent, conf, *words))) + "\n"

    yield "\t".join(TSV_COLUMNS) + "\n"
    for p, page in pages_read(results):
        rows = [row(1, (p,), (0, 0, page.width, page.height), "-1", "", page.source)]
        for b, block in enumerate(page.blocks, 1):
            extent = extent_of([line.box for lines in block for line in lines], page)
            rows.append(row(2, (p, b), extent, "-1", "", page.source))
            rows.append(row(3, (p, b, 1), extent, "-1", "", page.source))
            for n, lines in enumerate(block, 1):
                extent = extent_of([line.box for line in lines], page)
                rows.append(row(4, (p, b, 1, n), extent, "-1", "", page.source))
                for w, word in enumerate((word for line in lines for word in line.words), 1):
                    extent = extent_of([word.box], page)
                    rows.append(row(5, (p, b, 1, n, w), extent, f"{100 * word.score:.2f}", word.text, page.source))
        yield "".join(rows)


# What spreadsheets take for the beginning of a formula, in the width that is usual in East Asia, too. Signs before a
# number are none, and texts are full of them.
_FORMULA = re.compile("['=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+\-][0-9.,%\u20ac$ ]*")


def _cell(text: str) -> str:
    """A text as a cell that no spreadsheet computes: what could be a formula has a `'` in front, as they write it.

    A text that begins with `'` gets another one: taking a leading `'` away gives every text back.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
