"""How far boxes and polygons cover one another."""

from __future__ import annotations

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.table import ProgramError

_PAIRS_AT_ONCE = 1 << 14


def area(boxes: Tensor, offset: float) -> Tensor:
    """Areas of (…, 4) boxes; 0 of those that are turned round."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.where((width < 0) | (height < 0), torch.zeros_like(width), (width + offset) * (height + offset))


def overlap(a: Tensor, b: Tensor, offset: float) -> Tensor:
    """Intersection over union of (…, 4) boxes, broadcast; 0 where they do not touch."""
    x1, y1 = torch.maximum(a[..., 0], b[..., 0]), torch.maximum(a[..., 1], b[..., 1])
    x2, y2 = torch.minimum(a[..., 2], b[..., 2]), torch.minimum(a[..., 3], b[..., 3])
    apart = (x2 < x1) | (y2 < y1)
    inside = (x2 - x1 + offset) * (y2 - y1 + offset)
    union = area(a, offset) + area(b, offset) - inside
    return torch.where(apart, torch.zeros_like(inside), inside / union)


def polygon_overlaps(a: Tensor, b: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union of each polygon of `a` with each of `b` where `wanted` (A, B) says so, else 0: (A, B).

    a, b: (…, 2 * corners), x and y in turns. Raises `ProgramError` for polygons of more than four corners that cross
    themselves.
    """
    first, second = a.unflatten(1, (-1, 2)), b.unflatten(1, (-1, 2))
    low_a, high_a = first.amin(1), first.amax(1)
    low_b, high_b = second.amin(1), second.amax(1)
    near = (low_a[:, None] < high_b[None]) & (low_b[None] < high_a[:, None])
    i, j = (wanted & near.all(2)).nonzero().unbind(1)
    table = torch.zeros_like(wanted, dtype=a.dtype)
    if i.numel():
        # In float64, as Paddle's clipper has it.
        tri_a, weights_a = _triangles(first.double())
        tri_b, weights_b = _triangles(second.double())
        parts = [
            _common_area(tri_a[p], weights_a[p], tri_b[q], weights_b[q])
            for p, q in zip(i.split(_PAIRS_AT_ONCE), j.split(_PAIRS_AT_ONCE), strict=True)
        ]
        common = torch.cat(parts).to(a.dtype)
        size_a, size_b = _shoelace(first.double()).abs().to(a.dtype), _shoelace(second.double()).abs().to(a.dtype)
        none = (size_a[i] == 0) | (size_b[j] == 0) | (common == 0)
        union = torch.where(none, torch.ones_like(common), size_a[i] + size_b[j] - common)
        table[i, j] = torch.where(none, torch.zeros_like(common), common / union)
    return table


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def _shoelace(corners: Tensor) -> Tensor:
    """Signed areas of (…, corners, 2) polygons."""
    return _cross(corners, corners.roll(-1, -2)).sum(-1) / 2


def _crossing(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Whether the inner parts of the segments a to b and c to d cross."""
    one, two = _cross(b - a, c - a), _cross(b - a, d - a)
    three, four = _cross(d - c, a - c), _cross(d - c, b - c)
    return (one * two < 0) & (three * four < 0)


def _triangles(corners: Tensor) -> tuple[Tensor, Tensor]:
    """(P, corners, 2) polygons as sums of triangles turned the same way (P, n, 3, 2), and the sign of each (P, n).

    A polygon is the signed sum of the triangles from its first corner. Four corners of which two edges cross are the
    two triangles that they enclose.
    """
    count = corners.shape[1]
    fan = torch.stack(
        [corners[:, :1].expand(-1, count - 2, -1), corners[:, 1:-1], corners[:, 2:]], 2
    )  # (P, corners - 2, 3, 2)
    areas = _shoelace(fan)
    weights = torch.sign(areas) * torch.sign(areas.sum(1, keepdim=True))
    if count == 4:
        a, b, c, d = corners.unbind(1)
        for one, two, three, four in ((a, b, c, d), (b, c, d, a)):
            crossed = _crossing(one, two, three, four)
            along, across = two - one, four - three
            turn = _cross(along, across)
            share = _cross(three - one, across) / torch.where(crossed, turn, torch.ones_like(turn))
            middle = one + share[:, None] * along
            bow = torch.stack([torch.stack([middle, two, three], 1), torch.stack([middle, four, one], 1)], 1)
            fan = torch.where(crossed[:, None, None, None], bow, fan)
            weights = torch.where(crossed[:, None], torch.ones_like(weights), weights)
    elif count > 4:
        starts, ends = corners, corners.roll(-1, 1)
        crossed = _crossing(starts[:, :, None], ends[:, :, None], starts[:, None], ends[:, None])
        if bool(crossed.any()):
            raise ProgramError(f"a polygon of {count} corners crosses itself: what it covers is not known here")
    turned = _shoelace(fan) < 0
    fan = torch.where(turned[..., None, None], fan.flip(2), fan)
    return fan, weights


def _common_area(a: Tensor, weights_a: Tensor, b: Tensor, weights_b: Tensor) -> Tensor:
    """(P,) areas that two polygons have in common, each a sum of triangles."""
    subject = a[:, :, None].expand(-1, -1, b.shape[1], -1, -1)
    clip = b[:, None].expand(-1, a.shape[1], -1, -1, -1)
    for edge in range(3):
        start, end = clip[..., edge, :], clip[..., (edge + 1) % 3, :]
        subject = _clipped(subject, start[..., None, :], end[..., None, :])
    areas = _shoelace(subject).clamp(min=0)
    return (areas * weights_a[:, :, None] * weights_b[:, None]).sum((1, 2)).clamp(min=0)


def _clipped(polygon: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """What of a polygon (…, n, 2) lies left of a line: (…, 2 * n, 2).

    Corners on the other side are moved to the line, straight; between two that are on different sides the point where
    the edge meets the line is put in. Steps along the line enclose no area, so the area is that of the part.
    """
    along = end - start
    length = along.square().sum(-1).clamp(min=1e-300)
    side = _cross(along.expand_as(polygon), polygon - start)
    normal = torch.stack([-along[..., 1], along[..., 0]], -1)
    held = polygon - normal * (side.clamp(max=0) / length)[..., None]
    following, side_after = polygon.roll(-1, -2), side.roll(-1, -1)
    crosses = (side > 0) != (side_after > 0)
    share = side / torch.where(crosses & (side != side_after), side - side_after, torch.ones_like(side))
    meeting = polygon + (following - polygon) * share[..., None]
    between = torch.where(crosses[..., None], meeting, held)
    return torch.stack([held, between], -2).flatten(-3, -2)
