"""A PaddleOCR yml's optimiser, rate and schedule as our settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show
from paddle2torch.model_zoo.strict_json import from_json
from paddle2torch.training.settings import OptimizerSettings, ScheduleSettings
from paddle2torch.training.yml_reader import Reader

MOST_DECAYS = 10_000
"""Times that a rate is multiplied."""

# The rate of layers, of which a yml may give a list; the detector's ResNet and MobileNet know the key.
_FACTORS_OF_STAGES = "Architecture.Backbone.lr_mult_list"


def read_optimizer(reader: Reader, task: str, lr: float) -> OptimizerSettings:
    """The optimiser of a yml, with its rate; raises `ConfigError` for one that moves parameters otherwise than here."""
    reader.only("Optimizer.name", "Adam", "AdamW", "Momentum")
    name = reader.at("Optimizer.name", str)
    reader.only(_FACTORS_OF_STAGES, [1.0] * 6)
    clip = reader.raw("Optimizer.clip_norm_global")
    if reader.raw("Optimizer.clip_norm") is not None:
        raise ConfigError(
            f"{reader.where}: Optimizer.clip_norm bounds each parameter's gradient; here the whole gradient can be "
            f"bounded: write clip_norm_global"
        )
    data: dict[str, Any] = {
        "name": name,
        "lr": lr,
        "fc_decay": _fc_decay(reader) if task == "rec" else None,
        "lab_lr": reader.at("Architecture.Backbone.lab_lr", float, 0.1),
        "clip_norm_global": None if clip is None else reader.at("Optimizer.clip_norm_global", float),
    }
    if name == "Momentum":
        data["momentum"] = reader.at("Optimizer.momentum", float)
    else:
        data |= {
            "beta1": reader.at("Optimizer.beta1", float, 0.9),
            "beta2": reader.at("Optimizer.beta2", float, 0.999),
            "epsilon": reader.at("Optimizer.epsilon", float, 1e-8),
        }
    data |= _adamw(reader) if name == "AdamW" else {"l2": _l2(reader)}
    return from_json(OptimizerSettings, data, f"{reader.where}: Optimizer")


def _adamw(reader: Reader) -> dict[str, Any]:
    if reader.raw("Optimizer.regularizer") is not None:
        raise ConfigError(
            f"{reader.where}: Optimizer.regularizer does not go with AdamW, in PaddleOCR neither: write weight_decay"
        )
    return {
        "weight_decay": reader.at("Optimizer.weight_decay", float, 0.01),
        "no_weight_decay_name": reader.at("Optimizer.no_weight_decay_name", str, "").split(),
        "one_dim_param_no_weight_decay": reader.at("Optimizer.one_dim_param_no_weight_decay", bool, False),
    }


def _l2(reader: Reader) -> float:
    reader.only("Optimizer.regularizer.name", "L2", "L2Decay")
    l2 = reader.at("Optimizer.regularizer.factor", float, 0.0)
    # PaddleOCR takes this one where there is no regularizer.
    return l2 or reader.at("Optimizer.weight_decay", float, 0.0)


def _fc_decay(reader: Reader) -> float:
    """The L2 of the CTC head's last layer; PaddleOCR's CTCHead has one of its own where the yml says nothing."""
    # from_sections has read the section: a head is one, and so is each entry of a list of heads.
    head = reader.data["Architecture"]["Head"]
    for entry in head.get("head_list") or [{"CTCHead": {"Head": head}}]:
        options = (entry.get("CTCHead") or {}).get("Head")
        if isinstance(options, dict) and options.get("fc_decay") is not None:
            return reader.real("the fc_decay of the CTC head", options["fc_decay"])
    return 4e-4


def read_schedule(reader: Reader, epochs: int) -> tuple[float, ScheduleSettings]:
    """The rate and the schedule of a yml for a training of `epochs`. Some of PaddleOCR's schedules are others here:
    LinearWarmupCosine a Cosine with its own warm-up and end, DecayLearningRate a Linear, Step and MultiStepDecay a
    Piecewise.
    """
    path = "Optimizer.lr"
    name = reader.at(f"{path}.name", str, "Const")
    if name not in _SCHEDULES:
        said = ", ".join(_SCHEDULES)
        raise ConfigError(f"{reader.where}: {path}.name: {show(name)} is not one of {said}")
    data = _SCHEDULES[name](reader, path, epochs)
    lr = data.pop("lr")
    if "warmup_steps" not in data:
        data["warmup_epoch"] = 0.0 if name == "DecayLearningRate" else reader.at(f"{path}.warmup_epoch", float, 0.0)
    return lr, from_json(ScheduleSettings, data, f"{reader.where}: {path}")


def _plain(name: str) -> Callable[[Reader, str, int], dict[str, Any]]:
    def read(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
        return {"name": name, "lr": reader.at(f"{path}.learning_rate", float)}

    return read


def _linear(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "Linear",
        "lr": reader.at(f"{path}.learning_rate", float),
        "end_lr": reader.at(f"{path}.end_lr", float, 0.0),
        "power": reader.at(f"{path}.power", float, 1.0),
    }


def _decay_learning_rate(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    # PaddleOCR reads `end_lr` and takes 0 all the same.
    reader.only(f"{path}.end_lr", 0)
    power = reader.at(f"{path}.factor", float, 0.9)
    return {"name": "Linear", "lr": reader.at(f"{path}.learning_rate", float), "power": power}


def _linear_warmup_cosine(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "Cosine",
        "lr": reader.at(f"{path}.learning_rate", float),
        "warmup_steps": reader.at(f"{path}.warmup_steps", int, 5000),
        "start_lr": reader.at(f"{path}.start_lr", float, 1e-5),
        "end_lr": reader.at(f"{path}.min_lr", float, 1e-8),
    }


def _cyclical_cosine(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    lr = reader.at(f"{path}.learning_rate", float)
    return {"name": "CyclicalCosine", "lr": lr, "cycle": reader.at(f"{path}.cycle", float)}


def _one_cycle(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return {
        "name": "OneCycle",
        "lr": reader.at(f"{path}.max_lr", float),
        "anneal_strategy": reader.at(f"{path}.anneal_strategy", str, "cos"),
        "three_phase": reader.at(f"{path}.three_phase", bool, False),
    }


def _piecewise(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    values = reader.raw(f"{path}.values")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{reader.where}: {path}.values should be a list of rates, found {show(values)}")
    rates = [reader.real(f"{path}.values", value) for value in values]
    return {"name": "Piecewise", "lr": rates[0], "values": rates, "decay_epochs": reader.raw(f"{path}.decay_epochs")}


def _step(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    size = reader.at(f"{path}.step_size", int)
    if size < 1:
        raise ConfigError(f"{reader.where}: {path}.step_size is {size}: at least one epoch is meant")
    return _steps_down(reader, path, range(size, epochs, size))


def _multi_step(reader: Reader, path: str, epochs: int) -> dict[str, Any]:
    return _steps_down(reader, path, reader.raw(f"{path}.milestones"))


def _steps_down(reader: Reader, path: str, epochs: Any) -> dict[str, Any]:
    """A rate that is multiplied by `gamma` after each of some epochs."""
    lr, gamma = reader.at(f"{path}.learning_rate", float), reader.at(f"{path}.gamma", float)
    if not isinstance(epochs, list | range) or len(epochs) > MOST_DECAYS:
        raise ConfigError(f"{reader.where}: {path}: a list of at most {MOST_DECAYS:,} changes of the rate is taken")
    if not 0 <= gamma <= 1:
        raise ConfigError(f"{reader.where}: {path}.gamma is {gamma:g}: a rate is multiplied by 0 to 1")
    values = [lr * gamma**number for number in range(len(epochs) + 1)]
    return {"name": "Piecewise", "lr": lr, "values": values, "decay_epochs": list(epochs)}


_SCHEDULES: Mapping[str, Callable[[Reader, str, int], dict[str, Any]]] = {
    **{name: _plain(name) for name in ("Cosine", "Const", "TwoStepCosine")},
    "Linear": _linear,
    "Piecewise": _piecewise,
    "LinearWarmupCosine": _linear_warmup_cosine,
    "CyclicalCosine": _cyclical_cosine,
    "OneCycle": _one_cycle,
    "DecayLearningRate": _decay_learning_rate,
    "Step": _step,
    "MultiStepDecay": _multi_step,
}
