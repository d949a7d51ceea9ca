"""What is known of a model before its tensors are read: from its card, a PaddleOCR training yml, or an `inference.yml`.

A template leaves open what its source does not say; the checkpoint fills it in and overrules it (`convert.py`).
"""

from __future__ import annotations

import contextlib
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from paddle2torch.converters.architecture import Architecture, from_paddleocr
from paddle2torch.converters.characters import Charset, Direction, settle_charset, settle_direction
from paddle2torch.model_zoo.cards import Card, load_card
from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    Form,
    ModelConfig,
    RecPreprocess,
    Task,
    check_characters,
)
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.names import file_in, plain_name
from paddle2torch.model_zoo.registry import parts
from paddle2torch.model_zoo.show import show, show_path, show_text
from paddle2torch.model_zoo.strict_json import from_json
from paddle2torch.model_zoo.strict_yaml import read_yaml


@dataclass(frozen=True)
class Template:
    """A model as far as its settings tell. None: not said there."""

    name: str
    source: str
    task: Task | None = None
    architecture: Architecture | None = None
    charset: Charset | None = None
    preprocess: RecPreprocess | DetPreprocess | ClsPreprocess | None = None
    postprocess: CTCDecode | DBPostprocess | ClsPostprocess | None = None
    direction: Direction | None = None
    """Of a recogniser's lines; None: by the letters of its set."""

    def over(self, other: Template) -> Template:
        """This template, with what it leaves open taken from `other`."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **known)

    def config(self, form: Form = "training", *, classes: int | None = None) -> ModelConfig:
        """The model's settings; what is not said of pre- and post-processing is PaddleOCR's default.

        A recogniser has as many classes as its head says, else `classes`, else as many as the character set makes.
        Raises `ConfigError` where the network or the number of classes is not known, `ConversionError` for a character
        set that does not fit it.
        """
        if self.architecture is None:
            raise ConfigError(f"{self.source}: its network is not described there")
        task = task_of(self.architecture)
        if self.task not in (None, task):
            raise ConfigError(f"{self.source} describes the network of a model for {task!r}, not for {self.task!r}")
        head, charset = self.architecture.head, None
        if task == "rec":
            if "classes" not in head.options:
                count = self._classes() if classes is None else classes
                head = replace(head, options={"classes": count, **head.options})
            charset, _ = settle_charset(self.charset, head.options["classes"], self.name, self.architecture.say())
        preprocess, postprocess = DEFAULTS[task]
        if charset is not None:
            postprocess, _ = self._direction(charset)
        return ModelConfig(
            name=self.name,
            task=task,
            form=form,
            backbone=self.architecture.backbone,
            neck=self.architecture.neck,
            transform=self.architecture.transform,
            head=head,
            preprocess=self.preprocess or preprocess,
            postprocess=postprocess if task == "rec" else self.postprocess or postprocess,
            charset=charset,
        )

    def notes(self, config: ModelConfig) -> tuple[str, ...]:
        """What was decided about the characters of `config`, which this template gave."""
        if config.charset is None:
            return ()
        return (
            *settle_charset(self.charset, config.classes, self.name)[1],
            *self._direction(config.charset)[1],
        )

    def _direction(self, charset: tuple[str, ...]) -> tuple[CTCDecode, tuple[str, ...]]:
        known = self.postprocess if isinstance(self.postprocess, CTCDecode) else None
        return settle_direction(self.direction, known, charset)

    def _classes(self) -> int:
        """Blank, characters, space; raises `ConfigError` where one of them is not known."""
        if self.charset is None:
            raise ConfigError(f"{self.source}: it names no character set")
        if self.charset.use_space_char is None:
            raise ConfigError(
                f"{self.source}: it is not known whether a space follows the characters of {self.charset.source}: "
                f"convert its checkpoint, whose class count tells"
            )
        return 1 + len(self.charset.characters) + self.charset.use_space_char


DEFAULTS: Mapping[Task, tuple[Any, Any]] = {
    "rec": (RecPreprocess(), CTCDecode()),
    "det": (DetPreprocess(), DBPostprocess()),
    "cls": (ClsPreprocess(), ClsPostprocess()),
}


NO_DICTIONARY = tuple(string.digits + string.ascii_lowercase)
"""What PaddleOCR's recognisers read where their yml names no dictionary; labels are made small letters."""


def task_of(architecture: Architecture) -> Task:
    """What a network is for: its head's task."""
    task = parts("head")[architecture.head.name].task
    assert task is not None, f"the head {architecture.head.name} says no task"
    return task


def from_card(card: Card) -> Template:
    """The template of a released model."""
    charset = None
    if card.charset is not None:
        charset = Charset(card.bundled_characters(), card.charset.use_space_char, card.charset.file)
    architecture = network_of(card)
    return Template(card.name, f"card {card.name}", card.task, architecture, charset, card.preprocess, card.postprocess)


def network_of(card: Card) -> Architecture | None:
    """The network of a released model, where its card says it; its characters are not read."""
    return None if card.architecture is None else from_paddleocr(card.architecture, card.task, f"card {card.name}")


def from_yml(path: Path, *, charset_given: bool = False, network: str | None = None) -> Template:
    """The template in a PaddleOCR training yml (it has an `Architecture`) or in an export's `inference.yml`.

    Of a distillation's networks that is the one called `network`, or the Student.

    With `charset_given` the character set that the yml names need not be there: another one takes its place, and
    only the yml's `use_space_char` is used. Raises `FileFormatError` for a file that is neither.
    """
    return from_sections(read_yaml(path), Path(path), charset_given=charset_given, network=network)


def from_sections(
    data: Mapping[str, Any], path: Path, *, charset_given: bool = False, network: str | None = None
) -> Template:
    """`from_yml` for a file that was read: its sections are `data`."""
    if "Architecture" in data:
        return _from_training_yml(data, path, charset_given, network)
    if "PostProcess" in data and "PreProcess" in data:
        return _from_inference_yml(data, path)
    raise FileFormatError(
        f"{show_path(path)} is not a PaddleOCR settings file: it has neither an Architecture section (training) "
        f"nor PreProcess and PostProcess (inference.yml)"
    )


def distilled(data: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The networks of a training yml that distils one from others, by name; empty for a yml of one network."""
    return _section(_section(data, "Architecture", path), "Models", path)


def _section(data: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    section = data.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise FileFormatError(f"{path}: {name} is not a section, but {show(section)}")
    return section


def _transforms(items: Any, path: Path, key: str) -> dict[str, Mapping[str, Any]]:
    """The transforms of a data set or of PreProcess by name; a transform without options has none."""
    found: dict[str, Mapping[str, Any]] = {}
    if not isinstance(items, list | None):
        raise FileFormatError(f"{path}: {key} is not a list of transforms, but {show(items)}")
    for item in items or ():
        if not isinstance(item, dict):
            raise FileFormatError(f"{path}: {key}: {show(item)} is not a transform")
        for name, options in item.items():
            found[show_text(str(name))] = options if isinstance(options, dict) else {}
    return found


def _from_training_yml(
    data: Mapping[str, Any], path: Path, charset_given: bool, network: str | None = None
) -> Template:
    settings, section = _section(data, "Global", path), _section(data, "Architecture", path)
    if models := distilled(data, path):
        chosen = network or "Student"
        if not isinstance(models.get(chosen), dict):
            raise ConfigError(
                f"{path}: Architecture.Models has no network {chosen!r}, but {show_text(', '.join(map(str, models)))}: "
                f"say which one is wanted (--network)"
            )
        section = {"model_type": section.get("model_type"), **models[chosen]}
    kind = section.get("model_type")
    tasks: dict[str, Task] = {"rec": "rec", "det": "det", "cls": "cls"}
    if not isinstance(kind, str) or kind not in tasks:
        raise ConfigError(
            f"{path}: Architecture.model_type is {show(kind)}; rec, det and cls can be converted from checkpoints. "
            f"Exports of other networks can, as programs (--weights FOLDER, without --config)"
        )
    task = tasks[kind]
    architecture = from_paddleocr(section, task, str(path))
    evaluation = _section(_section(data, "Eval", path), "dataset", path)
    transforms = _transforms(evaluation.get("transforms"), path, "Eval.dataset.transforms")
    charset = None
    dictionary = settings.get("character_dict_path")
    if task == "rec" and isinstance(dictionary, str):
        characters = () if charset_given else _dictionary(dictionary, path)
        charset = Charset(characters, bool(settings.get("use_space_char", False)), show_path(dictionary))
    elif task == "rec" and not charset_given:
        charset = Charset(NO_DICTIONARY, False, "PaddleOCR's set where a yml names none")
    labels = settings.get("label_list")
    return Template(
        _name(settings, path),
        str(path),
        task,
        architecture,
        charset,
        _preprocess(task, transforms, path, one_size=architecture.one_size),
        _postprocess(task, _section(data, "PostProcess", path), labels, path),
    )


def _from_inference_yml(data: Mapping[str, Any], path: Path) -> Template:
    post = _section(data, "PostProcess", path)
    tasks: dict[str, Task] = {"CTCLabelDecode": "rec", "DBPostProcess": "det", "Topk": "cls", "ClsPostProcess": "cls"}
    kind = post.get("name", next(iter(post), ""))
    if not isinstance(kind, str) or kind not in tasks:
        raise FileFormatError(f"{path}: the post-processing {show(kind)} belongs to no model that can be converted")
    task = tasks[kind]
    charset = None
    if task == "rec" and "character_dict" in post:
        characters = post["character_dict"]
        if not isinstance(characters, list) or not all(isinstance(item, str) for item in characters):
            raise FileFormatError(f"{path}: PostProcess.character_dict is not a list of strings")
        check_characters(characters, f"{path}: PostProcess.character_dict")
        # PaddleX appends a space to what it reads here, always; whether the model has a class for it the head tells.
        charset = Charset(tuple(characters), True, f"{path.name}: character_dict")
    transforms = _transforms(_section(data, "PreProcess", path).get("transform_ops"), path, "PreProcess.transform_ops")
    name = _name(_section(data, "Global", path), path)
    labels = _section(post, kind, path).get("label_list") if kind in post else None
    return Template(
        name,
        str(path),
        task,
        None,
        charset,
        _preprocess(task, transforms, path, _longest(name)),
        _postprocess(task, post, labels, path),
    )


def _name(section: Mapping[str, Any], path: Path) -> str:
    """The model's name by its settings, else by their folder; either can hold what no name has."""
    name = section.get("model_name")
    if not isinstance(name, str | None):
        raise FileFormatError(f"{path}: Global.model_name is {show(name)}, which is not a name")
    return plain_name(name or path.resolve().parent.name, "model")


def _dictionary(name: str, yml: Path) -> tuple[str, ...]:
    """The character set that a yml names: below its folder, beside it, or the bundled one of that name.

    Nothing else is opened: a yml that came with a model may name any file of this machine.
    """
    last = PurePath(name).name
    if 0 < len(last.encode("utf-8", "replace")) <= 255:
        inside = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts and len(name) < 4096
        for candidate in (name, last) if inside else (last,):
            if file_in(yml.parent, candidate).is_file():
                return read_charset(yml.parent / candidate)
        with contextlib.suppress(Paddle2TorchError):
            return read_charset(charset_path(last))
    raise ConfigError(
        f"{yml}: Global.character_dict_path names the character set {show(name)}, which is neither in the yml's folder "
        f"nor bundled: put it beside the yml, or give it with --charset"
    )


Limit = Literal["max", "min", "resize_long"]


def _longest(name: str) -> Limit:
    """What `resize_long` means in an export's settings: the pipeline's "at most that", but for seals as it says."""
    try:
        preprocess = load_card(name).preprocess
    except ConfigError:
        return "max"
    return preprocess.limit_type if isinstance(preprocess, DetPreprocess) else "max"


def _preprocess(
    task: str,
    transforms: Mapping[str, Mapping[str, Any]],
    path: Path,
    longest: Limit = "resize_long",
    *,
    one_size: bool = False,
) -> RecPreprocess | DetPreprocess | ClsPreprocess | None:
    """`longest` is what `resize_long` means: in PaddleOCR's own code, which reads training settings, what it says.

    `one_size`: the network takes lines of one width, however long they are.
    """
    try:
        if task == "rec" and "RecResizeImg" in transforms:
            shape = _image_shape(transforms["RecResizeImg"], "RecResizeImg")
            return RecPreprocess(shape, max_width=shape[2]) if one_size else RecPreprocess(shape)
        if task == "rec" and "SVTRRecResizeImg" in transforms:
            resize = transforms["SVTRRecResizeImg"]
            shape = _image_shape(resize, "SVTRRecResizeImg")
            padding = bool(resize.get("padding", True))
            one_size = one_size or not padding
            return RecPreprocess(shape, max_width=shape[2], keep_ratio=padding) if one_size else RecPreprocess(shape)
        if task == "cls" and "ClsResizeImg" in transforms:
            return ClsPreprocess(image_shape=_image_shape(transforms["ClsResizeImg"], "ClsResizeImg"))
        if task == "cls" and "ResizeImage" in transforms:
            return _paddleclas_preprocess(transforms)
        if task == "det":
            return _det_preprocess(transforms, longest)
    except ConfigError as error:
        raise FileFormatError(f"{path}: the transforms cannot be read: {error}") from None
    return None


def _image_shape(options: Mapping[str, Any], transform: str) -> tuple[int, int, int]:
    channels, height, width = _numbers(options, "image_shape", transform)
    return int(channels), int(height), int(width)


def _numbers(options: Mapping[str, Any], key: str, where: str) -> tuple[float, float, float]:
    """Three finite numbers, which may be written as text; raises `ConfigError` for everything else."""
    values = options.get(key)
    if not isinstance(values, list) or len(values) != 3:
        raise ConfigError(f"{where}.{key} needs three values, and is {show(values)}")
    first, second, third = (_number(value, f"{where}.{key}") for value in values)
    return first, second, third


def _number(value: Any, where: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {show(value)} stands where a number belongs")
    return number


def _paddleclas_preprocess(transforms: Mapping[str, Mapping[str, Any]]) -> ClsPreprocess:
    """As PaddleClas writes it, whose images are RGB: stretched to a size, or the middle of what has a shortest side."""
    resize, normalise = transforms["ResizeImage"], transforms.get("NormalizeImage", {})
    mean, std = (
        _numbers(normalise, key, "NormalizeImage") if key in normalise else known
        for key, known in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225)))
    )
    if resize.get("resize_short") is not None:
        height, width = _size(transforms.get("CropImage", {}), "CropImage")
        short: int | None = int(_number(resize["resize_short"], "ResizeImage.resize_short"))
    else:
        (height, width), short = _size(resize, "ResizeImage"), None
    return ClsPreprocess(
        image_shape=(3, height, width),
        keep_ratio=short is not None,
        resize_short=short,
        channel_order="RGB",
        mean=mean,
        std=std,
    )


def _size(options: Mapping[str, Any], transform: str) -> tuple[int, int]:
    """(height, width) of `size`, which PaddleClas gives as one number or as width and height."""
    size = options.get("size")
    width, height = size if isinstance(size, list) and len(size) == 2 else (size, size)
    return int(_number(height, f"{transform}.size")), int(_number(width, f"{transform}.size"))


def _det_preprocess(transforms: Mapping[str, Mapping[str, Any]], longest: Limit) -> DetPreprocess:
    settings = DetPreprocess()
    resize = transforms.get("DetResizeForTest", {})
    for key in ("limit_side_len", "resize_long"):
        if key in resize:
            limit: Limit = "min" if resize.get("limit_type") == "min" else "max" if key == "limit_side_len" else longest
            side = int(_number(resize[key], f"DetResizeForTest.{key}"))
            settings = replace(settings, limit_side_len=side, limit_type=limit)
            break
    normalise = transforms.get("NormalizeImage", {})
    if "mean" in normalise:
        mean, std = (_numbers(normalise, key, "NormalizeImage") for key in ("mean", "std"))
        settings = replace(settings, mean=mean, std=std)
    return settings


def _postprocess(
    task: str, section: Mapping[str, Any], labels: Any, path: Path
) -> CTCDecode | DBPostprocess | ClsPostprocess | None:
    try:
        if task == "det":
            return from_json(DBPostprocess, _known(section), "PostProcess")
        if task == "cls" and labels:
            if not isinstance(labels, list | tuple) or not all(isinstance(label, str | int) for label in labels):
                raise ConfigError(f"label_list is {show(labels)}, which is not a list of labels")
            names = tuple(str(label) for label in labels)
            # PaddleX takes the best label of a classifier of PaddleClas, whatever its score.
            return ClsPostprocess(labels=names, thresh=None) if "Topk" in section else ClsPostprocess(labels=names)
    except ConfigError as error:
        raise FileFormatError(f"{path}: PostProcess cannot be read: {error}") from None
    return ClsPostprocess() if task == "cls" else None


def _known(section: Mapping[str, Any]) -> dict[str, Any]:
    """What a `DBPostprocess` takes from the section; numbers may be written as text."""
    known: dict[str, Any] = {}
    for key, default in vars(DBPostprocess()).items():
        if key not in section:
            continue
        value = section[key]
        if isinstance(default, bool):
            known[key] = bool(value)
        elif isinstance(default, int | float):
            known[key] = type(default)(_number(value, key))
        else:
            known[key] = value
    return known
