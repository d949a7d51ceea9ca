"""The table of operations: Paddle's kind -> a function with Paddle's meaning.

A function's positional parameters are the operation's operands in PIR's order, its keyword-only parameters are the
attributes
that it knows. An attribute that is not among them is refused when the graph is built, so that nothing is left out in
silence; so is a value that `choices` does not have. `numbers` names the operands that PyTorch wants as Python
numbers (a
shape, an axis): they come as a number or a list of numbers, also where Paddle computes them; `scalars` as one number.
`places` are `numbers` that come as tensors of one element each under `torch.export`, where they are computed.

`results` says what a function returns: one tensor (1), a tuple of n tensors (n), or a list of tensors ("list"). A place
of a tuple that its annotation calls None is not computed: a program that reads it is refused. `absent` names a place
that is not computed where an attribute has a value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import torch

from paddle2torch.model_zoo.errors import ConversionError

F = TypeVar("F", bound=Callable[..., Any])


class ProgramError(ConversionError):
    """A program cannot be converted, or cannot compute what it was given."""


@dataclass(frozen=True)
class Definition:
    """One kind of operation; see the module."""

    kind: str
    function: Callable[..., Any]
    operands: tuple[str, ...]
    required: int
    attributes: frozenset[str]
    needed: frozenset[str]
    numbers: frozenset[str] = frozenset()
    scalars: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    results: int | Literal["list"] = 1
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    device: bool = False
    absent: frozenset[int] = frozenset()
    absent_where: Mapping[int, tuple[str, Any, bool]] = field(default_factory=dict)

    def lacks(self, place: int, attributes: Mapping[str, Any]) -> bool:
        """Whether a result is not computed, by an operation with these attributes."""
        if place in self.absent_where:
            name, value, by_default = self.absent_where[place]
            return bool(attributes[name] == value) if name in attributes else by_default
        return place in self.absent


TABLE: dict[str, Definition] = {}

_RANDOM = """
bernoulli binomial class_center_sample dirichlet exponential gaussian gaussian_inplace gaussian_random gumbel_softmax
multinomial poisson randint random_routing randperm standard_gamma top_p_sampling truncated_gaussian_random uniform
uniform_inplace uniform_random uniform_random_batch_size_like
"""
_TRAINING = "adam adamw cross_entropy_with_softmax hsigmoid_loss lamb momentum nce rmsprop sgd warpctc warprnnt"
_REACHING = """
ap_facade ap_variadic load load_combine openvino_engine py_func py_layer pylayer read_file run_program save save_combine
tensorrt_engine
"""
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(_RANDOM.split(), "draws random numbers: the network was exported in training mode"),
    **dict.fromkeys(_TRAINING.split(), "belongs to training: export the network for inference"),
    **dict.fromkeys(_REACHING.split(), "reaches files or code from inside the program"),
}
"""Kinds that are refused for a reason, whatever else the table has."""

IGNORED_ATTRIBUTES = frozenset(
    {
        "place",
        "seed",
        "fix_seed",
        "dropout_seed",
        "momentum",
        "is_sparse",
        "sparse",
        "is_distributed",
    }
    | {"im2col_step", "use_quantizer", "infer_flags", "Scale_x", "Scale_y", "Scale_out", "fuse_with_relu", "use_addto"}
    | {
        "workspace_size_MB",
        "exhaustive_search",
        "force_fp32_output",
        "in_dtype",
        "force_cpu",
        "op_device",
        "num_classes_hint",
    }
)
"""Attributes without a meaning for the result at inference; `Scale_…` and `fused_…` are those of quantising and oneDNN
passes, which exports do not run."""


def operation(
    *kinds: str,
    numbers: Sequence[str] = (),
    scalars: Sequence[str] = (),
    places: Sequence[str] = (),
    results: int | Literal["list"] = 1,
    choices: Mapping[str, tuple[Any, ...]] | None = None,
    absent: Mapping[int, tuple[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Enter a function into the table under its name or `kinds`; see the module. `device` is given where it is
    taken.
    """

    def enter(function: F) -> F:
        parameters = list(inspect.signature(function).parameters.values())
        operands = [item for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD]
        keywords = [item for item in parameters if item.kind is item.KEYWORD_ONLY and item.name != "device"]
        defaults = {item.name: item.default for item in keywords}
        returned = get_args(get_type_hints(function).get("return"))
        for kind in kinds or (function.__name__.rstrip("_"),):
            if kind in TABLE:
                raise ValueError(f"{kind} has two definitions")
            TABLE[kind] = Definition(
                kind=kind,
                function=function,
                operands=tuple(item.name for item in operands),
                required=sum(item.default is item.empty for item in operands),
                attributes=frozenset(item.name for item in keywords),
                needed=frozenset(item.name for item in keywords if item.default is item.empty),
                numbers=frozenset(numbers) | frozenset(places),
                scalars=frozenset(scalars),
                places=frozenset(places),
                results=results,
                choices=dict(choices or {}),
                device=any(item.name == "device" for item in parameters),
                absent=frozenset(place for place, item in enumerate(returned) if item is None),
                absent_where={
                    place: (name, value, bool(defaults[name] == value))
                    for place, (name, value) in (absent or {}).items()
                },
            )
        return function

    return enter


_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
}
OF_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What PyTorch raises for attributes and operands of any type and size that a damaged file holds."""
UNDEFINED = frozenset({"Undefined(ALL_DTYPE)", "", "undefined", "Undefined"})


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's type of a name. Raises `ProgramError` for one that no operation here computes in."""
    if name not in _DTYPES:
        raise ProgramError(f"the type {name!r:.40} is not known")
    return _DTYPES[name]


SIZE_AT_MOST = 1 << 28
"""Elements of one tensor that an operation makes from numbers alone: a damaged shape must not take the memory."""


def check_size(shape: Sequence[Any], what: str) -> None:
    """Raise `ProgramError` where a tensor of this shape would be too large to be meant."""
    size = 1
    for extent in shape:
        if not isinstance(extent, int):
            return  # symbolic, while a graph is exported
        if extent < 0:
            raise ProgramError(f"{what}: the shape {tuple(shape)} has a negative size")
        size *= max(extent, 1)
    if size > SIZE_AT_MOST:
        raise ProgramError(f"{what}: a tensor of shape {tuple(shape)} is too large")
