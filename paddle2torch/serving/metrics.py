"""What `/metrics` shows, for Prometheus; of all worker processes together where there are several."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus_client that names the folder in which several processes count."""

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The figures of one application."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        prefix = "paddle2torch"
        self.requests = Counter(
            f"{prefix}_requests", "Requests that were answered.", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            f"{prefix}_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.pages = Counter(f"{prefix}_pages", "Pages, by what came of them.", ("result",), registry=registry)
        self.lines = Counter(f"{prefix}_lines", "Lines that were read.", registry=registry)
        self.together = Histogram(
            f"{prefix}_pages_together", "Pages that were read at once.", buckets=(1, 2, 3, 4, 8), registry=registry
        )
        self.waiting = self._gauge(f"{prefix}_pages_waiting", "Pages and other work that no thread has taken yet.")
        self.requests_now = self._gauge(f"{prefix}_requests_now", "Requests that wait or are read.")
        self.held = self._gauge(f"{prefix}_body_bytes_now", "Bytes of uploads in memory.")

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, registry=self._registry, multiprocess_mode="livesum")

    def text(self) -> bytes:
        """In Prometheus's text format."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)


def forget_ended_workers() -> None:
    """Take out what workers that were killed had waiting; what they counted stays."""
    folder = os.environ.get(SHARED)
    if folder is None:
        return
    for file in Path(folder).glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found is None:
            continue
        try:
            os.kill(int(found[1]), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)  # another worker that starts may take it out as well
        except PermissionError:
            continue  # it runs, as another user
