"""A file of several pages, read as its pages are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from paddle2torch.ocr.formats import FORMATS, format_of, write_document
from paddle2torch.ocr.pages import Failure, Page, read_pages
from paddle2torch.ocr.results import PageText
from paddle2torch.tasks.images import ImageError


class Document:
    """The pages of a PDF or TIFF; going through them reads them, each time anew, a few ahead of what is asked for.

    A page that cannot be read raises `ImageError`; `OCR.read` goes on behind it.

    Attributes:
        source: the path.
        dpi: pixels to the inch of rendered pages of PDFs; None for PaddleOCR's choice, 144, and 72 for large pages.

    Examples:
        >>> for page in OCR()("contract.pdf"):
        ...     print(page.text)
    """

    def __init__(
        self,
        read: Callable[[Iterable[Page | Failure]], Iterator[PageText | Failure]],
        source: str,
        dpi: float | None = None,
    ) -> None:
        self._read = read
        self.source = source
        self.dpi = dpi

    def __repr__(self) -> str:
        return f"<{self.source}, pages are read when they are asked for>"

    def __iter__(self) -> Iterator[PageText]:
        for result in self._read(read_pages([self.source], dpi=self.dpi)):
            if isinstance(result, Failure):
                raise ImageError(result.message)
            yield result

    @property
    def text(self) -> str:
        """All pages as plain text, divided by form feeds."""
        return "\f".join(page.text for page in self)

    def to_dict(self) -> list[dict[str, Any]]:
        """A dictionary per page, see `PageText.to_dict`."""
        return [page.to_dict() for page in self]

    def to_markdown(self) -> str:
        """All pages as one Markdown document, a rule between two of them."""
        return "".join(str(part) for part in FORMATS["markdown"].parts(self))

    def save(self, path: str | Path) -> Path:
        """Write all pages as one document, whole or not at all, as the end of the name says; see `PageText.save`."""
        path = Path(path)
        write_document(self, path, format_of(path))
        return path
