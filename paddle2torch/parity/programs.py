"""Prove a converted program equal to Paddle, operation by operation.

Paddle runs in a process of its own and returns every value that it computes in the outermost block. Each operation is
compared twice: on Paddle's own inputs (local), and as it comes out of the whole module (accumulated). What suppression
of boxes gives is compared as a set of rows, and places of equal values as what they point at: their order is free.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from paddle2torch.converters.paddle_files.exports import find_program
from paddle2torch.converters.programs.convert import read_graph
from paddle2torch.model_zoo.errors import VerificationError
from paddle2torch.model_zoo.programs.inputs import example_inputs
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.operations.reduction import axes_of, in_rows
from paddle2torch.model_zoo.programs.rows import SETS, sorted_rows
from paddle2torch.parity.program_inputs import read_inputs
from paddle2torch.parity.reference import ReferenceRun, run_program
from paddle2torch.parity.results import (
    ACCUMULATED_TOLERANCE,
    LOCAL_TOLERANCE,
    Difference,
    LayerResult,
    Roundings,
    Verification,
    compare,
    within,
)
from paddle2torch.zoo.programs import load_program, write_paddle

OUTPUT = "(output)"
_ORDERED = frozenset({"argsort", "topk"})
_OF_EQUALS = frozenset({"median", "nanmedian", "kthvalue"})
"""Kinds that give one place of a value; of equal values Paddle takes any."""


def verify_program(
    folder: Path, reference: Path | None = None, *, inputs: Path | None = None, threads: int = 2
) -> Verification:
    """Compare a converted program with Paddle.

    folder: of the converted program. reference: an export of the same program; without it Paddle runs the program with
    the weights as they are here (written back byte for byte), so a fine-tuned one can be verified too. inputs: an
    `.npz` with one array for each input, by its name; without it they are made up (`model_zoo.programs.inputs`).

    Raises `VerificationError` where Paddle is not installed or does not take the inputs, or the reference is another
    program; `ConfigError` or `FileFormatError` for an `.npz` that does not fit.
    """
    program = load_program(folder)
    given = example_inputs(program) if inputs is None else read_inputs(inputs, program.config)
    with TemporaryDirectory(prefix="paddle2torch-") as name:
        if reference is None:
            path, parameters = write_paddle(program, folder, Path(name))
            shown = f"{folder}, written back"
        else:
            path, parameters = find_program(reference)
            shown = str(reference)
            if read_graph(path) != program.program:
                raise VerificationError(f"{reference} is another program than {folder}")
        try:
            run = run_program(path, parameters, given, None, threads=threads)
        except VerificationError as error:
            if inputs is not None:
                raise
            raise VerificationError(
                f"{error}\nThe inputs were made up: {_described(given)}. Where the program takes others, give your own "
                f"with --input FILE.npz, one array for each input by its name"
            ) from None
    return compare_program(program, given, run, shown)


def _described(inputs: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in inputs.items())


def compare_program(
    program: Program, inputs: Mapping[str, np.ndarray], run: ReferenceRun, reference: str
) -> Verification:
    """Compare a program's operations and outputs with what Paddle computed of the same inputs."""
    comparison = _Comparison(program, run.values)
    given = [torch.from_numpy(np.array(inputs[feed.name])) for feed in program.config.feeds]
    with torch.inference_mode():
        outputs = comparison.run(given)
    worst, worst_place = Difference(0.0, 0.0), 0
    for place, (value, expected) in enumerate(zip(outputs, run.outputs, strict=True)):
        free = comparison.free_order(place)
        pointed = comparison.pointed.get(comparison.results[place])
        difference = pointed or _difference(_array(value), expected, rows=free)
        if not difference.relative <= worst.relative:  # NaN is the worst
            worst, worst_place = difference, place
    # Where everything is known before the program runs (sizes alone), its outputs are what there is to compare.
    layers = tuple(comparison.layers) or tuple(
        LayerResult(OUTPUT, "fetch", tuple(expected.shape), True, None, _difference(_array(value), expected))
        for value, expected in zip(outputs, run.outputs, strict=True)
    )
    output_roundings: Roundings | None = None
    if comparison.drifted or not within(worst, ACCUMULATED_TOLERANCE):
        measured, exact = comparison.roundings(given)
        layers = tuple(replace(layer, roundings=measured.get(layer.path)) for layer in layers)
        if not comparison.free_order(worst_place):
            output_roundings = _rounded(_array(outputs[worst_place]), run.outputs[worst_place], exact[worst_place])
    inner = sum(len(block.nodes) for node in program.program.block.nodes for block in node.blocks)
    gaps = [f"the {inner} operations in blocks of loops and conditions one by one (their results are)"] if inner else []
    if comparison.without:
        gaps.append(f"{comparison.without} operations that Paddle gives no value of, one by one")
    return Verification(
        model=program.config.name,
        form="program",
        reference=reference,
        engine=run.engine,
        engine_version=run.version,
        input_shape=next((array.shape for array in inputs.values()), ()),
        layers=layers,
        output=worst,
        lines=(),
        not_covered=tuple(gaps),
        output_roundings=output_roundings,
    )


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        raise VerificationError("the program gives something else than tensors")
    array: np.ndarray = value.detach().cpu().numpy()
    return array


def _difference(found: np.ndarray, expected: np.ndarray, *, rows: bool = False) -> Difference:
    """How far `found` is from `expected`: integers must be equal, and what is not finite in the same places."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return Difference(math.inf, math.inf)
    if expected.size == 0:
        return Difference(0.0, 0.0)
    if rows:
        found, expected = sorted_rows(found, expected)
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int((found != expected).sum())
        return Difference(float(wrong), math.inf if wrong else 0.0)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return Difference(0.0, 0.0)
    finite = np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max()) if finite.any() else 0.0
    return compare(np.where(same, 0.0, found), np.where(same, 0.0, expected), largest)


def _double(value: Any) -> Any:
    """A tensor of reals, or a list with some, in float64."""
    if isinstance(value, list | tuple):
        return [_double(item) for item in value]
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _rounded(ours: np.ndarray, theirs: np.ndarray, exact: Any) -> Roundings | None:
    """How far both are from what was computed in float64; None where that cannot be compared."""
    right = exact.numpy() if isinstance(exact, Tensor) else exact
    if not isinstance(right, np.ndarray) or right.dtype != np.float64 or not ours.shape == theirs.shape == right.shape:
        return None
    return Roundings(_difference(ours.astype(np.float64), right), _difference(theirs.astype(np.float64), right))


@dataclass
class _Comparison:
    """Runs a module operation by operation, on its own values and on Paddle's, and keeps what differs."""

    program: Program
    values: Mapping[str, np.ndarray]
    layers: list[LayerResult] = field(default_factory=list)
    without: int = 0

    def __post_init__(self) -> None:
        self.ours: dict[fx.Node, Any] = {}
        self.theirs: dict[fx.Node, Any] = {}
        self.free: set[fx.Node] = set()  # what hangs on an order that is free
        self.results: tuple[fx.Node, ...] = ()
        self.drifted: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}  # path: name of the node, ours, theirs
        self.pointed: dict[fx.Node, Difference] = {}  # places of equal values: how far what they point at is
        self.last_uses = {item: node for node in self.program.graph.nodes for item in _reads(node)}

    def run(self, inputs: list[Tensor]) -> tuple[Any, ...]:
        """The outputs; fills `layers`."""
        interpreter = fx.Interpreter(self.program)
        given = iter(inputs)
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.ours[node] = self.theirs[node] = next(given)
                continue
            if node.op == "output":
                listed = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
                self.results = tuple(item for item in listed if isinstance(item, fx.Node))
                return tuple(self.ours[item] for item in self.results)
            if any(item in self.free for item in node.all_input_nodes):
                self.free.add(node)
            self.ours[node] = self._execute(interpreter, node, self.ours)
            self.theirs[node] = self._execute(interpreter, node, self.theirs)
            self._compare(node)
            self._forget(node)
        return ()

    def free_order(self, place: int) -> bool:
        return self.results[place] in self.free

    def _execute(self, interpreter: fx.Interpreter, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda item: values[item])
        return getattr(interpreter, node.op)(node.target, arguments, keywords)

    def _in_double(self, node: fx.Node) -> np.ndarray | None:
        """An operation on Paddle's own values, computed in float64; None where it does not take or give that."""
        values = {item: _double(self.theirs[item]) for item in node.all_input_nodes}
        try:
            if node.op == "call_module":
                arguments, keywords = fx.node.map_arg((node.args, node.kwargs), lambda item: values[item])
                found = copy.deepcopy(self.program.get_submodule(str(node.target))).double()(*arguments, **keywords)
            else:
                found = self._execute(fx.Interpreter(self.program), node, values)
        except (RuntimeError, TypeError, ValueError):
            return None
        return _array(found) if isinstance(found, Tensor) and found.dtype == torch.float64 else None

    def roundings(self, inputs: list[Tensor]) -> tuple[dict[str, Roundings], tuple[np.ndarray | None, ...]]:
        """Both results of the layers that drifted, by path, beside the program computed in float64, and its outputs."""
        program = self.program
        exact = build_program(program.program, program.config, program.state_dict(), torch.float64)
        wanted = {node_name: path for path, (node_name, _, _) in self.drifted.items()}
        found: dict[str, Roundings] = {}
        values: dict[fx.Node, Any] = {}
        interpreter, given = fx.Interpreter(exact), iter(map(_double, inputs))
        with torch.inference_mode():
            for node in exact.graph.nodes:
                if node.op == "placeholder":
                    values[node] = next(given)
                elif node.op != "output":
                    values[node] = self._execute(interpreter, node, values)
                    path = wanted.get(node.name)
                    measured = None if path is None else _rounded(*self.drifted[path][1:], values[node])
                    if path is not None and measured is not None:
                        found[path] = measured
        by_name = {node.name: value for node, value in values.items()}
        outputs = (by_name.get(node.name) for node in self.results)
        return found, tuple(_array(value) if isinstance(value, Tensor) else None for value in outputs)

    def _forget(self, node: fx.Node) -> None:
        """Values that nothing later reads."""
        for item in _reads(node):
            if self.last_uses[item] is node:
                self.ours[item] = self.theirs[item] = None

    def _compare(self, node: fx.Node) -> None:
        name, kind = node.meta.get("value"), node.meta.get("kind", "")
        if name is None or not isinstance(self.ours[node], Tensor):
            return
        variable = name.partition("@")[0]
        if name not in self.values or f"{variable}@1" in self.program.program.types:
            # A legacy program assigns to a variable again; Paddle returns what it has at the end.
            self.without += 1
            return
        expected = np.array(self.values[name])
        sets = kind in SETS
        if sets:
            self.free.add(node)
        local = _difference(_array(self.theirs[node]), expected, rows=sets)
        free = node in self.free
        if kind in _ORDERED | _OF_EQUALS and local.relative > 0 and expected.dtype.kind in "iu":
            local = self._pointed_at(node, expected, self.theirs, one=kind in _OF_EQUALS)
            if local.relative == 0:
                self.free.add(node)
                free = True
                self.pointed[node] = self._pointed_at(node, expected, self.ours, one=kind in _OF_EQUALS)
        accumulated: Difference | None = self.pointed.get(node)
        if accumulated is None:
            accumulated = _difference(_array(self.ours[node]), expected, rows=free)
        if free and accumulated is not None and accumulated.relative > 1e-5:
            accumulated = None  # in another order than the one that the operations behind expect
        shown = tuple(self.ours[node].shape)
        path = str(node.target) if node.op == "call_module" else node.name
        local_roundings: Roundings | None = None
        if not within(local, LOCAL_TOLERANCE) and math.isfinite(local.relative) and not sets:
            local_roundings = _rounded(_array(self.theirs[node]), expected, self._in_double(node))
        if accumulated is not None and not within(accumulated, ACCUMULATED_TOLERANCE):
            self.drifted[path] = (node.name, _array(self.ours[node]), expected)
        self.layers.append(
            LayerResult(path, kind or node.op, shown, True, local, accumulated, local_roundings=local_roundings)
        )
        self.theirs[node] = torch.from_numpy(expected)

    def _pointed_at(
        self, node: fx.Node, expected: np.ndarray, values: Mapping[fx.Node, Any], *, one: bool
    ) -> Difference:
        """Places of equal values come in any order: what both point at is compared. one: there is one for each row."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        sorted_one: Any = source.args[0]
        axis = source.kwargs.get("axis", -1)
        found = _taken(values[sorted_one], values[node], axis, one=one)
        return _difference(found, _taken(self.theirs[sorted_one], torch.from_numpy(expected), axis, one=one))


def _taken(x: Tensor, places: Tensor, axis: Any, *, one: bool) -> np.ndarray:
    """What places point at, along an axis or in each row of it."""
    if one:
        x, axis = in_rows(x, axes_of(x, axis)), -1
        places = places.reshape(*x.shape[:-1], 1)
    taken: np.ndarray = torch.gather(x, int(axis), places.to(torch.int64)).numpy()
    return taken


def _reads(node: fx.Node) -> list[fx.Node]:
    """What must be there when a node is compared: its inputs, and for one of several results those of all of them."""
    made = [inner for item in node.all_input_nodes if node.target is operator.getitem for inner in item.all_input_nodes]
    return [*node.all_input_nodes, *made]
