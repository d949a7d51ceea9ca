"""Settings are read strictly and written so that they read back the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import small_config

from paddle2torch.model_zoo.config import (
    CONFIG_NAME,
    ClsPostprocess,
    ClsPreprocess,
    Component,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    Origin,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError


def write(folder: Path, config: ModelConfig, **changes: object) -> Path:
    data = json.loads(config.dumps())
    data.update(changes)
    (folder / CONFIG_NAME).write_text(json.dumps(data))
    return folder


def test_settings_read_back_the_same(tmp_path: Path) -> None:
    origin = Origin("training checkpoint", {"a.pdparams": "0" * 64}, "here", "paddle2torch 1", ("a note",))
    config = replace(small_config(), origin=origin)
    assert ModelConfig.load(write(tmp_path, config)) == config


def test_a_detector_has_other_settings(tmp_path: Path) -> None:
    config = ModelConfig(
        "d", "det", "fused", Component("B"), Component("N"), Component("H"), DetPreprocess(), DBPostprocess(thresh=0.25)
    )
    assert ModelConfig.load(write(tmp_path, config)) == config


def test_what_an_official_model_has_not_is_none(tmp_path: Path) -> None:
    """The recognisers before v3 have no widest input, the newer classifiers no threshold."""
    config = small_config()
    assert isinstance(config.preprocess, RecPreprocess)
    config = replace(config, preprocess=replace(config.preprocess, max_width=None))
    assert ModelConfig.load(write(tmp_path, config)) == config
    page = ClsPreprocess(image_shape=(3, 224, 224), resize_short=256)
    config = ModelConfig(
        "c", "cls", "fused", Component("B"), None, Component("H"), page, ClsPostprocess(("0", "90", "180", "270"), None)
    )
    assert ModelConfig.load(write(tmp_path, config)) == config


@pytest.mark.parametrize(("short", "keep_ratio"), [(223, True), (256, False)])
def test_a_centre_that_cannot_be_cut_out(short: int, keep_ratio: bool) -> None:
    with pytest.raises(ConfigError, match=rf"cut out \(224, 224\): it cannot be {short} with keep_ratio {keep_ratio}"):
        ClsPreprocess(image_shape=(3, 224, 224), keep_ratio=keep_ratio, resize_short=short)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charst": None}, "unknown key 'charst'; did you mean 'charset'"),
        ({"freeze_backbone": "no"}, "freeze_backbone: expected bool, found 'no'"),
        ({"form": "fast"}, "'fast' is not one of 'training', 'fused'"),
        ({"backbone": {"scale": 1}}, 'expected an object with a "name"'),
        ({"preprocess": {"image_shape": [3, 48]}}, "expected 3 values, found 2"),
        ({"charset": ["a"]}, "1 characters, which makes 2 classes with the blank, but the head has 8"),
        ({"task": "det"}, "takes DetPreprocess and DBPostprocess"),
    ],
)
def test_what_does_not_belong_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.load(write(tmp_path, small_config(), **changes))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = json.loads(small_config().dumps())
    del data["backbone"]
    (tmp_path / CONFIG_NAME).write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="the key 'backbone' is missing"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "\xff\xfe", "3"])
def test_a_file_that_is_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=CONFIG_NAME):
        ModelConfig.load(tmp_path)
