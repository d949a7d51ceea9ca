"""Every command and every line of Python of `docs/programs.md` is run, on a small program."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import program_cases
import pytest
from click.testing import CliRunner
from material import ROOT

from paddle2torch.cli import main

PAGE = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
NEEDS = {"verify": ("paddle",), "bench": ("paddle",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def lacks(words: list[str]) -> bool:
    names = [name for word in words for name in NEEDS.get(word, ())]
    return any(importlib.util.find_spec(name) is None for name in names)


@pytest.mark.slow
def test_every_command_and_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(program_cases.GOLDENS / "networks_convnet", tmp_path / "picodet_infer")
    np.savez("inputs.npz", x0=np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 20)).astype(np.float32))
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 9
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "paddle2torch"
        if not lacks(words):
            done = CliRunner().invoke(main, words)
            assert done.exit_code == 0, (command, done.output, done.exception)
    assert (tmp_path / "back_infer" / "inference.json").read_bytes() == (
        tmp_path / "picodet_infer" / "inference.json"
    ).read_bytes()
    names: dict[str, object] = {}
    for snippet in blocks("python"):
        exec(compile(snippet, "docs/programs.md", "exec"), names)
    assert (tmp_path / "my_net_infer" / "inference.pdiparams").is_file()
