"""A page with its boxes beside the same page with its texts, as PaddleOCR draws them.

Each line has a colour: its box is filled with it on the left and outlined on the right, where the text is at the
place and in the direction of the line.
"""

from __future__ import annotations

import functools
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.geometry import quad_of
from paddle2torch.tasks.images import BGRImage

if TYPE_CHECKING:
    from paddle2torch.ocr.results import PageText, TextLine

VERTICAL = 2
"""The text of a box more than twice as high as wide, and higher than 30 pixels, is drawn from top to bottom."""
VERTICAL_HEIGHT = 30

LETTER_HEIGHT = 0.8
"""The size of the letters, as a share of the box: boxes are drawn wider than the text by the detector."""

MAX_LETTERS = 128
"""Pixels up to which letters are drawn in the size of their box."""

FONT_FILES = (".ttf", ".otf", ".ttc", ".otc")

# Of fonts that have all the glyphs, the plain ones first.
_PLAIN = ("notosanscjk", "notosans-regular", "dejavusans.", "arial.", "helvetica", "pingfang", "msyh", "regular")


def visualize(page: PageText, font: str | Path | None = None) -> BGRImage:
    """Boxes and texts of a page side by side: uint8 (height, 2 * width, 3), BGR.

    font: a TrueType or OpenType file. Without one, a font of the system that has all characters of the page is looked
    for; where there is none, the font that OpenCV 5 brings (it has the Chinese ones) or the one that has the most.
    Raises `ConfigError` where `font` is not a font, or no font is found.
    """
    characters = frozenset("".join(line.text for line in page.lines))
    path = find_font(characters) if font is None else Path(font)
    filled = page.image.copy()
    texts = np.full_like(page.image, 255)
    colours = random.Random(0)  # the same page, the same picture
    for line in page.lines:
        colour = tuple(colours.randrange(256) for _ in range(3))
        corners = [np.round(line.box).astype(np.int32)]
        cv2.fillPoly(filled, corners, colour)
        _draw_text(texts, line, path)
        cv2.polylines(texts, corners, True, colour, 1)
    boxes = np.asarray(cv2.addWeighted(page.image, 0.5, filled, 0.5, 0), dtype=np.uint8)
    return np.concatenate([boxes, texts], axis=1)


def draw_png(page: PageText) -> bytes:
    """`visualize` of a page as a PNG."""
    return cv2.imencode(".png", visualize(page))[1].tobytes()


def _draw_text(canvas: BGRImage, line: TextLine, font: Path | None) -> None:
    quad = quad_of(line.box)
    width = float(np.linalg.norm(quad[1] - quad[0]))
    height = float(np.linalg.norm(quad[3] - quad[0]))
    if height > VERTICAL * width and height > VERTICAL_HEIGHT:
        # The crop was turned counter-clockwise to be read: its left end is the box's top right corner.
        quad = np.roll(quad, -1, axis=0)
        width, height = height, width
    # Letters of a huge box are drawn small and enlarged.
    scale = min(1.0, MAX_LETTERS / height)
    columns, rows = max(round(width * scale), 1), max(round(height * scale), 1)
    letters = _letters(line.text, columns, rows, font)
    low = np.maximum(np.floor(quad.min(axis=0)).astype(int), 0)
    high = np.ceil(quad.max(axis=0)).astype(int) + 1
    region = canvas[low[1] : high[1], low[0] : high[0]]
    if region.size == 0:
        return
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(source, (quad - low).astype(np.float32))
    placed = cv2.warpPerspective(letters, warp, region.shape[1::-1], borderMode=cv2.BORDER_CONSTANT, borderValue=255)
    np.minimum(region, np.asarray(placed, dtype=np.uint8)[:, :, None], out=region)


def _letters(text: str, width: int, height: int, font: Path | None) -> NDArray[np.uint8]:
    """Black text on white, as large as fits: uint8 (height, width)."""
    size = max(int(height * LETTER_HEIGHT), 1)
    if font is None:
        face = cv2.FontFace("uni")
        canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        _, _, needed, _ = cv2.getTextSize((width, height), text, (0, 0), face, size)
        size = max(int(size * min(1.0, width / max(needed, 1))), 1)
        cv2.putText(canvas, text, (0, (height + size) // 2), (0, 0, 0), face, size)
        return canvas[:, :, 0]
    image = Image.new("L", (width, height), 255)
    letters = _open_font(font, size)
    length = letters.getlength(text)
    if length > width:
        letters = _open_font(font, max(int(size * width / length), 1))
    ImageDraw.Draw(image).text((0, height / 2), text, fill=0, font=letters, anchor="lm")
    return np.asarray(image)


def find_font(characters: frozenset[str]) -> Path | None:
    """A font that has the characters: one of the system's, or None for the one that OpenCV 5 brings.

    Where no font of the system has them all and OpenCV is older, the one that has the most. Raises `ConfigError` where
    there is none.
    """
    drawn = [character for character in characters if not character.isspace()]
    best: tuple[int, Path] | None = None
    for path in system_fonts():
        missing = sum(not _has_glyph(path, character) for character in drawn)
        if missing == 0:
            return path
        if best is None or missing < best[0]:
            best = missing, path
    if hasattr(cv2, "FontFace"):
        return None
    if best is None:
        raise ConfigError("no font is installed to draw texts with; give a TrueType or OpenType file (--font)")
    return best[1]


@functools.cache
def system_fonts() -> tuple[Path, ...]:
    """The fonts of this machine, the plain ones first."""
    home = Path.home()
    folders = {
        "darwin": [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"],
        "win32": [
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            home / "AppData/Local/Microsoft/Windows/Fonts",
        ],
    }.get(
        sys.platform,
        [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"],
    )
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in FONT_FILES]

    def rank(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        return next((i for i, plain in enumerate(_PLAIN) if plain in name), len(_PLAIN)), str(path)

    return tuple(sorted(found, key=rank))


@functools.lru_cache(maxsize=100_000)
def _has_glyph(path: Path, character: str) -> bool:
    try:
        font = _open_font(path, 16)
        # A character that a font lacks is drawn like one that no font has.
        return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
    except (ConfigError, OSError):
        return False


@functools.lru_cache(maxsize=64)
def _open_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), size)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a font: {error}") from None
