"""`list`, `info`, `convert`, `verify`: models, and that they are equal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from paddle2torch.cli.options import AS_JSON, DEVICE, PATH
from paddle2torch.cli.output import echo, print_json, print_notes, print_table
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.progress import spinner


@click.command("list")
@click.option("--task", type=click.Choice(["rec", "det", "cls"]), help="Only recognisers, detectors or classifiers.")
@click.option("--language", help="Only recognisers of this language, by any of its names: fr, french, korean, arabic.")
@click.option("--version", help="Only models of this version: v2.0, v2, v3, v4, v5, v6.")
@AS_JSON
def list_command(as_json: bool, **filters: Any) -> None:
    """Show the released models that can be had by name, what of them is converted here, programs, and your own.

    Programs are official models whose networks are not known here: their exports are converted as they are.
    """
    from paddle2torch.zoo.models import list_models, own_models, program_models

    models = list_models(**filters)
    # Own models have no language or version.
    asked = filters["language"] is not None or filters["version"] is not None
    own = () if asked else own_models(task=filters["task"])
    programs = () if asked or filters["task"] is not None else program_models()
    if as_json:
        print_json([*(m.to_json() for m in models), *(m.to_json() for m in programs), *(m.to_json() for m in own)])
        return
    from paddle2torch.cli import zoo_tables

    if not sys.stdout.isatty():
        named, mine = zoo_tables.model_rows(models), zoo_tables.model_rows((), own)
        print_table(zoo_tables.HEADER, [*named, *zoo_tables.program_rows(programs), *mine])
        return
    from rich.console import Console

    zoo_tables.print_models(models, Console(highlight=False), own)
    if programs:
        zoo_tables.print_programs(programs, Console(highlight=False))


@click.command()
@click.argument("name")
@AS_JSON
def info(name: str, as_json: bool) -> None:
    """Show one model: card, network, layers, parameters, multiply-adds, characters, sources.

    NAME is a name of the zoo (`paddle2torch list`) or the folder of a converted model. Of a program: its operations,
    inputs and outputs, parameters, loops and conditions.
    """
    from paddle2torch.zoo.info import describe

    found = describe(name)
    if as_json:
        print_json(found.to_json())
        return
    from paddle2torch.cli import zoo_tables

    if not sys.stdout.isatty():
        for title, value in (("name", found.name), *zoo_tables.info_rows(found)):
            echo(f"{title:<16} {value}")
        return
    from rich.console import Console

    zoo_tables.print_info(found, Console(highlight=False))


@click.command()
@click.argument("name")
@click.option(
    "--weights",
    help="A .pdparams, an .onnx, an export's folder or program file, a tar, a folder of transformers, or org/repo "
    "(hf://org/repo) on the Hub.",
)
@click.option("--config", type=PATH, help="The PaddleOCR yml the model was trained or exported with.")
@click.option(
    "--charset", type=PATH, help="The character set it was trained with: a file of one a line, or a bundled one."
)
@click.option("--use-space-char/--no-use-space-char", default=None, help="Whether a space follows the character set.")
@click.option("--network", type=click.Choice(["Student", "Student2", "Teacher"]), help="Which one of a distillation.")
@click.option(
    "--direction",
    type=click.Choice(["auto", "ltr", "rtl"]),
    default="auto",
    help="In which lines are read; auto: as the letters of the set say.",
)
@click.option("-o", "--output", type=PATH, help="Folder to write; without it the local zoo.")
@click.option("--fused", is_flag=True, help="The form for reading only; takes the inference release.")
@click.option("--overwrite", is_flag=True, help="Replace the converted model that is in the folder.")
@click.option("--as-program", is_flag=True, help="Take an export as it is, also where its network is known here.")
@click.option("--named-only", is_flag=True, help="Refuse an export of a network that is not known here.")
@AS_JSON
def convert(name: str, as_json: bool, **options: Any) -> None:
    """Convert Paddle files to PyTorch (safetensors).

    NAME is a name of the zoo (`paddle2torch list`), or with --weights any name for a model of your own. An export of a
    network that is not known here becomes a program: the same operations, as a plain module.
    """
    from paddle2torch.zoo.conversion import convert as run

    conversion = run(name, progress=not as_json, **options)
    config = conversion.config
    print_notes(conversion.notes)
    if as_json:
        print_json(conversion.to_json())
        return
    assert config.origin is not None
    echo(
        f"{config.name}: {config.origin.kind} -> {config.form} form, {conversion.tensors} tensors, "
        f"read back bit for bit\n{conversion.folder}"
    )


@click.command()
@click.argument("model", required=False)
@click.option("--reference", type=PATH, help="An exported program that Paddle runs, an .onnx, or a stored golden.")
@click.option("--folded", is_flag=True, help="Compare the form that is folded for speed; needs an exported program.")
@click.option("--image", "images", type=PATH, multiple=True, help="A line image to compare on; may be repeated.")
@click.option("--input", "inputs", type=PATH, help="An .npz with a program's inputs by name, in place of made-up ones.")
@click.option("--report", type=PATH, help="Write one self-contained HTML page.")
@DEVICE
@AS_JSON
@click.option("--all-layers", is_flag=True, help="Print every layer, not the worst ones only.")
def verify(
    model: str | None,
    reference: Path | None,
    folded: bool,
    images: tuple[Path, ...],
    inputs: Path | None,
    report: Path | None,
    device: str,
    as_json: bool,
    all_layers: bool,
) -> None:
    """Compare a converted model with Paddle, or with an ONNX file, layer by layer.

    MODEL is a name of the zoo or the folder of a converted model; without it every converted model of the local zoo
    is verified. The exit status is 0 only if all hold.
    """
    from paddle2torch.device import choose_device, describe, exact_float32
    from paddle2torch.parity.verification import verify as run
    from paddle2torch.zoo.models import list_models

    names = [model] if model else [found.card.name for found in list_models() if found.folder]
    if not names:
        raise Paddle2TorchError("no model is converted here yet: paddle2torch convert NAME")
    if report is not None and len(names) > 1:
        raise Paddle2TorchError("a report is of one model: name it")
    place = choose_device(device)
    if place.type == "cuda":
        with exact_float32(place):
            echo(f"{describe(place, 'fp32')}; TF32, which is too coarse to be compared, is off", err=True)
    results = []
    for name in names:
        with spinner(f"verifying {name}", not as_json):
            results.append(run(name, reference=reference, folded=folded, images=images, inputs=inputs, device=place))
        if not as_json:
            print_verification(results[-1], all_layers)
    if report is not None:
        from paddle2torch.parity.report import write_report

        write_report(results[0], report)
        echo(f"report: {report}", err=True)
    if as_json:
        from paddle2torch.parity.report import as_data

        print_json([as_data(result) for result in results])
    sys.exit(0 if all(result.holds for result in results) else 1)


def print_verification(result: Any, all_layers: bool) -> None:
    """The table of one verification: all layers, or those that fail and the worst."""
    layers = result.layers
    if not all_layers:
        chosen = {id(layer) for layer in (result.worst_local, result.worst_accumulated, result.first_failure) if layer}
        layers = [layer for layer in layers if id(layer) in chosen or not layer.holds][:40]
    rows = [
        (
            layer.path,
            layer.kind,
            "x".join(map(str, layer.shape)),
            *(
                text
                for difference in (layer.local, layer.accumulated)
                for text in (
                    ("-", "-") if difference is None else (f"{difference.absolute:.1e}", f"{difference.relative:.1e}")
                )
            ),
            "ok" if layer.holds else "FAILS",
        )
        for layer in layers
    ]
    engine = f"{result.engine} {result.engine_version}"
    echo(f"{result.model} ({result.form} form) against {result.reference}, {engine}")
    print_table(("layer", "kind", "shape", "local abs", "rel", "accumulated abs", "rel", ""), rows)
    for line in result.lines:
        mark = "ok" if line.holds else "FAILS"
        theirs = f"{result.engine} {line.reference_text!r}"
        echo(f"  {line.image}: {line.torch_text!r} {line.torch_score:.4f}, {theirs}  {mark}")
    for gap in result.not_covered:
        echo(f"  not covered: {gap}")
    holding = sum(layer.holds for layer in result.layers)
    verdict = f"{holding} of {len(result.layers)} layers hold; output differs by {result.output.absolute:.1e}"
    if result.first_failure is not None:
        verdict += f"; look at {result.first_failure.path}"
    echo(f"{'EQUAL' if result.holds else 'NOT EQUAL'}: {verdict}", bold=True)
