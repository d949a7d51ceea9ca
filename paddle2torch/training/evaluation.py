"""Evaluation with PaddleOCR's metrics: by itself, and while training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from paddle2torch.device import Precision, choose_dtype, fetch, place_network
from paddle2torch.model_zoo.config import ClsPostprocess, DBPostprocess, ModelConfig
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.tasks.detection import boxes_from_map
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.training.answers import Answer, ClassAnswer, LineAnswer, PageAnswer, ctc_scores, in_order
from paddle2torch.training.batches import Batch, Batches, MakeBatches, batches_of, image_of
from paddle2torch.training.class_figures import ClassFigures, class_figures
from paddle2torch.training.data.drops import DropReport, Event, Reason
from paddle2torch.training.data.labels import parse_boxes
from paddle2torch.training.distributed import total_counts
from paddle2torch.training.line_figures import LineFigures, line_figures
from paddle2torch.training.metrics import ClsMetric, DetMetric, RecMetric, ctc_texts, label_texts
from paddle2torch.training.page_figures import LEAST_SCORE, PageFigures, page_figures
from paddle2torch.training.processes import start_accelerator
from paddle2torch.training.settings import EvaluationSettings, Settings
from paddle2torch.training.stopping import StopRequest

FAULTS_SHOWN = 100
"""Samples that an evaluation names of each fault."""


@dataclass(frozen=True)
class Fault:
    """What kept samples from being evaluated as they are, or from ever being right: how many, and where they are.

    where: file, line and image of the first hundred. first: what is wrong with the first one.
    """

    reason: str
    count: int
    first: str
    where: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """PaddleOCR's metrics of a model: acc and norm_edit_dis, or precision, recall and hmean, or of a classifier acc
    alone; and faults of the data.

    samples: how many labels there are. replaced: how many times another sample counted in place of one that cannot be
    used; None where none does, and what cannot be read counts as wrong.
    """

    metrics: dict[str, float]
    samples: int
    replaced: int | None
    faults: tuple[Fault, ...]
    answers: tuple[Answer, ...] = field(default=(), repr=False)

    @property
    def complete(self) -> bool:
        """Whether every image could be read."""
        return all(fault.reason != Reason.UNREADABLE.value for fault in self.faults)

    def lines(self) -> list[str]:
        """The faults, a line each, and what became of those samples."""
        never = dict.fromkeys((Reason.LACKING.value, Reason.NO_CLASS.value), "never right")
        became = {Reason.UNREADABLE.value: "counted as wrong", **never}
        if self.replaced is not None:
            became = {Reason.LACKING.value: "compared without them"}
        lines = [
            f"{fault.count:,} of {self.samples:,} samples: {fault.reason}"
            + (f", {became[fault.reason]}" if fault.reason in became else "")
            + f"; first: {fault.first}"
            for fault in self.faults
        ]
        if self.replaced:
            lines.append(f"{self.replaced:,} times the next sample was counted again in place of one of no use")
        return lines

    def to_json(self) -> dict[str, Any]:
        """What `eval --json` prints."""
        faults = [asdict(fault) for fault in self.faults]
        return {**self.metrics, "samples": self.samples, "replaced": self.replaced, "faults": faults}


@dataclass(frozen=True)
class Examination:
    """An evaluation of the model `name`, and what it takes to look into it: its data, and its settings."""

    name: str
    config: ModelConfig
    settings: EvaluationSettings
    evaluation: Evaluation
    batches: Batches

    @cached_property
    def figures(self) -> LineFigures | PageFigures | ClassFigures | None:
        """Where the mistakes are; None where no answers were kept (`evaluation.as_paddleocr`)."""
        answers, batches = self.evaluation.answers, self.batches
        lines = [answer for answer in answers if isinstance(answer, LineAnswer)]
        pages = [answer for answer in answers if isinstance(answer, PageAnswer)]
        classes = [answer for answer in answers if isinstance(answer, ClassAnswer)]
        if lines:
            normalised = RecMetric(self.settings.ignore_space, self.settings.is_filter).normalised
            return line_figures(lines, source=batches.source, normalised=normalised, charset=self.config.charset or ())
        if pages:
            assert isinstance(self.config.postprocess, DBPostprocess)
            return page_figures(
                pages,
                labels=lambda index: parse_boxes(batches.label(index), batches.where(index)),
                source=batches.source,
                box_thresh=self.config.postprocess.box_thresh,
            )
        if classes:
            assert isinstance(self.config.postprocess, ClsPostprocess)
            return class_figures(classes, source=batches.source, labels=self.config.postprocess.labels)
        return None

    @property
    def metrics(self) -> dict[str, float]:
        """PaddleOCR's metrics, and of lines cer and wer, where answers were kept."""
        figures = self.figures
        rates = {"cer": figures.cer, "wer": figures.wer} if isinstance(figures, LineFigures) else {}
        return {**self.evaluation.metrics, **rates}

    def to_json(self) -> dict[str, Any]:
        """What `eval --json` prints."""
        figures = None if self.figures is None else self.figures.to_json()
        return {**self.evaluation.to_json(), "figures": figures}


def evaluate(settings: Settings, network: Network, *, make_batches: MakeBatches = batches_of) -> Evaluation:
    """Evaluate a model on the evaluation data with PaddleOCR's metrics; each label counts once.

    network: in either form. Runs in float32 on `settings.training.device`, in one process or several.
    """
    return examine(settings, network, make_batches=make_batches).evaluation


def examine(
    settings: Settings,
    network: Network,
    *,
    name: str | None = None,
    make_batches: MakeBatches = batches_of,
    precision: Precision = "fp32",
) -> Examination:
    """`evaluate`, with what it takes to look into it. name: of the model, by default its own."""
    accelerator = start_accelerator(lambda cpu: Accelerator(cpu=cpu), settings.training.device)
    dtype = choose_dtype(precision, accelerator.device)
    batches = make_batches(settings, network.config, False, accelerator)
    measured = measure(network, batches, settings.evaluation, accelerator, dtype=dtype)
    return examination(name or network.config.name, network.config, settings.evaluation, measured, batches)


def examination(
    name: str, config: ModelConfig, settings: EvaluationSettings, measured: Measurement, batches: Batches
) -> Examination:
    """What was measured on `batches`, with what all processes say of their data."""
    reports: list[DropReport] = gather_object([batches.report])
    report = DropReport.together(reports)
    faults = []
    for reason in Reason:
        if indices := sorted(report.indices.get(reason, ())):
            where = tuple(batches.where(index) for index in indices[:FAULTS_SHOWN])
            faults.append(Fault(reason.value, len(indices), report.first[reason], where))
    replaced = report.replaced if settings.as_paddleocr else None
    evaluation = Evaluation(measured.metrics, report.samples, replaced, tuple(faults), measured.answers)
    return Examination(name, config, settings, evaluation, batches)


@dataclass(frozen=True)
class Measurement:
    """The metrics of an evaluation, which of them is the main one, and the answers that they are of.

    Answers are there where batches have an `index`: not where PaddleOCR's way of evaluating takes samples twice.
    """

    metrics: dict[str, float]
    main: str
    answers: tuple[Answer, ...] = ()


@torch.no_grad()
def measure(
    network: Network,
    batches: Batches,
    settings: EvaluationSettings,
    accelerator: Accelerator,
    stop: StopRequest | None = None,
    dtype: torch.dtype = torch.float32,
) -> Measurement:
    """Evaluate on all batches, in `dtype`. Raises `Asked` where `stop` leaves the evaluation."""
    stop = stop or StopRequest()
    # The fused form reads the same, several times faster.
    device = accelerator.device
    reader = fuse(network)
    if reader is network:
        reader = copy.deepcopy(network)
    reader = place_network(reader.to(device=device, dtype=dtype).eval(), device, dtype)
    batches.set_epoch(0)
    metric, answers = _MEASURES[network.config.task](reader, batches, settings, accelerator, stop)
    metric.counts = total_counts(torch.from_numpy(metric.counts)).numpy()
    return Measurement(metric.result(), metric.main, in_order(gather_object(answers)))


_Measured = tuple[RecMetric | DetMetric | ClsMetric, list[Answer]]


def _measure_lines(
    reader: Network, batches: Batches, settings: EvaluationSettings, accelerator: Accelerator, stop: StopRequest
) -> _Measured:
    charset = reader.config.charset
    assert charset is not None
    metric, answers = RecMetric(settings.ignore_space, settings.is_filter), list[Answer]()
    for batch, (best, ids) in _answers(reader, batches, accelerator, stop, lambda output: output.max(-1)):
        texts = ctc_texts(ids, charset)
        if "index" in batch:
            indices = batch["index"].tolist()
            labels = [batches.label(index) for index in indices]
            rows = zip(indices, labels, texts, ctc_scores(ids, best), strict=True)
            answers += [LineAnswer(*row) for row in rows]
        else:
            labels = label_texts(fetch(batch["label_ctc"]), fetch(batch["length"]), charset)
        metric.add(texts, labels)
    unread = _unread(batches, settings)
    metric.add_unread(len(unread))
    answers += [LineAnswer(index, batches.label(index), "", (), unread=True) for index in unread]
    return metric, answers


def _measure_pages(
    reader: Network, batches: Batches, settings: EvaluationSettings, accelerator: Accelerator, stop: StopRequest
) -> _Measured:
    own = reader.config.postprocess
    assert isinstance(own, DBPostprocess)
    # Boxes that the model itself leaves out tell what another threshold would do.
    every = replace(own, box_thresh=min(own.box_thresh, LEAST_SCORE))
    metric, answers = DetMetric(), list[Answer]()
    for batch, (maps,) in _answers(reader, batches, accelerator, stop, lambda output: (output["maps"][:, 0],)):
        indices = batch["index"].tolist() if "index" in batch else [None] * len(maps)
        rows = zip(indices, maps, batch["shape"], fetch(batch["polys"]), batch["ignore_tags"].tolist(), strict=True)
        for index, probabilities, shape, polygons, ignored in rows:
            size = int(shape[0]), int(shape[1])
            boxes = boxes_from_map(probabilities, every, size)
            found = [box.points for box in boxes if box.score >= own.box_thresh]
            metric.add(found, list(polygons), ignored)
            if index is not None:
                answers.append(PageAnswer(index, size, tuple(boxes)))
    for index in _unread(batches, settings):
        missed = parse_boxes(batches.label(index), batches.where(index))
        metric.add([], list(missed.polygons), missed.ignore.tolist())
        answers.append(PageAnswer(index, (0, 0), (), unread=True))
    return metric, answers


def _measure_classes(
    reader: Network, batches: Batches, settings: EvaluationSettings, accelerator: Accelerator, stop: StopRequest
) -> _Measured:
    own = reader.config.postprocess
    assert isinstance(own, ClsPostprocess)
    metric, answers = ClsMetric(), list[Answer]()
    for batch, (best, ids) in _answers(reader, batches, accelerator, stop, lambda output: output.max(-1)):
        found = [own.labels[place] for place in ids.tolist()]
        if "index" in batch:
            indices = batch["index"].tolist()
            labels = [batches.label(index) for index in indices]
            answers += [ClassAnswer(*row) for row in zip(indices, labels, found, best.tolist(), strict=True)]
        else:
            labels = [own.labels[place] for place in batch["label"].tolist()]
        metric.add(found, labels)
    unread = _unread(batches, settings)
    metric.add_unread(len(unread))
    answers += [ClassAnswer(index, batches.label(index), "", 0.0, unread=True) for index in unread]
    return metric, answers


def _unread(batches: Batches, settings: EvaluationSettings) -> Collection[int]:
    """The samples that cannot be read, which count as wrong; none where others take their places."""
    return () if settings.as_paddleocr else batches.report.indices.get(Reason.UNREADABLE, ())


_MEASURES = {"rec": _measure_lines, "det": _measure_pages, "cls": _measure_classes}


def _answers(
    reader: Network,
    batches: Batches,
    accelerator: Accelerator,
    stop: StopRequest,
    choose: Callable[[Any], Sequence[Tensor]],
) -> Iterator[tuple[Batch, list[NDArray[Any]]]]:
    """Each batch with what `choose` takes of the network's output for it; without those on which the network failed."""
    like = next(reader.parameters())
    for batch in batches:
        stop.leave_evaluation(accelerator)
        try:
            image = image_of(batch, like.device, like.dtype)
            # In float32 behind the network: NumPy has no bfloat16.
            parts = (
                part.float() if part.is_floating_point() else part for part in choose(reader(image.to(like.dtype)))
            )
            answer = [fetch(part) for part in parts]
        except Exception as error:  # an image too large for this machine's memory ends no evaluation: it is counted
            _count_unread(batch, batches, error)
        else:
            yield batch, answer


def _count_unread(batch: Batch, batches: Batches, error: Exception) -> None:
    """Count the samples of a batch, on which the network failed, with those that cannot be read.

    Raises `error` where samples have no index: as PaddleOCR evaluates, nothing counts what is left out.
    """
    if "index" not in batch:
        raise error
    for index in batch["index"].tolist():
        message = f"{batches.where(index)}: {what_went_wrong(error)}"
        batches.report.add(Event(index, Reason.UNREADABLE, message))
