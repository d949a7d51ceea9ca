"""The table's functions, by theme. Importing this package fills the table."""

from paddle2torch.model_zoo.programs.operations import (
    activation,
    arithmetic,
    arrays,
    boxes,
    convolution,
    creation,
    indexing,
    linear,
    losses,
    normalisation,
    pooling,
    reduction,
    resizing,
    shape,
    signals,
    sorting,
    suppression,
)
from paddle2torch.model_zoo.programs.table import TABLE

__all__ = [
    "TABLE",
    "activation",
    "arithmetic",
    "arrays",
    "boxes",
    "convolution",
    "creation",
    "indexing",
    "linear",
    "losses",
    "normalisation",
    "pooling",
    "reduction",
    "resizing",
    "shape",
    "signals",
    "sorting",
    "suppression",
]
