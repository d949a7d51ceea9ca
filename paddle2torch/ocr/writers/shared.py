"""What several writers share: pages that were read, extents of boxes, words of rows, text that XML can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from paddle2torch.ocr.pages import Failure
from paddle2torch.tasks.geometry import Points

if TYPE_CHECKING:
    from collections.abc import Iterable

    from paddle2torch.ocr.results import PageText, TextLine, TextWord

    Results = Iterable[PageText | Failure]


def pages_read(results: Results) -> Iterator[tuple[int, PageText]]:
    """The pages that were read, numbered from 1 through all sources."""
    return enumerate((result for result in results if not isinstance(result, Failure)), 1)


Extent = tuple[int, int, int, int]
"""left, top, width, height in pixels of the page."""


def extent_of(boxes: Sequence[Points], page: PageText) -> Extent:
    points = np.concatenate(boxes)
    size = np.array([page.width, page.height])
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(int).tolist()
    return left, top, right - left, bottom - top


def words_of(lines: Sequence[TextLine]) -> list[tuple[TextWord, bool]]:
    """The words of a row, each with whether a space follows: none follows an ideograph."""
    words: list[tuple[TextWord, bool]] = []
    for number, line in enumerate(lines, 1):
        rest = line.text.lstrip()
        for word in line.words:
            rest = rest.removeprefix(word.text)
            words.append((word, rest[:1].isspace() or (not rest and number < len(lines))))
            rest = rest.lstrip()
    return words


# What XML 1.0 cannot hold, even escaped, and UTF-8 in part.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
