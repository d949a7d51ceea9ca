"""HTTP sessions whose connections can be ended from outside while something waits for them.

The timeouts of HTTP libraries are of one read from the network. A server that sends a byte now and then never meets
them, be it in the middle of a file, of a header, or of the greeting of TLS.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class Watch:
    """Ends the connections of a session. `ended` is the reason, once it has."""

    def __init__(self) -> None:
        self.ended: str | None = None
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    def adopt(self, connection: socket.socket) -> socket.socket:
        """Keep another handle of a new connection: TLS takes its first one over."""
        with self._lock:
            self._sockets.append(connection.dup())
        return connection

    def end(self, reason: str) -> None:
        """End all connections: whoever waits for one is told at once that it is gone."""
        with self._lock:
            self.ended = reason
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the handles."""
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()

    @contextlib.contextmanager
    def at_most(self, seconds: float, reason: str) -> Iterator[None]:
        """End all connections where the block takes longer."""
        timer = threading.Timer(seconds, self.end, (reason,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def at_least(self, bytes_per_second: float, over: float, count: Callable[[], int]) -> Iterator[None]:
        """End all connections where `count`, the bytes that are here, grows slower for `over` seconds of the block."""
        done = threading.Event()

        def look() -> None:
            last = count()
            while not done.wait(over):
                if count() - last < bytes_per_second * over:
                    self.end(f"less than {bytes_per_second:,.0f} bytes a second came for {over:.0f} s")
                    return
                last = count()

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextlib.contextmanager
def watched_session() -> Iterator[tuple[requests.Session, Watch]]:
    """A session of `requests`, and the watch over its connections (but for those through a SOCKS proxy)."""
    watch = Watch()
    with requests.Session() as session:
        adapter = _Adapter(watch)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        try:
            yield session, watch
        finally:
            watch.close()


class _Adapter(HTTPAdapter):
    """Makes connections that a watch knows."""

    def __init__(self, watch: Watch) -> None:
        class Http(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return watch.adopt(super()._new_conn())

        class Https(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return watch.adopt(super()._new_conn())

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        self._pools = {"http": HttpPool, "https": HttpsPool}
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See `HTTPAdapter`."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See `HTTPAdapter`."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager
