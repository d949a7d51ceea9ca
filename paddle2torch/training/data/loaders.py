"""Batches for training and evaluation, from the settings of `config.json`.

    loader = build_loader(settings.data.train, model, training=True, seed=1024)
    loader.set_epoch(3, start_batch=17)
    for batch in loader:
        ...
    print(loader.report)

A sample depends on (seed, epoch, index) alone: not on the number of workers, nor on who loaded what before. What cannot
be used is counted in the report and, as in PaddleOCR, replaced: in training by a sample drawn at random, so that none
stands for a whole gap, in evaluation by the next one that can be used. With `each_once` nothing takes its place.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paddle2torch.model_zoo.config import MOST_PIXELS, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.strict_json import from_json, to_json, unknown_key
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.tasks.geometry import WARP_LIMIT
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.det_transforms import (
    CopyPaste,
    DetLabelEncode,
    DetResizeForTest,
    EastRandomCropData,
    IaaAugment,
    MakeBorderMap,
    MakeShrinkMap,
    NormalizeImage,
    Page,
    PageRequest,
    ToCHWImage,
)
from paddle2torch.training.data.drops import DataError, DropReport, Event, Reason, Rejected
from paddle2torch.training.data.encode import Guide, LabelEncoder
from paddle2torch.training.data.labels import Group, LabelFiles, Samples, parse_boxes
from paddle2torch.training.data.lmdb import LmdbFolders
from paddle2torch.training.data.rec_transforms import (
    CTCLabelEncode,
    Encode,
    Line,
    LineRequest,
    MultiLabelEncode,
    RecAug,
    RecConAug,
    RecResizeImg,
    resize_line,
)
from paddle2torch.training.data.samplers import (
    FixedBatches,
    MultiScaleBatches,
    Plan,
    Request,
    epoch_size,
    sample_generator,
)
from paddle2torch.training.data.v6_transforms import ColorJitter, RandomCrop, RandomPerspective
from paddle2torch.training.settings import DatasetSettings, SplitSettings, Transform

Batch: TypeAlias = "dict[str, Tensor]"
Values: TypeAlias = "dict[str, NDArray[np.generic]]"

LineTransform: TypeAlias = "Callable[[Line, LineRequest], Line]"
PageTransform: TypeAlias = "Callable[[Page, PageRequest], Page]"

LINE_PIXELS = 2**24
"""A line image with more (30,000 x 559) is not text but a page; augmenting it would take gigabytes."""

SQUEEZED = 4
"""From this factor on, a line that is made narrower than its aspect ratio is reported."""

ATTEMPTS = 100
"""At least this many samples are tried for a request, all of them where there are more: in a small set, chance may have
joined every line to be too long.
"""

LOOKING_SECONDS = 20.0
"""For looking which images are there before training: of a million files on a local disk all, of a slow one a part."""

T = TypeVar("T")


_GUIDE_KEYS: Mapping[Guide | None, str] = {"NRTR": "label_gtc", "SAR": "label_sar"}
_MAKES = {
    "label_gtc": "MultiLabelEncode with gtc_encode NRTRLabelEncode",
    "label_sar": "MultiLabelEncode without gtc_encode",
}


@dataclass(frozen=True)
class Loaded:
    """One sample's values, None where it cannot be used and none takes its place, and what happened on the way."""

    values: Values | None
    events: tuple[Event, ...]
    replaced: bool = False


class _Samples(Dataset[Loaded], abc.ABC):
    """Samples by request. `known` has those whose labels cannot be used.

    each_once: what cannot be used is left out; the others have their `index` as a value. training: another sample,
    drawn at random, takes the place of what cannot be used, otherwise the next one.
    """

    def __init__(self, samples: Samples, seed: int, each_once: bool, training: bool) -> None:
        self.samples = samples
        self.seed = seed
        self.each_once = each_once
        self.training = training
        self.known: dict[int, Event] = {}
        self.report = DropReport(len(samples), unseen=len(samples), digest=samples.digest())

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, request: Request) -> Loaded:
        rng = sample_generator(self.seed, request)
        events: list[Event] = []
        for attempt, index in enumerate(self._tries(request)):
            try:
                values = self._load(index, request, rng, events)
            except Exception as error:  # one sample never ends the run
                events.append(self._event(index, _rejected(error)))
                if self.each_once:
                    return Loaded(None, tuple(events))
            else:
                if self.each_once:
                    values["index"] = np.array(index, dtype=np.int64)
                return Loaded(values, tuple(events), replaced=attempt > 0)
        raise DataError(f"none of the {len(self):,} samples can be used; the last one: {events[-1].message}")

    def _tries(self, request: Request) -> Iterator[int]:
        """The sample that was asked for, then others, until all have had their turn."""
        yield request.index
        start = request.index + 1
        if self.training:
            # Not the sample's own random numbers: they would be others for a sample that stands for this one.
            draws = np.random.default_rng([self.seed, request.epoch, request.index, 2])
            for _ in range(ATTEMPTS):
                yield int(draws.integers(len(self)))
            start = int(draws.integers(len(self)))
        for step in range(max(len(self), ATTEMPTS)):
            yield (start + step) % len(self)

    def look(self, seconds: float) -> None:
        """Look which images are there, as far as that goes in so many seconds; those that are not become known."""
        end = time.monotonic() + seconds
        # Evenly over all, should the time not be enough.
        for done, index in enumerate(np.random.default_rng(self.seed).permutation(len(self)).tolist(), 1):
            if index not in self.known and (reason := self.samples.missing(index)) is not None:
                self._know(index, Rejected(Reason.UNREADABLE, reason))
            self.report.unseen = len(self) - done
            if time.monotonic() > end:
                break

    def label(self, index: int) -> str:
        """What is evaluated of a sample's label."""
        return self.samples.label(index)

    def check(self) -> None:
        """Look for one sample that can be used; raises `DataError` with the report where none can."""
        for index in range(len(self)):
            try:
                self._read(index, np.random.default_rng(self.seed))
            except Rejected as rejected:
                self.report.add(self._event(index, rejected))
            else:
                return
        raise DataError(f"not one sample can be used. {self.report}")

    def _event(self, index: int, rejected: Rejected) -> Event:
        return self.known.get(index) or Event(index, rejected.reason, f"{self.samples.where(index)}: {rejected}")

    def _know(self, index: int, rejected: Rejected) -> None:
        self.known[index] = self._event(index, rejected)
        self.report.add(self.known[index])

    def _note(self, index: int, reason: Reason, message: str) -> None:
        self.report.add(Event(index, reason, f"{self.samples.where(index)}: {message}"))

    def _read(self, index: int, rng: np.random.Generator) -> BGRImage:
        if index in self.known:
            raise Rejected(self.known[index].reason, self.known[index].message)
        try:
            image = self.samples.image(index, rng)
        except Exception as error:
            raise _rejected(error) from None
        problem = self._problem(image)
        if problem:
            raise Rejected(Reason.UNREADABLE, f"the image of {image.shape[1]} x {image.shape[0]} pixels {problem}")
        return image

    def _other(self, read: Callable[[int], T], rng: np.random.Generator) -> T:
        for _ in range(ATTEMPTS):
            try:
                return read(int(rng.integers(len(self))))
            except Rejected:
                continue
        raise Rejected(Reason.UNREADABLE, f"{ATTEMPTS} random samples in a row, to be joined to it, are unusable")

    @abc.abstractmethod
    def _load(self, index: int, request: Request, rng: np.random.Generator, events: list[Event]) -> Values:
        """One sample, or `Rejected`; what is only worth noting is added to `events`."""

    @abc.abstractmethod
    def _problem(self, image: BGRImage) -> str | None:
        """What is wrong with the size of an image."""


def _rejected(error: Exception) -> Rejected:
    """Why a sample cannot be used, whatever its image or label ran into."""
    return error if isinstance(error, Rejected) else Rejected(Reason.UNREADABLE, what_went_wrong(error))


class Lines(_Samples):
    """Line images and their texts, for recognisers.

    `transforms` follow the decoding; other lines pass the first `for_others` of them. `size` is (width, height) where a
    request has none; with `whole`, longer lines keep their aspect ratio.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: Sequence[LineTransform],
        encoder: LabelEncoder,
        preprocess: RecPreprocess,
        keys: Sequence[str],
        *,
        size: tuple[int, int] | None,
        whole: bool = False,
        for_others: int = 0,
        seed: int = 0,
        each_once: bool = False,
        training: bool = False,
    ) -> None:
        super().__init__(samples, seed, each_once, training)
        self.transforms = transforms
        self.for_others = for_others
        self.preprocess = preprocess
        self.keys = keys
        self.size = size
        self.whole = whole
        self.encoder = encoder
        for index in range(len(samples)):
            text = samples.label(index)
            outside = encoder.outside(text)
            try:
                encoder.places(text)
            except Rejected as rejected:
                # To be evaluated, a text need not be short enough to be trained on, nor known to the model.
                if not each_once or rejected.reason is Reason.EMPTY:
                    self._know(index, rejected)
                    continue
            if outside:
                self.report.outside.update(outside)
                self._note(index, Reason.LACKING, f"{text!r} has {', '.join(map(repr, dict.fromkeys(outside)))}")

    def label(self, index: int) -> str:
        """The text, in small letters where the encoder makes them so."""
        return self.encoder.text(self.samples.label(index))

    def _problem(self, image: BGRImage) -> str | None:
        if image.shape[0] * image.shape[1] > LINE_PIXELS:
            return f"is not a line: at most {LINE_PIXELS:,} are read"
        return None

    def _load(self, index: int, request: Request, rng: np.random.Generator, events: list[Event]) -> Values:
        size = request.size or self.size
        assert size is not None
        image = self._read(index, rng)
        if self.whole:
            wide = int(size[1] * image.shape[1] / image.shape[0])
            size = (min(max(size[0], wide), MOST_PIXELS // size[1]), size[1])
        wide = math.ceil(size[1] * (image.shape[1] / image.shape[0]))
        if wide > SQUEEZED * size[0]:
            message = (
                f"{self.samples.where(index)}: {image.shape[1]} x {image.shape[0]} pixels become "
                f"{size[0]} x {size[1]}, {wide / size[0]:.0f} times narrower than they are; cut such lines into parts"
            )
            events.append(Event(index, Reason.SQUEEZED, message))

        def read_other(other: int) -> Line:
            line = Line(self._read(other, rng), self.samples.label(other))
            return self._transform(line, self.transforms[: self.for_others], request_of_line)

        request_of_line = LineRequest(rng, lambda: self._other(read_other, rng))
        try:
            line = self._transform(Line(image, self.samples.label(index)), self.transforms, request_of_line)
        except Rejected as rejected:
            # Alone it is not too long: that was seen when the labels were read.
            reason = Reason.JOINED if rejected.reason is Reason.TOO_LONG else rejected.reason
            raise Rejected(reason, str(rejected)) from None
        # Where each sample is evaluated once, its text is compared as it is.
        label = line.label or self.encoder.blank()
        resized, valid_ratio = resize_line(line.image, size, self.preprocess)
        values: Values = {
            "image": resized,
            "label_ctc": label.ctc,
            "length": np.array(label.length, dtype=np.int64),
            "valid_ratio": np.array(valid_ratio, dtype=np.float32),
        }
        if label.guide is not None:
            values[_GUIDE_KEYS[self.encoder.guide]] = label.guide
        return {key: values[key] for key in self.keys}

    @staticmethod
    def _transform(line: Line, transforms: Sequence[LineTransform], request: LineRequest) -> Line:
        return functools.reduce(lambda line, transform: transform(line, request), transforms, line)


class Pages(_Samples):
    """Pages and the polygons of their lines, for detectors.

    `transforms` follow the decoding; other pages pass the first `for_others` of them.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: Sequence[PageTransform],
        keys: Sequence[str],
        channel_order: Literal["BGR", "RGB"],
        *,
        for_others: int = 0,
        seed: int = 0,
        each_once: bool = False,
        training: bool = False,
    ) -> None:
        super().__init__(samples, seed, each_once, training)
        self.transforms = transforms
        self.keys = keys
        self.channel_order = channel_order
        self.for_others = for_others
        for index in range(len(samples)):
            where = samples.where(index)
            try:
                boxes = parse_boxes(samples.label(index), where)
            except FileFormatError as error:
                self._know(index, Rejected(Reason.MALFORMED, str(error).removeprefix(f"{where}: ")))
            else:
                if not len(boxes.polygons):
                    self._know(index, Rejected(Reason.EMPTY, "the page has no boxes"))

    def _problem(self, image: BGRImage) -> str | None:
        if max(image.shape[:2]) > WARP_LIMIT:
            return f"has a side of more than {WARP_LIMIT:,}, which OpenCV does not rotate"
        return None

    def _load(self, index: int, request: Request, rng: np.random.Generator, events: list[Event]) -> Values:
        def read(number: int) -> Page:
            image = self._read(number, rng)
            if self.channel_order == "RGB":
                image = np.ascontiguousarray(image[:, :, ::-1])
            return Page(image, self.samples.label(number))

        def read_other(other: int) -> Page:
            return self._transform(read(other), self.transforms[: self.for_others], request_of_page)

        request_of_page = PageRequest(rng, lambda: self._other(read_other, rng), request.epoch)
        page = self._transform(read(index), self.transforms, request_of_page)
        values = {
            "image": page.image,
            "threshold_map": page.threshold_map,
            "threshold_mask": page.threshold_mask,
            "shrink_map": page.shrink_map,
            "shrink_mask": page.shrink_mask,
            "shape": page.shape,
            "polys": page.polygons.astype(np.float32),
            "ignore_tags": page.ignore,
        }
        return {key: value for key in self.keys if (value := values[key]) is not None}

    @staticmethod
    def _transform(page: Page, transforms: Sequence[PageTransform], request: PageRequest) -> Page:
        return functools.reduce(lambda page, transform: transform(page, request), transforms, page)


class Loader:
    """The batches of one process. Iterating yields those of the epoch that was set last.

    `report` counts what could not be used: of the labels from the start, of the images as they are read.
    """

    def __init__(self, dataset: _Samples, plan: Plan, *, workers: int = 0, pin_memory: bool = False) -> None:
        self.report = dataset.report
        self._dataset = dataset
        self._requests = _Requests(plan)
        self._loader: DataLoader[Loaded] = DataLoader(
            dataset,
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # PyTorch draws a seed for its workers at each start of an epoch: not from the network's random numbers,
            # which would then depend on how often a run was resumed.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of a whole epoch, the same for each epoch and, in training, for each process."""
        return len(self._requests)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """What the next iteration yields: the epoch (from 0), without its first `start_batch` batches."""
        self._requests.epoch = epoch
        self._requests.start_batch = start_batch

    def requests(self) -> Iterator[list[Request]]:
        """Which samples the batches to come ask for."""
        return iter(self._requests)

    def where(self, index: int) -> str:
        """Where a sample is, for messages: file, line, and image."""
        return self._dataset.samples.where(index)

    def label(self, index: int) -> str:
        """The text, or the JSON of the boxes, of a sample."""
        return self._dataset.label(index)

    def __iter__(self) -> Iterator[Batch]:
        with _one_opencv_thread():
            batches = iter(self._loader)
        for batch, events, replaced in batches:
            for event in events:
                self.report.add(event)
            self.report.replaced += replaced
            if batch:
                yield batch


class _Requests:
    """The batches to come, as PyTorch's loader asks for them. It does not refer to the loader: a circle would be
    collected in a forked process, where the loader complains about workers that it does not have.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.epoch = 0
        self.start_batch = 0

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[Request]]:
        return itertools.islice(self._plan.batches(self.epoch), self.start_batch, None)


def _collate(samples: Sequence[Loaded]) -> tuple[Batch, list[Event], int]:
    there = [sample.values for sample in samples if sample.values is not None]
    keys = there[0] if there else ()
    batch = {key: torch.from_numpy(np.stack([values[key] for values in there])) for key in keys}
    return batch, [event for sample in samples for event in sample.events], sum(sample.replaced for sample in samples)


def _start_worker(worker: int) -> None:
    # A terminal and a batch system ask all processes to stop: the one that trains ends them, behind its step.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # A process per worker is enough. What forked has one thread already, see `_one_opencv_thread`.
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Workers that fork here get an OpenCV without threads of its own.

    Threads do not fork, but OpenCV's list of them does: a worker that uses them, or only sets their number, would wait
    for them for ever.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def build_loader(
    split: SplitSettings,
    model: ModelConfig,
    *,
    training: bool,
    max_text_length: int = 25,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    each_once: bool = False,
) -> Loader:
    """The batches of a split for one of `world_size` processes, as dicts of tensors.

    Recognisers: `image` float32 (N, 3, H, W), `label_ctc` and `label_gtc` int64 (N, max_text_length), `length` int64
    (N,), `valid_ratio` float32 (N,); `label_sar` in place of `label_gtc` for SAR, neither for CTC alone. Detectors in
    training: `image` float32 (N, 3, H, W), and float32 (N, H, W) `threshold_map`, `threshold_mask`, `shrink_map`,
    `shrink_mask`. In evaluation, one page at a time: `image`, `polys` float32 (1, P, K, 2), `ignore_tags` bool (1, P),
    and `shape` float32 (1, 4): height and width of the page, and by how much both were scaled.

    each_once: nothing takes the place of what cannot be used, and labels may be longer than `max_text_length` or have
    characters that the set lacks; batches, which may be smaller, then have `index` int64 (N,).

    Not to be given to `accelerate`'s `prepare`: it already knows the processes.

    Raises `ConfigError` for transforms that are unknown or do not fit, `DataError` and `FileFormatError` for data that
    is missing, malformed or of no use.
    """
    if seed < 0:
        raise ConfigError(f"the seed of the data must be 0 or more, not {seed}")
    samples = _samples(split.dataset)
    if model.task == "rec":
        dataset: _Samples = _lines(split, model, samples, max_text_length, seed, each_once, training)
    elif model.task == "det":
        dataset = _pages(split, model, samples, seed, training, each_once)
    else:
        raise ConfigError(f"{model.name}: there is no training data for models of task {model.task!r}")
    plan: Plan
    if split.sampler is not None:
        if not training:
            raise ConfigError("a sampler of several sizes is for training: evaluation has one size")
        sampler = split.sampler
        plan = MultiScaleBatches(
            samples.groups,
            sampler.scales,
            sampler.first_bs,
            fix_bs=sampler.fix_bs,
            divided_factor=sampler.divided_factor,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
    else:
        plan = FixedBatches(
            samples.groups,
            split.loader.batch_size_per_card,
            training=training,
            shuffle=split.loader.shuffle,
            drop_last=split.loader.drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
    if training and not len(plan):
        raise DataError(
            f"an epoch has no batch: {epoch_size(samples.groups)} samples, {world_size} process(es) with "
            f"{split.loader.batch_size_per_card} each per batch, and drop_last leaves out what is not full. Take a "
            f"smaller batch_size_per_card, or set drop_last to false"
        )
    dataset.look(LOOKING_SECONDS)
    dataset.check()
    return Loader(dataset, plan, workers=split.loader.num_workers, pin_memory=pin_memory)


class _NoSamples:
    """Data that is not there yet."""

    groups: Sequence[Group] = ()

    def __len__(self) -> int:
        return 0

    def label(self, index: int) -> str:
        raise IndexError(index)

    def where(self, index: int) -> str:
        raise IndexError(index)

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        raise IndexError(index)

    def missing(self, index: int) -> str | None:
        raise IndexError(index)

    def digest(self) -> str:
        return ""


def check_transforms(split: SplitSettings, model: ModelConfig, *, training: bool, max_text_length: int = 25) -> None:
    """Raise `ConfigError` where `build_loader` would for the transforms of a split, whose data need not be there."""
    if model.task == "rec":
        _lines(split, model, _NoSamples(), max_text_length, 0, False, training)
    else:
        _pages(split, model, _NoSamples(), 0, training, False)


def _samples(settings: DatasetSettings) -> Samples:
    if settings.name == "LMDBDataSet":
        if any(ratio != 1 for ratio in settings.ratio_list):
            raise ConfigError("ratio_list is for label files: an LMDBDataSet is taken as a whole")
        return LmdbFolders(settings.data_dir)
    return LabelFiles(settings.label_file_list, settings.data_dir, settings.ratio_list, settings.delimiter)


@dataclass(frozen=True)
class DecodeImage:
    """Options of DecodeImage: the order of the channels (PaddleOCR's default is RGB)."""

    img_mode: Literal["BGR", "RGB"] = "RGB"
    channel_first: Literal[False] = False


@dataclass(frozen=True)
class KeepKeys:
    """Options of KeepKeys: what a batch has."""

    keep_keys: tuple[str, ...]


def _by_name(*steps: type) -> dict[str, type]:
    return {step.__name__: step for step in steps}


# In the order of the official recipes: the places of the others follow from their inputs and outputs.
REC_STEPS = _by_name(DecodeImage, RecConAug, RecAug, MultiLabelEncode, CTCLabelEncode, RecResizeImg, KeepKeys)
DET_STEPS = _by_name(
    DecodeImage,
    DetLabelEncode,
    CopyPaste,
    ColorJitter,
    IaaAugment,
    RandomPerspective,
    EastRandomCropData,
    RandomCrop,
    DetResizeForTest,
    MakeBorderMap,
    MakeShrinkMap,
    NormalizeImage,
    ToCHWImage,
    KeepKeys,
)

# PaddleOCR's names of what a batch has. CTCLabelEncode's row is called `label` there, and `label_ctc` here too.
_REC_KEYS = ("image", "label_ctc", "label_gtc", "label_sar", "label", "length", "valid_ratio")
_DET_KEYS = (
    "image",
    "threshold_map",
    "threshold_mask",
    "shrink_map",
    "shrink_mask",
    "shape",
    "polys",
    "ignore_tags",
)


def _read_steps(transforms: Sequence[Transform], known: dict[str, type], keys: Sequence[str]) -> dict[str, Any]:
    """The transforms by name, their options read strictly; raises `ConfigError`, also where their order is another."""
    steps: dict[str, Any] = {}
    for transform in transforms:
        if transform.name not in known:
            raise unknown_key(transform.name, known, "transforms")
        if transform.name in steps:
            raise ConfigError(f"transforms: {transform.name} stands there twice")
        steps[transform.name] = from_json(known[transform.name], to_json(transform.options), transform.name)
    order = [name for name in known if name in steps]
    if list(steps) != order:
        raise ConfigError(f"transforms: their order is {', '.join(order)}; found {', '.join(steps)}")
    for name in ("DecodeImage", "KeepKeys"):
        if name not in steps:
            raise ConfigError(f"transforms: {name} is missing")
    for key in steps["KeepKeys"].keep_keys:
        if key not in keys:
            raise unknown_key(key, keys, "KeepKeys: keep_keys")
    return steps


def _check_channels(decode: DecodeImage, order: str, name: str) -> None:
    if decode.img_mode != order:
        raise ConfigError(
            f"DecodeImage: img_mode is {decode.img_mode}, but {name} reads {order} (preprocess.channel_order in "
            f"model_config.json): make both the same"
        )


def _for_others(settings: DatasetSettings, steps: dict[str, Any], joins: str, needed: int) -> int:
    """How many transforms after the decoding the other samples pass that `joins` asks for."""
    if joins not in steps:
        return 0
    place = list(steps).index(joins)
    if not needed <= settings.ext_op_transform_idx <= place:
        raise ConfigError(
            f"ext_op_transform_idx: the samples that {joins} adds pass the first {needed} transforms "
            f"({', '.join(list(steps)[:needed])}), not {settings.ext_op_transform_idx}"
        )
    return settings.ext_op_transform_idx - 1


def _lines(
    split: SplitSettings,
    model: ModelConfig,
    samples: Samples,
    max_text_length: int,
    seed: int,
    each_once: bool,
    training: bool,
) -> Lines:
    steps = _read_steps(split.dataset.transforms, REC_STEPS, _REC_KEYS)
    assert isinstance(model.preprocess, RecPreprocess)
    assert model.charset is not None
    _check_channels(steps["DecodeImage"], model.preprocess.channel_order, model.name)
    encoders = [name for name in ("MultiLabelEncode", "CTCLabelEncode") if name in steps]
    if len(encoders) != 1:
        raise ConfigError("transforms: one of MultiLabelEncode and CTCLabelEncode encodes the labels")
    encode = steps[encoders[0]]
    encoder = LabelEncoder(model.charset, max_text_length, guide=encode.guide, lower=encode.lower)
    resize: RecResizeImg | None = steps.get("RecResizeImg")
    multi_scale = split.dataset.name == "MultiScaleDataSet"
    if multi_scale != (split.sampler is not None) or multi_scale == (resize is not None):
        raise ConfigError(
            "either a MultiScaleDataSet has a sampler, which says how large its images are, and no RecResizeImg, or "
            f"another dataset has a RecResizeImg and no sampler; found {split.dataset.name} "
            f"{'with' if split.sampler else 'without'} a sampler and {'with' if resize else 'without'} RecResizeImg"
        )
    if resize is not None and resize.eval_mode and split.loader.batch_size_per_card != 1:
        raise ConfigError("RecResizeImg: eval_mode gives each line its own width: set batch_size_per_card to 1")
    keys = steps["KeepKeys"].keep_keys
    for key in {"label_gtc", "label_sar"} & set(keys):
        if key != _GUIDE_KEYS.get(encoder.guide):
            raise ConfigError(f"KeepKeys: {encoders[0]} makes no {key}: {_MAKES[key]} does")
    return Lines(
        samples,
        [
            Encode(encoder) if name in encoders else step
            for name, step in steps.items()
            if name not in _NO_TRANSFORM and not (each_once and name in encoders)
        ],
        encoder,
        model.preprocess,
        tuple(dict.fromkeys("label_ctc" if key == "label" else key for key in keys)),
        size=(resize.image_shape[2], resize.image_shape[1]) if resize else None,
        whole=resize is not None and resize.eval_mode,
        for_others=_for_others(split.dataset, steps, "RecConAug", 1),
        seed=seed,
        each_once=each_once,
        training=training,
    )


def _pages(
    split: SplitSettings, model: ModelConfig, samples: Samples, seed: int, training: bool, each_once: bool
) -> Pages:
    steps = _read_steps(split.dataset.transforms, DET_STEPS, _DET_KEYS)
    assert isinstance(model.preprocess, DetPreprocess)
    _check_channels(steps["DecodeImage"], model.preprocess.channel_order, model.name)
    if split.sampler is not None or split.dataset.name == "MultiScaleDataSet":
        raise ConfigError(
            "a detector's pages are of one size: name the dataset SimpleDataSet, and leave out the sampler"
        )
    needed = {
        "DetLabelEncode",
        "NormalizeImage",
        "ToCHWImage",
        ("RandomCrop" if "RandomCrop" in steps else "EastRandomCropData") if training else "DetResizeForTest",
    }
    if missing := needed - set(steps):
        raise ConfigError(f"transforms: {', '.join(sorted(missing))} missing")
    if not training and split.loader.batch_size_per_card != 1:
        raise ConfigError("batch_size_per_card: pages are evaluated one at a time, at their own size; set it to 1")
    made = {"image", "polys", "ignore_tags"}
    made |= {"threshold_map", "threshold_mask"} if "MakeBorderMap" in steps else set()
    made |= {"shrink_map", "shrink_mask"} if "MakeShrinkMap" in steps else set()
    made |= {"shape"} if "DetResizeForTest" in steps else set()
    if missing := set(steps["KeepKeys"].keep_keys) - made:
        raise ConfigError(f"KeepKeys: no transform makes {', '.join(sorted(missing))}")
    normalize: NormalizeImage = steps["NormalizeImage"]
    own = (normalize.factor, *normalize.mean, *normalize.std)
    if not np.allclose(own, (model.preprocess.scale, *model.preprocess.mean, *model.preprocess.std)):
        raise ConfigError(
            f"NormalizeImage: scale, mean and std are not those under preprocess in {model.name}'s model_config.json: "
            f"make both the same"
        )
    return Pages(
        samples,
        [step for name, step in steps.items() if name not in _NO_TRANSFORM],
        steps["KeepKeys"].keep_keys,
        model.preprocess.channel_order,
        for_others=_for_others(split.dataset, steps, "CopyPaste", 2),
        seed=seed,
        each_once=each_once,
        training=training,
    )


_NO_TRANSFORM = ("DecodeImage", "RecResizeImg", "KeepKeys")
"""What a dataset does itself, before and after its transforms."""
