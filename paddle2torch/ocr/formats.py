"""The forms in which results are written, as streams or as a document for each source.

Every format but PDF is written page by page as the pages come. A run that was killed goes on where it was in two ways:
JSON lines are appended to one file, whose lines say what is done; or each source has a file of its own in a folder, and
a source whose file is there is done.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from paddle2torch.atomic import WriteError, land_file
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.ocr.pages import STDIN, Failure
from paddle2torch.ocr.writers.label_tools import label_studio, ppocr_label
from paddle2torch.ocr.writers.markdown import markdown
from paddle2torch.ocr.writers.markup import alto, hocr
from paddle2torch.ocr.writers.parquet import parquet
from paddle2torch.ocr.writers.pdf import searchable_pdf
from paddle2torch.ocr.writers.plain import json_lines, json_list, plain_text
from paddle2torch.ocr.writers.tables import tsv
from paddle2torch.tasks.images import ImageError

if TYPE_CHECKING:
    from paddle2torch.ocr.writers.shared import Results


@dataclass(frozen=True)
class Format:
    """A kind of document.

    suffix: of its files. parts: turns results into the parts of one document, text or, where it is binary, bytes; a
    part is written when its pages are read. pixels: whether the pictures of the pages are in it.
    """

    suffix: str
    parts: Callable[[Results], Iterator[str] | Iterator[bytes]]
    binary: bool = False
    pixels: bool = False


FORMATS: Mapping[str, Format] = {
    "text": Format(".txt", plain_text),
    "markdown": Format(".md", markdown),
    "json": Format(".json", json_list),
    "jsonl": Format(".jsonl", json_lines),
    "tsv": Format(".tsv", tsv),
    "hocr": Format(".hocr", hocr),
    "alto": Format(".xml", alto),
    "parquet": Format(".parquet", parquet, binary=True),
    "pdf": Format(".pdf", searchable_pdf, binary=True, pixels=True),
    "label-studio": Format(".tasks.json", label_studio),
    "ppocrlabel": Format(".label.txt", ppocr_label),
}
"""The formats by name.

json: a list with, per page, a list of `{box, text, score, words}`; null for what could not be read, which the other
formats but parquet leave out. parquet: a row per page, what could not be read included, see `writers.parquet`. jsonl: a
line `{source, page, pages, width, height, lines}` per page. text: pages are divided by a form feed. markdown: headings,
paragraphs, lists, tables, in reading order. tsv: Tesseract's columns; a text or file name that a spreadsheet could take
for a formula (`=`, `+`, `-`, `@` in front, but for numbers), or that begins with `'`, has a `'` in front. alto and pdf:
of one source. pdf: the picture or the pages of the source with the text invisibly in its place. label-studio and
ppocrlabel: first labels, to be corrected by people.
"""


def named_format(path: Path) -> str | None:
    """The format that a file's name ends in; None where it ends in none."""
    return next((name for name, form in FORMATS.items() if path.suffix.lower() == form.suffix), None)


def format_of(path: Path) -> str:
    """The format that a file's name ends in. Raises `ConfigError` where it ends in none."""
    name = named_format(path)
    if name is None:
        suffixes = ", ".join(form.suffix for form in FORMATS.values())
        raise ConfigError(f"{path}: no format ends in {path.suffix!r}; there are {suffixes}")
    return name


def write_stream(results: Results, format: str, stream: TextIO) -> None:
    """Write one document to a text stream, flushed page by page.

    Raises `ConfigError` for a PDF or Parquet where the stream takes text alone, as a terminal does.
    """
    chosen = _format(format)
    target: Any = getattr(stream, "buffer", None) if chosen.binary else stream
    if target is None:
        raise ConfigError(f"{format} cannot be shown here: give --output, or send it into a file")
    for part in chosen.parts(results):
        target.write(part)
        target.flush()


def append_pages(results: Results, path: Path) -> None:
    """Append pages to a JSON-lines file as they are read.

    A killed run leaves all pages but the last, and of that at most a part, which `finished_pages` cuts off. Raises
    `WriteError` for a place that cannot be written, or not any more.
    """
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed below
    try:
        for part in json_lines(results):
            with _write_errors(path):
                stream.write(part)
                stream.flush()
    finally:
        # What could not be written is thrown away: closing would try it again.
        with contextlib.suppress(OSError):
            stream.close()


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error


def finished_pages(path: Path) -> set[tuple[str, int]]:
    """The (source, page) that a JSON-lines file holds; none where there is no such file.

    A last line that was not written to its end is cut off the file, so that `append_pages` can go on. Raises
    `FileFormatError` for any other line that is not a page: the file is something else.
    """
    if not path.exists():
        return set()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a regular file"
        raise ConfigError(f"{path} is {what}; lines of JSON go to a file: choose another name")
    done: set[tuple[str, int]] = set()
    with _write_errors(path):
        file = open(path, "r+b")  # noqa: SIM115 - closed below
    with file:
        complete = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                file.truncate(complete)
                break
            complete += len(line)
            try:
                page = json.loads(line)
                done.add((str(page["source"]), int(page["page"])))
            except (ValueError, TypeError, KeyError, RecursionError):
                raise FileFormatError(
                    f"{path}, line {number} is not a page that was read: the file is not the output of an earlier run. "
                    "Choose another name, or start anew without --resume"
                ) from None
    return done


def document_paths(sources: Iterable[str], folder: Path, format: str) -> dict[str, Path]:
    """The file of each source in `folder`: its name with the format's suffix added, `scan.pdf.txt`.

    A source whose file exists has been read to its end. Raises `ConfigError` where two sources have the same name.
    """
    _format(format)
    paths: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for source in sources:
        path = Path(folder) / ((Path(source).name if source != STDIN else "stdin") + FORMATS[format].suffix)
        other = owners.setdefault(path, source)
        if other != source:
            raise ConfigError(f"{other} and {source} would both be written to {path}; give them folders of their own")
        paths[source] = path
    return paths


def write_documents(results: Results, paths: Mapping[str, Path], format: str) -> list[Failure]:
    """Write a document per source to its path of `document_paths`, whole or not at all, when its last page is read.

    A source that cannot be read at all has no file; one of which some pages fail has a file without them. Returns what
    was read and could not be made into a document.
    """
    failures = []
    for source, group in itertools.groupby(results, key=lambda result: result.source):
        pages = iter(group)
        first = next(pages)
        if isinstance(first, Failure) and first.number is None:
            continue
        try:
            write_document(itertools.chain([first], pages), paths[source], format)
        except ImageError as error:
            failures.append(Failure(source, None, f"{source} cannot be written as {format}: {error}"))
    return failures


def write_document(results: Results, path: Path, format: str) -> None:
    """Write one document into a file, whole or not at all."""
    with land_file(path) as temporary, open(temporary, "wb") as file:
        for part in _format(format).parts(results):
            file.write(part.encode("utf-8") if isinstance(part, str) else part)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ConfigError(f"{name!r} is not a format; there are {', '.join(FORMATS)}")
    return FORMATS[name]
