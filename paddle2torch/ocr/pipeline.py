"""Reading whole pages: find the lines, cut them out, turn them upright, read them.

The steps are those of PaddleOCR 2 (`tools/infer/predict_system.py`); with its weights it gives its boxes, texts and
scores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from paddle2torch.api import load_pretrained
from paddle2torch.model_zoo.config import DBPostprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.formats import PageText, TextLine, TextWord
from paddle2torch.ocr.pages import Failure, Page, find_sources, read_pages
from paddle2torch.tasks.detection import Box, Detector
from paddle2torch.tasks.geometry import Crop, crop_polygon, crop_quad
from paddle2torch.tasks.images import ImageSource, load_image
from paddle2torch.tasks.orientation import Classifier
from paddle2torch.tasks.recognition import Line, Recognizer, words
from paddle2torch.zoo.models import pipeline_of

Model: TypeAlias = "str | Path | nn.Module"

AUTO = "auto"
"""As `cls`: the classifier that belongs to the recogniser of the language."""

DROP_SCORE = 0.5
"""PaddleOCR's: lines read with less confidence are left out."""

FAST_MIN_WIDTH = 96
"""Pixels to which `fast` pads the shortest lines, where PaddleOCR pads to 320."""

FAST_PAGES = 8
"""Pages whose lines `fast` sorts together: enough that lines of one batch hardly differ in width."""


class OCR:
    """Reads pages of one language.

    >>> lines = OCR(lang="en")("receipt.jpg")
    >>> lines[0].text, lines[0].score, lines[0].box

    lang: chooses the models of the zoo, by any name that PaddleOCR has for a language ("en", "fr", "french", "latin")
    or by its English name; see `paddle2torch.zoo.models.pipeline_of`. Lines of right-to-left scripts come in reading
    order.
    det, rec, cls: other models, by name, by folder, or as loaded (fused, in eval mode); with `cls=None` no line is
    turned that stands on its head. device: where the models are moved; without it a loaded model stays where it is, and
    others are run on the CPU.

    compiled: run what is named by name or folder compiled for this CPU, see `load_pretrained`.

    quantized: run detector and recogniser in int8, where they are named by name or folder; they must have been
    quantized (`paddle2torch.quantize`).

    dtype: what detector and recogniser are run in, where they are named by name or folder: float32, or bfloat16 where
    the processor or the device has it, which costs a little accuracy.

    fast: batches the lines of several pages by width and pads them no more than that needs. PaddleOCR pads every
    line to at least 320 pixels and to the widest of six lines of its page; a recogniser sees padding, so that texts and
    scores of `fast` differ now and then.

    drop_score: lines with a lower score are left out. preprocess, postprocess: in place of the detector's own settings.
    workers: pages that are read at once, each in a thread; the models are shared.
    """

    def __init__(
        self,
        lang: str = "en",
        *,
        det: Model | None = None,
        rec: Model | None = None,
        cls: Model | None = AUTO,
        device: torch.device | str | None = None,
        compiled: bool = False,
        quantized: bool = False,
        dtype: torch.dtype = torch.float32,
        fast: bool = False,
        drop_score: float = DROP_SCORE,
        preprocess: DetPreprocess | None = None,
        postprocess: DBPostprocess | None = None,
        workers: int = 1,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"workers is at least 1, not {workers}")
        form: dict[str, Any] = {"device": device, "compiled": compiled}
        heavy = {**form, "quantized": quantized, "dtype": dtype}
        self.detector = Detector(*_load(pipeline_of(lang).det if det is None else det, **heavy))
        self.detector.preprocess = preprocess or self.detector.preprocess
        self.detector.postprocess = postprocess or self.detector.postprocess
        cls = pipeline_of(lang).cls if cls == AUTO else cls
        self.classifier = None if cls is None else Classifier(*_load(cls, **form))
        self.recognizer = _recognizer(*_load(pipeline_of(lang).rec if rec is None else rec, **heavy), fast)
        self.fast = fast
        self.drop_score = drop_score
        self.workers = workers

    def __call__(self, image: ImageSource) -> list[TextLine]:
        """The lines of one page, in PaddleOCR's order: by y, and by x within a row.

        image: a path, the bytes of a file, a numpy array (BGR) or a PIL image. Raises `ImageError`. For PDFs, and for
        more than one page, see `read`.
        """
        return list(self._recognize([self._prepare(Page("", 1, 1, load_image(image)))])[0].lines)

    def read(self, inputs: Iterable[str | Path]) -> Iterator[PageText | Failure]:
        """Read files, folders, globs, PDFs and `-` (standard input): a result per page, in order, as they are read."""
        return self.read_pages(read_pages(find_sources(inputs)))

    def read_pages(self, pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
        """Read pages as they come: a result each, in order. What is a `Failure` stays one.

        A few pages are in memory at a time, however many there are.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            if not self.fast:
                yield from _in_order(pool, self._read, pages, self.workers + 1)
                return
            window: list[_Prepared | Failure] = []
            for prepared in _in_order(pool, self._prepare_or_fail, pages, self.workers + 1):
                window.append(prepared)
                if len(window) == FAST_PAGES:
                    yield from self._finish(window)
                    window = []
            yield from self._finish(window)

    def _read(self, page: Page | Failure) -> PageText | Failure:
        return page if isinstance(page, Failure) else self._recognize([self._prepare(page)])[0]

    def _prepare_or_fail(self, page: Page | Failure) -> _Prepared | Failure:
        return page if isinstance(page, Failure) else self._prepare(page)

    def _finish(self, window: list[_Prepared | Failure]) -> Iterator[PageText | Failure]:
        texts = iter(self._recognize([page for page in window if isinstance(page, _Prepared)]))
        for page in window:
            yield page if isinstance(page, Failure) else next(texts)

    def _prepare(self, page: Page) -> _Prepared:
        """Everything but reading: boxes and upright crops."""
        boxes = self.detector(page.image)
        cut = crop_polygon if self.detector.postprocess.box_type == "poly" else crop_quad
        crops = [cut(page.image, box.points) for box in boxes]
        if self.classifier is not None:
            directions = self.classifier([crop.image for crop in crops])
            crops = [crop.turned(2) if way.upside_down else crop for crop, way in zip(crops, directions, strict=True)]
        return _Prepared(page, boxes, crops)

    def _recognize(self, prepared: Sequence[_Prepared]) -> list[PageText]:
        lines = iter(self.recognizer([crop.image for page in prepared for crop in page.crops]))
        return [
            PageText(
                source=page.page.source,
                number=page.page.number,
                count=page.page.count,
                image=page.page.image,
                lines=tuple(
                    _text_line(line, box, crop)
                    for box, crop, line in zip(page.boxes, page.crops, islice(lines, len(page.crops)), strict=True)
                    if line.score >= self.drop_score
                ),
            )
            for page in prepared
        ]


@dataclass(frozen=True, eq=False)
class _Prepared:
    page: Page
    boxes: list[Box]
    crops: list[Crop]


def _load(model: Model, device: torch.device | str | None, **form: Any) -> tuple[nn.Module, ModelConfig]:
    network: nn.Module
    if isinstance(model, nn.Module):
        network = model if device is None else model.to(device)
    else:
        network = load_pretrained(model, fused=True, device=device or "cpu", **form)
    config = getattr(network, "config", None)
    if not isinstance(config, ModelConfig):
        raise ConfigError(
            f"{type(model).__name__} has no settings: a model of the pipeline has its ModelConfig as .config"
        )
    return network, config


def _recognizer(model: nn.Module, config: ModelConfig, fast: bool) -> Recognizer:
    if fast and isinstance(config.preprocess, RecPreprocess):
        channels, height, _ = config.preprocess.image_shape
        config = replace(config, preprocess=replace(config.preprocess, image_shape=(channels, height, FAST_MIN_WIDTH)))
    return Recognizer(model, config, padding="batch")


def _text_line(line: Line, box: Box, crop: Crop) -> TextLine:
    characters = [char for char in line.chars if not char.char.isspace()]
    found = []
    for word in words(line):
        # The words have the characters of the line in their order, all but the spaces.
        scores: list[float] = []
        text = ""
        while text != word.text:
            char = characters.pop(0)
            text += char.char
            scores.append(char.score)
        found.append(TextWord(word.text, word.score, crop.quad(word.start, word.end), tuple(scores)))
    return TextLine(line.text, line.score, box.points, tuple(found))


Item = TypeVar("Item")
Result = TypeVar("Result")


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """The results of `function` in the order of the items, of which at most `ahead` are worked on or wait.

    The next item is taken (a page loaded) while the pool works on those before.
    """
    running: deque[Future[Result]] = deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) == ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
