"""The application: what is asked for under which address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from paddle2torch._version import __version__
from paddle2torch.assets import ASSETS
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.serving import kserve
from paddle2torch.serving.door import LOOPBACK, Door, error_response
from paddle2torch.serving.limits import Limits, RequestError
from paddle2torch.serving.metrics import forget_ended_workers
from paddle2torch.serving.service import MEDIA_TYPES, Service, TextFormat

PAGE_FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/serve.css": ("serve.css", "text/css"),
}
OPEN = frozenset({*PAGE_FILES, "/health", "/v2/health/live", "/v2/health/ready"})
"""What needs no token: nothing of anybody is there."""


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
    app.add_middleware(Door, metrics=service.metrics, token=token, hosts=hosts, open_paths=OPEN)
    _add_errors(app)
    _add_routes(app, service)
    _add_kserve(app, service)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return error_response(request.url.path, error)

    @app.exception_handler(Paddle2TorchError)
    async def unreadable(request: Request, error: Paddle2TorchError) -> Response:
        return error_response(request.url.path, RequestError(422, "unreadable", str(error)))

    @app.exception_handler(RequestValidationError)
    async def unknown(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return error_response(request.url.path, RequestError(422, "bad_option", message))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        return error_response(request.url.path, RequestError(error.status_code, code, str(error.detail)))

    @app.exception_handler(Exception)
    async def ours(request: Request, error: Exception) -> Response:
        return error_response(
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
