"""Whether the table has every operation of a program, in the way that the program uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from paddle2torch.model_zoo.programs.graph import Graph, Node
from paddle2torch.model_zoo.programs.operations import TABLE
from paddle2torch.model_zoo.programs.table import IGNORED_ATTRIBUTES, REFUSED, Definition, ProgramError

ALIASES = {"lambda": "lambda_"}
"""Attributes whose names Python keeps for itself."""
_STRUCTURAL = frozenset({"while", "if", "builtin.split", "builtin.slice", "combine"})


def check_kinds(graph: Graph) -> None:
    """Raise `ProgramError` that names every kind of operation and attribute that is not known, with counts."""
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
    named = {ALIASES.get(name, name) for name in node.attributes}
    for name in sorted(named - definition.attributes - IGNORED_ATTRIBUTES):
        yield f"{node.kind} with {name[:80]!r}"
    for name in sorted(definition.needed - named):
        yield f"{node.kind} without {name!r}"
    for name, value in node.attributes.items():
        known = definition.choices.get(ALIASES.get(name, name))
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
