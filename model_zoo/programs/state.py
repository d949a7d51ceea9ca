"""Weights of a program: from Paddle's names and layouts to the module's, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.programs.build import Built
from paddle2torch.model_zoo.programs.values import Row


def to_module(rows: Sequence[Row], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a module from the program's parameters."""
    state = {}
    for row in rows:
        tensor = arrays[row.parameter]
        tensor = tensor.t() if row.transposed else tensor
        state[row.key] = (tensor if row.shape is None else tensor.reshape(row.shape)).contiguous()
    return state


def to_parameters(
    rows: Sequence[Row], state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The program's parameters from a module's state: the inverse of `to_module`."""
    arrays = {}
    for row in rows:
        tensor = state[row.key]
        tensor = tensor.t() if row.transposed else tensor
        arrays[row.parameter] = tensor.reshape(shapes[row.parameter]).contiguous()
    return arrays


def fill(built: Built, state: Mapping[str, Tensor]) -> None:
    """Give the module its weights; raises `ConversionError` unless every one has its place, shape and type."""
    module = built.module
    wanted = dict(module.state_dict())
    given = dict(state)
    for key, tensor in wanted.items():
        if key.endswith("num_batches_tracked") and key not in given:
            given[key] = torch.zeros((), dtype=tensor.dtype)
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or extra:
        raise ConversionError(
            f"weights and program do not belong together: {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(extra)} have no place ({', '.join(extra[:3])})"
        )
    for key, tensor in wanted.items():
        found = given[key]
        if found.shape != tensor.shape:
            raise ConversionError(
                f"weight {key} has the shape {tuple(found.shape)}, the program wants {tuple(tensor.shape)}"
            )
        given[key] = found.to(tensor.dtype)
    module.load_state_dict(given, assign=True)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and not name.startswith("unused."))


def tensors_of(arrays: Mapping[str, np.ndarray], bfloat16: frozenset[str]) -> dict[str, Tensor]:
    """Arrays of a `.pdiparams` as tensors."""
    made = {}
    for name, array in arrays.items():
        if name in bfloat16:
            made[name] = torch.from_numpy(array.astype(np.int16, copy=True)).view(torch.bfloat16)
        else:
            made[name] = torch.from_numpy(np.array(array))
    return made
