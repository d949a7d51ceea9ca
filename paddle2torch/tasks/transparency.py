"""What transparent pictures are laid on: white, as PaddleOCR has it, unless things that are drawn are lost there."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

STRIP_PIXELS = 2**20  # pixels that are converted at a time

WHITE, BLACK, GREY = 255, 0, 128
"""What transparent pictures are laid on."""
# A difference that a letter has to what it stands on, at the least, to be read with some certainty.
_EDGE = 40
# Of the alpha of what is seen at all.
_SEEN = 48
# Pixels of the smallest thing: the dot of an i.
_SPECK = 6
# A thing has an inside where that is so much of it; and is seen where so much of its inside stands out.
_INSIDE = 0.15
_SHARE_INSIDE = 0.002
# The share of the things that may be lost on white: ornaments.
_LOST_AT_MOST = 0.05


def ground_of(strips: Iterable[npt.NDArray[np.uint8]], name: str) -> int:
    """The grey on which a picture of BGRA strips is laid: white, unless things that are drawn are lost there.

    A thing is what hangs together of what is not transparent: a letter, or a card with all that is on it.
    """
    things = 0
    lost = dict.fromkeys((WHITE, BLACK, GREY), 0)
    for strip in strips:
        if strip.shape[2:] == (4,) and strip[:, :, 3].min() < 255:
            real, unseen = _lost_things(np.ascontiguousarray(strip))
            things += real
            for ground, count in unseen.items():
                lost[ground] += count
    best = BLACK if lost[BLACK] <= lost[GREY] else GREY
    if lost[WHITE] <= _LOST_AT_MOST * things or lost[best] >= lost[WHITE]:
        return WHITE
    warnings.warn(
        f"{name} is transparent, and much of what is drawn on it would be lost on white: it is laid on "
        f"{'black' if best == BLACK else 'grey'}",
        stacklevel=2,
    )
    return best


def _lost_things(strip: npt.NDArray[np.uint8]) -> tuple[int, dict[int, int]]:
    """How many things there are, and how many of them cannot be seen on each of the greys."""
    seen = (strip[:, :, 3] >= _SEEN).astype(np.uint8)
    count, labels = cv2.connectedComponents(seen, connectivity=8, ltype=cv2.CV_32S)
    areas = np.bincount(labels.ravel(), minlength=count)
    # The rim of a letter may be of another colour, from smoothing. What is too thin has no inside.
    inside = cv2.erode(seen, np.ones((3, 3), np.uint8)).astype(bool)
    inner = np.bincount(labels[inside], minlength=count)
    thick = inner >= _INSIDE * areas
    real = (areas >= _SPECK) & (np.arange(count) > 0)
    lost = {}
    for ground in (WHITE, BLACK, GREY):
        laid = lay_on(ground, strip).astype(np.int16)
        stands_out = np.abs(laid - ground).max(axis=2) > _EDGE
        within = np.bincount(labels[stands_out & inside], minlength=count)
        all_over = np.bincount(labels[stands_out], minlength=count)
        visible = np.where(thick, within >= np.maximum(1, _SHARE_INSIDE * inner), all_over >= areas / 2)
        lost[ground] = int((real & ~visible).sum())
    return int(real.sum()), lost


def lay_on(ground: int, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """BGRA on a grey, truncated from float64 to whole values as PaddleOCR has it."""
    lowest, highest = image[:, :, 3].min(), image[:, :, 3].max()
    if lowest == 255:
        return np.ascontiguousarray(image[:, :, :3])
    if highest == 0:
        return np.full((*image.shape[:2], 3), ground, np.uint8)
    result = np.empty((*image.shape[:2], 3), np.uint8)
    rows = max(STRIP_PIXELS // image.shape[1], 1)
    for top in range(0, len(image), rows):
        strip = image[top : top + rows]
        result[top : top + rows] = _table(ground)[strip[:, :, 3:], strip[:, :, :3]]
    return result


@functools.cache
def _table(ground: int) -> npt.NDArray[np.uint8]:
    """By alpha and value, what is laid on that grey. The composition is in float64."""
    alpha = np.arange(256)[:, None] / 255
    return np.asarray(ground * (1 - alpha) + np.arange(256)[None] * alpha).astype(np.uint8)
