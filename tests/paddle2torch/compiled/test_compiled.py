"""Compiled once, then loaded: the same results, and a clear word where it cannot be."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from small_models import card_network, saved, small_config
from structure import image

from paddle2torch.api import load_pretrained
from paddle2torch.cache import native_home
from paddle2torch.cli import main
from paddle2torch.compiled.kernel_library import CompilerError, load_kernels
from paddle2torch.compiled.network import HOW_LONG, CompiledNetwork, compile_model, library_path, load_compiled
from paddle2torch.compiled.packages import code_files, compiler_files
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.native import has_bfloat16
from paddle2torch.model_zoo.network import Network
from paddle2torch.quantization import quantize
from paddle2torch.tasks.recognition import RecognitionError, Recognizer
from paddle2torch.zoo.folder import INT8_NAME, load_model, load_quantized, save_quantized

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

SMALL = small_config(nrtr=False)


def lines() -> list[np.ndarray]:
    """A few to quantize on, uint8 (48, 160, 3)."""
    images = []
    for number in range(4):
        pixels = np.full((48, 160, 3), 200 + 10 * number, np.uint8)
        cv2.putText(pixels, f"line {number}", (4, 34), cv2.FONT_HERSHEY_SIMPLEX, 1, (30, 20, 60), 2, cv2.LINE_AA)
        images.append(pixels)
    return images


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, kernels: Callable[[Path], None]) -> Path:
    """One cache for the whole file: compiling is what takes time. It has the name of the fixture that each test has."""
    home = tmp_path_factory.mktemp("home")
    if shutil.which("g++") is not None:
        kernels(home)
    return home


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(home))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "own", SMALL)


@pytest.fixture(scope="module")
def folder_int8(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """The same model, quantized."""
    quantized = Path(shutil.copytree(folder, tmp_path_factory.mktemp("quantized") / "own"))
    quantize(quantized, lines())
    return quantized


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
            best = compiled.best_classes(given)
            scores, classes = found.max(-1)
            assert torch.equal(best[..., 0].long(), classes)
            assert torch.allclose(best[..., 1], scores, rtol=0, atol=1e-6)


@needs_compiler
def test_lines_are_read_by_their_best_classes(compiled: CompiledNetwork, folder: Path) -> None:
    """What it gives for all classes is not asked for."""
    network = load_pretrained(folder, fused=True)
    eager, fast = Recognizer(network, network.config)(lines()), Recognizer(compiled, compiled.config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledNetwork, "forward", None)
        found = fast(lines())
    assert [line.text for line in found] == [line.text for line in eager]
    assert max(abs(a.score - b.score) for a, b in zip(found, eager, strict=True)) < 1e-5
    head = replace(compiled.config.head, options={**compiled.config.head.options, "classes": compiled.classes + 1})
    other = replace(compiled.config, head=head, charset=(*(compiled.config.charset or ()), "é"))
    with pytest.raises(RecognitionError, match="classes"):
        Recognizer(compiled, other)(lines())


@needs_compiler
def test_int8(tmp_path: Path) -> None:
    """Of the network that takes least time to compile."""
    network = card_network("PP-LCNet_x0_25_textline_ori")
    quantize(saved(tmp_path / "own", network), lines())
    done = CliRunner().invoke(main, ["compile", str(tmp_path / "own"), "--quantized", "--json"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'own'} is compiled for this CPU: this takes {HOW_LONG}\n" in done.stderr
    package = library_path(tmp_path / "own", quantized=True)
    assert json.loads(done.stdout) == [{"model": str(tmp_path / "own"), "package": str(package)}]
    compiled = load_pretrained(tmp_path / "own", compiled=True, quantized=True)
    assert isinstance(compiled, CompiledNetwork)
    with pytest.raises(ConfigError, match="no recogniser"):
        compiled.best_classes(image(1, 3, 80, 160))
    assert compiled.quantized
    quantized, plain = load_quantized(tmp_path / "own"), fold(network)
    for number in (1, 3):
        x = image(number, 3, 80, 160)
        with torch.inference_mode():
            found, expected, without = compiled(x), quantized(x), plain(x)
        assert found.shape == expected.shape
        # int8 moves every input by up to half a step. The compiled code rounds some sums otherwise, and so moves the
        # few inputs that lie between two steps by one.
        assert (found - expected).abs().max() < 0.5 * (expected - without).abs().max()


@needs_compiler
def test_bfloat16(folder: Path) -> None:
    load_kernels()
    if not has_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    with pytest.warns(UserWarning, match="compiled for this CPU now"):
        compiled = load_pretrained(folder, compiled=True, precision="bf16")
    assert isinstance(compiled, CompiledNetwork)
    assert compiled.dtype == torch.bfloat16
    exact, rounded = load_pretrained(folder), load_pretrained(folder, fused=True, precision="bf16")
    for shape in ((1, 3, 48, 320), (6, 3, 48, 75), (2, 3, 48, 9)):  # the last is too narrow for the package
        x = image(*shape)
        with torch.inference_mode():
            found, expected, theirs = compiled(x), exact(x), rounded(x.bfloat16())
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        errors = [float((result - expected).square().mean().sqrt()) for result in (found, theirs.float())]
        assert 0 < errors[0] < 2 * errors[1]


@needs_compiler
def test_bfloat16_where_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "own"))
    monkeypatch.setattr("paddle2torch.compiled.network.library_path", lambda *_, **__: tmp_path / "none.so")
    monkeypatch.setattr("paddle2torch.compiled.network.has_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="does not multiply bfloat16"):
        compile_model(copy, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"float32, bfloat16 or int8, not torch\.float16"):
        compile_model(copy, dtype=torch.float16)
    assert not (tmp_path / "none.so").exists()


@needs_compiler
def test_the_second_time_it_is_only_loaded(
    compiled: CompiledNetwork, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    before = compiled.library.stat().st_mtime_ns
    again = load_pretrained(folder, compiled=True)
    assert isinstance(again, CompiledNetwork)
    assert again.library.stat().st_mtime_ns == before
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
def test_nothing_of_a_run_stays_behind(compiled: CompiledNetwork) -> None:
    x = image(2, 3, 48, 64)
    with torch.inference_mode():
        y = compiled(x)
    assert (x._use_count(), y._use_count()) == (1, 1), "handles that the library was given, or gave, are held"


@needs_compiler
def test_what_it_does_not_take(compiled: CompiledNetwork) -> None:
    with pytest.raises(ConfigError, match=r"float32 on the CPU, not torch\.float64"):
        compiled(image(1, 3, 48, 64).double())
    with pytest.raises(ConfigError, match="nothing can be trained"):
        compiled.train()(image(1, 3, 48, 64))
    compiled.eval()


def test_every_weight_and_setting_has_a_package_of_its_own(folder: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "own", small_config(nrtr=False, classes=9))
    assert library_path(other) != library_path(folder)
    # Not saved again: safetensors writes its metadata in whatever order.
    assert library_path(Path(shutil.copytree(folder, tmp_path / "same"))) == library_path(folder)


def test_every_form_has_packages_of_its_own(folder: Path, folder_int8: Path, tmp_path: Path) -> None:
    own = library_path(folder_int8, quantized=True)
    assert own != library_path(folder_int8)
    assert library_path(folder_int8, dtype=torch.bfloat16) not in (own, library_path(folder_int8))
    assert library_path(folder_int8) == library_path(folder), "of the same weights"
    same = Path(shutil.copytree(folder_int8, tmp_path / "same"))
    assert library_path(same, quantized=True) == own
    tensors = load_file(same / INT8_NAME)
    tensors[min(tensors)].view(-1)[0] += 1
    save_quantized(same, load_model(same), tensors)
    assert library_path(same, quantized=True) != own
    assert library_path(same) == library_path(folder)
    with pytest.raises(ConfigError, match="paddle2torch quantize"):
        library_path(folder, quantized=True)
    with pytest.raises(ConfigError, match="paddle2torch quantize"):
        load_pretrained(folder, compiled=True, quantized=True)


def test_compiling_what_is_no_model(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["compile", str(tmp_path / "nothing")])
    assert done.exit_code == 1
    assert "nothing" in done.stderr
    assert "Traceback" not in done.output


def test_without_a_compiler_it_runs_all_the_same(tmp_path: Path) -> None:
    import torch._inductor.config as compiler

    folder = saved(tmp_path / "own", small_config(nrtr=False, classes=10))
    with compiler.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        with pytest.raises(CompilerError, match=r"install g\+\+ or clang\+\+"):
            compile_model(folder)
        with pytest.warns(UserWarning, match="runs without being compiled"):
            model = load_pretrained(folder, compiled=True)
    assert isinstance(model, Network)
    assert not library_path(folder).exists()


@needs_compiler
def test_other_processes_load_it_again(compiled: CompiledNetwork) -> None:
    x = image(1, 3, 48, 320)
    again = pickle.loads(pickle.dumps(compiled))
    assert torch.equal(again(x), compiled(x))
    assert torch.equal(copy.deepcopy(compiled)(x), compiled(x))


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_runs_it(folder: Path, compiled: CompiledNetwork) -> None:
    code = (
        "import multiprocessing, sys, torch; from paddle2torch import load_pretrained; torch.set_num_threads(2);"
        "x = torch.linspace(-1, 1, 46080).reshape(1, 3, 48, 320);"
        "network = load_pretrained(sys.argv[1], compiled=True); network(x);"
        "print(multiprocessing.get_context('fork').Pool(1).apply_async(network, (x,)).get(timeout=60).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "torch.Size([1, 40, 8])", done.stderr


@needs_compiler
def test_it_has_nothing_to_save(compiled: CompiledNetwork) -> None:
    with pytest.raises(ConfigError, match="no tensors to save: load it without compiled=True"):
        compiled.state_dict()


@needs_compiler
def test_in_a_cache_that_cannot_be_written_it_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "own", small_config(nrtr=False, classes=11))
    (tmp_path / "file").touch()
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "file" / "home"))
    with pytest.warns(UserWarning, match="cannot be kept: .*PADDLE2TORCH_HOME.* runs without being compiled"):
        model = load_pretrained(folder, compiled=True)
    assert isinstance(model, Network)


def test_what_cannot_be_compiled_says_so(tmp_path: Path) -> None:
    folder = saved(tmp_path / "own", SMALL)
    with pytest.raises(ConfigError, match="leave compiled out"):
        load_pretrained(folder, compiled=True, precision="fp16")
    with pytest.raises(ConfigError, match="leave compiled out"):
        load_pretrained(folder, compiled=True, device="meta")
    with pytest.raises(ConfigError, match="leave quantized out"):
        load_pretrained(folder, compiled=True, quantized=True, precision="bf16")
    assert issubclass(CompilerError, ConversionError)
    with pytest.raises(ConfigError):
        load_compiled(tmp_path / "nothing")


def test_what_the_compiler_writes_on_its_way_is_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody says another place: not in a folder of /tmp whose name others can foresee."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    with compiler_files():
        assert os.environ[name] != str(native_home() / "compiler"), "that of these tests"
    monkeypatch.delenv(name)
    with compiler_files():
        assert os.environ[name] == str(native_home() / "compiler")
    assert name not in os.environ


def test_a_package_depends_on_what_shapes_a_network_and_on_nothing_else() -> None:
    names = {path.name for path in code_files()}
    assert {"pplcnetv3.py", "folding.py", "native_graph.py", "layers.py", "operators.cpp", "convolve.h"} <= names
    assert not names & {"cards.py", "languages.py", "charsets.py", "README.md"}
