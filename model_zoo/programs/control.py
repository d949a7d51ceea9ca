"""Loops and conditions: each a module of its own, with its blocks as modules inside."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from paddle2torch.model_zoo.programs.graph import Node
from paddle2torch.model_zoo.programs.modules import Condition, WhileLoop
from paddle2torch.model_zoo.programs.operations.arrays import EFFECTS
from paddle2torch.model_zoo.programs.paths import dotted, put
from paddle2torch.model_zoo.programs.table import ProgramError
from paddle2torch.model_zoo.programs.values import Known, Sizes

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.block import BlockBuilder


def loop(block: BlockBuilder, node: Node) -> None:
    """A `while` as a module with its body, which carries what is read behind it or in its next turn."""
    condition, *values = [block.get(name) if isinstance(name, str) else None for name in node.inputs]
    body = node.blocks[0]
    if len(body.arguments) != len(values) or len(body.results) != len(values) + 1:
        raise ProgramError(
            f"has {len(values)} values, its block takes {len(body.arguments)} and gives {len(body.results)}"
        )
    path = block.owner.unique(f"{dotted(node.path)}.loop" if node.path else "loop")
    inner = block.child(body, f"{path}.body")
    for place, name in enumerate(body.arguments):
        inner.placeholder(f"value_{place}", name)
    arguments = [inner.get(name) for name in body.arguments]
    inner.run()
    following, *results = [inner.tensor(inner.get(name)) for name in body.results]
    read = {place for place, name in enumerate(node.outputs) if name and block.owner.readers[name]}
    needed = _needed(inner.fx, following, results, arguments, read)
    unread = [argument for place, argument in enumerate(arguments) if place not in needed]
    starts = tuple(_start(values[place]) for place in needed)
    module = WhileLoop(inner.finish((following, *(results[place] for place in needed)), unread), starts)
    put(block.root, path, module)
    initial = [block.tensor(values[place]) for place in needed]
    turns = _turns(block, inner, values)
    made = block.fx.call_module(path, (block.tensor(condition), initial, list(inner.captured), turns))
    for place, name in enumerate(node.outputs):
        if name and place in needed:
            block.name(block.fx.call_function(operator.getitem, (made, needed.index(place))), name)


def _start(value: Any) -> int | None:
    """The integer with which a value of a loop starts, where that is known."""
    if not isinstance(value, Known) or value.tensor.numel() != 1 or value.tensor.is_floating_point():
        return None
    return int(value.tensor)


def _turns(block: BlockBuilder, inner: BlockBuilder, values: Sequence[Any]) -> Any:
    """How often a loop turns that counts from a known number up to a size, `while i < size: …; i += 1`: a number, or a
    node that makes one; None for another loop.
    """
    writers = {name: node for node in inner.block.nodes for name in node.outputs if name}
    test = writers.get(inner.block.results[0])
    if test is None or test.kind != "less_than" or test.inputs[0] not in inner.block.results[1:]:
        return None
    place = inner.block.results[1:].index(str(test.inputs[0]))
    step, first, limit = writers.get(str(test.inputs[0])), _start(values[place]), inner.values.get(str(test.inputs[1]))
    if step is None or not _adds_one(step) or step.inputs[0] != inner.block.arguments[place] or first is None:
        return None
    if isinstance(limit, Known) and limit.tensor.numel() == 1:
        return int(limit.tensor) - first
    if not isinstance(limit, Sizes) or limit.array.size != 1:
        return None
    outside = {placeholder: outer for outer, placeholder in inner.captured.items()}
    last = outside.get(limit.elements[0])
    return last if last is None or first == 0 else block.fx.call_function(operator.sub, (last, first))


def _adds_one(node: Node) -> bool:
    if node.kind == "increment":
        return node.attributes.get("value", 1.0) == 1
    scale = node.attributes.get("scale", 1.0)
    return node.kind == "scale" and scale == 1 and node.attributes.get("bias", 0.0) == 1


def condition(block: BlockBuilder, node: Node) -> None:
    """An `if` as a module with its branches, which give what is read of it; both read what either needs."""
    condition = block.get(node.inputs[0]) if node.inputs and isinstance(node.inputs[0], str) else None
    if condition is None or not 1 <= len(node.blocks) <= 2:
        raise ProgramError("has no condition or no branches")
    for branch in node.blocks:
        if branch.arguments or len(branch.results) != len(node.outputs):
            raise ProgramError(f"a branch gives {len(branch.results)} results where {len(node.outputs)} belong")
    read = [place for place, name in enumerate(node.outputs) if name and block.owner.readers[name]]
    path = block.owner.unique(f"{dotted(node.path)}.condition" if node.path else "condition")
    outside: list[fx.Node] = []
    modules: list[nn.Module] = []
    reads: list[tuple[int, ...]] = []
    for name, branch in zip(("if_true", "if_false"), node.blocks, strict=False):
        inner = block.child(branch, f"{path}.{name}")
        inner.run()
        modules.append(inner.finish(tuple(inner.tensor(inner.get(branch.results[place])) for place in read)))
        for captured in inner.captured:
            if captured not in outside:
                outside.append(captured)
        reads.append(tuple(outside.index(captured) for captured in inner.captured))
    false = modules[1] if len(modules) == 2 else None
    module = Condition(
        modules[0], false, (reads[0], reads[1] if len(reads) == 2 else ()), len(read), any(map(_has_effects, modules))
    )
    put(block.root, path, module)
    number = condition.elements[0] if isinstance(condition, Sizes) and condition.array.size == 1 else None
    made = block.fx.call_module(path, (block.tensor(condition) if number is None else number, outside))
    for place, output in enumerate(read):
        block.name(block.fx.call_function(operator.getitem, (made, place)), str(node.outputs[output]))


def remove_dead(graph: fx.Graph, root: nn.Module) -> None:
    """Take out what nothing reads, but for what changes an array."""
    for node in reversed(list(graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        if is_effect(node) or (node.op == "call_module" and _has_effects(root.get_submodule(str(node.target)))):
            continue
        graph.erase_node(node)


def is_effect(node: fx.Node) -> bool:
    """Whether an operation of the table changes an array."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") in EFFECTS


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
    return is_effect(node)


def _has_effects(module: nn.Module) -> bool:
    return any(
        is_effect(node) for inner in module.modules() if isinstance(inner, fx.GraphModule) for node in inner.graph.nodes
    )
