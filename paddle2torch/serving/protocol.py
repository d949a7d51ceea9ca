"""uvicorn's HTTP with bounds that it lacks: on connections, on the time for a request's head, on readers that stop."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS_AT_MOST = 500
"""Of a process; further ones are told to come later."""

HEAD_SECONDS = 20.0
"""From the start of a connection, or the first byte of a further request, to the end of the request's head."""

STALLED_SECONDS = 30.0
"""For a client that does not take what is sent."""

_BUSY = b'{"error":{"code":"busy","message":"there are too many connections now; try again later"}}\n'


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_AT_MOST:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(_BUSY), _BUSY)
            )
            transport.close()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        else:
            self._head = _cancel(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._stalled = _cancel(self._head), _cancel(self._stalled)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = _cancel(self._stalled)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # once what was written is taken
            self._await_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_reader()

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _await_reader(self) -> None:
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, in place of the timer."""
    if timer is not None:
        timer.cancel()
    return None
