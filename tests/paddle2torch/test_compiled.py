"""Compiled once, then loaded: the same results, and a clear word where it cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from small_models import fill, small_config
from structure import image

from paddle2torch.api import load_pretrained
from paddle2torch.compiled import CompiledNetwork, CompilerError, compile_model, load_compiled, package_path
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.store import save_model

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def saved(folder: Path, classes: int = 8) -> Path:
    network = build_model(small_config(nrtr=False, classes=classes)).eval()
    fill(network)
    save_model(folder, network.config, network.state_dict())
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole file: compiling is what takes time. It has the name of the fixture that each test has."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(home))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "own")


@pytest.fixture(scope="module")
def compiled(folder: Path, home: Path) -> CompiledNetwork:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE2TORCH_HOME", str(home))
        with pytest.warns(UserWarning, match="compiled for this CPU now"):
            model = load_pretrained(folder, compiled=True)
    assert isinstance(model, CompiledNetwork)
    return model


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 3, 48, 320), (6, 3, 48, 75), (1, 3, 48, 16), (2, 3, 48, 9), (3, 3, 48, 801)])
def test_the_same_results_at_every_size(compiled: CompiledNetwork, folder: Path, shape: tuple[int, ...]) -> None:
    x = image(*shape)
    network = load_pretrained(folder)
    with torch.inference_mode():
        expected = network(x)
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = compiled(given)
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@needs_compiler
def test_the_second_time_it_is_only_loaded(
    compiled: CompiledNetwork, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    before = compiled.package.stat().st_mtime_ns
    again = load_pretrained(folder, compiled=True)
    assert isinstance(again, CompiledNetwork)
    assert again.package.stat().st_mtime_ns == before
    assert not [w for w in recwarn if "compiled" in str(w.message)]


@needs_compiler
def test_loading_imports_no_compiler(compiled: CompiledNetwork, folder: Path) -> None:
    code = (
        "import sys, torch\n"
        "from paddle2torch import load_pretrained\n"
        f"model = load_pretrained({str(folder)!r}, compiled=True)\n"
        "model(torch.zeros(1, 3, 48, 64))\n"
        "assert type(model).__name__ == 'CompiledNetwork'\n"
        "print([name for name in sys.modules if name.startswith(('torch._inductor', 'torch._dynamo', 'triton'))])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_compiler
def test_several_threads(compiled: CompiledNetwork) -> None:
    inputs = [image(n, 3, 48, 60 + 20 * n) for n in range(1, 5)]
    expected = [compiled(x).clone() for x in inputs]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        for _ in range(5):
            found[index] = compiled(inputs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index]) for index in range(4))


@needs_compiler
def test_what_it_does_not_take(compiled: CompiledNetwork) -> None:
    with pytest.raises(ConfigError, match=r"float32 on the CPU, not torch\.float64"):
        compiled(image(1, 3, 48, 64).double())
    with pytest.raises(ConfigError, match="nothing can be trained"):
        compiled.train()(image(1, 3, 48, 64))
    compiled.eval()


def test_every_weight_and_setting_has_a_package_of_its_own(folder: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "own", classes=9)
    assert package_path(other) != package_path(folder)
    # Not saved again: safetensors writes its metadata in whatever order.
    assert package_path(Path(shutil.copytree(folder, tmp_path / "same"))) == package_path(folder)


def test_without_a_compiler_it_runs_all_the_same(tmp_path: Path) -> None:
    import torch._inductor.config as compiler

    folder = saved(tmp_path / "own", classes=10)
    with compiler.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        with pytest.raises(CompilerError, match=r"install g\+\+ or clang\+\+"):
            compile_model(folder)
        with pytest.warns(UserWarning, match="runs without being compiled"):
            model = load_pretrained(folder, compiled=True)
    assert isinstance(model, Network)
    assert not package_path(folder).exists()


def test_what_cannot_be_compiled_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave compiled out"):
        load_pretrained(saved(tmp_path / "own"), compiled=True, dtype=torch.bfloat16)
    assert issubclass(CompilerError, ConversionError)
    with pytest.raises(ConfigError):
        load_compiled(tmp_path / "nothing")
