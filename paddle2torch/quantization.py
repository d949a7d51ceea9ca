"""int8: `quantize` measures a converted model on images and writes what its convolutions need to run in 8 bits.

The result is beside the weights as `int8.safetensors`; `load_pretrained(..., quantized=True)` runs it. The
convolutions that make up the time are quantized (`model_zoo.forms.quantized`), all else stays in float32. Depthwise
ones stay as well: they lose most by it and gain least.

A channel of large inputs gets larger steps, and its weights make up for them (as in SmoothQuant, arXiv:2211.10438).
Weights are rounded one input after another, each error made up for by those to come (GPTQ, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.model_zoo.config import DBPostprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, watching
from paddle2torch.model_zoo.forms.folding import fold
from paddle2torch.model_zoo.forms.quantized import LEVELS, WEIGHT_LIMIT, can_be_quantized, quantize_network
from paddle2torch.model_zoo.network import Network
from paddle2torch.tasks.detection import Detector
from paddle2torch.tasks.failures import what_went_wrong
from paddle2torch.tasks.images import BGRImage, ImageSource, load_image
from paddle2torch.tasks.orientation import Classifier
from paddle2torch.tasks.recognition import Recognizer
from paddle2torch.zoo.folder import load_model, save_quantized
from paddle2torch.zoo.resolve import obtain_converted

SHARE_AT_LEAST = 0.005
"""The least share of all convolutions' multiply-adds: a smaller one has next to nothing to gain."""

CHANNELS_AT_LEAST = 8
"""The least number of input channels: the first convolution, which sees the picture itself, stays as it is."""

BALANCE = 0.65
"""How much of the difference between channels the weights take over: 0 nothing, 1 all. Measured on lines of text."""

ROWS = 16384
"""Places of the maps that a convolution is measured at, over all images."""

IMAGES_AT_MOST = 256
"""Images to measure on, taken evenly from all: the fewer places an image is seen at, the worse the result was."""

VALUES = 1 << 18
"""Values of an input by which its steps are chosen."""

SAMPLES_AT_MOST = 1 << 27
"""Values in memory at a time: what has more is measured in several rounds."""

HELD_BACK = 5
"""One image in this many is not measured on: the result is compared on it."""

TOO_FEW = "at least two images are needed: one to measure on, one to compare the result on"

DAMPING = 0.05
"""The share of the diagonal's mean that is added to it: with a fifth of this, images not measured on lost more."""


@dataclass(frozen=True)
class Agreement:
    """int8 beside float32 on images that it was not measured on.

    `what` is counted: "lines with the same text", "pixels of text" (in either map) or "lines turned the same way".
    `largest` is the largest difference of a line's score, or of a pixel's probability.
    """

    what: str
    same: int
    total: int
    largest: float


@dataclass(frozen=True)
class Quantization:
    """A finished quantization: the file, its convolutions, images measured on, and what became of the results.

    failed: the index of each image that the network cannot be run on, and why; nothing else counts it.
    """

    path: Path
    convolutions: tuple[str, ...]
    share: float
    images: int
    held_back: int
    agreement: Agreement
    failed: Mapping[int, str]


def quantize(model: str | Path, images: Sequence[ImageSource]) -> Quantization:
    """Quantize a converted model and write `int8.safetensors` into its folder, whole or not at all.

    Args:
        model: a name of the zoo, or the folder of a converted model.
        images: like those that it will read, fifty or more: lines of a recogniser or classifier, pages of a detector.
            Every fifth is held back, for `Quantization.agreement`; of the others at most `IMAGES_AT_MOST` are used.

    Returns:
        The file, its convolutions, and how often the images that were held back gave the same result; `share` is that
        of the convolutions' multiply-adds that run in int8.

    Raises:
        ConfigError: for fewer than two images that can be used, or a network without convolutions that could be
            quantized.
    """
    if len(images) < 2:
        raise ConfigError(TOO_FEW)
    folder = obtain_converted(model)
    network = load_model(folder)
    folded = fold(network)
    loaded = [load_image(image) for image in images]
    try:
        return _quantize(folder, network, folded, loaded, {})
    except Exception:
        failed = _failing(folded, loaded)
        if not failed:
            raise
    good = [image for index, image in enumerate(loaded) if index not in failed]
    if len(good) < 2:
        raise ConfigError(f"{TOO_FEW}; the first that cannot be used: {next(iter(failed.values()))}")
    return _quantize(folder, network, folded, good, failed)


def _failing(network: Network, images: Sequence[BGRImage]) -> dict[int, str]:
    """The images that the network cannot be run on, by index, and why."""
    failed = {}
    for index, image in enumerate(images):
        try:
            run(network, image)
        except Exception as error:
            failed[index] = what_went_wrong(error)
    return failed


def _quantize(
    folder: Path, network: Network, folded: Network, loaded: Sequence[BGRImage], failed: Mapping[int, str]
) -> Quantization:
    every = range(len(loaded))
    kept = every[HELD_BACK - 1 :: HELD_BACK] or every[-1:]
    held = [loaded[index] for index in kept]
    others = [loaded[index] for index in every if index not in kept]
    used = others[:: -(-len(others) // IMAGES_AT_MOST)]
    shares = _shares(folded, used[0])
    chosen = [path for path, share in shares.items() if share >= SHARE_AT_LEAST and _can_be(folded, path)]
    if not chosen:
        raise ConfigError(f"{folded.config.name} has no convolution that int8 would make faster")
    tensors: dict[str, Tensor] = {}
    for paths in _group_paths(folded, chosen):
        for path, rows in _sample_inputs(folded, paths, used).items():
            tensors |= {f"{path}.{name}": value for name, value in quantized_convolution(folded, path, rows).items()}
    agreement = compare(folded, quantize_network(folded, tensors), held)
    file = save_quantized(folder, network, tensors)
    share = sum(shares[path] for path in chosen)
    return Quantization(file, tuple(chosen), share, len(used), len(held), agreement, failed)


def run(network: Network, image: BGRImage) -> Any:
    """One image through the network, pre-processed as it is when it is read: the `Line`, map or `Direction`."""
    config = network.config
    if config.task == "rec":
        return Recognizer(network, config)([image])[0]
    if config.task == "cls":
        return Classifier(network, config)([image])[0]
    return Detector(network, config).map(image)[0]


def compare(network: Network, quantized: Network, images: Sequence[BGRImage]) -> Agreement:
    """How far both agree on the same images."""
    pairs = [(run(network, image), run(quantized, image)) for image in images]
    if isinstance(network.config.postprocess, DBPostprocess):
        thresh = network.config.postprocess.thresh
        masks = [(a > thresh, b > thresh) for a, b in pairs]
        same, total = (sum(int(f(a, b).sum()) for a, b in masks) for f in (np.logical_and, np.logical_or))
        return Agreement("pixels of text", same, total, max(float(np.abs(a - b).max()) for a, b in pairs))
    largest = max(abs(a.score - b.score) for a, b in pairs)
    if network.config.task == "cls":
        return Agreement("lines turned the same way", sum(a.label == b.label for a, b in pairs), len(pairs), largest)
    return Agreement("lines with the same text", sum(a.text == b.text for a, b in pairs), len(pairs), largest)


def quantized_convolution(network: Network, path: str, rows: Tensor) -> dict[str, Tensor]:
    """The tensors of a `QuantizedConv2d` in place of the convolution at `path`.

    rows: float32 (n, I * h * w), inputs under the kernel at n places, in no order; those of one place in the order of
    the weights' last three axes.
    """
    conv = network.get_submodule(path)
    assert isinstance(conv, FoldedConv2d)
    area = conv.kernel_size[0] * conv.kernel_size[1]
    weight = conv.weight.flatten(1).double()
    scale, zero_point = _input_scale(rows, area)
    each = scale.repeat_interleave(area)
    integers = _nearest_input(rows, each, zero_point).double()
    rounded, weight_scale = _round_weights(weight * each, integers)
    assert conv.bias is not None
    # What rounding adds to the output on average is taken off.
    error = (rows.double() @ weight.T - integers @ (rounded * weight_scale[:, None]).T).mean(0)
    return {
        "weight": rounded.to(torch.int8).view(conv.weight.shape),
        "weight_scale": weight_scale.float(),
        "bias": (conv.bias.double() + error).float(),
        "input_scale": scale.float(),
        "input_zero_point": torch.tensor(zero_point, dtype=torch.int32),
    }


def _input_scale(rows: Tensor, area: int) -> tuple[Tensor, int]:
    """Steps of the input channels, float32 (I,), and the integer that means zero."""
    largest = rows.view(len(rows), -1, area).abs().amax((0, 2))
    balance = largest.clamp_min(1e-3) ** BALANCE
    # The rows are in no order: the first are as good as any.
    values = (rows[: max(1, VALUES // rows.shape[1])] / balance.repeat_interleave(area)).flatten()
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    best, step, zero_point = float("inf"), 1.0, 0
    # What is cut off at the top costs less than coarse steps for all else.
    for kept in np.linspace(0.2, 1, 41):
        tried = (kept * high - low) / LEVELS
        zero = min(round(-low / tried), LEVELS)
        stood_for = _nearest_input(values, tried, zero) * tried
        error = float((stood_for - values).square().mean())
        if error < best:
            best, step, zero_point = error, tried, zero
    return balance * step, zero_point


def _round_weights(weight: Tensor, integers: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and scales (O,) for weights float64 (O, K) of inputs (n, K): the outputs on those are kept (GPTQ)."""
    count = weight.shape[1]
    products = integers.T @ integers / len(integers)
    # At least something, for a convolution whose inputs are always zero.
    products += torch.eye(count, dtype=torch.float64) * products.diagonal().mean().clamp_min(1e-6) * DAMPING
    importance = products.diagonal()
    order = importance.argsort(descending=True)
    scale = _weight_scale(weight, importance)
    left = weight[:, order].clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    result = torch.empty_like(left)
    for index in range(count):
        column = left[:, index]
        result[:, index] = _nearest_weight(column, scale)
        error = (column - result[:, index] * scale) / factor[index, index]
        left[:, index:] -= torch.outer(error, factor[index, index:])
    return result[:, order.argsort()], scale


def _weight_scale(weight: Tensor, importance: Tensor) -> Tensor:
    """The scale of each output's weights that makes the error of rounding least, float64 (O,)."""
    largest = weight.abs().amax(1).clamp_min(1e-12) / WEIGHT_LIMIT
    best, found = torch.full_like(largest, float("inf")), largest
    for kept in np.linspace(0.6, 1, 21):
        scale = (largest * kept)[:, None]
        stood_for = _nearest_weight(weight, scale) * scale
        error = ((stood_for - weight).square() * importance).sum(1)
        found = torch.where(error < best, largest * kept, found)
        best = torch.minimum(error, best)
    return found


def _nearest_input(values: Tensor, step: Tensor | float, zero_point: int) -> Tensor:
    """The integers of quantized inputs, less the zero point."""
    return torch.floor(values / step + zero_point + 0.5).clamp(0, LEVELS) - zero_point


def _nearest_weight(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)


def _can_be(network: Network, path: str) -> bool:
    conv = network.get_submodule(path)
    return isinstance(conv, FoldedConv2d) and can_be_quantized(conv) and conv.in_channels >= CHANNELS_AT_LEAST


def _shares(network: Network, image: BGRImage) -> dict[str, float]:
    """The share of each folded convolution in the multiply-adds of all, in the order in which they run."""
    counts: dict[str, int] = {}

    def count(path: str, conv: FoldedConv2d, output: Tensor) -> None:
        counts[path] = counts.get(path, 0) + output[:, 0].numel() * conv.weight.numel()

    with watching(network, lambda path, conv, _, output: count(path, conv, output)):
        run(network, image)
    total = sum(counts.values())
    return {path: value / total for path, value in counts.items()}


def _group_paths(network: Network, paths: Sequence[str]) -> Iterator[list[str]]:
    """The paths in groups whose samples fit into memory together."""
    group: list[str] = []
    values = 0
    for path in paths:
        size = ROWS * network.get_parameter(f"{path}.weight")[0].numel()
        if group and values + size > SAMPLES_AT_MOST:
            yield group
            group, values = [], 0
        group.append(path)
        values += size
    yield group


def _sample_inputs(network: Network, paths: Sequence[str], images: Sequence[BGRImage]) -> dict[str, Tensor]:
    """What convolutions see under their kernel, at `ROWS` places of all images, in no order: float32 (n, I * h * w)."""
    rows: dict[str, list[Tensor]] = {path: [] for path in paths}
    # Of its own for each, so that what is sampled does not depend on what is measured in the same round.
    places = {path: np.random.default_rng(0) for path in paths}
    each = -(-ROWS // len(images))

    def sample(path: str, conv: FoldedConv2d, x: Tensor, output: Tensor) -> None:
        if path in rows:
            rows[path].append(_rows(conv, x, output, places[path], each))

    with watching(network, sample):
        for image in images:
            run(network, image)
    return {path: _shuffle(torch.cat(found), places[path]) for path, found in rows.items()}


def _shuffle(rows: Tensor, by: np.random.Generator) -> Tensor:
    return rows[torch.from_numpy(by.permutation(len(rows)))]


def _rows(conv: FoldedConv2d, x: Tensor, output: Tensor, places: np.random.Generator, count: int) -> Tensor:
    """The inputs under the kernel at random places of the output."""
    images, _, height, width = output.shape
    chosen = torch.from_numpy(places.integers(0, images * height * width, min(count, images * height * width)))
    image, y, x0 = chosen // (height * width), chosen // width % height, chosen % width
    (pad_y, pad_x), (stride_y, stride_x), (step_y, step_x) = conv.geometry[:3]
    padded = F.pad(x, (pad_x, pad_x, pad_y, pad_y))
    under = [
        padded[image, :, y * stride_y + i * step_y, x0 * stride_x + j * step_x]
        for i in range(conv.kernel_size[0])
        for j in range(conv.kernel_size[1])
    ]
    return torch.stack(under, dim=2).flatten(1).clone()
