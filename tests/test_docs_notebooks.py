"""The notebooks: their code compiles, and the one that needs no network runs. `make notebooks` runs them whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from material import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 150_000
"""Bytes, outputs included."""


def code(notebook: Path, *, slow: bool = True) -> list[str]:
    """The code of its cells, commands of a shell left out; without `slow` not what exports."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    wanted = [
        cell
        for cell in cells
        if cell["cell_type"] == "code" and (slow or "slow" not in cell["metadata"].get("tags", ()))
    ]
    texts = ["".join(cell["source"]) for cell in wanted]
    return ["\n".join(line.replace("!paddle2torch", "pass  #") for line in text.splitlines()) for text in texts]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_compiles_and_was_executed(notebook: Path) -> None:
    for text in code(notebook):
        compile(text, notebook.name, "exec")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run: python docs/run_notebooks.py --write"
    assert notebook.stat().st_size < LARGEST


def test_the_program_is_converted_compared_and_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT / "docs" / "notebooks")
    names: dict[str, Any] = {}
    for text in code(ROOT / "docs" / "notebooks" / "any_paddle_program.ipynb", slow=False):
        exec(text, names)
    os.chdir(ROOT)
    printed = capsys.readouterr().out
    assert "of the largest value" in printed
    assert names["loss"].item() < 0.1
