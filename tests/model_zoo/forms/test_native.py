"""The kernels give what PyTorch gives in float64, and networks made of them what the folded networks give."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import native_cases
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from native_cases import (
    CHAINS,
    CLASSES,
    DEPTHWISE,
    NOTHING_ELSE,
    PLAIN,
    TAILS,
    chain_error,
    classes_error,
    depthwise_error,
    plain_error,
    relative_error,
    separable_error,
    values,
)
from small_models import card_network
from structure import image
from torch import Tensor, nn

from paddle2torch.compiled import kernel_library as kernels
from paddle2torch.compiled.kernel_library import load_kernels
from paddle2torch.compiled.serving import Served, captured, compare, example_images
from paddle2torch.model_zoo.db import enlarge, join_levels
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.forms import operators
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, Tail
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.native import (
    ACTIVATIONS,
    LevelsConv2d,
    NativeAttention,
    NativeConv2d,
    NativeDepthwise,
    NativeLevels,
    NativeLinear,
    NativeMean,
    NativeRSEFPN,
    NativeStem,
    has_bfloat16,
    takes_images,
    to_native,
)
from paddle2torch.model_zoo.forms.native_graph import add, describe_operators, join, merge
from paddle2torch.model_zoo.forms.operators import check_operators
from paddle2torch.model_zoo.forms.quantized import QuantizedConv2d, expected_tensors, quantize_network
from paddle2torch.model_zoo.pphgnetv2 import pad_same
from paddle2torch.model_zoo.pplcnetv4 import StemBlock
from paddle2torch.model_zoo.svtr import Attention

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

FLOAT32 = 3e-6
"""Of the largest value: sums of up to 864 products in another order, and an exponential that is good to 2 ulp."""

BFLOAT16 = 2.0**-8
"""A result is rounded to 8 bits. Products are exact, and added up in float32."""


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory: pytest.TempPathFactory, kernels: Callable[[Path], None]) -> Iterator[None]:
    home = tmp_path_factory.mktemp("kernels")
    kernels(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE2TORCH_HOME", str(home))
        load_kernels()
        yield


@pytest.fixture
def bfloat16() -> None:
    if not has_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_convolutions(name: str, tail: tuple[str, tuple[float, float]]) -> None:
    assert plain_error(PLAIN[name], tail, torch.float32) < FLOAT32
    assert plain_error(PLAIN[name], tail, torch.float32, gated=True) < FLOAT32


@pytest.mark.parametrize(("kernel", "channels"), [(3, 32), (3, 96), (1, 384)])
def test_long_sums_are_added_up_in_parts(kernel: int, channels: int) -> None:
    """Over a background, where all results of a channel are rounded alike: in one go they were 5e-7 to 1e-6 off."""
    chance = torch.Generator().manual_seed(7)
    x = torch.rand(1, channels, 1, 1, generator=chance).expand(1, channels, 9, 13)
    weight = torch.rand(96, channels, kernel, kernel, generator=chance)
    bias = torch.rand(96, generator=chance)
    side = kernel // 2
    conv = NativeConv2d(weight, bias, [kernel, kernel, 1, 1, side, side], Tail(), torch.float32)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=side)
    assert relative_error(conv(x.contiguous(memory_format=torch.channels_last)), exact) < 2.5e-7


def test_gelu_everywhere() -> None:
    """Near zero relative to its own size, far out too: no value decays into what processors are slow with."""
    x = torch.cat([torch.linspace(-60, 60, 40001), torch.logspace(-30, 0, 4000), -torch.logspace(-30, 0, 4000)])
    weight = torch.ops.paddle2torch.pack(torch.eye(16))
    numbers = [float(ACTIVATIONS.index("gelu")), 1.0, 0.0]
    rows = F.pad(x, (0, -len(x) % 16)).view(1, 1, -1, 16).permute(0, 3, 1, 2)
    args = (rows, weight, torch.zeros(16), *[None] * 5, 0.0, *[None] * 4, 16)
    found = torch.ops.paddle2torch.convolve(*args, [1, 1, 1, 1, 0, 0], [0.0, 1.0, 0.0], numbers, *NOTHING_ELSE)
    found = found.permute(0, 2, 3, 1).flatten()[: len(x)].double()
    difference = (found - F.gelu(x.double())).abs()
    assert (difference <= 2e-7 * x.double().abs().clamp(min=1)).all()
    assert (difference <= 4e-7 * x.double().abs())[x.abs() < 0.5].all()


@pytest.mark.parametrize("name", DEPTHWISE)
@pytest.mark.parametrize("tail", TAILS, ids=str)
def test_separable_convolutions(name: str, tail: tuple[str, tuple[float, float]]) -> None:
    assert separable_error(DEPTHWISE[name], tail, torch.float32) < FLOAT32


@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_convolutions(name: str) -> None:
    assert depthwise_error(DEPTHWISE[name], torch.float32) < FLOAT32


@pytest.mark.parametrize("name", CHAINS)
def test_convolutions_one_after_another(name: str) -> None:
    """In strips or not: every sum is added up in the same order."""
    assert chain_error(CHAINS[name], torch.float32) < 1e-7
    if torch.ops.paddle2torch.features()[2]:
        assert chain_error(CHAINS[name], torch.int8) < 1e-7


@pytest.mark.usefixtures("bfloat16")
def test_in_bfloat16() -> None:
    for name, chain in CHAINS.items():
        # At the edges of strips products are added up in another order, and what is rounded there goes to either side.
        assert chain_error(chain, torch.bfloat16) < 4 * BFLOAT16, name
    for number, (name, shape) in enumerate(PLAIN.items()):
        tail = TAILS[number % len(TAILS)]
        if shape[3] % 2 == 0 or shape[5] == (1, 1):
            assert plain_error(shape, tail, torch.bfloat16) < BFLOAT16, name
            assert plain_error(shape, tail, torch.bfloat16, gated=True) < BFLOAT16, name
    for number, (name, shape) in enumerate(DEPTHWISE.items()):
        # The middle is rounded to bfloat16, at times to the other neighbour.
        assert separable_error(shape, TAILS[number % len(TAILS)], torch.bfloat16) < 2 * BFLOAT16, name
        assert depthwise_error(shape, torch.bfloat16) < BFLOAT16, name


def test_with_half_the_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of 8 are other kernels. As in the next test the compiler takes half of the time without -O3."""
    if "-march=native" not in kernels.FLAGS:
        pytest.skip("makes kernels for x86-64 processors")
    if "avx2" not in kernels.processor():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-march=haswell", "-O1"))
    kernels.make_kernels(tmp_path / "other.so")
    command = [sys.executable, native_cases.__file__, str(tmp_path / "other.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(native_cases.__file__).parent)
    worst, lanes = done.stdout.split()
    assert int(lanes) == 8
    assert float(worst) < FLOAT32


@pytest.mark.parametrize(
    ("compiler", "flags", "emulator", "features"),
    [
        ("g++", "-march=x86-64", "", "4 0 0"),
        ("g++", "-march=skylake-avx512", "", "16 0 0"),  # AVX-512 without VNNI and bfloat16
        ("aarch64-linux-gnu-g++", "-static", "qemu-aarch64", "4 0 0"),
    ],
)
def test_on_other_processors(compiler: str, flags: str, emulator: str, features: str, tmp_path: Path) -> None:
    """The kernels as a program: as many lanes as the processor has, float32 alone, and the same results."""
    if missing := [tool for tool in (compiler, emulator) if tool and shutil.which(tool) is None]:
        pytest.skip(f"needs {' and '.join(missing)}")
    if emulator == "" and (
        "-march=native" not in kernels.FLAGS or ("512" in flags and "avx512f" not in kernels.processor())
    ):
        pytest.skip("this processor lacks the instructions")
    source = Path(native_cases.__file__).with_name("kernels_program.cpp")
    of_library = {"-shared", "-fPIC", "-march=native", "-mcpu=native"}
    # Which instructions are taken is asked here, not how well: compiling takes half of the time without -O3.
    command = [compiler, *(flag for flag in kernels.FLAGS if flag not in of_library), "-O1", *flags.split()]
    subprocess.run([*command, f"-I{kernels.SOURCES}", str(source), "-o", str(tmp_path / "program")], check=True)
    run = [*([emulator] if emulator else []), str(tmp_path / "program")]
    *found, worst = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert " ".join(found) == features
    assert float(worst) < FLOAT32


def int8(conv: FoldedConv2d, steps: float) -> QuantizedConv2d:
    """With weights and scales that no axis could be mixed up in."""
    tensors = {}
    for name, (shape, dtype) in expected_tensors(conv).items():
        if name == "weight":
            tensors[name] = (values(*shape) * 25).clamp(-63, 63).to(dtype)
        elif name == "input_zero_point":
            tensors[name] = torch.tensor(41, dtype=dtype)
        else:
            tensors[name] = (values(*shape).abs() + 0.5) * (steps if name == "input_scale" else 0.02)
    return QuantizedConv2d(conv, tensors)


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 1)])
@pytest.mark.parametrize("inputs", [16, 20])
def test_int8(kernel: int, padding: int, inputs: int) -> None:
    """Every value is one of the steps, so that none can be moved to its neighbour."""
    if not torch.ops.paddle2torch.features()[2]:
        pytest.skip("this processor does not multiply int8")
    conv = FoldedConv2d(inputs, 40, kernel, padding=padding, tail=Tail("hardswish", (0.7, 0.1)))
    quantized = int8(conv, 0.05)
    geometry = [kernel, kernel, 1, 1, padding, padding]
    args = (quantized.weight, quantized.bias, geometry, quantized.tail, torch.float32, quantized)
    native = NativeConv2d(*args)
    steps = torch.randint(0, 256, (2, inputs, 7, 19), generator=torch.Generator().manual_seed(0)) - 41
    x = steps * quantized.input_scale.view(1, -1, 1, 1)
    with torch.inference_mode():
        assert relative_error(native(x), quantized._plainly(x).double()) < FLOAT32


def levels_of(channels: int, height: int, width: int, count: int) -> list[Tensor]:
    return [values(2, channels, height << k, width << k) for k in range(count)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("height", "width", "outputs"), [(1, 1, 24), (2, 3, 24), (5, 7, 24), (5, 7, 56), (2, 3, 104)])
def test_enlarged_maps_are_never_made(count: int, height: int, width: int, outputs: int) -> None:
    """Outputs beyond one panel of the weights, 48 on the widest processor, add their own part of the coarse maps."""
    conv = FoldedConv2d(24 * count, outputs, 3, padding=1, tail=Tail("relu"))
    levels = levels_of(24, height, width, count)
    exact = copy.deepcopy(conv).double()
    with torch.inference_mode():
        expected = exact(join_levels([level.double() for level in levels]))
        found = LevelsConv2d(conv, count, torch.float32)(levels)
    assert relative_error(found, expected) < FLOAT32


@pytest.mark.parametrize("outputs", [24, 13, 104])
def test_a_convolution_adds_a_map_to_its_result(outputs: int) -> None:
    """Bit for bit as the addition after it: a map of its size, and one that is enlarged to it."""
    x = values(2, 16, 6, 10).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ops.paddle2torch.pack(values(outputs, 16)), values(-(-outputs // 16) * 16)
    alone = convolve(x, weight, bias, outputs, operators.POINTWISE)
    for factor in (1, 2):
        added = values(2, outputs, 6 // factor, 10 // factor).contiguous(memory_format=torch.channels_last)
        found = convolve(x, weight, bias, outputs, operators.POINTWISE, added=added)
        assert torch.equal(found, alone + enlarge(added, factor))


@pytest.mark.parametrize(
    ("name", "added"), [("PP-OCRv6_tiny_det", 13), ("PP-OCRv6_tiny_rec", 7), ("ch_PP-OCRv4_det", 2)]
)
def test_what_is_added_to_a_convolution_is_added_by_it(name: str, added: int) -> None:
    """Of a block the map that goes around it, of a neck the coarser level."""
    program = graph_of(name)
    merge(program)
    join(program)
    x = image(2, *NETWORKS[name])
    with torch.inference_mode():
        before = program.module()(x)
        add(program)
        assert torch.equal(program.module()(x), before)
    assert sum(node.target == torch.ops.aten.upsample_nearest2d.vec for node in program.graph.nodes) == 0
    at = [argument.name for argument in torch.ops.paddle2torch.convolve.default._schema.arguments].index("added")
    convolutions = [node for node in program.graph.nodes if node.target == torch.ops.paddle2torch.convolve.default]
    assert sum(node.args[at] is not None for node in convolutions) == added


@pytest.mark.parametrize("steps", [1, 5, 16, 40, 163])
def test_attention(steps: int) -> None:
    attention = Attention(120, num_heads=8, dropout=0.0, attention_dropout=0.0).eval()
    x = 4 * values(2, steps, 120)
    with torch.inference_mode():
        expected = copy.deepcopy(attention).double()(x.double())
        found = NativeAttention(attention)(x)
    assert (found - expected).abs().max() < FLOAT32 * expected.abs().max()


def test_means() -> None:
    for shape in ((1, 480, 6, 80), (3, 7, 1, 1), (2, 24, 90, 31)):
        x = values(*shape) + 3
        assert torch.allclose(NativeMean()(x), x.double().mean((2, 3), keepdim=True).float(), rtol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    assert classes_error(CLASSES[name], torch.float32) < 1e-6


def test_of_equal_classes_the_first_is_the_best() -> None:
    """In other lanes, panels and blocks, and where every class is as good."""
    x, weight, bias = values(1, 5, 16).abs(), torch.zeros(1000, 16), torch.zeros(1000)
    for places in ([37, 36, 470], [999, 500], [], [0, 999]):
        weight[:] = 0
        weight[places] = 0.25
        packed = torch.ops.paddle2torch.pack(weight)
        best = torch.ops.paddle2torch.classify(x, packed, F.pad(bias, (0, 8)), 1000, torch.empty(2))
        assert set(best[..., 0].flatten().tolist()) == {min(places, default=0)}
        assert torch.allclose(best[..., 1], (x @ weight.T).softmax(-1).amax(-1), rtol=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_a_class_that_is_no_number_is_no_best_class(broken: float, place: int) -> None:
    bias = torch.zeros(1008)
    bias[place] = broken
    for results in (2, 1000):
        packed = torch.ops.paddle2torch.pack(torch.zeros(1000, 16))
        found = torch.ops.paddle2torch.classify(values(1, 5, 16), packed, bias, 1000, torch.empty(results))
        assert found[..., -1].isnan().all()


def test_linear() -> None:
    linear = nn.Linear(120, 97)
    x = values(2, 41, 120)
    with torch.inference_mode():
        assert torch.allclose(NativeLinear(linear, torch.float32)(x), linear(x), atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_number_stays_no_number(activation: str) -> None:
    conv = FoldedConv2d(16, 20, 1, tail=Tail(activation))
    x = values(1, 16, 3, 9)
    x[0, 5, 1, 2] = float("nan")
    x[0, :, 2, 7] = float("inf") * conv.weight[3, :, 0, 0].sign()
    native = NativeConv2d(conv.weight, conv.bias, [1, 1, 1, 1, 0, 0], conv.tail, torch.float32)
    with torch.inference_mode():
        found, expected = native(x), copy.deepcopy(conv).double()(x.double())
    assert found[0, :, 1, 2].isnan().all()
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found[0, 3, 2, 7], expected[0, 3, 2, 7].float())


@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing() -> None:
    x, conv = values(3, 48, 30, 41), FoldedConv2d(48, 60, 3, padding=1, tail=Tail("swish"))
    native = NativeConv2d(conv.weight, conv.bias, [3, 3, 1, 1, 1, 1], conv.tail, torch.float32)
    results = []
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append((native(x), NativeMean()(x)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def convolve(x: Tensor, weight: Tensor, bias: Tensor, outputs: int, geometry: Sequence[int], **given: Tensor) -> Tensor:
    names = ("weight_scale", "depth_weight", "depth_bias", "gate", "steps")
    some = [given.get(name) for name in names]
    coarse, tails = (given.get("coarse"), None, None, given.get("added")), ([0.0] * 3, [0.0, 1.0, 0.0])
    result: Tensor = torch.ops.paddle2torch.convolve(
        *(x, weight, bias, *some, 0.0, *coarse, outputs, geometry, *tails, *NOTHING_ELSE)
    )
    return result


def test_what_does_not_fit_is_refused() -> None:
    """Kernels read where they are told to: sizes are looked at before."""
    one = [1, 1, 1, 1, 0, 0]
    last = values(1, 16, 4, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.ops.paddle2torch.pack(values(24, 16))
    bias = torch.zeros(32)
    assert convolve(last, weight, bias, 24, one).shape == (1, 24, 4, 8)
    for x, outputs, geometry, given in (
        (values(1, 16, 4, 8), 24, one, {}),  # the channels are not last
        (last.double(), 24, one, {}),
        (last.bfloat16(), 24, one, {}),
        (last, 48, one, {}),  # more than the weights have
        (last, 24, [3, 3, 1, 1, 1, 1], {}),
        (last, 24, [1, 1, 1, 1, 0], {}),
        (last, 24, one, {"gate": torch.zeros(15)}),
        (last, 24, one, {"depth_weight": torch.zeros(9, 16)}),  # of another kernel, and no bias
        (last, 24, one, {"coarse": last}),
        (last, 24, one, {"added": last}),
        (last, 24, one, {"added": values(1, 24, 2, 8).contiguous(memory_format=torch.channels_last)}),
        (last[:, :3], 24, one, {}),
    ):
        with pytest.raises(RuntimeError):
            convolve(x, weight, bias, outputs, geometry, **given)
    with pytest.raises(RuntimeError):
        convolve(last, weight, torch.zeros(24), 24, one)  # not padded
    with pytest.raises(RuntimeError):
        torch.ops.paddle2torch.pack(values(24, 16).double())
    with pytest.raises(RuntimeError):
        torch.ops.paddle2torch.depthwise(last, torch.zeros(49, 16), bias, [7, 7, 2, 2, 3, 3], [0.0, 1.0, 0.0])
    with pytest.raises(RuntimeError):
        torch.ops.paddle2torch.attend(values(1, 5, 121), 8, 1.0)
    steps, classes = values(1, 5, 16), (weight, bias, 24)
    assert torch.ops.paddle2torch.classify(steps, *classes, torch.empty(2)).shape == (1, 5, 2)
    for x, results in ((steps, 3), (steps, 25), (steps.bfloat16(), 2), (values(1, 16, 5).mT, 2), (values(1, 5, 8), 2)):
        with pytest.raises(RuntimeError):
            torch.ops.paddle2torch.classify(x, *classes, torch.empty(results))
    with pytest.raises(RuntimeError):
        torch.ops.paddle2torch.classify(steps, weight, torch.zeros(24), 24, torch.empty(2))  # not padded


NETWORKS = {
    "en_PP-OCRv4_rec": (3, 48, 77),
    "en_PP-OCRv3_rec": (3, 48, 77),
    "PP-OCRv5_mobile_rec": (3, 48, 130),
    "ch_RepSVTR_rec": (3, 48, 64),
    "PP-OCRv6_tiny_rec": (3, 48, 77),
    "PP-OCRv6_small_rec": (3, 48, 77),
    "PP-OCRv6_tiny_det": (3, 64, 96),
    "ch_PP-OCRv4_det": (3, 96, 160),
    "ch_PP-OCRv3_det": (3, 64, 96),
    "ch_ppocr_mobile_v2.0_cls": (3, 48, 192),
    "PP-LCNet_x0_25_textline_ori": (3, 80, 160),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same(name: str) -> None:
    """Beside float64, which both may be as far from as rounding takes them."""
    network = fold(card_network(name))
    native = to_native(network)
    assert any(isinstance(module, NativeConv2d) for module in native.modules())
    x = image(2, *NETWORKS[name])
    with torch.inference_mode():
        exact = Served(copy.deepcopy(network).double())(x.double())
        ours, before = Served(native)(x), Served(network)(x)
    rounding = max(float((before - exact).abs().max()), 1e-6 * float(exact.abs().max()))
    assert (ours - exact).abs().max() <= 3 * rounding


@pytest.mark.parametrize("name", ["PP-OCRv6_tiny_det", "PP-OCRv6_tiny_rec"])
def test_the_kernels_are_as_exact_as_compile_asks(name: str) -> None:
    """At five sizes, on text: what is compiled is refused where it is further from float64 than twice PyTorch."""
    network = fold(card_network(name))
    native = Served(to_native(network)).eval()

    def run(x: Tensor) -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = native(x).numpy()
        return result

    compare(Served(network).eval(), run, example_images(network.config), "what the kernels compute")


def kinds(network: nn.Module) -> dict[type[nn.Module], int]:
    found: dict[type[nn.Module], int] = {}
    for module in network.modules():
        found[type(module)] = found.get(type(module), 0) + 1
    return found


def test_all_of_a_mobile_network_is_native() -> None:
    for name in ("en_PP-OCRv4_rec", "ch_PP-OCRv4_det"):
        native = to_native(fold(card_network(name)))
        assert FoldedConv2d not in kinds(native)
        assert takes_images(native)
    assert kinds(native)[NativeRSEFPN] == kinds(native)[LevelsConv2d] == 1
    native = to_native(fold(card_network("PP-OCRv6_tiny_det")))
    assert FoldedConv2d not in kinds(native)
    assert kinds(native)[NativeLevels] == kinds(native)[LevelsConv2d] == kinds(native)[NativeStem] == 1


@pytest.mark.usefixtures("bfloat16")
def test_a_network_in_bfloat16() -> None:
    for name in ("en_PP-OCRv4_rec", "ch_PP-OCRv4_det"):
        network = fold(card_network(name))
        native = to_native(network, torch.bfloat16)
        x = image(2, *NETWORKS[name])
        with torch.inference_mode():
            exact = Served(copy.deepcopy(network).double())(x.double())
            ours = Served(native)(x)
            theirs = Served(copy.deepcopy(network).bfloat16())(x.bfloat16())
        errors = [float((result.double() - exact).square().mean().sqrt()) for result in (ours, theirs)]
        assert errors[0] < 1.5 * errors[1]
        assert errors[0] > 1e-3 * errors[1], "it is computed in bfloat16"


def test_int8_stays_where_it_was() -> None:
    network = fold(card_network("ch_PP-OCRv4_det"))
    path = "head.binarize.conv1"
    conv = network.get_submodule(path)
    assert isinstance(conv, FoldedConv2d)
    state = int8(conv, 0.05).state_dict()
    quantized = quantize_network(network, {f"{path}.{name}": tensor for name, tensor in state.items()})
    native = to_native(quantized)
    assert NativeRSEFPN not in kinds(native), "the levels are joined for it"
    x = image(1, 3, 64, 96)
    with torch.inference_mode():
        found, expected = Served(native)(x), Served(quantized)(x)
    assert (found - expected).abs().max() < 0.02


@functools.cache
def captured_once(name: str) -> torch.export.ExportedProgram:
    """The graph of a card's network, which takes seconds."""
    describe_operators()
    return captured(Served(to_native(fold(card_network(name)))).eval())


def graph_of(name: str) -> torch.export.ExportedProgram:
    """A graph of a test's own."""
    return copy.deepcopy(captured_once(name))


def counts(program: torch.export.ExportedProgram) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in program.graph.nodes:
        if "paddle2torch" in str(node.target):
            name = str(node.target).split(".")[1]
            found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.parametrize(("name", "depthwise", "gates"), [("en_PP-OCRv4_rec", 2, 2), ("ch_PP-OCRv4_det", 2, 6)])
def test_what_comes_before_a_convolution_is_done_by_it(name: str, depthwise: int, gates: int) -> None:
    """Depthwise convolutions are left where a mean is taken of their result."""
    network, program = fold(card_network(name)), graph_of(name)
    before = counts(program)
    merge(program)
    after = counts(program)
    assert after["convolve"] == before["convolve"]
    assert before["depthwise"] == kinds(to_native(network))[NativeDepthwise]
    assert after["depthwise"] == depthwise
    at = [argument.name for argument in torch.ops.paddle2torch.convolve.default._schema.arguments].index("gate")
    convolutions = [node for node in program.graph.nodes if node.target == torch.ops.paddle2torch.convolve.default]
    assert sum(node.args[at] is not None for node in convolutions) == gates
    x = image(2, *NETWORKS[name])
    with torch.inference_mode():
        found, expected = program.module()(x), Served(network)(x)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "fewer"),
    # After the image's convolution six, in the neck one and one; three, one, and where the levels meet two.
    # Of v6: twelve pairs that widen a block, and the head.
    [("en_PP-OCRv4_rec", 8), ("ch_PP-OCRv4_det", 6), ("PP-OCRv6_tiny_det", 13)],
)
def test_convolutions_that_follow_on_one_another_are_one_call(name: str, fewer: int) -> None:
    """Of large maps they keep a few lines, small ones they leave as they are."""
    network, program = fold(card_network(name)), graph_of(name)
    merge(program)
    before = counts(program)
    join(program)
    assert counts(program) == {**before, "convolve": before["convolve"] - fewer}
    channels, height, width = NETWORKS[name]
    joined = program.module()
    for size in (width, 32 * 30):
        x = image(2, channels, height, size)
        with torch.inference_mode():
            found, expected = joined(x), Served(network)(x)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max(), size


def test_what_follows_fits_or_is_refused() -> None:
    describe_operators()
    x = values(1, 16, 9, 21).contiguous(memory_format=torch.channels_last)
    bias, plain, geometry = torch.zeros(32), [0.0, 1.0, 0.0], [3, 3, 2, 1, 1, 1]
    weights = [torch.ops.paddle2torch.pack(values(*sizes)) for sizes in ((24, 16), (20, 24))]
    tensors, layout, tails = [weights[1], bias, torch.ones(9, 24), bias], [20, 1, *geometry], [*plain, *plain, 0.0]

    def call(x: Tensor, tensors: list[Tensor], layout: list[int], tails: list[float]) -> Tensor:
        first = (weights[0].to(x.device), bias, *[None] * 5, 0.0, *[None] * 4, 24, [1, 1, 1, 1, 0, 0])
        result: Tensor = torch.ops.paddle2torch.convolve(x, *first, plain, plain, tensors, layout, tails)
        return result

    real, fake = call(x, tensors, layout, tails), call(x.to("meta"), tensors, layout, tails)
    assert real.shape == (1, 20, 5, 21)
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    for given in (
        (tensors[:3], layout, tails),
        (tensors, layout[:-1], tails),
        (tensors, layout, tails[1:]),
        (tensors, [21 * 8, *layout[1:]], tails),  # more than the weights have
        (tensors, [20, 0, *geometry], tails),  # neither pointwise nor separable
        ([weights[1].bfloat16(), *tensors[1:]], layout, tails),
        ([weights[1], bias[:8], *tensors[2:]], layout, tails),
        ([*tensors[:2], torch.ones(9, 16), bias], layout, tails),
    ):
        with pytest.raises(RuntimeError):
            call(x, *given)


@pytest.mark.parametrize("channels", [(24, 40), (8, 3), (5, 16)])
def test_a_pooling_is_joined_to_a_map(channels: tuple[int, int]) -> None:
    x, y = (values(2, count, 6, 9).contiguous(memory_format=torch.channels_last) for count in channels)
    x[1, 2, 3, 4] = float("nan")
    for dtype in (torch.float32, torch.bfloat16):
        found = torch.ops.paddle2torch.join_pooled(x.to(dtype), y.to(dtype))
        expected = torch.cat((F.max_pool2d(pad_same(x.to(dtype)), 2, 1), y.to(dtype)), dim=1)
        assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
        assert found.isnan().sum() == 4
        assert found.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="one size"):
        torch.ops.paddle2torch.join_pooled(x, y[:, :, 1:].contiguous(memory_format=torch.channels_last))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("channels", [16, 24, 36])
def test_a_stem_keeps_only_lines_of_its_maps(channels: int) -> None:
    """What its convolutions give one by one, at any size, and on any number of threads."""
    stem = StemBlock(3, channels, 2 * channels, fused=True)
    for name in ("stem1", "stem2a", "stem2b", "stem3", "stem4"):
        layer, plain = stem.get_submodule(name), stem.get_submodule(f"{name}.conv")
        layer.conv = FoldedConv2d(
            *(plain.in_channels, plain.out_channels, plain.kernel_size, plain.stride, plain.padding), tail=Tail("relu")
        )
        layer.act = nn.Identity()
    native = NativeStem([layer.conv for layer in stem.children() if layer is not stem.pool], torch.float32)
    exact = copy.deepcopy(stem).double()
    for shape in ((2, 3, 64, 97), (1, 3, 1, 1), (1, 3, 2, 3), (1, 3, 91, 40)):
        x = values(*shape)
        with torch.inference_mode():
            found, expected = native(x), exact(x.double())
            torch.set_num_threads(1)
            assert torch.equal(native(x), found)
            torch.set_num_threads(2)
        assert relative_error(found, expected) < FLOAT32
        assert found.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="five convolutions"):
        torch.ops.paddle2torch.stem(x, [native.convs[0].weight], native.outputs, native.tails)
    tensors = [tensor for conv in native.convs for tensor in (conv.weight[:-1], conv.bias)]
    with pytest.raises(RuntimeError, match="not packed for this"):
        torch.ops.paddle2torch.stem(x, tensors, native.outputs, native.tails)


@pytest.mark.parametrize("outputs", [12, 33])
def test_a_kernel_that_pads_at_the_end_alone(outputs: int) -> None:
    conv = FoldedConv2d(24, outputs, 2, tail=Tail("relu"))
    native = NativeConv2d(conv.weight, conv.bias, [2, 2, 1, 1, 0, 0, 1, 1], conv.tail, torch.float32)
    for shape in ((2, 24, 7, 40), (1, 24, 1, 1)):
        x = values(*shape)
        with torch.inference_mode():
            expected = copy.deepcopy(conv).double()(pad_same(x.double()))
            assert relative_error(native(x), expected) < FLOAT32


def test_pixels_go_to_their_places() -> None:
    for factor in (4, 3):
        x = values(2, factor * factor, 5, 7).contiguous(memory_format=torch.channels_last)
        for given in (x, x.bfloat16()):
            found = torch.ops.paddle2torch.spread(given, factor)
            assert torch.equal(found, F.pixel_shuffle(given.float(), factor))
    with pytest.raises(RuntimeError):
        torch.ops.paddle2torch.spread(x, 4)


def test_the_exporter_is_told_what_there_will_be() -> None:
    describe_operators()
    x = values(2, 16, 9, 21).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.ops.paddle2torch.pack(values(24, 16)), torch.zeros(32)
    meta = [tensor.to("meta") for tensor in (x, weight, bias)]
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not has_bfloat16():
            continue
        given = [tensor.to(dtype) for tensor in (x, values(24, 16))]
        real = convolve(given[0], torch.ops.paddle2torch.pack(given[1]), bias, 24, [1, 1, 1, 1, 0, 0])
        fake = convolve(*(tensor.to(dtype) for tensor in meta[:2]), meta[2], 24, [1, 1, 1, 1, 0, 0])
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
    qkv = values(2, 5, 48)
    for operator, arguments in (
        (torch.ops.paddle2torch.spread, (x, 4)),
        (torch.ops.paddle2torch.mean_of_channels, (x,)),
        (torch.ops.paddle2torch.join_pooled, (x, x)),
        (torch.ops.paddle2torch.attend, (qkv, 4, 0.5)),
        (torch.ops.paddle2torch.depthwise, (x, torch.ones(9, 16), bias, [3, 3, 2, 1, 1, 1], [0.0, 1.0, 0.0])),
    ):
        real = operator(*arguments)
        fake = operator(*(value.to("meta") if isinstance(value, Tensor) else value for value in arguments))
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_an_image_is_taken_as_it_comes() -> None:
    conv = FoldedConv2d(3, 16, 3, stride=2, padding=1, tail=Tail("hardswish"))
    native = NativeConv2d(conv.weight, conv.bias, [3, 3, 2, 2, 1, 1], conv.tail, torch.float32)
    for shape in ((2, 3, 48, 77), (1, 3, 5, 1)):
        x = image(*shape)
        with torch.inference_mode():
            expected = F.hardswish(F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 2, 1))
            for given in (x, x.contiguous(memory_format=torch.channels_last)):
                assert relative_error(native(given), expected) < FLOAT32


def test_what_the_kernels_are_given_is_declared_once() -> None:
    """The library's schemas are those of `forms.operators`; so are the lengths and the order that C++ counts on."""
    check_operators()
    source = (Path(operators.__file__).parents[1] / "kernels" / "operators.cpp").read_text(encoding="utf-8")
    assert f"LAYOUT = {len(operators.LAYOUT)}, TAILS = {len(operators.TAILS)};" in source
    vectors = (Path(operators.__file__).parents[1] / "kernels" / "vectors.h").read_text(encoding="utf-8")
    assert f"enum class Activation : int64_t {{ {', '.join(ACTIVATIONS)} }};" in vectors
    with pytest.raises(TypeError, match=r"no arguments \['bais'\]"):
        operators.convolve(x=1, weight=1, bais=1, bias=1, outputs=1, geometry=operators.POINTWISE)


def test_a_library_that_declares_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operators.OPERATORS, "spread", {"x": "Tensor", "factor": "float"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="start a new process"):
        check_operators()
