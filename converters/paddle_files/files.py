"""Bytes of a file from outside, read without trust: mapped, bounds-checked, hashed.

Nothing here copies a tensor. A reader is given one read-only view of the whole file and hands out parts of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from pathlib import Path

from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError

_NAME_AT_MOST = 1000


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The file at `path` as one read-only view, mapped, not read.

    The mapping lives as long as the view or anything that was cut from it (the arrays of a checkpoint). A file
    that another process shortens meanwhile takes this process down with it (SIGBUS), as with every mapping.

    Raises `Paddle2TorchError` where there is no such file or it cannot be opened, `FileFormatError` where it is empty.
    """
    path = Path(path)
    # Opening a pipe or a device would block or never end: only a regular file has a size to check against.
    if not path.is_file():
        if path.is_dir():
            raise Paddle2TorchError(f"{path}: is a directory, a file is needed here")
        if path.exists():
            raise Paddle2TorchError(f"{path}: is not a regular file")
        raise Paddle2TorchError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FileFormatError(f"{path}: the file is empty (an interrupted download? fetch it again)")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise Paddle2TorchError(f"{path}: cannot be read: {error.strerror or error}") from error


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The sha256 of the file at `path`, in hexadecimal. Raises as `map_file` does."""
    with map_file(path) as data:
        return hashlib.sha256(data).hexdigest()


def is_name(text: str) -> bool:
    """Whether `text` can be the name of something. Names are shown in messages and tables: no control characters."""
    return len(text) <= _NAME_AT_MOST and text.isprintable()


class ByteReader:
    """A position in a file's bytes that never passes their end.

    Everything read is little-endian, as Paddle and pickle write it. What runs past the end raises
    `FileFormatError` before anything is allocated.
    """

    __slots__ = ("data", "path", "position", "size")

    def __init__(self, data: memoryview, path: str | os.PathLike[str]) -> None:
        self.data = data
        self.path = path
        self.position = 0
        self.size = len(data)

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def error(self, message: str) -> FileFormatError:
        """A `FileFormatError` that names the file and the position; for the caller to raise."""
        return FileFormatError(f"{self.path}: {message} (at byte {self.position:,} of {self.size:,})")

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they start."""
        start = self.position
        if not 0 <= count <= self.size - start:
            raise self.error(f"{what} needs {count:,} bytes, the file has {self.size - start:,} left; is it truncated?")
        self.position = start + count
        return start

    def take(self, count: int, what: str) -> memoryview:
        """The next `count` bytes, as a view."""
        start = self.skip(count, what)
        return self.data[start : start + count]

    def u8(self, what: str) -> int:
        return self.data[self.skip(1, what)]

    def u16(self, what: str) -> int:
        return int(struct.unpack_from("<H", self.data, self.skip(2, what))[0])

    def u32(self, what: str) -> int:
        return int(struct.unpack_from("<I", self.data, self.skip(4, what))[0])

    def i32(self, what: str) -> int:
        return int(struct.unpack_from("<i", self.data, self.skip(4, what))[0])

    def u64(self, what: str) -> int:
        return int(struct.unpack_from("<Q", self.data, self.skip(8, what))[0])
