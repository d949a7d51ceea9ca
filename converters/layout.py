"""How a tensor's name and layout in Paddle follow from the PyTorch module that holds it.

Walk the torch model; each parameter asks the type of its module. Three declarations cover every network here. The
result is a table of rows, checked as data before a number is moved: every Paddle tensor is used or was dropped on
purpose, every torch tensor is filled, the shapes match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.show import show_text

Op = Literal["same", "transpose"]

# Tensors whose name or layout differs, by the type of the module that holds them: torch name -> (Paddle name, op).
# A subclass counts as its base. Everything not listed has the same name and layout in both frameworks.
LAYOUTS: tuple[tuple[type[nn.Module], Mapping[str, tuple[str, Op]]], ...] = (
    # Paddle stores [in, out]. Square matrices look right both ways, so no rule by shape can decide this.
    (nn.Linear, {"weight": ("weight", "transpose")}),
    (nn.modules.batchnorm._BatchNorm, {"running_mean": ("_mean", "same"), "running_var": ("_variance", "same")}),
)

# Paddle's LSTM and each of its cells own the same tensors, so a checkpoint has them under two names.
_CELL_TENSOR = re.compile(r"(.+)\.(\d+)\.cell(|_fw|_bw)\.((?:weight|bias)_(?:ih|hh))")


@dataclass(frozen=True)
class Row:
    """One tensor: its torch key, its Paddle key, and what turns one into the other (both ways)."""

    torch_key: str
    paddle_key: str
    op: Op


def layout_of(module: nn.Module, name: str) -> tuple[str, Op]:
    """Paddle's name and the op for the tensor `name` that `module` itself holds."""
    for kind, names in LAYOUTS:
        if isinstance(module, kind) and name in names:
            return names[name]
    return name, "same"


def lstm_key(key: str) -> str | None:
    """The name, on the LSTM itself, of the tensor that `key` names on one of its cells; None where it names none."""
    found = _CELL_TENSOR.fullmatch(key)
    if found is None:
        return None
    path, layer, direction, name = found.groups()
    return f"{path}.{name}_l{layer}" + ("_reverse" if direction == "_bw" else "")


def layout_table(model: nn.Module) -> tuple[Row, ...]:
    """The rows of all persistent tensors of `model`, in the order of its state dict."""
    modules = dict(model.named_modules())
    rows = []
    for key in model.state_dict():
        path, _, name = key.rpartition(".")
        paddle_name, op = layout_of(modules[path], name)
        if getattr(modules[path], "OF_PARENT", False):  # a module here, a tensor of the module around it in Paddle
            path = path.rpartition(".")[0]
        rows.append(Row(key, f"{path}.{paddle_name}" if path else paddle_name, op))
    return tuple(rows)


def checkpoint_rows(model: nn.Module) -> tuple[Row, ...]:
    """The rows of a checkpoint that Paddle would save of `model`: its table, and the second names of LSTMs' tensors.

    Paddle's order: what a module holds itself before what is inside it.
    """
    rows = []
    for row in layout_table(model):
        rows.append(row)
        # An LSTM's tensors are the last of its own: the cells inside it come right after them.
        path, _, _ = row.torch_key.rpartition(".")
        module = model.get_submodule(path)
        if isinstance(module, nn.LSTM) and row.torch_key == f"{path}.{module._flat_weights_names[-1]}":
            rows.extend(_cell_rows(path, module))
    return tuple(rows)


def _cell_rows(path: str, lstm: nn.LSTM) -> list[Row]:
    """Paddle's second names of an LSTM's tensors: those of its cells. The inverse of `lstm_key`."""
    rows = []
    for layer in range(lstm.num_layers):
        directions = (("_fw", ""), ("_bw", "_reverse")) if lstm.bidirectional else (("", ""),)
        for cell, suffix in directions:
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                rows.append(Row(f"{path}.{name}_l{layer}{suffix}", f"{path}.{layer}.cell{cell}.{name}", "same"))
    return rows


def check_table(table: tuple[Row, ...], shapes: Mapping[str, tuple[int, ...]], model: nn.Module, source: str) -> None:
    """Raise `ConversionError` unless `shapes` (Paddle key to shape) and the model fit each other exactly."""
    wanted = {row.paddle_key for row in table}
    missing = [row.paddle_key for row in table if row.paddle_key not in shapes]
    surplus = [key for key in shapes if key not in wanted]
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    wrong = []
    for row in table:
        if row.paddle_key in shapes:
            found = tuple(shapes[row.paddle_key])
            if (found[::-1] if row.op == "transpose" else found) != expected[row.torch_key]:
                needed = expected[row.torch_key][::-1] if row.op == "transpose" else expected[row.torch_key]
                wrong.append(f"{row.paddle_key} is {list(found)}, the network needs {list(needed)}")
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if surplus:
        problems.append(f"{len(surplus)} that the network does not have: {_some(surplus)}")
    if wrong:
        problems.append(f"{len(wrong)} of another shape: {_some(wrong, '; ')}")
    if problems:
        raise ConversionError(f"{source} does not fit the network. Tensors: " + "; ".join(problems))


def _some(items: list[str], separator: str = ", ", most: int = 8) -> str:
    rest = f"{separator}… {len(items) - most} more" if len(items) > most else ""
    return separator.join(show_text(item, 160) for item in items[:most]) + rest


def to_torch(
    table: tuple[Row, ...], tensors: Mapping[str, np.ndarray], bfloat16: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """The torch state dict of Paddle's tensors. Arrays named in `bfloat16` hold its bits as uint16."""
    state = {}
    for row in table:
        array = tensors[row.paddle_key]
        array = np.array(array.T if row.op == "transpose" else array, order="C")
        tensor = torch.from_numpy(array)
        state[row.torch_key] = tensor.view(torch.bfloat16) if row.paddle_key in bfloat16 else tensor
    return state


def to_paddle(table: tuple[Row, ...], state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The inverse of `to_torch`: Paddle's names and layouts, bit for bit. bfloat16 comes as its bits in uint16."""
    tensors = {}
    for row in table:
        tensor = state[row.torch_key].detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.uint16)
        array = tensor.numpy()
        tensors[row.paddle_key] = np.array(array.T if row.op == "transpose" else array, order="C")
    return tensors
