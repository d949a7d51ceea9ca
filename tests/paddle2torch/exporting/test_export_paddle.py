"""Back to Paddle: checkpoints bit for bit, inference programs with other parameters, and Paddle's word for both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_models import fill, lstm_config, small_config, write_pdparams

from paddle2torch import convert, export
from paddle2torch.converters.convert import convert_checkpoint, convert_export
from paddle2torch.converters.layout import checkpoint_rows, to_paddle
from paddle2torch.converters.paddle_files.pdparams import Checkpoint, read_pdparams
from paddle2torch.converters.templates import from_card, from_yml
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    ModelConfig,
    Origin,
)
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, build_model, fuse
from paddle2torch.zoo.folder import load_model, save_model

TRAINED = ("en_PP-OCRv4_rec", "ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls")

# Loads each file as PaddleOCR does and says what came: name, type, shape, and a hash of the bytes, in order.
PADDLE_LOAD = """
import hashlib, json, sys
import paddle
for path in sys.argv[1:]:
    state = paddle.load(path)
    digest = lambda a: hashlib.sha256(a.tobytes()).hexdigest()
    print(json.dumps([[k, str(v.numpy().dtype), list(v.shape), digest(v.numpy())] for k, v in state.items()]))
"""


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """The same names in the same order, each with the same type, shape and bits."""
    return list(one.tensors) == list(other.tensors) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one.tensors.values(), other.tensors.values(), strict=True)
    )


def network_of(config: ModelConfig, state: dict[str, torch.Tensor]) -> Network:
    with torch.device("meta"):
        model = build_model(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def in_paddle(paths: list[Path]) -> list[list[object]]:
    environment = os.environ | {"GLOG_minloglevel": "2"}
    command = [sys.executable, "-c", PADDLE_LOAD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]


def test_a_checkpoint_goes_and_comes_back(small: Network, small_checkpoint: Path, tmp_path: Path) -> None:
    config = replace(small.config, name="small")
    target = tmp_path / "back.pdparams"
    result = export(network_of(config, small.state_dict()), "paddle", target)
    assert result.target == target
    assert result.checks == ()
    assert same(read_pdparams(target), read_pdparams(small_checkpoint))


def test_an_own_model_comes_back_without_a_word_about_it(
    small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ending is added, the characters lie beside, and the name is that of the folder it was trained in."""
    config = replace(small.config, name="en_PP-OCRv4_rec", origin=Origin("trained here"))
    folder = tmp_path / "plates" / "output" / "best"
    save_model(folder, config, small.state_dict())
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    result = export(folder, "paddle")
    assert result.target == Path("plates.pdparams")
    assert any("plates_dict.txt: use_space_char is false with it" in note for note in result.notes)
    assert export(folder, "paddle", "again").target == Path("again.pdparams")
    with pytest.raises(ConfigError, match=r"again_dict\.txt exists|again\.pdparams exists"):
        export(folder, "paddle", "again")
    converted = convert("plates", weights="plates.pdparams", output=tmp_path / "back")
    assert converted.config.charset == small.config.charset
    state = load_model(tmp_path / "back").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in small.state_dict().items())


def test_a_trained_tensor_is_the_only_one_that_differs(small: Network, tmp_path: Path) -> None:
    before = export(small, "paddle", tmp_path / "before.pdparams").target
    state = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    state["head.ctc_head.fc.weight"][2, 3] += 1
    after = export(network_of(small.config, state), "paddle", tmp_path / "after.pdparams").target
    old, new = read_pdparams(before).tensors, read_pdparams(after).tensors
    changed = [name for name in old if old[name].tobytes() != new[name].tobytes()]
    assert changed == ["head.ctc_head.fc.weight"]
    # Paddle stores a linear layer as [in, out].
    assert np.argwhere(old["head.ctc_head.fc.weight"] != new["head.ctc_head.fc.weight"]).tolist() == [[3, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_stay_what_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model(small_config(nrtr=False)).eval()
    fill(model)
    model.to(dtype)
    found = read_pdparams(export(model, "paddle", tmp_path / "m.pdparams").target)
    assert bool(found.bfloat16) == (dtype == torch.bfloat16)
    rows, state = {row.paddle_key: row for row in checkpoint_rows(model)}, model.state_dict()
    for name, array in found.tensors.items():
        tensor = state[rows[name].torch_key]
        expected = tensor.view(torch.int16) if dtype == torch.bfloat16 else tensor
        turned = array.T if rows[name].op == "transpose" else array
        assert turned.tobytes() == expected.contiguous().numpy().tobytes(), name


def test_an_lstm_has_both_of_its_names(tmp_path: Path) -> None:
    model = build_model(lstm_config())
    tensors = read_pdparams(export(model, "paddle", tmp_path / "crnn.pdparams").target).tensors
    names = [name for name in tensors if name.startswith("neck.encoder.lstm.")]
    assert len(names) == 32
    assert names[16:20] == [
        f"neck.encoder.lstm.0.cell_fw.{kind}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    for own, cell in (("weight_ih_l0", "0.cell_fw.weight_ih"), ("bias_hh_l1_reverse", "1.cell_bw.bias_hh")):
        one, other = (tensors[f"neck.encoder.lstm.{name}"] for name in (own, cell))
        assert one.tobytes() == other.tobytes()


def test_a_classifier_of_paddleclas_has_its_names(tmp_path: Path) -> None:
    config = ModelConfig(
        name="clas",
        task="cls",
        form="training",
        backbone=Component("PPLCNet", {"scale": 0.25}),
        neck=None,
        head=Component("PPLCNetHead", {"classes": 2}),
        preprocess=ClsPreprocess(image_shape=(3, 80, 160), keep_ratio=False),
        postprocess=ClsPostprocess(),
    )
    model = build_model(config).eval()
    target = export(model, "paddle", tmp_path / "clas.pdparams").target
    names = list(read_pdparams(target).tensors)
    assert names[0] == "conv1.conv.weight"
    assert names[-1] == "fc.bias"
    state = convert_checkpoint(target, name="clas").state
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_a_fused_model_makes_no_checkpoint(small: Network, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"is in the fused form, .* are gone .*--template"):
        export(fuse(small), "paddle", tmp_path / "no.pdparams")
    assert list(tmp_path.iterdir()) == []


def test_the_real_export_keeps_every_byte(ch_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Paddle's own run of a program is below.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    card = load_card("ch_PP-OCRv4_rec")
    converted = convert_export(ch_export, from_card(card), name=card.name)
    model = network_of(converted.config, dict(converted.state))
    result = export(model, "paddle", tmp_path / "again", template=str(ch_export))
    for name in ("inference.pdmodel", "inference.pdiparams"):
        assert (result.target / name).read_bytes() == (ch_export / name).read_bytes(), name
    characters = (result.target / "rec_char_dict.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(characters) == card.bundled_characters()
    assert result.notes[-1].startswith("Paddle is not installed here")


def test_another_character_set_and_another_network(
    ch_export: Path, tmp_path: Path, paddle: None, small: Network
) -> None:
    card = load_card("ch_PP-OCRv4_rec")
    converted = convert_export(ch_export, from_card(card), name=card.name)
    charset = ("x", "y", "z", " ")
    head = Component("MultiHead", {**converted.config.head.options, "classes": 5})
    config = replace(converted.config, name="mine", charset=charset, head=head)
    state = dict(converted.state)
    state |= {f"head.ctc_head.fc.{kind}": state[f"head.ctc_head.fc.{kind}"][:5] * 3 for kind in ("weight", "bias")}
    result = export(network_of(config, state), "paddle", tmp_path / "mine", template=str(ch_export))
    # Paddle ran it.
    assert result.checked_by is not None
    assert len(result.checks) == 1
    assert any("6625 classes, the model 5" in note for note in result.notes)
    assert (result.target / "rec_char_dict.txt").read_text() == "x\ny\nz\n"
    with pytest.raises(ConversionError, match="not an export of this model's architecture"):
        export(small, "paddle", tmp_path / "other", template=str(ch_export))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_a_template_that_is_none(small: Network, small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a training checkpoint; a template is an export"):
        export(small, "paddle", tmp_path / "out", template=str(small_checkpoint))
    with pytest.raises(ConfigError, match="neither an export on this machine nor a name"):
        export(small, "paddle", tmp_path / "out", template="nothing_of_that_name")


@pytest.mark.parametrize("name", TRAINED)
def test_the_shared_checkpoints_round_trip(name: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "models" / f"{name}_train" / "best_accuracy.pdparams"
    converted = convert_checkpoint(source, from_card(load_card(name)), name=name)
    network = network_of(converted.config, dict(converted.state))
    target = export(network, "paddle", tmp_path / "back.pdparams").target
    assert same(read_pdparams(target), read_pdparams(source))


def test_paddle_loads_what_we_write(small: Network, tmp_path: Path, paddle: None) -> None:
    ours = export(small, "paddle", tmp_path / "ours.pdparams").target
    theirs = write_pdparams(tmp_path / "theirs.pdparams", to_paddle(checkpoint_rows(small), small.state_dict()))
    found, expected = in_paddle([ours, theirs])
    assert len(found) == len(small.state_dict())
    assert found == expected


def test_the_shared_pir_exports(shared: Path, tmp_path: Path, paddle: None, monkeypatch: pytest.MonkeyPatch) -> None:
    models = shared / "models"
    source = models / "en_PP-OCRv4_rec_train" / "best_accuracy.pdparams"
    card = from_card(load_card("en_PP-OCRv4_rec"))
    converted = convert_checkpoint(source, card, name="en_PP-OCRv4_rec")
    network = network_of(converted.config, dict(converted.state))
    template = models / "en_PP-OCRv4_mobile_rec_infer"
    result = export(network, "paddle", tmp_path / "infer", template=template)
    for name in ("inference.json", "inference.yml"):
        assert (result.target / name).read_bytes() == (template / name).read_bytes(), name
    # A set of other characters goes into the yml, where PaddleX reads it.
    classes = network.config.classes - 1
    head = Component("MultiHead", {**network.config.head.options, "classes": classes})
    config = replace(network.config, charset=(*"éß", *network.config.charset[3:]), head=head, form="fused")
    state = dict(fuse(network).state_dict())
    state |= {key: state[key][:classes] for key in ("head.ctc_head.fc.weight", "head.ctc_head.fc.bias")}
    other = export(network_of(config, state), "paddle", tmp_path / "other", template=template)
    written = yaml.safe_load((other.target / "inference.yml").read_text(encoding="utf-8"))
    assert written["PostProcess"]["character_dict"] == list(config.charset[:-1])
    assert written["Global"]["model_name"] == "en_PP-OCRv4_mobile_rec"
    again = convert_export(other.target, from_yml(other.target / "inference.yml").over(card), name="other")
    assert again.config.charset == config.charset
    assert all(torch.equal(again.state[key], tensor) for key, tensor in state.items())
