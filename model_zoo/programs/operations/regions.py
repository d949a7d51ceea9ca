"""Regions of a map: what is proposed, shared out over the levels of a pyramid, pooled. Batched over regions."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.opaque import one_operation, open_size
from paddle2torch.model_zoo.programs.operations.overlaps import area
from paddle2torch.model_zoo.programs.operations.suppression import suppress
from paddle2torch.model_zoo.programs.table import ProgramError, check_size, operation


def _owners(counts: Tensor | None, boxes: Tensor) -> Tensor:
    """The image of each region."""
    if counts is None:
        return torch.zeros(boxes.shape[0], dtype=torch.int64, device=boxes.device)
    images = torch.arange(counts.shape[0], device=boxes.device)
    return torch.repeat_interleave(images, counts.to(torch.int64), output_size=boxes.shape[0])


def _counted(owner: Tensor, images: Any) -> Tensor:
    """How many regions each image has."""
    return (owner[:, None] == torch.arange(images, device=owner.device)).sum(0).to(torch.int32)


def _cells(
    x: Tensor,
    boxes: Tensor,
    boxes_num: Tensor | None,
    *,
    pooled_height: int,
    pooled_width: int,
    output_channels: int | None = None,
    **settings: Any,
) -> Tensor:
    channels = x.shape[1] if output_channels is None else output_channels
    return x.new_empty((boxes.shape[0], channels, pooled_height, pooled_width))


def _rounded(x: Tensor) -> Tensor:
    """To whole numbers, half away from zero."""
    return torch.trunc(x + torch.sign(x) * 0.5)


def _between(low: Tensor, high: Tensor, size: int) -> Tensor:
    """(R, cells, size): which places of an axis are from `low` on and before `high`, both (R, cells)."""
    place = torch.arange(size, dtype=low.dtype, device=low.device)
    return (place >= low[:, :, None]) & (place < high[:, :, None])


@operation("roi_align")
@one_operation(_cells)
def roi_align(
    x: Tensor,
    boxes: Tensor,
    boxes_num: Tensor | None = None,
    *,
    pooled_height: int = 1,
    pooled_width: int = 1,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """The mean of bilinear samples in each cell of each region: (R, C, ph, pw).

    A cell has `sampling_ratio` squared samples, or as many as pixels fit into it. A sample more than a pixel outside
    is 0.
    """
    check_size([boxes.shape[0], x.shape[1], pooled_height, pooled_width], "roi_align")
    height, width = x.shape[2:]
    corners = boxes * spatial_scale - (0.5 if aligned else 0.0)
    w, h = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    if not aligned:
        w, h = w.clamp(min=1.0), h.clamp(min=1.0)

    def samples(start: Tensor, size: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places (R, cells, G) of the samples along one axis, which of them count, and how many (R,)."""
        cell = size / cells
        number = torch.full_like(size, float(sampling_ratio)) if sampling_ratio > 0 else cell.ceil().clamp(min=0.0)
        most = int(number.max()) if number.numel() else 0
        index = torch.arange(most, dtype=x.dtype, device=x.device)
        inner = (index + 0.5) / number.clamp(min=1.0)[:, None] * cell[:, None]
        outer = torch.arange(cells, dtype=x.dtype, device=x.device)
        places = start[:, None, None] + outer[None, :, None] * cell[:, None, None] + inner[:, None, :]
        counts = (index[None] < number[:, None])[:, None, :].expand_as(places)
        return places, counts, number

    ys, ys_count, rows = samples(corners[:, 1], h, pooled_height)
    xs, xs_count, columns = samples(corners[:, 0], w, pooled_width)

    def weights(places: Tensor, counts: Tensor, size: int) -> Tensor:
        """(R, cells, size): how much of each row or column the samples of a cell take together."""
        valid = counts & (places >= -1.0) & (places <= size)
        held = places.clamp(min=0.0)
        low = held.floor().clamp(max=size - 1)
        high = (low + 1).clamp(max=size - 1)
        share = torch.where(low >= size - 1, torch.zeros_like(held), held - low)
        table = torch.zeros((*places.shape[:2], size), dtype=x.dtype, device=x.device)
        table = table.scatter_add(2, low.long(), (1 - share) * valid)
        return table.scatter_add(2, high.long(), share * valid)

    down, across = weights(ys, ys_count, height), weights(xs, xs_count, width)
    owner = _owners(boxes_num, boxes)
    number = (rows * columns).clamp(min=1.0)
    parts = []
    for part in torch.arange(boxes.shape[0], device=x.device).split(64):
        # The samples lie on a grid, so the sum over them is a product with both tables.
        made = torch.matmul(torch.matmul(down[part, None], x[owner[part]]), across[part, None].transpose(2, 3))
        parts.append(made / number[part].view(-1, 1, 1, 1))
    return torch.cat(parts)


@one_operation(_cells)
def largest_of_regions(
    x: Tensor,
    boxes: Tensor,
    boxes_num: Tensor | None = None,
    *,
    pooled_height: int = 1,
    pooled_width: int = 1,
    spatial_scale: float = 1.0,
) -> Tensor:
    """See `roi_pool`."""
    height, width = x.shape[2:]
    corners = _rounded(boxes * spatial_scale)

    def within(first: Tensor, last: Tensor, cells: int, size: int) -> Tensor:
        """(R, cells, size): which rows or columns belong to a cell."""
        extent = (last - first + 1).clamp(min=1.0)
        cell = (extent / cells)[:, None]
        index = torch.arange(cells, dtype=x.dtype, device=x.device)[None]
        start = (torch.floor(index * cell) + first[:, None]).clamp(0, size)
        end = (torch.ceil((index + 1) * cell) + first[:, None]).clamp(0, size)
        return _between(start, end, size)

    rows = within(corners[:, 1], corners[:, 3], pooled_height, height)
    columns = within(corners[:, 0], corners[:, 2], pooled_width, width)
    owner = _owners(boxes_num, boxes)
    parts = []
    for part in torch.arange(boxes.shape[0], device=x.device).split(16):
        maps = x[owner[part]]  # (r, C, H, W)
        lowest = torch.full((), float("-inf"), dtype=x.dtype, device=x.device)
        tall = torch.stack(
            [torch.where(columns[part, q][:, None, None], maps, lowest).amax(3) for q in range(pooled_width)], -1
        )  # (r, C, H, pw)
        cells = torch.stack(
            [torch.where(rows[part, p][:, None, :, None], tall, lowest).amax(2) for p in range(pooled_height)], 2
        )
        parts.append(torch.where(torch.isinf(cells), torch.zeros_like(cells), cells))
    return torch.cat(parts)


@operation("roi_pool", results=2)
def roi_pool(
    x: Tensor,
    boxes: Tensor,
    boxes_num: Tensor | None = None,
    *,
    pooled_height: int = 1,
    pooled_width: int = 1,
    spatial_scale: float = 1.0,
) -> tuple[Tensor, None]:
    """The largest pixel in each cell of each region, whose corners are rounded: (R, C, ph, pw); 0 for empty cells."""
    cells = {"pooled_height": pooled_height, "pooled_width": pooled_width}
    return largest_of_regions(x, boxes, boxes_num, **cells, spatial_scale=spatial_scale), None


@operation("psroi_pool")
@one_operation(_cells)
def psroi_pool(
    x: Tensor,
    boxes: Tensor,
    boxes_num: Tensor | None = None,
    *,
    pooled_height: int = 1,
    pooled_width: int = 1,
    output_channels: int = 1,
    spatial_scale: float = 1.0,
) -> Tensor:
    """The mean in each cell of each region, where each cell has channels of its own: (R, channels, ph, pw)."""
    height, width = x.shape[2:]
    rounded = _rounded(boxes)
    start, end = rounded[:, :2] * spatial_scale, (rounded[:, 2:] + 1.0) * spatial_scale

    def within(axis: int, cells: int, size: int) -> Tensor:
        """(R, cells, size): 1 where a row or column belongs to a cell."""
        first = start[:, axis, None]
        cell = (end[:, axis, None] - first).clamp(min=0.1) / cells
        index = torch.arange(cells, dtype=x.dtype, device=x.device)[None]
        low = torch.floor(index * cell + first).clamp(0, size)
        high = torch.ceil((index + 1) * cell + first).clamp(0, size)
        return _between(low, high, size).to(x.dtype)

    rows, columns = within(1, pooled_height, height), within(0, pooled_width, width)
    owner = _owners(boxes_num, boxes)
    maps = x.reshape(x.shape[0], output_channels, pooled_height, pooled_width, height, width)
    parts = []
    for part in torch.arange(boxes.shape[0], device=x.device).split(16):
        covered = rows[part, None, :, None, :, None] * columns[part, None, None, :, None, :]
        total = (maps[owner[part]] * covered).sum((4, 5))
        cells = rows[part].sum(2)[:, None, :, None] * columns[part].sum(2)[:, None, None, :]
        parts.append(torch.where(cells > 0, total / cells.clamp(min=1.0), torch.zeros_like(total)))
    return torch.cat(parts)


def _proposed(scores: Tensor, *tensors: Tensor, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    count = open_size()
    torch._check(count >= scores.shape[0])  # each image has one at least
    number = scores.new_empty((scores.shape[0],), dtype=torch.int32)
    return scores.new_empty((count, 4)), scores.new_empty((count, 1)), number


@operation("generate_proposals", results=3)
@one_operation(_proposed)
def generate_proposals(
    scores: Tensor,
    bbox_deltas: Tensor,
    im_shape: Tensor,
    anchors: Tensor,
    variances: Tensor,
    *,
    pre_nms_top_n: int,
    post_nms_top_n: int,
    nms_thresh: float,
    min_size: float,
    eta: float = 1.0,
    pixel_offset: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Regions (R, 4) of all images, their scores (R, 1), and how many each image has: the best of decoded anchors.

    scores (N, A, H, W), deltas (N, 4 * A, H, W), anchors and variances (H, W, A, 4), `im_shape` (N, 2).
    """
    offset = 1.0 if pixel_offset else 0.0
    anchor, variance = anchors.reshape(-1, 4), variances.reshape(-1, 4)
    regions, points, counts = [], [], []
    most = math.log(1000.0 / 16.0)
    least = max(min_size, 1.0)
    for image in range(scores.shape[0]):
        score = scores[image].permute(1, 2, 0).reshape(-1)
        delta = bbox_deltas[image].permute(1, 2, 0).reshape(-1, 4)
        size = score.numel() if pre_nms_top_n <= 0 else min(pre_nms_top_n, score.numel())
        score, order = score.sort(dim=0, descending=True, stable=True)
        score, order = score[:size], order[:size]
        a, v, d = anchor[order], variance[order], delta[order]
        aw, ah = a[:, 2] - a[:, 0] + offset, a[:, 3] - a[:, 1] + offset
        cx = v[:, 0] * d[:, 0] * aw + a[:, 0] + 0.5 * aw
        cy = v[:, 1] * d[:, 1] * ah + a[:, 1] + 0.5 * ah
        w = torch.exp((v[:, 2] * d[:, 2]).clamp(max=most)) * aw
        h = torch.exp((v[:, 3] * d[:, 3]).clamp(max=most)) * ah
        height, width = im_shape[image, 0], im_shape[image, 1]
        limits = torch.stack([width, height, width, height]) - offset
        boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2 - offset, cy + h / 2 - offset], 1)
        boxes = torch.minimum(boxes, limits).clamp(min=0)
        bw, bh = boxes[:, 2] - boxes[:, 0] + offset, boxes[:, 3] - boxes[:, 1] + offset
        stays = (bw >= least) & (bh >= least)
        if pixel_offset:
            stays &= (boxes[:, 0] + bw / 2 <= width) & (boxes[:, 1] + bh / 2 <= height)
        boxes, score = boxes[stays], score[stays]
        if boxes.shape[0] == 0:
            boxes, score = boxes.new_zeros((1, 4)), score.new_zeros(1)
        elif nms_thresh > 0:
            enough = post_nms_top_n if post_nms_top_n > 0 else -1
            place = suppress(boxes, torch.zeros_like(score), nms_thresh, eta=eta, offset=offset, enough=enough)
            boxes, score = boxes[place], score[place]
            if post_nms_top_n > 0:
                boxes, score = boxes[:post_nms_top_n], score[:post_nms_top_n]
        regions.append(boxes)
        points.append(score)
        counts.append(boxes.shape[0])
    number = torch.tensor(counts, dtype=torch.int32, device=scores.device)
    return torch.cat(regions), torch.cat(points)[:, None], number


@operation("distribute_fpn_proposals", results=3)
def distribute_fpn_proposals(
    fpn_rois: Tensor,
    rois_num: Tensor | None = None,
    *,
    min_level: int,
    max_level: int,
    refer_level: int,
    refer_scale: int,
    pixel_offset: bool = True,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Regions by the level of a pyramid that their size belongs to, how many of each image, and where each went (R,
    1).
    """
    if not 0 <= max_level - min_level < 100:
        raise ProgramError(f"distribute_fpn_proposals from level {min_level} to {max_level}")
    size = area(fpn_rois, 1.0 if pixel_offset else 0.0).sqrt()
    level = torch.floor(torch.log2(size / refer_scale + 1e-8) + refer_level).clamp(min_level, max_level).to(torch.int64)
    owner = _owners(rois_num, fpn_rois)
    images = 1 if rois_num is None else rois_num.shape[0]
    parts, counts, order = [], [], []
    for number in range(min_level, max_level + 1):
        place = (level == number).nonzero()[:, 0]
        parts.append(fpn_rois[place])
        counts.append(_counted(owner[place], images))
        order.append(place)
    where = torch.cat(order)
    restore = torch.empty_like(where).scatter(0, where, torch.arange(where.numel(), device=where.device))
    return parts, counts, restore.to(torch.int32).reshape(-1, 1)


@operation("collect_fpn_proposals", results=2)
def collect_fpn_proposals(
    multi_level_rois: list[Tensor],
    multi_level_scores: list[Tensor],
    multi_level_rois_num: list[Tensor] | None = None,
    *,
    post_nms_topn: int,
) -> tuple[Tensor, Tensor]:
    """The best regions of all levels, by image, and how many each image has."""
    regions, scores = torch.cat(multi_level_rois), torch.cat(multi_level_scores).reshape(-1)
    if multi_level_rois_num:
        owner = torch.cat(
            [_owners(item, boxes) for item, boxes in zip(multi_level_rois_num, multi_level_rois, strict=True)]
        )
        images = multi_level_rois_num[0].shape[0]
    else:
        owner, images = _owners(None, regions), 1
    best = scores.sort(dim=0, descending=True, stable=True).indices[: max(post_nms_topn, 0)]
    best = best[owner[best].sort(dim=0, stable=True).indices]
    return regions[best], _counted(owner[best], images)
