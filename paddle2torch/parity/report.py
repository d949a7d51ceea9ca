"""What `verify` found, as one HTML page and as JSON.

The page is one file that asks the network for nothing. Table and plot are in the HTML itself; the script on it only
sorts, filters and points.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import html
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from string import Template
from typing import Any

import torch

from paddle2torch._version import __version__
from paddle2torch.assets import ASSETS
from paddle2torch.atomic import land_file
from paddle2torch.parity.results import (
    ACCUMULATED_TOLERANCE,
    LOCAL_TOLERANCE,
    Difference,
    LayerResult,
    LineResult,
    Verification,
)

TEMPLATE = ASSETS / "report.html"

_BAND = 8.0  # percent of the plot's height for what a logarithmic axis has no place for: 0, and what is not finite
_SMALLEST = 0.6  # pictures are shown down to this share of their size, then they scroll
# A mark is the two ends of a stroke of next to no length: they keep their shape however the plot is stretched.
_DOT = "h.001"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCRIPT = re.compile(r"<script>(.*)</script>", re.DOTALL)


def as_data(verification: Verification) -> dict[str, Any]:
    """The verification as plain JSON, the pictures left out.

    JSON has no number for what is not finite: that is a string, "Infinity" or "NaN", which `float()` and JavaScript's
    `Number()` read. Null is what was not measured. Bytes of a file name that are no text are escaped (`\\udcff`).
    """
    first = verification.first_failure
    return {
        "model": _text(verification.model),
        "form": _text(verification.form),
        "holds": verification.holds,
        "first_failure": _text(first.path) if first else None,
        "reference": _text(verification.reference),
        "engine": _text(verification.engine),
        "engine_version": _text(verification.engine_version),
        "torch_version": str(torch.__version__),
        "paddle2torch_version": __version__,
        "input_shape": list(verification.input_shape),
        "tolerances": {"local": LOCAL_TOLERANCE, "accumulated": verification.accumulated_tolerance},
        "output": _difference(verification.output),
        "lines": [
            {
                "image": _text(line.image),
                "holds": line.holds,
                "reference_text": _text(line.reference_text),
                "torch_text": _text(line.torch_text),
                "reference_score": _finite(line.reference_score),
                "torch_score": _finite(line.torch_score),
            }
            for line in verification.lines
        ],
        "layers": [
            {
                "path": _text(layer.path),
                "kind": _text(layer.kind),
                "shape": list(layer.shape),
                "leaf": layer.leaf,
                "holds": layer.holds,
                "local": _difference(layer.local),
                "accumulated": _difference(layer.accumulated),
                "roundings": None if layer.roundings is None else asdict(layer.roundings),
            }
            for layer in verification.layers
        ],
        "not_covered": [_text(gap) for gap in verification.not_covered],
    }


def write_report(verification: Verification, path: Path) -> None:
    """Write one self-contained HTML page; it lands whole or not at all."""
    page = _page(verification, datetime.now(timezone.utc))
    with land_file(path) as temporary:
        temporary.write_bytes(page.encode("utf-8"))


def _difference(difference: Difference | None) -> dict[str, float | str] | None:
    if difference is None:
        return None
    return {"absolute": _finite(difference.absolute), "relative": _finite(difference.relative)}


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(value: str) -> str:
    """`value` as it can be written: names of files may hold bytes that are no text (lone surrogates)."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape(value: str) -> str:
    """Text from outside for HTML, also inside an attribute; control characters are shown, not sent."""
    return html.escape(_CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", _text(value)))


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


def _page(verification: Verification, date: datetime) -> str:
    template = TEMPLATE.read_text(encoding="utf-8")
    script = _SCRIPT.search(template)
    assert script is not None
    layers, holds = verification.layers, verification.holds
    first = _index(layers, verification.first_failure)
    return Template(template).substitute(
        # Only the script that the template has may run, should anything from outside ever get past the escaping.
        script_hash=base64.b64encode(hashlib.sha256(script[1].encode("utf-8")).digest()).decode(),
        package_version=__version__,
        title=f"{_escape(verification.model)} is {'' if holds else 'not '}equal to {_escape(verification.engine)}'s",
        engine=_escape(verification.engine),
        model=_escape(verification.model),
        state="holds" if holds else "fails",
        verdict="✓ Equal" if holds else "✗ Not equal",
        summary=_summary(verification),
        facts=_facts(verification, date),
        plot=_plot(verification) if layers else "<p>No layer was compared.</p>",
        local_tolerance=_number(LOCAL_TOLERANCE),
        accumulated_tolerance=_number(verification.accumulated_tolerance),
        lines=_lines(verification.lines, verification.engine),
        failing=sum(not layer.holds for layer in layers),
        failing_locally=sum(not layer.holds_locally for layer in layers),
        rows="\n".join(_row(index, layer, first=index == first) for index, layer in enumerate(layers)),
    )


def _index(layers: Sequence[LayerResult], layer: LayerResult | None) -> int | None:
    return next((index for index, candidate in enumerate(layers) if candidate is layer), None)


def _anchor(index: int) -> str:
    return f"layer-{index + 1}"


def _link(layers: Sequence[LayerResult], layer: LayerResult) -> str:
    """A link to the layer's row in the table."""
    index = next(index for index, candidate in enumerate(layers) if candidate is layer)
    return f'<a class="path" href="#{_anchor(index)}">{_path(layer)}</a>'


def _path(layer: LayerResult) -> str:
    return _escape(layer.path).replace(".", ".<wbr>")  # where a long one may break


def _summary(verification: Verification) -> str:
    layers, lines = verification.layers, verification.lines
    failing = sum(not layer.holds for layer in layers)
    wrong = sum(not layer.holds_locally for layer in layers)
    same = sum(line.holds for line in lines)
    sentences = [
        f"{failing} of {len(layers)} layers fail, {wrong} of them on {_escape(verification.engine)}'s own input."
        if failing
        else f"All {len(layers)} layers hold.",
        f"The output differs by {_number(verification.output.absolute)} at most.",
        f"{same} of {len(lines)} texts are the same." if lines else "No texts were compared.",
    ]
    first = verification.first_failure
    if first is not None:
        sentences.append(
            f"Look at {_link(layers, first)} ({_escape(first.kind)}) first: {_failure(first, verification.engine)}"
        )
    return " ".join(sentences)


def _failure(layer: LayerResult, engine: str) -> str:
    if not layer.holds_locally and layer.local is not None:
        return (
            f"on {_escape(engine)}'s own input it is off by {_number(layer.local.relative)} of its largest value, "
            f"where {_number(layer.local_tolerance)} is the tolerance."
        )
    assert layer.accumulated is not None
    return (
        f"there the accumulated error, {_number(layer.accumulated.relative)} of its largest value, "
        f"leaves the tolerance of {_number(layer.accumulated_tolerance)}."
    )


def _facts(verification: Verification, date: datetime) -> str:
    def worst(layer: LayerResult | None, difference: Difference | None) -> str:
        if layer is None or difference is None:
            return "not measured"
        return f"{_number(difference.relative)} in {_link(verification.layers, layer)}"

    local, accumulated = verification.worst_local, verification.worst_accumulated
    gaps = "".join(f"<li>{_escape(gap)}</li>" for gap in verification.not_covered)
    output = verification.output
    wide = {
        "Reference": f"<code>{_escape(verification.reference)}</code>",
        "Not covered": f"<ul>{gaps}</ul>" if gaps else "nothing that the reference has",
        "Largest local error of a layer": worst(local, local.local if local else None),
        "Largest accumulated error": worst(accumulated, accumulated.accumulated if accumulated else None),
        "Output": f"{_number(output.relative)} relative, {_number(output.absolute)} absolute",
        "Date": f'<time datetime="{date.isoformat(timespec="seconds")}">{date:%Y-%m-%d %H:%M} UTC</time>',
    }
    short = {
        "Form": _escape(verification.form),
        "Input shape": _shape(verification.input_shape),
        _escape(verification.engine): _escape(verification.engine_version),
        "PyTorch": _escape(str(torch.__version__)),
        "paddle2torch": __version__,
    }
    return "\n".join(
        f'<div class="{size}"><dt>{name}</dt><dd>{value}</dd></div>'
        for size, facts in (("wide", wide), ("short", short))
        for name, value in facts.items()
    )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


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
    def of(cls, values: Sequence[float]) -> _Axis:
        finite = [value for value in values if math.isfinite(value) and value > 0]
        shown = [math.log10(value) for value in (*finite, LOCAL_TOLERANCE / 10, ACCUMULATED_TOLERANCE * 2)]
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


def _plot(verification: Verification) -> str:
    layers = verification.layers
    axis = _Axis.of([value.relative for layer in layers for value in (layer.local, layer.accumulated) if value])
    marked = _index(layers, verification.first_failure)
    shown = marked
    if shown is None:
        shown = _index(layers, verification.worst_local or verification.worst_accumulated)
    description = f"Relative error of {len(layers)} layers in the order of the network; the table below has the values."
    svg = [
        f'<svg viewBox="0 0 {len(layers)} 100" preserveAspectRatio="none" fill="none" role="img" '
        f'aria-label="{description}">',
        *(
            f'<rect class="odd" x="{start}" y="0" width="{count}" height="100"/>'
            for number, (_, start, count) in enumerate(_parts(layers, 2))
            if number % 2
        ),
        *(_line("grid", axis.at_power(power), len(layers)) for power in axis.powers),
        _line("tolerance local", axis.at(LOCAL_TOLERANCE), len(layers)),
        _line("tolerance accumulated", axis.at(verification.accumulated_tolerance), len(layers)),
    ]
    if marked is not None:
        svg.append(f'<path class="first" d="M{marked + 0.5} 0V100"/>')
    svg += [_marks(index, layer, axis) for index, layer in enumerate(layers)]
    svg.append("</svg>")
    ticks = [(axis.at_power(power), f"10<sup>{'&minus;' * (power < 0)}{abs(power)}</sup>") for power in axis.powers]
    ticks += [(axis.at(0.0), "0")] * axis.zero + [(axis.at(math.inf), "∞")] * axis.infinite
    return "\n".join(
        [
            '<figure class="plot">',
            _flag(marked, layers),
            '<div class="ticks" aria-hidden="true">',
            *(f'<span style="top:{place:.2f}%">{label}</span>' for place, label in ticks),
            "</div>",
            f'<div class="right area" data-shown="{shown or 0}">',
            *svg,
            _limit("local", LOCAL_TOLERANCE, axis),
            _limit("accumulated", verification.accumulated_tolerance, axis),
            "</div>",
            *(
                '<div class="right parts" aria-hidden="true">'
                + "".join(
                    f'<div title="{_escape(name)}" style="left:{100 * start / len(layers):.3f}%;'
                    f'width:{100 * count / len(layers):.3f}%"><span>{_escape(name.split(".")[-1])}</span></div>'
                    for name, start, count in _parts(layers, depth)
                )
                + "</div>"
                for depth in (2, 1)
            ),
            "</figure>",
        ]
    )


def _line(kind: str, place: float, count: int) -> str:
    return f'<path class="{kind}" d="M0 {place:.2f}H{count}"/>'


def _limit(kind: str, tolerance: float, axis: _Axis) -> str:
    place = f"top:{axis.at(tolerance):.2f}%"
    return f'<span class="limit {kind}" style="{place}" aria-hidden="true">{kind} {_number(tolerance)}</span>'


def _marks(index: int, layer: LayerResult, axis: _Axis) -> str:
    names = "layer" if layer.leaf else "layer module"
    # The local error is drawn last: it says which layer is wrong.
    marks = "".join(
        f'<path class="mark {kind}" d="M{index + 0.5} {axis.at(difference.relative):.2f}{_DOT}"/>'
        for kind, difference in (("accumulated", layer.accumulated), ("local", layer.local))
        if difference is not None
    )
    values = ", ".join(
        f"{kind} {_number(difference.relative)}"
        for kind, difference in (("local", layer.local), ("accumulated", layer.accumulated))
        if difference is not None
    )
    return f'<g class="{names}"><title>{_escape(layer.path)}: {values}</title>{marks}</g>'


def _flag(marked: int | None, layers: Sequence[LayerResult]) -> str:
    """The name of the first failing layer, over its line."""
    if marked is None:
        return ""
    place = 100 * (marked + 0.5) / len(layers)
    side = f"left:{place:.2f}%;max-width:{100 - place:.2f}%"
    if place > 50:
        side = f"right:{100 - place:.2f}%;max-width:{place:.2f}%"
    name = _escape(layers[marked].path)
    return f'<div class="right flag"><a href="#{_anchor(marked)}" style="{side}">first failing: {name}</a></div>'


def _parts(layers: Sequence[LayerResult], depth: int) -> Iterator[tuple[str, int, int]]:
    """Parts of the network, by the first `depth` names of the path: name, first layer, number of layers."""
    start = 0
    for name, group in itertools.groupby(layers, lambda layer: ".".join(layer.path.split(".")[:depth])):
        count = sum(1 for _ in group)
        yield name, start, count
        start += count


def _lines(lines: Sequence[LineResult], engine: str) -> str:
    if not lines:
        return "<p>No texts were compared.</p>"
    return '<ul class="lines">\n' + "\n".join(_line_card(line, engine) for line in lines) + "\n</ul>"


def _line_card(line: LineResult, engine: str) -> str:
    name = _escape(line.image)
    width = int.from_bytes(line.picture[16:20], "big")  # of the PNG header
    size = f"width:min({width}px, max(100%, {_SMALLEST * width:.0f}px))"
    theirs, ours = _marked(line.reference_text, line.torch_text)
    return "\n".join(
        [
            f'<li class="{"holds" if line.holds else "fails"}">',
            f"<h3><bdi>{name}</bdi>{_badge(line.holds, '✓ same text', '✗ texts differ')}</h3>",
            f'<div class="picture"><img alt="{name}" style="{size}" '
            f'src="data:image/png;base64,{base64.b64encode(line.picture).decode()}"></div>',
            "<dl>",
            f'<dt>{_escape(engine)}</dt><dd class="text">{theirs}</dd>'
            f'<dd class="score">{_score(line.reference_score)}</dd>',
            f'<dt>PyTorch</dt><dd class="text">{ours}</dd><dd class="score">{_score(line.torch_score)}</dd>',
            "</dl>",
            "</li>",
        ]
    )


def _badge(holds: bool, good: str, bad: str) -> str:
    return f'<span class="badge">{good}</span>' if holds else f'<span class="badge fails">{bad}</span>'


def _score(score: float) -> str:
    return f"{score:.5f}" if math.isfinite(score) else _number(score)


def _marked(one: str, other: str) -> tuple[str, str]:
    """Both texts as HTML, with what differs marked."""
    parts: tuple[list[str], list[str]] = ([], [])
    for kind, *ranges in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        for text, pieces, (start, end) in zip((one, other), parts, (ranges[:2], ranges[2:]), strict=True):
            if start < end:
                piece = _escape(text[start:end])
                pieces.append(piece if kind == "equal" else f"<mark>{piece}</mark>")
    first, second = (f"<bdi>{''.join(pieces)}</bdi>" if pieces else "<i>nothing</i>" for pieces in parts)
    return first, second


def _row(index: int, layer: LayerResult, *, first: bool) -> str:
    names = ["fails"] * (not layer.holds) + ["first"] * first
    drifted = layer.holds_locally and not layer.holds
    cells = [
        f'<td class="number" data-value="{index + 1}">{index + 1}</td>',
        f'<td data-value="{2 if not layer.holds_locally else int(not layer.holds)}">'
        f"{_badge(layer.holds, '✓ holds', '✗ drifts' if layer.holds_locally else '✗ fails')}</td>",
        f'<td class="path">{_path(layer)}</td>',
        f"<td>{_escape(layer.kind)}</td>",
        f'<td data-value="{math.prod(layer.shape)}">{_shape(layer.shape)}</td>',
        *_cells(layer.local, over=not layer.holds_locally),
        *_cells(layer.accumulated, over=drifted),
    ]
    return f'<tr id="{_anchor(index)}" class="{" ".join(names)}">{"".join(cells)}</tr>'


def _cells(difference: Difference | None, *, over: bool) -> Iterator[str]:
    for name in ("relative", "absolute"):
        names = "number" + " opens" * (name == "relative") + " over" * (over and name == "relative")
        if difference is None:
            yield f'<td class="{names}" data-value="">-</td>'
        else:
            value = getattr(difference, name)
            yield f'<td class="{names}" data-value="{_finite(value)}">{_number(value)}</td>'
