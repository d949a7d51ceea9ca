"""A convolution in int8 computes what is said of it, by oneDNN and without, and takes no tensors that do not fit."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import image
from torch import Tensor

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.forms.folded import Affine, FoldedConv2d, Tail
from paddle2torch.model_zoo.forms.quantized import (
    ACTIVATIONS,
    LEVELS,
    MULTIPLIES_INT8,
    WEIGHT_LIMIT,
    QuantizedConv2d,
    can_be_quantized,
    expected_tensors,
    quantize_network,
)
from paddle2torch.model_zoo.network import Network

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not MULTIPLIES_INT8, reason="needs oneDNN's int8 convolution"
)

# Kernel, stride, padding, and channels that no vector's width divides.
SHAPES = {
    "1x1": ((1, 1), (1, 1), (0, 0), (24, 32)),
    "3x3": ((3, 3), (1, 1), (1, 1), (13, 21)),
    "3x3 with a stride": ((3, 3), (2, 1), (1, 1), (24, 17)),
    "1x3": ((1, 3), (1, 1), (0, 1), (16, 8)),
    "1x1 with a stride": ((1, 1), (2, 2), (0, 0), (9, 5)),
    "5x5 over a wide edge": ((5, 5), (2, 2), (3, 2), (10, 12)),
}
ROUNDING = 2e-6
"""Of float32, with activation and affine, relative to the largest value."""


def folded_conv(shape: str, activation: str = "none", affine: Affine | None = None) -> FoldedConv2d:
    kernel, stride, padding, (inputs, outputs) = SHAPES[shape]
    tail = Tail(activation, affine)
    return FoldedConv2d(inputs, outputs, kernel, stride, padding, tail=tail).eval().requires_grad_(False)


def made_up(conv: FoldedConv2d, zero_point: int = 37, seed: int = 0) -> dict[str, Tensor]:
    """Tensors for it, with weights over the whole range."""
    random = torch.Generator().manual_seed(seed)
    inputs, outputs = conv.in_channels, conv.out_channels
    return {
        "weight": torch.randint(-WEIGHT_LIMIT, WEIGHT_LIMIT + 1, conv.weight.shape, generator=random).to(torch.int8),
        "weight_scale": torch.rand(outputs, generator=random) * 1e-4 + 1e-5,
        "bias": torch.randn(outputs, generator=random),
        "input_scale": torch.rand(inputs, generator=random) * 0.2 + 0.01,
        "input_zero_point": torch.tensor(zero_point, dtype=torch.int32),
    }


def inputs_for(tensors: dict[str, Tensor], height: int = 7, width: int = 19) -> tuple[Tensor, Tensor]:
    """An input, and the integers (int64) that stand for it: a fifth lies beyond the range, nothing lies at an edge."""
    random = torch.Generator().manual_seed(1)
    scale, zero_point = tensors["input_scale"].view(1, -1, 1, 1), int(tensors["input_zero_point"])
    steps = torch.randint(-32, LEVELS + 33, (2, scale.numel(), height, width), generator=random)
    beside = torch.rand(steps.shape, generator=random) * 0.9 - 0.45
    return (steps - zero_point + beside) * scale, steps.clamp(0, LEVELS)


def said(conv: FoldedConv2d, tensors: dict[str, Tensor], q: Tensor) -> Tensor:
    """What the module's head says of integers q: sums in int64, the rest in float64."""
    zero_point = int(tensors["input_zero_point"])
    pad_y, pad_x = (int(size) for size in conv.geometry[0])
    padded = F.pad(q - zero_point, (pad_x, pad_x, pad_y, pad_y))
    windows = padded.unfold(2, conv.kernel_size[0], conv.stride[0]).unfold(3, conv.kernel_size[1], conv.stride[1])
    sums = torch.einsum("nihwyx,oiyx->nohw", windows, tensors["weight"].long())
    y = sums * tensors["weight_scale"].double().view(1, -1, 1, 1) + tensors["bias"].double().view(1, -1, 1, 1)
    y = {
        "none": y,
        "relu": y.clamp_min(0),
        "hardswish": y * (y + 3).clamp(0, 6) / 6,
        "swish": y / (1 + (-y).exp()),
        "gelu": y * (1 + (y / 2**0.5).erf()) / 2,
    }[conv.tail.activation]
    scale, shift = conv.tail.affine or (1.0, 0.0)
    return y * scale + shift


def error(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest value."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def by_onednn(module: QuantizedConv2d, x: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(x)
    assert module._prepacked is not None, "it went another way"
    return found


@needs_onednn
@pytest.mark.parametrize("affine", [None, (1.75, -0.4)])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways_compute_what_is_said(shape: str, activation: str, affine: Affine | None) -> None:
    conv = folded_conv(shape, activation, affine)
    tensors = made_up(conv)
    x, q = inputs_for(tensors)
    module = QuantizedConv2d(conv, tensors).eval()
    expected = said(conv, tensors, q)
    assert torch.equal(module.quantized(x).long(), q)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        found = by_onednn(module, given)
        assert found.dtype == torch.float32
        assert error(found, expected) < ROUNDING
    plain = QuantizedConv2d(conv, tensors).eval()
    assert error(plain(x), expected) < ROUNDING  # with gradients on
    assert plain._prepacked is None


@needs_onednn
@pytest.mark.parametrize("zero_point", [0, 128, LEVELS])
def test_edges_are_padded_with_what_stands_for_zero(zero_point: int) -> None:
    conv = folded_conv("5x5 over a wide edge")
    tensors = made_up(conv, zero_point)
    x, q = inputs_for(tensors, 4, 5)
    module = QuantizedConv2d(conv, tensors).eval()
    assert error(by_onednn(module, x), said(conv, tensors, q)) < ROUNDING
    assert error(module._plainly(x), said(conv, tensors, q)) < ROUNDING


@needs_onednn
@pytest.mark.parametrize("zero_point", [0, LEVELS])
@pytest.mark.parametrize("shape", ["1x1", "3x3"])
def test_the_largest_sums_do_not_saturate(shape: str, zero_point: int) -> None:
    conv = folded_conv(shape)
    tensors = made_up(conv, zero_point)
    rows = torch.arange(conv.out_channels)
    # All at the upper end, all at the lower, and both in turn: of input and of output channels.
    tensors["weight"] = torch.full_like(tensors["weight"], WEIGHT_LIMIT)
    tensors["weight"][rows % 3 == 1] *= -1
    tensors["weight"][rows % 3 == 2, ::2] *= -1
    module = QuantizedConv2d(conv, tensors).eval()
    x = torch.full((1, conv.in_channels, 5, 6), 1e6)
    x[..., 3:] = -1e6
    q = torch.where(x > 0, LEVELS, 0)
    assert error(by_onednn(module, x), said(conv, tensors, q)) < ROUNDING


def test_without_onednn() -> None:
    conv = folded_conv("3x3", "swish", (1.75, -0.4))
    tensors = made_up(conv)
    x, q = inputs_for(tensors)
    module = QuantizedConv2d(conv, tensors).eval()
    with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
        assert error(module(x), said(conv, tensors, q)) < ROUNDING
    assert module._prepacked is None


@needs_onednn
def test_copies_run_after_the_first_run() -> None:
    conv = folded_conv("3x3", "hardswish", (0.5, 2.0))
    tensors = made_up(conv)
    x, _ = inputs_for(tensors)
    module = QuantizedConv2d(conv, tensors).eval()
    expected = by_onednn(module, x)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert again._prepacked is None
        assert torch.equal(by_onednn(again, x), expected)
    assert set(module.state_dict()) == set(tensors)


def test_half_precision_keeps_its_dtype() -> None:
    conv = folded_conv("3x3")
    tensors = made_up(conv)
    x, _ = inputs_for(tensors)
    module = QuantizedConv2d(conv, tensors).eval()
    half = x.to(torch.bfloat16)
    with torch.inference_mode():
        found = module(half)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, module._plainly(half.float()).to(torch.bfloat16))


def with_one(name: str, index: int, value: float) -> Any:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = tensors[name].clone()
        changed.view(-1)[index] = value
        return {**tensors, name: changed}

    return change


WRONG = {
    "missing": (lambda t: {k: v for k, v in t.items() if k != "bias"}, "bias is missing"),
    "strange": (lambda t: {**t, "weights": t["weight"]}, "weights is not of int8's tensors"),
    "shape": (lambda t: {**t, "weight": t["weight"][:-1]}, r"weight is torch\.int8 \[31, 24, 1, 1\]"),
    "broadcast": (lambda t: {**t, "input_scale": t["input_scale"][:1]}, r"input_scale is torch\.float32 \[1\]"),
    "dtype": (lambda t: {**t, "weight": t["weight"].float()}, r"the network needs torch\.int8"),
    "weight of 64": (with_one("weight", 5, 64), "range"),
    "weight of -64": (with_one("weight", 5, -64), "range"),
    "weight of -128": (with_one("weight", 5, -128), "range"),
    "zero point of 256": (with_one("input_zero_point", 0, 256), "range"),
    "zero point of -1": (with_one("input_zero_point", 0, -1), "range"),
    "NaN input scale": (with_one("input_scale", 3, float("nan")), "range"),
    "no input scale": (with_one("input_scale", 3, 0), "range"),
    "infinite input scale": (with_one("input_scale", 3, float("inf")), "range"),
    "input scale without an inverse": (with_one("input_scale", 3, 1e-40), "range"),
    "no weight scale": (with_one("weight_scale", 31, 0), "range"),
    "negative weight scale": (with_one("weight_scale", 31, -0.1), "range"),
    "NaN weight scale": (with_one("weight_scale", 31, float("nan")), "range"),
    "infinite bias": (with_one("bias", 0, float("inf")), "range"),
    "NaN bias": (with_one("bias", 0, float("nan")), "range"),
}


@pytest.mark.parametrize("what", WRONG)
def test_tensors_that_do_not_fit(what: str) -> None:
    conv = folded_conv("1x1")
    tensors = made_up(conv)
    QuantizedConv2d(conv, tensors)
    change, message = WRONG[what]
    with pytest.raises(FileFormatError, match=message):
        QuantizedConv2d(conv, change(tensors))


def test_a_network_in_int8(folded: Network) -> None:
    before = {key: value.clone() for key, value in folded.state_dict().items()}
    modules = folded.named_modules()
    convolutions = {p: m for p, m in modules if isinstance(m, FoldedConv2d) and can_be_quantized(m)}
    paths = list(convolutions)[-3:]
    tensors = {f"{path}.{name}": tensor for path in paths for name, tensor in made_up(convolutions[path]).items()}
    quantized = quantize_network(folded, tensors)
    found = [path for path, module in quantized.named_modules() if isinstance(module, QuantizedConv2d)]
    assert found == paths
    assert not quantized.training
    with torch.inference_mode():
        x = image(2, 3, 48, 64)
        assert quantized(x).shape == folded(x).shape
    # A copy: the network itself is what it was.
    assert not any(isinstance(module, QuantizedConv2d) for module in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in folded.state_dict().items())


def test_the_path_of_what_does_not_fit_is_said(folded: Network) -> None:
    convolutions = {path: m for path, m in folded.named_modules() if isinstance(m, FoldedConv2d)}
    path = next(path for path, conv in convolutions.items() if can_be_quantized(conv))
    tensors = {f"{path}.{name}": tensor for name, tensor in made_up(convolutions[path]).items()}
    quantize_network(folded, tensors)
    with pytest.raises(FileFormatError, match=f"^{path}: weight is missing"):
        quantize_network(folded, {key: t for key, t in tensors.items() if not key.endswith(".weight")})
    depthwise = next(path for path, conv in convolutions.items() if conv.groups > 1)
    for wrong in (depthwise, "backbone", "head.nothing", ""):
        tensor = {f"{wrong}.weight" if wrong else "weight": torch.zeros(1)}
        with pytest.raises(FileFormatError, match=f"^'{wrong}' is not a convolution of small"):
            quantize_network(folded, tensor)


def test_what_int8_can_stand_for() -> None:
    assert all(can_be_quantized(folded_conv("1x1", activation)) for activation in ACTIVATIONS)
    assert not can_be_quantized(folded_conv("1x1", "sigmoid"))
    assert not can_be_quantized(FoldedConv2d(8, 8, 3, groups=8, tail=Tail()))
    assert set(expected_tensors(folded_conv("3x3"))) == set(made_up(folded_conv("3x3")))
