"""What a bug report needs: nothing that is private, and what is wrong is marked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from paddle2torch import cli, doctor
from paddle2torch.model_zoo.errors import SourceError


def found(name: str, *, sources: bool = False) -> doctor.Finding:
    (finding,) = (finding for finding in doctor.examine(sources=sources) if finding.name == name)
    return finding


def test_versions_and_threads_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert found("torch").value == torch.__version__
    assert found("threads").value == f"{torch.get_num_threads()} of PyTorch"
    monkeypatch.setattr(doctor, "version_of", lambda name: "9.9")
    assert found("opencv-python").wrong, "two OpenCV in one environment"


def test_nothing_private_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "secret"))
    monkeypatch.setenv("HTTPS_PROXY", "http://name:password@proxy.example:3128")
    monkeypatch.setenv("PIP_INDEX_URL", "https://token@index.example/simple")
    text = json.dumps([vars(finding) for finding in doctor.examine(sources=False)])
    assert "proxy.example" in text
    assert "index.example" in text
    for private in ("secret", "password", "token", str(tmp_path), str(Path.home())):
        assert private not in text or private == "/", private


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")
def test_a_folder_that_cannot_be_written_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not found("cache").wrong
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert "set PADDLE2TORCH_HOME" in found("cache").value
    assert found("cache").wrong


def test_sources_that_do_not_answer_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: str) -> str:
        raise SourceError("no connection")

    monkeypatch.setattr(doctor, "_ask_hub", refuse)
    monkeypatch.setattr(doctor, "_ask_host", refuse)
    monkeypatch.setattr(doctor, "_ask_pip", lambda distribution: "answers")
    by_name = {finding.name: finding for finding in doctor.examine() if finding.group == "sources"}
    assert by_name["Hugging Face Hub"] == doctor.Finding("sources", "Hugging Face Hub", "no connection", wrong=True)
    assert not by_name["wheels, by pip"].wrong
    assert len(by_name) > 2


def test_the_command() -> None:
    result = CliRunner().invoke(cli.main, ["doctor", "--offline"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "versions"
    rows = json.loads(CliRunner().invoke(cli.main, ["doctor", "--offline", "--json"]).stdout)
    assert {"group", "name", "value", "wrong"} == set(rows[0])
