"""The layers of an exported program, in order of execution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paddle2torch.converters.kinds import ACTIVATIONS, PASSED
from paddle2torch.converters.paddle_files.program import Operation, Program
from paddle2torch.model_zoo.errors import ConversionError

# Operations that change no value of a parameter.
RENAMING = frozenset({"assign", "reshape", "unsqueeze"})
# Attributes with a number for the height and one for the width.
SIZES = frozenset({"strides", "paddings", "dilations"})
CONVOLUTIONS = {"conv2d": "conv", "depthwise_conv2d": "conv", "conv2d_transpose": "conv_transpose"}
# Kinds of operations that are looked at: each has an input and an output.
_READ = frozenset({*CONVOLUTIONS, *ACTIVATIONS, *RENAMING, "add", "batch_norm", "deformable_conv", "layer_norm"}) | {
    "matmul",
    "multiply",
    "rnn",
    "transpose",
}


@dataclass(frozen=True)
class Step:
    """One layer of a program.

    `parameters` maps torch's name of a tensor ("weight", "running_mean") to the program's parameter. `reads` and
    `writes` are the values before and after the layer, its bias included; "" where the program has no such value.
    `constant` is the parameter of a layer that learns none: numbers that follow from the network's settings.
    """

    kind: str
    parameters: Mapping[str, str]
    reads: str
    writes: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constant: str | None = None


def steps_of(program: Program) -> tuple[Step, ...]:  # noqa: C901, a case for each kind of operation
    """The layers and activations of `program` in order of execution, biases joined to their layer.

    Raises `ConversionError` where a parameter is used by no layer that is known here.
    """
    for operation in program.operations:
        if operation.kind in _READ and not (operation.inputs and operation.outputs):
            raise ConversionError(
                f"operation {operation.position} of the program ({operation.kind}) has no input or no output"
            )
    parameters = set(program.parameters)
    # PIR reshapes a bias to (1, C, 1, 1) before it adds it, and a sequence's convolution has weights of an image's.
    alias = {name: name for name in parameters}
    readers: dict[str, list[int]] = defaultdict(list)
    for index, operation in enumerate(program.operations):
        for name in operation.inputs:
            readers[name].append(index)
        if operation.kind in RENAMING and operation.inputs and operation.inputs[0] in alias:
            alias[operation.outputs[0]] = alias[operation.inputs[0]]
    steps: list[Step] = []
    absorbed: set[int] = set()

    def following_add(value: str) -> tuple[str | None, str]:
        """The parameter that the only reader of `value` adds to it, and the sum; (None, value) where there is none."""
        if len(readers[value]) == 1:
            index = readers[value][0]
            reader = program.operations[index]
            if reader.kind == "add":
                other = [name for name in reader.inputs if name != value]
                if len(other) == 1 and other[0] in alias:
                    absorbed.add(index)
                    return alias[other[0]], reader.outputs[0]
        return None, value

    # A program turns a sequence around for an LSTM, which wants the time first, and back again: both belong to it.
    turned = {
        operation.outputs[0]: operation.inputs[0]
        for operation in program.operations
        if operation.kind == "transpose" and operation.inputs and operation.attributes.get("perm") == (1, 0, 2)
    }
    turned_back = {before: after for after, before in turned.items()}
    # It makes an image one pixel high of a sequence for a convolution.
    raised, lowered = _first_inputs(program, "unsqueeze"), _first_inputs(program, "squeeze")
    lowered = {before: after for after, before in lowered.items()}

    for index, operation in enumerate(program.operations):
        if index in absorbed:
            continue
        try:
            step = _step(operation, alias, following_add) or _fixed_step(operation, alias, program)
        except KeyError as name:
            raise ConversionError(
                f"operation {operation.position} of the program ({operation.kind}) takes {name} for a parameter"
            ) from None
        except (StopIteration, ValueError):
            raise ConversionError(
                f"operation {operation.position} of the program ({operation.kind}) has not the inputs of its kind"
            ) from None
        if step is not None and step.kind == "lstm":
            reads, writes = turned.get(step.reads, step.reads), turned_back.get(step.writes, step.writes)
            step = replace(step, reads=reads, writes=writes)
        if step is not None and step.kind == "conv" and len(program.values[step.parameters["weight"]].shape) == 3:
            reads, writes = raised.get(step.reads, step.reads), lowered.get(step.writes, step.writes)
            along = {name: value[1:] for name, value in step.attributes.items() if name in SIZES and len(value) == 2}
            step = replace(step, reads=reads, writes=writes, attributes={**step.attributes, **along})
        if step is not None:
            steps.append(step)
    used = {name for step in steps for name in (*step.parameters.values(), step.constant)}
    if unused := [name for name in program.parameters if name not in used]:
        raise ConversionError(
            f"the program uses parameters in a way that no supported network does: {', '.join(unused[:8])}"
            + (f" and {len(unused) - 8} more" if len(unused) > 8 else "")
        )
    return tuple(steps)


def _first_inputs(program: Program, kind: str) -> dict[str, str]:
    """{result: what it was made of} of all operations of one kind."""
    return {
        operation.outputs[0]: operation.inputs[0]
        for operation in program.operations
        if operation.kind == kind and operation.inputs and operation.outputs
    }


def _step(operation: Operation, alias: Mapping[str, str], following_add: Any) -> Step | None:
    kind, inputs, output = operation.kind, operation.inputs, operation.outputs[0] if operation.outputs else ""
    if kind in CONVOLUTIONS:
        bias, writes = following_add(output)
        parameters = {"weight": alias[inputs[1]]} | ({"bias": bias} if bias else {})
        return Step(CONVOLUTIONS[kind], parameters, inputs[0], writes, operation.attributes)
    if kind == "matmul" and inputs[1] in alias:
        bias, writes = following_add(output)
        parameters = {"weight": alias[inputs[1]]} | ({"bias": bias} if bias else {})
        return Step("linear", parameters, inputs[0], writes, operation.attributes)
    if kind == "deformable_conv":
        return Step(kind, {"weight": alias[inputs[2]]}, inputs[0], output, operation.attributes)
    if kind == "batch_norm":
        names = dict(
            zip(("running_mean", "running_var", "weight", "bias"), (alias[n] for n in inputs[1:5]), strict=True)
        )
        return Step("batch_norm", names, inputs[0], output, operation.attributes)
    if kind == "rnn" and operation.attributes.get("mode") == "LSTM":
        return Step("lstm", _lstm_parameters(operation, alias), inputs[0], output, operation.attributes)
    if kind == "layer_norm":
        names = dict(zip(("weight", "bias"), (alias[n] for n in inputs[1:3]), strict=True))
        return Step("layer_norm", names, inputs[0], output, operation.attributes)
    if kind == "multiply" and any(name in alias for name in inputs):
        scale = next(name for name in inputs if name in alias)
        reads = next(name for name in inputs if name != scale)
        bias, writes = following_add(output)
        parameters = {"scale": alias[scale]} | ({"bias": bias} if bias else {})
        return Step("affine", parameters, reads, writes)
    if kind in PASSED:
        return Step(kind, {}, inputs[0], output, operation.attributes)
    return None


def _fixed_step(operation: Operation, alias: Mapping[str, str], program: Program) -> Step | None:
    """Of an operation that is no layer of its own: what it does with a parameter, which may be a constant."""
    kind, inputs, output = operation.kind, operation.inputs, operation.outputs[0] if operation.outputs else ""
    parameter = next((name for name in inputs if name in alias), None)
    if parameter is None or kind not in ("add", "expand", "matmul"):
        return None
    reads = next((name for name in inputs if name != parameter), "") if kind != "expand" else ""
    if kind == "add" and len(program.values[alias[parameter]].shape) == 3:
        return Step("addition", {"pos_embed": alias[parameter]}, reads, output)
    return Step("constant", {}, reads, output, constant=alias[parameter])


def _lstm_parameters(operation: Operation, alias: Mapping[str, str]) -> dict[str, str]:
    """Torch's names for the parameters of an LSTM: all its weights, layer by layer, and then all its biases."""
    found = [alias[name] for name in operation.inputs if name in alias]
    directions = ("", "_reverse") if operation.attributes.get("is_bidirec") else ("",)
    layers, odd = divmod(len(found), 4 * len(directions))
    if odd or not layers:
        raise ConversionError(
            f"operation {operation.position} of the program (rnn) takes {len(found)} parameters: no LSTM has as many"
        )
    cells = [f"l{layer}{direction}" for layer in range(layers) for direction in directions]
    names = [f"{kind}_{source}_{cell}" for kind in ("weight", "bias") for cell in cells for source in ("ih", "hh")]
    return dict(zip(names, found, strict=True))
