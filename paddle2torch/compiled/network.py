"""Networks compiled ahead of time for the CPU at hand, so that reading one image does not wait for a compiler.

A library is made once (about half a minute), by torch.export and AOTInductor from the folded form, with free batch and
image sizes; its convolutions are our own kernels (`model_zoo.forms.native`). It is in the cache under a name that
holds everything it depends on: weights, settings, the networks' code, PyTorch's version, the processor. It is native
code: only libraries that were made here are ever loaded.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.atomic import land_file
from paddle2torch.cache import make_native_home
from paddle2torch.compiled.kernel_library import CompilerError, find_compiler, load_kernels
from paddle2torch.compiled.packages import (
    Library,
    first_line,
    only_compiler_errors,
    package_for,
    write_library,
)
from paddle2torch.compiled.serving import (
    LINE_WIDTH_AT_LEAST,
    Served,
    captured,
    compare,
    compare_rounded,
    example_images,
)
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.forks import survive_forks
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig, RecPreprocess, one_size
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.native import (
    BEST,
    NativeClasses,
    has_bfloat16,
    takes_images,
    to_native,
    without_classes,
)
from paddle2torch.model_zoo.forms.native_graph import add, compiler_options, describe_operators, join, merge
from paddle2torch.model_zoo.forms.packing import pack
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.network import Network
from paddle2torch.zoo.folder import WEIGHTS_NAME, load_model, load_quantized, quantized_file

PAGE_SIZE_AT_LEAST = 64  # pixels

HOW_LONG = "about half a minute, for the largest models a minute and a half"
"""What is said of the time that compiling takes on two cores."""


class CompiledNetwork(nn.Module):
    """A library as a module: in and out as the `Network` it was made of, in evaluation; it has no parameters.

    Input and output are float32, also where it computes in bfloat16.

    Several threads may call it; as many as there are cores run at once. Pickled, as for other processes of this
    machine, it is loaded again from its folder. An input that is smaller than what it takes (a line of less than 16
    pixels, a page of less than 64) goes through the folded network, which is then loaded.
    """

    def __init__(
        self, library: Path, folder: Path, quantized: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = ModelConfig.load(folder)
        self.library = library
        self.folder = folder
        self.quantized = quantized
        self.dtype = dtype
        self._library = Library(library)
        # Of a recogniser: as many probabilities as there are classes, or what is told of the best one.
        self.classes: int = self.config.head.options["classes"] if self.config.task == "rec" else 0
        self._all = (torch.empty(self.classes),) if self.classes else ()
        self._best = torch.empty(BEST)
        survive_forks()
        self.eval()

    def forward(self, x: Tensor) -> Any:
        """x: float32 (N, 3, H, W) on the CPU; see `Network`."""
        self._check(x)
        if not self._takes(x):
            output = self._eager(x.to(self.dtype))
            return {"maps": output["maps"].float()} if isinstance(output, dict) else output.float()
        # The compiled code assumes contiguous input, unchecked.
        output = self._library.run(x.contiguous(), *self._all)
        return {"maps": output} if self.config.task == "det" else output

    def best_classes(self, x: Tensor) -> Tensor:
        """The best class of each step and its probability, float32 (N, T, 2), as a recogniser's `forward` has them.

        The probabilities of the others are not made, which is a tenth of some networks' time. Of equal classes it is
        the first. x: as for `forward`. Raises `ConfigError` for other networks.
        """
        self._check(x)
        if not self.classes:
            raise ConfigError(f"{self.config.name} is no recogniser: it has no classes of steps")
        if not self._takes(x):
            scores, ids = self._eager(x.to(self.dtype)).float().max(-1)
            return torch.stack((ids.float(), scores), -1)
        return self._library.run(x.contiguous(), self._best)

    def _check(self, x: Tensor) -> None:
        if self.training:
            raise ConfigError(f"{self.config.name} is compiled: nothing can be trained, load it without compiled=True")
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise ConfigError(f"{self.config.name} takes float32 on the CPU, not {x.dtype} on {x.device}")

    def __reduce__(self) -> tuple[Any, ...]:
        """See `pickle`: what is kept is where it is."""
        return _load_again, (self.folder, self.quantized, self.dtype)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Raise `ConfigError`: an empty one would be saved in silence."""
        raise ConfigError(f"{self.config.name} is compiled and has no tensors to save: load it without compiled=True")

    def _takes(self, x: Tensor) -> bool:
        height, width = x.shape[2:]
        if (size := one_size(self.config.preprocess)) is not None:
            return (height, width) == size[1:]
        if isinstance(self.config.preprocess, RecPreprocess):
            return bool(height == self.config.preprocess.image_shape[1] and width >= LINE_WIDTH_AT_LEAST)
        return height % 32 == width % 32 == 0 and min(height, width) >= PAGE_SIZE_AT_LEAST

    @cached_property
    def _eager(self) -> nn.Module:
        return _to_run(self.folder, self.quantized).to(self.dtype)

    def extra_repr(self) -> str:
        """The library."""
        return str(self.library)


def _load_again(folder: Path, quantized: bool, dtype: torch.dtype) -> CompiledNetwork:
    return load_compiled(folder, quantized=quantized, dtype=dtype)


def load_compiled(folder: Path, *, quantized: bool = False, dtype: torch.dtype = torch.float32) -> CompiledNetwork:
    """The compiled form of a converted model; made first where this machine has none, which takes half a minute.

    quantized: with its convolutions in int8 (`paddle2torch.quantization`). dtype: what it computes in, float32 or,
    where the processor has it, bfloat16. Raises `CompilerError` where it cannot be made, or kept, here.
    """
    library = library_path(folder, quantized=quantized, dtype=dtype)
    if not library.is_file():
        find_compiler()
        name = ModelConfig.load(folder).name
        warnings.warn(f"{name} is compiled for this CPU now, once: this takes {HOW_LONG}", stacklevel=3)
        with only_compiler_errors(name):
            compile_model(folder, quantized=quantized, dtype=dtype)
    with only_compiler_errors(library.name):
        load_kernels()
    return CompiledNetwork(library, folder, quantized, dtype)


def library_path(folder: Path, *, quantized: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """Where the library of a converted model is, or would be, on this machine.

    Its name is a digest and nothing else: what a model calls itself must not choose a file.
    """
    ModelConfig.load(folder)  # raises where it is not a model
    settings = file_in(folder, CONFIG_NAME).read_bytes()
    parts = (
        str(dtype),
        sha256_of(file_in(folder, WEIGHTS_NAME)),
        sha256_of(quantized_file(folder)) if quantized else "",
        hashlib.sha256(settings).hexdigest(),
    )
    return package_for(*parts, suffix=".so")


class _Native(Served):
    """What is compiled: float32 in and out, whatever is computed in."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        super().__init__(to_native(network, dtype))
        # An image goes to the first convolution as it is, if that is one of our kernels.
        self.dtype = torch.float32 if takes_images(self.network) else dtype

    def forward(self, image: Tensor) -> Tensor:
        """See `Served`."""
        return super().forward(image.to(self.dtype)).float()


class _NativeRecogniser(_Native):
    """A recogniser, which is told what is wanted of its classes."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        features, last = without_classes(network)
        super().__init__(features, dtype)
        self.classes = NativeClasses(last, dtype)

    def forward(self, image: Tensor, results: Tensor) -> Tensor:  # type: ignore[override]  # another input
        """image: as in `Served`. results: see `NativeClasses`."""
        found: Tensor = self.classes(self.network(image.to(self.dtype)), results)
        return found


def _check_best(made: Library, every: Tensor, images: Sequence[Tensor]) -> None:
    """Raise `ConversionError` where the best classes that a library gives are not those of its probabilities."""
    for image in images:
        probabilities, best = made.run(image, every), made.run(image, torch.empty(BEST))
        largest = probabilities.amax(-1)
        of_best = probabilities.gather(-1, best[..., :1].long())[..., 0]
        if not torch.equal(of_best, largest) or not torch.allclose(best[..., 1], largest, rtol=0, atol=1e-6):
            raise ConversionError("the compiled network gives other best classes than its probabilities say")


def compile_model(folder: Path, *, quantized: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """Compile a converted model for this CPU and return the library's path; compare it with the network first.

    Raises `ConfigError` for a dtype that it cannot compute in, `CompilerError` without a working C++ compiler,
    `ConversionError` for a network that cannot be compiled or whose library returns something else. Then nothing was
    written.
    """
    library = library_path(folder, quantized=quantized, dtype=dtype)
    load_kernels()
    find_compiler()
    if dtype not in (torch.float32, torch.bfloat16) or (quantized and dtype != torch.float32):
        raise ConfigError(f"a compiled network computes in float32, bfloat16 or int8, not {dtype}")
    if dtype == torch.bfloat16 and not has_bfloat16():
        raise ConfigError("this processor does not multiply bfloat16 (AVX512_BF16): leave it out")
    network = _to_run(folder, quantized)
    config = network.config
    native = _NativeRecogniser(network, dtype) if config.task == "rec" else _Native(network, dtype)
    every = (torch.empty(native.classes.classes),) if isinstance(native, _NativeRecogniser) else ()
    native.network = pack(native.network, [(torch.zeros(size, dtype=native.dtype),) for size in _usual_sizes(config)])
    describe_operators()
    program = captured(native.eval(), *every)
    merge(program)
    join(program)
    add(program)
    errors = import_module("torch._inductor.exc")
    make_native_home()
    with land_file(library) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write_library(program, temporary, compiler_options())
        except (errors.InductorError, errors.CppCompileError) as error:
            raise CompilerError(f"{config.name} could not be compiled: {first_line(error)}") from error
        made = Library(temporary)

        def run(x: Tensor) -> np.ndarray:
            return made.run(x, *every).numpy()

        images, what = example_images(config), "the compiled output"
        if quantized:
            compare_rounded(_to_run(folder, False), Served(network), run, images, what)
        elif dtype == torch.bfloat16:
            half = Served(copy.deepcopy(network).bfloat16())
            compare_rounded(network, lambda x: half(x.bfloat16()), run, images, what)
        else:
            compare(Served(network).eval(), run, images, what)
        if every:
            _check_best(made, every[0], images)
    return library


def _to_run(folder: Path, quantized: bool) -> Network:
    return load_quantized(folder) if quantized else fold(load_model(folder))


def _usual_sizes(config: ModelConfig) -> list[tuple[int, ...]]:
    """Sizes of batches (N, C, H, W) that the library is to be fast for."""
    if (size := one_size(config.preprocess)) is not None:
        return [(n, *size) for n in (1, 6)]
    if isinstance(config.preprocess, RecPreprocess):
        channels, height, _ = config.preprocess.image_shape
        return [(n, channels, height, w) for n, w in ((1, 96), (1, 320), (6, 320), (3, 777), (6, 600), (1, 1280))]
    return [(1, 3, height, width) for height, width in ((320, 320), (640, 640), (736, 1280), (960, 704))]
