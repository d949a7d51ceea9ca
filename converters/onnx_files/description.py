"""What an `.onnx` says about itself, in its metadata: the characters, the labels, or all settings where we wrote it."""

from __future__ import annotations

from pathlib import Path

from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.characters import Charset, Direction
from paddle2torch.converters.class_count import class_count
from paddle2torch.converters.onnx_files.lowering import lower
from paddle2torch.converters.onnx_files.model import read_onnx
from paddle2torch.converters.templates import Template
from paddle2torch.model_zoo.config import CONFIG_NAME, ClsPostprocess, CTCDecode, ModelConfig
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.strict_json import decode_json

CHARACTERS = "character"
"""The key under which RapidOCR and paddle2onnx's users put the characters, one a line, or a classifier's labels."""


def describe_onnx(path: Path) -> Template:
    """The template in the metadata of the `.onnx` at `path`; an empty one where it says nothing.

    Raises as `read_onnx` and `lower`, and `ConfigError` or `FileFormatError` for settings that are not sound.
    """
    model = read_onnx(path)
    if CONFIG_NAME in model.metadata:
        return _from_settings(model.metadata[CONFIG_NAME], path)
    template = Template("", f"{path}")
    if CHARACTERS not in model.metadata:
        return template
    lines = tuple(line.rstrip("\r") for line in model.metadata[CHARACTERS].removesuffix("\n").split("\n"))
    classes = class_count(lower(model).program)
    if classes == len(lines):
        # A recogniser has a class more, the blank.
        return Template("", f"{path}", task="cls", postprocess=ClsPostprocess(labels=lines))
    # RapidOCR appends a space to what it finds there. Whether it may is told by the number of classes.
    space = {len(lines) + 1: False, len(lines) + 2: True}.get(classes or 0)
    return Template("", f"{path}", charset=Charset(lines, space, f"{path.name}: {CHARACTERS}"))


def _from_settings(text: str, path: Path) -> Template:
    """The template in the settings of the model that this file was exported from."""
    where = f"{path}: {CONFIG_NAME}"
    try:
        data = decode_json(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where} is not JSON: {error}") from None
    config = ModelConfig.from_data(data, where)
    charset = None if config.charset is None else Charset(config.charset, False, where)
    architecture = Architecture(config.backbone, config.neck, config.head, config.transform)
    direction: Direction | None = None
    if isinstance(config.postprocess, CTCDecode):
        direction = "rtl" if config.postprocess.right_to_left else "ltr"
    return Template(
        config.name,
        f"{path}",
        config.task,
        architecture,
        charset,
        config.preprocess,
        config.postprocess,
        direction,
    )
