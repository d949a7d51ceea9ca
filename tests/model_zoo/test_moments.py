"""Layers train by the moments of their branches as they do branch by branch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo import pplcnetv3
from paddle2torch.model_zoo.layers import Size
from paddle2torch.model_zoo.pplcnetv3 import Act, LearnableRepLayer

Result = dict[str, Tensor]


def layer_of(outputs: int, *, dtype: torch.dtype = torch.float64) -> LearnableRepLayer:
    return drawn(LearnableRepLayer(6, outputs, 1), dtype)


def depthwise_layer(size: int, stride: Size = 1, dtype: torch.dtype = torch.float64) -> LearnableRepLayer:
    return drawn(LearnableRepLayer(6, 6, size, stride=stride, groups=6), dtype)


def drawn(layer: LearnableRepLayer, dtype: torch.dtype) -> LearnableRepLayer:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return layer.to(dtype)


def trained(layer: LearnableRepLayer, x: Tensor, *, noise: bool = False) -> Result:
    """The output, all gradients and the statistics of one step, whose loss is a sum with growing weights, or with
    weights of noise.
    """
    x = x.clone().requires_grad_()
    out = layer(x)
    count = out.numel()
    weights = torch.randn(count, generator=torch.Generator().manual_seed(2)) if noise else torch.linspace(-1, 1, count)
    (out * weights.to(out).view_as(out)).sum().backward()
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


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 2)])
def test_a_depthwise_layer_is_the_sum_of_its_branches(
    x: Tensor, size: int, stride: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_moments = trained(depthwise_layer(size, stride), x)
    monkeypatch.setattr(pplcnetv3, "has_moments", lambda *_: False)
    by_branches = trained(depthwise_layer(size, stride), x)
    assert by_moments.keys() == by_branches.keys()
    assert len(by_moments) == 2 + 5 * 3 + 2 + 5 * 2 + (4 if stride == 1 else 0) + (0 if stride == 2 else 2)
    for name, expected in by_branches.items():
        torch.testing.assert_close(by_moments[name], expected, rtol=1e-10, atol=1e-9, msg=name)


@pytest.mark.parametrize("stride", [1, (2, 1)])
def test_in_float32_a_depthwise_layer_is_as_close_to_float64_as_its_branches(
    stride: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There other kernels compute, and of a kernel that is wider than three the gradient is put together."""
    x = torch.randn(4, 6, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2
    exact = trained(depthwise_layer(5, stride), x, noise=True)
    by_moments = trained(depthwise_layer(5, stride, torch.float32), x.float(), noise=True)
    monkeypatch.setattr(pplcnetv3, "has_moments", lambda *_: False)
    by_branches = trained(depthwise_layer(5, stride, torch.float32), x.float(), noise=True)

    def error(result: Result, name: str) -> float:
        return float((result[name] - exact[name]).abs().max())

    for name, values in exact.items():
        rounding = 1e-5 * float(values.abs().max())
        assert error(by_moments, name) <= 3 * error(by_branches, name) + rounding, name


@pytest.mark.parametrize("layer", [layer_of(9, dtype=torch.float32), depthwise_layer(5, dtype=torch.float32)])
def test_a_channel_that_never_changes(x: Tensor, layer: LearnableRepLayer) -> None:
    """Its variance is 0 up to rounding, which must not make it negative."""
    x[:, :] = 0.1
    assert all(bool(value.isfinite().all()) for value in trained(layer, x.float()).values())


def test_an_activation_and_its_affine_have_the_gradients_of_their_formula(x: Tensor) -> None:
    x = x.requires_grad_()
    act = Act().double()
    nn.init.constant_(act.lab.scale, 0.7)
    nn.init.constant_(act.lab.bias, -0.2)
    weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)
    tensors = (x, act.lab.scale, act.lab.bias)
    expected = torch.autograd.grad((act.lab(act.act(x)) * weights).sum(), tensors)
    found = torch.autograd.grad((act(x) * weights).sum(), tensors)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def freeze_one(layer: LearnableRepLayer) -> None:
    layer.conv_kxk[1].bn.eval()  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [freeze_one, nn.Module.eval], ids=["frozen", "evaluation"])
@pytest.mark.parametrize("make", [lambda: layer_of(6), lambda: depthwise_layer(3)], ids=["pointwise", "depthwise"])
def test_each_branch_is_run_where_it_must_be(
    x: Tensor, change: Callable[[nn.Module], object], make: Callable[[], LearnableRepLayer]
) -> None:
    layer = make()
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
