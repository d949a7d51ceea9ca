"""Samples of Hugging Face `datasets`: a column with the image and one with the text."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddle2torch.atomic import land_file
from paddle2torch.cache import cache_dir, make_private, one_at_a_time
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.show import show, show_all
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import Group, check_ratio, digest_of_lines
from paddle2torch.training.data.tar_shards import IMAGE_AT_MOST, LABEL_AT_MOST, TarShards, WebDataset

MOST_TAKEN = 100_000_000
_LOCAL_FORMATS = ("parquet", "arrow", "json", "csv")


@dataclass(frozen=True)
class HuggingFace:
    """A data set of the Hub ("org/name"), a folder that `save_to_disk` wrote, or a folder or file of `datasets`' own.

    `image` and `text` are the columns, `name` the configuration where the data set has several, `revision` its commit.
    With `take`, the first samples of the stream are taken as they come, and kept in the cache: nothing else of a large
    data set is downloaded. `ratio` is the share of the samples that an epoch takes.
    """

    path: str
    split: str = "train"
    image: str = "image"
    text: str = "text"
    name: str | None = None
    revision: str | None = None
    take: int | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_ratio(self.ratio, "HuggingFace")
        within(self, take=(1, MOST_TAKEN))


def open_rows(options: HuggingFace) -> HubRows | TarShards:
    """The samples of a data set; raises `DataError` where it cannot be had or lacks a column."""
    if importlib.util.find_spec("datasets") is None:
        raise DataError("HuggingFace: reading such data needs the package datasets: pip install 'datasets>=4'")
    import datasets

    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"HuggingFace: datasets {datasets.__version__} runs code that data sets bring: pip install 'datasets>=4'"
        )
    if options.take is None:
        return HubRows(options, _load(options, streaming=False))
    return _taken(options)


class HubRows:
    """The rows of a data set that is here."""

    def __init__(self, options: HuggingFace, rows: Any) -> None:
        self._options = options
        self._rows = rows
        self._folder = _own_folder(options)
        # The texts at once: they are compared and counted before training.
        self._labels = ["" if text is None else str(text) for text in rows.with_format(None)[options.text]]
        if not self._labels:
            raise DataError(f"HuggingFace: {options.path} has no rows in its split {options.split}")
        self.groups = [Group(len(self._labels), options.ratio)]

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, index: int) -> str:
        """The text of a row."""
        return self._labels[index]

    def where(self, index: int) -> str:
        """Data set, split and row."""
        return f"{self.source(index)}, row {index}"

    def source(self, index: int) -> str:
        """Data set and split."""
        return f"{self._options.path} ({self._options.split})"

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        return load_image(_picture(self._rows[index][self._options.image], self._folder), reduce=False)

    def missing(self, index: int) -> str | None:
        """Nothing: rows have their images."""
        return None

    def digest(self) -> str:
        """Of the texts, in their order."""
        return digest_of_lines((f"{self._options.path}\t{self._options.split}", *self._labels))


def _load(options: HuggingFace, *, streaming: bool) -> Any:
    """The rows, with images as their files' bytes."""
    import datasets

    path = options.path
    try:
        if Path(path).is_dir() and any((Path(path) / name).exists() for name in ("state.json", "dataset_dict.json")):
            rows = datasets.load_from_disk(path)
            rows = rows[options.split] if isinstance(rows, datasets.DatasetDict) else rows
            rows = rows.to_iterable_dataset() if streaming else rows
        else:
            kind, files = _local(path)
            rows = datasets.load_dataset(
                kind or path,
                options.name,
                split=options.split,
                revision=options.revision,
                streaming=streaming,
                **({"data_files": files} if files else {}),
            )
        for column in (options.image, options.text):
            if rows.column_names is not None and column not in rows.column_names:
                raise DataError(
                    f"HuggingFace: {path} has no column {column!r}, only {show_all(rows.column_names)}: say which ones "
                    f"are image and text"
                )
        return rows.cast_column(options.image, datasets.Image(decode=False))
    except Paddle2TorchError:
        raise
    except Exception as error:  # the library raises what its formats, its network and its servers raise
        raise DataError(f"HuggingFace: {path} cannot be had: {show(str(error), 300)}") from None


def _local(path: str) -> tuple[str | None, str | None]:
    """The format and the file, where `path` is a file of rows; folders are of a format that the library finds."""
    if not Path(path).is_file():
        return None, None
    kind = Path(path).suffix.lower().lstrip(".").replace("jsonl", "json")
    if kind not in _LOCAL_FORMATS:
        raise ConfigError(f"HuggingFace: {path} is no file of rows: {', '.join(_LOCAL_FORMATS)} are read")
    return kind, path


def _own_folder(options: HuggingFace) -> Path | None:
    """The folder of a data set that is on this machine."""
    if not os.path.exists(options.path):
        return None
    path = Path(options.path).resolve()
    return path if path.is_dir() else path.parent


def _picture(value: Any, folder: Path | None) -> bytes | Path:
    """What a cell holds: the bytes of a file, or the path of one in the data set's own folder."""
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(data, bytes):
        return data
    if isinstance(path, str) and path:
        # A data set from outside could name any file of this machine.
        if folder is not None and Path(path).resolve().is_relative_to(folder):
            return Path(path)
        raise ImageError("the row has no image but names a file outside of its data set, which is not read")
    raise ImageError("the row has no image")


def _taken(options: HuggingFace) -> TarShards:
    """The first samples of a stream, as a tar in the cache: taken once, read in any order."""
    told = repr(
        (options.path, options.name, options.revision, options.split, options.image, options.text, options.take)
    )
    shard = cache_dir() / "streams" / f"{hashlib.sha256(told.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.tar"
    with one_at_a_time(shard, progress=True):
        if not shard.exists():
            make_private(shard.parent)
            with land_file(shard) as temporary:
                _write(options, temporary)
    return TarShards(WebDataset((str(shard),), images=("image",), label="text", ratio=options.ratio))


def _write(options: HuggingFace, path: Path) -> None:
    folder = _own_folder(options)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(_load(options, streaming=True).take(options.take)):
            try:
                picture = _picture(row[options.image], folder)
                data = picture if isinstance(picture, bytes) else picture.read_bytes()
            except (ImageError, OSError):
                data = b""  # it is an unreadable image then, which is counted and named
            text = str(row[options.text] or "").encode("utf-8", "replace")
            for ending, content, most in (("image", data, IMAGE_AT_MOST), ("text", text, LABEL_AT_MOST)):
                member = tarfile.TarInfo(f"{number:09d}.{ending}")
                member.size = len(content[:most])
                tar.addfile(member, io.BytesIO(content[:most]))
