"""Reading and writing both settings files: whole, or what differs from an official recipe.

A `config.json` with the key `recipe` has what one changes; every other value is that recipe's. Without the key it is
whole: what is left out has the default of docs/settings.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle2torch.atomic import land_file
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show, show_path
from paddle2torch.model_zoo.strict_json import decode_json, from_json, read_json, to_json
from paddle2torch.training.official import official_settings, recipe_name
from paddle2torch.training.settings import SETTINGS_NAME, Settings, check_fit, with_charset

MODEL_CONFIG_KEY = "model_config"
"""Assignments `model_config.KEY=VALUE` are for the other file."""

RECIPE_KEY = "recipe"

WHAT_ONE_CHANGES = (
    "pretrained",
    "data.train.dataset.data_dir",
    "data.train.dataset.label_file_list",
    "data.train.loader.batch_size_per_card",
    "data.train.loader.num_workers",
    "data.eval.dataset.data_dir",
    "data.eval.dataset.label_file_list",
    "training.epochs",
    "training.freeze",
    "optimizer.lr",
    "schedule.warmup_epoch",
    "output.dir",
)
"""These are written also where they are the recipe's."""


def read_settings(
    config: Path, model_config: Path | None = None, assignments: Sequence[str] = (), *, charset: Path | None = None
) -> tuple[Settings, ModelConfig]:
    """Read both files, changed by `assignments` (`optimizer.lr=1e-4`, `model_config.freeze_backbone=true`).

    `model_config` is by default the file of that name beside `config`, `charset` a file or the name of a bundled set
    that takes the place of the one in it. Raises `ConfigError` for what is unknown,
    missing, mistyped or contradictory, and where the two files do not fit each other.
    """
    config = Path(config)
    model_config = config.with_name(CONFIG_NAME) if model_config is None else Path(model_config)
    prefix = MODEL_CONFIG_KEY + "."
    for_model = [assignment.removeprefix(prefix) for assignment in assignments if assignment.startswith(prefix)]
    for_settings = [assignment for assignment in assignments if not assignment.startswith(prefix)]
    data = _read(config)
    if not isinstance(data, dict):
        raise ConfigError(f"{show_path(config)}: expected an object, found {show(data)}")
    _rename(data)
    model_data = _read(model_config)
    for assignment in for_model:
        assign(model_data, assignment)
    model = ModelConfig.from_data(model_data, show_path(model_config))
    if RECIPE_KEY in data:
        data = _with_recipe(data, model, show_path(config))
    for assignment in for_settings:
        assign(data, assignment)
    settings = from_json(Settings, data, show_path(config))
    if charset is not None:
        model, _ = with_charset(model, charset)
    check_fit(settings, model)
    return settings, model


def write_settings(settings: Settings, model: ModelConfig, folder: Path, *, full: bool = True) -> None:
    """Write both files into `folder`; raises `ConfigError` where one of them is there already.

    full: every value, not only `WHAT_ONE_CHANGES` and what else differs from the official recipe.
    """
    check_fit(settings, model)
    for name in (SETTINGS_NAME, CONFIG_NAME):
        if (Path(folder) / name).exists():
            raise ConfigError(f"{Path(folder) / name} exists: choose another folder")
    overwrite_settings(settings, model, folder, full=full)


def overwrite_settings(settings: Settings, model: ModelConfig, folder: Path, *, full: bool = True) -> None:
    """Write both files into `folder`, in place of those that are there."""
    text = settings.dumps() if full else _what_differs(settings, model)
    for name, content in ((SETTINGS_NAME, text), (CONFIG_NAME, model.dumps())):
        with land_file(Path(folder) / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def assign(data: Any, assignment: str) -> Any:
    """Decoded JSON with `a.b.c=value` carried out, in place. The value is JSON, or else taken for a string.

    Steps are keys of objects or indices of lists; objects on the way that are missing or null are made, and left to
    the strict reading that follows. Raises `ConfigError` for what is not an assignment, or leads into a plain value.
    """
    path, equals, text = assignment.partition("=")
    steps = path.split(".")
    if not equals or not all(steps):
        raise ConfigError(f"--set {assignment}: expected KEY.KEY=VALUE")
    try:
        value = decode_json(text)
    except (ValueError, RecursionError):
        value = text
    place = data
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(place, dict):
            key: Any = step
            if not last and place.get(step) is None:
                place[step] = {}
        elif isinstance(place, list) and step.isdecimal() and len(step) < 10 and int(step) < len(place):
            key = int(step)
        else:
            raise ConfigError(f"--set {assignment}: there is no {'.'.join(steps[: depth + 1])!r}")
        if last:
            place[key] = value
        else:
            place = place[key]
    return data


def _rename(data: dict[str, Any]) -> None:
    """Put what files of version 0.1 have where it is now, in place."""
    output = data.get("output")
    if isinstance(output, dict) and isinstance(output.get("tensorboard"), bool):
        output.setdefault("trackers", ["tensorboard"] if output.pop("tensorboard") else [])
    training = data.get("training")
    if isinstance(training, dict) and "early_stop" in training:
        patience, evaluation = training.pop("early_stop"), data.setdefault("evaluation", {})
        if patience is not None and isinstance(evaluation, dict):
            evaluation.setdefault("early_stopping", {"patience": patience})


def _with_recipe(data: dict[str, Any], model: ModelConfig, where: str) -> dict[str, Any]:
    """The values of the recipe that a file names, under those of the file."""
    name = data[RECIPE_KEY]
    if not isinstance(name, str):
        raise ConfigError(f"{where}: {RECIPE_KEY}: expected str, found {show(name)}")
    try:
        recipe = official_settings(model, pretrained=None, recipe=name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    defaults = to_json(recipe)
    loss = data.get("loss")
    if isinstance(loss, dict) and "teachers" in loss:
        defaults["loss"] = {}  # what learns from teachers has a loss of its own
    whole = _under({key: value for key, value in data.items() if key != RECIPE_KEY}, defaults)
    assert isinstance(whole, dict)
    return whole


def _under(values: Any, defaults: Any) -> Any:
    """Objects with the keys of both, `values` first; of anything else `values`."""
    if not isinstance(values, dict) or not isinstance(defaults, dict):
        return values
    return {
        **{key: default for key, default in defaults.items() if key not in values},
        **{key: _under(value, defaults[key]) if key in defaults else value for key, value in values.items()},
    }


def _what_differs(settings: Settings, model: ModelConfig) -> str:
    """The text of a `config.json` that names its recipe."""
    recipe = recipe_name(model)
    values, defaults = to_json(settings), to_json(official_settings(model, pretrained=None, recipe=recipe))
    found = {RECIPE_KEY: recipe, **_differences(values, defaults, "")}
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"


def _differences(values: dict[str, Any], defaults: dict[str, Any], path: str) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        default, inner = defaults.get(key), f"{path}{key}"
        if isinstance(value, dict) and isinstance(default, dict):
            if differences := _differences(value, default, f"{inner}."):
                found[key] = differences
        elif value != default or key not in defaults or inner in WHAT_ONE_CHANGES:
            found[key] = value
    return found


def _read(path: Path) -> Any:
    if not os.path.exists(path):
        raise ConfigError(f"{show_path(path)}: there is no such file. `paddle2torch init` writes both files")
    return read_json(path)
