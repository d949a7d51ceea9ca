"""Equal models verify, and each way of being broken is found and named."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import fill, lstm_config, saved
from structure import image
from torch import nn

from paddle2torch.assets import ASSETS
from paddle2torch.converters.convert import convert_files
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, Origin, RecPreprocess
from paddle2torch.model_zoo.errors import FileFormatError, VerificationError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.layers import Hardsigmoid
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.parity import verification
from paddle2torch.parity._paddle_operations import refused_operations
from paddle2torch.parity.golden import OUTPUT, Golden, load_golden, save_golden, shipped_golden
from paddle2torch.parity.reference import ReferenceRun
from paddle2torch.parity.results import (
    ACCUMULATED_TOLERANCE,
    LOCAL_TOLERANCE,
    Difference,
    LayerResult,
    Roundings,
    compare,
)
from paddle2torch.parity.verification import record_golden, verify, verify_export, verify_golden


def convert(path: Path, name: str) -> Network:
    converted = convert_files(path, from_card(load_card(name)), name=name)
    model = build_model(converted.config)
    model.load_state_dict(dict(converted.state))
    return model.eval()


@pytest.fixture(scope="session")
def ch_model(ch_export: Path) -> Network:
    return convert(ch_export, "ch_PP-OCRv4_rec")


@pytest.fixture(scope="session")
def run_once(paddle: None) -> Callable[..., ReferenceRun]:
    """Paddle's run of a program, done once for all tests that only break the torch side."""
    runs: dict[Path, ReferenceRun] = {}

    def run(program: Path, parameters: Path, x: np.ndarray, wanted: object, *, threads: int) -> ReferenceRun:
        if program not in runs:
            real = REAL_RUN(program, parameters, x, wanted, threads=threads)
            runs[program] = replace(real, values=dict(real.values))
        return runs[program]

    return run


REAL_RUN = verification.run_program


@pytest.fixture
def cached_paddle(run_once: Callable[..., ReferenceRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "run_program", run_once)


def test_the_official_weights_are_equal(ch_model: Network, ch_export: Path, cached_paddle: None) -> None:
    result = verify_export(ch_model, ch_export)
    assert result.holds
    assert result.first_failure is None
    compared = {layer.path for layer in result.layers if layer.leaf}
    own = {path for path, module in ch_model.named_modules() if list(module.parameters(recurse=False))}
    assert own <= compared
    # What has no parameters is compared through the modules around it.
    around = {layer.path for layer in result.layers if not layer.leaf}
    assert {
        "backbone",
        "backbone.blocks6.0.se",
        "head.ctc_encoder.encoder.svtr_block.0.mixer",
        "head.ctc_head",
    } <= around
    assert all(layer.local is not None and layer.accumulated is not None for layer in result.layers)
    assert result.worst_local is not None
    assert result.worst_local.local is not None
    assert result.worst_local.local.relative <= LOCAL_TOLERANCE
    assert result.output.absolute <= 1e-5
    assert [line.torch_text for line in result.lines] == [line.reference_text for line in result.lines]
    assert "Reads 0123" in result.lines[0].torch_text
    assert result.input_shape[3] % 2 == 1


def test_the_folded_form_is_compared_layer_by_layer(ch_model: Network, ch_export: Path, cached_paddle: None) -> None:
    result = verify_export(ch_model, ch_export, folded=True)
    assert result.holds
    assert result.form == "folded"
    compared = {layer.path: layer for layer in result.layers if layer.leaf}
    folded = fold(ch_model)
    own = {path for path, module in folded.named_modules() if list(module.parameters(recurse=False))}
    assert own <= set(compared)
    assert all(layer.local is not None for layer in compared.values())
    # A convolution that holds another affine than Paddle's is found.
    broken = copy.deepcopy(ch_model)
    lab = broken.get_submodule("backbone.blocks4.1.dw_conv.act.lab")
    lab.bias = nn.Parameter(lab.bias.detach() + 0.05)
    failed = verify_export(broken, ch_export, folded=True).first_failure
    assert failed is not None
    assert failed.path == "backbone.blocks4.1.pw_conv.reparam_conv"


def transpose_projection(model: Network) -> None:
    proj = model.head.ctc_encoder.encoder.svtr_block[1].mixer.proj
    proj.weight = nn.Parameter(proj.weight.detach().T.contiguous())


def swap_statistics(model: Network) -> None:
    norm = model.head.ctc_encoder.encoder.conv3.norm
    norm.running_mean, norm.running_var = norm.running_var.clone(), norm.running_mean.clone().abs()


def loosen_layer_norm(model: Network) -> None:
    model.head.ctc_encoder.encoder.svtr_block[0].norm1.eps = 1e-3


def loosen_batch_norm(model: Network) -> None:
    model.backbone.conv1.bn.eps = 1e-3


def other_slope(model: Network) -> None:
    model.backbone.blocks6[1].se.hardsigmoid = Hardsigmoid(0.2)


def other_head_split(model: Network) -> None:
    model.head.ctc_encoder.encoder.svtr_block[0].mixer.num_heads = 4


def shift_affine(model: Network) -> None:
    model.backbone.blocks4[0].pw_conv.act.lab.bias.data += 1e-3


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (transpose_projection, "head.ctc_encoder.encoder.svtr_block.1.mixer.proj"),
        (swap_statistics, "head.ctc_encoder.encoder.conv3.norm"),
        (loosen_layer_norm, "head.ctc_encoder.encoder.svtr_block.0.norm1"),
        (loosen_batch_norm, "backbone.conv1.bn"),
        (other_slope, "backbone.blocks6.1.se.hardsigmoid"),
        # No layer is wrong, only what happens between two of them.
        (other_head_split, "head.ctc_encoder.encoder.svtr_block.0.mixer"),
        (shift_affine, "backbone.blocks4.0.pw_conv.act.lab"),
    ],
)
def test_a_broken_model_is_found_and_the_layer_named(
    ch_model: Network,
    ch_export: Path,
    cached_paddle: None,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Network], None],
    layer: str,
) -> None:
    broken = copy.deepcopy(ch_model)
    damage(broken)
    # The alignment refuses what the settings build, not what became of a model afterwards.
    result = verify_export(broken, ch_export)
    assert not result.holds
    assert result.first_failure is not None
    assert result.first_failure.path == layer
    leaves = [found.path for found in result.layers if found.leaf and not found.holds_locally]
    assert leaves in ([layer], [])


def test_the_shipped_golden_holds_without_paddle(
    ch_model: Network, ch_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddle2torch.zoo.conversion import convert as convert_by_name

    convert_by_name("ch_PP-OCRv4_rec", weights=ch_export)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = verify("ch_PP-OCRv4_rec")
    assert result.holds
    assert len(result.layers) == 256
    assert result.lines[0].torch_text.strip() == "Paddle to PyTorch, layer by layer"
    assert any("golden has none" in gap for gap in result.not_covered)


def test_a_golden_finds_a_broken_model(ch_model: Network, ch_export: Path) -> None:
    golden = load_golden(ASSETS / "ch_PP-OCRv4_rec.golden.safetensors")
    broken = copy.deepcopy(ch_model)
    transpose_projection(broken)
    result = verify_golden(broken, golden)
    assert result.first_failure is not None
    assert result.first_failure.path == "head.ctc_encoder.encoder.svtr_block.1.mixer.proj"


def test_a_golden_belongs_to_weights(ch_model: Network) -> None:
    assert shipped_golden(ch_model.config) is None
    origin = Origin("legacy export", {"inference.pdmodel": "0" * 64, "inference.pdiparams": "1" * 64})
    assert shipped_golden(replace(ch_model.config, origin=origin)) is None


def test_a_golden_is_recorded_as_the_shipped_one_was(
    ch_model: Network, ch_export: Path, cached_paddle: None, tmp_path: Path
) -> None:
    saved(tmp_path / "model", ch_model)
    golden = record_golden(tmp_path / "model", ch_export, samples=32)
    save_golden(golden, tmp_path / "golden.safetensors")
    again = load_golden(tmp_path / "golden.safetensors")
    shipped = load_golden(ASSETS / "ch_PP-OCRv4_rec.golden.safetensors")
    assert again.weights == shipped.weights
    assert list(again.layers) == list(shipped.layers)
    assert verify_golden(ch_model, again).holds
    assert max(values.size for values in again.layers.values()) <= 32


def test_broken_goldens(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 64, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"):
        (tmp_path / "g.safetensors").write_bytes(content)
        with pytest.raises(FileFormatError, match="is not a stored golden"):
            load_golden(tmp_path / "g.safetensors")
    values = {OUTPUT: np.zeros(2, "float32"), "last": np.zeros(2, "float32")}
    golden = Golden(
        "",
        "fused",
        "3",
        {},
        np.zeros((1, 3, 48, 64), "float32"),
        values,
        dict.fromkeys(values, (2,)),
        dict.fromkeys(values, 1.0),
    )
    save_golden(golden, tmp_path / "g.safetensors")
    with pytest.raises(FileFormatError, match="its last layer is not the output"):
        load_golden(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": np.zeros((1, 25), "float32")}, "input is not float32 of 4 dimensions"),
        ({"input": np.zeros((1, 3, 48, 64), "float64")}, "input is not float32 of 4 dimensions"),
        ({"input": np.zeros((1, 1, 48, 64), "float32")}, "not images of three channels"),
        ({"ids": np.zeros(5, "int64")}, "ids is not int64 of 2 dimensions"),
        ({"ids": np.full((1, 5), -1, "int64")}, "not classes of 1 lines"),
        ({"ids": np.zeros((2, 5), "int64"), "scores": np.zeros((2, 5), "float32")}, "not classes of 1 lines"),
        ({"scores": np.zeros((1, 4), "float32")}, "not classes of 1 lines"),
        (
            {"layers": {"last": np.zeros((1, 2), "float32"), OUTPUT: np.zeros(2, "float32")}},
            "layer:last is not",
        ),
        ({"form": 5}, "5 is not one of"),
        ({"paddle_version": 3.3}, "expected str"),
        ({"weights": []}, "expected an object"),
    ],
)
def test_goldens_are_what_they_say(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    values = {"last": np.zeros(2, "float32"), OUTPUT: np.zeros(2, "float32")}
    golden = Golden(
        source="",
        form="fused",
        paddle_version="3",
        weights={},
        input=np.zeros((1, 3, 48, 64), "float32"),
        layers=values,
        shapes=dict.fromkeys(values, (2,)),
        largest=dict.fromkeys(values, 1.0),
        ids=np.zeros((1, 5), "int64"),
        scores=np.zeros((1, 5), "float32"),
    )
    save_golden(golden, tmp_path / "g.safetensors")
    assert load_golden(tmp_path / "g.safetensors").shapes == golden.shapes
    changed = replace(golden, **changes)
    header = {
        "form": changed.form,
        "paddle": changed.paddle_version,
        "weights": changed.weights,
        "layers": [[name, list(golden.shapes[name]), golden.largest[name]] for name in changed.layers],
    }
    tensors = {"input": changed.input, "ids": changed.ids, "scores": changed.scores}
    tensors |= {f"layer:{name}": layer for name, layer in changed.layers.items()}
    save_file(tensors, tmp_path / "g.safetensors", {"golden": json.dumps(header)})
    with pytest.raises(FileFormatError, match=message):
        load_golden(tmp_path / "g.safetensors")


def test_a_golden_that_the_network_cannot_run(small: Network) -> None:
    values, shapes, largest = {OUTPUT: np.zeros(2, "float32")}, {OUTPUT: (2,)}, {OUTPUT: 1.0}
    golden = Golden("g", "training", "3", {}, np.zeros((1, 3, 32, 100), "float32"), values, shapes, largest)
    low = build_model(lstm_config()).eval()  # its strides leave nothing of 32 pixels
    with pytest.raises(VerificationError, match=r"g: crnn cannot be run on an input of \[1, 3, 32, 100\]"):
        verify_golden(low, golden)
    ids = np.full((1, 8), 99, "int64")
    golden = replace(golden, input=np.zeros((1, 3, 48, 64), "float32"), ids=ids, scores=ids.astype("float32"))
    with pytest.raises(VerificationError, match="has fewer classes"):
        verify_golden(small, golden)


def test_a_model_of_ones_own_needs_a_reference(small: Network, tmp_path: Path) -> None:
    saved(tmp_path / "m", small)
    with pytest.raises(VerificationError, match="--reference"):
        verify(tmp_path / "m")


def test_a_missing_paddle_is_said_before_anything_is_run(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(verification, "verify_export", lambda *_, **__: pytest.fail("the export was looked at"))
    with pytest.raises(VerificationError, match=r"its_infer is run by Paddle, and paddlepaddle is not installed: pip"):
        verify(saved(tmp_path / "small", small.config), reference=tmp_path / "its_infer")


def test_training_form_against_the_official_golden(shared: Path) -> None:
    """All 631 layers of the official code's training form, from the very file users have."""
    model = convert(shared / "models" / "en_PP-OCRv4_rec_train" / "best_accuracy.pdparams", "en_PP-OCRv4_rec")
    result = verify_golden(model, npz_golden(shared / "reference" / "en_PP-OCRv4_rec.eval"))
    assert result.holds
    assert len(result.layers) == 631
    assert result.output.absolute <= 1e-5
    assert result.worst_accumulated is not None
    assert result.worst_accumulated.accumulated is not None
    assert result.worst_accumulated.accumulated.relative <= ACCUMULATED_TOLERANCE


@pytest.mark.parametrize("export", ["en_PP-OCRv4_rec_infer", "en_PP-OCRv4_mobile_rec_infer"])
def test_the_english_exports(shared: Path, paddle: None, export: str) -> None:
    """The training checkpoint, fused here, against Paddle running what Paddle fused."""
    model = convert(shared / "models" / "en_PP-OCRv4_rec_train" / "best_accuracy.pdparams", "en_PP-OCRv4_rec")
    result = verify_export(model, shared / "models" / export)
    assert result.holds
    assert sum(layer.leaf for layer in result.layers) == 153
    assert len(result.not_covered) == 2


def test_the_folded_detector(shared: Path, paddle: None) -> None:
    export = shared / "models" / "ch_PP-OCRv4_det_infer"
    result = verify_export(convert(export, "ch_PP-OCRv4_det"), export, folded=True)
    assert result.holds
    compared = {layer.path: layer for layer in result.layers}
    # Its map is laid out once, at the end: what is between has other shapes, and is compared as one.
    assert compared["head.binarize"].local is not None
    assert "head.binarize.conv2" not in compared
    assert sum(layer.leaf for layer in result.layers) > 65


def npz_golden(path: Path) -> Golden:
    """A golden of ../shared in our form."""
    import json

    arrays = np.load(f"{path}.npz")
    description = json.loads(Path(f"{path}.json").read_text())
    layers = {key.removeprefix("layer:"): arrays[key] for key in arrays.files if key.startswith("layer:")}
    shapes = {layer["name"]: tuple(layer["shape"]) for layer in description["layers"]}
    largest = {layer["name"]: layer["absmax"] for layer in description["layers"]}
    output = arrays["output"]
    return Golden(
        source=str(path),
        form="training",
        paddle_version=description["paddle"],
        weights={},
        input=arrays["x"],
        layers={**layers, OUTPUT: output.ravel()},
        shapes={**shapes, OUTPUT: output.shape},
        largest={**largest, OUTPUT: float(np.abs(output).max())},
        ids=output.argmax(2),
        scores=output.max(2),
    )


def test_comparison_of_arrays() -> None:
    a = np.array([1.0, -4.0], "float32")
    assert compare(a, a) == Difference(0.0, 0.0)
    assert compare(a + 1, a) == Difference(1.0, 0.25)
    assert compare(a + 1, a, largest=8.0) == Difference(1.0, 0.125)
    assert compare(np.array([np.nan], "float32"), a[:1]).relative == math.inf
    assert compare(a, a[:1]).relative == math.inf
    assert compare(a, a * 0).relative == math.inf
    assert compare(a * 0, a * 0) == Difference(0.0, 0.0)


def test_an_lstm_is_compared_by_its_sequence() -> None:
    """It returns its states as well, which no program writes where a layer could be compared."""
    model = build_model(
        ModelConfig(
            name="crnn",
            task="rec",
            form="fused",
            backbone=Component("MobileNetV1Enhance", {"scale": 0.125}),
            neck=Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": 4}),
            head=Component("CTCHead", {"classes": 4}),
            preprocess=RecPreprocess(image_shape=(3, 32, 320)),
            postprocess=CTCDecode(),
            charset=("a", "b", "c"),
        )
    ).eval()
    fill(model)
    taps = verification._Taps(model)
    output = taps.run(image(1, 3, 32, 40)).numpy()
    lstm = "neck.encoder.lstm"
    assert taps.outputs[lstm].shape == (1, 10, 8)
    values = verification.LayerValues({lstm: taps.inputs[lstm].numpy()}, {lstm: taps.outputs[lstm].numpy()}, output)
    expected, given = values.around(taps)
    # The modules around it read and return the same tensors.
    assert set(expected) == {"neck.encoder_reshape", lstm, "neck.encoder", "neck", "head"}
    result = verification._compare_module(lstm, model, taps.outputs[lstm], expected[lstm], given[lstm], leaf=True)
    assert result.local == result.accumulated == Difference(0.0, 0.0)


def small_golden(network: Network, **changes: object) -> Golden:
    """The network's own outputs, as a golden of its two first layers."""
    x = image(1, 3, 48, 64)
    taps = verification._Taps(network)
    output = taps.run(x).numpy()
    leaves = (path for path in taps.outputs if "#" not in path)
    paths = [path for path in leaves if next(network.get_submodule(path).children(), None) is None][:2]
    arrays = {**{path: taps.outputs[path].numpy() for path in paths}, OUTPUT: output}
    golden = Golden(
        source="golden",
        form="training",
        paddle_version="3.3.1",
        weights={},
        input=x.numpy(),
        layers={path: verification.sample(value, 64) for path, value in arrays.items()},
        shapes={path: value.shape for path, value in arrays.items()},
        largest={path: float(np.abs(value).max()) for path, value in arrays.items()},
    )
    return replace(golden, **changes)


def test_a_golden_with_a_layer_holds_and_says_what_it_lacks(small: Network) -> None:
    result = verify_golden(small, small_golden(small))
    assert result.holds
    assert any("layers that the golden does not hold" in gap for gap in result.not_covered)


def test_a_golden_that_proves_nothing_does_not_hold(small: Network) -> None:
    golden = small_golden(small)
    only_output = {OUTPUT: golden.layers[OUTPUT]}
    assert not verify_golden(small, replace(golden, layers=only_output)).holds, "no layer compared"
    empty = {path: values[:0] for path, values in golden.layers.items()}
    assert not verify_golden(small, replace(golden, layers=empty)).holds, "no value compared"
    wrong = {path: values + 1 for path, values in golden.layers.items()}
    for largest in (1e30, math.inf, math.nan, -1.0):
        claimed = dict.fromkeys(golden.layers, largest)
        assert not verify_golden(small, replace(golden, layers=wrong, largest=claimed)).holds, "any difference is small"


def test_a_reference_that_the_model_brings_is_said(small: Network, tmp_path: Path) -> None:
    saved(tmp_path / "model", small)
    for place in (tmp_path / "model" / "golden.safetensors", tmp_path / "golden.safetensors"):
        save_golden(small_golden(small), place)
        result = verify(tmp_path / "model", reference=place)
        said = any("came with the model" in gap for gap in result.not_covered)
        assert said == (place.parent.name == "model")


@pytest.mark.parametrize(
    "name",
    [
        "save",
        "save_combine",
        "load_combine",
        "py_func",
        "pd_op.py_func_",
        "run_program",
        "print",
        "custom_op.relu",
        "x",
    ],
)
def test_operations_that_are_not_known_to_compute_only(name: str) -> None:
    assert refused_operations({"relu", "pd_op.relu_", "cf.yield", "builtin.parameter", name}) == [name]


@pytest.mark.parametrize(
    ("accumulated", "ours", "theirs", "holds"),
    [
        (4e-5, None, None, True),
        (6e-5, 3e-5, 4e-5, True),  # two roundings that add up
        (6e-5, 1e-5, 6e-5, False),  # Paddle computes something else
        (6e-5, 6e-5, 1e-5, False),  # our form is not exact enough
        (6e-5, None, None, False),
        (float("nan"), float("nan"), 1e-5, False),
    ],
)
def test_roundings_of_both_add_up_but_each_holds(
    accumulated: float, ours: float | None, theirs: float | None, holds: bool
) -> None:
    both = (Difference(value, value) for value in (ours, theirs) if value is not None)
    roundings = None if ours is None else Roundings(*both)
    layer = LayerResult("a", "conv", (1,), True, Difference(0.0, 0.0), Difference(accumulated, accumulated), roundings)
    assert layer.holds is holds
