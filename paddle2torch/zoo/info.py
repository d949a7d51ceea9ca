"""One model in full: its card, its network's layers, parameters and multiply-adds, and where it is published.

No weights are needed: the network is built without memory (PyTorch's meta device) and counted there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paddle2torch.converters.kinds import layer_kind
from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import Card, Parameters, find_card
from paddle2torch.model_zoo.config import ClsPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.programs.config import is_program
from paddle2torch.model_zoo.strict_json import to_json
from paddle2torch.zoo.folder import WEIGHTS_NAME
from paddle2torch.zoo.program_info import ProgramInfo, describe_program
from paddle2torch.zoo.resolve import obtain_converted, resolve

# A page as PaddleOCR exports detectors for it. Lines and crops have the size that the model's settings say.
PAGE = (3, 640, 640)


@dataclass(frozen=True)
class Cost:
    """What reading takes: the network in fused form at `input` (N, C, H, W).

    `multiply_adds` are those of convolutions, linear layers, matrix products and LSTMs; normalisations, activations and
    poolings are not counted. `layers` counts modules by kind.
    """

    input: tuple[int, int, int, int]
    layers: Mapping[str, int]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Info:
    """A model of the zoo, a converted one, or both.

    `card` is None for an own model, `config` for a released model whose network is not known. `parameters` are
    those of both forms; `characters` of the set, None where the model has none or it is not known. `converted` is the
    folder where the model is converted, and `bytes` the size of its weights.
    """

    name: str
    card: Card | None
    config: ModelConfig | None
    parameters: Parameters
    cost: Cost | None
    characters: tuple[str, ...] | None
    converted: Path | None
    bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain data: all of it, but for the character set, of which there are the first 100."""
        config = None if self.config is None else to_json(self.config)
        if config is not None:
            del config["charset"]
        return {
            "name": self.name,
            "card": None if self.card is None else to_json(self.card),
            "config": config,
            "parameters": to_json(self.parameters),
            "cost": to_json(self.cost),
            "characters": None if self.characters is None else len(self.characters),
            "charset_sample": None if self.characters is None else "".join(self.characters[:100]),
            "converted": None if self.converted is None else str(self.converted),
            "bytes": self.bytes,
        }


def describe(model: str | Path) -> Info | ProgramInfo:
    """What there is to know about a name of the zoo, the folder of a converted model, or a Hub repository (fetched).

    Raises `ConfigError` for an unknown name.
    """
    resolved = resolve(model)
    card, folder = resolved.card, resolved.converted
    if folder is None and card is None and resolved.program is None:
        folder = obtain_converted(resolved)
    if resolved.program is not None or (folder is not None and is_program(folder)):
        return describe_program(folder, resolved.program)
    config = ModelConfig.load(folder) if folder is not None else None
    if card is None and config is not None:
        card = find_card(config.name)  # None for an own model
    if config is None and card is not None:
        config = card_config(card)
    return Info(
        name=card.name if card is not None else config.name if config is not None else str(model),
        card=card,
        config=config,
        parameters=Parameters(None, None) if config is None else parameters_of(config),
        cost=None if config is None else cost_of(config),
        characters=_characters(card, config),
        converted=folder,
        bytes=None if folder is None else (folder / WEIGHTS_NAME).stat().st_size,
    )


def parameters_of(config: ModelConfig) -> Parameters:
    """Trainable values of both forms; of a model in fused form only those, for its training heads are not known."""
    fused = _count(config.with_form("fused"))
    return Parameters(_count(config) if config.form == "training" else None, fused)


def cost_of(config: ModelConfig, shape: tuple[int, int, int, int] | None = None) -> Cost:
    """Build the fused network on the meta device and run it once there, on a batch (N, C, H, W) or on one image."""
    shape = shape or (1, *input_shape(config))
    with torch.device("meta"):
        network = build_model(config.with_form("fused")).eval()
        image = torch.zeros(shape)
    counted = FlopCounterMode(display=False)
    with counted, torch.inference_mode():
        network(image)
    layers = Counter(kind for module in network.modules() for kind in [layer_kind(module)] if kind is not None)
    # It counts a multiplication and an addition as two.
    return Cost(shape, dict(layers), _parameters(network), counted.get_total_flops() // 2)


def input_shape(config: ModelConfig) -> tuple[int, int, int]:
    """(C, H, W) of the input that multiply-adds are counted for."""
    if isinstance(config.preprocess, (RecPreprocess, ClsPreprocess)):
        return config.preprocess.image_shape
    return PAGE


def _count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return _parameters(build_model(config))


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def card_config(card: Card) -> ModelConfig | None:
    """The model that a card describes, in training form; None where its network or class count is not known."""
    if card.architecture is None or card.preprocess is None or card.postprocess is None:
        return None
    if card.task == "rec" and card.classes is None:
        return None
    return from_card(card).config(classes=card.classes)


def _characters(card: Card | None, config: ModelConfig | None) -> tuple[str, ...] | None:
    if config is not None:
        return config.charset
    return None if card is None or card.charset is None else card.bundled_characters()
