"""Lines that are rendered with the user's fonts, for characters that the data lacks.

Text and picture of a sample follow from its index and the random numbers of its request alone. Perspective, blur and
noise are those of the transforms, as for every line.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont, features

from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.show import show_all, show_path
from paddle2torch.model_zoo.strict_json import within
from paddle2torch.tasks.images import BGRImage, ImageError, load_image
from paddle2torch.tasks.right_to_left import as_displayed
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.labels import MOST_BYTES, Group, digest_of_lines
from paddle2torch.training.settings import MOST_TEXT

MOST_LINES = 10_000_000
"""Their texts are made at once: some hundred megabytes."""
MOST_FONTS = 1000
FONT_BYTES = 256 << 20
MOST_BACKGROUNDS = 100_000
MOST_SIZE = 256

CONTRAST = 70
"""Grey values between text and background, on average."""

_COMPLEX = ("R", "AL", "AN", "Mn", "Mc")
"""Right-to-left letters and digits, and marks, by their direction and category in Unicode."""


@dataclass(frozen=True)
class RenderedLines:
    """`count` rendered lines an epoch, in one of `fonts` (paths of .ttf, .otf or .ttc files) each.

    Their texts are the lines of the file `texts`, in turn, or else random ones: a length between both of `lengths` and
    characters of `characters` (null: all of the model's set that a font has). `sizes` are the least and the largest
    height of the letters, in pixels. `backgrounds` is a folder of pictures that lines are put on; null: plain ones.
    """

    count: int
    fonts: tuple[str, ...]
    texts: str | None = None
    characters: str | None = None
    lengths: tuple[int, int] = (3, 12)
    sizes: tuple[int, int] = (24, 48)
    backgrounds: str | None = None

    def __post_init__(self) -> None:
        within(self, count=(1, MOST_LINES), lengths=(1, MOST_TEXT), sizes=(8, MOST_SIZE))
        for name in ("lengths", "sizes"):
            least, most = getattr(self, name)
            if least > most:
                raise ConfigError(f"RenderedLines: {name} are the least and the largest, found {least} and {most}")
        if not 1 <= len(self.fonts) <= MOST_FONTS:
            raise ConfigError(f"RenderedLines: 1 to {MOST_FONTS:,} fonts are taken, found {len(self.fonts):,}")
        if self.texts is not None and self.characters is not None:
            raise ConfigError("RenderedLines: give texts, or characters of random ones, not both")


class Rendered:
    """Rendered lines as samples.

    Raises `DataError` for fonts, texts and backgrounds that cannot be read, and `ConfigError` for characters that no
    font has.
    """

    def __init__(self, options: RenderedLines, charset: Sequence[str], seed: int) -> None:
        self._options = options
        self._seed = seed
        self._fonts = [(path, _characters(path)) for path in options.fonts]
        self._loaded: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}
        anywhere = frozenset[str]().union(*(known for _, known in self._fonts))
        self._texts = _texts(options.texts, anywhere) if options.texts is not None else None
        drawn = self._drawn_from(charset, anywhere)
        _check_shaping("".join(drawn if self._texts is None else self._texts))
        self._backgrounds = _backgrounds(options.backgrounds)
        # A random text is of one font's characters, or no font could render them together.
        of_fonts = ([one for one in drawn if one in known] for _, known in self._fonts)
        choices = [characters for characters in of_fonts if characters]
        self._labels = [self._label(index, choices) for index in range(options.count)]
        self.groups = [Group(options.count, 1.0)]

    def _drawn_from(self, charset: Sequence[str], anywhere: frozenset[str]) -> list[str]:
        """The characters of random texts."""
        if self._texts is not None:
            return []
        if self._options.characters is None:
            characters = [one for one in dict.fromkeys(charset) if len(one) == 1 and one in anywhere and one.strip()]
            if not characters:
                raise ConfigError("RenderedLines: no font has any character of the model's set")
            return characters
        characters = list(dict.fromkeys(self._options.characters))
        if lacking := [one for one in characters if one not in anywhere]:
            raise ConfigError(f"RenderedLines: no font has {show_all(lacking)}: add one that does")
        if not characters:
            raise ConfigError("RenderedLines: characters is empty")
        return characters

    def _label(self, index: int, choices: Sequence[Sequence[str]]) -> str:
        if self._texts is not None:
            return self._texts[index % len(self._texts)]
        rng = np.random.default_rng([self._seed, index, 5])
        characters = choices[int(rng.integers(len(choices)))]
        length = int(rng.integers(self._options.lengths[0], self._options.lengths[1] + 1))
        text = "".join(characters[number] for number in rng.integers(len(characters), size=length))
        return text.strip() or characters[0]

    def __len__(self) -> int:
        return self._options.count

    def label(self, index: int) -> str:
        """The text of a line, as it is seen from the left: a recogniser's steps go that way."""
        return as_displayed(self._labels[index], None)

    def where(self, index: int) -> str:
        """That it is rendered, and its number."""
        return f"rendered line {index + 1:,}"

    def source(self, index: int) -> str:
        """That it is rendered."""
        return "rendered lines"

    def image(self, index: int, rng: np.random.Generator) -> BGRImage:
        """The image as uint8 (H, W, 3), BGR, in font, size, colours and place as `rng` draws them."""
        text = self._labels[index]
        fonts = [path for path, known in self._fonts if known.issuperset(text)]
        size = int(rng.integers(self._options.sizes[0], self._options.sizes[1] + 1))
        font = self._font(fonts[int(rng.integers(len(fonts)))], size)
        left, top, right, bottom = font.getbbox(text)
        if right <= left or bottom <= top:
            raise ImageError(f"the font draws nothing for {text!r}")
        room = [int(rng.integers(1, max(3, size // 3))) for _ in range(4)]
        width, height = int(right - left) + room[0] + room[1], int(bottom - top) + room[2] + room[3]
        picture = self._background(width, height, rng)
        colour = _colour(picture, rng)
        canvas = Image.fromarray(picture)
        ImageDraw.Draw(canvas).text((room[0] - left, room[2] - top), text, font=font, fill=colour)
        return np.asarray(canvas, dtype=np.uint8)

    def missing(self, index: int) -> str | None:
        """Nothing: it is made when it is asked for."""
        return None

    def digest(self) -> str:
        """Of the options and the texts."""
        return digest_of_lines((self._options, *self._labels))

    def __getstate__(self) -> dict[str, object]:
        # Fonts are opened anew in each worker that is started and not forked.
        return {**self.__dict__, "_loaded": {}}

    def _font(self, path: str, size: int) -> ImageFont.FreeTypeFont:
        if (path, size) not in self._loaded:
            self._loaded[path, size] = ImageFont.truetype(path, size)
        return self._loaded[path, size]

    def _background(self, width: int, height: int, rng: np.random.Generator) -> BGRImage:
        """A part of a picture, or a plain one that grows a little darker to one side."""
        if self._backgrounds:
            path = self._backgrounds[int(rng.integers(len(self._backgrounds)))]
            picture = load_image(path)
            scale = max(width / picture.shape[1], height / picture.shape[0], 1.0)
            if scale > 1:
                size = int(np.ceil(picture.shape[1] * scale)), int(np.ceil(picture.shape[0] * scale))
                picture = np.asarray(cv2.resize(picture, size), dtype=np.uint8)
            x = int(rng.integers(picture.shape[1] - width + 1))
            y = int(rng.integers(picture.shape[0] - height + 1))
            return np.ascontiguousarray(picture[y : y + height, x : x + width])
        base = rng.integers(0, 256, 3).astype(np.float64)
        slope = np.linspace(0, float(rng.uniform(-40, 40)), width)[None, :, None]
        return np.clip(np.broadcast_to(base + slope, (height, width, 3)), 0, 255).astype(np.uint8)


def _colour(picture: BGRImage, rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour that can be told from a background."""
    grey = float(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).mean())
    for _ in range(20):
        blue, green, red = (int(value) for value in rng.integers(0, 256, 3))
        if abs(0.114 * blue + 0.587 * green + 0.299 * red - grey) >= CONTRAST:
            return blue, green, red
    return (0, 0, 0) if grey > 127 else (255, 255, 255)


def _characters(path: str) -> frozenset[str]:
    """The characters that a font has."""
    try:
        data = read_bounded(path, FONT_BYTES, "font")
        ImageFont.truetype(io.BytesIO(data), 16)
        with TTFont(io.BytesIO(data), fontNumber=0, lazy=True) as font:
            return frozenset(map(chr, font.getBestCmap() or ()))
    except Paddle2TorchError as error:
        raise DataError(f"RenderedLines: the font {error}") from None
    except (TTLibError, OSError, ValueError, KeyError, AssertionError) as error:
        raise DataError(f"RenderedLines: {show_path(path)} is no font that can be read: {error}") from None


def _texts(path: str, anywhere: frozenset[str]) -> list[str]:
    """The lines of a file of texts."""
    try:
        lines = read_bounded(path, MOST_BYTES, "file of texts").decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"RenderedLines: {show_path(path)} is not UTF-8") from None
    except Paddle2TorchError as error:
        raise DataError(f"RenderedLines: {error}") from None
    texts = [line.rstrip("\r") for line in lines if line.strip()]
    if not texts:
        raise DataError(f"RenderedLines: {show_path(path)} has no line of text")
    if lacking := sorted({character for text in texts for character in text if character not in anywhere}):
        raise ConfigError(f"RenderedLines: no font has {show_all(lacking)} of {show_path(path)}: add one that does")
    return texts


def _check_shaping(text: str) -> None:
    """Raise where characters join or are placed by rules that this Pillow does not know."""
    joined = [
        one for one in set(text) if {unicodedata.bidirectional(one), unicodedata.category(one)}.intersection(_COMPLEX)
    ]
    if joined and not features.check("raqm"):
        raise ConfigError(
            f"RenderedLines: to place {show_all(sorted(joined))} Pillow needs the library Raqm, with FriBiDi: install "
            f"libraqm0 and libfribidi0, or what they are called here"
        )


def _backgrounds(folder: str | None) -> list[Path]:
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise DataError(f"RenderedLines: backgrounds: {show_path(folder)} is no folder")
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())[:MOST_BACKGROUNDS]
    if not paths:
        raise DataError(f"RenderedLines: backgrounds: there is no picture in {show_path(folder)}")
    return paths
