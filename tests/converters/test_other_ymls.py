"""Networks of PaddleOCR's own training settings that no released model has: their checkpoints convert by their yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import write_pdparams

from paddle2torch.converters.architecture import Architecture, from_paddleocr
from paddle2torch.converters.convert import convert_checkpoint
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.templates import Charset, Template
from paddle2torch.model_zoo.config import (
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
    Task,
)
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.training.initialisation import initialise
from paddle2torch.zoo.conversion import convert

CHARSET = tuple("abcdefg")
RESHAPE = {"name": "SequenceEncoder", "encoder_type": "reshape"}
# Of configs/rec/rec_{mv3,r34_vd}_none_none_ctc.yml and configs/det/det_repsvtr_db.yml, the first one narrower.
SETTINGS: dict[str, dict[str, Any]] = {
    "rec_mv3_none_none_ctc": {
        "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "large"},
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead", "fc_decay": 0.0004},
    },
    "rec_mv3_none_none_ctc of two layers": {
        "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small", "small_stride": [1, 2, 2, 2]},
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead", "fc_decay": 0.0004, "mid_channels": 12},
    },
    "det_repsvtr_db": {
        "Backbone": {"name": "RepSVTR_det"},
        "Neck": {"name": "RSEFPN", "out_channels": 32, "shortcut": True},
        "Head": {"name": "DBHead", "k": 50},
    },
}


def task_of(name: str) -> Task:
    return "det" if name.startswith("det") else "rec"


def architecture(name: str) -> Architecture:
    return from_paddleocr(SETTINGS[name], task_of(name), name)


def network(name: str, parts: Architecture | None = None) -> Network:
    parts, rec = parts or architecture(name), task_of(name) == "rec"
    head = parts.head if not rec else type(parts.head)(parts.head.name, {**parts.head.options, "classes": 8})
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(
            name="own",
            task=task_of(name),
            form="training",
            backbone=parts.backbone,
            neck=parts.neck,
            head=head,
            preprocess=RecPreprocess((3, 32, 100)) if rec else DetPreprocess(),
            postprocess=CTCDecode() if rec else DBPostprocess(),
            charset=CHARSET if rec else None,
        )
    )
    initialise(model)
    return model.eval()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_converts_by_its_settings(name: str, tmp_path: Path) -> None:
    model, task = network(name), task_of(name)
    path = write_pdparams(tmp_path / "a.pdparams", to_paddle(layout_table(model), model.state_dict()))
    charset = Charset(CHARSET, False, "a test") if task == "rec" else None
    converted = convert_checkpoint(path, Template(name, "a test", task, architecture(name), charset), name="own")
    assert (converted.config.backbone, converted.config.neck) == (model.config.backbone, model.config.neck)
    assert converted.config.task == task
    again = build_model(converted.config)
    again.load_state_dict(dict(converted.state))
    x = torch.randn(1, 3, *((32, 100) if task == "rec" else (64, 96)))
    with torch.no_grad():
        ours, theirs, fused = (each.eval()(x) for each in (model, again, fuse(model)))
    if task == "det":
        ours, theirs, fused = (each["maps"] for each in (ours, theirs, fused))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(fused, ours, rtol=1e-4, atol=1e-5)


def test_without_settings_a_detector_is_known_by_its_tensors(tmp_path: Path) -> None:
    model = network("det_repsvtr_db")
    path = write_pdparams(tmp_path / "a.pdparams", to_paddle(layout_table(model), model.state_dict()))
    assert convert_checkpoint(path, name="own").config.backbone.options == {"det": True}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rec_mv3_none_none_ctc", "whose tensors are those of a classifier as well"),
        ("rec_mv3_none_none_ctc of two layers", "whose strides leave no trace in its tensors"),
    ],
)
def test_a_recogniser_without_a_neck_asks_for_its_settings(name: str, message: str, tmp_path: Path) -> None:
    """A neck without tensors leaves no trace: it is not taken for a classifier of as many labels."""
    model = network(name)
    path = write_pdparams(tmp_path / "b.pdparams", to_paddle(layout_table(model), model.state_dict()))
    with pytest.raises(ConversionError, match=rf"8 classes right behind MobileNetV3, .*{message}: .*--config YML"):
        convert_checkpoint(path, name="own")
    charset = tmp_path / "set.txt"
    charset.write_text("\n".join(CHARSET), encoding="utf-8")
    with pytest.raises(ConversionError, match="--config YML"):
        convert("own", weights=path, charset=charset, output=tmp_path / "out")


def test_a_recogniser_without_a_neck_is_one_where_no_classifier_has_its_backbone(tmp_path: Path) -> None:
    settings = {"Backbone": {"name": "ResNet", "layers": 34}, "Neck": RESHAPE, "Head": {"name": "CTCHead"}}
    model = network("rec_r34_vd_none_none_ctc", from_paddleocr(settings, "rec", "a yml"))
    path = write_pdparams(tmp_path / "a.pdparams", to_paddle(layout_table(model), model.state_dict()))
    converted = convert_checkpoint(path, Template("", "a test", charset=Charset(CHARSET, False, "a test")), name="own")
    assert (converted.config.task, converted.config.neck) == ("rec", model.config.neck)
    with pytest.raises(ConversionError, match="nothing says for which characters"):
        convert_checkpoint(path, name="own")


@pytest.mark.parametrize("labels", [2, 4])
def test_two_or_four_classes_are_directions(labels: int, tmp_path: Path) -> None:
    parts = Architecture(
        Component("MobileNetV3", {"scale": 0.35, "model_name": "small"}),
        None,
        Component("ClsHead", {"classes": labels}),
    )
    path = tmp_path / "a.pdparams"
    with torch.device("meta"):
        model = build_model(Template("own", "a test", "cls", parts).config(classes=labels))
    state = {key: torch.zeros(tensor.shape) for key, tensor in model.state_dict().items()}
    write_pdparams(path, to_paddle(layout_table(model), state))
    assert convert_checkpoint(path, name="own").config.task == "cls"
