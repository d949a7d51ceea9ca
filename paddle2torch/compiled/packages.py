"""Packages of AOTInductor in the cache: what they are named by, how they are made and loaded.

Of a network only the library inside is kept: PyTorch's loader copies it to a temporary folder at every start, and keeps
all of Python's threads waiting while it runs.

Both are native code: only what was made on this machine is ever loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import warnings
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paddle2torch import model_zoo
from paddle2torch.atomic import WriteError
from paddle2torch.cache import check_native, native_home
from paddle2torch.compiled.kernel_library import CompilerError, processor, source_files
from paddle2torch.device import available_cores

ABOUT_MODELS = ("cards.py", "charsets.py", "errors.py", "languages.py", "strict_json.py")
"""Modules of `model_zoo` that shape no network: what was compiled stays valid when they change."""
OPTIONS = {
    # Weights are laid out for the convolutions once, now.
    "freezing": True,
    # As many threads as the process has when it runs, not as there are now.
    "cpp.dynamic_threads": True,
}


def package_for(*parts: str, suffix: str = ".pt2") -> Path:
    """Where the package of a model with these contents is, or would be, on this machine.

    Its name is a digest and nothing else: what a model calls itself must not choose a file.
    """
    machine = (torch.__version__, platform.system(), platform.machine(), processor(), repr(sorted(OPTIONS.items())))
    key = hashlib.sha256("\n".join((*parts, _code_digest(), *machine)).encode()).hexdigest()
    return native_home() / f"{key[:32]}{suffix}"


@functools.cache
def _code_digest() -> str:
    """Of the code that makes networks: what was compiled from other code is another package."""
    digest = hashlib.sha256()
    for path in code_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    """The files that a compiled network depends on: networks, their forms, kernels."""
    networks = Path(model_zoo.__file__).parent
    code = (path for path in networks.rglob("*.py") if path.name not in ABOUT_MODELS)
    return [*sorted(code), *source_files()]


@contextlib.contextmanager
def only_compiler_errors(name: str) -> Iterator[None]:
    """A cache, or a temporary folder of the compiler, that cannot be written as `CompilerError`."""
    try:
        yield
    except (WriteError, OSError) as error:
        raise CompilerError(f"the compiled form of {name} cannot be kept: {error}") from error


@contextlib.contextmanager
def compiler_files() -> Iterator[None]:
    """Keep what PyTorch's compiler writes on its way in the cache: by default that is a folder in /tmp whose name
    others can foresee, and it ends in the package.
    """
    name, former = "TORCHINDUCTOR_CACHE_DIR", os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if former is None:
        os.environ[name] = str(native_home() / "compiler")
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]


def write_package(graph: torch.export.ExportedProgram, target: Path, options: Mapping[str, Any]) -> None:
    """Compile a captured graph into the file `target`, which nobody else may read or write.

    options: of the compiler, beside `OPTIONS`. Raises what the compiler raises.
    """
    inductor = import_module("torch._inductor")
    # It tells of its own deprecated parts, and of each guess about a size.
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    made = target.with_suffix(".pt2")  # PyTorch insists on the name
    try:
        with compiler_files(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inductor.aoti_compile_and_package(graph, package_path=str(made), inductor_configs={**OPTIONS, **options})
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
    target.chmod(0o600)


def write_library(graph: torch.export.ExportedProgram, target: Path, options: Mapping[str, Any]) -> None:
    """As `write_package`, but what is written is the library in the package, for `Library`."""
    write_package(graph, target, options)
    with zipfile.ZipFile(target) as package:
        (name,) = (name for name in package.namelist() if name.endswith((".so", ".pyd", ".dylib", ".dll")))
        code = package.read(name)
    target.write_bytes(code)


class Library:
    """A compiled network with one output, through the C interface of AOTInductor.

    Several threads may run it at once, as many as there are cores; more wait. Python's other threads go on
    meanwhile. Raises `ConfigError` where others may have written the file.
    """

    def __init__(self, path: Path) -> None:
        check_native(path)
        self._library = ctypes.CDLL(str(path))
        container = ctypes.c_void_p()
        runners = ctypes.c_size_t(available_cores())
        create = self._library.AOTInductorModelContainerCreateWithDevice
        _check(create(ctypes.byref(container), runners, b"cpu", None))
        self._container = container
        weakref.finalize(self, self._library.AOTInductorModelContainerDelete, container).atexit = False

    def run(self, *tensors: Tensor) -> Tensor:
        """The output for contiguous tensors."""
        aoti: Any = torch._C._aoti
        # The network takes over its inputs' handles, and PyTorch that of the output.
        given = aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))
        inputs = (ctypes.c_void_p * len(given))(*(_pointer_in(handle, None) for handle in given))
        count, outputs, one = ctypes.c_size_t(len(given)), (ctypes.c_void_p * 1)(), ctypes.c_size_t(1)
        _check(self._library.AOTInductorModelContainerRun(self._container, inputs, count, outputs, one, None, None))
        output: Tensor
        (output,) = aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule_of(outputs[0], None, None)])
        return output


_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_capsule_of = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
"""Addresses as PyTorch hands them to Python, without a name."""


def _check(status: int) -> None:
    """Raise `RuntimeError`, as PyTorch's operators do, for a call that failed."""
    if status != 0:
        raise RuntimeError("the compiled network failed, and said why on stderr")


def load_package(package: Path) -> Any:
    """The loaded package, which `boxed_run` runs, in as many threads at once as there are cores.

    Raises `ConfigError` where others may have written it.
    """
    check_native(package)
    # `torch._inductor.aoti_load_package` is this, after an import of the whole compiler: seconds.
    aoti: Any = torch._C._aoti
    return aoti.AOTIModelPackageLoader(str(package), "model", False, available_cores(), -1)


def first_line(error: BaseException) -> str:
    """What a compiler says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
