"""Which parameter of an exported program is which tensor of the fused network.

An export has lost the structured names. But it runs the same layers in the same order: each layer of the program, in
order of execution, must be the next layer of the network, of the same kind, shapes and attributes, and read what that
layer reads. An ONNX file may have another order, which `dataflow.py` undoes. What has no counterpart is an error that
names the place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.converters.dataflow import (
    FOLDABLE,
    IMAGE,
    Flow,
    Layer,
    Layers,
    Recorder,
    TooLongError,
    Values,
    arrange,
    flow_of,
    mark,
)
from paddle2torch.converters.kinds import PASSED, activation_of_norm, kind_of, layer_kind
from paddle2torch.converters.layout import Row, layout_of, layout_table
from paddle2torch.converters.paddle_files.program import Program
from paddle2torch.converters.steps import Step, steps_of
from paddle2torch.model_zoo.config import ModelConfig, RecPreprocess, one_size
from paddle2torch.model_zoo.deformable import DeformConv2D
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.layers import Constant, Hardsigmoid
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.model_zoo.registry import Seen, SeenLayer
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
    was folded into the layer before it, of an affine whose bias is 0. `rows` name them like the others. `constants` has
    what parameters of the program must be that the network does not have, because they follow from its settings.
    """

    layers: tuple[Aligned, ...]
    rows: tuple[Row, ...]
    made: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray]


def layers_of(model: Network, take: Callable[[Layer], None] | None = None) -> Layers:
    """Every layer and activation of `model` in order of execution, with the layers that it reads.

    The model is run once, on zeros of the smallest size that it takes; what its tensors hold does not matter. `take` is
    called with each layer as soon as that was run: a `ConversionError` that it raises ends the run.
    """
    order: list[Layer] = []
    reads: dict[str, Flow] = {}
    handles = []
    recorder = Recorder()

    def before(module: nn.Module, inputs: Any, *, path: str) -> None:
        reads[path] = flow_of(inputs)
        recorder.depth += 1

    def after(module: nn.Module, inputs: Any, output: Any, *, path: str, kind: str) -> None:
        recorder.depth -= 1
        mark(output, frozenset({(len(order), ())}))
        order.append(Layer(path, kind, module, reads[path]))
        if take is not None:
            take(order[-1])

    for path, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None:
            handles.append(module.register_forward_pre_hook(partial(before, path=path)))
            handles.append(module.register_forward_hook(partial(after, path=path, kind=kind)))
    image = torch.zeros(1, *example_shape(model.config))
    mark(image, frozenset({(IMAGE, ())}))
    try:
        with torch.inference_mode(), recorder:
            model(image)
    except RuntimeError as error:
        raise ConversionError(
            f"{model.config.name}: a network of these settings cannot be run: {show_text(str(error), 200)}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    return Layers(tuple(order), recorder.activations)


def example_shape(config: ModelConfig) -> tuple[int, int, int]:
    """(3, H, W) of a small input that the network accepts."""
    if (size := one_size(config.preprocess)) is not None:
        return size
    if isinstance(config.preprocess, RecPreprocess):
        channels, height, _ = config.preprocess.image_shape
        return channels, height, 64
    return 3, 64, 64


class AlignmentError(ConversionError):
    """A program is not this network; the first `matched` of its `layers` are those of the program too.

    `parts_at` is the path of the first layer that is not, None where only what stands between the layers differs.
    """

    def __init__(self, message: str, matched: int, layers: int, parts_at: str | None) -> None:
        super().__init__(message)
        self.share = matched / max(layers, matched)
        # Whether it parts from the network behind the backbone.
        self.has_backbone = parts_at is None or not parts_at.startswith(("transform.", "backbone."))


def align(program: Program, config: ModelConfig, source: str) -> Alignment:
    """Match the layers of `program` with those of the fused network that `config` describes.

    Raises `AlignmentError`, led by `source`, at the first layer that differs in kind, shape or attribute.
    """
    with torch.device("meta"):
        model = build_model(config.with_form("fused")).eval()
    match = _matched(program, model, source)
    return Alignment(tuple(match.layers), tuple(match.rows), match.made, match.constants)


def fused_shapes(program: Program, model: Network, source: str) -> tuple[dict[str, tuple[int, ...]], Seen]:
    """Sizes of `program`'s tensors in Paddle's layout, by the names they have in `model`.

    Also what the program says of those layers besides. The network and the program need to have the same layers, of
    whatever sizes. `model` is a fused network on the meta device; it gets tensors without values. Raises as `align`.
    """
    match = _matched(program, model, source, sizes=False)
    paddle_rows = {row.torch_key: row for row in layout_table(match.model)}
    shapes: dict[str, tuple[int, ...]] = {}
    for row in match.rows:
        found = program.values[row.paddle_key].shape if row.paddle_key in program.values else None
        if found is not None:
            known = paddle_rows[row.torch_key]
            shapes[known.paddle_key] = found if row.op == known.op else found[::-1]
    return shapes, _seen(program, match.layers)


def _seen(program: Program, layers: Sequence[Aligned]) -> Seen:
    positions = {name: index for index, operation in enumerate(program.operations) for name in operation.outputs}
    ends = [positions.get(layer.step.writes, -1) for layer in layers]
    parts = {layer.step.writes for layer in layers}
    seen = []
    for layer, end, after in zip(layers, ends, [*ends[1:], len(program.operations)], strict=True):
        between = program.operations[end + 1 : max(after, end + 1)] if end >= 0 else ()
        behind = tuple((item.kind, item.attributes) for item in between if not parts.intersection(item.outputs))
        seen.append(SeenLayer(layer.path, layer.step.attributes, behind))
    return Seen(tuple(seen))


def _matched(program: Program, model: Network, source: str, *, sizes: bool = True) -> _Match:
    """`model` and `program`, matched in the program's order or else in the order that its values have.

    Paddle writes its programs in order, and so `model` is run no further than the program has its layers. Of other
    exporters' files an optimiser may have changed it.
    """
    _give_tensors(model, program, source)
    steps = steps_of(program)
    match = _Match(program, model, source, steps, sizes=sizes)
    if program.format != "onnx" or not _may_be_in_another_order(model, steps):
        match.end(layers_of(model, match.take))
        return match
    network = layers_of(model)
    try:
        match.run(network)
        return match
    except AlignmentError as error:
        found = arrange(program, steps, network.layers, match.rank)
        if isinstance(found, int):
            if found <= len(match.layers):
                raise
            layer = network.layers[found]
            raise AlignmentError(
                f"{source}: layer {found + 1} of the network, {layer.path} ({layer.kind}): of its sizes and "
                f"attributes no layer of the program reads what {_say_flow(layer.reads, network.layers)} give",
                found,
                len(network.layers),
                layer.path,
            ) from error
    match = _Match(program, model, source, found, sizes=sizes)
    match.run(network)
    return match


def _give_tensors(model: Network, program: Program, source: str) -> None:
    """Make `model` one that can be run. Raises `ConversionError` where it is much larger than the program."""
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    stored = sum(math.prod(program.values[name].shape) for name in program.parameters)
    if elements > stored + MOST_MISSING:
        raise ConversionError(f"{source}: the network has {elements:,} numbers, the program {stored:,}")
    # On the CPU: on the meta device the first run would load PyTorch's decompositions (1.5 s).
    model.to_empty(device="cpu")


def _may_be_in_another_order(model: Network, steps: Sequence[Step]) -> bool:
    """Whether there is a step for each layer that has tensors, and is not folded into another."""
    found = Counter(step.kind for step in steps)
    layers = (layer_kind(module) for module in model.modules() if any(True for _ in _own_tensors(module)))
    return all(found[kind] >= count for kind, count in Counter(layers).items() if kind and kind not in FOLDABLE)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module itself, by name."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


class _Match:
    """Layer by layer through a network and a program's steps; `layers` and `rows` grow by each layer that matches.

    Raises `AlignmentError` at the first layer that differs.
    """

    def __init__(
        self, program: Program, model: Network, source: str, steps: Sequence[Step], *, sizes: bool = True
    ) -> None:
        self.program = program
        self.model = model
        self.source = source
        self.steps = steps
        self.sizes = sizes
        self.layers: list[Aligned] = []
        self.rows: list[Row] = []
        self.made: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._position = 0
        self._passed: list[Step] = []
        self._folded: Step | None = None
        self._waiting: Layer | None = None

    def run(self, network: Layers) -> None:
        """Match a network whose layers are all known."""
        for layer in network.layers:
            self.take(layer)
        self.end(network)

    def take(self, layer: Layer) -> None:
        """Match the layer before `layer`, into which `layer` may be folded."""
        waiting, self._waiting = self._waiting, layer
        if waiting is not None:
            self._match(waiting, layer)

    def end(self, network: Layers) -> None:
        """Match the last layer, and what stands between all of them: `network` is what was taken."""
        if self._waiting is not None:
            self._match(self._waiting, None)
        try:
            self._check_all(network)
        except ConversionError as error:
            raise AlignmentError(str(error), len(self.layers), len(network.layers), None) from None

    def _match(self, layer: Layer, following: Layer | None) -> None:
        try:
            self._match_layer(layer, following)
        except ConversionError as error:
            layers = sum(kind_of(module) is not None for module in self.model.modules())
            raise AlignmentError(str(error), len(self.layers), layers, layer.path) from None

    def _match_layer(self, layer: Layer, following: Layer | None) -> None:
        where, steps = self._where(layer), self.steps
        if self._folded is not None:
            step, self._folded = self._folded, None
        else:
            step = self._next_step(layer, where)
        if following is not None and following.kind in FOLDABLE:
            found = steps[self._position].kind if self._position < len(steps) else ""
            if found != following.kind and (following.kind, found) != ("affine", "factor"):
                step, self._folded = self._unfold(layer.module, step, following)
        activation = activation_of_norm(layer.module)
        if activation is not None:
            # What the module returns is what the second operation writes.
            then = steps[self._position] if self._position < len(steps) else None
            if then is None or (then.kind, then.reads) != (activation, step.writes):
                raise ConversionError(f"{where}, has a {activation} that the program has not")
            self._position += 1
            step = replace(step, writes=then.writes)
        self.rows.extend(self._rows(layer.path, layer.module, step, where))
        if self.sizes:
            _check_attributes(layer.module, step, where)
        self.layers.append(Aligned(layer.path, step))

    def _next_step(self, layer: Layer, where: str) -> Step:
        """The next step of the program, which must be of the layer's kind."""
        steps, kind = self.steps, layer.kind
        # An activation that the network computes inside a function has a step here and no module.
        while self._position < len(steps) and steps[self._position].kind in PASSED - {kind}:
            if kind == "affine" and steps[self._position].kind == "factor":
                break
            self._passed.append(steps[self._position])
            self._position += 1
        if self._position == len(steps):
            raise ConversionError(f"{where}, has no counterpart: the program ends after {len(steps)} layers")
        step = steps[self._position]
        self._position += 1
        if kind == "affine" and step.kind == "factor":
            step = self._affine(layer.path, step)
        if step.kind != kind:
            raise ConversionError(f"{where}, stands where the program has {_say(step, self.program)}")
        return step

    def _check_all(self, network: Layers) -> None:
        """Every step has a layer, every tensor of the network a parameter, and the layers read the same."""
        rest = self.steps[self._position :]
        left = [step for step in rest if step.kind not in PASSED]
        if left:
            raise ConversionError(f"{self.source}: the network ends before the program's {_say(left[0], self.program)}")
        expected, filled = set(self.model.state_dict()), {row.torch_key for row in self.rows}
        if expected != filled:
            missing = ", ".join(sorted(expected - filled)[:8])
            raise ConversionError(f"{self.source}: no layer of the program fills {missing}")
        passed = [*self._passed, *rest]
        self._check_functions(passed, network.functions)
        self._check_factors(passed)
        self._check_flow(network.layers)

    def rank(self, layer: Layer, step: Step) -> int | None:
        """How well a step fits a layer by itself: 0 where it is of the same sizes, None where it cannot be this layer.

        Without `sizes` others will do as well.
        """
        if step.kind != layer.kind:
            return 0  # a multiplication by a number, for an affine
        found = [self.program.values[name].shape for name in step.parameters.values()]
        own = [tuple(tensor.shape) for tensor in layer.module.state_dict().values()]
        if not found or not own:
            return 0 if _fits(layer.module, step) else None
        largest, expected = max(found, key=len), max(own, key=len)
        if len(largest) != len(expected):
            return None
        if sorted(largest) == sorted(expected) and _fits(layer.module, step):
            return 0
        return None if self.sizes else 1 if largest[2:] == expected[2:] else 2

    def _where(self, layer: Layer) -> str:
        return f"{self.source}: layer {len(self.layers) + 1} of the network, {layer.path} ({layer.kind})"

    def _check_flow(self, network: Sequence[Layer]) -> None:
        """Each layer reads in the program what it reads in the network: equal layers may stand in another order."""
        values = Values(self.program)
        ends = {aligned.step.writes: place for place, aligned in enumerate(self.layers) if aligned.step.writes}
        for place, (layer, aligned) in enumerate(zip(network, self.layers, strict=True)):
            step = aligned.step
            if step.reads in ("", step.writes):
                continue  # it was folded into the layer before it
            try:
                found = values.flow(step.reads, ends)
            except TooLongError:
                raise ConversionError(
                    f"{self.source}: there is more between the program's layers than in any network of text"
                ) from None
            if found != layer.reads:
                raise ConversionError(
                    f"{self.source}: layer {place + 1} of the network, {layer.path} ({layer.kind}), reads what "
                    f"{_say_flow(layer.reads, network)} give; in the program what {_say_flow(found, network)} give"
                )

    def _check_functions(self, passed: Sequence[Step], functions: Mapping[str, int]) -> None:
        """Activations outside of layers must be those that the network computes in functions."""
        found = Counter(step.kind for step in passed if step.kind != "factor")
        if found != functions:
            surplus, missing = found - Counter(functions), Counter(functions) - found
            said = [f"{count} {kind} more" for kind, count in surplus.items()]
            said += [f"{count} {kind} fewer" for kind, count in missing.items()]
            raise ConversionError(f"{self.source}: the program has {', '.join(said)} than the network")

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

    def _unfold(self, module: nn.Module, step: Step, following: Layer) -> tuple[Step, Step | None]:
        """A layer into which a normalisation or an affine was folded, as that layer and one that adds its bias at most.

        Other exporters than Paddle's do that. What the layer alone would have given is not in the program.
        """
        if "bias" not in step.parameters:
            return step, None
        made = _that_changes_nothing(following.module)
        names = {name: f"{following.path}.{name}@made" for name in made}
        layer = step
        if getattr(module, "bias", None) is None:
            names["bias"] = step.parameters["bias"]
            layer = replace(step, parameters={"weight": step.parameters["weight"]}, writes="")
        self.made.update({names[name]: array for name, array in made.items() if names[name].endswith("@made")})
        return layer, Step(following.kind, names, layer.writes, step.writes)

    def _affine(self, path: str, step: Step) -> Step:
        """A multiplication by a number as the affine whose bias is 0."""
        names = {name: f"{path}.{name}@made" for name in ("scale", "bias")}
        self.made.update(
            {names[name]: np.array([step.attributes.get(name, 0.0)], np.float32) for name in ("scale", "bias")}
        )
        return Step("affine", names, step.reads, step.writes)

    def _constant(self, module: Constant, name: str, where: str) -> np.ndarray:
        values = module.values().numpy()
        if self.program.values[name].shape != values.shape:
            raise ConversionError(
                f"{where}, has constants of {list(values.shape)}, the program has "
                f"{list(self.program.values[name].shape)}"
            )
        return values

    def _rows(self, path: str, module: nn.Module, step: Step, where: str) -> list[Row]:
        own = dict(_own_tensors(module))
        if set(own) != set(step.parameters):
            raise ConversionError(f"{where}, has {sorted(own)} where the program has {_say(step, self.program)}")
        if step.constant is not None and isinstance(module, Constant) and self.sizes:
            self.constants[step.constant] = self._constant(module, step.constant, where)
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


def _that_changes_nothing(module: nn.Module) -> dict[str, np.ndarray]:
    """The parameters with which a normalisation or an affine gives what it reads."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        features = module.num_features
        return {
            "weight": np.ones(features, np.float32),
            "bias": np.zeros(features, np.float32),
            "running_mean": np.zeros(features, np.float32),
            "running_var": np.full(features, 1 - module.eps, np.float32),
        }
    return {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}


def _say(step: Step, program: Program) -> str:
    shapes = ", ".join(
        f"{name} {list(program.values[name].shape)}" for name in step.parameters.values() if name in program.values
    )
    return f"{step.kind} ({shapes or 'no parameters'})"


def _say_flow(flow: Flow | None, network: Sequence[Layer]) -> str:
    if not flow:
        return "nothing"
    # Those that are put beside each other in their order.
    ordered = sorted(flow, key=lambda found: (found[1], found[0]))
    names = ["the image" if place == IMAGE else network[place].path for place, _ in ordered]
    return ", ".join(dict.fromkeys(names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _check_attributes(module: nn.Module, step: Step, where: str) -> None:
    expected: dict[str, Any] = {}
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        expected = {"strides": module.stride, "dilations": module.dilation, "groups": module.groups}
        if not isinstance(module.padding, str) and step.attributes.get("padding_algorithm", "EXPLICIT") == "EXPLICIT":
            expected["paddings"] = module.padding
    elif isinstance(module, DeformConv2D):
        expected = {
            "strides": module.stride,
            "paddings": module.padding,
            "dilations": module.dilation,
            "deformable_groups": module.deformable_groups,
        }
    elif isinstance(module, nn.LSTM):
        expected = {
            "input_size": module.input_size,
            "hidden_size": module.hidden_size,
            "num_layers": module.num_layers,
            "is_bidirec": module.bidirectional,
        }
    elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
        expected = {"epsilon": module.eps}
    elif isinstance(module, nn.GELU):
        expected = {"approximate": module.approximate != "none"}
    elif isinstance(module, nn.Hardsigmoid):
        expected = {"slope": 1 / 6, "offset": 0.5}
    elif isinstance(module, Hardsigmoid):
        expected = {"slope": module.slope, "offset": module.offset}
    for name, value in expected.items():
        if name in step.attributes and not _same(step.attributes[name], value):
            raise ConversionError(f"{where}: {name} is {value}, in the program {step.attributes[name]}")


def _fits(module: nn.Module, step: Step) -> bool:
    """Whether the attributes of `step` are those of `module`."""
    try:
        _check_attributes(module, step, "")
    except ConversionError:
        return False
    return True


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
