"""Threads that read pages for an event loop, and several small pages of different requests together.

Pages wait in one line. A request hands in one or two of its pages at a time, so that a long document lets others in
between.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from paddle2torch.ocr.pages import Failure, Page
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.ocr.results import PageText
from paddle2torch.serving.limits import ClientGoneError, RequestError, too_long
from paddle2torch.serving.metrics import Metrics
from paddle2torch.tasks.interrupts import given_up

T = TypeVar("T")
Result = PageText | Failure

TOGETHER_PIXELS = 2_000_000
"""Pixels of pages that are read together: what is larger has lines enough of its own."""


class Job:
    """The pages and other work of one request: wanted until the client goes or the time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        self.cancelled = False

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.until - time.monotonic())

    def is_over(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.cancelled or time.monotonic() >= self.until

    def why_over(self) -> RequestError:
        """What to say of a job that is over."""
        return ClientGoneError() if self.cancelled else too_long(self.seconds)


@dataclass(eq=False)
class _Work(Generic[T]):
    """load: gives the page that `reader` reads. finish: makes the result of what was read; both run in the thread.
    future: the result, for whoever waits for it in an event loop.
    """

    job: Job
    reader: OCR | None
    load: Callable[[], Any]
    finish: Callable[[Any], T]
    future: Future[T] = field(default_factory=Future)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Hand what the block raises to whoever waits for the result."""
        try:
            yield
        except BaseException as error:  # as executors do: a thread that ended would leave all that wait without answer
            self.future.set_exception(error)


class Engine:
    """threads: pages that are read at once. together: small pages that one thread reads at once, where that many wait.
    network_threads: of PyTorch, for each.

    The threads begin with `start`, so that a process may be forked before. Nothing of a request is kept.
    """

    def __init__(self, metrics: Metrics, *, threads: int = 1, together: int = 4, network_threads: int = 1) -> None:
        self.metrics = metrics
        self.threads = threads
        self.together = together
        self.network_threads = network_threads
        self._waiting: deque[_Work[Any]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._running: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to read."""
        self._stopped = False
        self._running = [
            threading.Thread(target=self._run, name=f"ocr-{number}", daemon=True) for number in range(self.threads)
        ]
        for thread in self._running:
            thread.start()

    def stop(self) -> None:
        """Finish what waits, and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._running:
            thread.join()

    async def call(self, job: Job, function: Callable[[], T]) -> T:
        """Run what is not reading in one of the threads, in its turn."""
        return await self._put(job, None, function, lambda result: result)

    async def read(self, job: Job, reader: OCR, load: Callable[[], Page | Failure], finish: Callable[[Result], T]) -> T:
        """Read the page that `load` gives; what `finish` makes of that. Raises `RequestError` where the job is over."""
        return await self._put(job, reader, load, finish)

    async def _put(self, job: Job, reader: OCR | None, load: Callable[[], Any], finish: Callable[[Any], T]) -> T:
        work = _Work(job, reader, load, finish)
        with self._changed:
            if self._stopped:
                raise RequestError(503, "stopping", "the server is stopping")
            self._waiting.append(work)
            self.metrics.waiting.inc()
            self._changed.notify()
        return await asyncio.wrap_future(work.future)

    def _run(self) -> None:
        # Of this thread: OpenMP's number of threads is one for each.
        torch.set_num_threads(self.network_threads)
        while (work := self._next(wait=True)) is not None:
            if work.reader is None:
                self._call(work)
            else:
                self._read(work.reader, work)

    def _next(self, *, wait: bool, reader: OCR | None = None) -> _Work[Any] | None:
        """The next work that is still wanted; of that reader alone, where one is given."""
        with self._changed:
            while True:
                while self._waiting and (reader is None or self._waiting[0].reader is reader):
                    work = self._waiting.popleft()
                    self.metrics.waiting.dec()
                    if not work.future.set_running_or_notify_cancel():
                        continue
                    if not work.job.is_over():
                        return work
                    work.future.set_exception(work.job.why_over())
                if not wait or self._stopped:
                    return None
                self._changed.wait()

    def _call(self, work: _Work[Any]) -> None:
        with work.failing(), given_up(work.job.is_over):
            work.future.set_result(work.finish(work.load()))

    def _read(self, reader: OCR, first: _Work[Any]) -> None:
        """Read a page, and with it small ones that wait behind it."""
        # As many as would wait for this thread: others may be free.
        share = min(self.together, math.ceil((1 + len(self._waiting)) / self.threads))
        group: list[_Work[Any]] = []
        pages: list[Page | Failure] = []
        pixels = 0
        work: _Work[Any] | None = first
        while work is not None:
            with work.failing():
                page = work.load()
                group.append(work)
                pages.append(page)
                pixels += page.image.size // 3 if isinstance(page, Page) else 0
            full = len(group) >= share or pixels >= TOGETHER_PIXELS
            work = None if full else self._next(wait=False, reader=reader)
        if not group:
            return
        self.metrics.together.observe(len(group))
        try:
            with given_up(lambda: all(work.job.is_over() for work in group)):
                results = reader.read_together(pages)
        except BaseException as error:  # as in `failing`, for all of them
            for work in group:
                work.future.set_exception(error)
            return
        for work, result in zip(group, results, strict=True):
            self._finish(work, result)

    def _finish(self, work: _Work[Any], result: Result) -> None:
        if work.job.is_over():
            self.metrics.pages.labels("given up").inc()
            work.future.set_exception(work.job.why_over())
            return
        if isinstance(result, Failure):
            self.metrics.pages.labels("not read").inc()
        else:
            self.metrics.pages.labels("read").inc()
            self.metrics.lines.inc(len(result))
        with work.failing():
            work.future.set_result(work.finish(result))
