"""Boxes of detectors: priors, decoding, clipping. Batched over boxes and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paddle2torch.model_zoo.programs.operations.overlaps import overlap
from paddle2torch.model_zoo.programs.table import ProgramError, operation


@operation("yolo_box", results=2)
def yolo_box(
    x: Tensor,
    img_size: Tensor,
    *,
    anchors: Sequence[int] = (),
    class_num: int = 1,
    conf_thresh: float = 0.01,
    downsample_ratio: int = 32,
    clip_bbox: bool = True,
    scale_x_y: float = 1.0,
    iou_aware: bool = False,
    iou_aware_factor: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Boxes (N, A * H * W, 4) in pixels of the image and scores (N, A * H * W, C); zeros below the threshold."""
    count = len(anchors) // 2
    n, _, height, width = x.shape
    kind: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    if iou_aware:
        iou, x = x[:, :count], x[:, count:]
    x = x.reshape(n, count, 5 + class_num, height, width)
    image_h = img_size[:, 0].to(x.dtype).view(-1, 1, 1, 1)
    image_w = img_size[:, 1].to(x.dtype).view(-1, 1, 1, 1)
    sizes = torch.tensor(list(anchors), **kind).view(count, 2)
    bias = -0.5 * (scale_x_y - 1.0)
    column = torch.arange(width, **kind).view(1, 1, 1, -1)
    row = torch.arange(height, **kind).view(1, 1, -1, 1)
    cx = (column + torch.sigmoid(x[:, :, 0]) * scale_x_y + bias) * image_w / width
    cy = (row + torch.sigmoid(x[:, :, 1]) * scale_x_y + bias) * image_h / height
    w = torch.exp(x[:, :, 2]) * sizes[:, 0].view(1, -1, 1, 1) * image_w / (downsample_ratio * width)
    h = torch.exp(x[:, :, 3]) * sizes[:, 1].view(1, -1, 1, 1) * image_h / (downsample_ratio * height)
    confidence = torch.sigmoid(x[:, :, 4])
    if iou_aware:
        confidence = confidence.pow(1.0 - iou_aware_factor) * torch.sigmoid(iou).pow(iou_aware_factor)
    sure = confidence >= conf_thresh
    x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if clip_bbox:
        x1, y1 = x1.clamp(min=0), y1.clamp(min=0)
        x2, y2 = torch.minimum(x2, image_w - 1), torch.minimum(y2, image_h - 1)
    boxes = torch.stack([x1, y1, x2, y2], -1) * sure.unsqueeze(-1)
    scores = (confidence.unsqueeze(2) * torch.sigmoid(x[:, :, 5:])) * sure.unsqueeze(2)
    return boxes.reshape(n, -1, 4), scores.permute(0, 1, 3, 4, 2).reshape(n, -1, class_num)


def _aspects(ratios: Sequence[float], flip: bool) -> list[float]:
    found = [1.0]
    for ratio in ratios:
        if any(abs(ratio - other) < 1e-6 for other in found):
            continue
        found.append(ratio)
        if flip:
            found.append(1.0 / ratio)
    return found


@operation("prior_box", results=2)
def prior_box(
    input: Tensor,
    image: Tensor,
    *,
    min_sizes: Sequence[float],
    max_sizes: Sequence[float] = (),
    aspect_ratios: Sequence[float] = (),
    variances: Sequence[float] = (),
    flip: bool = True,
    clip: bool = True,
    step_w: float = 0.0,
    step_h: float = 0.0,
    offset: float = 0.5,
    min_max_aspect_ratios_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """Boxes at each cell of a map, in parts of the image: (H, W, boxes, 4), and their variances."""
    height, width = input.shape[2], input.shape[3]
    image_h, image_w = image.shape[2], image.shape[3]
    halves: list[tuple[float, float]] = []
    ratios = _aspects(aspect_ratios, flip)
    for index, small in enumerate(min_sizes):
        between = math.sqrt(small * max_sizes[index]) / 2.0 if max_sizes else None
        if min_max_aspect_ratios_order:
            halves.append((small / 2.0, small / 2.0))
            if between is not None:
                halves.append((between, between))
            rest = [ratio for ratio in ratios if abs(ratio - 1.0) >= 1e-6]
            halves += [(small * math.sqrt(ratio) / 2.0, small / math.sqrt(ratio) / 2.0) for ratio in rest]
        else:
            halves += [(small * math.sqrt(ratio) / 2.0, small / math.sqrt(ratio) / 2.0) for ratio in ratios]
            if between is not None:
                halves.append((between, between))
    kind: dict[str, Any] = {"dtype": input.dtype, "device": input.device}
    sizes = torch.tensor(halves, **kind)
    across = step_w if step_w and step_h else image_w / width
    down = step_h if step_w and step_h else image_h / height
    cx = ((torch.arange(width, **kind) + offset) * across).view(1, -1, 1)
    cy = ((torch.arange(height, **kind) + offset) * down).view(-1, 1, 1)
    w, h = sizes[:, 0].view(1, 1, -1), sizes[:, 1].view(1, 1, -1)
    shape = (height, width, len(halves))
    edges = [(cx - w) / image_w, (cy - h) / image_h, (cx + w) / image_w, (cy + h) / image_h]
    boxes = torch.stack([edge.expand(shape) for edge in edges], -1)
    boxes = boxes.clamp(0.0, 1.0) if clip else boxes
    return boxes, torch.tensor(list(variances), **kind).expand(*shape, 4).clone()


@operation("box_coder", choices={"code_type": ("encode_center_size", "decode_center_size")})
def box_coder(
    prior_box: Tensor,
    prior_box_var: Tensor | None,
    target_box: Tensor,
    *,
    code_type: str = "encode_center_size",
    box_normalized: bool = True,
    axis: int = 0,
    variance: Sequence[float] = (),
) -> Tensor:
    """Boxes relative to priors (encode), or back (decode, priors along `axis`): centre and size, over the variances."""
    offset = 0.0 if box_normalized else 1.0

    def centred(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width, height = boxes[..., 2] - boxes[..., 0] + offset, boxes[..., 3] - boxes[..., 1] + offset
        return boxes[..., 0] + width / 2, boxes[..., 1] + height / 2, width, height

    kind: dict[str, Any] = {"dtype": target_box.dtype, "device": target_box.device}
    if prior_box_var is not None:
        spread = prior_box_var if prior_box_var.ndim == 2 else prior_box_var.reshape(1, 4)
    else:
        spread = torch.tensor(list(variance) or [1.0] * 4, **kind).view(1, 4)
    if code_type == "encode_center_size":
        px, py, pw, ph = (item[None] for item in centred(prior_box))
        tx, ty = (
            (target_box[:, None, 0] + target_box[:, None, 2]) / 2,
            (target_box[:, None, 1] + target_box[:, None, 3]) / 2,
        )
        tw = target_box[:, None, 2] - target_box[:, None, 0] + offset
        th = target_box[:, None, 3] - target_box[:, None, 1] + offset
        coded = torch.stack(
            [(tx - px) / pw, (ty - py) / ph, torch.log((tw / pw).abs()), torch.log((th / ph).abs())], -1
        )
        return coded / spread[None]
    place = 0 if axis == 0 else 1
    px, py, pw, ph = (item.unsqueeze(place) for item in centred(prior_box))
    spread = spread.unsqueeze(place)
    cx = spread[..., 0] * target_box[..., 0] * pw + px
    cy = spread[..., 1] * target_box[..., 1] * ph + py
    w = torch.exp(spread[..., 2] * target_box[..., 2]) * pw
    h = torch.exp(spread[..., 3] * target_box[..., 3]) * ph
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2 - offset, cy + h / 2 - offset], -1)


@operation("box_clip")
def box_clip(input: Tensor, im_info: Tensor) -> Tensor:
    """Boxes held within their image, of (height, width, scale)."""
    if im_info.shape[0] != 1:
        raise ProgramError("box_clip of several images is not known")
    height, width = torch.round(im_info[0, 0] / im_info[0, 2]) - 1, torch.round(im_info[0, 1] / im_info[0, 2]) - 1
    shape = input.shape
    flat = input.reshape(-1, 4)
    limits = torch.stack([width, height, width, height])
    return torch.minimum(flat.clamp(min=0), limits).reshape(shape)


@operation("anchor_generator", results=2)
def anchor_generator(
    input: Tensor,
    *,
    anchor_sizes: Sequence[float],
    aspect_ratios: Sequence[float],
    variances: Sequence[float],
    stride: Sequence[float] = (),
    offset: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Anchors (H, W, A, 4) in pixels, and their variances."""
    kind: dict[str, Any] = {"dtype": input.dtype, "device": input.device}
    height, width = input.shape[2], input.shape[3]
    across, down = stride[0], stride[1]
    halves = []
    for ratio in aspect_ratios:
        base_w = math.floor(math.sqrt(across * down / ratio) + 0.5)
        base_h = math.floor(base_w * ratio + 0.5)
        halves += [((size / across * base_w - 1) / 2, (size / down * base_h - 1) / 2) for size in anchor_sizes]
    sizes = torch.tensor(halves, **kind)
    cx = (torch.arange(width, **kind) * across + offset * (across - 1)).view(1, -1, 1)
    cy = (torch.arange(height, **kind) * down + offset * (down - 1)).view(-1, 1, 1)
    w, h = sizes[:, 0].view(1, 1, -1), sizes[:, 1].view(1, 1, -1)
    shape = (height, width, len(halves))
    anchors = torch.stack([edge.expand(shape) for edge in (cx - w, cy - h, cx + w, cy + h)], -1)
    return anchors, torch.tensor(list(variances), **kind).expand(*shape, 4).clone()


@operation("iou_similarity")
def iou_similarity(x: Tensor, y: Tensor, *, box_normalized: bool = True) -> Tensor:
    """Intersection over union of each box of x with each of y."""
    return overlap(x[:, None], y[None], 0.0 if box_normalized else 1.0)
