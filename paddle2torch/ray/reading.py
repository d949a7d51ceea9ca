"""What an actor does: it makes its pipeline once, and turns rows of page ranges into rows of pages. Knows no Ray."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle2torch.atomic import land_folder
from paddle2torch.cache import cache_dir, one_at_a_time
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.ocr.pages import Failure, PageRange, failure_of, find_ranges, join_ranges
from paddle2torch.ocr.processes import Processes
from paddle2torch.ocr.results import PageText
from paddle2torch.ocr.writers.parquet import page_row, page_table, row_id
from paddle2torch.ray.files import fetch
from paddle2torch.tasks.images import ImageError
from paddle2torch.zoo.folder import INT8_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    import pyarrow

MODELS = ("det", "rec", "cls", "orientation")
"""The settings of `OCR` that name a model."""

MODEL_AT_MOST = 2**31
"""Bytes of a model's file that is sent to other machines."""


@dataclass(frozen=True)
class PackedModel:
    """A converted model that is sent to machines which do not have its folder."""

    files: Mapping[str, bytes]

    def unpack(self) -> Path:
        """The folder of the model on this machine: made once, by the first process that needs it."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            digest.update(f"{name} {len(data)} ".encode() + data)
        folder = cache_dir() / "sent" / digest.hexdigest()
        with one_at_a_time(folder, progress=False):
            if not folder.is_dir():
                with land_folder(folder) as temporary:
                    for name, data in self.files.items():
                        (temporary / name).write_bytes(data)
        return folder


def pack_model(folder: Path) -> PackedModel:
    """A folder that is to be sent. Raises `FileFormatError` for files that no model has."""
    names = [name for name in (CONFIG_NAME, WEIGHTS_NAME, INT8_NAME) if (folder / name).exists()]
    return PackedModel({name: read_bounded(folder / name, MODEL_AT_MOST, "model") for name in names})


@dataclass(frozen=True)
class Options:
    """How pages are read. processes: of an actor, each of one thread. memory: bytes of each; see `Processes`."""

    processes: int = 1
    memory: int | None = None
    dpi: float | None = None
    max_bytes: int | None = None


class PageReader:
    """Reads pages in a process of its own, which is replaced when it dies: a page can end that, but not the actor.

    settings: of `OCR`; a model is a name, a folder, or a `PackedModel`.
    """

    def __init__(self, settings: Mapping[str, Any], options: Options) -> None:
        settings = {
            name: str(value.unpack()) if isinstance(value, PackedModel) else value for name, value in settings.items()
        }
        self._options = options
        self._processes = Processes(settings, count=options.processes, memory=options.memory).__enter__()

    def close(self) -> None:
        """End the process."""
        self._processes.__exit__()

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Rows of pages for rows with source, first and last: one for each page of a range, in order.

        first and last may be null, or missing: that is the whole file. What cannot be read is a row with its error;
        nothing is raised. An `id` is kept where the range is of one page.
        """
        asked = batch.to_pylist()
        results: dict[tuple[str, int | None], dict[str, Any]] = {}
        with tempfile.TemporaryDirectory(prefix="paddle2torch-") as folder:
            fetched = _Fetched(Path(folder))
            found = join_ranges(fetched.ranges(asked), most=self._processes.pages_at_once)
            dpi, max_bytes = self._options.dpi, self._options.max_bytes
            for result in self._processes.read_ranges(found, dpi=dpi, max_bytes=max_bytes, pixels=False):
                result = fetched.renamed(result)
                results.setdefault((result.source, result.number), _row(result))
        return page_table([row for request in asked for row in _rows_of(request, results)])


def count_pages(sources: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A row with id, source, first and last for each page of files: ranges of one page, so that a page is a row.

    A file whose pages cannot be counted has a first page, and reading that says why.
    """
    for source in sources:
        with tempfile.TemporaryDirectory(prefix="paddle2torch-") as folder:
            try:
                found = list(find_ranges([str(fetch(source, Path(folder), to_count=True))], most=1))
            except ImageError:
                found = []
        ranges = [pages for pages in found if isinstance(pages, PageRange)]
        for number in [pages.first for pages in ranges] or [1]:
            yield {"id": row_id(source, number), "source": source, "first": number, "last": number}


class _Fetched:
    """The files of a batch, of which those with an address are copied into a folder when they are needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, str] = {}
        self._sources: dict[str, str] = {}

    def ranges(self, asked: Iterable[Mapping[str, Any]]) -> Iterator[PageRange | Failure]:
        """What is asked for, page by page, by the paths of the copies."""
        for request in asked:
            pages = self._pages(request)
            if isinstance(pages, Failure) or pages.first == pages.last:
                yield pages
            else:
                yield from find_ranges([pages.source], pages.leaves_out, most=1)

    def renamed(self, result: PageText | Failure) -> PageText | Failure:
        """A result under the name of its source."""
        source = self._sources.get(result.source, result.source)
        if isinstance(result, Failure):
            return replace(result, source=source, message=result.message.replace(result.source, source))
        return replace(result, source=source)

    def _pages(self, request: Mapping[str, Any]) -> PageRange | Failure:
        source, first, last = request["source"], request.get("first"), request.get("last")
        if not isinstance(source, str) or not source:
            return Failure(str(source), None, f"the source is {source!r}, not a path or an address")
        if first is None and last is None:
            first, last = 1, sys.maxsize
        elif first is None or last is None or not 1 <= first <= last:
            return Failure(source, None, f"{source}: pages {first} to {last} are no pages")
        if source not in self._paths:
            try:
                path = str(fetch(source, self._folder))
            except ImageError as error:
                return Failure(source, None, str(error))
            self._paths[source] = path
            self._sources[path] = source
        return PageRange(self._paths[source], first, last)


def _row(result: PageText | Failure) -> dict[str, Any]:
    try:
        return page_row(result)
    except Exception as error:  # one page never ends the run
        return page_row(failure_of(result.source, result.number, error))


def _rows_of(
    request: Mapping[str, Any], results: Mapping[tuple[str, int | None], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of the pages that a row asks for; at least one."""
    source, first, last = str(request["source"]), request.get("first"), request.get("last")
    if first is None or last is None:
        rows = [row for (name, _), row in results.items() if name == source]
        return rows or [page_row(Failure(source, None, f"{source} has no pages"))]
    # Those that were read follow one another: a range may claim any number of pages.
    numbers = range(first, min(last, first + len(results)) + 1)
    rows = [results[source, number] for number in numbers if (source, number) in results]
    if not rows and (source, None) in results:
        rows = [{**results[source, None], "page": first, "id": row_id(source, first)}]
    rows = rows or [page_row(Failure(source, first, f"{source} has no page {first}"))]
    if first == last and request.get("id") is not None:
        rows = [{**rows[0], "id": request["id"]}]
    return rows
