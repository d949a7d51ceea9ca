"""From a graph as data to an `fx.GraphModule` over real layers.

There are three kinds of value. *Known* ones (constants, and what is computed from them alone) are folded: the operation
itself runs once, now. *Sizes* (what is computed from shapes) become Python numbers in the graph, symbolic ones under
`torch.export`. Everything else is a tensor, an array or a list of them: a node of the graph.

A parameter that one operation reads becomes the weight of a layer, named by Paddle's path of layers (`struct_name`),
else by its own name; one that several operations read stays a parameter of its own. `Built.rows` says where each went.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from paddle2torch.model_zoo.programs.block import BlockBuilder
from paddle2torch.model_zoo.programs.graph import Graph, Node, TensorType
from paddle2torch.model_zoo.programs.kinds import check_kinds
from paddle2torch.model_zoo.programs.paths import dotted, identifier, put
from paddle2torch.model_zoo.programs.table import torch_dtype
from paddle2torch.model_zoo.programs.values import Row


@dataclass
class Built:
    """The module, and the rows that carry weights in and out."""

    module: fx.GraphModule
    rows: list[Row]
    folded: int
    sizes: int


def build(graph: Graph, dtype: torch.dtype = torch.float32) -> Built:
    """The module of a graph, its weights not yet filled, in evaluation mode.

    dtype: what float32 becomes everywhere; weights, constants and casts.

    Raises `ProgramError` that names every kind of operation and attribute that is not known, with counts.
    """
    check_kinds(graph)
    return Builder(graph, dtype).build()


class Builder:
    """What all blocks of a graph share: parameters, names of layers, the amount that was folded."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self.graph = graph
        self.dtype = dtype
        self.readers: Counter[str] = Counter(graph.fetches)
        self.writers: dict[str, Node] = {}
        self.readers_of: dict[str, list[Node]] = {}
        blocks = [graph.block]
        for node in graph.walk():
            for name in node.reads():
                self.readers[name] += 1
                self.readers_of.setdefault(name, []).append(node)
            self.writers.update((name, node) for name in node.outputs if name)
            blocks += node.blocks
        for block in blocks:
            self.readers.update(name for name in block.results if name)
        self.parameters = set(graph.parameters)
        self.rows: list[Row] = []
        self.taken: set[str] = set()
        self.containers = self._container_paths()
        self.folded = self.folded_elements = self.size_operations = 0
        self.number = 0

    def _container_paths(self) -> set[str]:
        """All paths that hold others: a layer does not take the name of one of them."""
        found: set[str] = set()
        for node in self.graph.walk():
            parts = dotted(node.path).split(".")
            for length in range(1, len(parts)):
                found.add(".".join(parts[:length]))
        return found

    def build(self) -> Built:
        root = BlockBuilder(self, self.graph.block, None, "")
        feeds: set[str] = set()
        for place, (name, value) in enumerate(self.graph.feeds):
            wanted = identifier(name, f"input_{place}")
            while wanted in feeds:
                wanted += "_"
            feeds.add(wanted)
            root.placeholder(wanted, value)
        root.run()
        outputs = [root.tensor(root.get(name)) for name in self.graph.fetches]
        module = root.finish(outputs[0] if len(outputs) == 1 else tuple(outputs))
        used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
        self.rows = [row for row in self.rows if not row.key.startswith("tensors.") or row.key in used]
        placed = {row.parameter for row in self.rows}
        for name in self.graph.parameters:
            if name not in placed:
                # Nothing that matters reads it, but it belongs to the file.
                key = self.unique(f"unused.{dotted(name) or 'parameter'}")
                put(module, key, self.empty(name))
                self.rows.append(Row(key, name))
        module.eval()
        return Built(module, self.rows, self.folded, self.size_operations)

    def unique(self, path: str) -> str:
        name, count = path, 1
        while name in self.taken:
            count += 1
            name = f"{path}_{count}"
        self.taken.add(name)
        return name

    def place(self, node: Node, parameter: str) -> str:
        """The path of a layer: Paddle's where it names one layer, else with the parameter's own name."""
        path = dotted(node.path)
        own = dotted(re.sub(r"\.[wb]_\d+(_\d+)?$", "", parameter)).replace(".", "_") or "parameter"
        if not path:
            path = own
        elif path in self.containers:
            path = f"{path}.{own}"
        return self.unique(path)

    def type_of(self, name: str) -> TensorType | None:
        return self.graph.types.get(name)

    def mapped(self, name: str) -> torch.dtype:
        dtype = torch_dtype(name)
        return self.dtype if dtype == torch.float32 else dtype

    def empty(self, name: str) -> nn.Parameter:
        """A parameter without values, on no device."""
        kind = self.graph.types[name]
        dtype = self.mapped(kind.dtype)
        tensor = torch.empty(kind.shape, dtype=dtype, device="meta")
        return nn.Parameter(tensor, requires_grad=dtype.is_floating_point)
