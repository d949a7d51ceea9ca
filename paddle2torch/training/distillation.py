"""A student and its teachers as one network for the trainer, and the weights of teachers pinned by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from paddle2torch.api import load_pretrained
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.network import Network, build_model, channels_last
from paddle2torch.model_zoo.pplcnet import DownscaledDropout
from paddle2torch.model_zoo.rec_heads import MultiHead, Targets
from paddle2torch.model_zoo.strict_json import decode_json
from paddle2torch.model_zoo.svtrv2 import DropPath
from paddle2torch.training.distillation_losses import BACKBONE
from paddle2torch.training.distillation_settings import STUDENT, DistillationSettings, TeacherSettings
from paddle2torch.training.initialisation import initialise
from paddle2torch.training.optimisation import leave_out_unused
from paddle2torch.training.settings import Settings, heads_of

UNSTEADY = (nn.modules.batchnorm._BatchNorm, nn.Dropout, DropPath, DownscaledDropout, nn.LSTM)
"""Layers that give something else in training, by chance or by the batch."""


class Distillation(nn.Module):
    """A student and its teachers, by name; each sees every batch.

    A frozen teacher takes no gradient, keeps its statistics and drops nothing out. Raises `ConfigError` for names that
    modules have for something else.
    """

    def __init__(self, student: Network, teachers: Mapping[str, Network]) -> None:
        super().__init__()
        self.config = student.config
        self.names = (STUDENT, *teachers)
        for name, network in zip(self.names, (student, *teachers.values()), strict=True):
            if hasattr(self, name):
                raise ConfigError(
                    f"teachers: {name} cannot be the name of one, as modules of PyTorch have their own {name}"
                )
            self.add_module(name, network)

    def forward(self, x: Tensor, targets: Targets) -> dict[str, dict[str, Tensor]]:
        """x: float (N, 3, H, W). Returns by network its heads' logits, see `MultiHead`, and `backbone_out`."""
        outputs = {}
        for name in self.names:
            network = self.get_submodule(name)
            assert isinstance(network, Network)
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns(network)):
                features, heads = network.with_features(x, targets)
            outputs[name] = {**heads, BACKBONE: features}
        return outputs

    def train(self, mode: bool = True) -> Distillation:
        """As for every module, but of frozen teachers nothing that chance or the batch decides."""
        super().train(mode)
        for name in self.names:
            network = self.get_submodule(name)
            if not learns(network):
                for module in network.modules():
                    if isinstance(module, UNSTEADY):
                        module.eval()
        return self

    @property
    def learning_teachers(self) -> dict[str, Network]:
        """Those that are trained as well, by name."""
        return {name: network for name, network in teachers_of(self).items() if learns(network)}


def teachers_of(learner: Distillation) -> dict[str, Network]:
    """All networks but the student, by name."""
    return {name: cast(Network, learner.get_submodule(name)) for name in learner.names if name != STUDENT}


def learns(network: nn.Module) -> bool:
    """Whether anything of it takes a gradient."""
    return any(parameter.requires_grad for parameter in network.parameters())


def with_teachers(student: Network, loss: DistillationSettings) -> tuple[Distillation, DistillationSettings, list[str]]:
    """The student with the teachers of its settings, these with the digests of the teachers, and notes.

    Raises `ConfigError` for a teacher with other weights than a digest says, or that the student cannot learn from.
    """
    teachers, pinned, notes = {}, {}, []
    for name, settings in loss.teachers.items():
        teacher = _teacher(name, settings, student.config)
        digest = digest_of(teacher)
        if settings.digest is not None and settings.digest != digest and settings.pretrained is not None:
            raise ConfigError(
                f"{name}: {settings.pretrained} has other weights than it had (sha256 {digest}, not "
                f"{settings.digest}): take the model that training began with, or set loss.teachers.{name}.digest to "
                f"null in a new training"
            )
        _check_teacher(name, settings, teacher.config, student.config, loss)
        _leave_out_heads(teacher, loss.heads(name))
        teacher.requires_grad_(not settings.freeze)
        if not settings.freeze:
            leave_out_unused(teacher)
        teachers[name] = channels_last(teacher)
        pinned[name] = replace(settings, digest=digest if settings.pretrained is not None else None)
        how = "stays as it is" if settings.freeze else "learns too, and is kept in the checkpoint alone"
        start = settings.pretrained or "new weights of the same network"
        notes.append(f"{name}: {start}, sha256 {digest[:12]}…, {how}")
    return Distillation(student, teachers), replace(loss, teachers=pinned), notes


def _teacher(name: str, settings: TeacherSettings, student: ModelConfig) -> Network:
    if settings.pretrained is None:
        network = build_model(student)
        initialise(network)
        return network
    network = load_pretrained(settings.pretrained)
    if not isinstance(network, Network) or network.config.task != "rec":
        raise ConfigError(f"{name}: {settings.pretrained} is not a recogniser: a recogniser learns from another one")
    return network


def _check_teacher(
    name: str, settings: TeacherSettings, teacher: ModelConfig, student: ModelConfig, loss: DistillationSettings
) -> None:
    if not settings.freeze and teacher.form != "training":
        raise ConfigError(f"{name}: {settings.pretrained} is in fused form and cannot learn: set freeze to true")
    if teacher.charset != student.charset:
        raise ConfigError(
            f"{name} has another character set than {student.name}: {len(teacher.charset or ())} characters, not "
            f"{len(student.charset or ())}, or in another order. A class must mean the same to both"
        )
    for key in ("channel_order", "scale", "mean", "std"):
        own, others = getattr(student.preprocess, key), getattr(teacher.preprocess, key)
        if own != others:
            raise ConfigError(f"{name} sees other images than {student.name}: preprocess.{key} is {others}, not {own}")
    if missing := sorted(loss.heads(name) - heads_of(teacher)):
        raise ConfigError(
            f"{name}: {teacher.name} has no head {', '.join(missing)}, which loss.losses look at: leave those losses "
            f"out, or take a teacher that was converted from its training checkpoint"
        )


def _leave_out_heads(teacher: Network, wanted: frozenset[str]) -> None:
    """Without the second head of a teacher that no loss looks at: it would ask for labels that a batch may lack."""
    if isinstance(teacher.head, MultiHead):
        if "gtc" not in wanted:
            teacher.head.gtc_head = teacher.head.before_gtc = None
        if "sar" not in wanted:
            teacher.head.sar_head = None


def digest_of(network: nn.Module) -> str:
    """Of all tensors, their names, types and shapes: sha256."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def refuse_other_teachers(before: str, now: Settings) -> None:
    """Raise `ConfigError` where a training goes on with other frozen teachers. before: its `config.json`, as text."""
    if not before:
        return
    # Not read strictly: an earlier version's file may have other keys.
    place: Any = decode_json(before)
    for key in ("loss", "teachers"):
        place = place.get(key) if isinstance(place, dict) else None
    teachers = place if isinstance(place, dict) else {}
    others = {name: one.get("digest") if isinstance(one, dict) else None for name, one in teachers.items()}
    own = now.loss.teachers if isinstance(now.loss, DistillationSettings) else {}
    digests = {name: teacher.digest for name, teacher in own.items()}
    if digests != others:
        raise ConfigError(
            f"the training that is resumed learnt from other teachers: {_said(others)}, now {_said(digests)}. Resume "
            f"with the same, or start a new training in another output.dir"
        )


def _said(digests: Mapping[str, str | None]) -> str:
    return (
        ", ".join(f"{name} {digest[:12] if digest else 'of new weights'}" for name, digest in digests.items()) or "none"
    )
