"""One run over many pages: where results go, what is skipped because it is done, what failed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.formats import (
    FORMATS,
    append_pages,
    document_paths,
    finished_pages,
    named_format,
    write_document,
    write_documents,
    write_stream,
)
from paddle2torch.ocr.pages import Failure, find_sources, read_pages
from paddle2torch.ocr.pipeline import MUCH_SMALLER, OCR
from paddle2torch.ocr.processes import Processes
from paddle2torch.ocr.results import PageText
from paddle2torch.ocr.visualize import draw_png
from paddle2torch.ocr.writers.parquet import append_files, source_name, written_pages
from paddle2torch.tasks.failures import what_went_wrong

Result = PageText | Failure
Done = Callable[[str, int], bool]
"""Whether a page of a source, by its number, is done."""


def run_job(
    ocr: OCR | Processes,
    inputs: Iterable[str | Path],
    *,
    stream: TextIO,
    format: str | None = None,
    output: Path | None = None,
    resume: bool = False,
    pictures: Path | None = None,
    dpi: float | None = None,
    max_bytes: int | None = None,
    started: Callable[[int], None] = lambda sources: None,
    finished: Callable[[Result], None] = lambda result: None,
) -> list[Failure]:
    """Read pages and write them as they come; returns what could not be read, which stops nothing.

    Args:
        ocr: the pipeline, or several processes that have one each.
        inputs: files, folders, globs, PDFs, `-` for standard input.
        stream: where results go without `output`.
        format: one of `formats.FORMATS`; without it what the name of `output` ends in, or text.
        output: a file that ends in `.jsonl`, to which a line per page is appended; a file that ends as another
            format does, for one document of all pages; or a folder, where each source gets a document of its own, or
            with the format parquet a file for every few pages. Documents are written whole or not at all.
        resume: leave out what `output` has already, from a run that was cut off.
        max_bytes: memory for decoding one picture, see `load_image`.
        dpi: of the rendered pages of PDFs, see `pages.read_pages`.
        pictures: a folder for a picture of each page, boxes and texts side by side.
        started: told how many sources there are to read. finished: told each result.

    Raises `ConfigError` for settings that contradict each other, `FileFormatError` for an `output` of another kind.
    """
    sources = find_sources(inputs)
    journal = _Journal(pictures, finished)
    one_file = output is not None and named_format(output) is not None
    format = _settle_format(output if one_file else None, format)
    pixels = pictures is not None or FORMATS[format].pixels

    def results(todo: Iterable[str], done: Done = lambda source, number: False) -> Iterator[Result]:
        if isinstance(ocr, Processes):
            return journal.note(ocr.read(todo, done, dpi=dpi, max_bytes=max_bytes, pixels=pixels))
        return journal.note(ocr.read_pages(read_pages(todo, done, dpi=dpi, max_bytes=max_bytes)))

    if output is None:
        if resume:
            raise ConfigError("--resume goes on with what a run has written: it needs --output")
        started(len(sources))
        write_stream(results(sources), format, stream)
    elif one_file and format == "jsonl":
        if output.exists() and not resume:
            raise ConfigError(f"{output} exists: go on with it (--resume) or choose another name")
        written = finished_pages(output)
        started(len(sources))
        append_pages(results(sources, lambda source, number: (source, number) in written), output)
    elif one_file:
        if output.exists():
            raise ConfigError(f"{output} exists: choose another name, or a folder, with which --resume goes on")
        started(len(sources))
        write_document(results(sources), output, format)
    elif format == "parquet":
        if any(output.glob("*.parquet")) and not resume:
            raise ConfigError(f"{output} has Parquet files: go on with them (--resume) or choose another folder")
        rows = written_pages(output)
        todo = [source for source in sources if (source_name(source), None) not in rows]
        started(len(todo))
        append_files(results(todo, lambda source, number: (source_name(source), number) in rows), output)
    else:
        paths = document_paths(sources, output, format)
        there = dict.fromkeys(source for source in sources if paths[source].exists())
        if there and not resume:
            raise ConfigError(
                f"{paths[next(iter(there))]} exists: go on where a run was cut off (--resume) or choose another folder"
            )
        todo = [source for source in sources if source not in there]
        started(len(todo))
        journal.failures += write_documents(results(todo), paths, format)
    if journal.smaller:
        _name_smaller(journal.smaller)
    return journal.failures


class _Journal:
    """What is to be said of a run's results at its end."""

    def __init__(self, pictures: Path | None, finished: Callable[[Result], None]) -> None:
        self._pictures = pictures
        self._finished = finished
        self.failures: list[Failure] = []
        self.smaller: list[tuple[float, str]] = []

    def note(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results, each noted; its picture is drawn."""
        for result in results:
            if isinstance(result, Failure):
                self.failures.append(result)
            else:
                if result.shrunk >= MUCH_SMALLER:
                    self.smaller.append((result.shrunk, f"{result.source}, page {result.number}"))
                if self._pictures is not None and (undrawn := _draw(result, self._pictures)) is not None:
                    self.failures.append(undrawn)
            yield result
            # Only now is it written.
            self._finished(result)


def _settle_format(file: Path | None, format: str | None) -> str:
    """The format that is asked for, or that the name of the one file ends in."""
    named = None if file is None else named_format(file)
    if named is not None and format not in (None, named):
        raise ConfigError(f"{file} ends as {named} does, and --format says {format}: leave one of them out")
    return named or format or "text"


def _name_smaller(pages: list[tuple[float, str]]) -> None:
    (_, first), (most, _) = pages[0], max(pages)
    what = f"{len(pages):,} pages were made up to" if len(pages) > 1 else "a page was made"
    warnings.warn(
        f"{what} {most:.1f} times smaller for the detector (first: {first}): text that is small there may be missing; "
        f"--det-limit-side-len sets another limit",
        stacklevel=3,
    )


def _draw(page: PageText, folder: Path) -> Failure | None:
    """Save the picture of a page; a `Failure` where it cannot be drawn. The page is read all the same."""
    try:
        picture = draw_png(page)
    except Exception as error:
        place = f"{page.source}, page {page.number}"
        return Failure(page.source, page.number, f"{place} cannot be drawn: {what_went_wrong(error)}")
    name = "stdin" if page.source == "-" else Path(page.source).name
    number = f".{page.number}" if page.count > 1 else ""
    with land_file(folder / f"{name}{number}.png") as temporary:
        temporary.write_bytes(picture)
    return None
