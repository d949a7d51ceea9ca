"""An `.onnx`: the fused network for ONNX Runtime, and for RapidOCR as it is.

Inside, as metadata: `character`, under which RapidOCR looks for a recogniser's characters, and `model_config.json` with
all constants.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from paddle2torch.atomic import land_file
from paddle2torch.compiled.quiet import quiet
from paddle2torch.compiled.serving import Served, captured, compare, example_images, served
from paddle2torch.exporting.export import Exported, without_denormals
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConversionError, Paddle2TorchError
from paddle2torch.model_zoo.network import Network

NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "image", "output"


def export_onnx(network: Network, target: Path, *, force: bool = False) -> Exported:
    """Write the fused form of `network` to the file `target`, which was agreed to be replaced where it exists.

    Batch and image sizes are free. ONNX Runtime loads what was written and runs it beside the network on five inputs.
    Raises `Paddle2TorchError` where what this needs is not installed, `ConversionError` where the result differs, or
    where the network cannot be captured.
    """
    check_installed()
    with land_file(target) as temporary:
        model = served(network)
        written = write_served(model, temporary)
        checks = compare(model, written.run, example_images(model.network.config), "ONNX Runtime's output")
    return Exported(target, "onnx", written.checked_by, checks, written.notes)


class Written(NamedTuple):
    """An `.onnx` as it was read back: what runs it, what that is and its version, and what should be known."""

    run: Callable[[Tensor], np.ndarray]
    checked_by: str
    notes: tuple[str, ...]


def write_served(model: Served, path: Path) -> Written:
    """Write `model` with its metadata to the file `path`, and load that as a user's program would.

    Denormal numbers of `model` become 0. Raises `ConversionError` where it cannot be captured, or other metadata are
    read back.
    """
    metadata, notes = metadata_of(model.network.config)
    notes += without_denormals(model)
    graph = captured(model)
    add_up_by_lines(graph)
    path.write_bytes(onnx_bytes(graph, metadata, input_names=[INPUT], output_names=[OUTPUT]))
    return Written(*_open_written(path, metadata), notes)


def check_installed() -> None:
    """Raise `Paddle2TorchError` where a package that an export to ONNX needs is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Paddle2TorchError(
            f"an export to ONNX is written and checked with {', '.join(missing)}, not installed here: "
            f"pip install 'paddle2torch[onnx]'"
        )


def onnx_bytes(graph: torch.export.ExportedProgram, metadata: Mapping[str, str], **options: Any) -> bytes:
    """A captured graph as the content of an `.onnx`. options: of PyTorch's exporter."""
    with quiet():
        program = torch.onnx.export(graph, dynamo=True, verbose=False, **options)
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        # The exporter notes for itself which of our lines a node comes from.
        del node.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def add_up_by_lines(program: torch.export.ExportedProgram) -> None:
    """Let each mean over a map be the mean of its lines' means.

    ONNX Runtime adds up all values of a map in a few float32 numbers. Over a page's background, where every value is
    the same, each addition is rounded the same way: the mean is then 6e-5 off, and a gate of squeeze and excitation
    hands that on to every pixel.
    """
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        pooled = node.target == aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]
        mean = (
            node.target == aten.mean.dim
            and {dim % 4 for dim in node.args[1] or ()} == {2, 3}
            and node.args[2:] == (True,)
        )
        if not (pooled or mean) or node.args[0].meta["val"].dim() != 4:
            continue
        x = node.args[0]
        with program.graph.inserting_before(node):
            lines = program.graph.call_function(aten.mean.dim, (x, [3], True))
        lines.meta["val"] = x.meta["val"].mean(3, keepdim=True)
        node.target, node.args, node.kwargs = aten.mean.dim, (lines, [2], True), {}
    program.graph.lint()
    program.graph_module.recompile()


def metadata_of(config: ModelConfig) -> tuple[dict[str, str], tuple[str, ...]]:
    """The texts inside, by name, and what should be known about them."""
    metadata = {CONFIG_NAME: config.dumps()}
    if config.charset is None:
        return metadata, ()
    # RapidOCR splits the text into lines and appends a space of its own.
    characters = list(config.charset[:-1] if config.charset[-1:] == (" ",) else config.charset)
    text = "\n".join(characters)
    if text.splitlines() == characters:
        return metadata | {"character": text}, ()
    note = "a character of the set ends a line: RapidOCR cannot read it from the file and needs rec_keys_path"
    return metadata, (note,)


def open_session(path: Path) -> Any:
    """ONNX Runtime's session of a file that was written here, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _open_written(path: Path, metadata: Mapping[str, str]) -> tuple[Callable[[Tensor], np.ndarray], str]:
    import onnxruntime

    session = open_session(path)
    found = session.get_modelmeta().custom_metadata_map
    if any(found.get(key) != value for key, value in metadata.items()):
        raise ConversionError(f"{path}: the metadata read back are not those that were written")

    def run(image: Tensor) -> np.ndarray:
        (output,) = session.run([OUTPUT], {INPUT: image.numpy()})
        return np.asarray(output)

    return run, f"ONNX Runtime {onnxruntime.__version__}"
