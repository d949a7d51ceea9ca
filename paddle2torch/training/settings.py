"""`config.json`: how a model is trained and evaluated. The model is described beside it, in `model_config.json`.

Keys under `data` and `loss` keep PaddleOCR's names, so that a training yml can be read beside the file. Both files are
read strictly: an unknown key is an error which names the nearest known one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from paddle2torch.device import AUTO, Precision
from paddle2torch.model_zoo.charsets import charset_path, is_right_to_left, read_charset
from paddle2torch.model_zoo.config import (
    MOST_HEIGHT,
    MOST_PIXELS,
    MOST_WIDTH,
    ClsPostprocess,
    CTCDecode,
    ModelConfig,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show, show_path, show_text
from paddle2torch.model_zoo.strict_json import to_json, within
from paddle2torch.training.distillation_settings import STUDENT, DistillationSettings

SETTINGS_NAME = "config.json"

# What a training can be asked for; the largest official values are 1000 epochs, a batch of 384 and 12 workers.
MOST_COUNT = 10**9
"""The largest number of epochs or steps."""
MOST_BATCH = 65_536
MOST_WORKERS = 1024
MOST_SCALES = 100
MOST_TEXT = 2000
"""Characters of a label."""
MOST_FACTOR = 1e38
"""The largest rate, weight of a loss and bound of gradients: what float32 holds."""
MOST_POWER = 100.0
MOST_SEED = 2**63 - 1


METRICS: Mapping[str, tuple[str, ...]] = {
    "rec": ("acc", "norm_edit_dis", "cer", "wer"),
    "det": ("precision", "recall", "hmean"),
    "cls": ("acc",),
}
"""What an evaluation gives, by task."""
LOWER_IS_BETTER = ("cer", "wer")
"""These are also given only where each label counts once."""


@dataclass(frozen=True)
class Transform:
    """One step of a sample's way to the network: PaddleOCR's name of it and its options.

    In JSON an object with one key, as in PaddleOCR's lists: `{"RecAug": {}}`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Transform:
        """Read the object; raises `ConfigError` where it is not one name with an object of options (or null)."""
        if not isinstance(data, dict) or len(data) != 1:
            raise ConfigError(f'{where}: expected an object with one key, {{"NAME": {{…}}}}, found {show(data)}')
        ((name, options),) = data.items()
        if options is not None and not isinstance(options, dict):
            raise ConfigError(f"{where}: the options of {show_text(name)} are an object, not {show(options)}")
        return cls(name, options or {})

    def to_json(self) -> dict[str, Any]:
        """The object with one key."""
        return {self.name: to_json(self.options)}


@dataclass(frozen=True)
class Tracker(Transform):
    """A tracker: accelerate's name of it, and what it is started with.

    In JSON the name alone, or an object with one key: `"wandb"`, `{"wandb": {"entity": "team"}}`.
    """

    @classmethod
    def from_json(cls, data: Any, where: str) -> Tracker:
        """Read either; raises `ConfigError` for what is neither."""
        read = cls(data) if isinstance(data, str) else super().from_json(data, where)
        assert isinstance(read, cls)
        return read

    def to_json(self) -> Any:
        """The name, where there are no options."""
        return super().to_json() if self.options else self.name


@dataclass(frozen=True)
class DatasetSettings:
    """Which samples there are.

    `label_file_list` and `data_dir` are paths, relative ones to the working directory; images in the label files are
    relative to `data_dir`. `ratio_list` has the share of each label file that an epoch takes, or one share for all.
    An LMDBDataSet has no label files: `data_dir` is the database, or a folder of them. `sources` are further ones, or
    the only ones, each an object with one key, its name: WebDataset, HuggingFace, RenderedLines (see below).
    `ext_op_transform_idx` is the number of transforms that the extra samples of RecConAug or CopyPaste pass.
    """

    data_dir: str
    label_file_list: tuple[str, ...] = ()
    name: Literal["SimpleDataSet", "MultiScaleDataSet", "LMDBDataSet"] = "SimpleDataSet"
    ratio_list: tuple[float, ...] = (1.0,)
    delimiter: str = "\t"
    ext_op_transform_idx: int = 1
    transforms: tuple[Transform, ...] = ()
    sources: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        within(self, ext_op_transform_idx=(0, MOST_COUNT))
        if self.name == "LMDBDataSet" and self.label_file_list:
            raise ConfigError(f"{self.name} takes no label_file_list (data_dir: {self.data_dir})")
        if self.name != "LMDBDataSet" and not self.label_file_list and not self.sources:
            raise ConfigError(f"{self.name} needs a label_file_list, or sources (data_dir: {self.data_dir})")
        if self.label_file_list and len(self.ratio_list) not in (1, len(self.label_file_list)):
            raise ConfigError(
                f"ratio_list has {len(self.ratio_list)} shares for {len(self.label_file_list)} label files: "
                f"give one for each, or one for all"
            )
        if not all(ratio > 0 for ratio in self.ratio_list):
            raise ConfigError(f"ratio_list: the shares must be above 0, found {show(list(self.ratio_list))}")


@dataclass(frozen=True)
class MultiScaleSampler:
    """Batches of one (width, height) each, cycling over `scales`.

    A batch has `first_bs` samples at the first scale and as many of the same area at the others, or `first_bs` always
    with `fix_bs`. null: the loader's `batch_size_per_card`, the one number for the batch. Widths and heights are
    floored to multiples of `divided_factor`.
    """

    scales: tuple[tuple[int, int], ...] = ((320, 32), (320, 48), (320, 64))
    first_bs: int | None = None
    fix_bs: bool = False
    divided_factor: tuple[int, int] = (8, 16)

    def __post_init__(self) -> None:
        within(self, scales=(1, MOST_WIDTH), first_bs=(1, MOST_BATCH), divided_factor=(1, MOST_HEIGHT))
        if not 1 <= len(self.scales) <= MOST_SCALES or max(w * h for w, h in self.scales) > MOST_PIXELS:
            raise ConfigError(f"sampler: 1 to {MOST_SCALES} scales of at most {MOST_PIXELS:,} pixels are taken")
        if any(0 in size for size in self.sizes):
            raise ConfigError(f"sampler: a scale is smaller than divided_factor, {list(self.divided_factor)}")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height that batches really have: the scales, floored."""
        across, down = self.divided_factor
        return tuple((width // across * across, height // down * down) for width, height in self.scales)


@dataclass(frozen=True)
class LoaderSettings:
    """How samples become batches.

    Args:
        batch_size_per_card: samples in a batch of one process; at a sampler's first scale, where there is one.
        shuffle: take the samples in another order in each epoch.
        drop_last: leave out what does not fill a batch.
        num_workers: processes that load and augment; 0 loads in the process that trains. null: as many as this machine
            has cores to spare, eight at most.
    """

    batch_size_per_card: int
    shuffle: bool = False
    drop_last: bool = False
    num_workers: int | None = None

    def __post_init__(self) -> None:
        within(self, batch_size_per_card=(1, MOST_BATCH), num_workers=(0, MOST_WORKERS))


@dataclass(frozen=True)
class SplitSettings:
    """The data of training, or of evaluation."""

    dataset: DatasetSettings
    loader: LoaderSettings
    sampler: MultiScaleSampler | None = None


@dataclass(frozen=True)
class DataSettings:
    """Both splits. `max_text_length` is the length of the label rows (NRTR leaves two less for the text)."""

    train: SplitSettings
    eval: SplitSettings
    max_text_length: int = 25

    def __post_init__(self) -> None:
        within(self, max_text_length=(1, MOST_TEXT))


@dataclass(frozen=True)
class RecLossSettings:
    """PaddleOCR's MultiLoss: `weight_1` times CTC plus `weight_2` times NRTR or SAR, whichever head there is.

    `use_focal_loss` weighs each sample's CTC loss L by (1 - exp(-L))^2. `smoothing`: NRTR's label smoothing of 0.1.
    With `center_weight` the CenterLoss of a recogniser with a CTC head alone is added so many times: each step's
    features are drawn to the centre of the class that they are read as. The centres are random and stay where they
    are, as PaddleOCR's do; `center_seed` says which.
    """

    weight_1: float = 1.0
    weight_2: float = 1.0
    use_focal_loss: bool = False
    smoothing: bool = True
    center_weight: float = 0.0
    center_seed: int = 0

    def __post_init__(self) -> None:
        factors = (0, MOST_FACTOR)
        within(self, weight_1=factors, weight_2=factors, center_weight=factors, center_seed=(0, 2**31 - 1))


@dataclass(frozen=True)
class DBLossSettings:
    """PaddleOCR's DBLoss: `alpha` times the shrink map's, `beta` times the threshold map's, plus the binary map's.

    With `balance_loss`, at most `ohem_ratio` times as many negative pixels as there are positive ones count in the
    shrink map's loss: the hardest for BCELoss; for DiceLoss, which is one number per batch, all are alike.
    DiceFocalLoss, of PP-OCRv6, takes no notice of both: it adds a focal loss with `focal_alpha` and `focal_gamma` to
    Dice, in the binary map's loss too. `aux_weight_p4` to `_p2` weigh the auxiliary branches where the head has them.
    """

    alpha: float = 5.0
    beta: float = 10.0
    ohem_ratio: float = 3.0
    balance_loss: bool = True
    main_loss_type: Literal["DiceLoss", "BCELoss", "DiceFocalLoss"] = "DiceLoss"
    eps: float = 1e-6
    focal_alpha: float = 0.25
    focal_gamma: float = 2.5
    aux_weight_p4: float = 0.2
    aux_weight_p3: float = 0.3
    aux_weight_p2: float = 0.4

    def __post_init__(self) -> None:
        factors = (0, MOST_FACTOR)
        within(self, alpha=factors, beta=factors, ohem_ratio=factors, eps=(1e-30, 1))
        within(self, focal_alpha=(0, 1), focal_gamma=(0, MOST_POWER))
        within(self, aux_weight_p4=factors, aux_weight_p3=factors, aux_weight_p2=factors)
        if self.main_loss_type == "BCELoss" and not self.balance_loss:
            raise ConfigError("loss: BCELoss is one value per pixel, of which balance_loss makes one: set it to true")


@dataclass(frozen=True)
class ClsLossSettings:
    """Cross-entropy of a classifier, the mean over the batch: PaddleOCR's ClsLoss, PaddleClas's CELoss.

    Of the label's probability the share `label_smoothing` is spread evenly over all classes; 0 is PaddleOCR's.
    """

    label_smoothing: float

    def __post_init__(self) -> None:
        within(self, label_smoothing=(0, 0.999))


LossSettings = RecLossSettings | DBLossSettings | ClsLossSettings | DistillationSettings


@dataclass(frozen=True)
class OptimizerSettings:
    """What moves the parameters, as Paddle's optimiser of that `name` does.

    Adam and Momentum have coupled L2: `l2` times the parameter is added to its gradient, as Paddle's regularizer does.
    AdamW shrinks parameters by `weight_decay` times the rate instead, but for those whose name holds a word of
    `no_weight_decay_name` and, with `one_dim_param_no_weight_decay`, those of one dimension; `l2` has no say there.
    `fc_decay` is the coupled L2 of the CTC head's last layer (null: as all others), in AdamW besides its decay, as in
    Paddle. `lab_lr` is the factor on the rate of the learnable affine blocks. `clip_norm_global` bounds the norm of the
    whole gradient; null leaves it. `beta1`, `beta2` and `epsilon` are Adam's and AdamW's, `momentum` is Momentum's.
    """

    lr: float
    name: Literal["Adam", "AdamW", "Momentum"] = "Adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    l2: float = 0.0
    weight_decay: float = 0.01
    no_weight_decay_name: tuple[str, ...] = ()
    one_dim_param_no_weight_decay: bool = False
    fc_decay: float | None = None
    lab_lr: float = 0.1
    clip_norm_global: float | None = None

    def __post_init__(self) -> None:
        factors = (0, MOST_FACTOR)
        within(self, lr=factors, epsilon=factors, l2=factors, weight_decay=factors, fc_decay=factors, lab_lr=factors)
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.epsilon > 0):
            raise ConfigError("optimizer: lr and epsilon must be above 0, beta1 and beta2 in [0, 1)")
        if not 0 < self.momentum < 1:
            raise ConfigError(f"optimizer: momentum must be between 0 and 1, found {self.momentum}")
        if self.name == "AdamW" and self.l2:
            raise ConfigError("optimizer: AdamW has weight_decay in place of l2: set l2 to 0")
        if not all(self.no_weight_decay_name):
            raise ConfigError("optimizer: an empty word in no_weight_decay_name is in every parameter's name")
        if self.clip_norm_global is not None and not 0 < self.clip_norm_global <= MOST_FACTOR:
            raise ConfigError(f"optimizer: clip_norm_global must be above 0, at most {MOST_FACTOR:g}, or null")


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over time, set anew at every step of the optimiser.

    All rise linearly from `start_lr` over `warmup_epoch` epochs, or over `warmup_steps` steps where that is given.
    Cosine then falls to `end_lr` over the epochs of the training, Linear (with `power`) to `end_lr`, Const stays,
    Piecewise takes `values` between the epochs `decay_epochs`. CyclicalCosine falls to 0 every `cycle` epochs and
    begins anew; TwoStepCosine falls over `first_epochs` epochs, and from then on over the whole training. OneCycle
    rises to the rate, its highest, and falls to almost nothing, along cosines or lines (`anneal_strategy`), with
    `three_phase` in a rise, an equal fall and a last one.
    """

    name: Literal["Cosine", "Linear", "Const", "Piecewise", "CyclicalCosine", "TwoStepCosine", "OneCycle"] = "Cosine"
    warmup_epoch: float = 0.0
    warmup_steps: int | None = None
    start_lr: float = 0.0
    end_lr: float = 0.0
    power: float = 1.0
    decay_epochs: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    cycle: float | None = None
    first_epochs: int = 200
    anneal_strategy: Literal["cos", "linear"] = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        within(
            self,
            warmup_epoch=(0, MOST_COUNT),
            warmup_steps=(0, MOST_COUNT),
            start_lr=(0, MOST_FACTOR),
            end_lr=(0, MOST_FACTOR),
            power=(0, MOST_POWER),
            decay_epochs=(0, MOST_COUNT),
            values=(0, MOST_FACTOR),
            cycle=(0, MOST_COUNT),
            first_epochs=(1, MOST_COUNT),
        )
        if self.name == "CyclicalCosine" and not self.cycle:
            raise ConfigError("schedule: CyclicalCosine needs the epochs of a cycle")
        if self.name == "Piecewise" and len(self.values) != len(self.decay_epochs) + 1:
            raise ConfigError(
                f"schedule: Piecewise takes one value more than decay_epochs, found {len(self.values)} and "
                f"{len(self.decay_epochs)}"
            )


@dataclass(frozen=True)
class TrainingSettings:
    """The loop.

    Args:
        epochs: passes over the training data.
        seed: of the order of the samples, their augmentation, dropout, and new parameters.
        device: "cpu", "cuda", "cuda:1", "mps", …; "auto": an NVIDIA or AMD GPU where there is one, else the CPU.
            Several processes take a GPU each.
        precision: of the network's arithmetic; losses, weights and statistics stay float32. fp16 is for GPUs alone.
        accumulation: batches whose mean gradient makes one step.
        dropout: rate for all dropout layers in place of their own; 0 makes runs with different numbers of processes
            comparable. null: their own.
        sync_batch_norm: normalise by the statistics of the batches of all processes together.
        freeze: name patterns of parameters that stay as they are (`head.ctc_*`), besides those that `freeze_backbone`
            in model_config.json names; normalisation among them keeps its statistics.
        ema_decay: train as usual, but evaluate and keep a moving average of the weights with this decay. null: off.
        compile: let `torch.compile` optimise the network.
        gradient_checkpointing: keep the inputs of blocks alone and compute the rest again in the backward pass: less
            memory, more time, the same gradients.
    """

    epochs: int
    seed: int = 1024
    device: str = AUTO
    precision: Precision = "fp32"
    accumulation: int = 1
    dropout: float | None = None
    sync_batch_norm: bool = True
    freeze: tuple[str, ...] = ()
    ema_decay: float | None = None
    compile: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        within(self, epochs=(1, MOST_COUNT), seed=(0, MOST_SEED), accumulation=(1, MOST_COUNT))
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"training: dropout must be in [0, 1), found {self.dropout}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"training: ema_decay must be between 0 and 1, found {self.ema_decay}")
        if self.compile and self.gradient_checkpointing:
            raise ConfigError(
                "training: torch.compile chooses by itself what it computes again: set compile or "
                "gradient_checkpointing to false"
            )


@dataclass(frozen=True)
class EarlyStopping:
    """Training stops after `patience` evaluations in a row that were no better than the best before by more than
    `min_delta`, by `metric` (null: `evaluation.main_indicator`).

    `mode` says which is better, more ("max") or less ("min"); null: less of cer and wer, more of all others.
    """

    patience: int
    metric: str | None = None
    min_delta: float = 0.0
    mode: Literal["max", "min"] | None = None

    def __post_init__(self) -> None:
        within(self, patience=(1, MOST_COUNT), min_delta=(0, MOST_FACTOR))


@dataclass(frozen=True)
class EvaluationSettings:
    """When and how to evaluate: the start, then after step `start_step` every `every_steps` steps and, with
    `every_epoch`, at the end of each epoch, and always after the last step.

    `ignore_space` takes spaces out of label and prediction before they are compared; `is_filter` all but digits and
    ASCII letters, and ignores case (recognisers only). Each label counts once: what cannot be read counts as wrong, and
    so does a text with characters that the model's set lacks. With `as_paddleocr` the next sample counts again in place
    of what cannot be used, and labels are compared without the characters that the set lacks, as PaddleOCR does.

    `main_indicator` is the metric whose best value `best` has, one of acc, norm_edit_dis, cer and wer, or of precision,
    recall and hmean; null: acc or hmean. cer and wer are of the texts as they are, and less of them is better.
    """

    every_steps: int = 2000
    every_epoch: bool = True
    start_step: int = 0
    ignore_space: bool = True
    is_filter: bool = False
    as_paddleocr: bool = False
    main_indicator: str | None = None
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        within(self, every_steps=(1, MOST_COUNT), start_step=(0, MOST_COUNT))


@dataclass(frozen=True)
class OutputSettings:
    """Where results go. Steps are the optimiser's.

    `dir` gets the folders `best` and `last` (converted models that `load_pretrained` takes, with `metrics.json`; `last`
    holds the state that `--resume` goes on from), `settings` (both settings files as they were in force), `train.csv`,
    `evaluation.csv`, `train.log`, `curves.png`, `report.html` (what the model does not read) and `hard.jsonl` (the
    hardest samples of each evaluation). `last` is written every `save_steps` steps, after each epoch and at the end.
    Losses are noted every `print_steps` steps and before each checkpoint, and said at least every ten seconds.
    `trackers` get all that too, and pictures of the hardest samples: accelerate's, each a name (`"tensorboard"`,
    `"wandb"`, `"mlflow"`, `"aim"`, `"comet_ml"`, `"clearml"`, `"dvclive"`, `"swanlab"`, `"trackio"`) or an object with
    that key and what it is started with (`{"wandb": {"entity": "team"}}`); `project` is what they file the training
    under.
    """

    dir: str = "output"
    print_steps: int = 10
    save_steps: int = 1000
    trackers: tuple[Tracker, ...] = ()
    project: str = "paddle2torch"

    def __post_init__(self) -> None:
        within(self, print_steps=(1, MOST_COUNT), save_steps=(1, MOST_COUNT))
        if not self.project:
            raise ConfigError("output: project is the name under which trackers file the training: it cannot be empty")
        names = [tracker.name for tracker in self.trackers]
        if len(set(names)) < len(names):
            raise ConfigError(f"output: each of the trackers {', '.join(map(show_text, names))} can be there once")


@dataclass(frozen=True)
class Settings:
    """All of `config.json`.

    `pretrained` is where training starts: a name of the zoo, a converted model's folder, or a repository of the Hub
    ("org/name"); null for new weights, initialised as Paddle does.
    """

    pretrained: str | None
    data: DataSettings
    loss: LossSettings
    optimizer: OptimizerSettings
    training: TrainingSettings
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def dumps(self) -> str:
        """The text of `config.json`."""
        return json.dumps(to_json(self), ensure_ascii=False, indent=2) + "\n"


def with_charset(model: ModelConfig, charset: Path) -> tuple[ModelConfig, list[str]]:
    """The settings of a recogniser that reads another character set, and what was decided.

    charset: a file of one character a line, or the name of a bundled one. A model that reads spaces goes on doing so.
    Raises `ConfigError` for a model that reads no characters.
    """
    if model.charset is None:
        raise ConfigError(f"{model.name} is a model for {model.task!r}: it reads no characters, and takes no --charset")
    characters = read_charset(charset if charset.exists() else charset_path(str(charset)))
    notes = [f"character set: {len(characters):,} characters of {show_path(charset)}"]
    if " " in model.charset and " " not in characters:
        characters = (*characters, " ")
        notes.append("character set: a space follows, as the model reads spaces")
    right_to_left = is_right_to_left(characters)
    if right_to_left:
        notes.append(
            "character set: it is written from right to left. Labels are taken as they are seen from the left, as by "
            "PaddleOCR; what the model reads is put into the order of reading"
        )
    head = replace(model.head, options={**model.head.options, "classes": len(characters) + 1})
    return replace(model, charset=characters, head=head, postprocess=CTCDecode(right_to_left)), notes


def with_classes(model: ModelConfig, classes: str) -> tuple[ModelConfig, list[str]]:
    """The settings of a classifier for other classes, and what was decided.

    classes: a file of one label a line, or PaddleClas's of a number and a label, or labels with commas between them.
    Raises `ConfigError` for a model that is no classifier.
    """
    if not isinstance(model.postprocess, ClsPostprocess):
        raise ConfigError(f"{model.name} is a model for {model.task!r}: only a classifier takes --classes")
    path = Path(classes)
    labels = _labels_of(path) if path.is_file() else tuple(label.strip() for label in classes.split(","))
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels):
        where = show_path(path) if path.is_file() else show(classes)
        raise ConfigError(f"{where}: a classifier needs two labels or more, each of them once, and none of them empty")
    head = replace(model.head, options={**model.head.options, "classes": len(labels)})
    # A model's threshold tells when a line is turned upside down.
    postprocess = replace(model.postprocess, labels=labels, thresh=None)
    return replace(model, head=head, postprocess=postprocess), [f"{len(labels):,} classes: {', '.join(labels[:20])}"]


def _labels_of(path: Path) -> tuple[str, ...]:
    """The labels of a file, one a line; without the numbers that PaddleClas writes before them."""
    lines = [line for line in read_charset(path, "list of labels") if line.strip()]
    if all(line.split(" ", 1)[0] == str(place) and " " in line for place, line in enumerate(lines)):
        lines = [line.split(" ", 1)[1] for line in lines]
    return tuple(line.strip() for line in lines)


def check_fit(settings: Settings, model: ModelConfig) -> None:
    """Raise `ConfigError` where the settings cannot train this model."""
    expected = {"rec": RecLossSettings, "det": DBLossSettings, "cls": ClsLossSettings}[model.task]
    if isinstance(settings.loss, DistillationSettings) and model.task != "rec":
        raise ConfigError(f"{model.name} is a model for {model.task!r}: only recognisers learn from teachers here")
    if not isinstance(settings.loss, expected | DistillationSettings):
        raise ConfigError(
            f"{model.name} is of task {model.task!r}: the keys under loss are those of {expected.__name__}, "
            f"not {type(settings.loss).__name__}"
        )
    _check_metrics(settings.evaluation, model)
    if model.form != "training":
        raise ConfigError(
            f"{model.name}: training takes the training form, and this model_config.json is of the fused one: "
            f"`paddle2torch init` writes it for a model of either form"
        )
    if isinstance(model.postprocess, ClsPostprocess):
        _check_labels(model, model.postprocess.labels)
    if isinstance(settings.loss, DistillationSettings):
        _check_heads(settings.loss, model)
    if isinstance(settings.loss, RecLossSettings):
        _check_guide(settings.loss, model)
        if settings.loss.center_weight > 0 and model.head.name != "CTCHead":
            raise ConfigError(
                f"{model.name}: loss.center_weight is for recognisers whose only head is a CTCHead, not for "
                f"{model.head.name}: set it to 0"
            )


def _check_metrics(evaluation: EvaluationSettings, model: ModelConfig) -> None:
    """Raise `ConfigError` for a metric that the evaluation of this model does not give."""
    given = [name for name in METRICS[model.task] if not (evaluation.as_paddleocr and name in LOWER_IS_BETTER)]
    stopping = evaluation.early_stopping
    for setting, name in (
        ("main_indicator", evaluation.main_indicator),
        ("early_stopping.metric", None if stopping is None else stopping.metric),
    ):
        if name is not None and name not in given:
            raise ConfigError(
                f"evaluation.{setting}: the evaluation of {model.name} gives no {show(name)}; it gives "
                f"{', '.join(given)}"
            )


def _check_heads(loss: DistillationSettings, model: ModelConfig) -> None:
    """The student's heads are those that the losses look at: no other would be trained, and none can be missing."""
    there = heads_of(model)
    if missing := sorted(loss.heads(STUDENT) - there):
        raise ConfigError(f"{model.name} has no head {', '.join(missing)}, which loss.losses look at in the {STUDENT}")
    if idle := sorted(there - loss.heads(STUDENT)):
        raise ConfigError(
            f"{model.name}: no loss trains its head {', '.join(idle)}: add one to loss.losses (DistillationNRTRLoss, "
            f"DistillationSARLoss), or set head.nrtr or head.sar in model_config.json to null"
        )


def heads_of(model: ModelConfig) -> frozenset[str]:
    """The heads of a recogniser, by the names that losses have for them."""
    guides = {"gtc": model.head.options.get("nrtr"), "sar": model.head.options.get("sar")}
    fused = model.form == "fused"
    return frozenset({"ctc", *(name for name, options in guides.items() if options is not None and not fused)})


def _check_labels(model: ModelConfig, labels: tuple[str, ...]) -> None:
    if len(labels) != model.classes or len(set(labels)) < len(labels):
        raise ConfigError(
            f"{model.name}: its head has {model.classes} classes, and postprocess.labels in model_config.json the "
            f"labels {show(list(labels))}: each class has one of its own. `paddle2torch init --classes` writes both"
        )


def is_guided(model: ModelConfig) -> bool:
    """Whether CTC takes no gradient to a recogniser's backbone, as another head does."""
    return bool(model.head.options.get("ctc", {}).get("use_guide", False))


def _check_guide(loss: RecLossSettings, model: ModelConfig) -> None:
    """CTC leaves a guided backbone without a gradient; then NRTR or SAR must be there to train it."""
    heads = [name for name in ("nrtr", "sar") if model.head.options.get(name) is not None]
    if is_guided(model) and not (heads and loss.weight_2 > 0) and not model.freeze_backbone:
        missing = "switched off (loss.weight_2)" if loss.weight_2 <= 0 else "not there (head.nrtr or head.sar)"
        raise ConfigError(
            f"{model.name}: nothing would train the backbone. head.ctc.use_guide is true, so that CTC leaves it to the "
            f"NRTR or SAR head, and that is {missing}. In model_config.json set head.ctc.use_guide to false to train "
            f"it with CTC, or freeze_backbone to true to leave it as it is"
        )
