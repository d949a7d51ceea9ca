"""What a training says of itself beside its weights: what `push` publishes with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json
from paddle2torch.zoo.published import without_folders

RUN_CARD_NAME = "training.json"
METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class DataCard:
    """A split: how many samples it has, and a digest that tells its labels from others."""

    samples: int
    digest: str


@dataclass(frozen=True)
class RunCard:
    """A training: its settings, its data (`train`, `eval`), the versions of what computed, and where it started.

    Nothing in it tells of the machine: paths are without their folders where they were absolute, and what trackers
    were started with, which may be a key, is left out.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, DataCard]
    versions: Mapping[str, str]
    started_from: str = ""

    def text(self) -> str:
        """As a file."""
        return json.dumps(to_json(self), ensure_ascii=False, indent=2) + "\n"

    def flat(self) -> dict[str, int | float | str | bool]:
        """One value for each key (`settings.optimizer.lr`), as trackers take them; lists and null are JSON."""
        return dict(_flat(to_json(self), ""))


@dataclass(frozen=True)
class Trained:
    """What lies beside weights that were trained: the card of the training, and what was measured after which step."""

    card: RunCard
    step: int
    measured: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def metrics_text(self) -> str:
        """As the second file: the step of the weights, and the metrics of the last step that was evaluated."""
        return json.dumps({"step": self.step, "measured": self.measured, **self.metrics}, indent=2) + "\n"


def read_trained(folder: Path) -> Trained | None:
    """What a training left beside the weights in `folder`; None where it is not of a training.

    Raises `ConfigError` where the files are not what a training writes.
    """
    paths = [file_in(folder, name) for name in (RUN_CARD_NAME, METRICS_NAME)]
    if not all(path.is_file() for path in paths):
        return None
    card = from_json(RunCard, without_folders(read_json(paths[0])), RUN_CARD_NAME)
    found = read_json(paths[1])
    steps = {key: found.pop(key, 0) for key in ("step", "measured")} if isinstance(found, dict) else {}
    return from_json(Trained, {"card": to_json(card), **steps, "metrics": found}, METRICS_NAME)


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _flat(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, bool | int | float | str):
        return [(path, value)]
    return [(path, json.dumps(value, ensure_ascii=False))]
