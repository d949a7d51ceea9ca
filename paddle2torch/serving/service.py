"""Requests from the end of their body to the end of their answer: pages in line, and what is written of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from paddle2torch.model_zoo.cards import find_card
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.languages import find_language
from paddle2torch.ocr.formats import FORMATS
from paddle2torch.ocr.pages import Failure, Page
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.ocr.results import PageText
from paddle2torch.serving import kserve
from paddle2torch.serving.engine import Engine, Job, Result
from paddle2torch.serving.limits import ClientGoneError, Limits, RequestError, too_long
from paddle2torch.serving.metrics import Metrics
from paddle2torch.serving.uploads import Held, NoMorePagesError, Pages, upload_of
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.zoo.models import languages_of

T = TypeVar("T")
log = logging.getLogger("paddle2torch.serving")

AHEAD = 2
"""Pages of one document that are in line at once."""

TextFormat = Literal["text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "label-studio", "ppocrlabel"]
"""The formats of `paddle2torch ocr` that are text."""

MEDIA_TYPES: Mapping[TextFormat, str] = {
    "text": "text/plain; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "tsv": "text/tab-separated-values; charset=utf-8",
    # Not text/html: a browser must not run what it is.
    "hocr": "text/vnd.hocr+html; charset=utf-8",
    "alto": "application/xml",
    "label-studio": "application/json",
    "ppocrlabel": "text/plain; charset=utf-8",
}


class Service:
    """What the application holds: readers by language, threads, what is counted."""

    def __init__(self, readers: Mapping[str, OCR], limits: Limits, model: str, **threads: int) -> None:
        self.readers = dict(readers)
        self.limits = limits
        self.model = model
        self.metrics = Metrics()
        self.held = Held(limits, self.metrics)
        self.engine = Engine(self.metrics, **threads)
        self._requests = 0
        self._closing: set[asyncio.Future[None]] = set()

    def reader_of(self, lang: str | None) -> OCR:
        """Who reads a language. Raises `RequestError` where nobody does."""
        first = next(iter(self.readers.values()))
        if lang is None:
            return first
        try:
            code = find_language(lang)
        except ConfigError as error:
            raise RequestError(422, "unknown_language", str(error)) from None
        if code in self.readers:
            return self.readers[code]
        for reader in self.readers.values():
            card = find_card(reader.recognizer.config.name)
            # Of a model that is not released nobody knows what it reads: who serves it alone, serves it for all.
            if (card is None and len(self.readers) == 1) or (card is not None and code in languages_of(card)):
                return reader
        raise RequestError(
            422,
            "unknown_language",
            f"this server reads {', '.join(self.readers)}, not {code}: start it with --lang {code}",
        )

    def check_room(self) -> None:
        """Raise `RequestError` where no further request fits."""
        if self._requests >= self.limits.requests:
            raise RequestError(
                503, "busy", f"{self._requests} requests are read or wait; try again later, or start more workers"
            )

    @contextlib.contextmanager
    def job(self) -> Iterator[Job]:
        """A request from the end of its body to the end of its answer."""
        self.check_room()
        self._requests += 1
        self.metrics.requests_now.inc()
        job = Job(self.limits.request_seconds)
        try:
            yield job
        finally:
            job.cancelled = True  # whoever is in line for it is in vain there
            self._requests -= 1
            self.metrics.requests_now.dec()

    async def wanted(self, request: Request, job: Job, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises `RequestError` where the client goes, or the time is over, before."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({task, gone}, timeout=job.left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            job.cancelled = True
            raise ClientGoneError() if gone.done() else too_long(job.seconds)
        finally:
            await _end(task, gone)

    def close_later(self, pages: Pages) -> None:
        """End what renders the pages, which may be in the middle of one, without waiting for it."""
        closing = asyncio.get_running_loop().run_in_executor(None, pages.close)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def pages(
        self, job: Job, reader: OCR, pages: Pages, finish: Callable[[Result], T]
    ) -> AsyncGenerator[T, None]:
        """What `finish` makes of each page, in order, a few of them in line at once."""
        waiting: list[asyncio.Task[T]] = []
        try:
            for _ in range(pages.count):
                waiting.append(asyncio.ensure_future(self.engine.read(job, reader, pages.take, finish)))
                if len(waiting) == AHEAD:
                    yield await waiting.pop(0)
            while waiting:
                yield await waiting.pop(0)
        except NoMorePagesError:  # the rest was left, and the last page said so
            return
        finally:
            await _end(*waiting)

    async def read_upload(self, request: Request, format: TextFormat, lang: str | None, dpi: float | None) -> Response:
        """`POST /ocr`."""
        reader = self.reader_of(lang)
        self.check_room()
        async with contextlib.AsyncExitStack() as stack:
            body = await stack.enter_async_context(self.held.body_of(request))
            job = stack.enter_context(self.job())
            content_type = request.headers.get("content-type", "")

            def open_upload() -> Pages:
                return Pages(upload_of(content_type, body), self.limits, dpi)

            pages = await self.wanted(request, job, self.engine.call(job, open_upload))
            stack.callback(self.close_later, pages)
            if format != "jsonl":
                return await self.wanted(request, job, self._document(job, reader, pages, format))
            lines = self.pages(job, reader, pages, _json_line)
            stack.push_async_callback(lines.aclose)
            # What is wrong with the first page, or with the one that there is, has a status of its own.
            first, read = await self.wanted(request, job, _next(lines))
            if pages.count == 1 and not read:
                raise RequestError(422, "unreadable", json.loads(first)["error"])
            return _PageStream(_stream(first, lines, job, pages.name), stack.pop_all())
        raise AssertionError  # for type checkers: an exit stack may swallow errors

    async def _document(self, job: Job, reader: OCR, pages: Pages, format: TextFormat) -> Response:
        results = [result async for result in self.pages(job, reader, pages, _without_pixels)]
        failures = [result for result in results if isinstance(result, Failure)]
        if len(failures) == len(results):
            raise RequestError(422, "unreadable", failures[0].message if failures else f"{pages.name} has no pages")

        def write() -> bytes:
            return "".join(map(str, FORMATS[format].parts(results))).encode("utf-8", "surrogatepass")

        body = await self.engine.call(job, write)
        headers = {}
        if failures:
            headers["x-pages-not-read"] = ",".join(str(failure.number or "rest") for failure in failures)
        return Response(body, media_type=MEDIA_TYPES[format], headers=headers)

    async def infer(self, request: Request, model: str) -> Response:
        """`POST /v2/models/MODEL/infer`."""
        self.check_model(model)
        self.check_room()
        async with self.held.body_of(request) as body:
            with self.job() as job:
                length = request.headers.get(kserve.HEADER_LENGTH)

                async def work() -> tuple[bytes, dict[str, str]]:
                    asked = await self.engine.call(job, lambda: kserve.parse_inference(body, length, self.limits))
                    page = Page("image", 1, 1, asked.image)
                    reader = self.reader_of(asked.lang)
                    return await self.engine.read(
                        job, reader, lambda: page, lambda result: self._inferred(asked, result)
                    )

                data, headers = await self.wanted(request, job, work())
        return Response(data, headers=headers)

    def _inferred(self, asked: kserve.Inference, result: Result) -> tuple[bytes, dict[str, str]]:
        if isinstance(result, Failure):
            raise RequestError(422, "unreadable", result.message)
        return kserve.answer_inference(asked, result, self.model)

    def check_model(self, model: str) -> None:
        """Raise `RequestError` for another model than the one that there is."""
        if model != self.model:
            raise RequestError(404, "not_found", f"there is one model here, {self.model}")


class _PageStream(StreamingResponse):
    """A line for each page, and the end of what is held for them, also where the client is gone before the first."""

    def __init__(self, lines: AsyncIterator[str], held: contextlib.AsyncExitStack) -> None:
        super().__init__(lines, media_type=MEDIA_TYPES["jsonl"])
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they have ended, whatever their results are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _stream(first: str, lines: AsyncIterator[tuple[str, bool]], job: Job, name: str) -> AsyncIterator[str]:
    """The lines. An error that ends them is the last one."""
    yield first
    try:
        while True:
            line, _ = await asyncio.wait_for(_next(lines), job.left)
            yield line
    except StopAsyncIteration:
        return
    except asyncio.TimeoutError:
        yield _dumps({"source": name, "error": str(too_long(job.seconds))})
    except Exception as error:  # the status was sent with the first line: only a further one can tell of it
        log.exception("a page could not be read")
        yield _dumps({"source": name, "error": what_went_wrong(error)})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _without_pixels(result: Result) -> Result:
    """The page for writers of text, which ask for its size: the pixels themselves are let go of."""
    if isinstance(result, Failure):
        return result
    return replace(result, image=np.broadcast_to(np.uint8(0), result.image.shape))


def _json_line(result: Result) -> tuple[str, bool]:
    """A line of the stream, and whether the page was read."""
    if isinstance(result, PageText):
        return "".join(map(str, FORMATS["jsonl"].parts([result]))), True
    return _dumps({"source": result.source, "page": result.number, "error": result.message}), False


def _dumps(data: Any) -> str:
    return json.dumps(data) + "\n"
