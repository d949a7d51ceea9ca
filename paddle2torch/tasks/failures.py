"""What is said of errors that end one picture or one call, and not the run."""

from __future__ import annotations

import torch
from torch import Tensor

from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.show import show_text

OUT_OF_MEMORY = "there is not enough memory for it"


def cannot_be_run(name: str, x: Tensor, error: RuntimeError) -> str:
    """The message for the model `name` on an input `x`, of which PyTorch said `error`.

    Settings may come from outside and fit their weights by chance.
    """
    reason = OUT_OF_MEMORY if _says_out_of_memory(error) else show_text(" ".join(str(error).split()), 300)
    return f"{name} cannot be run on an input of {list(x.shape)}: {reason}"


def what_went_wrong(error: Exception) -> str:
    """The message of an error that ends one picture of a run.

    Our own errors are made for users. Of any other the type is named, as it may be our fault, and its first line.
    """
    if isinstance(error, Paddle2TorchError):
        return str(error)
    if _says_out_of_memory(error):
        return OUT_OF_MEMORY
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {show_text(first, 300)}" if first else type(error).__name__


def _says_out_of_memory(error: Exception) -> bool:
    """Whether Python, PyTorch, of the CPU or a GPU, or OpenCV could not have the memory that they asked for."""
    said = str(error)
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "can't allocate memory" in said
        or "Insufficient memory" in said
    )
