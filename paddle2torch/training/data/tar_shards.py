"""Samples of webdataset tars: members that share a name up to its first dot are one sample, by what follows it.

Nothing is unpacked: a shard is read where it lies, each member at its place, so that samples can be had in any order
and no path of a member leads anywhere. What `zoo/archives.py` refuses a whole archive for, members that it would unpack
to elsewhere, is only left out here; and it reads an archive to its end, where of a shard headers and labels are enough.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

import numpy as np

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.files import open_regular
from paddle2torch.model_zoo.show import show_path, show_text
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.tasks.file_patterns import matching_paths
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group, check_ratio, digest_of_lines

MOST_SHARDS = 100_000
MOST_MEMBERS = 50_000_000
"""Members of all shards together: each takes some hundred bytes of memory."""
IMAGE_AT_MOST = 512 << 20
LABEL_AT_MOST = 16 << 20
"""Bytes of an image, and of a label."""
HEADER_AT_MOST = 1 << 20
"""Bytes of a header with its long names."""

_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")
"""How gzip's, bzip2's, xz's and Zstandard's files begin."""

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff")


@dataclass(frozen=True)
class WebDataset:
    """Webdataset tars, uncompressed.

    `shards` are paths or patterns (`shards/*.tar`), relative ones to the working directory. A sample's image is the
    member that ends with one of `images`, its label the one that ends with `label`: the text, in UTF-8, or with `key`
    a JSON object that has it under that key. `ratio` is the share of them that an epoch takes.
    """

    shards: tuple[str, ...]
    images: tuple[str, ...] = IMAGES
    label: str = "txt"
    key: str | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_ratio(self.ratio, "WebDataset")
        if not self.shards:
            raise ConfigError("WebDataset: shards names no tar")


@dataclass(frozen=True)
class _Member:
    """Where the bytes of a member are."""

    start: int
    size: int


@dataclass
class _Sample:
    shard: int
    name: str
    image: _Member | None = None
    label: _Member | None = None
    text: str = ""


@dataclass
class TarShards:
    """The samples of tars, in the order of the shards' names and of their members.

    Raises `DataError` where there is none, `FileFormatError` for a tar that is broken or compressed. left_out: members
    that are of no sample, by why.
    """

    options: WebDataset
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._paths = _shards(self.options.shards)
        self._samples: list[_Sample] = []
        members = 0
        for shard in range(len(self._paths)):
            members += self._read(shard)
            if members > MOST_MEMBERS:
                raise FileFormatError(f"the shards have more than {MOST_MEMBERS:,} members: give fewer of them")
        if not self._samples:
            said = "".join(f"; {count:,} members {why}" for why, count in self.left_out.items())
            raise DataError(
                f"WebDataset: no sample has an image ({', '.join(self.options.images)}) and a label "
                f"({self.options.label}) in {len(self._paths):,} shards{said}"
            )
        self.groups = [Group(len(self._samples), self.options.ratio)]

    def _read(self, shard: int) -> int:
        """Add the samples of a shard; returns how many members it has."""
        path, found, count = self._paths[shard], dict[str, _Sample](), 0
        last = -1
        try:
            with open_regular(path) as file:
                size = file.seek(0, 2)
                file.seek(0)
                if file.read(2) in _COMPRESSED:
                    raise FileFormatError(f"{show_path(path)} is compressed: unpack it to a plain .tar")
                file.seek(0)
                with tarfile.open(fileobj=cast(IO[bytes], _Headers(file, path)), mode="r:") as tar:
                    for member in tar:
                        count += 1
                        if member.offset <= last:  # sizes below 0 would be read in circles
                            raise FileFormatError(f"{show_path(path)}: {show_text(member.name)} leads back")
                        last = member.offset
                        # tarfile keeps every member that it has seen.
                        tar.members = []  # type: ignore[attr-defined]
                        self._add(member, size, shard, found)
                labels = {name: sample for name, sample in found.items() if sample.image and sample.label}
                self.left_out["have no partner"] += len(found) - len(labels)
                for sample in labels.values():
                    assert sample.label is not None
                    file.seek(sample.label.start)
                    sample.text = self._text(file.read(sample.label.size), self._where(sample))
        except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, OverflowError) as error:
            raise FileFormatError(f"{show_path(path)} is no tar that can be read ({error}): make it again") from None
        self._samples += labels.values()
        return count

    def _add(self, member: tarfile.TarInfo, size: int, shard: int, found: dict[str, _Sample]) -> None:
        name = PurePosixPath(member.name).name
        if member.isdir() or name.startswith("."):
            return
        if not member.isreg() or member.issparse():
            self.left_out["are links, devices or sparse"] += 1
            return
        if member.size < 0 or member.offset_data + member.size > size:
            raise FileFormatError(
                f"{show_path(self._paths[shard])}: the member {show_text(member.name)} claims {member.size:,} bytes, "
                f"more than the file holds (cut off?); get it again"
            )
        # As webdataset does: the key goes up to the first dot of the last part of the path.
        stem, _, ending = name.partition(".")
        key, ending = member.name[: len(member.name) - len(name)] + stem, ending.lower()
        image, label = ending in self.options.images, ending == self.options.label
        if not (image or label):
            self.left_out["have another ending"] += 1
            return
        if member.size > (IMAGE_AT_MOST if image else LABEL_AT_MOST):
            self.left_out["are too large"] += 1
            return
        sample = found.setdefault(key, _Sample(shard, key))
        place = _Member(member.offset_data, member.size)
        if image:
            sample.image = sample.image or place
        else:
            sample.label = sample.label or place

    def _text(self, data: bytes, where: str) -> str:
        try:
            text: Any = data.decode("utf-8-sig")
            if self.options.key is not None:
                value = decode_json(text)
                text = value.get(self.options.key) if isinstance(value, dict) else None
        except (ValueError, RecursionError):
            raise FileFormatError(f"{where}: the label is not {'JSON in ' if self.options.key else ''}UTF-8") from None
        if not isinstance(text, str):
            raise FileFormatError(f"{where}: the label has no text under {self.options.key!r}")
        return text.rstrip("\r\n")

    def _where(self, sample: _Sample) -> str:
        return f"{show_path(self._paths[sample.shard])}, {show_text(sample.name)}"

    def __len__(self) -> int:
        return len(self._samples)

    def label(self, index: int) -> str:
        """The text, or JSON, of a sample."""
        return self._samples[index].text

    def where(self, index: int) -> str:
        """Shard and name."""
        return self._where(self._samples[index])

    def source(self, index: int) -> str:
        """The shard."""
        return str(self._paths[self._samples[index].shard])

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        sample = self._samples[index]
        assert sample.image is not None
        with open_regular(self._paths[sample.shard]) as file:
            file.seek(sample.image.start)
            data = file.read(sample.image.size)
        if len(data) < sample.image.size:
            raise ImageError(f"the shard is shorter than when it was first read: {len(data):,} bytes are there")
        return load_image(data, reduce=False)

    def missing(self, index: int) -> str | None:
        """Nothing: what a shard has was seen when it was opened."""
        return None

    def digest(self) -> str:
        """Of shards' names, samples' names, sizes of images, and labels, in their order."""
        return digest_of_lines(map(self._told, self._samples))

    def _told(self, sample: _Sample) -> str:
        assert sample.image is not None
        return f"{self._paths[sample.shard].name}\t{sample.name}\t{sample.image.size}\t{sample.text}"


class _Headers:
    """A shard as tarfile reads it: its headers, which are small; members are read at their places."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_AT_MOST:
            raise FileFormatError(f"{show_path(self._path)}: a header claims {size:,} bytes")
        return self._file.read(size)


def _shards(patterns: Sequence[str]) -> list[Path]:
    """The files that patterns mean, each once; raises `DataError` where one means none."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        # What is there is taken as it is called, brackets and all.
        names = [pattern] if os.path.exists(pattern) else sorted(matching_paths(pattern))
        if not names:
            raise DataError(f"WebDataset: there is no {show_path(pattern)}. Relative paths start at {Path.cwd()}")
        for name in names:
            found[Path(name)] = None
        if len(found) > MOST_SHARDS:
            raise ConfigError(f"WebDataset: more than {MOST_SHARDS:,} shards")
    return list(found)
