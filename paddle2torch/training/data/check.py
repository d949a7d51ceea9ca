"""The whole data of a training looked at before it starts: `paddle2torch data check`."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paddle2torch.device import available_cores
from paddle2torch.model_zoo.config import ClsPostprocess, ModelConfig
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.names import leads_out
from paddle2torch.model_zoo.show import show_text
from paddle2torch.training.data.datasets import Classified, Lines, Pages, SampleDataset, how_squeezed
from paddle2torch.training.data.drops import OF_THE_SAMPLE, Reason, Rejected
from paddle2torch.training.data.labels import LabelFiles, Samples, parse_boxes
from paddle2torch.training.data.loaders import build_dataset
from paddle2torch.training.data.near import LINE_GRID, PAGE_GRID, content_digest, difference_hash, near_pairs
from paddle2torch.training.data.sources import MixedSamples, open_samples
from paddle2torch.training.metrics import simple
from paddle2torch.training.settings import Settings, SplitSettings

SplitName = Literal["train", "eval"]
SPLITS: tuple[SplitName, SplitName] = ("train", "eval")

EXAMPLES = 20
"""Samples that are named of each finding."""

SELDOM = 5
"""A character that training has less often is told."""

_AT_A_TIME = 512
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


class Kind(Enum):
    """What can be wrong with data, besides the `Reason`s for which a sample is not used as it is."""

    UNOPENED = "data that cannot be opened"
    LINE = "label line that cannot be read"
    LEADS_OUT = "path that leads out of data_dir"
    SHARED = "training image that the evaluation data has too"
    NEARLY_SHARED = "training image that is nearly one of the evaluation data"
    CONFLICT = "image that is there twice, with different labels"
    TWICE = "image that is there twice"
    BOX_OUTSIDE = "box that leaves its page"
    BOX_SHAPE = "box that crosses itself or has no area"
    UNTRAINED = "character of the evaluation data that the training data has not"
    UNTRAINED_CLASS = "class of the evaluation data that the training data has not"
    SELDOM = f"character that the training data has less than {SELDOM} times"
    SELDOM_CLASS = f"class that the training data has less than {SELDOM} times"


NO_FAULTS = (Kind.TWICE, Kind.SELDOM, Kind.SELDOM_CLASS, Kind.BOX_OUTSIDE)
"""Worth knowing; nothing is lost or wrong because of them."""


@dataclass(frozen=True)
class Finding:
    """Something about the data: what, in which split, how often, and the first places. fault: it should be mended."""

    kind: Kind | Reason
    split: SplitName
    count: int
    examples: tuple[str, ...]

    @property
    def fault(self) -> bool:
        """Whether it should be mended."""
        return self.kind not in NO_FAULTS

    def to_json(self) -> dict[str, Any]:
        """As `data check --json` prints it."""
        return {**asdict(self), "kind": self.kind.value, "fault": self.fault}


@dataclass(frozen=True)
class SplitFigures:
    """A split in figures. Quantiles are of `QUANTILES`; lengths and characters are of lines' labels, classes of
    images'.
    """

    samples: int
    width: tuple[float, ...] = ()
    height: tuple[float, ...] = ()
    aspect: tuple[float, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()
    characters: tuple[tuple[str, int], ...] = ()
    boxes: int = 0
    classes: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class DataCheck:
    """What was found, faults first, and both splits in figures.

    untouched: characters of the model's set, or classes of it, that no training label has.
    """

    findings: tuple[Finding, ...]
    splits: dict[SplitName, SplitFigures]
    untouched: tuple[str, ...]
    datasets: dict[SplitName, SampleDataset] = field(repr=False, compare=False)

    @property
    def good(self) -> bool:
        """Whether there is no fault."""
        return not any(finding.fault for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """What `data check --json` prints."""
        return {
            "good": self.good,
            "findings": [finding.to_json() for finding in self.findings],
            "splits": {name: asdict(figures) for name, figures in self.splits.items()},
            "untouched": list(self.untouched),
        }


@dataclass
class _Found:
    """Places by what is wrong there, in the order in which they are found."""

    places: dict[tuple[SplitName, Kind | Reason], list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[tuple[SplitName, Kind | Reason]] = field(default_factory=Counter)

    def add(self, split: SplitName, kind: Kind | Reason, place: str) -> None:
        self.counts[split, kind] += 1
        if len(self.places[split, kind]) < EXAMPLES:
            self.places[split, kind].append(place)

    def findings(self) -> tuple[Finding, ...]:
        order = [*Kind, *Reason]
        found = [
            Finding(kind, split, self.counts[split, kind], tuple(told)) for (split, kind), told in self.places.items()
        ]
        return tuple(sorted(found, key=lambda one: (not one.fault, order.index(one.kind), one.split != "train")))


@dataclass(frozen=True)
class _Seen:
    """An image: its height and width, and what tells it from others; or why it cannot be used."""

    index: int
    problem: str | None = None
    shape: tuple[int, int] = (0, 0)
    digest: bytes = b""
    hash: NDArray[np.bool_] | None = None


def check_data(settings: Settings, config: ModelConfig) -> DataCheck:
    """Look at every label and decode every image of both splits.

    Raises `ConfigError` for transforms that do not fit; whatever is wrong with the data is a finding.
    """
    found = _Found()
    datasets: dict[SplitName, SampleDataset] = {}
    figures: dict[SplitName, SplitFigures] = {}
    seen: dict[SplitName, list[_Seen]] = {}
    for name, split in zip(SPLITS, (settings.data.train, settings.data.eval), strict=True):
        samples = _open(name, split, config, settings.training.seed, found)
        if samples is None:
            continue
        training = name == "train"
        dataset = build_dataset(
            split,
            config,
            samples,
            training=training,
            max_text_length=settings.data.max_text_length,
            seed=settings.training.seed,
            each_once=not training,
        )
        datasets[name] = dataset
        _check_labels(name, dataset, found)
        seen[name] = list(_look(dataset))
        _check_images(name, split, dataset, seen[name], found)
        figures[name] = _figures(dataset, seen[name])
    if len(seen) == 2:
        _check_shared(datasets, seen, found)
    _check_characters(figures, found)
    train = dict((*figures["train"].characters, *figures["train"].classes)) if "train" in figures else {}
    own = config.postprocess.labels if isinstance(config.postprocess, ClsPostprocess) else config.charset or ()
    untouched = tuple(one for one in dict.fromkeys(own) if one not in train)
    return DataCheck(found.findings(), figures, untouched if "train" in figures else (), datasets)


def _open(name: SplitName, split: SplitSettings, config: ModelConfig, seed: int, found: _Found) -> Samples | None:
    malformed: list[str] = []
    try:
        return open_samples(split.dataset, config, seed=seed, malformed=malformed)
    except Paddle2TorchError as error:
        found.add(name, Kind.UNOPENED, str(error))
        return None
    finally:
        for message in malformed:
            found.add(name, Kind.LINE, message)


def _check_labels(name: SplitName, dataset: SampleDataset, found: _Found) -> None:
    """What labels and paths tell by themselves."""
    samples, report = dataset.samples, dataset.report
    for reason in (*OF_THE_SAMPLE, Reason.LACKING):
        for index in sorted(report.indices.get(reason, ())):
            event = dataset.known.get(index)
            told = f"{samples.where(index)}: {show_text(samples.label(index), 60)}" if event is None else event.message
            found.add(name, reason, told)
    for part in samples.parts if isinstance(samples, MixedSamples) else (samples,):
        if not isinstance(part, LabelFiles):
            continue
        for index in range(len(part)):
            if leads_out(part.path(index)):
                found.add(name, Kind.LEADS_OUT, part.where(index))


def _look(dataset: SampleDataset) -> Iterator[_Seen]:
    """Every image, decoded by as many threads as there are cores."""
    grid = LINE_GRID if isinstance(dataset, Lines) else PAGE_GRID

    def look(index: int) -> _Seen:
        try:
            image = dataset.image(index, np.random.default_rng(0))
        except Rejected as rejected:
            return _Seen(index, str(rejected))
        shape = int(image.shape[0]), int(image.shape[1])
        return _Seen(index, None, shape, content_digest(image), difference_hash(image, grid))

    indices = iter(range(len(dataset)))
    with ThreadPoolExecutor(available_cores()) as pool:
        while part := list(itertools.islice(indices, _AT_A_TIME)):
            yield from pool.map(look, part)


def _check_images(
    name: SplitName, split: SplitSettings, dataset: SampleDataset, seen: Sequence[_Seen], found: _Found
) -> None:
    samples = dataset.samples
    widest = None if split.sampler is None else max(split.sampler.scales, key=lambda size: size[0] / size[1])
    first: dict[bytes, int] = {}
    for one in seen:
        where = samples.where(one.index)
        if one.problem is not None:
            found.add(name, Reason.UNREADABLE, f"{where}: {one.problem}")
            continue
        if isinstance(dataset, Lines):
            size = dataset.size or widest
            if size is not None and not dataset.whole and (squeezed := how_squeezed(one.shape, size)):
                found.add(name, Reason.SQUEEZED, f"{where}: {squeezed}")
        elif not isinstance(dataset, Classified):
            _check_boxes(name, samples, one, found)
        if (before := first.setdefault(one.digest, one.index)) != one.index:
            same = samples.label(before) == samples.label(one.index)
            found.add(name, Kind.TWICE if same else Kind.CONFLICT, f"{where} and {samples.where(before)}")


def _check_boxes(name: SplitName, samples: Samples, seen: _Seen, found: _Found) -> None:
    where = samples.where(seen.index)
    try:
        boxes = parse_boxes(samples.label(seen.index), where)
    except FileFormatError:  # it is known already
        return
    height, width = seen.shape
    for number, polygon in enumerate(boxes.polygons, 1):
        if not simple(polygon):
            found.add(name, Kind.BOX_SHAPE, f"{where}, box {number}")
        elif (polygon.min(0) < 0).any() or (polygon.max(0) > (width, height)).any():
            found.add(name, Kind.BOX_OUTSIDE, f"{where}, box {number}")


def _check_shared(datasets: dict[SplitName, SampleDataset], seen: dict[SplitName, list[_Seen]], found: _Found) -> None:
    """Images that are trained on and evaluated: the figures of an evaluation say nothing then."""
    train, evaluation = datasets["train"].samples, datasets["eval"].samples
    usable = [[one for one in seen[name] if one.problem is None] for name in SPLITS]
    known = {one.digest: one.index for one in usable[1]}
    for one in usable[0]:
        if one.digest in known:
            found.add("train", Kind.SHARED, f"{train.where(one.index)} and {evaluation.where(known[one.digest])}")
    rest = [[one for one in usable[0] if one.digest not in known], usable[1]]
    for left, right in _alike(datasets, rest):
        found.add("train", Kind.NEARLY_SHARED, f"{train.where(left.index)} and {evaluation.where(right.index)}")


def _alike(datasets: dict[SplitName, SampleDataset], rest: Sequence[Sequence[_Seen]]) -> Iterator[tuple[_Seen, _Seen]]:
    """Pairs that look nearly the same: of lines and of images of classes, those with the same label."""
    groups: defaultdict[str, tuple[list[_Seen], list[_Seen]]] = defaultdict(lambda: ([], []))
    for side, name in enumerate(SPLITS):
        dataset = datasets[name]
        for one in rest[side]:
            if one.hash is not None:
                label = "" if isinstance(dataset, Pages) else dataset.samples.label(one.index)
                groups[label][side].append(one)
    for some, others in groups.values():
        told: set[int] = set()
        pairs = near_pairs(*([one.hash for one in part if one.hash is not None] for part in (some, others)))
        for left, right in pairs:
            if left not in told:
                told.add(left)
                yield some[left], others[right]


def _check_characters(figures: dict[SplitName, SplitFigures], found: _Found) -> None:
    if len(figures) < 2:
        return
    of_labels = (("characters", Kind.UNTRAINED, Kind.SELDOM), ("classes", Kind.UNTRAINED_CLASS, Kind.SELDOM_CLASS))
    for name, untrained, seldom in of_labels:
        trained = dict(getattr(figures["train"], name))
        for one, count in getattr(figures["eval"], name):
            if one not in trained:
                found.add("eval", untrained, f"{one!r} ({count:,} times)")
        for one, count in trained.items():
            if count < SELDOM:
                found.add("train", seldom, f"{one!r} ({count:,} times)")


def _figures(dataset: SampleDataset, seen: Sequence[_Seen]) -> SplitFigures:
    shapes = np.array([one.shape for one in seen if one.problem is None], dtype=np.float64).reshape(-1, 2)
    quantiles = [
        tuple(round(float(value), 2) for value in np.quantile(values, QUANTILES)) if len(values) else ()
        for values in (shapes[:, 1], shapes[:, 0], shapes[:, 1] / np.maximum(shapes[:, 0], 1))
    ]
    lengths, characters, classes, boxes = Counter[int](), Counter[str](), Counter[str](), 0
    for index in range(len(dataset)):
        label = dataset.label(index)
        if isinstance(dataset, Lines):
            lengths[len(label)] += 1
            characters.update(label)
        elif isinstance(dataset, Classified):
            if label in dataset.labels:
                classes[label] += 1
        elif index not in dataset.known:
            boxes += len(parse_boxes(label, "").polygons)
    width, height, aspect = quantiles
    return SplitFigures(
        len(dataset),
        width,
        height,
        aspect,
        lengths=tuple(sorted(lengths.items())),
        characters=tuple(characters.most_common()),
        boxes=boxes,
        classes=tuple(classes.most_common()),
    )
