"""The official training recipes, as settings.

Values are those of PaddleOCR's `configs/rec/PP-OCRv4/en_PP-OCRv4_rec.yml`, `ch_PP-OCRv4_rec.yml`, those of
`configs/rec/SVTRv2/`, `configs/det/ch_PP-OCRv4/ch_PP-OCRv4_det_student.yml`, `configs/cls/cls_mv3.yml` and of
PP-OCRv6's release; those of PP-LCNet are PaddleX's, `PP-LCNet_*_ori.yaml` (all Apache-2.0). They are for training from
the start on several GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from paddle2torch.model_zoo.config import ClsPreprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.strict_json import unknown_key
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
    Transform,
)


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
    "ch_PP-OCRv4_det": DetRecipe(),
    "PP-OCRv6_medium_det": replace(_V6, ema_decay=0.9996, jitter=_JITTER, perspective=_PERSPECTIVE),
    "PP-OCRv6_small_det": replace(_V6, ema_decay=0.9997),
    "PP-OCRv6_tiny_det": replace(_V6, l2=1e-6, ema_decay=0.9998, jitter=_JITTER, size=(0.3, 2)),
}


@dataclass(frozen=True)
class ClsRecipe:
    """Where the official classifier recipes differ.

    With a `momentum` that is the optimiser. turns: RandCropImage and RandomRot90, of documents. PaddleClas draws its
    changes of images from timm's list, and erases parts of them; PaddleOCR's RandAugment stands for that here.
    """

    epochs: int
    lr: float
    batch: int
    l2: float
    momentum: float | None = 0.9
    warmup_epoch: float = 5.0
    label_smoothing: float = 0.0
    turns: bool = False
    every_steps: int = 1000


_TEXTLINE = ClsRecipe(epochs=20, lr=0.8, batch=256, l2=1e-5)
CLS_RECIPES: Mapping[str, ClsRecipe] = {
    "ch_ppocr_mobile_v2.0_cls": ClsRecipe(100, 1e-3, 512, 0.0, momentum=None, warmup_epoch=0.0),
    "PP-LCNet_x0_25_textline_ori": _TEXTLINE,
    # PaddleX writes a batch of 16 beside the same rate, which goes with the 256 of the smaller one.
    "PP-LCNet_x1_0_textline_ori": replace(_TEXTLINE, l2=4e-5),
    "PP-LCNet_x1_0_doc_ori": ClsRecipe(60, 0.14, 256, 3e-5, label_smoothing=0.1, turns=True),
}

DATA_DIR = "train_data"


RECIPES: Mapping[str, Mapping[str, Any]] = {"rec": REC_RECIPES, "det": DET_RECIPES, "cls": CLS_RECIPES}

DEFAULT_RECIPES: Mapping[str, str] = {
    "rec": "en_PP-OCRv4_rec",
    "det": "ch_PP-OCRv4_det",
    "cls": "ch_ppocr_mobile_v2.0_cls",
}
"""Of models that have no recipe by their own name, by task."""


def recipe_name(config: ModelConfig) -> str:
    """The recipe of a model: that of its name, else of its task."""
    return config.name if config.name in RECIPES[config.task] else DEFAULT_RECIPES[config.task]


def official_settings(config: ModelConfig, *, pretrained: str | None, recipe: str | None = None) -> Settings:
    """The official recipe for a model, by default the one of `recipe_name`.

    Raises `ConfigError` for a recipe that nobody knows.
    """
    name = recipe_name(config) if recipe is None else recipe
    recipes = RECIPES[config.task]
    if name not in recipes:
        raise unknown_key(name, recipes, "recipe")
    makers: Mapping[str, Callable[[ModelConfig, Any, str | None], Settings]]
    makers = {"rec": _rec_settings, "det": _det_settings, "cls": _cls_settings}
    return makers[config.task](config, recipes[name], pretrained)


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
        None if sizes is None else MultiScaleSampler(sizes),
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


def _cls_settings(config: ModelConfig, recipe: ClsRecipe, pretrained: str | None) -> Settings:
    assert isinstance(config.preprocess, ClsPreprocess)
    shape = config.preprocess.image_shape
    decode = Transform("DecodeImage", {"img_mode": config.preprocess.channel_order, "channel_first": False})
    encode, resize = Transform("ClsLabelEncode"), Transform("ClsResizeImg", {"image_shape": list(shape)})
    keep = Transform("KeepKeys", {"keep_keys": ["image", "label"]})
    augment = [Transform("BaseDataAugmentation"), Transform("RandAugment")]
    if recipe.momentum is not None:
        augment = [Transform("RandAugment", {"prob": 1.0, "magnitude": 9})]
    if recipe.turns:
        crop = Transform("RandCropImage", {"size": [shape[2], shape[1]]})
        # PaddleX draws from timm's list with a probability of 0 here.
        augment = [crop, Transform("RandomRot90")]

    def split(name: str, transforms: Sequence[Transform], loader: LoaderSettings) -> SplitSettings:
        return SplitSettings(
            DatasetSettings(DATA_DIR, (f"{DATA_DIR}/{name}.txt",), transforms=tuple(transforms)), loader
        )

    optimizer = OptimizerSettings(recipe.lr, l2=recipe.l2)
    if recipe.momentum is not None:
        optimizer = replace(optimizer, name="Momentum", momentum=recipe.momentum)
    return Settings(
        pretrained=pretrained,
        data=DataSettings(
            split(
                "train_list",
                [decode, encode, *augment, resize, keep],
                LoaderSettings(recipe.batch, shuffle=True, drop_last=recipe.momentum is None, num_workers=8),
            ),
            split("val_list", [decode, encode, resize, keep], LoaderSettings(128, num_workers=4)),
        ),
        loss=ClsLossSettings(recipe.label_smoothing),
        optimizer=optimizer,
        training=TrainingSettings(recipe.epochs),
        schedule=ScheduleSettings(warmup_epoch=recipe.warmup_epoch),
        evaluation=EvaluationSettings(recipe.every_steps),
        output=OutputSettings(print_steps=10),
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
