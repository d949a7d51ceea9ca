"""Networks side by side, each on one thread, in place of one after another on all of them.

A layer that is divided among threads ends with all of them waiting for the last one, and the work between two networks
keeps one core busy. Whole batches on a thread each have neither; what each computes is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Barrier, get_ident
from typing import TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew(ThreadPoolExecutor):
    """Threads in which PyTorch and our kernels use one thread, whatever they use elsewhere in the process."""

    def __init__(self, size: int) -> None:
        self._members: set[int] = set()
        before = torch.get_num_threads()
        ready = Barrier(size + 1)

        def start() -> None:
            torch.get_num_threads()  # the first question in a thread sets it to what the process has
            torch.set_num_threads(1)
            self._members.add(get_ident())
            ready.wait()

        super().__init__(size, initializer=start)
        try:
            for _ in range(size):
                self.submit(int)  # as long as none is ready, each needs a thread of its own
            ready.wait()
        except BaseException:  # raised again: threads that wait would keep the process from ending
            ready.abort()
            raise
        finally:
            # PyTorch takes the last number for every thread that begins later.
            torch.set_num_threads(before)

    def share(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of `function` in the order of the items, which all threads that are free work on.

        One of the crew that asks does itself what nobody has begun: it never waits for a thread.
        """
        given = list(items)
        futures = [self.submit(function, item) for item in given]
        member = get_ident() in self._members
        try:
            return [
                function(item) if member and future.cancel() else future.result()
                for item, future in zip(given, futures, strict=True)
            ]
        finally:
            for future in futures:
                future.cancel()


def on_cpu(models: Iterable[nn.Module]) -> bool:
    """Whether all of them run there; compiled ones, which have no parameters, do."""
    tensors = (next(model.parameters(), None) for model in models)
    return all(tensor is None or tensor.device.type == "cpu" for tensor in tensors)


def crew_for(models: Iterable[nn.Module], size: int = 1) -> AbstractContextManager[Crew | None]:
    """A crew with as many threads as PyTorch uses, at least `size`; None where that is one, or a model is on a GPU."""
    size = max(size, torch.get_num_threads())
    return Crew(size) if size > 1 and on_cpu(models) else nullcontext()


def share(crew: Crew | None, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`Crew.share`, or without a crew one after another."""
    return [function(item) for item in items] if crew is None else crew.share(function, items)
