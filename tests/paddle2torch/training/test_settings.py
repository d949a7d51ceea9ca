"""Both settings files: read strictly, overridden, made from the official recipe, translated from PaddleOCR's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from material import ROOT
from small_models import saved
from tiny_training import tiny_config, tiny_det_config, tiny_settings

from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.config import CTCDecode, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.strict_json import from_json, to_json
from paddle2torch.training.checkpoints import changed_settings
from paddle2torch.training.config_files import assign, read_settings, write_settings
from paddle2torch.training.data.loaders import check_transforms
from paddle2torch.training.official import official_settings
from paddle2torch.training.paddleocr_yml import translate
from paddle2torch.training.recipes import init
from paddle2torch.training.settings import (
    DatasetSettings,
    DBLossSettings,
    EarlyStopping,
    LoaderSettings,
    MultiScaleSampler,
    OptimizerSettings,
    RecLossSettings,
    ScheduleSettings,
    Settings,
    Tracker,
    TrainingSettings,
    Transform,
    check_fit,
    with_charset,
)
from paddle2torch.training.yml_reader import UNKNOWN


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both files of the tiny recogniser."""
    write_settings(tiny_settings(tmp_path / "output"), tiny_config(), tmp_path / "run")
    return tmp_path / "run"


def test_what_is_written_is_read(folder: Path, tmp_path: Path) -> None:
    assert read_settings(folder / "config.json") == (tiny_settings(tmp_path / "output"), tiny_config())
    elsewhere = (folder / "model_config.json").rename(tmp_path / "other.json")
    assert read_settings(folder / "config.json", elsewhere)[1] == tiny_config()
    with pytest.raises(ConfigError, match="exists: choose another folder"):
        write_settings(tiny_settings(tmp_path), tiny_config(), folder)


def test_the_example_is_one() -> None:
    """Settings of the run that the README tells of; they start from a model that need not be there to read them."""
    settings, model = read_settings(ROOT / "examples" / "meters" / "config.json")
    assert settings.pretrained == model.name == "en_PP-OCRv4_rec"
    assert settings.training.epochs == 1


def test_assignments_change_both_files(folder: Path) -> None:
    settings, config = read_settings(
        folder / "config.json",
        assignments=[
            "optimizer.lr=1e-4",
            'training.freeze=["backbone.*"]',
            "data.train.dataset.label_file_list.0=other.txt",
            "output.dir=runs/3",
            "training.ema_decay=0.99",
            "model_config.freeze_backbone=true",
            "model_config.head.ctc.use_guide=false",
        ],
    )
    assert settings.optimizer.lr == 1e-4
    assert settings.training.freeze == ("backbone.*",)
    assert settings.data.train.dataset.label_file_list == ("other.txt",)
    assert settings.output.dir == "runs/3"
    assert settings.training.ema_decay == 0.99
    assert config.freeze_backbone
    assert config.head.options["ctc"]["use_guide"] is False


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lrr=1", r"config\.json: optimizer: unknown key 'lrr'; did you mean 'lr'\?"),
        ("optimiser.lr=1", "unknown key 'optimiser'; did you mean 'optimizer'"),
        ("optimizer.lr=fast", "optimizer.lr: expected float, found 'fast'"),
        ("optimizer.lr=-1", "config.json: optimizer: lr is -1"),
        ("optimizer.name=SGD", "'SGD' is not one of 'Adam'"),
        ("training.epochs=0", "epochs is 0: it must be a number from 1 to"),
        ("training.epochs=1.5", "expected int, found 1.5"),
        ("training.dropout=1", "dropout must be in"),
        ("schedule.name=Piecewise", "one value more than decay_epochs"),
        ("data.train.loader.batch_size_per_card=0", "must be a number from 1 to"),
        ("data.train.dataset.label_file_list=[]", "needs a label_file_list"),
        ("data.train.dataset.ratio_list=[1, 1, 1]", "3 shares for 1 label files"),
        ("data.train.dataset.ratio_list=[0]", "must be above 0"),
        ("data.train.sampler.scales=[[320, 32], [320, 10]]", r"a scale is smaller than divided_factor, \[8, 16\]"),
        ("data.train.dataset.transforms=[{}]", "expected an object with one key"),
        ("data.train.dataset.label_file_list.7=x", r"there is no 'data\.train\.dataset\.label_file_list\.7'"),
        ("optimizer.lr.x=1", r"there is no 'optimizer\.lr\.x'"),
        ("optimizer", "expected KEY.KEY=VALUE"),
        ("=1", "expected KEY.KEY=VALUE"),
        ("loss.alpha=1", "unknown key"),
        ("model_config.freeze_backbon=true", "did you mean 'freeze_backbone'"),
        ("model_config.head.classes=9", "the head has 9"),
        ("model_config.head.nrtr=null", "nothing would train the backbone"),
        ("loss.weight_2=0", r"switched off \(loss\.weight_2\)"),
        ("evaluation.main_indicator=hmean", "gives no 'hmean'; it gives acc, norm_edit_dis, cer, wer"),
        (
            'evaluation.early_stopping={"patience": 2, "metric": "f1"}',
            r"early_stopping\.metric: .* no 'f1'",
        ),
        ('evaluation.early_stopping={"patience": 0}', "patience is 0: it must be a number from 1 to"),
        ("output.trackers=[5]", r"output.trackers\[0\]: expected an object with one key"),
        ('output.trackers=["wandb", {"wandb": {}}]', "trackers wandb, wandb can be there once"),
        ("model_config.form=fused", "this model_config.json is of the fused one"),
    ],
)
def test_mistakes_are_named(folder: Path, assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(folder / "config.json", assignments=[assignment])


def test_a_set_of_a_right_to_left_script_is_read_that_way() -> None:
    config, notes = with_charset(tiny_config(), Path("arabic_dict.txt"))
    assert config.postprocess == CTCDecode(right_to_left=True)
    assert any("as they are seen from the left" in note for note in notes)
    config, notes = with_charset(config, Path("en_dict.txt"))
    assert config.postprocess == CTCDecode(right_to_left=False)
    assert not any("left" in note for note in notes)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: there is no such file.*`paddle2torch init` writes both"):
        read_settings(tmp_path / "config.json")
    for text in ("{", '{"a": "\xff"}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError, match="is not JSON"):
            read_settings(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected an object"):
        read_settings(tmp_path / "config.json")


def test_missing_objects_are_made_and_then_checked() -> None:
    assert assign({}, "a.b=1") == {"a": {"b": 1}}
    assert assign({"a": None}, "a.b=x=y") == {"a": {"b": "x=y"}}
    assert assign({"a": [1, {"b": 2}]}, "a.1.b=null") == {"a": [1, {"b": None}]}


def test_the_guide_needs_someone_to_train_the_backbone() -> None:
    """CTC alone is refused while it leaves the backbone to NRTR; each way out is accepted."""
    settings = tiny_settings(Path("x"))
    alone = {"nrtr": None}
    with pytest.raises(ConfigError, match=r"set head.ctc.use_guide to false .* or freeze_backbone to true"):
        check_fit(settings, tiny_config(head=alone))
    ctc = {**tiny_config().head.options["ctc"], "use_guide": False}
    check_fit(settings, tiny_config(head={**alone, "ctc": ctc}))
    check_fit(settings, tiny_config(head=alone, freeze_backbone=True))


def test_the_loss_belongs_to_the_task() -> None:
    with pytest.raises(ConfigError, match="keys under loss are those of DBLossSettings"):
        check_fit(tiny_settings(Path("x")), tiny_det_config())
    check_fit(tiny_settings(Path("x"), det=True), tiny_det_config())
    with pytest.raises(ConfigError, match="one value per pixel"):
        DBLossSettings(main_loss_type="BCELoss", balance_loss=False)


def test_transforms_are_written_as_in_paddleocr() -> None:
    assert from_json(Transform, {"RecAug": None}, "x") == Transform("RecAug")
    assert Transform("RecAug", {"tia_prob": 0.4}).to_json() == {"RecAug": {"tia_prob": 0.4}}
    with pytest.raises(ConfigError, match="the options of RecAug are an object"):
        from_json(Transform, {"RecAug": 3}, "x")


def test_a_database_has_no_label_files() -> None:
    assert DatasetSettings("lmdb", name="LMDBDataSet").label_file_list == ()
    with pytest.raises(ConfigError, match="takes no label_file_list"):
        DatasetSettings("lmdb", ("a.txt",), name="LMDBDataSet")


@pytest.fixture
def official_rec() -> dict[str, Any]:
    """The values of PaddleOCR's en_PP-OCRv4_rec.yml."""
    decode = {"DecodeImage": {"img_mode": "BGR", "channel_first": False}}
    encode = {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}}
    keep = {"KeepKeys": {"keep_keys": ["image", "label_ctc", "label_gtc", "length", "valid_ratio"]}}
    join = {"prob": 0.5, "ext_data_num": 2, "image_shape": [48, 320, 3], "max_text_length": 25}
    neck = {"name": "svtr", "dims": 120, "depth": 2, "hidden_dims": 120, "kernel_size": [1, 3], "use_guide": True}
    return {
        "Global": {
            **{"epoch_num": 50, "print_batch_step": 10, "save_model_dir": "output", "eval_batch_step": [0, 2000]},
            **{"character_dict_path": "ppocr/utils/en_dict.txt", "use_space_char": True, "max_text_length": 25},
            **{"use_gpu": True, "use_sync_bn": True, "pretrained_model": None, "profile": 1},
        },
        "Optimizer": {
            **{"name": "Adam", "beta1": 0.9, "beta2": 0.999},
            "lr": {"name": "Cosine", "learning_rate": 0.0005, "warmup_epoch": 5},
            "regularizer": {"name": "L2", "factor": "3.0e-05"},
        },
        "Architecture": {
            **{"model_type": "rec", "algorithm": "SVTR_LCNet", "Transform": None},
            "Backbone": {"name": "PPLCNetV3", "scale": 0.95},
            "Head": {
                "name": "MultiHead",
                "head_list": [
                    {"CTCHead": {"Neck": neck, "Head": {"fc_decay": 1e-5}}},
                    {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}},
                ],
            },
        },
        "Loss": {"name": "MultiLoss", "loss_config_list": [{"CTCLoss": None}, {"NRTRLoss": None}]},
        "PostProcess": {"name": "CTCLabelDecode"},
        "Metric": {"name": "RecMetric", "main_indicator": "acc", "ignore_space": False},
        "Train": {
            "dataset": {
                **{"name": "MultiScaleDataSet", "ds_width": False, "data_dir": "train_data", "ext_op_transform_idx": 1},
                "label_file_list": ["train_data/train_list.txt"],
                "transforms": [decode, {"RecConAug": join}, {"RecAug": None}, encode, keep],
            },
            "sampler": {
                **{"name": "MultiScaleSampler", "first_bs": 96, "fix_bs": False, "is_training": True},
                **{"scales": [[320, 32], [320, 48], [320, 64]], "divided_factor": [8, 16]},
            },
            "loader": {"shuffle": True, "batch_size_per_card": 96, "drop_last": True, "num_workers": 8},
        },
        "Eval": {
            "dataset": {
                **{"name": "SimpleDataSet", "data_dir": "train_data", "ext_op_transform_idx": 1},
                "label_file_list": ["train_data/val_list.txt"],
                "transforms": [decode, encode, {"RecResizeImg": {"image_shape": [3, 48, 320]}}, keep],
            },
            "loader": {"shuffle": False, "drop_last": False, "batch_size_per_card": 128, "num_workers": 4},
        },
        "profiler_options": None,
    }


def write_yml(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "official.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_recipe_is_the_official_ymls(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    """Two ways to the same settings: our recipe, and the translation of what PaddleOCR publishes."""
    translation = translate(write_yml(tmp_path, official_rec), pretrained="en_PP-OCRv4_rec")
    config = replace(translation.template, name="en_PP-OCRv4_rec").config()
    assert config.charset == (*read_charset(charset_path("en_dict.txt")), " ")
    assert config.classes == 97
    ours = official_settings(config, pretrained="en_PP-OCRv4_rec")
    assert changed_settings(ours.dumps(), translation.settings.dumps()) == []
    assert translation.settings.optimizer == OptimizerSettings(5e-4, l2=3e-5, fc_decay=1e-5)


def test_a_yml_with_the_center_loss_is_taken(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    """As PP-OCRv2's enhanced recogniser."""
    official_rec["Loss"] = {
        "name": "CombinedLoss",
        "loss_config_list": [
            {"CTCLoss": {"use_focal_loss": False, "weight": 1.0}},
            {"CenterLoss": {"weight": 0.05, "num_classes": 6625, "feat_dim": 96, "center_file_path": None}},
        ],
    }
    loss = translate(write_yml(tmp_path, official_rec), pretrained=None).settings.loss
    assert loss == RecLossSettings(1.0, 0.0, center_weight=0.05)


def test_the_center_loss_wants_a_ctc_head_alone() -> None:
    settings = official_settings(from_card(load_card("ch_PP-OCRv2_rec")).config(), pretrained=None)
    settings = replace(settings, loss=RecLossSettings(center_weight=0.05))
    check_fit(settings, from_card(load_card("ch_PP-OCRv2_rec")).config())
    with pytest.raises(ConfigError, match="whose only head is a CTCHead, not for MultiHead: set it to 0"):
        check_fit(settings, from_card(load_card("ch_PP-OCRv4_rec")).config())


def test_a_yml_with_the_ctc_loss_alone_is_taken(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    """As those of v2 and of own recognisers: one head, whose labels are called `label`."""
    official_rec["Loss"] = {"name": "CTCLoss", "use_focal_loss": True}
    heads = official_rec["Architecture"]["Head"]["head_list"]
    del heads[1]
    heads[0]["CTCHead"]["Neck"] = {**heads[0]["CTCHead"]["Neck"], "use_guide": False}
    keep = {"KeepKeys": {"keep_keys": ["image", "label", "length"]}}
    for split in ("Train", "Eval"):
        transforms = official_rec[split]["dataset"]["transforms"]
        official_rec[split]["dataset"]["transforms"] = [
            keep if "KeepKeys" in step else {"CTCLabelEncode": None} if "MultiLabelEncode" in step else step
            for step in transforms
        ]
    translation = translate(write_yml(tmp_path, official_rec), pretrained=None)
    assert translation.settings.loss == RecLossSettings(1.0, 0.0, use_focal_loss=True)
    assert translation.settings.data.train.dataset.transforms[-1].options["keep_keys"] == [
        "image",
        "label_ctc",
        "length",
    ]
    check_fit(translation.settings, replace(translation.template, name="own").config())


SAR = [{"CTCHead": {"Neck": {"name": "svtr", "use_guide": True}}}, {"SARHead": {"enc_dim": 512, "max_text_length": 25}}]


def with_transforms(yml: dict[str, Any], **changes: Any) -> None:
    """Change transforms of both splits of a yml, by their names: the new transform, or None to leave it out."""
    for split in ("Train", "Eval"):
        steps = [changes.get(next(iter(step)), step) for step in yml[split]["dataset"]["transforms"]]
        yml[split]["dataset"]["transforms"] = [step for step in steps if step is not None]


def test_a_yml_of_v3_trains_its_sar_head(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    official_rec["Loss"]["loss_config_list"] = [{"CTCLoss": None}, {"SARLoss": None}]
    official_rec["Architecture"]["Backbone"] = {
        "name": "MobileNetV1Enhance",
        **{"scale": 0.5, "last_conv_stride": [1, 2], "last_pool_type": "avg", "last_pool_kernel_size": [2, 2]},
    }
    official_rec["Architecture"]["Head"]["head_list"] = SAR
    keep = {"KeepKeys": {"keep_keys": ["image", "label_ctc", "label_sar", "length", "valid_ratio"]}}
    with_transforms(official_rec, MultiLabelEncode={"MultiLabelEncode": None}, KeepKeys=keep)
    path = write_yml(tmp_path, official_rec)
    translation = translate(path, pretrained=None)
    assert translation.settings.loss == RecLossSettings(weight_2=1.0)
    config = replace(translation.template, name="own").config()
    assert config.head.options["sar"] == {"enc_dim": 512, "max_text_length": 25}
    check_fit(translation.settings, config)
    for split in (translation.settings.data.train, translation.settings.data.eval):
        check_transforms(split, config, training=split.sampler is not None)
    # As the recipe without a yml.
    official = official_settings(config, pretrained=None).data.eval.dataset.transforms
    assert [to_json(step) for step in official] == [
        to_json(step) for step in translation.settings.data.eval.dataset.transforms
    ]


def test_a_yml_without_a_dictionary_reads_digits_and_small_letters(
    tmp_path: Path, official_rec: dict[str, Any]
) -> None:
    official_rec["Global"] |= {"character_dict_path": None, "max_text_length": 40}
    official_rec["Train"]["dataset"]["name"] = "MSTextRecDataset"
    official_rec["Eval"]["dataset"]["name"] = "RatioDataSet"
    official_rec["Eval"]["dataset"]["ratio_list"] = [0.5]
    encode = {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode", "max_text_length": 1000}}
    resize = {"SVTRRecResizeImg": {"image_shape": [3, 48, 320], "padding": True}}
    with_transforms(official_rec, MultiLabelEncode=encode, RecResizeImg=resize)
    translation = translate(write_yml(tmp_path, official_rec), pretrained=None)
    config = replace(translation.template, name="own").config()
    assert "".join(config.charset or ()) == "0123456789abcdefghijklmnopqrstuvwxyz"
    train, evaluation = translation.settings.data.train.dataset, translation.settings.data.eval.dataset
    assert (train.name, evaluation.name, evaluation.ratio_list) == ("MultiScaleDataSet", "SimpleDataSet", (0.5,))
    steps = {step.name: step.options for step in (*train.transforms, *evaluation.transforms)}
    assert steps["MultiLabelEncode"] == {"gtc_encode": "NRTRLabelEncode", "lower": True}
    # What Global says goes over what a transform says of itself, in PaddleOCR.
    assert steps["RecConAug"]["max_text_length"] == 40
    assert steps["RecResizeImg"] == {"image_shape": [3, 48, 320]}
    resize["SVTRRecResizeImg"]["padding"] = False
    translation = translate(write_yml(tmp_path, official_rec), pretrained=None)
    steps = {step.name: step.options for step in translation.settings.data.eval.dataset.transforms}
    assert steps["RecResizeImg"] == {"image_shape": [3, 48, 320], "padding": False}
    assert translation.template.preprocess == RecPreprocess((3, 48, 320), max_width=320, keep_ratio=False)


def test_every_key_is_used_or_named(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    translation = translate(write_yml(tmp_path, official_rec), pretrained=None)
    assert translation.left_out["Global.profile"] == UNKNOWN
    assert translation.left_out["Global.use_gpu"] == "happens by itself"
    assert "Optimizer.beta1" not in translation.left_out
    assert f"not in config.json ({UNKNOWN}): Global.profile" in translation.lines()
    # Each leaf that is changed shows in the settings, or stands on the list.
    used = translation.settings.dumps()
    official_rec["Train"]["loader"]["num_workers"] = 3
    official_rec["Eval"]["dataset"]["delimiter"] = " "
    changes = changed_settings(used, translate(write_yml(tmp_path, official_rec), pretrained=None).settings.dumps())
    assert changes == ["data.eval.dataset.delimiter: ' ', was '\\t'", "data.train.loader.num_workers: 3, was 8"]


def test_the_shared_official_ymls_translate(shared: Path) -> None:
    for name, task in (("en_PP-OCRv4_rec_train", RecLossSettings), ("ch_PP-OCRv4_det_train", DBLossSettings)):
        translation = translate(shared / "models" / name / "config.yml", pretrained=None)
        assert UNKNOWN not in translation.left_out.values()
        config = replace(translation.template, name="x").config()
        check_fit(translation.settings, config)
        assert isinstance(translation.settings.loss, task)
        official = json.loads(official_settings(config, pretrained=None).dumps())
        found = json.loads(translation.settings.dumps())
        for section in ("loss", "optimizer", "schedule", "evaluation"):
            assert found[section] == official[section], section
        assert found["training"] == {**official["training"], "sync_batch_norm": False}


STEPS_DOWN = {"name": "MultiStepDecay", "learning_rate": 1e-3, "milestones": [3, 7], "gamma": 0.1}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("Optimizer.name", "Adadelta", "Optimizer.name is 'Adadelta'; here it can only be 'Adam' or 'AdamW' or"),
        ("Optimizer.name", "AdamW", "regularizer does not go with AdamW, in PaddleOCR neither: write weight_decay"),
        ("Optimizer.name", "Momentum", "Optimizer.momentum is missing"),
        ("Optimizer.regularizer.name", "L1", "here it can only be 'L2' or 'L2Decay'"),
        ("Optimizer.lr.name", "Noam", "'Noam' is not one of Cosine, Const, TwoStepCosine"),
        ("Optimizer.lr.name", "OneCycle", "Optimizer.lr.max_lr is missing"),
        ("Optimizer.lr.name", "Step", "Optimizer.lr.step_size is missing"),
        ("Optimizer.lr", {**STEPS_DOWN, "gamma": 1e300}, "gamma is 1e\\+300: a rate is multiplied by 0 to 1"),
        ("Optimizer.lr", {**STEPS_DOWN, "milestones": 7}, "a list of at most 10,000 changes of the rate is taken"),
        ("Optimizer.lr.name", "Piecewise", "Optimizer.lr.values should be a list of rates, found None"),
        ("Optimizer.lr.learning_rate", "fast", "should be of type float, found 'fast'"),
        ("Optimizer.clip_norm", 5.0, "write clip_norm_global"),
        ("Global.epoch_num", None, "Global.epoch_num is missing"),
        ("Global.eval_batch_epoch", 1, "counted in steps"),
        ("Loss.name", "ACELoss", "Loss.name is 'ACELoss'"),
        ("Loss", {"name": "CombinedLoss", "loss_config_list": [{"ACELoss": {"weight": 0.1}}]}, "ACELoss cannot be"),
        (
            "Loss",
            {"name": "CombinedLoss", "loss_config_list": [{"CenterLoss": {"center_file_path": "train_center.pkl"}}]},
            "a pickle, which is not read: leave init_center and center_file_path out",
        ),
        ("Loss.loss_config_list", [{"CTCLoss": None}, {"ACELoss": None}], "ACELoss cannot be trained here, only CTCL"),
        ("Loss.loss_config_list", [{"CTCLoss": {"use_focal": True}}], "did you mean 'use_focal_loss'"),
        ("Train.sampler.name", "RatioSampler", "here it can only be 'MultiScaleSampler'"),
        ("Train.dataset.ds_width", True, "ds_width is True; here it can only be False"),
        ("Train.dataset.name", "PubTabDataSet", "'PubTabDataSet' is not one of"),
        ("Architecture.model_type", "cls", "Loss.name is 'MultiLoss'; here it can only be 'ClsLoss'"),
    ],
)
def test_what_would_train_differently_is_refused(
    tmp_path: Path, official_rec: dict[str, Any], path: str, value: Any, message: str
) -> None:
    *steps, last = path.split(".")
    place = official_rec
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises(ConfigError, match=message):
        translate(write_yml(tmp_path, official_rec), pretrained=None)


def test_other_settings_of_a_yml(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    official_rec["Global"] |= {"use_amp": True, "amp_dtype": "bfloat16", "seed": 3, "eval_batch_step": 500}
    official_rec["Optimizer"]["lr"] = {"name": "Piecewise", "decay_epochs": [7], "values": [1e-3, 1e-4]}
    official_rec["Optimizer"]["clip_norm_global"] = 5
    official_rec["Loss"] |= {"weight_2": 0.5}
    del official_rec["Architecture"]["Head"]["head_list"][0]["CTCHead"]["Head"]["fc_decay"]
    settings = translate(write_yml(tmp_path, official_rec), pretrained="x").settings
    assert settings.training == TrainingSettings(50, seed=3, precision="bf16")
    assert settings.schedule == ScheduleSettings("Piecewise", decay_epochs=(7,), values=(1e-3, 1e-4))
    assert settings.optimizer == OptimizerSettings(1e-3, l2=3e-5, fc_decay=4e-4, clip_norm_global=5.0)
    assert settings.loss == RecLossSettings(weight_2=0.5)
    assert (settings.evaluation.start_step, settings.evaluation.every_steps) == (0, 500)


def test_a_file_that_is_no_yml(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("a: [")
    with pytest.raises(FileFormatError, match="is not YAML"):
        translate(path, pretrained=None)


def test_init_follows_the_converted_model(tmp_path: Path) -> None:
    saved(tmp_path / "model", tiny_config())
    assert init(str(tmp_path / "model"), tmp_path / "run", official=True) == ()
    settings, config = read_settings(tmp_path / "run" / "config.json")
    assert config == tiny_config()
    assert settings.pretrained == str(tmp_path / "model")
    assert settings.data.train.sampler == MultiScaleSampler(((64, 32), (64, 48), (64, 64)))
    assert settings.data.train.loader.batch_size_per_card == 96
    assert settings.data.max_text_length == 12


def test_init_scales_the_recipe_to_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU; with a GPU the batch is the official one, an eighth of what the rate is for."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    notes = init("en_PP-OCRv4_rec", tmp_path / "cpu")
    settings, _ = read_settings(tmp_path / "cpu" / "config.json")
    train = settings.data.train
    assert train.sampler is not None
    assert (train.loader.batch_size_per_card, train.sampler.first_bs) == (16, None)
    assert (train.loader.num_workers, settings.data.eval.loader.num_workers) == (None, None)
    assert (settings.optimizer.lr, settings.schedule.warmup_epoch) == (2.5e-5, 1.0)
    assert any("batches of 16 (officially 8 x 96), a rate of 2.5e-05 (0.0005)" in note for note in notes)
    init("ch_PP-OCRv4_det", tmp_path / "det")
    det, _ = read_settings(tmp_path / "det" / "config.json")
    assert (det.data.train.loader.batch_size_per_card, det.optimizer.lr) == (2, 5e-5)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    init("en_PP-OCRv4_rec", tmp_path / "gpu")
    settings, _ = read_settings(tmp_path / "gpu" / "config.json")
    assert (settings.data.train.loader.batch_size_per_card, settings.optimizer.lr) == (96, 6.3e-5)


def test_init_writes_what_one_changes_and_the_recipe_has_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    init("en_PP-OCRv4_rec", tmp_path / "run")
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written == {
        "recipe": "en_PP-OCRv4_rec",
        "pretrained": "en_PP-OCRv4_rec",
        "data": {
            "train": {
                "dataset": {"data_dir": "train_data", "label_file_list": ["train_data/train_list.txt"]},
                "loader": {"batch_size_per_card": 16, "num_workers": None},
            },
            "eval": {
                "dataset": {"data_dir": "train_data", "label_file_list": ["train_data/val_list.txt"]},
                "loader": {"num_workers": None},
            },
        },
        "optimizer": {"lr": 2.5e-5},
        "training": {"epochs": 50, "freeze": []},
        "schedule": {"warmup_epoch": 1.0},
        "output": {"dir": "output"},
    }
    init("en_PP-OCRv4_rec", tmp_path / "full", full=True)
    assert "transforms" in (tmp_path / "full" / "config.json").read_text()
    short, full = (read_settings(tmp_path / name / "config.json") for name in ("run", "full"))
    assert short == full
    # A file that is changed changes that, and no list is mixed with the recipe's.
    written["data"]["train"]["dataset"]["transforms"] = [{"DecodeImage": {"img_mode": "BGR"}}]
    written["optimizer"]["l2"] = 0.5
    (tmp_path / "run" / "config.json").write_text(json.dumps(written))
    changed, _ = read_settings(tmp_path / "run" / "config.json", assignments=["training.seed=3"])
    assert len(changed.data.train.dataset.transforms) == 1
    assert (changed.optimizer.l2, changed.optimizer.fc_decay, changed.training.seed) == (0.5, 1e-5, 3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [('"en_PP-OCRv4_recc"', "recipe: .*did you mean"), ("3", "recipe: expected str"), ('"ch_PP-OCRv4_det"', "recipe")],
)
def test_recipes_that_nobody_knows(folder: Path, recipe: str, message: str) -> None:
    path = folder / "config.json"
    path.write_text('{"recipe": ' + recipe + path.read_text().replace("{", ", ", 1))
    with pytest.raises(ConfigError, match=message):
        read_settings(path)


def test_mistakes_in_a_short_file_are_named_as_in_a_whole_one(tmp_path: Path) -> None:
    saved(tmp_path / "model", tiny_config())
    init(str(tmp_path / "model"), tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"freeze"', '"freeeze"'))
    with pytest.raises(ConfigError, match=r"config\.json: training: unknown key 'freeeze'; did you mean 'freeze'"):
        read_settings(path)


def test_files_of_the_first_version_are_read_as_they_were(tmp_path: Path) -> None:
    """They are whole, with the sampler's own batch and the workers written out, and without what came later."""
    saved(tmp_path / "model", tiny_config())
    init(str(tmp_path / "model"), tmp_path / "run", official=True, full=True)
    path = tmp_path / "run" / "config.json"
    data = json.loads(path.read_text())
    data["data"]["train"]["sampler"]["first_bs"] = 24
    for part in ("train", "eval"):
        del data["data"][part]["dataset"]["sources"]
    del data["output"]["trackers"]
    data["output"]["tensorboard"] = True
    del data["evaluation"]["early_stopping"], data["evaluation"]["main_indicator"]
    data["training"]["early_stop"] = 3
    path.write_text(json.dumps(data))
    settings, _ = read_settings(path)
    assert settings.output.trackers == (Tracker("tensorboard"),)
    assert settings.evaluation.early_stopping == EarlyStopping(3)
    assert settings.data.train.sampler == MultiScaleSampler(((64, 32), (64, 48), (64, 64)), 24)
    assert settings.data.train.loader.num_workers == 8


@pytest.mark.parametrize(("name", "decay"), [("ch_SVTRv2_rec", 0.05), ("ch_RepSVTR_rec", 0.025)])
def test_init_writes_the_adamw_recipes(tmp_path: Path, name: str, decay: float) -> None:
    """Of PaddleOCR's configs/rec/SVTRv2."""
    init(name, tmp_path, official=True)
    settings, _ = read_settings(tmp_path / "config.json")
    assert settings.optimizer == OptimizerSettings(
        1e-3,
        "AdamW",
        weight_decay=decay,
        no_weight_decay_name=("norm",),
        one_dim_param_no_weight_decay=True,
        fc_decay=1e-5,
    )
    assert [step.name for step in settings.data.train.dataset.transforms][:3] == [
        "DecodeImage",
        "RecAug",
        "MultiLabelEncode",
    ]


@pytest.mark.parametrize("name", ["en_PP-OCRv4_rec", "ch_PP-OCRv4_rec", "ch_PP-OCRv4_det"])
def test_init_of_a_model_that_is_not_here_yet(tmp_path: Path, name: str) -> None:
    notes = init(name, tmp_path)
    assert "not converted here yet" in notes[0]
    settings, config = read_settings(tmp_path / "config.json")
    assert settings.pretrained == config.name == name
    assert settings.training.epochs == {"en_PP-OCRv4_rec": 50, "ch_PP-OCRv4_rec": 200, "ch_PP-OCRv4_det": 500}[name]
    with pytest.raises(ConfigError, match="did you mean"):
        init("en_PP-OCRv4_recc", tmp_path / "other")


def test_init_from_a_yml(tmp_path: Path, official_rec: dict[str, Any]) -> None:
    notes = init("en_PP-OCRv4_rec", tmp_path / "run", yml=write_yml(tmp_path, official_rec))
    assert any("Global.profile" in note for note in notes)
    settings, config = read_settings(tmp_path / "run" / "config.json")
    assert settings.training.epochs == 50
    assert settings.data.train.loader == LoaderSettings(96, shuffle=True, drop_last=True, num_workers=None)
    assert settings.optimizer.lr == 5e-4
    assert config.classes == 97
    assert isinstance(settings, Settings)


@pytest.mark.parametrize("folder", ["/root/.ssh", "../../x", "a/../../x", "~/x", "C:\\x", "..\\x", "\\\\host\\share"])
def test_a_yml_does_not_send_training_out_of_the_working_folder(
    tmp_path: Path, official_rec: dict[str, Any], folder: str
) -> None:
    official_rec["Global"]["save_model_dir"] = folder
    translation = translate(write_yml(tmp_path, official_rec), pretrained=None)
    assert translation.settings.output.dir == "output"
    assert translation.left_out["Global.save_model_dir"] == "it leads out of the working folder: set output.dir"
    official_rec["Global"]["save_model_dir"] = "./output/rec..x"
    assert translate(write_yml(tmp_path, official_rec), pretrained=None).settings.output.dir == "./output/rec..x"
