"""`serve`: pages over HTTP."""

from __future__ import annotations

from typing import Any

import click

from paddle2torch.cli.options import PIPELINE, pipeline_settings
from paddle2torch.cli.output import echo
from paddle2torch.model_zoo.errors import ConfigError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--token",
    envvar="PADDLE2TORCH_TOKEN",
    help="What every request has to bring. Safer in the variable PADDLE2TORCH_TOKEN: others see a process's options.",
)
@click.option("--without-token", is_flag=True, help="Let other machines in without one.")
@click.option(
    "--lang",
    "languages",
    multiple=True,
    default=("en",),
    show_default=True,
    help="Language, by any of its names: chooses the models. Several times for several; the first is the default.",
)
@PIPELINE
@click.option("--model-name", default="ocr", show_default=True, help="Of the model in KServe's protocol.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--threads", type=click.IntRange(min=1), help="Pages that a process reads at once. Default: its cores.")
@click.option(
    "--together",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Small pages of different requests whose lines may share a batch.",
)
@click.option("--max-body-mb", type=click.IntRange(min=1), default=64, show_default=True, help="Of a request (413).")
@click.option("--max-uploads-mb", type=click.IntRange(min=1), default=1000, show_default=True, help="Of all (503).")
@click.option("--max-pages", type=click.IntRange(min=1), default=200, show_default=True, help="Of a document (413).")
@click.option(
    "--max-megapixels", type=click.FloatRange(min=0.01), default=50, show_default=True, help="Of a page (413)."
)
@click.option(
    "--max-requests", type=click.IntRange(min=1), default=64, show_default=True, help="Read or waiting at once (503)."
)
@click.option(
    "--body-seconds", type=click.FloatRange(min=0.1), default=30, show_default=True, help="For sending a body (408)."
)
@click.option(
    "--request-seconds",
    type=click.FloatRange(min=0.1),
    default=120,
    show_default=True,
    help="For waiting and being read (504).",
)
def serve(
    host: str,
    port: int,
    token: str | None,
    without_token: bool,
    languages: tuple[str, ...],
    model_name: str,
    workers: int,
    threads: int | None,
    together: int,
    max_body_mb: int,
    max_uploads_mb: int,
    max_pages: int,
    max_megapixels: float,
    max_requests: int,
    body_seconds: float,
    request_seconds: float,
    **pipeline: Any,
) -> None:
    """Read pictures and PDFs that clients send; a page for the browser at /.

    Listens on this machine alone, unless --host says otherwise, which needs a --token. What is sent stays in memory
    until it is answered. SIGTERM and Ctrl-C finish what is being read.
    """
    try:
        from paddle2torch.serving.limits import Limits
        from paddle2torch.serving.server import Settings
        from paddle2torch.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'paddle2torch[serve]'") from None

    limits = Limits(
        body_bytes=max_body_mb * 1_000_000,
        held_bytes=max_uploads_mb * 1_000_000,
        pages=max_pages,
        pixels=int(max_megapixels * 1_000_000),
        requests=max_requests,
        body_seconds=body_seconds,
        request_seconds=request_seconds,
    )
    settings = Settings(
        host=host,
        port=port,
        token=token,
        without_token=without_token,
        languages=languages,
        reading=pipeline_settings(**pipeline),
        model=model_name,
        workers=workers,
        threads=threads,
        together=together,
        limits=limits,
    )
    run(settings, started=lambda address: echo(f"listening at {address}", err=True))
