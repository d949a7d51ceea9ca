"""The outputs of every layer of a network, under the names that they have in recordings of Paddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def leaves(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """(path, tensor) of every tensor in a layer's output; of one in a container the path is `layer/key`."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):  # beside tensors a layer may return sizes
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(f"{path}/{key}", item)


@contextmanager
def record(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What each layer returns while the model runs, by path; a layer's second run is `path#2`."""
    outputs: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()

    def keep(path: str, value: Any) -> None:
        runs[path] += 1
        outputs.update(leaves(path if runs[path] == 1 else f"{path}#{runs[path]}", value))

    handles = [
        module.register_forward_hook(lambda module, inputs, output, path=path: keep(path, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
