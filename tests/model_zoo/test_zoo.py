"""Sixteen official networks against what the official code computes under Paddle, and their exports against the truth.

No weights are stored: a recipe makes each tensor from its name and shape, for Paddle as for us. Everything goes the
way of a user's file: a checkpoint of all of Paddle's tensors is converted with what is known of the official model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import leaves, record
from small_models import write_pdparams
from zoo_reference import ZOO, manifest, template, tensors

from paddle2torch.converters.align import align
from paddle2torch.converters.convert import convert_checkpoint, convert_export
from paddle2torch.converters.layout import checkpoint_rows, layout_table, lstm_key
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.model_zoo.network import build_model
from paddle2torch.parity.golden import sample

pytestmark = pytest.mark.skipif(not ZOO.is_dir(), reason="needs the Paddle outputs in ../shared")

# Of a layer's largest value. The worst of all is at 6.5e-6.
TOLERANCE = 5e-5

LSTM_NOTE = "left out second names of 16 tensors of LSTMs, which have the same values"
CLASSIFIER_NOTE = "left out {}: the classifier of images that the backbone was trained as, which nothing runs"
# Recorded layers, tensors of the exported program, and what the conversion of the checkpoint says it left out.
MODELS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "PP-OCRv5_mobile_det": (623, 234, ()),
    "PP-OCRv5_mobile_rec": (631, 234, ()),
    "PP-OCRv5_server_det": (423, 539, (CLASSIFIER_NOTE.format("backbone.last_conv.weight"),)),
    "PP-OCRv5_server_rec": (
        396,
        458,
        (CLASSIFIER_NOTE.format("backbone.last_conv.weight, backbone.fc.weight, backbone.fc.bias"),),
    ),
    "PP-OCRv6_medium_det": (437, 257, ()),
    "PP-OCRv6_medium_rec": (324, 161, ()),
    "PP-OCRv6_small_det": (342, 162, ()),
    "PP-OCRv6_small_rec": (306, 151, ()),
    "PP-OCRv6_tiny_det": (334, 162, ()),
    "PP-OCRv6_tiny_rec": (180, 90, ()),
    "ch_PP-OCRv3_det": (220, 288, ()),
    "ch_PP-OCRv4_server_det": (286, 354, ()),
    "ch_PP-OCRv4_server_rec": (258, 273, ()),
    "ch_ppocr_mobile_v2.0_det": (180, 256, ()),
    "ch_ppocr_mobile_v2.0_rec": (163, 229, (LSTM_NOTE,)),
    "en_PP-OCRv3_rec": (164, 196, (LSTM_NOTE,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_checkpoint_converts_and_every_layer_equals_paddles(name: str, tmp_path: Path) -> None:
    facts = manifest(name)
    path = write_pdparams(tmp_path / "best_accuracy.pdparams", tensors(facts))
    converted = convert_checkpoint(path, template(name, facts), name=name)
    path.unlink()  # up to 180 MB
    assert converted.notes == MODELS[name][2]
    reference = np.load(ZOO / f"{name}.eval.npz")
    about = json.loads((ZOO / f"{name}.eval.json").read_text(encoding="utf-8"))["layers"]
    recorded = {layer["name"]: layer for layer in about}
    with torch.device("meta"):
        model = build_model(converted.config)
    model.load_state_dict(dict(converted.state), assign=True)
    model.eval()
    # The way back: Paddle's names in Paddle's order, but for what was left out.
    back = [row.paddle_key for row in checkpoint_rows(model)]
    assert back == [entry["name"] for entry in facts["parameters"] if entry["name"] in set(back)]
    left_out = [entry["name"] for entry in facts["parameters"] if entry["name"] not in set(back)]
    assert all(key in "".join(converted.notes) for key in left_out)
    with torch.inference_mode(), record(model) as outputs:
        model(torch.from_numpy(reference["x"]))

    layers = [key.removeprefix("layer:") for key in reference.files if key.startswith("layer:")]
    assert len(layers) == MODELS[name][0]
    assert [layer for layer in layers if layer not in outputs] == []
    errors = {}
    for layer in layers:
        expected = reference[f"layer:{layer}"].ravel()
        assert list(outputs[layer].shape) == recorded[layer]["shape"], layer
        found = sample(outputs[layer].numpy(), expected.size)
        errors[layer] = np.abs(found - expected).max() / recorded[layer]["absmax"]
    assert {layer: error for layer, error in errors.items() if not error <= TOLERANCE} == {}


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_the_export_is_found(name: str) -> None:
    program = read_pir(ZOO / f"{name}_infer" / "inference.json")
    # As the published architecture alone describes it, without a look at the checkpoint.
    config = template(name, manifest(name)).config("fused")
    alignment = align(program, config, name)
    with torch.device("meta"):
        network = build_model(config)
    paddle_key = {row.torch_key: row.paddle_key for row in layout_table(network)}
    found = {row.paddle_key: paddle_key[row.torch_key] for row in alignment.rows}
    truth = manifest(name)["fused_names"]
    assert len(found) == MODELS[name][1]
    assert sorted(found) == sorted(program.parameters)
    # The manifest names an LSTM's tensors by its cells.
    assert found == {parameter: lstm_key(truth[parameter]) or truth[parameter] for parameter in found}


@pytest.mark.parametrize("name", [name for name in MODELS if (ZOO / f"{name}_infer" / "inference.pdiparams").is_file()])
def test_stored_exports_convert_and_give_paddles_output(name: str) -> None:
    reference = np.load(ZOO / f"{name}.eval.npz")
    converted = convert_export(ZOO / f"{name}_infer", template(name, manifest(name)), name=name)
    with torch.device("meta"):
        model = build_model(converted.config)
    model.load_state_dict(dict(converted.state), assign=True)
    with torch.inference_mode():
        output = model.eval()(torch.from_numpy(reference["x"]))
    ((key, found),) = leaves("output", output)
    expected = reference[key].ravel()
    assert np.abs(sample(found.numpy(), expected.size) - expected).max() <= 1e-5
