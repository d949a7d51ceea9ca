"""Suppression of boxes in ONNX's own operators.

What PyTorch's exporter meets as one operation becomes a `NonMaxSuppression`, or for `matrix_nms` a product of factors,
with what Paddle does before and after it: the best of each class, the best of all, rows by image and class. Two
differences are left. Of two boxes without area that touch, Paddle drops the second and ONNX Runtime keeps it. Where
sides are counted in whole pixels (`normalized` false), boxes less than a pixel apart overlap a little, which matters
for those narrower than a pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.programs.graph import Graph
from paddle2torch.model_zoo.programs.rows import SETS

_LOWEST = -3.4e38
"""Of a score that does not count."""


def check_suppression(graph: Graph) -> None:
    """Raise `ConversionError` for suppression that has no form in ONNX here."""
    for node in graph.walk():
        if node.kind not in SETS:
            continue
        shapes = [graph.types[name].shape for name in node.inputs[:2] if isinstance(name, str) and name in graph.types]
        eta, threshold = node.attributes.get("nms_eta", 1.0), node.attributes.get("nms_threshold", 0.3)
        reason = ""
        if len(shapes) == 2 and len(shapes[1]) == 2:
            reason = "each class has boxes of its own"
        elif shapes and shapes[0][-1:] != (4,):
            reason = "its boxes are polygons"
        elif node.kind == "multiclass_nms3" and eta < 1 and threshold > 0.5:
            reason = "its threshold shrinks with each box"
        if reason:
            raise ConversionError(
                f"{node.kind}: this suppression of boxes has no form in ONNX ({reason}). Export the network without "
                "it, or with --to torch, where it stays one operation"
            )


def translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """What PyTorch's exporter writes for each of the operations."""
    return {
        torch.ops.paddle2torch.multiclass_nms3.default: _multiclass_nms3,
        torch.ops.paddle2torch.matrix_nms.default: _matrix_nms,
    }


def _operators() -> Any:
    return import_module("onnxscript").opset20


def _ints(*values: int) -> Any:
    return _operators().Constant(value_ints=list(values))


def _multiclass_nms3(
    bboxes: Any,
    scores: Any,
    rois_num: Any,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float,
    normalized: bool,
    nms_eta: float,
    background_label: int,
) -> Any:
    op = _operators()
    count = _size(scores, 2)
    scores = _without_background(scores, background_label)
    counted = scores
    if nms_top_k > -1:
        best, places = op.TopK(scores, op.Min(_ints(nms_top_k), count), axis=2)
        lowest = op.Expand(op.Constant(value_float=_LOWEST), op.Shape(scores))
        counted = op.ScatterElements(lowest, places, best, axis=2)
    # A box whose corners are in the wrong order has no area for Paddle.
    corners = op.Split(bboxes, axis=2, num_outputs=2)
    behind = op.Max(corners[0], corners[1])
    if not normalized:
        behind = op.Add(behind, op.Constant(value_float=1.0))
    chosen = op.NonMaxSuppression(
        op.Concat(corners[0], behind, axis=2),
        counted,
        count,
        op.Constant(value_floats=[nms_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    rows = (*_columns(chosen), op.GatherND(scores, chosen))
    return _detected(bboxes, *_best_of_images(rows, _size(scores, 0), keep_top_k))


def _matrix_nms(
    bboxes: Any,
    scores: Any,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    post_threshold: float,
    use_gaussian: bool,
    gaussian_sigma: float,
    background_label: int,
    normalized: bool,
) -> Any:
    op = _operators()
    scores = _without_background(scores, background_label)
    alive = op.Greater(scores, op.Constant(value_float=score_threshold))
    # As many of each class as the fullest has.
    most = op.ReduceMax(op.ReduceSum(op.Cast(alive, to=7), _ints(2), keepdims=0), keepdims=0)
    most = op.Max(op.Reshape(most, _ints(1)), _ints(1))
    if nms_top_k > -1:
        most = op.Min(most, _ints(nms_top_k))
    most = op.Min(most, _size(scores, 2))
    ordered, places = op.TopK(op.Where(alive, scores, op.Constant(value_float=_LOWEST)), most, axis=2)
    # (N, C, K) places of (N, M, 4) boxes.
    shape = op.Concat(_size(scores, 0), _size(scores, 1), _ints(1, 1), axis=0)
    spread = op.Expand(op.Unsqueeze(bboxes, _ints(1)), shape)
    boxes = op.GatherND(spread, op.Unsqueeze(places, _ints(3)), batch_dims=2)
    factor = _factors(boxes, 0.0 if normalized else 1.0, gaussian_sigma if use_gaussian else None)
    decayed = op.Mul(ordered, factor)
    stays = op.And(
        op.Greater(ordered, op.Constant(value_float=score_threshold)),
        op.Greater(decayed, op.Constant(value_float=post_threshold)),
    )
    chosen = op.Transpose(op.NonZero(stays), perm=[1, 0])
    image, label, _ = _columns(chosen)
    value, column = op.GatherND(decayed, chosen), op.GatherND(places, chosen)
    # Rows of an image come by their score.
    order = op.TopK(value, _size(value, 0), axis=0)[1]
    rows = _in_order((image, label, column, value), order)
    rows = _best_of_images(rows, _size(scores, 0), keep_top_k)
    # And images in their order: of equal numbers the earlier stays the earlier.
    order = op.TopK(rows[0], _size(rows[0], 0), axis=0, largest=0)[1]
    return _detected(bboxes, *_in_order(rows, order))


def _factors(boxes: Any, offset: float, sigma: float | None) -> Any:
    """By how much the better boxes of a class lower each score: (N, C, K) of boxes (N, C, K, 4), best first."""
    op = _operators()
    more, zero, last = op.Constant(value_float=offset), op.Constant(value_float=0.0), _ints(-1)
    low, high = op.Split(boxes, axis=3, num_outputs=2)

    def covered(sides: Any) -> Any:
        turned = op.Less(op.ReduceMin(sides, last, keepdims=0), zero)
        return op.Where(turned, zero, op.ReduceProd(op.Add(sides, more), last, keepdims=0))

    area = covered(op.Sub(high, low))
    common = covered(
        op.Sub(
            op.Min(op.Unsqueeze(high, _ints(3)), op.Unsqueeze(high, _ints(2))),
            op.Max(op.Unsqueeze(low, _ints(3)), op.Unsqueeze(low, _ints(2))),
        )
    )
    union = op.Sub(op.Add(op.Unsqueeze(area, _ints(3)), op.Unsqueeze(area, _ints(2))), common)
    overlap = op.Where(op.Greater(common, zero), op.Div(common, union), zero)
    better = op.Trilu(overlap, op.Constant(value_int=-1), upper=0)  # row i: with the better boxes j < i
    most = op.Unsqueeze(op.ReduceMax(better, _ints(3), keepdims=0), _ints(2))
    if sigma is None:
        one = op.Constant(value_float=1.0)
        factor = op.Div(op.Sub(one, better), op.Sub(one, most))
    else:
        factor = op.Exp(op.Mul(op.Sub(op.Mul(most, most), op.Mul(better, better)), op.Constant(value_float=sigma)))
    whole = op.Expand(op.Constant(value_float=1.0), op.Shape(factor))
    above = op.Greater(op.Trilu(whole, op.Constant(value_int=-1), upper=0), zero)
    least = op.ReduceMin(op.Where(above, factor, op.Constant(value_float=1.0)), _ints(3), keepdims=0)
    return op.Min(least, op.Constant(value_float=1.0))


def _size(x: Any, axis: int) -> Any:
    """Of one axis: int64 (1,)."""
    return _operators().Shape(x, start=axis, end=axis + 1)


def _range(count: Any) -> Any:
    op = _operators()
    return op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))


def _columns(x: Any) -> Sequence[Any]:
    """The columns of (K, 3)."""
    op = _operators()
    return [op.Squeeze(item, _ints(1)) for item in op.Split(x, axis=1, num_outputs=3)]


def _without_background(scores: Any, label: int) -> Any:
    """Scores (N, C, M) of which the class `label`, where there is one, counts nothing."""
    if label < 0:
        return scores
    op = _operators()
    classes = op.Unsqueeze(_range(_size(scores, 1)), _ints(0, 2))
    return op.Where(op.Equal(classes, op.Constant(value_int=label)), op.Constant(value_float=_LOWEST), scores)


def _in_order(rows: Sequence[Any], order: Any) -> Sequence[Any]:
    return [_operators().Gather(item, order) for item in rows]


def _best_of_images(rows: Sequence[Any], images: Any, count: int) -> Sequence[Any]:
    """Of rows, which are images, classes, places and scores, each (K,), the best `count` of each image, or all (-1)."""
    if count < 0:
        return rows
    image, *_, value = rows
    op = _operators()
    order = op.TopK(value, _size(value, 0), axis=0)[1]
    ordered = op.Gather(image, order)
    own = op.Cast(op.Equal(op.Unsqueeze(ordered, _ints(1)), op.Unsqueeze(_range(images), _ints(0))), to=1)
    rank = op.ReduceSum(op.Mul(op.CumSum(own, op.Constant(value_int=0)), own), _ints(1), keepdims=0)
    among = op.LessOrEqual(rank, op.Constant(value_float=float(count)))
    nothing = op.Cast(op.Mul(value, op.Constant(value_float=0.0)), to=9)
    kept = op.ScatterElements(nothing, order, among, axis=0)
    return [op.Compress(item, kept, axis=0) for item in rows]


def _detected(bboxes: Any, image: Any, label: Any, column: Any, value: Any) -> Any:
    """Rows of class, score, box; their places among all boxes; how many each image has."""
    op = _operators()
    one = _ints(1)
    box = op.GatherND(bboxes, op.Concat(op.Unsqueeze(image, one), op.Unsqueeze(column, one), axis=1))
    rows = op.Concat(op.Unsqueeze(op.Cast(label, to=1), one), op.Unsqueeze(value, one), box, axis=1)
    place = op.Add(op.Mul(image, op.Squeeze(_size(bboxes, 1))), column)
    own = op.Equal(op.Unsqueeze(image, one), op.Unsqueeze(_range(_size(bboxes, 0)), _ints(0)))
    counts = op.ReduceSum(op.Cast(own, to=6), _ints(0), keepdims=0)
    return rows, op.Cast(op.Unsqueeze(place, one), to=6), counts
