"""The table between the two frameworks: complete, by layer type, and its own inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paddle2torch.converters.layout import check_table, layout_table, to_paddle, to_torch
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.network import Network


def shapes_of(tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in tensors.items()}


def test_layer_types_decide(small: Network) -> None:
    rows = {row.torch_key: row for row in layout_table(small)}
    assert len(rows) == len(small.state_dict())
    for path, module in small.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            row = rows[f"{path}.{name}"]
            assert row.op == ("transpose" if isinstance(module, nn.Linear) and name == "weight" else "same")
            assert row.paddle_key == row.torch_key
    renamed = {row.torch_key.rpartition(".")[2]: row.paddle_key.rpartition(".")[2] for row in rows.values()}
    assert renamed["running_mean"] == "_mean"
    assert renamed["running_var"] == "_variance"


def test_there_and_back_is_bit_for_bit(small: Network) -> None:
    table, state = layout_table(small), small.state_dict()
    tensors = to_paddle(table, state)
    square = "head.ctc_encoder.encoder.svtr_block.0.mixer.proj.weight"
    assert np.array_equal(tensors[square], state[square].numpy().T)
    assert not np.array_equal(tensors[square], state[square].numpy())
    again = to_torch(table, tensors)
    assert list(again) == list(state)
    assert all(torch.equal(again[key], state[key]) for key in state)
    back = to_paddle(table, again)
    assert all(back[key].tobytes() == tensors[key].tobytes() for key in tensors)


def test_bfloat16_keeps_its_bits() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).to(torch.bfloat16)
    table = layout_table(model)
    tensors = to_paddle(table, model.state_dict())
    assert tensors["0.weight"].dtype == np.uint16
    again = to_torch(table, tensors, frozenset(tensors))
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.ctc_head.fc.bias"), "1 missing: head.ctc_head.fc.bias"),
        (lambda t: t.update({"head.extra.w": (3,)}), "1 that the network does not have: head.extra.w"),
        (
            lambda t: t.update({"head.ctc_head.fc.weight": (8, 32)}),
            r"1 of another shape: head.ctc_head.fc.weight is \[8, 32\], the network needs \[32, 8\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(small: Network, change: object, message: str) -> None:
    table = layout_table(small)
    shapes = shapes_of(to_paddle(table, small.state_dict()))
    check_table(table, shapes, small, "the file")
    change(shapes)  # type: ignore[operator]
    with pytest.raises(ConversionError, match=message):
        check_table(table, shapes, small, "the file")
