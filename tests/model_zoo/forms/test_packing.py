"""Laying weights out beforehand changes no result, and is done where one layout serves every size."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from small_models import card_network
from structure import image
from torch import nn

from paddle2torch.model_zoo.forms import packing
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, Tail
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.layouts import Layouts, lay_out, layout_of
from paddle2torch.model_zoo.forms.packing import PackedConv2d, PackedQuantizedConv2d, pack
from paddle2torch.model_zoo.forms.quantized import QuantizedConv2d, can_be_quantized, expected_tensors, quantize_network
from paddle2torch.model_zoo.network import Network, channels_last

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")

SIZES = [(1, 3, 48, 96), (1, 3, 48, 320), (3, 3, 48, 200)]


@pytest.fixture(scope="module")
def inputs() -> list[torch.Tensor]:
    return [image(*size) for size in SIZES]


@pytest.fixture(scope="module")
def recogniser() -> Network:
    """The v4 recogniser as its card says it."""
    return fold(card_network("en_PP-OCRv4_rec"))


def in_int8(network: Network) -> Network:
    """Of made-up weights: all that can be."""
    tensors = {}
    random = torch.Generator().manual_seed(0)
    for path, conv in network.named_modules():
        if isinstance(conv, FoldedConv2d) and can_be_quantized(conv):
            for name, (shape, dtype) in expected_tensors(conv).items():
                whole = dtype in (torch.int8, torch.int32)
                values = torch.randint(0, 60, shape, generator=random) if whole else torch.rand(shape, generator=random)
                tensors[f"{path}.{name}"] = (values if whole else values * 0.01 + 0.01).to(dtype)
    return quantize_network(network, tensors)


def folded_conv(channels: int) -> FoldedConv2d:
    return channels_last(FoldedConv2d(channels, channels, 3, padding=1, tail=Tail()).eval().requires_grad_(False))


def kinds(network: nn.Module) -> dict[str, type[nn.Module]]:
    return {path: type(module) for path, module in network.named_modules()}


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


def test_most_of_a_recogniser_is_packed(recogniser: Network, inputs: list[torch.Tensor]) -> None:
    before = kinds(recogniser)
    packed = pack(recogniser, list(zip(inputs)))
    convolutions = {path for path, kind in before.items() if kind is FoldedConv2d}
    done = {path for path, kind in kinds(packed).items() if kind is PackedConv2d}
    assert done <= convolutions
    assert len(done) > 0.6 * len(convolutions)
    assert kinds(recogniser) == before
    assert hooks(packed) == hooks(recogniser) == 0


@pytest.mark.parametrize("channels", [16, 64])
def test_the_width_of_an_input_is_not_part_of_a_layout(channels: int) -> None:
    """oneDNN's description of it has gaps, in which that stands."""
    conv = folded_conv(channels)
    layouts, weight = Layouts(), conv.weight
    with torch.inference_mode():
        held = [layouts.of(weight, conv.geometry, (1, channels, size, size)) for size in (28, 56, 60, 112)]
        assert all(item is held[0] for item in held)
        assert held[0] is not weight
        conv.layouts = layouts
        for size in (112, 33):
            x = image(2, channels, size, size)
            torch.testing.assert_close(conv(x), nn.Conv2d.forward(conv, x), rtol=0, atol=1e-5)


def test_what_has_two_layouts_stays(recogniser: Network, inputs: list[torch.Tensor]) -> None:
    """With sizes seen by the test itself."""
    seen: dict[str, set[tuple[int, ...]]] = {}
    convolutions = {path: m for path, m in recogniser.named_modules() if isinstance(m, FoldedConv2d)}
    watched = [
        conv.register_forward_pre_hook(lambda _, args, path=path: seen.setdefault(path, set()).add(args[0].shape))
        for path, conv in convolutions.items()
    ]
    with torch.inference_mode():
        for x in inputs:
            recogniser(x)
    for hook in watched:
        hook.remove()
    packed = pack(recogniser, list(zip(inputs)))
    for path, conv in convolutions.items():
        layouts = {layout_of(lay_out(conv.weight, conv.geometry, tuple(size))) for size in seen[path]}
        module = packed.get_submodule(path)
        assert isinstance(module, PackedConv2d) == (len(layouts) == 1), path
        if isinstance(module, PackedConv2d):
            assert tuple(module.size) in seen[path]


def test_a_layout_for_every_size_is_none(
    folded: Network, inputs: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = count()
    monkeypatch.setattr(packing, "layout_of", lambda _: str(next(number)).encode())
    assert PackedConv2d not in kinds(pack(folded, list(zip(inputs)))).values()
    # With one size there is one.
    assert PackedConv2d in kinds(pack(folded, list(zip(inputs[:1])))).values()


def test_no_result_changes(folded: Network, inputs: list[torch.Tensor]) -> None:
    packed = pack(folded, list(zip(inputs)))
    assert PackedConv2d in kinds(packed).values()
    with torch.inference_mode():
        for x in [*inputs, image(2, 3, 48, 171)]:  # one of a size that it was not packed for
            assert torch.allclose(packed(x), folded(x), atol=1e-6)


def test_every_convolution_in_int8_is_packed(folded: Network, inputs: list[torch.Tensor]) -> None:
    network = in_int8(folded)
    packed = pack(network, list(zip(inputs)))
    assert PackedConv2d in kinds(packed).values()
    paths = [path for path, kind in kinds(network).items() if kind is QuantizedConv2d]
    assert paths == [path for path, kind in kinds(packed).items() if kind is PackedQuantizedConv2d]
    with torch.inference_mode():
        for path in paths:
            conv = network.get_submodule(path)
            x = image(2, conv.weight.shape[1], 6, 21)
            assert torch.allclose(packed.get_submodule(path)(x), conv(x), rtol=1e-6), path


@pytest.mark.parametrize("int8", [False, True])
def test_packed_twice_is_packed_once(folded: Network, inputs: list[torch.Tensor], int8: bool) -> None:
    once = pack(in_int8(folded) if int8 else folded, list(zip(inputs)))
    twice = pack(once, list(zip(inputs)))
    assert kinds(twice) == kinds(once)
    with torch.inference_mode():
        assert torch.equal(twice(inputs[0]), once(inputs[0]))


def test_without_onednn_nothing_is_packed(
    folded: Network, inputs: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack(folded, list(zip(inputs))) is folded
