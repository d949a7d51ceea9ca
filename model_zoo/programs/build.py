"""From a graph as data to an `fx.GraphModule` over real layers.

There are three kinds of value. *Known* ones (constants, and what is computed from them alone) are folded: the operation
itself runs once, now. *Sizes* (what is computed from shapes) become Python numbers in the graph, symbolic ones under
`torch.export`. Everything else is a tensor, an array or a list of them: a node of the graph.

A parameter that one operation reads becomes the weight of a layer, named by Paddle's path of layers (`struct_name`),
else
by its own name; one that several operations read stays a parameter of its own. `Built.rows` says where each went.
"""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from paddle2torch.model_zoo.programs import numbers
from paddle2torch.model_zoo.programs.graph import Block, Graph, Node, TensorType
from paddle2torch.model_zoo.programs.layers import LAYERS
from paddle2torch.model_zoo.programs.modules import (
    Condition,
    Constant,
    WhileLoop,
)
from paddle2torch.model_zoo.programs.operations import TABLE
from paddle2torch.model_zoo.programs.operations.arrays import EFFECTS
from paddle2torch.model_zoo.programs.paths import dotted, identifier, put
from paddle2torch.model_zoo.programs.sizes import symbolic
from paddle2torch.model_zoo.programs.table import (
    IGNORED_ATTRIBUTES,
    REFUSED,
    UNDEFINED,
    Definition,
    ProgramError,
    torch_dtype,
)
from paddle2torch.model_zoo.programs.values import (
    Known,
    Sizes,
    count_elements,
    has_sizes,
    is_known,
    plain_number,
    plain_numbers,
    unwrapped,
    wrapped,
)

FOLDED_AT_MOST = 1 << 22
"""Elements of a tensor that is computed while a graph is built; a larger one is computed when the model runs."""
FOLDED_IN_ALL_AT_MOST = 1 << 26

_OF_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_STRUCTURAL = frozenset({"while", "if", "builtin.split", "builtin.slice", "combine"})
_ALIASES = {"lambda": "lambda_"}
_NUMBER_FRIENDLY = frozenset(
    {"add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum", "equal", "not_equal"}
    | {"less_than", "less_equal", "greater_than", "greater_equal", "elementwise_pow", "full_like", "full_with_tensor"}
)


@dataclass(frozen=True)
class Row:
    """Where a parameter of the program went: a key of the state dict, and whether it lies there transposed."""

    key: str
    parameter: str
    transposed: bool = False
    shape: tuple[int, ...] | None = None


@dataclass
class Built:
    """The module, and the rows that carry weights in and out."""

    module: fx.GraphModule
    rows: list[Row]
    folded: int
    sizes: int


_GROWING = frozenset(
    {
        "arange",
        "as_strided",
        "broadcast_tensors",
        "crop",
        "diag_embed",
        "embedding",
        "empty",
        "expand",
        "expand_as",
        "eye",
    }
    | {
        "fold",
        "full",
        "full_batch_size_like",
        "full_with_tensor",
        "kron",
        "linspace",
        "meshgrid",
        "one_hot",
        "pad",
        "pad2d",
    }
    | {
        "pad3d",
        "prior_box",
        "repeat_interleave",
        "repeat_interleave_with_tensor_index",
        "sequence_mask",
        "tile",
        "unfold",
    }
    | {
        "tril_indices",
        "triu_indices",
        "affine_grid",
        "bincount",
        "histogram",
        "unpool",
        "bilinear_interp",
        "nearest_interp",
    }
    | {
        "bicubic_interp",
        "linear_interp",
        "trilinear_interp",
        "roi_align",
        "roi_pool",
        "deformable_conv",
        "anchor_generator",
    }
)


def build(graph: Graph, dtype: torch.dtype = torch.float32) -> Built:
    """The module of a graph, its weights not yet filled, in evaluation mode.

    dtype: what float32 becomes everywhere; weights, constants and casts.

    Raises `ProgramError` that names every kind of operation and attribute that is not known, with counts.
    """
    _check_kinds(graph)
    return _Builder(graph, dtype).build()


def _check_kinds(graph: Graph) -> None:
    unknown: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    attributes: Counter[str] = Counter()
    for node in graph.walk():
        kind = node.kind
        if kind in REFUSED:
            refused[kind] += 1
        elif kind in _STRUCTURAL:
            continue
        elif kind not in TABLE:
            unknown[kind] += 1
        else:
            attributes.update(_unfit(node, TABLE[kind]))
    said = []
    if unknown:
        said.append(f"kinds of operation that are not known: {_counted(unknown)}")
    if refused:
        said.append("; ".join(f"{kind} ({count}) {REFUSED[kind]}" for kind, count in sorted(refused.items())))
    if attributes:
        said.append(f"operations in a way that is not known: {_counted(attributes)}")
    if said:
        raise ProgramError("the program has " + ". It has ".join(said))


def _unfit(node: Node, definition: Definition) -> Iterable[str]:
    """What of an operation the table does not have."""
    named = {_ALIASES.get(name, name) for name in node.attributes}
    for name in sorted(named - definition.attributes - IGNORED_ATTRIBUTES):
        yield f"{node.kind} with {name[:80]!r}"
    for name in sorted(definition.needed - named):
        yield f"{node.kind} without {name!r}"
    for name, value in node.attributes.items():
        known = definition.choices.get(_ALIASES.get(name, name))
        if known is not None and value not in known:
            yield f"{node.kind} with {name} {value!r:.80}"
    if not definition.required <= len(node.inputs) or any(
        operand is not None for operand in node.inputs[len(definition.operands) :]
    ):
        yield f"{node.kind} with {len(node.inputs)} operands"
    elif any(operand is None for operand in node.inputs[: definition.required]) and node.kind != "box_coder":
        yield f"{node.kind} without one of its {definition.required} operands"


def _counted(counter: Counter[str]) -> str:
    listed = [f"{name} ({count})" for name, count in sorted(counter.items())]
    return ", ".join(listed[:40]) + (f" and {len(listed) - 40} more" if len(listed) > 40 else "")


class _Builder:
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


class BlockBuilder:
    """One block as an `fx.Graph` of its own; what it reads of the blocks around it is handed in."""

    def __init__(self, owner: _Builder, block: Block, outer: BlockBuilder | None, prefix: str) -> None:
        self.owner, self.block, self.outer, self.prefix = owner, block, outer, prefix
        self.fx = fx.Graph()
        self.root = nn.Module()
        self.values: dict[str, Any] = {}
        self.captured: dict[fx.Node, fx.Node] = {}  # outer node -> placeholder here
        self.last_placeholder: fx.Node | None = None
        self.buffers: dict[str, fx.Node] = {}
        self.device_node: fx.Node | None = None
        self.loose: dict[str, fx.Node] = {}
        self.skipped: dict[int, str] = {}

    # Values.

    def placeholder(self, name: str, value: str | None) -> fx.Node:
        if self.last_placeholder is None:
            first = next(iter(self.fx.nodes), None)
            if first is None:
                node = self.fx.placeholder(name)
            else:
                with self.fx.inserting_before(first):
                    node = self.fx.placeholder(name)
        else:
            with self.fx.inserting_after(self.last_placeholder):
                node = self.fx.placeholder(name)
        self.last_placeholder = node
        if value is not None:
            self.values[value] = node
            node.meta["value"] = value
            node.meta["declared"] = self.owner.type_of(value)
        return node

    def get(self, name: str | None) -> Any:
        """The value of a name, here or in a block around this one."""
        if name is None or name == "":
            return None
        if name in self.values:
            return self.values[name]
        if name in self.owner.parameters:
            return self.parameter(name)
        if self.outer is None:
            raise ProgramError(f"value {name!r:.80} is read where it does not exist")
        value = self.capture(self.outer.get(name))
        self.values[name] = value
        return value

    def capture(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value not in self.captured:
                made = self.placeholder(identifier(f"outer_{value.name}", "outer"), None)
                made.meta["declared"] = value.meta.get("declared")
                self.captured[value] = made
            return self.captured[value]
        if isinstance(value, Sizes):
            inner = np.empty_like(value.array)
            for place in np.ndindex(value.array.shape):
                inner[place] = self.capture(value.array[place])
            return Sizes(inner, value.dtype)
        if isinstance(value, list):
            return [self.capture(item) for item in value]
        return value

    def parameter(self, name: str) -> fx.Node:
        """A parameter that is not the weight of a layer: of the outermost block."""
        if self.outer is not None:
            value = self.capture(self.outer.parameter(name))
            self.values[name] = value
            return value
        if name not in self.loose:
            kind = self.owner.graph.types[name]
            key = self.owner.unique(f"tensors.{dotted(name).replace('.', '_') or 'parameter'}")
            put(self.root, key, self.owner.empty(name))
            self.owner.rows.append(Row(key, name))
            first = self.last_placeholder
            if first is None:
                node = self.fx.get_attr(key)
            else:
                with self.fx.inserting_after(first):
                    node = self.fx.get_attr(key)
            node.meta["declared"] = kind
            node.meta["parameter"] = name
            self.loose[name] = node
        return self.loose[name]

    def tensor(self, value: Any) -> Any:
        """A value as the graph computes with it: a node, or a list of nodes."""
        if isinstance(value, Known):
            return self.buffer(value.tensor)
        if isinstance(value, Sizes):
            arguments = (value.elements, list(value.array.shape), value.dtype)
            return self.fx.call_function(numbers.tensor_of, arguments, {"device": self.device()})
        if isinstance(value, list):
            return [self.tensor(item) for item in value]
        return value

    def buffer(self, tensor: Tensor) -> fx.Node:
        key = f"constants.c{self.owner.number}"
        self.owner.number += 1
        if tensor.dtype == torch.float32:
            tensor = tensor.to(self.owner.dtype)
        put(self.root, key, Constant(tensor.contiguous().clone()))
        node = self.fx.call_module(key)
        node.meta["declared"] = TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        return node

    def device(self) -> Any:
        """The device of the inputs, as the graph asks for it; None where there are none."""
        if self.device_node is None:
            if self.outer is not None:
                source = self.outer.device_source()
                source = None if source is None else self.capture(source)
            else:
                source = self.device_source()
            if source is None:
                return None
            last = self.last_placeholder
            assert last is not None
            with self.fx.inserting_after(last):
                self.device_node = self.fx.call_function(getattr, (source, "device"))
        return self.device_node

    def device_source(self) -> fx.Node | None:
        """A tensor of the outermost block that is always there: its first feed."""
        if self.outer is not None:
            return self.capture(source) if (source := self.outer.device_source()) is not None else None
        return next((node for node in self.fx.nodes if node.op == "placeholder"), None)

    # Operations.

    def run(self) -> None:
        for node in self.block.nodes:
            if id(node) in self.skipped:
                self.values[node.outputs[0]] = self.values[self.skipped[id(node)]]
                continue
            try:
                self.operation(node)
            except ProgramError as error:
                raise ProgramError(f"operation {node.position} ({node.kind}): {error}") from None
            except _OF_DAMAGE as error:
                # What a file says may be of any type and size: PyTorch's own checks name what does not fit.
                raise ProgramError(
                    f"operation {node.position} ({node.kind}): its attributes or operands do not fit it: {error!s:.200}"
                ) from None

    def finish(self, output: Any, unread: Sequence[fx.Node] = ()) -> fx.GraphModule:
        """The block as a module; unread: placeholders that are taken out."""
        self.fx.output(output)
        _remove_dead(self.fx, self.root)
        for placeholder in unread:
            self.fx.erase_node(placeholder)
        self.fx.lint()
        return fx.GraphModule(self.root, self.fx, "Program")

    def operation(self, node: Node) -> None:
        kind = node.kind
        if kind == "while":
            self.loop(node)
            return
        if kind == "if":
            self.condition(node)
            return
        if kind in ("builtin.split", "builtin.slice"):
            self.unpack(node)
            return
        if kind in ("shape64", "shape") and self.shape(node):
            return
        layer = LAYERS.get(kind)
        if layer is not None and layer(self, node):
            return
        definition = TABLE[kind]
        operands = [
            [self.get(name) for name in operand] if isinstance(operand, tuple) else self.get(operand)
            for operand in node.inputs
        ]
        if (
            all(is_known(operand) for operand in operands)
            and kind not in EFFECTS
            and not kind.startswith("create_array")
        ):
            made = self.fold(node, definition, operands)
            if made is not None:
                self.owner.folded += 1
                self.enter(node, made)
                return
        if any(has_sizes(operand) for operand in operands):
            sizes = symbolic(self, node, operands)
            if sizes is not None:
                self.owner.size_operations += 1
                self.enter(node, sizes)
                return
        self.call(node, definition, operands)

    def enter(self, node: Node, results: Sequence[Any]) -> None:
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                self.values[name] = value

    def keywords(self, node: Node, definition: Definition) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, value in node.attributes.items():
            name = _ALIASES.get(name, name)
            if name not in definition.attributes:
                continue
            if name in ("dtype", "out_dtype"):
                if value is None or value in UNDEFINED:
                    continue
                value = self.owner.mapped(value)
            made[name] = value
        return made

    def fold(self, node: Node, definition: Definition, operands: list[Any]) -> list[Any] | None:
        """The results of an operation on constants; None where they would be too large, or cannot be computed now."""

        def arguments(device: str | None) -> list[Any]:
            def tensor(value: Any) -> Any:
                if isinstance(value, list):
                    return [tensor(item) for item in value]
                return value.tensor.to(device) if isinstance(value, Known) and device else unwrapped(value)

            return [
                plain_numbers(operand)
                if name in definition.numbers
                else plain_number(operand)
                if name in definition.scalars
                else tensor(operand)
                for name, operand in zip(definition.operands, operands, strict=False)
            ]

        keywords = self.keywords(node, definition)
        # Broadcast, at most: elements times elements. Only what takes sizes from numbers can make more.
        size = math.prod(max(count_elements(unwrapped(operand)), 1) for operand in operands)
        if node.kind in _GROWING or size > FOLDED_AT_MOST:
            try:
                extra = {"device": "meta"} if definition.device else {}
                size = count_elements(definition.function(*arguments("meta"), **keywords, **extra))
            except ProgramError:
                raise
            except Exception:  # an operation that reads values has no meta form
                return None
        if size > FOLDED_AT_MOST or self.owner.folded_elements + size > FOLDED_IN_ALL_AT_MOST:
            return None
        try:
            made = definition.function(*arguments(None), **keywords)
        except ProgramError:
            raise
        except Exception as error:
            raise ProgramError(f"its constants cannot be computed: {error!s:.300}") from None
        self.owner.folded_elements += size
        results = [made] if definition.results in (1, "list") else list(made)
        return [wrapped(item) for item in results]

    def call(self, node: Node, definition: Definition, operands: list[Any]) -> None:
        """A call into the table."""
        arguments = [
            self.argument(node, name, operand, definition, operands)
            for name, operand in zip(definition.operands, operands, strict=False)
        ]
        while arguments and arguments[-1] is None and len(arguments) > definition.required:
            arguments.pop()
        keywords = self.keywords(node, definition)
        if definition.device:
            keywords["device"] = self.device()
        made = self.fx.call_function(definition.function, tuple(arguments), keywords)
        self.results(node, definition, made)

    def results(self, node: Node, definition: Definition, made: fx.Node) -> None:
        if definition.results in (1, "list"):
            if node.outputs:
                self.name(made, node.outputs[0])
            return
        for place, name in enumerate(node.outputs):
            if name and self.owner.readers[name]:
                self.name(self.fx.call_function(operator.getitem, (made, place)), name)

    def name(self, made: fx.Node, name: str) -> None:
        self.values[name] = made
        made.meta["kind"] = self.owner.writers[name].kind if name in self.owner.writers else ""
        made.meta["value"] = name
        made.meta["declared"] = self.owner.type_of(name)

    def argument(self, node: Node, name: str, operand: Any, definition: Definition, operands: list[Any]) -> Any:
        if operand is None:
            return None
        if name in definition.numbers:
            return self.as_numbers(operand)
        if name in definition.scalars:
            return self.as_scalar(operand)
        if node.kind in _NUMBER_FRIENDLY and not isinstance(operand, fx.Node | list):
            number = self.as_number(node, operand, operands)
            if number is not None:
                return number
        return self.tensor(operand)

    def as_numbers(self, operand: Any) -> Any:
        """A value where Python numbers belong: one, or a list of them."""
        if isinstance(operand, Known | Sizes):
            return plain_numbers(operand)
        if isinstance(operand, list):
            return [self.as_scalar(item) for item in operand]
        return self.fx.call_function(numbers.numbers_of, (operand,))

    def as_scalar(self, operand: Any) -> Any:
        """A value where one Python number belongs."""
        if isinstance(operand, Known | Sizes):
            return plain_number(operand)
        return self.fx.call_function(numbers.number_of, (operand,))

    def as_number(self, node: Node, operand: Any, operands: list[Any]) -> Any:
        """A value of one element as a Python number, where that changes neither shape nor type of the result."""
        if isinstance(operand, Known):
            if operand.tensor.numel() != 1 or operand.tensor.dtype.is_complex:
                return None
            rank, dtype, number = operand.tensor.ndim, operand.tensor.dtype, operand.tensor.reshape(()).item()
        else:
            if operand.array.size != 1:
                return None
            rank, dtype, number = operand.array.ndim, operand.dtype, operand.elements[0]
        if node.kind.startswith("full"):
            return number if operands.index(operand) == (1 if node.kind == "full_like" else 0) else None
        others = [item for item in operands if isinstance(item, fx.Node)]
        if len(others) != 1 or (isinstance(number, float) and not math.isfinite(number)):
            return None
        declared = others[0].meta.get("declared")
        if declared is None or len(declared.shape) < rank or declared.dtype not in _PLAIN:
            return None
        same = torch_dtype(declared.dtype) == dtype
        wider = declared.dtype == "float32" and dtype in (torch.int32, torch.int64)
        return number if same or wider else None

    # Structure.

    def shape(self, node: Node) -> bool:
        source = node.inputs[0]
        value = self.get(source) if isinstance(source, str) else None
        if isinstance(value, Known):
            self.enter(node, [Known(torch.tensor(list(value.tensor.shape), dtype=torch.int64))])
            return True
        if isinstance(value, Sizes):
            self.enter(node, [Known(torch.tensor(list(value.array.shape), dtype=torch.int64))])
            return True
        declared = self.owner.type_of(source) if isinstance(source, str) else None
        if declared is None or not isinstance(value, fx.Node):
            return False
        rank = len(declared.shape)
        array = np.empty(rank, dtype=object)
        for axis in range(rank):
            array[axis] = self.fx.call_method("size", (value, axis))
        made = self.owner.type_of(node.outputs[0])
        self.enter(node, [Sizes(array, torch.int32 if made is not None and made.dtype == "int32" else torch.int64)])
        return True

    def unpack(self, node: Node) -> None:
        operand = node.inputs[0] if node.inputs else None
        value = [self.get(name) for name in operand] if isinstance(operand, tuple) else self.get(operand)
        every = range(len(node.outputs))
        places = [node.attributes.get("index")] if node.kind == "builtin.slice" else list(every)
        for place, name in zip(places, node.outputs, strict=False):
            if not isinstance(place, int) or isinstance(place, bool) or place < 0:
                raise ProgramError("takes no place of a list")
            if isinstance(value, list):
                if place >= len(value):
                    raise ProgramError(f"takes place {place} of a list of {len(value)}")
                self.values[name] = value[place]
            elif isinstance(value, fx.Node):
                if name and self.owner.readers[name]:
                    self.name(self.fx.call_function(operator.getitem, (value, place)), name)
            else:
                raise ProgramError("takes a part of what is not a list")

    def child(self, block: Block, name: str) -> BlockBuilder:
        return BlockBuilder(self.owner, block, self, f"{self.prefix}{name}.")

    def loop(self, node: Node) -> None:
        condition, *values = [self.get(name) if isinstance(name, str) else None for name in node.inputs]
        block = node.blocks[0]
        if len(block.arguments) != len(values) or len(block.results) != len(values) + 1:
            raise ProgramError(
                f"has {len(values)} values, its block takes {len(block.arguments)} and gives {len(block.results)}"
            )
        path = self.owner.unique(f"{dotted(node.path)}.loop" if node.path else "loop")
        inner = self.child(block, f"{path}.body")
        for place, name in enumerate(block.arguments):
            inner.placeholder(f"value_{place}", name)
        arguments = [inner.get(name) for name in block.arguments]
        inner.run()
        following, *results = [inner.tensor(inner.get(name)) for name in block.results]
        read = {place for place, name in enumerate(node.outputs) if name and self.owner.readers[name]}
        needed = _needed(inner.fx, following, results, arguments, read)
        unread = [argument for place, argument in enumerate(arguments) if place not in needed]
        module = WhileLoop(inner.finish((following, *(results[place] for place in needed)), unread))
        put(self.root, path, module)
        initial = [self.tensor(values[place]) for place in needed]
        made = self.fx.call_module(path, (self.tensor(condition), initial, list(inner.captured)))
        for place, name in enumerate(node.outputs):
            if name and place in needed:
                self.name(self.fx.call_function(operator.getitem, (made, needed.index(place))), name)

    def condition(self, node: Node) -> None:
        condition = self.get(node.inputs[0]) if node.inputs and isinstance(node.inputs[0], str) else None
        if condition is None or not 1 <= len(node.blocks) <= 2:
            raise ProgramError("has no condition or no branches")
        for block in node.blocks:
            if block.arguments or len(block.results) != len(node.outputs):
                raise ProgramError(f"a branch gives {len(block.results)} results where {len(node.outputs)} belong")
        path = self.owner.unique(f"{dotted(node.path)}.condition" if node.path else "condition")
        outside: list[fx.Node] = []
        modules: list[nn.Module] = []
        reads: list[tuple[int, ...]] = []
        for name, block in zip(("if_true", "if_false"), node.blocks, strict=False):
            inner = self.child(block, f"{path}.{name}")
            inner.run()
            outputs = tuple(inner.tensor(inner.get(result)) if result else None for result in block.results)
            modules.append(inner.finish(outputs))
            for captured in inner.captured:
                if captured not in outside:
                    outside.append(captured)
            reads.append(tuple(outside.index(captured) for captured in inner.captured))
        false = modules[1] if len(modules) == 2 else None
        module = Condition(modules[0], false, (reads[0], reads[1] if len(reads) == 2 else ()), len(node.outputs))
        put(self.root, path, module)
        number = condition.elements[0] if isinstance(condition, Sizes) and condition.array.size == 1 else None
        made = self.fx.call_module(path, (self.tensor(condition) if number is None else number, outside))
        for place, name in enumerate(node.outputs):
            if name:
                self.name(self.fx.call_function(operator.getitem, (made, place)), name)

    # Layers.

    def own(self, name: Any) -> bool:
        """Whether this is a parameter that nothing else reads."""
        return isinstance(name, str) and name in self.owner.parameters and self.owner.readers[name] == 1

    def layer(self, node: Node, module: nn.Module, weights: Mapping[str, tuple[str, bool]], main: str) -> str:
        """Put a layer into the tree; weights: key in the layer -> (parameter, transposed)."""
        path = self.owner.place(node, main)
        for key, (parameter, transposed) in weights.items():
            kind = self.owner.graph.types[parameter]
            held = module.get_parameter(key) if key in dict(module.named_parameters()) else module.get_buffer(key)
            self.owner.rows.append(Row(f"{self.prefix}{path}.{key}", parameter, transposed, tuple(held.shape)))
            if held.numel() != math.prod(kind.shape):
                raise ProgramError(f"parameter {parameter!r:.80} has the shape {kind.shape}, not {tuple(held.shape)}")
        put(self.root, path, module)
        return path

    def bias(self, node: Node, channels: int, axis: int) -> tuple[str, Node] | None:
        """The parameter that an `add` right behind puts on each channel, and that `add`; None where there is none.

        axis: of the channels, counted from the front where it is positive, from the end where it is negative.
        """
        output = node.outputs[0]
        readers = self.owner.readers_of.get(output, [])
        if self.owner.readers[output] != 1 or len(readers) != 1 or readers[0].kind != "add":
            return None
        add = readers[0]
        if add not in self.block.nodes or len(add.inputs) != 2 or add.inputs[0] != output:
            return None
        other = add.inputs[1]
        declared = self.owner.type_of(output)
        if not isinstance(other, str) or declared is None:
            return None
        rank = len(declared.shape)
        if self.own(other):
            shape = self.owner.graph.types[other].shape
            at = add.attributes.get("axis", -1)
            if shape == (channels,) and (axis % rank == rank - 1 if at == -1 else at == axis % rank):
                return other, add
            return None
        writer = self.owner.writers.get(other)
        if writer is None or writer.kind != "reshape" or self.owner.readers[other] != 1:
            return None
        source = writer.inputs[0]
        made = self.owner.type_of(other)
        wanted = [1] * rank
        wanted[axis % rank] = channels
        if not self.own(source) or not isinstance(source, str) or made is None or list(made.shape) != wanted:
            return None
        return (source, add) if self.owner.graph.types[source].shape == (channels,) else None

    def finish_layer(self, node: Node, made: fx.Node, bias: tuple[str, Node] | None) -> None:
        if bias is None:
            self.name(made, node.outputs[0])
        else:
            made.meta["inner"] = node.outputs[0]
            self.name(made, bias[1].outputs[0])
            self.skipped[id(bias[1])] = bias[1].outputs[0]


_PLAIN = frozenset({"float32", "float64", "int32", "int64", "bool"})


def _remove_dead(graph: fx.Graph, root: nn.Module) -> None:
    """Take out what nothing reads, but for what changes an array."""
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        if node.op == "call_function" and getattr(node.target, "__name__", "") in EFFECTS:
            continue
        if node.op == "call_module" and _has_effects(root.get_submodule(str(node.target))):
            continue
        graph.erase_node(node)


def _needed(
    graph: fx.Graph, condition: Any, results: Sequence[Any], arguments: Sequence[fx.Node], read: set[int]
) -> list[int]:
    """Which values of a loop matter: those read behind it, and those that these, the condition or an array need."""
    needed = set(read)
    while True:
        live: set[fx.Node] = set()
        pending = [condition, *(results[place] for place in needed)]
        pending += [node for node in graph.nodes if node.op != "placeholder" and _works(node)]
        while pending:
            item = pending.pop()
            if isinstance(item, list | tuple):
                pending += item
            elif isinstance(item, fx.Node) and item not in live:
                live.add(item)
                pending += item.all_input_nodes
        more = {place for place, argument in enumerate(arguments) if argument in live} - needed
        if not more:
            return sorted(needed)
        needed |= more


def _works(node: fx.Node) -> bool:
    """Whether an operation changes an array, or may."""
    if node.op == "call_module":
        return re.search(r"(^|\.)(loop|condition)(_\d+)?$", str(node.target)) is not None
    return node.op == "call_function" and getattr(node.target, "__name__", "") in EFFECTS


def _has_effects(module: nn.Module) -> bool:
    return any(
        node.op == "call_function" and getattr(node.target, "__name__", "") in EFFECTS
        for inner in module.modules()
        if isinstance(inner, fx.GraphModule)
        for node in inner.graph.nodes
    )
