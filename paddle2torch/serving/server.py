"""`paddle2torch serve`: the application under uvicorn, in one process or several."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from paddle2torch.device import available_cores
from paddle2torch.malloc import keep_freed_memory
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.languages import find_language
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.serving.app import create_app
from paddle2torch.serving.door import LOOPBACK
from paddle2torch.serving.limits import Limits
from paddle2torch.serving.metrics import SHARED
from paddle2torch.serving.protocol import BoundedProtocol

_BACKLOG = 512


@dataclass(frozen=True)
class Settings:
    """How to serve.

    languages: each with a reader of its own; reading: what `OCR` is told beside that, and chosen, by language, which
    models it has taken: all processes take the same (`OCR.chosen`). without_token: whether others
    than this machine may ask without one. workers: processes. threads: pages that a process reads at once; None for
    as many as its share of the cores.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    without_token: bool = False
    languages: tuple[str, ...] = ("en",)
    reading: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    model: str = "ocr"
    workers: int = 1
    threads: int | None = None
    together: int = 4
    limits: Limits = field(default_factory=Limits)

    @property
    def hostname(self) -> str:
        """The host as addresses of the web have it: IPv6 in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def check(self) -> None:
        """Raise `ConfigError` where others could ask without a token and nobody said so, or a token is no header."""
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ConfigError("a token has printable ASCII characters alone, one at least")
        if self.hostname not in LOOPBACK and self.token is None and not self.without_token:
            raise ConfigError(
                f"other machines could send anything to {self.host}: give a --token that they have to bring, or say "
                "--without-token"
            )

    def threads_each(self) -> tuple[int, int]:
        """Pages that a process reads at once, and PyTorch's threads for each of them."""
        cores = max(1, available_cores() // self.workers)
        threads = self.threads or cores
        return threads, max(1, cores // threads)

    def load(self) -> dict[str, OCR]:
        """Who reads which language."""
        languages = [find_language(lang) for lang in self.languages]
        return {lang: OCR(lang, **{**self.reading, **self.chosen.get(lang, {})}) for lang in languages}


@dataclass(frozen=True)
class _Application:
    """Makes the application in a process of its own, which gets the settings by pickle."""

    settings: Settings

    def __call__(self) -> FastAPI:
        return _application(self.settings, self.settings.load())


def _application(settings: Settings, readers: Mapping[str, OCR]) -> FastAPI:
    keep_freed_memory()
    threads, network_threads = settings.threads_each()
    torch.set_num_threads(network_threads)
    at_home = settings.hostname in LOOPBACK and settings.token is None
    return create_app(
        readers,
        limits=settings.limits,
        token=settings.token,
        hosts=LOOPBACK if at_home else None,
        model=settings.model,
        threads=threads,
        together=settings.together,
        network_threads=network_threads,
    )


def serve(settings: Settings, *, started: Callable[[str], None] = lambda address: None) -> None:
    """Answer requests until SIGTERM or Ctrl-C; what is being read then is finished.

    started: told the address, once it is taken. Raises `ConfigError` for an address that cannot be taken, and what
    loading the models raises.
    """
    settings.check()
    # Before the address is taken, and in this process: what is wrong with the models is said once.
    readers = settings.load()
    settings = replace(settings, chosen={language: reader.chosen for language, reader in readers.items()})
    listening = _listen(settings)
    started(f"http://{settings.hostname}:{listening.getsockname()[1]}/")
    alone = settings.workers == 1
    app = _application(settings, readers) if alone else _Application(settings)
    config = uvicorn.Config(
        app,
        factory=not alone,
        workers=settings.workers,
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(settings.limits.request_seconds) + 10,
        timeout_worker_healthcheck=60,
    )
    with listening:
        if alone:
            with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises once more when it has stopped
                uvicorn.Server(config).run(sockets=[listening])
            return
        del readers
        with tempfile.TemporaryDirectory(prefix="paddle2torch-metrics-") as folder:
            os.environ[SHARED] = folder
            Multiprocess(config, sockets=[listening]).run()


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "; another program has it: choose another --port" if taken else ""
        raise ConfigError(f"{settings.host}, port {settings.port} cannot be listened at: {error}{hint}") from None
    listening.set_inheritable(True)
    return listening
