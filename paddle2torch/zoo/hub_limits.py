"""Limits of size and time for what `huggingface_hub` asks: it has timeouts for single reads at most.

A server that sends without end, or a byte now and then, would otherwise hold a process, or its memory, for ever. That
is not only the Hub itself: HF_ENDPOINT names mirrors.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from paddle2torch.model_zoo.errors import SourceError

T = TypeVar("T")


def bounded(call: Callable[[], T], *, seconds: float, most: int) -> T:
    """What `call` returns or raises, with answers of at most `most` bytes each.

    Raises `SourceError` where it takes longer than `seconds`, or where an answer is larger. The library's calls cannot
    be interrupted: what takes too long goes on in a thread that ends with the process, its connections closed.
    """
    import huggingface_hub

    answer: Future[T] = Future()

    def run() -> None:
        try:
            with _limited(most, time.monotonic() + seconds):
                answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([answer], seconds).done:
        with contextlib.suppress(AttributeError):  # older versions keep no session of their own
            huggingface_hub.close_session()
        raise SourceError(f"the Hub has not answered wholly within {seconds:,.0f} s")
    return answer.result()


@contextlib.contextmanager
def _limited(most: int, deadline: float) -> Iterator[None]:
    """The library's session with answers that are counted as they come; of a version without hooks as it is."""
    import huggingface_hub

    session = getattr(huggingface_hub, "get_session", lambda: None)()
    hooks = getattr(session, "event_hooks", None)
    if session is None or hooks is None:
        yield
        return

    def plain(request: Any) -> None:
        # Unpacked, an answer could be a thousand times as large.
        request.headers["Accept-Encoding"] = "identity"

    def limit(response: Any) -> None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError("the Hub sends its answer compressed although it was asked not to")
        response.stream = _counted(response.stream, most, deadline)

    session.event_hooks = {
        "request": [*hooks.get("request", ()), plain],
        "response": [*hooks.get("response", ()), limit],
    }
    try:
        yield
    finally:
        session.event_hooks = hooks


def _counted(stream: Any, most: int, deadline: float) -> Any:
    """A stream of bytes that ends in an error after `most` bytes, or after the deadline."""
    # The library has changed the HTTP client below it more than once; all of them want a stream of their own kind.
    kind: Any = next(base for base in type(stream).__mro__ if base.__name__ == "SyncByteStream")

    class Counted(kind):
        def __iter__(self) -> Iterator[bytes]:
            here = 0
            for chunk in stream:
                here += len(chunk)
                if here > most:
                    raise SourceError(f"the Hub's answer is larger than {most:,} bytes")
                if time.monotonic() > deadline:
                    raise SourceError("the Hub's answer comes too slowly")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Counted()
