"""A server under many clients, of whom some send nonsense and some go away, beside `ocr` on the same pictures."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle2torch.bench.processes import CLI, BenchError
from paddle2torch.ocr.pages import find_sources

MALFORMED = CANCELLED = 0.1
"""Shares of the requests."""

_ANSWER_SECONDS = 300
_GOES_WITHIN = 0.2  # seconds
_TRIES = 200


@dataclass
class Tally:
    """What came of the requests of all clients.

    seconds: of each request that was read. mixed: answers that are another picture's. lost: requests without the
    answer that they should have had; `faults` has the first of them.
    """

    seconds: list[float] = field(default_factory=list)
    read: int = 0
    refused: int = 0
    cancelled: int = 0
    asked_again: int = 0
    mixed: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ServingBench:
    """The tally, and what it is compared with. Memory is of all processes of the server, in bytes."""

    clients: int
    tally: Tally
    wall: float
    memory_before: int
    memory_half: int
    memory_after: int
    ocr_pages_per_second: float

    @property
    def pages_per_second(self) -> float:
        """Pages that were read and taken."""
        return self.tally.read / self.wall

    def percentile(self, share: float) -> float:
        """Seconds within which so many of the answers came."""
        ordered = sorted(self.tally.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        tally = {key: value for key, value in vars(self.tally).items() if key != "seconds"}
        return {
            **{"clients": self.clients, **tally, "wall_seconds": self.wall},
            **{"p50_seconds": self.percentile(0.5), "p99_seconds": self.percentile(0.99)},
            **{"pages_per_second": self.pages_per_second, "ocr_pages_per_second": self.ocr_pages_per_second},
            **{"memory_before": self.memory_before, "memory_half": self.memory_half, "memory_after": self.memory_after},
        }


def bench_serving(
    images: Sequence[str], options: Sequence[str] = (), *, clients: int = 32, requests: int = 3000, seed: int = 1
) -> ServingBench:
    """Start `paddle2torch serve`, send it pictures from many clients, and check every answer against `ocr`'s.

    options: of `serve`, those that `ocr` has as well. A tenth of the requests is malformed, a tenth is cancelled.
    Raises `BenchError` where the pictures cannot be read, or the server does not start.
    """
    sources = find_sources(images)
    expected, rate = _read_by_ocr(sources, options)
    with _Server(options) as server:
        # Every width once: what is set up once is not memory that grows.
        for source in sources[:: max(1, len(sources) // 50)]:
            server.ask(source, Path(source).read_bytes())
        before = server.memory()
        load = _Load(server, sources, expected, requests, seed)
        start = time.perf_counter()
        half = load.run(clients)
        wall = time.perf_counter() - start
        return ServingBench(clients, load.tally, wall, before, half, server.memory(), rate)


def _read_by_ocr(sources: Sequence[str], options: Sequence[str]) -> tuple[dict[str, Any], float]:
    """The lines of each picture, and pages per second from the first page that was written to the last."""
    command = [*CLI, "ocr", *sources, *options, "--format", "jsonl"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8") as process:
            assert process.stdout is not None
            written = [(time.perf_counter(), json.loads(line)) for line in process.stdout]
        if process.returncode:
            errors.seek(0)
            raise BenchError(f"ocr cannot read them all: {errors.read().strip()[-300:]}")
    if len(written) < 2:
        raise BenchError("one picture tells no rate: give several")
    rate = (len(written) - 1) / (written[-1][0] - written[0][0])
    return {page["source"]: page["lines"] for _, page in written}, rate


class _Server:
    """`paddle2torch serve` on a free port; a context that ends it. What is asked before it is ready waits."""

    def __init__(self, options: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [*CLI, "serve", "--port", "0", *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"listening at http://127\.0\.0\.1:(\d+)/", line):
                self.port = int(found[1])
                break
        else:
            raise BenchError(f"the server does not start: {''.join(self.log)[-300:]}")
        threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()), daemon=True).start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)

    def ask(self, name: str, body: bytes, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
        """Status and body of the answer to a file."""
        connection = connection or self.connect()
        connection.request("POST", "/ocr?format=jsonl", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        return response.status, response.read()

    def memory(self) -> int:
        """Resident bytes of the server and its workers, where the system tells; otherwise 0."""
        total = 0
        pids = [self.process.pid]
        while pids:
            folder = Path(f"/proc/{pids.pop()}")
            try:
                total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                pids += [
                    int(pid) for task in (folder / "task").iterdir() for pid in (task / "children").read_text().split()
                ]
            except OSError:
                continue
        return total


class _Load:
    """What the clients share: the requests that are left, and the tally."""

    def __init__(
        self, server: _Server, sources: Sequence[str], expected: Mapping[str, Any], requests: int, seed: int
    ) -> None:
        self.server = server
        self.expected = expected
        self.files = {source: Path(source).read_bytes() for source in sources}
        rng = random.Random(seed)
        kinds = ["malformed"] * int(MALFORMED * requests) + ["cancelled"] * int(CANCELLED * requests)
        kinds += ["read"] * (requests - len(kinds))
        rng.shuffle(kinds)
        self.left = [(kind, sources[rng.randrange(len(sources))], rng.random()) for kind in kinds]
        self.half = len(self.left) // 2
        self.tally = Tally()
        self._lock = threading.Lock()
        self._memory_half = 0

    def run(self, clients: int) -> int:
        """Send all of it; the server's memory when half of it was sent."""
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._memory_half

    def _client(self) -> None:
        connection = self.server.connect()
        while True:
            with self._lock:
                if not self.left:
                    break
                kind, source, chance = self.left.pop()
                if len(self.left) == self.half:
                    self._memory_half = self.server.memory()
            try:
                if kind == "cancelled":
                    self._cancel(self.files[source], chance)
                elif kind == "malformed":
                    self._malformed(self.files[source], chance)
                else:
                    self._read(connection, source)
            except (OSError, http.client.HTTPException) as error:
                self._fault(f"{kind}: {type(error).__name__}: {error}")
                connection = self.server.connect()
        connection.close()

    def _read(self, connection: http.client.HTTPConnection, source: str) -> None:
        start = time.perf_counter()
        for _ in range(_TRIES):
            status, body = self.server.ask(source, self.files[source], connection)
            if status != 503:
                break
            with self._lock:
                self.tally.asked_again += 1
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        if status != 200:
            self._fault(f"{source}: {status} {body[:200]!r}")
            return
        lines = json.loads(body)["lines"]
        with self._lock:
            self.tally.read += 1
            self.tally.seconds.append(seconds)
            if lines != self.expected[source]:
                self.tally.mixed += 1
                other = next((name for name, found in self.expected.items() if found == lines), "nothing that was sent")
                self.tally.faults.append(f"{source}: has the answer of {other}")

    def _malformed(self, data: bytes, chance: float) -> None:
        bodies = (data[: len(data) // 2], b"", b"PK\x03\x04" + data, b"%PDF-1.7\n" + data, bytes(1000), data[::-1])
        status, body = self.server.ask("malformed", bodies[int(chance * len(bodies))])
        if 400 <= status < 500 and b"error" in body:
            with self._lock:
                self.tally.refused += 1
        else:
            self._fault(f"malformed: {status} {body[:200]!r}")

    def _cancel(self, data: bytes, chance: float) -> None:
        connection = self.server.connect()
        connection.putrequest("POST", "/ocr")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        connection.send(data if chance > 0.2 else data[: len(data) // 2])
        time.sleep(chance * _GOES_WITHIN)
        connection.close()
        with self._lock:
            self.tally.cancelled += 1

    def _fault(self, text: str) -> None:
        with self._lock:
            self.tally.lost += 1
            self.tally.faults.append(text)
