"""Inputs of a program from an `.npz`, one array for each, by name.

Nothing in the file is run, and no array is made that is larger than what the file holds of it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.programs.config import Feed, ProgramConfig
from paddle2torch.model_zoo.show import show

BYTES_AT_MOST = 1 << 30
"""Of all arrays together, unpacked."""


def read_inputs(path: Path, config: ProgramConfig) -> dict[str, np.ndarray]:
    """The inputs of a program from `path`, in the program's order.

    Raises `FileFormatError` for a file that is no `.npz` of plain arrays, `ConfigError` for arrays that are not the
    program's inputs: their names, types and sizes.
    """
    path = Path(path)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = [feed.name for feed in config.feeds]
            if len(members) != len(archive.infolist()) or set(members) != set(wanted):
                found = ", ".join(show(name) for name in sorted(members)[:10]) or "none"
                raise ConfigError(f"{path} has the arrays {found}; {config.name} takes {', '.join(map(show, wanted))}")
            if sum(info.file_size for info in members.values()) > BYTES_AT_MOST:
                raise ConfigError(f"{path} unpacks to more than {BYTES_AT_MOST >> 20:,} MB")
            return {feed.name: _read(archive, members[feed.name], feed, path) for feed in config.feeds}
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(f"{path} is not an .npz of plain arrays: {error!s:.200}") from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, feed: Feed, path: Path) -> np.ndarray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        readers: dict[Any, Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version} of numpy's format")
        shape, _, dtype = readers[version](member)
    if dtype.hasobject or dtype.name != feed.dtype:
        raise ConfigError(f"{path}: {show(feed.name)} is {dtype.name}, the program takes {feed.dtype}")
    if len(shape) != len(feed.shape) or any(
        wanted not in (-1, size) for size, wanted in zip(shape, feed.shape, strict=True)
    ):
        raise ConfigError(f"{path}: {show(feed.name)} is {list(shape)}, the program takes {list(feed.shape)}")
    if dtype.itemsize * int(np.prod(shape, dtype=object)) > info.file_size:
        raise ValueError(f"{info.filename:.80} declares more than it holds")
    with archive.open(info) as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
    return np.ascontiguousarray(array).reshape(shape)
