"""Networks of PaddleOCR's training settings without a release: what their tensors tell, with their yml and without."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from goldens.family import template
from goldens.ymls import SECTIONS
from small_models import fill, write_pdparams

from paddle2torch.converters.architecture import Architecture, from_paddleocr, infer
from paddle2torch.converters.convert import convert_checkpoint
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.templates import from_yml
from paddle2torch.converters.unnamed import HEADS, SIGNATURES
from paddle2torch.model_zoo.config import Component, DetPreprocess, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.svtrnet import SVTRNet
from paddle2torch.model_zoo.tps import TPS, STNOn

Shapes = dict[str, tuple[int, ...]]
# SVTRNet's image size and windows leave no trace, a bare CTC head looks like a classifier's.
TOLD_BY_TENSORS = (
    "rec_mv3_tps_bilstm_ctc",
    "rec_r18_vd_tps_none_ctc",
    "det_repsvtr_db",
    "det_r50_db_plus_plus",
    "det_r18_db",
    "ch_PP-OCRv3_rotnet",
)


@cache
def network(name: str) -> tuple[Shapes, Architecture]:
    """Sizes of a checkpoint's tensors, and what the network is built of."""
    config = template(name).config()
    with torch.device("meta"):
        model = build_model(config)
    state = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {
        row.paddle_key: state[row.torch_key][::-1] if row.op == "transpose" else state[row.torch_key]
        for row in layout_table(model)
    }
    return shapes, Architecture(config.backbone, config.neck, config.head, config.transform)


def built(architecture: Architecture, name: str) -> Shapes:
    config = template(name).config()
    with torch.device("meta"):
        model = build_model(
            type(config)(
                **{
                    **vars(config),
                    "backbone": architecture.backbone,
                    "neck": architecture.neck,
                    "head": architecture.head,
                    "transform": architecture.transform,
                }
            )
        )
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", SECTIONS)
def test_tensors_and_settings_agree(name: str) -> None:
    shapes, architecture = network(name)
    found, notes = infer(shapes, architecture, "a test")
    assert notes == ()
    assert built(found, name) == built(architecture, name)
    # What leaves no trace is the settings'.
    for part, known in zip(found.parts, architecture.parts, strict=True):
        for key in ("img_size", "local_mixer", "tps_outputsize", "loc_lr", "last_conv_stride", "use_pool"):
            if known is not None and key in known.options:
                assert part is not None
                assert part.options[key] == known.options[key]


@pytest.mark.parametrize("name", TOLD_BY_TENSORS)
def test_tensors_tell_it_without_settings(name: str) -> None:
    shapes, architecture = network(name)
    found, _ = infer(shapes, None, "a test")
    assert [part and part.name for part in found.parts] == [part and part.name for part in architecture.parts]
    assert built(found, name) == built(architecture, name)


def test_what_leaves_no_trace_is_asked_for() -> None:
    with pytest.raises(ConversionError, match=r"which of its blocks see a window alone, leave no trace.+\(--config\)"):
        infer(network("ch_PP-OCRv4_rec_svtr_large")[0], None, "a test")
    shapes, architecture = network("rec_svtrnet_ch")
    wrong = Component("SVTRNet", {**architecture.backbone.options, "img_size": [32, 320]})
    with pytest.raises(ConversionError, match="it has 320 positions, images of 32x320 make another number"):
        infer(shapes, Architecture(wrong, architecture.neck, architecture.head), "a test")


@pytest.mark.parametrize("name", ["rec_svtrnet_pool", "ch_PP-OCRv4_rec_svtr_large", "rec_mv3_tps_bilstm_ctc"])
def test_a_checkpoint_comes_and_goes_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = build_model(template(name).config()).eval()
    fill(model)
    tensors = to_paddle(layout_table(model), model.state_dict())
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), template(name), name="own")
    again = build_model(converted.config)
    again.load_state_dict(dict(converted.state))
    back = to_paddle(layout_table(again), again.state_dict())
    assert list(back) == list(tensors)
    assert all(np.array_equal(back[key], tensors[key]) for key in tensors)
    assert ("backbone.pos_embed" in back) == name.startswith(("rec_svtrnet", "ch_"))


def written(folder: Path, task: str, section: dict[str, Any], resize: dict[str, Any]) -> Path:
    transforms = [{"DecodeImage": {"img_mode": "BGR"}}, resize]
    data = {
        "Global": {"model_name": "own", "character_dict_path": "abc.txt", "use_space_char": False},
        "Architecture": {"model_type": task, **section},
        "Eval": {"dataset": {"transforms": transforms}},
    }
    (folder / "abc.txt").write_text("a\nb\nc\n")
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize(
    ("name", "resize", "expected"),
    [
        (
            "rec_svtrnet",
            {"SVTRRecResizeImg": {"image_shape": [3, 64, 256], "padding": False}},
            RecPreprocess((3, 64, 256), max_width=256, keep_ratio=False),
        ),
        (
            "rec_svtrnet_ch",
            {"SVTRRecResizeImg": {"image_shape": [3, 32, 160]}},
            RecPreprocess((3, 32, 160), max_width=160),
        ),
        (
            "rec_mv3_tps_bilstm_ctc",
            {"RecResizeImg": {"image_shape": [3, 32, 100]}},
            RecPreprocess((3, 32, 100), max_width=100),
        ),
        ("rec_mv3_none_none_ctc", {"SVTRRecResizeImg": {"image_shape": [3, 32, 100]}}, RecPreprocess((3, 32, 100))),
    ],
)
def test_lines_of_one_size(name: str, resize: dict[str, Any], expected: RecPreprocess, tmp_path: Path) -> None:
    found = from_yml(written(tmp_path, "rec", dict(SECTIONS[name]), resize))
    assert found.preprocess == expected
    build_model(found.config())  # whose sizes fit each other


def test_a_network_of_one_size_is_given_no_other(tmp_path: Path) -> None:
    resize = {"RecResizeImg": {"image_shape": [3, 48, 320]}}
    config = from_yml(written(tmp_path, "rec", dict(SECTIONS["rec_svtrnet_ch"]), resize)).config()
    with pytest.raises(ConfigError, match=r"SVTRNet takes images of \[32, 160\] alone, preprocess.+\[48, 320\]"):
        build_model(config)
    with pytest.raises(ConfigError, match="keep_ratio is False, which stretches lines to one width"):
        RecPreprocess((3, 48, 320), keep_ratio=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": (3, 6)}, "have 3 entries each"),
        ({"mixer": ("Local",) * 11}, "11 entries for the 12 blocks"),
        ({"img_size": (40, 100)}, "makes 10 rows, which cannot halve twice"),
        ({"local_mixer": ((4, 5),) * 3, "mixer": ("Conv",) * 12}, "take odd numbers"),
        ({"act": "os.system"}, "act is 'os.system'"),
        ({"sub_num": 4}, "sub_num is 4"),
        ({"last_stage": False}, "out_channels has to be too"),
        ({"num_heads": (3, 4, 8)}, "cannot be shared out"),
    ],
)
def test_options_of_svtrnet_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        SVTRNet(**change)


def test_options_of_transforms_that_do_not_fit() -> None:
    for options in ({"model_name": "huge"}, {"num_fiducial": 5}):
        with torch.device("meta"), pytest.raises(ConfigError):
            TPS(**options)
    for changed in ({"stn_activation": "tanh"}, {"tps_margins": (0.5, 0.1)}, {"tps_inputsize": (16, 64)}):
        with torch.device("meta"), pytest.raises(ConfigError):
            STNOn(**changed)


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in SIGNATURES])
def test_a_checkpoint_of_a_network_without_a_class_is_named(prefix: str) -> None:
    shapes = {"backbone.conv1_1._conv.weight": (32, 3, 3, 3), f"{prefix}weight": (1,), "neck.encoder.x": (1,)}
    with pytest.raises(ConversionError, match="Its export can, as a program") as caught:
        infer(shapes, None, "their.pdparams")
    assert HEADS[dict(SIGNATURES)[prefix]] in str(caught.value)


@pytest.mark.parametrize("head", HEADS)
def test_a_yml_of_a_network_without_a_class_is_named(head: str) -> None:
    with pytest.raises(ConfigError, match=r"own\.yml describes .+ cannot be converted\. Its export can, as a program"):
        from_paddleocr({"Backbone": {"name": "ResNet"}, "Head": {"name": head}}, "det", "own.yml")


def test_a_yml_of_tables_says_what_can_be_done(tmp_path: Path) -> None:
    path = written(tmp_path, "table", {"Backbone": {"name": "PPLCNet"}, "Head": {"name": "SLAHead"}}, {"Resize": {}})
    with pytest.raises(ConfigError, match="Exports of other networks can, as programs"):
        from_yml(path)


def test_pages_of_a_plain_resnet_are_another_network_than_lines() -> None:
    section = {"Backbone": {"name": "ResNet", "layers": 18}, "Head": {"name": "CTCHead"}}
    assert from_paddleocr(section, "rec", "a").backbone.name == "ResNet_vd"
    pages = {**section, "Neck": {"name": "DBFPN", "out_channels": 64}, "Head": {"name": "DBHead"}}
    old, new = (from_paddleocr({**pages, **more}, "det", "a") for more in ({}, {"algorithm": "DB++"}))
    assert (old.backbone.name, new.backbone.name) == ("ResNet_vd", "ResNet")
    # Of a checkpoint the tensors tell, whatever the settings call it.
    assert infer(network("det_r18_db")[0], old, "a test")[0] == infer(network("det_r18_db")[0], new, "a test")[0]
    assert template("det_r18_db").config().preprocess == DetPreprocess()
