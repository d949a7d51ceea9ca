"""Networks compiled ahead of time for the CPU at hand, so that nobody waits for a compiler to read one image.

A package is made once (a minute or two), by torch.export and AOTInductor from the folded form, with free batch and
image sizes. It lies in the cache under a name that holds everything it depends on: weights, settings, the networks'
code, PyTorch's version, the CPU's instructions. It is native code: only packages that were made here are ever loaded.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
import warnings
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch import model_zoo
from paddle2torch.converters.files import sha256_of
from paddle2torch.exporting import LINE_WIDTH_AT_LEAST, TOLERANCE, Served, captured, compare, example_images
from paddle2torch.landing import land_file
from paddle2torch.model_zoo.config import CONFIG_NAME, ClsPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.folding import fold
from paddle2torch.model_zoo.network import Network
from paddle2torch.model_zoo.packing import pack
from paddle2torch.sources import cache_dir
from paddle2torch.store import WEIGHTS_NAME, load_model, load_quantized, quantized_file

PAGE_SIZE_AT_LEAST = 64  # pixels
INT8_TOLERANCE = 1e-2
"""Of the largest value: code that rounds otherwise moves inputs between two steps to the other one, here and there."""

OPTIONS = {
    # Weights are laid out for the convolutions once, now.
    "freezing": True,
    # As many threads as the process has when it runs, not as there are now.
    "cpp.dynamic_threads": True,
}


class CompilerError(ConversionError):
    """No C++ compiler, or one that fails: the network can be run without being compiled."""


class CompiledNetwork(nn.Module):
    """A package as a module: in and out as the `Network` it was made of, in evaluation; it has no parameters.

    Several threads may call it; they take turns. An input that is smaller than what a package takes (a line of less
    than 16 pixels, a page of less than 64) goes through the folded network, which is then loaded.
    """

    def __init__(self, package: Path, folder: Path, quantized: bool = False) -> None:
        super().__init__()
        self.config = ModelConfig.load(folder)
        self.package = package
        self.folder = folder
        self.quantized = quantized
        self._run = _load(package)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """x: float32 (N, 3, H, W) on the CPU; see `Network`."""
        if self.training:
            raise ConfigError(f"{self.config.name} is compiled: nothing can be trained, load it without compiled=True")
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ConfigError(f"{self.config.name} is compiled for float32 on the CPU, not {x.dtype} on {x.device}")
        if not self._takes(x):
            return self._eager(x)
        # The code counts on this layout and does not look.
        output = self._run.boxed_run([x.contiguous()])[0]
        return {"maps": output} if self.config.task == "det" else output

    def _takes(self, x: Tensor) -> bool:
        height, width = x.shape[2:]
        if isinstance(self.config.preprocess, RecPreprocess):
            return bool(height == self.config.preprocess.image_shape[1] and width >= LINE_WIDTH_AT_LEAST)
        if isinstance(self.config.preprocess, ClsPreprocess):
            return (height, width) == tuple(self.config.preprocess.image_shape[1:])
        return height % 32 == width % 32 == 0 and min(height, width) >= PAGE_SIZE_AT_LEAST

    @cached_property
    def _eager(self) -> nn.Module:
        return _to_run(self.folder, self.quantized)

    def extra_repr(self) -> str:
        """The package."""
        return str(self.package)


def load_compiled(folder: Path, *, quantized: bool = False) -> CompiledNetwork:
    """The compiled form of a converted model; made first where this machine has none, which takes about a minute.

    quantized: with its convolutions in int8 (`paddle2torch.quantization`). Raises `CompilerError` where it cannot be
    made here.
    """
    package = package_path(folder, quantized=quantized)
    if not package.is_file():
        _need_compiler()
        name = ModelConfig.load(folder).name
        warnings.warn(f"{name} is compiled for this CPU now, once: this takes a minute or two", stacklevel=3)
        compile_model(folder, quantized=quantized)
    return CompiledNetwork(package, folder, quantized)


def package_path(folder: Path, *, quantized: bool = False) -> Path:
    """Where the package of a converted model is, or would be, on this machine."""
    name = ModelConfig.load(folder).name
    settings = (folder / CONFIG_NAME).read_bytes()
    parts = (
        sha256_of(folder / WEIGHTS_NAME),
        sha256_of(quantized_file(folder)) if quantized else "",
        hashlib.sha256(settings).hexdigest(),
        _code_digest(),
        torch.__version__,
        platform.system(),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        repr(sorted(OPTIONS.items())),
    )
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return cache_dir() / "compiled" / f"{name}-{'int8-' if quantized else ''}{key[:24]}.pt2"


@functools.cache
def _code_digest() -> str:
    """Of the code that makes networks: what was compiled from other code is another package."""
    digest = hashlib.sha256()
    for path in sorted(Path(model_zoo.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_model(folder: Path, *, quantized: bool = False) -> Path:
    """Compile a converted model for this CPU and give the package's path; compare it with the network first.

    Raises `CompilerError` without a working C++ compiler, `ConversionError` for a network that cannot be compiled or
    whose package gives something else. Then nothing was written.
    """
    package = package_path(folder, quantized=quantized)
    _need_compiler()
    network = _to_run(folder, quantized)
    config = network.config
    program = captured(Served(pack(network, [torch.zeros(size) for size in _usual_sizes(config)])).eval())
    inductor = import_module("torch._inductor")
    errors = import_module("torch._inductor.exc")
    # It tells of its own deprecated parts, and of each guess about a size.
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    with land_file(package) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = temporary.with_suffix(".pt2")  # PyTorch insists on the name
        try:
            inductor.aoti_compile_and_package(
                program, package_path=str(made), inductor_configs=dict(OPTIONS)
            )  # it adds to it
            made.replace(temporary)
        except (errors.InductorError, errors.CppCompileError) as error:
            raise CompilerError(f"{config.name} could not be compiled: {_first_line(error)}") from error
        finally:
            made.unlink(missing_ok=True)
        run = _load(temporary)
        compare(
            Served(network).eval(),
            lambda x: run.boxed_run([x])[0].numpy(),
            example_images(config),
            "the compiled output",
            INT8_TOLERANCE if quantized else TOLERANCE,
        )
    return package


def _to_run(folder: Path, quantized: bool) -> Network:
    return load_quantized(folder) if quantized else fold(load_model(folder))


def _usual_sizes(config: ModelConfig) -> list[tuple[int, ...]]:
    """Sizes of batches (N, C, H, W) that the package is to be fast for."""
    if isinstance(config.preprocess, RecPreprocess):
        channels, height, _ = config.preprocess.image_shape
        return [(n, channels, height, w) for n, w in ((1, 96), (1, 320), (6, 320), (3, 777), (6, 600), (1, 1280))]
    if isinstance(config.preprocess, ClsPreprocess):
        return [(n, *config.preprocess.image_shape) for n in (1, 6)]
    return [(1, 3, height, width) for height, width in ((320, 320), (640, 640), (736, 1280), (960, 704))]


def _need_compiler() -> None:
    builder = import_module("torch._inductor.cpp_builder")
    errors = import_module("torch._inductor.exc")
    try:
        builder.get_cpp_compiler()
    except errors.InvalidCxxCompiler:
        raise CompilerError(
            "no C++ compiler was found, which makes the compiled form: install g++ or clang++, or name one in CXX"
        ) from None


def _load(package: Path) -> Any:
    # `torch._inductor.aoti_load_package` is this, after an import of the whole compiler: seconds.
    aoti: Any = torch._C._aoti
    return aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
