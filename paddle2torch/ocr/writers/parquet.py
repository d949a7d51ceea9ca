"""Parquet: a row for each page, in a schema that says its version. Written by one process, several, or Ray alike.

| column | type | |
| --- | --- | --- |
| id | string | source#page: of no two rows; source# where the file failed as a whole |
| schema_version | int16 | `SCHEMA_VERSION` |
| source | string | path or address, as it was given |
| page, pages | int32 | from 1, and how many the source has; null where the file failed as a whole (Ray has a 1) |
| width, height | int32 | pixels |
| quarter_turns, shrunk | int8, float32 | as in `PageText` |
| text | string | in reading order |
| lines | list of {text, score, box, words} | in PaddleOCR's order; words have {text, score, box, char_scores} |
| models | {det, cls, rec, orientation} | names; cls and orientation are null where they were not used |
| versions | {paddle2torch, torch} | of the programs that wrote the row |
| error | string | why a page was not read; null where it was |

Boxes are lists of [x, y] in pixels, float32, as in JSON. Of a page that was not read, all from `width` to `models` is
null. A later version of the schema adds columns; what is there keeps its name and meaning.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle2torch._version import __version__
from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.show import as_text
from paddle2torch.ocr.pages import Failure

if TYPE_CHECKING:
    import pyarrow

    from paddle2torch.ocr.results import PageText
    from paddle2torch.ocr.writers.shared import Results

SCHEMA_VERSION = 1

PAGES_TOGETHER = 64
"""Pages of a row group, and of a file where there are several: what a run that is killed reads again at most."""

COMPRESSION = "zstd"

_PART = re.compile(r"part-(\d+)\.parquet")


def page_row(result: PageText | Failure) -> dict[str, Any]:
    """The row of a page, as Python's own objects."""
    import torch

    row: dict[str, Any] = dict.fromkeys(page_schema().names)
    row |= {
        "id": row_id(result.source, result.number),
        "schema_version": SCHEMA_VERSION,
        "source": source_name(result.source),
        "page": result.number,
        "versions": {"paddle2torch": __version__, "torch": torch.__version__},
    }
    if isinstance(result, Failure):
        return {**row, "error": as_text(result.message)}
    return {
        **row,
        "pages": result.count,
        "width": result.width,
        "height": result.height,
        "quarter_turns": result.quarter_turns,
        "shrunk": result.shrunk,
        "text": as_text(result.text),
        "lines": [line.to_dict() for line in result.lines],
        "models": result.models,
    }


def page_schema() -> pyarrow.Schema:
    """The types of the columns. Raises `ConfigError` where pyarrow is not installed."""
    pa = _pyarrow()
    score, box = pa.float32(), pa.list_(pa.list_(pa.float32()))
    word = {"text": pa.string(), "score": score, "box": box, "char_scores": pa.list_(score)}
    line = {"text": pa.string(), "score": score, "box": box, "words": pa.list_(pa.struct(word))}
    return pa.schema(
        {
            "id": pa.string(),
            "schema_version": pa.int16(),
            "source": pa.string(),
            **{name: pa.int32() for name in ("page", "pages", "width", "height")},
            "quarter_turns": pa.int8(),
            "shrunk": pa.float32(),
            "text": pa.string(),
            "lines": pa.list_(pa.struct(line)),
            "models": pa.struct({name: pa.string() for name in ("det", "cls", "rec", "orientation")}),
            "versions": pa.struct({name: pa.string() for name in ("paddle2torch", "torch")}),
            "error": pa.string(),
        }
    )


def page_table(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """Rows of pages as a table of `page_schema`."""
    return _pyarrow().Table.from_pylist(rows, schema=page_schema())


def parquet(results: Results) -> Iterator[bytes]:
    """One file, a row group for every `PAGES_TOGETHER` pages."""
    pa = _pyarrow()
    sink, pages = _Written(), iter(results)
    with pa.parquet.ParquetWriter(pa.PythonFile(sink, mode="w"), page_schema(), compression=COMPRESSION) as writer:
        while group := [page_row(result) for result in itertools.islice(pages, PAGES_TOGETHER)]:
            writer.write_table(page_table(group))
            yield sink.take()
    yield sink.take()


class _Written(io.RawIOBase):
    """A file whose content is taken away as it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def append_files(results: Results, folder: Path) -> None:
    """Add pages to a folder of Parquet files as they are read: `part-00000.parquet`, of `PAGES_TOGETHER` pages each.

    Each file is there whole or not at all. However the run ends, but by being killed, it keeps what was read.
    """
    taken = [int(match[1]) for path in _files(folder) if (match := _PART.fullmatch(path.name))]
    number = max(taken, default=-1) + 1
    waiting: list[dict[str, Any]] = []

    def write() -> None:
        nonlocal number
        if waiting:
            with land_file(folder / f"part-{number:05}.parquet") as temporary:
                _pyarrow().parquet.write_table(page_table(waiting), temporary, compression=COMPRESSION)
            waiting.clear()
            number += 1

    page_schema()  # without pyarrow nothing need be read
    try:
        for result in results:
            waiting.append(page_row(result))
            if len(waiting) == PAGES_TOGETHER:
                write()
    finally:
        write()


def written_pages(folder: Path) -> set[tuple[str, int | None]]:
    """The (source, page) of the rows in a folder of Parquet files; the page is None of a file that failed as a whole.

    Raises `FileFormatError` for a file that does not have these columns.
    """
    done: set[tuple[str, int | None]] = set()
    for path in _files(folder):
        try:
            rows = _pyarrow().parquet.read_table(path, columns=["schema_version", "source", "page"])
            versions = rows["schema_version"].unique().to_pylist()
        except (OSError, ValueError, KeyError) as error:
            first = str(error).partition("\n")[0]
            raise FileFormatError(f"{path} has no pages that were read: {first}; choose another folder") from None
        if not set(versions) <= {SCHEMA_VERSION}:
            raise FileFormatError(
                f"{path} is of another version of paddle2torch (schema {versions}, not {SCHEMA_VERSION}); choose "
                "another folder"
            )
        done.update(zip(rows["source"].to_pylist(), rows["page"].to_pylist(), strict=True))
    return done


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith((".", "_")))


def row_id(source: str, page: int | None) -> str:
    """The `id` of a page's row."""
    return f"{source_name(source)}#{'' if page is None else page}"


def source_name(source: str) -> str:
    """A source as it stands in a row: bytes of its name that are not UTF-8 are written out."""
    return as_text(source)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'paddle2torch[parquet]'") from None
    return pyarrow
