"""What happens to a page on its way to the detector: PaddleOCR's transforms, with its names and options.

Facts: `ppocr/data/imaug/` (copy_paste.py, iaa_augment.py, random_crop_data.py, make_border_map.py, make_shrink_map.py,
operators.py). Given the same random draws, in the same order, flips, rotations, resizes, crops and the label maps are
PaddleOCR's bit for bit; where they are not, the transform says so. Polygons are float64 (N, K, 2), in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from paddle2torch.model_zoo.config import MOST_SIDE, DetPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.detection import MAX_SIDE, input_size
from paddle2torch.tasks.geometry import crop_quad
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.labels import parse_boxes, stack_polygons
from paddle2torch.training.settings import MOST_COUNT

RESIZED_PIXELS = 2**27
"""No page is enlarged beyond this many pixels (0.4 GB), where PaddleOCR has no bound."""

OTHERS_TRIED = 100
"""Pages that are looked at for one with quadrilaterals; where PaddleOCR would never end, none is pasted."""

PASTE_TRIES = 50
PASTED_AT_MOST = 30


@dataclass(frozen=True, eq=False)
class Page:
    """A sample on its way: the image, its polygons, and what was made of them.

    image: uint8 (H, W, 3), BGR; from NormalizeImage on float32, from ToCHWImage on (3, H, W). label: the JSON. maps:
    float32 (H, W) each. shape: float32 (4,), what DetResizeForTest says.
    """

    image: NDArray[Any]
    label: str = ""
    polygons: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4, 2)))
    ignore: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    threshold_map: NDArray[np.float32] | None = None
    threshold_mask: NDArray[np.float32] | None = None
    shrink_map: NDArray[np.float32] | None = None
    shrink_mask: NDArray[np.float32] | None = None
    shape: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class PageRequest:
    """What a transform may ask for besides the page: random draws, the epoch (from 0), other pages.

    `other` reads one more random sample, through the first `ext_op_transform_idx` transforms.
    """

    rng: np.random.Generator
    other: Callable[[], Page]
    epoch: int = 0


@dataclass(frozen=True)
class DetLabelEncode:
    """The polygons of the label; those of text that cannot be read are to be ignored."""

    def __call__(self, page: Page, request: PageRequest) -> Page:
        boxes = parse_boxes(page.label, "the label")
        return replace(page, polygons=boxes.polygons, ignore=boxes.ignore)


@dataclass(frozen=True)
class CopyPaste:
    """Cut lines out of another page, turn each by any angle, and paste it where it touches no other line.

    As many as `objects_paste_ratio` of that page's lines, at least one and at most 30, and each in at most 50 tries;
    without `limit_paste` anywhere. Turned lines are up to a pixel smaller than PaddleOCR's, which turns with Pillow.
    """

    objects_paste_ratio: float = 0.2
    limit_paste: bool = True

    def __post_init__(self) -> None:
        within(self, objects_paste_ratio=(0, 1))

    def __call__(self, page: Page, request: PageRequest) -> Page:
        rng = request.rng
        other = next((o for o in (request.other() for _ in range(OTHERS_TRIED)) if o.polygons.shape[1] == 4), None)
        if other is None:
            return page
        image = np.array(page.image, dtype=np.uint8)
        polygons = list(page.polygons)
        choice = rng.permutation(np.flatnonzero(~other.ignore))
        count = max(1, min(int(self.objects_paste_ratio * len(other.polygons)), PASTED_AT_MOST))
        pasted = 0
        for quad in other.polygons[choice[:count]]:
            if min(np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1)) < 1:
                continue
            line = crop_quad(np.asarray(other.image, dtype=np.uint8), quad.astype(np.float32)).image
            polygon = self._paste(image, line, polygons, rng)
            if polygon is not None:
                polygons.append(polygon)
                pasted += 1
        height, width = image.shape[:2]
        stacked = np.clip(stack_polygons(polygons), 0, (width, height))
        ignore = np.append(page.ignore, np.zeros(pasted, dtype=np.bool_))
        return replace(page, image=image, polygons=stacked, ignore=ignore)

    def _paste(
        self, image: BGRImage, line: BGRImage, polygons: list[NDArray[np.float64]], rng: np.random.Generator
    ) -> NDArray[np.float64] | None:
        turned, mask, corners = _turn(line, int(rng.integers(0, 360)))
        height, width = turned.shape[:2]
        free_x, free_y = image.shape[1] - width, image.shape[0] - height
        if free_x < 0 or free_y < 0:
            return None
        for _ in range(PASTE_TRIES if self.limit_paste else 1):
            x, y = int(rng.integers(free_x + 1)), int(rng.integers(free_y + 1))
            polygon = corners + np.array([x, y])
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            if not self.limit_paste or all(outside(other[None], low, high)[0] for other in polygons):
                image[y : y + height, x : x + width][mask] = turned[mask]
                return polygon
        return None


def _turn(image: BGRImage, degrees: int) -> tuple[BGRImage, NDArray[np.bool_], NDArray[np.float64]]:
    """An image turned counter-clockwise in a larger one, which of its pixels are the image's, and its corners there."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((0, 0), degrees, 1)[:, :2]
    # Less a little, so that rounding at right angles adds no pixel.
    size = np.ceil(np.abs(turn) @ (width, height) - 1e-6).astype(int)
    # Corners are on the edges of pixels, half a pixel from their centres: two centres to turn about.
    corners = (np.array([[0, 0], [width, 0], [width, height], [0, height]]) - (width / 2, height / 2)) @ turn.T
    centre = (size - 1) / 2 - turn @ ((width - 1) / 2, (height - 1) / 2)
    matrix = np.column_stack([turn, centre])
    to = (int(size[0]), int(size[1]))
    turned = cv2.warpAffine(image, matrix, to, flags=cv2.INTER_NEAREST)
    mask = cv2.warpAffine(np.full((height, width), 255, dtype=np.uint8), matrix, to, flags=cv2.INTER_NEAREST)
    return np.asarray(turned, dtype=np.uint8), np.asarray(mask) > 0, corners + size / 2


def outside(polygons: NDArray[np.float64], low: NDArray[np.generic], high: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which polygons' bounding boxes do not even touch the rectangle from `low` to `high`, (x, y) each."""
    outside: NDArray[np.bool_] = ((polygons.max(axis=1) < low) | (polygons.min(axis=1) > high)).any(axis=1)
    return outside


@dataclass(frozen=True)
class FliplrArgs:
    """`p`: the probability of a flip."""

    p: float = 1.0

    def __post_init__(self) -> None:
        within(self, p=(0, 1))


@dataclass(frozen=True)
class AffineArgs:
    """`rotate`: from and to how many degrees, counter-clockwise. `p`: the probability.

    `fit_output`: the canvas grows to hold the whole page; else what leaves it is cut off.
    """

    rotate: tuple[float, float]
    p: float = 1.0
    fit_output: bool = False

    def __post_init__(self) -> None:
        within(self, rotate=(-360, 360), p=(0, 1))


@dataclass(frozen=True)
class ResizeArgs:
    """`size`: from and to which factor."""

    size: tuple[float, float]

    def __post_init__(self) -> None:
        within(self, size=(1e-3, 1e3))
        if self.size[0] > self.size[1]:
            raise ConfigError(f"IaaAugment: the size of Resize is a range of factors, not {list(self.size)}")


@dataclass(frozen=True)
class Augmenter:
    """One augmenter of IaaAugment with its arguments."""

    type: Literal["Fliplr", "Affine", "Resize"]
    args: FliplrArgs | AffineArgs | ResizeArgs

    def __post_init__(self) -> None:
        expected = {"Fliplr": FliplrArgs, "Affine": AffineArgs, "Resize": ResizeArgs}[self.type]
        if not isinstance(self.args, expected):
            raise ConfigError(
                f"IaaAugment: the args of {self.type} are those of {expected.__name__}: {expected.__doc__}"
            )


@dataclass(frozen=True)
class IaaAugment:
    """Flip, rotate about the centre (black comes in; see `AffineArgs`), resize linearly.

    Points follow the pixels' centres. PaddleOCR resizes them by the factor that was drawn; here they are resized by the
    one that the rounded size comes to, at most a pixel at the far end.
    """

    augmenter_args: tuple[Augmenter, ...] = (
        Augmenter("Fliplr", FliplrArgs(0.5)),
        Augmenter("Affine", AffineArgs((-10, 10))),
        Augmenter("Resize", ResizeArgs((0.5, 3))),
    )

    def __call__(self, page: Page, request: PageRequest) -> Page:
        for augmenter in self.augmenter_args:
            args = augmenter.args
            if isinstance(args, FliplrArgs):
                page = _flip(page) if request.rng.random() < args.p else page
            elif isinstance(args, AffineArgs):
                # No draw where there is no choice, as before the option was there.
                if args.p == 1 or request.rng.random() < args.p:
                    page = _rotate(page, float(request.rng.uniform(*args.rotate)), args.fit_output)
            else:
                page = _resize(page, float(request.rng.uniform(*args.size)))
        return page


def _flip(page: Page) -> Page:
    polygons = page.polygons.copy()
    polygons[:, :, 0] = page.image.shape[1] - 1 - polygons[:, :, 0]
    return replace(page, image=cv2.flip(np.asarray(page.image), 1), polygons=polygons)


def _rotate(page: Page, degrees: float, fit_output: bool) -> Page:
    height, width = page.image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    size = (width, height)
    if fit_output:
        # Less a little, so that rounding at right angles adds no pixel.
        grown = np.ceil(np.abs(matrix[:, :2]) @ size - 1e-6).astype(int)
        matrix = matrix + np.array([[0, 0, (grown[0] - width) / 2], [0, 0, (grown[1] - height) / 2]])
        size = (int(grown[0]), int(grown[1]))
    image = cv2.warpAffine(np.asarray(page.image), matrix, size, flags=cv2.INTER_LINEAR)
    return replace(page, image=image, polygons=page.polygons @ matrix[:, :2].T + matrix[:, 2])


def _resize(page: Page, factor: float) -> Page:
    height, width = page.image.shape[:2]
    factor = min(factor, math.sqrt(RESIZED_PIXELS / (height * width)))
    to_height, to_width = max(1, int(height * factor)), max(1, int(width * factor))
    image = cv2.resize(np.asarray(page.image), (to_width, to_height), interpolation=cv2.INTER_LINEAR)
    return replace(page, image=image, polygons=page.polygons * (to_width / width, to_height / height))


@dataclass(frozen=True)
class RandomCropOptions:
    """The options of both random crops: PaddleOCR's names and defaults."""

    size: tuple[int, int] = (640, 640)
    max_tries: int = 10
    min_crop_side_ratio: float = 0.1
    keep_ratio: bool = True

    def __post_init__(self) -> None:
        within(self, size=(1, MAX_SIDE), max_tries=(1, 100_000), min_crop_side_ratio=(0, 1))
        if not self.keep_ratio:
            # PaddleOCR scales the polygons by one factor then, and the image by two.
            raise ConfigError(f"{type(self).__name__}: keep_ratio must be true, without it polygons and image part")


@dataclass(frozen=True)
class EastRandomCropData(RandomCropOptions):
    """A random part of the page whose edges cross no line, as large as fits into `size` (width, height).

    In at most `max_tries` tries for a part with a line in it and sides of at least `min_crop_side_ratio` of the page's;
    else all of the page. It is padded with black at the bottom and the right. Lines outside are left out.
    """

    def __call__(self, page: Page, request: PageRequest) -> Page:
        image = np.asarray(page.image)
        x, y, width, height = self._part(page, request.rng)
        scale = min(self.size[0] / width, self.size[1] / height)
        to_width, to_height = max(1, int(width * scale)), max(1, int(height * scale))
        result = np.zeros((self.size[1], self.size[0], image.shape[2]), dtype=image.dtype)
        result[:to_height, :to_width] = cv2.resize(image[y : y + height, x : x + width], (to_width, to_height))
        polygons = (page.polygons - (x, y)) * scale
        kept = ~outside(polygons, np.zeros(2), np.array([to_width, to_height]))
        return replace(page, image=result, polygons=polygons[kept], ignore=page.ignore[kept])

    def _part(self, page: Page, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """x, y, width, height of the part."""
        height, width = page.image.shape[:2]
        polygons = page.polygons[~page.ignore]
        free_x = _free(polygons[:, :, 0], width)
        free_y = _free(polygons[:, :, 1], height)
        if not len(free_x) or not len(free_y):
            return 0, 0, width, height
        for _ in range(self.max_tries):
            left, right = _two_cuts(free_x, rng)
            top, bottom = _two_cuts(free_y, rng)
            if right - left < self.min_crop_side_ratio * width or bottom - top < self.min_crop_side_ratio * height:
                continue
            if right == left or bottom == top:
                continue
            if not outside(polygons, np.array([left, top]), np.array([right, bottom])).all():
                return left, top, right - left, bottom - top
        return 0, 0, width, height


def _free(values: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """The places from 0 to size - 1 that no polygon covers. values: one coordinate, (N, K).

    PaddleOCR does not see polygons that reach below 0, as they do after a rotation, and may cut through them.
    """
    covered = np.zeros(size, dtype=np.bool_)
    rounded = np.clip(np.round(values), 0, size).astype(np.int64)
    for low, high in zip(rounded.min(axis=1), rounded.max(axis=1), strict=True):
        covered[low:high] = True
    return np.flatnonzero(~covered)


def _two_cuts(free: NDArray[np.int64], rng: np.random.Generator) -> tuple[int, int]:
    """Two of the free places, the smaller first: of two random gaps, or where there are few gaps of all places.

    The last gap is not counted among the gaps, as in PaddleOCR.
    """
    gaps = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)[:-1]
    if len(gaps) > 1:
        cuts = [int(rng.choice(gaps[gap], size=1)[0]) for gap in rng.choice(len(gaps), 2)]
    else:
        cuts = [int(cut) for cut in rng.choice(free, size=2)]
    return min(cuts), max(cuts)


def _epoch_ratio(shrink_ratio: float, total_epoch: int | None, epoch: int) -> float:
    """The ratio by which lines shrink: 0.2 more at the end of the training than at its start, with `total_epoch`."""
    return shrink_ratio if total_epoch is None else shrink_ratio + 0.2 * epoch / total_epoch


@dataclass(frozen=True)
class MakeBorderMap:
    """The threshold map: `thresh_max` on the edges of lines, falling to `thresh_min` at the distance of the offset.

    The offset is area * (1 - shrink_ratio^2) / perimeter. The mask is 1 inside a line that is grown by it.
    """

    shrink_ratio: float = 0.4
    thresh_min: float = 0.3
    thresh_max: float = 0.7
    total_epoch: int | None = None

    def __post_init__(self) -> None:
        within(self, shrink_ratio=(0, 1), thresh_min=(0, 1), thresh_max=(0, 1), total_epoch=(1, MOST_COUNT))

    def __call__(self, page: Page, request: PageRequest) -> Page:
        ratio = _epoch_ratio(self.shrink_ratio, self.total_epoch, request.epoch)
        nearness = np.zeros(page.image.shape[:2], dtype=np.float32)
        mask = np.zeros(page.image.shape[:2], dtype=np.float32)
        for polygon in page.polygons[~page.ignore]:
            _draw_border(polygon, ratio, nearness, mask)
        threshold = nearness * (self.thresh_max - self.thresh_min) + self.thresh_min
        return replace(page, threshold_map=threshold, threshold_mask=mask)


def _draw_border(
    polygon: NDArray[np.float64], ratio: float, nearness: NDArray[np.float32], mask: NDArray[np.float32]
) -> None:
    offset = _offset(polygon, ratio)
    outlines = _clipper(polygon).Execute(offset)
    if offset <= 0 or not outlines:
        return
    outline = np.array(outlines[0], dtype=np.int64)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 1.0)
    # The distances fill the outline's bounding box, as far as it is on the page.
    origin, end = outline.min(axis=0), outline.max(axis=0)
    limit = np.array(nearness.shape[::-1]) - 1
    if (end < 0).any() or (origin > limit).any():
        return
    low, high = np.maximum(origin, 0), np.minimum(end, limit)
    local = polygon - origin.astype(polygon.dtype)
    x = np.arange(low[0], high[0] + 1)[None, :] - float(origin[0])
    y = np.arange(low[1], high[1] + 1)[:, None] - float(origin[1])
    farness = np.ones((y.size, x.size), dtype=np.float32)
    for start, end in zip(local, np.roll(local, -1, axis=0), strict=True):
        # Farther from an edge than the offset all pixels are alike: only those nearby are looked at.
        columns, rows = (_near(values.ravel(), start[axis], end[axis], offset) for axis, values in ((0, x), (1, y)))
        distance = _distance(x[:, columns], y[rows], start, end)
        strip = farness[rows, columns]
        np.minimum(strip, np.clip(distance / offset, 0, 1).astype(np.float32), out=strip)
    part = nearness[low[1] : high[1] + 1, low[0] : high[0] + 1]
    # fmax: on a corner the distance may be no number, and then counts for nothing.
    np.fmax(part, 1 - farness, out=part)


def _near(values: NDArray[np.float64], start: float, end: float, offset: float) -> slice:
    """The ascending `values` between two places and so far around them, and one more on both sides."""
    first, last = np.searchsorted(values, (min(start, end) - offset, max(start, end) + offset))
    return slice(max(int(first) - 1, 0), int(last) + 1)


def _distance(
    x: NDArray[np.float64], y: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far each pixel is from the line through two points, or where it sees them under less than 90 degrees, from
    the nearer of both. That is not the distance from the segment: it is PaddleOCR's.
    """
    from_start = np.square(x - start[0]) + np.square(y - start[1])
    from_end = np.square(x - end[0]) + np.square(y - end[1])
    edge = np.square(start[0] - end[0]) + np.square(start[1] - end[1])
    product = from_start * from_end
    with np.errstate(divide="ignore", invalid="ignore"):
        minus_cosine = (edge - from_start - from_end) / (2 * np.sqrt(product))
        square_sine = np.nan_to_num(1 - np.square(minus_cosine))
        distance = np.sqrt(product * square_sine / edge)
    return np.where(minus_cosine < 0, np.sqrt(np.fmin(from_start, from_end)), distance)


@dataclass(frozen=True)
class MakeShrinkMap:
    """The shrink map: 1 in the cores of lines. Its mask is 0 in lines to ignore and in those too small.

    A line shrinks by area * (1 - shrink_ratio^2) / perimeter, and by less where it falls into several. Too small is one
    less than `min_text_size` pixels high or wide.
    """

    shrink_ratio: float = 0.4
    min_text_size: float = 8
    total_epoch: int | None = None

    def __post_init__(self) -> None:
        within(self, shrink_ratio=(0, 1), min_text_size=(0, MAX_SIDE), total_epoch=(1, MOST_COUNT))

    def __call__(self, page: Page, request: PageRequest) -> Page:
        height, width = page.image.shape[:2]
        first = _epoch_ratio(self.shrink_ratio, self.total_epoch, request.epoch)
        cores = np.zeros((height, width), dtype=np.float32)
        mask = np.ones((height, width), dtype=np.float32)
        for polygon, ignore in zip(page.polygons, page.ignore, strict=True):
            polygon = np.clip(polygon, 0, np.array([width - 1, height - 1], dtype=polygon.dtype))
            area = _signed_area(polygon)
            outlines = []
            if not ignore and abs(area) >= 1 and min(np.ptp(polygon, axis=0)) >= self.min_text_size:
                outlines = self._shrink(polygon if area > 0 else polygon[::-1], first)
            if outlines:
                for outline in outlines:
                    cv2.fillPoly(cores, [np.array(outline, dtype=np.int32)], 1.0)
            else:
                cv2.fillPoly(mask, [polygon.astype(np.int32)], 0.0)
        return replace(page, shrink_map=cores, shrink_mask=mask)

    @staticmethod
    def _shrink(polygon: NDArray[np.float64], first: float) -> list[list[list[int]]]:
        clipper = _clipper(polygon)
        outlines: list[list[list[int]]] = []
        for ratio in np.arange(first, 1, first):
            outlines = clipper.Execute(-_offset(polygon, ratio))
            if len(outlines) == 1:
                break
        return outlines


def _clipper(polygon: NDArray[np.float64]) -> pyclipper.PyclipperOffset:
    offset = pyclipper.PyclipperOffset()
    # Clipper counts in integers: the fractions of the corners are cut off, in PaddleOCR too.
    offset.AddPath(polygon.astype(np.int64).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return offset


def _offset(polygon: NDArray[np.float64], ratio: float) -> float:
    polygon = polygon.astype(np.float64)
    perimeter = float(np.linalg.norm(polygon - np.roll(polygon, -1, axis=0), axis=1).sum())
    return abs(_signed_area(polygon)) * (1 - ratio**2) / perimeter if perimeter > 0 else 0.0


def _signed_area(polygon: NDArray[np.float64]) -> float:
    """Positive where the points run clockwise as seen on the page (y down)."""
    x, y = polygon.astype(np.float64).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@dataclass(frozen=True)
class NormalizeImage:
    """`(v * scale - mean) / std` per channel, in the order in which the channels are."""

    scale: float | str = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    order: Literal["hwc"] = "hwc"

    def __post_init__(self) -> None:
        if not 1e-6 <= self.factor <= 1e6:
            raise ConfigError(f"NormalizeImage: scale is {show(self.scale)}: it must be a number from 1e-6 to 1e6")
        within(self, mean=(-1e6, 1e6), std=(1e-6, 1e6))

    @property
    def factor(self) -> float:
        """`scale` as a number: the official files have it as the text "1./255."."""
        try:
            numerator, _, denominator = str(self.scale).partition("/")
            return float(numerator) / float(denominator or 1)
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"NormalizeImage: scale must be a number or a quotient, not {show(self.scale)}") from None

    def __call__(self, page: Page, request: PageRequest) -> Page:
        # A table: 256 normalisations per channel in place of one per pixel, with the same values.
        levels = np.arange(256, dtype=np.float32)[None, :, None] * np.float32(self.factor)
        table = (levels - np.array(self.mean, dtype=np.float32)) / np.array(self.std, dtype=np.float32)
        return replace(page, image=cv2.LUT(np.asarray(page.image, dtype=np.uint8), table))


@dataclass(frozen=True)
class ToCHWImage:
    """(H, W, 3) to (3, H, W)."""

    def __call__(self, page: Page, request: PageRequest) -> Page:
        return replace(page, image=np.ascontiguousarray(np.transpose(page.image, (2, 0, 1))))


@dataclass(frozen=True)
class DetResizeForTest:
    """Resize a page as for inference, and say of what size it was: `shape` is (height, width, ratio_h, ratio_w).

    `image_shape` (height, width) is the size of every page, with `keep_ratio` its height alone; `limit_side_len` bounds
    a side, 736 the shorter one where nothing is said; `resize_long` is the longer side, both then rounded up to
    multiples of 128. A page with less than 64 pixels in height and width together is padded with black to at least
    32x32 first, and that is the size.
    """

    limit_side_len: int | None = None
    limit_type: Literal["max", "min"] = "min"
    resize_long: int | None = None
    image_shape: tuple[int, int] | None = None
    keep_ratio: bool = False

    def __post_init__(self) -> None:
        sides = (1, MOST_SIDE)
        within(self, limit_side_len=sides, resize_long=sides, image_shape=(1, MAX_SIDE))
        if sum(size is not None for size in (self.limit_side_len, self.resize_long, self.image_shape)) > 1:
            raise ConfigError("DetResizeForTest: take one of limit_side_len, resize_long and image_shape")
        if self.keep_ratio and self.image_shape is None:
            raise ConfigError("DetResizeForTest: keep_ratio is for image_shape")

    def __call__(self, page: Page, request: PageRequest) -> Page:
        image = np.asarray(page.image)
        if sum(image.shape[:2]) < 64:
            below, right = (max(0, 32 - side) for side in image.shape[:2])
            image = np.asarray(cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT))
        height, width = image.shape[:2]
        to_height, to_width = self._size(height, width)
        shape = np.array([height, width, to_height / height, to_width / width], dtype=np.float32)
        return replace(page, image=cv2.resize(image, (to_width, to_height)), shape=shape)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a page of this size gets."""
        if self.image_shape is None:
            settings = DetPreprocess(limit_side_len=self.limit_side_len or 736, limit_type=self.limit_type)
            if self.resize_long is not None:
                settings = DetPreprocess(limit_side_len=self.resize_long, limit_type="resize_long")
            return input_size(height, width, settings)
        to_height, to_width = self.image_shape
        if self.keep_ratio:
            to_width = min(math.ceil(width * to_height / height / 32) * 32, MAX_SIDE)
        return to_height, to_width
