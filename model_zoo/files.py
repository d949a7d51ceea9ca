"""Opening files that come from outside: regular files alone, and never more of one than was asked for.

A pipe or a device blocks or never ends, and only a regular file has a size to compare with what it claims to hold.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.show import show_path

# A file that became a pipe after it was looked at must not block; Windows has neither of these.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The regular file at `path` (links are followed), opened for reading bytes without waiting for anything.

    Raises `Paddle2TorchError` where there is no such file, where it is a directory, a pipe, a socket or a device, and
    where it cannot be opened.
    """
    try:
        _check_regular(os.stat(path), path)
        descriptor = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise Paddle2TorchError(f"{show_path(path)}: there is no such file") from None
    except (OSError, ValueError) as error:  # a null byte in the name is a ValueError
        raise Paddle2TorchError(f"{show_path(path)}: cannot be read: {_reason(error)}") from None
    try:
        _check_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: str | os.PathLike[str], at_most: int, what: str) -> bytes:
    """The content of the regular file at `path`, which has at most `at_most` bytes.

    `what` names the kind of file in the message ("settings file"). Raises as `open_regular`, and `FileFormatError`
    where the file is larger.
    """
    with open_regular(path) as file:
        try:
            # A sparse file has any size and takes no disk: of what is too large nothing is read.
            large = os.fstat(file.fileno()).st_size > at_most
            content = b"" if large else file.read(at_most + 1)
        except OSError as error:
            raise Paddle2TorchError(f"{show_path(path)}: cannot be read: {_reason(error)}") from None
    if large or len(content) > at_most:
        raise FileFormatError(f"{show_path(path)}: is larger than {at_most:,} bytes, which no {what} is")
    return content


def _check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Paddle2TorchError(f"{show_path(path)}: is a directory, a file is needed here")
    if not stat.S_ISREG(status.st_mode):
        raise Paddle2TorchError(f"{show_path(path)}: is not a regular file")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
