"""A pointwise layer trains by the moments of its input as it does branch by branch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo import pplcnetv3
from paddle2torch.model_zoo.pplcnetv3 import LearnableRepLayer

Result = dict[str, Tensor]


def layer_of(outputs: int, *, dtype: torch.dtype = torch.float64) -> LearnableRepLayer:
    torch.manual_seed(0)
    layer = LearnableRepLayer(6, outputs, 1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return layer.to(dtype)


def trained(layer: LearnableRepLayer, x: Tensor) -> Result:
    """The output, all gradients and the statistics of one step."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return {"out": out.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2


@pytest.mark.parametrize("outputs", [6, 9], ids=["with the identity", "more outputs"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_the_sum_of_the_branches(
    x: Tensor, outputs: int, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = x.contiguous(memory_format=memory_format)
    by_moments = trained(layer_of(outputs), x)
    monkeypatch.setattr(pplcnetv3, "has_moments", lambda *_: False)
    by_branches = trained(layer_of(outputs), x)
    assert by_moments.keys() == by_branches.keys()
    assert len(by_moments) == 2 + 4 * 3 + 4 + 4 * 2 + (4 if outputs == 6 else 0)
    for name, expected in by_branches.items():
        torch.testing.assert_close(by_moments[name], expected, rtol=1e-10, atol=1e-10, msg=name)


def test_a_channel_that_never_changes(x: Tensor) -> None:
    """Its variance is 0 up to rounding, which must not make it negative."""
    x[:, :] = 0.1
    assert all(bool(value.isfinite().all()) for value in trained(layer_of(9, dtype=torch.float32), x.float()).values())


def freeze_one(layer: LearnableRepLayer) -> None:
    layer.conv_kxk[1].bn.eval()  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [freeze_one, nn.Module.eval], ids=["frozen", "evaluation"])
def test_each_branch_is_run_where_it_must_be(x: Tensor, change: Callable[[nn.Module], object]) -> None:
    layer = layer_of(6)
    change(layer)
    seen = []
    layer.conv_kxk[2].register_forward_hook(lambda *_: seen.append(1))
    layer(x)
    assert seen


def test_bfloat16_runs_each_branch(x: Tensor) -> None:
    layer = layer_of(6, dtype=torch.float32)
    seen = []
    layer.conv_kxk[2].register_forward_hook(lambda *_: seen.append(1))
    layer(x.float())
    assert not seen
    with torch.autocast("cpu", torch.bfloat16):
        layer(x.float())
    assert seen
