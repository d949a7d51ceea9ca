"""Official exports of networks of which ../shared has none: every parameter finds its tensor."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from goldens.family import CLASSES, PROGRAMS, architecture, our_name
from material import GOLDENS

from paddle2torch.converters.align import align
from paddle2torch.converters.architecture import Architecture, from_paddleocr
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.layout import layout_table
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.refine import refine
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.network import build_model

FILES = [f"{name}{'.fused' if fused else ''}" for name, forms in PROGRAMS.items() for fused in forms]
TENSORS = {
    "PP-LCNet_x1_0_textline_ori": 146,
    "PP-OCRv6_medium_det.fused": 257,
    "PP-OCRv6_medium_rec.fused": 161,
    "PP-OCRv6_small_det.fused": 162,
    "PP-OCRv6_small_rec.fused": 151,
    "PP-OCRv6_tiny_det.fused": 162,
    "PP-OCRv6_tiny_rec.fused": 90,
    "ch_RepSVTR_rec": 354,
    "ch_RepSVTR_rec.fused": 159,
    "ch_SVTRv2_rec": 273,
}


def stored(file: str, folder: Path) -> tuple[Program, dict[str, str]]:
    """The program, and the name in the network of each of its parameters."""
    data = json.loads(gzip.decompress((GOLDENS / "family" / f"{file}.program.json.gz").read_bytes()))
    path = folder / "inference.json"
    path.write_text(json.dumps(data["program"]), encoding="utf-8")
    return read_pir(path), data["names"]


def hint(name: str) -> Architecture:
    return from_paddleocr(architecture(name), load_card(name).task, name)


def fused_config(name: str, parts: Architecture) -> ModelConfig:
    known = replace(from_card(load_card(name)), architecture=parts)
    characters = Charset(tuple(map(chr, range(0x4E00, 0x4E00 + CLASSES - 1))), False, "a test")
    return replace(known, charset=characters).config("fused")


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_is_found(file: str, tmp_path: Path) -> None:
    name = file.removesuffix(".fused")
    program, names = stored(file, tmp_path)
    parts = refine(hint(name), program)
    config = fused_config(name, parts)
    found = {row.paddle_key: row.torch_key for row in align(program, config, file).rows}
    keys = {row.torch_key: row.paddle_key for row in layout_table(build_model(config))}
    assert len(found) == len(program.parameters) == TENSORS[file]
    assert {parameter: keys[key] for parameter, key in found.items()} == {
        parameter: our_name(name, names[parameter]) for parameter in program.parameters
    }


def test_the_form_of_the_export_is_seen(tmp_path: Path) -> None:
    """Kept branches in an export are another network than summed ones, and neither aligns as the other."""
    program, _ = stored("ch_RepSVTR_rec", tmp_path)
    parts = refine(hint("ch_RepSVTR_rec"), program)
    assert parts.backbone.options == {"keep_branches": True}
    summed = replace(parts, backbone=replace(parts.backbone, options={}))
    with pytest.raises(ConversionError, match=r"backbone\.features\.0\.0 \(conv\), has \['bias', 'weight'\]"):
        align(program, fused_config("ch_RepSVTR_rec", summed), "a test")
