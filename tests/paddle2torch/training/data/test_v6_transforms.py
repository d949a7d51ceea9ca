"""PP-OCRv6's augmentation: polygons go where their pixels go, and the distributions are PaddleOCR's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import from_json, to_json
from paddle2torch.training.data.det_transforms import AffineArgs, Augmenter, IaaAugment, Page, PageRequest
from paddle2torch.training.data.loaders import build_loader
from paddle2torch.training.data.v6_transforms import ColorJitter, RandomCrop, RandomPerspective
from paddle2torch.training.official import official_settings
from paddle2torch.training.settings import Settings


def no_other() -> Page:
    raise AssertionError("no other page is needed")


def request(seed: int = 0) -> PageRequest:
    return PageRequest(np.random.default_rng(seed), no_other)


def square(left: float, top: float, side: float) -> NDArray[np.float64]:
    return np.array([[left, top], [left + side, top], [left + side, top + side], [left, top + side]], dtype=np.float64)


def marked(*polygons: NDArray[np.float64], size: tuple[int, int] = (120, 160), ignore: tuple[int, ...] = ()) -> Page:
    """A black page with white polygons."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    for polygon in polygons:
        cv2.fillPoly(image, [polygon.astype(np.int32)], (255, 255, 255))
    tags = np.array([number in ignore for number in range(len(polygons))], dtype=np.bool_)
    return Page(image, polygons=np.stack(polygons), ignore=tags)


def covered(page: Page) -> tuple[float, float]:
    """Share of white among the pixels inside the polygons, shrunk a little, and outside them, grown a little."""
    inside = np.zeros(page.image.shape[:2], dtype=np.uint8)
    for polygon in page.polygons:
        cv2.fillPoly(inside, [np.round(polygon).astype(np.int32)], 1)
    kernel = np.ones((5, 5), dtype=np.uint8)
    white = page.image[:, :, 0] > 127
    return white[cv2.erode(inside, kernel) > 0].mean(), white[cv2.dilate(inside, kernel) == 0].mean()


@pytest.mark.parametrize("seed", range(6))
def test_a_grown_canvas_holds_the_whole_page(seed: int) -> None:
    page = marked(square(2, 2, 30), square(120, 80, 36))
    turned = IaaAugment((Augmenter("Affine", AffineArgs((-45, 45), fit_output=True)),))(page, request(seed))
    height, width = turned.image.shape[:2]
    assert (turned.polygons > -1).all()
    assert (turned.polygons < (width, height)).all()
    assert covered(turned) == (1.0, 0.0)
    # What was there is there: 3 % is the rounding of edges.
    assert (turned.image > 127).sum() == pytest.approx((page.image > 127).sum(), rel=0.03)
    cut = IaaAugment((Augmenter("Affine", AffineArgs((-45, 45))),))(page, request(seed))
    assert cut.image.shape == page.image.shape


def test_half_of_the_pages_are_turned() -> None:
    page = marked(square(20, 20, 30))
    augment = IaaAugment((Augmenter("Affine", AffineArgs((30, 45), p=0.5, fit_output=True)),))
    turned = sum(augment(page, request(seed)).image.shape != page.image.shape for seed in range(60))
    assert 20 < turned < 40


@pytest.mark.parametrize("seed", range(8))
def test_a_perspective_takes_the_polygons_along(seed: int) -> None:
    page = marked(square(10, 10, 40), square(100, 60, 50))
    # The largest tilt of the recipe, for a page as large as it means.
    warp = RandomPerspective(1.0, degrees=20, scale=0.2, shear=20, perspective=0.00025, fill_value=0)
    warped = warp(page, request(seed))
    assert warped.image.shape != page.image.shape
    assert len(warped.polygons) == 2
    assert covered(warped) == (1.0, 0.0)
    for polygon in warped.polygons:
        assert cv2.contourArea(polygon.astype(np.float32)) > 100


def test_some_pages_keep_their_perspective() -> None:
    page = marked(square(10, 10, 40))
    warp = RandomPerspective(0.3)
    kept = sum(warp(page, request(seed)) is page for seed in range(100))
    assert 55 < kept < 85
    with pytest.raises(ConfigError, match="fit_output must be true"):
        RandomPerspective(fit_output=False)


@pytest.mark.parametrize("seed", range(12))
def test_a_part_has_a_line_that_can_be_read(seed: int) -> None:
    page = marked(square(20, 20, 40), square(200, 150, 50), square(300, 30, 30), size=(260, 380), ignore=(2,))
    part = RandomCrop((96, 64), 50)(page, request(seed))
    assert part.image.shape == (64, 96, 3)
    assert (~part.ignore).any()
    assert (part.polygons > -1e-6).all()
    # A size is cut off to whole pixels, the factor of the polygons is not: as in PaddleOCR.
    assert (part.polygons <= (97, 65)).all()
    inside, outside = covered(part)
    assert inside == 1.0
    # Pieces too small to read are left out, white as they are.
    assert outside < 0.12
    for polygon in part.polygons[~part.ignore]:
        assert cv2.contourArea(polygon.astype(np.float32)) > 30


def test_parts_are_never_enlarged_and_lie_anywhere() -> None:
    page = marked(square(5, 5, 20), size=(40, 50))
    parts = [RandomCrop((200, 200), 50, min_crop_side_ratio=1.0)(page, request(seed)) for seed in range(20)]
    corners = {tuple(part.polygons[0][0]) for part in parts}
    assert len(corners) > 15
    for part in parts:
        np.testing.assert_allclose(np.ptp(part.polygons[0], axis=0), [20, 20])
        assert covered(part) == (1.0, 0.0)


def test_pages_without_a_line_are_taken_whole() -> None:
    blank = Page(np.full((50, 3000, 3), 9, dtype=np.uint8))
    part = RandomCrop((100, 60))(blank, request())
    assert part.image.shape == (60, 100, 3)
    assert len(part.polygons) == 0
    assert (part.image > 0).any(axis=2).sum() == 100 * 1
    with pytest.raises(ConfigError, match="keep_ratio must be true"):
        RandomCrop(keep_ratio=False)


def test_colours_change_and_lines_stay() -> None:
    rng = np.random.default_rng(5)
    page = Page(
        rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), polygons=square(1, 1, 9)[None], ignore=np.zeros(1, bool)
    )
    assert (ColorJitter()(page, request()).image == page.image).all()
    for option in ("brightness", "contrast", "saturation", "hue"):
        jitter = ColorJitter(**{option: 0.4})
        images = [np.asarray(jitter(page, request(seed)).image, dtype=float) for seed in range(40)]
        assert len({image.tobytes() for image in images}) > 30
        # Both ways: half of the draws are below 1, or 0.
        brighter = np.mean([image.mean() > page.image.mean() for image in images])
        if option == "brightness":
            assert 0.3 < brighter < 0.7
    grey = Page(np.full((4, 4, 3), 74, dtype=np.uint8))
    for option in ("contrast", "saturation", "hue"):
        assert (ColorJitter(**{option: 0.4})(grey, request(3)).image == 74).all()
    full = ColorJitter(0.4, 0.4, 0.7, 0.1)(page, request(1))
    assert (full.polygons == page.polygons).all()


DET_CHANGES: dict[str, dict[str, Any]] = {
    "PP-OCRv6_tiny_det": {"l2": 1e-6, "ema": 0.9998, "size": [0.3, 2], "extra": ["ColorJitter"]},
    "PP-OCRv6_small_det": {"l2": 1e-5, "ema": 0.9997, "size": [0.1, 2], "extra": []},
    "PP-OCRv6_medium_det": {"l2": 1e-5, "ema": 0.9996, "size": [0.1, 2], "extra": ["ColorJitter", "RandomPerspective"]},
}


@pytest.mark.parametrize("name", DET_CHANGES)
def test_the_recipes_of_the_detectors(name: str, tmp_path: Path) -> None:
    """As the release's settings have them, written and read back, and run on one page."""
    expected = DET_CHANGES[name]
    config = from_card(load_card(name)).config()
    settings = official_settings(config, pretrained=None)
    assert from_json(Settings, to_json(settings), "a test") == settings
    assert settings.loss.main_loss_type == "DiceFocalLoss"  # type: ignore[union-attr]
    assert (settings.optimizer.l2, settings.training.ema_decay) == (expected["l2"], expected["ema"])
    transforms = {step.name: dict(step.options) for step in settings.data.train.dataset.transforms}
    names = ["DecodeImage", "DetLabelEncode", "CopyPaste", "IaaAugment", "RandomCrop", "MakeBorderMap", "MakeShrinkMap"]
    assert set(transforms) == {*names, *expected["extra"], "NormalizeImage", "ToCHWImage", "KeepKeys"}
    _, turn, resize = transforms["IaaAugment"]["augmenter_args"]
    assert turn["args"] == {"p": 0.5, "rotate": [-45, 45], "fit_output": True}
    assert resize["args"] == {"size": expected["size"]}
    assert transforms["MakeShrinkMap"]["total_epoch"] == settings.training.epochs == 500

    cv2.imwrite(str(tmp_path / "page.png"), marked(square(60, 40, 60), size=(200, 300)).image)
    label = '[{"transcription": "text", "points": [[60, 40], [120, 40], [120, 100], [60, 100]]}]'
    (tmp_path / "label.txt").write_text(f"page.png\t{label}\n" * 2, encoding="utf-8")
    data = to_json(settings)
    data["data"]["train"]["dataset"] |= {"data_dir": str(tmp_path), "label_file_list": [str(tmp_path / "label.txt")]}
    data["data"]["train"]["loader"] |= {"batch_size_per_card": 2, "num_workers": 0}
    loader = build_loader(from_json(Settings, data, "a test").data.train, config, training=True)
    batch = next(iter(loader))
    assert tuple(batch["image"].shape) == (2, 3, 640, 640)
    assert batch["shrink_map"].sum() > 0


@pytest.mark.parametrize(
    ("name", "lr", "batch"),
    [("PP-OCRv6_tiny_rec", 1e-3, 128), ("PP-OCRv6_small_rec", 5e-4, 128), ("PP-OCRv6_medium_rec", 5e-4, 64)],
)
def test_the_recipes_of_the_recognisers(name: str, lr: float, batch: int) -> None:
    settings = official_settings(from_card(load_card(name)).config(), pretrained=None)
    assert (settings.optimizer.lr, settings.optimizer.l2, settings.optimizer.fc_decay) == (lr, 3e-5, 1e-5)
    assert settings.data.train.loader.batch_size_per_card == batch
    assert settings.training.epochs == 100
    assert settings.schedule.warmup_epoch == 5
    assert settings.training.ema_decay is None
