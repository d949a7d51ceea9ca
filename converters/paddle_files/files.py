"""Bytes of a file from outside, read without trust: mapped, bounds-checked, hashed.

Nothing here copies a tensor. A reader is given one read-only view of the whole file and hands out parts of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct

from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.show import show_path

_NAME_AT_MOST = 1000


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The file at `path` as one read-only view, mapped, not read.

    The mapping lives as long as the view or anything that was cut from it (the arrays of a checkpoint). A file
    that another process shortens meanwhile takes this process down with it (SIGBUS), as with every mapping.

    Raises as `open_regular`, and `FileFormatError` where the file is empty.
    """
    with open_regular(path) as file:
        try:
            if os.fstat(file.fileno()).st_size == 0:
                raise FileFormatError(f"{show_path(path)}: the file is empty (an interrupted download? fetch it again)")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise Paddle2TorchError(f"{show_path(path)}: cannot be read: {error.strerror or error}") from error


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
