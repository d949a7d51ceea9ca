"""Folding changes no result, in any of its ways of computing, and leaves no layer behind that it could have folded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import card_network as network
from structure import image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from paddle2torch.model_zoo.forms.folded import (
    Folded,
    FoldedConv2d,
    FoldedConvTranspose2d,
    PixelShuffleConv,
    PushedAffine,
    Tail,
)
from paddle2torch.model_zoo.forms.folding import _fold_chain, fold
from paddle2torch.model_zoo.lkpan import IntraCLBlock
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.model_zoo.pplcnetv3 import LearnableAffineBlock
from paddle2torch.model_zoo.pplcnetv4 import LCNetV4Block

# One of each backbone, neck and head, and odd sizes where the network takes them.
NETWORKS = {
    "en_PP-OCRv4_rec": (2, 3, 48, 75),
    "ch_PP-OCRv4_det": (1, 3, 96, 160),
    "ch_PP-OCRv4_server_det": (1, 3, 64, 96),
    "ch_ppocr_mobile_v2.0_det": (2, 3, 64, 96),
    "ch_ppocr_server_v2.0_rec": (1, 3, 32, 101),
    "ch_ppocr_mobile_v2.0_cls": (2, 3, 48, 192),
    "en_PP-OCRv3_rec": (2, 3, 48, 75),
    "PP-OCRv5_server_det": (1, 3, 64, 96),
    "PP-LCNet_x0_25_textline_ori": (2, 3, 80, 160),
    "PP-OCRv6_tiny_det": (1, 3, 64, 96),
    "PP-OCRv6_small_rec": (2, 3, 48, 75),
}


def run(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return out["maps"] if isinstance(out, dict) else out


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest value."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_no_result_changes(name: str) -> None:
    x = image(*NETWORKS[name])
    # In float64 what folding itself does is not hidden by what float32 rounds.
    exact = fuse(copy.deepcopy(network(name)).double())
    folded = fold(network(name))
    with torch.inference_mode():
        expected = run(exact, x.double())
        assert error(run(fold(exact), x.double()), expected) < 1e-12
        assert error(run(folded, x), expected) < 1e-4
        assert error(run(folded, x.contiguous(memory_format=torch.channels_last)), expected) < 1e-4
    assert error(run(folded, x), expected) < 1e-4  # with gradients on: the other way to compute
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_chain_is_folded(name: str) -> None:
    folded = fold(network(name))
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {nn.Conv2d, nn.ConvTranspose2d, LearnableAffineBlock, nn.GELU}
    # IntraCL normalises a sum: no convolution is before it.
    left = {path for path, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(isinstance(folded.get_submodule(path.rpartition(".")[0]), IntraCLBlock) for path in left)


def test_gelu_is_folded_where_the_stem_is_plain() -> None:
    """There the convolution, its normalisation and GELU are of different modules."""
    folded = fold(network("PP-OCRv6_tiny_rec"))
    assert not any(isinstance(module, nn.GELU) for module in folded.modules())
    stem = folded.get_submodule("backbone.conv1.0.conv")
    assert isinstance(stem, FoldedConv2d)
    assert stem.tail == Tail("gelu")


def test_only_the_exact_gelu_is_folded() -> None:
    block = LCNetV4Block(8, 8, stride=1, se=False, fused=True)
    block.channel_mixer.add_module("act", nn.GELU(approximate="tanh"))
    _fold_chain(block, block.CHAINS[0])
    conv = block.get_submodule("channel_mixer.expand")
    assert isinstance(conv, FoldedConv2d)
    assert conv.tail == Tail()


def test_values_too_small_for_floats_usual_form_are_zeros() -> None:
    """A processor takes a hundred times as long for them, and they change no sum."""
    model = copy.deepcopy(fuse(network("PP-OCRv6_tiny_det")))
    conv = model.get_submodule("backbone.blocks_s4.1.channel_mixer.compress")
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        conv.weight[:, 5:40] *= 1e-38
    tiny = torch.finfo(torch.float32).tiny
    assert ((conv.weight != 0) & (conv.weight.abs() < tiny)).any()
    folded = fold(model)
    for tensor in folded.state_dict().values():
        assert not ((tensor != 0) & (tensor.abs() < tiny)).any()
    x = image(*NETWORKS["PP-OCRv6_tiny_det"])
    with torch.inference_mode():
        assert error(run(folded, x), run(model, x)) < 1e-4


def test_the_v4_recogniser_keeps_one_affine_per_block() -> None:
    folded = fold(network("en_PP-OCRv4_rec"))
    convolutions = [m for m in folded.modules() if isinstance(m, FoldedConv2d)]
    blocks = 14
    squeezed = 2
    assert sum(m.tail.affine is not None for m in convolutions) == blocks + squeezed
    assert sum(isinstance(m, PushedAffine) for m in folded.modules()) == blocks - squeezed
    assert not any(isinstance(m, LearnableAffineBlock) for m in folded.modules())
    assert sum(isinstance(m, Folded) for m in folded.modules()) > 3 * blocks


def test_the_models_own_tensors_stay(small: Network) -> None:
    before = {key: value.clone() for key, value in small.state_dict().items()}
    folded = fold(small)
    with torch.inference_mode():
        folded(image(2, 3, 48, 64))
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert fold(small).state_dict().keys() == folded.state_dict().keys()


def test_an_input_is_not_written_to(small: Network) -> None:
    x = image(2, 3, 48, 64).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    with torch.inference_mode():
        fold(small)(x)
    assert torch.equal(x, before)


def test_half_precision(small: Network) -> None:
    x = image(2, 3, 48, 64)
    half = fold(small).to(torch.bfloat16)
    with torch.inference_mode():
        expected, found = small(x), half(x.to(torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert error(found.float(), expected) < 0.05


def test_without_onednn(small: Network) -> None:
    x = image(2, 3, 48, 64)
    with torch.inference_mode():
        expected = small(x)
        with torch.backends.mkldnn.flags(enabled=False):
            assert error(fold(small)(x), expected) < 1e-5


def test_the_map_of_a_detector_is_shuffled_once() -> None:
    head = fold(network("ch_PP-OCRv4_det")).get_submodule("head.binarize")
    assert isinstance(head.get_submodule("conv2"), FoldedConv2d)
    assert isinstance(head.get_submodule("conv3"), PixelShuffleConv)
    x = image(1, 96, 5, 7)
    plain = network("ch_PP-OCRv4_det").get_submodule("head.binarize")
    with torch.inference_mode():
        assert error(head(x), plain(x)) < 1e-5


def test_the_output_size_of_a_transposed_convolution() -> None:
    detector = fold(network("ch_PP-OCRv4_server_det"))
    conv = detector.get_submodule("head.binarize.conv2")
    assert isinstance(conv, FoldedConvTranspose2d)
    x = image(1, conv.in_channels, 5, 7)
    with torch.inference_mode():
        assert torch.allclose(conv(x), conv(x, [10, 14]), atol=1e-6)


class Operations(TorchDispatchMode):
    """Counts what PyTorch is asked to compute, and the values written by it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.written = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view:
            self.count += 1
            self.written += out.numel()
        return out


@pytest.mark.parametrize(
    ("name", "operations", "written"), [("en_PP-OCRv4_rec", 0.49, 0.29), ("ch_PP-OCRv4_det", 0.59, 0.43)]
)
def test_passes_over_memory_are_saved(name: str, operations: float, written: float) -> None:
    """A guard of speed that no noise moves: at most these shares of what the fused form does."""
    x = image(*NETWORKS[name])
    counts = []
    for model in (fuse(network(name)), fold(network(name))):
        with torch.inference_mode(), Operations() as found:
            model(x)
        counts.append(found)
    fused, folded = counts
    assert folded.count <= operations * fused.count
    assert folded.written <= written * fused.written
