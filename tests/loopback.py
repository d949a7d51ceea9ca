"""An HTTP server on loopback that speaks as a Hub and as an official download address do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from paddle2torch.model_zoo.cards import UrlSource

AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_of(folder: str, files: dict[str, bytes]) -> bytes:
    """A tar of files in a folder, as official addresses answer with."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """The server, answering in a thread while the block runs."""
    with server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Server(ThreadingHTTPServer):
    """Serves `files` by path, with ranges, and the headers of a Hub; keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.hold: threading.Event | None = None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def url(self, name: str, content: bytes, digest: str | None = None) -> UrlSource:
        """A source that this server answers."""
        self.files[f"/{name}"] = content
        return UrlSource(url=f"{self.endpoint}/{name}", sha256=digest)

    def missing(self, name: str) -> UrlSource:
        """A source that answers 404."""
        return UrlSource(url=f"{self.endpoint}/{name}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.respond(body=True)

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def respond(self, body: bool) -> None:
        server = self.server
        assert isinstance(server, Server)
        wanted = self.headers.get("Range")
        if body:
            server.asked.append((self.path, wanted))
        content = server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{sha256(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            half = start + len(content) // 2
            self.wfile.write(content[start:half])
            if server.hold is not None:
                server.hold.wait(10)
            self.wfile.write(content[half:])

    def handle(self) -> None:
        # Clients are killed in the middle here.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass
