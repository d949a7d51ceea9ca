"""Batches are the same whatever the number of processes, and each epoch uses what it should."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from paddle2torch.training.data.labels import Group
from paddle2torch.training.data.samplers import FixedBatches, MultiScaleBatches, Plan, Request, sample_generator
from paddle2torch.training.settings import MultiScaleSampler

SCALES = ((320, 32), (320, 48), (320, 64))


def indices(plan: Plan, epoch: int = 0) -> list[list[int]]:
    return [[request.index for request in batch] for batch in plan.batches(epoch)]


def flat(batches: Iterable[Iterable[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def multi_scale(count: int, first_bs: int, rank: int = 0, world_size: int = 1, seed: int = 0) -> MultiScaleBatches:
    return MultiScaleBatches(
        [Group(count, 1.0)], MultiScaleSampler(SCALES), first_bs, seed=seed, rank=rank, world_size=world_size
    )


def sizes(plan: Plan, epoch: int = 0) -> list[tuple[tuple[int, int] | None, int]]:
    return [(batch[0].size, len(batch)) for batch in plan.batches(epoch)]


def test_batch_sizes_keep_the_area() -> None:
    plan = multi_scale(2080, 96)
    # 208 samples in a cycle of three.
    assert len(plan) == 30
    assert set(sizes(plan)) == {((320, 32), 96), ((320, 48), 64), ((320, 64), 48)}
    assert sorted(sizes(plan)) == sorted(sizes(plan, 1))
    assert sizes(plan) != sizes(plan, 1)


def test_an_epoch_uses_every_sample_once_if_they_go_round() -> None:
    batches = indices(multi_scale(2080, 96))
    assert sorted(flat(batches)) == list(range(2080))
    assert batches != indices(multi_scale(2080, 96), 1)
    assert batches != indices(multi_scale(2080, 96, seed=1))


def test_the_last_cycle_is_filled_from_the_start() -> None:
    batches = indices(multi_scale(250, 96))
    assert sum(len(batch) for batch in batches) == 416
    order = list(dict.fromkeys(flat(batches)))
    assert sorted(order) == list(range(250))
    start = 0
    for batch in batches:
        own = order[start : start + len(batch)]
        # PaddleOCR begins at the start again for each batch that is not full.
        assert batch == own + order[: len(batch) - len(own)]
        start += len(batch)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_do_what_one_does(world_size: int) -> None:
    count, each = 600 * world_size, 48
    alone = multi_scale(count, each * world_size)
    together = [multi_scale(count, each, rank, world_size) for rank in range(world_size)]
    for epoch in (0, 1):
        for whole, *parts in zip(alone.batches(epoch), *(plan.batches(epoch) for plan in together), strict=True):
            assert {len(part) for part in parts} == {len(whole) // world_size}
            assert {request.size for part in parts for request in part} == {whole[0].size}
            assert sorted(request.index for part in parts for request in part) == sorted(r.index for r in whole)


def test_samples_that_do_not_go_round_wait_for_another_epoch() -> None:
    plans = [multi_scale(101, 8, rank, 4) for rank in range(4)]
    for epoch in (0, 1):
        used = [set(flat(indices(plan, epoch))) for plan in plans]
        assert [len(each) for each in used] == [25] * 4
        assert len(set.union(*used)) == 100
    assert {len(plan) for plan in plans} == {6}


def test_sizes_are_floored() -> None:
    plan = MultiScaleBatches([Group(64, 1.0)], MultiScaleSampler(((325, 70),), divided_factor=(8, 16)), 4)
    assert sizes(plan)[0] == ((320, 64), 325 * 70 * 4 // (320 * 64))
    plan = MultiScaleBatches([Group(64, 1.0)], MultiScaleSampler(SCALES, fix_bs=True), 16)
    assert {count for _, count in sizes(plan)} == {16}


def test_small_sets() -> None:
    assert [count for _, count in sizes(multi_scale(10, 96))] == [20, 10, 10]
    assert len(multi_scale(3, 96, 0, 4)) == 0


def fixed(count: int, size: int, *, training: bool = True, **options: int | bool) -> FixedBatches:
    return FixedBatches([Group(count, 1.0)], size, training=training, **options)  # type: ignore[arg-type]


def test_the_order_of_seed_0_is_that_of_pcg64() -> None:
    batches = indices(fixed(1200, 24, shuffle=True))
    assert len(batches) == 50
    assert flat(batches) == np.random.Generator(np.random.PCG64(0)).permutation(1200).tolist()
    assert indices(fixed(1200, 24, shuffle=True), 1) != batches


@pytest.mark.parametrize(("drop_last", "lengths"), [(True, [4, 4]), (False, [4, 4, 3])])
def test_the_last_batch(drop_last: bool, lengths: list[int]) -> None:
    plan = fixed(11, 4, drop_last=drop_last)
    assert [len(batch) for batch in indices(plan)] == lengths
    assert len(plan) == len(lengths)
    assert flat(indices(plan)) == list(range(sum(lengths)))


def test_fixed_batches_of_several_processes() -> None:
    plans = [fixed(101, 8, shuffle=True, rank=rank, world_size=4) for rank in range(4)]
    batches = [indices(plan) for plan in plans]
    assert [[len(batch) for batch in each] for each in batches] == [[8, 8, 8, 2]] * 4
    assert {len(plan) for plan in plans} == {4}
    steps = [flat(parts) for parts in zip(*batches, strict=True)]
    assert all(len(set(step)) == len(step) for step in steps[:3])
    assert set(flat(steps)) == set(range(101))
    whole = indices(fixed(101, 32, shuffle=True))
    assert [sorted(step) for step in steps[:3]] == [sorted(batch) for batch in whole[:3]]
    assert len(fixed(30, 8, drop_last=True, world_size=4)) == 1
    assert len(fixed(28, 8, drop_last=True, world_size=4)) == 0


def test_evaluation_takes_nothing_twice() -> None:
    plans = [fixed(23, 4, training=False, rank=rank, world_size=4) for rank in range(4)]
    assert [len(plan) for plan in plans] == [len(indices(plan)) for plan in plans] == [2, 2, 1, 1]
    assert sorted(flat(flat(indices(plan)) for plan in plans)) == list(range(23))
    assert indices(plans[0], 5) == indices(plans[0], 0)


def test_shares_of_files() -> None:
    plan = FixedBatches([Group(100, 1.0), Group(50, 0.2), Group(9, 0.5)], 1000, training=True, shuffle=True)
    (first,), (second,) = indices(plan, 0), indices(plan, 1)
    for chosen in (first, second):
        assert len(chosen) == len(set(chosen)) == 100 + 10 + 4
        assert sum(index < 100 for index in chosen) == 100
        assert sum(100 <= index < 150 for index in chosen) == 10
    assert {index for index in first if 100 <= index < 150} != {index for index in second if 100 <= index < 150}
    evaluated = FixedBatches([Group(50, 0.2)], 1000, training=False)
    assert indices(evaluated, 0) == indices(evaluated, 1)


def test_every_sample_draws_for_itself() -> None:
    draws = {
        tuple(sample_generator(seed, Request(epoch, index)).integers(2**30, size=2))
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(draws) == 27
    same = [sample_generator(1, Request(2, 3, size)).random() for size in (None, (320, 48))]
    assert same[0] == same[1]
