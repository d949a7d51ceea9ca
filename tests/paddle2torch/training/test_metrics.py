"""Metrics against PaddleOCR's definitions; polygons against Shapely's verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from paddle2torch.training.metrics import DetMetric, RecMetric, ctc_texts, label_texts, simple

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=np.float32)


def right(pixels: int) -> np.ndarray:
    """The square, so far to the right."""
    return SQUARE + np.array([pixels, 0], dtype=np.float32)


def edit_distance(a: str, b: str) -> int:
    """By its definition: insertions, deletions and substitutions of a character that turn one text into the other."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def test_the_edit_distance_is_by_its_definition() -> None:
    for a, b, distance in (("kitten", "sitting", 3), ("flaw", "lawn", 2), ("", "ab", 2)):
        assert edit_distance(a, b) == distance
    rng = np.random.default_rng(0)
    alphabet = np.array(list("abcä中𠀀e\u0301 "))
    for _ in range(2000):
        a, b = ("".join(rng.choice(alphabet, rng.integers(0, 30))) for _ in range(2))
        metric = RecMetric(ignore_space=False)
        metric.add([a], [b])
        longer = max(len(a), len(b))
        expected = edit_distance(a, b) / longer if longer else 0.0
        assert metric.counts.tolist() == [a == b, expected, 1]


def test_greedy_ctc() -> None:
    ids = np.array([[0, 1, 1, 0, 1, 2, 2, 0], [3, 3, 3, 0, 0, 0, 2, 0], [0] * 8])
    assert ctc_texts(ids, "abc") == ["aab", "cb", ""]
    assert label_texts(np.array([[1, 1, 2, 0], [3, 0, 0, 0]]), np.array([3, 1]), "abc") == ["aab", "c"]


def test_rec_metric_is_paddles() -> None:
    metric = RecMetric(ignore_space=False)
    metric.add(["abc", "abd"], ["abc", "abc"])
    metric.add([""], ["xy"])
    assert metric.result() == {
        "acc": pytest.approx(1 / (3 + 1e-5), rel=1e-12),
        "norm_edit_dis": pytest.approx(1 - (1 / 3 + 1) / (3 + 1e-5), rel=1e-12),
    }


def test_spaces_and_signs_can_be_left_out() -> None:
    assert RecMetric().result() == {"acc": 0, "norm_edit_dis": 1}
    for ignore, acc in ((True, 1), (False, 0)):
        metric = RecMetric(ignore_space=ignore)
        metric.add(["a b"], ["ab"])
        assert metric.result()["acc"] == pytest.approx(acc, abs=1e-4)
    metric = RecMetric(is_filter=True)
    metric.add(["Ab-é1"], ["aB1"])
    assert metric.result()["acc"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("polygon", "valid"),
    [
        (SQUARE, True),
        (SQUARE[::-1], True),
        (SQUARE[[0, 2, 1, 3]], False),  # crosses itself
        (SQUARE[[0, 1, 2, 3, 3, 3]], True),  # as labels of different lengths are padded
        ([[0, 0], [4, 0], [8, 0]], False),  # no area
        ([[0, 0], [4, 0], [4, 0]], False),
        ([[0, 0], [4, 0], [8, 0], [8, 4]], True),  # a corner of 180 degrees
        ([[0, 0], [8, 0], [4, 0], [4, 4]], False),  # folds back on itself
        ([[0, 0], [8, 0], [8, 8], [4, 0], [0, 8]], False),  # touches itself
        ([[0, 0], [float("nan"), 0], [1, 1]], False),
    ],
)
def test_valid_polygons_are_shapelys(polygon: np.ndarray, valid: bool) -> None:
    assert simple(np.asarray(polygon)) is valid


def test_overlap_decides_matches() -> None:
    """IoU of squares shifted by 3 of 10: 70 / 130; by 4: 60 / 140."""
    for shift, hmean in ((3, 1.0), (4, 0.0)):
        metric = DetMetric()
        metric.add([right(shift)], [SQUARE], [False])
        assert metric.result()["hmean"] == hmean


def test_polygons_need_not_be_convex() -> None:
    """An L of area 75 in its square of 100."""
    corner = np.array([[0, 0], [10, 0], [10, 5], [5, 5], [5, 10], [0, 10]], dtype=np.float32)
    for constraint, matched in ((0.74, 1), (0.76, 0)):
        metric = DetMetric(iou_constraint=constraint)
        metric.add([corner], [SQUARE], [False])
        assert metric.counts.tolist() == [matched, 1, 1]


def test_micro_average_over_pages() -> None:
    metric = DetMetric()
    metric.add([SQUARE], [SQUARE, right(50)], [False, False])
    metric.add([SQUARE, right(50), right(90)], [SQUARE], [False])
    assert metric.result() == {"precision": 0.5, "recall": pytest.approx(2 / 3), "hmean": pytest.approx(4 / 7)}


def test_ignored_text_counts_neither_way() -> None:
    metric = DetMetric()
    # Found inside a region to be ignored, and more than half inside it: neither is a mistake. Less than half is one.
    metric.add([SQUARE, right(4), right(6)], [SQUARE], [True])
    assert metric.counts.tolist() == [0, 1, 0]
    assert metric.result() == {"precision": 0, "recall": 0, "hmean": 0}


def test_one_box_matches_one_polygon() -> None:
    metric = DetMetric()
    metric.add([SQUARE, right(1)], [SQUARE], [False])
    assert metric.counts.tolist() == [1, 2, 1]
    metric = DetMetric()
    metric.add([SQUARE[[0, 2, 1, 3]]], [SQUARE, SQUARE[[0, 2, 1, 3]]], [False, False])
    assert metric.counts.tolist() == [0, 0, 1]
