"""The process that runs an `.onnx` under ONNX Runtime: `python -m paddle2torch.parity._onnx_reference REQUEST`.

Started by `reference.py`: two runtimes of tensors in one process can crash each other, and a file from outside only
crashes this one. Request, a JSON file: `model`, `inputs` (safetensors with `input:0`), `names` of the values to fetch,
`outputs` of the program, `threads`, `values` and `report`, the files to write.

Report, a JSON file: either {"error": message}, or {"version", "values": names, "outputs": count}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from paddle2torch.converters.paddle_files.protobuf import encode_bytes

# Fields of `ModelProto` and `GraphProto`, and the name in a `ValueInfoProto`.
_GRAPH, _OUTPUT, _NAME = 7, 12, 1


def main(request_path: str) -> int:
    """Carry out one request; 0 if the report holds values, 1 if it holds an error."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    try:
        report = _execute(request)
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        report = {"error": "onnxruntime is not installed: pip install onnxruntime"}
    unfinished = Path(request["report"] + ".part")
    unfinished.write_text(json.dumps(report), encoding="utf-8")
    os.replace(unfinished, request["report"])
    return 1 if "error" in report else 0


def with_outputs(model: bytes, names: list[str]) -> bytes:
    """An encoded model that returns these values as well: messages that follow one another are one message."""
    outputs = b"".join(encode_bytes(_OUTPUT, encode_bytes(_NAME, name.encode())) for name in names)
    return model + encode_bytes(_GRAPH, outputs)


def _execute(request: Mapping[str, Any]) -> dict[str, Any]:
    import onnxruntime

    path = Path(request["model"])
    options = onnxruntime.SessionOptions()
    # Each value is the result of its own operation: nothing is fused, nothing computed in place.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = request["threads"]
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    names = [name for name in request["names"] if name not in request["outputs"]]
    try:
        session = onnxruntime.InferenceSession(
            with_outputs(path.read_bytes(), names), options, providers=["CPUExecutionProvider"]
        )
        (given,) = session.get_inputs()
        x = load_file(request["inputs"])["input:0"]
        feed = {given.name: x.astype(np.float16) if given.type == "tensor(float16)" else x}
        fetched = session.run([*names, *request["outputs"]], feed)
    except Exception as error:  # its own errors have no common root but this
        return {"error": f"ONNX Runtime {onnxruntime.__version__} refuses it: {' '.join(str(error).split())[:600]}"}
    values = [np.ascontiguousarray(value, dtype=np.float32) for value in fetched]
    tensors = {f"value:{index}": value for index, value in enumerate(values[: len(names)])}
    tensors |= {f"output:{index}": value for index, value in enumerate(values[len(names) :])}
    save_file(tensors, request["values"])
    return {"version": onnxruntime.__version__, "values": names, "outputs": len(request["outputs"])}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
