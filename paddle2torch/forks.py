"""Networks in a process that was forked after they had run: gunicorn --preload, celery, multiprocessing."""

from __future__ import annotations

import functools
import os

import torch


@functools.cache
def survive_forks() -> None:
    """From now on a forked process runs networks on one thread, until it sets another number itself.

    A fork copies the memory of OpenMP's threads and not the threads: the first operation that is shared among them
    would never end. A process that forks has as many others to use the cores. Systems without fork need nothing.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
