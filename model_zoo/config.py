"""`model_config.json`: everything about a converted model but its weights.

The architecture (backbone, neck, head), the form, the character set, pre- and post-processing with their
constants, and where the model came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.names import check_name, file_in
from paddle2torch.model_zoo.strict_json import from_json, to_json

CONFIG_NAME = "model_config.json"

Form = Literal["training", "fused"]
Task = Literal["rec", "det", "cls"]
OriginKind = Literal["training checkpoint", "legacy export", "PIR export", "fused here", "trained here"]


@dataclass(frozen=True)
class Component:
    """A backbone, neck or head: Paddle's class name and the keywords of its constructor.

    In JSON one object: `{"name": "PPLCNetV3", "scale": 0.95}`. Which keywords there are is the constructor's to
    say: `build_model` refuses one that it does not take.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Component:
        """Read the flat object; raises `ConfigError` where it has no `name`."""
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise ConfigError(f'{where}: expected an object with a "name", found {data!r}')
        return cls(data["name"], {key: value for key, value in data.items() if key != "name"})

    def to_json(self) -> dict[str, Any]:
        """The flat object."""
        return {"name": self.name, **to_json(self.options)}


@dataclass(frozen=True)
class RecPreprocess:
    """How a line image becomes the recogniser's input.

    `image_shape` is (channels, height, width): the line is resized to that height with its aspect ratio kept,
    normalised as `(v * scale - mean) / std` per channel in `channel_order`, and padded on the right with zeros to
    at least that width; `max_width` is where the official pipeline stops growing (pixels), None where it does not.
    """

    image_shape: tuple[int, int, int] = (3, 48, 320)
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    max_width: int | None = 3200


@dataclass(frozen=True)
class DetPreprocess:
    """How a page becomes the detector's input.

    The side that `limit_type` names ("max": longest, "min": shortest) is brought to `limit_side_len` pixels where it
    is beyond it, both sides are rounded to multiples of 32. With "resize_long" the longest side is brought to
    `limit_side_len` in any case, both sides are rounded up to multiples of 128. The ImageNet constants stand in RGB
    order but are applied to BGR, as in all official training.
    """

    limit_side_len: int = 960
    limit_type: Literal["max", "min", "resize_long"] = "max"
    channel_order: Literal["BGR", "RGB"] = "BGR"
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


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
        if self.resize_short is not None and (not self.keep_ratio or self.resize_short < max(self.image_shape[1:])):
            raise ConfigError(
                f"resize_short keeps the aspect ratio and leaves enough to cut out {self.image_shape[1:]}: "
                f"it cannot be {self.resize_short} with keep_ratio {self.keep_ratio}"
            )


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


@dataclass(frozen=True)
class ClsPostprocess:
    """Class labels, and the score from which on the pipeline believes the classifier (None: whatever the score)."""

    labels: tuple[str, ...] = ("0", "180")
    thresh: float | None = 0.9


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
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{folder} is not a converted model: it has no {CONFIG_NAME}") from None
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not JSON: {error}") from None
        return from_json(cls, data, str(path))

    def dumps(self) -> str:
        """The text of `model_config.json`."""
        return json.dumps(to_json(self), ensure_ascii=False, indent=1) + "\n"


def check_charset(charset: tuple[str, ...] | None, head: Component, name: str) -> None:
    """Raise unless the character set fits the head: one class per character and one for the blank."""
    classes = head.options.get("classes")
    if charset is None:
        raise ConfigError(f"{name}: a recogniser needs its character set (class count {classes})")
    if classes != len(charset) + 1:
        raise ConfigError(
            f"{name}: the character set has {len(charset)} characters, which makes {len(charset) + 1} classes with the "
            f"blank, but the head has {classes}. Give the set this model was trained with (--charset, one character a "
            f"line; PaddleOCR appends a space where use_space_char is on)"
        )
