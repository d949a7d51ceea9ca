"""Tiny programs, one for each operation and unusual attribute, exported and run by Paddle.

    python tests/tiny_programs.py FOLDER [THEME…]

Run in a process of its own (it imports paddle). Each case becomes a folder with `inference.json`, `.pdiparams` where it
has parameters, and `io.npz`: `in:NAME` each input, `out:INDEX` what Paddle computes with plain kernels. With PIR=0 in
the environment the programs are of the legacy format.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rare_programs
from rare_programs import Case, b, i, r


def cases(P: Any, F: Any) -> dict[str, list[Case]]:  # noqa: N803
    """Themes, each a list of (name, function, inputs)."""
    x4 = r(2, 4, 7, 9)
    x3 = r(2, 6, 5)
    x2 = r(3, 5)
    return {
        "arithmetic": [
            (
                "binary",
                lambda x, y: (x + y, x - y, x * y, x / y, x**2.0, P.maximum(x, y), P.minimum(x, y)),
                (r(2, 3, 4), r(3, 1, seed=1)),
            ),
            (
                "binary_int",
                lambda x, y: (x + y, x - y, x * y, x // y, x % y, P.floor_divide(x, y)),
                (i(3, 4, low=-9, high=9), i(3, 4, low=1, high=5, seed=1)),
            ),
            (
                "floor_negative",
                lambda x, y: (P.floor_divide(x, y), P.remainder(x, y)),
                (i(3, 4, low=-9, high=9, dtype="int32"), i(3, 4, low=-5, high=-1, dtype="int32", seed=1)),
            ),
            (
                "float_mod",
                lambda x, y: (P.remainder(x, y), P.floor_divide(x, y)),
                (r(3, 4, low=-9, high=9), r(3, 4, low=1, high=3)),
            ),
            ("scalars", lambda x: (x * 2 + 1, 3 - x, 1 / (x + 5), x**3, 2**x, -x), (x2,)),
            (
                "scale_int",
                lambda x: (P.scale(x, 2.7, 1.9), P.scale(x, 3, 1, bias_after_scale=False), x * 2),
                (i(3, 4),),
            ),
            ("compare", lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y), (i(3, 4), i(3, 4, seed=1))),
            (
                "logic",
                lambda x, y: (P.logical_and(x, y), P.logical_or(x, y), P.logical_xor(x, y), P.logical_not(x)),
                (b(3, 4), b(4)),
            ),
            ("bits", lambda x, y: (x & y, x | y, x ^ y, ~x), (i(3, 4, high=99), i(3, 4, high=99, seed=1))),
            (
                "round",
                lambda x: (P.round(x), P.floor(x), P.ceil(x), P.trunc(x), P.round(x * 0.5, decimals=1)),
                (np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, 3.3], np.float32),),
            ),
            ("clip", lambda x: (P.clip(x, -1, 1), P.clip(x, min=0.5), P.clip(x, max=0.2)), (x2,)),
            ("clip_int", lambda x: (P.clip(x, 1, 3), P.clip(x, min=2)), (i(3, 4),)),
            (
                "cast",
                lambda x: (P.cast(x, "int32"), P.cast(x, "int64"), P.cast(x, "bool"), P.cast(x, "float64")),
                (r(3, 4, low=-5, high=5),),
            ),
            (
                "unary",
                lambda x: (
                    P.exp(x),
                    P.expm1(x),
                    P.sin(x),
                    P.cos(x),
                    P.tan(x),
                    P.sinh(x),
                    P.cosh(x),
                    P.atan(x),
                    P.asinh(x),
                    P.erf(x),
                    P.square(x),
                    P.sign(x),
                    P.abs(x),
                ),
                (x2,),
            ),
            (
                "unary_positive",
                lambda x: (
                    P.log(x),
                    P.log2(x),
                    P.log10(x),
                    P.log1p(x),
                    P.sqrt(x),
                    P.rsqrt(x),
                    P.reciprocal(x),
                    P.lgamma(x),
                    P.digamma(x),
                    P.acosh(x + 1),
                ),
                (r(3, 4, low=0.1, high=3),),
            ),
            (
                "unary_unit",
                lambda x: (P.acos(x), P.asin(x), P.atanh(x), P.erfinv(x), P.logit(P.abs(x), 0.1)),
                (r(3, 4, low=-0.9, high=0.9),),
            ),
            ("pow_int", lambda x: (P.pow(x, 2), x**3), (i(3, 4),)),
            ("pow_tensor", lambda x, y: P.pow(x, y), (r(3, 4, low=0.2, high=2), r(4))),
            (
                "finite",
                lambda x: (P.isnan(x), P.isinf(x), P.isfinite(x), P.nan_to_num(x)),
                (np.array([1, np.nan, np.inf, -np.inf], np.float32),),
            ),
            (
                "where",
                lambda c, x, y: (P.where(c, x, y), P.where(c, x, P.zeros_like(x))),
                (b(3, 4), r(3, 4), r(3, 4, seed=1)),
            ),
            ("add_n", lambda x, y: P.add_n([x, y, x]), (r(3, 4), r(3, 4, seed=1))),
            (
                "lerp",
                lambda x, y: (P.lerp(x, y, 0.3), P.fmax(x, y), P.fmin(x, y), P.atan2(x, y), P.heaviside(x, y)),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            ("close", lambda x, y: (P.isclose(x, y), P.allclose(x, y), P.equal_all(x, x)), (r(3, 4), r(3, 4))),
            ("mixed", lambda x, n: (x * n.astype("float32"), n + 1, x + P.full([], 2, "float32")), (x2, i(3, 5))),
            (
                "complex",
                lambda x: (P.abs(P.complex(x, x)), P.real(P.complex(x, x + 1)), P.as_real(P.complex(x, x))),
                (x2,),
            ),
        ],
        "activation": [
            (
                "simple",
                lambda x: (
                    F.relu(x),
                    F.relu6(x * 4),
                    F.sigmoid(x),
                    P.tanh(x),
                    F.silu(x),
                    F.swish(x),
                    F.mish(x),
                    F.softsign(x),
                    F.tanhshrink(x),
                    F.log_sigmoid(x),
                ),
                (x4,),
            ),
            ("gelu", lambda x: (F.gelu(x), F.gelu(x, approximate=True)), (x4,)),
            (
                "hard",
                lambda x: (
                    F.hardswish(x * 3),
                    F.hardsigmoid(x * 3),
                    F.hardsigmoid(x, slope=0.2, offset=0.4),
                    F.hardtanh(x, -0.5, 0.7),
                    F.hardshrink(x, 0.4),
                    F.softshrink(x, 0.3),
                ),
                (x4,),
            ),
            (
                "units",
                lambda x: (
                    F.elu(x, 0.7),
                    F.selu(x),
                    F.celu(x, 1.3),
                    F.leaky_relu(x, 0.3),
                    F.thresholded_relu(x, 0.6),
                    F.softplus(x, 2.0, 1.5),
                ),
                (x4,),
            ),
            (
                "softmax",
                lambda x: (
                    F.softmax(x, 1),
                    F.softmax(x, -1),
                    F.log_softmax(x, 2),
                    P.logsumexp(x, axis=[1, 2]),
                    F.softmax(x, axis=0),
                ),
                (x4,),
            ),
            ("maxout_glu", lambda x: (F.maxout(x, 2), F.maxout(x, 2, axis=1), F.glu(x, axis=1)), (x4,)),
            (
                "stanh",
                lambda x: (
                    P.stanh(x, 0.5, 1.2),
                    F.dropout(x, 0.4, training=False),
                    F.dropout(x, 0.4, training=False, mode="downscale_in_infer"),
                ),
                (x4,),
            ),
            (
                "prelu",
                lambda x: (
                    F.prelu(x, P.full([1], 0.2)),
                    F.prelu(x, P.arange(4, dtype="float32") * 0.1),
                    F.prelu(P.transpose(x, [0, 2, 3, 1]), P.arange(4, dtype="float32") * 0.1, data_format="NHWC"),
                ),
                (x4,),
            ),
            (
                "normalize",
                lambda x: (
                    F.normalize(x),
                    F.normalize(x, p=1, axis=2),
                    P.norm(x),
                    P.norm(x, p=1, axis=1),
                    P.norm(x, p=float("inf"), axis=[1], keepdim=True),
                    P.norm(x, p=2, axis=[2, 3]),
                    P.norm(x, p=3.5, axis=-1),
                    P.norm(x, p=0, axis=1),
                ),
                (x4,),
            ),
            (
                "layer_norms",
                lambda x: (
                    F.layer_norm(x, [7, 9]),
                    F.layer_norm(x, [9], P.ones([9]) * 2, P.ones([9])),
                    F.instance_norm(x),
                    F.local_response_norm(x, 3),
                    F.local_response_norm(x, 4),
                ),
                (x4,),
            ),
            (
                "group_norm",
                lambda x: (F.group_norm(x, 2), F.group_norm(P.transpose(x, [0, 2, 3, 1]), 2, data_format="NHWC")),
                (x4,),
            ),
        ],
        "shape": [
            (
                "reshape",
                lambda x: (P.reshape(x, [0, -1]), P.reshape(x, [-1, 0, 3]), P.flatten(x, 1, 2), P.flatten(x)),
                (r(2, 3, 6),),
            ),
            (
                "reshape_computed",
                lambda x: (
                    P.reshape(x, [P.shape(x)[0] * P.shape(x)[1], -1]),
                    P.reshape(
                        x,
                        P.concat(
                            [P.shape(x)[:1], P.full([1], -1, "int64" if P.shape(x).dtype == P.int64 else "int32")]
                        ),
                    ),
                ),
                (r(2, 3, 6),),
            ),
            (
                "squeeze",
                lambda x: (
                    P.squeeze(x),
                    P.squeeze(x, 1),
                    P.squeeze(x, [1, -1]),
                    P.squeeze(x, 0),
                    P.unsqueeze(x, [0, 2]),
                    P.unsqueeze(x, -1),
                ),
                (r(2, 1, 3, 1),),
            ),
            (
                "transpose",
                lambda x: (
                    P.transpose(x, [2, 0, 1]),
                    P.moveaxis(x, 0, -1),
                    x.t() if len(x.shape) == 2 else P.swapaxes(x, 1, 2),
                ),
                (x3,),
            ),
            (
                "concat",
                lambda x, y: (P.concat([x, y], 1), P.concat([x, x], -1), P.stack([x, x], 0), P.stack([x, x * 2], -1)),
                (r(2, 3, 4), r(2, 5, 4)),
            ),
            (
                "split",
                lambda x: (
                    *P.split(x, 3, 1),
                    *P.split(x, [1, 2, -1], 1),
                    *P.split(x, [2, 4], axis=-2),
                    *P.unbind(x, 2),
                    *P.chunk(x, 2, 1),
                ),
                (r(2, 6, 3),),
            ),
            (
                "tile",
                lambda x: (
                    P.tile(x, [2, 1]),
                    P.tile(x, [2, 1, 3]),
                    P.expand(x.unsqueeze(0), [4, -1, -1]),
                    P.broadcast_to(x, [2, 3, 5]),
                    P.expand_as(x[:1], x),
                ),
                (x2,),
            ),
            (
                "flip",
                lambda x: (
                    P.flip(x, [1]),
                    P.flip(x, [0, -1]),
                    P.roll(x, 2),
                    P.roll(x, [1, -2], [0, 1]),
                    P.rot90(x, 1, [0, 1]),
                ),
                (r(3, 4, 5),),
            ),
            (
                "repeat",
                lambda x, n: (P.repeat_interleave(x, 3, 1), P.repeat_interleave(x, n, 0)),
                (x2, i(3, low=0, high=4)),
            ),
            (
                "pads",
                lambda x: (
                    F.pad(x, [1, 2, 3, 0]),
                    F.pad(x, [1, 2, 3, 0], mode="reflect"),
                    F.pad(x, [1, 2, 3, 1], mode="replicate"),
                    F.pad(x, [2, 1, 3, 1], mode="circular"),
                    F.pad(x, [1, 0, 2, 0, 0, 3, 0, 1], value=2.5),
                    F.pad(x, [1, 1, 1, 1], value=-1.0, data_format="NHWC"),
                ),
                (x4,),
            ),
            (
                "pads_1d_3d",
                lambda x: (
                    F.pad(x, [1, 2], mode="reflect", data_format="NCL"),
                    F.pad(x.unsqueeze(2).unsqueeze(2), [1, 0, 2, 1, 1, 1], value=0.5, data_format="NCDHW"),
                ),
                (x3,),
            ),
            ("unfold", lambda x: (F.unfold(x, 3, 2, 1), F.unfold(x, [2, 3], 1, [1, 0, 2, 1], [2, 1])), (x4,)),
            (
                "fold",
                lambda x: (
                    F.fold(x, [5, 6], [2, 2]),
                    F.fold(x, [9, 10], [3, 3], 2, [1, 1], 1)
                    if x.shape[-1] == 25
                    else F.fold(x, [4, 5], [2, 2], 1, [1, 0]),
                ),
                (r(2, 12, 20),),
            ),
            (
                "shuffles",
                lambda x: (
                    F.pixel_shuffle(x, 2),
                    F.channel_shuffle(x, 2),
                    F.pixel_unshuffle(x[:, :, :6, :8], 2),
                    F.pixel_shuffle(P.transpose(x, [0, 2, 3, 1]), 2, "NHWC"),
                ),
                (x4,),
            ),
            ("temporal", lambda x: F.temporal_shift(x, 2, 0.25), (r(4, 8, 3, 3),)),
            (
                "triangles",
                lambda x: (
                    P.tril(x),
                    P.triu(x, 1),
                    P.tril(x, -1),
                    P.diag(x[:, 0]),
                    P.diagonal(x, 1),
                    P.diag_embed(x),
                    P.trace(x),
                ),
                (r(4, 4),),
            ),
            ("crop", lambda x: P.crop(x, [2, 2, -1], [0, 1, 2]), (r(2, 4, 5),)),
            ("meshgrid", lambda x, y: P.meshgrid(x, y), (r(3), r(4))),
            (
                "shapes",
                lambda x: (
                    P.shape(x),
                    P.numel(x),
                    P.zeros([P.shape(x)[0], 3]),
                    P.ones_like(x),
                    P.full([2, P.shape(x)[1]], 1.5),
                    P.arange(P.shape(x)[1]),
                ),
                (x2,),
            ),
            (
                "arange",
                lambda x: (
                    P.arange(2, 11, 3),
                    P.arange(5, 0, -1.5),
                    P.linspace(0, 1, 7),
                    P.eye(3, 4),
                    P.tril_indices(4, 3, 1),
                    x,
                ),
                (x2,),
            ),
            ("unstack", lambda x: (*P.unstack(x, 1), P.kron(x, x)), (r(2, 3),)),
        ],
        "indexing": [
            (
                "slices",
                lambda x: (
                    x[1:],
                    x[:, -3:],
                    x[..., ::2],
                    x[:, 1],
                    x[-1],
                    x[0, :, 2],
                    x[:, ::-1],
                    x[:, -1:-4:-1],
                    x[:, 4:1:-2],
                    x[None, :, 1:3],
                    x[5:],
                    x[:, -100:100],
                ),
                (r(4, 6, 5),),
            ),
            (
                "slices_dynamic",
                lambda x, n: (x[: P.shape(x)[0] - 1], x[:, P.shape(x)[1] // 2 :], x[n[0] : n[1]]),
                (r(4, 6, 5), np.array([1, 3], np.int64)),
            ),
            ("set_value", _assign, (r(4, 6, 5),)),
            ("set_tensor", _assign_tensor, (r(4, 6, 5), r(2, 6, 5))),
            (
                "gathers",
                lambda x, n: (
                    P.gather(x, n),
                    P.gather(x, n, axis=1),
                    P.index_select(x, n, 1),
                    P.take_along_axis(x, n.unsqueeze(1), 1),
                    x[n],
                    P.gather(x, n[0]),
                ),
                (r(5, 5, 3)[:, :, 0], i(5, high=5)),
            ),
            (
                "gather_nd",
                lambda x, n: (P.gather_nd(x, n), P.gather_nd(x, n[:, :1]), P.index_sample(x.reshape([4, 15]), n)),
                (r(4, 3, 5), i(4, 2, high=3)),
            ),
            (
                "scatters",
                lambda x, n, u: (
                    P.scatter(x, n, u),
                    P.scatter(x, n, u, overwrite=False),
                    P.scatter_nd_add(x, n.unsqueeze(1), u),
                    P.index_add(x, n, 0, u),
                ),
                (r(5, 4), np.array([3, 1, 0], np.int64), r(3, 4)),
            ),
            (
                "put",
                lambda x, n, u: (
                    P.put_along_axis(x, n, u, 0),
                    P.put_along_axis(x, n, u, 1, "add"),
                    P.put_along_axis(x, n, u, 0, "multiply"),
                    P.put_along_axis(x, n, u, 0, "amax", include_self=False),
                ),
                (r(4, 4), np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.int64), r(2, 4)),
            ),
            (
                "index_put",
                lambda x, n, u: (
                    P.index_put(x, (n,), u),
                    P.index_put(x, (n, n), u[:, 0], accumulate=True),
                    P.index_fill(x, n, 0, 1.5),
                ),
                (r(5, 4), np.array([3, 1, 0], np.int64), r(3, 4)),
            ),
            (
                "masks",
                lambda x, m: (P.masked_select(x, m), P.nonzero(m), P.masked_fill(x, m, 3.0), P.where(m)[0]),
                (x2, b(3, 5)),
            ),
            ("one_hot", lambda n: (F.one_hot(n, 6), F.one_hot(n.unsqueeze(-1), 6)), (i(3, 4),)),
            (
                "embedding",
                lambda n, w: (F.embedding(n, w), F.embedding(n, w, padding_idx=2), F.embedding(n, w, padding_idx=-1)),
                (i(3, 4), r(5, 6)),
            ),
            ("sequence_mask", lambda n: (F.sequence_mask(n, 6), F.sequence_mask(n, 4, "float32")), (i(3),)),
            (
                "multiplex",
                lambda x, y, n: P.multiplex([x, y], n),
                (r(3, 4), r(3, 4, seed=1), np.array([[1], [0], [1]], np.int32)),
            ),
        ],
        "reduction": [
            (
                "sums",
                lambda x: (
                    P.sum(x),
                    P.sum(x, 1),
                    P.sum(x, [0, -1], keepdim=True),
                    P.mean(x),
                    P.mean(x, [1, 2]),
                    P.max(x, 1),
                    P.min(x),
                    P.amax(x, [0, 2]),
                    P.amin(x, 1, keepdim=True),
                    P.prod(x, 1),
                ),
                (x3,),
            ),
            (
                "sums_int",
                lambda x: (P.sum(x), P.sum(x, 1), P.max(x, 0), P.prod(x, 0), P.mean(x.astype("float32"))),
                (i(3, 4, dtype="int32"),),
            ),
            (
                "sums_bool",
                lambda x: (P.sum(x), P.sum(x, 0), P.all(x), P.any(x, 1), P.all(x, 0, keepdim=True)),
                (b(3, 4),),
            ),
            (
                "stats",
                lambda x: (
                    P.std(x),
                    P.var(x, 1),
                    P.std(x, [0, 1], unbiased=False),
                    P.median(x, 1),
                    P.logsumexp(x),
                    P.norm(x, axis=1),
                ),
                (x3,),
            ),
            (
                "arg",
                lambda x: (P.argmax(x), P.argmax(x, 1), P.argmin(x, -1, keepdim=True), P.argmax(x, 0, dtype="int32")),
                (x3,),
            ),
            (
                "running",
                lambda x: (
                    P.cumsum(x),
                    P.cumsum(x, 1),
                    P.cumprod(x, 1),
                    P.logcumsumexp(x, 1),
                    *P.cummax(x, 1),
                    *P.cummin(x, -1),
                ),
                (x3,),
            ),
            ("running_int", lambda x: (P.cumsum(x, 0), P.cumsum(x.astype("int32"), 1)), (i(3, 4),)),
        ],
        "sorting": [
            (
                "sort",
                lambda x: (
                    P.sort(x, 1),
                    P.argsort(x, -1),
                    P.argsort(x, 0, descending=True),
                    P.sort(x, descending=True),
                ),
                (r(5, 6),),
            ),
            ("topk", lambda x: (*P.topk(x, 3), *P.topk(x, 2, 0), *P.topk(x, 2, 1, largest=False)), (r(5, 6),)),
            ("kth", lambda x: (*P.kthvalue(x, 2, 1), *P.mode(P.round(x), 1)), (r(5, 6),)),
            ("unique", lambda n: P.unique(n, return_index=True, return_inverse=True, return_counts=True), (i(12),)),
            (
                "unique_consecutive",
                lambda n: P.unique_consecutive(n, return_inverse=True, return_counts=True),
                (i(12, high=3),),
            ),
            (
                "search",
                lambda x, v: (
                    P.searchsorted(P.sort(x), v),
                    P.searchsorted(P.sort(x), v, right=True, out_int32=True),
                    P.bucketize(v, P.sort(x)),
                ),
                (r(7), r(3, 4)),
            ),
            ("counts", lambda n, w: (P.bincount(n), P.bincount(n, w, 8)), (i(9), r(9))),
            ("histogram", lambda x: P.histogram(x, 5, -1.0, 1.0), (r(30),)),
        ],
        "convolution": [
            (
                "same",
                lambda x, w: (
                    F.conv2d(x, w, padding="SAME"),
                    F.conv2d(x, w, stride=2, padding="SAME"),
                    F.conv2d(x, w, stride=[3, 2], padding="SAME", dilation=2),
                    F.conv2d(x, w, padding="VALID", stride=2),
                ),
                (x4, r(5, 4, 3, 3)),
            ),
            (
                "uneven",
                lambda x, w: (
                    F.conv2d(x, w, padding=[1, 0, 2, 1]),
                    F.conv2d(x, w, padding=[[0, 0], [0, 0], [2, 1], [0, 1]]),
                    F.conv2d(x, w, padding=[2, 1], dilation=[1, 2]),
                ),
                (x4, r(5, 4, 3, 2)),
            ),
            (
                "layout",
                lambda x, w: F.conv2d(P.transpose(x, [0, 2, 3, 1]), w, padding=1, data_format="NHWC"),
                (x4, r(5, 4, 3, 3)),
            ),
            (
                "groups",
                lambda x, w, v: (
                    F.conv2d(x, w, groups=2, padding=1),
                    F.conv2d(x, v, groups=4, stride=2),
                    F.conv2d(x, v, groups=4, padding="SAME"),
                ),
                (x4, r(6, 2, 3, 3), r(4, 1, 3, 3)),
            ),
            (
                "conv1d",
                lambda x, w: (
                    F.conv1d(x, w, padding=1),
                    F.conv1d(x, w, stride=2, padding="SAME"),
                    F.conv1d(P.transpose(x, [0, 2, 1]), w, data_format="NLC"),
                ),
                (x3, r(4, 6, 3)),
            ),
            (
                "conv3d",
                lambda x, w: (
                    F.conv3d(x, w, padding=1),
                    F.conv3d(x, w, padding=[1, 0, 1, 1, 0, 2], stride=[1, 2, 1]),
                    F.conv3d(x, w, padding="SAME", stride=2),
                ),
                (r(1, 2, 5, 6, 7), r(3, 2, 2, 3, 3)),
            ),
            (
                "transposed",
                lambda x, w: (
                    F.conv2d_transpose(x, w),
                    F.conv2d_transpose(x, w, stride=2, padding=1, output_padding=1),
                    F.conv2d_transpose(x, w, stride=2, padding=1, output_size=[14, 17]),
                    F.conv2d_transpose(x, w, stride=2, padding=[1, 0, 0, 1]),
                    F.conv2d_transpose(x, w, stride=2, padding="SAME"),
                    F.conv2d_transpose(x, w, stride=3, padding="VALID", dilation=2),
                ),
                (x4, r(4, 5, 3, 3)),
            ),
            (
                "transposed_groups",
                lambda x, w, v: (
                    F.conv2d_transpose(x, w, groups=2, stride=2),
                    F.conv2d_transpose(x, v, groups=4, stride=2, padding=1),
                ),
                (x4, r(4, 3, 3, 3), r(4, 1, 3, 3)),
            ),
            (
                "transposed_1d_3d",
                lambda x, w, y, v: (
                    F.conv1d_transpose(x, w, stride=2, padding=1, output_padding=1),
                    F.conv3d_transpose(y, v, stride=2, padding=1),
                ),
                (x3, r(6, 4, 3), r(1, 2, 3, 4, 4), r(2, 3, 3, 3, 3)),
            ),
            (
                "grids",
                lambda x, g: (
                    F.grid_sample(x, g),
                    F.grid_sample(x, g, align_corners=False),
                    F.grid_sample(x, g, mode="nearest", padding_mode="border"),
                    F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
                ),
                (x4, r(2, 5, 6, 2, low=-1.3, high=1.3)),
            ),
            (
                "affine",
                lambda t: (F.affine_grid(t, [2, 3, 4, 5]), F.affine_grid(t, [2, 3, 4, 5], align_corners=False)),
                (r(2, 2, 3),),
            ),
            (
                "deform",
                lambda x, o, w, m: (
                    P.vision.ops.deform_conv2d(x, o, w, padding=1),
                    P.vision.ops.deform_conv2d(x, o, w, padding=1, mask=m),
                ),
                (x4, r(2, 18, 7, 9), r(5, 4, 3, 3), r(2, 9, 7, 9, low=0, high=1)),
            ),
            (
                "deform_groups",
                lambda x, o, w, m: P.vision.ops.deform_conv2d(
                    x, o, w, stride=2, padding=1, dilation=2, deformable_groups=2, groups=2, mask=m
                ),
                (x4, r(2, 36, 3, 4), r(6, 2, 3, 3), r(2, 18, 3, 4, low=0, high=1)),
            ),
        ],
        "pooling": [
            (
                "max",
                lambda x: (
                    F.max_pool2d(x, 3, 2, 1),
                    F.max_pool2d(x, 2, 2, ceil_mode=True),
                    F.max_pool2d(x, [3, 2], [2, 1], padding=[1, 0, 0, 1]),
                    F.max_pool2d(x, 3, 2, "SAME"),
                    F.max_pool2d(x, 3, 2, "VALID"),
                    F.max_pool2d(P.transpose(x, [0, 2, 3, 1]), 3, 2, 1, data_format="NHWC"),
                ),
                (x4,),
            ),
            (
                "average",
                lambda x: (
                    F.avg_pool2d(x, 3, 2, 1),
                    F.avg_pool2d(x, 3, 2, 1, exclusive=False),
                    F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
                    F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, exclusive=False),
                    F.avg_pool2d(x, 2, 2, ceil_mode=True),
                    F.avg_pool2d(x, 3, 2, "SAME"),
                    F.avg_pool2d(x, 3, 2, "SAME", exclusive=False),
                    F.avg_pool2d(x, 3, 2, padding=[1, 0, 2, 1]),
                    F.avg_pool2d(x, 3, 1, 1, divisor_override=7),
                ),
                (x4,),
            ),
            (
                "adaptive",
                lambda x: (
                    F.adaptive_avg_pool2d(x, 1),
                    F.adaptive_avg_pool2d(x, [3, 4]),
                    F.adaptive_avg_pool2d(x, [None, 2]),
                    F.adaptive_max_pool2d(x, [3, 5]),
                    F.adaptive_avg_pool2d(x, 1, data_format="NCHW"),
                ),
                (x4,),
            ),
            (
                "pool1d",
                lambda x: (
                    F.max_pool1d(x, 2, 2),
                    F.avg_pool1d(x, 3, 2, 1),
                    F.adaptive_avg_pool1d(x, 3),
                    F.adaptive_max_pool1d(x, 2),
                ),
                (x3,),
            ),
            (
                "pool3d",
                lambda x: (
                    F.max_pool3d(x, 2, 2),
                    F.avg_pool3d(x, 3, 2, 1),
                    F.avg_pool3d(x, 2, 2, ceil_mode=True),
                    F.adaptive_avg_pool3d(x, 2),
                    F.adaptive_max_pool3d(x, [1, 2, 3]),
                ),
                (r(1, 2, 5, 6, 7),),
            ),
            (
                "indices",
                lambda x: (
                    *F.max_pool2d(x, 2, 2, return_mask=True),
                    *F.max_pool2d(x, 3, 2, 1, return_mask=True),
                    *F.adaptive_max_pool2d(x, 3, return_mask=True),
                ),
                (x4,),
            ),
            ("unpool", lambda x: _unpool(P, F, x), (r(2, 4, 6, 8),)),
            (
                "lp",
                lambda x: (F.lp_pool2d(x, 2.0, 2, 2), F.lp_pool2d(x, 3.0, 3, 2, 1, ceil_mode=True)),
                (r(2, 4, 7, 9, low=0.1),),
            ),
        ],
        "resizing": [
            (
                "to_one",
                lambda x: tuple(
                    F.interpolate(x, size, mode=mode, align_corners=corners)
                    for size in ([1, 1], [1, 4], [3, 1])
                    for mode, corners in (
                        ("bilinear", False),
                        ("bilinear", True),
                        ("bicubic", False),
                        ("nearest", False),
                    )
                ),
                (x4,),
            ),
            (
                "bilinear",
                lambda x: (
                    F.interpolate(x, [13, 11], mode="bilinear"),
                    F.interpolate(x, [13, 11], mode="bilinear", align_corners=True),
                    F.interpolate(x, [5, 6], mode="bilinear", align_mode=1),
                    F.interpolate(x, scale_factor=2, mode="bilinear"),
                    F.interpolate(x, scale_factor=[1.7, 0.6], mode="bilinear"),
                    F.interpolate(x, scale_factor=[1.7, 0.6], mode="bilinear", align_mode=1),
                ),
                (x4,),
            ),
            (
                "nearest",
                lambda x: (
                    F.interpolate(x, [13, 11], mode="nearest"),
                    F.interpolate(x, scale_factor=2, mode="nearest"),
                    F.interpolate(x, scale_factor=[1.7, 0.6], mode="nearest"),
                    F.interpolate(x, [3, 4], mode="nearest"),
                ),
                (x4,),
            ),
            (
                "bicubic",
                lambda x: (
                    F.interpolate(x, [13, 11], mode="bicubic"),
                    F.interpolate(x, [13, 11], mode="bicubic", align_corners=True),
                    F.interpolate(x, scale_factor=1.5, mode="bicubic"),
                ),
                (x4,),
            ),
            (
                "others",
                lambda x, y: (
                    F.interpolate(x, [8], mode="linear", data_format="NCW"),
                    F.interpolate(x, [8], mode="linear", align_corners=True, data_format="NCW"),
                    F.interpolate(y, [4, 7, 9], mode="trilinear", data_format="NCDHW"),
                    F.interpolate(y, [4, 7, 9], mode="nearest", data_format="NCDHW"),
                ),
                (x3, r(1, 2, 3, 4, 5)),
            ),
            (
                "layout",
                lambda x: (
                    F.interpolate(P.transpose(x, [0, 2, 3, 1]), [13, 11], mode="bilinear", data_format="NHWC"),
                    F.upsample(x, scale_factor=2, mode="nearest"),
                ),
                (x4,),
            ),
            (
                "computed",
                lambda x, y: (
                    F.interpolate(x, P.shape(y)[2:], mode="bilinear"),
                    F.interpolate(x, y.shape[2:], mode="nearest"),
                    F.interpolate(x, [P.shape(y)[2] * 2, P.shape(y)[3]], mode="bilinear"),
                ),
                (x4, r(2, 4, 11, 6)),
            ),
            ("area", lambda x: F.interpolate(x, [3, 4], mode="area"), (x4,)),
        ],
        "linear": [
            (
                "matmul",
                lambda x, y: (
                    P.matmul(x, y),
                    P.matmul(x, x, transpose_y=True),
                    P.matmul(x, x, transpose_x=True),
                    P.matmul(x[0], y[0]),
                    P.matmul(x, y[0, :, 0]),
                ),
                (r(2, 3, 4), r(2, 4, 5)),
            ),
            (
                "products",
                lambda x, y: (
                    P.bmm(x, y),
                    P.dot(x[0], x[0]),
                    P.mv(x[0], y[0, :, 0]),
                    P.addmm(P.ones([3, 5]), x[0], y[0], beta=0.5, alpha=2.0),
                    P.outer(x[0, 0], y[0, 0]),
                ),
                (r(2, 3, 4), r(2, 4, 5)),
            ),
            (
                "einsum",
                lambda x, y: (P.einsum("bij,bjk->bik", x, y), P.einsum("bij->bji", x), P.einsum("bij,bjk->b", x, y)),
                (r(2, 3, 4), r(2, 4, 5)),
            ),
            (
                "solvers",
                lambda x: (
                    P.inverse(x + 3 * P.eye(3)),
                    P.linalg.det(x),
                    P.cross(x, x + 1, axis=1),
                    P.linalg.matrix_power(x, 3),
                ),
                (r(3, 3),),
            ),
            ("dist", lambda x, y: (P.dist(x, y), P.dist(x, y, 1), P.cdist(x, y)), (r(3, 4), r(3, 4, seed=1))),
        ],
        "boxes": [
            ("nms", lambda s, x: P.vision.ops.nms(s, 0.4, x), (_boxes(20), r(20, low=0, high=1))),
            (
                "roi_align",
                lambda x, q, n: (
                    P.vision.ops.roi_align(x, q, n, 3, 0.5),
                    P.vision.ops.roi_align(x, q, n, (2, 4), 1.0, 2, False),
                    P.vision.ops.roi_align(x, q, n, 2, 1.0, -1, True),
                ),
                (r(2, 3, 12, 14), _boxes(7), np.array([3, 4], np.int32)),
            ),
            (
                "roi_pool",
                lambda x, q, n: P.vision.ops.roi_pool(x, q, n, 3, 1.0),
                (r(2, 3, 12, 14), _boxes(7), np.array([3, 4], np.int32)),
            ),
            (
                "yolo",
                lambda x, s: (
                    *P.vision.ops.yolo_box(x, s, [10, 13, 16, 30], 3, 0.3, 8),
                    *P.vision.ops.yolo_box(x[:, :16], s, [10, 13, 16, 30], 3, 0.01, 8, clip_bbox=False, scale_x_y=1.2),
                ),
                (r(2, 16, 4, 5), np.array([[64, 80], [50, 60]], np.int32)),
            ),
            (
                "yolo_iou",
                lambda x, s: P.vision.ops.yolo_box(
                    x, s, [10, 13, 16, 30], 3, 0.3, 8, iou_aware=True, iou_aware_factor=0.4
                ),
                (r(2, 18, 4, 5), np.array([[64, 80], [50, 60]], np.int32)),
            ),
            (
                "prior",
                lambda x, y: (
                    *P.vision.ops.prior_box(x, y, [4.0, 8.0], [6.0, 12.0], [2.0, 3.0], flip=True, clip=True),
                    *P.vision.ops.prior_box(
                        x, y, [4.0], [6.0], [2.0], steps=[4.0, 4.0], min_max_aspect_ratios_order=True
                    ),
                ),
                (r(1, 3, 4, 5), r(1, 3, 16, 20)),
            ),
            (
                "coder",
                lambda p, t, v: (
                    P.vision.ops.box_coder(p, [0.1, 0.1, 0.2, 0.2], t, "encode_center_size"),
                    P.vision.ops.box_coder(p, v, r3(P, t), "decode_center_size"),
                    P.vision.ops.box_coder(p, [0.1, 0.1, 0.2, 0.2], r3(P, t), "decode_center_size", False),
                    P.vision.ops.box_coder(t, [1.0, 1.0, 1.0, 1.0], r3(P, t), "decode_center_size", axis=1),
                ),
                (_boxes(5), _boxes(3, 1), r(5, 4, low=0.1, high=0.3)),
            ),
            (
                "matrix_nms",
                lambda q, s: P.vision.ops.matrix_nms(q, s, 0.1, 0.05, 20, 15, return_index=True),
                (_boxes(25)[None], r(1, 3, 25, low=0, high=1)),
            ),
            (
                "matrix_nms_gaussian",
                lambda q, s: P.vision.ops.matrix_nms(
                    q, s, 0.1, 0.2, -1, 10, use_gaussian=True, background_label=-1, return_index=True
                ),
                (_boxes(25)[None], r(1, 3, 25, low=0, high=1)),
            ),
            (
                "proposals",
                lambda s, d, z, a, v: P.vision.ops.generate_proposals(
                    s, d, z, a, v, 30, 10, 0.6, 2.0, 1.0, False, True
                ),
                (
                    r(2, 3, 4, 5),
                    r(2, 12, 4, 5, low=-0.3, high=0.3),
                    np.array([[16, 20], [15, 18]], np.float32),
                    _boxes(60).reshape(4, 5, 3, 4),
                    np.ones((4, 5, 3, 4), np.float32),
                ),
            ),
            ("distribute", lambda q, n: _distribute(P, q, n), (_boxes(9) * 20, np.array([4, 5], np.int32))),
        ],
        "networks": [
            ("convnet", _convnet(P), (r(2, 3, 16, 20),)),
            ("tokens", _tokens(P), (i(2, 6, high=11),)),
            ("decoder", _decoder(P), (r(2, 3, 4, 5),)),
            ("regions", _regions(P), (r(1, 4, 6, 7),)),
        ],
        "control": [
            ("while", _while, (r(2, 3), np.array(4, np.int64))),
            ("while_break", _while_break, (r(2, 3),)),
            ("if", _if, (r(2, 3),)),
            ("if_number", lambda x: P.static.nn.cond(P.shape(x)[0] > 1, lambda: x * 2, lambda: x - 1), (r(2, 3),)),
            ("nested", _nested, (r(2, 3), np.array(3, np.int64))),
            (
                "case",
                lambda x, n: P.static.nn.switch_case(n, {0: lambda: x + 1, 2: lambda: x * 3}, lambda: x),
                (r(2, 3), np.array(2, np.int32)),
            ),
        ],
    }


def _convnet(P: Any) -> Any:  # noqa: N803
    nn = P.nn

    class Block(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv = nn.Conv2D(inputs, outputs, 3, stride, padding="SAME", bias_attr=False)
            self.norm = nn.BatchNorm2D(outputs)

        def forward(self, x: Any) -> Any:
            return nn.functional.hardswish(self.norm(self.conv(x)))

    class Net(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(3, 4, 2), Block(4, 6, 1))
            self.shared = nn.Conv2D(6, 6, 1)
            self.up = nn.Conv2DTranspose(6, 4, 2, 2)
            self.drop = nn.Dropout(0.3)
            self.head = nn.Linear(6, 5)

        def forward(self, x: Any) -> Any:
            y = self.shared(self.shared(self.blocks(x)))
            flat = self.drop(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))
            large = nn.functional.interpolate(self.up(y), P.shape(x)[2:], mode="bilinear")
            return nn.functional.softmax(self.head(flat)), large

    return Net()


def _tokens(P: Any) -> Any:  # noqa: N803
    nn = P.nn

    class Net(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(11, 8, padding_idx=3)
            self.norm = nn.LayerNorm(8)
            self.qkv = nn.Linear(8, 24)
            self.out = nn.Linear(8, 8, bias_attr=False)
            self.lstm = nn.LSTM(8, 5, num_layers=2, direction="bidirect")
            self.gru = nn.GRU(10, 4)

        def forward(self, n: Any) -> Any:
            x = self.norm(self.words(n))
            batch, length = P.shape(n)[0], P.shape(n)[1]
            q, k, v = self.qkv(x).reshape([batch, length, 3, 2, 4]).transpose([2, 0, 3, 1, 4]).unbind(0)
            weights = nn.functional.softmax(P.matmul(q, k, transpose_y=True) * 0.5)
            x = x + self.out(P.matmul(weights, v).transpose([0, 2, 1, 3]).reshape([batch, length, 8]))
            y, (state, _) = self.lstm(x)
            z, _ = self.gru(y)
            return z, state

    return Net()


def _decoder(P: Any) -> Any:  # noqa: N803
    nn = P.nn

    class Net(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Linear(3, 6)
            self.cell = nn.GRUCell(7, 6)
            self.head = nn.Linear(6, 7)

        def forward(self, x: Any) -> Any:
            hidden = self.start(x.mean([2, 3]))
            batch = P.shape(x)[0]
            word = nn.functional.one_hot(P.zeros([batch], "int64"), 7)
            words = P.zeros([batch, 8], "int64")
            scores = P.zeros([batch, 8, 7])
            step = P.zeros([], "int64")
            while step < 8:
                _, hidden = self.cell(word, hidden)
                logits = self.head(hidden * 3)
                best = logits.argmax(1)
                words[:, step] = best
                scores[:, step] = logits
                word = nn.functional.one_hot(best, 7)
                step = step + 1
                if P.all(best == 2):
                    break
            return words, scores, step

    return Net()


def _regions(P: Any) -> Any:  # noqa: N803
    """A detector of two stages: regions of each image in turns, pooled; those that are sure, or one that says none."""
    nn, ops = P.nn, P.vision.ops

    class Net(nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.scores = nn.Conv2D(4, 3, 1)
            self.deltas = nn.Conv2D(4, 12, 1)
            self.head = nn.Linear(16, 2)
            self.anchors = _boxes(126).reshape(6, 7, 3, 4)

        def forward(self, x: Any) -> Any:
            scores, deltas = nn.functional.sigmoid(self.scores(x)), self.deltas(x) * 0.1
            anchors = P.to_tensor(self.anchors)
            spread, size = P.ones_like(anchors), P.full([1, 2], 13.0)
            found = []
            for n in range(P.shape(x)[0]):
                regions, _, _ = ops.generate_proposals(
                    scores[n : n + 1], deltas[n : n + 1], size, anchors, spread, 30, 8, 0.5, 2.0, return_rois_num=True
                )
                found.append(regions)
            regions = P.concat(found)
            count = P.shape(regions)[:1].astype("int32")
            pooled = ops.roi_align(x, regions, count, 2, 0.5)
            sure = nn.functional.softmax(self.head(pooled.flatten(1)))[:, 1]
            kept = P.nonzero(sure > 0.4)
            if P.shape(kept)[0] == 0:  # noqa: SIM108 (Paddle rewrites this form)
                rows = P.full([1, 4], -1.0)
            else:
                rows = P.gather(regions, kept[:, 0])
            return rows, sure

    return Net()


def r3(P: Any, t: Any) -> Any:  # noqa: N803
    return P.stack([t * 0.01] * 5, 1)


def _boxes(count: int, seed: int = 0) -> np.ndarray:
    corner = r(count, 2, low=0, high=8, seed=seed)
    return np.concatenate([corner, corner + r(count, 2, low=1, high=6, seed=seed + 1)], 1)


def _assign(x: Any) -> Any:
    y, z = x + 0, x + 0
    y[1:3, :, 2] = 5.0
    y[:, ::2] = -1.0
    y[0] = 2.0
    z[:, 5:1:-2, 1:] = 0.5
    z[..., -1] = 9.0
    return y, z


def _assign_tensor(x: Any, v: Any) -> Any:
    y, z = x + 0, x + 0
    y[1:3] = v
    y[0, :, 1:3] = v[0, :, :2]
    z[::-2] = v
    z[:, 1] = v[0, 0]
    z[0, 0, 0] = v[0, 0, 1]
    return y, z


def _unpool(P: Any, F: Any, x: Any) -> Any:  # noqa: N803
    y, places = F.max_pool2d(x, 2, 2, return_mask=True)
    return F.max_unpool2d(y, places, 2, 2), F.max_unpool2d(y, places, 2, 2, output_size=[7, 9])


def _distribute(P: Any, boxes: Any, number: Any) -> Any:  # noqa: N803
    parts, restore, numbers = P.vision.ops.distribute_fpn_proposals(boxes, 2, 5, 4, 224, rois_num=number)
    return (*parts, restore, *numbers)


def _while(x: Any, n: Any) -> Any:
    i = x.astype("int64").sum() * 0
    while i < n:
        x = x * 1.5 + i.astype("float32")
        i = i + 1
    return x, i


def _while_break(x: Any) -> Any:
    i = x.astype("int64").sum() * 0
    while i < 20:
        x = x * 1.3
        if x.abs().max() > 9:
            break
        i = i + 1
    return x, i


def _if(x: Any) -> Any:
    if x.sum() > 0:
        y, z = x * 2, x.sum()
    else:
        y, z = x - 1, x.max()
    return y, z


def _nested(x: Any, n: Any) -> Any:
    i = n * 0
    while i < n:
        j = n * 0
        while j < i:
            x = x + 0.5
            j = j + 1
        if x.mean() > 1:
            x = x - 2
        i = i + 1
    return x


TRANSFORMED = (_assign, _assign_tensor, _while, _while_break, _if, _nested)
"""Functions that Paddle rewrites before it records them: Python's own `while`, `if` and assignments to parts."""


FIXED = {
    "shape_fold",
    "indexing_put",
    "indexing_multiplex",
    "linear_solvers",
    "arithmetic_rare_isin",
    "indexing_rare_scatters",
    "shape_rare_splits",
    "shape_rare_diagonals",
    "shape_rare_fill_diagonal",
    "sorting_rare_decoded",
    "linear_rare_products",
    "linear_rare_factors",
    "linear_rare_spectra",
    "convolution_rare_folds",
}
"""Cases that Paddle only records for shapes without a free size."""


def export(folder: Path, themes: list[str]) -> None:
    """Export all cases of the themes (all where none are named) under FOLDER/THEME_NAME."""
    os.environ.update(
        {"FLAGS_use_mkldnn": "0", "GLOG_minloglevel": "3", "FLAGS_enable_pir_api": os.environ.get("PIR", "1")}
    )
    import paddle

    every = cases(paddle, paddle.nn.functional)
    for theme, rare in rare_programs.cases(paddle, paddle.nn.functional).items():
        every[theme] += [(f"rare_{name}", function, inputs) for name, function, inputs in rare]
    for theme in themes or list(every):
        for name, function, inputs in every[theme]:
            target = folder / f"{theme}_{name}"
            try:
                _export(paddle, function, inputs, target)
            except Exception as error:  # said, so that the caller sees which case Paddle itself refuses
                shutil.rmtree(target, ignore_errors=True)
                print(f"REFUSED {theme}_{name}: {(str(error).strip() or repr(error)).splitlines()[-1][:200]}")


def _export(paddle: Any, function: Callable[..., Any], inputs: tuple[Any, ...], target: Path) -> None:
    names = [f"x{index}" for index in range(len(inputs))]
    free = target.name not in FIXED
    shapes = [
        [None, *array.shape[1:]] if free and index == 0 and array.ndim > 1 else list(array.shape)
        for index, array in enumerate(inputs)
    ]
    path = str(target / "inference")
    layer = isinstance(function, paddle.nn.Layer)
    if layer or function in TRANSFORMED:
        if layer:
            # Weights and statistics that show something: those that Paddle starts with are zeros and ones mostly.
            for index, tensor in enumerate(function.state_dict().values()):
                low = 0.5 if tensor.ndim == 1 else -0.5
                tensor.set_value(r(*tensor.shape, low=low, high=1.0, seed=index))
            function.eval()
        specs = [
            paddle.static.InputSpec(shape, str(array.dtype), name)
            for shape, array, name in zip(shapes, inputs, names, strict=True)
        ]
        paddle.jit.save(paddle.jit.to_static(function, input_spec=specs, full_graph=True), path)
    paddle.enable_static()
    try:
        executor = paddle.static.Executor(paddle.CPUPlace())
        if not layer and function not in TRANSFORMED:
            main = paddle.static.Program()
            with paddle.static.program_guard(main, paddle.static.Program()):
                feeds = [
                    paddle.static.data(name, shape, str(array.dtype))
                    for name, shape, array in zip(names, shapes, inputs, strict=True)
                ]
                made = function(*feeds)
                made = [item for item in (made if isinstance(made, list | tuple) else [made]) if item is not None]
                paddle.static.save_inference_model(path, feeds, made, executor, program=main)
        program, _, fetches = paddle.static.load_inference_model(path, executor)
        values = executor.run(
            program, feed=dict(zip(names, inputs, strict=True)), fetch_list=fetches, return_numpy=False
        )
    finally:
        paddle.disable_static()
    saved = {f"in:{name}": array for name, array in zip(names, inputs, strict=True)}
    saved.update({f"out:{index}": np.array(item) for index, item in enumerate(values)})
    np.savez(target / "io.npz", **saved)
    parameters = target / "inference.pdiparams"
    if parameters.exists() and parameters.stat().st_size == 0:
        parameters.unlink()


if __name__ == "__main__":
    export(Path(sys.argv[1]), sys.argv[2:])
