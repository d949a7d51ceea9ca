"""What servers answer: a download address and a Hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from fuzz.cases import Case, Entry
from fuzz.kinds import (
    Kind,
    mutate_json,
    small_models,
)
from fuzz.mutate import (
    dumps,
    json_attacks,
    mutate_bytes,
    mutate_tree,
)


class _Answers:
    """A server on loopback that sends prepared bytes, one answer after the other, to whoever connects."""

    def __init__(self, answers: list[bytes], drip: float) -> None:
        self.answers, self.drip = answers, drip
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for number in range(40):
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, number), daemon=True).start()

    def _answer(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            request = b""
            while b"\r\n\r\n" not in request and (more := connection.recv(65536)):
                request += more
            content = self.answers[min(number, len(self.answers) - 1)].replace(b"@SELF@", self.address.encode())
            if not self.drip:
                connection.sendall(content)
                return
            for place in range(len(content)):
                threading.Event().wait(self.drip)
                connection.sendall(content[place : place + 1])

    def close(self) -> None:
        self.listener.close()


class Http(Kind):
    """The answers of a download address. An input is the bytes of each answer."""

    name = "http"

    def make(self, rng: Random) -> Case:
        body = b"\x80" + bytes(range(256)) * 4
        answers: dict[str, Entry] = {}
        for number in range(rng.choice((1, 1, 2, 3))):
            status = rng.choice(
                (
                    b"200 OK",
                    b"200 OK",
                    b"206 Partial Content",
                    b"404 \x1b]0;owned\x07",
                    b"503 x",
                    b"302 Found",
                    b"999 " + b"x" * 5000,
                    b"416 x",
                    b"304 x",
                    b"-1 x",
                    b"200",
                    b"204 x",
                )
            )
            headers = {b"Content-Length": b"%d" % len(body), b"ETag": b'"x"'}
            for _ in range(rng.choice((0, 1, 1, 2))):
                headers |= rng.choice(
                    (
                        {
                            b"Content-Length": rng.choice(
                                (b"0", b"-1", b"9" * 30, b"9" * 5000, b"1e3", b"\xb2", b"5", b"4000")
                            )
                        },
                        {
                            b"Content-Range": rng.choice(
                                (b"bytes 0-0/1", b"bytes 512-1024/1025", b"bytes x", b"bytes 9-1/" + b"9" * 5000)
                            )
                        },
                        {
                            b"Location": rng.choice(
                                (b"@SELF@/next", b"file:///etc/passwd", b"http://[::1", b"\xff", b"ftp://x/", b"//")
                            )
                        },
                        {b"Transfer-Encoding": b"chunked"},
                        {b"Content-Encoding": rng.choice((b"gzip", b"br", b"x"))},
                        {
                            b"Retry-After": rng.choice(
                                (b"1e9", b"-5", b"Wed, 99 Foo 9999 99:99:99 GMT", b"\xb2", b"9" * 400)
                            )
                        },
                        {b"ETag": rng.choice((b'W/"x"', b"x" * 20_000, b'"\x1b[2J"', b'"\xff"'))},
                        {b"Last-Modified": b"x"},
                        {b"X-" + b"y" * 300: b"z"},
                        {b"Set-Cookie": b"a=b" * 1000},
                    )
                )
            lines = b"".join(key + b": " + value + b"\r\n" for key, value in headers.items())
            many = b"x: y\r\n" * rng.choice((0, 0, 0, 101, 20_000))
            content = b"HTTP/1.1 " + status + b"\r\n" + lines + many + b"Connection: close\r\n\r\n"
            content += rng.choice(
                (body, body, body[:500], b"", body * 3, b"ffffffffffffffff\r\nx", b"5\r\nhello\r\n0\r\n\r\n")
            )
            answers[f"answer{number}"] = mutate_bytes(rng, content) if rng.random() < 0.2 else content
        if rng.random() < 0.03:
            answers["drip"] = b""  # a byte now and then
        if rng.random() < 0.2:
            answers["part"] = body[: rng.choice((1, 512, len(body)))]
        return answers

    def run(self, folder: Path) -> None:
        from paddle2torch.zoo import downloads, retry

        quick(downloads, retry)
        drip = 0.05 if (folder / "drip").exists() else 0.0
        server = _Answers([path.read_bytes() for path in sorted(folder.glob("answer*"))], drip)
        part = folder.parent / "out" / "x.part"
        try:
            if (folder / "part").exists():
                part.write_bytes((folder / "part").read_bytes())
                state = {"url": f"{server.address}/x", "validator": '"x"', "total": 1025}
                part.with_name("x.part.json").write_text(json.dumps(state))
            downloads.download(f"{server.address}/x", part)
        finally:
            server.close()


def quick(downloads: Any, retry: Any) -> None:
    """Waits and limits of time that a fuzzer can wait for."""
    retry.FIRST_DELAY = retry.MAX_DELAY = retry.MAX_RETRY_AFTER = 0.001
    downloads.CONNECT_SECONDS = downloads.READ_SECONDS = downloads.RATE_SECONDS = 0.5
    downloads.ANSWER_SECONDS = 2.0
    downloads.TOTAL_SECONDS = 10.0
    downloads.ATTEMPTS = retry.ATTEMPTS = 3


EXPORT = ("inference.json", "inference.pdiparams")


class Hub(Kind):
    """The answers of a Hub: what it says of a repository, and the files of a model, ours or to be converted."""

    name = "hub"
    short = 5

    def make(self, rng: Random) -> Case:
        files = dict(small_models()["rec"])
        if rng.random() < 0.3:
            files["model_config.json"] = mutate_json(rng, files["model_config.json"])
        weights = rng.choice(
            (b"", b"", b"org/name", b"hf://org/name", b"hf://org/name/folder", b"hf://org/name@main/x")
        )
        if weights:  # as transformers' layout, as an export, or as an ONNX file
            names = rng.choice(
                (("config.json", "model.safetensors"), ("inference.json", "inference.pdiparams"), ("x", "x.onnx"))
            )
            folder = rng.choice(("", "", "folder/", "../", "a/../"))
            contents = (files.pop("model_config.json"), files.pop("model.safetensors"))
            files |= {folder + name: content for name, content in zip(names, contents, strict=True)}
        commit = "0123456789abcdef0123456789abcdef01234567"
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
                **(
                    {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}}
                    if name.endswith("safetensors")
                    else {}
                ),
            }
            for name, content in files.items()
        ]
        about: Any = {
            "id": "org/name",
            "modelId": "org/name",
            "sha": commit,
            "private": False,
            "gated": False,
            "tags": [],
            "siblings": siblings,
        }
        answer = dumps(mutate_tree(rng, about)) if rng.random() < 0.6 else json.dumps(about).encode()
        if rng.random() < 0.1:
            answer = json_attacks(rng, answer)
        status = rng.choice((b"200", b"200", b"200", b"200", b"404", b"401", b"429", b"500", b"307"))
        served = {f"files/{name.rpartition('/')[2]}": content for name, content in files.items()}
        return {"about": answer, "status": status, "weights": weights, **served}

    def run(self, folder: Path) -> None:
        import huggingface_hub
        from huggingface_hub import constants

        from paddle2torch.api import load_pretrained
        from paddle2torch.zoo import downloads, retry
        from paddle2torch.zoo.conversion import convert

        quick(downloads, retry)
        about = (folder / "about").read_bytes()
        status = int((folder / "status").read_bytes()[:3])
        with loopback_hub(folder / "files", status, about) as address:
            constants.ENDPOINT = address
            constants.HUGGINGFACE_CO_URL_TEMPLATE = address + "/{repo_id}/resolve/{revision}/{filename}"
            constants.HF_HUB_OFFLINE = False
            huggingface_hub.constants.HF_HUB_DISABLE_XET = True
            weights = (folder / "weights").read_text() if (folder / "weights").is_file() else ""
            if weights:
                convert("fuzzed", weights=weights, output=folder.parent / "out" / "converted", overwrite=True)
            else:
                load_pretrained("org/name", fused=True)


@contextlib.contextmanager
def loopback_hub(files: Path, status: int, about: bytes) -> Iterator[str]:
    """A Hub of one repository on loopback: its address."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    commit = "0123456789abcdef0123456789abcdef01234567"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.respond(True)

        def do_HEAD(self) -> None:
            self.respond(False)

        def respond(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.rpartition("/")[2]
            code, content = status, about
            if "/resolve/" in path:
                code, content = (200, (files / name).read_bytes()) if (files / name).is_file() else (404, b"")
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
