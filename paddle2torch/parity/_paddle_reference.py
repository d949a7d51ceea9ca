"""Executes an exported program under Paddle: `python -m paddle2torch.parity._paddle_reference REQUEST`.

With `bench._paddle_training` the only module that imports paddle, and only run in a process of its own: Paddle and
PyTorch in one process break each other on many machines. `paddle2torch.parity.reference` is its only caller: it
prepares the environment (Paddle reads most settings on import), writes the request, and reads the report.

Request, a JSON file:
    program, parameters   paths of the two files of the export
    format                "legacy" (`.pdmodel`) or "pir" (`inference.json`)
    inputs                path of a safetensors file that holds "input:0", "input:1", …
    input_names           their names in that order; null where one array goes to the only input
    wanted                list of [name, position, result_index]; null for every value that the program computes
    values                path that the results are written to: safetensors, "value:0", …, "output:0", …
    report                path that the report is written to, last: whoever sees it finds the values complete

Report, a JSON file: either {"error": message}, or {"paddle_version", "values": names, "outputs": count}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from paddle2torch.parity._paddle_operations import refused_operations

# Outputs that hold no value at inference: Paddle leaves them unallocated, or allocated and never written.
_LEGACY_SCRATCH_SLOTS = frozenset(
    {"Mask", "MeanOut", "ReserveSpace", "SavedMean", "SavedVariance", "VarianceOut", "XShape"}
)
_PIR_ONE_VALUE = frozenset({"batch_norm", "batch_norm_", "dropout"})


class RequestError(Exception):
    """The request does not fit the program or the machine; the message is for the user."""


@dataclass(frozen=True)
class _Loaded:
    """A program that Paddle has loaded, with a copy added right after each wanted value.

    `inputs` has shape (-1 where free) and dtype by name; `taps` and `outputs` are what the executor can fetch.
    """

    program: Any
    inputs: Mapping[str, tuple[tuple[int, ...], str]]
    taps: Mapping[str, Any]
    outputs: Sequence[Any]


def main(request_path: str) -> int:
    """Carry out one request; 0 if the report holds values, 1 if it holds an error."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    try:
        report = _execute(request)
    except RequestError as error:
        report = {"error": str(error)}
    unfinished = Path(request["report"] + ".part")
    unfinished.write_text(json.dumps(report), encoding="utf-8")
    os.replace(unfinished, request["report"])
    return 1 if "error" in report else 0


def _execute(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # Not an import statement, so that type checkers need no Paddle.
        paddle: Any = importlib.import_module("paddle")
    except ModuleNotFoundError as error:
        if error.name != "paddle":
            raise
        raise RequestError(
            "paddlepaddle is not installed: pip install 'paddle2torch[paddle]', "
            "or verify against a stored golden with --reference"
        ) from error
    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    load = _load_pir if request["format"] == "pir" else _load_legacy
    loaded = load(paddle, executor, request)
    feed = match_inputs(load_file(request["inputs"]), request["input_names"], loaded.inputs)
    names = list(loaded.taps)
    fetched = executor.run(
        loaded.program, feed=feed, fetch_list=[*loaded.taps.values(), *loaded.outputs], return_numpy=False
    )
    tensors: dict[str, np.ndarray] = {}
    computed: list[str] = []
    for name, tensor in zip(names, fetched[: len(names)], strict=True):
        if tensor._is_initialized():
            tensors[f"value:{len(computed)}"] = np.array(tensor)
            computed.append(name)
        elif request["wanted"] is not None:
            raise RequestError(f"Paddle computes no value for {name!r} at inference")
    for index, tensor in enumerate(fetched[len(names) :]):
        tensors[f"output:{index}"] = np.array(tensor)
    save_file(tensors, request["values"])
    return {"paddle_version": paddle.__version__, "values": computed, "outputs": len(loaded.outputs)}


def match_inputs(
    tensors: Mapping[str, np.ndarray], names: Sequence[str] | None, declared: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, np.ndarray]:
    """Give each array to the input it is meant for, after comparing name, dtype and shape.

    Of the shape, the number of axes and the first two sizes (batch, channels) are held to the declaration. Height
    and width are not: Paddle's own predictor runs any that the kernels accept, whatever size the export declares.
    """
    if names is None:
        if len(declared) != 1:
            raise RequestError(f"the program has {len(declared)} inputs, give them by name: {', '.join(declared)}")
        names = list(declared)
    if set(names) != set(declared):
        raise RequestError(f"the program's inputs are {', '.join(declared)}; given were {', '.join(names) or 'none'}")
    feed = {name: tensors[f"input:{index}"] for index, name in enumerate(names)}
    for name, array in feed.items():
        shape, dtype = declared[name]
        if array.dtype.name != dtype:
            raise RequestError(f"input {name!r} is {array.dtype.name}, the program takes {dtype}")
        fits = all(size in (-1, given) for size, given in zip(shape[:2], array.shape[:2], strict=False))
        if len(array.shape) != len(shape) or not fits or array.size == 0:
            raise RequestError(f"input {name!r} has shape {array.shape}, the program takes {shape} (-1: any size)")
    return feed


def _refuse_unknown(names: Iterable[str]) -> None:
    """Raise for an operation that is not known to compute and nothing else: a program from outside must not reach the
    disk, the network or Python through Paddle's own operations.
    """
    refused = refused_operations(set(names))
    if refused:
        raise RequestError(
            f"the program has operations that are not on the list of those that only compute "
            f"({', '.join(refused[:8])}): not executed"
        )


def _load_legacy(paddle: Any, executor: Any, request: Mapping[str, Any]) -> _Loaded:
    program, feeds, fetches = paddle.static.load_inference_model(
        os.path.dirname(request["program"]),
        executor,
        model_filename=request["program"],
        params_filename=request["parameters"],
    )
    _refuse_unknown(op.type for block in program.blocks for op in block.ops)
    block = program.global_block()
    dense = paddle.base.core.VarDesc.VarType.DENSE_TENSOR
    writers: dict[str, list[int]] = {}
    for position, op in enumerate(block.ops):
        for slot in op.output_names:
            if slot in _LEGACY_SCRATCH_SLOTS:
                continue
            for name in op.output(slot):
                variable = block.vars.get(name)
                if variable is not None and variable.type == dense and not variable.persistable:
                    writers.setdefault(name, []).append(position)

    if request["wanted"] is None:
        chosen = {name: positions[-1] for name, positions in writers.items()}
    else:
        chosen = {name: choose_writer(writers, name, position) for name, position, _ in request["wanted"]}

    # From the last to the first, so that what is still to be done keeps its position.
    copies: dict[str, str] = {}
    last_feed = max((index for index, op in enumerate(block.ops) if op.type == "feed"), default=-1)
    for name, position in sorted(chosen.items(), key=lambda item: item[1], reverse=True):
        source = block.var(name)
        copy = block.create_var(name=f"{name}@paddle2torch", dtype=source.dtype, shape=source.shape)
        # Paddle wants all feeds at the start, with nothing between them.
        block._insert_op(max(position, last_feed) + 1, type="assign", inputs={"X": [source]}, outputs={"Out": [copy]})
        copies[name] = copy.name
    # The executor adds its own fetches and refuses to mix them with the export's.
    for position in reversed(range(len(block.ops))):
        if block.ops[position].type == "fetch":
            block._remove_op(position)
    inputs = {}
    for name in feeds:
        variable = block.var(name)
        variable.desc.set_need_check_feed(False)  # compared in `match_inputs`
        inputs[name] = (tuple(variable.shape), _dtype_name(paddle, variable.dtype))
    return _Loaded(program, inputs, {name: copies[name] for name in chosen}, fetches)


def choose_writer(writers: Mapping[str, Sequence[int]], name: str, position: int) -> int:
    """The operation after which `name` has the wanted value; `position` chooses where several write the name."""
    positions = writers.get(name)
    if positions is None:
        raise RequestError(f"no operation of the program computes a value {name!r}")
    if len(positions) == 1:
        return positions[0]
    if position not in positions:
        raise RequestError(f"{name!r} is written by operations {', '.join(map(str, positions))}, not by {position}")
    return position


def _load_pir(paddle: Any, executor: Any, request: Mapping[str, Any]) -> _Loaded:
    program, _, outputs = paddle.static.load_inference_model(
        os.path.dirname(request["program"]),
        executor,
        model_filename=request["program"],
        params_filename=request["parameters"],
    )
    block = program.global_block()
    ops = list(block.ops)
    _refuse_unknown(op.name() for op in _walk(block))
    stored = stored_operations(json.loads(Path(request["program"]).read_text(encoding="utf-8")))
    compare_operations(stored, _loaded_operations(ops, stored), paddle.__version__)

    def tap(value: Any) -> Any:
        paddle.pir.set_insertion_point_after(value.get_defining_op())
        return paddle._C_ops.assign(value)

    taps: dict[str, Any] = {}
    with paddle.static.program_guard(program):
        if request["wanted"] is None:
            for op, (kind, _, results) in zip(ops, stored, strict=True):
                for index, number in enumerate(results):
                    if _holds_value(op, kind, index):
                        taps[str(number)] = tap(op.result(index))
        else:
            for name, position, index in request["wanted"]:
                check_place(stored, name, position, index)
                kind = stored[position][0]
                if not _holds_value(ops[position], kind, index):
                    raise RequestError(f"result {index} of operation {position} ({kind}) is not a value at inference")
                taps[name] = tap(ops[position].result(index))
    # The executor numbers the fetches that it adds from 0, over those of the export.
    for op in ops:
        if op.name() == "pd_op.fetch":
            block.remove_op(op)
    inputs = {
        op.attrs()["name"]: (tuple(op.result(0).shape), _dtype_name(paddle, op.result(0).dtype))
        for op in ops
        if op.name() == "pd_op.data"
    }
    return _Loaded(program, inputs, taps, outputs)


def _walk(block: Any) -> Iterable[Any]:
    for op in block.ops:
        yield op
        for inner in op.blocks():
            yield from _walk(inner)


def _holds_value(op: Any, kind: str, index: int) -> bool:
    if kind in ("parameter", "fetch") or (kind in _PIR_ONE_VALUE and index > 0):
        return False
    result = op.result(index)
    return bool(result.initialized() and result.is_dense_tensor_type())


def _dtype_name(paddle: Any, dtype: Any) -> str:
    return str(paddle.base.data_feeder.convert_dtype(dtype))


# An operation of a PIR program: its name without the dialect, the ids of its operands (0 where an optional one is
# not given), and the ids of its results.
_Described = tuple[str, tuple[int, ...], tuple[int, ...]]


def stored_operations(document: Any) -> list[_Described]:
    """The operations of a PIR `inference.json`, in its order."""
    try:
        stored = []
        for op in document["program"]["regions"][0]["blocks"][0]["ops"]:
            # A parameter is abbreviated to "p", with its only result outside a list.
            results = op["O"] if isinstance(op["O"], list) else [op["O"]]
            kind = "parameter" if op["#"] == "p" else str(op["#"]).partition(".")[2]
            operands = tuple(int(operand["%"]) for operand in op.get("I", []))
            stored.append((kind, operands, tuple(int(result["%"]) for result in results)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RequestError("the program is no PIR program: its JSON lacks what every one has") from error
    return stored


def check_place(stored: Sequence[_Described], name: str, position: int, index: int) -> None:
    """Raise unless the value with the id `name` is result `index` of the operation at `position`."""
    if not 0 <= position < len(stored):
        raise RequestError(f"the program has {len(stored)} operations, none at position {position}")
    kind, _, results = stored[position]
    if not 0 <= index < len(results) or str(results[index]) != name:
        raise RequestError(f"value {name!r} is not result {index} of operation {position} ({kind})")


def _loaded_operations(ops: Sequence[Any], stored: Sequence[_Described]) -> list[_Described]:
    """What Paddle made of a PIR program, its values numbered by the place of the operation that makes them."""
    numbers: dict[tuple[int, int], int] = {}
    for op, (_, _, results) in zip(ops, stored, strict=False):
        numbers.update({(op.id(), index): number for index, number in enumerate(results)})
    loaded = []
    for op in ops:
        operands = []
        for value in op.operands_source():
            given = value.initialized() and value.get_defining_op() is not None
            operands.append(numbers.get((value.get_defining_op().id(), value.index()), -1) if given else 0)
        results = tuple(numbers.get((op.id(), index), -1) for index in range(op.num_results()))
        loaded.append((op.name().partition(".")[2], tuple(operands), results))
    return loaded


def compare_operations(stored: Sequence[_Described], loaded: Sequence[_Described], version: str) -> None:
    """Raise where Paddle's loader changed the program, so that positions no longer name the same values."""
    for position, (file, memory) in enumerate(zip(stored, loaded, strict=False)):
        if file != memory:
            raise RequestError(
                f"Paddle {version} loads another program than the file holds: operation {position} is "
                f"{file[0]} {file[1]} -> {file[2]} in the file and {memory[0]} {memory[1]} -> {memory[2]} when loaded; "
                "run the Paddle version that exported it"
            )
    if len(stored) != len(loaded):
        raise RequestError(
            f"Paddle {version} loads another program than the file holds: {len(stored)} operations in the file, "
            f"{len(loaded)} when loaded; run the Paddle version that exported it"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
