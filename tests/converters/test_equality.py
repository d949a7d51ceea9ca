"""A program with the layers of a known network is that network only if it computes the same between them.

Official programs with one attribute changed: each is converted with the options that the change means, or refused at
the place where it differs. Values are held to Paddle's in `test_parity.py` and `test_programs.py`.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens.family import architecture
from material import GOLDENS
from small_models import small_config

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import Converted, convert_export, convert_onnx
from paddle2torch.converters.elements import AT_MOST, Budget, broadcast, product
from paddle2torch.converters.paddle_files.pdiparams import write_parameters
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ClsPreprocess, Component, RecPreprocess
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.programs.table import ProgramError

REC = "PP-OCRv6_tiny_rec.fused"
ATTENTION = "PP-OCRv6_small_rec.fused"
DET = "PP-OCRv6_tiny_det.fused"
CLS = "PP-LCNet_x1_0_textline_ori"
CHARACTERS = Charset(tuple(map(chr, range(0x4E00, 0x4E00 + 23))), False, "a test")
Change = tuple[str, int, str, Any]
"""Kind, which one of its kind, attribute, new value."""


@cache
def document(name: str) -> str:
    stored = json.loads(gzip.decompress((GOLDENS / "family" / f"{name}.program.json.gz").read_bytes()))
    return json.dumps(stored["program"])


@cache
def weights(name: str, folder: Path) -> bytes:
    """A `.pdiparams` of numbers that let an image through all layers."""
    file = folder / f"{name}.json"
    file.write_text(document(name), encoding="utf-8")
    program = read_pir(file)
    numbers = np.random.default_rng(0)
    tensors = {}
    for parameter in program.parameters:
        shape = program.values[parameter].shape
        drawn = numbers.standard_normal(shape) * 1.5 / math.sqrt(max(1, math.prod(shape[1:])))
        tensors[parameter] = (drawn if len(shape) > 1 else numbers.random(shape) + 0.5).astype(np.float32)
    with (folder / f"{name}.pdiparams").open("wb") as stream:
        write_parameters(stream, program, tensors)
    return (folder / f"{name}.pdiparams").read_bytes()


def changed(document: dict[str, Any], change: Change) -> None:
    """Change an attribute of an operation, or the constant that is one."""
    kind, place, name, value = change
    operations = document["program"]["regions"][0]["blocks"][0]["ops"]
    found = [operation for operation in operations if operation["#"] in (f"1.{kind}", f"1.{kind}_")][place]
    attributes = {attribute["N"]: attribute["AT"] for attribute in found["A"]}
    if name not in attributes:
        makers = {result["%"]: operation for operation in operations for result in _results(operation)}
        constant = makers[found["I"][-1]["%"]]
        attributes = {name: next(item["AT"] for item in constant["A"] if item["N"] == "value")}
    held = attributes[name]["D"]
    if not isinstance(held, list):
        attributes[name]["D"] = value
    elif not isinstance(value, tuple):
        held[-1] = value  # a number behind its type
    else:
        for leaf, number in zip(range(len(held)), value, strict=True):
            held[leaf] = {**held[leaf], "D": number} if isinstance(held[leaf], dict) else number


def _results(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return operation["O"] if isinstance(operation["O"], list) else [operation["O"]]


def convert(name: str, folder: Path, *changes: Change) -> Converted:
    export = folder / "export"
    export.mkdir(exist_ok=True)
    (export / "inference.pdiparams").write_bytes(weights(name, folder))
    program = json.loads(document(name))
    for change in changes:
        changed(program, change)
    (export / "inference.json").write_text(json.dumps(program), encoding="utf-8")
    card = name.removesuffix(".fused")
    known = from_paddleocr(architecture(card), load_card(card).task, card)
    template = Template("own", "a test", architecture=known, charset=CHARACTERS if name in (REC, ATTENTION) else None)
    return convert_export(export, template, name="own")


REFUSED: tuple[tuple[str, str, Change], ...] = (
    (REC, "pool2d", ("pool2d", 0, "pooling_type", "max")),
    (REC, "pool2d", ("pool2d", 0, "strides", (3, 1))),
    (REC, "mean", ("mean", 0, "axis", (2, 2))),
    (REC, "strides", ("depthwise_conv2d", 2, "strides", (1, 2))),
    (REC, "softmax", ("softmax", 0, "axis", 1)),
    (CLS, "is_test", ("dropout", 0, "is_test", False)),
    (ATTENTION, "reshape", ("reshape", -3, "shape", (0, -1, 3, 4, 30))),
    (ATTENTION, "scale", ("scale", 1, "scale", 0.26)),
    (ATTENTION, "scale", ("scale", 0, "bias", 0.1)),
    (ATTENTION, "pool2d", ("pool2d", 0, "padding_algorithm", "VALID")),
    (DET, "nearest_interp", ("nearest_interp", 0, "scale", (2.0, 1.0))),
    (DET, "concat", ("concat", 0, "axis", 2)),
    (DET, "pool2d", ("pool2d", 4, "pooling_type", "max")),
    (CLS, "pool2d", ("pool2d", 0, "pooling_type", "max")),
)


@pytest.mark.parametrize(("name", "said", "change"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_program_that_computes_something_else_is_refused(
    tmp_path: Path, name: str, said: str, change: Change
) -> None:
    with pytest.raises(ConversionError, match=said):
        convert(name, tmp_path, change)


@pytest.mark.parametrize("flag", [("trainable_statistics", True), ("is_test", False)])
def test_a_normalisation_by_the_statistics_of_its_input_is_refused(tmp_path: Path, flag: tuple[str, bool]) -> None:
    with pytest.raises(ConversionError, match=r"training mode|something else"):
        convert(REC, tmp_path, ("batch_norm", 0, "use_global_stats", False), ("batch_norm", 0, *flag))


def test_heads_of_attention_are_those_of_the_program(tmp_path: Path) -> None:
    converted = convert(
        ATTENTION,
        tmp_path,
        *[("reshape", place, "shape", (0, -1, 3, 4, 30)) for place in (-5, -3)],
        *[("scale", place, "scale", 30**-0.5) for place in (0, 1)],
    )
    assert converted.config.head.options["ctc"]["num_heads"] == 4
    assert "num_heads" not in convert(ATTENTION, tmp_path).config.head.options["ctc"]


def test_strides_and_dropout_of_a_classifier_are_those_of_the_program(tmp_path: Path) -> None:
    converted = convert(
        CLS, tmp_path, ("depthwise_conv2d", 1, "strides", (2, 2)), ("dropout", 0, "p", 0.30000001192092896)
    )
    assert converted.config.backbone.options["stride_list"] == [2, 2, [2, 1], [2, 1], [2, 1]]
    assert converted.config.head.options["dropout_prob"] == 0.3


def test_images_have_the_height_that_the_program_is_made_for(tmp_path: Path) -> None:
    converted = convert(CLS, tmp_path)
    assert isinstance(converted.config.preprocess, ClsPreprocess)
    assert converted.config.preprocess.image_shape == (3, 80, 192)
    assert "images are 80 x 192 pixels, as the program says; the settings had 48 x 192" in converted.notes


def test_a_program_that_returns_logits_is_converted_and_said_to_be_one(tmp_path: Path) -> None:
    assert any("returns its last layer's values" in note for note in convert(CLS, tmp_path).notes)


POOLS: Mapping[str, Mapping[str, Any]] = {
    "an average of two rows and three columns": {"last_pool_type": "avg", "last_pool_kernel_size": [2, 3]},
    "a maximum": {"last_pool_type": "max", "last_conv_stride": [1, 2]},
}


@pytest.mark.parametrize("said", POOLS)
def test_the_last_pooling_of_mobilenetv1_is_that_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    onnx_writer = pytest.importorskip("onnx") and __import__("onnx_writer")
    svtr = {"dims": 32, "depth": 1, "hidden_dims": 48, "num_heads": 4, "kernel_size": [3, 3], "use_guide": True}
    preprocess = RecPreprocess((3, 32, 320))
    config = replace(
        small_config(),
        preprocess=preprocess,
        backbone=Component("MobileNetV1Enhance", {"scale": 0.25, **POOLS[said]}),
        head=Component("MultiHead", {"classes": 8, "ctc": svtr, "nrtr": None}),
    )
    size = (1, 3, preprocess.image_shape[1], 64)
    monkeypatch.setitem(onnx_writer.CONFIGS, said, config)
    monkeypatch.setitem(onnx_writer.SHAPES, said, size)
    file = onnx_writer.write(tmp_path / "a.onnx", said)
    converted = convert_onnx(file, Template("own", "a test", charset=Charset(tuple("abcdefg"), False, "")), name="own")
    found = converted.config.backbone.options
    assert (found["last_pool_type"], found.get("last_pool_kernel_size"), found.get("last_conv_stride", 1)) == (
        POOLS[said]["last_pool_type"],
        POOLS[said].get("last_pool_kernel_size"),
        POOLS[said].get("last_conv_stride", 1),
    )
    assert converted.config.head.options["ctc"]["num_heads"] == 4
    assert isinstance(converted.config.preprocess, RecPreprocess)
    assert converted.config.preprocess.image_shape[1] == size[2]


def test_no_program_makes_more_values_than_a_network_would() -> None:
    budget = Budget()
    budget.take(AT_MOST, "this")
    with pytest.raises(ProgramError, match="this makes more values"):
        budget.take(AT_MOST + 1, "this")
    many = Budget()
    for _ in range(32):
        many.take(AT_MOST, "this")
    with pytest.raises(ProgramError, match="more values"):
        many.take(1, "this")
    for a, b in (((2, 3, 4, 5), (3, 1, 1)), ((1, 7), (6, 1)), ((), (4,))):
        assert broadcast(a, b) == (torch.empty(a) + torch.empty(b)).numel()
    for a, b in (((2, 3, 4), (4, 5)), ((7, 2, 3, 4), (7, 2, 4, 6)), ((3,), (3, 9))):
        assert product(a, b) >= (torch.empty(a) @ torch.empty(b)).numel()
