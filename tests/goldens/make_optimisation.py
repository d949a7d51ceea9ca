"""Compute the goldens of `optimisation.npz`: rates and optimiser steps as PaddleOCR's own code takes them under Paddle.

    cd tests && python -m goldens.make_optimisation /path/to/PaddleOCR

`rate/NAME` holds the learning rate of every step of `SCHEDULES`, `OPTIMISER/PARAMETER` the values of a parameter after
each of five steps in float64 with the gradients that `gradient` makes. See README.md for the versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
STEPS = 5

# PaddleOCR's `Optimizer.lr` of each schedule, with the epochs and the steps of one.
SCHEDULES: Mapping[str, tuple[Mapping[str, Any], int, int]] = {
    "Cosine": ({"name": "Cosine", "learning_rate": 1e-3, "warmup_epoch": 2.5}, 40, 7),
    "Cosine, no warm-up": ({"name": "Cosine", "learning_rate": 1e-3}, 40, 7),
    "Linear": ({"name": "Linear", "learning_rate": 1e-3, "end_lr": 1e-5, "power": 0.9, "warmup_epoch": 3}, 40, 7),
    "Const": ({"name": "Const", "learning_rate": 1e-3, "warmup_epoch": 3}, 40, 7),
    "Piecewise": (
        {"name": "Piecewise", "decay_epochs": [10, 30], "values": [1e-3, 1e-4, 1e-5], "warmup_epoch": 5},
        40,
        7,
    ),
    "LinearWarmupCosine": (
        {"name": "LinearWarmupCosine", "learning_rate": 1e-3, "start_lr": 1e-5, "min_lr": 1e-8, "warmup_steps": 50},
        40,
        7,
    ),
    "CyclicalCosine": ({"name": "CyclicalCosine", "learning_rate": 1e-3, "cycle": 2.5, "warmup_epoch": 1}, 40, 7),
    "CyclicalCosine, no warm-up": ({"name": "CyclicalCosine", "learning_rate": 1e-3, "cycle": 8}, 40, 7),
    "TwoStepCosine": ({"name": "TwoStepCosine", "learning_rate": 1e-3, "warmup_epoch": 5}, 300, 1),
    "TwoStepCosine, no warm-up": ({"name": "TwoStepCosine", "learning_rate": 1e-3}, 300, 1),
    "OneCycle": ({"name": "OneCycle", "max_lr": 1e-3}, 40, 7),
    "OneCycle, lines": ({"name": "OneCycle", "max_lr": 1e-3, "anneal_strategy": "linear", "warmup_epoch": 2}, 40, 7),
    "OneCycle, three phases": ({"name": "OneCycle", "max_lr": 1e-3, "three_phase": True}, 40, 7),
    "Step": ({"name": "Step", "learning_rate": 1e-3, "step_size": 9, "gamma": 0.5, "warmup_epoch": 1}, 40, 7),
    "MultiStepDecay": ({"name": "MultiStepDecay", "learning_rate": 1e-3, "milestones": [8, 20], "gamma": 0.1}, 40, 7),
    "DecayLearningRate": ({"name": "DecayLearningRate", "learning_rate": 1e-3, "factor": 0.9}, 40, 7),
}

# PaddleOCR's `Optimizer` without its schedule. Paddle holds decay and momentum in float32 whatever the parameters are:
# these numbers are the same there.
OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "Adam": {"name": "Adam", "beta1": 0.9, "beta2": 0.99, "regularizer": {"name": "L2", "factor": 0.015625}},
    "AdamW": {
        "name": "AdamW",
        "beta1": 0.9,
        "beta2": 0.99,
        "epsilon": 1e-8,
        "weight_decay": 0.0625,
        "no_weight_decay_name": "norm pos_embed",
        "one_dim_param_no_weight_decay": True,
    },
    "AdamW, clipped": {"name": "AdamW", "weight_decay": 0.0625, "clip_norm_global": 0.5},
    "Momentum": {"name": "Momentum", "momentum": 0.875, "regularizer": {"name": "L2", "factor": 0.015625}},
    "Momentum, clipped": {"name": "Momentum", "momentum": 0.75, "clip_norm_global": 0.5, "weight_decay": 0.015625},
}

# Parameters: their shape, and the L2 and the factor on the rate that a layer may set for itself.
PARAMETERS: Mapping[str, tuple[tuple[int, ...], float | None, float]] = {
    "fc.weight": ((3, 4), None, 1.0),
    "fc.bias": ((4,), None, 1.0),
    "norm.weight": ((2, 3), None, 1.0),
    "pos_embed": ((1, 2, 3), None, 1.0),
    "own.weight": ((2, 2), 0.125, 1.0),
    "lab.scale": ((1,), None, 0.1),
}


def values(name: str) -> NDArray[np.float64]:
    """What a parameter begins with, float64."""
    shape = PARAMETERS[name][0]
    return np.random.Generator(np.random.PCG64(list(PARAMETERS).index(name))).normal(size=shape)


def gradient(name: str, step: int) -> NDArray[np.float64]:
    """Its gradient in one of the steps, float64."""
    shape = PARAMETERS[name][0]
    return np.random.Generator(np.random.PCG64([step, list(PARAMETERS).index(name)])).normal(size=shape)


def rates(schedules: Any, options: Mapping[str, Any], epochs: int, steps: int) -> NDArray[np.float64]:
    """The rate of each step as PaddleOCR's training loop reads it."""
    schedule = schedules.build_lr_scheduler(dict(options), epochs, steps)
    found = []
    for _ in range(epochs * steps):
        found.append(schedule if isinstance(schedule, float) else schedule())
        if not isinstance(schedule, float):
            schedule.step()
    return np.array(found)


def moved(schedules: Any, options: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """The values (step, …) of each parameter after each step."""
    import paddle
    from paddle.regularizer import L2Decay

    paddle.set_default_dtype("float64")
    network = paddle.nn.Layer()
    layers: dict[str, Any] = {}
    for name, (shape, l2, factor) in PARAMETERS.items():
        *path, last = name.split(".")
        layer = network
        for part in path:
            if part not in layers:
                layers[part] = paddle.nn.Layer()
                layer.add_sublayer(part, layers[part])
            layer = layers[part]
        own = {} if l2 is None else {"regularizer": L2Decay(l2)}
        parameter = layer.create_parameter(
            list(shape), attr=paddle.ParamAttr(learning_rate=factor, **own), dtype="float64"
        )
        parameter.set_value(values(name))
        layer.add_parameter(last, parameter)
    config = {**options, "lr": {"name": "Cosine", "learning_rate": 0.01}}
    optimizer, schedule = schedules.build_optimizer(config, 2, STEPS, network)
    after: dict[str, list[Any]] = {name: [] for name in PARAMETERS}
    for step in range(STEPS):
        for name, parameter in network.named_parameters():
            parameter.clear_gradient()
            (parameter * paddle.to_tensor(gradient(name, step))).sum().backward()
        optimizer.step()
        schedule.step()
        for name, parameter in network.named_parameters():
            after[name].append(parameter.numpy().copy())
    return {name: np.stack(found) for name, found in after.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paddleocr", type=Path, help="folder that holds PaddleOCR's ppocr/")
    sys.path.insert(0, str(parser.parse_args().paddleocr))
    import ppocr.optimizer as schedules

    found = {
        f"rate/{name}": rates(schedules, options, epochs, steps) for name, (options, epochs, steps) in SCHEDULES.items()
    }
    for name, options in OPTIMISERS.items():
        found.update({f"{name}/{parameter}": steps for parameter, steps in moved(schedules, options).items()})
    np.savez_compressed(HERE / "optimisation.npz", **found)


if __name__ == "__main__":
    main()
