"""A PaddleOCR training yml as our settings. Every key of it is used, or named with the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paddle2torch.converters.templates import Template, distilled, from_sections
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.names import leads_out
from paddle2torch.model_zoo.show import show_text
from paddle2torch.model_zoo.strict_json import from_json, unknown_key
from paddle2torch.model_zoo.strict_yaml import read_yaml
from paddle2torch.training.distillation_settings import STUDENT, DistillationSettings, TeacherSettings
from paddle2torch.training.distillation_yml import read_losses, read_teachers, student_sections
from paddle2torch.training.optimisation_yml import read_optimizer, read_schedule
from paddle2torch.training.settings import (
    ClsLossSettings,
    DatasetSettings,
    DataSettings,
    DBLossSettings,
    EvaluationSettings,
    LoaderSettings,
    MultiScaleSampler,
    OutputSettings,
    RecLossSettings,
    Settings,
    SplitSettings,
    TrainingSettings,
)
from paddle2torch.training.yml_reader import Reader


@dataclass(frozen=True)
class Translation:
    """A translated yml: our settings, the model it describes, and the keys that are not in them, each with why.

    notes: what is in the settings and not in the yml.
    """

    settings: Settings
    template: Template
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The keys by reason, and the notes."""
        by_reason: dict[str, list[str]] = {}
        for key, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(key)
        left_out = [f"not in config.json ({reason}): {', '.join(keys)}" for reason, keys in by_reason.items()]
        return [*left_out, *self.notes]


def translate(path: Path, *, pretrained: str | None, teacher: str | None = None) -> Translation:
    """Translate a training yml. teacher: the model that a distillation's teacher is.

    Raises `ConfigError` for what would train differently here, `FileFormatError` for a file that is none.
    """
    data = read_yaml(path)
    teachers: Mapping[str, TeacherSettings] = {}
    if distilled(data, path):
        several, data = data, student_sections(data, path)
        teachers = read_teachers(several, path, pretrained=pretrained, teacher=teacher)
    elif teacher is not None:
        raise ConfigError(f"{path} is of one network: leave --teacher out, or --from")
    template = from_sections(data, Path(path))
    assert template.task is not None
    reader = Reader(data, str(path))
    reader.at("Architecture.model_type", str)
    length = reader.at("Global.max_text_length", int, 25)
    # Without a dictionary PaddleOCR reads digits and small letters, and makes the labels so.
    lower = template.task == "rec" and reader.raw("Global.character_dict_path") is None
    reader.read.discard("Global.character_dict_path")
    train, evaluation = (_split(reader, name, length, lower=lower) for name in ("Train", "Eval"))
    train, notes = _with_size(train, evaluation) if template.task == "rec" else (train, ())
    training = _training(reader)
    lr, schedule = read_schedule(reader, training.epochs)
    settings = Settings(
        pretrained=pretrained,
        data=DataSettings(train, evaluation, length),
        loss=_distillation(reader, teachers) if teachers else _LOSSES[template.task](reader),
        optimizer=read_optimizer(reader, template.task, lr),
        training=training,
        schedule=schedule,
        evaluation=_evaluation(reader),
        output=OutputSettings(_output_folder(reader), reader.at("Global.print_batch_step", int, 10)),
    )
    return Translation(settings, template, reader.left_out(), notes)


def _with_size(train: SplitSettings, evaluation: SplitSettings) -> tuple[SplitSettings, tuple[str, ...]]:
    """The training data with a size, where the yml gives lines none, and a note on that.

    PP-OCRv4's distillation yml is such a one: PaddleOCR could not make a batch of its lines.
    """
    transforms = train.dataset.transforms
    resize = [one for one in evaluation.dataset.transforms if one.name == "RecResizeImg"]
    sized = train.sampler is not None or any(one.name == "RecResizeImg" for one in transforms)
    if sized or not resize or train.dataset.name == "MultiScaleDataSet":
        return train, ()
    place = next((number for number, one in enumerate(transforms) if one.name == "KeepKeys"), len(transforms))
    dataset = replace(train.dataset, transforms=(*transforms[:place], *resize, *transforms[place:]))
    note = "the yml gives training lines no size: Train.dataset.transforms has the RecResizeImg of Eval"
    return replace(train, dataset=dataset), (note,)


def _output_folder(reader: Reader) -> str:
    """Where training writes. A yml that came with a model is not to say that of any place of this machine."""
    path = "Global.save_model_dir"
    folder = reader.at(path, str, OutputSettings.dir)
    if not leads_out(folder) and not folder.startswith("~"):
        return folder
    reader.read.discard(path)
    return OutputSettings.dir


FIRST_BS = 128
"""MultiScaleSampler's own default."""

# PaddleX's names of PaddleOCR's datasets, and one that takes of each label file its share, as they all do here.
_DATASETS: Mapping[str, str] = {
    "TextDetDataset": "SimpleDataSet",
    "TextRecDataset": "SimpleDataSet",
    "MSTextRecDataset": "MultiScaleDataSet",
    "RatioDataSet": "SimpleDataSet",
}


def _split(reader: Reader, name: str, length: int, *, lower: bool) -> SplitSettings:
    path = f"{name}.dataset"
    kind = reader.at(f"{path}.name", str, "SimpleDataSet")
    kind = _DATASETS.get(kind, kind)
    # Batches of lines of similar width are not made here.
    reader.only(f"{path}.ds_width", False)
    files = reader.raw(f"{path}.label_file_list") or []
    shares = reader.raw(f"{path}.ratio_list")
    data = {
        "name": kind,
        "data_dir": reader.at(f"{path}.data_dir", str),
        "label_file_list": [files] if isinstance(files, str) else files,
        "ratio_list": shares if isinstance(shares, list) else [shares if shares is not None else 1.0],
        "delimiter": reader.at(f"{path}.delimiter", str, "\t"),
        "ext_op_transform_idx": reader.at(f"{path}.ext_op_transform_idx", int, 1 if kind == "LMDBDataSet" else 2),
        "transforms": _transforms(reader, f"{path}.transforms", length, lower=lower),
    }
    dataset = from_json(DatasetSettings, data, f"{reader.where}: {path}")
    loader = LoaderSettings(
        reader.at(f"{name}.loader.batch_size_per_card", int),
        reader.at(f"{name}.loader.shuffle", bool, False),
        reader.at(f"{name}.loader.drop_last", bool, False),
        reader.at(f"{name}.loader.num_workers", int, 4),
    )
    return SplitSettings(dataset, loader, _sampler(reader, name, loader.batch_size_per_card))


def _transforms(reader: Reader, path: str, length: int, *, lower: bool) -> list[dict[str, Any]]:
    """The transforms by our names and in our order; with `lower`, labels are encoded in small letters.

    PaddleOCR gives every transform the values of `Global`, over its own: the longest text is `length` for all.
    """
    found = []
    for transform in _named_labels(reader.sections(path)):
        for name, options in transform.items():
            if name == "SVTRRecResizeImg":
                # The same, with one option more.
                name, options = "RecResizeImg", dict(options or {})
                if options.get("padding") is True:
                    del options["padding"]
            if name == "RecAug" and (options or {}).get("use_tia") is False:
                # As ymls before v3 leave the warping out.
                options = {key: value for key, value in (options or {}).items() if key != "use_tia"}
                options["tia_prob"] = 0.0
            if name == "RecConAug":
                options = {**(options or {}), "max_text_length": length}
            if name in ("CTCLabelEncode", "MultiLabelEncode"):
                options = {key: value for key, value in (options or {}).items() if key != "max_text_length"}
                options |= {"lower": True} if lower else {}
            found.append({name: options})
    names = [next(iter(transform), "") for transform in found]
    border, shrink = (names.index(name) if name in names else -1 for name in ("MakeBorderMap", "MakeShrinkMap"))
    if -1 < shrink < border:
        # Each makes maps of its own from the same polygons: their order does not matter.
        found[border], found[shrink] = found[shrink], found[border]
    return found


def _named_labels(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transforms; what CTCLabelEncode makes is `label` in settings where it is alone, and `label_ctc` here."""
    if not any("CTCLabelEncode" in transform for transform in transforms):
        return transforms
    named = []
    for transform in transforms:
        keys = (transform.get("KeepKeys") or {}).get("keep_keys")
        if isinstance(keys, list):
            renamed = ["label_ctc" if key == "label" else key for key in keys]
            transform = {**transform, "KeepKeys": {**transform["KeepKeys"], "keep_keys": renamed}}
        named.append(transform)
    return named


def _sampler(reader: Reader, name: str, batch: int) -> MultiScaleSampler | None:
    """The sampler of several sizes; batch: the loader's, which is the one number where both are the same."""
    path = f"{name}.sampler"
    if reader.raw(path) is None:
        return None
    reader.read.discard(path)  # its keys are read one by one
    reader.only(f"{path}.name", "MultiScaleSampler")
    first = reader.at(f"{path}.first_bs", int, FIRST_BS)
    data = {
        "scales": reader.raw(f"{path}.scales"),
        "first_bs": None if first == batch else first,
        "fix_bs": reader.at(f"{path}.fix_bs", bool, True),
        "divided_factor": reader.raw(f"{path}.divided_factor") or [8, 16],
    }
    return from_json(MultiScaleSampler, data, f"{reader.where}: {path}")


def _rec_loss(reader: Reader) -> RecLossSettings:
    reader.only("Loss.name", "MultiLoss", "CTCLoss", "CombinedLoss")
    if reader.raw("Loss.name") == "CombinedLoss":
        return _combined_loss(reader)
    if reader.raw("Loss.name") == "CTCLoss":
        return RecLossSettings(1.0, 0.0, reader.at("Loss.use_focal_loss", bool, False))
    parts: dict[str, dict[str, Any]] = {}
    for entry in reader.sections("Loss.loss_config_list"):
        for name, options in entry.items():
            parts[name] = options or {}
    for name, known in (("CTCLoss", {"use_focal_loss"}), ("NRTRLoss", {"smoothing"}), ("SARLoss", set())):
        for key in parts.get(name, {}):
            if key not in known:
                raise unknown_key(key, known, f"{reader.where}: Loss.loss_config_list {name}")
    known = {"CTCLoss", "NRTRLoss", "SARLoss"}
    if strange := sorted(show_text(str(name)) for name in set(parts) - known):
        raise ConfigError(
            f"{reader.where}: Loss: {', '.join(strange)} cannot be trained here, only {', '.join(sorted(known))}"
        )
    return RecLossSettings(
        reader.at("Loss.weight_1", float, 1.0),
        reader.at("Loss.weight_2", float, 1.0) if {"NRTRLoss", "SARLoss"} & set(parts) else 0.0,
        bool(parts.get("CTCLoss", {}).get("use_focal_loss", False)),
        bool(parts.get("NRTRLoss", {}).get("smoothing", True)),
    )


def _combined_loss(reader: Reader) -> RecLossSettings:
    """CTC and the center loss, of v2's enhanced recogniser."""
    where, found = f"{reader.where}: Loss.loss_config_list", {}
    known = {
        "CTCLoss": {"weight", "use_focal_loss"},
        # Classes and channels are the network's.
        "CenterLoss": {"weight", "num_classes", "feat_dim", "init_center", "center_file_path"},
    }
    for entry in reader.sections("Loss.loss_config_list"):
        for name, options in entry.items():
            if name not in known:
                raise ConfigError(f"{where}: {show_text(str(name))} cannot be trained here, only {', '.join(known)}")
            found[name] = dict(options or {})
            for key in found[name]:
                if key not in known[name]:
                    raise unknown_key(key, known[name], f"{where} {name}")
    centre = found.get("CenterLoss", {})
    if centre.get("init_center") or centre.get("center_file_path"):
        raise ConfigError(
            f"{where}: CenterLoss begins with the centres of center_file_path, a pickle, which is not read: leave "
            f"init_center and center_file_path out, and they are random"
        )
    data = {
        "weight_1": found.get("CTCLoss", {}).get("weight", 1.0) if "CTCLoss" in found else 0.0,
        "weight_2": 0.0,
        "use_focal_loss": found.get("CTCLoss", {}).get("use_focal_loss", False),
        "center_weight": centre.get("weight", 1.0) if "CenterLoss" in found else 0.0,
    }
    return from_json(RecLossSettings, data, where)


def _db_loss(reader: Reader) -> DBLossSettings:
    reader.only("Loss.name", "DBLoss")
    defaults = DBLossSettings()
    data = {
        **{
            key: reader.at(f"Loss.{key}", float, getattr(defaults, key))
            for key in (
                *("alpha", "beta", "ohem_ratio", "eps", "focal_alpha", "focal_gamma"),
                *("aux_weight_p4", "aux_weight_p3", "aux_weight_p2"),
            )
        },
        "balance_loss": reader.at("Loss.balance_loss", bool, True),
        "main_loss_type": reader.at("Loss.main_loss_type", str, "DiceLoss"),
    }
    return from_json(DBLossSettings, data, f"{reader.where}: Loss")


def _distillation(reader: Reader, teachers: Mapping[str, TeacherSettings]) -> DistillationSettings:
    reader.only("Loss.name", "CombinedLoss")
    reader.only("Metric.key", STUDENT)
    reader.only("Metric.base_metric_name", "RecMetric")
    where = f"{reader.where}: Loss.loss_config_list"
    return DistillationSettings(teachers, read_losses(reader.sections("Loss.loss_config_list"), where))


def _cls_loss(reader: Reader) -> ClsLossSettings:
    reader.only("Loss.name", "ClsLoss")
    return ClsLossSettings(0.0)


_LOSSES: Mapping[str, Callable[[Reader], RecLossSettings | DBLossSettings | ClsLossSettings]] = {
    "rec": _rec_loss,
    "det": _db_loss,
    "cls": _cls_loss,
}


def _training(reader: Reader) -> TrainingSettings:
    amp = reader.at("Global.use_amp", bool, False)
    kind = reader.at("Global.amp_dtype", str, "float16")
    reader.raw("Global.amp_level")
    reader.raw("Global.amp_custom_black_list")
    average = reader.at("Global.use_ema", bool, False)
    decay = reader.at("Global.ema_decay", float, 0.9998)
    reader.only("Global.ema_decay_type", "threshold")
    return TrainingSettings(
        ema_decay=decay if average else None,
        epochs=reader.at("Global.epoch_num", int),
        seed=reader.at("Global.seed", int, 1024),
        precision=("bf16" if kind == "bfloat16" else "fp16") if amp else "fp32",
        sync_batch_norm=reader.at("Global.use_sync_bn", bool, False),
    )


def _evaluation(reader: Reader) -> EvaluationSettings:
    steps = reader.raw("Global.eval_batch_step")
    if reader.raw("Global.eval_batch_epoch") is not None:
        raise ConfigError(
            f"{reader.where}: Global.eval_batch_epoch counts epochs; here evaluations are counted in steps: write "
            f"eval_batch_step: [0, STEPS]"
        )
    start, every = steps if isinstance(steps, list) and len(steps) == 2 else (0, steps if steps is not None else 2000)
    reader.only("Metric.name", "RecMetric", "DetMetric", "ClsMetric", "DistillationMetric")
    data = {
        "start_step": start,
        "every_steps": every,
        "ignore_space": reader.at("Metric.ignore_space", bool, True),
        "is_filter": reader.at("Metric.is_filter", bool, False),
    }
    main = reader.raw("Metric.main_indicator")
    if main not in (None, "acc", "hmean"):  # those are the task's own
        data["main_indicator"] = reader.at("Metric.main_indicator", str)
    return from_json(EvaluationSettings, data, f"{reader.where}: Global.eval_batch_step")
