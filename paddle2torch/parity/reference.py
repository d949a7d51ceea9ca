"""Another engine's values of a program, computed in a process that PyTorch does not share.

The process is `python -m paddle2torch.parity._paddle_reference`, or `_onnx_reference` for an `.onnx`. Requests go to it
and values come back through files of a temporary folder; of what it prints, only the end is seen, and only where it
fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from paddle2torch.model_zoo.errors import VerificationError

# What the user has set for his own runs of Paddle, of CUDA or of thread pools must not change the reference.
_DROPPED_VARIABLES = (
    "CPU_NUM",
    "CUDA",
    "DNNL",
    "FLAGS_",
    "GLOG_",
    "KMP_",
    "MKL",
    "NVIDIA_",
    "OMP_",
    "ONEDNN",
    "OPENBLAS",
    "PADDLE",
)
_SHOWN_LINES = 6

PADDLE, ONNX_RUNTIME = "Paddle", "ONNX Runtime"
"""The engines that a network is compared with."""


@dataclass(frozen=True)
class Wanted:
    """A value to fetch: what `converters.paddle_files.program` calls it, and the operation that makes it.

    `position` and `result_index` find the value of a PIR program. In a legacy program the name does, and `position`
    chooses where several operations write one name.
    """

    name: str
    position: int
    result_index: int = 0


@dataclass(frozen=True)
class ReferenceRun:
    """What another engine computed: `values` by name (each read from the mapped file when asked for), the outputs."""

    values: Mapping[str, np.ndarray]
    outputs: list[np.ndarray]
    version: str
    engine: str = PADDLE


class _MappedValues(Mapping[str, np.ndarray]):
    """Arrays of a safetensors file that stays mapped into memory, though its folder is gone."""

    def __init__(self, file: Any, names: Sequence[str]) -> None:
        self._file = file
        self._keys = {name: f"value:{index}" for index, name in enumerate(names)}

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = self._file.get_tensor(self._keys[name])
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def run_program(
    program_path: Path,
    params_path: Path | None,
    inputs: Mapping[str, np.ndarray] | np.ndarray,
    wanted: Sequence[Wanted] | None,
    *,
    threads: int = 2,
    timeout: float = 600.0,
) -> ReferenceRun:
    """Execute an exported program under Paddle on the CPU and fetch intermediate values.

    Paddle runs its plain float32 kernels, operation by operation as the file has them: no oneDNN, no fusion, nothing
    in place. Each value is the one right after its own operation, also where a later operation overwrites it.

    program_path: `.pdmodel` (legacy) or `inference.json` (PIR). params_path: its `.pdiparams`; None where it has none.
    inputs: by name, or one array for a program with one input; dtype as the program declares it (float32 images).
        Height and width may differ from the declared ones, as for Paddle's predictor.
    wanted: the values to fetch; None for every one that the program computes, inputs included. Named as in
        `converters.paddle_files.program`.
    threads: of Paddle's CPU kernels. timeout: seconds until the process is killed.

    Raises VerificationError: paddlepaddle is not installed, a file or an input does not fit, a wanted value does not
    exist, Paddle fails, crashes or takes too long.
    """
    for path in (program_path, params_path):
        if path is not None and not path.is_file():
            raise VerificationError(f"{path}: no such file")
    if threads < 1:
        raise VerificationError(f"threads must be at least 1, not {threads}")
    if wanted is not None and len({value.name for value in wanted}) != len(wanted):
        raise VerificationError("a value is wanted twice: names must differ")
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    legacy = program_path.suffix != ".json"

    # Windows cannot delete a file that is mapped; elsewhere the folder goes at once and the mapping stays.
    with tempfile.TemporaryDirectory(prefix="paddle2torch-", ignore_cleanup_errors=os.name == "nt") as name:
        folder = Path(name)
        # `ascontiguousarray` gives what has no axes one.
        arrays = {
            f"input:{index}": np.ascontiguousarray(array).reshape(array.shape)
            for index, array in enumerate(named.values())
        }
        save_file(arrays, folder / "inputs.safetensors")
        if params_path is None:
            # Paddle wants the file of a program without parameters too.
            params_path = folder / "inference.pdiparams"
            params_path.touch()
        request = {
            "program": str(program_path.resolve()),
            "parameters": str(params_path.resolve()),
            "format": "legacy" if legacy else "pir",
            "inputs": str(folder / "inputs.safetensors"),
            "input_names": list(named) if isinstance(inputs, Mapping) else None,
            "wanted": None
            if wanted is None
            else [(value.name, value.position, value.result_index) for value in wanted],
            "values": str(folder / "values.safetensors"),
            "report": str(folder / "report.json"),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = _environment(legacy=legacy, threads=threads)
        report = _run_process(folder, program_path, environment, timeout, "_paddle_reference", PADDLE)
        if "error" in report:
            raise VerificationError(f"{program_path}: {report['error']}")
        file = safe_open(folder / "values.safetensors", framework="numpy")
        outputs = [file.get_tensor(f"output:{index}") for index in range(report["outputs"])]
        return ReferenceRun(_MappedValues(file, report["values"]), outputs, report["paddle_version"])


def run_onnx(
    path: Path, x: np.ndarray, names: Sequence[str], outputs: Sequence[str], *, threads: int = 2, timeout: float = 600.0
) -> ReferenceRun:
    """Execute an `.onnx` under ONNX Runtime on the CPU and fetch intermediate values, in float32.

    It runs operation by operation as the file has them, without its optimisations.

    path: the model, which has one input. x: float32 (N, 3, H, W); a file in half precision is given that.
    names: the values to fetch. outputs: the names of the graph's outputs.
    threads: of its kernels. timeout: seconds until the process is killed.

    Raises VerificationError: onnxruntime is not installed, it refuses the file or the input, crashes or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="paddle2torch-", ignore_cleanup_errors=os.name == "nt") as name:
        folder = Path(name)
        save_file({"input:0": np.ascontiguousarray(x)}, folder / "inputs.safetensors")
        request = {
            "model": str(path.resolve()),
            "inputs": str(folder / "inputs.safetensors"),
            "names": list(dict.fromkeys(names)),
            "outputs": list(outputs),
            "threads": threads,
            "values": str(folder / "values.safetensors"),
            "report": str(folder / "report.json"),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_DROPPED_VARIABLES)}
        report = _run_process(folder, path, environment, timeout, "_onnx_reference", ONNX_RUNTIME)
        if "error" in report:
            raise VerificationError(f"{path}: {report['error']}")
        file = safe_open(folder / "values.safetensors", framework="numpy")
        found = [file.get_tensor(f"output:{index}") for index in range(report["outputs"])]
        return ReferenceRun(_MappedValues(file, report["values"]), found, report["version"], ONNX_RUNTIME)


def _environment(*, legacy: bool, threads: int) -> dict[str, str]:
    """The variables of the process that runs Paddle; it reads them once, on import."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED_VARIABLES)}
    pir = "0" if legacy else "1"
    environment.update(
        {
            "CUDA_VISIBLE_DEVICES": "",
            "GLOG_minloglevel": "2",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "FLAGS_enable_pir_api": pir,
            "FLAGS_enable_pir_in_executor": pir,
            "FLAGS_new_executor_serial_run": "1",
            "FLAGS_pir_apply_inplace_pass": "0",
            "FLAGS_use_cinn": "0",
            "FLAGS_use_mkldnn": "0",
        }
    )
    return environment


def _run_process(
    folder: Path, program_path: Path, environment: dict[str, str], timeout: float, module: str, engine: str
) -> dict[str, Any]:
    """Run the reference process in `folder` and return its report; raises VerificationError where it wrote none."""
    command = [sys.executable, "-m", f"paddle2torch.parity.{module}", str(folder / "request.json")]
    with open(folder / "log.txt", "wb") as log:
        try:
            # In the temporary folder, since `-m` puts the current one first on the import path.
            status = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise VerificationError(f"{program_path}: {engine} did not finish within {timeout:g} s") from error
    # The report is written last: where there is one, a crash came later, while the engine was unloaded.
    if (folder / "report.json").is_file():
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return report
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    said = "\n  ".join([line for line in lines if line.strip(" -")][-_SHOWN_LINES:])
    ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"failed with status {status}"
    raise VerificationError(f"{program_path}: the process that runs {engine} {ended}\n  {said or 'it said nothing'}")
