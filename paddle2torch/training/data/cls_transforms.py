"""What happens to an image on its way to the classifier: the transforms of PaddleOCR and PaddleClas, by their names.

Facts: PaddleOCR `ppocr/data/imaug/randaugment.py`, PaddleClas `ppcls/data/preprocess/ops/operators.py`. Given the same
random draws, RandAugment's images are PaddleOCR's bit for bit. What `Line` calls the text is the name of the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from paddle2torch.model_zoo.config import MOST_HEIGHT, MOST_PIXELS, MOST_WIDTH
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.training.data.rec_transforms import Line, LineRequest

GREY = (128, 128, 128)
"""What comes in from outside."""

MOST_LAYERS, HIGHEST = 20, 10

Picture = Image.Image


@dataclass(frozen=True)
class ClsLabelEncode:
    """The class of a label: its place among `postprocess.labels` of model_config.json."""


@dataclass(frozen=True)
class ClsResizeImg:
    """Options of ClsResizeImg: `image_shape` is (channels, height, width), the model's own.

    The image is brought to that size as `preprocess` in model_config.json says: padded, stretched or cut. Behind
    RandCropImage it is stretched.
    """

    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class RandCropImage:
    """A random part of the image, stretched to `size`, its width and height.

    Its area is a share between both of `scale` of the image's, its aspect ratio between both of `ratio`, as far as
    that fits into the image.
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        width, height = self.sides
        if min(width, height) < 1 or width > MOST_WIDTH or height > MOST_HEIGHT or width * height > MOST_PIXELS:
            raise ConfigError(f"RandCropImage: size {[width, height]} is no size of a classifier's input")
        within(self, scale=(1e-6, 1), ratio=(0.01, 100))
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise ConfigError("RandCropImage: scale and ratio are each a smaller and a larger number")

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, line: Line, request: LineRequest) -> Line:
        rng, (rows, columns) = request.rng, line.image.shape[:2]
        across = math.sqrt(rng.uniform(*self.ratio))
        down = 1 / across
        bound = min(columns / rows / across**2, rows / columns / down**2)
        least, most = (min(share, bound) for share in self.scale)
        side = math.sqrt(rows * columns * rng.uniform(least, most))
        width, height = min(columns, max(1, int(side * across))), min(rows, max(1, int(side * down)))
        left, top = (
            int(rng.integers(0, columns - width, endpoint=True)),
            int(rng.integers(0, rows - height, endpoint=True)),
        )
        part = line.image[top : top + height, left : left + width]
        return replace(line, image=np.asarray(cv2.resize(part, self.sides), dtype=np.uint8))


@dataclass(frozen=True)
class RandAugment:
    """With the probability `prob` change the image in `num_layers` ways, each drawn anew, as strongly as `magnitude`.

    They are shears, shifts, a rotation, and changes of colour, contrast, brightness, sharpness, levels and sign.
    """

    prob: float = 0.5
    num_layers: int = 2
    magnitude: float = 5

    def __post_init__(self) -> None:
        within(self, prob=(0, 1), num_layers=(0, MOST_LAYERS), magnitude=(0, HIGHEST))

    def __call__(self, line: Line, request: LineRequest) -> Line:
        rng = request.rng
        if rng.random() > self.prob:
            return line
        picture = Image.fromarray(np.ascontiguousarray(line.image))
        names = list(OPERATIONS)
        for _ in range(self.num_layers):
            picture = OPERATIONS[names[int(rng.integers(len(names)))]](picture, self.magnitude / HIGHEST, rng)
        return replace(line, image=np.asarray(picture))


Operation = Callable[[Picture, float, np.random.Generator], Picture]


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.integers(2) else -1


def _moved(coefficients: Sequence[float], picture: Picture, resample: Image.Resampling) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, tuple(coefficients), resample, fillcolor=GREY)


def _shear_x(picture: Picture, level: float, rng: np.random.Generator) -> Picture:
    return _moved((1, 0.3 * level * _sign(rng), 0, 0, 1, 0), picture, Image.Resampling.BICUBIC)


def _shear_y(picture: Picture, level: float, rng: np.random.Generator) -> Picture:
    return _moved((1, 0, 0, 0.3 * level * _sign(rng), 1, 0), picture, Image.Resampling.BICUBIC)


def _translate_x(picture: Picture, level: float, rng: np.random.Generator) -> Picture:
    shift = 150.0 / 331 * level * picture.size[0] * _sign(rng)
    return _moved((1, 0, shift, 0, 1, 0), picture, Image.Resampling.NEAREST)


def _translate_y(picture: Picture, level: float, rng: np.random.Generator) -> Picture:
    shift = 150.0 / 331 * level * picture.size[1] * _sign(rng)
    return _moved((1, 0, 0, 0, 1, shift), picture, Image.Resampling.NEAREST)


def _rotate(picture: Picture, level: float, rng: np.random.Generator) -> Picture:
    """Always counter-clockwise, as PaddleOCR does."""
    turned = picture.convert("RGBA").rotate(30 * level)
    return Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert(picture.mode)


def _enhanced(enhance: Callable[[Picture], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, level, rng: enhance(picture).enhance(1 + 0.9 * level * _sign(rng))


OPERATIONS: Mapping[str, Operation] = {
    "shearX": _shear_x,
    "shearY": _shear_y,
    "translateX": _translate_x,
    "translateY": _translate_y,
    "rotate": _rotate,
    "color": _enhanced(ImageEnhance.Color),
    "posterize": lambda picture, level, rng: ImageOps.posterize(picture, int(4.0 * level)),
    # Pillow's annotation of a threshold knows no fractions, which PaddleOCR gives it.
    "solarize": lambda picture, level, rng: ImageOps.solarize(picture, 256.0 * level),  # type: ignore[arg-type]
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "autocontrast": lambda picture, level, rng: ImageOps.autocontrast(picture),
    "equalize": lambda picture, level, rng: ImageOps.equalize(picture),
    "invert": lambda picture, level, rng: ImageOps.invert(picture),
}
"""What RandAugment draws from, in PaddleOCR's order; the level is 0 to 1."""


@dataclass(frozen=True)
class RandomRot90:
    """Turn the image to one of the model's classes, which are degrees, with equal chance, and its label with it.

    Upright images, labelled "0", are all it takes to train on every orientation.
    """


@dataclass(frozen=True, eq=False)
class Turns:
    """RandomRot90 for a model with these `labels`; raises `ConfigError` where they are not multiples of 90 degrees."""

    labels: Sequence[str]

    def __post_init__(self) -> None:
        quarter_turns(self.labels)

    def __call__(self, line: Line, request: LineRequest) -> Line:
        turns = quarter_turns(self.labels)
        place = int(request.rng.integers(len(turns)))
        # A page of class 90 stands upright after a quarter turn counter-clockwise: it was turned clockwise.
        clockwise = turns[place] - turns[self.labels.index(line.text)]
        return Line(np.ascontiguousarray(np.rot90(line.image, -clockwise)), self.labels[place])


def quarter_turns(labels: Sequence[str]) -> list[int]:
    """How often by 90 degrees images of each class are turned clockwise: of "270" and "270_degree" 3."""
    found = []
    for label in labels:
        number = label.partition("_")[0]
        if not (number.isascii() and number.isdecimal() and len(number) <= 3 and int(number) % 90 == 0):
            raise ConfigError(
                f"RandomRot90 turns images to the classes of a model that are degrees (0, 90, 180, 270), and one of "
                f"them is {label!r}: leave it out"
            )
        found.append(int(number) // 90)
    return found
