"""Checkpoints and exports become models: the right network, every tensor, the right character set, or a clear error."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from material import GOLDENS
from small_models import fill, small_config, write_pdparams

from paddle2torch.converters.align import AlignmentError
from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import (
    FURTHER,
    Converted,
    _begin_alike,
    _varied,
    candidates,
    convert_checkpoint,
    convert_export,
    convert_files,
)
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.paddle_files.exports import read_program
from paddle2torch.converters.paddle_files.pdiparams import write_parameters
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.refine import refine
from paddle2torch.converters.templates import Template, from_card, from_yml
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.config import Component, DBPostprocess, DetPreprocess, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.network import Network, build_model, fuse

LETTERS = Template("own", "test", charset=Charset(tuple("abcdefg"), False, "letters"))


def tensors_of(model: Network) -> dict[str, np.ndarray]:
    return to_paddle(layout_table(model), model.state_dict())


def loaded(converted: Converted) -> Network:
    model = build_model(converted.config)
    model.load_state_dict(dict(converted.state))
    return model.eval()


def test_a_checkpoint_of_ones_own_needs_its_characters_only(small: Network, small_checkpoint: Path) -> None:
    converted = convert_checkpoint(small_checkpoint, LETTERS, name="own")
    assert converted.config.backbone == Component("PPLCNetV3", {"scale": 0.5})
    options = small.config.head.options
    # The longest text leaves no trace in the tensors: the official value is taken.
    assert converted.config.head.options == {**options, "nrtr": {**options["nrtr"], "max_text_length": 25}}
    assert converted.config.charset == tuple("abcdefg")
    assert converted.notes == ()
    assert all(torch.equal(converted.state[key], value) for key, value in small.state_dict().items())
    x = torch.rand(1, 3, 48, 100)
    with torch.inference_mode():
        assert torch.equal(loaded(converted)(x), small(x))


def test_the_inverse_table_gives_the_file_back(small_checkpoint: Path) -> None:
    converted = convert_checkpoint(small_checkpoint, LETTERS, name="own")
    original = read_pdparams(small_checkpoint).tensors
    back = to_paddle(converted.rows, converted.state)
    assert set(back) == set(original)
    assert all(
        back[key].tobytes() == array.tobytes() and back[key].shape == array.shape for key, array in original.items()
    )


def test_shapes_overrule_the_card(small_checkpoint: Path) -> None:
    card = from_card(load_card("en_PP-OCRv4_rec"))
    converted = convert_checkpoint(small_checkpoint, LETTERS.over(card), name="own")
    assert converted.config.backbone.options["scale"] == 0.5
    assert "backbone scale: the checkpoint has 0.5, not 0.95" in converted.notes
    assert "head ctc.dims: the checkpoint has 32, not 120" in converted.notes
    assert converted.config.origin is not None
    assert converted.config.origin.notes == converted.notes


def test_kernels_come_from_the_checkpoint(tmp_path: Path) -> None:
    config = small_config(nrtr=False)
    ctc = {**config.head.options["ctc"], "last_kernel_size": [3, 3]}
    model = build_model(replace(config, head=Component("MultiHead", {**config.head.options, "ctc": ctc})))
    fill(model)
    path = write_pdparams(tmp_path / "a.pdparams", tensors_of(model))
    found = convert_checkpoint(path, LETTERS, name="own").config.head.options
    assert (found["ctc"]["kernel_size"], found["ctc"]["last_kernel_size"]) == ([1, 3], [3, 3])
    assert found["nrtr"] is None


def test_a_checkpoint_without_the_second_head_says_so(tmp_path: Path, small: Network) -> None:
    tensors = {key: array for key, array in tensors_of(small).items() if "gtc" not in key}
    path = write_pdparams(tmp_path / "a.pdparams", tensors)
    card = from_card(load_card("en_PP-OCRv4_rec"))
    assert "the checkpoint has no NRTR head" in convert_checkpoint(path, LETTERS.over(card), name="own").notes


def test_the_student_of_a_distillation_is_taken(tmp_path: Path, small: Network) -> None:
    student = tensors_of(small)
    tensors = {f"Teacher.{key}": array + 1 for key, array in student.items()}
    tensors |= {f"Student.{key}": array for key, array in student.items()}
    tensors |= {"Student2.head.ctc_head.fc.bias": np.zeros(3, "float32")}
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")
    assert torch.equal(converted.state["head.ctc_head.fc.bias"], small.state_dict()["head.ctc_head.fc.bias"])
    assert any("took Student, left out 1 tensors of Student2 and" in note for note in converted.notes)


def test_the_student_of_mutual_learning_is_taken(tmp_path: Path) -> None:
    """CML of the detectors: two students of one network, a teacher of another, whose names fit nothing here."""
    student = build_model(
        ModelConfig(
            name="det",
            task="det",
            form="training",
            backbone=Component("PPLCNetV3", {"scale": 0.35, "det": True, "conv_kxk_num": 1}),
            neck=Component("RSEFPN", {"out_channels": 24}),
            head=Component("DBHead", {}),
            preprocess=DetPreprocess(),
            postprocess=DBPostprocess(),
        )
    )
    own = tensors_of(student)
    tensors = {f"Student.{key}": array for key, array in own.items()}
    tensors |= {f"Student2.{key}": array + 1 for key, array in own.items()}
    tensors |= {"Teacher.backbone.bb_0_0.conv0._conv.weight": np.zeros((64, 64, 3, 3), np.float32)}
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), None, name="det")
    assert converted.notes[0] == (
        f"distillation checkpoint: took Student, left out {len(own)} tensors of Student2 and 1 tensors of Teacher"
    )
    assert converted.config.origin is not None
    assert converted.config.origin.notes == converted.notes
    for key, value in student.state_dict().items():
        assert torch.equal(converted.state[key], value)


def test_leftovers_of_a_checkpoint_are_said(tmp_path: Path, small: Network) -> None:
    """What no official code runs, with and without a distillation's prefix; any other tensor is an error."""
    own = tensors_of(small)
    leftovers = {f"backbone.conv1.hardswish.{name}": np.ones(1, np.float32) for name in ("scale", "bias")}
    path = write_pdparams(tmp_path / "a.pdparams", own | leftovers)
    converted = convert_checkpoint(path, LETTERS, name="own")
    assert set(converted.state) == set(small.state_dict())
    said = "left out backbone.conv1.hardswish.scale, backbone.conv1.hardswish.bias: the stem's affine"
    assert any(note.startswith(said) for note in converted.notes)
    prefixed = write_pdparams(tmp_path / "b.pdparams", {f"Student.{k}": v for k, v in (own | leftovers).items()})
    notes = convert_checkpoint(prefixed, LETTERS, name="own").notes
    assert notes[0] == "took Student"
    assert any(note.startswith(said) for note in notes)
    strange = write_pdparams(tmp_path / "c.pdparams", own | {"backbone.conv1.relu.scale": np.ones(1, np.float32)})
    with pytest.raises(ConversionError, match=r"1 that the network does not have: backbone\.conv1\.relu\.scale"):
        convert_checkpoint(strange, LETTERS, name="own")


def test_a_sar_head_comes_with_its_network(tmp_path: Path) -> None:
    """v3's second head: in the training form, not in the fused one, and left out where a checkpoint has none."""
    config = replace(small_config(nrtr=False), name="own")
    sar = {"enc_dim": 16, "d_k": 8, "max_text_length": 25}
    model = build_model(replace(config, head=replace(config.head, options={**config.head.options, "sar": sar})))
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors_of(model)), LETTERS, name="own")
    assert converted.config.head.options["sar"] == sar
    assert set(converted.state) == set(model.state_dict())
    network = loaded(converted)
    assert not any(key.startswith("head.sar_head.") for key in fuse(network).state_dict())


def test_a_distillation_without_a_student(tmp_path: Path, small: Network) -> None:
    tensors = {f"Teacher.{key}": array for key, array in tensors_of(small).items()}
    with pytest.raises(ConversionError, match="without a Student"):
        convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("backbone.blocks3.0.pw_conv.conv_kxk.1.conv.weight"),
            "1 missing: .*blocks3.0.pw_conv.conv_kxk.1",
        ),
        (lambda t: t.pop("head.ctc_encoder.encoder.conv1.conv.weight"), "the tensor .*conv1.conv.weight.* is missing"),
        (
            lambda t: t.update({"head.extra.w": np.zeros(2, "float32")}),
            "1 that the network does not have: head.extra.w",
        ),
        (
            lambda t: t.update({"backbone.conv1.conv.weight": np.zeros((17, 3, 3, 3), "float32")}),
            "of no scale of PPLCNetV3",
        ),
        (
            lambda t: t.update({"head.gtc_head.embedding.embedding.weight": np.zeros((9, 64), "float32")}),
            "its NRTR head has 9 symbols, 8 CTC classes need 12",
        ),
    ],
)
def test_a_tensor_too_few_or_too_many(tmp_path: Path, small: Network, change: object, message: str) -> None:
    tensors = tensors_of(small)
    change(tensors)  # type: ignore[operator]
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")


@pytest.mark.parametrize(
    ("key", "looks_like"),
    [
        ("backbone.block_list.0._depthwise_conv._conv.weight", "MobileNetV1Enhance"),
        ("backbone.stages.0.downsample.conv.weight", "no PP-OCR model that is known"),
        ("backbone.stem.stem1.conv.weight", "PPHGNetV2_B4"),
        ("encoder.layer.0.weight", "its first tensors: encoder.layer.0.weight"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, key: str, looks_like: str) -> None:
    path = write_pdparams(tmp_path / "a.pdparams", {key: np.zeros((2, 2), "float32")})
    with pytest.raises(ConversionError, match=looks_like):
        convert_checkpoint(path, LETTERS, name="own")


def test_another_task_than_the_card(small_checkpoint: Path) -> None:
    template = replace(LETTERS, task="det", preprocess=DetPreprocess())
    with pytest.raises(ConversionError, match="is a model for 'rec'"):
        convert_checkpoint(small_checkpoint, template, name="own")


def test_no_character_set_at_all(small_checkpoint: Path) -> None:
    with pytest.raises(ConversionError, match=r"--charset FILE.*--config YML"):
        convert_checkpoint(small_checkpoint, None, name="own")


OFFICIAL = {
    "Global": {"model_name": "own", "character_dict_path": "dicts/letters.txt", "use_space_char": True},
    "Architecture": {
        "model_type": "rec",
        "Backbone": {"name": "PPLCNetV3", "scale": 0.5, "lr_mult_list": [1, 1, 1, 1, 1, 1]},
        "Head": {
            "name": "MultiHead",
            "head_list": [
                {"CTCHead": {"Neck": {"name": "svtr", "dims": 32, "use_guide": False}, "Head": {"fc_decay": 1e-5}}},
                {"NRTRHead": {"nrtr_dim": 64, "max_text_length": 12}},
            ],
        },
    },
    "Eval": {"dataset": {"transforms": [{"DecodeImage": None}, {"RecResizeImg": {"image_shape": [3, 48, 256]}}]}},
    "PostProcess": {"name": "CTCLabelDecode"},
}


def test_a_training_yml_gives_what_shapes_cannot(tmp_path: Path, small_checkpoint: Path) -> None:
    (tmp_path / "letters.txt").write_text("a\nb\nc\nd\ne\nf\n")
    (tmp_path / "config.yml").write_text(yaml.safe_dump(OFFICIAL))
    config = convert_checkpoint(small_checkpoint, from_yml(tmp_path / "config.yml"), name="own").config
    assert config.charset == ("a", "b", "c", "d", "e", "f", " ")
    assert config.head.options["ctc"]["use_guide"] is False
    assert config.preprocess.image_shape == (3, 48, 256)  # type: ignore[union-attr]
    assert config.head.options["nrtr"]["max_text_length"] == 12


def test_a_bundled_set_is_found_by_the_name_in_the_yml(tmp_path: Path) -> None:
    settings = {**OFFICIAL, "Global": {"character_dict_path": "ppocr/utils/en_dict.txt", "use_space_char": True}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
    charset = from_yml(tmp_path / "config.yml").charset
    assert charset is not None
    assert charset.characters == read_charset(charset_path("en_dict.txt"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a: [", FileFormatError, "is not YAML"),
        ("- 1", FileFormatError, "holds no sections"),
        ("a: 1", FileFormatError, "neither an Architecture section"),
        ("!!python/object/apply:os.system ['touch /tmp/owned']", FileFormatError, "is not YAML"),
        (
            "Architecture: {model_type: table, Backbone: {name: A}, Head: {name: B}}",
            ConfigError,
            "'table'; rec, det and cls",
        ),
        ("Architecture: {model_type: rec, Head: {name: B}}", ConfigError, "has no 'Backbone'"),
        (
            "Architecture: {model_type: rec, Backbone: {name: A}, Head: {name: MultiHead}}",
            ConfigError,
            "has no CTCHead",
        ),
    ],
)
def test_a_yml_that_is_none(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(error, match=message):
        from_yml(tmp_path / "a.yml")


def test_a_set_that_the_yml_names_and_nobody_has(tmp_path: Path) -> None:
    settings = {**OFFICIAL, "Global": {"character_dict_path": "my/dict.txt"}}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"'my/dict.txt'.*--charset"):
        from_yml(tmp_path / "a.yml")
    assert from_yml(tmp_path / "a.yml", charset_given=True).charset == Charset((), False, "my/dict.txt")


def test_the_official_export_aligns_whole(ch_export: Path) -> None:
    template = from_card(load_card("ch_PP-OCRv4_rec"))
    converted = convert_export(ch_export, template, name="ch_PP-OCRv4_rec")
    assert len(converted.state) == len(converted.rows) == 234
    assert converted.config.form == "fused"
    assert converted.config.classes == 6625
    assert set(converted.state) == set(build_model(converted.config).state_dict())


@pytest.mark.slow
def test_an_export_of_ones_own_finds_its_network(ch_export: Path) -> None:
    characters = Charset(read_charset(charset_path("ppocr_keys_v1.txt")), True, "keys")
    converted = convert_files(ch_export, Template("own", "test", charset=characters), name="own")
    assert converted.config.backbone == Component("PPLCNetV3", {"scale": 0.95})
    assert converted.config.head.options["ctc"]["dims"] == 120


@pytest.mark.slow
def test_a_program_of_no_known_network_names_the_nearest_alone(tmp_path: Path) -> None:
    stored = GOLDENS / "family" / "ch_RepSVTR_rec.fused.program.json.gz"
    program = json.loads(gzip.decompress(stored.read_bytes()))["program"]
    norms = [o for o in program["program"]["regions"][0]["blocks"][0]["ops"] if o["#"] == "1.layer_norm"]
    next(a for a in norms[-1]["A"] if a["N"] == "epsilon")["AT"]["D"] = 1e-3
    (tmp_path / "inference.json").write_text(json.dumps(program), encoding="utf-8")
    parsed = read_pir(tmp_path / "inference.json")
    with (tmp_path / "inference.pdiparams").open("wb") as file:
        zeros = {name: np.zeros(parsed.values[name].shape, np.float32) for name in parsed.parameters}
        write_parameters(file, parsed, zeros)
    letters = Charset(tuple(map(chr, range(0x4E00, 0x4E00 + 23))), False, "letters")
    with pytest.raises(ConversionError) as caught:
        convert_export(tmp_path, Template("own", "test", charset=letters), name="own")
    message = str(caught.value)
    assert "is none of the " in message
    assert "the nearest, 9" in message
    assert "% of whose layers match, is RepSVTR with MultiHead: " in message
    assert "head.ctc_encoder.encoder.norm (layer_norm): epsilon is 1e-06, in the program 0.001" in message
    assert "--config" in message
    assert len(message) < 700


@pytest.mark.slow
def test_networks_with_one_backbone_part_from_a_program_at_one_place() -> None:
    """Why a backbone that a program has not is tried once, and not with each neck and head that stands behind it."""
    program, _ = read_program(GOLDENS / "programs" / "networks_convnet" / "inference.json")
    known = [*candidates(None), *FURTHER]
    known += _varied(known, known)
    groups: list[list[Architecture]] = []
    for one in known:
        alike = next((group for group in groups if _begin_alike(group[0], one)), None)
        groups.append([one]) if alike is None else alike.append(one)
    compared = 0
    for group in groups:
        said = set()
        for one in group if len(group) > 1 else ():
            with pytest.raises(ConversionError) as caught:
                refine(one, program, source="the program")
            if isinstance(caught.value, AlignmentError):  # else it is too large for the program
                assert not caught.value.has_backbone
                said.add(str(caught.value))
                compared += 1
        assert len(said) <= 1
    assert compared >= 12


@pytest.mark.parametrize(
    ("name", "side", "limit"),
    [
        ("PP-OCRv5_mobile_det", 960, "max"),
        ("PP-OCRv4_mobile_seal_det", 736, "resize_long"),
        ("PP-OCRv4_server_seal_det", 736, "resize_long"),
        ("own", 960, "max"),
    ],
)
def test_what_resize_long_means(name: str, side: int, limit: str, tmp_path: Path) -> None:
    """PaddleX's pipeline reads it as "at most", and seals' detectors as PaddleOCR's own code does, which trains."""
    resize = [{"DetResizeForTest": {"resize_long": side}}]
    exported = {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": resize},
        "PostProcess": {"name": "DBPostProcess"},
    }
    (tmp_path / "inference.yml").write_text(yaml.safe_dump(exported))
    assert from_yml(tmp_path / "inference.yml").preprocess == DetPreprocess(side, limit)  # type: ignore[arg-type]
    training = {
        "Architecture": {"model_type": "det", "Backbone": {"name": "PPLCNetV3"}, "Head": {"name": "DBHead"}},
        "Eval": {"dataset": {"transforms": resize}},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(training))
    assert from_yml(tmp_path / "config.yml").preprocess == DetPreprocess(side, "resize_long")


def test_an_export_with_another_attribute_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(shared / "models" / "en_PP-OCRv4_mobile_rec_infer", folder)
    program = folder / "inference.json"
    text = program.read_text()
    changed = text.replace("9.9999997473787516e-06", "9.9999997473787516e-04", 1)
    if changed == text:
        data = json.loads(text)
        operation = next(o for o in data["program"]["regions"][0]["blocks"][0]["ops"] if o["#"] == "1.batch_norm_")
        next(a for a in operation["A"] if a["N"] == "epsilon")["AT"]["D"] = 1e-3
        changed = json.dumps(data)
    program.write_text(changed)
    with pytest.raises(
        ConversionError, match=r"backbone.conv1.bn \(batch_norm\): epsilon is 1e-05, in the program 0.001"
    ):
        convert_export(folder, from_card(load_card("en_PP-OCRv4_rec")), name="en")


@pytest.mark.slow
def test_three_conversions_of_one_model_agree(shared: Path) -> None:
    card, models = from_card(load_card("en_PP-OCRv4_rec")), shared / "models"
    x = torch.from_numpy(np.load(shared / "reference" / "en_PP-OCRv4_rec.eval.npz")["x"])
    training = loaded(convert_files(models / "en_PP-OCRv4_rec_train" / "best_accuracy.pdparams", card, name="en"))
    networks = [training, fuse(training)]
    networks += [
        loaded(convert_files(models / name, card, name="en"))
        for name in ("en_PP-OCRv4_rec_infer", "en_PP-OCRv4_mobile_rec_infer")
    ]
    with torch.inference_mode():
        outputs = [network(x) for network in networks]
    assert max(float((output - outputs[0]).abs().max()) for output in outputs) < 1e-5


def test_what_is_not_there() -> None:
    with pytest.raises(Paddle2TorchError, match="does not exist"):
        convert_files(Path("nowhere"), None, name="own")
