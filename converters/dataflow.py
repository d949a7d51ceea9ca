"""From which layers each layer reads: of a network by running it, of a program by following its values.

A file's order is one of many in which its operations could be carried out, and layers of one shape may change places
in it. What a layer reads does not change: it tells which layer is which, and puts a program into a network's order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paddle2torch.converters.kinds import ACTIVATION_FUNCTIONS, PASSED, activation_of_norm
from paddle2torch.converters.paddle_files.program import Operation, Program
from paddle2torch.converters.steps import Step

Flow: TypeAlias = frozenset[tuple[int, tuple[int, ...]]]
"""Layers by their place in the network, `IMAGE` among them; and for each the places it has in the concatenations that
what it gave went through."""
IMAGE = -1
# Operations whose results are sizes: what they read does not flow on.
SIZES_ALONE = frozenset({"shape", "shape64"})
# A network's layer before which there may be no operation, since it changes nothing once it is folded.
FOLDABLE = frozenset({"batch_norm", "affine"})
# Values that are looked at before a program is none of this network: 50 times what the largest known takes.
MOST_VISITS = 500_000


@dataclass(frozen=True)
class Layers:
    """The layers and activations of a network in order of execution.

    `functions` counts the activations that it computes without a module, by their kind.
    """

    layers: tuple[Layer, ...]
    functions: Mapping[str, int]


@dataclass(frozen=True)
class Layer:
    """A layer or an activation of a network, in order of execution, and what it reads."""

    path: str
    kind: str
    module: nn.Module
    reads: Flow


class Recorder(TorchFunctionMode):
    """While it is entered, tensors remember from which layers they were computed.

    `activations` counts those that are computed outside of layers, by their kind; `depth` is how many layers run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.activations: Counter[str] = Counter()
        self.depth = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.depth and (kind := ACTIVATION_FUNCTIONS.get(func)) is not None:
            self.activations[kind] += 1
        made = list(_tensors((result,)))
        if made:
            if func in (torch.cat, torch.concat):
                given = args[0] if args else kwargs["tensors"]
                flow = _joined([(flow_of((tensor,)), place) for place, tensor in enumerate(given)])
            else:
                flow = flow_of((*args, *kwargs.values()))
            for tensor in made:
                mark(tensor, flow)
        return result


def mark(value: Any, flow: Flow) -> None:
    """From now on the tensors of `value` were computed from these layers."""
    for tensor in _tensors((value,)):
        tensor._flow = flow  # type: ignore[attr-defined]  # PyTorch's class does not declare what is put on a tensor


def flow_of(values: Iterable[Any]) -> Flow:
    """The layers from which the tensors among `values` were computed."""
    return frozenset().union(*(getattr(tensor, "_flow", frozenset()) for tensor in _tensors(values)))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _joined(parts: Sequence[tuple[Flow, int | None]]) -> Flow:
    """What flows together; each part with its place, where they are put beside each other."""
    return frozenset(
        (layer, places if place is None else (*places, place)) for flow, place in parts for layer, places in flow
    )


class TooLongError(Exception):
    """A program has more between its layers than any network."""


class Values:
    """The values of a program, and what flows into them."""

    def __init__(self, program: Program) -> None:
        self.makers: dict[str, Operation] = {}
        for operation in program.operations:
            for name in operation.outputs:
                self.makers.setdefault(name, operation)
        self.constants = set(program.parameters)
        self.feeds = set(program.feeds)
        self.visits = MOST_VISITS

    def flow(
        self, value: str, ends: Mapping[str, int], waiting: Callable[[str], bool] = lambda _: False
    ) -> Flow | None:
        """The layers from which `value` is computed, where `ends` are the values that layers give.

        None where a value is met on the way for which the caller is `waiting`. Raises `TooLongError` when this and all
        calls before have looked at too many values.
        """
        done: dict[str, Flow] = {}
        begun: set[str] = set()
        stack = [value]
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            self._visit(1)
            known = self._end(name, ends)
            if known is None and waiting(name):
                return None
            operation = self.makers.get(name)
            if known is None and (operation is None or operation.kind in SIZES_ALONE):
                known = frozenset()
            if known is None:
                assert operation is not None
                inputs = [each for each in operation.inputs if each and each not in self.constants]
                # What is still to come is asked for once: a value that needs itself comes from nowhere else.
                if name not in begun and (missing := [each for each in inputs if each not in done]):
                    begun.add(name)
                    stack.extend(missing)
                    continue
                beside = operation.kind == "concat" and len(inputs) > 1
                parts = [(done.get(each, frozenset()), place if beside else None) for place, each in enumerate(inputs)]
                self._visit(sum(len(flow) for flow, _ in parts))
                known = _joined(parts)
            done[name] = known
            stack.pop()
        return done[value]

    def _end(self, name: str, ends: Mapping[str, int]) -> Flow | None:
        if name in ends:
            return frozenset({(ends[name], ())})
        return frozenset({(IMAGE, ())}) if name in self.feeds else None

    def _visit(self, values: int) -> None:
        self.visits -= values
        if self.visits < 0:
            raise TooLongError


Rank: TypeAlias = Callable[[Layer, Step], int | None]
"""How well a step fits a layer, 0 the best; None where it cannot be that layer."""


def arrange(program: Program, steps: Sequence[Step], network: Sequence[Layer], rank: Rank) -> tuple[Step, ...] | int:
    """`steps` in the order of the network's layers, by what each reads; what has no module there comes last.

    Where they are not those layers: how many of the network's layers have a counterpart, at most.
    """
    arrangement = _Arrangement(program, steps, network, rank)
    try:
        return arrangement.run() or arrangement.furthest
    except TooLongError:
        return 0


class _Arrangement:
    """Layer by layer: each takes a step that reads from the same layers, and gives it back when that led nowhere."""

    def __init__(self, program: Program, steps: Sequence[Step], network: Sequence[Layer], rank: Rank) -> None:
        self.values = Values(program)
        self.steps = steps
        self.network = network
        self.rank = rank
        self.by_kind: dict[str, list[int]] = defaultdict(list)
        self.written: dict[str, int] = {}  # by layers with parameters
        for index, step in enumerate(steps):
            self.by_kind[step.kind].append(index)
            if step.kind not in PASSED:
                self.written[step.writes] = index
        self.readers: dict[tuple[str, str], int] = {(step.kind, step.reads): i for i, step in enumerate(steps)}
        self.used: set[int] = set()
        self.ends: dict[str, int] = {}
        # For each layer: its steps (none where it is folded), the value it gives, which layer gave that value before.
        self.taken: list[tuple[tuple[int, ...], str, int | None]] = []
        self.furthest = 0

    def run(self) -> tuple[Step, ...] | None:
        if not self._same_layers():
            return None
        open_: list[Iterator[tuple[tuple[int, ...], str]]] = []
        while len(self.taken) < len(self.network):
            if len(open_) == len(self.taken):
                open_.append(iter(self._choices(len(self.taken))))
            chosen = next(open_[-1], None)
            if chosen is not None:
                self._take(*chosen)
                continue
            open_.pop()
            if not open_:
                return None
            self._give_back()
        order = [index for indices, _, _ in self.taken for index in indices]
        left = [index for index in range(len(self.steps)) if index not in self.used]
        if any(self.steps[index].kind not in PASSED for index in left):
            return None
        return tuple(self.steps[index] for index in (*order, *left))

    def _same_layers(self) -> bool:
        """Whether the program has as many layers of each kind as the network, but for what may be folded."""
        kinds = {layer.kind for layer in self.network} | {step.kind for step in self.steps if step.kind not in PASSED}
        return all(
            len(self.by_kind[kind]) == sum(layer.kind == kind for layer in self.network)
            for kind in kinds - PASSED - FOLDABLE
        )

    def _waiting(self, name: str) -> bool:
        return name in self.written and self.written[name] not in self.used

    def _choices(self, place: int) -> list[tuple[tuple[int, ...], str]]:
        """The steps that the layer at `place` may be, with the value it then gives; the best first."""
        layer = self.network[place]
        kinds = (layer.kind, "factor") if layer.kind == "affine" else (layer.kind,)
        found = []
        for index in (index for kind in kinds for index in self.by_kind[kind] if index not in self.used):
            rank = self.rank(layer, self.steps[index])
            if rank is None or self.values.flow(self.steps[index].reads, self.ends, self._waiting) != layer.reads:
                continue
            found.append((rank, (index,), self.steps[index].writes))
        found.sort(key=lambda each: each[0])
        choices: list[tuple[tuple[int, ...], str]] = [(indices, value) for _, indices, value in found]
        if layer.kind in FOLDABLE and place and layer.reads == frozenset({(place - 1, ())}):
            choices.append(((), self.taken[-1][1]))
        activation = activation_of_norm(layer.module)
        if activation is None:
            return choices
        # One module here, two steps there.
        both = [(indices, self.readers.get((activation, value))) for indices, value in choices]
        return [((*indices, then), self.steps[then].writes) for indices, then in both if then is not None]

    def _take(self, indices: tuple[int, ...], value: str) -> None:
        self.used.update(indices)
        self.taken.append((indices, value, self.ends.get(value)))
        self.ends[value] = len(self.taken) - 1
        self.furthest = max(self.furthest, len(self.taken))

    def _give_back(self) -> None:
        indices, value, before = self.taken.pop()
        self.used.difference_update(indices)
        if before is None:
            del self.ends[value]
        else:
            self.ends[value] = before
