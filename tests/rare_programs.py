"""More tiny programs: rare operations, and common ones in every layout, type, size and mode that Paddle takes.

`tiny_programs.py` exports them with its own; each case is (name, function, inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def r(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Reals in a range, the same ones in every run."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(dtype)


def i(*shape: int, low: int = 0, high: int = 5, dtype: str = "int64", seed: int = 0) -> np.ndarray:
    """Integers in a range."""
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def b(*shape: int) -> np.ndarray:
    """Bools."""
    return i(*shape, high=2).astype(bool)


def cases(P: Any, F: Any) -> dict[str, list[Case]]:  # noqa: N803, as programs for Paddle call them
    """Themes, each a list of (name, function, inputs)."""
    return {
        "arithmetic": [
            ("bessel", lambda x: (P.i0(x), P.i0e(x), P.i1(x), P.i1e(x)), (r(3, 4),)),
            (
                "gamma",
                lambda x, y: (P.gammaln(x), P.gammainc(x, y), P.gammaincc(x, y), P.polygamma(x, 1)),
                (r(3, 4, low=0.2), r(3, 4, low=0.2, seed=1)),
            ),
            (
                "shifts",
                lambda x, y: (P.bitwise_left_shift(x, y), P.bitwise_right_shift(x, y)),
                (i(3, 4, high=90), i(3, 4)),
            ),
            (
                "number_theory",
                lambda x, y: (P.gcd(x, y), P.lcm(x, y)),
                (i(3, 4, low=1, high=30), i(3, 4, low=1, high=30, seed=1)),
            ),
            (
                "pairs",
                lambda x, y: (P.hypot(x, y), P.copysign(x, y), P.nextafter(x, y), P.ldexp(x, P.full([1], 2, "int32"))),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            (
                "parts",
                lambda x: (
                    P.frac(x),
                    P.deg2rad(x),
                    P.rad2deg(x),
                    P.sinc(x),
                    P.logaddexp(x, x * 0.5),
                ),
                (r(3, 4),),
            ),
            ("clip_tensor", lambda x, y: (P.clip(x, P.min(y), P.max(y)),), (r(3, 4, low=-5, high=5), r(4))),
            (
                "doubles",
                lambda x, y: (x + y, x * 2, P.exp(x), P.matmul(x, y.t()), P.sqrt(P.abs(x))),
                (r(3, 4, dtype="float64"), r(3, 4, dtype="float64", seed=1)),
            ),
            (
                "promoted",
                lambda x, y: (x.astype("float64") + y, x * y.astype("float32"), x > 0),
                (r(3, 4), r(3, 4, dtype="float64")),
            ),
            (
                "bytes",
                lambda x, y: (x + y, x.astype("float32") / 255, P.bitwise_and(x, y)),
                (i(3, 4, high=9, dtype="uint8"), i(3, 4, high=9, dtype="uint8", seed=1)),
            ),
            ("int8", lambda x: (x + x, x.astype("int32") * 3, -x), (i(3, 4, low=-9, high=9, dtype="int8"),)),
            (
                "int32",
                lambda x, y: (x + y, x / y, x % y, x // y, P.maximum(x, y), P.abs(x)),
                (i(3, 4, low=-9, high=9, dtype="int32"), i(3, 4, low=1, high=5, dtype="int32")),
            ),
            (
                "scalar_tensors",
                lambda x: (
                    P.sum(x) * P.full([], 2.0),
                    P.mean(x) + x,
                    P.reshape(P.sum(x), []),
                    P.unsqueeze(P.max(x), 0),
                    P.stack([P.sum(x), P.mean(x)]),
                ),
                (r(3, 4),),
            ),
            (
                "empty",
                lambda x: (
                    x[:, 2:2] + 1,
                    P.concat([x[:, 2:2], x], 1),
                    P.sum(x[:, 1:1], 1),
                    P.reshape(x[:, :0], [-1, 2]),
                    P.matmul(x[:, :0], x[:0, :].reshape([0, 5])),
                ),
                (r(3, 4),),
            ),
            ("reduce_as", lambda x: P.reduce_as(x, P.zeros([4])), (r(3, 4),)),
            (
                "halves",
                lambda x: ((x.astype("float16") + 1).astype("float32"), x.astype("bfloat16").astype("float32")),
                (r(3, 4),),
            ),
            (
                "complex_parts",
                lambda x: (
                    P.angle(P.complex(x, x + 1)),
                    P.imag(P.conj(P.complex(x, x))),
                    P.abs(P.complex(x, x) * P.complex(x, -x)),
                    P.real(P.as_complex(P.stack([x, x], -1))),
                ),
                (r(3, 4),),
            ),
            (
                "logic_bits",
                lambda x, y: (P.bitwise_xor(x, y), P.bitwise_not(x), P.logical_not(x), x & y, x.astype("int64").sum()),
                (b(3, 4), b(3, 4)),
            ),
            (
                "trapezoid",
                lambda x: (P.trapezoid(x, dx=0.5), P.cumulative_trapezoid(x), P.diff(x), P.diff(x, n=2, axis=0)),
                (r(3, 5),),
            ),
            ("isin", lambda x: (P.isin(x, P.to_tensor([1, 3])), P.isreal(x)), (i(3, 4),)),
            (
                "renorm",
                lambda x: (P.renorm(x, 2.0, 0, 1.0), P.clip(P.nn.functional.normalize(x, 2, 0), -1, 1)),
                (r(3, 4, 2),),
            ),
        ],
        "activation": [
            (
                "losses",
                lambda x, y: (
                    F.binary_cross_entropy(F.sigmoid(x), F.sigmoid(y), reduction="none"),
                    F.binary_cross_entropy_with_logits(x, F.sigmoid(y), reduction="none"),
                    F.smooth_l1_loss(x, y, reduction="none"),
                    F.kl_div(F.log_softmax(x), F.softmax(y), reduction="none"),
                    F.mse_loss(x, y),
                    F.l1_loss(x, y),
                    F.square_error_cost(x, y),
                ),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            (
                "label_smooth",
                lambda x: (
                    F.label_smooth(F.softmax(x), epsilon=0.2),
                    F.nll_loss(F.log_softmax(x), P.full([3], 1, "int64"), reduction="none"),
                ),
                (r(3, 4),),
            ),
            (
                "similar",
                lambda x, y: (F.cosine_similarity(x, y, axis=1), F.pairwise_distance(x, y), P.dist(x, y, 3)),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            (
                "rrelu",
                lambda x: (
                    F.rrelu(x, 0.1, 0.3, training=False),
                    F.alpha_dropout(x, 0.3, training=False),
                    F.softmax(x, 1),
                    F.thresholded_relu(x, 0.5, 0.1),
                ),
                (r(2, 3, 4, 5),),
            ),
            (
                "softmax_types",
                lambda x: (
                    F.softmax(x, -1, dtype="float64"),
                    F.log_softmax(x, 0, dtype="float64"),
                    F.softmax(x.astype("float64")),
                ),
                (r(3, 4),),
            ),
            (
                "norms_3d",
                lambda x: (
                    F.instance_norm(x),
                    F.group_norm(x, 2),
                    F.layer_norm(x, [5]),
                    F.instance_norm(P.transpose(x, [0, 2, 1]), data_format="NCL"),
                ),
                (r(2, 4, 5),),
            ),
            ("norms_5d", lambda x: (F.instance_norm(x), F.group_norm(x, 2)), (r(2, 4, 3, 4, 5),)),
            (
                "batch_norm_inference",
                lambda x: (
                    F.batch_norm(x, P.full([4], 0.2), P.full([4], 0.7), P.full([4], 1.5), P.full([4], 0.1)),
                    F.batch_norm(
                        P.transpose(x, [0, 2, 3, 1]),
                        P.full([4], 0.2),
                        P.full([4], 0.7),
                        P.full([4], 1.5),
                        P.full([4], 0.1),
                        data_format="NHWC",
                    ),
                    F.batch_norm(x, P.full([4], 0.2), P.full([4], 0.7), epsilon=1e-3),
                ),
                (r(2, 4, 3, 5),),
            ),
            (
                "batch_norm_statistics",
                lambda x: F.batch_norm(
                    x,
                    P.zeros([4]),
                    P.ones([4]),
                    P.full([4], 1.5),
                    P.full([4], 0.1),
                    training=True,
                    use_global_stats=False,
                ),
                (r(2, 4, 3, 5),),
            ),
            (
                "rms_norm",
                lambda x: P.incubate.nn.functional.fused_rms_norm(x, P.ones([4]), None, 1e-5, 1)[0],
                (r(3, 4),),
            ),
            (
                "prelu_all",
                lambda x: (
                    P.nn.functional.prelu(x, P.full([3], 0.3)),
                    F.celu(x),
                    F.elu(x),
                    F.hardsigmoid(x.astype("float64")),
                ),
                (r(2, 3, 4),),
            ),
            ("fused_norm", _fused_norm(P), (r(3, 4), r(3, 4, seed=1))),
            ("swiglu", lambda x: (P.incubate.nn.functional.swiglu(x), F.glu(x, -1)), (r(3, 8),)),
        ],
        "shape": [
            (
                "views",
                lambda x: (
                    x.reshape([2, -1]).t(),
                    P.reshape(x, [4, 3]),
                    x.unsqueeze([0, -1]).squeeze([0, -1]),
                    P.atleast_2d(x[0]),
                    P.atleast_3d(x),
                ),
                (r(3, 4),),
            ),
            (
                "diagonals",
                lambda x: (
                    P.diagonal(x, 1),
                    P.diag(P.diagonal(x)),
                    P.diagflat(x[0]),
                    P.tril(x, -1),
                    P.triu(x, 1),
                    P.rot90(x, 1, [0, 1]),
                    P.block_diag([x, x]),
                ),
                (r(4, 4),),
            ),
            (
                "fill_diagonal",
                lambda x: (
                    P.nn.functional.diag_embed(x),
                    P.diagonal_scatter(x, P.zeros([3])),
                ),
                (r(3, 3),),
            ),
            (
                "pads_1d",
                lambda x: (
                    F.pad(x, [1, 2], "constant", 0.5, data_format="NCL"),
                    F.pad(x, [1, 2], "reflect", data_format="NCL"),
                    F.pad(x, [2, 1], "replicate", data_format="NCL"),
                    F.pad(x, [1, 1], "circular", data_format="NCL"),
                    F.pad(x, [1, 2], data_format="NLC"),
                ),
                (r(2, 3, 5),),
            ),
            (
                "pads_2d",
                lambda x: (
                    F.pad(x, [1, 2, 0, 1], "reflect"),
                    F.pad(x, [1, 2, 0, 1], "replicate"),
                    F.pad(x, [1, 1, 1, 1], "circular"),
                    F.pad(x, [1, 2, 3, 0], value=1.5, data_format="NHWC"),
                    F.pad(x, [0, 0, 1, 0, 0, 2, 1, 1]),
                    F.zeropad2d(x, [1, 0, 2, 1]),
                ),
                (r(2, 3, 4, 5),),
            ),
            (
                "pads_3d",
                lambda x: (
                    F.pad(x, [1, 2, 0, 1, 2, 0]),
                    F.pad(x, [1, 1, 1, 1, 1, 1], "reflect"),
                    F.pad(x, [1, 0, 1, 0, 1, 0], "replicate", data_format="NDHWC"),
                ),
                (r(2, 3, 4, 5, 3),),
            ),
            ("pads_int", lambda x: (F.pad(x, [1, 2, 0, 1], value=3),), (i(2, 3, 4, 5),)),
            (
                "splits",
                lambda x: (
                    *P.vsplit(x, 2),
                    *P.hsplit(x, 3),
                    *P.tensor_split(x, 3, axis=1),
                    *P.tensor_split(x, [1, 4], axis=1),
                    *P.unstack(x, axis=0),
                ),
                (r(4, 6),),
            ),
            (
                "stacks",
                lambda x, y: (
                    P.hstack([x, y]),
                    P.vstack([x, y]),
                    P.dstack([x, y]),
                    P.column_stack([x, y]),
                    P.concat([x, y.astype("float32")], -2),
                ),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            (
                "expands",
                lambda x: (
                    P.expand(x, [2, 3, 4]),
                    P.expand(x, [-1, 4]),
                    P.tile(x, [1]),
                    P.tile(x, [2, 1, 2]),
                    P.broadcast_to(x, [5, 3, 4]),
                    *P.broadcast_tensors([x, x[:1]]),
                ),
                (r(3, 4),),
            ),
            (
                "shape_arithmetic",
                lambda x: (
                    P.reshape(x, [P.shape(x)[0], P.shape(x)[1] * P.shape(x)[2]]),
                    P.zeros([P.shape(x)[0], 2]),
                    P.full([P.shape(x)[1]], 1.5),
                    P.arange(P.shape(x)[0]),
                    P.expand(x[:, :1], [P.shape(x)[0], 4, P.shape(x)[2]]),
                    P.tile(x, [P.shape(x)[0], 1, 1]),
                ),
                (r(2, 3, 4),),
            ),
            (
                "channels_last",
                lambda x: (
                    F.pixel_shuffle(x, 2, data_format="NHWC"),
                    F.pixel_unshuffle(x, 2, data_format="NHWC"),
                    F.channel_shuffle(x, 4, data_format="NHWC"),
                    F.temporal_shift(x, 2, 0.25, data_format="NHWC"),
                ),
                (r(2, 4, 6, 8),),
            ),
            (
                "logspace",
                lambda x: (
                    x + P.logspace(0, 2, 4),
                    P.linspace(0, 5, 6).astype("int64"),
                    P.linspace(5, -5, 4) + x[0],
                    P.arange(5, 0, -2),
                    P.arange(0.0, 1.0, 0.3),
                ),
                (r(3, 4),),
            ),
            (
                "flips",
                lambda x: (
                    P.flip(x, [-1, 0]),
                    P.roll(x, [1, -2], [0, 2]),
                    P.roll(x, 3),
                    P.roll(x, 1, -1),
                    P.moveaxis(x, [0, 1], [2, 0]),
                    P.transpose(x, [-1, 0, 1]),
                ),
                (r(2, 3, 4),),
            ),
            (
                "views_of_types",
                lambda x: (x.astype("uint8").astype("int32"), x.astype("int32").astype("bool"), P.cast(x > 0, "int64")),
                (r(3, 4),),
            ),
            ("meshes", lambda x: (*P.meshgrid(x, x[:2]), P.cartesian_prod([x, x]), P.combinations(x, 2)), (r(4),)),
        ],
        "indexing": [
            (
                "steps",
                lambda x: (x[::2], x[:, ::-1], x[..., 1:-1:2], x[-1], x[:, -2:], x[1:100], x[None, :, 1], x[..., None]),
                (r(4, 5, 6),),
            ),
            (
                "lists",
                lambda x: (
                    x[[0, 2]],
                    x[:, [1, 1, 0]],
                    x[[0, 1], [2, 3]],
                    x[P.to_tensor([2, 0])],
                    x[x > 0],
                    x[:, P.to_tensor([[0, 1], [2, 2]])],
                ),
                (r(4, 5),),
            ),
            ("where_places", lambda x: (P.where(x > 0)[0], P.nonzero(x > 0.5)), (r(3, 4),)),
            (
                "takes",
                lambda x, n: (
                    P.take(x, n),
                    P.take(x, n - 2, mode="wrap"),
                    P.take(x, n, mode="clip"),
                    P.take_along_axis(x, n, 1),
                    P.take_along_axis(x, n[:1], 0),
                ),
                (r(3, 4), i(3, 4, high=3)),
            ),
            (
                "puts",
                lambda x, n: (
                    P.put_along_axis(x, n, 9.0, 1),
                    P.put_along_axis(x, n, x * 2, 0, "add"),
                    P.put_along_axis(x, n, x, 1, "mul"),
                    P.put_along_axis(x, n, x, 1, "amax"),
                    P.put_along_axis(x, n, x, 1, "mean", include_self=False),
                ),
                (r(3, 4), i(3, 4, high=3)),
            ),
            (
                "fills",
                lambda x: (
                    P.index_fill(x, P.to_tensor([0, 2]), 1, 7.0),
                    P.masked_fill(x, x > 0, -1.0),
                    P.where(x > 0, x, 0.5),
                    P.masked_scatter(x, x > 0, P.arange(12, dtype="float32")),
                    P.select_scatter(x, P.zeros([4]), 0, 1),
                    P.slice_scatter(x, P.zeros([3, 2]), [1], [0], [4], [2]),
                ),
                (r(3, 4),),
            ),
            (
                "scatters",
                lambda x: (
                    P.scatter(x, P.to_tensor([2, 0]), P.ones([2, 4])),
                    P.scatter(x, P.to_tensor([1, 1]), P.ones([2, 4]), overwrite=False),
                    P.scatter_nd(P.to_tensor([[1], [2]]), P.ones([2, 4]), [5, 4]),
                    P.scatter_nd_add(x, P.to_tensor([[0], [0]]), P.ones([2, 4])),
                    P.index_add(x, P.to_tensor([0, 2]), 1, P.ones([3, 2])),
                ),
                (r(3, 4),),
            ),
            (
                "gathers",
                lambda x, n: (
                    P.gather(x, n, 1),
                    P.gather(x, n[0], 0),
                    P.gather_nd(x, P.stack([n, n], -1)),
                    P.index_sample(x, P.stack([n, n, n])),
                    P.index_select(x, n, 0),
                ),
                (r(3, 4), i(2, high=3)),
            ),
            (
                "one_hots",
                lambda n: (
                    F.one_hot(n, 6),
                    P.nn.functional.one_hot(n.astype("int32"), 5),
                    F.sequence_mask(n, 4),
                    F.sequence_mask(n, 6, "float32"),
                ),
                (i(3, 2),),
            ),
            (
                "embeddings",
                lambda n: (
                    F.embedding(n, P.arange(12, dtype="float32").reshape([6, 2])),
                    F.embedding(n, P.arange(12, dtype="float32").reshape([6, 2]), padding_idx=1),
                    F.embedding(n, P.arange(12, dtype="float32").reshape([6, 2]), padding_idx=-1),
                ),
                (i(3, 2, high=6),),
            ),
            (
                "slices_computed",
                lambda x: (
                    x[: P.shape(x)[0] - 1],
                    x[:, P.shape(x)[1] // 2 :],
                    P.slice(x, [0, 1], [0, 1], [P.shape(x)[0], 3]),
                    P.strided_slice(x, [1], [P.shape(x)[1] - 1], [0], [-1]),
                    P.crop(x, [2, 2], [1, 1]),
                ),
                (r(4, 5),),
            ),
            (
                "moments",
                lambda x: (x + 1, P.shard_index(P.full([2, 1], 3, "int64"), 20, 2, 0, -1)),
                (r(3, 4),),
            ),
        ],
        "reduction": [
            (
                "axes",
                lambda x: (
                    P.sum(x, [0, -1]),
                    P.mean(x, [1, 2], keepdim=True),
                    P.max(x, [0, 2]),
                    P.min(x, -2, keepdim=True),
                    P.prod(x, 1),
                    P.sum(x),
                    P.mean(x, axis=[]),
                    P.amax(x, [0, 1]),
                    P.amin(x),
                ),
                (r(2, 3, 4),),
            ),
            (
                "bools",
                lambda x: (
                    P.all(x),
                    P.any(x, 1),
                    P.all(x, [0, 1], keepdim=True),
                    P.sum(x),
                    P.sum(x.astype("int32"), 0),
                    P.count_nonzero(x, 1),
                ),
                (b(3, 4),),
            ),
            (
                "ints",
                lambda x: (
                    P.sum(x),
                    P.max(x, 1),
                    P.min(x, 0),
                    P.prod(x, 1),
                    P.mean(x.astype("float32")),
                    P.sum(x, 0, "float64"),
                    P.cumsum(x, 1),
                    P.cumprod(x, 0),
                ),
                (i(3, 4, low=1, dtype="int32"),),
            ),
            (
                "nans",
                lambda x: (P.nansum(x, 1), P.nanmean(x, 0)),
                (np.where(r(4, 5) > 1, np.nan, r(4, 5)).astype(np.float32),),
            ),
            (
                "quantiles",
                lambda x: (
                    P.quantile(x, 0.3, 1),
                    P.quantile(x, [0.2, 0.7], 0),
                    P.median(x, 1),
                    P.median(x),
                    P.nanquantile(x, 0.4, 1),
                ),
                (r(4, 5),),
            ),
            (
                "spread",
                lambda x: (
                    P.std(x, 1),
                    P.var(x, [0, 1], unbiased=False),
                    P.std(x),
                    P.var(x, -1, keepdim=True),
                    P.logsumexp(x, [0, 1], keepdim=True),
                ),
                (r(4, 5),),
            ),
            (
                "cumulative",
                lambda x: (
                    P.cumsum(x),
                    P.cumsum(x, 0),
                    P.cumsum(x, -1),
                    *P.cummax(x, 1),
                    *P.cummin(x, 0),
                    P.logcumsumexp(x, 1),
                    P.cumprod(x, -1),
                ),
                (r(3, 4),),
            ),
            (
                "arg",
                lambda x: (
                    P.argmax(x),
                    P.argmin(x, 1),
                    P.argmax(x, 0, keepdim=True),
                    P.argmax(x, -1, dtype="int32"),
                    P.argmin(x, keepdim=True),
                ),
                (r(3, 4),),
            ),
            (
                "segments",
                lambda x: (
                    P.geometric.segment_sum(x, P.to_tensor([0, 0, 1, 2])),
                    P.geometric.segment_mean(x, P.to_tensor([0, 0, 1, 2])),
                    P.geometric.segment_max(x, P.to_tensor([0, 0, 1, 2])),
                    P.geometric.segment_min(x, P.to_tensor([0, 0, 1, 2])),
                ),
                (r(4, 3),),
            ),
            (
                "messages",
                lambda x: (
                    P.geometric.send_u_recv(x, P.to_tensor([0, 1, 2, 0]), P.to_tensor([1, 2, 1, 0]), "sum"),
                    P.geometric.send_u_recv(x, P.to_tensor([0, 1, 2, 0]), P.to_tensor([1, 2, 1, 0]), "mean"),
                    P.geometric.send_u_recv(x, P.to_tensor([0, 1, 2, 0]), P.to_tensor([1, 2, 1, 0]), "max"),
                ),
                (r(4, 3),),
            ),
        ],
        "sorting": [
            (
                "ks",
                lambda x: (
                    *P.topk(x, 2, 0),
                    *P.topk(x, 3, -1, largest=False),
                    *P.kthvalue(x, 2, 0),
                    *P.kthvalue(x, 3, 1, True),
                    *P.mode(x, 1),
                ),
                (r(4, 5),),
            ),
            (
                "sorts",
                lambda x: (P.sort(x, 0, descending=True), P.argsort(x, -1), P.argsort(x, 0, descending=True)),
                (r(4, 5),),
            ),
            (
                "uniques",
                lambda n: (
                    *P.unique(n, return_index=True, return_inverse=True, return_counts=True),
                    P.unique(n, axis=0),
                    *P.unique_consecutive(n, return_inverse=True, return_counts=True),
                ),
                (i(4, 3, high=3),),
            ),
            (
                "bins",
                lambda x: (
                    P.histogram(x, 5, -1, 1),
                    P.bincount(P.full([4], 2, "int64"), minlength=5),
                    P.bucketize(x, P.to_tensor([-1.0, 0.0, 1.0])),
                    P.searchsorted(P.to_tensor([-1.0, 0.0, 1.0]), x, right=True),
                ),
                (r(4, 5),),
            ),
            ("decoded", lambda n, p: F.gather_tree(n, p), (i(3, 2, 2), i(3, 2, 2, high=2))),
        ],
        "linear": [
            (
                "products",
                lambda x, y: (
                    P.matmul(x, y, transpose_y=True),
                    P.matmul(x, y, transpose_x=True),
                    P.inner(x, y),
                    P.outer(x[0], y[0]),
                    P.tensordot(x, y.t(), 1),
                    P.linalg.multi_dot([x, y.t(), x]),
                ),
                (r(3, 4), r(3, 4, seed=1)),
            ),
            (
                "vectors",
                lambda x, y: (
                    P.dot(x, y),
                    P.matmul(x, y),
                    P.mv(P.outer(x, y), x),
                    P.cross(x[:3], y[:3]),
                    P.matmul(P.outer(x, y), y),
                ),
                (r(4), r(4, seed=1)),
            ),
            (
                "batched",
                lambda x, y: (
                    P.matmul(x, y),
                    P.bmm(x[0], y[0]),
                    P.baddbmm(x[0] @ y[0], x[0], y[0], 0.5, 2.0),
                    P.einsum("abij,abjk->abik", x, y),
                ),
                (r(2, 3, 4, 5), r(2, 3, 5, 2)),
            ),
            (
                "factors",
                lambda x: (
                    P.linalg.cholesky(x @ x.t() + P.eye(4)),
                    P.linalg.inv(x + 5 * P.eye(4)),
                    P.linalg.det(x),
                    P.linalg.slogdet(x),
                    P.linalg.matrix_power(x, 3),
                    P.linalg.solve(x + 5 * P.eye(4), x),
                    P.linalg.pinv(x),
                ),
                (r(4, 4),),
            ),
            (
                "spectra",
                lambda x: (
                    P.linalg.eigvalsh(x @ x.t()),
                    P.linalg.svdvals(x),
                    P.linalg.matrix_rank(x),
                    P.linalg.norm(x),
                    P.linalg.triangular_solve(P.tril(x) + 3 * P.eye(4), x, upper=False),
                    P.linalg.cholesky_solve(x, P.linalg.cholesky(x @ x.t() + P.eye(4))),
                ),
                (r(4, 4),),
            ),
            (
                "distances",
                lambda x, y: (P.cdist(x, y), P.cdist(x, y, 1.0), P.cdist(x, y, float("inf"))),
                (r(2, 3, 4), r(2, 5, 4)),
            ),
            (
                "bilinear",
                lambda x, y: F.bilinear(x, y, P.arange(24, dtype="float32").reshape([2, 3, 4]) * 0.1, P.ones([1, 2])),
                (r(5, 3), r(5, 4)),
            ),
            (
                "attention",
                lambda q, k: (
                    F.scaled_dot_product_attention(q, k, k),
                    F.scaled_dot_product_attention(q, k, k, is_causal=True),
                ),
                (r(2, 4, 2, 8), r(2, 4, 2, 8, seed=1)),
            ),
            (
                "spectrum",
                lambda x: (
                    P.abs(P.fft.fft(x)),
                    P.real(P.fft.ifft(P.fft.fft(x))),
                    P.abs(P.fft.rfft(x)),
                    P.fft.irfft(P.fft.rfft(x)),
                    P.abs(P.fft.fft2(x)),
                    P.abs(P.fft.rfft2(x, norm="ortho")),
                    P.fft.irfft2(P.fft.rfft2(x)),
                    P.abs(P.fft.fftshift(P.fft.fftn(x))),
                    P.fft.irfft(P.fft.rfft(x), n=7),
                ),
                (r(3, 8),),
            ),
            (
                "spectrum_orders",
                lambda x: (
                    P.abs(P.fft.fft(x, norm="forward")),
                    P.abs(P.fft.rfftn(x, axes=[0, 1])),
                    P.real(P.fft.ifft2(P.fft.fft2(x, norm="ortho"), norm="ortho")),
                    P.fft.hfft(P.fft.rfft(x)),
                    P.abs(P.fft.ihfft(x)),
                ),
                (r(4, 8),),
            ),
            (
                "frames",
                lambda x: (
                    P.signal.frame(x, 4, 2, axis=-1),
                    P.signal.overlap_add(P.signal.frame(x, 4, 2, axis=-1), 2, axis=-1),
                    P.abs(P.signal.stft(x, 8, 4, center=True)),
                ),
                (r(2, 16),),
            ),
        ],
        "convolution": [
            (
                "layouts",
                lambda x: (
                    F.conv2d(P.transpose(x, [0, 2, 3, 1]), P.ones([6, 4, 3, 3]) * 0.1, padding=1, data_format="NHWC"),
                    F.conv2d(
                        P.transpose(x, [0, 2, 3, 1]),
                        P.ones([4, 1, 3, 3]) * 0.1,
                        stride=2,
                        padding="SAME",
                        groups=4,
                        data_format="NHWC",
                    ),
                    F.conv2d(x, P.ones([6, 4, 3, 3]) * 0.1, P.ones([6]), padding=[[0, 0], [0, 0], [1, 2], [0, 1]]),
                    F.conv2d(x, P.ones([6, 2, 2, 3]) * 0.1, padding="VALID", groups=2),
                ),
                (r(2, 4, 7, 9),),
            ),
            (
                "transposed_layouts",
                lambda x: (
                    F.conv2d_transpose(
                        P.transpose(x, [0, 2, 3, 1]),
                        P.ones([4, 3, 3, 3]) * 0.1,
                        stride=2,
                        padding=1,
                        data_format="NHWC",
                    ),
                    F.conv2d_transpose(x, P.ones([4, 3, 3, 3]) * 0.1, stride=2, output_padding=1),
                    F.conv2d_transpose(x, P.ones([4, 2, 2, 2]) * 0.1, stride=2, groups=2, dilation=2),
                    F.conv2d_transpose(x, P.ones([4, 3, 3, 3]) * 0.1, stride=2, padding="SAME"),
                    F.conv2d_transpose(x, P.ones([4, 3, 3, 3]) * 0.1, stride=2, padding=[1, 0, 0, 1]),
                ),
                (r(2, 4, 5, 6),),
            ),
            (
                "one_axis",
                lambda x: (
                    F.conv1d(x, P.ones([6, 4, 3]) * 0.1, padding=1, stride=2),
                    F.conv1d(P.transpose(x, [0, 2, 1]), P.ones([6, 4, 3]) * 0.1, data_format="NLC"),
                    F.conv1d_transpose(x, P.ones([4, 3, 3]) * 0.1, stride=2, padding=1, output_padding=1),
                    F.conv1d(x, P.ones([4, 1, 3]) * 0.1, groups=4, dilation=2, padding="SAME"),
                ),
                (r(2, 4, 9),),
            ),
            (
                "three_axes",
                lambda x: (
                    F.conv3d(x, P.ones([6, 4, 2, 3, 3]) * 0.1, padding=[1, 0, 1]),
                    F.conv3d(
                        P.transpose(x, [0, 2, 3, 4, 1]),
                        P.ones([6, 4, 2, 3, 3]) * 0.1,
                        padding="SAME",
                        data_format="NDHWC",
                    ),
                    F.conv3d_transpose(x, P.ones([4, 3, 2, 3, 3]) * 0.1, stride=2, padding=1),
                    F.conv3d(x, P.ones([4, 1, 3, 3, 3]) * 0.1, groups=4, padding=1, stride=[1, 2, 1]),
                ),
                (r(2, 4, 5, 6, 7),),
            ),
            (
                "grids",
                lambda x, g: (
                    F.grid_sample(x, g),
                    F.grid_sample(x, g, "nearest", "border", False),
                    F.grid_sample(x, g, "bilinear", "reflection", False),
                    F.grid_sample(x, g, "bilinear", "reflection", True),
                    F.grid_sample(x, g, "nearest", "zeros", True),
                ),
                (r(2, 3, 5, 6), r(2, 4, 4, 2, low=-1.3, high=1.3)),
            ),
            (
                "grids_3d",
                lambda x, g: (
                    F.grid_sample(x, g),
                    F.grid_sample(x, g, "nearest", "border", False),
                    F.affine_grid(P.ones([2, 3, 4]) * 0.2, [2, 3, 4, 5, 6], False),
                ),
                (r(2, 3, 4, 5, 6), r(2, 3, 3, 3, 3, low=-1.3, high=1.3)),
            ),
            (
                "deformable_small",
                lambda x: (
                    P.vision.ops.deform_conv2d(x, P.full([2, 18, 1, 1], 0.3), P.ones([4, 3, 3, 3]) * 0.1, padding=1),
                    P.vision.ops.deform_conv2d(
                        x,
                        P.full([2, 18, 1, 1], -0.4),
                        P.ones([4, 3, 3, 3]) * 0.1,
                        padding=1,
                        mask=P.full([2, 9, 1, 1], 0.5),
                    ),
                ),
                (r(2, 3, 1, 1),),
            ),
            (
                "folds",
                lambda x: (
                    F.unfold(x, [3, 2], [2, 1], [1, 0, 1, 0], 1),
                    F.fold(F.unfold(x, 2, 2), [6, 8], 2, 2),
                    F.unfold(x, 3, 1, 1, 2),
                ),
                (r(2, 3, 6, 8),),
            ),
        ],
        "pooling": [
            (
                "layouts",
                lambda x: (
                    F.max_pool2d(x, 2, 2, data_format="NHWC"),
                    F.avg_pool2d(x, 3, 2, 1, data_format="NHWC", exclusive=False),
                    F.adaptive_avg_pool2d(x, [3, 2], data_format="NHWC"),
                    F.max_pool2d(x, 3, 2, "SAME", data_format="NHWC"),
                ),
                (r(2, 7, 9, 3),),
            ),
            (
                "modes",
                lambda x: (
                    F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
                    F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, exclusive=False),
                    F.avg_pool2d(x, 2, 2, divisor_override=3),
                    F.avg_pool2d(x, 3, 2, "SAME"),
                    F.avg_pool2d(x, 3, 2, "SAME", exclusive=False),
                    F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                    F.max_pool2d(x, [2, 3], [1, 2], [0, 1]),
                    F.avg_pool2d(x, [2, 3], padding=[[0, 0], [0, 0], [1, 0], [0, 1]]),
                ),
                (r(2, 3, 7, 10),),
            ),
            (
                "adaptive",
                lambda x: (
                    F.adaptive_avg_pool2d(x, [None, 3]),
                    F.adaptive_max_pool2d(x, 3),
                    *F.adaptive_max_pool2d(x, [2, 3], return_mask=True),
                    F.adaptive_avg_pool2d(x, 1),
                    F.adaptive_avg_pool2d(x, [5, 1]),
                ),
                (r(2, 3, 7, 9),),
            ),
            (
                "masks",
                lambda x: (
                    *F.max_pool2d(x, 2, 2, return_mask=True),
                    *F.max_pool2d(x, 3, 2, 1, return_mask=True),
                    F.max_unpool2d(*F.max_pool2d(x, 2, 2, return_mask=True), 2, 2),
                ),
                (r(2, 3, 6, 8),),
            ),
            (
                "one_axis",
                lambda x: (
                    F.max_pool1d(x, 3, 2, 1),
                    F.avg_pool1d(x, 3, 2, 1, exclusive=False),
                    F.adaptive_avg_pool1d(x, 4),
                    F.adaptive_max_pool1d(x, 4),
                    F.lp_pool1d(x, 2.0, 3),
                    *F.max_pool1d(x, 2, 2, return_mask=True),
                    F.max_unpool1d(*F.max_pool1d(x, 2, 2, return_mask=True), 2, 2),
                ),
                (r(2, 3, 10),),
            ),
            (
                "three_axes",
                lambda x: (
                    F.max_pool3d(x, 2, 2),
                    F.avg_pool3d(x, 3, 2, 1),
                    F.avg_pool3d(x, 3, 2, 1, ceil_mode=True, exclusive=False),
                    F.adaptive_avg_pool3d(x, [2, 3, 1]),
                    F.adaptive_max_pool3d(x, 2),
                    *F.max_pool3d(x, 2, 2, return_mask=True),
                    F.max_unpool3d(*F.max_pool3d(x, 2, 2, return_mask=True), 2, 2),
                    F.max_pool3d(P.transpose(x, [0, 2, 3, 4, 1]), 2, 2, data_format="NDHWC"),
                ),
                (r(2, 3, 4, 6, 8),),
            ),
        ],
        "resizing": [
            (
                "layouts",
                lambda x: (
                    F.interpolate(x, [8, 5], mode="bilinear", data_format="NHWC"),
                    F.interpolate(x, scale_factor=2, mode="nearest", data_format="NHWC"),
                    F.interpolate(x, [5, 7], mode="bicubic", data_format="NHWC"),
                ),
                (r(2, 4, 6, 3),),
            ),
            (
                "ratios",
                lambda x: (
                    F.interpolate(x, scale_factor=1.7, mode="bilinear"),
                    F.interpolate(x, scale_factor=[0.6, 2.3], mode="bilinear", align_corners=True),
                    F.interpolate(x, scale_factor=1.3, mode="nearest"),
                    F.interpolate(x, scale_factor=0.45, mode="bicubic"),
                    F.interpolate(x, [3, 4], mode="area"),
                    F.interpolate(x, [5, 5], mode="bilinear", align_mode=1),
                    F.interpolate(x, [9, 9], mode="nearest", align_corners=False),
                ),
                (r(2, 3, 7, 6),),
            ),
            (
                "one_axis",
                lambda x: (
                    F.interpolate(x, [9], mode="linear", data_format="NCW"),
                    F.interpolate(x, scale_factor=[1.6], mode="linear", align_corners=True, data_format="NCW"),
                    F.interpolate(P.transpose(x, [0, 2, 1]), [4], mode="linear", data_format="NWC"),
                ),
                (r(2, 3, 6),),
            ),
            (
                "three_axes",
                lambda x: (
                    F.interpolate(x, [3, 5, 7], mode="trilinear", data_format="NCDHW"),
                    F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True, data_format="NCDHW"),
                    F.interpolate(x, [3, 5, 7], mode="nearest", data_format="NCDHW"),
                ),
                (r(2, 3, 4, 5, 6),),
            ),
            (
                "computed",
                lambda x, y: (
                    F.interpolate(x, P.shape(y)[2:], mode="bilinear"),
                    F.interpolate(x, [P.shape(y)[2], 7], mode="nearest"),
                    F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=True),
                ),
                (r(2, 3, 4, 5), r(2, 3, 9, 8)),
            ),
            (
                "doubles",
                lambda x: (F.interpolate(x, [5, 5], mode="bilinear"), F.interpolate(x, [5, 5], mode="nearest")),
                (r(2, 3, 4, 6, dtype="float64"),),
            ),
        ],
        "boxes": [
            ("polygons", lambda x, s: _polygon_nms(P, x, s), (_rectangles(40), r(1, 3, 40, low=0.0, high=1.0))),
            (
                "polygons_bent",
                lambda x, s: _polygon_nms(P, x, s),
                (r(1, 30, 8, low=0.0, high=9.0), r(1, 2, 30, low=0.0, high=1.0)),
            ),
            (
                "nms_shrinking",
                lambda x, s: _box_nms(P, x, s, nms_eta=0.9, nms_threshold=0.7, background_label=0),
                (_boxes(60), r(2, 4, 60, low=0.0, high=1.0)),
            ),
            (
                "nms_pixels",
                lambda x, s: _box_nms(P, x, s, normalized=False, nms_threshold=0.4, nms_top_k=20, keep_top_k=10),
                (_boxes(60), r(2, 4, 60, low=0.0, high=1.0)),
            ),
            (
                "nms_all",
                lambda x, s: _box_nms(P, x, s, nms_top_k=-1, keep_top_k=-1),
                (_boxes(700), r(2, 2, 700, low=0.0, high=1.0)),
            ),
            (
                "nms_none",
                lambda x, s: _box_nms(P, x, s, score_threshold=2.0),
                (_boxes(20), r(2, 2, 20, low=0.0, high=1.0)),
            ),
            (
                "psroi",
                lambda x, y: (P.vision.ops.psroi_pool(x, y, P.to_tensor([2, 1], "int32"), 2),),
                (r(2, 12, 8, 8), np.abs(_boxes(3)[0])),
            ),
        ],
    }


def _fused_norm(paddle: Any) -> Callable[..., Any]:
    norm = paddle.incubate.nn.functional.fused_layer_norm

    def function(x: Any, y: Any) -> Any:
        weights = (paddle.full([4], 1.5), paddle.full([4], 0.1))
        return norm(x, *weights, 1e-5)[0], norm(x, *weights, 1e-5, 0.5, residual=y)[0], paddle.is_empty(x)

    return function


def _boxes(count: int) -> np.ndarray:
    """(2, count, 4) boxes that overlap."""
    corners = r(2, count, 2, low=0.0, high=20.0)
    return np.concatenate([corners, corners + r(2, count, 2, low=1.0, high=12.0, seed=1)], 2)


def _rectangles(count: int) -> np.ndarray:
    """(1, count, 8) corners of turned rectangles that overlap."""
    angle, centre = r(count, low=0.0, high=3.0), r(count, 1, 2, low=0.0, high=12.0)
    size = r(count, 1, 2, low=2.0, high=9.0, seed=1)
    unit = np.array([[[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]], np.float32) * size
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)
    return (unit @ turn + centre).reshape(1, count, 8).astype(np.float32)


def _box_nms(paddle: Any, boxes: Any, scores: Any, **settings: Any) -> Any:
    values = {"score_threshold": 0.1, "nms_top_k": 40, "keep_top_k": 30, "nms_threshold": 0.5, "normalized": True}
    values |= {"nms_eta": 1.0, "background_label": -1}  # in the order in which they are given
    values |= settings
    from paddle import _C_ops

    return [item for item in _C_ops.multiclass_nms3(boxes, scores, None, *values.values()) if item is not None]


def _polygon_nms(paddle: Any, polygons: Any, scores: Any) -> Any:
    return _box_nms(paddle, polygons, scores, score_threshold=0.2, nms_top_k=30, keep_top_k=25, nms_threshold=0.2)
