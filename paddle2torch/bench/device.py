"""What a device does in a second: lines, maps, training steps and pages, in each precision, eager and by torch.compile.

Networks are those of the cards `RECOGNISER` and `DETECTOR` with new weights, which take as long as any others; pages
are read with the models of a language. A case that the device cannot run is named with its reason, and ends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paddle2torch.converters.templates import from_card
from paddle2torch.device import choose_device, choose_dtype, describe, device_module, peak_memory, place_network
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.ocr.pages import Failure, find_sources, read_pages
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.training.batches import guide_targets, on_device
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.losses import losses_of
from paddle2torch.training.official import official_settings
from paddle2torch.training.optimisation import build_optimizer, leave_out_unused, set_training
from paddle2torch.training.probe import lines_of_noise

RECOGNISER, DETECTOR = "en_PP-OCRv4_rec", "ch_PP-OCRv4_det"
LINE, PAGE = (48, 320), (736, 1280)
"""Height and width of what both are given."""


@dataclass(frozen=True)
class Case:
    """One case: so many `things` a second by the median of the turns, which took `seconds`; or why it did not run.

    memory: bytes of the device at most so far, where it tells.
    """

    what: str
    precision: str
    batch: int
    compiled: bool = False
    seconds: tuple[float, ...] = ()
    memory: int | None = None
    failed: str | None = None

    @property
    def per_second(self) -> float | None:
        """Lines, maps or pages of the median turn."""
        return None if not self.seconds else self.batch / sorted(self.seconds)[len(self.seconds) // 2]


@dataclass(frozen=True)
class DeviceBench:
    """All cases on one device."""

    device: str
    cases: tuple[Case, ...]
    versions: dict[str, str] = field(default_factory=lambda: {"torch": str(torch.__version__)})

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        cases = [{**asdict(case), "per_second": case.per_second} for case in self.cases]
        return {"device": self.device, "versions": self.versions, "cases": cases}


def bench_device(
    device: str,
    pages: Sequence[str | Path] = (),
    *,
    lang: str = "en",
    precisions: Sequence[str] = ("fp32", "bf16", "fp16"),
    batches: Sequence[int] = (6, 64),
    compiled: bool = False,
    repeat: int = 5,
    recogniser: Network | None = None,
    detector: Network | None = None,
) -> DeviceBench:
    """Measure everything on a device, one case after another.

    pages: files that are read with the models of `lang`; without them no page is. compiled: by `torch.compile` too.
    recogniser, detector: other networks, in training form.
    """
    place = choose_device(device)
    recogniser, detector = (
        given or build_model(from_card(load_card(name)).config())
        for given, name in ((recogniser, RECOGNISER), (detector, DETECTOR))
    )
    for network in (recogniser, detector):
        initialise(network)
    cases: list[Case] = []
    for precision in precisions:
        for forms in (False, True) if compiled else (False,):
            for batch in batches:
                read = _reader(recogniser, place, precision, forms, (batch, 3, *LINE))
                cases.append(_case(place, Case("lines read", precision, batch, forms), read, repeat))
            find = _reader(detector, place, precision, forms, (1, 3, *PAGE))
            cases.append(_case(place, Case("maps of pages", precision, 1, forms), find, repeat))
            for batch in batches:
                step = _step(recogniser, place, precision, forms, batch)
                cases.append(_case(place, Case("lines learnt", precision, batch, forms), step, repeat))
        if pages:
            count, run = _pages(pages, place, precision, lang)
            cases.append(_case(place, Case("pages read", precision, count), run, repeat))
    return DeviceBench(describe(place, "fp32"), tuple(cases))


Prepared = Iterator[Callable[[], Any]]


def _case(device: torch.device, case: Case, prepared: Prepared, repeat: int) -> Case:
    """The case with its times. The first turn, which compiles and finds out how to compute, does not count."""
    seconds = []
    try:
        run = next(prepared)
        for turn in range(repeat + 1):
            began = time.perf_counter()
            run()
            _wait_for(device)
            if turn:
                seconds.append(time.perf_counter() - began)
    except Exception as error:  # of a kernel that is not there, or of memory: the other cases are measured all the same
        return Case(case.what, case.precision, case.batch, case.compiled, failed=what_went_wrong(error))
    return Case(case.what, case.precision, case.batch, case.compiled, tuple(seconds), peak_memory(device))


def _wait_for(device: torch.device) -> None:
    module = device_module(device)
    if device.type != "cpu" and module is not None:
        module.synchronize()


def _reader(
    network: Network, device: torch.device, precision: str, compiled: bool, shape: tuple[int, int, int, int]
) -> Prepared:
    dtype = choose_dtype(precision, device)
    folded = place_network(fold(network).to(device=device, dtype=dtype), device, dtype)
    model = torch.compile(folded) if compiled else folded
    x = torch.zeros(shape, device=device, dtype=dtype)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    yield run


def _step(network: Network, device: torch.device, precision: str, compiled: bool, batch: int) -> Prepared:
    dtype = choose_dtype(precision, device)
    settings = official_settings(network.config, pretrained=None)
    trained = place_network(network, device, dtype)
    leave_out_unused(trained)
    set_training(trained)
    optimizer = build_optimizer(trained, settings.optimizer)
    model = torch.compile(trained) if compiled else trained
    lines: dict[str, Tensor] = on_device(lines_of_noise(LINE, settings, network.config, batch), device, dtype)

    def run() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = model(lines["image"], guide_targets(lines))
        losses_of(outputs, lines, settings.loss)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    yield run


def _pages(files: Sequence[str | Path], device: torch.device, precision: str, lang: str) -> tuple[int, Prepared]:
    pages = [page for page in read_pages(find_sources(files)) if not isinstance(page, Failure)]

    def prepared() -> Prepared:
        dtype = choose_dtype(precision, device)
        ocr = OCR(lang, device=device, precision=dtype)
        yield lambda: list(ocr.read_pages(pages))

    return len(pages), prepared()
