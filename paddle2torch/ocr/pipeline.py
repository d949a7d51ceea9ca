"""Reading whole pages: find the lines, cut them out, turn them upright, read them.

The steps are those of PaddleOCR 2 (`tools/infer/predict_system.py`), or of 3 (PaddleX `inference/pipelines/ocr`) where
models of v5 or v6 read; with its weights it returns its boxes, texts and scores.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
import torch
from torch import nn

from paddle2torch.api import load_pretrained
from paddle2torch.device import Precision, available_cores, called_precision, choose_device
from paddle2torch.model_zoo.cards import find_card
from paddle2torch.model_zoo.config import DBPostprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import unknown_key
from paddle2torch.ocr.document import Document
from paddle2torch.ocr.pages import Failure, Page, failure_of, find_sources, is_document, read_pages
from paddle2torch.ocr.results import PageText, TextLine, TextWord
from paddle2torch.tasks.detection import Box, Detector
from paddle2torch.tasks.geometry import (
    Crop,
    Points,
    crop_polygon,
    crop_quad,
    order_clockwise,
    sorted_order,
    turn_points,
)
from paddle2torch.tasks.images import BGRImage, ImageSource, load_image
from paddle2torch.tasks.long_lines import first_of
from paddle2torch.tasks.orientation import Classifier
from paddle2torch.tasks.recognition import AT_ONCE, Line, Padding, Recognizer, words
from paddle2torch.tasks.skew import LevelPage, levelled, skew_of, turned_level
from paddle2torch.threads import Crew, crew_for, on_cpu
from paddle2torch.zoo.models import Generation, generation_of, pipeline_of
from paddle2torch.zoo.pipelines import Part, obtain_pipeline

if TYPE_CHECKING:
    from typing_extensions import Unpack

Model: TypeAlias = "str | Path | nn.Module"

AUTO = "auto"
"""Given as `cls`: the classifier that belongs to the recogniser of the language."""


@dataclass(frozen=True)
class Steps:
    """Where the pipelines of PaddleOCR 2 and 3 differ.

    crop: how a quad is cut out. padding: see `Recognizer`. drop_score: lines read with less confidence are left out.
    limit: of a page's shortest side; thresholds: `thresh`, `box_thresh`, `unclip_ratio`; None for the detector's own.
    """

    crop: Callable[[BGRImage, Points], Crop]
    padding: Padding
    drop_score: float
    limit: int | None = None
    thresholds: tuple[float, float, float] | None = None


STEPS: Mapping[Generation, Steps] = {
    2: Steps(crop_quad, "batch", 0.5),
    # PaddleOCR 3 cuts out the smallest rectangle around a quad, and puts its own settings above the detector's.
    3: Steps(crop_polygon, "alone", 0.0, 64, (0.3, 0.6, 1.5)),
}

FAST_MIN_WIDTH = 96
"""Pixels to which `fast` pads the shortest lines, where PaddleOCR pads to 320."""

FAST_PAGES = 8
"""Pages whose lines `fast` sorts together: enough that lines of one batch hardly differ in width. As many are read
together on a GPU, for batches that are worth it."""


PADDLEOCR_3 = {
    "text_det_limit_side_len": "det_limit_side_len",
    "text_det_limit_type": "det_limit_type",
    "text_det_thresh": "det_db_thresh",
    "text_det_box_thresh": "det_db_box_thresh",
    "text_det_unclip_ratio": "det_db_unclip_ratio",
    "text_rec_score_thresh": "drop_score",
}
"""PaddleOCR 3's names of what PaddleOCR 2, and `OCR`, call otherwise."""


class PaddleOCR3Settings(TypedDict, total=False):
    """The values of those names."""

    text_det_limit_side_len: int | None
    text_det_limit_type: Literal["max", "min", "resize_long"] | None
    text_det_thresh: float | None
    text_det_box_thresh: float | None
    text_det_unclip_ratio: float | None
    text_rec_score_thresh: float | None


MOST_AT_ONCE = 8
"""Pages that are read at once by default: on many cores their memory would otherwise be the limit."""

MOST_ON_DEVICE = 4
"""Pages that are read at once by default with networks on a GPU, whose memory all of them share: others are loaded,
made smaller and cut up while it computes."""

LEAST_SKEW = 2.5
"""Degrees by which a page lies askew from which on its lines are put in the order of the page turned level. With less,
as photographs of upright pages have, they keep PaddleOCR's order."""

MOST_SKEW = 30.0
"""Degrees from which on the page itself is turned level, and its lines looked for again."""

LEVELLED_AT_MOST = 60_000_000
"""Pixels of a page that is turned level; up to twice as many come of it."""

MUCH_SMALLER = 1.5
"""A page that the detector sees this many times smaller is named: small text may be missing."""


class OCR:
    """Reads pages of one language.

    One `OCR` may be called from any number of threads. Lines of right-to-left scripts come in reading order.

    Args:
        lang: chooses the models of the zoo, by any name that PaddleOCR has for a language ("en", "fr", "french",
            "latin") or by its English name; see `paddle2torch.zoo.models.pipeline_of`.
        version: of the models, "v3" to "v6"; by default the newest that PaddleOCR 3 takes for the language. A warning
            says where that version does not read the language, and what is taken. By default, where no source has
            PP-OCRv6 medium, PP-OCRv6 small is taken, which a wheel on PyPI carries; a warning says so.
        det: another detector, by name, by folder, or as loaded (fused, in eval mode). Models of v5 and v6 are run with
            the steps and settings of PaddleOCR 3, which override the settings of a detector that is named; all others
            with those of PaddleOCR 2.
        rec: another recogniser, likewise.
        cls: another classifier of the lines' direction, likewise; with None no line is turned that stands on its head.
        device: where the models are moved, "auto" for a GPU where there is one; without it a loaded model stays where
            it is, and others are run on the CPU.
        compiled: run what is named by name or folder compiled for this CPU, see `load_pretrained`.
        quantized: run detector and recogniser in int8, where they are named by name or folder; they must have been
            quantized (`paddle2torch.quantize`).
        precision: what detector and recogniser are run in, where they are named by name or folder: "fp32", "bf16" where
            the processor or the device has it, which costs a little accuracy, or "fp16" on a GPU.
        dtype: what `precision` was called before.
        fast: batches the lines of several pages by width and pads them no more than that needs. PaddleOCR pads every
            line to at least 320 pixels and to the widest of six lines of its page; a recogniser sees padding, so that
            texts and scores of `fast` differ now and then.
        drop_score: lines with a lower score, 0 to 1, are left out; by default 0.5, as in PaddleOCR 2, or 0, as in 3.
        preprocess: all settings of the detector's input, in place of its own.
        postprocess: all settings of the detector's boxes, in place of its own.
        det_limit_side_len: pixels to which a side of the page is brought for the detector. Without a limit of the
            caller's, pages that are too long or too finely written for PaddleOCR 2's limit are seen in their own size
            (`Detector`, fit).
        det_limit_type: which side that is: "max", the longest, where it is longer; "min", the shortest, where it is
            shorter; "resize_long", the longest.
        det_db_thresh: from which probability on a pixel is text.
        det_db_box_thresh: the least mean probability of a box.
        det_db_unclip_ratio: how far boxes are widened: area by perimeter, times this.
        turn_pages: turn pages that stand on their heads, lie on a side or askew, as most of their lines tell; boxes are
            those of the page as it is, and lines of a page that lies askew come in the order of the level page.
        orientation: a classifier of pages that decides in the lines' place, by name, by folder or as loaded: PaddleOCR
            3's use_doc_orientation_classify, with "PP-LCNet_x1_0_doc_ori".
        workers: pages that are read at once; the models are shared. By default, on a CPU, as many as PyTorch uses
            threads, and at most 8: each page is then read on one thread, and threads without a page help with lines. On
            a GPU at most 4, and the lines of 8 pages are read together.
        batch_size: lines that the classifier and, of the usual width, the recogniser run at once. By default 6 on a CPU
            and 64 on a GPU. PaddleOCR's batches, which decide how wide a line is padded, are kept: those of one width
            are joined.
        paddleocr3: PaddleOCR 3's names of the same: text_det_limit_side_len, text_det_limit_type, text_det_thresh,
            text_det_box_thresh, text_det_unclip_ratio, and text_rec_score_thresh for drop_score.

    Raises:
        ConfigError: for a language, model or setting that is not known, or out of its bounds.
        SourceError: where no source of a model answers.

    Examples:
        >>> lines = OCR(lang="en")("receipt.jpg")
        >>> lines[0].text, lines[0].score, lines[0].box
    """

    def __init__(
        self,
        lang: str = "en",
        *,
        version: str | None = None,
        det: Model | None = None,
        rec: Model | None = None,
        cls: Model | None = AUTO,
        device: torch.device | str | None = None,
        compiled: bool = False,
        quantized: bool = False,
        precision: Precision | torch.dtype = "fp32",
        dtype: torch.dtype | None = None,
        fast: bool = False,
        drop_score: float | None = None,
        preprocess: DetPreprocess | None = None,
        postprocess: DBPostprocess | None = None,
        det_limit_side_len: int | None = None,
        det_limit_type: Literal["max", "min", "resize_long"] | None = None,
        det_db_thresh: float | None = None,
        det_db_box_thresh: float | None = None,
        det_db_unclip_ratio: float | None = None,
        turn_pages: bool = True,
        orientation: Model | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        **paddleocr3: Unpack[PaddleOCR3Settings],
    ) -> None:
        settings: dict[str, Any] = {
            "det_limit_side_len": det_limit_side_len,
            "det_limit_type": det_limit_type,
            "det_db_thresh": det_db_thresh,
            "det_db_box_thresh": det_db_box_thresh,
            "det_db_unclip_ratio": det_db_unclip_ratio,
            "drop_score": drop_score,
            **_names_of_paddleocr3(paddleocr3),
        }
        if workers is not None and workers < 1:
            raise ConfigError(f"workers is at least 1, not {workers}")
        if batch_size is not None and batch_size < 1:
            raise ConfigError(f"batch_size is at least 1, not {batch_size}")
        place = None if device is None else choose_device(device)
        form: dict[str, Any] = {"device": place, "compiled": compiled}
        heavy = {**form, "quantized": quantized, "precision": called_precision(precision, dtype)}
        wanted = _wanted(det, rec, cls)
        chosen = obtain_pipeline(pipeline_of(lang, version), wanted)
        self.chosen = {str(part): str(getattr(chosen, part)) for part in wanted}
        """The models that the language chose, as arguments of another pipeline that is to have the same."""
        self.detector = Detector(*_load(chosen.det if det is None else det, **heavy))
        cls = chosen.cls if cls == AUTO else cls
        self.classifier = None if cls is None else _classifier(*_load(cls, **form), batch_size)
        network, config = _load(chosen.rec if rec is None else rec, **heavy)
        of_language = version is not None or rec is None
        self.steps = STEPS[chosen.generation if of_language else generation_of(config.name)]
        self.recognizer = _recognizer(network, config, fast, self.steps.padding, batch_size)
        if det is None or (isinstance(det, str) and find_card(det) is not None):
            _override(self.detector, self.steps)
        limits = {name: settings[f"det_{name}"] for name in ("limit_side_len", "limit_type")}
        boxes = {name: settings[f"det_db_{name}"] for name in ("thresh", "box_thresh", "unclip_ratio")}
        self.detector.preprocess = _changed(preprocess or self.detector.preprocess, limits)
        self.detector.postprocess = _changed(postprocess or self.detector.postprocess, boxes)
        self.detector.fit = preprocess is None and not any(value is not None for value in limits.values())
        self.turn_pages = turn_pages
        self.orientation = None if orientation is None else _classifier(*_load(orientation, **form), batch_size)
        tasks = {"det": self.detector, "cls": self.classifier, "rec": self.recognizer, "orientation": self.orientation}
        self.models = {task: model.config.name for task, model in tasks.items() if model is not None}
        self.fast = fast
        self.drop_score: float = self.steps.drop_score if settings["drop_score"] is None else settings["drop_score"]
        self.workers = workers

    @overload
    def __call__(self, image: str | Path) -> PageText | Any: ...
    @overload
    def __call__(self, image: ImageSource) -> PageText: ...
    def __call__(self, image: ImageSource) -> PageText | Document:
        """What is read of one page: its lines in PaddleOCR's order, by y, and by x within a row.

        Args:
            image: a path, the bytes of a file, a numpy array (uint8, (height, width) grey, or with 3 or 4 channels, BGR
                or BGRA) or a PIL image. For many files see `read`.

        Returns:
            The page; for the path of a PDF, or of a TIFF of several pages, a `Document`, whose pages are read as they
            are asked for.

        Raises:
            ImageError: for what cannot be read, with the reason.
        """
        source = os.fspath(image) if isinstance(image, (str, os.PathLike)) else ""
        if source and is_document(source):
            return self.document(source)
        loaded = Page(source, 1, 1, load_image(image))
        with self._crew() as crew:
            page = self._recognize([self._prepare(loaded, crew)], crew)[0]
        if page.shrunk >= MUCH_SMALLER:
            warnings.warn(
                f"the page was made {page.shrunk:.1f} times smaller for the detector: small text may be missing; "
                f"det_limit_side_len sets another limit",
                stacklevel=2,
            )
        return page

    def document(self, path: str | Path, *, dpi: float | None = None) -> Document:
        """The pages of a file, read as they are asked for. dpi: of the rendered pages of PDFs, see `read_pages`."""
        return Document(self.read_pages, os.fspath(path), dpi)

    def read(self, inputs: Iterable[str | Path], *, dpi: float | None = None) -> Iterator[PageText | Failure]:
        """Read files, folders, globs, PDFs and `-` (standard input): a result per page, in order, as they are read.

        dpi: of the rendered pages of PDFs, see `read_pages`.
        """
        return self.read_pages(read_pages(find_sources(inputs), dpi=dpi))

    def read_pages(self, pages: Iterable[Page | Failure]) -> Iterator[PageText | Failure]:
        """Read pages as they come: a result each, in order. What is a `Failure` stays one.

        A page that the models cannot read, whatever the error is, yields a `Failure` that says so. A few pages are in
        memory at a time, however many there are.
        """
        coming = iter(pages)
        first = list(islice(coming, 2))
        here = on_cpu(self._networks())
        at_once = self.workers or min(
            *((torch.get_num_threads(), MOST_AT_ONCE) if here else (available_cores(), MOST_ON_DEVICE))
        )
        # A page that is alone has all threads for its detector.
        at_once = at_once if len(first) > 1 else 1
        pages = chain(first, coming)
        with self._crew(at_once) as crew, ThreadPoolExecutor(at_once) as others:
            pool = others if crew is None or at_once == 1 else crew

            def begin(page: Page | Failure) -> Future[PageText | Failure]:
                # Behind the detectors of the pages that wait: lines can be shared among threads at the end, they not.
                return pool.submit(self._recognize_or_fail, self._prepare_or_fail(page, crew), crew)

            if here and not self.fast:
                for begun in _in_order(pool, begin, pages, 2 * at_once):
                    yield begun.result()
                return
            window: list[_Prepared | Failure] = []
            for prepared in _in_order(pool, partial(self._prepare_or_fail, crew=crew), pages, at_once + 1):
                window.append(prepared)
                if len(window) == FAST_PAGES:
                    yield from self._finish(window, crew, apart=not self.fast)
                    window = []
            yield from self._finish(window, crew, apart=not self.fast)

    def read_together(self, pages: Sequence[Page | Failure]) -> list[PageText | Failure]:
        """Read pages in this thread: for each what it gives by itself, whatever else is read with it.

        Batches of lines that no page fills are run as one, see `Recognizer.read_groups`. `fast` means the padding
        alone here.
        """
        prepared = [self._prepare_or_fail(page, None) for page in pages]
        return list(self._finish(prepared, None, apart=True))

    def _crew(self, pages: int = 1) -> AbstractContextManager[Crew | None]:
        """Threads to read with, on a CPU; at least as many as pages are read at once."""
        return crew_for(self._networks(), pages)

    def _networks(self) -> list[nn.Module]:
        steps = (self.detector, self.recognizer, self.classifier, self.orientation)
        return [step.model for step in steps if step is not None]

    def _prepare_or_fail(self, page: Page | Failure, crew: Crew | None) -> _Prepared | Failure:
        if isinstance(page, Failure):
            return page
        try:
            return self._prepare(page, crew)
        except Exception as error:  # one page never ends the run
            return failure_of(page.source, page.number, error)

    def _recognize_or_fail(self, prepared: _Prepared | Failure, crew: Crew | None) -> PageText | Failure:
        if isinstance(prepared, Failure):
            return prepared
        try:
            return self._recognize([prepared], crew)[0]
        except Exception as error:
            return failure_of(prepared.page.source, prepared.page.number, error)

    def _finish(
        self, window: list[_Prepared | Failure], crew: Crew | None, *, apart: bool = False
    ) -> Iterator[PageText | Failure]:
        """apart: each page in the batches that it has by itself."""
        pages = [page for page in window if isinstance(page, _Prepared)]
        texts: Iterator[PageText | Failure]
        try:
            texts = iter(self._recognize(pages, crew, apart=apart))
        except Exception:  # of one of them: each by itself tells which
            texts = (self._recognize_or_fail(page, crew) for page in pages)
        for page in window:
            yield page if isinstance(page, Failure) else next(texts)

    def _prepare(self, page: Page, crew: Crew | None) -> _Prepared:
        """Everything but reading: boxes and upright crops, of the page turned upright."""
        if self.orientation is not None:
            (way,) = self.orientation([page.image])
            return self._find(page, None, int(way.label) // 90, crew)
        prepared = self._find(page, None, 0, crew)
        if not self.turn_pages:
            return prepared
        level = None
        angle = skew_of([box.points for box in prepared.boxes])
        if abs(angle) > MOST_SKEW and math.prod(page.image.shape[:2]) <= LEVELLED_AT_MOST:
            level = turned_level(page.image, angle)
            prepared = self._find(page, level, 0, crew)
        turns = _turns_told_by(prepared.crops)
        return self._find(page, level, turns, crew) if turns else prepared

    def find(self, image: ImageSource) -> list[Points]:
        """The boxes of the lines of a page, in PaddleOCR's order; nothing is read."""
        return [box.points for box in self.detector.find(load_image(image)).boxes]

    def quarter_turns(self, image: ImageSource) -> int | None:
        """How often a page has to be turned counter-clockwise by 90 degrees to stand upright; nothing is read.

        None where it does not tell: without a model for the orientation of pages, and with fewer than two lines or no
        way that more than half of them stand.
        """
        pixels = load_image(image)
        if self.orientation is not None:
            return int(self.orientation([pixels])[0].label) // 90
        with self._crew() as crew:
            return _turns_told_by(self._find(Page("", 1, 1, pixels), None, 0, crew).crops)

    def _find(self, page: Page, level: LevelPage | None, quarter_turns: int, crew: Crew | None) -> _Prepared:
        """Boxes and crops of the page, of what it is when it is turned level, and so often by 90 degrees."""
        image = page.image if level is None else level.image
        size = image.shape
        if quarter_turns:
            image = np.ascontiguousarray(np.rot90(image, quarter_turns))
        found = self.detector.find(image)
        boxes = _by_rows(found.boxes) if self.turn_pages else found.boxes
        cut = crop_polygon if self.detector.postprocess.box_type == "poly" else self.steps.crop
        crops = [cut(image, box.points) for box in boxes]
        if self.classifier is not None:
            # A long line would be squeezed to nothing in the classifier's input.
            shown = [crop.image for crop in crops]
            shown = [first_of(x) if self.recognizer.is_long(x) else x for x in shown]
            directions = self.classifier(shown, crew=crew)
            crops = [crop.turned(2) if way.upside_down else crop for crop, way in zip(crops, directions, strict=True)]
        return _Prepared(page, boxes, crops, found.shrunk, _Way(size, quarter_turns, level))

    def _recognize(self, prepared: Sequence[_Prepared], crew: Crew | None, *, apart: bool = False) -> list[PageText]:
        crops = [[crop.image for crop in page.crops] for page in prepared]
        groups = crops if apart else [list(chain.from_iterable(crops))]
        lines = chain.from_iterable(self.recognizer.read_groups(groups, crew=crew))
        return [
            PageText(
                source=page.page.source,
                number=page.page.number,
                count=page.page.count,
                image=page.page.image,
                lines=tuple(
                    page.way.back(_text_line(line, box, crop))
                    for box, crop, line in zip(page.boxes, page.crops, islice(lines, len(page.crops)), strict=True)
                    if line.score >= self.drop_score
                ),
                shrunk=page.shrunk,
                quarter_turns=page.way.quarter_turns if page.way.level is None else 0,
                models=self.models,
            )
            for page in prepared
        ]


@dataclass(frozen=True, eq=False)
class _Way:
    """How a page was turned to be read: level, where it lay askew, and then by so many times 90 degrees.

    size: (height, width, …) before the quarter turns.
    """

    size: tuple[int, ...]
    quarter_turns: int
    level: LevelPage | None

    def back(self, line: TextLine) -> TextLine:
        """A line of what was read on the page as it is."""
        if not self.quarter_turns and self.level is None:
            return line
        words = tuple(replace(word, box=self._points(word.box)) for word in line.words)
        return replace(line, box=self._points(line.box), words=words)

    def _points(self, box: Points) -> Points:
        turned = self.size[1::-1] if self.quarter_turns % 2 else self.size[:2]
        points = turn_points(box, turned, -self.quarter_turns)
        if self.level is not None:
            # Askew, no corner of a line is its top left one but that of its text.
            return self.level.back(points)
        return order_clockwise(points) if len(points) == 4 else points


@dataclass(frozen=True, eq=False)
class _Prepared:
    page: Page
    boxes: list[Box]
    crops: list[Crop]
    shrunk: float
    way: _Way


def _by_rows(boxes: list[Box]) -> list[Box]:
    """PaddleOCR's order; of a page that lies askew, the one that it has for the page turned level."""
    points = [box.points for box in boxes]
    angle = skew_of(points)
    if abs(angle) < LEAST_SKEW:
        return boxes
    return [boxes[place] for place in sorted_order(levelled(points, angle))]


def _turns_told_by(crops: Sequence[Crop]) -> int | None:
    """How often a page has to be turned counter-clockwise by 90 degrees, as more than half of its lines tell.

    None where there are fewer than two, or no such half.

    A tall crop was turned once to be read, and one that stands on its head twice more.
    """
    if len(crops) < 2:
        return None
    turns, count = Counter(crop.quarter_turns for crop in crops).most_common(1)[0]
    return turns if 2 * count > len(crops) else None


def _names_of_paddleocr3(given: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in PADDLEOCR_3:
            raise unknown_key(name, PADDLEOCR_3, "OCR")
    return {PADDLEOCR_3[name]: value for name, value in given.items()}


Settings = TypeVar("Settings", DetPreprocess, DBPostprocess)


def settle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `OCR` in which the models that its language chooses are named, and on this machine.

    Whoever makes several pipelines of the same settings decides once which they are, and says it once. Raises as `OCR`.
    """
    wanted = _wanted(settings.get("det"), settings.get("rec"), settings.get("cls", AUTO))
    chosen = obtain_pipeline(pipeline_of(settings.get("lang", "en"), settings.get("version")), wanted)
    return {**settings, **{part: getattr(chosen, part) for part in wanted}}


def _wanted(det: Model | None, rec: Model | None, cls: Model | None) -> list[Part]:
    """The parts of a pipeline that its language chooses."""
    chosen: dict[Part, bool] = {"det": det is None, "rec": rec is None, "cls": cls == AUTO}
    return [part for part, wanted in chosen.items() if wanted]


def _changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with the values that are given. Raises `ConfigError` for one out of its bounds."""
    given = {name: value for name, value in values.items() if value is not None}
    return replace(settings, **given)


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


def _override(detector: Detector, steps: Steps) -> None:
    """Put the pipeline's settings above those of a detector of text lines; its own `max_candidates` stays."""
    if detector.postprocess.box_type != "quad":
        return
    if steps.thresholds is not None:
        thresh, box_thresh, unclip_ratio = steps.thresholds
        detector.postprocess = replace(
            detector.postprocess, thresh=thresh, box_thresh=box_thresh, unclip_ratio=unclip_ratio
        )
    if steps.limit is not None:
        detector.preprocess = replace(detector.preprocess, limit_side_len=steps.limit, limit_type="min")


def _classifier(model: nn.Module, config: ModelConfig, batch_size: int | None) -> Classifier:
    return Classifier(model, config, batch_size=batch_size or (6 if on_cpu([model]) else AT_ONCE))


def _recognizer(
    model: nn.Module, config: ModelConfig, fast: bool, padding: Padding, batch_size: int | None
) -> Recognizer:
    if fast and isinstance(config.preprocess, RecPreprocess) and not config.preprocess.fixed_width:
        channels, height, _ = config.preprocess.image_shape
        config = replace(config, preprocess=replace(config.preprocess, image_shape=(channels, height, FAST_MIN_WIDTH)))
    return Recognizer(model, config, padding=padding, at_once=batch_size)


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
