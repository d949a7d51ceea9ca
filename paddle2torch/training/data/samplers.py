"""Which samples make which batch of an epoch, for each of several processes.

Every process computes the plan of the whole epoch from (seed, epoch) and takes its share of each batch. At every step
all processes therefore have the same number of samples at the same size, no sample twice between them, and together
what one process with the batches of all would have. PaddleOCR's MultiScaleSampler shuffles the sizes by an unseeded
generator of each process, and draws the batches once for all epochs; here each epoch draws anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paddle2torch.training.data.labels import Group
from paddle2torch.training.settings import MultiScaleSampler


@dataclass(frozen=True)
class Request:
    """One sample of a batch: the epoch (from 0), the sample, and the (width, height) it is wanted at."""

    epoch: int
    index: int
    size: tuple[int, int] | None = None


class Plan(Protocol):
    """The batches of this process, epoch by epoch."""

    def __len__(self) -> int:
        """How many batches an epoch has; the same for each epoch."""

    def batches(self, epoch: int) -> Iterator[list[Request]]:
        """The batches of an epoch in order."""


def sample_generator(seed: int, request: Request) -> np.random.Generator:
    """The random numbers of one sample in one epoch, whoever loads it and whenever."""
    # The last number keeps them apart from those of `epoch_order`.
    return np.random.default_rng([seed, request.epoch, request.index, 1])


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers from which the order of an epoch is drawn. With seed 0, epoch 0 has those of PCG64(0)."""
    return np.random.default_rng([seed, epoch])


def epoch_size(groups: Sequence[Group]) -> int:
    """How many samples an epoch takes."""
    return sum(round(group.count * group.ratio) for group in groups)


def epoch_order(groups: Sequence[Group], rng: np.random.Generator, shuffle: bool) -> NDArray[np.int64]:
    """The samples of an epoch in order: of each group its share, drawn anew, then all together shuffled."""
    parts, start = [], 0
    for group in groups:
        part = np.arange(start, start + group.count)
        if group.ratio < 1:
            part = np.sort(rng.choice(part, round(group.count * group.ratio), replace=False))
        parts.append(part)
        start += group.count
    order = np.concatenate(parts)
    return rng.permutation(order) if shuffle else order


class FixedBatches:
    """Batches of `batch_size` samples per process, as Paddle's DistributedBatchSampler makes them for training.

    Where the samples do not go round, the first ones are taken again; with `drop_last` the last batch is left out if it
    is not full. For evaluation (`training` false) nothing is taken twice: the processes take whole batches in turn, and
    may have one more or less.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        batch_size: int,
        *,
        training: bool,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._groups = groups
        self._batch_size = batch_size
        self._training = training
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        size = epoch_size(self._groups)
        if self._training:
            size = -(-size // self._world_size)
        batches = size // self._batch_size if self._drop_last else -(-size // self._batch_size)
        return batches if self._training else len(range(self._rank, batches, self._world_size))

    def batches(self, epoch: int) -> Iterator[list[Request]]:
        """The batches of an epoch in order. Evaluation draws its share of the samples once, not for each epoch."""
        if not self._training:
            epoch = 0
        order = epoch_order(self._groups, epoch_generator(self._seed, epoch), self._shuffle)
        if self._training:
            order = np.append(order, order[: -len(order) % self._world_size])
            step, first = self._batch_size * self._world_size, 0
        else:
            step, first = self._batch_size, self._rank
        for number in range(len(self)):
            if self._training:
                part = order[number * step : (number + 1) * step][self._rank :: self._world_size]
            else:
                part = order[(first + number * self._world_size) * step :][:step]
            yield [Request(epoch, int(index)) for index in part]


class MultiScaleBatches:
    """Batches of one size each, cycling over the sampler's sizes, as PaddleOCR's MultiScaleSampler makes them.

    A batch has `first_bs` samples per process at the first scale and as many of the same area at the others, or
    `first_bs` always with `fix_bs`. Whole cycles are made until all samples are used, less those that do not go round
    among the processes; what is then missing is taken from the start. Sizes and samples are shuffled.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        sampler: MultiScaleSampler,
        first_bs: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._groups = groups
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        # The first scale counts as it is given, not floored.
        area = math.prod(sampler.scales[0]) * first_bs
        cycle = [(size, first_bs if sampler.fix_bs else max(1, area // math.prod(size))) for size in sampler.sizes]
        each = epoch_size(groups) // world_size
        cycles = -(-each // sum(count for _, count in cycle))
        self._sizes = cycle * cycles

    def __len__(self) -> int:
        return len(self._sizes)

    def batches(self, epoch: int) -> Iterator[list[Request]]:
        """The batches of an epoch in order."""
        rng = epoch_generator(self._seed, epoch)
        order = epoch_order(self._groups, rng, shuffle=True)
        order = order[: len(order) // self._world_size * self._world_size]
        start = 0
        for number in rng.permutation(len(self._sizes)):
            size, count = self._sizes[number]
            count *= self._world_size
            part = order[start : start + count]
            part = np.append(part, order[: count - len(part)])
            start += count
            yield [Request(epoch, int(index), size) for index in part[self._rank :: self._world_size]]
