"""For which sizes of its inputs a captured graph is right: what `torch.export` found out, checked at each call.

A package does not look at its inputs. The conditions are kept inside it as texts of PyTorch's own, sums and comparisons
of sizes; they are read into a tree of the few operations that such texts have, and never run as code.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram

from paddle2torch.model_zoo.errors import ConversionError

_SIZE = re.compile(r"L\['inputs'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
_OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {"max": max, "min": min, "abs": abs}
Sizes = Mapping[tuple[int, int], int]


def conditions_of(graph: ExportedProgram, count: int) -> Conditions:
    """The conditions of a captured graph with `count` inputs. Raises `ConversionError` where they cannot be read."""
    # PyTorch writes infinity as a number of its own: what is not an integer is no bound.
    bounds = graph.range_constraints.items()
    ranges = {str(symbol): int(bound.lower) for symbol, bound in bounds if bound.lower.is_Integer}
    most = {str(symbol): int(bound.upper) for symbol, bound in bounds if bound.upper.is_Integer}
    names = set(graph.graph_signature.user_inputs)
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != count:
        raise ConversionError("PyTorch dropped an input of the program: its sizes cannot be checked")
    shapes = [[_size(size, ranges, most) for size in _shape(node)] for node in inputs]
    guards = [str(text) for text in getattr(graph, "_guards_code", None) or ()]
    return Conditions(json.dumps({"shapes": shapes, "guards": guards}))


def _shape(node: fx.Node) -> Sequence[Any]:
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        raise ConversionError("an input of the program is not a tensor in PyTorch's graph")
    return value.shape


def _size(size: Any, least: Mapping[str, int], most: Mapping[str, int]) -> Any:
    if isinstance(size, int):
        return size
    name = str(size)
    if name.isdecimal():
        return int(name)  # a size that was free and that an operation takes for the example's
    if not name.isidentifier():
        raise ConversionError(f"PyTorch allows sizes of the form {name:.80} alone, which cannot be checked")
    return [name, least.get(name, 0), most.get(name, 1 << 62)]


class Conditions:
    """Tells of the shapes of inputs whether a graph is right for them.

    text: JSON, the sizes of each input and PyTorch's guards. A size is a number, or the name of a free one with its
    least and its largest value: a name that comes twice is one size.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        document = json.loads(text)
        self.shapes: list[list[Any]] = document["shapes"]
        self.guards = [_tree(guard) for guard in document["guards"]]

    def hold(self, inputs: Sequence[Tensor], *, batch_of_one: bool) -> bool:
        """Whether all conditions hold. PyTorch takes a free size of one for a case of its own; batch_of_one: whether
        the graph was found right for a first axis of one all the same.
        """
        named: dict[str, int] = {}
        sizes: dict[tuple[int, int], int] = {}
        for place, (x, shape) in enumerate(zip(inputs, self.shapes, strict=True)):
            if x.ndim != len(shape):
                return False
            for axis, (size, wanted) in enumerate(zip(x.shape, shape, strict=True)):
                sizes[place, axis] = size
                if isinstance(wanted, int):
                    if size != wanted:
                        return False
                    continue
                name, least, most = wanted
                one = batch_of_one and axis == 0 and size == 1 and least == 2
                if named.setdefault(name, size) != size or not (least <= size <= most or one):
                    return False
        return all(bool(guard(sizes)) for guard in self.guards)


def _tree(text: str) -> Callable[[Sizes], Any]:
    """A condition as a function of sizes. Raises `ConversionError` for a text with anything but arithmetic of sizes."""
    try:
        return _read(ast.parse(_SIZE.sub(r"size_\1_\2", text), mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError):
        raise ConversionError(f"PyTorch's condition cannot be read: {text:.200}") from None


def _read(node: ast.AST, text: str) -> Callable[[Sizes], Any]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        number = node.value
        return lambda sizes: number
    if isinstance(node, ast.Name) and re.fullmatch(r"size_\d+_\d+", node.id):
        _, place, axis = node.id.split("_")
        key = (int(place), int(axis))
        return lambda sizes: sizes[key]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right, combine = _read(node.left, text), _read(node.right, text), _OPERATORS[type(node.op)]
        return lambda sizes: combine(left(sizes), right(sizes))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        inner, negative = _read(node.operand, text), isinstance(node.op, ast.USub)
        return lambda sizes: -inner(sizes) if negative else not inner(sizes)
    if isinstance(node, ast.BoolOp):
        parts, decide = [_read(value, text) for value in node.values], all if isinstance(node.op, ast.And) else any
        return lambda sizes: decide(part(sizes) for part in parts)
    if isinstance(node, ast.Compare) and all(type(op) in _OPERATORS for op in node.ops):
        terms = [_read(value, text) for value in (node.left, *node.comparators)]
        steps = [_OPERATORS[type(op)] for op in node.ops]
        return lambda sizes: all(
            step(a(sizes), b(sizes)) for step, a, b in zip(steps, terms[:-1], terms[1:], strict=True)
        )
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and not node.keywords
    ):
        function, arguments = _FUNCTIONS[node.func.id], [_read(value, text) for value in node.args]
        return lambda sizes: function(*(argument(sizes) for argument in arguments))
    raise ConversionError(f"PyTorch's condition cannot be read: {text:.200}")
