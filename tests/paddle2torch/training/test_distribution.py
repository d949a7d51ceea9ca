"""Normalisation over several processes: which layers it takes the place of, and that alone it changes nothing.

That two processes have the losses of one is in `test_train.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import paddle2torch.model_zoo.network  # noqa: F401 - with it every layer is known
from paddle2torch.model_zoo.layers import BatchNorm1d, BatchNorm2d
from paddle2torch.training.distributed import SYNCHRONISED, SyncBatchNorm2d, synchronise_batch_norm


def kinds(base: type[nn.Module]) -> Iterator[type[nn.Module]]:
    yield base
    for kind in base.__subclasses__():
        if not issubclass(kind, SyncBatchNorm2d):
            yield from kinds(kind)


def test_every_normalisation_can_be_synchronised() -> None:
    assert set(SYNCHRONISED) == set(kinds(BatchNorm2d))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", list(SYNCHRONISED), ids=lambda kind: kind.__name__)
def test_alone_it_is_the_layer_itself(kind: type[BatchNorm2d], training: bool) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x = x.flatten(2) if issubclass(kind, BatchNorm1d) else x
    plain, network = kind(3), nn.Sequential(kind(3))
    synchronise_batch_norm(network)
    assert type(network[0]) is SYNCHRONISED[kind]
    plain.train(training)
    network.train(training)
    assert torch.equal(network(x), plain(x))
    assert plain.running_mean is not None
    assert torch.equal(network[0].running_mean, plain.running_mean)
