"""The best model of a training in another format, beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from paddle2torch.exporting.export import FORMATS, Exported, export
from paddle2torch.model_zoo.errors import Paddle2TorchError
from paddle2torch.training.preparation import BEST
from paddle2torch.training.trainer import TrainingResult


def export_best(result: TrainingResult, to: Literal["onnx", "paddle"]) -> Exported | None:
    """Write `best.onnx` or `best.pdparams` beside the folder `best`, checked as every export is.

    None where `best` is still what training started from, and where it is exported already and this run left it alone.
    Raises `Paddle2TorchError` for a model that the format cannot hold; the training itself is kept.
    """
    target = result.folder / (BEST + FORMATS[to].suffix)
    found_here = result.best_step > result.steps - result.made
    if result.best_step == 0 or (target.exists() and not found_here):
        return None
    try:
        return export(result.folder / BEST, to, target, force=True)
    except Paddle2TorchError as error:
        raise Paddle2TorchError(f"{Path(result.folder) / BEST} is trained, but not exported: {error}") from error
