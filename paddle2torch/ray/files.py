"""Files by address (s3://, gs://, what else pyarrow or fsspec know) or by path: found, and brought here to be read."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.pages import HEAD, STDIN, SUFFIXES, find_sources, may_have_pages
from paddle2torch.tasks.images import ImageError

# Names are as the store has them, with any character but that a query is known by its form: s3://a/b c.png?region=x
_ADDRESS = re.compile(r"(?P<root>[a-z][a-z0-9+.-]*://[^/?]*)(?P<path>.*?)(?P<query>\?[a-z_]+=[^/]*)?", re.DOTALL)
_MAGIC = re.compile(r"[*?\[]")


def find_files(inputs: Iterable[str | Path]) -> list[str]:
    """The files behind paths and addresses, as `find_sources` finds them: of a folder those directly in it.

    Paths are made absolute: other machines must have them too. Raises `ConfigError` for an address that cannot be
    looked into, and for standard input.
    """
    found: list[str] = []
    for name in map(str, inputs):
        if name == STDIN:
            raise ConfigError("standard input is read by one machine: save it to a file, or leave --engine ray out")
        if name.startswith("file://"):
            name = name.removeprefix("file://")
        if is_address(name):
            found += _find(name)
        else:
            found += map(os.path.abspath, find_sources([name]))
    return list(dict.fromkeys(found))


def is_address(source: str) -> bool:
    """Whether a source is the address of a store, and not a path."""
    return _ADDRESS.fullmatch(source) is not None


def fetch(source: str, folder: Path, *, to_count: bool = False) -> Path:
    """The path of a file; of one with an address that of a copy in `folder`.

    to_count: what has one page, as its first bytes tell, is copied no further than these. Raises `ImageError` for what
    cannot be fetched.
    """
    if not is_address(source):
        return Path(source)
    try:
        store, path = _open(source)
        with (
            store.open_input_stream(path, compression=None) as stream,
            tempfile.NamedTemporaryFile(dir=folder, delete=False) as file,
        ):
            head = b""
            while len(head) < HEAD and (more := stream.read(HEAD - len(head))):
                head += more
            file.write(head)
            if not to_count or may_have_pages(head):
                shutil.copyfileobj(stream, file, 2**20)
    except (OSError, ValueError, ConfigError) as error:
        raise ImageError(f"{source} cannot be read: {_first_line(error)}") from None
    return Path(file.name)


def _find(address: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    match = _ADDRESS.fullmatch(address)
    assert match is not None
    base, pattern = match["path"], None
    if magic := _MAGIC.search(base):
        base = base[: magic.start()].rpartition("/")[0]
        pattern = _as_pattern(match["path"])
    try:
        store, path = _open(match["root"] + base + (match["query"] or ""))
        if pattern is None and store.get_file_info(path).type != FileType.Directory:
            return [address]
        entries = store.get_file_info(FileSelector(path, recursive=pattern is not None))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{address} cannot be looked into: {_first_line(error)}") from None
    # What the store puts before a path: the name of a bucket, which is the address's own.
    before = len(path) - len(base.lstrip("/")) if base.strip("/") else len(path) + 1
    names = sorted("/" + entry.path[before:].lstrip("/") for entry in entries if entry.type == FileType.File)
    if pattern is None:
        names = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    else:
        names = [name for name in names if pattern.fullmatch(name)]
    names = [name for name in names if not Path(name).name.startswith(".")]
    return [match["root"] + name + (match["query"] or "") for name in names] or [address]


def _as_pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", "/" + glob.lstrip("/"))
    meaning = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, _character(part)) for part in parts), re.DOTALL)


def _character(part: str) -> str:
    if part.startswith("[") and part.endswith("]"):
        return f"[^{re.escape(part[2:-1])}]" if part[1] == "!" else part
    return re.escape(part)


def open_store(place: str) -> tuple[Any, str]:
    """The store of an address, or the system's files, and the path in it. Raises `ConfigError` for an unknown store."""
    if is_address(place):
        return _open(place)
    from pyarrow.fs import LocalFileSystem

    return LocalFileSystem(), place


def _open(address: str) -> tuple[Any, str]:
    match = _ADDRESS.fullmatch(address)
    assert match is not None
    store, before = _store(match["root"], match["query"] or "")
    return store, (before + match["path"]).rstrip("/")


@functools.lru_cache(maxsize=32)
def _store(root: str, query: str) -> tuple[Any, str]:
    """A store, and what it has before each path. Raises `ConfigError` for one that is not known."""
    from pyarrow import ArrowInvalid, ArrowNotImplementedError
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        store, path = FileSystem.from_uri(f"{root}/x{query}")
        return store, path.removesuffix("/x").removesuffix("x")
    except (ArrowInvalid, ArrowNotImplementedError) as error:
        reason = _first_line(error)
    try:
        import fsspec

        store, path = fsspec.core.url_to_fs(f"{root}/x{query}")
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{root} is no store that can be read: {reason}; {_first_line(error)}") from None
    return PyFileSystem(FSSpecHandler(store)), path.removesuffix("/x").removesuffix("x")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300] or type(error).__name__
