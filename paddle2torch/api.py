"""`load_pretrained`: any converted model as an `nn.Module`, in the form that is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, overload

import torch

from paddle2torch.device import Precision, called_precision, choose_device, choose_dtype, place_network
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.network import Network
from paddle2torch.model_zoo.programs.config import is_program
from paddle2torch.moved import moved
from paddle2torch.zoo.folder import load_model, load_quantized
from paddle2torch.zoo.resolve import obtain_converted

_FOR_GPUS = ". On a GPU the torch.compile of PyTorch compiles what load_pretrained(..., fused=True) gives"

if TYPE_CHECKING:
    from paddle2torch.compiled.network import CompiledNetwork
    from paddle2torch.compiled.programs import CompiledProgram
    from paddle2torch.model_zoo.programs.network import Program


@overload
def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: Literal[False] = False,
    device: torch.device | str = "cpu",
    precision: Precision | torch.dtype = "fp32",
    dtype: torch.dtype | None = None,
) -> Network: ...


@overload
def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: bool,
    device: torch.device | str = "cpu",
    precision: Precision | torch.dtype = "fp32",
    dtype: torch.dtype | None = None,
) -> Network | CompiledNetwork: ...


def load_pretrained(
    model: str | Path,
    *,
    revision: str | None = None,
    fused: bool = False,
    quantized: bool = False,
    compiled: bool = False,
    device: torch.device | str = "cpu",
    precision: Precision | torch.dtype = "fp32",
    dtype: torch.dtype | None = None,
) -> Network | CompiledNetwork:
    """A converted model as a plain `nn.Module`, in evaluation mode.

    Args:
        model: a name of the zoo, which is converted first where it is not yet (this may download), the folder of a
            converted model, or a Hugging Face Hub repository, "org/name".
        revision: of a Hub repository: a branch, a tag, or a commit, by which what is loaded is pinned.
        fused: the form for running, which nothing trains: fused and folded (`model_zoo.forms.folding`), so that one
            convolution does its branches, normalisation and activation. Otherwise the model comes in the form it was
            converted in; `fuse(model)` has the structure of Paddle's exports.
        quantized: the form for running, with convolutions in int8. The model must have been quantized first
            (`paddle2torch.quantize`); its results differ a little.
        compiled: the form for running, compiled ahead of time for this CPU (`paddle2torch.compiled`). The first use on
            a machine takes half a minute or more; without a C++ compiler a warning says so, and it is not compiled.
        device: where its tensors go, "auto" for a GPU where there is one; a quantized or compiled one stays on the CPU.
        precision: "fp32", "fp16", "bf16", or a dtype: of its floating-point tensors; a quantized one has float32. What
            a compiled one computes in: "fp32", or "bf16" where the processor has it; its input and output are float32
            all the same.
        dtype: what `precision` was called before.

    A program (an export of a network that is not known here by name) comes as a `Program`: a plain module that is
    called with the program's inputs, by position or by name. With fused, what its weights alone decide is computed
    once, and convolutions do what follows them as well (`model_zoo.programs.running`); it has no int8 form.

    Returns:
        A `Network`, or compiled a module that is called in the same way; `.config` has its settings. Images are BGR,
        normalised as `.config.preprocess` says. A recogniser maps float32 (N, 3, 48, W) to probabilities, float32
        (N, T, classes); a detector (N, 3, H, W), both multiples of 32, to `{"maps": (N, 1, H, W)}`, the probability of
        text in each pixel; a classifier to probabilities, float32 (N, classes).

    Raises:
        ConfigError: for an unknown name, or forms that do not go together.
        SourceError: where no source of the model answers.
        FileFormatError: where the folder's files are not sound.

    Examples:
        >>> model = load_pretrained("en_PP-OCRv4_rec", fused=True)
        >>> model(torch.zeros(1, 3, 48, 320)).shape
        torch.Size([1, 40, 97])
    """
    folder = obtain_converted(model, revision)
    device = choose_device(device)
    dtype = choose_dtype(called_precision(precision, dtype), device)
    if is_program(folder):
        return cast(Network, _load_program(folder, fused, quantized, compiled, device, dtype))
    for form, wanted, dtypes in (("quantized", quantized, "float32"), ("compiled", compiled, "float32 or bfloat16")):
        if wanted and (device.type != "cpu" or str(dtype).removeprefix("torch.") not in dtypes.split()):
            raise ConfigError(
                f"a {form} model is {dtypes} on the CPU, not {dtype} on {device}: leave {form} out{_FOR_GPUS}"
            )
    if compiled:
        # Not before it is needed: it imports the exporter.
        from paddle2torch.compiled.kernel_library import CompilerError
        from paddle2torch.compiled.network import load_compiled

        try:
            return load_compiled(folder, quantized=quantized, dtype=dtype)
        except CompilerError as error:
            warnings.warn(f"{error}. {ModelConfig.load(folder).name} runs without being compiled", stacklevel=2)
    if quantized:
        return load_quantized(folder)
    network = load_model(folder)
    if fused or compiled:
        network = fold(network)
    network = network.to(device=device, dtype=dtype)
    return place_network(network, device, dtype) if fused or compiled else network


def _load_program(
    folder: Path, fused: bool, quantized: bool, compiled: bool, device: torch.device, dtype: torch.dtype
) -> Program | CompiledProgram:
    if quantized:
        raise ConfigError(f"{folder} holds a program, which has no quantized form: leave quantized out")
    if compiled and device.type != "cpu":
        raise ConfigError(f"a compiled program runs on the CPU, not on {device}: leave compiled out{_FOR_GPUS}")
    if compiled:
        if dtype != torch.float32:
            raise ConfigError(f"a compiled program computes in float32, not {dtype}: leave compiled out")
        # Not before it is needed: it imports the exporter.
        from paddle2torch.compiled.kernel_library import CompilerError
        from paddle2torch.compiled.programs import load_compiled_program

        try:
            return load_compiled_program(folder)
        except CompilerError as error:
            warnings.warn(f"{error}. {folder} runs without being compiled", stacklevel=3)
    # A fifth of a second that networks need not wait for.
    from paddle2torch.model_zoo.programs.running import fold_program
    from paddle2torch.zoo.programs import load_program

    program = load_program(folder, dtype)
    return (fold_program(program) if fused or compiled else program).to(device=device)


if not TYPE_CHECKING:  # or every misspelt name would be taken for one of them
    __getattr__ = moved(__name__, "convert")
