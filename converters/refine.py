"""The options of an exported network: what a checkpoint tells by names and shapes, a program by places and shapes.

The program's layers are those of a candidate network, of the same kinds in the same order; so its shapes get the
candidate's names, and the parts of the network read their options from them as they do from a checkpoint's. What has no
shape (strides, poolings, heads of attention) they read from the operations' attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from paddle2torch.converters.align import fused_shapes
from paddle2torch.converters.architecture import Architecture
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.class_count import class_count
from paddle2torch.converters.kinds import layer_kind
from paddle2torch.converters.layout import layout_table
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.steps import Step, steps_of
from paddle2torch.converters.templates import Template, task_of
from paddle2torch.model_zoo.config import ClsPreprocess, Component, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.layers import Reparameterised
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.registry import Role, Seen, Shapes, count_items, parts


def any_characters(classes: int) -> Charset:
    """As many characters as a head of `classes` classes reads, whichever they are."""
    return Charset(("?",) * (classes - 1), False, "")


def refine(
    hint: Architecture,
    program: Program,
    preprocess: RecPreprocess | DetPreprocess | ClsPreprocess | None = None,
    source: str = "the program",
) -> Architecture:
    """`hint` with the sizes and attributes that the program's layers have, and as many blocks where that is an option.

    The alignment proves or refutes the result. Raises `AlignmentError`, led by `source`, for a program of other layers,
    `ConfigError` for a `hint` that makes no network.
    """
    steps = steps_of(program)
    hint = _with_classes(_of_the_form(hint, steps), program)
    fused = _on_meta(_config(hint, preprocess))
    norms = sum(step.kind == "layer_norm" for step in steps)
    surplus = norms - sum(layer_kind(module) == "layer_norm" for module in fused.modules())
    deeper = _deeper(hint, fused, surplus // 2) if surplus else hint
    if deeper != hint:
        hint, fused = deeper, _on_meta(_config(deeper, preprocess))
    found, seen = fused_shapes(program, fused, source)
    shapes = _training_shapes(fused, found)
    try:
        return Architecture(
            _read("backbone", hint.backbone, shapes, seen),
            None if hint.neck is None else _read("neck", hint.neck, shapes, seen),
            _read("head", hint.head, shapes, seen),
            None if hint.transform is None else _read("transform", hint.transform, shapes, seen),
        )
    except (IndexError, KeyError, ValueError) as error:
        raise ConversionError(f"the program's layers are not those of this network: {error}") from None


def _config(architecture: Architecture, preprocess: Any) -> ModelConfig:
    template = Template("program", "the program", architecture=architecture, preprocess=preprocess)
    if task_of(architecture) == "rec":
        template = replace(template, charset=any_characters(architecture.head.options["classes"]))
    return template.config("fused")


def _on_meta(config: ModelConfig) -> Network:
    with torch.device("meta"):
        return build_model(config).eval()


def _read(role: Role, component: Component, shapes: Shapes, seen: Seen) -> Component:
    part = parts(role)[component.name]
    return Component(component.name, part.read_seen(seen, part.read_options(shapes, component.options)))


def _with(component: Component, **options: Any) -> Component:
    return replace(component, options={**component.options, **options})


def _with_classes(hint: Architecture, program: Program) -> Architecture:
    if task_of(hint) == "det":
        return hint
    classes = class_count(program)
    if classes is None:
        raise ConversionError("the program has no linear layer, which would tell classes apart")
    return replace(hint, head=_with(hint.head, classes=classes))


def _of_the_form(hint: Architecture, steps: Sequence[Step]) -> Architecture:
    """`hint` with its layers split or folded as the code did that exported it."""
    if hint.backbone.name == "RepSVTR":
        first = next((step for step in steps if step.kind == "conv"), None)
        if first is not None and "bias" not in first.parameters:
            return replace(hint, backbone=_with(hint.backbone, keep_branches=True))
    if hint.head.name in ("DBHead", "PFHeadLocal"):
        transposed = [index for index, step in enumerate(steps) if step.kind == "conv_transpose"] or [0]
        conv = max((index for index, step in enumerate(steps[: transposed[0]]) if step.kind == "conv"), default=0)
        # To the last one: other exporters fold the norms behind convolutions, and leave those behind their transposes.
        folded = all(step.kind != "batch_norm" for step in steps[conv : transposed[-1]])
        if folded != hint.head.options.get("fold_norms", False):
            return replace(hint, head=_with(hint.head, fold_norms=folded))
    return hint


def _deeper(hint: Architecture, network: Network, blocks: int) -> Architecture:
    """`hint` with so many blocks of attention more, or fewer, in its SVTR neck; as it is where it has no such neck."""
    keys = dict.fromkeys(network.state_dict(), ())
    if hint.head.name == "MultiHead":
        depth = count_items(keys, "head.ctc_encoder.encoder.svtr_block.{}.") + blocks
        if hint.head.options.get("encoder_type") != "reshape" and depth >= 0:
            return replace(hint, head=_with(hint.head, ctc={**hint.head.options["ctc"], "depth": depth}))
    elif hint.neck is not None and hint.neck.options.get("encoder_type") == "svtr":
        depth = count_items(keys, "neck.encoder.svtr_block.{}.") + blocks
        if depth >= 0:
            return replace(hint, neck=_with(hint.neck, svtr={**(hint.neck.options.get("svtr") or {}), "depth": depth}))
    return hint


def _training_shapes(fused: Network, found: Shapes) -> Shapes:
    """The sizes that a training checkpoint of the network would show, as far as an export has them.

    One convolution of an export replaces several branches: they have its channels, and kernels of their own.
    """
    training = _on_meta(fused.config.with_form("training"))
    assumed = {key: tuple(tensor.shape) for key, tensor in fused.state_dict().items()}
    sizes = {key: tuple(tensor.shape) for key, tensor in training.state_dict().items()}
    summed = tuple(path for path, module in training.named_modules() if isinstance(module, Reparameterised))
    whole = {
        path: key for key in found for path in summed if key.startswith(f"{path}.") and len(assumed.get(key, ())) == 4
    }
    shapes = {}
    for row in layout_table(training):
        key = row.paddle_key
        path = next((path for path in summed if key.startswith(f"{path}.")), None)
        if key in found:
            shapes[key] = found[key]
        elif path in whole:
            shapes[key] = _resized(sizes[row.torch_key], assumed[whole[path]], found[whole[path]])
    return shapes


def _resized(branch: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    """The size of a tensor of a branch, where the size of the convolution that replaces it was taken for `before`."""
    if len(branch) == len(before):
        return tuple(new if size == old else size for size, old, new in zip(branch, before, after, strict=True))
    return (after[0],) if branch == (before[0],) else branch
