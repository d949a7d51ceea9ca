"""The layout of transformers: every name and shape its classes ask for, and their output where it is installed."""

from __future__ import annotations

import gzip
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from material import GOLDENS
from small_models import fill, small_config

from paddle2torch.converters.transformers import transformers_names
from paddle2torch.exporting.transformers import export_transformers, transformers_config, transformers_state
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.zoo.info import card_config

# {class: {tensor: shape}} of transformers 5.23.0's classes, with the settings of the official releases.
EXPECTED = GOLDENS / "transformers.json.gz"
INSTALLED = importlib.util.find_spec("transformers") is not None

NAMES = ("PP-OCRv5_mobile_det", "PP-OCRv5_mobile_rec", "PP-OCRv5_server_det", "PP-OCRv5_server_rec")


def network(name: str, *, device: str = "cpu", form: str = "training") -> Network:
    config = card_config(load_card(name))
    assert config is not None
    if config.head.options.get("nrtr") is not None:
        # The second head has no place there; this is what checks that.
        narrow = {**config.head.options, "nrtr": {"nrtr_dim": 32, "num_decoder_layers": 1}}
        config = replace(config, head=replace(config.head, options=narrow))
    with torch.device(device):
        model = build_model(config.with_form(form))  # type: ignore[arg-type]
    if device == "cpu":
        fill(model)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_its_name_and_shape(name: str) -> None:
    expected = json.loads(gzip.decompress(EXPECTED.read_bytes()))
    model = network(name, device="meta")
    (class_name,) = transformers_config(model)["architectures"]
    state = model.state_dict()
    names = transformers_names(model.config, state)
    assert {names[key]: list(state[key].shape) for key in names} == expected[class_name]
    # Every name is another's, and only what training needs has none.
    assert len(set(names.values())) == len(names)
    assert {key.split(".")[1] for key in state if key not in names} == (
        {"thresh"} if model.config.task == "det" else {"before_gtc", "gtc_head"}
    )


def test_another_character_set_is_another_size_of_one_layer() -> None:
    ours, theirs = (network(name, device="meta") for name in ("en_PP-OCRv4_rec", "PP-OCRv5_mobile_rec"))
    assert transformers_config(ours) == transformers_config(theirs) | {"head_out_channels": 97}


def test_the_fused_form_has_one_branch_that_counts() -> None:
    model = fuse(filled_small())
    state, _ = transformers_state(model)
    assert transformers_config(model)["backbone_config"]["conv_symmetric_num"] == 1
    path = "model.backbone.encoder.blocks.1.layers.1.depthwise_convolution"
    kernel = model.get_submodule("backbone.blocks3.1.dw_conv.reparam_conv")
    assert torch.equal(state[f"{path}.conv_symmetric.0.convolution.weight"], kernel.weight)
    assert torch.equal(state[f"{path}.conv_symmetric.0.normalization.bias"], kernel.bias)
    for branch in ("conv_small_symmetric.normalization", "identity"):
        for tensor in ("weight", "bias"):
            assert not state[f"{path}.{branch}.{tensor}"].any()


def filled_small() -> Network:
    model = build_model(small_config())
    fill(model)
    return model.eval()


def test_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = filled_small()
    result = export_transformers(model, tmp_path / "out")
    assert result.checked_by is None
    assert any("not installed" in note for note in result.notes)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["character_list"] == ["blank", *(model.config.charset or ())]
    assert processor["size"] == {"height": 48, "width": 320}
    with pytest.raises(ConfigError, match="exists"):
        export_transformers(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ch_PP-OCRv4_server_rec", "no class for PPHGNet_small with MultiHead; it has .*PP-OCRv5"),
        ("ch_ppocr_mobile_v2.0_cls", "no class for MobileNetV3 with ClsHead"),
    ],
)
def test_networks_without_a_class(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=message):
        export_transformers(network(name, device="meta"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_neck_that_has_no_class(tmp_path: Path) -> None:
    config = small_config()
    ctc = {**config.head.options["ctc"], "dims": 24}
    model = build_model(replace(config, head=replace(config.head, options={**config.head.options, "ctc": ctc}))).eval()
    with pytest.raises(ConversionError, match="the neck gives as many channels"):
        export_transformers(model, tmp_path / "out")


@pytest.mark.skipif(not INSTALLED, reason="transformers is not installed")
@pytest.mark.parametrize(("name", "form"), [*((name, "training") for name in NAMES), ("PP-OCRv5_mobile_rec", "fused")])
def test_transformers_gives_our_output(name: str, form: str, tmp_path: Path) -> None:
    result = export_transformers(network(name, form=form), tmp_path / "out")
    assert str(result.checked_by).startswith("transformers ")
    assert len(result.checks) == 5
    assert result.worst is not None
    assert result.worst <= 1e-5
    config: dict[str, Any] = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"].startswith("pp_ocrv5_")
