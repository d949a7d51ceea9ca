"""A server in processes of its own: connections as hostile and as short as they come, signals, a worker that dies."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
from coloured_bars import bar, blank, put
from material import TESTS

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process lists of POSIX")


def png(text: str) -> bytes:
    page = blank(64, 320)
    put(page, bar(text), 20, 18)
    return cv2.imencode(".png", page)[1].tobytes()


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def text_of(self, text: str) -> str:
        status, body = self.request("POST", "/ocr?format=text", png(text))
        assert status == 200, body
        return body.decode().strip()

    def connect(self, *sent: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for part in sent:
            connection.sendall(part)
        return connection

    def count(self, metric: str) -> float:
        """A figure of the metrics, 0 where there is none yet."""
        text = self.request("GET", "/metrics")[1].decode()
        found = re.findall(rf"^{re.escape(metric)} (\S+)$", text, flags=re.MULTILINE)
        return float(found[0]) if found else 0.0


def answer(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    connection.close()
    return b"".join(parts)


def until(said: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "served_bars.py"), "serve", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    port = int(process.stderr.readline().rpartition(":")[2].strip().rstrip("/"))
    yield Server(process, port)
    process.kill()
    process.wait()
    process.stderr.close()


def test_clients_that_are_slow_or_endless_are_cut_off_while_others_are_served(server: Server) -> None:
    assert server.text_of("AB A") == "AB A"
    head = b"POST /ocr HTTP/1.1\r\nHost: localhost\r\n"
    slow = {
        "no head": server.connect(),
        "half a head": server.connect(b"POST /oc"),
        "half a second head": server.connect(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /he"),
        "half a body": server.connect(head, b"Content-Length: 1000\r\n\r\nxxx"),
    }
    refused = {
        "a gigabyte": server.connect(head, b"Content-Length: 1000000000\r\n\r\n", b"x" * 100_000),
        "endless": server.connect(head, b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        "a long head": server.connect(b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 70_000),
        "no HTTP": server.connect(b"\xff\xfe\x00\r\n\r\n"),
        "two lengths": server.connect(head, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nxxx"),
    }
    with ThreadPoolExecutor(1) as pool:
        more = pool.submit(_send_chunks, refused["endless"])
        assert server.text_of("BA") == "BA"
        sent = more.result()
    assert sent < 64_000_000
    start = time.monotonic()
    answers = {name: answer(connection) for name, connection in {**slow, **refused}.items()}
    assert time.monotonic() - start < 10
    assert answers["no head"] == answers["half a head"] == b""
    assert answers["half a second head"].count(b"HTTP/1.1") == 1
    assert answers["half a body"].startswith(b"HTTP/1.1 408")
    assert answers["a gigabyte"].startswith(b"HTTP/1.1 413")
    for name in ("a long head", "no HTTP", "two lengths"):
        assert answers[name].startswith(b"HTTP/1.1 400"), name
    # Bytes that are no UTF-8 in headers and in the address are nothing special.
    address = b"GET /%ff%00/..%2f..%2fetc/passwd?\xc3=%ff HTTP/1.1\r\n"
    strange = server.connect(address, b"Host: localhost\r\nX: \xff\xfe\r\nConnection: close\r\n\r\n")
    assert answer(strange)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert server.text_of("AA B") == "AA B"


def _send_chunks(connection: socket.socket) -> int:
    sent = 0
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    try:
        while sent < 64_000_000:
            connection.sendall(chunk)
            sent += len(chunk)
    except OSError:
        pass
    return sent


def test_a_client_that_goes_away_is_not_read_for(server: Server) -> None:
    body = png("CCC")
    head = b"POST /ocr HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    start = time.monotonic()
    for connection in [server.connect(head, body) for _ in range(20)]:
        connection.close()
    until(lambda: server.count('paddle2torch_requests_total{route="/ocr",status="499"}') == 20)
    until(lambda: server.count("paddle2torch_requests_now") == 0)
    # Ten for each of the two workers would have taken ten times as long.
    assert server.text_of("CAB") == "CAB"
    assert time.monotonic() - start < 6
    assert server.count("paddle2torch_body_bytes_now") == 0


def test_a_worker_that_is_killed_is_replaced_and_nothing_of_it_stays(server: Server) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("the system does not list children")

    def workers() -> list[int]:
        found = [int(name) for name in children.read_text().split()]
        return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    before = workers()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    assert server.text_of("AB") == "AB"
    until(lambda: len(workers()) == 2 and before[0] not in workers(), 30)
    assert server.text_of("BA") == "BA"


def test_a_stop_finishes_what_is_read_and_takes_nothing_new(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        reading = [pool.submit(server.text_of, text) for text in ("CAB", "ACA")]
        until(lambda: server.count("paddle2torch_requests_now") == 2)
        server.process.send_signal(signal.SIGTERM)
        assert [one.result() for one in reading] == ["CAB", "ACA"]
    assert server.process.wait(20) in (0, -signal.SIGTERM)
    with pytest.raises(ConnectionRefusedError):
        server.connect()
