"""An LSTM of an exported program: which parameter is which, and the two turns of the sequence around it."""

from __future__ import annotations

from typing import Any

import pytest

from paddle2torch.converters.paddle_files.program import Operation, Program, Value
from paddle2torch.converters.steps import steps_of
from paddle2torch.model_zoo.errors import ConversionError


def cells(count: int) -> tuple[str, ...]:
    """Parameters in the order of the operation: all weights, cell by cell, then all biases."""
    return tuple(f"lstm_cell_{i}.{kind}_{j}" for kind in "wb" for i in range(count) for j in (0, 1))


def program(parameters: tuple[str, ...], **attributes: Any) -> Program:
    """Turned around, run, turned back, as both formats have it."""
    attributes = {"mode": "LSTM", "is_bidirec": True, "num_layers": 2} | attributes
    operations = (
        Operation("transpose", ("x",), ("turned",), {"perm": (1, 0, 2)}, 0),
        Operation("rnn", ("turned", "h", "c", *parameters, "", "dropout_state"), ("run", "", "states"), attributes, 1),
        Operation("transpose", ("run",), ("back",), {"perm": (1, 0, 2)}, 2),
    )
    values = {name: Value(name, (1,), "float32") for name in parameters}
    return Program("pir", operations, values, tuple(sorted(parameters)), ("x",), ("back",))


def test_parameters_by_layer_and_direction() -> None:
    (step,) = steps_of(program(cells(4)))
    expected = {}
    for i, cell in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
        for j, source in enumerate(("ih", "hh")):
            expected[f"weight_{source}_{cell}"] = f"lstm_cell_{i}.w_{j}"
            expected[f"bias_{source}_{cell}"] = f"lstm_cell_{i}.b_{j}"
    assert step.kind == "lstm"
    assert step.parameters == expected


def test_one_direction() -> None:
    (step,) = steps_of(program(cells(2), is_bidirec=False))
    assert {step.parameters[f"weight_ih_l{i}"] for i in (0, 1)} == {"lstm_cell_0.w_0", "lstm_cell_1.w_0"}
    assert not any(name.endswith("_reverse") for name in step.parameters)


def test_the_turns_belong_to_it() -> None:
    (step,) = steps_of(program(cells(4)))
    assert (step.reads, step.writes) == ("x", "back")


@pytest.mark.parametrize("parameters", [cells(4)[:-1], cells(3), ()])
def test_no_lstm_has_as_many_parameters(parameters: tuple[str, ...]) -> None:
    with pytest.raises(ConversionError, match=rf"operation 1 .*\(rnn\) takes {len(parameters)} parameters"):
        steps_of(program(parameters))


def test_another_kind_of_cell_is_not_taken_for_one() -> None:
    with pytest.raises(ConversionError, match="in a way that no supported network does"):
        steps_of(program(cells(4), mode="GRU"))
