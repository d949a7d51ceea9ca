"""What a request may take, and the errors that say that it takes more."""

from __future__ import annotations

from dataclasses import dataclass

from paddle2torch.model_zoo.errors import Paddle2TorchError

RETRY_SECONDS = 2
"""What a client is told to wait where there is no room now."""


@dataclass(frozen=True)
class Limits:
    """What is refused, and with which status.

    body_bytes: of one request, 413. held_bytes: of all requests together, 503. pages: of a document, 413. pixels: of a
    page, 413. requests: read or waiting to be read at once, 503. body_seconds: for sending the body, 408.
    request_seconds: for waiting and reading, 504.
    """

    body_bytes: int = 64_000_000
    held_bytes: int = 1_000_000_000
    pages: int = 200
    pixels: int = 50_000_000
    requests: int = 64
    body_seconds: float = 30.0
    request_seconds: float = 120.0


class RequestError(Paddle2TorchError):
    """A request that is refused: an HTTP status, a word for programs, a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        headers = {}
        if self.status == 503:
            headers["retry-after"] = str(RETRY_SECONDS)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


class ClientGoneError(RequestError):
    """Nobody reads the answer any more. The status is one that servers note, and nobody gets."""

    def __init__(self) -> None:
        super().__init__(499, "gone", "the client has closed the connection")


def too_long(seconds: float) -> RequestError:
    """The time for a request is over."""
    return RequestError(504, "too_long", f"reading took longer than {seconds:g} seconds and was given up")
