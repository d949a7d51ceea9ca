"""Paddle and ONNX files to a PyTorch model: which network, which tensor is which, which character set."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paddle2torch.converters.align import Alignment, AlignmentError, align
from paddle2torch.converters.architecture import (
    Architecture,
    differences,
    infer,
    network_keys,
)
from paddle2torch.converters.equality import EqualityError, Runner, check_equality
from paddle2torch.converters.layout import Row, check_table, layout_table, lstm_key, to_torch
from paddle2torch.converters.onnx_files.lowering import lower
from paddle2torch.converters.onnx_files.model import read_onnx
from paddle2torch.converters.onnx_files.run import run_onnx
from paddle2torch.converters.onnx_files.witness import check_names
from paddle2torch.converters.paddle_files.exports import find_export, read_program
from paddle2torch.converters.paddle_files.pdiparams import read_parameters
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.programs.run import run_program
from paddle2torch.converters.refine import any_characters, refine
from paddle2torch.converters.steps import steps_of
from paddle2torch.converters.templates import Template, network_of, task_of
from paddle2torch.model_zoo.cards import list_cards
from paddle2torch.model_zoo.config import (
    EXPORT_LACKS,
    MOST_HEIGHT,
    MOST_WIDTH,
    ClsPreprocess,
    Component,
    DetPreprocess,
    Form,
    ModelConfig,
    Origin,
    OriginKind,
)
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.network import MOST_PARAMETERS, build_model
from paddle2torch.model_zoo.registry import Shapes, parts

# Tensors that are left out on purpose, and why. Whatever else has no place in the network is an error.
DROPPED: tuple[tuple[str, str], ...] = (
    (r"backbone\.conv1\.hardswish\.", "the stem's affine, which no official code runs"),
    (r"backbone\.(last_conv|fc)\.", "the classifier of images that the backbone was trained as, which nothing runs"),
)
# Distillation checkpoints hold several networks side by side; the student is the one that is released.
PREFIXES = ("Student.", "Student2.", "Teacher.")
# What wrappers put before every name: PaddleSlim's and DataParallel's layers, other scripts' modules.
WRAPPERS = ("_layers.", "module.", "model.")


# Networks that PaddleOCR has settings of and no released model.
FURTHER = (
    Architecture(
        Component("RepSVTR", {"det": True}), Component("RSEFPN", {"out_channels": 96}), Component("DBHead", {"k": 50})
    ),
    Architecture(
        Component("MobileNetV3", {"scale": 0.5, "model_name": "small"}),
        Component("SequenceEncoder", {"encoder_type": "reshape"}),
        Component("CTCHead"),
    ),
)


MOST_TENSORS = 20_000
"""Tensors of a file; the largest official training checkpoint, three networks of it, has 3,000."""


@dataclass(frozen=True)
class Converted:
    """A converted model in memory: settings, tensors under torch keys, the table that made them, and notes."""

    config: ModelConfig
    state: Mapping[str, Tensor]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def convert_checkpoint(
    path: Path, template: Template | None = None, *, name: str, source: str = "", network: str | None = None
) -> Converted:
    """Convert a training checkpoint (`.pdparams`); the result is in training form.

    `template` says what tensors cannot show, `network` which one of a distillation to take ("Student", "Student2",
    "Teacher"). Raises `FileFormatError` for a file that is not a checkpoint and
    `ConversionError` where a tensor is missing, left over or of another shape.
    """
    path = Path(path)
    checkpoint = read_pdparams(path)
    shapes = {key: tuple(array.shape) for key, array in checkpoint.tensors.items()}
    _check_sizes(shapes, path)
    unwrapped, wrapped = _unwrapped(shapes)
    chosen, about_network = _network_of(unwrapped, path, network)
    notes = (*checkpoint.notes, *wrapped, *about_network)
    chosen = {key: chosen[name] for key, name in network_keys(chosen).items()}
    chosen, merged = _merge_cells(chosen, checkpoint.tensors, path)
    kept, dropped = _drop(chosen)
    architecture, overruled = infer({key: s for key, (s, _) in kept.items()}, _hint(template), str(path))
    config = _config(name, architecture, template, path, "training checkpoint", source)
    with torch.device("meta"):
        model = build_model(config)
    table = layout_table(model)
    check_table(table, {key: shape for key, (shape, _) in kept.items()}, model, str(path))
    tensors = {key: checkpoint.tensors[original] for key, (_, original) in kept.items()}
    bfloat16 = frozenset(key for key, (_, original) in kept.items() if original in checkpoint.bfloat16)
    _check_types(tensors, bfloat16, path)
    notes = (*notes, *merged, *dropped, *overruled, *_notes(config))
    return Converted(noted(config, notes), to_torch(table, tensors, bfloat16), table, notes)


def convert_export(path: Path, template: Template | None = None, *, name: str, source: str = "") -> Converted:
    """Convert an exported inference program (a folder or its program file); the result is in fused form.

    Raises as `convert_checkpoint`; a program that no known network aligns with is a `ConversionError` that names the
    layer where the nearest one parts from it.
    """
    program_path, parameters_path = find_export(path)
    program, _ = read_program(program_path)
    _check_sizes({name: program.values[name].shape for name in program.parameters}, program_path)
    # Views of the file, not copies. What the program declares is in the file before a network of such sizes is made.
    parameters = read_parameters(program, parameters_path)
    _check_types(parameters.tensors, parameters.bfloat16, parameters_path)
    run = partial(run_program, program_path, parameters.tensors, parameters.bfloat16)
    return _convert_program(program, parameters.tensors, parameters.bfloat16, run, template, program_path, name, source)


def convert_onnx(path: Path, template: Template | None = None, *, name: str, source: str = "") -> Converted:
    """Convert an `.onnx` of an inference network; the result is in fused form.

    Raises as `convert_export`.
    """
    path = Path(path)
    model = read_onnx(path)
    lowered = lower(model)
    _check_sizes({name: array.shape for name, array in lowered.tensors.items()}, path)
    run = partial(run_onnx, model)
    converted = _convert_program(lowered.program, lowered.tensors, frozenset(), run, template, path, name, source)
    check_names(converted.rows, str(path))
    names = " and ".join(lowered.widened)
    widened = (f"the file has {names} numbers: here they are float32, which holds them exactly",) if names else ()
    notes = (*converted.notes, *widened)
    return replace(converted, config=noted(converted.config, notes), notes=notes)


KINDS: Mapping[str, OriginKind] = {"legacy": "legacy export", "pir": "PIR export", "onnx": "ONNX file"}


def _convert_program(
    program: Program,
    tensors: Mapping[str, np.ndarray],
    bfloat16: frozenset[str],
    run: Runner,
    template: Template | None,
    path: Path,
    name: str,
    source: str,
) -> Converted:
    """The network that `program` is, with its parameters; those named in `bfloat16` are bits as uint16.

    `run` runs the file's own operations: the network must compute the same.
    """
    steps_of(program)  # what no network here has is said once, not for each of them
    failures: list[tuple[bool, float, str]] = []
    behind: list[Architecture] = []
    known = candidates(template)
    task = None if template is None else template.task
    further = [other for other in FURTHER if task in (None, task_of(other))]
    official = [*known, *further]
    position, settled = 0, False
    refuted: list[tuple[Architecture, AlignmentError]] = []
    while position < len(known):
        hint = known[position]
        position += 1
        same_layers = False
        try:
            for other, parted in refuted:
                if _begin_alike(hint, other):
                    raise parted
            architecture = refine(hint, program, None if template is None else template.preprocess, str(path))
            same_layers = True
            unnamed = _with_any_characters(template, architecture)
            config = _config(name, architecture, unnamed, path, KINDS[program.format], source, "fused")
            config, _ = _of_the_size(config, program)
            alignment = align(program, config, str(path))
            _check_constants(alignment, tensors, path)
            state = to_torch(alignment.rows, {**tensors, **alignment.made}, bfloat16)
            equal = check_equality(program, run, alignment, config, state, str(path))
        except (ConversionError, ConfigError) as error:
            if isinstance(error, ConfigError) and not _may_mix(template):
                raise
            share = error.share if isinstance(error, AlignmentError) else float(isinstance(error, EqualityError))
            failures.append((same_layers, share, f"{hint.say()}: {error}"))
            if isinstance(error, AlignmentError) and error.has_backbone:
                behind.append(hint)
            elif isinstance(error, AlignmentError) and not same_layers and program.format != "onnx":
                refuted.append((hint, error))
            settled = settled or (same_layers and not isinstance(error, EqualityError))
            if position == len(known) and _may_mix(template) and not settled:
                # None of the official ones: of their kinds, or a backbone of theirs with another's neck and head.
                known += [other for other in official if other not in known]
                known += _varied(official, known) or _mixed(behind, official, known)
            continue
        # The network is known: whatever is wrong with its characters is wrong with no other.
        config = _config(name, architecture, template, path, KINDS[program.format], source, "fused")
        config, resized = _of_the_size(config, program)
        second = " and no NRTR or SAR head" if config.head.name == "MultiHead" else ""
        alone = " and trains CTC alone" if second else ""
        notes: tuple[str, ...] = (f"{EXPORT_LACKS} training branches{second}: fine-tuning makes branches anew{alone}",)
        folded = sum(name.endswith("running_var@made") for name in alignment.made)
        asked = () if _may_mix(template) else differences(hint, architecture, "the program")
        notes = (*notes, *_notes(config), *resized, *asked, *equal)
        if folded:
            notes = (*notes, f"{folded} normalisations were folded into the layers before them: they add a bias here")
        return Converted(noted(config, notes), state, alignment.rows, notes)
    raise ConversionError(_describe_failures(failures, path))


def _begin_alike(one: Architecture, other: Architecture) -> bool:
    """Whether two networks have the same layers before their necks: what parts from one there parts from the other."""
    return (task_of(one), one.transform, one.backbone) == (task_of(other), other.transform, other.backbone)


# Of constants' largest value: Paddle inverts a spline's matrix in float32.
CONSTANT_TOLERANCE = 1e-3


def _check_constants(alignment: Alignment, tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise `ConversionError` for numbers in an export that other settings make than those of the network."""
    for name, values in alignment.constants.items():
        found, finite = np.asarray(tensors[name], np.float32), np.isfinite(values)
        largest = np.abs(values[finite]).max(initial=1.0)
        if not np.array_equal(finite, np.isfinite(found)) or not np.allclose(
            found[finite], values[finite], rtol=0, atol=CONSTANT_TOLERANCE * largest
        ):
            layer = next(layer.path for layer in alignment.layers if layer.step.constant == name)
            raise ConversionError(
                f"{path}: {layer} has other constants in the program than the settings make: a window (local_mixer), "
                f"margins or sizes are others there"
            )


def _of_the_size(config: ModelConfig, program: Program) -> tuple[ModelConfig, tuple[str, ...]]:
    """`config` with images of the height that the program is made for, where it says one; a note where that is news."""
    known = config.preprocess
    declared = program.values[program.feeds[0]].shape if program.feeds and program.feeds[0] in program.values else ()
    if isinstance(known, DetPreprocess) or len(declared) != 4 or not 0 < declared[2] <= MOST_HEIGHT:
        return config, ()
    channels, height, width = known.image_shape
    if isinstance(known, ClsPreprocess) and 0 < declared[3] <= MOST_WIDTH:
        width = declared[3]
    size = (channels, declared[2], width)
    if size == known.image_shape:
        return config, ()
    before = known.image_shape[2]
    note = f"images are {size[1]} x {size[2]} pixels, as the program says; the settings had {height} x {before}"
    return replace(config, preprocess=replace(known, image_shape=size)), (note,)


def _may_mix(template: Template | None) -> bool:
    return template is None or template.architecture is None


def _varied(official: Sequence[Architecture], known: Sequence[Architecture]) -> list[Architecture]:
    """Official networks with other variants of their backbones, that are not in `known`."""
    found: list[Architecture] = []
    for architecture in official:
        backbone = architecture.backbone
        for variant in parts("backbone")[backbone.name].variants:
            options = {key: value for key, value in backbone.options.items() if not key.endswith("_stride")}
            varied = replace(architecture, backbone=replace(backbone, options={**options, **variant}))
            if varied not in (*known, *found):
                found.append(varied)
    return found


def _mixed(
    behind: Sequence[Architecture], official: Sequence[Architecture], known: Sequence[Architecture]
) -> list[Architecture]:
    """Backbones of `behind`, each with every official neck and every head for its task, of kinds not in `known`."""
    seen = {_kind(architecture) for architecture in known}
    found: list[Architecture] = []
    for backbone in behind:
        alike = [other for other in official if task_of(other) == task_of(backbone)]
        for neck in alike:
            for head in alike:
                mixed = Architecture(backbone.backbone, neck.neck, head.head, backbone.transform)
                # A CTC head stands behind a neck, the others of recognisers bring theirs.
                if (neck.neck is None) == (head.neck is None) and _kind(mixed) not in seen:
                    seen.add(_kind(mixed))
                    found.append(mixed)
    return found


# Options that the sizes of an export's tensors show.
_SIZES = frozenset(
    {"scale", "out_channels", "classes", "k", "hidden_size", "dims", "kernel_list", "mode", "nrtr", "sar"}
)


def _kind(architecture: Architecture) -> tuple[str, ...]:
    """What makes other layers of a network, or another number of them."""
    return tuple(
        "" if part is None else f"{part.name} {sorted((k, str(v)) for k, v in part.options.items() if k not in _SIZES)}"
        for part in (architecture.backbone, architecture.neck, architecture.head)
    )


def _with_any_characters(template: Template | None, architecture: Architecture) -> Template | None:
    """`template` with as many characters as the head of a recogniser has classes for."""
    if task_of(architecture) != "rec":
        return template
    return replace(template or Template("", ""), charset=any_characters(architecture.head.options["classes"]))


def _check_sizes(shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise `ConversionError` for more tensors, or more numbers in them, than any network that is known here has."""
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if len(shapes) > MOST_TENSORS or numbers > MOST_PARAMETERS * len(PREFIXES):
        raise ConversionError(
            f"{path} has {len(shapes):,} tensors of {numbers:,} numbers in all: no network known here is as large"
        )


def _check_types(tensors: Mapping[str, np.ndarray], bfloat16: frozenset[str], path: Path) -> None:
    """Raise `ConversionError` for weights that are not floating-point numbers: PyTorch has no network of them."""
    strange = [f"{key} ({a.dtype})" for key, a in tensors.items() if a.dtype.kind != "f" and key not in bfloat16]
    if strange:
        raise ConversionError(
            f"{path}: weights are floating-point numbers, but these are not: {', '.join(strange[:8])}"
            + (f" and {len(strange) - 8:,} more" if len(strange) > 8 else "")
        )


def _describe_failures(failures: Sequence[tuple[bool, float, str]], path: Path) -> str:
    """Why no candidate is the program: the nearest one's reason; all of them would fill the screen."""
    if not failures:
        return f"{path}: no network to compare with"
    _, share, reason = max(failures, key=lambda failure: failure[:2])
    if len(failures) == 1:
        return f"as {reason}"
    program = ". Any other network converts from its Paddle export, not from ONNX" if path.suffix == ".onnx" else ""
    nearest = f"the nearest, {share:.0%} of whose layers match, is {reason}" if share else f"one of them: {reason}"
    return (
        f"{path} is none of the {len(failures)} networks that are known here; {nearest}. Where you know what it was "
        f"trained as, give that: a name of the zoo, or its yml (--config){program}"
    )


def _hint(template: Template | None) -> Architecture | None:
    return None if template is None else template.architecture


def candidates(template: Template | None) -> list[Architecture]:
    """The template's network, or else every network that a card has."""
    if template is not None and template.architecture is not None:
        return [template.architecture]
    found: list[Architecture] = []
    for card in list_cards():
        if template is None or template.task in (None, card.task):
            architecture = network_of(card)
            if architecture is not None and architecture not in found:
                found.append(architecture)
    return found


def _unwrapped(shapes: Shapes) -> tuple[dict[str, tuple[tuple[int, ...], str]], tuple[str, ...]]:
    """{key without the one prefix that all keys have: (shape, key in the file)}, and a note where they have one."""
    prefix = next((prefix for prefix in WRAPPERS if all(key.startswith(prefix) for key in shapes)), "")
    notes = (f"all names begin with {prefix!r}: took it off",) if prefix else ()
    return {key.removeprefix(prefix): (shape, key) for key, shape in shapes.items()}, notes


def _network_of(
    tensors: Mapping[str, tuple[tuple[int, ...], str]], path: Path, network: str | None
) -> tuple[dict[str, tuple[tuple[int, ...], str]], tuple[str, ...]]:
    """`tensors` of one network of a distillation, the Student where none is named, and what was left out."""
    present = [prefix for prefix in PREFIXES if any(key.startswith(prefix) for key in tensors)]
    names = ", ".join(prefix[:-1] for prefix in present)
    if not present:
        if network is not None:
            raise ConversionError(f"{path} holds one network, not several of a distillation: leave --network out")
        return dict(tensors), ()
    chosen = f"{network or 'Student'}."
    if chosen not in present:
        asked = "without a Student" if network is None else f"without {network!r}"
        raise ConversionError(
            f"{path} is a distillation checkpoint {asked}: it has {names}; say which one (--network {present[0][:-1]})"
        )
    strange = [key for key in tensors if not key.startswith(PREFIXES)]
    if strange:
        raise ConversionError(
            f"{path} is a distillation checkpoint with tensors of no network: {', '.join(strange[:8])}"
        )
    taken = {key.removeprefix(chosen): found for key, found in tensors.items() if key.startswith(chosen)}
    left = [f"{sum(key.startswith(p) for key in tensors)} tensors of {p[:-1]}" for p in present if p != chosen]
    took = f"took {chosen[:-1]}"
    return taken, (f"distillation checkpoint: {took}, left out {' and '.join(left)}" if left else took,)


def _merge_cells(
    tensors: Mapping[str, tuple[tuple[int, ...], str]], arrays: Mapping[str, np.ndarray], path: Path
) -> tuple[dict[str, tuple[tuple[int, ...], str]], tuple[str, ...]]:
    """`tensors` with each tensor of an LSTM under one name."""
    kept, merged = dict(tensors), 0
    for key, (shape, original) in tensors.items():
        name = lstm_key(key)
        if name is None:
            continue
        del kept[key]
        if name not in kept:
            kept[name] = (shape, original)
        elif arrays[original].tobytes() == arrays[kept[name][1]].tobytes():
            merged += 1
        else:
            raise ConversionError(f"{path}: {key} and {name} are one tensor of an LSTM, but their values differ")
    return kept, (f"left out second names of {merged} tensors of LSTMs, which have the same values",) if merged else ()


def _drop(
    tensors: Mapping[str, tuple[tuple[int, ...], str]],
) -> tuple[dict[str, tuple[tuple[int, ...], str]], tuple[str, ...]]:
    kept, notes = dict(tensors), []
    for pattern, reason in DROPPED:
        # SVTRNet's last stage has a convolution of this name, and runs it.
        matching = [key for key in kept if re.match(pattern, key) and "backbone.pos_embed" not in tensors]
        if matching:
            notes.append(f"left out {', '.join(matching)}: {reason}")
            for key in matching:
                del kept[key]
    return kept, tuple(notes)


def _config(
    name: str,
    architecture: Architecture,
    template: Template | None,
    path: Path,
    kind: OriginKind,
    source: str,
    form: Form = "training",
) -> ModelConfig:
    known = template or Template(name, str(path))
    if template is not None and template.task not in (None, task_of(architecture)):
        raise ConversionError(
            f"{path} is a model for {task_of(architecture)!r}, {template.source} one for {template.task!r}"
        )
    config = replace(known, name=name, task=None, architecture=architecture).config(form)
    return replace(config, origin=Origin(kind, source=source or path.name, notes=known.notes(config)))


def _notes(config: ModelConfig) -> tuple[str, ...]:
    return () if config.origin is None else config.origin.notes


def noted(config: ModelConfig, notes: tuple[str, ...]) -> ModelConfig:
    """`config` with these notes, in place of any that it has."""
    assert config.origin is not None
    return replace(config, origin=replace(config.origin, notes=notes))


def convert_files(
    path: Path, template: Template | None = None, *, name: str, source: str = "", network: str | None = None
) -> Converted:
    """Convert whatever `path` is: a `.pdparams`, a `.onnx`, an exported program's file, or the folder of an export."""
    path = Path(path)
    if not path.exists():
        raise Paddle2TorchError(f"{path} does not exist")
    if path.suffix == ".pdparams":
        return convert_checkpoint(path, template, name=name, source=source, network=network)
    if network is not None:
        raise ConversionError(f"{path} is an export, of one network: leave --network out, or give another export")
    if path.suffix == ".onnx":
        return convert_onnx(path, template, name=name, source=source)
    return convert_export(path, template, name=name, source=source)
