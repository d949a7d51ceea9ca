"""A training that is asked to stop, and one that is alone in its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from filelock import FileLock, Timeout

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.distributed import largest_of_all

LOCK_NAME = ".lock"


class Asked(Exception):  # noqa: N818 - not an error: an evaluation is left for later
    """Training was asked to stop while it could be left at once."""


class StopRequest:
    """Ctrl-C and SIGTERM while it is entered: remembered, for training to end behind its step.

    A second Ctrl-C raises `KeyboardInterrupt`, but not among several processes: there torchrun passes on the one that
    the terminal has sent already. Only the main thread can take signals; in others nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self.listen()
        return self

    def listen(self) -> None:
        """Take the signals, also from what has taken them since: some trackers do."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                found = signal.signal(number, self._note)
                self._before.setdefault(number, found)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        if self.signal is not None and number == signal.SIGINT and alone:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number)

    def everywhere(self, accelerator: Accelerator) -> signal.Signals | None:
        """The signal that any of the processes got; all are asked in the same step, or they would wait for ever."""
        if accelerator.num_processes > 1:
            highest = largest_of_all(int(self.signal or 0))
            self.signal = signal.Signals(highest) if highest else None
        return self.signal

    def leave_evaluation(self, accelerator: Accelerator) -> None:
        """Raise `Asked` where training was asked to stop; several processes finish, as each has its own batches."""
        if self.signal is not None and accelerator.num_processes == 1:
            raise Asked


@contextlib.contextmanager
def alone_in(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keep other trainings out of a folder, until this one ends, however it ends.

    Raises `ConfigError` where one is there.
    """
    if not accelerator.is_main_process:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / LOCK_NAME, timeout=0).acquire()
    except Timeout:
        raise ConfigError(
            f"another training is running in {folder}: wait for its end, or choose another output.dir"
        ) from None
    with held:
        yield
