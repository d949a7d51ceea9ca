"""What moves the parameters: which of them, how far, and how that changes over time.

Sources: PaddleOCR `ppocr/optimizer/`, `ppocr/modeling/backbones/`, `heads/rec_ctc_head.py` (Apache-2.0), and
`paddle.optimizer.lr` for how Paddle steps its schedules.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import SetsItsRates, SparesDecay
from paddle2torch.model_zoo.pplcnetv3 import LearnableRepLayer
from paddle2torch.training.settings import OptimizerSettings, ScheduleSettings

LR_FACTOR = "lr_factor"
"""Key of a parameter group: its factor on the learning rate of the schedule."""

# Of OneCycle, as PaddleOCR has them: the share of steps that the rate rises, what it is divided by at the start, and
# by how much more at the end.
ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 25.0, 1e4


COUPLED = "l2"
"""Key of AdamW's parameter groups: the coupled L2 that comes before its own decay."""


@dataclass(frozen=True)
class Treatment:
    """How a parameter is trained: a factor on the learning rate, its coupled L2, and AdamW's decay."""

    lr_factor: float
    l2: float
    decay: float = 0.0


def freeze(network: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Take no gradient for parameters whose name matches a pattern (`backbone.*`, `*.conv_bn?.*`); returns their names.

    Batch normalisation whose weight is frozen keeps its statistics too: see `set_training`. Raises `ConfigError` for a
    pattern that matches nothing, and where nothing is left to train.
    """
    frozen = set()
    for pattern in patterns:
        names = [name for name, _ in network.named_parameters() if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            sample = next(name for name, _ in network.named_parameters())
            raise ConfigError(f"freeze: no parameter has a name like {pattern!r} (names look like {sample})")
        frozen.update(names)
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"freeze: {', '.join(patterns)} leave nothing to train")
    return tuple(sorted(frozen))


def set_training(network: nn.Module) -> None:
    """Training mode, but evaluation mode for batch normalisation whose weight is frozen.

    Its statistics would move on, and with them the output of what was to stay as it is.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()


def leave_out_unused(network: nn.Module) -> None:
    """Take no gradient for parameters that no forward uses; processes that share gradients would wait for theirs."""
    for module in network.modules():
        if isinstance(module, LearnableRepLayer) and not module.use_act and module.act is not None:
            module.act.requires_grad_(False)


def treatments(network: nn.Module, settings: OptimizerSettings) -> dict[str, Treatment]:
    """How PaddleOCR trains each parameter, by name: what its layers set for themselves, else the settings."""
    own: dict[int, Treatment] = {}
    for module in network.modules():
        if isinstance(module, SparesDecay):
            own.update({id(p): Treatment(1.0, 0.0) for p in module.parameters_without_decay()})
        rate, decay = (_setting(settings, module, name) for name in ("RATE_SETTING", "DECAY_SETTING"))
        if rate is not None:
            own.update({id(p): Treatment(rate, settings.l2) for p in module.parameters()})
        if decay is not None:
            own.update({id(p): Treatment(1.0, decay) for p in module.parameters()})
        if isinstance(module, SetsItsRates):
            own.update({id(p): Treatment(factor, settings.l2) for p, factor in module.rate_factors()})
    default = Treatment(1.0, settings.l2)
    treated = {name: own.get(id(parameter), default) for name, parameter in network.named_parameters()}
    if settings.name == "AdamW":
        treated = {
            name: replace(treated[name], decay=settings.weight_decay)
            if _decays(name, parameter, settings)
            else treated[name]
            for name, parameter in network.named_parameters()
        }
    return treated


def _decays(name: str, parameter: Tensor, settings: OptimizerSettings) -> bool:
    """Whether AdamW shrinks a parameter. Our names are Paddle's, so the words find the same ones."""
    if settings.one_dim_param_no_weight_decay and parameter.dim() == 1:
        return False
    return not any(word in name for word in settings.no_weight_decay_name)


def _setting(settings: OptimizerSettings, module: nn.Module, name: str) -> float | None:
    """The value of the setting that a class names for its parameters; None where it names none, or has no value."""
    setting: str | None = getattr(module, name, None)
    value: float | None = None if setting is None else getattr(settings, setting)
    return value


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of the parameters that take a gradient, one group per treatment. Rates are set by `set_rate`."""
    groups: dict[Treatment, list[nn.Parameter]] = {}
    by_name = dict(network.named_parameters())
    for name, treatment in treatments(network, settings).items():
        if by_name[name].requires_grad:
            groups.setdefault(treatment, []).append(by_name[name])
    adam: dict[str, Any] = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    if settings.name == "AdamW":
        return _adamw(groups, adam)
    shares = [
        {"params": parameters, "weight_decay": treatment.l2, LR_FACTOR: treatment.lr_factor}
        for treatment, parameters in groups.items()
    ]
    if settings.name == "Momentum":
        return torch.optim.SGD(shares, lr=settings.lr, momentum=settings.momentum, fused=True)
    return torch.optim.Adam(shares, **adam, fused=True)


def _adamw(groups: Mapping[Treatment, Sequence[nn.Parameter]], adam: Mapping[str, Any]) -> torch.optim.Optimizer:
    """AdamW; parameters that have an L2 of their own get that besides its decay, as in Paddle."""
    shares = [
        {
            "params": parameters,
            "weight_decay": treatment.decay,
            COUPLED: treatment.l2,
            LR_FACTOR: treatment.lr_factor,
        }
        for treatment, parameters in groups.items()
    ]
    coupled = any(treatment.l2 for treatment in groups)
    # With scaled gradients the fused form takes the scale off inside the step, after the L2 was added.
    optimizer = torch.optim.AdamW(shares, **adam, fused=not coupled)
    if coupled:
        optimizer.register_step_pre_hook(_add_l2)
    return optimizer


@torch.no_grad()
def _add_l2(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Add each group's coupled L2 to its gradients."""
    for group in optimizer.param_groups:
        there = [parameter for parameter in group["params"] if parameter.grad is not None]
        if group[COUPLED] and there:
            torch._foreach_add_([parameter.grad for parameter in there], there, alpha=group[COUPLED])


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale all gradients down together where their norm is above `most`, as Paddle's `ClipGradByGlobalNorm` does.

    PyTorch's own adds 1e-6 to the norm.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # `torch.nn.utils.get_total_norm` is this, from PyTorch 2.6 on.
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, most / norm.clamp(min=most))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[LR_FACTOR]


class Rates(Protocol):
    """The learning rate over time."""

    def rate(self, step: int) -> float:
        """That of a step of the optimiser, from 0."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step of the optimiser, counted from 0, as Paddle steps it.

    Paddle starts the schedule proper only when the warm-up is over, and its length is that of the whole training: after
    a warm-up the cosine does not reach 0.
    """

    lr: float
    settings: ScheduleSettings
    steps_per_epoch: int
    epochs: int

    def rate(self, step: int) -> float:
        """The learning rate of step `step`."""
        settings = self.settings
        if step < self._warm_up:
            peak = settings.values[0] if settings.name == "Piecewise" else self.lr
            return (peak - settings.start_lr) * step / self._warm_up + settings.start_lr
        return self._after_warm_up(step - self._warm_up)

    @property
    def _warm_up(self) -> int:
        steps = self.settings.warmup_steps
        return round(self.settings.warmup_epoch * self.steps_per_epoch) if steps is None else steps

    def _after_warm_up(self, step: int) -> float:
        settings, steps = self.settings, self.steps_per_epoch * self.epochs
        if settings.name == "Cosine":
            return self._cosine(step, steps)
        if settings.name == "CyclicalCosine":
            assert settings.cycle is not None
            # Half an epoch of one step rounds to no step: the shortest cycle is a step.
            cycle = max(1, round(settings.cycle * self.steps_per_epoch))
            return self._cosine(step % cycle, cycle)
        if settings.name == "TwoStepCosine":
            return self._two_step_cosine(step, steps)
        if settings.name == "OneCycle":
            return self._one_cycle(step, steps)
        if settings.name == "Linear":
            left = 1 - min(step, steps) / steps
            return (self.lr - settings.end_lr) * left**settings.power + settings.end_lr
        if settings.name == "Piecewise":
            passed = sum(step >= epoch * self.steps_per_epoch for epoch in settings.decay_epochs)
            return settings.values[passed]
        return self.lr

    def _cosine(self, step: int, steps: int) -> float:
        end = self.settings.end_lr
        return (self.lr - end) * (1 + math.cos(math.pi * step / steps)) / 2 + end

    def _two_step_cosine(self, step: int, steps: int) -> float:
        """As Paddle steps it: by itself each rate is made from the one before, and stays at the end of the first fall,
        which is 0; after a warm-up each is computed anew, and the second fall begins where it is by then.
        """
        first = self.settings.first_epochs * self.steps_per_epoch
        if step <= first:
            return self._cosine(step, first)
        return self._cosine(step, steps) if self._warm_up else self.settings.end_lr

    def _one_cycle(self, step: int, steps: int) -> float:
        """Phases end at steps that need not be whole numbers."""
        lowest = self.lr / ONE_CYCLE_START
        ends = [ONE_CYCLE_RISE * steps - 1]
        rates = [lowest, self.lr]
        if self.settings.three_phase:
            ends.append(2 * ONE_CYCLE_RISE * steps - 2)
            rates.append(lowest)
        ends.append(steps - 1)
        rates.append(lowest / ONE_CYCLE_END)
        phase = next((number for number, end in enumerate(ends) if step <= end), len(ends) - 1)
        begin = ends[phase - 1] if phase else 0
        share = (step - begin) / (ends[phase] - begin)
        start, end = rates[phase], rates[phase + 1]
        if self.settings.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2 * (math.cos(math.pi * share) + 1)


class MovingAverage:
    """Exponential moving average of all floating-point tensors of a network, statistics included: PaddleOCR's.

    The decay of step t is min(decay, (1 + t) / (10 + t)). Paddle's average starts at zero and is divided by
    1 - decay^(t + 1) when it is read. As the decay grows that is not exact: of a weight that does not change it makes
    1.5 % too much after two steps, 0.06 % after twenty. Here the divided average is kept, which is the same.

    Source: PaddleOCR `ppocr/utils/ema.py` (Apache-2.0).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network after step `step`, counted from 0."""
        decay = self._decay(step)
        before = 1 - self._decay(step - 1) ** step if step else 0.0
        whole = 1 - decay ** (step + 1)
        averages = list(self.tensors.values())
        torch._foreach_mul_(averages, decay * before / whole)
        torch._foreach_add_(averages, list(self._live.values()), alpha=(1 - decay) / whole)

    def _decay(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step))

    def state_dict(self, network: nn.Module) -> dict[str, Any]:
        """The state dict of `network` with the averages in place of its own tensors."""
        return {**network.state_dict(), **self.tensors}
