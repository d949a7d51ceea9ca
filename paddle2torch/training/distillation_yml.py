"""A PaddleOCR yml's distillation as our settings, its networks and its losses; and the official one without a yml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle2torch.converters.templates import from_sections
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show, show_text
from paddle2torch.training.distillation_settings import (
    STUDENT,
    TERMS,
    DistillationCTCLoss,
    DistillationDKDLoss,
    DistillationNRTRLoss,
    DistillationSARLoss,
    DistillationSettings,
    DistillCTCLogits,
    LossTerm,
    TeacherSettings,
)
from paddle2torch.training.settings import heads_of

TEACHER = "Teacher"

_WHERE = ("key", "multi_head", "name", "reduction", "maps_name", "ignore_index")
"""Options of PaddleOCR's losses that say where they find what they compare, and how they are called."""


def official_distillation(student: ModelConfig, teacher: ModelConfig, pretrained: str) -> DistillationSettings:
    """PP-OCRv4's and SVTRv2's way to learn from a frozen teacher: as far as both networks have the heads for it.

    pretrained: the teacher, by name or folder.
    """
    heads = heads_of(student)
    losses: list[Any] = [DistillationCTCLoss()]
    if "gtc" in heads & heads_of(teacher):
        losses.append(DistillationDKDLoss(weight=0.1, beta=2.0))
    if "gtc" in heads:
        losses.append(DistillationNRTRLoss(smoothing=False))
    if "sar" in heads:
        losses.append(DistillationSARLoss())
    losses.append(DistillCTCLogits())
    return DistillationSettings({TEACHER: TeacherSettings(pretrained)}, tuple(map(LossTerm, losses)))


def student_sections(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A yml of several networks as one of its student alone. Raises `ConfigError` for one of no recognisers."""
    section = data["Architecture"]
    models = section["Models"]
    kind = section.get("model_type")
    if kind != "rec" or not isinstance(models.get(STUDENT), dict):
        raise ConfigError(
            f"{path}: distillation of {show(kind)} networks ({show_text(', '.join(map(str, models)))}) is not trained "
            f"here, only of recognisers with a {STUDENT}: train one network, from its own yml or the official recipe"
        )
    return {**data, "Architecture": {"model_type": kind, **models[STUDENT]}}


def read_teachers(
    data: Mapping[str, Any], path: Path, *, pretrained: str | None, teacher: str | None
) -> dict[str, TeacherSettings]:
    """The networks beside the student. pretrained: where the student starts. teacher: the model that was named.

    One that learns too, and is the student's twin, starts where the student does. Raises `ConfigError` where it is not
    known which model another one is.
    """
    found = {}
    student = from_sections(student_sections(data, path), path).architecture
    for name, model in data["Architecture"]["Models"].items():
        if name == STUDENT:
            continue
        if not isinstance(model, dict):
            raise ConfigError(f"{path}: Architecture.Models.{show_text(str(name))} is not a network, but {show(model)}")
        freeze = bool(model.get("freeze_params", False))
        start = teacher
        if teacher is None and not freeze and from_sections(data, path, network=name).architecture == student:
            start = pretrained
        elif teacher is None:
            raise ConfigError(
                f"{path}: the student learns from {show_text(str(name))}, whose weights are in a file of "
                f"PaddleOCR's: convert it, and say its name or folder with --teacher"
            )
        found[str(name)] = TeacherSettings(start, freeze)
    return found


def read_losses(sections: Sequence[Mapping[str, Any]], where: str) -> tuple[LossTerm, ...]:
    """The losses of `Loss.loss_config_list`; raises `ConfigError` for those that are others here."""
    terms = []
    for section in sections:
        for name, given in section.items():
            place, options = f"{where} {show_text(str(name))}", dict(given or {})
            if name not in TERMS:
                raise ConfigError(f"{place}: cannot be trained here, only {', '.join(TERMS)}")
            expected = "backbone_out" if name == "DistillationDistanceLoss" else "head_out"
            if options.get("key") != expected or options.get("maps_name") is not None:
                raise ConfigError(f"{place}: key must be {expected}, and maps_name must not be there")
            if name == "DistillationDMLLoss" and (options.get("act"), options.get("use_log")) != ("softmax", True):
                raise ConfigError(f"{place}: recognisers learn with act softmax and use_log true")
            options = {key: value for key, value in options.items() if key not in _WHERE}
            pairs = options.get("model_name_pairs")
            if isinstance(pairs, list) and pairs and isinstance(pairs[0], str):
                options["model_name_pairs"] = [pairs]
            terms.append(LossTerm.from_json({name: options}, where))
    return tuple(terms)
