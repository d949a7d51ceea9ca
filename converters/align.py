"""Which parameter of an exported program is which tensor of the fused network.

An export has lost the structured names. But it runs the same layers in the same order: each layer of the program, in
order of execution, must be the next layer of the network, of the same kind, shapes and attributes. What has no
counterpart is an error that names the place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from paddle2torch.converters.kinds import ACTIVATED_NORMS, PASSED, kind_of
from paddle2torch.converters.layout import Row, layout_of, layout_table
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.steps import Step, steps_of
from paddle2torch.model_zoo.config import ClsPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.layers import Hardsigmoid
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.show import show_text

# Elements that a network may have beyond those of the program: all of the largest official one, so that the message
# says which layer the program lacks. A network that is much larger is not made.
MOST_MISSING = 1 << 25


@dataclass(frozen=True)
class Aligned:
    """A layer of the network (its module path) and the step of the program that computes the same."""

    path: str
    step: Step


@dataclass(frozen=True)
class Alignment:
    """All layers of a network against a program, in order of execution.

    `made` has parameters that the program need not have, because they change nothing: those of a normalisation that
    was folded into the layer before it, of an affine whose bias is 0. `rows` name them like the others.
    """

    layers: tuple[Aligned, ...]
    rows: tuple[Row, ...]
    made: Mapping[str, np.ndarray]


Layers: TypeAlias = tuple[tuple[str, str, nn.Module], ...]
"""(path, kind, module) in order of execution."""


def layers_of(model: Network) -> Layers:
    """(path, kind, module) of every layer and activation of `model`, in order of execution.

    The model is run once, on zeros of the smallest size that it takes; what its tensors hold does not matter.
    """
    order: list[tuple[str, str, nn.Module]] = []
    handles = []
    for path, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None:
            handles.append(
                module.register_forward_hook(lambda m, i, o, path=path, kind=kind: order.append((path, kind, m)))
            )
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *example_shape(model.config)))
    except RuntimeError as error:
        raise ConversionError(
            f"{model.config.name}: a network of these settings cannot be run: {show_text(str(error), 200)}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    return tuple(order)


def example_shape(config: ModelConfig) -> tuple[int, int, int]:
    """(3, H, W) of a small input that the network accepts."""
    if isinstance(config.preprocess, RecPreprocess):
        channels, height, _ = config.preprocess.image_shape
        return channels, height, 64
    if isinstance(config.preprocess, ClsPreprocess):
        return config.preprocess.image_shape
    return 3, 64, 64


class AlignmentError(ConversionError):
    """A program is not the network it was compared with: the layers `matched` are its first, of `layers` in all."""

    def __init__(self, message: str, matched: Sequence[Aligned], layers: int) -> None:
        super().__init__(message)
        self.share = len(matched) / layers
        # Whether it parts from the network behind the backbone.
        self.has_backbone = any(not layer.path.startswith("backbone.") for layer in matched)


def align(program: Program, config: ModelConfig, source: str) -> Alignment:
    """Match the layers of `program` with those of the fused network that `config` describes.

    Raises `AlignmentError`, led by `source`, at the first layer that differs in kind, shape or attribute.
    """
    model, network = _fused(program, config, source)
    match = _Match(program, model, source)
    try:
        rows = match.run(network, steps_of(program))
    except ConversionError as error:
        raise AlignmentError(str(error), match.layers, len(network)) from None
    return Alignment(tuple(match.layers), rows, match.made)


def fused_shapes(program: Program, config: ModelConfig, source: str) -> dict[str, tuple[int, ...]]:
    """Sizes of `program`'s tensors in Paddle's layout, by the names they have in the fused network of `config`.

    The network and the program need to have the same layers in the same order, of whatever sizes. Raises as `align`.
    """
    model, network = _fused(program, config, source)
    match = _Match(program, model, source, sizes=False)
    try:
        rows = match.run(network, steps_of(program))
    except ConversionError as error:
        raise AlignmentError(str(error), match.layers, len(network)) from None
    paddle_rows = {row.torch_key: row for row in layout_table(model)}
    shapes: dict[str, tuple[int, ...]] = {}
    for row in rows:
        found = program.values[row.paddle_key].shape if row.paddle_key in program.values else None
        if found is not None:
            known = paddle_rows[row.torch_key]
            shapes[known.paddle_key] = found if row.op == known.op else found[::-1]
    return shapes


def _fused(program: Program, config: ModelConfig, source: str) -> tuple[Network, Layers]:
    """The fused network of `config` with its layers in order of execution."""
    with torch.device("meta"):
        model = build_model(config.with_form("fused")).eval()
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    stored = sum(math.prod(program.values[name].shape) for name in program.parameters)
    if elements > stored + MOST_MISSING:
        raise ConversionError(f"{source}: the network has {elements:,} numbers, the program {stored:,}")
    # Run on the CPU: on the meta device the first run would load PyTorch's decompositions (1.5 s).
    model.to_empty(device="cpu")
    return model, layers_of(model)


class _Match:
    """Step by step through a network and a program; `layers` grows by each layer that matches."""

    def __init__(self, program: Program, model: Network, source: str, *, sizes: bool = True) -> None:
        self.program = program
        self.model = model
        self.source = source
        self.sizes = sizes
        self.layers: list[Aligned] = []
        self.made: dict[str, np.ndarray] = {}

    def run(self, network: Sequence[tuple[str, str, nn.Module]], steps: Sequence[Step]) -> tuple[Row, ...]:
        """The rows of all tensors."""
        rows: list[Row] = []
        passed: list[Step] = []
        position = 0
        folded: Step | None = None
        for (path, kind, module), following in zip(network, (*network[1:], None), strict=True):
            where = f"{self.source}: layer {len(self.layers) + 1} of the network, {path} ({kind})"
            if folded is not None:
                step, folded = folded, None
            else:
                # An activation that the network computes inside a function has a step here and no module.
                while position < len(steps) and steps[position].kind in PASSED and steps[position].kind != kind:
                    if kind == "affine" and steps[position].kind == "factor":
                        break
                    passed.append(steps[position])
                    position += 1
                if position == len(steps):
                    raise ConversionError(f"{where}, has no counterpart: the program ends after {len(steps)} layers")
                step = steps[position]
                position += 1
                if kind == "affine" and step.kind == "factor":
                    step = self._affine(path, step)
                if step.kind != kind:
                    raise ConversionError(f"{where}, stands where the program has {_say(step, self.program)}")
                has_norm = position < len(steps) and steps[position].kind == "batch_norm"
                if following is not None and following[1] == "batch_norm" and not has_norm:
                    step, folded = self._unfold(module, step, following)
            activation = next((kind for type_, kind in ACTIVATED_NORMS if isinstance(module, type_)), None)
            if activation is not None:
                # What the module returns is what the second operation writes.
                found = steps[position] if position < len(steps) else None
                if found is None or (found.kind, found.reads) != (activation, step.writes):
                    raise ConversionError(f"{where}, has a {activation} that the program has not")
                position += 1
                step = replace(step, writes=found.writes)
            rows.extend(self._rows(path, module, step, where))
            if self.sizes:
                _check_attributes(module, step, where)
            self.layers.append(Aligned(path, step))
        left = [step for step in steps[position:] if step.kind not in PASSED]
        if left:
            raise ConversionError(f"{self.source}: the network ends before the program's {_say(left[0], self.program)}")
        expected, filled = set(self.model.state_dict()), {row.torch_key for row in rows}
        if expected != filled:
            missing = ", ".join(sorted(expected - filled)[:8])
            raise ConversionError(f"{self.source}: no layer of the program fills {missing}")
        self._check_factors([*passed, *steps[position:]])
        return tuple(rows)

    def _check_factors(self, passed: Sequence[Step]) -> None:
        """What the program multiplies by, outside its layers, must be what the network multiplies by."""
        if self.program.format != "onnx" or not self.sizes:
            return
        factors: list[float | None] = [getattr(module, "factor", None) for module in self.model.modules()]
        own = [factor for factor in factors if factor is not None]
        found = [step.attributes["scale"] for step in passed if step.kind == "factor"]
        found = [factor for factor in found if factor != 1]
        if len(found) != len(own) or not all(map(_same, sorted(found), sorted(own))):
            raise ConversionError(
                f"{self.source}: the program multiplies its values by {_some(found)}, the network by {_some(own)}"
            )

    def _unfold(self, module: nn.Module, step: Step, following: tuple[str, str, nn.Module]) -> tuple[Step, Step | None]:
        """A layer whose normalisation was folded into it, as that layer and a normalisation that adds its bias at most.

        Other exporters than Paddle's do that. What the layer alone would have given is not in the program.
        """
        path, _, norm = following
        if "bias" not in step.parameters:
            return step, None
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        features = norm.num_features
        made = {
            "weight": np.ones(features, np.float32),
            "bias": np.zeros(features, np.float32),
            "running_mean": np.zeros(features, np.float32),
            "running_var": np.full(features, 1 - norm.eps, np.float32),
        }
        names = {name: f"{path}.{name}@made" for name in made}
        layer = step
        if getattr(module, "bias", None) is None:
            names["bias"] = step.parameters["bias"]
            layer = replace(step, parameters={"weight": step.parameters["weight"]}, writes="")
        self.made.update({names[name]: array for name, array in made.items() if names[name].endswith("@made")})
        return layer, Step("batch_norm", names, layer.writes, step.writes)

    def _affine(self, path: str, step: Step) -> Step:
        """A multiplication by a number as the affine whose bias is 0."""
        names = {name: f"{path}.{name}@made" for name in ("scale", "bias")}
        self.made.update(
            {names[name]: np.array([step.attributes.get(name, 0.0)], np.float32) for name in ("scale", "bias")}
        )
        return Step("affine", names, step.reads, step.writes)

    def _rows(self, path: str, module: nn.Module, step: Step, where: str) -> list[Row]:
        own = {
            **dict(module.named_parameters(recurse=False)),
            **{name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer is not None},
        }
        if set(own) != set(step.parameters):
            raise ConversionError(f"{where}, has {sorted(own)} where the program has {_say(step, self.program)}")
        rows = []
        for name, tensor in own.items():
            parameter = step.parameters[name]
            _, op = layout_of(module, name)
            if op == "transpose" and step.attributes.get("transpose_y"):
                op = "same"
            made = self.made.get(parameter)
            found = made.shape if made is not None else self.program.values[parameter].shape
            if len(found) != tensor.dim() or (
                self.sizes and (found[::-1] if op == "transpose" else found) != tuple(tensor.shape)
            ):
                raise ConversionError(
                    f"{where}, {name} is {list(tensor.shape)} where the program has {_say(step, self.program)}"
                )
            rows.append(Row(f"{path}.{name}", parameter, op))
        return rows


def _say(step: Step, program: Program) -> str:
    shapes = ", ".join(
        f"{name} {list(program.values[name].shape)}" for name in step.parameters.values() if name in program.values
    )
    return f"{step.kind} ({shapes or 'no parameters'})"


def _check_attributes(module: nn.Module, step: Step, where: str) -> None:
    expected: dict[str, Any] = {}
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        expected = {"strides": module.stride, "dilations": module.dilation, "groups": module.groups}
        if not isinstance(module.padding, str) and step.attributes.get("padding_algorithm", "EXPLICIT") == "EXPLICIT":
            expected["paddings"] = module.padding
    elif isinstance(module, nn.LSTM):
        expected = {
            "input_size": module.input_size,
            "hidden_size": module.hidden_size,
            "num_layers": module.num_layers,
            "is_bidirec": module.bidirectional,
        }
    elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
        expected = {"epsilon": module.eps}
    elif isinstance(module, nn.Hardsigmoid):
        expected = {"slope": 1 / 6, "offset": 0.5}
    elif isinstance(module, Hardsigmoid):
        expected = {"slope": module.slope, "offset": module.offset}
    for name, value in expected.items():
        if name in step.attributes and not _same(step.attributes[name], value):
            raise ConversionError(f"{where}: {name} is {value}, in the program {step.attributes[name]}")


def _some(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers[:8]) or "nothing"


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, np.float16):
        return bool(found == np.float16(expected)) or math.isclose(found, expected, rel_tol=2e-3)
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=1e-5)  # the file holds a float32, or a slope in six digits
    if isinstance(expected, Sequence):
        return list(found) == list(expected)
    return bool(found == expected)
