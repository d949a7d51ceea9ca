"""Programs compiled ahead of time for the CPU at hand, as networks are (`paddle2torch.compiled.network`).

What is compiled is the form for running (`model_zoo.programs.running`), captured by `torch.export` with as many free
sizes as it can prove. Inputs for which the package is not right go through the same form without being compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paddle2torch.atomic import land_file
from paddle2torch.cache import make_native_home
from paddle2torch.compiled.guards import Conditions, conditions_of
from paddle2torch.compiled.kernel_library import CompilerError, find_compiler, load_kernels
from paddle2torch.compiled.packages import (
    first_line,
    load_package,
    only_compiler_errors,
    package_for,
    write_package,
)
from paddle2torch.compiled.program_graphs import (
    FREEST_FIRST,
    Captured,
    Free,
    capture,
    compare,
    free_sizes,
    less_free,
    usual_examples,
)
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.forks import survive_forks
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConfigError, ConversionError
from paddle2torch.model_zoo.forms.folded import FoldedConv2d
from paddle2torch.model_zoo.forms.native import native_convolution
from paddle2torch.model_zoo.forms.native_graph import compiler_options, describe_operators, join, merge
from paddle2torch.model_zoo.forms.packing import pack
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.network import replace_module
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.model_zoo.programs.graph import GRAPH_NAME
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.model_zoo.programs.running import fold_program
from paddle2torch.zoo.folder import WEIGHTS_NAME
from paddle2torch.zoo.programs import load_program

WEIGHTS_AT_MOST = 1 << 19
"""Of a convolution by one of our kernels: 1024 channels to 256 take 0.96 of oneDNN's time, 2048 to 512 1.3 (7x7)."""

_CONDITIONS, _BATCH_OF_ONE = "paddle2torch_conditions", "paddle2torch_batch_of_one"
"""What is kept inside a package beside the code."""

HOW_LONG = "a minute or two"
"""As of networks."""


class CompiledProgram(nn.Module):
    """A package as a module: called as the `Program` it was made of, in evaluation; it has no parameters.

    Several threads may call it; they take turns. Pickled, as for other processes of this machine, it is loaded again
    from its folder. Sizes that PyTorch could not prove go through the folded program, which is then loaded.
    """

    def __init__(self, package: Path, folder: Path) -> None:
        super().__init__()
        self.config = ProgramConfig.load(folder)
        self.package = package
        self.folder = folder
        self._run = load_package(package)
        metadata = self._run.get_metadata()
        self._conditions = Conditions(metadata[_CONDITIONS])
        self._batch_of_one = metadata[_BATCH_OF_ONE] == "yes"
        survive_forks()
        self.eval()

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The program's inputs, by position or by name, on the CPU; see `Program`."""
        if self.training:
            raise ConfigError(f"{self.config.name} is compiled: nothing can be trained, load it without compiled=True")
        given = self._given(inputs, named)
        if not self.takes(given):
            return self._eager(*given)
        # The code counts on this layout and does not look.
        outputs = self._run.boxed_run([x.contiguous() for x in given])
        return outputs[0] if self.config.fetches == 1 else tuple(outputs)

    def takes(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether the package itself computes inputs of these sizes."""
        return self._conditions.hold(inputs, batch_of_one=self._batch_of_one)

    def _given(self, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[Tensor, ...]:
        feeds = self.config.feeds
        names = [feed.name for feed in feeds[len(inputs) :]]
        if len(inputs) > len(feeds) or set(named) != set(names):
            raise ConfigError(f"{self.config.name} takes {', '.join(feed.name for feed in feeds)}, each of them once")
        given = (*inputs, *(named[name] for name in names))
        for feed, x in zip(feeds, given, strict=True):
            if x.device.type != "cpu" or str(x.dtype).removeprefix("torch.") != feed.dtype:
                raise ConfigError(
                    f"{self.config.name}: {feed.name} is {feed.dtype} on the CPU, not {x.dtype} on {x.device}"
                )
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        """See `pickle`: what is kept is where it is."""
        return load_compiled_program, (self.folder,)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Raise `ConfigError`: an empty one would be saved in silence."""
        raise ConfigError(f"{self.config.name} is compiled and has no tensors to save: load it without compiled=True")

    @cached_property
    def _eager(self) -> Program:
        return fold_program(load_program(self.folder))

    def extra_repr(self) -> str:
        """The package."""
        return str(self.package)


def load_compiled_program(folder: Path) -> CompiledProgram:
    """The compiled form of a converted program; made first where this machine has none, which takes about a minute.

    Raises `CompilerError` where it cannot be made, or kept, here, `ConversionError` where the program cannot be
    compiled.
    """
    package = program_package(folder)
    if not package.is_file():
        find_compiler()
        name = ProgramConfig.load(folder).name
        warnings.warn(f"{name} is compiled for this CPU now, once: this takes {HOW_LONG}", stacklevel=3)
        with only_compiler_errors(name):
            compile_program(folder)
    with only_compiler_errors(package.name):
        load_kernels()
    return CompiledProgram(package, folder)


def program_package(folder: Path) -> Path:
    """Where the package of a converted program is, or would be, on this machine."""
    ProgramConfig.load(folder)  # raises where it is not a program
    return package_for(*(sha256_of(file_in(folder, name)) for name in (WEIGHTS_NAME, GRAPH_NAME, CONFIG_NAME)))


def compile_program(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Compile a converted program for this CPU; the package's path, and what should be known about it.

    The package is compared with the program first, at up to four sizes. Raises `CompilerError` without a working C++
    compiler, `ConversionError` for a program whose control flow or operations cannot be captured, or whose package
    gives something else. Then nothing was written.
    """
    package = program_package(folder)
    load_kernels()
    find_compiler()
    program = load_program(folder)
    native = native_form(fold_program(program))
    describe_operators()
    refusals: list[str] = []
    left: Sequence[Free] = FREEST_FIRST
    while left:
        captured = capture(native, left)
        try:
            _compile(package, program, captured)
            return package, notes_of_package(captured)
        except ConversionError as error:
            if isinstance(error, CompilerError):
                raise
            refusals.append(str(error))
        # What a loop forbids at one size it forbids at all.
        left = less_free(program, captured.free) if not _has_loop(program) else ()
    loops = " It has a loop, whose places the compiler may not know." if _has_loop(program) else ""
    raise ConversionError(
        f"{refusals[0]}.{loops} Load {program.config.name} with fused=True in place of compiled=True: that form needs "
        f"no compiler"
    )


def native_form(folded: Program) -> Program:
    """The form for running as the compiler gets it: our kernels for its convolutions where they are faster, the weights
    of the others laid out for oneDNN. `folded` is changed.
    """
    for path, module in list(folded.named_modules()):
        if isinstance(module, FoldedConv2d) and module.weight.numel() <= WEIGHTS_AT_MOST:
            replace_module(folded, path, native_convolution(module))
    return pack(folded, usual_examples(folded))


def _compile(package: Path, program: Program, captured: Captured) -> None:
    """Write the package of a captured program, compared with the program."""
    # Asked again, the reason why they cannot be read is raised.
    conditions = captured.conditions or conditions_of(captured.program, len(program.config.feeds))
    merge(captured.program)
    join(captured.program)
    make_native_home()
    with land_file(package) as temporary:
        one = "yes" if captured.batch_of_one else "no"
        _make(captured, temporary, {_CONDITIONS: conditions.text, _BATCH_OF_ONE: one}, program)
        loaded = load_package(temporary)

        def run(*inputs: Tensor) -> list[Tensor]:
            return list(loaded.boxed_run([x.contiguous() for x in inputs]))

        compare(program, captured, run, "the compiled output")


def _has_loop(program: Program) -> bool:
    return any(node.kind == "while" for node in program.program.walk())


def _make(captured: Captured, target: Path, metadata: dict[str, str], program: Program) -> None:
    """Write the package of a captured program; what the compiler raises becomes a `ConversionError`."""
    errors = import_module("torch._inductor.exc")
    reasons: list[str] = []
    # What lays out the weights beforehand loses sizes that are known when a loop has ended.
    for options in ({}, {"freezing": False}):
        try:
            given = {"aot_inductor.metadata": metadata, **compiler_options(), **options}
            write_package(captured.program, target, given)
        except errors.CppCompileError as error:
            raise CompilerError(f"{program.config.name} could not be compiled: {first_line(error)}") from error
        except Exception as error:  # what the compiler raises for a graph that it does not take has no common class
            reasons.append(first_line(error))
        else:
            return
    raise ConversionError(f"PyTorch's compiler does not take {program.config.name}: {reasons[-1]}")


def notes_of_package(captured: Captured) -> tuple[str, ...]:
    """Which sizes are compiled, where not all that the program leaves free are."""
    if captured.free == "all":
        return ()
    return (f"{free_sizes(captured)} in the compiled form, other sizes run without it: PyTorch could not prove more",)
