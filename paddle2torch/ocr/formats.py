"""The forms in which results are written: JSON, JSON lines, plain text, TSV, hOCR, ALTO.

Every format is written page by page as the pages come. A run that was killed goes on where it was in two ways: JSON
lines are appended to one file, whose lines say what is done; or each source has a file of its own in a folder, and a
source whose file is there is done.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from paddle2torch.atomic import WriteError, land_file
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.ocr.pages import STDIN, Failure
from paddle2torch.ocr.results import PageText, TextLine, TextWord
from paddle2torch.tasks.geometry import Points

Results = Iterable[PageText | Failure]


# In the names of files that are not UTF-8, Python has these for the bytes that are none.
_SURROGATE = re.compile("[\ud800-\udfff]")


def _dumps(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _pages(results: Results) -> Iterator[tuple[int, PageText]]:
    """The pages that were read, numbered from 1 through all sources."""
    return enumerate((result for result in results if isinstance(result, PageText)), 1)


def _json(results: Results) -> Iterator[str]:
    yield "["
    for index, result in enumerate(results):
        lines = [line.to_json() for line in result.lines] if isinstance(result, PageText) else None
        yield (",\n" if index else "\n") + _dumps(lines)
    yield "\n]\n"


def _json_lines(results: Results) -> Iterator[str]:
    for _, page in _pages(results):
        yield _dumps(page.to_json()) + "\n"


def _text(results: Results) -> Iterator[str]:
    for index, page in _pages(results):
        yield ("\f" if index > 1 else "") + page.text + "\n"


TSV_COLUMNS = (
    *("level", "page_num", "block_num", "par_num", "line_num", "word_num"),
    *("left", "top", "width", "height", "conf", "text", "source"),
)
"""The columns of Tesseract's TSV, which has tools, and the source. Level 5 is a word, `conf` its score in percent."""


def _tsv(results: Results) -> Iterator[str]:
    def row(level: int, where: Sequence[int], extent: Extent, conf: str, text: str, source: str) -> str:
        numbers = (*where, 0, 0, 0, 0, 0)[:5]
        # A tab or line break in a field would shift the others.
        words = (_cell(_xml(re.sub(r"[\t\r\n]", " ", field))) for field in (text, source))
        return "\t".join(map(str, (level, *numbers, *extent, conf, *words))) + "\n"

    yield "\t".join(TSV_COLUMNS) + "\n"
    for p, page in _pages(results):
        rows = [row(1, (p,), (0, 0, page.width, page.height), "-1", "", page.source)]
        for b, block in enumerate(page.blocks, 1):
            extent = _extent([line.box for lines in block for line in lines], page)
            rows.append(row(2, (p, b), extent, "-1", "", page.source))
            rows.append(row(3, (p, b, 1), extent, "-1", "", page.source))
            for n, lines in enumerate(block, 1):
                extent = _extent([line.box for line in lines], page)
                rows.append(row(4, (p, b, 1, n), extent, "-1", "", page.source))
                for w, word in enumerate((word for line in lines for word in line.words), 1):
                    extent = _extent([word.box], page)
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


def _hocr(results: Results) -> Iterator[str]:
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<title></title>\n'
        '<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
        '<meta name="ocr-system" content="paddle2torch"/>\n'
        '<meta name="ocr-capabilities" content="ocr_page ocr_carea ocr_par ocr_line ocrx_word"/>\n</head>\n<body>\n'
    )
    for p, page in _pages(results):
        image = page.source.replace("\\", "\\\\").replace('"', '\\"')
        title = quoteattr(_xml(f'image "{image}"; bbox 0 0 {page.width} {page.height}; ppageno {p - 1}'))
        out = [f'<div class="ocr_page" id="page_{p}" title={title}>\n']
        for b, block in enumerate(page.blocks, 1):
            bbox = _bbox(_extent([line.box for lines in block for line in lines], page))
            out.append(f'<div class="ocr_carea" id="block_{p}_{b}" title="{bbox}">\n')
            out.append(f'<p class="ocr_par" id="par_{p}_{b}" title="{bbox}">\n')
            for n, lines in enumerate(block, 1):
                bbox = _bbox(_extent([line.box for line in lines], page))
                out.append(f'<span class="ocr_line" id="line_{p}_{b}_{n}" title="{bbox}">')
                for w, (word, space) in enumerate(_words(lines), 1):
                    confidence = " ".join(f"{100 * score:.0f}" for score in word.char_scores)
                    title = f"{_bbox(_extent([word.box], page))}; x_wconf {100 * word.score:.0f}; x_confs {confidence}"
                    out.append(
                        f'<span class="ocrx_word" id="word_{p}_{b}_{n}_{w}" title="{title}">'
                        f"{escape(_xml(word.text))}</span>{' ' if space else ''}"
                    )
                out.append("</span>\n")
            out.append("</p>\n</div>\n")
        out.append("</div>\n")
        yield "".join(out)
    yield "</body>\n</html>\n"


def _alto(results: Results) -> Iterator[str]:
    source: str | None = None
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#" SCHEMAVERSION="4.4">\n'
        "<Description>\n<MeasurementUnit>pixel</MeasurementUnit>\n"
    )
    processing = (
        '<Processing ID="OCR_1">\n<processingSoftware>\n<softwareName>paddle2torch</softwareName>\n'
        "</processingSoftware>\n</Processing>\n</Description>\n<Layout>\n"
    )
    for p, page in _pages(results):
        if source is None:
            source = page.source
            name = escape(_xml(source))
            yield f"<sourceImageInformation>\n<fileName>{name}</fileName>\n</sourceImageInformation>\n{processing}"
        elif page.source != source:
            raise ConfigError(
                f"an ALTO document is about one file, not {source} and {page.source}: give a folder as the output, and "
                "each file gets its own"
            )
        place = _place((0, 0, page.width, page.height))
        size = f'WIDTH="{page.width}" HEIGHT="{page.height}"'
        out = [f'<Page ID="page_{p}" PHYSICAL_IMG_NR="{page.number}" {size}>\n<PrintSpace {place}>\n']
        for b, block in enumerate(page.blocks, 1):
            place = _place(_extent([line.box for lines in block for line in lines], page))
            out.append(f'<TextBlock ID="block_{p}_{b}" {place}>\n')
            for n, lines in enumerate(block, 1):
                place = _place(_extent([line.box for line in lines], page))
                out.append(f'<TextLine ID="line_{p}_{b}_{n}" {place}>\n')
                for w, (word, space) in enumerate(_words(lines), 1):
                    place = _place(_extent([word.box], page))
                    content = quoteattr(_xml(word.text))
                    out.append(f'<String ID="word_{p}_{b}_{n}_{w}" CONTENT={content} {place} WC="{word.score:.4f}"/>')
                    out.append("<SP/>\n" if space else "\n")
                out.append("</TextLine>\n")
            out.append("</TextBlock>\n")
        out.append("</PrintSpace>\n</Page>\n")
        yield "".join(out)
    yield ("" if source is not None else processing) + "</Layout>\n</alto>\n"


Extent = tuple[int, int, int, int]
"""left, top, width, height in pixels of the page."""


def _extent(boxes: Sequence[Points], page: PageText) -> Extent:
    points = np.concatenate(boxes)
    size = np.array([page.width, page.height])
    left, top = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, size).astype(int).tolist()
    return left, top, right - left, bottom - top


def _bbox(extent: Extent) -> str:
    left, top, width, height = extent
    return f"bbox {left} {top} {left + width} {top + height}"


def _place(extent: Extent) -> str:
    left, top, width, height = extent
    return f'HPOS="{left}" VPOS="{top}" WIDTH="{width}" HEIGHT="{height}"'


def _words(lines: Sequence[TextLine]) -> list[tuple[TextWord, bool]]:
    """The words of a row, each with whether a space follows: ideographs stand without."""
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


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


FORMATS: Mapping[str, Callable[[Results], Iterator[str]]] = {
    "json": _json,
    "jsonl": _json_lines,
    "text": _text,
    "tsv": _tsv,
    "hocr": _hocr,
    "alto": _alto,
}
"""The formats by name. Each turns results into the parts of one document; a part is written when its page is read.

json: a list with, per page, a list of `{box, text, score, words}`; null for what could not be read, which the other
formats leave out. jsonl: a line `{source, page, pages, width, height, lines}` per page. text: pages are divided by a
form feed. tsv: Tesseract's columns; a text or file name that a spreadsheet could take for a formula (`=`, `+`, `-`, `@`
in front, but for numbers), or that begins with `'`, has a `'` in front. alto: of one source.
"""

SUFFIXES: Mapping[str, str] = {
    "json": ".json",
    "jsonl": ".jsonl",
    "text": ".txt",
    "tsv": ".tsv",
    "hocr": ".hocr",
    "alto": ".xml",
}


def write_stream(results: Results, format: str, stream: TextIO) -> None:
    """Write one document to a text stream, flushed page by page."""
    for part in _format(format)(results):
        stream.write(part)
        stream.flush()


def append_pages(results: Results, path: Path) -> None:
    """Append pages to a JSON-lines file as they are read.

    A killed run leaves all pages but the last, and of that at most a part, which `finished_pages` cuts off. Raises
    `WriteError` for a place that cannot be written, or not any more.
    """
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed below
    try:
        for part in _json_lines(results):
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
    `FileFormatError` for any other line that is no page: the file is something else.
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
        path = Path(folder) / ((Path(source).name if source != STDIN else "stdin") + SUFFIXES[format])
        other = owners.setdefault(path, source)
        if other != source:
            raise ConfigError(f"{other} and {source} would both be written to {path}; give them folders of their own")
        paths[source] = path
    return paths


def write_documents(results: Results, paths: Mapping[str, Path], format: str) -> None:
    """Write a document per source to its path of `document_paths`, whole or not at all, when its last page is read.

    A source that cannot be read at all has no file; one of which some pages fail has a file without them.
    """
    for source, group in itertools.groupby(results, key=lambda result: result.source):
        pages = iter(group)
        first = next(pages)
        if isinstance(first, Failure) and first.number is None:
            continue
        with land_file(paths[source]) as temporary, open(temporary, "w", encoding="utf-8") as stream:
            write_stream(itertools.chain([first], pages), format, stream)


def _format(name: str) -> Callable[[Results], Iterator[str]]:
    if name not in FORMATS:
        raise ConfigError(f"{name!r} is not a format; there are {', '.join(FORMATS)}")
    return FORMATS[name]
