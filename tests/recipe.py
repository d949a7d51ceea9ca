"""Weights and images for tests, the same on every machine, so that none need be stored.

A weight follows from its Paddle name and shape. Values come from the generator's raw bits, which NumPy never changes,
and from correctly rounded arithmetic alone. They hide nothing: no gain is 1, no square matrix symmetric, the embedding
of padding is not zero, and what a normalisation divides by is small enough for its epsilon to be seen. The statistics
of batch normalisations are no weights: the goldens hold those that belong to these.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Mapping

import numpy as np

# Standard deviation of what a batch normalisation normalises, and of what a layer normalisation does: variances of
# order one would hide an epsilon of 1e-5.
BEFORE_BATCH_NORM = 0.25
BEFORE_LAYER_NORM = 0.02
# By the name: how much a tensor differs from the one that would keep its layer at order one.
GAINS = tuple(
    (re.compile(pattern), gain)
    for pattern, gain in (
        # The 4 to 6 branches that PPLCNetV3 sums.
        (r"\.(conv_kxk|conv_1x1|identity)\.", 0.45),
        # The residual streams of the transformers start small, and what is added to them is smaller: the last symbol
        # still tells at their end.
        (r"encoder\.conv2\.norm\.|\.decoder\.\d+\.norm\d\.", BEFORE_LAYER_NORM),
        (r"\.(mixer\.proj|mlp\.fc2|out_proj)\.", 0.3 * BEFORE_LAYER_NORM),
        # These read the stream without a normalisation between. The first self-attention reads embeddings instead.
        (r"\.decoder\.([1-9]\d*\.self_attn\.qkv|\d+\.cross_attn\.q)\.weight", 1 / BEFORE_LAYER_NORM),
        (r"\.decoder\.\d+\.mlp\.fc1\.weight|\.tgt_word_prj\.weight", 1 / BEFORE_LAYER_NORM),
        # A mean over an image hardly tells one from another.
        (r"^fc\.weight", 8.0),
        # SVTRv2 normalises after each sum: its stream is as small, but at the end of the network.
        (r"^backbone\.stages\.\d+\.(blocks\.\d+|downsample)\.norm\d?\.", BEFORE_LAYER_NORM),
        (r"^backbone\.stages\.2\.blocks\.5\.norm2\.", 1 / BEFORE_LAYER_NORM),
        (r"^backbone\.stages\.\d+\.(.+\.mixer|downsample\.conv)\.bias", BEFORE_LAYER_NORM),
        (r"^backbone\.stages\.\d+\..+\.(mixer\.qkv|mlp\.fc1)\.weight", 1 / BEFORE_LAYER_NORM),
        # What moves pixels by much magnifies every rounding: the images are noise.
        (r"\.conv_offset\.weight", 0.03),
        (r"^transform\..+fc2\.weight", 0.01),
        # Beside the stream of SVTRNet its branches are no smaller than beside others.
        (r"^backbone\.blocks[123]\.\d+\.(mixer\.proj|mlp\.fc2)\.", 1 / BEFORE_LAYER_NORM),
    )
)


# Points along the two edges of a text, which a spline runs through: a spatial transformer's last bias.
FRAME = re.compile(r"^transform\.(loc_net\.fc2|stn_head\.stn_fc2)\.bias")


def frame(points: int, low: float, high: float) -> np.ndarray:
    """float32 (2 * points,): (x, y) of points from the left to the right, along the top and then along the bottom."""
    x = np.linspace(low, high, points // 2)
    rows = [np.stack([x, np.full_like(x, y)], axis=1) for y in (low, high)]
    return np.concatenate(rows).astype(np.float32).reshape(-1)


def uniform(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """float32 in [low, high), seeded by the name."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return (low + unit * (high - low)).astype(np.float32).reshape(shape)


def image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """A batch of normalised images, float32 (N, C, H, W) in [-1, 1): blocks of 8x8 pixels of one colour, with noise."""
    n, channels, height, width = shape
    blocks = uniform(name, (n, channels, -(-height // 8), -(-width // 8)), -0.75, 0.75)
    blocks = blocks.repeat(8, axis=2).repeat(8, axis=3)[:, :, :height, :width]
    return blocks + uniform(f"{name}.noise", shape, -0.25, 0.25)


def smooth_image(name: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """The same without blocks and noise: triangle waves, for networks that take pixels from places between pixels.

    Where those are is known to 1e-5 of the width: Paddle inverts a spline's matrix in float32.
    """
    n, channels, height, width = shape
    waves = uniform(f"{name}.waves", (4, n, channels, 3, 1, 1), 0, 1).astype(np.float64)
    y, x = np.arange(height)[:, None] * 4 / width, np.arange(width)[None, :] * 4 / width
    place = waves[0] * x + waves[1] * y + waves[2]
    return ((0.5 + waves[3]) * (np.abs(place - np.floor(place) - 0.5) * 4 - 1)).sum(axis=2).astype(np.float32) / 3


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 weight of Paddle's name, in Paddle's layout: the weight of a linear layer is [in, out]."""
    if FRAME.search(name):
        return frame(shape[0] // 2, 0.05 if ".stn_head." in name else -0.9, 0.95 if ".stn_head." in name else 0.9)
    if name.endswith("pos_embed"):  # as large as what it is added to
        return uniform(name, shape, -0.3, 0.3)
    gain = math.prod(gain for pattern, gain in GAINS if pattern.search(name))
    if len(shape) == 1:
        low, high = (0.7, 1.3) if name.endswith((".weight", ".scale")) else (-0.3, 0.3)
        return uniform(name, shape, low * gain, high * gain)
    linear = len(shape) == 2 and ".embedding." not in name
    fan_in = shape[0] if linear else math.prod(shape[1:])
    if name.endswith(".conv.weight"):
        gain *= BEFORE_BATCH_NORM
    limit = gain * math.sqrt(3 / fan_in)
    return uniform(name, shape, -limit, limit)


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over names and values, in the order of the names."""
    sha256 = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(values).tobytes())
    return sha256.hexdigest()
