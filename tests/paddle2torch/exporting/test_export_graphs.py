"""A fine-tuned model leaves in every format and reads the same lines everywhere; ONNX for ONNX Runtime and RapidOCR,
`.pt2` without this package.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from material import ROOT, SHARED
from small_models import lstm_config, saved
from tiny_training import TinyBatches, tiny_settings, tiny_v4_config

from paddle2torch import convert, export
from paddle2torch.cli import main
from paddle2torch.compiled.serving import (
    Check,
    Served,
    captured,
    compare,
    compare_rounded,
    example_images,
    served,
)
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_checkpoint, convert_export
from paddle2torch.converters.templates import Template, from_card
from paddle2torch.exporting import onnx as export_onnx
from paddle2torch.exporting import torch as export_torch
from paddle2torch.exporting.export import Exported, without_denormals
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.quantization import quantize
from paddle2torch.tasks.recognition import Recognizer
from paddle2torch.training.trainer import train
from paddle2torch.zoo.folder import load_model, load_quantized, save_model

CHARSET = ("a", "b", "ü", "字", "!", " ")

# What a user without this package writes. It is not only absent: it cannot be imported.
WITHOUT_US = """
import json, sys
for name in ("paddle2torch", "paddle2torch.exporting", "paddle2torch.model_zoo"):
    sys.modules[name] = None
import numpy, torch
extra = {"model_config.json": "", "charset.txt": ""}
model = torch.export.load(sys.argv[1], extra_files=extra).module()
arrays = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **{key: model(torch.from_numpy(arrays[key])).numpy() for key in arrays.files})
name = json.loads(extra["model_config.json"])["name"]
print(json.dumps({"name": name, "charset": extra["charset.txt"].split("\\n")}))
"""


class Left(NamedTuple):
    """A fine-tuned model: its folder, and its exports."""

    folder: Path
    onnx: Exported
    torch: Exported


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, onnx_packages: None) -> Left:
    """A tiny recogniser, fine-tuned for a step, in both graph formats."""
    folder = tmp_path_factory.mktemp("left")
    config = tiny_v4_config(charset=CHARSET, preprocess=RecPreprocess(image_shape=(3, 48, 320)))
    torch.manual_seed(3)
    model = build_model(config)
    _make_it_read(model)
    save_model(folder / "start", config, model.state_dict())
    settings = tiny_settings(folder / "run", optimizer={"lr": 1e-5}, training={"epochs": 1})
    # One step: more would bring its statistics to the noise that it trains on.
    all_at_once = replace(settings.data.train, loader=replace(settings.data.train.loader, batch_size_per_card=20))
    data = replace(settings.data, train=all_at_once)
    settings = replace(settings, pretrained=str(folder / "start"), data=data)
    train(settings, config, make_batches=TinyBatches.make)
    best = folder / "run" / "best"
    before, after = (load_model(path).state_dict()["head.ctc_head.fc.weight"] for path in (folder / "start", best))
    assert not torch.equal(before, after)
    program = captured(served(load_model(best)))
    with pytest.MonkeyPatch.context() as patch:
        # Five seconds each: the formats share what they would both do.
        patch.setattr(export_onnx, "captured", lambda model: copy.deepcopy(program))  # which it changes
        patch.setattr(export_torch, "captured", lambda model: program)
        return Left(best, export(best, "onnx", folder / "tiny.onnx"), export(best, "torch", folder / "tiny.pt2"))


@torch.no_grad()
def _make_it_read(model: Network) -> None:
    """Give a fresh recogniser statistics of real lines and a head that tells their features apart: it reads nonsense,
    but another nonsense in every line.
    """
    lines, head = example_images(model.config)[4], model.head
    for _ in range(40):
        head.get_submodule("ctc_encoder")(model.backbone(lines))
    features = head.get_submodule("ctc_encoder")(model.eval().backbone(lines))
    spread = (features - features.mean(0)).std((0, 1))
    fc = head.get_submodule("ctc_head.fc")
    fc.weight.copy_(torch.from_numpy(np.random.default_rng(5).normal(size=fc.weight.shape)) / spread)
    fc.bias.copy_(-fc.weight @ features.mean((0, 1)))


def rendered(count: int = 4) -> list[np.ndarray]:
    """Line images of several widths, uint8 (H, W, 3)."""
    lines = []
    for number in range(count):
        image = np.full((40 + 3 * number, 90 + 70 * number, 3), 235, np.uint8)
        text = ["Reads", "No 4821", "in every format", "the same 0123456789"][number % 4]
        cv2.putText(image, text, (4, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 20, 60), 2, cv2.LINE_AA)
        lines.append(image)
    return lines


def read(network: Network, images: list[np.ndarray]) -> list[str]:
    recognizer = Recognizer(network, network.config, batch_size=1)
    return [recognizer([image])[0].text for image in images]


class Stand(Network):
    """The network of `config`, computed by something else."""

    def __init__(self, config: ModelConfig, run: Any) -> None:
        torch.nn.Module.__init__(self)
        self.config = config
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.run = run
        self.eval()

    def forward(self, x: torch.Tensor, targets: Any = None) -> torch.Tensor:
        return torch.as_tensor(self.run(x))


def onnx_session(path: Path) -> Any:
    onnxruntime = importlib.import_module("onnxruntime")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def rapidocr(**options: Any) -> Any:
    if importlib.util.find_spec("rapidocr_onnxruntime") is None:
        pytest.skip("needs rapidocr-onnxruntime")
    return importlib.import_module("rapidocr_onnxruntime").RapidOCR(**options)


def test_our_own_onnx_comes_back_as_the_model(left: Left, tmp_path: Path) -> None:
    """Settings and characters from its metadata; normalisations, which the exporter folds, as biases."""
    before, conversion = load_model(left.folder), convert("again", weights=left.onnx.target, output=tmp_path / "again")
    after = load_model(conversion.folder)
    assert (after.config.charset, after.config.preprocess) == (before.config.charset, before.config.preprocess)
    assert after.config.with_form("training").head.options["ctc"] == before.config.head.options["ctc"]
    # As an export is held: the exporter folded the normalisations in float32, which rounds as any other order does.
    again = served(after)
    with torch.inference_mode():
        checks = compare(served(before), lambda x: again(x).numpy(), example_images(before.config), "what came back")
    assert len(checks) == 5


def test_train_fuse_export_and_the_same_texts_everywhere(left: Left, tmp_path: Path) -> None:
    network = fuse(load_model(left.folder))
    images = rendered()
    expected = read(network, images)
    assert all(expected)
    assert len(set(expected)) > 1

    session = onnx_session(left.onnx.target)
    assert read(Stand(network.config, lambda x: session.run(None, {"image": x.numpy()})[0]), images) == expected
    back = export(left.folder, "paddle", tmp_path / "tiny.pdparams").target
    template = Template(
        "tiny", "a test", charset=Charset(CHARSET, False, "a test"), preprocess=network.config.preprocess
    )
    converted = convert_checkpoint(back, template, name="tiny")
    again = build_model(converted.config).eval()
    again.load_state_dict(dict(converted.state))
    assert read(again, images) == expected


def test_rapidocr_reads_our_file_as_it_is(left: Left) -> None:
    engine = rapidocr(rec_model_path=str(left.onnx.target))
    images = rendered()
    expected = read(fuse(load_model(left.folder)), images)
    assert [engine.text_rec([image])[0][0][0] for image in images] == expected


def test_every_size_was_checked(left: Left) -> None:
    for result in (left.onnx, left.torch):
        assert len({check.shape for check in result.checks}) == 5
        assert len({check.shape[3] for check in result.checks}) == 5
        assert result.worst is not None
        assert result.rounding is not None
        # The head tells tiny differences apart: what is rounding counts for more than in a real model.
        assert result.worst <= 3 * max(1e-5, result.rounding)
        assert 0 < result.rounding < 1e-4
    assert left.torch.worst == 0
    assert left.onnx.checked_by is not None
    assert left.onnx.checked_by.startswith("ONNX Runtime ")


def test_the_torch_file_needs_nothing_of_ours(left: Left, tmp_path: Path) -> None:
    network = fuse(load_model(left.folder))
    images, inputs, outputs = rendered(), [], []

    def record(x: torch.Tensor) -> torch.Tensor:
        inputs.append(x.numpy())
        outputs.append(network(x))
        return outputs[-1]

    expected = read(Stand(network.config, record), images)
    np.savez(tmp_path / "in.npz", *inputs)
    command = [
        sys.executable,
        "-c",
        WITHOUT_US,
        str(left.torch.target),
        str(tmp_path / "in.npz"),
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"name": "tiny", "charset": [*CHARSET, ""]}
    found = np.load(tmp_path / "out.npz")
    given = iter([found[key] for key in sorted(found.files)])
    assert read(Stand(network.config, lambda x: next(given)), images) == expected
    for key, output in zip(sorted(found.files), outputs, strict=True):
        np.testing.assert_allclose(found[key], output.numpy(), atol=1e-4)


def test_what_stands_inside(left: Left) -> None:
    metadata = onnx_session(left.onnx.target).get_modelmeta().custom_metadata_map
    # RapidOCR appends the space.
    assert metadata["character"].splitlines() == list(CHARSET[:-1])
    assert json.loads(metadata["model_config.json"])["charset"] == list(CHARSET)
    here = str(ROOT).encode()
    for result in (left.onnx, left.torch):
        assert here not in result.target.read_bytes(), "a path of this machine is in the file"


def test_characters_that_rapidocr_would_split_are_left_out(small: Network) -> None:
    config = replace(small.config, charset=("a", "\u2028", "c", "d", "e", "f", "g"))
    metadata, notes = export_onnx.metadata_of(config)
    assert "character" not in metadata
    assert "rec_keys_path" in notes[0]


def test_a_result_that_differs_is_told(small: Network) -> None:
    model = served(small)
    images = example_images(small.config)[:2]

    def run(factor: float) -> tuple[Check, ...]:
        return compare(model, lambda image: model(image).numpy() * np.float32(factor), images, "The output")

    assert [check.shape for check in run(1.0)] == [(1, 3, 48, 320), (2, 3, 48, 48)]
    assert run(1.0)[0].absolute == 0
    with pytest.raises(ConversionError, match=r"The output differs .* by 1\.0e-04 .* at most 1\.0e-05 is rounding"):
        run(1 + 1e-4)
    with pytest.raises(ConversionError, match=r"The output is \[1\] for an input of \[1, 3, 48, 320\]"):
        compare(model, lambda image: np.zeros(1), images, "The output")


def test_what_fails_leaves_the_older_file(small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise ConversionError("it differs")

    target = tmp_path / "tiny.pt2"
    target.write_bytes(b"an older one")
    monkeypatch.setattr(export_torch, "captured", refuse)
    with pytest.raises(ConversionError, match="it differs"):
        export(small, "torch", target, force=True)
    assert target.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [target]


def test_denormal_values_leave_as_zeros_and_that_is_said(small: Network) -> None:
    model = served(small)
    assert without_denormals(model) == ()
    weight = next(parameter for parameter in model.parameters() if parameter.dim() == 4)
    weight.flatten()[:3] = 1e-40
    weight.flatten()[3] = 2e-38  # small, but of the usual form
    (note,) = without_denormals(model)
    assert note.startswith("3 values ")
    assert weight.flatten()[:4].tolist() == [0, 0, 0, float(np.float32(2e-38))]


class Means(torch.nn.Module):
    """The two ways in which networks take the mean of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.pool(x), (x / 4).mean((2, 3), keepdim=True)))


def test_means_of_large_maps_are_exact_in_onnx_runtime(onnx_packages: None) -> None:
    """Of a page's background every value is the same, and so is how each addition is rounded."""
    import onnxruntime

    x = torch.full((1, 3, 160, 330), 7.3)
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    program = torch.export.export(Means(), (x,), dynamic_shapes=({2: height, 3: width},))
    export_onnx.add_up_by_lines(program)
    with export_onnx.quiet():
        model = torch.onnx.export(program, dynamo=True, input_names=["x"], verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    assert [node.op_type for node in model.graph.node].count("ReduceMean") == 4
    assert found.shape == (2, 3, 1, 1)
    expected = np.float32([7.3, 7.3 / 4]).reshape(2, 1, 1, 1)
    assert np.abs(found / expected - 1).max() < 1e-6  # with all values in one sum 6e-5


def test_an_lstm_cannot_be_captured_and_says_why(tmp_path: Path) -> None:
    model = build_model(lstm_config())
    for to in ("onnx", "torch"):
        with pytest.raises(ConversionError, match=r"has an LSTM, .*--to paddle"):
            export(model, to, tmp_path / "no")
    assert list(tmp_path.iterdir()) == []


def test_a_folded_network_is_told_apart(small: Network, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="loaded with fused=True"):
        export(fold(small), "onnx", tmp_path / "no.onnx")


def test_without_onnx_runtime(small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(
        Paddle2TorchError, match=r"checked with onnxruntime, not installed here: .*paddle2torch\[onnx\]"
    ):
        export(small, "onnx", tmp_path / "no.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_use(small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'onxx' is not a format .* did you mean 'onnx'"):
        export(small, "onxx")
    with pytest.raises(ConfigError, match="--to onnx has no option 'template'; it has: none"):
        export(small, "onnx", tmp_path / "x", template="y")
    there = tmp_path / "there.pdparams"
    there.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"exists; replace it \(--force\)"):
        export(small, "paddle", there)
    assert there.read_bytes() == b"mine"
    export(small, "paddle", there, force=True)
    assert there.read_bytes()[:2] == b"\x80\x04"
    with pytest.raises(Paddle2TorchError, match="cannot be written"):
        export(small, "paddle", there / "inside.pdparams")
    with pytest.raises(ConfigError, match="is a folder; a file is to be written there"):
        export(small, "torch", tmp_path, force=True)
    monkeypatch.chdir(tmp_path)
    assert export(small, "paddle").target == Path("small.pdparams")


def test_the_command(small: Network, tmp_path: Path) -> None:
    saved(tmp_path / "small", small)
    target = tmp_path / "back.pdparams"
    command = ["export", str(tmp_path / "small"), "--to", "paddle", "-o", str(target)]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["target"] == str(target)
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "--force" in again.output


def test_the_numbers_of_a_result() -> None:
    checks = (Check((1,), 1e-6, 2e-6, 3e-7), Check((2,), 1e-7, 1e-6, 4e-7))
    assert Exported(Path("x"), "onnx", "it", checks).worst == 2e-6
    assert Exported(Path("x"), "onnx", "it", checks).rounding == 4e-7
    assert Exported(Path("x"), "paddle").worst is None


def test_rapidocr_with_the_real_recogniser(ch_export: Path, tmp_path: Path, onnx_packages: None) -> None:
    """The official weights as ONNX: RapidOCR, unchanged, reads what we read."""
    card = load_card("ch_PP-OCRv4_rec")
    converted = convert_export(ch_export, from_card(card), name=card.name)
    network = build_model(converted.config).eval()
    network.load_state_dict(dict(converted.state))
    result = export(network, "onnx", tmp_path / "ch.onnx")
    assert len(result.checks) == 5
    assert result.worst is not None
    assert result.rounding is not None
    # Twice PyTorch's own distance from float64 is what an export may have, so three times that is between the two. A
    # fixed 1e-4 held with AVX2 alone: with AVX-512 ONNX Runtime adds in another order, and is 1.05e-4 from PyTorch.
    assert result.worst <= 3 * max(1e-5, result.rounding)
    images = rendered()
    material = SHARED / "images" / "lines"
    if material.is_dir():
        images += [cv2.imread(str(path)) for path in sorted(material.iterdir())]
    expected = read(network, images)
    assert expected[:2] == ["Reads", "No 4821"]
    engine = rapidocr(rec_model_path=str(result.target))
    assert [engine.text_rec([image])[0][0][0] for image in images] == expected


def test_onnx_in_int8_is_our_own_int8(left: Left, tmp_path: Path) -> None:
    """The scales of its input channels are in it, so that ONNX Runtime reads what PyTorch reads in int8."""
    folder, target = tmp_path / "quantized", tmp_path / "int8.onnx"
    shutil.copytree(left.folder, folder)
    arguments = ["export", str(folder), "--to", "onnx", "--quantized", "-o", str(target), "--json"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "has no int8 form yet: paddle2torch quantize" in refused.stderr
    done = quantize(folder, rendered(8))
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert f"{len(done.convolutions)} convolutions in int8" in json.loads(shown.stdout)["notes"]
    session, exact = export_onnx.open_session(target), export_onnx.open_session(left.onnx.target)
    assert session.get_modelmeta().custom_metadata_map == exact.get_modelmeta().custom_metadata_map
    model = importlib.import_module("onnx").load(target)
    nodes = Counter(node.op_type for node in model.graph.node)
    assert nodes["QuantizeLinear"] == len(done.convolutions)
    assert nodes["DequantizeLinear"] == 2 * len(done.convolutions), "weights are stored in int8"
    quantized, plain = load_quantized(folder), fold(load_model(folder))
    for x in example_images(quantized.config):
        with torch.inference_mode():
            ours, truth = quantized(x).numpy(), plain(x).numpy()
        (found,) = session.run(["output"], {"image": x.numpy()})
        error = np.sqrt(np.square(ours - truth).mean())
        # A value that lies between two steps may go to the other one.
        assert np.sqrt(np.square(found - ours).mean()) < 0.3 * error

    def three_times_as_far(x: torch.Tensor) -> np.ndarray:
        result: np.ndarray = (plain(x) + 3 * (quantized(x) - plain(x))).numpy()
        return result

    images = example_images(quantized.config)[:2]
    served_quantized = Served(quantized)
    checks = compare_rounded(plain, served_quantized, lambda x: quantized(x).numpy(), images, "it")
    assert all(check.absolute == 0 < check.rounding for check in checks)
    with pytest.raises(ConversionError, match="it in this form is off by"):
        compare_rounded(plain, served_quantized, three_times_as_far, images, "it")
    with pytest.raises(ConversionError, match="Nothing was written"):
        compare_rounded(plain, served_quantized, lambda x: quantized(x)[:, 1:].numpy(), images, "it")


def test_int8_goes_to_formats_that_have_it(left: Left, tmp_path: Path) -> None:
    for model, to in ((left.folder, "torch"), (load_model(left.folder), "onnx")):
        with pytest.raises(
            ConfigError, match="in int8 go models that were quantized, by their name or folder, to onnx"
        ):
            export(model, to, tmp_path / "int8", quantized=True)
    assert not (tmp_path / "int8").exists()
