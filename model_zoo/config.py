"""`model_config.json`: everything about a converted model but its weights.

The architecture (backbone, neck, head), the form, the character set, pre- and post-processing with their
constants, and where the model came from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.format_version import with_format, without_format
from paddle2torch.model_zoo.names import check_name, file_in
from paddle2torch.model_zoo.show import show, show_path
from paddle2torch.model_zoo.strict_json import RARE, check_plain, from_json, read_json, to_json, within

CONFIG_NAME = "model_config.json"

# What settings from outside can ask for; the largest official ones are 224, 3200, 960, 1.5 and 4.
MOST_HEIGHT = 1024
MOST_WIDTH = 16_384
MOST_PIXELS = 1 << 20
"""Pixels of a recogniser's or classifier's input."""
MOST_SIDE = 65_536
"""Pixels of a page's side; the detector's input has its own, narrower limit (`tasks.detection.MAX_SIDE`)."""
MOST_UNCLIP = 20.0
MOST_LABELS = 1000

# C0 (but for the tab, which an official set has), C1, and surrogates, which no encoding can write.
_CONTROL = re.compile("[\0-\x08\n-\x1f\x7f-\x9f\ud800-\udfff]")
_MOST_OF_A_CHARACTER = 64

Form = Literal["training", "fused"]
Task = Literal["rec", "det", "cls"]
OriginKind = Literal[
    "training checkpoint",
    "legacy export",
    "PIR export",
    "ONNX file",
    "transformers folder",
    "fused here",
    "trained here",
]


@dataclass(frozen=True)
class Component:
    """A transform, backbone, neck or head: Paddle's class name and the keywords of its constructor.

    In JSON one object: `{"name": "PPLCNetV3", "scale": 0.95}`. Which keywords there are is the constructor's to
    say: `build_model` refuses one that it does not take.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Component:
        """Read the flat object; raises `ConfigError` where it has no `name`."""
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise ConfigError(f'{where}: expected an object with a "name", found {show(data)}')
        options = {key: value for key, value in data.items() if key != "name"}
        check_plain(options, where)
        return cls(data["name"], options)

    def to_json(self) -> dict[str, Any]:
        """The flat object."""
        return {"name": self.name, **to_json(self.options)}


def _check_levels(settings: RecPreprocess | DetPreprocess | ClsPreprocess) -> None:
    """Raise `ConfigError` for levels that make no numbers of an image."""
    within(settings, scale=(1e-6, 1e6), mean=(-1e6, 1e6), std=(1e-6, 1e6))


def _check_image(settings: RecPreprocess | ClsPreprocess) -> None:
    """The same, and for an input of a size that no line and no page is brought to."""
    _check_levels(settings)
    within(settings, image_shape=(1, MOST_WIDTH))
    channels, height, width = settings.image_shape
    longest = max(width, getattr(settings, "max_width", None) or 0)
    if channels != 3 or height > MOST_HEIGHT or height * longest > MOST_PIXELS:
        raise ConfigError(
            f"image_shape is {list(settings.image_shape)}: it must be 3 channels, a height up to {MOST_HEIGHT:,}, and "
            f"a width (max_width, where that is more) that makes at most {MOST_PIXELS:,} pixels"
        )


def check_characters(characters: Sequence[str], where: str) -> None:
    """Raise `ConfigError` for control characters, halves of characters, and whole texts among `characters`."""
    for index, character in enumerate(characters):
        if len(character) > _MOST_OF_A_CHARACTER or _CONTROL.search(character):
            raise ConfigError(
                f"{where}: {show(character)} (number {index + 1:,}) "
                + (
                    "has a control character or half a character in it"
                    if len(character) <= _MOST_OF_A_CHARACTER
                    else f"has {len(character):,} letters, at most {_MOST_OF_A_CHARACTER} are one character"
                )
            )


@dataclass(frozen=True)
class RecPreprocess:
    """How a line image becomes the recogniser's input.

    `image_shape` is (channels, height, width): the line is resized to that height with its aspect ratio kept,
    normalised as `(v * scale - mean) / std` per channel in `channel_order`, and padded on the right with zeros to
    at least that width; `max_width` is where the official pipeline stops growing (pixels), None where it does not.
    With `max_width` equal to that width all inputs have it; without `keep_ratio` each line is then stretched to it.
    """

    image_shape: tuple[int, int, int] = (3, 48, 320)
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_width: int | None = 3200
    keep_ratio: bool = field(default=True, metadata={RARE: True})

    def __post_init__(self) -> None:
        within(self, max_width=(1, MOST_WIDTH))
        _check_image(self)
        if not self.keep_ratio and not self.fixed_width:
            raise ConfigError(
                f"keep_ratio is False, which stretches lines to one width: max_width is that of image_shape then, "
                f"{self.image_shape[2]}, not {self.max_width}"
            )

    @property
    def fixed_width(self) -> bool:
        """Whether all inputs have the width of `image_shape`."""
        return self.max_width == self.image_shape[2]


@dataclass(frozen=True)
class DetPreprocess:
    """How a page becomes the detector's input.

    The side that `limit_type` names ("max": longest, "min": shortest) is brought to `limit_side_len` pixels where it
    is beyond it, both sides are rounded to multiples of 32. With "resize_long" the longest side is brought to
    `limit_side_len` in any case, both sides are rounded up to multiples of 128. The ImageNet constants are in RGB
    order but are applied to BGR, as in all official training.
    """

    limit_side_len: int = 960
    limit_type: Literal["max", "min", "resize_long"] = "max"
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        _check_levels(self)
        within(self, limit_side_len=(1, MOST_SIDE))


@dataclass(frozen=True)
class ClsPreprocess:
    """How a crop or page becomes the classifier's input of `image_shape` (channels, height, width).

    It is stretched, or with `keep_ratio` resized to that height, at most to that width, and padded on the right with
    zeros. With `resize_short` its shortest side is brought to that many pixels and the centre is cut out.
    """

    image_shape: tuple[int, int, int] = (3, 48, 192)
    keep_ratio: bool = True
    resize_short: int | None = None
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        _check_image(self)
        within(self, resize_short=(1, MOST_HEIGHT))
        if self.resize_short is not None and (not self.keep_ratio or self.resize_short < max(self.image_shape[1:])):
            raise ConfigError(
                f"resize_short keeps the aspect ratio and leaves enough to cut out {self.image_shape[1:]}: "
                f"it cannot be {self.resize_short} with keep_ratio {self.keep_ratio}"
            )


def one_size(preprocess: RecPreprocess | DetPreprocess | ClsPreprocess) -> tuple[int, int, int] | None:
    """(channels, height, width) that all inputs have; None where they have several sizes."""
    if isinstance(preprocess, ClsPreprocess) or (isinstance(preprocess, RecPreprocess) and preprocess.fixed_width):
        return preprocess.image_shape
    return None


@dataclass(frozen=True)
class CTCDecode:
    """Greedy CTC decoding: class 0 is the blank, class i the character i - 1 of the set.

    `right_to_left`: the network sees lines from the left, and their texts are put into reading order.
    """

    right_to_left: bool = False


@dataclass(frozen=True)
class DBPostprocess:
    """Probability map to boxes, with PaddleOCR's names and meanings (`ppocr/postprocess/db_postprocess.py`)."""

    thresh: float = 0.3
    box_thresh: float = 0.6
    max_candidates: int = 1000
    unclip_ratio: float = 1.5
    use_dilation: bool = False
    score_mode: Literal["fast", "slow"] = "fast"
    box_type: Literal["quad", "poly"] = "quad"

    def __post_init__(self) -> None:
        within(self, thresh=(0, 1), box_thresh=(0, 1), max_candidates=(1, 100_000), unclip_ratio=(0, MOST_UNCLIP))


@dataclass(frozen=True)
class ClsPostprocess:
    """Class labels, and the score from which on the pipeline believes the classifier (None: whatever the score)."""

    labels: tuple[str, ...] = ("0", "180")
    thresh: float | None = 0.9

    def __post_init__(self) -> None:
        within(self, thresh=(0, 1))
        if not 1 <= len(self.labels) <= MOST_LABELS:
            raise ConfigError(f"labels: a classifier has 1 to {MOST_LABELS} of them, here are {len(self.labels):,}")
        check_characters(self.labels, "labels")


EXPORT_LACKS = "an export has no"
"""How notes begin about what a model that was read from an export lacks: what training alone needs."""


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    `kind` says which file it was read from, `files` their sha256, `source` where they were got, `converter` our
    version, and `notes` what the conversion left out or decided.
    """

    kind: OriginKind
    files: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    converter: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """One converted model. `charset` has the characters of classes 1, 2, … (class 0 is the CTC blank).

    `name` becomes part of paths: see `names.is_name` for what it can be.
    """

    name: str
    task: Task
    form: Form
    backbone: Component
    neck: Component | None
    head: Component
    preprocess: RecPreprocess | DetPreprocess | ClsPreprocess
    postprocess: CTCDecode | DBPostprocess | ClsPostprocess
    charset: tuple[str, ...] | None = None
    freeze_backbone: bool = False
    transform: Component | None = field(default=None, metadata={RARE: True})
    origin: Origin | None = None

    def __post_init__(self) -> None:
        check_name(self.name, '"name" of the model')
        expected = {
            "rec": (RecPreprocess, CTCDecode),
            "det": (DetPreprocess, DBPostprocess),
            "cls": (ClsPreprocess, ClsPostprocess),
        }[self.task]
        if not isinstance(self.preprocess, expected[0]) or not isinstance(self.postprocess, expected[1]):
            raise ConfigError(
                f"{self.name}: a model of task {self.task!r} takes {expected[0].__name__} and {expected[1].__name__}, "
                f"not {type(self.preprocess).__name__} and {type(self.postprocess).__name__}"
            )
        if self.task == "rec":
            check_charset(self.charset, self.head, self.name)
        elif self.charset is not None:
            raise ConfigError(f"{self.name}: a model of task {self.task!r} has no character set")

    @property
    def parts(self) -> tuple[Component, ...]:
        """Transform, backbone, neck and head, as far as the network has them."""
        return tuple(part for part in (self.transform, self.backbone, self.neck, self.head) if part is not None)

    @property
    def classes(self) -> int:
        """Number of classes of the head (CTC blank included); raises where the task has none."""
        classes = self.head.options.get("classes")
        if not isinstance(classes, int):
            raise ConfigError(f"{self.name}: the head {self.head.name} has no class count")
        return classes

    def with_form(self, form: Form) -> ModelConfig:
        """The same model in the other form."""
        return replace(self, form=form)

    @classmethod
    def load(cls, folder: Path) -> ModelConfig:
        """Read `model_config.json` of a converted model's folder."""
        path = file_in(Path(folder), CONFIG_NAME)
        if not os.path.exists(path):
            raise ConfigError(f"{show_path(folder)} is not a converted model: it has no {CONFIG_NAME}")
        data = read_json(path)
        if isinstance(data, dict) and data.get("form") == "program":
            raise ConfigError(
                f"{show_path(folder)} holds a program of a network that is not known here by name: load_pretrained, "
                f"verify and export take it, nothing that needs a recogniser, detector or classifier"
            )
        return cls.from_data(data, show_path(path))

    @classmethod
    def from_data(cls, data: Any, where: str) -> ModelConfig:
        """The settings in the JSON that was read from `where`; raises `ConfigError` where they are not a model's."""
        return from_json(cls, without_format(data, where), where)

    def dumps(self) -> str:
        """The text of `model_config.json`."""
        return json.dumps(with_format(to_json(self)), ensure_ascii=False, indent=1) + "\n"


def check_charset(charset: tuple[str, ...] | None, head: Component, name: str) -> None:
    """Raise unless the character set fits the head: one class per character and one for the blank."""
    classes = head.options.get("classes")
    if charset is not None:
        check_characters(charset, f"{name}: charset")
    if charset is None:
        raise ConfigError(f"{name}: a recogniser needs its character set (class count {show(classes)})")
    if classes != len(charset) + 1:
        raise ConfigError(
            f"{name}: the character set has {len(charset)} characters, which makes {len(charset) + 1} classes with the "
            f"blank, but the head has {show(classes)}. Give the set this model was trained with (--charset, one "
            f"character a line; PaddleOCR appends a space where use_space_char is on)"
        )
