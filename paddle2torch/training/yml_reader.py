"""The values of a PaddleOCR yml by their paths: which were read, and why the others are not in `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show, show_text

T = TypeVar("T")

_MODEL = "in model_config.json"
_AUTOMATIC = "happens by itself"
_INFERENCE = "not for training"

# Why keys are not in config.json. Whole sections end in a dot.
REASONS: Mapping[str, str] = {
    "Architecture.": _MODEL,
    "PostProcess.": _MODEL,
    "Global.character_dict_path": _MODEL,
    "Global.use_space_char": _MODEL,
    "Global.label_list": _MODEL,
    "Global.model_name": _MODEL,
    "Global.cal_metric_during_train": "training metrics are not computed: dropout and augmentation make them low",
    "Global.calc_epoch_interval": "training metrics are not computed",
    "Global.checkpoints": "go on with `paddle2torch train --resume`",
    "Global.d2s_train_image_shape": _INFERENCE,
    "Global.debug": "unused in PaddleOCR, too",
    "Global.distributed": _AUTOMATIC,
    "Global.infer_img": _INFERENCE,
    "Global.infer_mode": _INFERENCE,
    "Global.log_smooth_window": "lines give the mean since the line before",
    "Global.pretrained_model": "convert it; `pretrained` is the model that was named",
    "Global.save_epoch_step": "the best and the last checkpoint are kept",
    "Global.save_inference_dir": _INFERENCE,
    "Global.save_model_dir": "it leads out of the working folder: set output.dir",
    "Global.save_res_path": _INFERENCE,
    "Global.use_gpu": _AUTOMATIC,
    "Global.use_visualdl": "set output.trackers",
    "Global.use_wandb": "set output.trackers",
    "Global.scale_loss": _AUTOMATIC,
    "Global.use_dynamic_loss_scaling": _AUTOMATIC,
    "Loss.main_indicator": _AUTOMATIC,
    "Train.sampler.is_training": _AUTOMATIC,
    "Train.loader.use_shared_memory": _AUTOMATIC,
    "Eval.loader.use_shared_memory": _AUTOMATIC,
    "profiler_options": "use PyTorch's own profiler",
    "wandb.": "set output.trackers",
}
UNKNOWN = "not known here"


class Reader:
    """A yml by dotted paths; knows which of them were read."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = data
        self.where = where
        self.read: set[str] = set()

    def at(self, path: str, kind: type[T], default: T | None = None) -> T:
        """The value at `path`; a float may be written as an int or, as YAML reads `1e-3`, as a string."""
        value = self.raw(path)
        if value is None:
            if default is None:
                raise ConfigError(f"{self.where}: {path} is missing")
            return default
        if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
            return cast(T, self.real(path, value))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(path, kind, value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(path, kind, value)
        return value

    def real(self, path: str, value: Any) -> float:
        """The finite number `value`, which was found at `path`."""
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.wrong(path, float, value)
        return number

    def sections(self, path: str) -> list[dict[str, Any]]:
        """The list of sections at `path`; empty where it is missing."""
        value = self.raw(path)
        if value is None:
            return []
        if not isinstance(value, list) or not all(
            isinstance(item, dict) and all(isinstance(options, dict | None) for options in item.values())
            for item in value
        ):
            raise ConfigError(f"{self.where}: {path} should be a list of sections, found {show(value)}")
        return value

    def wrong(self, path: str, kind: type, value: Any) -> ConfigError:
        return ConfigError(f"{self.where}: {path} should be of type {kind.__name__}, found {show(value)}")

    def raw(self, path: str) -> Any:
        """The value at `path` as it is, None where it is missing. All below it counts as read."""
        self.read.add(path)
        place: Any = self.data
        for step in path.split("."):
            if not isinstance(place, dict) or place.get(step) is None:
                return None
            place = place[step]
        return place

    def only(self, path: str, *allowed: Any) -> None:
        """Raise unless the value is missing or one of these."""
        value = self.raw(path)
        if value is not None and value not in allowed:
            said = " or ".join(map(repr, allowed))
            raise ConfigError(f"{self.where}: {path} is {show(value)}; here it can only be {said}")

    def left_out(self) -> dict[str, str]:
        """The paths of values that were not read, and why."""
        return {path: _reason(path) for path in self._leaves(self.data, "")}

    def _leaves(self, place: Any, prefix: str) -> list[str]:
        path = prefix.rstrip(".")
        if path in self.read or (place is None and path):
            return []
        if isinstance(place, dict):
            return [leaf for key, value in place.items() for leaf in self._leaves(value, f"{prefix}{key}.")]
        return [show_text(path, 200)]


def _reason(path: str) -> str:
    for known, reason in REASONS.items():
        if path == known or (known.endswith(".") and path.startswith(known)):
            return reason
    return UNKNOWN
