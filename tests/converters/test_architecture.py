"""A network is told by its tensors: every official architecture, with what is known of it and without."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import fill, write_pdparams

from paddle2torch.converters.architecture import Architecture, from_paddleocr, infer, network_keys
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_checkpoint
from paddle2torch.converters.layout import layout_table, lstm_key, to_paddle
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.cards import Card, list_cards, load_card
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
    Task,
)
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.registry import parts

Shapes = dict[str, tuple[int, ...]]


@cache
def distinct() -> dict[str, Card]:
    """The first card of each network that can be built."""
    found: dict[str, Card] = {}
    for card in list_cards():
        name = card.architecture["Backbone"]["name"] if card.architecture else None
        if name == "ResNet" or name in parts("backbone"):
            found.setdefault(json.dumps([card.task, card.architecture]), card)
    return {card.name: card for card in found.values()}


def hint_of(card: Card) -> Architecture:
    assert card.architecture is not None
    return from_paddleocr(card.architecture, card.task, card.name)


def network(task: Task, architecture: Architecture, *, device: str = "meta") -> Network:
    settings = {
        "rec": (RecPreprocess(), CTCDecode()),
        "det": (DetPreprocess(), DBPostprocess()),
        "cls": (ClsPreprocess(), ClsPostprocess()),
    }[task]
    classes = architecture.head.options.get("classes", 0)
    charset = tuple(chr(0x4E00 + i) for i in range(classes - 1)) if task == "rec" else None
    parts = (architecture.backbone, architecture.neck, architecture.head)
    with torch.device(device):
        return build_model(ModelConfig("test", task, "training", *parts, *settings, charset))  # type: ignore[arg-type]


def with_classes(architecture: Architecture, task: Task, classes: int) -> Architecture:
    head = architecture.head
    return (
        replace(architecture, head=replace(head, options=head.options | {"classes": classes}))
        if task == "rec"
        else architecture
    )


def shapes_of(model: Network) -> Shapes:
    """The tensors of the checkpoint and their shapes in Paddle."""
    state = model.state_dict()
    found = {}
    for row in layout_table(model):
        shape = tuple(state[row.torch_key].shape)
        found[row.paddle_key] = shape[::-1] if row.op == "transpose" else shape
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", distinct())
def test_every_official_network_is_told_by_its_tensors(name: str) -> None:
    card = distinct()[name]
    hint = hint_of(card)
    expected = with_classes(hint, card.task, 41)
    shapes = shapes_of(network(card.task, expected))
    found, notes = infer(shapes, hint, "a test")
    assert notes == ()
    assert (found.backbone.name, found.neck and found.neck.name, found.head.name) == (
        expected.backbone.name,
        expected.neck and expected.neck.name,
        expected.head.name,
    )
    assert found.backbone.options == expected.backbone.options
    assert shapes_of(network(card.task, found)) == shapes
    # Without a hint, the official values are taken for what leaves no trace: strides above all.
    alone, notes = infer(shapes, None, "a test")
    assert notes == ()
    assert alone.backbone == found.backbone
    assert alone.neck == found.neck
    assert shapes_of(network(card.task, alone)) == shapes


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"Neck": {"name": "LKPAN", "out_channels": 256, "mode": "lite"}}, "LKPAN's mode 'lite' is not supported"),
        ({"Head": {"name": "MultiHead", "head_list": [{"ABIHead": {}}]}}, "ABIHead is not supported"),
    ],
)
def test_what_no_network_here_has_is_refused(section: dict[str, Any], message: str) -> None:
    architecture = {"Backbone": {"name": "PPHGNet_small"}, "Head": {"name": "DBHead"}, **section}
    with pytest.raises(ConfigError, match=message):
        from_paddleocr(architecture, "det", "a test")


def test_paddles_two_classes_of_one_name_are_told_by_the_task() -> None:
    section = {"Backbone": {"name": "ResNet", "layers": 34, "disable_se": True}, "Head": {"name": "CTCHead"}}
    rec, det = (from_paddleocr(section, task, "a test").backbone for task in ("rec", "det"))
    assert rec == Component("ResNet_vd", {"layers": 34})
    assert det == Component("ResNet_vd", {"layers": 34, "det": True})


def test_a_single_head_takes_the_multi_heads_neck_and_trains_the_backbone() -> None:
    """Older files of v3 have the same tensors under `neck.encoder` and `head`."""
    hint = with_classes(hint_of(load_card("ch_PP-OCRv3_rec")), "rec", 41)
    shapes = {
        key.replace("head.ctc_encoder.", "neck.").replace("head.ctc_head.", "head."): shape
        for key, shape in shapes_of(network("rec", hint)).items()
        if not key.startswith("head.sar_head.")
    }
    found, notes = infer(shapes, hint, "a test")
    assert notes == ("the checkpoint has a CTC head alone, in the layout of older releases",)
    assert found.head == Component("CTCHead", {"classes": 41})
    assert found.neck is not None
    assert found.neck.options["svtr"]["use_guide"] is False
    assert shapes_of(network("rec", found)) == shapes
    assert infer(shapes, None, "a test")[0] == found


def test_a_missing_second_head_is_said() -> None:
    hint = with_classes(hint_of(load_card("ch_PP-OCRv3_rec")), "rec", 41)
    shapes = {k: s for k, s in shapes_of(network("rec", hint)).items() if not k.startswith("head.sar_head.")}
    found, notes = infer(shapes, hint, "a test")
    assert notes == ("the checkpoint has no SAR head",)
    assert "sar" not in found.head.options


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ch_PP-OCRv3_rec", {"head.sar_head.decoder.embedding.weight": (42, 512)}, "its SAR head has 42 symbols"),
        ("ch_ppocr_server_v2.0_det", {"backbone.bb_3_2.conv0._conv.weight": (1,)}, "those of no ResNet_vd"),
        ("PP-LCNet_x1_0_doc_ori", {"backbone.conv1.conv.weight": (24, 3, 3, 3)}, "those of no PPLCNet"),
        ("ch_PP-OCRv4_server_det", {"neck.ins_conv.0.weight": None}, "with an unknown neck and PFHead"),
    ],
)
def test_tensors_of_no_official_network(name: str, change: Mapping[str, tuple[int, ...] | None], message: str) -> None:
    card = load_card(name)
    shapes = shapes_of(network(card.task, with_classes(hint_of(card), card.task, 41)))
    changed = {key: shape for key, shape in {**shapes, **change}.items() if shape is not None}
    with pytest.raises(ConversionError, match=message):
        infer(changed, None, "a test")


def test_paddleclas_tells_no_backbone_from_a_head() -> None:
    keys = ["conv1.conv.weight", "blocks2.0.dw_conv.conv.weight", "last_conv.weight", "fc.bias"]
    assert network_keys(keys) == {
        "backbone.conv1.conv.weight": "conv1.conv.weight",
        "backbone.blocks2.0.dw_conv.conv.weight": "blocks2.0.dw_conv.conv.weight",
        "head.last_conv.weight": "last_conv.weight",
        "head.fc.bias": "fc.bias",
    }
    assert network_keys(["backbone.conv1.weight"]) == {"backbone.conv1.weight": "backbone.conv1.weight"}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("neck.encoder.lstm.0.cell_fw.weight_ih", "neck.encoder.lstm.weight_ih_l0"),
        ("neck.encoder.lstm.1.cell_bw.bias_hh", "neck.encoder.lstm.bias_hh_l1_reverse"),
        ("head.sar_head.decoder.rnn_decoder.1.cell.weight_hh", "head.sar_head.decoder.rnn_decoder.weight_hh_l1"),
        ("neck.encoder.lstm.weight_ih_l0", None),
        ("head.fc.weight", None),
    ],
)
def test_an_lstms_tensors_have_two_names(key: str, expected: str | None) -> None:
    assert lstm_key(key) == expected


def crnn() -> dict[str, np.ndarray]:
    """A small recogniser's tensors, those of its LSTM under the names of its cells as well."""
    backbone = Component("MobileNetV3", {"scale": 0.35, "model_name": "small", "small_stride": [1, 2, 2, 2]})
    neck = Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": 6})
    model = network("rec", Architecture(backbone, neck, Component("CTCHead", {"classes": 8})), device="cpu")
    fill(model)
    tensors = to_paddle(layout_table(model), model.state_dict())
    for layer in (0, 1):
        for direction, suffix in (("fw", ""), ("bw", "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                cell = f"neck.encoder.lstm.{layer}.cell_{direction}.{name}"
                tensors[cell] = tensors[f"neck.encoder.lstm.{name}_l{layer}{suffix}"]
    return tensors


LETTERS = Template("own", "a test", charset=Charset(tuple("abcdefg"), False, "letters"))


def test_an_lstm_comes_whole_under_either_name(tmp_path: Path) -> None:
    tensors = crnn()
    both = convert_checkpoint(write_pdparams(tmp_path / "both.pdparams", tensors), LETTERS, name="own")
    assert both.notes == ("left out second names of 16 tensors of LSTMs, which have the same values",)
    assert both.config.backbone.options["small_stride"] == [1, 2, 2, 2]
    cells = {key: value for key, value in tensors.items() if not (".lstm." in key and ".cell" not in key)}
    assert len(cells) == len(tensors) - 16
    only = convert_checkpoint(write_pdparams(tmp_path / "cells.pdparams", cells), LETTERS, name="own")
    assert only.notes == ()
    assert only.state.keys() == both.state.keys()
    assert all(torch.equal(only.state[key], value) for key, value in both.state.items())


def test_two_names_of_an_lstms_tensor_must_agree(tmp_path: Path) -> None:
    tensors = crnn()
    tensors["neck.encoder.lstm.1.cell_bw.bias_ih"] = tensors["neck.encoder.lstm.1.cell_bw.bias_ih"] + 1
    with pytest.raises(ConversionError, match=r"1\.cell_bw\.bias_ih and .*bias_ih_l1_reverse are one tensor"):
        convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")


def test_a_classifier_of_paddleclas_converts(tmp_path: Path) -> None:
    card = load_card("PP-LCNet_x0_25_textline_ori")
    model = network("cls", hint_of(card), device="cpu").eval()
    fill(model)
    tensors = to_paddle(layout_table(model), model.state_dict())
    names = {key.removeprefix("backbone.").removeprefix("head."): value for key, value in tensors.items()}
    assert len(names) == len(tensors)
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", names), name="own")
    assert converted.config.backbone.options == hint_of(card).backbone.options
    assert all(torch.equal(converted.state[key], value) for key, value in model.state_dict().items())
