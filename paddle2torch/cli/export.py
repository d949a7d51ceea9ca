"""`export`, `push`: the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from paddle2torch.cli.options import AS_JSON, PATH
from paddle2torch.cli.output import echo, print_json, print_notes
from paddle2torch.progress import spinner


@click.command()
@click.argument("model")
@click.option("--to", type=click.Choice(["paddle", "onnx", "torch", "transformers"]), required=True, help="The format.")
@click.option("-o", "--output", "target", type=PATH, help="What to write; without it named like the model.")
@click.option("--template", help="paddle: an export of the same architecture, whose program is kept (folder or name).")
@click.option("--quantized", is_flag=True, help="onnx: in int8; see `paddle2torch quantize`.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@AS_JSON
def export(
    model: str,
    to: str,
    target: Path | None,
    as_json: bool,
    force: bool,
    quantized: bool,
    template: str | None,
) -> None:
    """Write a model in another format, and run it beside PyTorch.

    MODEL is a name of the zoo or the folder of a converted or trained model. paddle: a .pdparams, or with --template
    an inference program. onnx, torch (.pt2): the fused form, with free batch and image sizes. --quantized writes the
    int8 form that `paddle2torch quantize` made, as other runtimes know it (QDQ). transformers: a folder that Hugging
    Face transformers loads (PP-OCRv5, and PP-OCRv4 mobile).
    """
    from paddle2torch.exporting.export import export as run

    with spinner(f"exporting {model}", not as_json):
        result = run(model, to, target, force=force, template=template, quantized=quantized)
    print_notes(result.notes)
    if as_json:
        print_json(result.to_json())
        return
    if result.checked_by is not None:
        form, own = ("PyTorch in int8", "int8 itself") if quantized else ("PyTorch", "PyTorch's own rounding")
        echo(
            f"{result.checked_by} beside {form}, {len(result.checks)} inputs: the outputs differ by at most "
            f"{result.worst:.1e} of the largest value; {own} is {result.rounding:.1e}"
        )
    echo(str(result.target))


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
