"""The page of the documentation about PyMuPDF4LLM, run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from coloured_bars import bar, blank, pipeline, put
from material import ROOT
from PIL import Image

import paddle2torch

if importlib.util.find_spec("pymupdf4llm") is None:
    pytest.skip("needs pymupdf4llm, whose licence is the AGPL", allow_module_level=True)


def test_a_scan_becomes_markdown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(encoding="utf-8"), re.DOTALL)
    (snippet,) = (block for block in blocks if "pymupdf4llm" in block)
    page = blank(600, 500)
    put(page, bar("ABC AA"), 40, 60)
    put(page, bar("CAB"), 40, 160)
    Image.fromarray(page[:, :, ::-1]).save(tmp_path / "scan.pdf", resolution=150)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(paddle2torch, "OCR", lambda **options: (asked.append(options), pipeline())[1], raising=False)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert asked == [{"lang": "en"}]
    words = re.findall("[ABC]+(?![a-z])", capsys.readouterr().out)
    assert words[-3:] == ["ABC", "AA", "CAB"]
