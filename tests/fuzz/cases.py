"""An input of the fuzzer: a few files of a folder, and how they are kept as one small JSON file of the corpus."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

SANDBOX = b"@SANDBOX@"
"""In text files: a placeholder for the absolute path of the worker's own folder, where the forbidden file is."""

_TEXTS = (".yml", ".json", ".txt")


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Pipe:
    """A named pipe: whoever opens it waits for ever."""


@dataclass(frozen=True)
class Sparse:
    """A file of this many zeros, which takes no place on disk."""

    size: int


@dataclass(frozen=True)
class Repeat:
    """A file of a head, one part many times, and a tail: large, but small to keep."""

    head: bytes
    part: bytes
    count: int
    tail: bytes = b""

    @property
    def content(self) -> bytes:
        return self.head + self.part * self.count + self.tail


Entry: TypeAlias = bytes | Link | Pipe | Sparse | Repeat
Case: TypeAlias = Mapping[str, Entry]


def write_case(case: Case, folder: Path) -> int:
    """Lay the files out in `folder`, which is empty; returns their size in bytes, a sparse file counted as none."""
    size = 0
    for name, entry in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match entry:
            case Link(target):
                path.symlink_to(target)
            case Pipe():
                os.mkfifo(path)
            case Sparse(length):
                with path.open("wb") as file:
                    file.truncate(length)
            case _:
                content = entry.content if isinstance(entry, Repeat) else entry
                if name.endswith(_TEXTS):
                    content = content.replace(SANDBOX, os.fsencode(folder.parent))
                path.write_bytes(content)
                size += len(content)
    return size


def dump_case(kind: str, case: Case, why: str) -> str:
    """The case as JSON."""
    files = {name: _entry_to_json(entry) for name, entry in case.items()}
    return json.dumps({"kind": kind, "why": why, "files": files}, indent=1) + "\n"


def load_case(path: Path) -> tuple[str, Case]:
    """The kind and the files of a case that `dump_case` wrote."""
    data = json.loads(path.read_text(encoding="ascii"))
    return data["kind"], {name: _entry_from_json(entry) for name, entry in data["files"].items()}


def _entry_to_json(entry: Entry) -> object:
    match entry:
        case Link(target):
            return {"link": target}
        case Pipe():
            return {"pipe": True}
        case Sparse(size):
            return {"sparse": size}
        case Repeat(head, part, count, tail):
            return {"repeat": [_bytes_to_json(part) for part in (head, part, tail)], "count": count}
    return _bytes_to_json(entry)


def _entry_from_json(data: object) -> Entry:
    match data:
        case {"link": str(target)}:
            return Link(target)
        case {"pipe": True}:
            return Pipe()
        case {"sparse": int(size)}:
            return Sparse(size)
        case {"repeat": [head, part, tail], "count": int(count)}:
            return Repeat(_bytes_from_json(head), _bytes_from_json(part), count, _bytes_from_json(tail))
    return _bytes_from_json(data)


def _bytes_to_json(content: bytes) -> object:
    text = content.decode("utf-8", "replace")
    if text.encode() == content and text.replace("\n", "").isprintable():
        return text
    packed = zlib.compress(content, 9)
    if len(packed) < 0.8 * len(content):
        return {"zlib": base64.b64encode(packed).decode()}
    return {"base64": base64.b64encode(content).decode()}


def _bytes_from_json(data: object) -> bytes:
    match data:
        case str(text):
            return text.encode()
        case {"zlib": str(packed)}:
            return zlib.decompress(base64.b64decode(packed))
        case {"base64": str(content)}:
            return base64.b64decode(content)
    raise ValueError(f"not an entry of a case: {data!r:.80}")
