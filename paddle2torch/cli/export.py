"""`export`, `push`: the way out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from paddle2torch.cli.options import AS_JSON, PATH
from paddle2torch.cli.output import echo, name_failures, print_json, print_notes
from paddle2torch.progress import spinner


@click.command()
@click.argument("model")
@click.option("--to", type=click.Choice(["paddle", "onnx", "torch", "transformers"]), required=True, help="The format.")
@click.option("-o", "--output", "target", type=PATH, help="What to write; without it named like the model.")
@click.option("--template", help="paddle: an export of the same architecture, whose program is kept (folder or name).")
@click.option(
    "--quantized",
    multiple=True,
    metavar="IMAGE|FOLDER|PDF",
    help="onnx: in int8, measured on these, fifty or more like those that it will read.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@AS_JSON
def export(
    model: str,
    to: str,
    target: Path | None,
    as_json: bool,
    force: bool,
    quantized: tuple[str, ...],
    template: str | None,
) -> None:
    """Write a model in another format, and run it beside PyTorch.

    MODEL is a name of the zoo or the folder of a converted or trained model. paddle: a .pdparams, or with --template
    an inference program. onnx, torch (.pt2): the fused form, with free batch and image sizes. --quantized puts an
    .onnx into int8 by ONNX Runtime's quantizer, as other runtimes know it, and says how far it still reads the same.
    transformers: a folder that Hugging Face transformers loads (PP-OCRv5, and PP-OCRv4 mobile).
    """
    from paddle2torch.exporting.export import export as run
    from paddle2torch.ocr.pages import Failure, find_sources, read_pages

    read = list(read_pages(find_sources(quantized))) if quantized else []
    failures = [page.message for page in read if isinstance(page, Failure)]
    # At once: without them there may be too few.
    name_failures(failures)
    images = [page.image for page in read if not isinstance(page, Failure)]
    with spinner(f"exporting {model}", not as_json):
        calibration = images if quantized else None
        result = run(model, to, target, force=force, template=template, calibration=calibration)
    print_notes(result.notes)
    if as_json:
        print_json(result.to_json())
    elif result.checked_by is not None:
        own = "that is int8's doing" if quantized else f"PyTorch's own rounding is {result.rounding:.1e}"
        echo(
            f"{result.checked_by} beside PyTorch, {len(result.checks)} inputs: the outputs differ by at most "
            f"{result.worst:.1e} of the largest value; {own}"
        )
    if not as_json:
        echo(str(result.target))
    if failures:
        sys.exit(1)


@click.command()
@click.argument("model")
@click.argument("repo", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make the repository private; one that is public is refused.")
@click.option("--revision", help="A branch, made where there is none.")
@click.option("--licence", default="apache-2.0", show_default=True, help="Of the weights, as the Hub names it.")
@click.option("--verification", type=PATH, help="What `verify --json` printed: its figures go into the card.")
def push(model: str, repo: str, **options: Any) -> None:
    """Publish a model on the Hugging Face Hub, with a model card.

    MODEL is a name of the zoo or the folder of a converted or trained model. The token is HF_TOKEN's, or that of
    `hf auth login`.
    """
    from paddle2torch.zoo.hub import push as run
    from paddle2torch.zoo.resolve import obtain_converted

    with spinner(f"pushing {model} to {repo}"):
        pushed = run(obtain_converted(model), repo, **options)
    print_notes(pushed.notes)
    echo(pushed.url)
