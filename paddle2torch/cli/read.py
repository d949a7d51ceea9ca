"""`quantize`, `compile`, `read`, `ocr`: running models."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

import click

from paddle2torch.cli.options import (
    AS_JSON,
    DEVICE,
    MAX_PICTURE,
    PATH,
    PIPELINE,
    PRECISION,
    QUANTIZED,
    bytes_of,
    pipeline_settings,
)
from paddle2torch.cli.output import (
    Terminal,
    echo,
    ended_by_sigterm,
    name_failures,
    page_progress,
    print_json,
    print_notes,
    print_table,
)
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.progress import spinner

if TYPE_CHECKING:
    from paddle2torch.ocr.processes import Processes
    from paddle2torch.quantization import Quantization


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|PDF...")
@AS_JSON
def quantize(model: str, inputs: tuple[str, ...], as_json: bool) -> None:
    """Quantize a model to int8, on images like those that it will read.

    MODEL is a name of the zoo or the folder of a converted model. A recogniser or classifier takes lines, a detector
    pages: fifty or more, of which every fifth is kept for comparing the result with float32. `--quantized` of other
    commands and `load_pretrained(..., quantized=True)` then run it. What cannot be read is named and left out; the exit
    status is then 1.
    """
    from paddle2torch.ocr.pages import Failure, find_sources, read_pages
    from paddle2torch.quantization import quantize as run

    results = list(read_pages(find_sources(inputs)))
    pages = [page for page in results if not isinstance(page, Failure)]
    failures = [page.message for page in results if isinstance(page, Failure)]
    # At once: without them there may be too few.
    name_failures(failures)
    with spinner(f"quantizing {model}", not as_json):
        result = run(model, [page.image for page in pages])
    without = [f"{pages[index].source}, page {pages[index].number}: {why}" for index, why in result.failed.items()]
    name_failures(without)
    if as_json:
        print_json({**asdict(result), "path": str(result.path)})
    else:
        _print_quantization(model, result)
    if failures or without:
        sys.exit(1)


def _print_quantization(model: str, result: Quantization) -> None:
    agreement = result.agreement
    echo(
        f"{model}: {len(result.convolutions)} convolutions in int8, {result.share:.0%} of the multiply-adds of all, "
        f"measured on {result.images} images"
    )
    value = "probability" if agreement.what == "pixels of text" else "score"
    echo(
        f"on {result.held_back} others: {agreement.same} of {agreement.total} {agreement.what}; largest difference of "
        f"a {value} {agreement.largest:.3f}"
    )
    echo(str(result.path))


@click.command("compile")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@QUANTIZED
@PRECISION
@AS_JSON
def compile_command(models: tuple[str, ...], quantized: bool, precision: str, as_json: bool) -> None:
    """Compile models for this CPU, ahead of time.

    MODEL is a name of the zoo or the folder of a converted model. Takes about half a minute each, of the largest three
    times that, and needs a C++ compiler; `--compiled` and `load_pretrained(..., compiled=True)` then load the result at
    once.
    """
    from paddle2torch.compiled import network, programs
    from paddle2torch.device import PRECISIONS
    from paddle2torch.model_zoo.programs.config import is_program
    from paddle2torch.zoo.resolve import obtain_converted

    packages = []
    for model in models:
        folder = obtain_converted(model)
        program = is_program(folder)
        if program and (quantized or precision != "fp32"):
            raise Paddle2TorchError(f"{model} is a program, which is compiled in float32 alone")
        how_long = programs.HOW_LONG if program else network.HOW_LONG
        echo(f"{model} is compiled for this CPU: this takes {how_long}", err=True)
        notes: tuple[str, ...] = ()
        with spinner(f"compiling {model}", not as_json):
            if program:
                package, notes = programs.compile_program(folder)
            else:
                package = network.compile_model(folder, quantized=quantized, dtype=PRECISIONS[precision])
        packages.append(package)
        print_notes(notes)
        if not as_json:
            echo(f"{model}: {packages[-1]}")
    if as_json:
        print_json([{"model": m, "package": str(p)} for m, p in zip(models, packages, strict=True)])


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@click.option("--batch-size", type=click.IntRange(min=1), default=6, show_default=True, help="Lines run at once.")
@click.option("--compiled", is_flag=True, help="Run it compiled for this CPU; see `paddle2torch compile`.")
@QUANTIZED
@PRECISION
@MAX_PICTURE
@DEVICE
@AS_JSON
def read(
    model: str,
    images: tuple[Path, ...],
    batch_size: int,
    max_picture_mb: int | None,
    as_json: bool,
    **form: Any,
) -> None:
    """Read line images: text and confidence of each.

    MODEL is a name of the zoo or the folder of a converted recogniser. What cannot be read is named at the end and
    stops nothing; the exit status is then 1.
    """
    from paddle2torch.api import load_pretrained
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.ocr.lines import read_lines
    from paddle2torch.ocr.pages import Failure
    from paddle2torch.tasks.recognition import Recognizer

    keep_freed_memory()
    network = load_pretrained(model, fused=True, **form)
    recognizer = Recognizer(network, network.config, batch_size=batch_size)
    results = list(
        zip(map(str, images), read_lines(recognizer, images, max_bytes=bytes_of(max_picture_mb)), strict=True)
    )
    failures = [line for _, line in results if isinstance(line, Failure)]
    if as_json:
        print_json(
            [
                {"image": image, **({"error": line.message} if isinstance(line, Failure) else line.to_json())}
                for image, line in results
            ]
        )
    elif len(failures) < len(results):
        read = [(image, line) for image, line in results if not isinstance(line, Failure)]
        print_table(("image", "text", "score"), [(image, line.text, f"{line.score:.4f}") for image, line in read])
    name_failures([failure.message for failure in failures])
    if failures:
        sys.exit(1)


class ProcessCount(click.ParamType):
    """A number of processes, or auto."""

    name = "[N]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """`auto`, or a number from 1 on."""
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is not a number of processes: give one, or put --processes behind the files", param)
        return int(value)


FORMATS = ("text", "markdown", "json", "jsonl", "tsv", "hocr", "alto", "parquet", "pdf", "label-studio", "ppocrlabel")


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|PDF|-...")
@click.option("--lang", default="en", show_default=True, help="Language, by any of its names: chooses the models.")
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    help="Of the results. Default: what the name of --output ends in, or text.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "-o",
    "--output",
    help="A folder (a document per source), a .jsonl file (a line per page), or one document. With --format parquet a "
    "folder is one data set, which with --engine ray may be an address (s3://...).",
)
@click.option("--resume", is_flag=True, help="Go on where a run was cut off: leave out what --output has.")
@click.option("--visualize", type=PATH, help="A folder for pictures: boxes and texts side by side.")
@PIPELINE
@click.option("--dpi", type=click.FloatRange(min=1), help="Of pages of PDFs; by default 144, and 72 for large ones.")
@MAX_PICTURE
@click.option("--workers", type=click.IntRange(min=1), help="Pages read at once. Default: one per core, up to 8.")
@click.option(
    "--processes",
    type=ProcessCount(),
    is_flag=False,
    flag_value="auto",
    help="Read in N processes of one thread each, which are replaced when they die; without N or with auto as many as "
    "read most: one for each core.",
)
@click.option(
    "--process-memory",
    "process_memory_mb",
    type=click.IntRange(min=1),
    metavar="MB",
    help="Of each of --processes, or of an actor's. What needs more is not read. Default: 3072.",
)
@click.option("--engine", type=click.Choice(["ray"]), help="Read on a Ray cluster, or on one that is started here.")
@click.option("--actors", type=click.IntRange(min=1), help="Of ray. Default: one for each CPU but two, or each GPU.")
@click.option("--actor-cpus", type=click.IntRange(min=1), help="Of an actor, which reads in so many processes.")
@click.option("--actor-gpus", type=click.FloatRange(min=0, min_open=True), help="Of an actor, a part of one or more.")
@click.option("--block-pages", type=click.IntRange(min=1), help="Pages of a file that ray writes. Default: 32.")
def ocr(
    inputs: tuple[str, ...],
    format: str | None,
    as_json: bool,
    output: str | None,
    resume: bool,
    visualize: Path | None,
    dpi: float | None,
    max_picture_mb: int | None,
    workers: int | None,
    processes: int | str | None,
    process_memory_mb: int | None,
    engine: str | None,
    actors: int | None,
    actor_cpus: int | None,
    actor_gpus: float | None,
    block_pages: int | None,
    **pipeline: Any,
) -> None:
    """Read whole pages: images, folders, globs, PDFs, standard input (-).

    What cannot be read is named at the end and stops nothing; the exit status is then 1.
    """
    from paddle2torch.malloc import keep_freed_memory
    from paddle2torch.ocr.job import run_job

    settings = pipeline_settings(**pipeline)
    pool = {"actors": actors, "cpus": actor_cpus, "gpus": actor_gpus, "pages_per_block": block_pages}
    pool = {name: value for name, value in pool.items() if value is not None}
    memory = None if process_memory_mb is None else process_memory_mb * 2**20
    if engine == "ray":
        if output is None or visualize or (workers or 1) > 1 or processes or as_json or format not in (None, "parquet"):
            raise Paddle2TorchError(
                "--engine ray writes Parquet to --output, a folder or an address: leave --format, --visualize, "
                "--workers and --processes out"
            )
        limits = {"dpi": dpi, "max_bytes": bytes_of(max_picture_mb), "memory": memory}
        _read_on_many_machines(inputs, output, resume, **limits, **pool, **settings)
    if pool:
        raise Paddle2TorchError("--actors, --actor-cpus, --actor-gpus and --block-pages belong to --engine ray")
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        with spinner("loading models", not as_json):
            if processes is None:
                if memory is not None:
                    raise Paddle2TorchError("--process-memory belongs to --processes")
                from paddle2torch.ocr.pipeline import OCR

                ocr: OCR | Processes = OCR(**settings, workers=workers)
            elif workers is not None and workers > 1:
                raise Paddle2TorchError("--workers are threads of one process: leave them or --processes out")
            else:
                ocr = stack.enter_context(_in_processes(settings, processes, memory))
        started, finished = stack.enter_context(page_progress())
        failures = run_job(
            ocr,
            inputs,
            stream=cast(TextIO, Terminal(sys.stdout)) if sys.stdout.isatty() else sys.stdout,
            format="json" if as_json else format,
            output=None if output is None else Path(output),
            resume=resume,
            pictures=visualize,
            dpi=dpi,
            max_bytes=bytes_of(max_picture_mb),
            started=started,
            finished=finished,
        )
    name_failures([failure.message for failure in failures])
    sys.exit(1 if failures else 0)


def _read_on_many_machines(inputs: tuple[str, ...], output: str, resume: bool, **options: Any) -> NoReturn:
    from paddle2torch.ray import connect, run_job

    connect()
    pages, errors = run_job(inputs, output, resume=resume, **options)
    name_failures(errors)
    echo(f"{output} has {pages:,} pages, of which {len(errors):,} could not be read", err=True)
    sys.exit(1 if errors else 0)


def _in_processes(settings: dict[str, Any], count: int | str, memory: int | None) -> Processes:
    from paddle2torch.device import choose_device
    from paddle2torch.ocr.processes import Processes

    # Chosen here, it is said once.
    settings = {**settings, "device": str(choose_device(settings["device"]))}
    return Processes(settings, count=None if count == "auto" else int(count), memory=memory)
