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
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import allowed_gai_family, create_connection

LEAST_SECONDS = 1.5
"""For each address of a host: a lost first packet is sent again after a second."""
NO_TIMEOUT_SECONDS = 60.0


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


def _connect(connection: HTTPConnection) -> socket.socket:
    """As urllib3 connects, but that the timeout is of all addresses of the host together, and of finding them.

    Hosts have eight of them and more, which urllib3 gives the whole time each, one after the other.
    """
    seconds = connection.timeout if isinstance(connection.timeout, (int, float)) else NO_TIMEOUT_SECONDS
    host = connection._dns_host
    try:
        addresses = _addresses(host, connection.port, seconds)
        error: OSError = OSError(f"{host} has no address")
        for address in addresses:
            try:
                found = create_connection(
                    (address, connection.port),
                    max(LEAST_SECONDS, seconds / len(addresses)),
                    source_address=connection.source_address,
                    socket_options=connection.socket_options,
                )
            except OSError as failed:
                # That one address cannot be routed says less than that another does not answer.
                error = error if isinstance(error, TimeoutError) else failed
                continue
            found.settimeout(seconds)  # of the greeting of TLS
            return found
        raise error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"no connection to {host} within {seconds:.0f} s") from error
    except OSError as error:
        raise NewConnectionError(connection, f"Failed to establish a new connection: {error}") from error


def _addresses(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host. Raises `OSError` where it has none, `TimeoutError` where nobody says so in time."""
    found: list[list[str] | OSError] = []

    def look() -> None:
        try:
            family = allowed_gai_family()
            answers = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
        except OSError as error:
            found.append(error)
        except UnicodeError as error:  # a label of the name is empty or too long
            found.append(OSError(str(error)))

    # A resolver cannot be interrupted: one that takes too long goes on in a thread that ends with the process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise TimeoutError(f"the name {host} was not resolved")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


class _Adapter(HTTPAdapter):
    """Makes connections that a watch knows."""

    def __init__(self, watch: Watch) -> None:
        class Http(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return watch.adopt(_connect(self))

        class Https(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return watch.adopt(_connect(self))

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
