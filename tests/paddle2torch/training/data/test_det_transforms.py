"""Pages are augmented with their polygons, and become PaddleOCR's label maps, bit for bit.

`paddleocr_transforms.npz` was made by PaddleOCR 2.10.0's own transforms, whose random functions drew from the numpy
generators of the seeds named here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.data.det_transforms import (
    AffineArgs,
    Augmenter,
    CopyPaste,
    DetLabelEncode,
    DetResizeForTest,
    EastRandomCropData,
    FliplrArgs,
    IaaAugment,
    MakeBorderMap,
    MakeShrinkMap,
    NormalizeImage,
    Page,
    PageRequest,
    ResizeArgs,
    ToCHWImage,
)

GOLDEN = np.load(Path(__file__).with_name("paddleocr_transforms.npz"))
MAPS = ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask")


def no_other() -> Page:
    raise AssertionError("no other page is needed")


def request(seed: int = 0, other: Callable[[], Page] = no_other, epoch: int = 0) -> PageRequest:
    return PageRequest(np.random.default_rng(seed), other, epoch)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def page(
    *polygons: list[list[float]], size: tuple[int, int] = (100, 120), ignore: tuple[int, ...] = (), value: int = 0
) -> Page:
    tags = np.array([number in ignore for number in range(len(polygons))], dtype=np.bool_)
    image = np.full((*size, 3), value, dtype=np.uint8)
    return Page(image, polygons=np.array(polygons, dtype=np.float64).reshape(-1, 4, 2), ignore=tags)


def maps(source: Page, *, epoch: int = 0, total_epoch: int | None = None) -> Page:
    with_border = MakeBorderMap(total_epoch=total_epoch)(source, request(epoch=epoch))
    return MakeShrinkMap(total_epoch=total_epoch)(with_border, request(epoch=epoch))


@pytest.mark.parametrize("case", range(4))
def test_label_maps_are_paddleocrs(case: int) -> None:
    image = np.zeros((90, 120, 3), dtype=np.uint8)
    source = Page(image, polygons=GOLDEN[f"polygons{case}"], ignore=GOLDEN[f"ignore{case}"])
    made = maps(source, epoch=case, total_epoch=10)
    for name in MAPS:
        found = getattr(made, name)
        assert found.dtype == np.float32
        assert np.array_equal(found, GOLDEN[f"{name}{case}"]), name


@pytest.mark.parametrize("crop", [0, 1])
def test_official_label_maps(shared: Path, crop: int) -> None:
    labels = np.load(shared / "reference" / "ch_PP-OCRv4_det.labels.npz")
    batch = np.load(shared / "reference" / "ch_PP-OCRv4_det.train.npz")
    # Its polygons are float32, and so are PaddleOCR's sums with them; a pixel or two would differ in float64.
    source = Page(labels[f"crop{crop}"], polygons=labels[f"polys{crop}"], ignore=labels[f"ignore{crop}"])
    made = ToCHWImage()(NormalizeImage("1./255.")(maps(source), request()), request())
    for number, name in enumerate(("image", *MAPS)):
        assert np.array_equal(getattr(made, name), batch[f"batch{number}"][crop]), name


def test_the_maps_of_a_rectangle() -> None:
    made = maps(page(rectangle(20, 30, 100, 60)))
    assert made.threshold_map is not None
    assert made.threshold_mask is not None
    assert made.shrink_map is not None
    assert made.shrink_mask is not None
    # Offset: 80 * 30 * (1 - 0.4^2) / 220 = 9.2 pixels.
    core = np.argwhere(made.shrink_map)
    assert core.min(axis=0).tolist() == [39, 29]
    assert core.max(axis=0).tolist() == [51, 91]
    assert made.shrink_mask.all()
    assert made.threshold_map[30, 60] == pytest.approx(0.7)
    assert made.threshold_map[45, 60] == made.threshold_map[5, 5] == np.float32(0.3)
    assert made.threshold_mask[22, 60] == 1
    assert made.threshold_mask[19, 60] == 0


def test_what_is_not_learnt_from() -> None:
    ignored = rectangle(10, 10, 50, 30)
    small = rectangle(60, 10, 100, 17)
    outside = rectangle(-50, 70, -20, 90)
    made = maps(page(ignored, small, outside, ignore=(0,)))
    assert made.shrink_map is not None
    assert made.shrink_mask is not None
    assert made.threshold_mask is not None
    assert not made.shrink_map.any()
    assert (made.shrink_mask[10:31, 10:51] == 0).all()
    assert (made.shrink_mask[10:18, 60:101] == 0).all()
    assert made.shrink_mask[40:60].all()
    # The small line still has an edge.
    assert made.threshold_mask[10, 80] == 1
    assert made.threshold_mask[10, 30] == 0


@pytest.mark.parametrize(
    "polygon",
    [
        [[5, 5]] * 4,
        [[5, 5], [60, 5], [60, 5], [5, 5]],
        [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]],
        [[10, 10], [90, 80], [90, 10], [10, 80]],
        [[1e6, 1e6], [1e6, 1e6 + 9], [1e6 + 9, 1e6 + 9], [1e6 + 9, 1e6]],
    ],
)
def test_strange_polygons(polygon: list[list[float]]) -> None:
    made = maps(page(polygon, rectangle(20, 30, 100, 60)))
    for name in MAPS:
        values = getattr(made, name)
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_crops_are_paddleocrs(seed: int) -> None:
    source = Page(GOLDEN["page"], polygons=GOLDEN["page_polygons"], ignore=np.array([False, True, False]))
    crop = EastRandomCropData((96, 64), 50)(source, request(seed))
    assert np.array_equal(crop.image, GOLDEN[f"crop{seed}"])
    assert np.array_equal(crop.polygons, GOLDEN[f"crop_polygons{seed}"])


def test_crops_cut_no_line() -> None:
    # The first line leaves the page on the left, where PaddleOCR does not see it and may cut it. The last one
    # is there because what is before the last gap is never in a crop.
    lines = page(
        rectangle(-50, 10, 20, 30),
        rectangle(40, 45, 60, 60),
        rectangle(75, 70, 95, 80),
        rectangle(105, 85, 115, 95),
        value=9,
    )
    counts = set()
    for seed in range(60):
        crop = EastRandomCropData((64, 64), 50)(lines, request(seed))
        assert crop.image.shape == (64, 64, 3)
        # What is not the page is black.
        size = np.argwhere(crop.image[:, :, 0])[:, ::-1].max(axis=0) + 1
        inside = 0
        for polygon in crop.polygons:
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            if (high < 1e-6).any() or (low > size - 1e-6).any():
                continue  # its edge is the edge of the crop
            inside += 1
            width, height = high - low
            if width / height == pytest.approx(70 / 20):
                low[0] += 50 * height / 20
            assert (low > -1e-6).all()
            assert (high < size + 1).all()
        counts.add(inside)
    assert {1, 2} <= counts


def test_a_page_full_of_text_is_taken_whole() -> None:
    crop = EastRandomCropData((64, 32), 50)(page(rectangle(0, 0, 120, 100)), request())
    assert crop.polygons[0, 2].tolist() == pytest.approx([38.4, 32])
    assert len(EastRandomCropData((64, 32))(page(), request()).polygons) == 0
    with pytest.raises(ConfigError, match="keep_ratio must be true"):
        EastRandomCropData(keep_ratio=False)


def test_very_flat_pages() -> None:
    crop = EastRandomCropData((64, 64), 5)(page(rectangle(10, 0, 900, 2), size=(3, 5000)), request())
    assert crop.image.shape == (64, 64, 3)


def dots(*places: tuple[int, int]) -> Page:
    """A page with a bright spot on each corner of its polygon."""
    source = page([[float(x), float(y)] for x, y in places], size=(150, 200))
    for x, y in places:
        cv2.circle(source.image, (x, y), 3, (255, 255, 255), -1)
    return source


def brightest(image: NDArray[np.uint8], near: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    x, y = np.maximum(near.astype(int) - reach, 0)
    part = image[y : y + 2 * reach, x : x + 2 * reach, 0].astype(np.float64)
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    return np.array([(columns * part).sum(), (rows * part).sum()]) / part.sum() + (x, y)


@pytest.mark.parametrize(
    ("augmenters", "tolerance"),
    [
        ((Augmenter("Fliplr", FliplrArgs(1.0)),), 1e-6),
        ((Augmenter("Affine", AffineArgs((10, 10))),), 0.1),
        ((Augmenter("Affine", AffineArgs((-10, -10))),), 0.1),
        # cv2.resize keeps edges in place, the factor keeps 0 in place: half a pixel of the source between them.
        ((Augmenter("Resize", ResizeArgs((3, 3))),), 1.1),
        ((Augmenter("Resize", ResizeArgs((0.5, 0.5))),), 0.5),
        (IaaAugment().augmenter_args, 1.2),
    ],
)
def test_polygons_go_with_the_picture(augmenters: tuple[Augmenter, ...], tolerance: float) -> None:
    source = dots((60, 50), (140, 45), (150, 90), (55, 100))
    for seed in range(4):
        made = IaaAugment(augmenters)(source, request(seed))
        for point in made.polygons[0]:
            assert np.abs(brightest(made.image, point, 12) - point).max() < tolerance


def test_resizing_follows_the_rounded_size() -> None:
    made = IaaAugment((Augmenter("Resize", ResizeArgs((0.75, 0.75))),))(
        page(rectangle(0, 0, 101, 99), size=(99, 101)), request()
    )
    assert made.image.shape[:2] == (74, 75)
    assert made.polygons[0, 2].tolist() == pytest.approx([75, 74])


def test_augmenters_are_checked() -> None:
    with pytest.raises(ConfigError, match="the args of Fliplr are those of FliplrArgs"):
        Augmenter("Fliplr", ResizeArgs((1, 2)))
    with pytest.raises(ConfigError, match="size is 0: it must be a number from"):
        ResizeArgs((0, 3))


def test_pasted_lines() -> None:
    other = page(*(rectangle(10, 10 * n, 40, 10 * n + 8) for n in range(1, 9)), value=200, ignore=(7,))
    target = page(rectangle(100, 100, 160, 120), size=(300, 300))
    counts = set()
    for seed in range(30):
        made = CopyPaste(0.5)(target, request(seed, lambda: other))
        counts.add(len(made.polygons))
        assert not target.image.any()
        inside = np.zeros((300, 300), dtype=np.uint8)
        for number, polygon in enumerate(made.polygons[1:], 1):
            shape = np.zeros((300, 300), dtype=np.uint8)
            cv2.fillPoly(shape, [np.round(polygon).astype(np.int32)], 1)
            # Nothing touches another line, and its polygon is where the pixels went.
            assert not (inside & shape).any()
            inside |= shape
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            for before in made.polygons[:number]:
                assert (before.max(axis=0) < low).any() or (before.min(axis=0) > high).any()
        changed = made.image[:, :, 0] == 200
        assert changed.any()
        # Corners are rounded to draw them: what is nearer than two pixels to an edge is not compared.
        near = np.ones((5, 5), dtype=np.uint8)
        edge = cv2.dilate(inside, near) - cv2.erode(inside, near)
        assert np.array_equal(changed[edge == 0], inside[edge == 0] == 1)
        assert not made.ignore.any()
    # Half of 8, unless no place was found.
    assert max(counts) == 5


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_right_angles_lose_no_pixel(angle: int) -> None:
    class Fixed:
        def permutation(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
            return values

        def integers(self, low: int, high: int | None = None) -> int:
            return 7 if high is None else angle

    other = page(rectangle(10, 10, 40, 22), value=200)
    made = CopyPaste()(page(size=(80, 80)), PageRequest(Fixed(), lambda: other))  # type: ignore[arg-type]
    width, height = (30, 12) if angle in (0, 180) else (12, 30)
    assert np.array_equal(np.argwhere(made.image[:, :, 0] == 200).min(axis=0), [7, 7])
    assert (made.image[7 : 7 + height, 7 : 7 + width, 0] == 200).all()
    assert (made.image == 200).sum() == 3 * 30 * 12
    assert np.allclose(made.polygons[0].min(axis=0), [7, 7])
    assert np.allclose(made.polygons[0].max(axis=0), [7 + width, 7 + height])


def test_pages_without_anything_to_paste() -> None:
    target = page(rectangle(10, 10, 60, 30))
    for other in (page(value=9), page(rectangle(1, 1, 1, 9), value=9), page(rectangle(0, 0, 9, 9), ignore=(0,))):
        made = CopyPaste()(target, request(0, lambda other=other: other))  # type: ignore[misc]
        assert np.array_equal(made.polygons, target.polygons)
        assert not made.image.any()
    hexagon = replace(target, polygons=np.zeros((1, 6, 2)))
    assert CopyPaste()(target, request(0, lambda: hexagon)) is target


def test_lines_pasted_among_longer_polygons() -> None:
    hexagons = np.array([[[10, 10], [30, 8], [50, 10], [50, 20], [30, 22], [10, 20]]], dtype=np.float64)
    target = replace(page(size=(200, 200)), polygons=hexagons, ignore=np.array([True]))
    made = CopyPaste()(target, request(0, lambda: page(rectangle(0, 0, 30, 10), value=9)))
    assert made.polygons.shape == (2, 6, 2)
    assert made.polygons[1, 3:].tolist() == [made.polygons[1, 3].tolist()] * 3
    assert made.ignore.tolist() == [True, False]


def test_labels_become_polygons() -> None:
    label = '[{"transcription": "*", "points": [[1, 2], [3, 2], [3, 4], [1, 4]]}]'
    made = DetLabelEncode()(Page(np.zeros((9, 9, 3), dtype=np.uint8), label), request())
    assert made.polygons.tolist() == [[[1, 2], [3, 2], [3, 4], [1, 4]]]
    assert made.ignore.tolist() == [True]


def test_sizes_for_evaluation() -> None:
    made = DetResizeForTest()(page(size=(100, 300)), request())
    assert made.image.shape == (736, 2208, 3)
    assert made.shape is not None
    assert made.shape.tolist() == pytest.approx([100, 300, 7.36, 7.36])
    # As PaddleOCR's types 1 and 2: one size, one height, and the longer side up to multiples of 128.
    assert DetResizeForTest(image_shape=(64, 96))(page(size=(100, 300)), request()).image.shape == (64, 96, 3)
    kept = DetResizeForTest(image_shape=(64, 96), keep_ratio=True)(page(size=(100, 310)), request())
    assert kept.image.shape == (64, 224, 3)
    assert kept.shape is not None
    assert kept.shape[2:].tolist() == pytest.approx([0.64, 224 / 310])
    assert DetResizeForTest(resize_long=600)(page(size=(100, 300)), request()).image.shape == (256, 640, 3)
    with pytest.raises(ConfigError, match="take one of limit_side_len, resize_long and image_shape"):
        DetResizeForTest(resize_long=600, image_shape=(64, 96))
    tiny = DetResizeForTest(960, "max")(page(size=(10, 40)), request())
    assert tiny.image.shape == (32, 32, 3)
    assert tiny.shape is not None
    assert tiny.shape.tolist() == [32, 40, 1, np.float32(0.8)]


@pytest.mark.parametrize("scale", ["1./255.", "1/255", 1 / 255])
def test_normalising(scale: float | str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    made = NormalizeImage(scale)(Page(image), request()).image
    mean, std = (np.array(values, dtype=np.float32) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert np.array_equal(made, (image.astype(np.float32) * np.float32(1 / 255) - mean) / std)
    assert ToCHWImage()(Page(made), request()).image.shape == (3, 5, 6)


def test_a_scale_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="scale must be a number or a quotient, not '__import__'"):
        NormalizeImage("__import__").factor  # noqa: B018
