"""Many pages in several processes of one thread each, under a supervisor that replaces what dies.

`multiprocessing` starts the processes; each has a pipe of its own. The pools of `concurrent.futures`, loky and
`multiprocessing` itself fail or wait for ever once a process is killed, and those that share a queue lose it with one
that dies while it reads: with a pipe for each, a death is the end of that pipe and nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import cv2
import numpy as np
import torch

from paddle2torch.device import available_cores, available_memory
from paddle2torch.malloc import keep_freed_memory
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.ocr._pdf_process import memory as memory_held
from paddle2torch.ocr._pdf_process import set_limit
from paddle2torch.ocr.pages import STDIN, Failure, PageRange, find_ranges, read_range
from paddle2torch.ocr.pdf import PdfProcess
from paddle2torch.ocr.pipeline import FAST_PAGES, OCR, settle
from paddle2torch.ocr.results import PageText
from paddle2torch.tasks.failures import OUT_OF_MEMORY

Result = PageText | Failure

MEMORY = 3 * 2**30
"""Bytes of one process: what a page needs that asks for more is a failure of that page."""

PAGES_AT_ONCE = 4
"""Pages of one file that are given to a process together, but with `fast`: it opens the file once for them, and leaves
the others of a PDF after three that were ended at a limit."""

TRIES = 2
"""Processes that may die of a page before it counts as failed: one can be killed for what others do."""

LOADS = 5
"""Processes in a row that may die while they load their models before the run ends."""

_AHEAD = 4  # pieces of work for each process that are under way, or wait for one before them to be written
_AHEAD_WITH_PIXELS = 2
_PATIENCE = 5.0  # seconds until a process that was asked to end is killed


def best_count(memory: int = MEMORY, device: str = "cpu") -> int:
    """How many processes read most pages on this machine: one for each core, where each can hold half of its memory.

    With more than that between two pages it would be replaced. On a GPU it is one: all others would wait for it.
    """
    if device != "cpu":
        return 1
    return max(1, min(available_cores(), 2 * available_memory() // memory))


@dataclass(eq=False)
class _Unit:
    """Pages that are written one after the other; their results come in any order."""

    ranges: tuple[PageRange, ...]
    results: list[Result] = field(default_factory=list)
    open_tasks: int = 0

    def in_order(self) -> list[Result]:
        """What failed as a whole comes behind the pages of its file."""
        last = float("inf")
        places = {pages.source: place for place, pages in enumerate(reversed(self.ranges))}
        return sorted(self.results, key=lambda result: (-places.get(result.source, 0), result.number or last))


@dataclass(eq=False)
class _Task:
    """What one process is given. deaths: of processes that had these pages. results: those that came so far."""

    unit: _Unit
    ranges: tuple[PageRange, ...]
    deaths: int = 0
    results: list[Result] = field(default_factory=list)

    def left(self) -> list[PageRange]:
        """The pages without a result, one by one."""
        there = {(result.source, result.number) for result in self.results}
        return [
            PageRange(pages.source, number, number)
            for pages in self.ranges
            for number in pages.numbers
            if not {(pages.source, number), (pages.source, None)} & there
        ]


class _Worker:
    """A process, the supervisor's end of its pipe, and what it is doing."""

    def __init__(self, context: Any, settings: Mapping[str, Any], memory: int) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, settings, memory), daemon=True)
        try:
            self.process.start()
        finally:
            theirs.close()
        self.ready = False
        self.task: _Task | None = None

    def status(self) -> str:
        """How a process that has died did so."""
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        if code is None:
            return "it cannot be heard"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Processes:
    """Reads files in several processes, one call of `read` at a time; a context that ends them.

    settings: of `OCR`, which each process makes for itself; models are given by name or folder. Those that the language
    chooses are settled for all of them. The first process loads the models alone, so that they are compiled once; the
    context raises what that raises.

    count: of processes, by default `best_count`. memory: bytes that each may take (Linux). A page that needs more is a
    failure, and a process that holds more than half of it between two pages is replaced by a new one.

    >>> with Processes({"lang": "en"}, count=4) as processes:
    ...     for page in processes.read(find_sources(["scans"])):
    ...         print(page.source)

    A process that dies, however it does, is replaced, and the pages that it had are read once more, one by one; a page
    of which another process dies is a `Failure`. Programs that use this need `if __name__ == "__main__":`, as all do
    that use `multiprocessing`.
    """

    def __init__(self, settings: Mapping[str, Any], *, count: int | None = None, memory: int | None = None) -> None:
        if count is not None and count < 1:
            raise ConfigError(f"the number of processes is at least 1, not {count}")
        self.memory = memory or MEMORY
        self.count = count or best_count(self.memory, str(settings.get("device", "cpu")))
        self._settings = dict(settings)
        self._fast = bool(settings.get("fast"))
        self.pages_at_once = 1 if self._fast else PAGES_AT_ONCE
        self._context = _context()
        self._workers: list[_Worker] = []
        self._waiting: deque[_Task] = deque()
        self._given_up: set[str] = set()
        self._options: dict[str, Any] = {}
        self._failed_loads = 0
        self._loaded = False

    def __enter__(self) -> Processes:
        self._settings = settle(self._settings)
        try:
            while not self._loaded:
                if not self._workers:
                    self._start()
                self._listen()
        except BaseException:
            self._end(self._workers)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end(self._workers)

    def read(
        self,
        sources: Iterable[str],
        done: Callable[[str, int], bool] = lambda source, number: False,
        *,
        dpi: float | None = None,
        max_bytes: int | None = None,
        pixels: bool = True,
    ) -> Iterator[Result]:
        """A result for each page of `sources` in order; arguments as of `read_pages`.

        pixels: without them a page has its size and a white image, and its pixels need not be sent between processes.
        Standard input, which one process alone can read, is refused with `ConfigError`.
        """
        sources = list(sources)
        if STDIN in sources:
            raise ConfigError("standard input is read by one process: save it to a file, or leave --processes out")
        found = find_ranges(sources, done, most=self.pages_at_once)
        return self.read_ranges(found, dpi=dpi, max_bytes=max_bytes, pixels=pixels)

    def read_ranges(
        self,
        found: Iterable[PageRange | Failure],
        *,
        dpi: float | None = None,
        max_bytes: int | None = None,
        pixels: bool = True,
    ) -> Iterator[Result]:
        """As `read`, of pages that were found before, at most `pages_at_once` together."""
        PdfProcess(dpi)  # raises for a dpi out of its bounds
        self._options = {"dpi": dpi, "max_bytes": max_bytes, "pixels": pixels}
        self._given_up = set()
        units = self._units(found)
        under_way: deque[_Unit] = deque()
        ahead = (_AHEAD_WITH_PIXELS if pixels else _AHEAD) * self.count
        try:
            while True:
                for unit in itertools.islice(units, ahead - len(under_way)):
                    under_way.append(unit)
                    if unit.ranges:
                        self._waiting.append(_Task(unit, unit.ranges))
                        unit.open_tasks = 1
                if not under_way:
                    return
                self._give_work()
                if under_way[0].open_tasks:
                    self._listen()
                else:
                    yield from under_way.popleft().in_order()
        finally:
            self._waiting.clear()
            self._end([worker for worker in self._workers if worker.task is not None])

    def _units(self, found: Iterable[PageRange | Failure]) -> Iterator[_Unit]:
        if self._fast:
            # The pages that one process would read together.
            found = iter(found)
            while window := list(itertools.islice(found, FAST_PAGES)):
                ranges = tuple(pages for pages in window if isinstance(pages, PageRange))
                yield _Unit(ranges, [failure for failure in window if isinstance(failure, Failure)])
            return
        for pages in found:
            if isinstance(pages, Failure):
                yield _Unit((), [pages])
            elif pages.source not in self._given_up:
                yield _Unit((pages,))

    def _start(self) -> None:
        self._workers.append(_Worker(self._context, self._settings, self.memory))

    def _give_work(self) -> None:
        """Give tasks to processes that have none; start processes for tasks that no process can take."""
        for worker in self._workers:
            if worker.ready and worker.task is None and self._waiting:
                worker.task = self._waiting.popleft()
                # What a dead process cannot take comes back when its pipe is found to have ended.
                with contextlib.suppress(OSError):
                    worker.connection.send((worker.task.ranges, self._options))
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.count - len(self._workers), len(self._waiting) - starting)):
            self._start()

    def _listen(self) -> None:
        """Wait until a process says something, or dies, and act on that."""
        heard = wait([worker.connection for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.connection in heard]:
            try:
                kind, value, notes = worker.connection.recv()
            except (EOFError, OSError):  # also in the middle of a message
                self._bury(worker)
                continue
            if kind != _READY or not self._loaded:
                for note in notes:
                    warnings.warn(note, stacklevel=4)
            if kind == _REFUSED:
                raise Paddle2TorchError(value)
            if kind == _READY:
                worker.ready = self._loaded = True
                self._failed_loads = 0
            elif kind == _RESULT:
                self._note(worker, *value)
            else:
                self._finish(worker, held=value)

    def _note(self, worker: _Worker, result: Result, shape: tuple[int, ...] | None) -> None:
        assert worker.task is not None
        if isinstance(result, PageText):
            if shape is not None:
                result = replace(result, image=np.broadcast_to(np.uint8(255), shape))
        elif result.number is None and result.source in self._given_up:
            return  # said of an earlier range of the file
        elif result.number is None:
            self._given_up.add(result.source)
        worker.task.results.append(result)

    def _finish(self, worker: _Worker, held: float) -> None:
        task, worker.task = worker.task, None
        assert task is not None
        self._close(task, [])
        if held > self.memory / 2:
            self._workers.remove(worker)
            worker.connection.close()  # which ends it

    def _bury(self, worker: _Worker) -> None:
        """Take a process that has died off the list; what it had is read once more, or is a failure."""
        self._workers.remove(worker)
        worker.connection.close()
        status = worker.status()
        if not worker.ready:
            self._failed_loads += 1
            if self._failed_loads == LOADS:
                raise Paddle2TorchError(
                    f"{LOADS} processes in a row ended while they loaded the models (the last: {status}): there may be "
                    "too little memory for so many; in a program of your own, is its main part below "
                    "'if __name__ == \"__main__\":'?"
                )
        task = worker.task
        if task is None:
            return
        left = task.left()
        deaths = task.deaths + 1
        if len(left) == 1 and deaths >= TRIES:
            (page,) = left
            message = (
                f"{page.source}, page {page.first} cannot be read: {deaths} processes ended while they read it (the "
                f"last: {status}); it may take more memory than there is"
            )
            task.results.append(Failure(page.source, page.first, message))
            left = []
        self._close(task, [_Task(task.unit, (page,), deaths) for page in left])

    def _close(self, task: _Task, others: list[_Task]) -> None:
        """Keep the results of a task, of which `others` are left: they come first, as later pages wait for them."""
        task.unit.results += task.results
        task.unit.open_tasks += len(others) - 1
        self._waiting.extendleft(reversed(others))

    def _end(self, workers: list[_Worker]) -> None:
        self._workers = [worker for worker in self._workers if worker not in workers]
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()


def _context() -> Any:
    """How processes are started: from a clean one that has imported what they need, where the system can fork."""
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


_READY, _REFUSED, _RESULT, _DONE = range(4)
"""What a process says: (kind, value, notes). The value is of _REFUSED a message, of _RESULT the result and the size of
the pixels that were left out, of _DONE the bytes that the process holds. Notes are warnings for the user."""


def _work(connection: Connection, settings: Mapping[str, Any], memory: int) -> None:
    """A process: makes its pipeline, and reads the pages that it is given until there are no more."""
    # Ctrl-C reaches every process of the terminal: the supervisor ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    notes: list[str] = []

    def say(kind: int, value: Any) -> None:
        count = len(notes)  # another thread may add to them
        connection.send((kind, value, notes[:count]))
        del notes[:count]

    def note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if category is UserWarning:
            notes.append(str(message))

    warnings.showwarning = note
    try:
        ocr = OCR(**settings)
        _limit_memory(memory)
    except Paddle2TorchError as error:
        say(_REFUSED, str(error))
        return
    say(_READY, None)
    with contextlib.suppress(EOFError, OSError):  # the supervisor has ended, or wants no more
        while True:
            ranges, options = connection.recv()
            with PdfProcess(options["dpi"]) as pdfs:
                read = (read_range(pages, pdfs, max_bytes=options["max_bytes"]) for pages in ranges)
                for result in ocr.read_pages(itertools.chain.from_iterable(read)):
                    say(_RESULT, _to_send(result, options["pixels"], memory))
            say(_DONE, memory_held())


def _to_send(result: Result, pixels: bool, memory: int) -> tuple[Result, tuple[int, ...] | None]:
    if isinstance(result, Failure):
        if result.message.endswith(OUT_OF_MEMORY):
            more = f"{result.message}: --process-memory gives a process {memory // 2**20:,} MB"
            result = replace(result, message=more)
        return result, None
    return (result, None) if pixels else (replace(result, image=_NO_PIXELS), result.image.shape)


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def _limit_memory(most: int) -> None:
    """Let requests for more than `most` bytes in all fail. Linux alone has a limit that counts what is used."""
    if sys.platform != "linux":
        return
    import resource

    held = memory_held()
    if held > most / 2:
        raise ConfigError(
            f"with its models a process holds {held / 2**20:,.0f} MB: --process-memory is at least twice that, not "
            f"{most / 2**20:,.0f} MB"
        )
    with open("/proc/self/statm", "rb") as file:
        writable = int(file.read().split()[5]) * resource.getpagesize()
    set_limit(resource.RLIMIT_DATA, int(writable + most - held))
