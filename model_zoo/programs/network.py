"""A converted program as a module."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.config import ProgramConfig
from paddle2torch.model_zoo.programs.graph import Graph
from paddle2torch.model_zoo.programs.state import fill, to_parameters
from paddle2torch.model_zoo.programs.values import Row


class Program(fx.GraphModule):
    """Any exported Paddle program as a plain module over real layers, in the order of its operations.

    It is called with its inputs by position, in the program's order, or by their names; it returns a tensor where the
    program has one output, else a tuple in the program's order. `print(model)` shows the layers, `model.code` the
    calls.
    """

    @property
    def config(self) -> ProgramConfig:
        """Its settings: inputs, outputs, where it came from."""
        config = self.meta["config"]
        assert isinstance(config, ProgramConfig)
        return config

    @property
    def program(self) -> Graph:
        """The program as data."""
        graph = self.meta["program"]
        assert isinstance(graph, Graph)
        return graph

    @property
    def rows(self) -> tuple[Row, ...]:
        """Which key of the state dict holds which parameter of the program."""
        rows = self.meta["rows"]
        assert isinstance(rows, tuple)
        return rows

    def parameters_of_program(self) -> dict[str, Tensor]:
        """The weights as the program has them: its names, shapes and types."""
        state = {key: tensor.detach().cpu() for key, tensor in self.state_dict().items()}
        shapes = {name: self.program.types[name].shape for name in self.program.parameters}
        return to_parameters(self.rows, state, shapes)


def build_program(
    graph: Graph, config: ProgramConfig, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> Program:
    """The module of a program with its weights, in evaluation mode.

    Raises `ProgramError` for operations that are not known, `ConversionError` for weights that do not fit.
    """
    built = build(graph, dtype)
    fill(built, state)
    module = Program(built.module, built.module.graph, "Program")
    module.meta.update(config=config, program=graph, rows=tuple(built.rows))
    return module.eval()
