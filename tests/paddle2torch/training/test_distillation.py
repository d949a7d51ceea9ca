"""A recogniser that learns from another: the losses are PaddleOCR's, and so is what a training makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from goldens.make_training_losses import HEADS, LOSSES, inputs, labels
from numpy.typing import NDArray
from safetensors.torch import load_file
from small_models import saved
from tiny_training import TinyBatches, tiny_config, tiny_settings
from torch import Tensor

from paddle2torch import cli, load_pretrained
from paddle2torch.model_zoo.config import Component, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.model_zoo.strict_json import from_json
from paddle2torch.training.batches import guide_targets
from paddle2torch.training.config_files import read_settings
from paddle2torch.training.distillation import Distillation, digest_of, refuse_other_teachers, with_teachers
from paddle2torch.training.distillation_settings import DistillationSettings, TeacherSettings
from paddle2torch.training.losses import losses_of
from paddle2torch.training.paddleocr_yml import translate
from paddle2torch.training.settings import LoaderSettings, ScheduleSettings, Settings, check_fit
from paddle2torch.training.trainer import train

GOLDENS = Path(__file__).parents[2] / "goldens" / "training_losses.npz"

NOT_OURS = ("key", "multi_head", "ignore_index")
"""Keys of PaddleOCR's that say where its code finds what a loss compares."""


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as found:
        return dict(found)


def settings_of(*losses: tuple[str, dict[str, Any]], **teachers: dict[str, Any]) -> DistillationSettings:
    """Settings with these losses, from a teacher called Teacher where no other is named."""
    data = {
        "teachers": teachers or {"Teacher": {"pretrained": "somewhere"}},
        "losses": [{name: options} for name, options in losses],
    }
    return from_json(DistillationSettings, data, "test")


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_paddles_in_float64(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    kind, options = LOSSES[name]
    settings = settings_of((kind, {key: value for key, value in options.items() if key not in NOT_OURS}))
    tensors = {key: torch.from_numpy(value).requires_grad_() for key, value in inputs().items()}
    outputs = {network: {head: tensors[f"{network}.{head}"] for head in HEADS} for network in ("Student", "Teacher")}
    batch: dict[str, Tensor] = {key: torch.from_numpy(value) for key, value in labels().items()}
    loss = losses_of(outputs, batch, settings)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(float(goldens[name]), rel=1e-12)
    moved = {key for key, tensor in tensors.items() if tensor.grad is not None and bool(tensor.grad.any())}
    assert {f"{name}/{key}" for key in moved} == {key for key in goldens if key.startswith(f"{name}/")}
    for key in moved:
        gradient = tensors[key].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.numpy(), goldens[f"{name}/{key}"], rtol=0, atol=1e-10)


def test_losses_are_added_by_their_weights(goldens: dict[str, NDArray[Any]]) -> None:
    settings = settings_of(
        ("DistillationCTCLoss", {"weight": 2.0, "model_name_list": ["Student", "Teacher"]}),
        ("DistillCTCLogits", {"weight": 0.5}),
    )
    outputs = {
        network: {head: torch.from_numpy(inputs()[f"{network}.{head}"]) for head in HEADS}
        for network in ("Student", "Teacher")
    }
    parts = losses_of(outputs, {key: torch.from_numpy(value) for key, value in labels().items()}, settings)
    assert list(parts) == [
        "loss",
        "DistillationCTCLoss_ctc_Student",
        "DistillationCTCLoss_ctc_Teacher",
        "DistillCTCLogits_ctc_Student_Teacher",
    ]
    assert float(parts["loss"]) == pytest.approx(2 * float(goldens["ctc"]) + 0.5 * float(goldens["ctc logits"]))


V4: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DistillationCTCLoss", {}),
    ("DistillationNRTRLoss", {"smoothing": False}),
    ("DistillationDKDLoss", {"weight": 0.1, "beta": 2.0}),
    ("DistillCTCLogits", {}),
)
"""PP-OCRv4's."""


def taken(folder: Path, **options: Any) -> dict[str, Any]:
    """The settings of a teacher from a folder."""
    return {"pretrained": str(folder), **options}


def teaching(folder: Path, teachers: dict[str, Any], *losses: tuple[str, dict[str, Any]], **sections: Any) -> Settings:
    """Settings of a tiny training with these teachers and losses."""
    settings = tiny_settings(folder, **sections)
    ten = replace(settings.data.train, loader=LoaderSettings(10))  # two steps an epoch
    return replace(settings, data=replace(settings.data, train=ten), loss=settings_of(*(losses or V4), **teachers))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted recogniser, wider than the student of the tests."""
    wide = tiny_config(backbone=Component("MobileNetV1Enhance", {"scale": 0.25}))
    return saved(tmp_path_factory.mktemp("teacher") / "wide", wide)


def test_a_frozen_teacher_stays_and_the_student_alone_is_kept(teacher: Path, tmp_path: Path) -> None:
    settings = teaching(tmp_path, {"Teacher": {"pretrained": str(teacher)}}, training={"epochs": 1})
    result = train(settings, tiny_config(), make_batches=TinyBatches.make)
    assert result.steps == 2
    kept = ModelConfig.load(tmp_path / "best")
    assert kept.backbone == tiny_config().backbone
    assert set(load_pretrained(tmp_path / "best").state_dict()) == set(build_model(kept).state_dict())
    # What was in force names the teacher's weights.
    pinned, _ = read_settings(tmp_path / "settings" / "config.json")
    assert isinstance(pinned.loss, DistillationSettings)
    assert pinned.loss.teachers["Teacher"].digest == digest_of(load_pretrained(teacher))
    assert "Teacher" in (tmp_path / "train.log").read_text()
    header = (tmp_path / "train.csv").read_text().split("\n")[0]
    assert "DistillationDKDLoss_gtc_Student_Teacher" in header
    state = load_file(tmp_path / "last" / "training_state.safetensors")
    assert not [key for key in state if "Teacher" in key]
    # It does not go on with another one, nor begins with one that is another than it was.
    other = load_pretrained(teacher)
    with torch.no_grad():
        other.get_parameter("head.ctc_head.fc.bias").add_(1)
    changed = taken(saved(tmp_path / "other", other))
    with pytest.raises(ConfigError, match="learnt from other teachers: Teacher"):
        train(teaching(tmp_path, {"Teacher": changed}), tiny_config(), resume=True, make_batches=TinyBatches.make)
    pinned = settings_of(*V4, Teacher={**changed, "digest": digest_of(load_pretrained(teacher))})
    with pytest.raises(ConfigError, match="has other weights than it had"):
        with_teachers(build_model(tiny_config()), pinned)


def test_a_frozen_teacher_gives_the_same_each_time(teacher: Path) -> None:
    loss = teaching(Path(), {"Teacher": {"pretrained": str(teacher)}}).loss
    assert isinstance(loss, DistillationSettings)
    learner, _, _ = with_teachers(build_model(tiny_config()), loss)
    learner.train()
    before = digest_of(learner.get_submodule("Teacher"))
    batch = next(iter(TinyBatches(True)))
    torch.manual_seed(0)
    first, second = (learner(batch["image"], guide_targets(batch)) for _ in range(2))
    for head in ("ctc", "gtc", "backbone_out"):
        assert torch.equal(first["Teacher"][head], second["Teacher"][head])
        assert not first["Teacher"][head].requires_grad
    assert not torch.equal(first["Student"]["gtc"], second["Student"]["gtc"])  # by its dropout
    assert digest_of(learner.get_submodule("Teacher")) == before


def test_peers_that_learn_from_each_other_go_on_bit_for_bit(tmp_path: Path) -> None:
    losses = (
        ("DistillationCTCLoss", {"model_name_list": ["Student", "Teacher"]}),
        ("DistillationNRTRLoss", {"model_name_list": ["Student", "Teacher"]}),
        ("DistillationDMLLoss", {"dis_head": "gtc", "weight": 0.5}),
        ("DistillationDMLLoss", {}),
        ("DistillationDistanceLoss", {}),
    )
    peers = {"Teacher": {"pretrained": None, "freeze": False}}

    def run(name: str, epochs: int, resume: bool = False) -> Path:
        settings = teaching(tmp_path / name, peers, *losses, training={"epochs": epochs, "ema_decay": 0.9})
        train(
            replace(settings, schedule=ScheduleSettings("Const")),
            tiny_config(),
            resume=resume,
            make_batches=TinyBatches.make,
        )
        return tmp_path / name

    whole, parts = run("whole", 2), run("parts", 1)
    run("parts", 2, resume=True)
    for name in ("model", "training_state"):
        one, other = (load_file(folder / "last" / f"{name}.safetensors") for folder in (whole, parts))
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert [key for key in one if key.startswith("peers/Teacher.backbone.")]
    assert [key for key in one if key.startswith("optimizer/Teacher.head.")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charset": tuple("abcdfe")}, "another character set"),
        ({"head": {"nrtr": None}}, "has no head gtc"),
        ({"preprocess": RecPreprocess((3, 48, 64), channel_order="RGB")}, "sees other images"),
    ],
)
def test_teachers_that_the_student_cannot_learn_from(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    loss = settings_of(*V4, Teacher=taken(saved(tmp_path / "teacher", tiny_config(**changes))))
    with pytest.raises(ConfigError, match=message):
        with_teachers(build_model(tiny_config()), loss)


@pytest.mark.parametrize("name", ["train", "half", "config", "names"])
def test_a_teacher_has_no_name_that_modules_have(name: str) -> None:
    network = build_model(tiny_config())
    with pytest.raises(ConfigError, match=f"teachers: {name} cannot be the name of one"):
        Distillation(network, {name: network})


def test_a_teacher_in_fused_form_teaches_by_its_ctc_head(teacher: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "fused", fuse(load_pretrained(teacher)))
    losses = (("DistillationCTCLoss", {}), ("DistillationNRTRLoss", {}), ("DistillationKLDivLoss", {}))
    with pytest.raises(ConfigError, match="fused form and cannot learn"):
        with_teachers(build_model(tiny_config()), settings_of(*losses, Teacher=taken(folder, freeze=False)))
    loss = settings_of(*losses, Teacher=taken(folder))
    learner, _, _ = with_teachers(build_model(tiny_config()), loss)
    batch = next(iter(TinyBatches(True)))
    outputs = learner.train()(batch["image"], guide_targets(batch))
    assert set(outputs["Teacher"]) == {"ctc", "backbone_out"}
    parts = losses_of(outputs, batch, loss)
    parts["loss"].backward()
    assert 0 < float(parts["DistillationKLDivLoss_ctc_Student_Teacher"].detach()) < 1e3
    head = learner.get_submodule("Student").get_parameter("head.ctc_head.fc.weight")
    assert head.grad is not None


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ((("DistillationCTCLoss", {"model_name_list": ["Techer"]}),), "there is no network Techer"),
        ((("DistillCTCLogits", {}), ("DistillCTCLogits", {"weight": 2.0})), "stands there twice"),
        ((("DistillationCTCLoss", {"model_name_list": ["Teacher"]}),), "nothing would be learnt"),
        ((("DistillationCTCLos", {}),), "did you mean 'DistillationCTCLoss'"),
        ((("DistillationDMLLoss", {"act": "sigmoid"}),), "act"),
    ],
)
def test_losses_that_make_no_sense(losses: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(*losses)


def test_a_head_without_a_loss_is_named(tmp_path: Path) -> None:
    settings = teaching(tmp_path, {"Teacher": {"pretrained": "x"}}, ("DistillationCTCLoss", {}))
    with pytest.raises(ConfigError, match="no loss trains its head gtc"):
        check_fit(settings, tiny_config())


def write_yml(folder: Path, losses: list[dict[str, Any]], *, frozen: bool, scale: float = 0.5) -> Path:
    """A distillation's yml as PaddleOCR writes it: a student, and a teacher of this scale."""

    def network(scale: float, freeze: bool) -> dict[str, Any]:
        neck = {"name": "svtr", "dims": 120, "depth": 2, "hidden_dims": 120, "kernel_size": [1, 3], "use_guide": True}
        heads = [
            {"CTCHead": {"Neck": neck, "Head": {"fc_decay": 2e-5}}},
            {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}},
        ]
        return {
            "pretrained": None,
            "freeze_params": freeze,
            "return_all_feats": True,
            "model_type": "rec",
            "algorithm": "SVTR_LCNet",
            "Transform": None,
            "Backbone": {"name": "PPLCNetV3", "scale": scale},
            "Head": {"name": "MultiHead", "head_list": heads},
        }

    def dataset(*resize: dict[str, Any]) -> dict[str, Any]:
        encode = {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}}
        keep = {"KeepKeys": {"keep_keys": ["image", "label_ctc", "label_gtc", "length", "valid_ratio"]}}
        decode = {"DecodeImage": {"img_mode": "BGR", "channel_first": False}}
        return {
            "name": "SimpleDataSet",
            "data_dir": "train_data",
            "label_file_list": ["list.txt"],
            "transforms": [decode, encode, *resize, keep],
        }

    loader = {"batch_size_per_card": 8, "num_workers": 1}
    yml = {
        "Global": {"epoch_num": 2, "character_dict_path": "en_dict.txt", "use_space_char": True},
        "Architecture": {
            "model_type": "rec",
            "name": "DistillationModel",
            "algorithm": "Distillation",
            "Models": {"Teacher": network(scale, frozen), "Student": network(0.5, False)},
        },
        "Loss": {"name": "CombinedLoss", "loss_config_list": losses},
        "Optimizer": {"name": "Adam", "lr": {"name": "Const", "learning_rate": 1e-3}},
        "PostProcess": {"name": "DistillationCTCLabelDecode", "model_name": ["Student"], "key": "head_out"},
        "Metric": {"name": "DistillationMetric", "base_metric_name": "RecMetric", "key": "Student"},
        "Train": {"dataset": dataset(), "loader": loader},
        "Eval": {"dataset": dataset({"RecResizeImg": {"image_shape": [3, 48, 320]}}), "loader": loader},
    }
    path = folder / "distillation.yml"
    path.write_text(yaml.safe_dump(yml), encoding="utf-8")
    return path


HEAD = {"key": "head_out", "multi_head": True}


def test_a_yml_of_mutual_learning_is_taken(tmp_path: Path) -> None:
    pair = ["Student", "Teacher"]
    losses: list[dict[str, Any]] = [
        {"DistillationDMLLoss": {**HEAD, "weight": 0.5, "act": "softmax", "use_log": True, "model_name_pairs": [pair]}},
        {"DistillationDistanceLoss": {"weight": 1.0, "mode": "l2", "model_name_pairs": pair, "key": "backbone_out"}},
        {"DistillationCTCLoss": {**HEAD, "weight": 1.0, "model_name_list": pair}},
        {"DistillationNRTRLoss": {**HEAD, "weight": 1.0, "model_name_list": pair, "smoothing": False}},
    ]
    path = write_yml(tmp_path, losses, frozen=False)
    translation = translate(path, pretrained="start")
    expected = settings_of(
        ("DistillationDMLLoss", {"weight": 0.5, "dis_head": "ctc"}),
        ("DistillationDistanceLoss", {}),
        ("DistillationCTCLoss", {"model_name_list": pair}),
        ("DistillationNRTRLoss", {"model_name_list": pair, "smoothing": False}),
        # The twin starts where the student does.
        Teacher={"pretrained": "start", "freeze": False},
    )
    assert translation.settings.loss == expected
    config = translation.template.config()
    assert config.backbone == Component("PPLCNetV3", {"scale": 0.5})
    check_fit(translation.settings, config)
    assert translation.settings.optimizer.fc_decay == 2e-5
    assert translation.lines()[-1].startswith("the yml gives training lines no size")
    assert [one.name for one in translation.settings.data.train.dataset.transforms][-2] == "RecResizeImg"
    assert not [line for line in translation.lines() if "not known here" in line]
    with pytest.raises(ConfigError, match="say its name or folder with --teacher"):
        translate(write_yml(tmp_path, losses, frozen=False, scale=0.75), pretrained="start")


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([{"DistillationDMLLoss": {**HEAD, "act": "softmax"}}], "use_log true"),
        ([{"DistillationDMLLoss": {"key": None, "maps_name": "thrink_maps"}}], "key must be head_out"),
        ([{"DistillationVQADistanceLoss": {}}], "cannot be trained here, only DistillationCTCLoss"),
    ],
)
def test_losses_of_a_yml_that_are_others_here_are_named(
    losses: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(write_yml(tmp_path, losses, frozen=True), pretrained="start", teacher="large")


def test_a_frozen_teacher_of_a_yml_wants_to_be_named(tmp_path: Path) -> None:
    path = write_yml(tmp_path, [{"DistillationCTCLoss": {**HEAD, "weight": 1.0}}], frozen=True)
    with pytest.raises(ConfigError, match="the student learns from Teacher, whose weights are in a file"):
        translate(path, pretrained="start")
    loss = translate(path, pretrained="start", teacher="large").settings.loss
    assert isinstance(loss, DistillationSettings)
    assert loss.teachers == {"Teacher": TeacherSettings("large", freeze=True)}


def test_init_takes_a_teacher_by_its_name(teacher: Path, tmp_path: Path) -> None:
    student = saved(tmp_path / "student", tiny_config())
    command = ["init", str(student), "-o", str(tmp_path / "settings"), "--teacher", str(teacher)]
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 0, result.output
    short = json.loads((tmp_path / "settings" / "config.json").read_text())
    assert short["recipe"] == "en_PP-OCRv4_rec"
    settings, _ = read_settings(tmp_path / "settings" / "config.json")
    assert settings.loss == settings_of(
        ("DistillationCTCLoss", {}),
        ("DistillationDKDLoss", {"weight": 0.1, "beta": 2.0}),
        ("DistillationNRTRLoss", {"smoothing": False}),
        ("DistillCTCLogits", {}),
        Teacher={"pretrained": str(teacher)},
    )


def test_a_training_of_an_earlier_version_had_no_teachers() -> None:
    earlier = '{"training": {"early_stop": 3}, "loss": {"weight_1": 1.0}}'
    for before in ("", earlier, '{"loss": null}', "[]", '{"loss": {"teachers": 1}}'):
        refuse_other_teachers(before, tiny_settings(Path()))
    with pytest.raises(ConfigError, match="learnt from other teachers: none, now Teacher of new weights"):
        refuse_other_teachers("{}", teaching(Path(), {"Teacher": {"freeze": False}}))
