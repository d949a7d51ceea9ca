"""Official exports of networks of which ../shared has none: every parameter finds its tensor."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from goldens.family import PROGRAMS, our_name, template
from material import GOLDENS

from paddle2torch.converters.align import align
from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.layout import layout_table, lstm_key
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.refine import refine
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
    "rec_svtrnet": 223,
    "rec_svtrnet_ch": 138,
    "ch_PP-OCRv4_rec_svtr_large": 162,
    "rec_svtrnet_pool": 97,
    "rec_mv3_tps_bilstm_ctc": 311,
    "rec_r18_vd_tps_none_ctc": 143,
    "rec_mv3_none_none_ctc": 269,
    "rec_r34_vd_none_none_ctc": 197,
    "det_repsvtr_db": 353,
    "det_repsvtr_db.fused": 161,
    "det_r50_db_plus_plus": 317,
    "det_r18_db": 126,
    "ch_PP-OCRv3_rotnet": 145,
}


def stored(file: str, folder: Path) -> tuple[Program, dict[str, str]]:
    """The program, and the name in the network of each of its parameters."""
    data = json.loads(gzip.decompress((GOLDENS / "family" / f"{file}.program.json.gz").read_bytes()))
    path = folder / "inference.json"
    path.write_text(json.dumps(data["program"]), encoding="utf-8")
    return read_pir(path), data["names"]


def hint(name: str) -> Architecture:
    architecture = template(name).architecture
    assert architecture is not None
    return architecture


def fused_config(name: str, parts: Architecture) -> ModelConfig:
    return replace(template(name), architecture=parts).config("fused")


@pytest.mark.parametrize("file", FILES)
def test_every_parameter_is_found(file: str, tmp_path: Path) -> None:
    name = file.removesuffix(".fused")
    program, names = stored(file, tmp_path)
    parts = refine(hint(name), program, template(name).preprocess)
    config = fused_config(name, parts)
    alignment = align(program, config, file)
    found = {row.paddle_key: row.torch_key for row in alignment.rows}
    keys = {row.torch_key: row.paddle_key for row in layout_table(build_model(config))}
    assert len(program.parameters) == TENSORS[file]
    assert not set(found) & set(alignment.constants)
    assert set(found) | set(alignment.constants) == set(program.parameters)
    # An LSTM's tensor has two names.
    assert {parameter: keys[key] for parameter, key in found.items()} == {
        parameter: our_name(name, lstm_key(names[parameter]) or names[parameter]) for parameter in found
    }


def test_the_form_of_the_export_is_seen(tmp_path: Path) -> None:
    """Kept branches in an export are another network than summed ones, and neither aligns as the other."""
    program, _ = stored("ch_RepSVTR_rec", tmp_path)
    parts = refine(hint("ch_RepSVTR_rec"), program)
    assert parts.backbone.options == {"keep_branches": True}
    summed = replace(parts, backbone=replace(parts.backbone, options={}))
    with pytest.raises(ConversionError, match=r"backbone\.features\.0\.0 \(conv\), has \['bias', 'weight'\]"):
        align(program, fused_config("ch_RepSVTR_rec", summed), "a test")
