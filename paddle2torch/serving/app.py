"""The application: what is asked for under which address, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddle2torch._version import __version__
from paddle2torch.assets import ASSETS
from paddle2torch.model_zoo.cards import find_card
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.languages import find_language
from paddle2torch.ocr.formats import FORMATS
from paddle2torch.ocr.pages import Failure, Page
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.ocr.results import PageText
from paddle2torch.serving import kserve
from paddle2torch.serving.engine import Engine, Job, Result
from paddle2torch.serving.limits import ClientGoneError, Limits, RequestError, too_long
from paddle2torch.serving.metrics import Metrics, forget_ended_workers
from paddle2torch.serving.uploads import Held, NoMorePagesError, Pages, upload_of
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.zoo.models import languages_of

T = TypeVar("T")
log = logging.getLogger("paddle2torch.serving")

AHEAD = 2
"""Pages of one document that are in line at once."""

TextFormat = Literal["text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "label-studio", "ppocrlabel"]
"""The formats of `paddle2torch ocr` that are text."""

MEDIA_TYPES: Mapping[str, str] = {
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

PAGE_FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/serve.css": ("serve.css", "text/css"),
}
OPEN = frozenset({*PAGE_FILES, "/health", "/v2/health/live", "/v2/health/ready"})
"""What needs no token: nothing of anybody is there."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

_SWALLOWED = 16_000_000
_SWALLOWED_SECONDS = 1.0

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class ErrorOut(BaseModel):
    """What is wrong: a word for programs, a message for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Every answer that is an error, but those of `/v2`, which have the message alone as `error`."""

    error: ErrorOut


class WordOut(BaseModel):
    """A word of a line. box: four corners, clockwise from the top left, pixels. Scores are 0 to 1."""

    box: list[list[float]]
    text: str
    score: float
    char_scores: list[float]


class LineOut(BaseModel):
    """A line of a page."""

    box: list[list[float]]
    text: str
    score: float
    words: list[WordOut]


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
    def job(self) -> Any:
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

    async def read_upload(self, request: Request, format: str, lang: str | None, dpi: float | None) -> Response:
        """`POST /ocr`."""
        reader = self.reader_of(lang)
        self.check_room()
        async with contextlib.AsyncExitStack() as stack:
            body = await stack.enter_async_context(self.held.body_of(request))
            job: Job = stack.enter_context(self.job())
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

    async def _document(self, job: Job, reader: OCR, pages: Pages, format: str) -> Response:
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
    except Exception as error:
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


class Door:
    """What every request passes: its host, its origin, its token. Counts answers and gives them their headers."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None, hosts: frozenset[str] | None) -> None:
        self.app = app
        self.service = service
        self.token = None if token is None else token.encode()
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = "none"

        sent = _Body(receive, waits=b"expect" in dict(scope["headers"]))

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                MutableHeaders(scope=message).update(_HEADERS)
                if message["status"] >= 400:
                    await sent.swallow()
            await send(message)

        try:
            refused = self._refuse(scope)
            if refused is None:
                await self.app(scope, sent.receive, send_on)
            else:
                await _error_response(scope["path"], refused)(scope, sent.receive, send_on)
        finally:
            route = _route(scope)
            self.service.metrics.requests.labels(route, status).inc()
            self.service.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _refuse(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            return RequestError(403, "host", "this server answers to its own name alone; start it with a --token")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return RequestError(403, "origin", "pages of other servers may not send anything here")
        if self.token is None or scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.token):
            return None
        return RequestError(401, "token", "send the server's token, as 'Authorization: Bearer TOKEN'")


class _Body:
    """The body of a request, and a little patience with what is left of it when it is refused: a client that only sends
    would not read the answer.

    waits: whether the client sends nothing before it is told to.
    """

    def __init__(self, receive: Receive, *, waits: bool) -> None:
        self._receive = receive
        self._waits = waits
        self._ended = False

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._waits = False
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def swallow(self) -> None:
        """Throw away what still comes, for a second, and not much of it."""

        async def read() -> None:
            count = 0
            while not self._ended and count < _SWALLOWED:
                count += len((await self.receive()).get("body", b""))

        if not self._waits:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read(), _SWALLOWED_SECONDS)


def _hostname(host: str) -> str:
    """A Host header without the port, in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _route(scope: Scope) -> str:
    """The address as the application has it, so that clients cannot make up further ones."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "other"


def _error_response(path: str, error: RequestError) -> Response:
    content: dict[str, Any] = {"error": {"code": error.code, "message": str(error)}}
    if path.startswith("/v2"):
        content = {"error": str(error)}
    return JSONResponse(content, error.status, {"connection": "close", **error.headers})


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The form or the request is broken.",
        401: "The token is missing or wrong.",
        403: "Another host's page, or another name of this host.",
        408: "The body came too slowly.",
        413: "Too many bytes, pages or pixels.",
        415: "No picture or PDF, or an encoded body.",
        422: "The file is broken, or an option is unknown.",
        503: "There is no room now.",
        504: "Reading took too long.",
    }.items()
}
_CONTENT = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in ("application/octet-stream", "image/*", "application/pdf")
}
_FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}}


def create_app(
    readers: Mapping[str, OCR] | Callable[[], Mapping[str, OCR]],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = LOOPBACK,
    model: str = "ocr",
    threads: int = 1,
    together: int = 4,
    network_threads: int = 1,
) -> FastAPI:
    """The application, for any ASGI server. Its threads begin when that starts it, so that it may be forked before.

    Args:
        readers: who reads which language, by PaddleOCR's name of it; the first is asked where a request names none.
        limits: of requests.
        token: that every request has to bring, but those for the page and for health.
        hosts: names by which requests may call the server; None for any. A page of the web cannot forge it.
        model: the name of the model in KServe's protocol.
        threads: pages that are read at once. together: small pages of different requests that one thread reads at
            once. network_threads: of PyTorch, for each.

    >>> app = create_app({"en": OCR("en")})
    """
    service = Service(
        readers() if callable(readers) else readers,
        limits or Limits(),
        model,
        threads=threads,
        together=together,
        network_threads=network_threads,
    )

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        forget_ended_workers()
        service.engine.start()
        yield
        await asyncio.to_thread(service.engine.stop)

    app = FastAPI(
        title="paddle2torch",
        version=__version__,
        description="Reads pictures and PDFs. See docs/serving.md of paddle2torch.",
        # Its pages of documentation would be loaded from other servers.
        docs_url=None,
        redoc_url=None,
        lifespan=running,
    )
    app.state.service = service
    app.add_middleware(Door, service=service, token=token, hosts=hosts)
    _add_errors(app)
    _add_routes(app, service)
    _add_kserve(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return _error_response(request.url.path, error)

    @app.exception_handler(Paddle2TorchError)
    async def unreadable(request: Request, error: Paddle2TorchError) -> Response:
        return _error_response(request.url.path, RequestError(422, "unreadable", str(error)))

    @app.exception_handler(RequestValidationError)
    async def unknown(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return _error_response(request.url.path, RequestError(422, "bad_option", message))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        return _error_response(request.url.path, RequestError(error.status_code, code, str(error.detail)))

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return _error_response(
            request.url.path, RequestError(500, "fault", "a fault of the server, which its log shows")
        )


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(
        "/ocr",
        summary="Read a picture or a PDF",
        responses={
            200: {
                "model": list[list[LineOut] | None],
                "description": "The result in the format that was asked for. `json`: for each page its lines, null for "
                "one that could not be read. `jsonl`: a line for each page, sent when it is read.",
                "content": {kind: {} for kind in dict.fromkeys(MEDIA_TYPES.values()) if kind != "application/json"},
            },
            **_ERRORS,
        },
        openapi_extra={"requestBody": {"required": True, "content": {**_CONTENT, "multipart/form-data": _FORM}}},
    )
    async def ocr(
        request: Request,
        format: Annotated[TextFormat, Query(description="As of `paddle2torch ocr --format`.")] = "json",
        lang: Annotated[str | None, Query(max_length=64, description="One that the server was started with.")] = None,
        dpi: Annotated[float | None, Query(ge=1, le=2400, description="Of the rendered pages of a PDF.")] = None,
    ) -> Response:
        """The body is the file itself, or a form with one file."""
        return await service.read_upload(request, format, lang, dpi)

    @app.get("/health", summary="Whether the server runs")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": __version__, "languages": list(service.readers)}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, (name, kind) in PAGE_FILES.items():
        app.add_api_route(path, _page_file(name, kind), include_in_schema=False)


def _page_file(name: str, kind: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def page_file() -> Response:
        return FileResponse(ASSETS / name, media_type=kind)

    return page_file


def _add_kserve(app: FastAPI, service: Service) -> None:
    @app.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "paddle2torch", "version": __version__, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/1/ready")
    async def model_ready(model: str) -> dict[str, Any]:
        service.check_model(model)
        return {"name": model, "ready": True}

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/1")
    async def model_metadata(model: str) -> dict[str, Any]:
        service.check_model(model)
        return {
            "name": model,
            "versions": ["1"],
            "platform": "pytorch_paddle2torch",
            "inputs": list(kserve.INPUTS),
            "outputs": list(kserve.OUTPUTS),
        }

    @app.post("/v2/models/{model}/infer", responses=_ERRORS, response_class=Response)
    @app.post("/v2/models/{model}/versions/1/infer", responses=_ERRORS, response_class=Response)
    async def infer(request: Request, model: str) -> Response:
        return await service.infer(request, model)
