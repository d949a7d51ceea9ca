"""What happens to a line on its way to the recogniser: PaddleOCR's transforms, with its names and options.

Facts: `ppocr/data/imaug/rec_img_aug.py`, `text_image_aug/` (TIA, after Luo et al., "Learn to Augment", CVPR 2020).
Given the same random draws, in the same order, the images are PaddleOCR's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from paddle2torch.model_zoo.config import MOST_HEIGHT, MOST_PIXELS, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.show import show
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.images import BGRImage
from paddle2torch.tasks.recognition import resize_norm, resized_width
from paddle2torch.training.data.encode import EncodedLabel, Guide, LabelEncoder
from paddle2torch.training.settings import MOST_TEXT

GRID = 100
"""Pixels between the points at which a TIA warp is computed; in between it is interpolated."""

PIXELS_AT_A_TIME = 2**13
"""Pixels of a warp: few enough that all intermediate arrays stay in the processor's cache, which is 4 times as fast."""

SMALLEST_AUGMENTED = 20
"""Images with fewer rows or columns are neither warped nor cropped."""


@dataclass(frozen=True, eq=False)
class Line:
    """A sample on its way: uint8 (H, W, 3), BGR, and its text, in the end encoded."""

    image: BGRImage
    text: str
    label: EncodedLabel | None = None


@dataclass(frozen=True, eq=False)
class LineRequest:
    """What a transform may ask for besides the line: random draws, and other lines.

    `other` reads one more random sample, through the first `ext_op_transform_idx` transforms.
    """

    rng: np.random.Generator
    other: Callable[[], Line]


@dataclass(frozen=True)
class RecConAug:
    """With probability `prob`, join up to `ext_data_num` other lines to the right, in image and text.

    It stops where the text would be longer than `max_text_length` or the line relatively longer than `image_shape`
    (height, width, channels); joined lines have its height.
    """

    prob: float = 0.5
    image_shape: tuple[int, int, int] = (32, 320, 3)
    max_text_length: int = 25
    ext_data_num: int = 1

    def __post_init__(self) -> None:
        within(self, prob=(0, 1), max_text_length=(1, MOST_TEXT), ext_data_num=(0, 100))
        _check_size(self.image_shape[:2])

    def __call__(self, line: Line, request: LineRequest) -> Line:
        if request.rng.random() > self.prob:
            return line
        height, width, _ = self.image_shape
        for _ in range(self.ext_data_num):
            other = request.other()
            if len(line.text) + len(other.text) > self.max_text_length:
                break
            if _aspect(line.image) + _aspect(other.image) > width / height:
                break
            parts = [
                cv2.resize(part, (max(1, round(_aspect(part) * height)), height)) for part in (line.image, other.image)
            ]
            line = replace(line, image=np.concatenate(parts, axis=1), text=line.text + other.text)
        return line


def _check_size(size: Sequence[int]) -> None:
    """Raise `ConfigError` for a (height, width) that no line is brought to."""
    if min(size) < 1 or size[0] > MOST_HEIGHT or size[0] * size[1] > MOST_PIXELS:
        raise ConfigError(
            f"image_shape has the height and width {show(list(size))}: a height from 1 to {MOST_HEIGHT:,} is taken, "
            f"and at most {MOST_PIXELS:,} pixels"
        )


def _aspect(image: BGRImage) -> float:
    return image.shape[1] / image.shape[0]


@dataclass(frozen=True)
class BaseDataAugmentation:
    """Crop, blur, darken, jitter, add noise, invert: each with its own probability, in this order."""

    crop_prob: float = 0.4
    reverse_prob: float = 0.4
    noise_prob: float = 0.4
    jitter_prob: float = 0.4
    blur_prob: float = 0.4
    hsv_aug_prob: float = 0.4

    def __post_init__(self) -> None:
        within(self, **{field.name: (0, 1) for field in fields(self)})

    def __call__(self, line: Line, request: LineRequest) -> Line:
        rng, image = request.rng, line.image
        if rng.random() <= self.crop_prob and _is_large(image):
            image = _crop(image, rng)
        if rng.random() <= self.blur_prob:
            kernel = cv2.getGaussianKernel(ksize=5, sigma=1, ktype=cv2.CV_32F)
            image = np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel), dtype=np.uint8)
        if rng.random() <= self.hsv_aug_prob:
            image = _change_value(image, rng)
        if rng.random() <= self.jitter_prob:
            image = _jitter(image, rng)
        if rng.random() <= self.noise_prob:
            image = _add_noise(image, rng)
        if rng.random() <= self.reverse_prob:
            image = 255 - image
        return replace(line, image=image)


@dataclass(frozen=True)
class RecAug(BaseDataAugmentation):
    """Warp, crop, blur, darken, jitter, add noise, invert: each with its own probability, in this order."""

    tia_prob: float = 0.4

    def __call__(self, line: Line, request: LineRequest) -> Line:
        rng, image = request.rng, line.image
        if rng.random() <= self.tia_prob and _is_large(image):
            image = tia_distort(image, int(rng.integers(3, 7)), rng)
            image = tia_stretch(image, int(rng.integers(3, 7)), rng)
            image = tia_perspective(image, rng)
        return super().__call__(replace(line, image=image), request)


def _is_large(image: BGRImage) -> bool:
    return min(image.shape[:2]) >= SMALLEST_AUGMENTED


def _crop(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    """Without 1 to 8 rows at the top or at the bottom."""
    height = image.shape[0]
    rows = min(int(rng.integers(1, 9)), height - 1)
    return image[rows:] if rng.integers(2) else image[: height - rows]


def _change_value(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    """HSV's value changed by at most a thousandth: cut to whole numbers, it falls by one or stays."""
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    change = 0.001 * rng.random() * (1 if rng.random() > 0.5000001 else -1)
    hsv[:, :, 2] = (hsv[:, :, 2] * (1 + change)).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.uint8)


def _jitter(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    """Ghosts of the image, shifted to the bottom right by up to a hundredth of its shorter side."""
    height, width = image.shape[:2]
    if min(height, width) <= 10:
        return image
    result = image.copy()
    for shift in range(int(rng.random() * min(height, width) * 0.01)):
        result[shift:, shift:] = image[: height - shift, : width - shift]
    return result


def _add_noise(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    noise = rng.normal(0, 0.1**0.5, image.shape)
    return np.clip(image + 0.5 * noise, 0, 255).astype(np.uint8)


def tia_distort(image: BGRImage, segment: int, rng: np.random.Generator) -> BGRImage:
    """Move the corners inwards, and the points between `segment` parts of both long sides anywhere nearby."""
    height, width = image.shape[:2]
    part = width // segment
    reach = part // 3
    half = reach * 0.5

    def draw() -> int:
        return int(rng.integers(reach))

    source = _corners(width, height)
    target: list[tuple[float, float]] = [
        (draw(), draw()),
        (width - draw(), draw()),
        (width - draw(), height - draw()),
        (draw(), height - draw()),
    ]
    for x in range(part, part * segment, part):
        source += [(x, 0), (x, height)]
        target += [(x + draw() - half, draw() - half), (x + draw() - half, height + draw() - half)]
    return warp_mls(image, source, target)


def tia_stretch(image: BGRImage, segment: int, rng: np.random.Generator) -> BGRImage:
    """Move the cuts between `segment` parts to the left or right."""
    height, width = image.shape[:2]
    part = width // segment
    reach = part * 4 // 5
    source = _corners(width, height)
    target = _corners(width, height)
    for x in range(part, part * segment, part):
        move = int(rng.integers(reach)) - reach * 0.5
        source += [(x, 0), (x, height)]
        target += [(x + move, 0), (x + move, height)]
    return warp_mls(image, source, target)


def tia_perspective(image: BGRImage, rng: np.random.Generator) -> BGRImage:
    """Move each corner up or down, by up to half of the height."""
    height, width = image.shape[:2]
    reach = height // 2
    moves = [int(rng.integers(reach)) for _ in range(4)]
    target = [(0, moves[0]), (width, moves[1]), (width, height - moves[2]), (0, height - moves[3])]
    return warp_mls(image, _corners(width, height), target)


def _corners(width: int, height: int) -> list[tuple[float, float]]:
    return [(0, 0), (width, 0), (width, height), (0, height)]


def warp_mls(image: BGRImage, source: list[tuple[float, float]], target: list[tuple[float, float]]) -> BGRImage:
    """Warp an image so that its points `source` come to `target`: moving least squares, similarities (Schaefer 2006).

    Points are (x, y) in pixels. The size stays; what would come from outside repeats the edge. The result is
    PaddleOCR's to the bit, its rounding to float32 included: pixels are cut to whole numbers, where a last bit decides.
    """
    height, width = image.shape[:2]
    grid_x, grid_y = _grid(width), _grid(height)
    moved = _move_grid(grid_x, grid_y, source, target)
    left, right, x_share = _between(width)
    top, bottom, y_share = _between(height)
    # Along the rows of the grid first: (2, grid rows, width).
    along = moved[:, :, left] * (1 - x_share) + moved[:, :, right] * x_share
    columns, rows = np.arange(width), np.arange(height)[:, None]
    planes = np.ascontiguousarray(image.reshape(-1, image.shape[2]).T)
    result = np.empty_like(image)
    step = max(1, PIXELS_AT_A_TIME // width)
    for start in range(0, height, step):
        part = slice(start, start + step)
        share = y_share[part, None]
        by_x, by_y = along[:, top[part]] * (1 - share) + along[:, bottom[part]] * share
        x = np.clip(columns + by_x, 0, width - 1)
        y = np.clip(rows[part] + by_y, 0, height - 1)
        result[part] = _sample(planes, width, x, y)
    return result


def _grid(size: int) -> NDArray[np.int64]:
    """0, 100, 200, … and the last pixel."""
    points = np.arange(0, size, GRID)
    return points if points[-1] == size - 1 else np.append(points, size - 1)


def _between(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel the grid points on both sides, as indices, and how far it is on the way to the second.

    The last cell is divided by one pixel more than it is wide, as in PaddleOCR.
    """
    pixels = np.arange(size)
    first = pixels // GRID
    start = first * GRID
    inside = start + GRID < size
    second = np.where(inside, first + 1, len(_grid(size)) - 1)
    return first, second, (pixels - start) / np.where(inside, GRID, size - start)


def _move_grid(
    grid_x: NDArray[np.int64],
    grid_y: NDArray[np.int64],
    source: list[tuple[float, float]],
    target: list[tuple[float, float]],
) -> NDArray[np.float64]:
    """By how much the place to sample is away from each grid point, in x and y: float64 (2, grid rows, grid columns).

    `float32` is used where PaddleOCR rounds to it; all else is float64.
    """
    point = np.stack(np.meshgrid(grid_x, grid_y)).astype(np.float64)
    to, of = np.array(target, dtype=np.float64), np.array(source, dtype=np.float64)
    square = (point[0] - to[:, 0, None, None]) ** 2 + (point[1] - to[:, 1, None, None]) ** 2
    hit = square == 0
    # A grid point on a control point takes its place; on the last one, PaddleOCR leaves that one out instead.
    weight = np.where(hit, 0, 1 / np.where(hit, 1, square)).astype(np.float32)
    total = np.zeros(point.shape[1:], dtype=np.float32)
    to_mean, of_mean = np.zeros_like(point), np.zeros_like(point)
    for k in range(len(to)):
        total += weight[k]
        to_mean += weight[k] * to[k, :, None, None]
        of_mean += weight[k] * of[k, :, None, None]
    inverse = np.float32(1) / total
    to_mean *= inverse
    of_mean *= inverse
    spread = np.zeros_like(total, dtype=np.float64)
    for k in range(len(to)):
        x, y = to[k, :, None, None] - to_mean
        spread += weight[k] * (x * x + y * y)
    here = (point - to_mean).astype(np.float32)
    sampled = np.zeros_like(here)
    for k in range(len(to)):
        x, y = to[k, :, None, None] - to_mean
        along, across = x * here[0] + y * here[1], x * here[1] - y * here[0]
        share = weight[k] / spread
        for axis, value in enumerate((along * of[k, 0] - across * of[k, 1], across * of[k, 0] + along * of[k, 1])):
            sampled[axis] += (value.astype(np.float32) * share).astype(np.float32)
    sampled = (sampled + of_mean).astype(np.float32)
    moved = (sampled - point.astype(np.float32)).astype(np.float64)
    for k in reversed(range(len(to) - 1)):
        moved[:, hit[k]] = (of[k, :, None, None] - point)[:, hit[k]]
    return moved


def _sample(planes: NDArray[np.uint8], width: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> BGRImage:
    """Bilinear values at (x, y), cut to whole numbers. cv2.remap would round the places to 1/32 of a pixel.

    planes: (channels, height * width): numpy is several times faster on long rows than on the three values of a pixel.
    """
    left, top = np.floor(x), np.floor(y)
    x_share, y_share = x - left, y - top
    columns = left.astype(np.intp), np.ceil(x).astype(np.intp)
    rows = top.astype(np.intp) * width, np.ceil(y).astype(np.intp) * width

    def mix(row: NDArray[np.intp]) -> NDArray[np.float64]:
        first = np.take(planes, row + columns[0], axis=1) * (1 - x_share)
        first += np.take(planes, row + columns[1], axis=1) * x_share
        return first

    value = mix(rows[0])
    value *= 1 - y_share
    below = mix(rows[1])
    below *= y_share
    value += below
    # By way of float32: a sum that should be whole may be a last bit below it in float64. Shares add up to 1, so that
    # no value leaves 0 to 255.
    return value.astype(np.float32).astype(np.uint8).transpose(1, 2, 0)


@dataclass(frozen=True, eq=False)
class Encode:
    """MultiLabelEncode and CTCLabelEncode: the text becomes class indices, or the sample is rejected."""

    encoder: LabelEncoder

    def __call__(self, line: Line, request: LineRequest) -> Line:
        return replace(line, label=self.encoder(line.text))


def resize_line(image: BGRImage, size: tuple[int, int], preprocess: RecPreprocess) -> tuple[NDArray[np.float32], float]:
    """RecResizeImg, and what MultiScaleDataSet does at the size that its sampler asks for: (width, height).

    Returns the network's input, float32 (3, height, width), and the share of its width that is not padding.
    """
    width, height = size
    return resize_norm(image, height, width, preprocess), resized_width(image, height, width, preprocess) / width


@dataclass(frozen=True)
class RecResizeImg:
    """Options of RecResizeImg: `image_shape` is (channels, height, width).

    With `eval_mode` a line that is longer than that keeps its aspect ratio, for evaluation one by one. Without
    `padding` lines are stretched to the width, as SVTRRecResizeImg can do it.
    """

    image_shape: tuple[int, int, int]
    eval_mode: bool = False
    padding: bool = True

    def __post_init__(self) -> None:
        _check_size(self.image_shape[1:])


@dataclass(frozen=True)
class MultiLabelEncode:
    """Options of MultiLabelEncode: the head that labels are encoded for besides CTC, and whether in small letters.

    As in PaddleOCR, SAR is the one that is not named.
    """

    gtc_encode: Literal["NRTRLabelEncode"] | None = None
    lower: bool = False

    @property
    def guide(self) -> Guide:
        """The head."""
        return "SAR" if self.gtc_encode is None else "NRTR"


@dataclass(frozen=True)
class CTCLabelEncode:
    """Options of CTCLabelEncode: whether labels are read in small letters."""

    lower: bool = False
    guide = None
