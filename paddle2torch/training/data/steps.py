"""PaddleOCR's transforms by name: their options, their order, and the keys that a batch has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import from_json, to_json, unknown_key
from paddle2torch.training.data.cls_transforms import (
    ClsLabelEncode,
    ClsResizeImg,
    RandAugment,
    RandCropImage,
    RandomRot90,
)
from paddle2torch.training.data.det_transforms import (
    CopyPaste,
    DetLabelEncode,
    DetResizeForTest,
    EastRandomCropData,
    IaaAugment,
    MakeBorderMap,
    MakeShrinkMap,
    NormalizeImage,
    ToCHWImage,
)
from paddle2torch.training.data.rec_transforms import (
    BaseDataAugmentation,
    CTCLabelEncode,
    MultiLabelEncode,
    RecAug,
    RecConAug,
    RecResizeImg,
)
from paddle2torch.training.data.svtr_transforms import SVTRRecAug
from paddle2torch.training.data.v6_transforms import ColorJitter, RandomCrop, RandomPerspective
from paddle2torch.training.settings import DatasetSettings, Transform


@dataclass(frozen=True)
class DecodeImage:
    """Options of DecodeImage: the order of the channels (PaddleOCR's default is RGB)."""

    img_mode: Literal["BGR", "RGB"] = "RGB"
    channel_first: Literal[False] = False


@dataclass(frozen=True)
class KeepKeys:
    """Options of KeepKeys: what a batch has."""

    keep_keys: tuple[str, ...]


def _by_name(*steps: type) -> dict[str, type]:
    return {step.__name__: step for step in steps}


# In the order of the official recipes: the places of the others follow from their inputs and outputs.
REC_STEPS = _by_name(
    DecodeImage, RecConAug, RecAug, SVTRRecAug, MultiLabelEncode, CTCLabelEncode, RecResizeImg, KeepKeys
)

DET_STEPS = _by_name(
    DecodeImage,
    DetLabelEncode,
    CopyPaste,
    ColorJitter,
    IaaAugment,
    RandomPerspective,
    EastRandomCropData,
    RandomCrop,
    DetResizeForTest,
    MakeBorderMap,
    MakeShrinkMap,
    NormalizeImage,
    ToCHWImage,
    KeepKeys,
)

CLS_STEPS = _by_name(
    DecodeImage,
    ClsLabelEncode,
    RandCropImage,
    RecAug,
    BaseDataAugmentation,
    RandAugment,
    RandomRot90,
    ClsResizeImg,
    KeepKeys,
)

# PaddleOCR's names of what a batch has. CTCLabelEncode's row is called `label` there, and `label_ctc` here too.
REC_KEYS = ("image", "label_ctc", "label_gtc", "label_sar", "label", "length", "valid_ratio")

DET_KEYS = (
    "image",
    "threshold_map",
    "threshold_mask",
    "shrink_map",
    "shrink_mask",
    "shape",
    "polys",
    "ignore_tags",
)

CLS_KEYS = ("image", "label")

NO_TRANSFORM = ("DecodeImage", "RecResizeImg", "ClsLabelEncode", "ClsResizeImg", "KeepKeys")
"""What a dataset does itself, before and after its transforms."""


def read_steps(transforms: Sequence[Transform], known: dict[str, type], keys: Sequence[str]) -> dict[str, Any]:
    """The transforms by name, their options read strictly; raises `ConfigError`, also where their order is another."""
    steps: dict[str, Any] = {}
    for transform in transforms:
        if transform.name not in known:
            raise unknown_key(transform.name, known, "transforms")
        if transform.name in steps:
            raise ConfigError(f"transforms: {transform.name} stands there twice")
        steps[transform.name] = from_json(known[transform.name], to_json(transform.options), transform.name)
    order = [name for name in known if name in steps]
    if list(steps) != order:
        raise ConfigError(f"transforms: their order is {', '.join(order)}; found {', '.join(steps)}")
    for name in ("DecodeImage", "KeepKeys"):
        if name not in steps:
            raise ConfigError(f"transforms: {name} is missing")
    for key in steps["KeepKeys"].keep_keys:
        if key not in keys:
            raise unknown_key(key, keys, "KeepKeys: keep_keys")
    return steps


def check_channels(decode: DecodeImage, order: str, name: str) -> None:
    """Raise `ConfigError` where images are decoded in another order than the model `name` reads."""
    if decode.img_mode != order:
        raise ConfigError(
            f"DecodeImage: img_mode is {decode.img_mode}, but {name} reads {order} (preprocess.channel_order in "
            f"model_config.json): make both the same"
        )


def count_for_others(settings: DatasetSettings, steps: dict[str, Any], joins: str, needed: int) -> int:
    """How many transforms after the decoding the other samples pass that `joins` asks for."""
    if joins not in steps:
        return 0
    place = list(steps).index(joins)
    if not needed <= settings.ext_op_transform_idx <= place:
        raise ConfigError(
            f"ext_op_transform_idx: the samples that {joins} adds pass the first {needed} transforms "
            f"({', '.join(list(steps)[:needed])}), not {settings.ext_op_transform_idx}"
        )
    return settings.ext_op_transform_idx - 1
