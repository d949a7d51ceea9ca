"""The networks against PaddleOCR's own, from the same weights and on every machine: see tests/goldens/README.md."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import recipe
import torch
from material import GOLDENS
from safetensors import safe_open
from small_models import classifier_config
from torch import Tensor, nn

from paddle2torch.converters.layout import check_table, layout_table, to_paddle, to_torch
from paddle2torch.model_zoo.config import (
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.layers import BatchNorm2d, Hardsigmoid
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.model_zoo.nrtr import END, START
from paddle2torch.parity.golden import OUTPUT, Golden, load_golden, sample
from paddle2torch.parity.results import compare
from paddle2torch.parity.verification import verify_golden

# Of the largest value of a layer or of logits; of a statistic's, or of a probability in absolute terms. Worst measured:
# 1.5e-5 and 3.7e-6.
LAYER = 5e-5
RESULT = 1e-5
MOST_SYMBOLS = 24


def recogniser(name: str, scale: float, classes: int, ctc: dict[str, Any], nrtr: dict[str, Any]) -> ModelConfig:
    options = {"classes": classes, "ctc": ctc | {"depth": 2, "use_guide": True}, "nrtr": nrtr | {"max_text_length": 25}}
    return ModelConfig(
        name=name,
        task="rec",
        form="training",
        backbone=Component("PPLCNetV3", {"scale": scale}),
        neck=None,
        head=Component("MultiHead", options),
        preprocess=RecPreprocess(),
        postprocess=CTCDecode(),
        charset=tuple(chr(0x4E00 + i) for i in range(classes - 1)),
    )


REC, OWN, DET, CLS = "en_PP-OCRv4_rec", "own_rec", "ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls"
CONFIGS = {
    REC: recogniser(
        REC,
        scale=0.95,
        classes=97,
        ctc={"dims": 120, "hidden_dims": 120, "kernel_size": [1, 3]},
        nrtr={"nrtr_dim": 384},
    ),
    OWN: recogniser(
        OWN,
        scale=0.5,
        classes=20,
        ctc={"dims": 64, "hidden_dims": 96, "kernel_size": [3, 3]},
        nrtr={"nrtr_dim": 64, "num_decoder_layers": 2},
    ),
    DET: ModelConfig(
        name=DET,
        task="det",
        form="training",
        backbone=Component("PPLCNetV3", {"scale": 0.75, "det": True}),
        neck=Component("RSEFPN", {"out_channels": 96, "shortcut": True}),
        head=Component("DBHead", {"k": 50, "fix_nan": True}),
        preprocess=DetPreprocess(),
        postprocess=DBPostprocess(),
    ),
    CLS: classifier_config(CLS),
}
# Layers of each in evaluation, and those that only training runs; all must be compared.
EVALUATED = {REC: 631, OWN: 632, DET: 618, CLS: 158}
TRAINED = {REC: 89, OWN: 49, DET: 6, CLS: 0}
TRAINING_SHAPES = {REC: (2, 3, 48, 101), OWN: (2, 3, 48, 59), DET: (2, 3, 96, 64), CLS: (3, 3, 41, 67)}

each_network = pytest.mark.parametrize("name", CONFIGS)
each_recogniser = pytest.mark.parametrize("name", [REC, OWN])


@dataclass(frozen=True)
class Trained:
    """The second golden of a network: tensors by name, and (path, shape, largest value) of the layers."""

    weights: str
    layers: tuple[tuple[str, tuple[int, ...], float], ...]
    tensors: Mapping[str, np.ndarray]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors under a prefix, without it."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


@cache
def golden(name: str) -> Golden:
    return load_golden(GOLDENS / f"{name}.eval.safetensors")


@cache
def trained(name: str) -> Trained:
    with safe_open(GOLDENS / f"{name}.train.safetensors", framework="np") as file:
        header = json.loads(file.metadata()["golden"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is not a mapping
    layers = tuple((path, tuple(shape), largest) for path, shape, largest in header["layers"])
    return Trained(header["weights"], layers, tensors)


@cache
def network(name: str) -> Network:
    """The network in evaluation: weights of the recipe, statistics of the golden, positions of its own."""
    model = build_model(CONFIGS[name]).eval()
    table = tuple(row for row in layout_table(model) if not row.torch_key.endswith(".pe"))
    stored, state = trained(name).under("statistics:"), model.state_dict()
    tensors = {}
    for row in table:
        shape = tuple(state[row.torch_key].shape)
        shape = shape[::-1] if row.op == "transpose" else shape
        tensors[row.paddle_key] = stored.pop(row.paddle_key, None)
        if tensors[row.paddle_key] is None:
            tensors[row.paddle_key] = recipe.tensor(row.paddle_key, shape)
    assert not stored
    check_table(table, {key: values.shape for key, values in tensors.items()}, model, name)
    model.load_state_dict(state | to_torch(table, tensors))
    return model


@cache
def fused(name: str) -> Network:
    return fuse(network(name))


@cache
def decoded(name: str, batch: str) -> tuple[Tensor, Tensor]:
    x = images("decoding", 6, 3, 48, 200)
    return network(name).decode_nrtr(x if batch == "together" else x[-1:])


def images(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(recipe.image(name, shape))


def evaluation_errors(model: Network, name: str) -> dict[str, float]:
    """How far each layer and the output are from Paddle's, relative to Paddle's largest value."""
    result = verify_golden(model, golden(name))
    errors = {layer.path: layer.accumulated.relative for layer in result.layers if layer.accumulated is not None}
    return errors | {OUTPUT: result.output.relative}


def training_errors(model: Network, name: str) -> dict[str, float]:
    """The same of one forward pass in training: results, layers that evaluation does not run, moved statistics."""
    expected, model = trained(name), copy.deepcopy(model).train()
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # A decoder layer returns its keys and values as well.
            outputs[f"{path}#2" if path in outputs else path] = output[0] if isinstance(output, tuple) else output

        return hook

    for path, module in model.named_modules():
        module.register_forward_hook(keep(path))
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    targets = {
        key: torch.from_numpy(expected.tensors[key]) for key in ("label_gtc", "length") if "gtc" in expected.tensors
    }
    with torch.no_grad():
        result = model(images("training", *TRAINING_SHAPES[name]), targets or None)

    errors = {}
    for key, output in result.items() if isinstance(result, dict) else [("logits", result)]:
        values = expected.tensors[key]
        errors[key] = compare(sample(output.numpy(), values.size), values.reshape(-1)).relative
    for path, shape, largest in expected.layers:
        # The attentions run in parts here, and Paddle adds positions to (L, N, nrtr_dim): the layers around show both.
        if path.endswith(("self_attn", "cross_attn", "positional_encoding.dropout")):
            continue
        assert outputs[path].shape == shape, path
        values = expected.tensors[f"layer:{path}"]
        errors[f"layer:{path}"] = compare(sample(outputs[path].numpy(), values.size), values, largest).relative
    state, rows = model.state_dict(), {row.paddle_key: row.torch_key for row in layout_table(model)}
    for path, values in expected.under("moved:").items():
        found = sample(state[rows[path]].numpy(), values.size)
        errors[f"moved:{path}"] = compare(found, values).relative
    return errors


def beyond(errors: Mapping[str, float], tolerance: float) -> dict[str, float]:
    """The errors that are larger, or no number."""
    return {path: error for path, error in errors.items() if not error <= tolerance}


@each_network
def test_weights_are_those_of_the_goldens(name: str) -> None:
    model = network(name)
    table = tuple(row for row in layout_table(model) if not row.torch_key.endswith(".pe"))
    digest = recipe.digest(to_paddle(table, model.state_dict()))
    assert digest == golden(name).weights["recipe"] == trained(name).weights
    assert np.array_equal(golden(name).input, recipe.image("evaluation", golden(name).input.shape))


@each_network
def test_every_layer_equals_paddles(name: str) -> None:
    errors = evaluation_errors(network(name), name)
    assert len(errors) == EVALUATED[name] + 1
    assert beyond(errors, LAYER) == {}
    assert errors[OUTPUT] * golden(name).largest[OUTPUT] <= RESULT


@each_recogniser
def test_best_classes_equal_paddles(name: str) -> None:
    with torch.inference_mode():
        scores, ids = network(name)(torch.from_numpy(golden(name).input)).max(-1)
    assert np.array_equal(ids.numpy(), golden(name).ids)
    assert np.abs(scores.numpy() - golden(name).scores).max() <= RESULT
    assert len(set(ids.flatten().tolist())) >= 5  # else equality would show little


@each_network
def test_training_equals_paddles(name: str) -> None:
    """Logits or maps, the layers that evaluation does not run, and the statistics that one step leaves behind."""
    model = network(name)
    errors = training_errors(model, name)
    assert {key for key in errors if ":" not in key} == {DET: {"maps"}, CLS: {"logits"}}.get(name, {"ctc", "gtc"})
    assert len([path for path in errors if path.startswith("layer:")]) == TRAINED[name]
    moved = {path: error for path, error in errors.items() if path.startswith("moved:")}
    assert len(moved) == 2 * sum(isinstance(module, BatchNorm2d) for module in model.modules())
    assert beyond(moved, RESULT) == {}
    # A sample of the maps holds binary ones: k = 50 makes them up to 12.5 times as steep as what they come from.
    assert errors.pop("maps", 0.0) <= 12.5 * LAYER
    assert beyond(errors, LAYER) == {}


@each_network
def test_fused_form_equals_paddles_output(name: str) -> None:
    with torch.inference_mode():
        output = fused(name)(torch.from_numpy(golden(name).input))
    output = output["maps"] if isinstance(output, dict) else output
    expected = golden(name).layers[OUTPUT]
    assert compare(sample(output.numpy(), expected.size), expected).absolute <= RESULT


@each_recogniser
@pytest.mark.parametrize("batch", ["together", "alone"])
def test_nrtr_reads_what_paddle_reads(name: str, batch: str) -> None:
    """Paddle goes on after a row's end, until all rows end at once, and leaves that last column out; we stop."""
    expected = trained(name).tensors[f"decoded:{batch}"]
    probabilities = trained(name).tensors[f"decoded:{batch}.probabilities"]
    found, scores = decoded(name, batch)
    assert (expected[:, 0] == START).all()
    for row, (symbols, ours) in enumerate(zip(expected[:, 1:].tolist(), found.tolist(), strict=True)):
        end = symbols.index(END) + 1 if END in symbols else len(symbols)
        assert ours[:end] == symbols[:end]
        assert np.abs(scores[row, :end].numpy() - probabilities[row, 1 : end + 1]).max() <= RESULT
        if len(symbols) < MOST_SYMBOLS and END not in symbols:
            assert ours[end] == END  # of the column that Paddle leaves out
            end += 1
        assert not any(ours[end:])


def test_nrtr_texts_differ_and_end() -> None:
    """What the test above needs to show something."""
    texts = {name: [tuple(row) for row in decoded(name, "together")[0].tolist()] for name in (REC, OWN)}
    assert len(set(texts[REC])) == 6
    assert len({symbol for text in texts[REC] for symbol in text}) > 10
    assert {text.index(END) if END in text else None for text in texts[OWN]} >= {None, 5, 6, 7}


@each_recogniser
def test_other_sizes_give_paddles_output(name: str) -> None:
    """Narrow, low and high images: maps smaller than the kernel of the last pooling, and rows that it leaves out."""
    sizes = trained(name).under("size:")
    assert len(sizes) == 5
    for size, expected in sizes.items():
        height, width = map(int, size.split("x"))
        x = images("size", 1, 3, height, width)
        with torch.inference_mode():
            assert compare(network(name)(x).numpy(), expected).absolute <= RESULT, size
            assert compare(fused(name)(x).numpy(), expected).absolute <= RESULT, size


def test_shape_for_every_size_of_image() -> None:
    table = json.loads((GOLDENS / "shapes.json").read_text(encoding="utf-8"))
    model, found = fused(REC), []
    with torch.inference_mode():
        for (batch, height, width), _ in table:
            try:
                shape: list[int] | str = list(model(torch.zeros(batch, 3, height, width)).shape)
            except ValueError:
                shape = "error"
            found.append([[batch, height, width], shape])
    assert found == table
    assert [[1, 96, 960], "error"] in table


def epsilon(norms: str, value: float) -> Callable[[Network], None]:
    def change(model: Network) -> None:
        changed = [module for path, module in model.named_modules() if re.search(norms, path)]
        assert changed
        for module in changed:
            module.eps = value

    return change


def transposed(path: str) -> Callable[[Network], None]:
    def change(model: Network) -> None:
        weight = model.get_parameter(path)
        assert weight.shape[0] == weight.shape[1]
        weight.data = weight.data.T.contiguous()

    return change


def torch_batch_norm(model: Network) -> None:
    for module in model.modules():
        if type(module) is BatchNorm2d:
            module.__class__ = nn.BatchNorm2d


def padding_row_read(model: Network) -> None:
    model.head.gtc_head.embedding.embedding.padding_idx = None


def other_gate(model: Network) -> None:
    model.backbone.blocks6[0].se.hardsigmoid = Hardsigmoid(slope=0.2)


@pytest.mark.parametrize(
    ("errors", "mistake"),
    [
        pytest.param(evaluation_errors, epsilon(r"svtr_block\.\d\.norm\d$", 1e-6), id="epsilon of the neck's blocks"),
        pytest.param(evaluation_errors, epsilon(r"encoder\.norm$", 1e-5), id="epsilon of the neck's last norm"),
        pytest.param(evaluation_errors, epsilon(r"\.bn$", 1e-6), id="epsilon of batch norms"),
        pytest.param(
            evaluation_errors,
            transposed("head.ctc_encoder.encoder.svtr_block.0.mixer.proj.weight"),
            id="square matrix of the neck",
        ),
        pytest.param(evaluation_errors, other_gate, id="slope of the gate"),
        pytest.param(training_errors, epsilon(r"decoder\.\d\.norm\d$", 1e-6), id="epsilon of the decoder"),
        pytest.param(
            training_errors,
            transposed("head.gtc_head.decoder.1.self_attn.out_proj.weight"),
            id="square matrix of the decoder",
        ),
        pytest.param(training_errors, padding_row_read, id="padding has its row"),
        pytest.param(training_errors, torch_batch_norm, id="unbiased variance"),
    ],
)
def test_a_mistake_shows(
    errors: Callable[[Network, str], dict[str, float]], mistake: Callable[[Network], None]
) -> None:
    """Mistakes that keep every name and shape; most are some published port's."""
    model = copy.deepcopy(network(OWN))
    mistake(model)
    assert max(errors(model, OWN).values()) > 10 * LAYER
