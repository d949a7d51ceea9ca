"""One block of a program as a graph of its own: values, operations, layers."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from paddle2torch.model_zoo.programs import numbers
from paddle2torch.model_zoo.programs.control import condition, loop, remove_dead
from paddle2torch.model_zoo.programs.folding import fold
from paddle2torch.model_zoo.programs.graph import Block, Node, TensorType
from paddle2torch.model_zoo.programs.kinds import ALIASES
from paddle2torch.model_zoo.programs.layers import LAYERS
from paddle2torch.model_zoo.programs.modules import Constant
from paddle2torch.model_zoo.programs.operations import TABLE
from paddle2torch.model_zoo.programs.operations.arrays import EFFECTS, LENGTHS
from paddle2torch.model_zoo.programs.paths import dotted, identifier, put
from paddle2torch.model_zoo.programs.sizes import symbolic
from paddle2torch.model_zoo.programs.table import OF_DAMAGE, UNDEFINED, Definition, ProgramError, torch_dtype
from paddle2torch.model_zoo.programs.values import (
    Known,
    Row,
    Sizes,
    has_sizes,
    is_known,
    plain_number,
    plain_numbers,
)

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.build import Builder

_NUMBER_FRIENDLY = frozenset(
    {"add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum", "equal", "not_equal"}
    | {"less_than", "less_equal", "greater_than", "greater_equal", "elementwise_pow", "full_like", "full_with_tensor"}
)

_PLAIN = frozenset({"float32", "float64", "int32", "int64", "bool"})


class BlockBuilder:
    """One block as an `fx.Graph` of its own; what it reads of the blocks around it is handed in."""

    def __init__(self, owner: Builder, block: Block, outer: BlockBuilder | None, prefix: str) -> None:
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
        """The device of the inputs, as the graph asks for it; None for a graph without inputs."""
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
            except OF_DAMAGE as error:
                # What a file says may be of any type and size: PyTorch's own checks name what does not fit.
                raise ProgramError(
                    f"operation {node.position} ({node.kind}): its attributes or operands do not fit it: {error!s:.200}"
                ) from None

    def finish(self, output: Any, unread: Sequence[fx.Node] = ()) -> fx.GraphModule:
        """The block as a module; unread: placeholders that are taken out."""
        self.fx.output(output)
        remove_dead(self.fx, self.root)
        for placeholder in unread:
            self.fx.erase_node(placeholder)
        self.fx.lint()
        return fx.GraphModule(self.root, self.fx, "Program")

    def operation(self, node: Node) -> None:
        kind = node.kind
        if kind == "while":
            loop(self, node)
            return
        if kind == "if":
            condition(self, node)
            return
        if kind in ("builtin.split", "builtin.slice"):
            self.unpack(node)
            return
        if (kind in ("shape64", "shape") and self.shape(node)) or (kind in LENGTHS and self.length(node)):
            return
        layer = LAYERS.get(kind)
        if layer is not None and layer(self, node):
            return
        definition = TABLE[kind]
        for place, name in enumerate(node.outputs):
            if name and self.owner.readers[name] and definition.lacks(place, node.attributes):
                raise ProgramError(f"its result {place} is read, which is not computed here")
        operands = [
            [self.get(name) for name in operand] if isinstance(operand, tuple) else self.get(operand)
            for operand in node.inputs
        ]
        if (
            all(is_known(operand) for operand in operands)
            and kind not in EFFECTS
            and not kind.startswith("create_array")
        ):
            made = fold(self, node, definition, operands)
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
            name = ALIASES.get(name, name)
            if name not in definition.attributes:
                continue
            if name in ("dtype", "out_dtype"):
                if value is None or value in UNDEFINED:
                    continue
                value = self.owner.mapped(value)
            made[name] = value
        return made

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
            return self.as_numbers(operand, places=name in definition.places)
        if name in definition.scalars:
            return self.as_scalar(operand)
        if node.kind in _NUMBER_FRIENDLY and not isinstance(operand, fx.Node | list):
            number = self.as_number(node, operand, operands)
            if number is not None:
                return number
        return self.tensor(operand)

    def as_numbers(self, operand: Any, *, places: bool = False) -> Any:
        """A value where Python numbers belong: one, or a list of them; places: of an axis."""
        if isinstance(operand, Known | Sizes):
            return plain_numbers(operand)
        if isinstance(operand, list):
            return [self.as_scalar(item, places=places) for item in operand]
        return self.fx.call_function(numbers.places_of if places else numbers.numbers_of, (operand,))

    def as_scalar(self, operand: Any, *, places: bool = False) -> Any:
        """A value where one Python number belongs; places: of an axis."""
        if isinstance(operand, Known | Sizes):
            return plain_number(operand)
        return self.fx.call_function(numbers.place_of if places else numbers.number_of, (operand,))

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

    def length(self, node: Node) -> bool:
        """How many tensors an array has, as a number."""
        value = self.get(node.inputs[0]) if isinstance(node.inputs[0], str) else None
        if not isinstance(value, fx.Node):
            return False
        array = np.empty(1, dtype=object)
        array[0] = self.fx.call_function(len, (value,))
        self.enter(node, [Sizes(array, torch.int64)])
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
