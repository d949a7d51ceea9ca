"""From settings to a network: `build_model`, and `fuse`."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.config import Component, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.layers import Reparameterised
from paddle2torch.model_zoo.rec_heads import MultiHead, Targets
from paddle2torch.model_zoo.registry import Role, parts
from paddle2torch.model_zoo.show import show, show_text
from paddle2torch.model_zoo.strict_json import check_type, unknown_key

Module = TypeVar("Module", bound=nn.Module)

# What settings from outside can ask for. Officially there are up to 18 layers, 18,711 classes, 2048 channels.
MOST_LAYERS = 100
MOST_PARAMETERS = 1 << 29
"""Elements of all tensors of a network; the largest official one has 33 million."""
_CHANNELS = (0, 65_536)
_RATES, _SIZES, _STRIDES = (0, 1), (1, 32), (1, 16)
LIMITS: Mapping[str, tuple[float, float]] = {
    "attn_drop_rate": _RATES,
    "classes": (1, 1_000_000),
    "conv_kxk_num": (1, MOST_LAYERS),
    "depth": (0, MOST_LAYERS),
    "depths": (0, MOST_LAYERS),
    "dilated_kernel_size": _SIZES,
    "drop_path_rate": _RATES,
    "drop_rate": _RATES,
    "dropout_prob": _RATES,
    "k": (1, 1e6),
    "kernel_list": _SIZES,
    "last_drop": _RATES,
    "loc_lr": (0, 100),
    "kernel_size": _SIZES,
    "large_stride": _STRIDES,
    "last_conv_stride": _STRIDES,
    "last_kernel_size": _SIZES,
    "last_pool_kernel_size": _SIZES,
    "local_kernel": _SIZES,
    "max_text_length": (1, 2000),
    "mlp_ratio": (0.01, 64),
    "num_heads": (1, 1024),
    "num_decoder_layers": (0, MOST_LAYERS),
    "scale": (0.01, 16),
    "small_stride": _STRIDES,
    "stride_list": _STRIDES,
    "sub_k": (-1, 16),
}
"""Limits of an option's number or numbers, by its name. All others are numbers of channels."""


class Network(nn.Module):
    """A PP-OCR network: transform and neck where there are any, backbone, head, under Paddle's names.

    `config` says what it is. A recogniser gives (N, T, classes) probabilities in evaluation and a dict of logits in
    training; see the head for shapes.
    """

    def __init__(
        self,
        config: ModelConfig,
        backbone: nn.Module,
        neck: nn.Module | None,
        head: nn.Module,
        transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.transform = transform
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, x: Tensor, targets: Targets | None = None) -> Any:
        """x: float (N, 3, H, W), pre-processed as `config.preprocess` says; `targets` for heads that train on them."""
        return self.with_features(x, targets)[1]

    def with_features(self, x: Tensor, targets: Targets | None = None) -> tuple[Any, Any]:
        """What the backbone gives, and the result of `forward`."""
        features = self._see(x)
        x = features if self.neck is None else self.neck(features)
        return features, self.head(x) if targets is None else self.head(x, targets)

    @torch.no_grad()
    def decode_nrtr(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Read with the NRTR head: x float (N, 3, 48, W) to symbols int64 (N, L) and probabilities float (N, L).

        Symbols: 3 ends a text, 4 + i is character i of the set. Raises ValueError where there is no such head.
        """
        if not isinstance(self.head, MultiHead):
            raise ValueError(f"{self.config.name} has no NRTR head: its head is {self.config.head.name}")
        return self.head.decode(self._see(x))

    def _see(self, x: Tensor) -> Any:
        return self.backbone(x if self.transform is None else self.transform(x))


def build_model(config: ModelConfig) -> Network:
    """The network that `config` describes, freshly initialised, in training mode.

    Raises `ConfigError` for an architecture that is not known or an option that it does not have.
    """
    if torch.empty(0).device.type != "meta":
        with torch.device("meta"):
            build_model(config)  # so that nothing larger than a network is made
    fused = config.form == "fused"
    transform = None if config.transform is None else _build("transform", config.transform, fused, config)
    backbone = _build("backbone", config.backbone, fused, config)
    _check_size(config, transform, backbone)
    channels = backbone.out_channels
    neck = None
    if config.neck is not None:
        neck = _build("neck", config.neck, fused, config, in_channels=channels)
        channels = neck.out_channels
    head = _build("head", config.head, fused, config, in_channels=channels)
    network = Network(config, backbone, neck, head, transform)
    if (elements := sum(tensor.numel() for tensor in network.state_dict().values())) > MOST_PARAMETERS:
        raise ConfigError(
            f"{config.name}: its settings make a network of {elements:,} numbers, at most {MOST_PARAMETERS:,} are taken"
        )
    return network


def _check_size(config: ModelConfig, transform: nn.Module | None, backbone: nn.Module) -> None:
    """Raise `ConfigError` for a backbone of images of one size that is given others."""
    wanted: tuple[int, int] | None = getattr(backbone, "image_size", None)
    if wanted is None:
        return
    given: tuple[int, int] | None = getattr(transform, "image_size", None)
    preprocess = config.preprocess
    if given is None and isinstance(preprocess, RecPreprocess) and preprocess.fixed_width:
        given = preprocess.image_shape[1:]
    if given != wanted:
        place = "the transform makes them of" if transform is not None else "preprocess.image_shape makes them of"
        others = "several widths: set max_width to that of image_shape" if given is None else str(list(given))
        raise ConfigError(
            f"{config.name}: backbone {config.backbone.name} takes images of {list(wanted)} alone, {place} {others}"
        )


def _build(
    part: Role,
    component: Component,
    fused: bool,
    config: ModelConfig,
    **given: Any,
) -> nn.Module:
    where, registry = f"{config.name}: {part}", parts(part)
    if component.name not in registry:
        raise ConfigError(f"{where}: {show(component.name)} is not supported; known: {', '.join(registry) or 'none'}")
    check_options(part, component, where)
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
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Options of the right types within their limits that do not fit each other.
        reason = show_text(str(error), 200)
        raise ConfigError(f"{where} {component.name}: its options make no network: {reason}") from None


@functools.cache
def _types(constructor: Callable[..., nn.Module]) -> Mapping[str, Any]:
    return typing.get_type_hints(constructor.__init__)


def check_options(part: Role, component: Component, where: str) -> None:
    """Raise `ConfigError`, led by `where`, for options of another type than their constructor takes, or so large that
    building the network would take hours. Options that are unknown or missing are left to `build_model`.
    """
    known = parts(part).get(component.name)
    types = {} if known is None else _types(known.build)
    for key, value in component.options.items():
        place = f"{where}.{show_text(str(key))}"
        if key in types and value is not None:
            check_type(types[key], value, place)
        _check_numbers(key, value, place)


def _check_numbers(key: str, value: Any, where: str) -> None:
    low, high = LIMITS.get(key, _CHANNELS)
    if isinstance(value, Mapping):  # the options of a part of a part
        for inner, item in value.items():
            _check_numbers(inner, item, f"{where}.{show_text(str(inner))}")
    elif isinstance(value, list | tuple):
        total = sum(item for item in value if isinstance(item, int))
        if len(value) > MOST_LAYERS or (key in ("depth", "depths") and total > MOST_LAYERS):
            raise ConfigError(f"{where} is {show(value)}: a network has at most {MOST_LAYERS} layers")
        for item in value:
            _check_numbers(key, item, where)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
        raise ConfigError(f"{where} is {show(value)}: it must be a number from {low:,} to {high:,}")


def replace_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` in the place that has this path in `root`."""
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).register_module(name, module)


def channels_last(model: Module) -> Module:
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
                like = next(module.parameters())
                # In float64, which some devices lack: folded on the CPU, it is the same from all of them.
                here = module if like.device.type in ("cpu", "meta") else copy.deepcopy(module).cpu()
                folded |= {f"{path}.{name}": values.to(like) for name, values in here.folded().items()}
    state = {key: folded[key] if key in folded else source[key] for key in fused.state_dict()}
    fused.load_state_dict(state, assign=True)
    return fused.eval()


@torch.no_grad()
def unfuse(fused: Network, training: Network) -> tuple[str, ...]:
    """Give a network in training form the function of a fused one: the inverse of `fuse`, but for float32's rounding.

    What a sum's branches were is lost in the fused form. They are made anew, from the new weights that `training` has;
    heads that training alone needs keep these.

    Returns the names of the normalisations of such branches: they have the statistics of no data yet.
    """
    given, own = fused.state_dict(), training.state_dict()
    made: dict[str, None] = {}
    taken: set[str] = set()
    for path, module in training.named_modules():
        # Some layers are the same in both forms.
        if not isinstance(module, Reparameterised) or all(f"{path}.{key}" in given for key in module.state_dict()):
            continue
        names = {name: f"{path}.{name}" for name in module.folded()}
        # Heads that training alone needs are not in the fused form.
        if names and all(key in given for key in names.values()):
            module.unfold({name: given[key] for name, key in names.items()})
            taken |= set(names.values())
            norms = (name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d))
            made |= dict.fromkeys(f"{path}.{name}" for name in norms)
    for key, tensor in own.items():
        if key in given and key not in taken:
            tensor.copy_(given[key])
    return tuple(made)
