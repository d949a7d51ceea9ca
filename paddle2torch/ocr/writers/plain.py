"""JSON, JSON lines and plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paddle2torch.ocr.pages import Failure
from paddle2torch.ocr.writers.shared import pages_read

if TYPE_CHECKING:
    from paddle2torch.ocr.writers.shared import Results

# In the names of files that are not UTF-8, Python has these for the bytes that are none.
_SURROGATE = re.compile("[\ud800-\udfff]")


def _dumps(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def json_list(results: Results) -> Iterator[str]:
    yield "["
    for index, result in enumerate(results):
        lines = None if isinstance(result, Failure) else [line.to_dict() for line in result.lines]
        yield (",\n" if index else "\n") + _dumps(lines)
    yield "\n]\n"


def json_lines(results: Results) -> Iterator[str]:
    for _, page in pages_read(results):
        yield _dumps(page.to_dict()) + "\n"


def plain_text(results: Results) -> Iterator[str]:
    for index, page in pages_read(results):
        yield ("\f" if index > 1 else "") + page.text + "\n"
