"""Values from outside in messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from paddle2torch.model_zoo.show import show, show_all, show_path, show_text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "'abc'"),
        (["a", 1, 2.5, None, True], "['a', 1, 2.5, None, True]"),
        ({"a": {"b": [1]}}, "{'a': {'b': [1]}}"),
        ((1, 2), "(1, 2)"),
        ([], "[]"),
        ({}, "{}"),
        ("\x1b[2J\n", r"'\x1b[2J\n'"),
        pytest.param(10**5000, "an integer of 16,610 bits", id="a large number"),
        ([[[[[[1]]]]]], "[[[[[…]]]]]"),
        (print, "a builtin_function_or_method"),
    ],
)
def test_short_values_are_shown_as_python_writes_them(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_long_values_are_cut() -> None:
    assert show("x" * 10**7) == "'" + "x" * 79 + "…"
    assert show(list(range(10**6))) == str(list(range(100)))[:80] + "…"


def test_a_list_that_unfolds_to_a_billion_costs_nothing() -> None:
    value: list[Any] = ["x"] * 10
    for _ in range(8):
        value = [value] * 10
    start = time.process_time()
    assert len(show(value)) <= 81
    value.append(value)
    assert len(show(value)) <= 81
    assert time.process_time() - start < 0.1


def test_names_and_paths_are_shown_without_control_characters() -> None:
    assert show_text("a.b") == "a.b"
    assert show_text("a\x1b]0;x\x07") == r"a\x1b]0;x\x07"
    assert show_path("/a/b c") == "/a/b c"
    assert len(show_path("a" * 5000)) == 301
    assert show_all(["a", "b"]) == "'a', 'b'"
    assert show_all((str(number) for number in range(100)), 2) == "'0', '1' and 98 more"
