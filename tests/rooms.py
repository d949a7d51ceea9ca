"""The structure of the package, read from its imports: `python tests/rooms.py [CHECKOUT]` prints it.

A room is a folder, or a single module in `paddle2torch/`. Imports go down the list `ORDER` and never back.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ORDER = (
    "plugins",
    "cli",
    "labels",
    "doctor",
    "bench",
    "serving",
    "ray",
    "training",
    "ocr",
    "exporting",
    "quantization",
    "parity",
    "api",
    "compiled",
    "zoo",
    "tasks",
    "cache",
    "progress",
    "html_page",
    "atomic",
    "malloc",
    "device",
    "forks",
    "threads",
    "assets",
    "_version",
    "moved",
    "converters",
    "model_zoo",
)
"""Rooms from what users call to what everything uses; the last two are layers of their own."""
ABOVE_ALL = ("", "__main__")
"""The package itself, whose public names load their modules when they are used, and its command."""


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package in the checkout `root`, by dotted name below `paddle2torch`."""
    found = {}
    for folder, prefix in (("paddle2torch", ""), ("converters", "converters."), ("model_zoo", "model_zoo.")):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if folder == "paddle2torch" and parts[0] in ("converters", "model_zoo"):
                continue  # links to the two others
            name = prefix + ".".join(part for part in parts if part != "__init__")
            found[name.rstrip(".")] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it but for type checkers alone."""
    for node in _run(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("paddle2torch.") in known else node.module for name in inside]
        else:
            continue
        for name in names:
            if name == "paddle2torch" or name.startswith("paddle2torch."):
                yield name.removeprefix("paddle2torch").removeprefix(".")


def _run(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        checked = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        if not checked:
            yield from _run(child)


def room(module: str) -> str:
    """The room of a module: the first part of its name."""
    return module.partition(".")[0]


def arrows(root: Path) -> dict[tuple[str, str], list[str]]:
    """{(room, room that it imports): the modules that do}."""
    known, found = modules(root), defaultdict(list)
    for name, path in known.items():
        for target in imports(path, known):
            if room(name) != room(target):
                found[room(name), room(target)].append(f"{name} -> {target}")
    return dict(found)


def back(root: Path, order: Sequence[str] = ORDER) -> list[str]:
    """Imports that go up the list of rooms."""
    places = {name: place for place, name in enumerate((*ABOVE_ALL, *order))}
    wrong = []
    for (origin, target), lines in arrows(root).items():
        if origin == "" or target == "":  # `from paddle2torch import …` of a public name has its room's place
            continue
        if places[target] < places[origin]:
            wrong += lines
    return wrong


def circle(root: Path) -> list[str]:
    """The modules of a circle of imports; empty where there is none."""
    known = modules(root)
    graph = {name: {target for target in imports(path, known) if target} - {name} for name, path in known.items()}
    graph.pop("", None)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def report(root: Path) -> str:
    """Modules per room, arrows between rooms, circles, arrows back."""
    known = modules(root)
    rooms = Counter(room(name) or "(package)" for name in known)
    alone = [name for name, count in rooms.items() if count == 1]
    lines = [f"{len(known)} modules in {len(rooms)} rooms, {len(alone)} of them of one module"]
    lines += [f"  {count:4} {name}" for name, count in rooms.most_common() if count > 1]
    lines.append(f"{len(arrows(root))} arrows between rooms")
    lines.append(f"circles: {' -> '.join(circle(root)) or 'none'}")
    if set(rooms) - {"(package)"} <= {*ORDER, *ABOVE_ALL}:
        lines.append(f"arrows back: {len(back(root))}")
        lines += [f"  {line}" for line in back(root)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
