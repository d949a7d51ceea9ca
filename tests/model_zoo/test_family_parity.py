"""Networks of the family against PaddleOCR's own, on every machine: see `tests/goldens/README.md`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe
import torch
from goldens.family import CLASSES, LABEL_SAR, SIZES, VALID_RATIO, architecture
from safetensors.numpy import load_file
from torch import Tensor, nn

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.converters.layout import layout_table, to_torch
from paddle2torch.golden import OUTPUT, sample
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import CTCDecode, DBPostprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.network import Network, build_model

GOLDENS = Path(__file__).parents[1] / "goldens" / "family"
# Of a layer's largest value. The worst of all is at 3.7e-5: fifty layers of ResNet_vd magnify their first roundings a
# hundredfold with these weights, and other processors round otherwise.
TOLERANCE = 2e-4
LAYERS = {
    "PP-OCRv3_server_det": 207,
    "ch_PP-OCRv2_rec": 111,
    "ch_PP-OCRv4_server_det": 279,
    "ch_PP-OCRv4_server_rec": 258,
    "ch_ppocr_mobile_v2.0_det": 175,
    "ch_ppocr_mobile_v2.0_rec": 160,
    "ch_ppocr_server_v2.0_det": 96,
    "ch_ppocr_server_v2.0_rec": 144,
    "en_PP-OCRv3_rec": 164,
}


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    return load_file(GOLDENS / f"{name}.safetensors")


def network(name: str) -> Network:
    """The card's network with the recipe's weights and the golden's statistics, in evaluation."""
    task = load_card(name).task
    parts = from_paddleocr(architecture(name), task, name)
    rec = task == "rec"
    head = replace(parts.head, options={**parts.head.options, "classes": CLASSES}) if rec else parts.head
    config = ModelConfig(
        name=name,
        task=task,
        form="training",
        backbone=parts.backbone,
        neck=parts.neck,
        head=head,
        preprocess=RecPreprocess() if rec else DetPreprocess(),
        postprocess=CTCDecode() if rec else DBPostprocess(),
        charset=tuple(map(chr, range(0x4E00, 0x4E00 + CLASSES - 1))) if rec else None,
    )
    with torch.device("meta"):
        model = build_model(config)
    state = model.state_dict()
    # The positions of the second head are not read in evaluation.
    table = tuple(row for row in layout_table(model) if not row.torch_key.endswith(".pe"))
    statistics = {
        key.removeprefix("statistics:"): v for key, v in golden(name).items() if key.startswith("statistics:")
    }
    tensors = {}
    for row in table:
        shape = tuple(state[row.torch_key].shape)
        values = statistics.pop(row.paddle_key, None)
        if values is None:
            values = recipe.tensor(row.paddle_key, shape[::-1] if row.op == "transpose" else shape)
        tensors[row.paddle_key] = values.astype(np.float32)
    assert not statistics
    model.to_empty(device="cpu")
    found = to_torch(table, tensors)
    model.load_state_dict(model.state_dict() | found, assign=True)
    return model.eval()


def images(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(recipe.image(name, shape))


@pytest.mark.parametrize("name", SIZES)
def test_every_layer_equals_paddles(name: str) -> None:
    model = network(name)
    outputs: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def record(path: str, value: Any) -> None:
        runs[path] += 1
        outputs[path if runs[path] == 1 else f"{path}#{runs[path]}"] = value

    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(lambda module, inputs, output, path=path: record(path, output))
    count, height, width = SIZES[name]
    with torch.inference_mode():
        result = model(images("family", count, 3, height, width))
    outputs[OUTPUT] = result["maps"] if isinstance(result, dict) else result
    expected = {key.removeprefix("layer:"): v for key, v in golden(name).items() if key.startswith("layer:")}
    assert len(expected) == LAYERS[name] + 1
    errors = {}
    for path, values in expected.items():
        *some, largest = values
        errors[path] = np.abs(sample(outputs[path].numpy(), len(some)) - some).max() / largest
    assert {path: error for path, error in errors.items() if not error <= TOLERANCE} == {}


def test_sar_in_training_equals_paddles() -> None:
    model = network("en_PP-OCRv3_rec").train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.LSTM):
            module.dropout = 0.0
    targets = {"label_sar": torch.from_numpy(LABEL_SAR), "valid_ratio": torch.from_numpy(VALID_RATIO)}
    with torch.no_grad():
        found = model(images("sar", 2, 3, 48, 90), targets)["sar"].numpy()
    expected = golden("en_PP-OCRv3_rec")["sar"]
    assert found.shape == expected.shape == (2, 7, CLASSES + 1)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    # The longer label and the wider line differ from the other, or equality would show little.
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
