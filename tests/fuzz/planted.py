"""A kind with a fault of each sort, for the test of the fuzzer itself."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import numpy as np
from fuzz.cases import Case
from fuzz.kinds import Kind

from paddle2torch.model_zoo.errors import FileFormatError


def _refuse(folder: Path) -> None:
    raise FileFormatError(f"{folder} is refused")


def _long(folder: Path) -> None:
    raise FileFormatError("x" * 10_000)


def _no_room(folder: Path) -> None:
    try:
        np.empty(1 << 40, np.uint8)
    except MemoryError:
        raise FileFormatError("the file is too large") from None


def _busy(folder: Path) -> None:
    while True:
        pass


FAULTS: Mapping[str, Callable[[Path], object]] = {
    "accepted": lambda folder: None,
    "refused": _refuse,
    "raw": lambda folder: {}["absent"],
    "long message": _long,
    "memory": lambda folder: np.ones(320 << 20, np.uint8),
    "memory 2": _no_room,
    "outside": lambda folder: (folder.parent / "planted").write_bytes(b""),
    "outside 2": lambda folder: (folder.parent / "secret" / "key.txt").read_bytes(),
    "outside 3": lambda folder: subprocess.run(["true"], check=True),
    "died": lambda folder: os.abort(),
    "hang": _busy,
    "hang 2": lambda folder: time.sleep(1000),
}


class Planted(Kind):
    """The input is the name of a fault."""

    name = "planted"

    def prepare(self) -> None:
        """Nothing: its processes end often, and are to begin quickly."""

    def make(self, rng: Random) -> Case:
        return {"fault.txt": rng.choice(list(FAULTS)).encode()}

    def run(self, folder: Path) -> None:
        FAULTS[(folder / "fault.txt").read_text()](folder)
