"""Line images to text: PaddleOCR's resizing and batching, the network, greedy decoding.

Facts from PaddleOCR 2.x: `tools/infer/predict_rec.py` (sizes and batches), `ppocr/postprocess/rec_postprocess.py`
(decoding, right-to-left), `ppstructure/utility.py` (word boxes).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from paddle2torch.device import fetch, send
from paddle2torch.model_zoo.config import MOST_PIXELS, CTCDecode, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.tasks.failures import cannot_be_run
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.tasks.interrupts import check_wanted
from paddle2torch.tasks.long_lines import join, pieces_of
from paddle2torch.tasks.right_to_left import logical_order
from paddle2torch.threads import Crew, crew_for, on_cpu, share

Padding = Literal["line", "batch", "alone"]

# Classes of the NRTR head; the characters start at 4.
_NRTR_END = 3
_NRTR_FIRST = 4

# Ideographs and kana: scripts without spaces, of which each character is a word of its own.
_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")


SQUEEZED = 1.2
"""A line that would be squeezed by more, to fit into the widest input (3,200 pixels at a height of 48), is read in
pieces."""


AT_ONCE = 64
"""Lines of `USUAL_WIDTH` that a GPU is given at once: a batch of PaddleOCR's, six lines, leaves most of it idle."""

USUAL_WIDTH = 320


class RecognitionError(Paddle2TorchError):
    """A model cannot be run as a recogniser, or its output cannot be read."""


@dataclass(frozen=True)
class Char:
    """One character, its probability, and its horizontal extent in pixels of the line image.

    CTC tells where a character is, not how wide it is: an extent reaches halfway to the neighbours.
    """

    char: str
    score: float
    start: float
    end: float


@dataclass(frozen=True)
class Line:
    """The text of a line image and its confidence: the mean over `chars`, 0.0 for an empty text."""

    text: str
    score: float
    chars: tuple[Char, ...]

    def to_json(self) -> dict[str, Any]:
        """What `read --json` prints of it."""
        chars = [{"char": char.char, "score": char.score} for char in self.chars]
        return {"text": self.text, "score": self.score, "chars": chars}


@dataclass(frozen=True)
class Word:
    """A word of a line: its text, mean confidence, and horizontal extent in pixels of the line image."""

    text: str
    score: float
    start: float
    end: float


@dataclass(frozen=True)
class Extent:
    """Where a line image is in the network's input, to bring time steps back to its own pixels.

    All in pixels: `width` of the image itself, `resized` of its picture in the input, `padded` of the input.
    """

    width: int
    resized: int
    padded: int


def padded_width(ratio: float, config: RecPreprocess) -> int:
    """Width of the input that PaddleOCR makes for lines of which the widest has this ratio of width to height.

    Without a `max_width`, at most what makes `MOST_PIXELS` with the height: a line 680 times as long as it is high.
    """
    _, height, width = config.image_shape
    width = int(height * max(width / height, ratio))
    return min(MOST_PIXELS // height if config.max_width is None else config.max_width, width)


def resized_width(image: BGRImage, height: int, width: int, config: RecPreprocess) -> int:
    """Width of the image's picture in an input of `height` x `width`: its aspect ratio kept, at most `width`; or
    stretched to that, without `keep_ratio`.
    """
    if not config.keep_ratio:
        return width
    return min(width, math.ceil(height * (image.shape[1] / image.shape[0])))


def resize_norm(
    image: BGRImage,
    height: int,
    width: int,
    config: RecPreprocess,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Resize a line to `height`, normalise it, pad it on the right with zeros: float32 (3, height, width).

    `image` is uint8 (H, W, 3), BGR. The values are PaddleOCR's bit for bit: bilinear without antialiasing,
    `(v / 255 - 0.5) / 0.5` in float32, and padding after normalising, which makes it grey and not black. `out`, where
    given, is written and returned: a row of the batch.
    """
    if out is None:
        out = np.empty((3, height, width), np.float32)
    used = resized_width(image, height, width, config)
    resized = cv2.resize(image, (used, height), interpolation=cv2.INTER_LINEAR)
    if config.channel_order == "RGB":
        resized = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
    out[:, :, :used] = cv2.LUT(resized, _normalised(config)).transpose(2, 0, 1)
    out[:, :, used:] = 0
    return out


@functools.lru_cache(maxsize=8)
def _normalised(config: RecPreprocess) -> npt.NDArray[np.float32]:
    """Each of the 256 values, normalised, for each of the channels: float32 (1, 256, 3)."""
    values = (np.arange(256) * config.scale).astype(np.float32)[None, :, None]
    mean: npt.NDArray[np.float32] = np.array(config.mean, np.float32)
    std: npt.NDArray[np.float32] = np.array(config.std, np.float32)
    return (values - mean) / std


WINDOW = 32
"""Batches that `Recognizer.stream` takes at a time: enough that lines of a width find each other."""


class Recognizer:
    """Reads line images with a recogniser in eval form.

    `model` maps float32 (N, 3, H, W) to probabilities (N, T, classes); it is run where its parameters are and in their
    dtype, on `device` if one is given (it is moved there). `batch_size` is the most lines that run at once.

    A recogniser sees the padding to the right of a line, so that its text can depend on how wide the input is.
    `padding` says who decides:

    - "line" (default): each line has the width that PaddleOCR gives it when it is read alone, and only lines of the
      same width share a batch. A text never depends on what else is read with it. Short lines (up to 320 pixels at
      height 48) all have the same width, and run in full batches.
    - "batch": as PaddleOCR 2 reads the lines of a page: sorted by aspect ratio, `batch_size` at a time (6 by default in
      both), each batch as wide as its widest line. For texts equal to its pipeline.
    - "alone": as PaddleOCR 3 does it. The batches are the same, but each picture has the width that it has alone, which
      of a long line is rounded down where "batch" rounds up.

    A line that is so long that PaddleOCR would squeeze it is read in pieces, see `long_lines`.

    Raises `RecognitionError` for a model in training mode, or of other classes than its configuration has.
    """

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        *,
        batch_size: int = 6,
        padding: Padding = "line",
        device: torch.device | str | None = None,
        at_once: int | None = None,
    ) -> None:
        if not isinstance(config, ModelConfig):  # a program, as `load_pretrained` may give
            raise ConfigError(f"{config.name} is a program, which does not say how lines go in and texts come out")
        if config.charset is None or not isinstance(config.preprocess, RecPreprocess):
            raise ConfigError(f"{config.name} is not a recogniser (task {config.task!r})")
        for name, number in (("batch_size", batch_size), ("at_once", at_once)):
            if number is not None and number < 1:
                raise ConfigError(f"{name} is at least 1, not {number}")
        if padding not in get_args(Padding):
            raise ConfigError(f"padding is one of {', '.join(get_args(Padding))}, not {padding!r}")
        self.model = model if device is None else model.to(device)
        self.config = config
        self.preprocess = config.preprocess
        self.charset = config.charset
        self.right_to_left = isinstance(config.postprocess, CTCDecode) and config.postprocess.right_to_left
        self.batch_size = batch_size
        self.at_once = at_once
        self.padding = padding

    def __call__(self, images: Sequence[BGRImage]) -> list[Line]:
        """Read uint8 BGR images (H, W, 3), each of one line: one `Line` per image, in the order of the images.

        On a CPU the batches are run side by side, on as many threads as PyTorch uses.
        """
        with crew_for([self.model]) if len(images) > self.batch_size else nullcontext() as crew:
            (lines,) = self.read_groups([images], crew=crew)
        return lines

    def read_groups(self, groups: Sequence[Sequence[BGRImage]], *, crew: Crew | None = None) -> list[list[Line]]:
        """Read groups of line images, such as those of several pages: for each group what a call with it alone gives.

        The batches are those that each group has by itself. Where several of them are of one width and have no more
        than `batch_size` lines together, or `at_once`, they run as one, which a line does not see. crew: threads to run
        them on.
        """
        loaded: list[list[BGRImage]] = []
        found: list[dict[int, Line]] = []
        parts: dict[int, list[list[tuple[int, int]]]] = {}
        for group, images in enumerate(groups):
            if isinstance(images, np.ndarray) and images.ndim < 4:
                raise ImageError("a recogniser takes a list of images; put the one image into a list")
            loaded.append([load_image(image) for image in images])
            found.append({})
            for indices, width in self._batches([image.shape[1] / image.shape[0] for image in loaded[group]]):
                parts.setdefault(width, []).append([(group, index) for index in indices])
        # The widest first: what is left for the end is little.
        runs = [(places, width) for width in sorted(parts)[::-1] for places in _filled(parts[width], self._most(width))]

        def read(run: tuple[list[tuple[int, int]], int]) -> list[Line]:
            return self._read([loaded[group][index] for group, index in run[0]], run[1])

        for (places, _), lines in zip(runs, share(crew, read, runs), strict=True):
            for (group, index), line in zip(places, lines, strict=True):
                found[group][index] = line
        for images, lines_of in zip(loaded, found, strict=True):
            # Read with the others all the same: PaddleOCR's batches are as wide as their longest line.
            lines_of.update(
                (index, self._read_long(image)) for index, image in enumerate(images) if self.is_long(image)
            )
        return [[lines_of[index] for index in range(len(lines_of))] for lines_of in found]

    def is_long(self, image: BGRImage) -> bool:
        """Whether a line is read in pieces."""
        ratio = image.shape[1] / image.shape[0]
        return self.preprocess.image_shape[1] * ratio > SQUEEZED * padded_width(ratio, self.preprocess)

    def _read_long(self, image: BGRImage) -> Line:
        """A line that would be squeezed: in pieces."""
        pieces = pieces_of(image)
        readings = []
        for piece in pieces:
            part = np.ascontiguousarray(image[:, piece.left : piece.right])
            (line,) = self._read([part], padded_width(part.shape[1] / part.shape[0], self.preprocess), turned=False)
            readings.append(
                [replace(char, start=char.start + piece.left, end=char.end + piece.left) for char in line.chars]
            )
        chars = join(readings, pieces, image.shape[0])
        score = sum(char.score for char in chars) / len(chars) if chars else 0.0
        return line_of(chars, score, right_to_left=self.right_to_left)

    def stream(self, images: Iterable[BGRImage]) -> Iterator[Line]:
        """Read images as they come, a `Line` each, in order: as many in memory as `WINDOW` batches hold.

        With the padding "line" the results are those of one call. With "batch" each window is sorted by itself.
        """
        rest = iter(images)
        while window := list(islice(rest, WINDOW * self.batch_size)):
            yield from self(window)

    def _batches(self, ratios: Sequence[float]) -> Iterator[tuple[list[int], int]]:
        """Indices of the lines that run together, and the width of their input."""
        order = sorted(range(len(ratios)), key=ratios.__getitem__)
        batch: list[int] = []
        for index in order:
            full = len(batch) == self.batch_size
            alike = not batch or self.padding != "line" or self._width(ratios, batch) == self._width(ratios, [index])
            if full or not alike:
                yield batch, self._width(ratios, batch)
                batch = []
            batch.append(index)
        if batch:
            yield batch, self._width(ratios, batch)

    def _most(self, width: int) -> int:
        """How many lines of that width run at once."""
        at_once = self.at_once or (1 if on_cpu([self.model]) else AT_ONCE)
        return max(self.batch_size, at_once * min(USUAL_WIDTH, width) // width)

    def _width(self, ratios: Sequence[float], indices: list[int]) -> int:
        return padded_width(ratios[indices[-1]], self.preprocess)

    def _read(self, images: Sequence[BGRImage], width: int, *, turned: bool = True) -> list[Line]:
        """Lines in an input of that width; without `turned` those of right-to-left scripts as they are seen."""
        height = self.preprocess.image_shape[1]
        batch = np.zeros((len(images), 3, height, width), np.float32)
        extents = []
        for image, row in zip(images, batch, strict=True):
            most = width
            if self.padding == "alone":
                most = padded_width(image.shape[1] / image.shape[0], self.preprocess)
            resize_norm(image, height, most, self.preprocess, row[:, :, :most])
            extents.append(Extent(image.shape[1], resized_width(image, height, most, self.preprocess), width))
        ids, scores = self._best(torch.from_numpy(batch))
        return decode_ctc(ids, scores, self.charset, extents, right_to_left=self.right_to_left and turned)

    def _best(self, batch: torch.Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The best class of each time step and its probability, both (N, T)."""
        if self.model.training:
            raise RecognitionError(f"{self.config.name} is in training mode: call model.eval() before reading with it")
        check_wanted()
        parameter = next(self.model.parameters(), batch)
        # Compiled, it need not make the probabilities of all other classes.
        best_classes = getattr(self.model, "best_classes", None)
        with torch.inference_mode():
            try:
                found = (best_classes or self.model)(send(batch, parameter.device, parameter.dtype))
            except RuntimeError as error:
                raise RecognitionError(cannot_be_run(self.config.name, batch, error)) from None
            classes = (self.model.classes,) if best_classes else found.shape[2:]
            shape = (*found.shape[:2], *classes)
            if len(shape) != 3 or shape[0] != len(batch) or shape[2] != len(self.charset) + 1:
                raise RecognitionError(
                    f"{self.config.name} gives {shape} for {len(batch)} lines; expected {len(batch)} x steps x "
                    f"{len(self.charset) + 1} classes (a blank and the {len(self.charset)} characters)"
                )
            if best_classes:
                ids, scores = found[..., 0].long().numpy(), found[..., 1].numpy()
            else:
                ids, scores = _best_of(found.float())
        if not np.isfinite(scores).all():
            raise RecognitionError(
                f"{self.config.name} gives probabilities that are not numbers (NaN): its weights are broken, or "
                f"{str(parameter.dtype).removeprefix('torch.')} is too narrow for them"
            )
        return ids, scores


def _best_of(probabilities: torch.Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The best class of each step and its probability, of float32 (N, T, classes). A NaN wins."""
    if probabilities.device.type != "cpu":
        # On the device, so that two numbers per step come back, at once, and not one per class.
        scores, ids = probabilities.max(dim=2)
        found = fetch(torch.stack((scores, ids.to(scores.dtype))))  # a float32 for each class
        return found[1].astype(np.int64), found[0]
    values = fetch(probabilities)  # NumPy finds a maximum seven times as fast as PyTorch
    places = values.argmax(axis=2)
    return places, np.take_along_axis(values, places[..., None], axis=2)[..., 0]


def _filled(batches: Iterable[list[tuple[int, int]]], most: int) -> Iterator[list[tuple[int, int]]]:
    """Batches joined to such of at most `most` lines, none of them divided."""
    joined: list[tuple[int, int]] = []
    for batch in batches:
        if joined and len(joined) + len(batch) > most:
            yield joined
            joined = []
        joined = joined + batch
    if joined:
        yield joined


def run_starts(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Where the class of a step (N, T) differs from that of the step before it: repeats are one character."""
    starts = np.ones(ids.shape, bool)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return starts


def decode_ctc(
    ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    charset: Sequence[str],
    extents: Sequence[Extent],
    *,
    right_to_left: bool = False,
) -> list[Line]:
    """Greedy CTC: a step is kept where it differs from the step before it and is not the blank, class 0.

    `ids` and `scores` (N, T) are the best class of each step and its probability; class i is `charset[i - 1]`. With
    `right_to_left` a line comes in the order in which it is read (`tasks.right_to_left`): the network sees it from the
    left. PaddleOCR's own rule for Arabic knows no Arabic-Indic digits, commas or addresses.
    """
    starts = run_starts(ids)
    kept = starts & (ids != 0)
    # The end of a run is the start of the next one.
    steps = np.arange(ids.shape[1])
    following = np.where(starts, steps, ids.shape[1])
    ends = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    ends = np.concatenate([ends[:, 1:], np.full((len(ids), 1), ids.shape[1])], axis=1)

    lines = []
    for row, extent in enumerate(extents):
        first = np.flatnonzero(kept[row])
        found = scores[row, first]
        pixels_per_step = extent.padded / ids.shape[1] * extent.width / extent.resized
        left, right = _spread((first + ends[row, first]) / 2 * pixels_per_step, extent.width)
        chars = tuple(
            Char(charset[index - 1], float(score), float(start), float(end))
            for index, score, start, end in zip(ids[row, first], found, left, right, strict=True)
        )
        lines.append(line_of(chars, float(found.mean()) if len(found) else 0.0, right_to_left=right_to_left))
    return lines


def line_of(chars: Sequence[Char], score: float, *, right_to_left: bool) -> Line:
    """A line of characters that stand from left to right; with `right_to_left` in the order in which it is read."""
    if right_to_left:
        order = logical_order([char.char for char in chars])
        chars = tuple(replace(chars[place], char=character) for place, character in order)
    return Line("".join(char.char for char in chars), score, tuple(chars))


def _spread(centres: npt.NDArray[np.float64], width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """From the characters' centres to their left and right ends, which meet halfway and are inside the image.

    Across a gap that holds no character an end goes no further than the line's usual distance between characters. The
    outer sides of a line are as wide as the inner sides of the same characters, and at least half that distance. A
    single character fills the line.
    """
    if len(centres) < 2:
        return np.zeros(len(centres)), np.full(len(centres), float(width))
    middle = (centres[:-1] + centres[1:]) / 2
    usual = np.median(np.diff(centres))
    left, right = np.empty_like(centres), np.empty_like(centres)
    left[1:] = np.maximum(middle, centres[1:] - usual)
    right[:-1] = np.minimum(middle, centres[:-1] + usual)
    left[0] = centres[0] - max(right[0] - centres[0], usual / 2)
    right[-1] = centres[-1] + max(centres[-1] - left[-1], usual / 2)
    return np.clip(left, 0, width), np.clip(right, 0, width)


def words(line: Line) -> list[Word]:
    """The words of a line: the texts between spaces, and each ideograph and kana by itself.

    Unlike PaddleOCR's word boxes, which leave out all but letters, digits and ideographs, signs stay with the word
    they are written at.
    """
    groups: list[list[Char]] = [[]]
    for char in line.chars:
        if char.char.isspace():
            groups.append([])
        elif _UNSPACED.fullmatch(char.char):
            groups += [[char], []]
        else:
            groups[-1].append(char)
    return [
        Word(
            text="".join(char.char for char in group),
            score=sum(char.score for char in group) / len(group),
            start=min(char.start for char in group),
            end=max(char.end for char in group),
        )
        for group in groups
        if group
    ]


def decode_nrtr(
    ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], charset: Sequence[str]
) -> list[tuple[str, float]]:
    """Text and mean probability of what the NRTR head decoded; 0.0 where it decoded no character.

    `ids` and `scores` are (N, L). Class 0 is padding, 1 unknown, 2 the start, 3 the end, class i the character i - 4.
    The head has one class more than there are characters to it, which stands for none. What follows the first end is
    ignored.
    """
    before_end = np.cumsum(ids == _NRTR_END, axis=1) == 0
    kept = before_end & (ids >= _NRTR_FIRST) & (ids < _NRTR_FIRST + len(charset))
    return [
        (
            "".join(charset[index - _NRTR_FIRST] for index in row[keep]),
            float(found[keep].mean()) if keep.any() else 0.0,
        )
        for row, found, keep in zip(ids, scores, kept, strict=True)
    ]
