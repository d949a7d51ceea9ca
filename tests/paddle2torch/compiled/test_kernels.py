"""The library of kernels: made once for this processor, and a clear word where it cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddle2torch.compiled import kernel_library as kernels
from paddle2torch.compiled.kernel_library import CompilerError, find_compiler, kernels_path

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no other test file of this process had loaded them."""
    monkeypatch.setattr(kernels, "loaded", lambda: False)


def compiler(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_made_once(home: Path) -> None:
    """In processes of their own: PyTorch bears no second definition of an operator."""
    code = (
        "import torch\n"
        "from paddle2torch.compiled.kernel_library import load_kernels\n"
        "load_kernels()\n"
        "load_kernels()\n"
        "print(torch.ops.paddle2torch.features())"
    )
    first = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    made = kernels_path()
    before = made.stat().st_mtime_ns
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert first.stdout == second.stdout
    assert made.stat().st_mtime_ns == before
    assert list(made.parent.iterdir()) == [made]


def test_every_processor_and_source_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = kernels_path()
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "processor", lambda: "another")
        assert kernels_path() != here
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "FLAGS", (*kernels.FLAGS, "-g"))
        assert kernels_path() != here
    sources = Path(shutil.copytree(kernels.SOURCES, tmp_path / "kernels"))
    monkeypatch.setattr(kernels, "SOURCES", sources)
    assert kernels_path() == here
    (sources / "vectors.h").write_text("// another\n")
    assert kernels_path() != here


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    says = compiler(tmp_path / "cxx", 'echo "convolve.h:1: error: no such thing" >&2; echo "1 more" >&2; exit 1')
    monkeypatch.setattr(kernels, "find_compiler", lambda: says)
    with pytest.raises(CompilerError, match=r"could not compile the kernels: convolve\.h:1: error: no such thing"):
        kernels.load_kernels()
    silent = compiler(tmp_path / "silent", "exit 3")
    monkeypatch.setattr(kernels, "find_compiler", lambda: silent)
    with pytest.raises(CompilerError, match="exit status 3"):
        kernels.load_kernels()
    monkeypatch.setattr(kernels, "find_compiler", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(CompilerError, match="could not be run"):
        kernels.load_kernels()
    assert not kernels_path().exists()


def test_an_older_pytorch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "HEADER", tmp_path / "library.h")
    with pytest.raises(CompilerError, match=r"too old .* 2\.10 or later"):
        kernels.load_kernels()


def test_without_a_compiler() -> None:
    import torch._inductor.config as settings

    with settings.patch({"cpp.cxx": (None, "/nowhere/g++")}), pytest.raises(CompilerError, match=r"install g\+\+"):
        find_compiler()
