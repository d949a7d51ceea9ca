"""Tensors of transformers' PP-OCRv6 classes, which hold the fused form in another way than Paddle's exports.

A convolution with a bias here is often a convolution and its normalisation there, and RepLKPAN's pairs of a depthwise
and a pointwise convolution are one convolution of the full kernel. Both ways give the same function; the split of a
full kernel is one of many, and the way out gives back what came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from paddle2torch.model_zoo.errors import ConversionError

EPS = 1e-5
"""Of all normalisations of convolutions, here and there."""
# Convolutions with a normalisation there, where they have a bias here.
_NORMED = re.compile(r"(.*)\.convolution\.(?:weight|bias)")
# Norms of the head of a detector have another name than those of the rest.
_HEAD = re.compile(r"head\.conv_(?:down|up)")
# The convolution there that keeps a bias beside its normalisation.
_WITH_BIAS = "head.conv_up"
_PAIRS = re.compile(r"(neck\.(?:inp_conv|pan_lat_conv)\.\d)\.dw\.lk_origin\.weight")
_STATISTICS = ("weight", "bias", "running_mean", "running_var")
# Of a full kernel that is a depthwise and a pointwise one, what float32 rounds of its largest value.
RANK_ONE = 1e-4


def _norm_of(place: str) -> str:
    return f"{place}.norm" if _HEAD.fullmatch(place) else f"{place}.normalization"


def _places(names: Mapping[str, str]) -> dict[str, str]:
    """{convolution here: its place there} of all that have a normalisation there and a bias here."""
    found = {}
    # Of those that have it here as well nothing changes.
    kept = {there.rpartition(".norm")[0] for there in names.values() if there.endswith("running_var")}
    for here, there in names.items():
        match = _NORMED.fullmatch(there)
        if match is not None and match[1] not in kept and here.endswith(".weight") and f"{here[:-7]}.bias" in names:
            found[here[:-7]] = match[1]
    return found


def _pairs(names: Iterable[str]) -> list[str]:
    return [match[1] for here in names if (match := _PAIRS.fullmatch(here))]


def _full(names: Mapping[str, str], pair: str) -> str:
    """The place there of the convolution that is a pair here."""
    return names[f"{pair}.pw.weight"].replace(".pw.weight", "")


def shapes_there(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor there. `names` has their names by ours, `shapes` the shapes of ours."""
    with torch.device("meta"):
        there = to_there(names, {here: torch.empty(shape) for here, shape in shapes.items() if here in names})
    return {key: tuple(tensor.shape) for key, tensor in there.items()}


def to_there(names: Mapping[str, str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors there of our fused form: normalisations that add the bias alone, full kernels for pairs."""
    out: dict[str, Tensor] = {}
    done: set[str] = set()
    for place, there in _places(names).items():
        weight, bias = state[f"{place}.weight"], state[f"{place}.bias"]
        out[f"{there}.convolution.weight"] = weight
        shift = bias
        if there == _WITH_BIAS:
            out[f"{there}.convolution.bias"], shift = bias, torch.zeros_like(bias)
        values = (torch.ones_like(bias), shift, torch.zeros_like(bias), torch.full_like(bias, 1 - EPS))
        out |= {f"{_norm_of(there)}.{name}": value for name, value in zip(_STATISTICS, values, strict=True)}
        done |= {f"{place}.weight", f"{place}.bias"}
    for pair in _pairs(names):
        depthwise, pointwise = (state[f"{pair}.{part}.weight"].double() for part in ("dw.lk_origin", "pw"))
        full = pointwise * depthwise.transpose(0, 1)
        shift = state[f"{pair}.pw.bias"] + pointwise[:, :, 0, 0] @ state[f"{pair}.dw.lk_origin.bias"].double()
        out[f"{_full(names, pair)}.weight"], out[f"{_full(names, pair)}.bias"] = full.float(), shift.float()
        done |= {f"{pair}.{part}.{name}" for part in ("dw.lk_origin", "pw") for name in ("weight", "bias")}
    out |= {there: state[here] for here, there in names.items() if here not in done}
    return out


def from_there(
    names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Tensor], int]:
    """Our fused form of the tensors there, float32, and how many normalisations were folded.

    Raises `ConversionError` for a full kernel that is no pair of a depthwise and a pointwise one.
    """
    state: dict[str, Tensor] = {}
    places = _places(names)
    for place, there in places.items():
        norm = {name: found[f"{_norm_of(there)}.{name}"].double() for name in _STATISTICS}
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + EPS)
        weight = found[f"{there}.convolution.weight"].double()
        # A transposed convolution has its output channels second.
        scaled = weight * scale.reshape((1, -1, 1, 1) if there == _WITH_BIAS else (-1, 1, 1, 1))
        before = found[f"{there}.convolution.bias"].double() if there == _WITH_BIAS else 0.0
        state[f"{place}.weight"] = scaled.float()
        state[f"{place}.bias"] = (norm["bias"] + (before - norm["running_mean"]) * scale).float()
    for pair in _pairs(names):
        there = _full(names, pair)
        depthwise, pointwise = _split(found[f"{there}.weight"].double(), f"{source}: {there}")
        state[f"{pair}.dw.lk_origin.weight"], state[f"{pair}.pw.weight"] = depthwise.float(), pointwise.float()
        state[f"{pair}.dw.lk_origin.bias"] = torch.zeros(shapes[f"{pair}.dw.lk_origin.bias"])
        state[f"{pair}.pw.bias"] = found[f"{there}.bias"].float()
    state |= {here: found[there].float() for here, there in names.items() if here not in state}
    return {here: state[here] for here in shapes if here in state}, len(places)


def _split(full: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """A kernel (O, I, k, k) as a depthwise (I, 1, k, k) and a pointwise one (O, I, 1, 1), of its norms each half."""
    outputs, inputs, *size = full.shape
    # For each input channel a matrix (O, k * k) of rank one.
    left, values, right = torch.linalg.svd(full.permute(1, 0, 2, 3).reshape(inputs, outputs, -1), full_matrices=False)
    if bool((values[:, 1:] > RANK_ONE * values[:, :1].clamp_min(torch.finfo(torch.float64).tiny)).any()):
        raise ConversionError(f"{where}: its kernel is no product of a depthwise and a pointwise one")
    root = values[:, :1].sqrt()
    depthwise = (right[:, 0] * root).reshape(inputs, 1, *size)
    pointwise = (left[:, :, 0] * root).transpose(0, 1).reshape(outputs, inputs, 1, 1)
    return depthwise.contiguous(), pointwise.contiguous()
