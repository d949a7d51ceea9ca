"""Where samples come from besides label files: the sources of a dataset by name, and all of them as one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import from_json, to_json, unknown_key
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.hub_rows import HuggingFace, open_rows
from paddle2torch.training.data.labels import Group, LabelFiles, Samples
from paddle2torch.training.data.lmdb import LmdbFolders
from paddle2torch.training.data.rendered import Rendered, RenderedLines
from paddle2torch.training.data.tar_shards import TarShards, WebDataset
from paddle2torch.training.settings import DatasetSettings, Transform

SOURCES: dict[str, type] = {kind.__name__: kind for kind in (WebDataset, HuggingFace, RenderedLines)}
"""Their options, by name."""


class MixedSamples:
    """Several samples one after another; each epoch takes of each the share that its groups say."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.groups: Sequence[Group] = [group for part in parts for group in part.groups]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _at(self, index: int) -> tuple[Samples, int]:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[place], index - int(self._starts[place])

    def label(self, index: int) -> str:
        """The text, or JSON, of a sample."""
        part, inner = self._at(index)
        return part.label(inner)

    def where(self, index: int) -> str:
        """Where a sample is, for messages."""
        part, inner = self._at(index)
        return part.where(inner)

    def source(self, index: int) -> str:
        """What a sample is of."""
        part, inner = self._at(index)
        return part.source(inner)

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR."""
        part, inner = self._at(index)
        return part.image(inner, rng)

    def missing(self, index: int) -> str | None:
        """Why the image of a sample cannot be read, as far as that is seen without reading it."""
        part, inner = self._at(index)
        return part.missing(inner)

    def digest(self) -> str:
        """Of all digests, in their order."""
        return hashlib.sha256("\n".join(part.digest() for part in self.parts).encode()).hexdigest()


def read_source(source: Transform) -> WebDataset | HuggingFace | RenderedLines:
    """The options of a source, read strictly."""
    if source.name not in SOURCES:
        raise unknown_key(source.name, SOURCES, "sources")
    options: WebDataset | HuggingFace | RenderedLines
    options = from_json(SOURCES[source.name], to_json(source.options), source.name)
    return options


def open_samples(
    settings: DatasetSettings, model: ModelConfig, *, seed: int = 0, malformed: list[str] | None = None
) -> Samples:
    """The samples that a dataset's settings name. malformed: as for `LabelFiles`."""
    parts: list[Samples] = []
    if settings.name == "LMDBDataSet":
        if any(ratio != 1 for ratio in settings.ratio_list):
            raise ConfigError("ratio_list is for label files: an LMDBDataSet is taken as a whole")
        parts.append(LmdbFolders(settings.data_dir))
    elif settings.label_file_list:
        files = settings.label_file_list
        parts.append(LabelFiles(files, settings.data_dir, settings.ratio_list, settings.delimiter, malformed))
    for options in map(read_source, settings.sources):
        if isinstance(options, WebDataset):
            parts.append(TarShards(options))
        elif isinstance(options, HuggingFace):
            parts.append(open_rows(options))
        else:
            if model.charset is None:
                raise ConfigError(f"RenderedLines are for recognisers; {model.name} is a model for {model.task!r}")
            parts.append(Rendered(options, model.charset, seed))
    return parts[0] if len(parts) == 1 else MixedSamples(parts)
