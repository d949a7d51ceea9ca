"""Downloads over HTTP, against a server on this machine that misbehaves in the ways servers do."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from loopback import running

from paddle2torch.model_zoo.errors import Paddle2TorchError, SourceError
from paddle2torch.zoo import downloads, retry
from paddle2torch.zoo.downloads import check_reachable, discard_part, download
from paddle2torch.zoo.hosts import UnreachableError

CONTENT = random.Random(2).randbytes(1_000_000)
# Where connections are cut: whole chunks, for what is left of one is lost with the connection.
CUT = 5 * 64 * 1024

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Gives the answers of `script` one after another, the last one again and again, and keeps what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pdparams"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append(dict(self.headers))
        answer = server.script[min(len(server.asked), len(server.script)) - 1]
        with contextlib.suppress(ConnectionError):
            answer(self)

    def handle(self) -> None:
        # Clients of this server hang up in the middle, on purpose.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(Server()) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "model.part"


def head(handler: BaseHTTPRequestHandler, status: int, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def serve(
    content: bytes = CONTENT,
    etag: str | None = '"one"',
    cut: int | None = None,
    ranges: bool = True,
    if_range: bool = True,
    **more: str,
) -> Answer:
    """A server of files; `cut` closes the connection after this many bytes, the others leave out what servers do."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = 0
        wanted = handler.headers.get("Range")
        if ranges and wanted and (not if_range or handler.headers.get("If-Range") == etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        validators = {"ETag": etag} if etag else {}
        lengths = {"Content-Length": len(content) - start}
        if start:
            lengths |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}  # type: ignore[dict-item]
        head(handler, 206 if start else 200, **(validators | lengths | more))
        handler.wfile.write(content[start : None if cut is None else start + cut])
        if cut is not None:
            handler.close_connection = True

    return answer


def status(code: int, **headers: object) -> Answer:
    return lambda handler: head(handler, code, Content_Length=0, **headers)


def test_a_whole_file(server: Server, part: Path) -> None:
    server.script = [serve()]
    reports: list[tuple[int, int | None]] = []
    download(server.url, part, lambda *numbers: reports.append(numbers))
    assert part.read_bytes() == CONTENT
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert server.asked[0]["Accept-Encoding"] == "identity"
    download(server.url, part)
    assert len(server.asked) == 1, "a whole part is not fetched again"
    discard_part(part)
    assert list(part.parent.iterdir()) == []


def test_cut_connections_are_resumed(server: Server, part: Path) -> None:
    server.script = [serve(cut=CUT), serve(cut=CUT), serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert server.asked[1]["If-Range"] == '"one"'


def test_the_next_run_goes_on(server: Server, part: Path) -> None:
    server.script = [serve(cut=CUT), status(503)]
    with pytest.raises(SourceError, match="503 Service Unavailable, 5 times; 327,680 bytes are kept"):
        download(server.url, part)
    server.script.append(serve())
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={CUT}-"


@pytest.mark.parametrize(
    "second",
    [
        serve(CONTENT[::-1], etag='"two"'),
        serve(CONTENT[::-1], ranges=False),
    ],
    ids=["changed meanwhile", "no ranges"],
)
def test_an_answer_from_the_start_replaces_the_part(server: Server, part: Path, second: Answer) -> None:
    server.script = [serve(cut=CUT), second]
    download(server.url, part)
    assert part.read_bytes() == CONTENT[::-1]


def wrong_range(text: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 206, ETag='"one"', Content_Length=10, Content_Range=text)
        handler.wfile.write(b"0123456789")

    return answer


@pytest.mark.parametrize(
    "second",
    [
        serve(CONTENT, etag='"two"', if_range=False),
        wrong_range("bytes 0-9/1000000"),
        wrong_range(f"bytes {CUT}-{CUT + 9}/1000000"),
        wrong_range(f"bytes {CUT}-1000000/1000001"),
        wrong_range("bytes */1000000"),
        wrong_range(""),
        status(416),
    ],
    ids=["another file", "another start", "another end", "another size", "no range", "no header", "416"],
)
def test_a_wrong_range_is_refused(server: Server, part: Path, second: Answer) -> None:
    server.script = [serve(cut=CUT), second, serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={CUT}-", None]


def test_without_a_validator_there_is_no_resuming(server: Server, part: Path) -> None:
    server.script = [serve(etag=None, cut=CUT), serve(etag='W/"weak"', cut=CUT), serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, None, None]


def test_the_date_of_change_is_a_validator(server: Server, part: Path) -> None:
    date = formatdate(0, usegmt=True)
    server.script = [serve(etag=None, cut=CUT, Last_Modified=date), serve(if_range=False, etag=None)]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert server.asked[1]["If-Range"] == date


def test_a_damaged_state_starts_anew(server: Server, part: Path) -> None:
    part.write_bytes(b"what")
    part.with_name("model.part.json").write_text('{"url": ')
    server.script = [serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_final(server: Server, part: Path, code: int) -> None:
    server.script = [status(code)]
    with pytest.raises(SourceError, match=f"{code} "):
        download(server.url, part)
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(server: Server, part: Path, code: int) -> None:
    server.script = [status(code), status(code), serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT


def test_retry_after_is_honoured_within_reason(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    server.script = [
        status(429, Retry_After="7"),
        status(503, Retry_After="86400"),
        status(503, Retry_After=formatdate(time.time() + 20, usegmt=True)),
        status(503, Retry_After="soon"),
        serve(),
    ]
    download(server.url, part)
    assert slept[:2] == [7.0, 30.0]
    assert 15.0 < slept[2] <= 20.0
    assert slept[3] == pytest.approx(0.01 * 2**3)


def test_retries_end(server: Server, part: Path) -> None:
    server.script = [status(500)]
    with pytest.raises(SourceError, match=r"500 Internal Server Error, 5 times$"):
        download(server.url, part)
    assert len(server.asked) == 5


def test_redirects(server: Server, part: Path) -> None:
    server.script = [status(302, Location="/elsewhere"), serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    discard_part(part)
    server.script, server.asked = [status(302, Location="/elsewhere")], []
    with pytest.raises(SourceError, match="redirects"):
        download(server.url, part)
    assert len(server.asked) == 11


def test_a_redirect_must_not_leave_https() -> None:
    response = requests.Response()
    response.status_code, response.url = 200, "http://mirror.example/model.tar"
    with pytest.raises(SourceError, match="unprotected"):
        downloads._check_status(response, "https://official.example/model.tar")


def test_a_length_that_is_never_reached(server: Server, part: Path) -> None:
    def lie(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 200, Content_Length=2_000_000)
        handler.wfile.write(CONTENT)
        handler.close_connection = True

    server.script = [lie]
    with pytest.raises(SourceError, match=r"the connection was cut .*5 times"):
        download(server.url, part)


def test_more_than_was_announced(server: Server, part: Path) -> None:
    def more(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 206, ETag='"one"', Content_Length=900_000, Content_Range=f"bytes {CUT}-999999/1000000")
        handler.wfile.write(bytes(900_000))

    server.script = [serve(cut=CUT), more]
    with pytest.raises(SourceError, match="more than the 1,000,000 bytes announced"):
        download(server.url, part)
    assert not part.exists()


@pytest.mark.parametrize("chunked", [True, False])
def test_an_endless_body(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 2_000_000)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 200, **({"Transfer_Encoding": "chunked"} if chunked else {"Connection": "close"}))
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n" if chunked else bytes(0x10000))

    server.script = [endless]
    with pytest.raises(SourceError, match="more than 2,000,000 bytes came"):
        download(server.url, part)
    assert not part.exists()


def test_a_file_that_is_too_large_is_not_begun(server: Server, part: Path) -> None:
    server.script = [lambda handler: head(handler, 200, Content_Length=2**40)]
    with pytest.raises(SourceError, match="1,099,511,627,776 bytes"):
        download(server.url, part)
    assert not part.exists()


def test_a_compressed_answer_is_refused(server: Server, part: Path) -> None:
    server.script = [serve(Content_Encoding="gzip")]
    with pytest.raises(SourceError, match="compressed"):
        download(server.url, part)


def test_a_server_that_falls_silent(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "READ_SECONDS", 0.1)
    gone = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 200, ETag='"one"', Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:CUT])
        gone.wait(5)

    server.script = [silent, lambda _: gone.wait(5) and None, serve()]
    download(server.url, part)
    gone.set()
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={CUT}-", f"bytes={CUT}-"]


def test_nobody_there(part: Path) -> None:
    with Server() as closed:
        url = closed.url
    with pytest.raises(UnreachableError, match=r"no connection to 127\.0\.0\.1: .*refused"):
        download(url, part)
    with pytest.raises(UnreachableError):
        check_reachable(url)


def test_somebody_there(server: Server) -> None:
    server.script = [status(500)]
    check_reachable(server.url)
    assert len(server.asked) == 1


def test_no_address(part: Path) -> None:
    with pytest.raises(SourceError, match="Invalid URL"):
        download("http://", part)


def test_a_disk_without_room(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.script = [serve()]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(Paddle2TorchError, match=r"full: 1\.0 MB needed, 1,000 bytes free"):
        download(server.url, part)
    assert list(part.parent.iterdir()) == []


def drip(handler: BaseHTTPRequestHandler, begin: bytes) -> None:
    """A byte now and then, without end; the client must not wait for it."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.write(begin)
        for _ in range(600):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "begin",
    [
        OK + b"Content-Length: 1000000\r\n\r\n",
        OK + b"Connection: close\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n100000\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n10;",
        OK + b"X-Header: ",
        b"HTTP/1.1 2",
        b"HTTP/1.1 302 Found\r\nLocation: /model.pdparams\r\nX: ",
    ],
    ids=["length", "no length", "chunk", "chunk's length", "header", "status", "redirect"],
)
def test_a_server_that_drips(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "RATE_SECONDS", 0.25)
    server.script = [lambda handler: drip(handler, begin)]
    started = time.monotonic()
    with pytest.raises(
        SourceError, match=r"(no whole answer within|less than 1,024 bytes a second).*connection was ended"
    ):
        download(server.url, part)
    assert time.monotonic() - started < 3
    assert len(server.asked) == 1, "not tried again"


def test_a_download_that_takes_for_ever(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TOTAL_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "LEAST_RATE", 0.0)
    server.script = [lambda handler: drip(handler, OK + b"Content-Length: 1000000\r\n\r\n")]
    with pytest.raises(SourceError, match=r"it took .* the connection was ended"):
        download(server.url, part)


def test_answers_that_go_on_for_ever_before_the_real_one(
    server: Server, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiting(handler: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.5)
    server.script = [waiting]
    with pytest.raises(SourceError, match="no whole answer within"):
        download(server.url, part)


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1;"])
def test_endless_bodies_of_redirects_and_endless_chunk_lengths_are_not_read(
    server: Server, part: Path, length: str
) -> None:
    sent, sound = [0], length.endswith("\n")

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(f"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n{length}".encode())
        with contextlib.suppress(OSError):
            while sent[0] < 1 << 30:
                sent[0] += handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n" if sound else bytes(0x10000))

    server.script = [endless, serve()]
    download(server.url, part)
    assert part.read_bytes() == CONTENT
    assert sent[0] < 64 << 20


def test_a_chunk_length_without_an_end(server: Server, part: Path) -> None:
    sent = [0]

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent[0] < 1 << 30:
                sent[0] += handler.wfile.write(b"1" * 0x10000)

    server.script = [endless]
    with pytest.raises(SourceError, match="connection was cut"):
        download(server.url, part)
    assert sent[0] < 64 << 20


@pytest.mark.parametrize("place", ["http://[::1", "file:///etc/passwd", "\xff\xfe", "http://"])
def test_redirects_to_what_is_no_address(server: Server, part: Path, place: str) -> None:
    server.script = [status(302, Location=place)]
    with pytest.raises(SourceError):
        download(server.url, part)


@pytest.mark.parametrize("number", ["9" * 5000, "\xb2", "-1", "1e3"])
def test_numbers_of_headers_that_are_none(server: Server, part: Path, number: str) -> None:
    def odd(handler: BaseHTTPRequestHandler) -> None:
        head(handler, 503, Retry_After=number, Content_Length=0)

    server.script = [odd, lambda handler: head(handler, 206, Content_Range=f"bytes 0-1/{number}", Content_Length=0)]
    with pytest.raises(SourceError):
        download(server.url, part)
