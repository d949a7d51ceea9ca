"""Training that was stopped goes on as if it had not been: weights, moments, position and random numbers in one folder.

The folder is a converted model (`model.safetensors`, `model_config.json`) with `training_state.safetensors` beside it.
It lands whole or not at all, so the two files are always of the same step. Nothing in it is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch.atomic import land_folder, repair_folder
from paddle2torch.device import set_random_states
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.names import file_in
from paddle2torch.model_zoo.strict_json import decode_json, from_json, to_json
from paddle2torch.training.optimisation import MovingAverage
from paddle2torch.zoo.folder import WEIGHTS_NAME, metadata, read_state, write_state

STATE_NAME = "training_state.safetensors"

MOMENTS: Mapping[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}
"""What an optimiser keeps for each parameter."""


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    `step` counts steps of the optimiser, `epoch` (from 0) and `batch` say which batch comes next. `best` is the best
    metric so far and `best_step` its step, `start` what training began with, `stale` the number of evaluations in a row
    that early stopping found no better than its `mark`, the best value of the metric that it watches. `pending`: this
    step is still to be evaluated. `metrics` are those of the last evaluation, of step `measured`. `scaler` is the state
    of fp16's loss scaling, `processes` the number of those that train, `settings` the text of `config.json`, `data`
    tells the training samples from others.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    start: float | None = None
    stale: int = 0
    mark: Mapping[str, float] = field(default_factory=dict)
    pending: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured: int = 0
    scaler: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    settings: str = ""
    data: str = ""


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    progress: Progress,
    random_states: Sequence[Mapping[str, Tensor]],
    *,
    beside: Mapping[str, str],
    peers: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write `folder`, in place of an older checkpoint of that name.

    `model.safetensors` has the weights to evaluate: the moving average where there is one. `random_states` are those
    of each process. `beside`: more texts, by file. `peers`: networks that are trained with this one, by name.

    Raises `Paddle2TorchError` for a full disk; the older checkpoint is then as it was.
    """
    names = {id(parameter): name for name, parameter in _parameters(network, peers)}
    tensors = {
        f"optimizer/{names[id(parameter)]}/{moment}": tensor
        for parameter, state in optimizer.state.items()
        for moment, tensor in state.items()
    }
    tensors |= {f"peers/{key}": tensor for key, tensor in _states(peers).items()}
    for rank, states in enumerate(random_states):
        tensors.update({f"random/{rank}/{kind}": state for kind, state in states.items()})
    state = network.state_dict()
    if average is not None:
        tensors.update({f"network/{key}": tensor for key, tensor in state.items()})
        state = average.state_dict(network)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*tensors.values(), *state.values()))
    with land_folder(folder, overwrite=True, size=size) as temporary:
        write_state(temporary / WEIGHTS_NAME, on_cpu(state), metadata(config))
        write_state(temporary / STATE_NAME, on_cpu(tensors), {"progress": json.dumps(to_json(progress))})
        (temporary / CONFIG_NAME).write_text(config.dumps(), encoding="utf-8")
        for name, text in beside.items():
            (temporary / name).write_text(text, encoding="utf-8")


def _parameters(network: nn.Module, peers: Mapping[str, nn.Module] | None) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of all networks; those of peers have their network's name first."""
    yield from network.named_parameters()
    for name, other in (peers or {}).items():
        yield from other.named_parameters(prefix=name)


def _states(peers: Mapping[str, nn.Module] | None) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor for name, other in (peers or {}).items() for key, tensor in other.state_dict().items()
    }


def refuse_other_model(folder: Path, config: ModelConfig) -> None:
    """Raise `ConfigError` where a checkpoint is of a network with other parts, or of other characters.

    Weights of equal shapes would go on as those of something else: a class would mean another character.
    """
    saved = ModelConfig.load(folder)
    for part in ("task", "form", "backbone", "neck", "head", "preprocess"):
        before, now = to_json(getattr(saved, part)), to_json(getattr(config, part))
        if before != now:
            names = ", ".join(_changed({part: before}, {part: now}))
            raise ConfigError(
                f"{folder} is of another network: {names}. Resume with the model_config.json of that training, or "
                f"start a new one in another output.dir with pretrained set to {folder}"
            )
    labels = [getattr(one.postprocess, "labels", None) for one in (saved, config)]
    if labels[0] != labels[1]:
        raise ConfigError(
            f"{folder} has other classes: {list(labels[0] or ())} there, {list(labels[1] or ())} now. Resume with "
            f"those of that training, or start a new one in another output.dir with pretrained set to {folder}"
        )
    if saved.charset != config.charset:
        places = zip_longest(saved.charset or (), config.charset or ())
        place, (old, new) = next((place, pair) for place, pair in enumerate(places) if pair[0] != pair[1])
        raise ConfigError(
            f"{folder} has another character set: class {place + 1} is {old!r} there, {new!r} now. Resume with the set "
            f"of that training; to go on with another one, start a new training in another output.dir with pretrained "
            f"set to {folder}: characters that both have keep what they learnt"
        )


def load_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    *,
    rank: int,
    processes: int,
    device: torch.device,
    peers: Mapping[str, nn.Module] | None = None,
) -> Progress:
    """Put everything back as it was when `folder` was written, the random numbers included. peers: as they were saved.

    Raises `ConfigError` where there is no checkpoint, or one of another number of processes, and `FileFormatError` for
    files that do not fit the network and its optimiser.
    """
    repair_folder(folder)
    path = file_in(folder, STATE_NAME)
    if not path.is_file():
        raise ConfigError(f"{folder} has no {STATE_NAME}: there is no training to resume there")
    weights, _ = read_state(file_in(folder, WEIGHTS_NAME))
    tensors, header = read_state(path)
    try:
        progress = from_json(Progress, decode_json(header["progress"]), f"{path}: progress")
    except (KeyError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} does not say how far training had come: {error}") from None
    if progress.processes != processes:
        raise ConfigError(
            f"{folder} was written by {progress.processes} processes, now there are {processes}: resume with as many"
        )
    live = _part(tensors, "network/") if average is not None else weights
    _fill(network.state_dict(), live, path)
    _fill(_states(peers), _part(tensors, "peers/"), path)
    if average is not None:
        _fill(average.tensors, {key: tensor for key, tensor in weights.items() if key in average.tensors}, path)
    saved = _part(tensors, "optimizer/")
    kept = MOMENTS[type(optimizer)]
    for name, parameter in _parameters(network, peers):
        moments = {moment: saved.pop(f"{name}/{moment}") for moment in kept if f"{name}/{moment}" in saved}
        if len(moments) == len(kept) and parameter.requires_grad:
            # Filled, not taken over: moments have the memory layout of their parameter, on which rounding may depend.
            optimizer.state[parameter] = {
                moment: torch.zeros((), device=parameter.device)
                if moment == "step"
                else torch.zeros_like(parameter, memory_format=torch.preserve_format)
                for moment in kept
            }
            _fill(optimizer.state[parameter], moments, path)
        elif moments:
            saved[name] = parameter
    if saved:
        raise FileFormatError(
            f"{path} has moments for parameters that are not trained, or of another optimizer: "
            f"{', '.join(sorted(saved)[:4])}. Resume with the same settings"
        )
    set_random_states(_part(tensors, f"random/{rank}/"), device)
    return progress


def changed_settings(before: str, now: str) -> list[str]:
    """Where two texts of `config.json` differ, as `optimizer.lr: 0.001, was 0.0005`."""
    return _changed(decode_json(before), decode_json(now))


def _changed(before: Any, now: Any) -> list[str]:
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {new.get(key)!r}, was {old.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.rstrip("."): data}
    return {key: value for name, item in data.items() for key, value in _flat(item, f"{prefix}{name}.").items()}


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without gradients, where files are written from."""
    return {key: tensor.detach().cpu() for key, tensor in tensors.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


@torch.no_grad()
def _fill(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    if targets.keys() != tensors.keys():
        strange = ", ".join(sorted(targets.keys() ^ tensors.keys())[:4])
        raise FileFormatError(f"{path} and the model have different tensors: {strange}. Resume with the same settings")
    for key, target in targets.items():
        if target.shape != tensors[key].shape:
            raise FileFormatError(f"{path}: {key} is {list(tensors[key].shape)}, the model needs {list(target.shape)}")
        target.copy_(tensors[key])
