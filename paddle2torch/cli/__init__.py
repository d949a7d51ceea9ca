"""The command line: each command a thin skin over one function of the library.

Nothing heavy is imported before a command runs, so that `--help` is instant. Results go to stdout; what happens on
the way goes to stderr. With `--json` stdout is one JSON document and nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from paddle2torch._version import __version__
from paddle2torch.model_zoo.errors import Paddle2TorchError

PATH = click.Path(path_type=Path)
QUANTIZED = click.option("--quantized", is_flag=True, help="In int8; see `paddle2torch quantize`.")
BFLOAT16 = click.option("--bfloat16", is_flag=True, help="In bfloat16, where the processor has it: less exact.")


class Commands(click.Group):
    """Ends every command on a user's error with its message alone, and in the order they were written down."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in order of definition, which is the order of use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What the library warns of is a note, without the place in our code."""
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if category is UserWarning:
                click.echo(f"note: {message}", err=True)
            else:
                show(message, category, *place, **options)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = note
                return super().invoke(ctx)
        except Paddle2TorchError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="paddle2torch")
def main() -> None:
    """PaddleOCR's PP-OCR models in PyTorch: convert, verify, read lines, read pages."""


@main.command("list")
@click.option("--task", type=click.Choice(["rec", "det", "cls"]), help="Only recognisers, detectors or classifiers.")
@click.option("--language", help="Only recognisers of this language, by any of its names: fr, french, korean, arabic.")
@click.option("--version", help="Only models of this version: v2.0, v2, v3, v4, v5.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_command(as_json: bool, **filters: Any) -> None:
    """Show the released models that can be had by name, what of them is converted here, and your own."""
    from paddle2torch.zoo.models import list_models, own_models

    models = list_models(**filters)
    # Nobody said which language and version they are of.
    asked = filters["language"] is not None or filters["version"] is not None
    own = () if asked else own_models(task=filters["task"])
    if as_json:
        _print_json(
            [
                {
                    "name": model.card.name,
                    "aliases": list(model.card.aliases),
                    "task": model.card.task,
                    "version": model.card.version,
                    "tier": model.card.tier,
                    "languages": list(model.card.languages),
                    "licence": model.card.licence,
                    "parameters": model.card.parameters.fused,
                    "converted": None if model.folder is None else str(model.folder),
                    "form": model.form,
                    "bytes": model.bytes,
                }
                for model in models
            ]
            + [
                {
                    "name": model.name,
                    "task": model.task,
                    "version": None,
                    "converted": str(model.folder),
                    "form": model.form,
                    "bytes": model.bytes,
                }
                for model in own
            ]
        )
        return
    from paddle2torch.cli import zoo_tables

    if not sys.stdout.isatty():
        _print_table(zoo_tables.HEADER, list(zoo_tables.model_rows(models, own)))
        return
    from rich.console import Console

    zoo_tables.print_models(models, Console(highlight=False), own)


@main.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def info(name: str, as_json: bool) -> None:
    """Show one model: card, network, layers, parameters, multiply-adds, characters, sources.

    NAME is a name of the zoo (`paddle2torch list`) or the folder of a converted model.
    """
    from paddle2torch.zoo.info import describe

    found = describe(name)
    if as_json:
        _print_json(found.to_json())
        return
    from paddle2torch.cli import zoo_tables

    if not sys.stdout.isatty():
        for title, value in (("name", found.name), *zoo_tables.info_rows(found)):
            click.echo(f"{title:<16} {value}")
        return
    from rich.console import Console

    zoo_tables.print_info(found, Console(highlight=False))


@main.command()
@click.argument("name")
@click.option("--weights", type=PATH, help="A .pdparams file, an export's folder or program file, or a tar of either.")
@click.option("--config", type=PATH, help="The PaddleOCR yml the model was trained or exported with.")
@click.option("--charset", type=PATH, help="The character set it was trained with, one character a line.")
@click.option("--use-space-char/--no-use-space-char", default=None, help="Whether a space follows the character set.")
@click.option("-o", "--output", type=PATH, help="Folder to write; without it the local zoo.")
@click.option("--fused", is_flag=True, help="The form for reading only; takes the inference release.")
@click.option("--overwrite", is_flag=True, help="Replace the converted model that is in the folder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def convert(name: str, as_json: bool, **options: Any) -> None:
    """Convert Paddle files to PyTorch (safetensors).

    NAME is a name of the zoo (`paddle2torch list`), or with --weights any name for a model of your own.
    """
    from paddle2torch.api import convert as run

    conversion = run(name, progress=not as_json, **options)
    config = conversion.config
    for note in conversion.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        _print_json(
            {
                "name": config.name,
                "folder": str(conversion.folder),
                "form": config.form,
                "tensors": conversion.tensors,
                "origin": config.origin.kind if config.origin else None,
                "notes": list(conversion.notes),
            }
        )
        return
    assert config.origin is not None
    click.echo(
        f"{config.name}: {config.origin.kind} -> {config.form} form, {conversion.tensors} tensors, "
        f"read back bit for bit\n{conversion.folder}"
    )


@main.command()
@click.argument("model", required=False)
@click.option("--reference", type=PATH, help="An exported program that Paddle runs, or a stored golden.")
@click.option("--folded", is_flag=True, help="Compare the form that is folded for speed; needs an exported program.")
@click.option("--image", "images", type=PATH, multiple=True, help="A line image to compare on; may be repeated.")
@click.option("--report", type=PATH, help="Write one self-contained HTML page.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--all-layers", is_flag=True, help="Print every layer, not the worst ones only.")
def verify(
    model: str | None,
    reference: Path | None,
    folded: bool,
    images: tuple[Path, ...],
    report: Path | None,
    as_json: bool,
    all_layers: bool,
) -> None:
    """Compare a converted model with Paddle, layer by layer.

    MODEL is a name of the zoo or the folder of a converted model; without it every converted model of the local zoo
    is verified. The exit status is 0 only if all hold.
    """
    from paddle2torch.parity.verification import verify as run
    from paddle2torch.zoo.models import list_models

    names = [model] if model else [found.card.name for found in list_models() if found.folder]
    if not names:
        raise Paddle2TorchError("no model is converted here yet: paddle2torch convert NAME")
    if report is not None and len(names) > 1:
        raise Paddle2TorchError("a report is of one model: name it")
    results = []
    for name in names:
        with _status(f"verifying {name}", quiet=as_json):
            results.append(run(name, reference=reference, folded=folded, images=images))
        if not as_json:
            _print_verification(results[-1], all_layers)
    if report is not None:
        from paddle2torch.parity.report import write_report

        write_report(results[0], report)
        click.echo(f"report: {report}", err=True)
    if as_json:
        from paddle2torch.parity.report import as_data

        _print_json([as_data(result) for result in results])
    sys.exit(0 if all(result.holds for result in results) else 1)


@main.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|PDF...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def quantize(model: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Quantize a model to int8, on images like those that it will read.

    MODEL is a name of the zoo or the folder of a converted model. A recogniser or classifier takes lines, a detector
    pages: fifty or more, of which every fifth is kept for comparing the result with float32. `--quantized` of other
    commands and `load_pretrained(..., quantized=True)` then run it.
    """
    from paddle2torch.ocr.pages import Failure, find_sources, read_pages
    from paddle2torch.quantization import quantize as run

    images = []
    for page in read_pages(find_sources(inputs)):
        if isinstance(page, Failure):
            raise Paddle2TorchError(page.message)
        images.append(page.image)
    with _status(f"quantizing {model}", quiet=as_json):
        result = run(model, images)
    agreement = result.agreement
    if as_json:
        _print_json({**asdict(result), "path": str(result.path)})
        return
    click.echo(
        f"{model}: {len(result.convolutions)} convolutions in int8, {result.share:.0%} of the multiply-adds of all, "
        f"measured on {result.images} images"
    )
    value = "probability" if agreement.what == "pixels of text" else "score"
    click.echo(
        f"on {result.held_back} others: {agreement.same} of {agreement.total} {agreement.what}; largest difference of "
        f"a {value} {agreement.largest:.3f}"
    )
    click.echo(str(result.path))


@main.command("compile")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@QUANTIZED
@BFLOAT16
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def compile_command(models: tuple[str, ...], quantized: bool, bfloat16: bool, as_json: bool) -> None:
    """Compile models for this CPU, ahead of time.

    MODEL is a name of the zoo or the folder of a converted model. Takes up to a minute each and needs a C++ compiler;
    `--compiled` and `load_pretrained(..., compiled=True)` then load the result at once.
    """
    from paddle2torch.api import model_folder
    from paddle2torch.compiled.network import compile_model

    packages = []
    for model in models:
        with _status(f"compiling {model}", quiet=as_json):
            packages.append(compile_model(model_folder(model), quantized=quantized, dtype=_dtype(bfloat16)))
        if not as_json:
            click.echo(f"{model}: {packages[-1]}")
    if as_json:
        _print_json([{"model": m, "package": str(p)} for m, p in zip(models, packages, strict=True)])


@main.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@click.option("--batch-size", type=click.IntRange(min=1), default=6, show_default=True, help="Lines run at once.")
@click.option("--compiled", is_flag=True, help="Run it compiled for this CPU; see `paddle2torch compile`.")
@QUANTIZED
@BFLOAT16
@click.option("--device", default="cpu", show_default=True, help="Where to run, as PyTorch names it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def read(model: str, images: tuple[Path, ...], batch_size: int, bfloat16: bool, as_json: bool, **form: Any) -> None:
    """Read line images: text and confidence of each.

    MODEL is a name of the zoo or the folder of a converted recogniser.
    """
    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.tasks.images import load_image
    from paddle2torch.tasks.recognition import Recognizer

    keep_freed_memory()
    network = load_pretrained(model, fused=True, dtype=_dtype(bfloat16), **form)
    recognizer = Recognizer(network, network.config, batch_size=batch_size)
    lines = list(recognizer.stream(load_image(image) for image in images))
    if as_json:
        _print_json(
            [
                {
                    "image": str(image),
                    "text": line.text,
                    "score": line.score,
                    "chars": [{"char": char.char, "score": char.score} for char in line.chars],
                }
                for image, line in zip(images, lines, strict=True)
            ]
        )
        return
    _print_table(
        ("image", "text", "score"), [(str(i), x.text, f"{x.score:.4f}") for i, x in zip(images, lines, strict=True)]
    )


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|PDF|-...")
@click.option("--lang", default="en", show_default=True, help="Language, by any of its names: chooses the models.")
@click.option("--det", help="Another detector: name or folder.")
@click.option("--rec", help="Another recogniser: name or folder.")
@click.option("--cls", help="Another orientation classifier: name or folder.")
@click.option("--no-cls", is_flag=True, help="Do not turn lines that stand on their heads.")
@click.option(
    "--format",
    type=click.Choice(["text", "json", "jsonl", "tsv", "hocr", "alto"]),
    default="text",
    show_default=True,
    help="Of the results.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=PATH, help="A folder (a document per source) or a .jsonl file (a line per page).")
@click.option("--resume", is_flag=True, help="Go on where a run was cut off: leave out what --output has.")
@click.option("--visualize", type=PATH, help="A folder for pictures: boxes and texts side by side.")
@click.option("--compiled", is_flag=True, help="Run networks compiled for this CPU; see `paddle2torch compile`.")
@QUANTIZED
@BFLOAT16
@click.option("--fast", is_flag=True, help="Tight padding, lines of several pages together: texts may differ a little.")
@click.option("--drop-score", type=float, default=0.5, show_default=True, help="Leave out lines with less confidence.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Pages read at once.")
@click.option("--device", default="cpu", show_default=True, help="Where to run, as PyTorch names it.")
def ocr(
    inputs: tuple[str, ...],
    lang: str,
    det: str | None,
    rec: str | None,
    cls: str | None,
    no_cls: bool,
    format: str,
    as_json: bool,
    output: Path | None,
    resume: bool,
    visualize: Path | None,
    compiled: bool,
    quantized: bool,
    bfloat16: bool,
    fast: bool,
    drop_score: float,
    workers: int,
    device: str,
) -> None:
    """Read whole pages: images, folders, globs, PDFs, standard input (-).

    What cannot be read is named at the end and stops nothing; the exit status is then 1.
    """
    import torch

    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.ocr.job import run_job
    from paddle2torch.ocr.pipeline import AUTO, OCR

    keep_freed_memory()
    if workers > 1:
        # Every page's thread would otherwise start as many threads as there are cores.
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    with _status("loading models", quiet=as_json):
        pipeline = OCR(
            lang,
            det=det,
            rec=rec,
            cls=None if no_cls else cls or AUTO,
            device=device,
            compiled=compiled,
            quantized=quantized,
            dtype=_dtype(bfloat16),
            fast=fast,
            drop_score=drop_score,
            workers=workers,
        )
    with _page_progress() as (started, finished):
        failures = run_job(
            pipeline,
            inputs,
            stream=sys.stdout,
            format="json" if as_json else format,
            output=output,
            resume=resume,
            pictures=visualize,
            started=started,
            finished=finished,
        )
    for failure in failures:
        click.echo(f"not read: {failure.message}", err=True)
    sys.exit(1 if failures else 0)


@main.command()
@click.argument("name")
@click.option("-o", "--output", type=PATH, required=True, help="Folder for the two files.")
@click.option("--from", "yml", type=PATH, help="A PaddleOCR training yml whose values are taken.")
def init(name: str, output: Path, yml: Path | None) -> None:
    """Write config.json and model_config.json for fine-tuning, ready to edit.

    NAME is a name of the zoo or the folder of a converted model: where training starts. The values are those of the
    official recipe, or of the yml.
    """
    from paddle2torch.training.recipes import init as run

    for note in run(name, output, yml=yml):
        click.echo(f"note: {note}", err=True)
    click.echo(str(output))


def _with_settings(command: Any) -> Any:
    """The options of commands that read both settings files."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override: optimizer.lr=1e-4"),
        click.option("--model-config", "--model_config", type=PATH, help="By default model_config.json beside it."),
        click.option("--config", type=PATH, required=True, help="config.json, as `paddle2torch init` writes it."),
    ):
        command = option(command)
    return command


@main.command()
@_with_settings
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def train(config: Path, model_config: Path | None, assignments: tuple[str, ...], resume: bool) -> None:
    """Fine-tune a converted model, as PaddleOCR would.

    For several processes or machines: accelerate launch -m paddle2torch.cli train --config config.json
    """
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.training.settings import read_settings
    from paddle2torch.training.trainer import train as run

    keep_freed_memory()
    settings, model = read_settings(config, model_config, assignments)
    result = run(settings, model, resume=resume)
    best = "" if result.best is None else f", best {result.best:.4f} at step {result.best_step}"
    click.echo(f"{result.steps} steps{best}\n{result.folder}")


@main.command("eval")
@_with_settings
@click.option(
    "--model", help="What to evaluate: name or folder; by default the best checkpoint, else where it started."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def eval_command(
    config: Path, model_config: Path | None, assignments: tuple[str, ...], model: str | None, as_json: bool
) -> None:
    """Evaluate a model with PaddleOCR's metrics on the settings' evaluation data."""
    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.training.settings import read_settings
    from paddle2torch.training.trainer import evaluate

    keep_freed_memory()
    settings, _ = read_settings(config, model_config, assignments)
    best = Path(settings.output.dir) / "best"
    chosen = model or (str(best) if best.is_dir() else settings.pretrained)
    if chosen is None:
        raise Paddle2TorchError("nothing is trained yet and the settings start from nothing: say --model")
    click.echo(f"evaluating {chosen}", err=True)
    metrics = evaluate(settings, load_pretrained(chosen))
    if as_json:
        _print_json(metrics)
    else:
        _print_table(("metric", "value"), [(name, f"{value:.4f}") for name, value in metrics.items()])


@main.command()
@click.argument("model")
@click.option("--to", type=click.Choice(["paddle", "onnx", "torch", "transformers"]), required=True, help="The format.")
@click.option("-o", "--output", "target", type=PATH, help="What to write; without it named like the model.")
@click.option("--template", help="paddle: an export of the same architecture, whose program is kept (folder or name).")
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def export(model: str, to: str, target: Path | None, as_json: bool, force: bool, **options: Any) -> None:
    """Write a model in another format, and run it beside PyTorch.

    MODEL is a name of the zoo or the folder of a converted or trained model. paddle: a .pdparams, or with --template
    an inference program. onnx, torch (.pt2): the fused form, with free batch and image sizes.
    transformers: a folder that Hugging Face transformers loads (PP-OCRv5, and PP-OCRv4 mobile).
    """
    from paddle2torch.exporting.export import export as run

    with _status(f"exporting {model}", quiet=as_json):
        result = run(model, to, target, force=force, **options)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        _print_json(
            {
                "target": str(result.target),
                "format": result.format,
                "checked_by": result.checked_by,
                "checks": [{**vars(check), "shape": list(check.shape)} for check in result.checks],
                "notes": list(result.notes),
            }
        )
        return
    if result.checked_by is not None:
        click.echo(
            f"{result.checked_by} beside PyTorch, {len(result.checks)} inputs: the outputs differ by at most "
            f"{result.worst:.1e} of the largest value; PyTorch's own rounding is {result.rounding:.1e}"
        )
    click.echo(str(result.target))


@main.command()
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
    from paddle2torch.api import model_folder
    from paddle2torch.zoo.hub import push as run

    with _status(f"pushing {model} to {repo}", quiet=False):
        pushed = run(model_folder(model), repo, **options)
    for note in pushed.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(pushed.url)


@main.group()
def bench() -> None:
    """Measure speed and memory, side by side in one run."""


@bench.command("convert")
@click.option("--weights", type=PATH, help="A checkpoint of en_PP-OCRv4_rec; without it one of that size is made up.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions that count.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_convert(weights: Path | None, repeat: int, as_json: bool) -> None:
    """Conversion of a checkpoint, whole process, beside `--help` and the imports."""
    from paddle2torch.bench.processes import bench_conversion

    with _status("running each command in turn", quiet=as_json):
        result = bench_conversion(weights, repeat=repeat)
    if as_json:
        _print_json(result.to_json())
        return
    _print_processes(result)
    click.echo(
        f"convert takes {result.seconds_above_import:.2f} s more than import torch, and above it in memory "
        f"{result.memory_ratio:.2f} times the file ({result.file_size / 2**20:.0f} MiB)"
    )
    click.echo(_machine(result))


@bench.command("verify")
@click.argument("model")
@click.option("--reference", type=PATH, help="An exported program that Paddle runs, or a stored golden.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions that count.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_verify(model: str, reference: Path | None, repeat: int, as_json: bool) -> None:
    """Verification of a model, whole process, beside `import torch` and Paddle alone.

    MODEL is a name of the zoo or the folder of a converted model; the reference is that of `paddle2torch verify`.
    Paddle alone is a process that starts Paddle and runs the reference once, as verification has to; that it hands over
    what each layer gave comes on top.
    """
    from paddle2torch.bench.processes import bench_verification

    with _status("running each command in turn", quiet=as_json):
        result = bench_verification(model, reference=reference, repeat=repeat)
    if as_json:
        _print_json(result.to_json())
        return
    _print_processes(result)
    click.echo(f"verify takes {result.seconds_above_import:.2f} s more than import torch, against {result.reference}")
    click.echo(_machine(result))


@bench.command("growth")
@click.argument("model")
@click.option("--lines", type=click.IntRange(min=1), multiple=True, default=(1, 100, 1000), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_growth_command(model: str, lines: tuple[int, ...], as_json: bool) -> None:
    """Time and memory of `read` for ever more lines: whole processes.

    MODEL is a name of the zoo or the folder of a converted recogniser.
    """
    from paddle2torch.bench.processes import bench_growth

    with _status("reading", quiet=as_json):
        result = bench_growth(model, lines)
    if as_json:
        _print_json(result.to_json())
        return
    rows = [
        (str(count), f"{run.median:.2f}", f"{count / run.median:.1f}", f"{run.peak_memory / 2**20:.0f}")
        for count, run in zip(result.lines, result.processes, strict=True)
    ]
    _print_table(("lines", "seconds", "lines/s", "peak MiB"), rows)
    click.echo(_machine(result))


@bench.command("network")
@click.argument("model")
@click.option("--export", type=PATH, help="The Paddle export of the same weights, for Paddle and OpenVINO.")
@click.option("--batch", "batches", multiple=True, metavar="NxHxW", help="A batch to run, such as 6x48x320.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="Run our compiled form as well.")
@click.option("--repeat", type=click.IntRange(min=1), default=7, show_default=True, help="Turns.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@click.option("--chart", type=PATH, help="Write a bar chart (PNG).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_network_command(
    model: str, batches: tuple[str, ...], chart: Path | None, as_json: bool, **options: Any
) -> None:
    """One network beside OpenVINO, ONNX Runtime and Paddle, same weights and input, taking turns.

    MODEL is a name of the zoo or the folder of a converted model. The floor is what its multiply-adds take at the rate
    of a plain matrix product on this machine: the better of two measurements, before and after the turns.
    """
    from paddle2torch.bench.networks import bench_networks, need_matplotlib, write_chart

    if chart is not None:
        need_matplotlib()
    shapes = []
    for batch in batches:
        sizes = batch.split("x")
        if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
            raise Paddle2TorchError(f"--batch {batch!r} is not images x height x width, such as 6x48x320")
        shapes.append((int(sizes[0]), int(sizes[1]), int(sizes[2])))
    with _status("running the network in each engine", quiet=as_json):
        results = bench_networks(model, shapes=shapes or None, **options)
    if chart is not None:
        write_chart(results, chart)
    if as_json:
        _print_json([result.to_json() for result in results])
        return
    for result in results:
        rows = []
        for run in result.result.runs:
            rows.append(
                (
                    run.passes.name,
                    f"{1000 * run.passes.median:.1f}",
                    f"{1000 * min(run.passes.seconds):.1f}",
                    f"{1000 * max(run.passes.seconds):.1f}",
                    _ratio(*result.result.ratios(run)),
                    f"{run.passes.median / result.floor:.2f}",
                    f"{run.passes.peak_memory / 2**20:.0f}",
                    f"{100 * result.agreement(run):.1f}",
                )
            )
        header = ("engine", "median ms", "min", "max", "ours times as fast", "by floor", "peak MiB", "% as ours")
        _print_table(header, rows)
        click.echo(
            f"{result.model}, {'x'.join(map(str, result.shape))}: {result.multiply_adds / 1e9:.2f} G multiply-adds, "
            f"floor {1000 * result.floor:.1f} ms at {max(result.peaks) / 1e9:.0f} G/s "
            f"(before and after: {' and '.join(f'{peak / 1e9:.0f}' for peak in result.peaks)})"
        )
        _print_left_out(result.result)
    click.echo(f"{results[0].result.threads} threads, {_machine(results[0].result)}")


@bench.command("pages")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@click.option("--det", type=PATH, help="Folder of the export of ch_PP-OCRv4_det; without it each engine has its own.")
@click.option("--cls", type=PATH, help="The same for ch_ppocr_mobile_v2.0_cls.")
@click.option("--rec", type=PATH, help="The same for ch_PP-OCRv4_rec.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="Run our compiled form as well.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Passes over the pages.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_pages_command(images: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Whole pages per second beside RapidOCR and Paddle, the engines taking turns.

    They come with paddle2torch[bench]; what is not installed is left out and named.
    """
    from paddle2torch.bench.pages import bench_pages

    with _status("reading the pages with each engine", quiet=as_json):
        result = bench_pages(images, **options)
    if as_json:
        _print_json(result.to_json())
        return
    rows = []
    for run in result.result.runs:
        rows.append(
            (
                run.passes.name,
                f"{result.pages_per_second(run):.2f}",
                f"{run.passes.median:.2f}",
                f"{run.passes.spread:.2f}",
                f"{statistics.median(run.cpu_seconds):.2f}",
                _ratio(*result.result.ratios(run)),
                f"{run.passes.peak_memory / 2**20:.0f} ({run.loaded_memory / 2**20:.0f})",
                f"{result.texts_in_common(run)} of {sum(map(len, run.texts))}",
            )
        )
    header = (
        "engine",
        "pages/s",
        "median s",
        "spread s",
        "CPU s",
        "ours times as fast",
        "peak MiB (loaded)",
        "lines as ours",
    )
    _print_table(header, rows)
    click.echo(f"{len(result.pages)} pages, {result.result.threads} threads, {_machine(result.result)}")
    _print_left_out(result.result)


@bench.command("train")
@click.option("--paddleocr", type=PATH, required=True, help="A checkout of PaddleOCR: the folder that has ppocr.")
@click.option("--weights", type=PATH, help="Training checkpoint of en_PP-OCRv4_rec; without it both start anew.")
@click.option("--batch", type=click.IntRange(min=1), default=24, show_default=True, help="Images of 48x320 in a step.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Steps that count.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def bench_train_command(paddleocr: Path, as_json: bool, **options: Any) -> None:
    """One training step of en_PP-OCRv4_rec beside PaddleOCR's own code, taking turns.

    That needs paddlepaddle, and what the checkout's ppocr imports.
    """
    from paddle2torch.bench.train import bench_train

    with _status("training in turns", quiet=as_json):
        result = bench_train(paddleocr, **options)
    if as_json:
        _print_json(result.to_json())
        return
    rows = []
    for run in result.result.runs:
        rows.append(
            (
                run.passes.name,
                f"{result.images_per_second(run):.2f}",
                f"{run.passes.median:.2f}",
                f"{run.passes.spread:.2f}",
                f"{statistics.median(run.cpu_seconds):.2f}",
                _ratio(*result.result.ratios(run)),
                f"{run.passes.peak_memory / 2**20:.0f}",
                f"{result.loss(run):.3f}",
            )
        )
    _print_table(
        ("engine", "images/s", "median s", "spread s", "CPU s", "ours times as fast", "peak MiB", "loss"), rows
    )
    click.echo(f"batch of {result.batch}, {result.result.threads} threads, {_machine(result.result)}")
    _print_left_out(result.result)


def _ratio(median: float, least: float, most: float) -> str:
    """A ratio over the turns of a benchmark."""
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


def _machine(result: Any) -> str:
    """What a benchmark ran on and with."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"{result.cpu}; {versions}"


def _print_processes(result: Any) -> None:
    """The table of a benchmark of whole processes."""
    rows = [
        (
            process.name,
            f"{process.median:.2f}",
            f"{process.spread:.2f}",
            _ratio(*result.ratios(process)),
            f"{process.peak_memory / 2**20:.0f}",
        )
        for process in result.processes
    ]
    _print_table(("process", "median s", "spread s", "by import torch", "peak MiB"), rows)


def _print_left_out(result: Any) -> None:
    """The engines that a benchmark did not run, and why."""
    for name, distributions in result.missing.items():
        click.echo(f"left out: {name} ({', '.join(distributions)} not installed)")
    for name, reason in result.left_out.items():
        click.echo(f"left out: {name} ({reason})")


def _print_verification(result: Any, all_layers: bool) -> None:
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
    click.echo(f"{result.model} ({result.form} form) against {result.reference}, Paddle {result.paddle_version}")
    _print_table(("layer", "kind", "shape", "local abs", "rel", "accumulated abs", "rel", ""), rows)
    for line in result.lines:
        mark = "ok" if line.holds else "FAILS"
        click.echo(f"  {line.image}: {line.torch_text!r} {line.torch_score:.4f}, Paddle {line.paddle_text!r}  {mark}")
    for gap in result.not_covered:
        click.echo(f"  not covered: {gap}")
    holding = sum(layer.holds for layer in result.layers)
    verdict = f"{holding} of {len(result.layers)} layers hold; output differs by {result.output.absolute:.1e}"
    if result.first_failure is not None:
        verdict += f"; look at {result.first_failure.path}"
    click.secho(f"{'EQUAL' if result.holds else 'NOT EQUAL'}: {verdict}", bold=True)


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as they need: no line is cut, so that the output can be searched and piped."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    for index, row in enumerate((header, *rows)):
        text = "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(text, bold=index == 0)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, indent=2))


def _dtype(bfloat16: bool) -> Any:
    import torch

    return torch.bfloat16 if bfloat16 else torch.float32


@contextmanager
def _status(message: str, *, quiet: bool) -> Iterator[None]:
    """A spinner on stderr while something takes its time, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


@contextmanager
def _page_progress() -> Iterator[tuple[Callable[[int], None], Callable[[Any], None]]]:
    """Sources done and to do on stderr, where that is a terminal; yields what to tell their number, and each page."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def started(sources: int) -> None:
            progress.update(task, total=sources)

        def finished(page: Any) -> None:
            last = page.number is None or page.number == getattr(page, "count", None)
            progress.update(task, advance=1 if last else 0, description=f"reading {Path(page.source).name}")

        yield started, finished
