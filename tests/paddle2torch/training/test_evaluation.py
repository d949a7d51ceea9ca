"""What evaluation does with what it cannot read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CHARSET, TinyBatches, tiny_config, tiny_det_config, tiny_settings

from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.training.data.drops import DropReport, Event, Reason
from paddle2torch.training.evaluation import evaluate
from paddle2torch.training.metrics import ctc_texts


@dataclass
class Answers:
    """Batches of blank lines, of which the network says what the labels are; some images cannot be read.

    They have what evaluation asks for, not all of `Batches`: hence each `type: ignore`.
    """

    labels: list[str]
    report: DropReport

    def __len__(self) -> int:
        return 1

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        pass

    def where(self, index: int) -> str:
        return f"labels.txt, line {index + 1}"

    def label(self, index: int) -> str:
        return self.labels[index]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        unread = self.report.indices[Reason.UNREADABLE]
        index = [number for number in range(len(self.labels)) if number not in unread]
        yield {"image": torch.zeros(len(index), 3, 48, 64), "index": torch.tensor(index)}


def test_what_cannot_be_read_or_never_be_right_counts_as_wrong(tmp_path: Path) -> None:
    network = build_model(tiny_config()).eval()
    with torch.inference_mode():
        ids = fuse(network)(torch.zeros(1, 3, 48, 64)).argmax(-1).numpy()
    (answer,) = ctc_texts(ids, CHARSET)
    report = DropReport(4)
    report.add(Event(1, Reason.UNREADABLE, "labels.txt, line 2: there is no such file"))
    report.add(Event(2, Reason.LACKING, "labels.txt, line 3: 'x€' has '€'"))
    batches = Answers([answer, answer, answer + "€", answer], report)
    result = evaluate(tiny_settings(tmp_path), network, make_batches=lambda *_: batches)  # type: ignore[arg-type]
    assert result.metrics["acc"] == pytest.approx(2 / 4, abs=1e-4)
    assert result.lines() == [
        "1 of 4 samples: unreadable image, counted as wrong; first: labels.txt, line 2: there is no such file",
        "1 of 4 samples: label with characters that are not in the set, never right; first: labels.txt, line 3: "
        "'x€' has '€'",
    ]
    data = result.to_json()
    assert (data["samples"], data["replaced"]) == (4, None)
    assert data["faults"][0] == {
        "reason": "unreadable image",
        "count": 1,
        "first": "labels.txt, line 2: there is no such file",
        "where": ("labels.txt, line 2",),
    }


def test_pages_that_cannot_be_read_are_missed(tmp_path: Path) -> None:
    report = DropReport(1)
    report.add(Event(0, Reason.UNREADABLE, "labels.txt, line 1: there is no such file"))
    boxes = [{"transcription": text, "points": [[0, 0], [9, 0], [9, 9], [0, 9]]} for text in ("a", "###")]

    class NoPage(Answers):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            yield from ()

    batches = NoPage([json.dumps(boxes)], report)
    network = build_model(tiny_det_config()).eval()
    result = evaluate(tiny_settings(tmp_path), network, make_batches=lambda *_: batches)  # type: ignore[arg-type]
    assert result.metrics == {"precision": 0.0, "recall": 0.0, "hmean": 0.0}


def test_samples_that_the_network_fails_on_count_as_wrong_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Two(Answers):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            for index in range(2):
                yield {"image": torch.zeros(1, 3, 48, 64 * (index + 1)), "index": torch.tensor([index])}

    network = build_model(tiny_config()).eval()
    with torch.inference_mode():
        ids = fuse(network)(torch.zeros(1, 3, 48, 64)).argmax(-1).numpy()
    (answer,) = ctc_texts(ids, CHARSET)
    fused = fuse(network)
    run = fused.forward

    def forward(x: torch.Tensor) -> Any:
        if x.shape[3] > 64:
            raise RuntimeError("not enough memory: you tried to allocate 99 bytes.\nand more")
        return run(x)

    monkeypatch.setattr(fused, "forward", forward)
    monkeypatch.setattr("paddle2torch.training.evaluation.fuse", lambda network: fused)
    batches = Two([answer, answer], DropReport(2))
    result = evaluate(tiny_settings(tmp_path), network, make_batches=lambda *_: batches)  # type: ignore[arg-type]
    assert result.metrics["acc"] == pytest.approx(1 / 2, abs=1e-4)
    assert not result.complete
    assert result.lines() == [
        "1 of 2 samples: unreadable image, counted as wrong; first: labels.txt, line 2: RuntimeError: not enough "
        "memory: you tried to allocate 99 bytes."
    ]


def test_evaluation_as_paddleocr_takes_the_next_sample(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, evaluation={"as_paddleocr": True})
    batches = TinyBatches(False)
    batches.report.add(Event(3, Reason.UNREADABLE, "sample 3: there is no such file"))
    batches.report.replaced = 1
    network = build_model(tiny_config()).eval()
    result = evaluate(settings, network, make_batches=lambda *_: batches)
    assert result.metrics == evaluate(settings, network, make_batches=TinyBatches.make).metrics
    assert result.lines() == [
        "1 of 20 samples: unreadable image; first: sample 3: there is no such file",
        "1 times the next sample was counted again in place of one of no use",
    ]
