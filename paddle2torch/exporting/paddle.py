"""Back to Paddle: a training checkpoint (`.pdparams`), or an inference program with this model's parameters.

A checkpoint has Paddle's names, layouts, types and order, so that PaddleOCR's own code loads it strictly. An inference
program is taken from a template, an export of the same architecture: its operations are kept, and each parameter is
replaced by the tensor that the alignment finds for it. Nothing here needs Paddle; where it is installed it runs the
result once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from paddle2torch.atomic import land_file, land_folder
from paddle2torch.compiled.serving import Served, compare, example_images, served
from paddle2torch.converters.align import align
from paddle2torch.converters.class_count import class_count, class_shapes, with_shapes
from paddle2torch.converters.layout import checkpoint_rows, to_paddle, to_torch
from paddle2torch.converters.paddle_files.exports import find_export, read_program
from paddle2torch.converters.paddle_files.pdiparams import read_parameters, write_parameters
from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.converters.paddle_files.pickler import write_pdparams
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.exporting.export import Exported, refuse_existing
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ClsPostprocess, DBPostprocess, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.strict_yaml import read_yaml
from paddle2torch.parity.reference import run_program
from paddle2torch.zoo.conversion import dictionary_beside, labels_beside
from paddle2torch.zoo.sources import obtain, obtain_local

# Paddle's global average pooling rounds more than PyTorch's; detectors show it (see `verification.py`).
PADDLE_TOLERANCE = 5e-5
CHARSET_NAME = "rec_char_dict.txt"


def export_paddle(
    network: Network, target: Path, *, force: bool = False, template: str | Path | None = None
) -> Exported:
    """Write `network` for Paddle: the file `target`, or with `template` the folder `target`.

    Raises `ConversionError` for a fused network without `template` (a checkpoint has branches and heads that it has
    not), and for a template of another architecture.
    """
    if template is None:
        return _export_checkpoint(network, target, force)
    return _export_program(network, target, _template(template), force)


def paddle_state(network: Network) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of `network` as Paddle has them: names, layouts, types, and the order of its state dict.

    Raises `ConversionError` for a fused network that has lost what Paddle's network has.
    """
    config = network.config
    with torch.device("meta"):
        training = build_model(config.with_form("training"))
    own = network.state_dict()
    missing = [key for key in training.state_dict() if key not in own]
    if missing:
        raise ConversionError(
            f"{config.name} is in the fused form, which Paddle's own network cannot load: {len(missing)} tensors of "
            f"branches and training heads are gone ({', '.join(missing[:3])}, …). Export the training form, or an "
            f"inference program with a template of the same architecture (--template FOLDER)"
        )
    state = to_paddle(checkpoint_rows(network), own)
    if config.head.name == "PPLCNetHead":
        # PaddleClas, where these come from, tells no backbone from a head.
        state = {key.partition(".")[2]: array for key, array in state.items()}
    return state


def _export_checkpoint(network: Network, target: Path, force: bool) -> Exported:
    state = paddle_state(network)
    charset, own = network.config.charset, network.config.postprocess
    beside, lines = dictionary_beside(target), charset
    if isinstance(own, ClsPostprocess):
        beside, lines = labels_beside(target), own.labels
    if lines is not None:
        refuse_existing(beside, force)
    with land_file(target, size=sum(array.nbytes for array in state.values())) as temporary:
        with temporary.open("wb") as file:
            write_pdparams(file, state)
        _check_checkpoint(temporary, state)
    origin = network.config.origin
    left_out = [note for note in origin.notes if note.startswith("left out backbone.")] if origin else []
    notes = [f"the conversion {note}; Paddle warns that they are missing" for note in left_out]
    if lines is not None:
        with land_file(beside) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    if charset is not None:
        notes.append(f"its characters, spaces included, are in {beside.name}: use_space_char is false with it")
    elif lines is not None:
        notes.append(f"its labels are in {beside.name}: Global.label_list of PaddleOCR's yml")
    return Exported(target, "paddle", notes=(*notes, "read back bit for bit"))


def _check_checkpoint(path: Path, state: dict[str, np.ndarray[Any, Any]]) -> None:
    written = read_pdparams(path).tensors
    if list(written) != list(state):
        raise ConversionError(f"{path}: the tensors read back are not those that were written")
    for name, array in state.items():
        if written[name].dtype != array.dtype or not np.array_equal(_bytes(written[name]), _bytes(array)):
            raise ConversionError(f"{path}: {name} was read back with other bits; is the disk sound?")


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _template(template: str | Path) -> Path:
    """The folder (or a file) of an export: given as such, or by the name of a released model."""
    if Path(template).exists():
        found = obtain_local(Path(template))
        where = str(template)
    else:
        try:
            card = load_card(str(template))
        except ConfigError as error:
            raise ConfigError(
                f"the template {template} is neither an export on this machine nor a name: {error}"
            ) from None
        found = obtain(card, fused=True, progress=False)
        where = found.origin
    if found.form != "inference":
        raise ConfigError(f"{where} is a training checkpoint; a template is an export: a program and its parameters")
    return found.path


def _export_program(network: Network, target: Path, template: Path, force: bool) -> Exported:
    model = served(network)
    config = model.network.config
    path, _ = find_export(template)
    program, _ = read_program(template)
    try:
        content, program, changed = _fitted(program, path, config)
        alignment = align(program, config, str(path))
    except ConversionError as error:
        raise ConversionError(f"the template is not an export of this model's architecture. {error}") from None
    state = model.network.state_dict()
    tensors = {**to_paddle(alignment.rows, state), **alignment.constants}
    notes = list(changed)
    with land_folder(target, overwrite=force) as temporary:
        # PaddleX and RapidOCR look for these names.
        written = temporary / f"inference{path.suffix}"
        written.write_bytes(content)
        parameters = written.with_suffix(".pdiparams")
        with parameters.open("wb") as file:
            write_parameters(file, program, tensors)
        notes += _write_settings(temporary, file_in(path.parent, "inference.yml"), config)
        _check_program(written, config, state)
        checks, checked_by = _run(written, parameters, model)
    if checked_by is None:
        notes.append("Paddle is not installed here: the program was read back, but not run")
    return Exported(target, "paddle", checked_by, checks, tuple(notes))


def _fitted(program: Program, path: Path, config: ModelConfig) -> tuple[bytes, Program, tuple[str, ...]]:
    """The program's file for as many classes as the model has: its bytes, the program that they are, and notes."""
    classes = config.head.options.get("classes")
    before = class_count(program)
    if not isinstance(classes, int) or before is None or before == classes:
        return path.read_bytes(), program, ()
    shapes = class_shapes(program, classes)
    values = {name: replace(value, shape=shapes.get(name, value.shape)) for name, value in program.values.items()}
    note = f"the template has {before} classes, the model {classes}: {len(shapes)} shapes of the program were changed"
    return with_shapes(path, shapes), replace(program, values=values), (note,)


def _check_program(path: Path, config: ModelConfig, state: dict[str, Tensor]) -> None:
    """Read an export back as a user's: it must align with the network and have its tensors bit for bit."""
    program = (read_pir if path.suffix == ".json" else read_pdmodel)(path)
    rows = align(program, config, str(path)).rows
    found = to_torch(rows, read_parameters(program, path.with_suffix(".pdiparams")).tensors)
    for key, tensor in state.items():
        if not np.array_equal(_bytes(found[key].numpy()), _bytes(tensor.numpy())):
            raise ConversionError(f"{path}: {key} was read back with other bits; is the disk sound?")


def _write_settings(folder: Path, template: Path, config: ModelConfig) -> list[str]:
    """`inference.yml` of the template with this model's characters and constants; else the characters alone."""
    characters = None
    notes = []
    if config.charset is not None:
        # PaddleOCR, PaddleX and RapidOCR all append a space to the characters they are given.
        has_space = config.charset[-1:] == (" ",)
        characters = list(config.charset[:-1] if has_space else config.charset)
        if not has_space:
            notes.append("the character set does not end with a space: PaddleOCR needs use_space_char: false")
    if template.is_file():
        settings = read_yaml(template)
        section = settings.get("PostProcess")
        if not isinstance(section, dict):
            raise ConfigError(f"{template}: it has no section PostProcess")
        changes = {key: value for key, value in _postprocess(config, characters, section) if section.get(key) != value}
        if changes:
            section.update(changes)
            text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False, width=1 << 20)
            (folder / template.name).write_text(text, encoding="utf-8")
        else:
            (folder / template.name).write_bytes(template.read_bytes())
    elif characters is not None:
        (folder / CHARSET_NAME).write_text("".join(f"{item}\n" for item in characters), encoding="utf-8")
        notes.append(f"the template has no inference.yml: the characters are in {CHARSET_NAME}")
    return notes


def _postprocess(
    config: ModelConfig, characters: list[str] | None, section: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What this model's settings say about the keys of an `inference.yml`'s PostProcess."""
    post = config.postprocess
    if isinstance(post, DBPostprocess):
        yield from ((name, getattr(post, name)) for name in section if hasattr(post, name))
    elif isinstance(post, ClsPostprocess):
        if isinstance(section.get("Topk"), dict):
            yield "Topk", {**section["Topk"], "label_list": list(post.labels)}
    else:
        yield "character_dict", characters


def _run(program: Path, parameters: Path, model: Served) -> tuple[tuple[Any, ...], str | None]:
    """Paddle's output beside PyTorch's on the smallest input, where Paddle is installed, and Paddle's version."""
    if importlib.util.find_spec("paddle") is None:
        return (), None
    version = ""

    def run(image: Tensor) -> np.ndarray[Any, Any]:
        nonlocal version
        result = run_program(program, parameters, image.numpy(), [])
        version = result.version
        return result.outputs[0]

    image = min(example_images(model.network.config), key=lambda image: image.numel())
    checks = compare(model, run, (image,), "Paddle's run of the program", PADDLE_TOLERANCE)
    return checks, f"Paddle {version}"
