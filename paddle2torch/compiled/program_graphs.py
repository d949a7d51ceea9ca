"""A program as a graph that needs none of our Python code, and what was made of it beside the module.

Sizes that the program leaves free are free in a graph too, where `torch.export` can prove it; else only the batch is,
or none, and a note says so. Every graph is run beside the module at several sizes: one that is right at the example's
size alone would be wrong in silence.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.compiled.guards import Conditions, conditions_of
from paddle2torch.compiled.quiet import quiet
from paddle2torch.compiled.serving import Check, check_exporter, other_kernels
from paddle2torch.model_zoo.errors import ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.programs.inputs import Sizes, made_up, running_sizes, runs
from paddle2torch.model_zoo.programs.modules import FixedSizeError
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.rows import SETS, matched

TOLERANCE = 1e-5
"""Of an output's largest value, between the module and a graph that was made of it."""


CHECKS_AT_MOST = 4
"""Sizes at which a graph is run beside the module."""
SIZES_WANTED = 3
"""Of those that are tried, so many should fit a graph."""

Free = Literal["all", "batch", "sides", "none"]
"""Which of the sizes that a program leaves free are free in its graph; "sides": all but the batch."""


@dataclass(frozen=True)
class Captured:
    """A graph, the sizes it was made with, which of them are free, and for which others it is right.

    conditions: None where they cannot be read.
    """

    program: torch.export.ExportedProgram
    sizes: Sizes
    free: Free
    conditions: Conditions | None

    @property
    def batch_of_one(self) -> bool:
        """Whether a free batch may be one, though it was two when the graph was made."""
        return self.free in ("all", "batch")

    def fits(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the graph is for inputs of these sizes: a `.pt2` asks that itself, an `.onnx` or a package does
        not.
        """
        if self.conditions is not None:
            return self.conditions.hold(inputs, batch_of_one=self.batch_of_one)
        try:
            self._guards(*inputs)
        except AssertionError:
            return False
        return True

    @cached_property
    def _guards(self) -> Callable[..., object]:
        """What the graph itself asks of its inputs."""
        return getattr(self.program.module(), "_guards_fn", lambda *inputs: None)


@dataclass(frozen=True)
class Compared:
    """What was made of a graph beside the module; left_out: sizes that were not run, for which the graph is not."""

    checks: tuple[Check, ...]
    left_out: tuple[str, ...]


FREEST_FIRST: tuple[Free, ...] = ("all", "batch", "sides", "none")


def capture(program: Program, kinds: Sequence[Free] = FREEST_FIRST) -> Captured:
    """The program as a graph of `torch.export`, with as many free sizes as can be proven.

    kinds: what to try, in this order. Raises `ConversionError` where control flow or an operation forbids them all.
    """
    check_exporter()
    module = copy.deepcopy(program).cpu().float().eval().requires_grad_(False)
    reason = ""
    running = running_sizes(program)
    pairs = _pairs(program, running)
    seen: list[Any] = []
    batch_may_be_free = True
    for free in kinds:
        if free in ("all", "batch") and not batch_may_be_free:
            continue
        # A batch that is not free is the one that runs first: some programs take no other.
        sizes = running if free in ("sides", "none") else pairs
        axes = _free_axes(program, free)
        if axes in seen or (free != "none" and not any(axes)):
            continue  # a graph that was tried, or that of "none"
        seen.append(axes)
        try:
            return _captured(program, module, sizes, free)
        except FixedSizeError as error:
            reason = str(error)
            batch_may_be_free = False
            continue
        except Paddle2TorchError:
            raise
        except Exception as error:  # what the exporter raises has no common class
            reason = str(error)
            continue
    first = next((line.strip() for line in reason.splitlines() if line.strip()), "")
    raise ConversionError(f"PyTorch cannot capture {program.config.name} as a graph: {first[:300]}")


def _captured(program: Program, module: nn.Module, sizes: Sizes, free: Free) -> Captured:
    """The graph of an example with larger images, or of one with the first that run where that one fits more sizes.

    Images larger than the first leave no map of one pixel, which would stay one; but a program may take another way
    for a larger image.
    """
    best: tuple[int, Captured] | None = None
    larger = _larger(program, sizes) if free in ("all", "sides") else sizes
    for example in (larger, sizes) if larger != sizes else (sizes,):
        inputs, shapes = _example(program, example, free)
        with quiet():
            graph = torch.export.export(_Positional(module), inputs, dynamic_shapes=(shapes,), strict=False)
        captured = Captured(graph, sizes, free, _conditions(graph, program))
        count = sum(captured.fits(example_of(program, item)) for item in other_sizes(captured))
        if best is None or count > best[0]:
            best = count, captured
        if count >= SIZES_WANTED:
            break
    assert best is not None
    return best[1]


def _conditions(graph: torch.export.ExportedProgram, program: Program) -> Conditions | None:
    try:
        return conditions_of(graph, len(program.config.feeds))
    except ConversionError:
        return None


class _Positional(nn.Module):
    """The program with its inputs as one tuple, so that their names do not matter."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, *inputs: Tensor) -> Any:
        return self.program(*inputs)


def _example(program: Program, sizes: Sizes, free: Free) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs, and for each of them its free dimensions as `torch.export` takes them."""
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in _free_axes(program, free))
    return example_of(program, sizes), shapes


def example_of(program: Program, sizes: Sizes) -> tuple[Tensor, ...]:
    """Made-up inputs of these sizes."""
    return tuple(torch.from_numpy(array) for array in made_up(program, sizes).values())


def usual_examples(program: Program) -> list[tuple[Tensor, ...]]:
    """Made-up inputs of the first sizes that run, and with images of twice the size where these are free; none where
    none of those that are tried run.
    """
    sizes = running_sizes(program)
    if not runs(program, made_up(program, sizes)):
        return []
    return [example_of(program, item) for item in dict.fromkeys((sizes, _larger(program, sizes)))]


def _free_axes(program: Program, free: Free) -> list[list[int]]:
    """Of each input."""
    return [
        [axis for axis, size in enumerate(feed.shape) if size == -1 and _is_free(axis, free)]
        for feed in program.config.feeds
    ]


def less_free(program: Program, free: Free) -> list[Free]:
    """What is left to try where a graph with these sizes free is of no use: those with other sizes free."""
    left = FREEST_FIRST[FREEST_FIRST.index(free) + 1 :]
    return [kind for kind in left if _free_axes(program, kind) != _free_axes(program, free)]


def _is_free(axis: int, free: Free) -> bool:
    return free == "all" or (free == "batch" and axis == 0) or (free == "sides" and axis > 0)


def _pairs(program: Program, sizes: Sizes) -> Sizes:
    """The sizes of an example: as they run, but a batch of two, because one of one would become a constant."""
    two = replace(sizes, batch=2)
    return two if sizes.batch == 1 and runs(program, made_up(program, two)) else sizes


def _larger(program: Program, sizes: Sizes) -> Sizes:
    """The same with images of twice the size: a map of one pixel, as strides of 128 leave it, would stay one."""
    larger = replace(sizes, image=2 * sizes.image)
    if all(larger.shape(feed) == sizes.shape(feed) for feed in program.config.feeds):
        return sizes
    return larger if runs(program, made_up(program, larger)) else sizes


def other_sizes(captured: Captured) -> Iterator[Sizes]:
    """The sizes that run first, and other ones where these are free; images wider than high are among them."""
    sizes = captured.sizes
    yield sizes
    if captured.free == "batch":
        yield from (replace(sizes, batch=batch) for batch in (1, 3))
    if captured.free not in ("all", "sides"):
        return
    if captured.free == "all":
        yield replace(sizes, batch=1)
        sizes = replace(sizes, batch=3)
    for image, other, wider in ((32, 4, 64), (64, 0, 0), (sizes.image, 0, 0), (sizes.image + 64, 0, 32)):
        yield replace(sizes, image=sizes.image + image, other=sizes.other + other, wider=wider)


def compare(program: Program, captured: Captured, run: Callable[..., Any], what: str) -> Compared:
    """What `run` gives beside the module, at several sizes; raises `ConversionError` where it differs.

    A size that the module itself refuses, or that the graph is not for, is left out.
    """
    module = copy.deepcopy(program).cpu().float().eval()
    checks: list[Check] = []
    left_out: list[str] = []
    rows = any(node.kind in SETS for node in program.program.walk())
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for sizes in other_sizes(captured):
        inputs = example_of(program, sizes)
        shapes = tuple(tuple(x.shape) for x in inputs)
        if shapes in seen:
            continue
        seen.add(shapes)
        if not captured.fits(inputs):
            left_out.append(", ".join(map(str, shapes)))
            continue
        if len(checks) == CHECKS_AT_MOST:
            continue
        with torch.inference_mode():
            try:
                expected = [item.numpy() for item in listed(module(*inputs))]
            except Exception:  # what does not fit may be said by any operation, in any words
                if not checks:
                    raise
                continue
            try:
                found = listed(run(*inputs))
            except Exception as error:  # other runtimes' errors have no common class
                raise ConversionError(f"{what} cannot be computed at {list(shapes)}: {error!s:.200}") from None
            if rows:
                expected = [matched(a, b) for a, b in zip(found, expected, strict=True)]
            checks.append(_checked(module, inputs, found, expected, what))
    if not checks:
        raise ConversionError(f"{what} takes none of the sizes that were tried: {' or '.join(left_out)}")
    return Compared(tuple(checks), tuple(left_out))


def _checked(
    module: Program, inputs: Sequence[Tensor], found: Sequence[Any], expected: Sequence[np.ndarray], what: str
) -> Check:
    """`check`, and where it differs by more than the tolerance, by how much both are from the program in float64: what
    is not further off than twice PyTorch's own rounding is rounding.
    """
    shape = tuple(inputs[0].shape) if inputs else ()
    plain = difference(found, expected, shape, what)
    if plain.relative <= TOLERANCE:
        return plain
    exact = build_program(module.program, module.config, module.state_dict(), torch.float64)
    truth = [
        item.to(torch.from_numpy(wanted).dtype).numpy()
        for item, wanted in zip(listed(exact(*map(_in_double, inputs))), expected, strict=True)
    ]
    with other_kernels():
        again = listed(module(*inputs))
    rounding = max(difference(result, truth, shape, what).relative for result in (expected, again))
    error = difference(found, truth, shape, what).relative
    if not error <= max(TOLERANCE, 2 * rounding):
        raise ConversionError(
            f"{what} differs by {plain.relative:.1e} of the largest value, at an input of {shape}: it is {error:.1e} "
            f"from the program in float64, PyTorch's own result {rounding:.1e}"
        )
    return replace(plain, rounding=rounding)


def _in_double(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float32 else x


def check(
    found: Sequence[Any], expected: Sequence[np.ndarray], shape: tuple[int, ...], what: str, tolerance: float
) -> Check:
    """The largest difference of all outputs; raises `ConversionError` where it is too large."""
    result = difference(found, expected, shape, what)
    if not result.relative <= tolerance:
        raise ConversionError(f"{what} differs by {result.relative:.1e} of the largest value, at an input of {shape}")
    return result


def difference(found: Sequence[Any], expected: Sequence[np.ndarray], shape: tuple[int, ...], what: str) -> Check:
    """The largest difference of all outputs; raises `ConversionError` for other shapes or integers."""
    absolute = relative = 0.0
    for output, wanted in zip(found, expected, strict=True):
        array = output.numpy() if isinstance(output, Tensor) else np.asarray(output)
        if array.shape != wanted.shape:
            raise ConversionError(f"{what} has the shape {array.shape} where {wanted.shape} belongs")
        if wanted.size == 0:
            continue
        if not np.issubdtype(wanted.dtype, np.floating):
            if not np.array_equal(array, wanted):
                raise ConversionError(f"{what} has other integers, at an input of {shape}")
            continue
        same = (array == wanted) | (np.isnan(array) & np.isnan(wanted))
        largest = np.where(np.isfinite(wanted), np.abs(wanted), 0.0).max()
        gap = float(np.where(same, 0.0, np.abs(array - wanted)).max())
        absolute = max(absolute, gap)
        worst = gap / max(float(largest), 1e-30)
        relative = worst if not worst <= relative else relative
    return Check(shape, absolute, relative, 0.0)


def listed(outputs: Any) -> list[Any]:
    """The outputs of a program as a list."""
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def notes_of(captured: Captured) -> tuple[str, ...]:
    """Which sizes are not free, though the program leaves them."""
    if captured.free == "all":
        return ()
    return (f"{free_sizes(captured)}: PyTorch could not prove more for this program",)


def free_sizes(captured: Captured) -> str:
    """Which sizes of a graph are free, in words."""
    return {"batch": "only the batch is free", "sides": "the batch is not free"}.get(captured.free, "no size is free")
