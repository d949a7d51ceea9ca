"""From settings to a network: `build_model`, and `fuse`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.config import Component, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import Reparameterised
from paddle2torch.model_zoo.rec_heads import MultiHead, Targets
from paddle2torch.model_zoo.registry import Role, parts
from paddle2torch.model_zoo.strict_json import unknown_key

# Of settings from outside; the largest official ones are 12 and 18,385.
LAYER_COUNTS = frozenset({"conv_kxk_num", "depth", "depths", "num_decoder_layers"})
MOST_LAYERS = 100
MOST_CHANNELS = 1_000_000


class Network(nn.Module):
    """A PP-OCR network: backbone, neck where there is one, head, under Paddle's names.

    `config` says what it is. A recogniser gives (N, T, classes) probabilities in evaluation and a dict of logits in
    training; see the head for shapes.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module, neck: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, x: Tensor, targets: Targets | None = None) -> Any:
        """x: float (N, 3, H, W), pre-processed as `config.preprocess` says; `targets` for heads that train on them."""
        x = self.backbone(x)
        if self.neck is not None:
            x = self.neck(x)
        return self.head(x) if targets is None else self.head(x, targets)

    @torch.no_grad()
    def decode_nrtr(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Read with the NRTR head: x float (N, 3, 48, W) to symbols int64 (N, L) and probabilities float (N, L).

        Symbols: 3 ends a text, 4 + i is character i of the set. Raises ValueError where there is no such head.
        """
        if not isinstance(self.head, MultiHead):
            raise ValueError(f"{self.config.name} has no NRTR head: its head is {self.config.head.name}")
        return self.head.decode(self.backbone(x))


def build_model(config: ModelConfig) -> Network:
    """The network that `config` describes, freshly initialised, in training mode.

    Raises `ConfigError` for an architecture that is not known or an option that it does not have.
    """
    fused = config.form == "fused"
    backbone = _build("backbone", config.backbone, fused, config)
    channels = backbone.out_channels
    neck = None
    if config.neck is not None:
        neck = _build("neck", config.neck, fused, config, in_channels=channels)
        channels = neck.out_channels
    head = _build("head", config.head, fused, config, in_channels=channels)
    return Network(config, backbone, neck, head)


def _build(
    part: Role,
    component: Component,
    fused: bool,
    config: ModelConfig,
    **given: Any,
) -> nn.Module:
    where, registry = f"{config.name}: {part}", parts(part)
    if component.name not in registry:
        raise ConfigError(f"{where}: {component.name!r} is not supported; known: {', '.join(registry) or 'none'}")
    _check_sizes(component.options, where)
    constructor = registry[component.name].build
    parameters = inspect.signature(constructor).parameters
    if fused and "fused" in parameters:
        given["fused"] = True
    options = set(parameters) - set(given) - {"fused"}
    for key in component.options:
        if key not in options:
            raise unknown_key(key, options, f"{where} {component.name}")
    try:
        return constructor(**given, **component.options)
    except TypeError as error:
        # Nested options (the neck inside a head) are checked by their own constructor.
        raise ConfigError(f"{where} {component.name}: {error}") from None


def _check_sizes(options: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` for numbers that no network has: settings come from outside, and would build for hours."""
    for key, value in options.items():
        most = MOST_LAYERS if key in LAYER_COUNTS else MOST_CHANNELS
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, Mapping):
                _check_sizes(number, f"{where}: {key}")
            elif isinstance(number, int | float) and abs(number) > most:
                raise ConfigError(f"{where}: {key} is {number}, and at most {most} is taken for a network")


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place that has this path in `root`."""
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).register_module(name, module)


def channels_last(model: Network) -> Network:
    """`model` itself, its convolutions' weights laid out with the channels last: the faster layout on a CPU."""
    # PyTorch's annotations of `to` leave out the keyword.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fuse(model: Network) -> Network:
    """The fused form of a network in training form: one convolution per re-parameterised layer, no training heads.

    The result is a new model in evaluation mode that shares the unchanged tensors with `model`. A fused model is
    returned as it is.
    """
    if model.config.form == "fused":
        return model
    with torch.device("meta"):
        fused = build_model(model.config.with_form("fused"))
    source = model.state_dict()
    folded: dict[str, Tensor] = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, Reparameterised):
                dtype = next(module.parameters()).dtype
                folded |= {f"{path}.{name}": values.to(dtype) for name, values in module.folded().items()}
    state = {key: folded[key] if key in folded else source[key] for key in fused.state_dict()}
    fused.load_state_dict(state, assign=True)
    return fused.eval()
