"""`bench`: speed and memory, side by side in one run."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import click

from paddle2torch.cli.options import AS_JSON, DEVICE, PATH, PRECISION_WORD, SETTINGS
from paddle2torch.cli.output import echo, print_json, print_table
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.progress import spinner


@click.group()
def bench() -> None:
    """Measure speed and memory, side by side in one run."""


@bench.command("convert")
@click.option("--weights", type=PATH, help="A checkpoint of en_PP-OCRv4_rec; without it one of that size is made up.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions that count.")
@AS_JSON
def bench_convert(weights: Path | None, repeat: int, as_json: bool) -> None:
    """Conversion of a checkpoint, whole process, beside `--help` and the imports."""
    from paddle2torch.bench.processes import bench_conversion

    with spinner("running each command in turn", not as_json):
        result = bench_conversion(weights, repeat=repeat)
    if as_json:
        print_json(result.to_json())
        return
    _print_processes(result)
    echo(
        f"convert takes {result.seconds_above_import:.2f} s more than import torch, and above it in memory "
        f"{result.memory_ratio:.2f} times the file ({result.file_size / 2**20:.0f} MiB)"
    )
    echo(_machine(result))


@bench.command("verify")
@click.argument("model")
@click.option("--reference", type=PATH, help="An exported program that Paddle runs, or a stored golden.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions that count.")
@AS_JSON
def bench_verify(model: str, reference: Path | None, repeat: int, as_json: bool) -> None:
    """Verification of a model, whole process, beside `import torch` and Paddle alone.

    MODEL is a name of the zoo or the folder of a converted model; the reference is that of `paddle2torch verify`.
    Paddle alone is a process that starts Paddle and runs the reference once, as verification has to; that it hands over
    what each layer gave comes on top.
    """
    from paddle2torch.bench.processes import bench_verification

    with spinner("running each command in turn", not as_json):
        result = bench_verification(model, reference=reference, repeat=repeat)
    if as_json:
        print_json(result.to_json())
        return
    _print_processes(result)
    echo(f"verify takes {result.seconds_above_import:.2f} s more than import torch, against {result.reference}")
    echo(_machine(result))


@bench.command("growth")
@click.argument("model")
@click.option("--lines", type=click.IntRange(min=1), multiple=True, default=(1, 100, 1000), show_default=True)
@AS_JSON
def bench_growth_command(model: str, lines: tuple[int, ...], as_json: bool) -> None:
    """Time and memory of `read` for more and more lines: whole processes.

    MODEL is a name of the zoo or the folder of a converted recogniser.
    """
    from paddle2torch.bench.processes import bench_growth

    with spinner("reading", not as_json):
        result = bench_growth(model, lines)
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        (str(count), f"{run.median:.2f}", f"{count / run.median:.1f}", f"{run.peak_memory / 2**20:.0f}")
        for count, run in zip(result.lines, result.processes, strict=True)
    ]
    print_table(("lines", "seconds", "lines/s", "peak MiB"), rows)
    echo(_machine(result))


@bench.command("network")
@click.argument("model")
@click.option("--export", type=PATH, help="The Paddle export of the same weights, for Paddle and OpenVINO.")
@click.option("--batch", "batches", multiple=True, metavar="NxHxW", help="A batch to run, such as 6x48x320.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="Run our compiled form as well.")
@click.option("--repeat", type=click.IntRange(min=1), default=7, show_default=True, help="Turns.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@click.option("--chart", type=PATH, help="Write a bar chart (PNG).")
@AS_JSON
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
    with spinner("running the network in each engine", not as_json):
        results = bench_networks(model, shapes=shapes or None, **options)
    if chart is not None:
        write_chart(results, chart)
    if as_json:
        print_json([result.to_json() for result in results])
        return
    for result in results:
        _print_network(result)
        echo(
            f"{result.model}, {'x'.join(map(str, result.shape))}: {result.multiply_adds / 1e9:.2f} G multiply-adds, "
            f"floor {1000 * result.floor:.1f} ms at {max(result.peaks) / 1e9:.0f} G/s "
            f"(before and after: {' and '.join(f'{peak / 1e9:.0f}' for peak in result.peaks)})"
        )
        _print_left_out(result.result)
    echo(f"{results[0].result.threads} threads, {_machine(results[0].result)}")


@bench.command("device")
@click.argument("pages", nargs=-1, metavar="[PAGE]...")
@DEVICE
@click.option("--lang", default="en", show_default=True, help="Of the pages.")
@click.option("--precision", "precisions", multiple=True, type=PRECISION_WORD, help="Default: all three.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), help="Lines at once. Default: 6, 64.")
@click.option("--torch-compile", "compiled", is_flag=True, help="By torch.compile too, which compiles for minutes.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Turns that count.")
@AS_JSON
def bench_device_command(
    pages: tuple[str, ...],
    device: str,
    lang: str,
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    compiled: bool,
    repeat: int,
    as_json: bool,
) -> None:
    """What a device does in a second: lines, maps, training steps, and pages where some are given.

    In each precision. A case that the device cannot run is named with its reason; the exit status is then 1.
    """
    from paddle2torch.bench.device import bench_device

    chosen: dict[str, Any] = {"precisions": precisions, "batches": batches}
    chosen = {name: values for name, values in chosen.items() if values}
    with spinner("measuring", not as_json):
        result = bench_device(device, pages, lang=lang, compiled=compiled, repeat=repeat, **chosen)
    if as_json:
        print_json(result.to_json())
    else:
        rows = [
            (
                case.what,
                case.precision,
                str(case.batch),
                "torch.compile" if case.compiled else "eager",
                "-" if case.per_second is None else f"{case.per_second:.1f}",
                case.failed or ("" if case.memory is None else f"{case.memory / 2**20:.0f} MiB at most"),
            )
            for case in result.cases
        ]
        print_table(("what", "precision", "batch", "form", "a second", ""), rows)
        echo(f"{result.device}; " + ", ".join(f"{name} {version}" for name, version in result.versions.items()))
    sys.exit(1 if any(case.failed for case in result.cases) else 0)


@bench.command("program")
@click.argument("model")
@click.option("--input", "inputs", type=PATH, help="An .npz with the program's inputs by name; else they are made up.")
@click.option("--onnx", type=PATH, help="The same network as ONNX, for ONNX Runtime.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="Run our compiled form as well.")
@click.option("--repeat", type=click.IntRange(min=1), default=7, show_default=True, help="Turns.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@AS_JSON
def bench_program_command(model: str, as_json: bool, **options: Any) -> None:
    """One forward pass of a program beside Paddle, with and without oneDNN, and ONNX Runtime, taking turns.

    MODEL is the folder of a converted program, or its name.
    """
    from paddle2torch.bench.programs import bench_program

    with spinner("running the program in each engine", not as_json):
        result = bench_program(model, **options)
    if as_json:
        print_json(result.to_json())
        return
    rows = [
        (
            run.passes.name,
            f"{1000 * run.passes.median:.2f}",
            f"{1000 * min(run.passes.seconds):.2f}",
            f"{1000 * max(run.passes.seconds):.2f}",
            _ratio(*result.result.ratios(run)),
            f"{run.passes.peak_memory / 2**20:.0f}",
            f"{result.difference(run):.0e}",
        )
        for run in result.result.runs
    ]
    print_table(("engine", "median ms", "min", "max", "ours times as fast", "peak MiB", "size of outputs"), rows)
    shown = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.inputs.items())
    echo(f"{result.model}: {shown or 'no inputs'}")
    _print_left_out(result.result)
    echo(f"{result.result.threads} threads, {_machine(result.result)}")


@bench.command("pages")
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE]...")
@click.option("--mixed", type=click.IntRange(min=1), help="So many pages in all: rendered receipts, scans and photos.")
@click.option("--engine", "only", multiple=True, metavar="NAME", help="Only these, by their names in the table.")
@click.option(
    "--models",
    type=click.Choice(["v4", "v5-mobile", "v6-small", "v6-tiny"]),
    default="v4",
    show_default=True,
    help="What all engines read with.",
)
@click.option("--peer", "peers", multiple=True, metavar="NAME=PYTHON", help="A peer, and the Python that has it.")
@click.option("--onnx", nargs=2, type=PATH, metavar="DET REC", help="Files for peers in place of our exports.")
@click.option("--det", type=PATH, help="Folder of the export of ch_PP-OCRv4_det; without it each engine has its own.")
@click.option("--cls", type=PATH, help="The same for ch_ppocr_mobile_v2.0_cls.")
@click.option("--rec", type=PATH, help="The same for ch_PP-OCRv4_rec.")
@click.option("--compiled/--no-compiled", default=True, show_default=True, help="Run our compiled form as well.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Passes over the pages.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@AS_JSON
def bench_pages_command(
    images: tuple[Path, ...],
    mixed: int | None,
    as_json: bool,
    models: str,
    peers: tuple[str, ...],
    onnx: tuple[Path, Path] | None,
    **options: Any,
) -> None:
    """Whole pages per second beside RapidOCR, Paddle and others, the engines taking turns.

    Paddle comes with paddle2torch[bench]. Peers are rapidocr (with openvino, onnxruntime), and for PP-OCRv6
    rapidocrlite and faster-paddle, each in an environment of its own. What is not installed is left out and named.
    """
    from paddle2torch.bench.mixed import write_mixed_pages
    from paddle2torch.bench.pages import bench_pages, bench_pair_pages

    exports = {task: options.pop(task) for task in ("det", "cls", "rec")}
    if models != "v4" and any(exports.values()):
        raise Paddle2TorchError("--det, --cls and --rec belong to --models v4")
    interpreters = _interpreters(peers)
    with TemporaryDirectory() as folder, spinner("reading the pages with each engine", not as_json):
        if mixed is not None:
            images = (*images, *write_mixed_pages(Path(folder), max(0, mixed - len(images))))
        if models == "v4":
            result = bench_pages(images, **exports, peers=interpreters, onnx=onnx, **options)
        else:
            result = bench_pair_pages(images, models, interpreters, onnx=onnx, **options)
    if as_json:
        print_json(result.to_json())
        return
    _print_engines(
        result.result,
        {
            "pages/s": lambda run: f"{result.pages_per_second(run):.2f}",
            **_SECONDS,
            **_ratios(result.result),
            "peak MiB (loaded)": lambda run: f"{run.passes.peak_memory / 2**20:.0f} ({run.loaded_memory / 2**20:.0f})",
            "precision": lambda run: run.facts.get("precision", "?"),
            "detector Mpx": lambda run: _megapixels(result.detector_pixels(run)),
            "lines as ours": lambda run: f"{result.texts_in_common(run)} of {sum(map(len, run.texts))}",
        },
    )
    echo(f"{len(result.pages)} pages, {result.result.threads} threads, {_machine(result.result)}")
    _print_left_out(result.result)


@bench.command("loader")
@SETTINGS
@click.option("--seconds", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="How long to load.")
@click.option("--step/--no-step", default=True, show_default=True, help="Time a training step as well.")
@AS_JSON
def bench_loader_command(
    config: Path,
    model_config: Path | None,
    assignments: tuple[str, ...],
    seconds: float,
    step: bool,
    as_json: bool,
) -> None:
    """Samples per second of a training's data, decoded, augmented and batched, beside those of its step.

    Where data is not clearly faster than the step, more data.train.loader.num_workers or smaller images help.
    """
    from paddle2torch.bench.loading import bench_loading
    from paddle2torch.training.config_files import read_settings

    settings, model = read_settings(config, model_config, assignments)
    with spinner("loading", not as_json):
        result = bench_loading(settings, model, seconds=seconds, step=step)
    if as_json:
        print_json(result.to_json())
        return
    rows = [("data", f"{result.samples_per_second:.1f}")]
    if result.step_samples_per_second is not None:
        rows.append(("step", f"{result.step_samples_per_second:.1f}"))
    print_table(("", "samples/s"), rows)
    echo(
        f"{result.workers} processes load; in one, a sample takes {result.decode_ms:.2f} ms to decode and "
        f"{result.transform_ms:.2f} ms to transform"
    )
    if result.times_the_step is not None:
        echo(f"data comes {result.times_the_step:.1f} times as fast as it is learnt from")


@bench.command("train")
@click.option("--paddleocr", type=PATH, required=True, help="A checkout of PaddleOCR: the folder that has ppocr.")
@click.option("--weights", type=PATH, help="Training checkpoint of en_PP-OCRv4_rec; without it both start anew.")
@click.option("--batch", type=click.IntRange(min=1), default=24, show_default=True, help="Images of 48x320 in a step.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Steps that count.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Of each engine.")
@AS_JSON
def bench_train_command(paddleocr: Path, as_json: bool, **options: Any) -> None:
    """One training step of en_PP-OCRv4_rec beside PaddleOCR's own code, taking turns.

    That needs paddlepaddle, and what the checkout's ppocr imports.
    """
    from paddle2torch.bench.train import bench_train

    with spinner("training in turns", not as_json):
        result = bench_train(paddleocr, **options)
    if as_json:
        print_json(result.to_json())
        return
    _print_engines(
        result.result,
        {
            "images/s": lambda run: f"{result.images_per_second(run):.2f}",
            **_SECONDS,
            **_ratios(result.result),
            **_PEAK,
            "loss": lambda run: f"{result.loss(run):.3f}",
        },
    )
    echo(f"batch of {result.batch}, {result.result.threads} threads, {_machine(result.result)}")
    _print_left_out(result.result)


Columns: TypeAlias = Mapping[str, Callable[[Any], str]]
"""What a table of engines shows of each run, by the column's name."""

_SECONDS: Columns = {
    "median s": lambda run: f"{run.passes.median:.2f}",
    "spread s": lambda run: f"{run.passes.spread:.2f}",
    "CPU s": lambda run: f"{statistics.median(run.cpu_seconds):.2f}",
}
_PEAK: Columns = {"peak MiB": lambda run: f"{run.passes.peak_memory / 2**20:.0f}"}


@bench.command("serve", context_settings={"ignore_unknown_options": True})
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|FOLDER... [OPTIONS OF serve]")
@click.option("--clients", type=click.IntRange(min=1), default=32, show_default=True, help="At once.")
@click.option("--requests", type=click.IntRange(min=10), default=3000, show_default=True, help="Of all clients.")
@AS_JSON
def bench_serve_command(images: tuple[str, ...], clients: int, requests: int, as_json: bool) -> None:
    """A server under many clients, beside `ocr` on the same pictures.

    Starts `paddle2torch serve` and checks each answer against what `ocr` reads of that picture. A tenth of the requests
    is malformed, a tenth is cancelled. Options that `serve` and `ocr` share are given to both, as --version=v4.
    The exit status is 1 where an answer is lost or another picture's.
    """
    from paddle2torch.bench.serving import bench_serving

    options = tuple(name for name in images if name.startswith("-"))
    with spinner("reading the pictures, and sending them", not as_json):
        result = bench_serving(
            [name for name in images if name not in options], options, clients=clients, requests=requests
        )
    if as_json:
        print_json(result.to_json())
    else:
        _print_serving(result)
    if result.tally.lost or result.tally.mixed:
        sys.exit(1)


def _print_serving(result: Any) -> None:
    tally = result.tally
    echo(
        f"{result.clients} clients: {tally.read} read, {tally.refused} malformed and refused, {tally.cancelled} "
        f"cancelled, {tally.asked_again} asked again; lost {tally.lost}, mixed up {tally.mixed}"
    )
    for fault in tally.faults[:10]:
        echo(fault, err=True)
    echo(
        f"{result.pages_per_second:.1f} pages/s in {result.wall:.0f} s, ocr {result.ocr_pages_per_second:.1f}; "
        f"p50 {result.percentile(0.5):.2f} s, p99 {result.percentile(0.99):.2f} s"
    )
    sizes = (result.memory_before, result.memory_half, result.memory_after)
    echo(f"memory of the server before, in the middle, afterwards: {', '.join(f'{x / 2**20:.0f}' for x in sizes)} MiB")


def _ratios(result: Any) -> Columns:
    return {"ours times as fast": lambda run: _ratio(*result.ratios(run))}


def _print_engines(result: Any, columns: Columns) -> None:
    """The table of a benchmark of engines, a row for each."""
    rows = [(run.passes.name, *(show(run) for show in columns.values())) for run in result.runs]
    print_table(("engine", *columns), rows)


def _print_network(result: Any) -> None:
    _print_engines(
        result.result,
        {
            "median ms": lambda run: f"{1000 * run.passes.median:.1f}",
            "min": lambda run: f"{1000 * min(run.passes.seconds):.1f}",
            "max": lambda run: f"{1000 * max(run.passes.seconds):.1f}",
            **_ratios(result.result),
            "by floor": lambda run: f"{run.passes.median / result.floor:.2f}",
            **_PEAK,
            "% as ours": lambda run: f"{100 * result.agreement(run):.1f}",
        },
    )


def _interpreters(peers: tuple[str, ...]) -> dict[str, str]:
    """{peer: interpreter} of NAME=PYTHON."""
    found = {}
    for peer in peers:
        name, _, python = peer.partition("=")
        if not python:
            raise Paddle2TorchError(f"--peer {peer!r} is not NAME=PYTHON, such as rapidocr=venv/bin/python")
        found[name] = python
    return found


def _megapixels(pixels: int | None) -> str:
    return "?" if pixels is None else f"{pixels / 1e6:.2f}"


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
    print_table(("process", "median s", "spread s", "by import torch", "peak MiB"), rows)


def _print_left_out(result: Any) -> None:
    """The engines that a benchmark did not run, and why."""
    for name, distributions in result.missing.items():
        echo(f"left out: {name} ({', '.join(distributions)} not installed)")
    for name, reason in result.left_out.items():
        echo(f"left out: {name} ({reason})")
