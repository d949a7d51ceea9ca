"""YAML from outside: bounded in values, depth, time and memory, with the values that PyYAML returns."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.strict_yaml import MOST_VALUES, read_yaml

SIZE = 8 << 20


def bomb(levels: int, members: str) -> bytes:
    """A list that means 10 to the power of `levels` values."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"a{i}: &a{i} " + members.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(9, "[{}]"), "stands for 100,000 values"),
        (b"a0: &a0 {a: 1, b: 2}\n" + b"\n".join(b"a%d: &a%d {<<: [*a%d, *a%d, *a%d]}" % (i, i, i - 1, i - 1, i - 1)
         for i in range(1, 20)), "stands for 100,000 values"),
        (b"x: &a [*a]", "stands for 100,000 values"),
        (b"x: &a {*a : 1}", "stands for 100,000 values"),
        (b"x: [" + b"a," * (SIZE // 2 - 4), "stands for 100,000 values"),
        (b"x: [" + b"{}," * (SIZE // 3 - 4), "stands for 100,000 values"),
        (b"".join(b"a%d: &b%d x\n" % (i, i) for i in range(400_000)), "stands for 100,000 values"),
        (b"x: " + b"[" * 100_000, "is not YAML|levels deep"),
        (b"x: " + b"{a: " * 60, "nested more than 50 levels deep"),
        (b"- " * 100_000, "nested more than 50 levels deep"),
        (b"? " * 100_000, "nested more than 50 levels deep"),
        (b"--- a\n" * 1_000_000, "holds several documents"),
        (b"".join(b"%%TAG !%d! a\n" % i for i in range(300_000)) + b"---\nx: 1", "more %TAG directives"),
        (b'x: !!int "' + b"1:" * 400_000 + b'1"', "is not YAML: what is tagged as a number is none"),
        (b"x: !!float 1:1.0", "what is tagged as a number is none"),
        (b"x: !!timestamp 2001-01-01", "could not determine a constructor"),
        (b"x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"x: !" + b"a" * 1_000_000 + b" b", "could not determine a constructor"),
        (b"a" * (SIZE + 1), "is larger than"),
        (b"{[a]: 1}", "unhashable key"),
        (b"1: 2", "its sections have no names"),
        (b"- a", "holds no sections"),
        (b"", "holds no sections"),
        (b"x: \xff", "is not YAML"),
    ],
    ids=range(24),
)  # fmt: skip
def test_bombs_end_soon_with_a_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.yml"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(FileFormatError, match=message) as caught:
        read_yaml(path)
    assert time.process_time() - start < 2
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.slow
def test_the_largest_file_that_is_read_is_cheap(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    for content in (
        b"".join(b"a%d: x\n" % i for i in range(MOST_VALUES // 2 - 2)),
        b"x: {" + b",".join(b"%d: 1" % (i * (2**61 - 1)) for i in range(1, 40)) + b"}",
        b"x: " + b"1:" * 400_000 + b"1",
        b'x: "' + b"a\n " * (SIZE // 3 - 10) + b'"',
        b"x: |\n" + b" a\n" * (SIZE // 3 - 10),
    ):
        path.write_bytes(content)
        start = time.process_time()
        assert read_yaml(path)
        assert time.process_time() - start < 3
    path.write_bytes(b"x: [" + b"a," * (MOST_VALUES - 10) + b"]")
    tracemalloc.start()
    read_yaml(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_values_are_those_of_pyyaml(tmp_path: Path) -> None:
    text = """
a: [1, -2, +3, 0x1F, 0b11, 017, 1_000, 0, 9223372036854775807]
b: [1.5, -.5, 1., 3.0e-05, 1e-3, .inf, -.INF, .nan, 1_0.5]
c: [null, ~, true, False, yes, off, '', '1', "2", x]
d: &anchor {k: v, 1: 2, true: 3}
e: {<<: *anchor, more: *anchor}
f: !!str 5
g: !!int "7"
h: |
  text
"""
    (tmp_path / "a.yml").write_text(text)
    found, expected = read_yaml(tmp_path / "a.yml"), yaml.safe_load(text)
    assert repr(found) == repr(expected)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2001-01-01", "2001-01-01"),
        ("9" * 21, "9" * 21),
        ("0x" + "f" * 19,) * 2,
    ],
)
def test_what_is_text_here(tmp_path: Path, text: str, value: Any) -> None:
    (tmp_path / "a.yml").write_text(f"x: {text}")
    assert read_yaml(tmp_path / "a.yml") == {"x": value}


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.yml").write_bytes("x: ä\r\ny: 1\r\n".encode(encoding))
        assert read_yaml(tmp_path / "a.yml") == {"x": "ä", "y": 1}
