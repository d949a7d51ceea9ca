"""Rates are tried on weights that are thrown away."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_training import TinyBatches, tiny_config, tiny_settings

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.rate_finder import FEWEST, LEAST, MOST, Sweep, find_rate, rates_tried


def test_the_suggestion_is_where_the_loss_falls_but_far_from_where_it_breaks() -> None:
    """A loss that falls around 1e-4, is least at 1e-2, and rises behind that."""
    rates = [Sweep(100).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(LEAST)
    assert rates[-1] == pytest.approx(MOST)
    losses = [
        10 - 8 / (1 + math.exp(-3 * (math.log10(rate) + 4))) + max(0.0, 20 * (math.log10(rate) + 2)) for rate in rates
    ]
    found = rates_tried(rates, losses)
    assert found.steepest is not None
    assert 5e-5 < found.steepest < 5e-4  # smoothing is some steps late
    assert found.suggestion == found.steepest
    early = rates_tried([rate * 1e-3 for rate in rates], losses)
    assert early.suggestion == pytest.approx(found.suggestion * 1e-3)
    assert "optimizer.lr 0.000" in found.line
    # At the edge of a cliff it keeps a tenth away.
    cliff = [10.0 - 0.001 * step if step < 60 else 9.94 - (step - 60) if step < 64 else 40.0 for step in range(100)]
    found = rates_tried(rates, cliff)
    assert found.suggestion == pytest.approx(rates[63] / 10)


def test_nothing_to_learn_suggests_nothing() -> None:
    rates = [Sweep(20).rate(step) for step in range(20)]
    flat = rates_tried(rates, [5.0 + step for step in range(20)])
    assert (flat.steepest, flat.suggestion) == (None, None)
    assert "no rate up to 1 made the loss fall" in flat.line
    with pytest.raises(ConfigError, match=r"broken after 3 steps, at a rate of 1\.3e-06"):
        rates_tried(rates[:4], [5.0] * 3)


def test_it_makes_the_steps_of_a_training_and_leaves_a_curve(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = build_model(tiny_config())
    initialise(source)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    sections: dict[str, Any] = {"training": {"epochs": 1, "dropout": 0.0}}
    settings = tiny_settings(tmp_path, **sections)
    found = find_rate(settings, tiny_config(), steps=12, source=source, make_batches=TinyBatches.make)
    assert FEWEST <= len(found.losses) <= 12
    assert found.rates == tuple(Sweep(12).rate(step) for step in range(len(found.losses)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"learning_rates.json", "learning_rates.png"}
    assert json.loads((tmp_path / "learning_rates.json").read_text())["suggestion"] == found.suggestion
    # The first loss is that of the first step of a training, whose rate is nearly 0.
    from paddle2torch.training.trainer import train

    AcceleratorState._reset_state(True)
    train(
        replace(settings, output=replace(settings.output, dir=str(tmp_path / "t"))),
        tiny_config(),
        source=source,
        make_batches=TinyBatches.make,
    )
    first = (tmp_path / "t" / "train.csv").read_text().splitlines()[1].split(",")[2]
    assert float(first) == pytest.approx(found.losses[0], rel=1e-9)
