"""Imports go one way, no circle, and every string that names a module is right."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import rooms
from material import ROOT

NAME = re.compile(r"paddle2torch(\.\w+)+(:\w+)?")


def test_imports_go_down_the_list_of_rooms() -> None:
    assert rooms.back(ROOT) == []


def test_no_imports_go_in_a_circle() -> None:
    assert rooms.circle(ROOT) == []


def test_every_room_is_in_the_list() -> None:
    assert {rooms.room(name) for name in rooms.modules(ROOT)} == {*rooms.ORDER, *rooms.ABOVE_ALL}


def test_an_import_back_and_a_circle_are_found(tmp_path: Path) -> None:
    for folder in ("paddle2torch/zoo", "paddle2torch/cli", "converters", "model_zoo"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "paddle2torch/cli/read.py").write_text("from paddle2torch.zoo import models\n")
    (tmp_path / "paddle2torch/zoo/models.py").write_text("def f():\n    import paddle2torch.cli.read\n")
    assert rooms.back(tmp_path) == ["zoo.models -> cli.read"]
    assert sorted(set(rooms.circle(tmp_path))) == ["cli.read", "zoo.models"]


def strings() -> list[tuple[str, str]]:
    """(module, string) of every string constant in the package that is the name of a module or of what is in it."""
    found = set()
    for name, path in rooms.modules(ROOT).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
                found.add((name, node.value))
    return sorted(found)


@pytest.mark.parametrize(("module", "string"), strings())
def test_strings_name_what_is_there(module: str, string: str) -> None:
    target, _, attribute = string.partition(":")
    if target == "paddle2torch.parity._paddle_reference" or target == "paddle2torch.bench._paddle_training":
        # They import paddle, which PyTorch must not share a process with.
        assert (ROOT / (target.replace(".", "/") + ".py")).is_file()
        return
    parent, _, last = target.rpartition(".")
    found = import_module(target) if find_spec(target) is not None else getattr(import_module(parent), last)
    assert not attribute or callable(getattr(found, attribute))


@pytest.mark.parametrize("first", ["import paddle2torch.api", "from paddle2torch import load_pretrained, OCR, verify"])
def test_the_checkout_works_where_it_stands(first: str) -> None:
    """Not installed: nothing but the checkout and what the package needs is on the path."""
    code = f"""
        import sys
        sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
        {first}
        import paddle2torch.converters.convert as module
        print(module.__file__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).resolve() == (ROOT / "converters" / "convert.py").resolve()
