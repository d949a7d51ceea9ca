"""Trainings here know nothing of those before them, and draw no curves, which takes longer than their steps; the tests
that look at curves ask for `drawn`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState

from paddle2torch.training import log

PLOT_CURVES = log.plot_curves


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its precision for a process; here each test is a process of its own."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(autouse=True)
def _not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "plot_curves", lambda folder: True)


@pytest.fixture
def drawn(_not_drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are drawn."""
    monkeypatch.setattr(log, "plot_curves", PLOT_CURVES)
