"""int8: the rounding keeps what matters, and the file belongs to one model, lands whole and is not believed."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from small_models import card_network, fill, saved, small_config
from structure import image
from torch import Tensor, nn

from paddle2torch import OCR, cli, quantization
from paddle2torch.api import load_pretrained
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, Tail
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.quantized import WEIGHT_LIMIT, QuantizedConv2d
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.quantization import Agreement, compare, quantize, quantized_convolution
from paddle2torch.tasks.images import load_image
from paddle2torch.tasks.orientation import Direction
from paddle2torch.tasks.recognition import Line, Recognizer
from paddle2torch.zoo import folder as store
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.folder import INT8_NAME, load_model, load_quantized, read_state


def rendered(count: int, height: int = 48, width: int = 160) -> list[np.ndarray]:
    """Dark text on grey, every image another, uint8 (height, width, 3)."""
    images = []
    for number in range(count):
        pixels = np.full((height, width, 3), 200 + 5 * (number % 7), np.uint8)
        for row in range(30, height, 40):
            text = f"{number * 7919 % 10007} lines"
            cv2.putText(pixels, text, (4, row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 20, 60), 2, cv2.LINE_AA)
        images.append(pixels)
    return images


LINES = rendered(7)
ROWS = quantization.ROWS


@pytest.fixture(scope="module", autouse=True)
def fewer_rows() -> Iterator[None]:
    """Less is measured than is otherwise: that the result is good is shown by a real recogniser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "ROWS", 1024)
        yield


def small_network(classes: int = 8) -> Network:
    """The small recogniser, reading different texts in different lines."""
    network = build_model(small_config(nrtr=False, classes=classes)).eval()
    fill(network)
    fc = cast(nn.Linear, network.get_submodule("head.ctc_head.fc"))
    features: list[Tensor] = []
    hook = fc.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with torch.inference_mode():
        for line in LINES:
            quantization.run(network, line)
    hook.remove()
    seen = torch.cat([feature.flatten(0, 1) for feature in features]).clone()
    with torch.no_grad():
        fc.weight.copy_(torch.from_numpy(np.random.default_rng(5).normal(size=fc.weight.shape)) / seen.std(0))
        fc.bias.copy_(-fc.weight @ seen.mean(0))
    return network


@pytest.fixture(scope="module")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, network: Network) -> tuple[Path, quantization.Quantization]:
    """A folder that was quantized, and what was said of it. Tests that change it copy it."""
    folder = saved(tmp_path_factory.mktemp("models") / "small", network)
    return folder, quantize(folder, LINES)


@pytest.fixture
def folder(once: tuple[Path, quantization.Quantization], tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[0], tmp_path / "small"))


def stored(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    return read_state(folder / INT8_NAME)


# How weights and inputs are rounded.


def alone(inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), **options: Any) -> FoldedConv2d:
    """A convolution with weights of order one."""
    conv = FoldedConv2d(inputs, outputs, kernel, tail=Tail(), **options).requires_grad_(False)
    random = torch.Generator().manual_seed(3)
    conv.weight.copy_(torch.randn(conv.weight.shape, generator=random))
    conv.bias = nn.Parameter(torch.randn(outputs, generator=random), requires_grad=False)
    return conv


def in_network(conv: FoldedConv2d) -> Network:
    return cast(Network, nn.ModuleDict({"conv": conv}))


def correlated(count: int, values: int, rank: int, seed: int = 0) -> Tensor:
    """Inputs float64 (count, values), each a mixture of a few."""
    random = torch.Generator().manual_seed(seed)
    mixture = torch.randn(rank, values, dtype=torch.float64, generator=random)
    return torch.randn(count, rank, dtype=torch.float64, generator=random) @ mixture


def output_error(conv: FoldedConv2d, rows: Tensor) -> Tensor:
    """(n, O): the quantized convolution's outputs at one place for rows (n, I), less what they should be."""
    module = QuantizedConv2d(conv, quantized_convolution(in_network(conv), "conv", rows))
    x = rows.T[None, :, None].contiguous()
    with torch.inference_mode():
        return (module(x).double() - conv.double()(x.double()))[0, :, 0].T


@pytest.mark.parametrize("seed", range(3))
def test_rounding_keeps_the_outputs(seed: int) -> None:
    """Beside each weight rounded to the nearest, at the same scale."""
    inputs = (correlated(2000, 72, 24, seed) * 20).round().clamp(-128, 127)
    weight = torch.randn(16, 72, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rounded, scale = quantization._round_weights(weight, inputs)
    assert torch.equal(rounded, rounded.round())
    assert rounded.abs().max() <= WEIGHT_LIMIT
    nearest = (weight / scale[:, None]).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    errors = [(inputs @ (found * scale[:, None] - weight).T).square().mean() for found in (rounded, nearest)]
    assert errors[0] < errors[1] / 2.5


def test_a_large_channel_does_not_spoil_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one scale for all channels."""
    rows = correlated(3000, 16, 16).float()
    rows[:, 3] *= 100
    conv = alone(16, 8)
    conv.weight[:, 3] /= 100  # each channel has its part in the output
    balanced = output_error(conv, rows).square().mean()
    monkeypatch.setattr(quantization, "BALANCE", 0.0)
    assert balanced < output_error(conv.float(), rows).square().mean() / 20


def test_the_mean_error_is_taken_off() -> None:
    rows = correlated(4000, 24, 8).float().clamp_min(-0.5)  # not symmetric, as after an activation
    conv = alone(24, 12)
    tensors = quantized_convolution(in_network(conv), "conv", rows)
    assert conv.bias is not None
    taken = (tensors["bias"] - conv.bias).abs().mean()
    left = output_error(conv, rows).mean(0).abs().mean()
    assert taken > 1e-4
    assert left < taken / 50


def test_inputs_that_are_always_zero() -> None:
    conv = alone(12, 6)
    rows = torch.zeros(100, 12)
    assert torch.equal(output_error(conv, rows), torch.zeros(100, 6, dtype=torch.float64))
    # One channel of many: the others lose nothing by it.
    rows = correlated(1000, 12, 12).float()
    rows[:, 5] = 0
    conv = alone(12, 6)
    assert output_error(conv, rows).abs().max() < 0.05 * F.linear(rows, conv.weight[:, :, 0, 0].float()).abs().max()


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_rows_are_what_the_convolution_sees(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    conv = alone(5, 4, kernel, stride=stride, padding=padding, dilation=dilation)
    x = image(2, 5, 6, 9)
    output = conv(x)
    rows = quantization._rows(conv, x, output, np.random.default_rng(0), 10_000)
    _, outputs, height, width = output.shape
    places = torch.from_numpy(np.random.default_rng(0).integers(0, 2 * height * width, 2 * height * width))
    assert len(rows) == len(places), "not more than there are"
    expected = output.permute(0, 2, 3, 1).reshape(-1, outputs)[places]
    assert torch.allclose(rows @ conv.weight.flatten(1).T + conv.bias, expected, atol=1e-5)
    assert len(quantization._rows(conv, x, output, np.random.default_rng(0), 3)) == 3


def test_steps_are_chosen_by_every_channel() -> None:
    """Whatever the number of channels: none may be left out of what is looked at."""
    for channels in (16, 48, 50, 64):
        rows = torch.rand(8192, channels * 9, generator=torch.Generator().manual_seed(channels)) * 1e-3
        rows.view(len(rows), channels, 9)[:, channels // 2] -= 1  # the only one below zero
        _, zero_point = quantization._input_scale(rows, 9)
        assert zero_point > 100, channels


# The whole of it.


def test_a_recogniser(once: tuple[Path, quantization.Quantization], network: Network) -> None:
    folder, result = once
    assert result.path == folder / INT8_NAME
    assert sorted(path.name for path in folder.iterdir()) == [INT8_NAME, "model.safetensors", "model_config.json"]
    assert (result.images, result.held_back) == (6, 1)
    quantized = load_quantized(folder)
    paths = [path for path, module in quantized.named_modules() if isinstance(module, QuantizedConv2d)]
    assert sorted(paths) == sorted(result.convolutions)
    assert len(paths) > 8
    assert 0.5 < result.share < 1
    tensors, metadata = stored(folder)
    assert metadata == {"format": "pt", "weights": store.digest_of(network)}
    assert {key.rpartition(".")[0] for key in tensors} == set(paths)
    # What was read back computes nearly the same.
    folded = fold(network)
    x = image(2, 3, 48, 160)
    with torch.inference_mode():
        off = (quantized(x) - folded(x)).abs().max()
    assert 0 < off < 0.2
    loaded = load_pretrained(folder, quantized=True)
    with torch.inference_mode():
        assert torch.equal(loaded(x), quantized(x))
    # Every fifth was held back: counted again, by the recogniser itself.
    a, b = (Recognizer(model, network.config)([LINES[4]])[0] for model in (folded, quantized))
    assert result.agreement == Agreement("lines with the same text", int(a.text == b.text), 1, abs(a.score - b.score))
    assert len(a.text) > 3


def test_twice_the_same(once: tuple[Path, quantization.Quantization], folder: Path) -> None:
    expected, _ = stored(folder)
    again = quantize(folder, LINES)
    assert again.agreement == once[1].agreement
    found, _ = stored(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_several_rounds_give_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = stored(folder)
    monkeypatch.setattr(quantization, "SAMPLES_AT_MOST", quantization.ROWS * 400)
    rounds = []
    measured = quantization._sample_inputs

    def watched(network: Network, paths: list[str], images: list[np.ndarray]) -> dict[str, Tensor]:
        rounds.append(paths)
        return measured(network, paths, images)

    monkeypatch.setattr(quantization, "_sample_inputs", watched)
    result = quantize(folder, LINES)
    assert len(rounds) > 2
    assert max(map(len, rounds)) > 1
    assert tuple(path for paths in rounds for path in paths) == result.convolutions
    found, _ = stored(folder)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("name", "images", "what"),
    [
        ("ch_PP-OCRv4_det", rendered(3, 96, 160), "pixels of text"),
        ("ch_ppocr_mobile_v2.0_cls", rendered(3), "lines turned the same way"),
    ],
)
def test_other_tasks(name: str, images: list[np.ndarray], what: str, tmp_path: Path) -> None:
    network = card_network(name)
    folder = saved(tmp_path / "own", network)
    result = quantize(folder, images)
    assert (result.images, result.held_back) == (2, 1)
    folded, quantized = fold(network), load_quantized(folder)
    a, b = (quantization.run(model, images[-1]) for model in (folded, quantized))
    if what == "pixels of text":
        assert a.shape == (96, 160)
        same, total = int(((a > 0.3) & (b > 0.3)).sum()), int(((a > 0.3) | (b > 0.3)).sum())
        assert result.agreement == Agreement(what, same, total, float(np.abs(a - b).max()))
        assert same > 0.9 * total > 0
    else:
        assert result.agreement == Agreement(what, int(a.label == b.label), 1, abs(a.score - b.score))
    assert 0 < result.agreement.largest < 0.2


def test_what_agrees_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    images = rendered(3)
    given: dict[int, list[Any]] = {}
    monkeypatch.setattr(quantization, "run", lambda network, image: given[id(network)].pop(0))

    def count(network: Network, ours: list[Any], theirs: list[Any]) -> Agreement:
        other = fold(network)
        given.update({id(network): list(ours), id(other): list(theirs)})
        return compare(network, other, images)

    def lines(*texts: str) -> list[Line]:
        return [Line(text, 0.5 + 0.1 * len(text), ()) for text in texts]

    found = count(small_network_of("small"), lines("a", "bb", "c"), lines("a", "b", "c"))
    assert (found.what, found.same, found.total) == ("lines with the same text", 2, 3)
    assert found.largest == pytest.approx(0.1)
    ways = [[Direction(label, score, False) for label, score in pairs] for pairs in WAYS]
    found = count(card_network("ch_ppocr_mobile_v2.0_cls"), *ways)
    assert (found.what, found.same, found.total) == ("lines turned the same way", 1, 3)
    assert found.largest == pytest.approx(0.25)
    maps = [[np.array(values, np.float32) for values in three] for three in MAPS]
    found = count(card_network("ch_PP-OCRv4_det"), *maps)
    assert (found.what, found.same, found.total) == ("pixels of text", 2, 4)
    assert found.largest == pytest.approx(0.6)


WAYS = [("0", 0.9), ("180", 0.8), ("0", 0.6)], [("180", 0.9), ("180", 0.55), ("180", 0.6)]
MAPS = [[[0.9, 0.1]], [[0.4, 0.1]], [[0.5, 0.0]]], [[[0.8, 0.2]], [[0.2, 0.7]], [[0.5, 0.0]]]


def small_network_of(name: str) -> Network:
    network = build_model(small_config(nrtr=False)).eval()
    assert network.config.name == name
    return network


def test_an_image_that_the_network_fails_on_is_left_out_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quantization.run

    def run_or_fail(network: Network, image: np.ndarray) -> object:
        if image is LINES[1]:
            raise MemoryError("of this one")
        return run(network, image)

    monkeypatch.setattr(quantization, "run", run_or_fail)
    result = quantize(folder, LINES[:4])
    assert result.failed == {1: "there is not enough memory for it"}
    assert (result.images, result.held_back) == (2, 1)
    with pytest.raises(ConfigError, match=r"at least two images .* that cannot be used: there is not enough memory"):
        quantize(folder, LINES[:2])


def test_too_few_images(folder: Path) -> None:
    before = (folder / INT8_NAME).read_bytes()
    for images in ([], LINES[:1]):
        with pytest.raises(ConfigError, match="at least two images"):
            quantize(folder, images)
    assert (folder / INT8_NAME).read_bytes() == before
    # One image given twice is two.
    result = quantize(folder, [LINES[0], LINES[0]])
    assert (result.images, result.held_back) == (1, 1)


def test_a_network_that_has_nothing_to_gain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / INT8_NAME).unlink()
    monkeypatch.setattr(quantization, "CHANNELS_AT_LEAST", 10**6)
    with pytest.raises(ConfigError, match="small has no convolution that int8 would make faster"):
        quantize(folder, LINES)
    assert not (folder / INT8_NAME).exists()


def test_no_hook_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Network] = []

    def kept(network: Network) -> Network:
        made.append(fold(network))
        return made[-1]

    monkeypatch.setattr(quantization, "fold", kept)
    quantize(folder, LINES[:2])
    run = quantization.run
    calls: list[int] = []

    def failing(network: Network, pixels: np.ndarray) -> Any:
        calls.append(sum(len(module._forward_hooks) for module in network.modules()))
        if len(calls) == 2:
            raise RuntimeError("in the midst of it")
        return run(network, pixels)

    monkeypatch.setattr(quantization, "run", failing)
    with pytest.raises(RuntimeError, match="midst"):
        quantize(folder, LINES[:2])
    assert len(made) == 2
    assert min(calls[:2]) > 0  # while measuring; afterwards each image is tried alone, without
    assert not any(calls[2:])
    assert not any(module._forward_hooks or module._forward_pre_hooks for net in made for module in net.modules())


# The file.


def test_without_it(network: Network, tmp_path: Path) -> None:
    folder = saved(tmp_path / "plain", network)
    with pytest.raises(ConfigError, match=f"small has no int8 form yet: paddle2torch quantize {folder}"):
        load_pretrained(folder, quantized=True)
    with pytest.raises(ConfigError, match=r"leave quantized out"):
        load_pretrained(folder, quantized=True, precision="bf16")


def test_of_other_weights(folder: Path, tmp_path: Path) -> None:
    other = small_network()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    shutil.copyfile(folder / INT8_NAME, saved(tmp_path / "other", other) / INT8_NAME)
    with pytest.raises(FileFormatError, match="made of other weights than those beside it: quantize the model again"):
        load_quantized(tmp_path / "other")


def test_converted_again(folder: Path, network: Network) -> None:
    before = (folder / INT8_NAME).read_bytes()
    saved(folder, network, overwrite=True)
    assert (folder / INT8_NAME).read_bytes() == before
    load_quantized(folder)
    # To other weights: it is kept, and says what it is.
    saved(folder, small_network(classes=9), overwrite=True)
    assert (folder / INT8_NAME).read_bytes() == before
    load_model(folder)
    with pytest.raises(FileFormatError, match="quantize the model again"):
        load_quantized(folder)


def test_a_cut_or_changed_file(folder: Path) -> None:
    path = folder / INT8_NAME
    whole = path.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=f"{INT8_NAME} is not a sound safetensors file"):
            load_quantized(folder)
    for change in (b"\xff" * 8 + whole[8:], whole + b"more", whole.replace(b'"weights":', b'"weighty":', 1)):
        path.write_bytes(change)
        with pytest.raises(FileFormatError, match=INT8_NAME):
            load_quantized(folder)
    path.write_bytes(whole)
    load_quantized(folder)


Change = Callable[[dict[str, Tensor], str], dict[str, Tensor]]

HOSTILE: dict[str, tuple[Change, str]] = {
    "nothing": (lambda t, p: {}, "no tensor for any convolution of small"),
    "a missing tensor": (lambda t, p: {k: v for k, v in t.items() if k != f"{p}.bias"}, "bias is missing"),
    "a strange tensor": (lambda t, p: {**t, f"{p}.more": torch.zeros(2)}, "more is not of int8's tensors"),
    "a strange path": (lambda t, p: {**t, "head.x.weight": torch.zeros(2)}, "'head.x' is not a convolution of small"),
    "no path": (lambda t, p: {**t, "weight": torch.zeros(2)}, "'' is not a convolution of small"),
    "another shape": (lambda t, p: {**t, f"{p}.weight": t[f"{p}.weight"][:1].clone()}, "the network needs"),
    "another dtype": (lambda t, p: {**t, f"{p}.weight": t[f"{p}.weight"].view(torch.uint8)}, "the network needs"),
    "weights that saturate": (lambda t, p: {**t, f"{p}.weight": t[f"{p}.weight"] * 0 - 128}, "range"),
    "scales of NaN": (lambda t, p: {**t, f"{p}.input_scale": t[f"{p}.input_scale"] * float("nan")}, "range"),
    "a zero point of 256": (lambda t, p: {**t, f"{p}.input_zero_point": torch.tensor(256, dtype=torch.int32)}, "range"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file(what: str, folder: Path) -> None:
    """Of the right weights, as it says itself."""
    tensors, metadata = stored(folder)
    path = next(iter(tensors)).rpartition(".")[0]
    change, message = HOSTILE[what]
    save_file(change(tensors, path), folder / INT8_NAME, metadata)
    with pytest.raises(FileFormatError, match=message) as raised:
        load_quantized(folder)
    assert str(raised.value).startswith(str(folder / INT8_NAME))


def test_a_full_disk_leaves_what_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(Paddle2TorchError, match="is full"):
        quantize(folder, LINES[:2])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_written_is_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def wrong(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file({**tensors, min(tensors): tensors[min(tensors)] + 1}, path, metadata)

    monkeypatch.setattr(store, "save_file", wrong)
    with pytest.raises(Paddle2TorchError, match="read back with other bits"):
        quantize(folder, LINES[:2])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_digest_is_of_names_values_and_kinds(network: Network) -> None:
    def digest(state: dict[str, Tensor]) -> str:
        class Stand:
            def state_dict(self) -> dict[str, Tensor]:
                return state

        return store.digest_of(cast(Network, Stand()))

    state = dict(network.state_dict())
    key = next(key for key, tensor in state.items() if tensor.dim() == 4 and len(set(tensor.shape)) > 1)
    assert digest(state) == store.digest_of(network) == digest(dict(reversed(state.items())))
    changes = [
        {**state, key: -state[key]},
        {**state, key: state[key].flatten()},
        {**state, key: state[key].view(torch.int32)},
        {name + ("x" if name == key else ""): tensor for name, tensor in state.items()},
    ]
    assert len({digest(state), *map(digest, changes)}) == 1 + len(changes)


# The real one.


def test_a_real_recogniser_reads_the_same(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "ROWS", ROWS)
    folder = tmp_path / "en"
    convert("en_PP-OCRv4_rec", weights=shared / "models" / "en_PP-OCRv4_rec_infer", output=folder, fused=True)
    result = quantize(folder, sorted((shared / "data" / "meters" / "train").glob("*.jpg"))[:60])
    assert (result.images, result.held_back) == (48, 12)
    assert result.share > 0.85
    assert result.agreement.same >= 11
    assert result.agreement.total == 12
    lines = [load_image(path) for path in sorted((shared / "images" / "lines").iterdir())]
    found = compare(fold(load_model(folder)), load_quantized(folder), lines)
    assert found.total == 8
    assert found.same >= 7


def test_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.mkdir()
    for number, picture in enumerate(rendered(6)):
        cv2.imwrite(str(lines / f"{number}.png"), picture)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    (folder / INT8_NAME).unlink()
    before = run("read", folder, lines / "0.png", "--quantized")
    assert before.exit_code == 1
    assert f"paddle2torch quantize {folder} IMAGES" in before.output
    result = run("quantize", folder, lines, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["images"], data["held_back"]) == (5, 1)
    assert data["agreement"]["what"] == "lines with the same text"
    assert Path(data["path"]) == folder / INT8_NAME
    found = json.loads(run("read", folder, lines / "0.png", "--quantized", "--json").stdout)
    network = load_quantized(folder)
    expected = Recognizer(network, network.config)([load_image(lines / "0.png")])[0]
    assert (found[0]["text"], found[0]["score"]) == (expected.text, pytest.approx(expected.score, abs=1e-6))
    missing = run("quantize", folder, tmp_path / "nothing.png")
    assert missing.exit_code == 1
    assert "nothing.png" in missing.output


def test_pages_in_int8(tmp_path: Path) -> None:
    names = {"det": "ch_PP-OCRv4_det", "rec": "en_PP-OCRv4_rec", "cls": "PP-LCNet_x0_25_textline_ori"}
    folders = {task: saved(tmp_path / task, card_network(name)) for task, name in names.items()}
    with pytest.raises(ConfigError, match="paddle2torch quantize"):
        OCR(**folders, quantized=True)
    quantize(folders["det"], rendered(2, 96, 160))
    quantize(folders["rec"], rendered(2))
    pipeline = OCR(**folders, quantized=True)
    for part, int8 in ((pipeline.detector, True), (pipeline.recognizer, True), (pipeline.classifier, False)):
        assert part is not None
        assert any(isinstance(module, QuantizedConv2d) for module in part.model.modules()) == int8
