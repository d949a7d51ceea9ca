"""Every layer of a network against what the official code computes under Paddle, from the same weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from material import SHARED
from reference import record

from paddle2torch.converters.layout import check_table, layout_table, to_torch
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
)
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.parity.golden import sample

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the Paddle outputs in ../shared")

# Of a layer's largest value. The detector's worst layer is at 3.3e-6, the classifier's at 2.3e-6.
TOLERANCE = 5e-5


def config(task: str, backbone: Component, neck: Component | None, head: Component) -> ModelConfig:
    det = task == "det"
    return ModelConfig(
        name="reference",
        task="det" if det else "cls",
        form="training",
        backbone=backbone,
        neck=neck,
        head=head,
        preprocess=DetPreprocess() if det else ClsPreprocess(),
        postprocess=DBPostprocess() if det else ClsPostprocess(),
    )


LCNET = Component("PPLCNetV3", {"scale": 0.75, "det": True})
RSEFPN = Component("RSEFPN", {"out_channels": 96, "shortcut": True})
CONFIGS = {
    "ch_PP-OCRv4_det": config("det", LCNET, RSEFPN, Component("DBHead", {"k": 50, "fix_nan": True})),
    "ch_ppocr_mobile_v2.0_cls": config(
        "cls",
        Component("MobileNetV3", {"scale": 0.35, "model_name": "small"}),
        None,
        Component("ClsHead", {"classes": 2}),
    ),
}
# Recorded layers of each: all must be covered.
LAYERS = {"ch_PP-OCRv4_det": 623, "ch_ppocr_mobile_v2.0_cls": 158}


def load(name: str) -> Network:
    """The network with all of the checkpoint's tensors; none of them is left over."""
    model = build_model(CONFIGS[name])
    tensors = read_pdparams(SHARED / "models" / f"{name}_train" / "best_accuracy.pdparams").tensors
    table = layout_table(model)
    check_table(table, {key: tensor.shape for key, tensor in tensors.items()}, model, name)
    model.load_state_dict(to_torch(table, tensors))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_equals_paddles(name: str) -> None:
    reference = np.load(SHARED / "reference" / f"{name}.eval.npz")
    about = json.loads((SHARED / "reference" / f"{name}.eval.json").read_text(encoding="utf-8"))["layers"]
    facts = {layer["name"]: layer for layer in about}
    model = load(name).eval()
    with torch.no_grad(), record(model) as outputs:
        model(torch.from_numpy(reference["x"]))

    layers = [key.removeprefix("layer:") for key in reference.files if key.startswith("layer:")]
    assert len(layers) == LAYERS[name]
    assert [layer for layer in layers if layer not in outputs] == []
    errors = {}
    for layer in layers:
        expected = reference[f"layer:{layer}"].ravel()
        assert list(outputs[layer].shape) == facts[layer]["shape"], layer
        errors[layer] = np.abs(sample(outputs[layer].numpy(), expected.size) - expected).max() / facts[layer]["absmax"]
    assert {layer: error for layer, error in errors.items() if not error <= TOLERANCE} == {}


def test_fused_detector_equals_paddles_map() -> None:
    reference = np.load(SHARED / "reference" / "ch_PP-OCRv4_det.eval.npz")
    with torch.no_grad():
        maps = fuse(load("ch_PP-OCRv4_det"))(torch.from_numpy(reference["x"]))["maps"]
    expected = reference["output/maps"].ravel()
    assert np.abs(sample(maps.numpy(), expected.size) - expected).max() <= TOLERANCE


def test_detector_in_training_equals_paddles() -> None:
    """The three maps of the first step, and the statistics that this step leaves behind."""
    reference = np.load(SHARED / "reference" / "ch_PP-OCRv4_det.train.npz")
    model = load("ch_PP-OCRv4_det").train()
    with torch.no_grad():
        maps = model(torch.from_numpy(reference["batch0"]))["maps"]
    expected = reference["pred/maps"].ravel()
    # A sample walks through region, threshold and binary maps; k = 50 makes the last up to 12.5 times as steep.
    assert np.abs(sample(maps.numpy(), expected.size) - expected).max() <= 2e-4
    state = model.state_dict()
    statistics = [row for row in layout_table(model) if row.paddle_key.endswith(("_mean", "_variance"))]
    assert len(statistics) == 300
    for row in statistics:
        expected = reference[f"step1:{row.paddle_key}"].ravel()
        error = np.abs(sample(state[row.torch_key].numpy(), expected.size) - expected).max()
        assert error <= 1e-5 * np.abs(expected).max(), row.paddle_key
