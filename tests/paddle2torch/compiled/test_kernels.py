"""The library of kernels: made once for this processor, and a clear word where it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle2torch.compiled import kernel_library
from paddle2torch.compiled.kernel_library import CompilerError, find_compiler, kernels_path

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no other test file of this process had loaded them."""
    monkeypatch.setattr(kernel_library, "loaded", lambda: False)


def compiler(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_made_once(home: Path, tmp_path: Path, kernels: Callable[[Path], None]) -> None:
    """In processes of their own: PyTorch bears no second definition of an operator."""
    kernels(tmp_path)
    [made] = tmp_path.rglob("kernels-*.so")
    # A compiler that hands out the library that other tests use too: making it takes half a minute.
    calls = tmp_path / "calls"
    copies = f'for word; do [ "$before" = -o ] && echo >> {calls} && cp {made} "$word"; before=$word; done; exit 0'
    code = (
        "import torch\n"
        "from paddle2torch.compiled.kernel_library import load_kernels\n"
        "load_kernels()\n"
        "load_kernels()\n"
        "print(torch.ops.paddle2torch.features())"
    )
    environment = {**os.environ, "CXX": compiler(tmp_path / "cxx", copies)}
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert calls.read_text() == "\n"
    assert list(kernels_path().parent.iterdir()) == [kernels_path()]


def test_every_processor_and_source_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = kernels_path()
    with monkeypatch.context() as patch:
        patch.setattr(kernel_library, "processor", lambda: "another")
        assert kernels_path() != here
    with monkeypatch.context() as patch:
        patch.setattr(kernel_library, "FLAGS", (*kernel_library.FLAGS, "-g"))
        assert kernels_path() != here
    sources = Path(shutil.copytree(kernel_library.SOURCES, tmp_path / "kernels"))
    monkeypatch.setattr(kernel_library, "SOURCES", sources)
    assert kernels_path() == here
    (sources / "vectors.h").write_text("// another\n")
    assert kernels_path() != here


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    says = compiler(tmp_path / "cxx", 'echo "convolve.h:1: error: no such thing" >&2; echo "1 more" >&2; exit 1')
    monkeypatch.setattr(kernel_library, "find_compiler", lambda: says)
    with pytest.raises(CompilerError, match=r"could not compile the kernels: convolve\.h:1: error: no such thing"):
        kernel_library.load_kernels()
    silent = compiler(tmp_path / "silent", "exit 3")
    monkeypatch.setattr(kernel_library, "find_compiler", lambda: silent)
    with pytest.raises(CompilerError, match="exit status 3"):
        kernel_library.load_kernels()
    monkeypatch.setattr(kernel_library, "find_compiler", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(CompilerError, match="could not be run"):
        kernel_library.load_kernels()
    assert not kernels_path().exists()


def test_an_older_pytorch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_library, "HEADER", tmp_path / "library.h")
    with pytest.raises(CompilerError, match=r"too old .* 2\.10 or later"):
        kernel_library.load_kernels()


def test_without_a_compiler() -> None:
    import torch._inductor.config as settings

    with settings.patch({"cpp.cxx": (None, "/nowhere/g++")}), pytest.raises(CompilerError, match=r"install g\+\+"):
        find_compiler()
