"""PP-OCRv6 and PP-LCNet to transformers and back: its own classes give our outputs, tensors come back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import card_network, fill

pytest.importorskip("transformers", reason="needs transformers, whose classes the folders are for")

from paddle2torch.converters.align import example_shape
from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.templates import Template
from paddle2torch.converters.transformers import (
    CONFIG,
    FAMILIES,
    PROCESSOR,
    WEIGHTS,
    convert_transformers,
    describe_transformers,
    family_of,
)
from paddle2torch.exporting.transformers import load_strictly, processor_config, transformers_config, transformers_state
from paddle2torch.model_zoo.config import Component
from paddle2torch.model_zoo.errors import ConversionError, FileFormatError
from paddle2torch.model_zoo.network import Network, build_model, fuse

NAMES = (
    "PP-OCRv6_tiny_det",
    "large_kernels",
    "PP-OCRv6_tiny_rec",
    "PP-OCRv6_small_rec",
    "PP-LCNet_x0_25_textline_ori",
)


def large_kernels() -> Network:
    """The neck of the medium detector, narrow, on the smallest backbone."""
    config = card_network("PP-OCRv6_tiny_det").config
    neck = Component("RepLKPAN", {"out_channels": 32, "intracl": True})
    head = replace(config.head, options={**config.head.options, "aux_in_channels": 32})
    model = build_model(replace(config, neck=neck, head=head)).eval()
    fill(model)
    return model


def write(folder: Path, network: Network) -> Path:
    """The folder that an export writes, without running it for images of many sizes."""
    folder.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in transformers_state(network)[0].items()}, folder / WEIGHTS)
    for name, data in ((CONFIG, transformers_config(network)), (PROCESSOR, processor_config(network.config))):
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    return folder


def described(folder: Path, network: Network) -> Template:
    """The template of a folder, of a network that no card has."""
    config = network.config
    return replace(
        describe_transformers(folder),
        name=config.name,
        architecture=Architecture(config.backbone, config.neck, config.head),
    )


def gentle(name: str) -> Network:
    """The network with probabilities that are neither 0 nor 1, which would hide a difference."""
    model = large_kernels() if name == "large_kernels" else copy.deepcopy(card_network(name))
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.startswith(("head.ctc_head.fc.", "head.ctc_head.fc2.", "head.fc.")):
                tensor.copy_(torch.linspace(-1, 1, tensor.numel()).view(tensor.shape) * 1e-3 + tensor * 1e-4)
            if key.endswith(("binarize.conv3.weight", "binarize.conv3.bias")):
                tensor.mul_(0.02)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_class_gives_our_output_and_the_tensors_come_back(tmp_path: Path, name: str) -> None:
    model = gentle(name)
    ours = fuse(model)
    write(tmp_path / "there", model)
    theirs = load_strictly(tmp_path / "there", family_of(ours.config).class_name)
    image = torch.rand(2, *example_shape(ours.config), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected: Any = ours(image)
        found = theirs(pixel_values=image).last_hidden_state
    expected = expected["maps"] if isinstance(expected, dict) else expected
    found = found.softmax(-1) if ours.config.task == "cls" else found
    assert float(expected.std()) > 1e-5
    assert float((found - expected).abs().max()) < 1e-5

    converted = convert_transformers(tmp_path / "there", described(tmp_path / "there", model), name="own")
    back = build_model(converted.config).eval()
    back.load_state_dict(dict(converted.state))
    before = ours.state_dict()
    for key, tensor in back.state_dict().items():
        if name == "large_kernels" and (".dw.lk_origin." in key or ".pw." in key):
            continue  # one of many pairs that make the full kernel
        assert torch.allclose(tensor, before[key], rtol=1e-6, atol=1e-7), key
    with torch.inference_mode():
        again: Any = back(image)
    again = again["maps"] if isinstance(again, dict) else again
    assert float((again - expected).abs().max()) < 1e-5

    write(tmp_path / "again", back)
    first, second = (load_file(tmp_path / folder / "model.safetensors") for folder in ("there", "again"))
    assert set(first) == set(second)
    assert all(torch.allclose(first[key], second[key], rtol=1e-5, atol=1e-6) for key in first)


def test_each_class_is_one_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for family in FAMILIES.values():
        model = getattr(transformers, family.class_name)
        assert model.config_class.model_type == family.model_type
        assert hasattr(transformers, family.processor)


def spoilt(folder: Path, spoil: Callable[[dict[str, Any]], object], file: str = "config.json") -> Path:
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    spoil(data)
    (folder / file).write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_what_a_classifier_is_comes_from_its_settings(tmp_path: Path) -> None:
    """Strides, dropout, labels and steps leave no trace in tensors."""
    name = "PP-LCNet_x0_25_textline_ori"
    config = card_network(name).config
    write(tmp_path / "m", card_network(name))
    template = describe_transformers(tmp_path / "m")
    assert template.preprocess == replace(config.preprocess, channel_order="RGB")
    assert getattr(template.postprocess, "labels", None) == ("0_degree", "180_degree")
    spoilt(tmp_path / "m", lambda data: data.update(stem_stride=1, hidden_dropout_prob=0.5))
    converted = convert_transformers(tmp_path / "m", replace(template, name="own"), name="own")
    assert converted.config.backbone.options["stride_list"][0] == 1
    assert converted.config.head.options["dropout_prob"] == 0.5
    spoilt(tmp_path / "m", lambda data: data.update(block_configs=[[]] * 5))
    with pytest.raises(FileFormatError, match="block_configs, stem_stride or hidden_dropout_prob"):
        convert_transformers(tmp_path / "m", replace(template, name="own"), name="own")
    spoilt(tmp_path / "m", lambda data: data.update(size={"height": "80"}), "preprocessor_config.json")
    with pytest.raises(FileFormatError, match="do not say a classifier's size"):
        describe_transformers(tmp_path / "m")


def test_a_kernel_that_is_no_pair_of_two_is_refused(tmp_path: Path) -> None:
    model = large_kernels()
    write(tmp_path / "m", model)
    path = tmp_path / "m" / "model.safetensors"
    state = load_file(path)
    key = "model.neck.input_feature_projection_convolution.0.weight"
    state[key] = state[key] + 0.1 * torch.rand(state[key].shape, generator=torch.Generator().manual_seed(0))
    save_file(state, path)
    with pytest.raises(ConversionError, match="no product of a depthwise and a pointwise one"):
        convert_transformers(tmp_path / "m", described(tmp_path / "m", model), name="own")
