"""The card of a training: what `push` publishes and trackers note of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace

import accelerate
import cv2
import numpy as np
import torch

from paddle2torch._version import __version__
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.training.data.drops import DropReport
from paddle2torch.training.settings import Settings
from paddle2torch.zoo.published import without_folders
from paddle2torch.zoo.run_card import DataCard, RunCard


def run_card(settings: Settings, config: ModelConfig, reports: Mapping[str, DropReport]) -> RunCard:
    """The card of the training of `config` on the data of `reports`, by split."""
    trackers = tuple(replace(tracker, options={}) for tracker in settings.output.trackers)
    shown = replace(settings, output=replace(settings.output, trackers=trackers))
    return RunCard(
        settings=without_folders(to_json(shown)),
        data={split: DataCard(report.samples, report.digest) for split, report in reports.items()},
        versions={
            "paddle2torch": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a class of its own there, which trackers cannot write
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "accelerate": accelerate.__version__,
        },
        started_from="" if config.origin is None else config.origin.source,
    )
