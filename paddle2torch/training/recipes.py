"""The official training recipes, as settings ready to edit: `paddle2torch init`.

Values are those of PaddleOCR's `configs/rec/PP-OCRv4/en_PP-OCRv4_rec.yml`, `ch_PP-OCRv4_rec.yml`, those of
`configs/rec/SVTRv2/`, `configs/det/ch_PP-OCRv4/ch_PP-OCRv4_det_student.yml` and of PP-OCRv6's release
(Apache-2.0). They are for training from the start on several GPUs; `init` scales them for fine-tuning on one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from paddle2torch.converters.templates import Template, from_card
from paddle2torch.device import available_cores
from paddle2torch.model_zoo.config import (
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.settings import (
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
    Transform,
    with_charset,
    write_settings,
)
from paddle2torch.zoo.resolve import obtain_converted, resolve


@dataclass(frozen=True)
class RecRecipe:
    """Where the official recogniser recipes differ; `batch` is the batch size at 320x32.

    With a `weight_decay` AdamW trains, without decay for normalisations and vectors. `joins` lines: RecConAug.
    """

    epochs: int
    lr: float
    batch: int
    ignore_space: bool
    weight_decay: float | None = None
    joins: bool = True
    every_steps: int = 2000


REC_RECIPES: Mapping[str, RecRecipe] = {
    "en_PP-OCRv4_rec": RecRecipe(epochs=50, lr=5e-4, batch=96, ignore_space=False),
    "ch_PP-OCRv4_rec": RecRecipe(epochs=200, lr=1e-3, batch=192, ignore_space=True),
    "ch_RepSVTR_rec": RecRecipe(200, 1e-3, 192, True, weight_decay=0.025, joins=False, every_steps=1000),
    "ch_SVTRv2_rec": RecRecipe(200, 1e-3, 192, True, weight_decay=0.05, joins=False, every_steps=1000),
    "PP-OCRv6_medium_rec": RecRecipe(epochs=100, lr=5e-4, batch=64, ignore_space=True),
    "PP-OCRv6_small_rec": RecRecipe(epochs=100, lr=5e-4, batch=128, ignore_space=True),
    "PP-OCRv6_tiny_rec": RecRecipe(epochs=100, lr=1e-3, batch=128, ignore_space=True),
}
DEFAULT_REC_RECIPE = REC_RECIPES["en_PP-OCRv4_rec"]


@dataclass(frozen=True)
class DetRecipe:
    """Where the official detector recipes differ.

    Those of v6 grow the canvas of a rotated page, cut parts out anywhere (`RandomCrop`), and average the weights.
    """

    l2: float = 5e-5
    main_loss_type: Literal["DiceLoss", "DiceFocalLoss"] = "DiceLoss"
    ema_decay: float | None = None
    rotate: Mapping[str, Any] = field(default_factory=lambda: {"rotate": [-10, 10]})
    size: tuple[float, float] = (0.5, 3)
    jitter: Mapping[str, float] | None = None
    perspective: Mapping[str, Any] | None = None
    crop: Literal["EastRandomCropData", "RandomCrop"] = "EastRandomCropData"


_V6 = DetRecipe(
    l2=1e-5,
    main_loss_type="DiceFocalLoss",
    rotate={"p": 0.5, "rotate": [-45, 45], "fit_output": True},
    size=(0.1, 2),
    crop="RandomCrop",
)
_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.7, "hue": 0.1}
_PERSPECTIVE = {"prob": 0.3, "scale": 0.0, "shear": 20.0, "perspective": 0.001, "fill_value": [0, 0, 0]}
DET_RECIPES: Mapping[str, DetRecipe] = {
    "PP-OCRv6_medium_det": replace(_V6, ema_decay=0.9996, jitter=_JITTER, perspective=_PERSPECTIVE),
    "PP-OCRv6_small_det": replace(_V6, ema_decay=0.9997),
    "PP-OCRv6_tiny_det": replace(_V6, l2=1e-6, ema_decay=0.9998, jitter=_JITTER, size=(0.3, 2)),
}

DATA_DIR = "train_data"


CARDS = 8
"""GPUs that the official recipes are for: their rates go with so many batches a step."""

CPU_BATCH: Mapping[str, int] = {"rec": 16, "det": 2}
"""What fits into a few GB, and takes some seconds a step, where there is no GPU."""

LEAST_RATE = 1 / 20
"""Of the official rate: with small batches less would hardly learn."""

WARM_UP = 1.0
"""Epochs in which the rate rises for a model that can read already; the official ones are for new weights."""


def init(
    name: str, folder: Path, *, yml: Path | None = None, charset: Path | None = None, official: bool = False
) -> tuple[str, ...]:
    """Write `config.json` and `model_config.json` for training the model `name` into `folder`.

    They are for fine-tuning on this machine: a batch that it can hold, the official rate scaled to it, a short warm-up,
    workers for its cores.

    Args:
        name: a name of the zoo or the folder of a converted model: where training starts.
        folder: is made; raises `ConfigError` where one of the files is there already.
        yml: a PaddleOCR training yml whose values are taken in place of the official recipe's; only the workers are
            those of this machine.
        charset: a character set for a recogniser, in place of the model's: characters that both have keep their rows.
        official: write the recipe, or the yml, as it is.

    Returns what should be known: what is scaled, and which keys of the yml were not used, and why.
    """
    config, notes = _model_config(name)
    if config.task not in ("rec", "det"):
        raise ConfigError(f"{config.name} is a model for {config.task!r}; recognisers and detectors can be trained")
    if yml is None:
        settings = official_settings(config, pretrained=name)
    else:
        from paddle2torch.training.data.loaders import check_transforms
        from paddle2torch.training.paddleocr_yml import translate

        translation = translate(yml, pretrained=name)
        settings = translation.settings
        config = merged(translation.template, config)
        try:
            for training, split in ((True, settings.data.train), (False, settings.data.eval)):
                check_transforms(split, config, training=training, max_text_length=settings.data.max_text_length)
        except ConfigError as error:
            raise ConfigError(f"{yml}: {error}") from None
        notes += translation.lines()
    if charset is not None:
        config, more = with_charset(config, charset)
        notes += more
    if not official:
        if yml is None:
            settings, more = fine_tuned(settings, config.task)
            notes += more
        settings, more = for_this_machine(settings)
        notes += more
    write_settings(settings, config, folder)
    return tuple(notes)


def fine_tuned(settings: Settings, task: str) -> tuple[Settings, list[str]]:
    """An official recipe for a model that can read already, on one machine, and what was changed.

    The rate goes with the samples of a step. On a CPU the batch is `CPU_BATCH`.
    """
    train, loader = settings.data.train, settings.data.train.loader
    official, rate, warm_up = loader.batch_size_per_card, settings.optimizer.lr, settings.schedule.warmup_epoch
    batch = official if torch.cuda.is_available() else min(official, CPU_BATCH[task])
    scaled = float(f"{rate * max(batch / (official * CARDS), LEAST_RATE):.2g}")
    sampler = None if train.sampler is None else replace(train.sampler, first_bs=batch)
    train = replace(train, loader=replace(loader, batch_size_per_card=batch), sampler=sampler)
    settings = replace(
        settings,
        data=replace(settings.data, train=train),
        optimizer=replace(settings.optimizer, lr=scaled),
        schedule=replace(settings.schedule, warmup_epoch=min(warm_up, WARM_UP)),
    )
    new = settings.schedule.warmup_epoch
    return settings, [
        f"for fine-tuning on one device: batches of {batch} (officially {CARDS} x {official}), a rate of {scaled:g} "
        f"({rate:g}) that goes with the batch, and a warm-up of {new:g} epoch ({warm_up:g}). "
        f"--official writes the recipe as it is, for new weights on {CARDS} GPUs"
    ]


def for_this_machine(settings: Settings) -> tuple[Settings, list[str]]:
    """With no more workers than this machine has cores to spare, and what was changed."""
    cores = available_cores()
    most, notes = max(1, cores - 1), []

    def fewer(split: SplitSettings, name: str) -> SplitSettings:
        wanted = split.loader.num_workers
        if wanted > most:
            notes.append(f"data.{name}.loader.num_workers is {most} ({wanted}): {cores} cores here")
        return replace(split, loader=replace(split.loader, num_workers=min(wanted, most)))

    data = replace(settings.data, train=fewer(settings.data.train, "train"), eval=fewer(settings.data.eval, "eval"))
    return replace(settings, data=data), notes


def _model_config(name: str) -> tuple[ModelConfig, list[str]]:
    """The settings of a converted model, or where it is not converted yet, those that its card tells."""
    resolved = resolve(name)
    card, folder = resolved.card, resolved.converted
    if folder is None and card is None:
        folder = obtain_converted(resolved)
    if folder is not None:
        return ModelConfig.load(folder), []
    assert card is not None
    note = f"{card.name} is not converted here yet: model_config.json follows its card, not its checkpoint"
    return from_card(card).config(), [note]


def merged(template: Template, start: ModelConfig) -> ModelConfig:
    """What a yml describes, in place of the model that training starts from; kernels that no yml tells stay."""
    config = template.config()
    known = start.head.options.get("ctc", {})
    if config.head.name == start.head.name == "MultiHead" and "last_kernel_size" in known:
        ctc = {**config.head.options["ctc"], "last_kernel_size": known["last_kernel_size"]}
        config = replace(config, head=replace(config.head, options={**config.head.options, "ctc": ctc}))
    return config


def official_settings(config: ModelConfig, *, pretrained: str | None) -> Settings:
    """The official recipe for a model: that of its name, else of its task."""
    if config.task == "det":
        return _det_settings(config, DET_RECIPES.get(config.name, DetRecipe()), pretrained)
    recipe = REC_RECIPES.get(config.name, DEFAULT_REC_RECIPE)
    return _rec_settings(config, recipe, pretrained)


def _rec_settings(config: ModelConfig, recipe: RecRecipe, pretrained: str | None) -> Settings:
    assert isinstance(config.preprocess, RecPreprocess)
    channels, height, width = config.preprocess.image_shape
    nrtr = config.head.options.get("nrtr") or {}
    sar = config.head.options.get("sar") or {}
    length = int((nrtr or sar).get("max_text_length", 25))
    decode = Transform("DecodeImage", {"img_mode": config.preprocess.channel_order, "channel_first": False})
    join = Transform(
        "RecConAug",
        {"prob": 0.5, "ext_data_num": 2, "image_shape": [height, width, channels], "max_text_length": length},
    )
    encode, guide = Transform("CTCLabelEncode"), []
    if nrtr:
        encode, guide = Transform("MultiLabelEncode", {"gtc_encode": "NRTRLabelEncode"}), ["label_gtc"]
    elif sar:
        encode, guide = Transform("MultiLabelEncode"), ["label_sar"]
    keys = ["image", "label_ctc", *guide, "length", "valid_ratio"]
    keep = Transform("KeepKeys", {"keep_keys": keys})
    stretched = {} if config.preprocess.keep_ratio else {"padding": False}
    resize = Transform("RecResizeImg", {"image_shape": [channels, height, width], **stretched})
    sizes = None if config.preprocess.fixed_width else tuple((width, height + more) for more in (-16, 0, 16))
    steps = (decode, *([join] if recipe.joins else []), Transform("RecAug"), encode)
    train = SplitSettings(
        DatasetSettings(
            DATA_DIR,
            (f"{DATA_DIR}/train_list.txt",),
            name="SimpleDataSet" if sizes is None else "MultiScaleDataSet",
            transforms=(*steps, *([resize] if sizes is None else []), keep),
        ),
        LoaderSettings(recipe.batch, shuffle=True, drop_last=True, num_workers=8),
        None if sizes is None else MultiScaleSampler(sizes, recipe.batch),
    )
    evaluation = SplitSettings(
        DatasetSettings(DATA_DIR, (f"{DATA_DIR}/val_list.txt",), transforms=(decode, encode, resize, keep)),
        LoaderSettings(128, num_workers=4),
    )
    return Settings(
        pretrained=pretrained,
        data=DataSettings(train, evaluation, length),
        loss=RecLossSettings(),
        optimizer=_rec_optimizer(recipe),
        training=TrainingSettings(recipe.epochs),
        schedule=ScheduleSettings(warmup_epoch=5),
        evaluation=EvaluationSettings(recipe.every_steps, ignore_space=recipe.ignore_space),
        output=OutputSettings(print_steps=10),
    )


def _rec_optimizer(recipe: RecRecipe) -> OptimizerSettings:
    if recipe.weight_decay is None:
        return OptimizerSettings(recipe.lr, l2=3e-5, fc_decay=1e-5)
    return OptimizerSettings(
        recipe.lr,
        "AdamW",
        weight_decay=recipe.weight_decay,
        no_weight_decay_name=("norm",),
        one_dim_param_no_weight_decay=True,
        fc_decay=1e-5,
    )


def _det_settings(config: ModelConfig, recipe: DetRecipe, pretrained: str | None) -> Settings:
    assert isinstance(config.preprocess, DetPreprocess)
    epochs = 500
    decode = Transform("DecodeImage", {"img_mode": config.preprocess.channel_order, "channel_first": False})
    normalise = Transform(
        "NormalizeImage",
        {
            "scale": config.preprocess.scale,
            "mean": list(config.preprocess.mean),
            "std": list(config.preprocess.std),
            "order": "hwc",
        },
    )
    augmenters = [
        {"type": "Fliplr", "args": {"p": 0.5}},
        {"type": "Affine", "args": dict(recipe.rotate)},
        {"type": "Resize", "args": {"size": list(recipe.size)}},
    ]
    jitter = [] if recipe.jitter is None else [Transform("ColorJitter", recipe.jitter)]
    warp = [] if recipe.perspective is None else [Transform("RandomPerspective", recipe.perspective)]
    crop = {"size": [640, 640], "max_tries": 50, "keep_ratio": True}
    border = {"shrink_ratio": 0.4, "thresh_min": 0.3, "thresh_max": 0.7, "total_epoch": epochs}
    maps = ["image", "threshold_map", "threshold_mask", "shrink_map", "shrink_mask"]
    train = SplitSettings(
        DatasetSettings(
            DATA_DIR,
            (f"{DATA_DIR}/train_label.txt",),
            transforms=(
                decode,
                Transform("DetLabelEncode"),
                Transform("CopyPaste"),
                *jitter,
                Transform("IaaAugment", {"augmenter_args": augmenters}),
                *warp,
                Transform(recipe.crop, crop),
                Transform("MakeBorderMap", border),
                Transform("MakeShrinkMap", {"shrink_ratio": 0.4, "min_text_size": 8, "total_epoch": epochs}),
                normalise,
                Transform("ToCHWImage"),
                Transform("KeepKeys", {"keep_keys": maps}),
            ),
            ext_op_transform_idx=2,
        ),
        LoaderSettings(8, shuffle=True, num_workers=8),
    )
    evaluation = SplitSettings(
        DatasetSettings(
            DATA_DIR,
            (f"{DATA_DIR}/val_label.txt",),
            transforms=(
                decode,
                Transform("DetLabelEncode"),
                Transform("DetResizeForTest"),
                normalise,
                Transform("ToCHWImage"),
                Transform("KeepKeys", {"keep_keys": ["image", "shape", "polys", "ignore_tags"]}),
            ),
        ),
        LoaderSettings(1, num_workers=2),
    )
    return Settings(
        pretrained=pretrained,
        data=DataSettings(train, evaluation),
        loss=DBLossSettings(main_loss_type=recipe.main_loss_type),
        optimizer=OptimizerSettings(1e-3, l2=recipe.l2),
        training=TrainingSettings(epochs, ema_decay=recipe.ema_decay),
        schedule=ScheduleSettings(warmup_epoch=2),
        evaluation=EvaluationSettings(1500),
        output=OutputSettings(print_steps=100),
    )
