"""Evaluation with PaddleOCR's metrics: by itself, and while training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from paddle2torch.model_zoo.config import DBPostprocess
from paddle2torch.model_zoo.network import Network, channels_last, fuse
from paddle2torch.tasks.detection import boxes_from_map
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.training.batches import Batch, Batches, MakeBatches, batches_of, to_device
from paddle2torch.training.data.drops import DropReport, Event, Reason
from paddle2torch.training.data.labels import parse_boxes
from paddle2torch.training.metrics import DetMetric, RecMetric, ctc_texts, label_texts
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
    """PaddleOCR's metrics of a model: acc and norm_edit_dis, or precision, recall and hmean; and faults of the data.

    samples: how many labels there are. replaced: how many times another sample counted in place of one that cannot be
    used; None where none does, and what cannot be read counts as wrong.
    """

    metrics: dict[str, float]
    samples: int
    replaced: int | None
    faults: tuple[Fault, ...]

    @property
    def complete(self) -> bool:
        """Whether every image could be read."""
        return all(fault.reason != Reason.UNREADABLE.value for fault in self.faults)

    def lines(self) -> list[str]:
        """The faults, a line each, and what became of those samples."""
        became = {Reason.UNREADABLE.value: "counted as wrong", Reason.LACKING.value: "never right"}
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


def evaluate(settings: Settings, network: Network, *, make_batches: MakeBatches = batches_of) -> Evaluation:
    """Evaluate a model on the evaluation data with PaddleOCR's metrics; each label counts once.

    network: in either form. Runs in float32, on one process or several.
    """
    accelerator = start_accelerator(lambda cpu: Accelerator(cpu=cpu))
    batches = make_batches(settings, network.config, False, accelerator)
    metrics, _ = measure(network, batches, settings.evaluation, accelerator)
    reports: list[DropReport] = gather_object([batches.report])
    report = DropReport.together(reports)
    faults = []
    for reason in Reason:
        if indices := sorted(report.indices.get(reason, ())):
            where = tuple(batches.where(index) for index in indices[:FAULTS_SHOWN])
            faults.append(Fault(reason.value, len(indices), report.first[reason], where))
    replaced = report.replaced if settings.evaluation.as_paddleocr else None
    return Evaluation(metrics, report.samples, replaced, tuple(faults))


@torch.no_grad()
def measure(
    network: Network,
    batches: Batches,
    settings: EvaluationSettings,
    accelerator: Accelerator,
    stop: StopRequest | None = None,
) -> tuple[dict[str, float], str]:
    """The metrics, and which of them is the main one. Raises `Asked` where `stop` leaves the evaluation."""
    stop = stop or StopRequest()
    config = network.config
    # The fused form reads the same, several times faster.
    reader = channels_last(fuse(network)).to(accelerator.device).eval()
    metric: RecMetric | DetMetric
    batches.set_epoch(0)
    if config.task == "rec":
        assert config.charset is not None
        metric = RecMetric(settings.ignore_space, settings.is_filter)
        for batch, ids in _answers(reader, batches, accelerator, stop, lambda output: output.argmax(-1)):
            if "index" in batch:
                labels = [batches.label(index) for index in batch["index"].tolist()]
            else:
                labels = label_texts(batch["label_ctc"].numpy(), batch["length"].numpy(), config.charset)
            metric.add(ctc_texts(ids, config.charset), labels)
        if not settings.as_paddleocr:
            metric.add_unread(batches.report.count(Reason.UNREADABLE))
    else:
        assert isinstance(config.postprocess, DBPostprocess)
        metric = DetMetric()
        for batch, maps in _answers(reader, batches, accelerator, stop, lambda output: output["maps"][:, 0]):
            rows = zip(maps, batch["shape"], batch["polys"].numpy(), batch["ignore_tags"].tolist(), strict=True)
            for probabilities, shape, polygons, ignored in rows:
                boxes = boxes_from_map(probabilities, config.postprocess, (int(shape[0]), int(shape[1])))
                metric.add([box.points for box in boxes], list(polygons), ignored)
        for index in () if settings.as_paddleocr else batches.report.indices.get(Reason.UNREADABLE, ()):
            missed = parse_boxes(batches.label(index), batches.where(index))
            metric.add([], list(missed.polygons), missed.ignore.tolist())
    counts = torch.from_numpy(metric.counts).to(accelerator.device)
    metric.counts = accelerator.reduce(counts, "sum").cpu().numpy()
    return metric.result(), metric.main


def _answers(
    reader: Network, batches: Batches, accelerator: Accelerator, stop: StopRequest, choose: Callable[[Any], Tensor]
) -> Iterator[tuple[Batch, NDArray[Any]]]:
    """Each batch with what `choose` takes of the network's output for it; without those on which the network failed."""
    for batch in batches:
        stop.leave_evaluation(accelerator)
        try:
            answer = choose(reader(to_device(batch, accelerator.device)["image"])).cpu().numpy()
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
