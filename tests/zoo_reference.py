"""The official networks of ../shared/reference/zoo: their tensors, by a recipe, and what a card says of them."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from typing import Any

import numpy as np
from material import SHARED

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.config import CTCDecode, DBPostprocess, DetPreprocess, RecPreprocess
from paddle2torch.model_zoo.nrtr import PositionalEncoding

ZOO = SHARED / "reference" / "zoo"


@cache
def official() -> dict[str, Any]:
    """What is published about each model."""
    entries = json.loads((SHARED / "facts" / "official-models.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in entries}


@cache
def recipe() -> Any:
    spec = importlib.util.spec_from_file_location("zoo_recipe", ZOO / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ZOO / f"{name}.manifest.json").read_text(encoding="utf-8"))
    return data


def tensors(facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """All tensors of the official network under their names; a second name of one has the value of the first."""
    owner: dict[str, str] = {}
    found = {}
    for entry in facts["parameters"]:
        key, shape = entry["name"], tuple(entry["shape"])
        if key in facts["as_built"]:
            assert key.endswith("positional_encoding.pe")
            found[key] = PositionalEncoding(shape[2], 0.0).state_dict()["pe"].numpy()
        else:
            found[key] = recipe().fill(owner.setdefault(entry["static_name"], key), shape)
    return found


def template(name: str, facts: dict[str, Any]) -> Template:
    """What a card would say, with as many characters as the checkpoint has classes for."""
    entry = official()[name]
    task = entry["task"]
    charset = None
    if task == "rec":
        (bias,) = (
            p
            for p in facts["parameters"]
            if p["name"] in ("head.ctc_head.fc.bias", "head.ctc_head.fc2.bias", "head.fc.bias")
        )
        charset = Charset(tuple(chr(0x4E00 + i) for i in range(bias["shape"][0] - 1)), False, "a test")
    preprocess = RecPreprocess(image_shape=tuple(facts["input"][1:])) if task == "rec" else DetPreprocess()
    postprocess = CTCDecode() if task == "rec" else DBPostprocess()
    architecture = from_paddleocr(entry["architecture"], task, name)
    return Template(name, "a test", task, architecture, charset, preprocess, postprocess)
