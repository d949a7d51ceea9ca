"""Which evaluation is the best one, and when none has been better for too long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.checkpoints import Progress
from paddle2torch.training.settings import LOWER_IS_BETTER, EarlyStopping, EvaluationSettings


def value_of(metrics: Mapping[str, float], name: str, setting: str) -> float:
    """The value of a metric; raises `ConfigError`, which names the `setting`, where the evaluation does not give it."""
    if name not in metrics:
        raise ConfigError(f"evaluation.{setting}: this evaluation gives no {name!r}; it gives {', '.join(metrics)}")
    return metrics[name]


def is_better(name: str | None, value: float, than: float | None, *, mode: str | None = None, by: float = 0.0) -> bool:
    """Whether the value of a metric is better than another by more than `by`; than None every value is.

    name: None for the task's own, acc or hmean. mode: "max" or "min" in place of what the name tells.
    """
    if than is None:
        return True
    sign = -1.0 if (mode or ("min" if name in LOWER_IS_BETTER else "max")) == "min" else 1.0
    return sign * (value - than) > by


def watched(settings: EvaluationSettings, main: str, metrics: Mapping[str, float], progress: Progress) -> Progress:
    """The progress with one more evaluation counted for early stopping. main: the metric that decides on `best`."""
    rule = settings.early_stopping
    if rule is None:
        return replace(progress, stale=0, mark={})
    name = rule.metric or main
    value, mark = value_of(metrics, name, "early_stopping.metric"), progress.mark.get(name)
    if is_better(name, value, mark, mode=rule.mode, by=rule.min_delta):
        return replace(progress, stale=0, mark={name: value})
    return replace(progress, stale=progress.stale + 1)


def is_over(rule: EarlyStopping | None, progress: Progress) -> bool:
    """Whether training stops: so many evaluations in a row were no better."""
    return rule is not None and progress.stale >= rule.patience
