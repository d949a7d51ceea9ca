"""Whether a program computes what the network computes that it was taken for: both are run, and compared.

Layers, shapes and attributes of layers say which network a program is (`align.py`). What stands between the layers
(poolings, strides of windows, reshapes, factors, sums) has no shape, so a program may differ there from every network
that is known. Here the program runs operation by operation as its file says, in float64, beside the network with the
same weights: where both are one function they differ by the rounding of the file's own constants alone.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.converters.align import Alignment, example_shape
from paddle2torch.converters.paddle_files.program import Operation, Program
from paddle2torch.model_zoo.config import ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.show import show_text

TOLERANCE = 5e-6
"""Of a layer's largest value. A file holds slopes, factors and epsilons in float32, some with six digits; the official
exports differ by up to 1e-8."""
HALF_TOLERANCE = 5e-3
"""The same where the file's constants are float16, and in a spatial transformer, whose matrix is inverted in float32.

What stands behind one is compared by its sizes alone: it sees another part of the image."""
BATCHES = (2, 1)
"""Images at once; one alone for a program whose reshapes were exported for one."""
LINE_WIDTH = 88
"""Of a line; no multiple of the strides, so that what rounds and what pads shows."""

PIXELS_AT_MOST = 3 * 640 * 640
"""Values of images whose size a program fixes; in place of larger ones small ones are taken."""

Values = Mapping[str, Tensor]
"""What a program computes, by the names of its values."""
Runner = Callable[[Tensor], Values]
"""Runs a program on images, float64 (N, 3, H, W); raises `ProgramError` for what it cannot run."""


class EqualityError(ConversionError):
    """A program has the layers of a network, and computes something else between them."""


def check_equality(
    program: Program, run: Runner, alignment: Alignment, config: ModelConfig, state: Mapping[str, Tensor], source: str
) -> tuple[str, ...]:
    """Raise `EqualityError`, led by `source`, unless the program computes what the network does, at every layer.

    `state` are the network's weights. The error names the first layer whose values differ and the operations of the
    program before it. Returns notes about what differs without harm.
    """
    with torch.device("meta"):
        network = build_model(config).eval()
    network.load_state_dict({key: tensor.double() for key, tensor in state.items()}, assign=True)
    values, images = _run(program, run, config, source)
    outputs = _outputs_of(network, images)
    half = any(isinstance(v, np.float16) for layer in alignment.layers for v in layer.step.attributes.values())
    tolerance = HALF_TOLERANCE if half or config.transform is not None else TOLERANCE
    runs: dict[str, Iterator[Tensor]] = {path: iter(found) for path, found in outputs.items()}
    before = -1
    positions = {name: operation.position for operation in program.operations for name in operation.outputs}
    for layer in alignment.layers:
        expected, found = next(runs[layer.path], None), values.get(layer.step.writes)
        after = positions.get(layer.step.writes, before)
        if layer.step.constant:
            continue  # what it holds was compared with what the settings make
        seen = config.transform is None or layer.path.startswith("transform.")
        limit = tolerance if seen else sys.float_info.max
        if expected is not None and found is not None and (much := _difference(found, expected)) > limit:
            raise EqualityError(
                f"{source}: at {layer.path} the program computes something else than the network, {_far(much)}: "
                f"{_between(program, before, after)}"
            )
        before = max(before, after)
    result, found = outputs[""][0], values.get(program.fetches[0]) if program.fetches else None
    if found is None:
        raise EqualityError(f"{source}: the program returns nothing that it computes")
    if config.task != "det" and _difference(found.softmax(-1), result) <= tolerance:
        return ("the program returns its last layer's values; here they are probabilities (softmax)",)
    if (much := _difference(found, result)) > (tolerance if config.transform is None else sys.float_info.max):
        end = positions.get(program.fetches[0], len(program.operations))
        raise EqualityError(
            f"{source}: behind its last layer the program computes something else than the network, {_far(much)}: "
            f"{_between(program, before, end)}"
        )
    return ()


def _run(program: Program, run: Runner, config: ModelConfig, source: str) -> tuple[Values, Tensor]:
    """What the program computes of images that it takes, and those images."""
    failure: Exception | None = None
    for shape in _shapes(program, config):
        images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * 2 - 1
        images[1:] *= 3  # activations bend there
        try:
            with torch.inference_mode():
                return run(images), images
        except (Paddle2TorchError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            failure = failure or error
    raise EqualityError(
        f"{source}: its layers are those of a network that is known, but it cannot be run to compare what stands "
        f"between them: {show_text(str(failure), 400)}"
    ) from None


def _shapes(program: Program, config: ModelConfig) -> Iterator[tuple[int, ...]]:
    """Sizes of a few images: what the program fixes as it says, unless that is large; the rest small."""
    channels, height, width = example_shape(config)
    if isinstance(config.preprocess, RecPreprocess):
        _, _, whole = config.preprocess.image_shape
        width = whole if config.preprocess.max_width == whole else LINE_WIDTH
    declared = program.values[program.feeds[0]].shape if program.feeds and program.feeds[0] in program.values else ()
    for batch in BATCHES:
        small = (batch, channels, height, width)
        if len(declared) != len(small):
            yield small
            continue
        fixed = tuple(size if said < 1 else said for size, said in zip(small, declared, strict=True))
        yield fixed if math.prod(fixed) <= PIXELS_AT_MOST else small


def _outputs_of(network: nn.Module, images: Tensor) -> dict[str, list[Tensor]]:
    """What each module gives, run by run; the network's own result under ""."""
    found: dict[str, list[Tensor]] = defaultdict(list)

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            while isinstance(output, Mapping | tuple | list):
                output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
            found[path].append(output)

        return hook

    for path, module in network.named_modules():
        module.register_forward_hook(keep(path))
    with torch.inference_mode():
        network(images)
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value; infinite where there are more or fewer values."""
    if found.numel() != expected.numel():
        return math.inf
    scale = float(expected.abs().max()) or 1.0
    much = float((found.reshape(-1).double() - expected.reshape(-1)).abs().max()) / scale
    return math.inf if math.isnan(much) else much


def _far(much: float) -> str:
    return "which has another size" if math.isinf(much) else f"by {much:.1e} of the largest value"


def _between(program: Program, before: int, after: int) -> str:
    """The operations of the program behind one position and up to another, in words."""
    found = [operation for operation in program.operations if before < operation.position <= after]
    told = [_say(operation) for operation in found if operation.kind not in _SILENT]
    more = f" and {len(told) - 8} more" if len(told) > 8 else ""
    return f"there it has {', '.join(told[:8]) or 'no operation'}{more}"


# What changes no value.
_SILENT = frozenset({"assign", "full", "full_int_array", "identity", "cast"})
# What decides about values; the rest of an operation's attributes is about layouts and engines.
_TELLING = (
    *("pooling_type", "kernel_size", "strides", "paddings", "ceil_mode", "exclusive", "adaptive", "padding_algorithm"),
    *("scale", "bias", "slope", "offset", "threshold", "epsilon", "axis", "shape", "perm", "groups", "dilations", "p"),
    *("mode", "align_corners", "align_mode", "keepdim", "transpose_x", "transpose_y", "beta", "approximate"),
)


def _say(operation: Operation) -> str:
    told = ", ".join(f"{name} {operation.attributes[name]}" for name in _TELLING if name in operation.attributes)
    return f"operation {operation.position} {show_text(operation.kind, 40)}" + (
        f" ({show_text(told, 200)})" if told else ""
    )
