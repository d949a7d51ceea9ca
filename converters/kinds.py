"""What kind of layer a module is: the names that layers and activations have in programs, by PyTorch's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from paddle2torch.model_zoo.layers import BatchNormHardswish, BatchNormReLU, Hardsigmoid

# Layers with parameters, by the torch type that computes them. Order matters where one type derives from another.
LAYER_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv2d, "conv"),
    (nn.Conv1d, "conv"),
    (nn.ConvTranspose2d, "conv_transpose"),
    (nn.Linear, "linear"),
    (nn.modules.batchnorm._BatchNorm, "batch_norm"),
    (nn.LayerNorm, "layer_norm"),
    (nn.LSTM, "lstm"),
)
# Activations are aligned as well, so that a wrong slope shows at the activation and not three layers later.
ACTIVATION_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Hardswish, "hardswish"),
    (nn.Hardsigmoid, "hardsigmoid"),
    (Hardsigmoid, "hardsigmoid"),
    (nn.ReLU, "relu"),
    (nn.SiLU, "swish"),
    (nn.Sigmoid, "sigmoid"),
    (nn.GELU, "gelu"),
)
# The same by the function that a network may call instead.
ACTIVATION_FUNCTIONS: Mapping[Any, str] = {
    **dict.fromkeys((F.relu, torch.relu, torch.Tensor.relu), "relu"),
    **dict.fromkeys((torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid), "sigmoid"),
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    F.silu: "swish",
    F.gelu: "gelu",
}
ACTIVATIONS = frozenset(kind for _, kind in ACTIVATION_KINDS)
# What a network may compute inside a function, without a module.
PASSED = ACTIVATIONS | {"factor"}
# One module here, two operations in a program: a normalisation and its activation.
ACTIVATED_NORMS: tuple[tuple[type[nn.Module], str], ...] = ((BatchNormReLU, "relu"), (BatchNormHardswish, "hardswish"))


def layer_kind(module: nn.Module) -> str | None:
    """The kind of a layer with parameters, which our class says itself (`KIND`); None for all else."""
    own: str | None = getattr(module, "KIND", None)
    return own or next((kind for type_, kind in LAYER_KINDS if isinstance(module, type_)), None)


def kind_of(module: nn.Module) -> str | None:
    """The kind of a layer with parameters or of an activation."""
    return layer_kind(module) or next((kind for type_, kind in ACTIVATION_KINDS if isinstance(module, type_)), None)


def activation_of_norm(module: nn.Module) -> str | None:
    """The kind of the activation that a normalisation carries out as well."""
    return next((kind for type_, kind in ACTIVATED_NORMS if isinstance(module, type_)), None)
