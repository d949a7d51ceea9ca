"""An exported program of any network, with its weights, ready to be built and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from paddle2torch.converters.paddle_files.exports import find_program
from paddle2torch.converters.paddle_files.pdiparams import read_pdiparams
from paddle2torch.converters.programs.legacy import read_legacy_graph
from paddle2torch.converters.programs.pir import read_pir_graph
from paddle2torch.model_zoo.config import EXPORT_LACKS, Origin
from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.config import PROGRAM_FORM, Feed, ProgramConfig
from paddle2torch.model_zoo.programs.graph import Graph
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.state import tensors_of, to_module

NOTE = f"{EXPORT_LACKS} training-only branches and no losses"


@dataclass(frozen=True)
class ConvertedProgram:
    """A converted program in memory. `file` is Paddle's own program file, `parameters` its weights' file, if any."""

    config: ProgramConfig
    graph: Graph
    network: Program
    state: Mapping[str, Tensor]
    file: Path
    parameters: Path | None
    notes: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """The graph of a program file, `inference.json` or `.pdmodel`."""
    return (read_pir_graph if path.suffix == ".json" else read_legacy_graph)(path)


def read_weights(graph: Graph, path: Path | None) -> dict[str, Tensor]:
    """The parameters of a program by its names; raises `FileFormatError` where file and program do not agree."""
    if path is None:
        if graph.parameters:
            raise FileFormatError(f"the program has {len(graph.parameters)} parameters, but no .pdiparams is beside it")
        return {}
    checkpoint = read_pdiparams(path, graph.parameters)
    for name, array in checkpoint.tensors.items():
        declared = graph.types[name]
        dtype = "bfloat16" if name in checkpoint.bfloat16 else array.dtype.name
        if (tuple(array.shape), dtype) != (declared.shape, declared.dtype):
            raise FileFormatError(
                f"{path}: parameter {name!r} is {dtype} {array.shape}, but its program declares {declared.dtype} "
                f"{declared.shape}; the two files do not belong together"
            )
    return tensors_of(checkpoint.tensors, checkpoint.bfloat16)


def convert_program(path: Path, *, name: str, source: str = "") -> ConvertedProgram:
    """Convert an exported program of any network: its folder, or its program file.

    Raises `FileFormatError` for a file that is not a program or is corrupt, `ProgramError` that names every kind of
    operation which is not known.
    """
    file, parameters = find_program(path)
    graph = read_graph(file)
    built = build(graph)
    state = to_module(built.rows, read_weights(graph, parameters))
    feeds = tuple(Feed(feed, graph.types[value].dtype, graph.types[value].shape) for feed, value in graph.feeds)
    notes = (NOTE,)
    config = ProgramConfig(
        name=name,
        form=PROGRAM_FORM,
        file="inference.json" if file.suffix == ".json" else "inference.pdmodel",
        feeds=feeds,
        fetches=len(graph.fetches),
        origin=Origin("PIR export" if file.suffix == ".json" else "legacy export", source=source, notes=notes),
    )
    network = build_program(graph, config, state)
    return ConvertedProgram(config, graph, network, network.state_dict(), file, parameters, notes)
