"""Samples per second that the data of a training can give, beside what its steps take.

Decoding, augmentation and batching with the workers of the settings, and no network; then, in this process alone, what
decoding and the transforms take of a sample; and the step on a made-up batch.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.network import build_model
from paddle2torch.training.data.loaders import Loader, build_loader, workers_here
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.optimisation import leave_out_unused, set_training
from paddle2torch.training.probe import seconds_per_batch
from paddle2torch.training.processes import make_accelerator, placed
from paddle2torch.training.settings import Settings

LOOKED_AT = 200
"""Samples whose decoding and transforms are timed one by one."""


@dataclass(frozen=True)
class LoadingBench:
    """Samples a second with so many `workers` (0: in the process that trains), and of the step, where it was timed.

    decode_ms, transform_ms: what a sample takes in one process, decoding and everything after it.
    """

    samples: int
    seconds: float
    workers: int
    decode_ms: float
    transform_ms: float
    step_samples_per_second: float | None

    @property
    def samples_per_second(self) -> float:
        """Of the loader alone."""
        return self.samples / self.seconds

    @property
    def times_the_step(self) -> float | None:
        """How many times faster the data comes than it is learnt from."""
        step = self.step_samples_per_second
        return None if step is None else self.samples_per_second / step

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        return {
            **asdict(self),
            "samples_per_second": self.samples_per_second,
            "times_the_step": self.times_the_step,
        }


def bench_loading(settings: Settings, config: ModelConfig, *, seconds: float = 20.0, step: bool = True) -> LoadingBench:
    """Load training batches for so many seconds, the first one left out: workers start in it.

    step: time a step on new weights too.
    """
    loader = build_loader(
        settings.data.train,
        config,
        training=True,
        max_text_length=settings.data.max_text_length,
        seed=settings.training.seed,
    )
    samples, began, epoch = 0, None, 0
    while began is None or time.perf_counter() - began < seconds:
        loader.set_epoch(epoch)
        for batch in loader:
            if began is None:
                began = time.perf_counter()
                continue
            samples += len(batch["image"])
            if time.perf_counter() - began >= seconds:
                break
        epoch += 1
    took = time.perf_counter() - began
    decode, transform = _one_by_one(loader)
    workers = workers_here(settings.data.train.loader, 1)
    return LoadingBench(samples, took, workers, decode, transform, _step(settings, config) if step else None)


def _one_by_one(loader: Loader) -> tuple[float, float]:
    """Milliseconds of a sample for decoding, and for all else."""
    dataset = loader.dataset
    loader.set_epoch(0)
    requests = list(islice(chain.from_iterable(loader.requests()), LOOKED_AT))
    began = time.perf_counter()
    for request in requests:
        dataset.samples.image(request.index, np.random.default_rng(0))
    decoded = time.perf_counter()
    for request in requests:
        dataset[request]
    end = time.perf_counter()
    decode = 1000 * (decoded - began) / len(requests)
    return decode, max(0.0, 1000 * (end - decoded) / len(requests) - decode)


def _step(settings: Settings, config: ModelConfig) -> float | None:
    """Samples a second of a step on new weights, where the size of a batch is known."""
    network = build_model(config)
    initialise(network)
    leave_out_unused(network)
    accelerator = make_accelerator(settings)
    set_training(placed(network, accelerator))
    seconds = seconds_per_batch(settings, network, accelerator)
    sampler, loader = settings.data.train.sampler, settings.data.train.loader
    count = (sampler.first_bs if sampler is not None else None) or loader.batch_size_per_card
    return None if seconds is None else count / seconds
