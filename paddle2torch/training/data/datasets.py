"""Lines, pages and images of classes by request: read, transformed, replaced or reported where they are of no use."""

from __future__ import annotations

import abc
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from paddle2torch.model_zoo.config import MOST_PIXELS, ClsPreprocess, RecPreprocess
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.tasks.geometry import WARP_LIMIT
from paddle2torch.tasks.images import BGRImage
from paddle2torch.tasks.orientation import preprocess
from paddle2torch.training.data.det_transforms import Page, PageRequest
from paddle2torch.training.data.drops import DataError, DropReport, Event, Reason, Rejected
from paddle2torch.training.data.encode import Guide, LabelEncoder
from paddle2torch.training.data.labels import Samples, parse_boxes
from paddle2torch.training.data.rec_transforms import Line, LineRequest, resize_line
from paddle2torch.training.data.samplers import Request, sample_generator

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

T = TypeVar("T")
R = TypeVar("R")

CLASSES_SHOWN = 8

GUIDE_KEYS: Mapping[Guide | None, str] = {"NRTR": "label_gtc", "SAR": "label_sar"}


@dataclass(frozen=True)
class Loaded:
    """One sample's values, None where it cannot be used and none takes its place, and what happened on the way."""

    values: Values | None
    events: tuple[Event, ...]
    replaced: bool = False


class SampleDataset(Dataset[Loaded], abc.ABC):
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
        return self.image(index, rng)

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image of a sample, whatever its label, uint8 (H, W, 3), BGR; raises `Rejected`."""
        try:
            image = self.samples.image(index, rng)
        except Exception as error:  # whatever a decoder raises for a file: this one image cannot be used
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


def how_squeezed(shape: Sequence[int], size: tuple[int, int]) -> str | None:
    """What becomes of an image (height, width) that is far too wide for its `size` (width, height)."""
    wide = math.ceil(size[1] * (shape[1] / shape[0]))
    if wide <= SQUEEZED * size[0]:
        return None
    return (
        f"{shape[1]} x {shape[0]} pixels become {size[0]} x {size[1]}, {wide / size[0]:.0f} times narrower than they "
        f"are; cut such lines into parts"
    )


def transformed(sample: T, transforms: Sequence[Callable[[T, R], T]], request: R) -> T:
    """The line or page after all transforms."""
    return functools.reduce(lambda sample, transform: transform(sample, request), transforms, sample)


class Lines(SampleDataset):
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
        if (squeezed := how_squeezed(image.shape[:2], size)) is not None:
            events.append(Event(index, Reason.SQUEEZED, f"{self.samples.where(index)}: {squeezed}"))

        def read_other(other: int) -> Line:
            line = Line(self._read(other, rng), self.samples.label(other))
            return transformed(line, self.transforms[: self.for_others], request_of_line)

        request_of_line = LineRequest(rng, lambda: self._other(read_other, rng))
        try:
            line = transformed(Line(image, self.samples.label(index)), self.transforms, request_of_line)
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
            values[GUIDE_KEYS[self.encoder.guide]] = label.guide
        return {key: values[key] for key in self.keys}


class Pages(SampleDataset):
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
            return transformed(read(other), self.transforms[: self.for_others], request_of_page)

        request_of_page = PageRequest(rng, lambda: self._other(read_other, rng), request.epoch)
        page = transformed(read(index), self.transforms, request_of_page)
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


class Classified(SampleDataset):
    """Images and the names of their classes, for classifiers.

    `transforms` follow the decoding, then each image is brought to the network's input as `preprocess` says. `labels`
    are the model's.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: Sequence[LineTransform],
        preprocess: ClsPreprocess,
        labels: Sequence[str],
        keys: Sequence[str],
        *,
        seed: int = 0,
        each_once: bool = False,
        training: bool = False,
    ) -> None:
        super().__init__(samples, seed, each_once, training)
        self.transforms = transforms
        self.preprocess = preprocess
        self.labels = labels
        self.keys = keys
        self._places = {label: place for place, label in enumerate(labels)}
        for index in range(len(samples)):
            label = samples.label(index)
            if label in self._places:
                continue
            said = ", ".join(map(repr, labels[:CLASSES_SHOWN])) + (", …" if len(labels) > CLASSES_SHOWN else "")
            message = f"{label!r} is none of the model's classes: {said}"
            if each_once:  # never right, and counted
                self._note(index, Reason.NO_CLASS, message)
            else:
                self._know(index, Rejected(Reason.NO_CLASS, message))

    def _problem(self, image: BGRImage) -> str | None:
        if max(image.shape[:2]) > WARP_LIMIT:
            return f"has a side of more than {WARP_LIMIT:,}, which OpenCV does not resize"
        return None

    def _load(self, index: int, request: Request, rng: np.random.Generator, events: list[Event]) -> Values:
        line = Line(self._read(index, rng), self.samples.label(index))
        line = transformed(line, self.transforms, LineRequest(rng, lambda: line))
        values: Values = {
            "image": preprocess(line.image, self.preprocess),
            "label": np.array(self._places.get(line.text, -1), dtype=np.int64),
        }
        return {key: values[key] for key in self.keys}
