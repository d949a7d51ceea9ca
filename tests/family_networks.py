"""Networks of the family with the weights of their goldens: see `goldens/README.md`."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import recipe
import torch
from goldens.family import is_paddleclas, template
from material import GOLDENS
from safetensors.numpy import load_file
from torch import Tensor

from paddle2torch.converters.layout import layout_table, to_torch
from paddle2torch.model_zoo.network import Network, build_model

FAMILY = GOLDENS / "family"


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    return load_file(FAMILY / f"{name}.safetensors")


def network(name: str) -> Network:
    """The network with the recipe's weights and the golden's statistics, in evaluation."""
    config = template(name).config()
    with torch.device("meta"):
        model = build_model(config)
    state = model.state_dict()
    # The positions of the second head are not read in evaluation.
    table = tuple(row for row in layout_table(model) if not row.torch_key.endswith(".pe"))
    if is_paddleclas(name):
        table = tuple(replace(row, paddle_key=row.paddle_key.partition(".")[2]) for row in table)
    statistics = {
        key.removeprefix("statistics:"): v for key, v in golden(name).items() if key.startswith("statistics:")
    }
    tensors = {}
    for row in table:
        shape = tuple(state[row.torch_key].shape)
        values = statistics.pop(row.paddle_key, None)
        if values is None:
            values = recipe.tensor(row.paddle_key, shape[::-1] if row.op == "transpose" else shape)
        tensors[row.paddle_key] = values.astype(np.float32)
    assert not statistics
    model.to_empty(device="cpu")
    found = to_torch(table, tensors)
    model.load_state_dict(model.state_dict() | found, assign=True)
    return model.eval()


def images(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(recipe.image(name, shape))
