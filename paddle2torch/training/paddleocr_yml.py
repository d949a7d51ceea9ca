"""A PaddleOCR training yml as our settings. Every key of it is used, or named with the reason why not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from paddle2torch.converters.templates import Template, distilled, from_sections
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.names import leads_out
from paddle2torch.model_zoo.show import show, show_text
from paddle2torch.model_zoo.strict_json import from_json, unknown_key
from paddle2torch.model_zoo.strict_yaml import read_yaml
from paddle2torch.training.distillation_settings import STUDENT, DistillationSettings, TeacherSettings
from paddle2torch.training.distillation_yml import read_losses, read_teachers, student_sections
from paddle2torch.training.settings import (
    ClsLossSettings,
    DatasetSettings,
    DataSettings,
    DBLossSettings,
    EvaluationSettings,
    LoaderSettings,
    MultiScaleSampler,
    OptimizerSettings,
    OutputSettings,
    RecLossSettings,
    ScheduleSettings,
    Settings,
    SplitSettings,
    TrainingSettings,
)

T = TypeVar("T")

_MODEL = "in model_config.json"
_AUTOMATIC = "happens by itself"
_INFERENCE = "not for training"

# Why keys are not in config.json. Whole sections end in a dot.
REASONS: Mapping[str, str] = {
    "Architecture.": _MODEL,
    "PostProcess.": _MODEL,
    "Global.character_dict_path": _MODEL,
    "Global.use_space_char": _MODEL,
    "Global.label_list": _MODEL,
    "Global.model_name": _MODEL,
    "Global.cal_metric_during_train": "training metrics are not computed: dropout and augmentation make them low",
    "Global.calc_epoch_interval": "training metrics are not computed",
    "Global.checkpoints": "go on with `paddle2torch train --resume`",
    "Global.d2s_train_image_shape": _INFERENCE,
    "Global.debug": "unused in PaddleOCR, too",
    "Global.distributed": _AUTOMATIC,
    "Global.infer_img": _INFERENCE,
    "Global.infer_mode": _INFERENCE,
    "Global.log_smooth_window": "lines give the mean since the line before",
    "Global.pretrained_model": "convert it; `pretrained` is the model that was named",
    "Global.save_epoch_step": "the best and the last checkpoint are kept",
    "Global.save_inference_dir": _INFERENCE,
    "Global.save_model_dir": "it leads out of the working folder: set output.dir",
    "Global.save_res_path": _INFERENCE,
    "Global.use_gpu": _AUTOMATIC,
    "Global.use_visualdl": "set output.trackers",
    "Global.use_wandb": "set output.trackers",
    "Global.scale_loss": _AUTOMATIC,
    "Global.use_dynamic_loss_scaling": _AUTOMATIC,
    "Loss.main_indicator": _AUTOMATIC,
    "Train.sampler.is_training": _AUTOMATIC,
    "Train.loader.use_shared_memory": _AUTOMATIC,
    "Eval.loader.use_shared_memory": _AUTOMATIC,
    "profiler_options": "use PyTorch's own profiler",
    "wandb.": "set output.trackers",
}
UNKNOWN = "not known here"

MOST_DECAYS = 10_000
"""Times that a rate is multiplied."""


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


class Reader:
    """A yml by dotted paths; knows which of them were read."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = data
        self.where = where
        self.read: set[str] = set()

    def at(self, path: str, kind: type[T], default: T | None = None) -> T:
        """The value at `path`; a float may be written as an int or, as YAML reads `1e-3`, as a string."""
        value = self.raw(path)
        if value is None:
            if default is None:
                raise ConfigError(f"{self.where}: {path} is missing")
            return default
        if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            return cast(T, self.real(path, value))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(path, kind, value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(path, kind, value)
        return value

    def real(self, path: str, value: Any) -> float:
        """The finite number `value`, which was found at `path`."""
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(path, float, value)
        return number

    def sections(self, path: str) -> list[dict[str, Any]]:
        """The list of sections at `path`; empty where it is missing."""
        value = self.raw(path)
        if value is None:
            return []
        if not isinstance(value, list) or not all(
            isinstance(item, dict) and all(isinstance(options, dict | None) for options in item.values())
            for item in value
        ):
            raise ConfigError(f"{self.where}: {path} should be a list of sections, found {show(value)}")
        return value

    def wrong(self, path: str, kind: type, value: Any) -> ConfigError:
        return ConfigError(f"{self.where}: {path} should be of type {kind.__name__}, found {show(value)}")

    def raw(self, path: str) -> Any:
        """The value at `path` as it is, None where it is missing. All below it counts as read."""
        self.read.add(path)
        place: Any = self.data
        for step in path.split("."):
            if not isinstance(place, dict) or place.get(step) is None:
                return None
            place = place[step]
        return place

    def only(self, path: str, *allowed: Any) -> None:
        """Raise unless the value is missing or one of these."""
        value = self.raw(path)
        if value is not None and value not in allowed:
            said = " or ".join(map(repr, allowed))
            raise ConfigError(f"{self.where}: {path} is {show(value)}; here it can only be {said}")

    def left_out(self) -> dict[str, str]:
        """The paths of values that were not read, and why."""
        return {path: _reason(path) for path in self._leaves(self.data, "")}

    def _leaves(self, place: Any, prefix: str) -> list[str]:
        path = prefix.rstrip(".")
        if path in self.read or (place is None and path):
            return []
        if isinstance(place, dict):
            return [leaf for key, value in place.items() for leaf in self._leaves(value, f"{prefix}{key}.")]
        return [show_text(path, 200)]


def _reason(path: str) -> str:
    for known, reason in REASONS.items():
        if path == known or (known.endswith(".") and path.startswith(known)):
            return reason
    return UNKNOWN


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


# The rate of layers, of which a yml may give a list; the detector's ResNet and MobileNet know the key.
_FACTORS_OF_STAGES = "Architecture.Backbone.lr_mult_list"


def read_optimizer(reader: Reader, task: str, lr: float) -> OptimizerSettings:
    """The optimiser of a yml, with its rate; raises `ConfigError` for one that moves parameters otherwise than here."""
    reader.only("Optimizer.name", "Adam", "AdamW", "Momentum")
    name = reader.at("Optimizer.name", str)
    reader.only(_FACTORS_OF_STAGES, [1.0] * 6)
    clip = reader.raw("Optimizer.clip_norm_global")
    if reader.raw("Optimizer.clip_norm") is not None:
        raise ConfigError(
            f"{reader.where}: Optimizer.clip_norm bounds each parameter's gradient; here the whole gradient can be "
            f"bounded: write clip_norm_global"
        )
    data: dict[str, Any] = {
        "name": name,
        "lr": lr,
        "fc_decay": _fc_decay(reader) if task == "rec" else None,
        "lab_lr": reader.at("Architecture.Backbone.lab_lr", float, 0.1),
        "clip_norm_global": None if clip is None else reader.at("Optimizer.clip_norm_global", float),
    }
    if name == "Momentum":
        data["momentum"] = reader.at("Optimizer.momentum", float)
    else:
        data |= {
            "beta1": reader.at("Optimizer.beta1", float, 0.9),
            "beta2": reader.at("Optimizer.beta2", float, 0.999),
            "epsilon": reader.at("Optimizer.epsilon", float, 1e-8),
        }
    data |= _adamw(reader) if name == "AdamW" else {"l2": _l2(reader)}
    return from_json(OptimizerSettings, data, f"{reader.where}: Optimizer")


def _adamw(reader: Reader) -> dict[str, Any]:
    if reader.raw("Optimizer.regularizer") is not None:
        raise ConfigError(
            f"{reader.where}: Optimizer.regularizer does not go with AdamW, in PaddleOCR neither: write weight_decay"
        )
    return {
        "weight_decay": reader.at("Optimizer.weight_decay", float, 0.01),
        "no_weight_decay_name": reader.at("Optimizer.no_weight_decay_name", str, "").split(),
        "one_dim_param_no_weight_decay": reader.at("Optimizer.one_dim_param_no_weight_decay", bool, False),
    }


def _l2(reader: Reader) -> float:
    reader.only("Optimizer.regularizer.name", "L2", "L2Decay")
    l2 = reader.at("Optimizer.regularizer.factor", float, 0.0)
    # PaddleOCR takes this one where there is no regularizer.
    return l2 or reader.at("Optimizer.weight_decay", float, 0.0)


def _fc_decay(reader: Reader) -> float:
    """The L2 of the CTC head's last layer; PaddleOCR's CTCHead has one of its own where the yml says nothing."""
    # from_sections has read the section: a head is one, and so is each entry of a list of heads.
    head = reader.data["Architecture"]["Head"]
    for entry in head.get("head_list") or [{"CTCHead": {"Head": head}}]:
        options = (entry.get("CTCHead") or {}).get("Head")
        if isinstance(options, dict) and options.get("fc_decay") is not None:
            return reader.real("the fc_decay of the CTC head", options["fc_decay"])
    return 4e-4


def read_schedule(reader: Reader, epochs: int) -> tuple[float, ScheduleSettings]:
    """The rate and the schedule of a yml for a training of `epochs`. Some of PaddleOCR's schedules are others here:
    LinearWarmupCosine a Cosine with its own warm-up and end, DecayLearningRate a Linear, Step and MultiStepDecay a
    Piecewise.
    """
    path = "Optimizer.lr"
    name = reader.at(f"{path}.name", str, "Const")
    if name not in _SCHEDULES:
        said = ", ".join(_SCHEDULES)
        raise ConfigError(f"{reader.where}: {path}.name: {show(name)} is not one of {said}")
    data = _SCHEDULES[name](reader, path, epochs)
    lr = data.pop("lr")
    if "warmup_steps" not in data:
        data["warmup_epoch"] = 0.0 if name == "DecayLearningRate" else reader.at(f"{path}.warmup_epoch", float, 0.0)
    return lr, from_json(ScheduleSettings, data, f"{reader.where}: {path}")


def _plain(name: str) -> Callable[[Reader, str, int], dict[str, Any]]:
    def read(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
        return {"name": name, "lr": reader.at(f"{path}.learning_rate", float)}

    return read


def _linear(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "Linear",
        "lr": reader.at(f"{path}.learning_rate", float),
        "end_lr": reader.at(f"{path}.end_lr", float, 0.0),
        "power": reader.at(f"{path}.power", float, 1.0),
    }


def _decay_learning_rate(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    # PaddleOCR reads `end_lr` and takes 0 all the same.
    reader.only(f"{path}.end_lr", 0)
    power = reader.at(f"{path}.factor", float, 0.9)
    return {"name": "Linear", "lr": reader.at(f"{path}.learning_rate", float), "power": power}


def _linear_warmup_cosine(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "Cosine",
        "lr": reader.at(f"{path}.learning_rate", float),
        "warmup_steps": reader.at(f"{path}.warmup_steps", int, 5000),
        "start_lr": reader.at(f"{path}.start_lr", float, 1e-5),
        "end_lr": reader.at(f"{path}.min_lr", float, 1e-8),
    }


def _cyclical_cosine(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    lr = reader.at(f"{path}.learning_rate", float)
    return {"name": "CyclicalCosine", "lr": lr, "cycle": reader.at(f"{path}.cycle", float)}


def _one_cycle(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "OneCycle",
        "lr": reader.at(f"{path}.max_lr", float),
        "anneal_strategy": reader.at(f"{path}.anneal_strategy", str, "cos"),
        "three_phase": reader.at(f"{path}.three_phase", bool, False),
    }


def _piecewise(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    values = reader.raw(f"{path}.values")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{reader.where}: {path}.values should be a list of rates, found {show(values)}")
    rates = [reader.real(f"{path}.values", value) for value in values]
    return {"name": "Piecewise", "lr": rates[0], "values": rates, "decay_epochs": reader.raw(f"{path}.decay_epochs")}


def _step(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    size = reader.at(f"{path}.step_size", int)
    if size < 1:
        raise ConfigError(f"{reader.where}: {path}.step_size is {size}: at least one epoch is meant")
    return _steps_down(reader, path, range(size, epochs, size))


def _multi_step(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return _steps_down(reader, path, reader.raw(f"{path}.milestones"))


def _steps_down(reader: Reader, path: str, epochs: Any) -> dict[str, Any]:
    """A rate that is multiplied by `gamma` after each of some epochs."""
    lr, gamma = reader.at(f"{path}.learning_rate", float), reader.at(f"{path}.gamma", float)
    if not isinstance(epochs, list | range) or len(epochs) > MOST_DECAYS:
        raise ConfigError(f"{reader.where}: {path}: a list of at most {MOST_DECAYS:,} changes of the rate is taken")
    if not 0 <= gamma <= 1:
        raise ConfigError(f"{reader.where}: {path}.gamma is {gamma:g}: a rate is multiplied by 0 to 1")
    values = [lr * gamma**number for number in range(len(epochs) + 1)]
    return {"name": "Piecewise", "lr": lr, "values": values, "decay_epochs": list(epochs)}


_SCHEDULES: Mapping[str, Callable[[Reader, str, int], dict[str, Any]]] = {
    **{name: _plain(name) for name in ("Cosine", "Const", "TwoStepCosine")},
    "Linear": _linear,
    "Piecewise": _piecewise,
    "LinearWarmupCosine": _linear_warmup_cosine,
    "CyclicalCosine": _cyclical_cosine,
    "OneCycle": _one_cycle,
    "DecayLearningRate": _decay_learning_rate,
    "Step": _step,
    "MultiStepDecay": _multi_step,
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
