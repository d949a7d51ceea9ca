"""The kernels in `model_zoo/kernels`: made for the CPU at hand by its C++ compiler, once, and loaded into PyTorch.

Making them takes about fifteen seconds. The library is in the cache under a name that holds what it depends on:
sources, flags, PyTorch's version, the processor. It is native code: only what was made here is ever loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

from paddle2torch import model_zoo
from paddle2torch.atomic import land_file
from paddle2torch.cache import check_native, make_native_home, native_home
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.forms.operators import check_operators

SOURCES = Path(model_zoo.__file__).parent / "kernels"
HEADER = Path(torch.__file__).parent / "include/torch/csrc/stable/library.h"

FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-w"),
    "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native",
    # A product and a sum in one instruction, and no errno from it.
    *("-ffp-contract=fast", "-fno-math-errno"),
    # Apple's compiler has no OpenMP; the kernels then run on one thread.
    *(() if sys.platform == "darwin" else ("-fopenmp",)),
)


class CompilerError(ConversionError):
    """No C++ compiler, or one that fails: the network can be run without being compiled."""


def load_kernels() -> None:
    """Load the operators `torch.ops.paddle2torch`, which are made first where this machine has none.

    Raises `CompilerError` where they cannot be made, `ConfigError` where others may have written them.
    """
    if loaded():
        return
    library = kernels_path()
    if not library.is_file():
        make_kernels(library)
    check_native(library)
    # For everything in the process: compiled networks call their functions by name.
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    check_operators()


def loaded() -> bool:
    """Whether this process has the operators: they can only be registered once."""
    return hasattr(torch.ops.paddle2torch, "convolve")


def source_files() -> list[Path]:
    """The files that the library is made of."""
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".h", ".cpp"))


def kernels_path() -> Path:
    """Where the library is, or would be, on this machine."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.read_bytes())
    for part in (torch.__version__, platform.system(), processor(), *FLAGS):
        digest.update(f"\n{part}".encode())
    return native_home() / f"kernels-{digest.hexdigest()[:24]}.so"


def processor() -> str:
    """What tells processors apart that run different instructions: lines of Linux's `/proc/cpuinfo`, each once; of
    another system one line.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def find_compiler() -> str:
    """The C++ compiler, as PyTorch finds it (CXX, else g++ or clang++).

    Raises `CompilerError` where there is none, or PyTorch is too old for what it would compile.
    """
    if not HEADER.is_file():
        raise CompilerError(
            f"PyTorch {torch.__version__} is too old for our own operators; 2.10 or later has what they need"
        )
    builder = import_module("torch._inductor.cpp_builder")
    errors = import_module("torch._inductor.exc")
    try:
        return str(builder.get_cpp_compiler())
    except errors.InvalidCxxCompiler:
        raise CompilerError(
            "no C++ compiler was found, which makes the compiled form: install g++ or clang++, or name one in CXX"
        ) from None


def make_kernels(library: Path) -> None:
    """Compile the kernels into the file `library`. Raises `CompilerError` where they cannot be made."""
    compiler = find_compiler()
    root = Path(torch.__file__).parent
    make_native_home()
    with land_file(library) as temporary:
        command = [compiler, *FLAGS, f"-I{root / 'include'}", str(SOURCES / "operators.cpp"), "-o", str(temporary)]
        command += [f"-L{root / 'lib'}", "-ltorch_cpu"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise CompilerError(f"{compiler} could not be run: {error}") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            worst = next((line for line in lines if "error" in line), lines[-1])
            raise CompilerError(f"{compiler} could not compile the kernels: {worst}")
        temporary.chmod(0o700)
