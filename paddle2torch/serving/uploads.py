"""What a client sends, in memory alone: the body of a request within its limits, the file in a form, its pages."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from paddle2torch.model_zoo.show import show_text
from paddle2torch.ocr.pages import Failure, OpenDocument, Page, is_pdf_data
from paddle2torch.serving.limits import ClientGoneError, Limits, RequestError
from paddle2torch.serving.metrics import Metrics
from paddle2torch.tasks.images import ImageError
from paddle2torch.tasks.picture_headers import BROKEN, HEAD_BYTES, name_kind, open_picture

UNNAMED = "upload"
"""The name of a file that came without one."""

_NAME_AT_MOST = 200
_PARTS_AT_MOST = 8
_PART_HEAD_AT_MOST = 8192


class Held:
    """Bytes of uploads that are in memory, of all requests."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count bytes that have come. Raises `RequestError` where there are too many together."""
        self._bytes += count
        self._metrics.held.set(self._bytes)
        if count > 0 and self._bytes > self._limits.held_bytes:
            raise RequestError(503, "busy", "the uploads of all clients together are too large now; try again later")

    @contextlib.asynccontextmanager
    async def body_of(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, counted until the block ends."""
        taken = 0
        body = bytearray()

        async def read() -> None:
            nonlocal taken
            async for chunk in request.stream():
                if len(body) + len(chunk) > self._limits.body_bytes:
                    raise self._too_large()
                taken += len(chunk)
                self.add(len(chunk))
                body.extend(chunk)

        try:
            try:
                self._check_head(request)
                await asyncio.wait_for(read(), self._limits.body_seconds)
            except asyncio.TimeoutError:
                raise RequestError(
                    408, "too_slow", f"the body did not come within {self._limits.body_seconds:g} seconds"
                ) from None
            except ClientDisconnect:
                raise ClientGoneError() from None
            data = bytes(body)
            body.clear()  # it would be here a second time
            yield data
        finally:
            self.add(-taken)

    def _check_head(self, request: Request) -> None:
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "encoding", "send the body as it is, without a Content-Encoding")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError(413, "too_large", f"a body has at most {self._limits.body_bytes:,} bytes")


@dataclass(frozen=True)
class Upload:
    """A file of a client: what it is called there, which names no file here, and its bytes."""

    name: str
    data: bytes


def upload_of(content_type: str, body: bytes) -> Upload:
    """The file that a body is, or that a form has. Raises `RequestError` for a form without one, or with several."""
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    if kind != b"multipart/form-data":
        upload = Upload(UNNAMED, body)
    else:
        boundary = options.get(b"boundary", b"")
        if not 1 <= len(boundary) <= 70:
            raise RequestError(400, "bad_form", "the form's Content-Type names no boundary of 1 to 70 characters")
        files = _Form(body, boundary).files
        if len(files) != 1:
            raise RequestError(422, "one_file", f"send one file in a form, not {len(files)}")
        upload = files[0]
    if not upload.data:
        raise RequestError(422, "empty", "there is no file in the request: its body is empty")
    return upload


class _Form:
    """The files of a multipart form."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        self.files: list[Upload] = []
        self._parts = self._head = 0
        self._field = self._value = b""
        self._disposition = b""
        self._data: list[bytes] = []
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
                "on_part_end": self._end,
            },
        )
        try:
            parser.write(body)
            parser.finalize()
        except FormParserError as error:
            raise RequestError(400, "bad_form", f"the form is broken: {show_text(str(error), 200)}") from None

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _PARTS_AT_MOST:
            raise RequestError(413, "too_many_parts", f"a form has at most {_PARTS_AT_MOST} parts")
        self._head = 0
        self._disposition = b""
        self._data = []

    def _count_head(self, count: int) -> None:
        self._head += count
        if self._head > _PART_HEAD_AT_MOST:
            raise RequestError(413, "too_large", f"the head of a part has at most {_PART_HEAD_AT_MOST:,} bytes")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_head(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" in options or options.get(b"name") == b"file":
            name = options.get(b"filename", b"").decode("utf-8", "replace")
            self.files.append(Upload(plain_name(name), b"".join(self._data)))
        else:
            name = options.get(b"name", b"").decode("utf-8", "replace")
            raise RequestError(
                422,
                "unknown_field",
                f"a form has one file and no field {show_text(name, 40)!r}: options are in the query",
            )


def plain_name(name: str) -> str:
    """What a client calls a file, without folders and control characters."""
    name = re.split(r"[\\/]", name)[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    return name[:_NAME_AT_MOST] if name.strip(".") else UNNAMED


class Pages:
    """The pages of an upload, each loaded when it is asked for. Several threads may take them.

    Raises `RequestError` for what cannot be opened, or has too many pages.
    """

    def __init__(self, upload: Upload, limits: Limits, dpi: float | None) -> None:
        self.name = upload.name
        self._limits = limits
        check_picture(upload.data, limits)
        try:
            self._document = OpenDocument(upload.data, upload.name, dpi=dpi)
        except ImageError as error:
            raise RequestError(422, "unreadable", str(error)) from None
        self.count = self._document.count
        if self.count > limits.pages:
            self.close()
            raise RequestError(
                413, "too_many_pages", f"{self.name} has {self.count:,} pages; {limits.pages:,} are read at most"
            )

    def take(self) -> Page | Failure:
        """The next page. Raises `NoMorePagesError` behind the last one."""
        page = self._document.take()
        if page is None:
            raise NoMorePagesError
        if isinstance(page, Page) and math.prod(page.image.shape[:2]) > self._limits.pixels:
            height, width = page.image.shape[:2]
            place = f"{page.source}, page {page.number}"
            return Failure(page.source, page.number, f"{place} has {width} x {height} pixels, too many for this server")
        return page

    def close(self) -> None:
        """End what renders pages."""
        self._document.close()


class NoMorePagesError(Exception):
    """The last page was taken before."""


def check_picture(data: bytes, limits: Limits) -> None:
    """Raise `RequestError` for what is no picture or PDF, or has too many pixels, as its header tells."""
    if is_pdf_data(data):
        return
    try:
        image = open_picture(io.BytesIO(data), data[:HEAD_BYTES])
    except BROKEN as error:
        raise RequestError(422, "unreadable", f"the picture is broken: {show_text(str(error), 200)}") from None
    if image is None:
        raise RequestError(415, "unknown_kind", f"the file {name_kind(data[:HEAD_BYTES])}")
    with image:
        width, height = image.size
    if width * height > limits.pixels:
        raise RequestError(
            413, "too_many_pixels", f"the picture has {width} x {height} pixels; {limits.pixels:,} are read at most"
        )
