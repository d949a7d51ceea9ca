"""Suppression of boxes: what overlaps a better box of its class is dropped, or loses score.

Boxes are looked at in blocks, best first; there is no loop over boxes or classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.opaque import one_operation, open_size
from paddle2torch.model_zoo.programs.operations.overlaps import overlap, polygon_overlaps
from paddle2torch.model_zoo.programs.table import ProgramError, operation

_BLOCK = 512
_CORNERS = (4, 8, 16, 24, 32)  # coordinates that Paddle takes: a box, or polygons


def _overlaps(a: Tensor, b: Tensor, same: Tensor, offset: float) -> Tensor:
    """Intersection over union of the boxes or polygons of `a` with those of `b`, of one class: (A, B)."""
    if a.shape[1] != 4:
        return polygon_overlaps(a, b, same)
    return overlap(a[:, None], b[None], offset)


def suppress(
    boxes: Tensor, labels: Tensor, threshold: float, *, eta: float = 1.0, offset: float = 0.0, enough: int = -1
) -> Tensor:
    """Places of the boxes that greedy suppression keeps, in order; at least the first `enough` of them, where >= 0.

    boxes (N, 4), or polygons (N, 8) and more, best first; labels (N,): only boxes of one class suppress one another.
    eta: by this the threshold shrinks with each box of the class that stays, while it is above 0.5.
    """
    kept = torch.zeros(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    limits = _limits(threshold, eta, boxes.shape[0], boxes)
    for start in range(0, boxes.shape[0], _BLOCK):
        before = kept[:start].nonzero()[:, 0]
        if 0 <= enough <= before.numel():
            break
        stop = min(start + _BLOCK, boxes.shape[0])
        part, classes = boxes[start:stop], labels[start:stop]
        same = labels[before][:, None] == classes[None]
        outer = torch.where(same, _overlaps(boxes[before], part, same, offset), 0.0)
        inside = (classes[:, None] == classes[None]).triu(1)
        inner = torch.where(inside, _overlaps(part, part, inside, offset), 0.0)
        if limits is None:
            kept[start:stop] = _kept(outer, inner, threshold)
        else:
            kept[start:stop] = _kept_shrinking(outer, inner, limits, same.sum(0), inside)
    return kept.nonzero()[:, 0]


def _kept(outer: Tensor, inner: Tensor, threshold: float) -> Tensor:
    """Which boxes of a block stay: `outer` (K, N) overlaps with those kept before, `inner` (N, N) with better ones.

    An overlap that is not a number drops a box, as Paddle keeps only what is at most the threshold.
    """
    free = (outer <= threshold).all(0)
    drops = (~(inner <= threshold)).float()
    return _settled(lambda keep: free & (keep.float() @ drops == 0), free)


def _kept_shrinking(outer: Tensor, inner: Tensor, limits: Tensor, counts: Tensor, inside: Tensor) -> Tensor:
    """As `_kept`, with the limit after so many boxes of the class; `counts` (N,) of them stayed before the block."""
    before = outer.amax(0) if outer.shape[0] else torch.zeros_like(inner[0])

    def rule(keep: Tensor) -> Tensor:
        chosen = inside & keep[:, None]
        worst = torch.maximum(before, torch.where(chosen, inner, 0.0).amax(0))
        return worst <= limits[counts + chosen.sum(0)]

    return _settled(rule, torch.ones_like(inside[0]))


def _settled(rule: Callable[[Tensor], Tensor], keep: Tensor) -> Tensor:
    """What `rule` gives back unchanged. Each box hangs on better ones alone, so each turn settles one more at least."""
    while True:
        following = rule(keep)
        if torch.equal(following, keep):
            return keep
        keep = following


def _limits(threshold: float, eta: float, count: int, like: Tensor) -> Tensor | None:
    """The threshold after so many boxes that stayed; None where it never changes."""
    if eta >= 1 or threshold <= 0.5:
        return None
    limits = [threshold]
    while limits[-1] > 0.5 and len(limits) <= count:
        limits.append(limits[-1] * eta)
    return torch.tensor(limits + [limits[-1]] * (count + 1 - len(limits)), dtype=like.dtype, device=like.device)


def _best(values: Tensor, count: int) -> Tensor:
    """Places of the best `count` values at least, best first; of equal ones the earlier first."""
    if count < values.numel():
        floor = values.topk(count).values[-1]
        places = (values >= floor).nonzero()[:, 0]
        return places[values[places].sort(descending=True, stable=True).indices]
    return values.sort(descending=True, stable=True).indices


def _ranks(labels: Tensor) -> Tensor:
    """How many with the same label come before each."""
    order = labels.sort(stable=True).indices
    ordered = labels[order]
    place = torch.arange(labels.numel(), device=labels.device)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = torch.where(first, place, torch.zeros_like(place)).cummax(0).values if place.numel() else place
    return torch.empty_like(place).scatter(0, order, place - start)


def _selected(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    top_k: int,
    keep_top_k: int,
    background: int,
    settings: dict[str, float],
) -> tuple[Tensor, Tensor]:
    """Classes and boxes that stay of one image: by class, best first.

    boxes (1 or C, M, D), scores (C, M).
    """
    classes, count = scores.shape
    usable = scores > threshold
    if 0 <= background < classes:
        usable[background] = False
    candidates = usable.reshape(-1).nonzero()[:, 0]
    values = scores.reshape(-1)[candidates]
    size = max(4 * keep_top_k, _BLOCK) if keep_top_k >= 0 else values.numel()
    while True:
        order = candidates[_best(values, size)]
        label, column = order // count, order % count
        if 0 <= top_k < order.numel():
            among = _ranks(label) < top_k
            label, column = label[among], column[among]
        chosen = boxes[label if boxes.shape[0] > 1 else torch.zeros_like(label), column]
        kept = suppress(chosen, label, enough=keep_top_k, **settings)
        if size >= values.numel() or 0 <= keep_top_k <= kept.numel():
            break
        size = values.numel()
    if keep_top_k >= 0:
        kept = kept[:keep_top_k]
    label, column = label[kept], column[kept]
    by_class = label.sort(stable=True).indices
    return label[by_class], column[by_class]


def _detected(rows: list[Tensor], places: list[Tensor], like: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    counts = torch.tensor([row.shape[0] for row in rows], dtype=torch.int32, device=like.device)
    out = torch.cat(rows) if rows else like.new_zeros((0, width))
    index = torch.cat(places) if places else like.new_zeros(0)
    return out, index.to(torch.int32).reshape(-1, 1), counts


def _rows_of(
    bboxes: Tensor, scores: Tensor, rois_num: Tensor | None = None, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    images = bboxes.shape[0] if scores.ndim == 3 else 1 if rois_num is None else rois_num.shape[0]
    count = open_size()
    number = bboxes.new_empty((images,), dtype=torch.int32)
    return bboxes.new_empty((count, bboxes.shape[-1] + 2)), bboxes.new_empty((count, 1), dtype=torch.int32), number


@operation("multiclass_nms3", results=3)
@one_operation(_rows_of)
def multiclass_nms3(
    bboxes: Tensor,
    scores: Tensor,
    rois_num: Tensor | None = None,
    *,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float = 0.3,
    normalized: bool = True,
    nms_eta: float = 1.0,
    background_label: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections (R, 6): class, score, box; their places (R, 1) among all boxes; how many each image has.

    bboxes (N, M, 4) and scores (N, C, M), or (M, C, 4) and (M, C) with `rois_num` boxes for each image. Polygons have
    8, 16, 24 or 32 coordinates in place of 4.
    """
    width = bboxes.shape[-1]
    if width not in _CORNERS:
        raise ProgramError(f"multiclass_nms3 of {width} coordinates is not known")
    if scores.ndim == 2:
        sizes = [bboxes.shape[0]] if rois_num is None else rois_num.tolist()
        box_parts = [part.transpose(0, 1) for part in torch.split(bboxes, sizes)]  # (C, m, D)
        score_parts = [part.transpose(0, 1) for part in torch.split(scores, sizes)]
    else:
        box_parts = [part[None] for part in bboxes.unbind(0)]  # (1, M, D)
        score_parts = list(scores.unbind(0))
    settings = {"threshold": nms_threshold, "eta": nms_eta, "offset": 0.0 if normalized else 1.0}
    rows, places, start = [], [], 0
    for boxes, points in zip(box_parts, score_parts, strict=True):
        label, column = _selected(boxes, points, score_threshold, nms_top_k, keep_top_k, background_label, settings)
        box = boxes[label if boxes.shape[0] > 1 else torch.zeros_like(label), column]
        rows.append(torch.cat([label[:, None].to(box.dtype), points[label, column][:, None], box], 1))
        # Of regions the place counts classes as well.
        places.append((start + column) * points.shape[0] + label if scores.ndim == 2 else start + column)
        start += points.shape[1]
    return _detected(rows, places, bboxes, width + 2)


@operation("matrix_nms", results=3)
@one_operation(_rows_of)
def matrix_nms(
    bboxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    post_threshold: float = 0.0,
    use_gaussian: bool = False,
    gaussian_sigma: float = 2.0,
    background_label: int = 0,
    normalized: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `multiclass_nms3`, but what overlaps a better box of its class loses score by a factor, none is dropped for
    it.
    """
    offset = 0.0 if normalized else 1.0
    rows, places = [], []
    for image, (boxes, points) in enumerate(zip(bboxes.unbind(0), scores.unbind(0), strict=True)):
        classes, count = points.shape
        live = torch.where(points > score_threshold, points, torch.full_like(points, float("-inf")))
        if 0 <= background_label < classes:
            live[background_label] = float("-inf")
        most = int((live > float("-inf")).sum(1).max()) if live.numel() else 0
        size = min(most, nms_top_k) if nms_top_k > -1 else most
        sorted_scores, order = live.sort(dim=1, descending=True, stable=True)
        sorted_scores, order = sorted_scores[:, :size], order[:, :size]
        chosen = boxes[order]  # (C, K, 4)
        decayed = [
            _decay(chosen[part], sorted_scores[part], offset, use_gaussian, gaussian_sigma)
            for part in torch.arange(classes).split(max(1, (1 << 22) // max(1, size * size)))
        ]
        score = torch.cat(decayed) if decayed else sorted_scores
        stays = (sorted_scores > float("-inf")) & (score > post_threshold)
        label, rank = stays.nonzero().unbind(1)
        value, column = score[label, rank], order[label, rank]
        best = value.sort(dim=0, descending=True, stable=True).indices
        if 0 <= keep_top_k < best.numel():
            best = best[:keep_top_k]
        label, column, value = label[best], column[best], value[best]
        rows.append(torch.cat([label[:, None].to(boxes.dtype), value[:, None], boxes[column]], 1))
        places.append(image * count + column)
    return _detected(rows, places, bboxes, 6)


def _decay(boxes: Tensor, scores: Tensor, offset: float, gaussian: bool, sigma: float) -> Tensor:
    """Scores (C, K), best first, times the smallest factor that a better box gives."""
    if scores.shape[1] == 0:
        return scores
    shared = overlap(boxes[:, :, None], boxes[:, None], offset).tril(-1)  # row i: with the better boxes j < i
    most = shared.amax(2)  # (C, K)
    if gaussian:
        factor = torch.exp((most[:, None].square() - shared.square()) * sigma)
    else:
        factor = (1.0 - shared) / (1.0 - most[:, None])
    better = torch.ones_like(factor[0], dtype=torch.bool).tril(-1)
    factor = torch.where(better, factor, torch.ones_like(factor))
    return scores * factor.amin(2).clamp(max=1.0)


@operation("nms")
@one_operation(lambda x, **settings: x.new_empty((open_size(),), dtype=torch.int64))
def nms(x: Tensor, *, threshold: float = 1.0) -> Tensor:
    """Places of the boxes that stay; they come in the order of their worth: int64."""
    return suppress(x, torch.zeros_like(x[:, 0]), threshold)
