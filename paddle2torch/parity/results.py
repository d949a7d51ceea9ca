"""What a comparison with Paddle finds: differences, layers, texts, the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paddle2torch.parity.reference import ONNX_RUNTIME

# What a correct float32 port keeps to: 5.4e-7 local and 2e-5 accumulated were measured (README, "How equal is equal").
LOCAL_TOLERANCE = 1e-5
ACCUMULATED_TOLERANCE = 5e-5
# ONNX Runtime's own float32 is up to 1.1e-4 from the same network computed in float64 (v5 mobile recogniser, after a
# hundred layers), where PyTorch's is 1.4e-5. Layer by layer, on its own input, it keeps to LOCAL_TOLERANCE like Paddle.
ONNX_ACCUMULATED_TOLERANCE = 2e-4


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference, and the same relative to the largest value of Paddle's array."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Roundings:
    """How far both float32 results are from our network computed in float64, relative to the layer's largest value.

    Where two results differ by more than the accumulated tolerance, this tells why: rounding of both adds up at a steep
    place (a detector's last sigmoid), each within the tolerance; or our network computes something else, and Paddle is
    further than that from it.
    """

    ours: Difference
    paddle: Difference

    @property
    def holds(self) -> bool:
        """Whether both are within the accumulated tolerance."""
        return within(self.ours, ACCUMULATED_TOLERANCE) and within(self.paddle, ACCUMULATED_TOLERANCE)


@dataclass(frozen=True)
class LayerResult:
    """One layer: its module path, kind and output shape, and how far it is from Paddle's.

    `local` is None where Paddle's own input to the layer is not known (a stored golden has none). `leaf` says that
    the module is one layer or activation of the program. Others are compared so that what lies between the layers is.
    `roundings` are measured where `accumulated` alone would not hold, `local_roundings` where `local` would not.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    leaf: bool
    local: Difference | None
    accumulated: Difference | None
    roundings: Roundings | None = None
    accumulated_tolerance: float = ACCUMULATED_TOLERANCE
    local_roundings: Roundings | None = None

    @property
    def local_tolerance(self) -> float:
        """Rounding piles up in a module of several layers, and in Paddle's pooling, even from Paddle's own input."""
        return LOCAL_TOLERANCE if self.leaf else self.accumulated_tolerance

    @property
    def holds_locally(self) -> bool:
        """Whether the layer does to Paddle's own input what Paddle does."""
        return within(self.local, self.local_tolerance) or (
            self.local_roundings is not None and self.local_roundings.holds
        )

    @property
    def holds(self) -> bool:
        """Whether the layer is within tolerance."""
        return self.holds_locally and holds_accumulated(self.accumulated, self.roundings, self.accumulated_tolerance)


@dataclass(frozen=True)
class LineResult:
    """What both read in one line image; `picture` is the PNG of what both were given, without the padding."""

    image: str
    reference_text: str
    torch_text: str
    reference_score: float
    torch_score: float
    picture: bytes = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether the texts are the same."""
        return self.reference_text == self.torch_text


@dataclass(frozen=True)
class Verification:
    """The result of comparing one model, which ran on `device`, with one reference, which `engine` ran: Paddle, or ONNX
    Runtime.
    """

    model: str
    form: str
    reference: str
    engine: str
    engine_version: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerResult, ...]
    output: Difference
    lines: tuple[LineResult, ...]
    not_covered: tuple[str, ...]
    output_roundings: Roundings | None = None
    device: str = "cpu"

    @property
    def accumulated_tolerance(self) -> float:
        """How far the same image through both may come apart, relative to a layer's largest value."""
        return accumulated_tolerance(self.engine)

    @property
    def holds(self) -> bool:
        """Whether layers were compared, and each of them, the output and every text hold."""
        return (
            any(layer.leaf for layer in self.layers)
            and all(layer.holds for layer in self.layers)
            and holds_accumulated(self.output, self.output_roundings, self.accumulated_tolerance)
            and all(line.holds for line in self.lines)
        )

    @property
    def first_failure(self) -> LayerResult | None:
        """The layer to look at: the first that is wrong on Paddle's own input, else the first that drifted off."""
        wrong = [layer for layer in self.layers if not layer.holds_locally]
        return next(iter(wrong or [layer for layer in self.layers if not layer.holds]), None)

    @property
    def worst_local(self) -> LayerResult | None:
        """The layer with the largest local error (modules of several layers left out)."""
        return worst([layer for layer in self.layers if layer.leaf], lambda layer: layer.local)

    @property
    def worst_accumulated(self) -> LayerResult | None:
        """The layer with the largest accumulated error."""
        return worst(self.layers, lambda layer: layer.accumulated)


def accumulated_tolerance(engine: str) -> float:
    return ONNX_ACCUMULATED_TOLERANCE if engine == ONNX_RUNTIME else ACCUMULATED_TOLERANCE


def within(difference: Difference | None, tolerance: float) -> bool:
    return difference is None or difference.relative <= tolerance  # False for NaN


def holds_accumulated(difference: Difference | None, roundings: Roundings | None, tolerance: float) -> bool:
    return within(difference, tolerance) or (roundings is not None and roundings.holds)


def worst(layers: Sequence[LayerResult], of: Callable[[LayerResult], Difference | None]) -> LayerResult | None:
    measured = [(difference.relative, i) for i, layer in enumerate(layers) if (difference := of(layer)) is not None]
    return layers[max(measured)[1]] if measured else None


def compare(found: np.ndarray, expected: np.ndarray, largest: float | None = None) -> Difference:
    """How far `found` is from `expected`; `largest` is the largest value where `expected` is only a sample of it."""
    if found.shape != expected.shape:
        return Difference(math.inf, math.inf)
    if expected.size == 0:
        return Difference(math.inf, math.inf)  # nothing was compared
    absolute = float(np.abs(found - expected).max())
    scale = float(np.abs(expected).max()) if largest is None else largest
    if not math.isfinite(absolute):
        return Difference(math.inf, math.inf)
    if scale == 0.0:
        return Difference(absolute, 0.0 if absolute == 0.0 else math.inf)
    return Difference(absolute, absolute / scale)
