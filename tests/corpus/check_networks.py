"""Converts what `export_networks.py` made, compares it with Paddle at every size, exports it, and writes a table.

    python tests/corpus/check_networks.py FOLDER [--ways torch onnx compiled] [--again] [--seconds N] [--limit N]
                                          [--names NAME…]

Each network is checked in a process of its own, and what came out is kept as `result.json` beside it; `--again` makes
it anew. With `--ways` the program also leaves: as a `.pt2` of `torch.export`, as ONNX, compiled by AOTInductor, each
run beside the module at several sizes. After `--seconds` no other network is begun: the next call goes on from there.
A network that takes more than `--limit` seconds is ended, and named with that. Those of `--names` are taken in their
order. The table on standard output is Markdown; a network that is wrong is named with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paddle2torch.compiled.program_graphs import listed
from paddle2torch.compiled.programs import compile_program, load_compiled_program
from paddle2torch.converters.paddle_files.exports import find_program
from paddle2torch.converters.programs.convert import ConvertedProgram, convert_program
from paddle2torch.exporting.programs import export_onnx, export_torch
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.model_zoo.programs.rows import SETS, sorted_rows
from paddle2torch.parity.programs import compare_program
from paddle2torch.parity.reference import run_program
from paddle2torch.zoo.programs import save_program

TOLERANCE = 5e-5
"""Of an output's largest value."""
LOCAL_TOLERANCE = 1e-5
WAYS = ("torch", "onnx", "compiled")


def difference(found: np.ndarray, expected: np.ndarray, rows: bool) -> float:
    """Of the largest value; infinite for another shape, another type, or another integer."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        return float("inf")
    if expected.size == 0:
        return 0.0
    if rows and expected.ndim == 2:
        found, expected = sorted_rows(found, expected)
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(found, expected) else float("inf")
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    largest = np.abs(np.where(np.isfinite(expected), expected, 0)).max()
    worst = float(np.where(same, 0, np.abs(found - expected)).max() / max(float(largest), 1e-30))
    return float("inf") if np.isnan(worst) else worst


def compare(folder: Path, converted: ConvertedProgram) -> list[dict[str, Any]]:
    """What differs at each size that Paddle ran."""
    rows = any(node.kind in SETS for node in converted.graph.walk())
    found = []
    for path in sorted(folder.glob("io*.npz")):
        with np.load(path) as values:
            inputs = [torch.from_numpy(values[f"in:{feed.name}"]) for feed in converted.config.feeds]
            started = time.perf_counter()
            with torch.inference_mode():
                outputs = converted.network(*inputs)
            seconds = time.perf_counter() - started
            listed = outputs if isinstance(outputs, tuple) else (outputs,)
            worst = 0.0
            shapes = []
            for index, output in enumerate(listed):
                assert isinstance(output, Tensor)
                expected = values[f"out:{index}"]
                shapes.append(list(expected.shape))
                worst = max(worst, difference(output.numpy(), expected, rows))
            finite = all(np.isfinite(values[key]).all() for key in values if key.startswith("out:"))
            found.append(
                {
                    "inputs": [list(x.shape) for x in inputs],
                    "outputs": shapes,
                    "worst": worst,
                    "finite": bool(finite),
                    "seconds": seconds,
                }
            )
    return found


def by_operation(folder: Path, converted: ConvertedProgram) -> dict[str, Any]:
    """Each operation on Paddle's own inputs: what differs at the end alone is rounding that made-up weights magnify."""
    program, parameters = find_program(folder)
    if parameters is None:
        parameters = folder / "empty.pdiparams"
        parameters.touch()
    with np.load(folder / "io.0.npz") as values:
        inputs = {feed.name: values[f"in:{feed.name}"] for feed in converted.config.feeds}
    run = run_program(program, parameters, inputs, None, threads=1)
    made = compare_program(converted.network, inputs, run, "Paddle")
    off = [layer for layer in made.layers if not layer.local.relative <= LOCAL_TOLERANCE]
    worst = max((layer.local.relative for layer in made.layers), default=0.0)
    return {"compared": len(made.layers), "off": [f"{layer.kind} {layer.path}" for layer in off], "worst": worst}


def import_all(ways: Sequence[str]) -> None:
    """Import what every network needs, before the first has a process of its own."""
    own = {
        "torch": (),
        "onnx": ("torch.onnx._internal.exporter._core", "onnxruntime"),
        "compiled": ("torch._inductor.compile_fx",),
    }
    for way in ways:
        for name in ("torch._dynamo", "torch.export._trace", *own[way]):
            importlib.import_module(name)


def leave(folder: Path, converted: ConvertedProgram, way: str, place: Path) -> dict[str, Any]:
    """How the program leaves one way, by files in `place`: the largest difference from the module, or why it does
    not.
    """
    started, computed = time.perf_counter(), cpu_seconds()
    try:
        said = compiled(folder, converted, place) if way == "compiled" else exported(converted, way, place)
    except Paddle2TorchError as error:
        said = {"error": str(error)[:400]}
    return {**said, "seconds": time.perf_counter() - started, "cpu": cpu_seconds() - computed}


def cpu_seconds() -> float:
    """Of this process and of those that it has started and seen end, compilers among them."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in used)


def exported(converted: ConvertedProgram, way: str, place: Path) -> dict[str, Any]:
    """As a `.pt2` or an `.onnx`: the exporter itself runs what it wrote beside the module."""
    made = {"torch": export_torch, "onnx": export_onnx}[way](converted.network, place / way, force=True)
    return {
        "worst": max((check.relative for check in made.checks), default=0.0),
        "rounding": max((check.rounding for check in made.checks), default=0.0),
        "sizes": [list(check.shape) for check in made.checks],
        "notes": list(made.notes),
    }


def compiled(folder: Path, converted: ConvertedProgram, place: Path) -> dict[str, Any]:
    """As a package of AOTInductor, run beside the module on the inputs that Paddle was given."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(place / "compiler")
    save_program(place / "converted", converted.network, converted.file)
    package, notes = compile_program(place / "converted")
    try:
        module = load_compiled_program(place / "converted")
        rows = any(node.kind in SETS for node in converted.graph.walk())
        worst, sizes, other = 0.0, [], []
        for path in sorted(folder.glob("io*.npz")):
            with np.load(path) as values:
                inputs = tuple(torch.from_numpy(values[f"in:{feed.name}"]) for feed in converted.config.feeds)
            (sizes if module.takes(inputs) else other).append(list(inputs[0].shape))
            with torch.inference_mode():
                found, wanted = listed(module(*inputs)), listed(converted.network(*inputs))
            gaps = [difference(a.numpy(), b.numpy(), rows) for a, b in zip(found, wanted, strict=True)]
            worst = max(worst, *gaps)
    finally:
        package.unlink(missing_ok=True)
    return {"worst": worst, "sizes": sizes, "not compiled": other, "notes": list(notes)}


def check(folder: Path, ways: Sequence[str], result: dict[str, Any], place: Path) -> Iterator[dict[str, Any]]:
    """All that is known of one network, more and more of it; what `result` holds already is not made again.

    place: an empty folder, whose files nobody needs afterwards.
    """
    started = time.perf_counter()
    converted = convert_program(folder, name=folder.name)
    if "sizes" not in result:
        result["seconds"] = time.perf_counter() - started
        kinds = Counter(node.kind for node in converted.graph.walk())
        result["operations"], result["kinds"] = sum(kinds.values()), len(kinds)
        result["sizes"] = compare(folder, converted)
        if any(size["worst"] > TOLERANCE for size in result["sizes"]):
            result["by_operation"] = by_operation(folder, converted)
        yield result
    for way in ways:
        if way not in result.setdefault("exports", {}):
            result["exports"][way] = leave(folder, converted, way, place)
            yield result


def in_a_process(folder: Path, ways: Sequence[str], result: dict[str, Any], limit: int) -> dict[str, Any]:
    """`check` where neither memory nor a crash of one network reaches the next, in `limit` seconds."""
    path = folder / "result.json"
    with tempfile.TemporaryDirectory(dir=folder) as place:
        child = os.fork()
        if child == 0:
            signal.alarm(limit)
            warnings.simplefilter("ignore")
            try:
                for made in check(folder, ways, result, Path(place)):
                    path.write_text(json.dumps(made, indent=1), encoding="utf-8")
            except Paddle2TorchError as error:
                result["error"] = str(error)
            except BaseException as error:
                result |= {"error": f"{type(error).__name__}: {error}", "raw": traceback.format_exc()}
            path.write_text(json.dumps(result, indent=1), encoding="utf-8")
            os._exit(0)
        _, status = os.waitpid(child, 0)
    found = read(path) if path.exists() else result
    if status:
        slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        said = f"was ended after {limit} s" if slow else "was ended: out of memory, or crashed"
        missing = [way for way in ways if way not in found.get("exports", {})]
        if "sizes" in found and missing:
            found.setdefault("exports", {})[missing[0]] = {"error": said}
        else:
            found["error"] = said
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def read(path: Path) -> dict[str, Any]:
    """A result that was kept."""
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def right(result: dict[str, Any]) -> bool:
    """Whether every output at every size is Paddle's, or every operation is, on the inputs that Paddle gave it."""
    sizes = result.get("sizes", [])
    if not sizes or "error" in result:
        return False
    return all(size["worst"] <= TOLERANCE for size in sizes) or result["by_operation"]["off"] == []


def row(result: dict[str, Any]) -> str:
    """The network's line in the table."""
    name = result["name"]
    if "error" in result and "sizes" not in result:
        return f"| {name} | | refused: {result['error'].splitlines()[0][:200]} | | | | |"
    sizes = result["sizes"]
    worst = max(size["worst"] for size in sizes)
    shown = [f"{worst:.0e}" if worst else "0", str(len(sizes))]
    if "by_operation" in result:
        found = result["by_operation"]
        shown[0] = f"{worst:.0e}; by operation {found['worst']:.0e}, {len(found['off'])} of {found['compared']} off"
    for way in WAYS:
        said = result.get("exports", {}).get(way)
        if said is None:
            shown.append("")
        elif "error" in said:
            shown.append(f"no: {said['error'].splitlines()[0][:120]}")
        else:
            shown.append(f"{said['worst']:.0e}, {len(said['sizes'])} sizes")
    return f"| {name} | {result['operations']} | {' | '.join(shown)} |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="*", default=[])
    parser.add_argument("--ways", nargs="*", default=[], choices=WAYS)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--limit", type=int, default=900)
    options = parser.parse_args()
    torch.set_num_threads(1)
    import_all(options.ways)
    print("| network | operations | largest difference | sizes | `torch.export` | ONNX | compiled |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    results = []
    started = time.monotonic()
    names = options.names or sorted(path.parent.name for path in options.folder.glob("*/about.json"))
    for folder in (options.folder / name for name in names):
        kept = folder / "result.json"
        result = read(kept) if kept.exists() and not options.again else {"name": folder.name}
        done = "error" in result or ("sizes" in result and not {*options.ways} - {*result.get("exports", {})})
        if not done:
            if time.monotonic() - started > options.seconds:
                continue
            result = in_a_process(folder, options.ways, result, options.limit)
        results.append(result)
        print(row(result), flush=True)
    good = sum(map(right, results))
    print(f"\n{good} of {len(results)} are right.")
    for way in WAYS:
        tried = [result["exports"][way] for result in results if way in result.get("exports", {})]
        if tried:
            print(f"{way}: {sum('error' not in said for said in tried)} of {len(tried)}.")


if __name__ == "__main__":
    main()
