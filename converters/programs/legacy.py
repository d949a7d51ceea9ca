"""A `.pdmodel` of any network, read into a `Graph`.

A legacy program assigns to variables, also to those of blocks around; a `Graph` makes every value once. So the
operations are read in order with a table of what each variable is now:

- an operation that writes a variable gives it a new value ("x", then "x@1");
- `while` hands in what its block assigns of the outside, and returns the values after the last turn;
- `conditional_block` becomes an "if" whose second branch leaves the variables as they were; where there was none
  before, it returns nothing, and the `select_input` behind chooses the other one;
- an array of tensors is made where it is first written to.

`legacy_slots.SLOTS` says for each kind which slots are its operands. A slot that is filled and not on the list is
refused: nothing is left out in silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from paddle2torch.converters.paddle_files.pdiparams import DTYPES
from paddle2torch.converters.paddle_files.pdmodel import BlockReference, Op
from paddle2torch.converters.programs.legacy_file import ARRAY, BlockDesc, LegacyFile
from paddle2torch.converters.programs.legacy_slots import SILENT_SLOTS, SLOTS, Slots
from paddle2torch.model_zoo.programs.graph import (
    BLOCKS_DEEP_AT_MOST,
    OPERATIONS_AT_MOST,
    Block,
    Graph,
    Node,
    Operand,
    TensorType,
)
from paddle2torch.model_zoo.programs.operations import TABLE

# Attributes that a slot or an operand has taken the place of, or that say how Paddle runs an operation.
_TYPE_CODES = frozenset({"dtype", "out_dtype", "in_dtype"})
_SILENT = frozenset({"in_dtype", "is_mkldnn", "data_type", "is_scalar_condition"})
# What programs of years ago carry of fusions and layouts that were not used; another value is refused as any attribute.
_NOT_USED: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("x_data_format", "y_data_format", "data_format"), ("", "AnyLayout")),
    **dict.fromkeys(("Scale_in", "Scale_in_eltwise"), (1.0,)),
    **dict.fromkeys((f"fused_{what}_{slot}" for what in ("reshape", "transpose") for slot in ("X", "Y", "Out")), ((),)),
    **dict.fromkeys(
        ("fuse_brelu", "fuse_relu", "fuse_residual_connection", "fuse_relu_before_depthwise_conv"), (False,)
    ),
    **dict.fromkeys(("fuse_alpha", "fuse_beta"), (0.0,)),
    "Scale_weights": ((1.0,),),
    "fuse_activation": ("",),
    "fuse_brelu_threshold": (6.0,),
    "head_number": (1,),
    "is_test": (False, True),
}
_VALUES = ("values", "fp32_values", "fp64_values", "int32_values", "int64_values", "bool_values", "int8_values")


def read_legacy_graph(path: str | os.PathLike[str]) -> Graph:
    """Read a `.pdmodel` with all its blocks.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is not such a program or
    corrupt, or has an operation in a way that is not known.
    """
    return _Reader(path).read()


class _Reader(LegacyFile):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.made: dict[str, TensorType] = {}  # by value
        self.counts: dict[str, int] = {}
        self.feeds: dict[int, str] = {}
        self.fetches: dict[int, str] = {}
        self.unknown: dict[str, int] = {}
        self.entered = 0  # operations of inner blocks, as often as one is entered

    def read(self) -> Graph:
        self.load()
        env = {name: name for name in self.parameters}
        for name in self.parameters:
            self.counts[name] = 1
            self.made[name] = self.types[name]
        nodes = self._translate(self.blocks[0], env, 1, True)
        self.where = f"{self.path}"
        if self.unknown:
            listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(self.unknown.items()))
            self.fail(f"operations in a way that is not known: {listed}")
        feeds = [name for _, name in sorted(self.feeds.items())]
        return Graph(
            source="legacy export",
            block=Block((), tuple(nodes), ()),
            types=self.made,
            parameters=tuple(sorted(self.parameters)),
            feeds=tuple((name, name) for name in feeds),
            fetches=tuple(name for _, name in sorted(self.fetches.items())),
        )

    # Values.

    def define(self, variable: str, env: dict[str, str]) -> str:
        """A new value for a variable."""
        count = self.counts.get(variable, 0)
        self.counts[variable] = count + 1
        value = variable if count == 0 else f"{variable}@{count}"
        while count and value in self.counts:
            value += "@"
        if count:
            self.counts[value] = 1
        env[variable] = value
        if variable in self.types:
            self.made[value] = self.types[variable]
        return value

    def constant(self, value: Any, nodes: list[Node], *, listed: bool) -> str:
        """An attribute as an operation that makes a constant; its value."""
        name = self.define("constant", {})
        if listed:
            items = value if isinstance(value, tuple) else (value,)
            if any(type(item) is not int for item in items):
                self.fail("something else stands where integers belong; the file is corrupt")
            nodes.append(Node("full_int_array", (), (name,), {"value": items, "dtype": "int64"}))
            self.made[name] = TensorType((len(items),), "int64")
        else:
            if isinstance(value, bool) or not isinstance(value, int | float):
                self.fail("something else stands where a number belongs; the file is corrupt")
            dtype = "int64" if isinstance(value, int) else "float64"
            nodes.append(Node("full", (), (name,), {"shape": (1,), "value": value, "dtype": dtype}))
            self.made[name] = TensorType((1,), dtype)
        return name

    # Blocks.

    def _translate(self, block: BlockDesc, env: dict[str, str], depth: int, outermost: bool = False) -> list[Node]:
        if depth > BLOCKS_DEEP_AT_MOST:
            self.fail(f"blocks are nested more than {BLOCKS_DEEP_AT_MOST} deep; the file is corrupt")
        nodes: list[Node] = []
        for index, op in enumerate(block.ops):
            self.where = f"{self.path}: operation {index} ({op.kind})"
            self._operation(op, index if outermost else -1, env, nodes, block, depth)
        return nodes

    def _operation(
        self, op: Op, position: int, env: dict[str, str], nodes: list[Node], block: BlockDesc, depth: int
    ) -> None:
        if op.kind == "feed":
            self._end(self.feeds, op, self._only(op.outputs), env, True)
        elif op.kind == "fetch":
            self._end(self.fetches, op, self._only(op.inputs), env, False)
        elif op.kind == "while":
            self._while(op, position, env, nodes, depth)
        elif op.kind == "conditional_block":
            self._conditional(op, position, env, nodes, depth)
        elif op.kind in ("write_to_array", "create_array"):
            self._array(op, position, env, nodes)
        elif op.kind == "fill_constant":
            self._fill_constant(op, position, env, nodes)
        elif op.kind == "assign_value":
            self._assign_value(op, position, env, nodes)
        elif op.kind == "set_value":
            self._set_value(op, position, env, nodes)
        elif op.kind == "split":
            self._split(op, position, env, nodes)
        else:
            self._plain(op, position, env, nodes)

    def _only(self, slots: Mapping[str, tuple[str, ...]]) -> str:
        names = [name for items in slots.values() for name in items]
        if len(names) != 1:
            self.fail("does not have one value of its own; the file is corrupt")
        return names[0]

    def _end(self, ends: dict[int, str], op: Op, name: str, env: dict[str, str], feed: bool) -> None:
        column = op.attributes.get("col", 0)
        if type(column) is not int or column in ends:
            self.fail("is not an input or output of its own; the file is corrupt")
        if feed:
            if name not in self.types:
                self.fail(f"feeds {name!r}, which is not a tensor; the file is corrupt")
            ends[column] = self.define(name, env)
        else:
            ends[column] = self.value(name, env)

    def value(self, name: str, env: dict[str, str]) -> str:
        if name not in env:
            self.fail(f"reads {name!r}, which nothing has written; the file is corrupt")
        return env[name]

    def _written(self, block: BlockDesc, seen: frozenset[int]) -> list[str]:
        """Variables of blocks around this one that it assigns, also in the blocks inside it."""
        names: dict[str, None] = {}
        for op in block.ops:
            for items in op.outputs.values():
                names.update((name, None) for name in items if name and name not in block.variables)
            inner = op.attributes.get("sub_block")
            if isinstance(inner, BlockReference) and inner.index not in seen and 0 < inner.index < len(self.blocks):
                deeper = self._written(self.blocks[inner.index], seen | {inner.index})
                names.update((name, None) for name in deeper if name not in block.variables)
        return list(names)

    def _inner(self, op: Op) -> BlockDesc:
        reference = op.attributes.get("sub_block")
        if not isinstance(reference, BlockReference) or not 0 < reference.index < len(self.blocks):
            self.fail("has no block; the file is corrupt")
        inner = self.blocks[reference.index]
        self.entered += 1 + len(inner.ops)
        if self.entered > OPERATIONS_AT_MOST:
            self.fail("its blocks are entered more often than in any program; the file is corrupt")
        return inner

    def _while(self, op: Op, position: int, env: dict[str, str], nodes: list[Node], depth: int) -> None:
        inner = self._inner(op)
        (condition,) = op.inputs.get("Condition", ("",))[:1] or ("",)
        before = self.value(condition, env)
        written = [name for name in self._written(inner, frozenset()) if name != condition]
        for name in written:
            if name not in env and any(block.variables.get(name) == ARRAY for block in self.blocks):
                nodes.append(Node("create_array", (), (self.define(name, env),)))
        carried = [name for name in written if name in env]
        where = self.where
        inside = dict(env)
        initial = [env[name] for name in carried]
        arguments = tuple(self.define(name, inside) for name in carried)
        body = self._translate(inner, inside, depth + 1)
        self.where = where
        results = tuple(self.value(name, inside) for name in (condition, *carried))
        outputs = tuple(self.define(name, env) for name in carried)
        nodes.append(
            Node(
                "while",
                (before, *initial),
                outputs,
                position=position,
                blocks=(Block(arguments, tuple(body), results),),
            )
        )
        # The condition is false behind a loop.
        env[condition] = before

    def _conditional(self, op: Op, position: int, env: dict[str, str], nodes: list[Node], depth: int) -> None:
        inner = self._inner(op)
        (condition,) = op.inputs.get("Cond", ("",))[:1] or ("",)
        written = self._written(inner, frozenset())
        for name in op.outputs.get("Out", ()):
            if name and name not in written:
                written.append(name)
        where = self.where
        inside = dict(env)
        body = self._translate(inner, inside, depth + 1)
        self.where = where
        made = [name for name in written if name in inside]
        results = tuple(inside[name] for name in made)
        otherwise = tuple(env.get(name, "") for name in made)
        cond = self.value(condition, env)
        outputs = tuple(self.define(name, env) for name in made)
        blocks = (Block((), tuple(body), results), Block((), (), otherwise))
        nodes.append(Node("if", (cond,), outputs, position=position, blocks=blocks))

    def _array(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        name = self._only(op.outputs)
        if name not in env:
            nodes.append(Node("create_array", (), (self.define(name, env),)))
        if op.kind == "create_array":
            return
        x = self.value(self._only({"X": op.inputs.get("X", ())}), env)
        i = self.value(self._only({"I": op.inputs.get("I", ())}), env)
        array = self.value(name, env)
        nodes.append(Node("array_write", (array, x, i), (self.define(name, env),), position=position))

    # Operations.

    def operand(self, op: Op, choices: str, env: dict[str, str], nodes: list[Node], used: set[str]) -> Operand:
        for choice in choices.split("|"):
            if choice[0] in "@%":
                if choice[1:] in op.attributes:
                    used.add(choice[1:])
                    return self.constant(op.attributes[choice[1:]], nodes, listed=choice[0] == "@")
                continue
            names = op.inputs.get(choice.rstrip("*"), ())
            used.add(choice.rstrip("*"))
            if names and names[0]:
                # What the slot says counts: the attribute of the same meaning is a left-over.
                used.update(other[1:] for other in choices.split("|") if other[0] in "@%")
                if choice.endswith("*"):
                    return tuple(self.value(name, env) for name in names)
                if len(names) != 1:
                    self.fail(f"has {len(names)} values in {choice} where one belongs; the file is corrupt")
                return self.value(names[0], env)
        return None

    def typed(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Codes of types as their names; -1 means no type."""
        made = {}
        for name, value in attributes.items():
            if name in _TYPE_CODES and type(value) is int:
                if value == -1:
                    continue
                if value not in DTYPES:
                    self.fail(f"has a type of unknown code {value}; the file is corrupt or too new")
                value = DTYPES[value]
            made[name] = value
        return made

    def _plain(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        slots = SLOTS.get(op.kind) or self._simple(op)
        kind, operands, results, renamed = slots
        used: set[str] = set()
        inputs = [self.operand(op, choices, env, nodes, used) for choices in operands.split()]
        for slot, names in op.inputs.items():
            if any(names) and slot not in used and slot not in SILENT_SLOTS:
                key = f"{op.kind} with the input {slot}"
                self.unknown[key] = self.unknown.get(key, 0) + 1
        attributes = {
            renamed.get(name, name): value
            for name, value in op.attributes.items()
            if name not in used and name not in _SILENT
        }
        attributes = self.typed(attributes)
        known = TABLE[kind].attributes if kind in TABLE else frozenset()
        for name in [name for name in attributes if name not in known and name in _NOT_USED]:
            if attributes[name] in _NOT_USED[name]:
                del attributes[name]
        if kind in ("shape", "arange"):
            attributes.pop("dtype", None)
        text = attributes.pop("str_value", None)
        if text:
            attributes["value"] = self.number(text)
        while inputs and inputs[-1] is None:
            inputs.pop()
        if kind == "repeat_interleave" and len(inputs) > 1:
            kind = "repeat_interleave_with_tensor_index"
            attributes.pop("repeats", None)
        outputs: list[str] = []
        lists: list[Node] = []
        for slot in results.split():
            names = op.outputs.get(slot.rstrip("*"), ())
            if slot.endswith("*"):
                whole = self.define("list", {})
                outputs.append(whole)
                lists.append(Node("builtin.split", (whole,), tuple(self.define(name, env) for name in names)))
            else:
                outputs.append(self.define(names[0], env) if names and names[0] else "")
        if kind == "arange" and outputs[0] in self.made:
            attributes["dtype"] = self.made[outputs[0]].dtype
        nodes.append(Node(kind, tuple(inputs), tuple(outputs), attributes, position=position))
        nodes += lists

    def _simple(self, op: Op) -> Slots:
        """A kind that is not on the list: good where it has one input and one output, so that no order is guessed."""
        inputs = [slot for slot, names in op.inputs.items() if any(names)]
        outputs = [slot for slot, names in op.outputs.items() if any(names)]
        if len(inputs) <= 1 and len(outputs) == 1 and all(len(op.inputs[slot]) == 1 for slot in inputs):
            return op.kind, "".join(inputs), outputs[0], {}
        definition = TABLE.get(op.kind)
        if definition is not None and set(inputs) <= set(definition.operands) and len(outputs) == 1:
            # A kind of later years, whose slots have the operands' own names.
            ordered = [f"{slot}*" if len(op.inputs.get(slot, ())) > 1 else slot for slot in definition.operands]
            return op.kind, " ".join(ordered), outputs[0], {}
        self.unknown[op.kind] = self.unknown.get(op.kind, 0) + 1
        every = " ".join(f"{slot}*" if len(op.inputs[slot]) > 1 else slot for slot in inputs)
        return op.kind, every, " ".join(slot for slot in outputs if len(op.outputs[slot]) == 1), {}

    def _fill_constant(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        attributes = self.typed(dict(op.attributes))
        text = attributes.get("str_value", "")
        value = attributes.get("value", 0.0)
        if text:
            value = self.number(text)
        dtype = attributes.get("dtype", "float32")
        given = self.operand(op, "ValueTensor", env, nodes, set())
        shape = self.operand(op, "ShapeTensor|ShapeTensorList*", env, nodes, set())
        output = self.define(self._only(op.outputs), env)
        if given is None and shape is None:
            made = {"shape": attributes.get("shape", ()), "value": value, "dtype": dtype}
            nodes.append(Node("full", (), (output,), made, position=position))
            return
        if given is None:
            given = self.define("constant", {})
            nodes.append(Node("full", (), (given,), {"shape": (), "value": value, "dtype": dtype}))
            self.made[given] = TensorType((), dtype)
        if shape is None:
            shape = self.constant(attributes.get("shape", ()), nodes, listed=True)
        nodes.append(Node("full_with_tensor", (given, shape), (output,), {"dtype": dtype}, position=position))

    def number(self, text: Any) -> int | float:
        """A constant that is written as a text."""
        try:
            return int(text) if text.lstrip("-").isdigit() and len(text) < 20 else float(text)
        except (ValueError, AttributeError):
            self.fail(f"the constant {text!r:.80} is not a number; the file is corrupt")

    def _values(self, op: Op) -> tuple[Any, ...]:
        found = [op.attributes[name] for name in _VALUES if op.attributes.get(name)]
        return tuple(found[0]) if found and isinstance(found[0], tuple) else ()

    def _assign_value(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        attributes = self.typed(dict(op.attributes))
        made = {
            "shape": attributes.get("shape", ()),
            "dtype": attributes.get("dtype", "float32"),
            "values": self._values(op),
        }
        nodes.append(Node("assign_value", (), (self.define(self._only(op.outputs), env),), made, position=position))

    def _set_value(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        used: set[str] = set()
        x = self.operand(op, "Input", env, nodes, used)
        value = self.operand(op, "ValueTensor", env, nodes, used)
        places = [
            self.operand(op, choices, env, nodes, used)
            for choices in ("StartsTensorList*|@starts", "EndsTensorList*|@ends", "StepsTensorList*|@steps")
        ]
        attributes: dict[str, Any] = {
            name: op.attributes.get(name, ()) for name in ("axes", "decrease_axes", "none_axes")
        }
        output = self.define(self._only({"Out": op.outputs.get("Out", ())}), env)
        if value is None:
            attributes |= {"shape": op.attributes.get("shape", ()), "values": self._values(op)}
            nodes.append(Node("set_value", (x, *places), (output,), attributes, position=position))
        else:
            nodes.append(Node("set_value_with_tensor", (x, value, *places), (output,), attributes, position=position))

    def _split(self, op: Op, position: int, env: dict[str, str], nodes: list[Node]) -> None:
        used: set[str] = set()
        x = self.operand(op, "X", env, nodes, used)
        axis = self.operand(op, "AxisTensor|@axis", env, nodes, used)
        number = op.attributes.get("num", 0)
        names = op.outputs.get("Out", ())
        whole = self.define("list", {})
        if number and not op.attributes.get("sections") and not any(op.inputs.get("SectionsTensorList", ())):
            nodes.append(Node("split_with_num", (x, axis), (whole,), {"num": number}, position=position))
        else:
            sections = self.operand(op, "SectionsTensorList*|@sections", env, nodes, used)
            nodes.append(Node("split", (x, sections, axis), (whole,), {}, position=position))
        outputs = tuple(self.define(name, env) for name in names)
        nodes.append(Node("builtin.split", (whole,), outputs, position=position))
