"""Programs from outside, damaged or made to harm: one clear error each, in bounded time and memory."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import program_cases
import pytest
import torch

from paddle2torch.converters.programs import legacy_file
from paddle2torch.converters.programs.convert import convert_program
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.programs import graph as graphs
from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.graph import Block, Graph, Node, TensorType, dump_graph, load_graph

SEEDS = 100
VALUES: tuple[Any, ...] = (
    0,
    1,
    -1,
    -2,
    3,
    2**31,
    2**40,
    2**62,
    -(2**63),
    1.5,
    1e30,
    True,
    None,
    "",
    "x",
    "conv2d",
    [],
    {},
    [[]],
)


def places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """All (container, key) of a document."""
    pending = [node]
    while pending:
        item = pending.pop()
        keys: Any = item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            found.append((item, key))
            pending.append(item[key])
    return found


def damaged(document: Any, seed: int) -> Any:
    """A copy with one to three places changed: another value, one that is gone, or one of another place."""
    choice = random.Random(seed)
    document = copy.deepcopy(document)
    for _ in range(choice.randint(1, 3)):
        where = places(document, [])
        container, key = choice.choice(where)
        kind = choice.random()
        if kind < 0.6:
            container[key] = choice.choice(VALUES)
        elif kind < 0.8:
            del container[key]
        else:
            other, name = choice.choice(where)
            container[key] = copy.deepcopy(other[name]) if len(str(other[name])) < 5000 else None
    return document


@pytest.mark.slow
@pytest.mark.parametrize("name", ["control_nested", "networks_tokens", "indexing_set_value"])
def test_damaged_programs_raise_our_own_errors_only(name: str, tmp_path: Path) -> None:
    source = program_cases.GOLDENS / name
    document = json.loads((source / "inference.json").read_text())
    if (source / "inference.pdiparams").exists():
        (tmp_path / "inference.pdiparams").write_bytes((source / "inference.pdiparams").read_bytes())
    path = tmp_path / "inference.json"
    refused = 0
    for seed in range(SEEDS):
        path.write_text(json.dumps(damaged(document, seed)))
        try:
            convert_program(path, name="damaged")
        except Paddle2TorchError:
            refused += 1
    assert refused > SEEDS // 4


def test_damaged_graph_files_raise_our_own_errors_only() -> None:
    source = program_cases.GOLDENS / "control_nested"
    document = json.loads(dump_graph(convert_program(source, name="nested").graph))
    refused = 0
    for seed in range(SEEDS):
        try:
            build(load_graph(json.dumps(damaged(document, seed)), "graph.json"))
        except Paddle2TorchError:
            refused += 1
    assert refused > SEEDS // 4


def small(nodes: tuple[Node, ...], fetches: tuple[str, ...] = ("y",)) -> Graph:
    return Graph("PIR export", Block((), nodes, ()), {"x": TensorType((2,), "float32")}, (), (("x", "x"),), fetches)


def test_a_value_that_is_read_before_it_is_made_is_refused() -> None:
    with pytest.raises(FileFormatError, match="no operation before it makes"):
        small((Node("add", ("z", "x"), ("y",)), Node("add", ("y", "x"), ("z",))))


def test_a_value_that_is_made_twice_is_refused() -> None:
    with pytest.raises(FileFormatError, match="made twice"):
        small((Node("relu", ("x",), ("y",)), Node("relu", ("x",), ("y",))))


def test_too_many_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "OPERATIONS_AT_MOST", 5)
    with pytest.raises(FileFormatError, match="too many"):
        small(tuple(Node("relu", ("x",), (f"y{i}",)) for i in range(6)), ("y0",))


def test_blocks_in_blocks_without_end_are_refused() -> None:
    inner = Block((), (), ("x",))
    for depth in range(40):
        inner = Block((), (Node("if", ("x",), (f"v{depth}",), blocks=(inner, Block((), (), ("x",)))),), (f"v{depth}",))
    with pytest.raises(FileFormatError, match="nested more than"):
        small((Node("if", ("x",), ("y",), blocks=(inner, Block((), (), ("x",)))),))


def test_a_constant_of_a_size_that_no_memory_holds_is_refused() -> None:
    node = Node("full", (), ("y",), {"shape": (1 << 20, 1 << 20), "value": 1.0, "dtype": "float32"})
    with pytest.raises(Paddle2TorchError, match="too large"):
        build(small((node,)))


def test_a_size_that_is_computed_is_bounded_when_the_model_runs() -> None:
    nodes = (
        Node("full_int_array", (), ("s",), {"value": (1 << 30, 2), "dtype": "int64"}),
        Node("unsqueeze", ("x", "a"), ("w",)),
        Node("expand", ("w", "s"), ("y",)),
    )
    axis = Node("full_int_array", (), ("a",), {"value": (0,), "dtype": "int64"})
    module = build(small((axis, *nodes))).module
    with pytest.raises(Paddle2TorchError, match="too large"):
        module(torch.zeros(2))


def test_a_loop_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.model_zoo.programs.modules.TURNS_AT_MOST", 50)
    body = Block(("v",), (Node("add", ("v", "v"), ("w",)),), ("t", "w"))
    nodes = (
        Node("full", (), ("t",), {"shape": (), "value": True, "dtype": "bool"}),
        Node("while", ("t", "x"), ("y",), blocks=(body,)),
    )
    module = build(small(nodes)).module
    with pytest.raises(Paddle2TorchError, match="has not ended"):
        module(torch.zeros(2))


def test_names_of_a_slot_that_is_written_over_count(
    paddle_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"x{number}" for number in range(6)]
    once = paddle_files.operation("concat", {"X": names}, {}, {})
    monkeypatch.setattr(legacy_file, "MEMBERS_AT_MOST", 10)
    for operation, many in ((once, False), (once + once, True)):  # protobuf joins what is written twice
        (tmp_path / "inference.pdmodel").write_bytes(paddle_files.program_desc([operation], []))
        reader = legacy_file.LegacyFile(tmp_path / "inference.pdmodel")
        if many:
            with pytest.raises(FileFormatError, match="far more values"):
                reader.load()
        else:
            reader.load()
            assert reader.members == 6
