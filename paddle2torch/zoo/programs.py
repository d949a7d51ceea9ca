"""A converted program on disk: `model.safetensors`, `graph.json`, `model_config.json`, and Paddle's own program file.

Nothing in the folder is code: the module is built from the graph, which is data, through the table of operations.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from paddle2torch._version import __version__
from paddle2torch.atomic import land_folder, repair_folder
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.converters.paddle_files.pdiparams import write_parameters
from paddle2torch.converters.paddle_files.program import Program as PaddleProgram
from paddle2torch.converters.paddle_files.program import Value
from paddle2torch.converters.programs.convert import ConvertedProgram
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import ConversionError, FileFormatError
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.model_zoo.programs.graph import GRAPH_NAME, dump_graph, read_graph
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.table import torch_dtype
from paddle2torch.zoo.folder import WEIGHTS_NAME, metadata, read_state, write_state


def with_digests(converted: ConvertedProgram, known: Mapping[str, str]) -> ProgramConfig:
    """The settings with the hashes of the files that the program came from, and our version.

    known: hashes by name of files that have been read for them already.
    """
    files = [path for path in (converted.file, converted.parameters) if path is not None]
    origin = converted.config.origin
    assert origin is not None
    digests = {path.name: known.get(path.name) or sha256_of(path) for path in files}
    return replace(converted.config, origin=replace(origin, files=digests, converter=f"paddle2torch {__version__}"))


def save_program(folder: Path, network: Program, file: Path, *, overwrite: bool = False, private: bool = False) -> None:
    """Write a program's folder atomically and read it back; file: Paddle's own program, which is copied."""
    state = {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
    config = network.config
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values()) + 2 * Path(file).stat().st_size
    with land_folder(Path(folder), overwrite=overwrite, size=size, private=private) as temporary:
        write_state(temporary / WEIGHTS_NAME, state, metadata(config))
        (temporary / GRAPH_NAME).write_text(dump_graph(network.program), encoding="utf-8")
        (temporary / CONFIG_NAME).write_text(config.dumps(), encoding="utf-8")
        shutil.copyfile(file, temporary / config.file)
        if ProgramConfig.load(temporary) != config or read_graph(temporary) != network.program:
            raise ConversionError(f"{folder}: the program read back is not the one that was written")


def load_program(folder: Path, dtype: torch.dtype = torch.float32) -> Program:
    """Read a converted program's folder: the module in evaluation mode, on the CPU.

    dtype: what float32 is computed in. Raises `ConfigError` or `FileFormatError` for files that are not sound,
    `ConversionError` for weights and a graph that do not belong together.
    """
    folder = Path(folder)
    repair_folder(folder)
    config = ProgramConfig.load(folder)
    graph = read_graph(folder)
    if len(graph.feeds) != len(config.feeds) or len(graph.fetches) != config.fetches:
        raise FileFormatError(f"{folder}: {CONFIG_NAME} and {GRAPH_NAME} do not belong together")
    path = file_in(folder, WEIGHTS_NAME)
    if not path.is_file():
        raise FileFormatError(f"{folder} has no {WEIGHTS_NAME}")
    state, _ = read_state(path)
    program = build_program(graph, config, state, dtype)
    program.meta["folder"] = folder
    return program


def write_paddle(program: Program, folder: Path, target: Path) -> tuple[Path, Path | None]:
    """Write Paddle's own program with this module's weights into the folder `target`: the paths of both files.

    folder: of the converted program, which keeps Paddle's file. A program without parameters has no second file.
    """
    source = file_in(Path(folder), program.config.file)
    if not source.is_file():
        raise FileFormatError(f"{folder} has no {program.config.file}, the program as Paddle wrote it")
    path = target / program.config.file
    shutil.copyfile(source, path)
    graph = program.program
    if not graph.parameters:
        return path, None
    parameters = path.with_suffix(".pdiparams")
    arrays = {}
    for name, tensor in program.parameters_of_program().items():
        dtype = torch_dtype(graph.types[name].dtype)
        tensor = tensor.to(dtype)
        arrays[name] = tensor.view(torch.int16).numpy().view(np.uint16) if dtype == torch.bfloat16 else tensor.numpy()
    values = {name: Value(name, graph.types[name].shape, graph.types[name].dtype) for name in graph.parameters}
    described = PaddleProgram("pir" if path.suffix == ".json" else "legacy", (), values, graph.parameters, (), ())
    with parameters.open("wb") as file:
        write_parameters(file, described, arrays)
    return path, parameters
