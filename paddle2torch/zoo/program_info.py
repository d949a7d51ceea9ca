"""One program in full: its card, its inputs and outputs, its operations by count, its parameters and its control flow.

Nothing is built or loaded: all of it stands in `graph.json`, and torch is not imported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle2torch.model_zoo.programs.cards import ProgramCard, find_program_card
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.model_zoo.programs.graph import Graph, read_graph
from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.zoo.models import size_of


@dataclass(frozen=True)
class Value:
    """An input or output: its name, its type by numpy's name, its shape, -1 where the size is free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ProgramInfo:
    """A converted program, an official one of the zoo, or both.

    `card` is None for a program of one's own, `config` where it is not converted here; then there are no inputs,
    outputs, operations and parameters either. `operations` counts by kind, the most frequent first, those in blocks of
    loops and conditions among them; `blocks` counts loops and conditions. `parameters` counts values.
    """

    name: str
    card: ProgramCard | None
    config: ProgramConfig | None
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operations: Mapping[str, int]
    blocks: Mapping[str, int]
    depth: int
    parameters: int
    tensors: int
    converted: Path | None
    bytes: int | None

    @property
    def control(self) -> str:
        """Loops and conditions in words; empty where there are none."""
        counts = ", ".join(f"{count} {kind}" for kind, count in self.blocks.items())
        return f"{counts}, nested {self.depth} deep" if counts else ""

    def to_json(self) -> dict[str, Any]:
        """Plain data: all of it."""
        return {
            "name": self.name,
            "form": "program",
            "card": to_json(self.card),
            "config": to_json(self.config),
            "inputs": to_json(self.inputs),
            "outputs": to_json(self.outputs),
            "operations": dict(self.operations),
            "blocks": {**self.blocks, "depth": self.depth},
            "parameters": {"values": self.parameters, "tensors": self.tensors},
            "converted": None if self.converted is None else str(self.converted),
            "bytes": self.bytes,
        }


def describe_program(folder: Path | None, card: ProgramCard | None) -> ProgramInfo:
    """What there is to know about the program in `folder`, or where it is not converted, about the one of a card."""
    if folder is None:
        assert card is not None
        return ProgramInfo(card.name, card, None, (), (), {}, {}, 0, 0, 0, None, None)
    config = ProgramConfig.load(folder)
    graph = read_graph(folder)
    counted = Counter(node.kind for node in graph.walk())
    return ProgramInfo(
        name=config.name,
        card=card or find_program_card(config.name),
        config=config,
        inputs=tuple(Value(feed.name, feed.dtype, feed.shape) for feed in config.feeds),
        outputs=tuple(_output(graph, place, name) for place, name in enumerate(graph.fetches)),
        operations=dict(counted.most_common()),
        blocks={kind: counted[kind] for kind in ("while", "if") if counted[kind]},
        depth=_depth(graph),
        parameters=sum(math.prod(graph.types[name].shape) for name in graph.parameters),
        tensors=len(graph.parameters),
        converted=folder,
        bytes=size_of(folder),
    )


def _output(graph: Graph, place: int, name: str) -> Value:
    declared = graph.types.get(name)
    if declared is None:
        return Value(f"output {place}", "list", ())
    return Value(f"output {place}", declared.dtype, declared.shape)


def _depth(graph: Graph) -> int:
    """How deep blocks of loops and conditions lie in one another. The graph was held to a bound when it was read."""
    level, blocks = 0, [graph.block]
    while blocks := [inner for block in blocks for node in block.nodes for inner in node.blocks]:
        level += 1
    return level
