"""What is said of a network that cannot be run: its settings may come from outside and fit their weights by chance."""

from __future__ import annotations

from torch import Tensor

from paddle2torch.model_zoo.show import show_text


def cannot_be_run(name: str, x: Tensor, error: RuntimeError) -> str:
    """The message for the model `name` on an input `x`, of which PyTorch said `error`."""
    reason = show_text(" ".join(str(error).split()), 300)
    return f"{name} cannot be run on an input of {list(x.shape)}: {reason}"
