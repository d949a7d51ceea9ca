"""A network as other runtimes take it: one tensor in, one out, free sizes; captured as a graph, compared with what
was made of it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.config import ModelConfig, RecPreprocess, one_size
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.network import Network, fuse


@dataclass(frozen=True)
class Check:
    """One input run through the export and through PyTorch, both in float32.

    `absolute` is the largest difference, `relative` the same of the output's largest value, and `rounding` how far
    PyTorch itself is from the network computed in float64, relative as well: the larger of two ways to compute it.
    """

    shape: tuple[int, ...]
    absolute: float
    relative: float
    rounding: float


class Served(nn.Module):
    """A fused network as other runtimes take it: one tensor in, one tensor out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 (N, 3, H, W).

        Recogniser: probabilities (N, T, classes). Detector: a map (N, 1, H, W). Classifier: probabilities (N, labels).
        """
        output = self.network(image)
        served: Tensor = output["maps"] if isinstance(output, dict) else output
        return served


def served(network: Network) -> Served:
    """The fused form of `network` for serving: a copy in float32 on the CPU, in evaluation mode, nothing trainable."""
    model = Served(copy.deepcopy(fuse(network)).to(device="cpu", dtype=torch.float32))
    # PyTorch's annotations of `to` leave out the keyword.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)


LINE_WIDTH_AT_LEAST = 16  # pixels


def free_dimensions(config: ModelConfig) -> dict[int, Any]:
    """The sizes of the input that are free, as `torch.export` takes them: {dimension: size}.

    The batch always is; a recogniser's width, where it has no width of its own; a detector's height and width, in
    multiples of 32. A recogniser's height and a classifier's size are the network's own. A size of one is a case of its
    own for `torch.export`: what is free begins where every map of the network has two columns.
    """
    free: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if one_size(config.preprocess) is not None:
        return free
    if isinstance(config.preprocess, RecPreprocess):
        free[3] = torch.export.Dim("width", min=LINE_WIDTH_AT_LEAST)
    else:
        free[2] = 32 * torch.export.Dim("rows", min=2)
        free[3] = 32 * torch.export.Dim("columns", min=2)
    return free


def example_images(config: ModelConfig) -> tuple[Tensor, ...]:
    """Five inputs of different shapes: dark text on white, pre-processed.

    Text, because what a network gives for noise can be so small that nothing is left but rounding.
    """
    preprocess = config.preprocess
    size = one_size(preprocess)
    if size is not None:
        sizes = [(n, *size) for n in (1, 2, 3, 5, 8)]
    elif isinstance(preprocess, RecPreprocess):
        channels, height, _ = preprocess.image_shape
        sizes = [(n, channels, height, width) for n, width in ((1, 320), (2, 48), (3, 161), (1, 800), (6, 192))]
    else:
        sizes = [(n, 3, h, w) for n, h, w in ((1, 64, 64), (2, 96, 160), (1, 320, 128), (3, 64, 96), (1, 256, 416))]
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    images = []
    for count, _, height, width in sizes:
        pages = np.stack([_page(height, width, number) for number in range(count)]).astype(np.float32)
        images.append(torch.from_numpy(((pages * preprocess.scale - mean) / std).transpose(0, 3, 1, 2).copy()))
    return tuple(images)


def _page(height: int, width: int, number: int) -> np.ndarray:
    """uint8 (height, width, 3): lines of text, another text for each `number`."""
    import cv2  # a fifth of a second that other formats need not wait for

    page = np.full((height, width, 3), 255, np.uint8)
    for line, base in enumerate(range(32, height, 40)):
        text = f"{number + 1} Sample {line + 7}: Text 0123456789 {'and more of it ' * 4}"
        cv2.putText(page, text, (3, base), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (30, 40, 50), 2, cv2.LINE_AA)
    return page


# How far an export may be from the network computed in float64, relative to the output's largest value. PyTorch's own
# float32 can be further off than that (a detector's by 3.5e-5): then twice as far as it is accepted.
TOLERANCE = 1e-5


def compare(
    model: Served,
    theirs: Callable[[Tensor], np.ndarray],
    images: tuple[Tensor, ...],
    what: str,
    tolerance: float = TOLERANCE,
) -> tuple[Check, ...]:
    """Run `images` through both; raises `ConversionError` where the results differ by more than rounding explains."""
    exact = copy.deepcopy(model).double()
    checks, errors = [], []
    for image in images:
        with torch.inference_mode():
            ours, truth = model(image).numpy(), exact(image.double()).numpy()
            with other_kernels():
                again = model(image).numpy()
        found = theirs(image)
        if found.shape != ours.shape:
            raise ConversionError(
                f"{what} is {list(found.shape)} for an input of {list(image.shape)}, PyTorch's {list(ours.shape)}. "
                f"Nothing was written"
            )
        largest = max(float(np.abs(truth).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        absolute = float(np.abs(found - ours).max(initial=0.0))
        rounding = max(float(np.abs(result - truth).max(initial=0.0)) for result in (ours, again)) / largest
        checks.append(Check(tuple(image.shape), absolute, absolute / largest, rounding))
        errors.append(float(np.abs(found - truth).max(initial=0.0)) / largest)
    accepted = max(tolerance, 2 * max(check.rounding for check in checks))
    for check, error in zip(checks, errors, strict=True):
        if not error <= accepted:
            raise ConversionError(
                f"{what} differs from the network's by {error:.1e} of the largest value for an input of "
                f"{list(check.shape)}; at most {accepted:.1e} is rounding. Nothing was written"
            )
    return tuple(checks)


def compare_rounded(
    network: Network,
    rounded: Callable[[Tensor], Tensor],
    run: Callable[[Tensor], np.ndarray],
    images: Sequence[Tensor],
    what: str,
) -> tuple[Check, ...]:
    """Run `images` through `run` and `rounded`, which PyTorch computes in the same form, int8 or bfloat16.

    Raises `ConversionError` where the first is more than twice as far from `network` in float64. The mean of squares
    is what tells: a value between two steps goes to either, and single results, where a text begins, are then off by a
    third of the largest. `Check.rounding` is how far `rounded` is off.
    """
    exact = Served(copy.deepcopy(network).double())
    squares = torch.zeros(2, dtype=torch.float64)
    checks = []
    with torch.inference_mode():
        for image in images:
            truth, theirs = exact(image.double()), rounded(image).double()
            ours = torch.from_numpy(run(image)).double()
            if ours.shape != theirs.shape:
                raise ConversionError(
                    f"{what} is {list(ours.shape)} for an input of {list(image.shape)}, PyTorch's "
                    f"{list(theirs.shape)}. Nothing was written"
                )
            squares += torch.stack([(result - truth).square().mean() for result in (ours, theirs)])
            largest = max(float(truth.abs().max()), float(np.finfo(np.float32).tiny))
            absolute, off = (float((a - b).abs().max()) for a, b in ((ours, theirs), (theirs, truth)))
            checks.append(Check(tuple(image.shape), absolute, absolute / largest, off / largest))
    error, accepted = squares.sqrt().tolist()
    if not error <= 2 * accepted:
        raise ConversionError(
            f"{what} in this form is off by {error:.1e}, PyTorch's own by {accepted:.1e}. Nothing was written"
        )
    return tuple(checks)


@contextlib.contextmanager
def other_kernels() -> Iterator[None]:
    """Compute by PyTorch's other kernels, which add up in another order: one order may be lucky."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch warns about Intel's GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def check_exporter() -> None:
    """Raise `ConversionError` where PyTorch cannot export with free sizes yet."""
    if "prefer_deferred_runtime_asserts_over_guards" not in inspect.signature(torch.export.export).parameters:
        raise ConversionError(
            f"PyTorch {torch.__version__} is too old to export a network with free sizes; 2.13 does it"
        )


def captured(model: Served, *more: Tensor) -> torch.export.ExportedProgram:
    """`model` as a graph that needs none of our Python code, with its free sizes.

    more: further inputs with one axis, of a free length of two or more. Raises `ConversionError` for a network that
    cannot be captured so.
    """
    config = model.network.config
    if any(isinstance(module, nn.LSTM) for module in model.modules()):
        raise ConversionError(
            f"{config.name} has an LSTM, which PyTorch's exporter writes out step by step, for lines of one width; "
            f"with free widths it can go to Paddle (--to paddle), or stay in PyTorch"
        )
    check_exporter()
    with torch.no_grad(), warnings.catch_warnings():
        # Of PyTorch's own parts, about what they will call each other one day.
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model,
            (example_images(config)[1], *more),
            dynamic_shapes=(free_dimensions(config), *({0: torch.export.Dim("more", min=2)} for _ in more)),
            # What is true of every size but beyond its solver (a map of two columns is not one column wide) is
            # checked when the graph runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        # Do not publish the paths of this machine.
        node.meta.pop("stack_trace", None)
    return program
