"""What `verify` found, as one HTML page and as JSON.

The page is one file that asks the network for nothing. Table and plot are in the HTML itself; the script on it only
sorts, filters and points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paddle2torch._version import __version__
from paddle2torch.assets import ASSETS
from paddle2torch.html_page import differing, render_page, write_page
from paddle2torch.model_zoo.show import as_text
from paddle2torch.parity.results import (
    LOCAL_TOLERANCE,
    Difference,
    LayerResult,
    Roundings,
    Verification,
)

TEMPLATE = ASSETS / "report.html"

_BAND = 8.0  # percent of the plot's height for what a logarithmic axis has no place for: 0, and what is not finite


def as_data(verification: Verification) -> dict[str, Any]:
    """The verification as plain JSON, the pictures left out.

    JSON has no number for what is not finite: that is a string, "Infinity" or "NaN", which `float()` and JavaScript's
    `Number()` read. Null is what was not measured. Bytes of a file name that are not text are escaped (`\\udcff`).
    """
    first = verification.first_failure
    return {
        "model": as_text(verification.model),
        "form": as_text(verification.form),
        "holds": verification.holds,
        "first_failure": as_text(first.path) if first else None,
        "reference": as_text(verification.reference),
        "engine": as_text(verification.engine),
        "engine_version": as_text(verification.engine_version),
        "torch_version": str(torch.__version__),
        "device": verification.device,
        "paddle2torch_version": __version__,
        "input_shape": list(verification.input_shape),
        "tolerances": {"local": LOCAL_TOLERANCE, "accumulated": verification.accumulated_tolerance},
        "output": _difference(verification.output),
        "lines": [
            {
                "image": as_text(line.image),
                "holds": line.holds,
                "reference_text": as_text(line.reference_text),
                "torch_text": as_text(line.torch_text),
                "reference_score": _finite(line.reference_score),
                "torch_score": _finite(line.torch_score),
            }
            for line in verification.lines
        ],
        "layers": [
            {
                "path": as_text(layer.path),
                "kind": as_text(layer.kind),
                "shape": list(layer.shape),
                "leaf": layer.leaf,
                "holds": layer.holds,
                "local": _difference(layer.local),
                "accumulated": _difference(layer.accumulated),
                "roundings": _roundings(layer.roundings),
                "local_roundings": _roundings(layer.local_roundings),
            }
            for layer in verification.layers
        ],
        "not_covered": [as_text(gap) for gap in verification.not_covered],
    }


def write_report(verification: Verification, path: Path) -> None:
    """Write one self-contained HTML page; it lands whole or not at all."""
    write_page(path, _page(verification))


def _difference(difference: Difference | None) -> dict[str, float | str] | None:
    if difference is None:
        return None
    return {"absolute": _finite(difference.absolute), "relative": _finite(difference.relative)}


def _roundings(roundings: Roundings | None) -> dict[str, Any] | None:
    if roundings is None:
        return None
    return {"ours": _difference(roundings.ours), "paddle": _difference(roundings.paddle)}


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _page(verification: Verification) -> str:
    filters: dict[str, Callable[..., Any]] = {
        "finite": _finite,
        "number": _number,
        "png_width": lambda png: int.from_bytes(png[16:20], "big"),  # of the header
        "product": math.prod,
        "score": lambda score: f"{score:.5f}" if math.isfinite(score) else _number(score),
        "shape": lambda shape: " x ".join(map(str, shape)) or "scalar",
    }
    layers = verification.layers
    marked = _index(layers, verification.first_failure)
    worst = _index(layers, verification.worst_local or verification.worst_accumulated)
    return render_page(
        TEMPLATE.name,
        filters,
        torch_version=str(torch.__version__),
        verification=verification,
        engine=verification.engine,
        layers=layers,
        lines=verification.lines,
        failing=sum(not layer.holds for layer in layers),
        failing_locally=sum(not layer.holds_locally for layer in layers),
        marked=marked,
        shown=worst or 0 if marked is None else marked,
        local_tolerance=LOCAL_TOLERANCE,
        axis=_Axis.of(
            [value.relative for layer in layers for value in (layer.local, layer.accumulated) if value],
            (LOCAL_TOLERANCE, verification.accumulated_tolerance),
        ),
        infinity=math.inf,
        index=lambda layer: _index(layers, layer),
        parts=lambda depth: list(_parts(layers, depth)),
        differing=differing,
    )


def _number(value: float) -> str:
    """Two digits, as `2.0e-5`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _index(layers: Sequence[LayerResult], layer: LayerResult | None) -> int | None:
    return next((index for index, candidate in enumerate(layers) if candidate is layer), None)


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis from `10**low` to `10**high`, with bands for 0 and for what is not finite where needed.

    Places are percent of the height, from the top.
    """

    low: int
    high: int
    zero: bool
    infinite: bool

    @classmethod
    def of(cls, values: Sequence[float], tolerances: Sequence[float]) -> _Axis:
        """The axis that shows all values, and room on both sides of the tolerances."""
        finite = [value for value in values if math.isfinite(value) and value > 0]
        shown = [math.log10(value) for value in (*finite, min(tolerances) / 10, max(tolerances) * 2)]
        return cls(
            low=math.floor(min(shown)),
            high=math.ceil(max(shown)),
            zero=0 in values,
            infinite=not all(map(math.isfinite, values)),
        )

    def at(self, value: float) -> float:
        if not math.isfinite(value):
            return _BAND / 2
        if value == 0:
            return 100 - _BAND / 2
        return self.at_power(math.log10(value))

    def at_power(self, power: float) -> float:
        top = _BAND if self.infinite else 0.0
        height = 100 - top - (_BAND if self.zero else 0.0)
        return top + height * (self.high - power) / (self.high - self.low)

    @property
    def powers(self) -> range:
        """Those with a line: nine of them at most."""
        return range(self.low, self.high + 1, math.ceil((self.high - self.low) / 8))


def _parts(layers: Sequence[LayerResult], depth: int) -> Iterator[tuple[str, int, int]]:
    """Parts of the network, by the first `depth` names of the path: name, first layer, number of layers."""
    start = 0
    for name, group in itertools.groupby(layers, lambda layer: ".".join(layer.path.split(".")[:depth])):
        count = sum(1 for _ in group)
        yield name, start, count
        start += count
