"""A folder as offices have it, rendered: receipts of many short lines, scans of text, photographs of a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle2torch.tasks.images import BGRImage

GOODS = "apple bread butter cheese coffee cream eggs flour honey lemon milk oats olive onion pasta pepper rice salt"
LETTERS = (
    "account address agreement amount balance before between branch claim clause contract copy customer date deliver "
    "department document due each further general invoice item letter limited manager month notice number office order "
    "other page party payment period person price quality receipt report section service signed state term total "
    "under value week whole within without written year"
)

KINDS = {"receipt": 14, "scan": 3, "photo": 3}
"""How many of twenty pages are of each kind."""

JPEG_QUALITY = 90

INK, PAPER = (35, 35, 40), (250, 249, 246)


def write_mixed_pages(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Render `count` pages as JPEG files into `folder`, and return their paths; the same for the same seed.

    Of twenty, 14 are receipts (up to 460 x 900 pixels), 3 scans (900 x 1250) and 3 photographs (960 x 720).
    """
    kinds = [kind for kind, number in KINDS.items() for _ in range(number)]
    paths = []
    for number in range(count):
        chance = np.random.default_rng((seed, number))
        # Each twenty in an order of its own, so that the first pages are a mixture as well.
        order = np.random.default_rng((seed, number // len(kinds), 1)).permutation(len(kinds))
        kind = kinds[order[number % len(kinds)]]
        path = folder / f"{number:03d}_{kind}.jpg"
        Image.fromarray(RENDER[kind](chance)).save(path, quality=JPEG_QUALITY)
        paths.append(path)
    return paths


def _receipt(chance: np.random.Generator) -> BGRImage:
    """Names on the left, prices on the right."""
    size = int(chance.integers(16, 24))
    width, rows = int(chance.integers(300, 460)), int(chance.integers(6, 22))
    font, pitch = ImageFont.load_default(size), round(size * 1.6)
    page = Image.new("RGB", (width, pitch * (rows + 5)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((width // 2, pitch), f"{_words(chance, 1)} market".upper(), fill=INK, font=font, anchor="mm")
    for row in range(rows):
        y = pitch * (row + 3)
        draw.text((14, y), _words(chance, int(chance.integers(1, 3))), fill=INK, font=font, anchor="lm")
        draw.text((width - 14, y), f"{chance.integers(1, 9999) / 100:.2f}", fill=INK, font=font, anchor="rm")
    return _scanned(np.array(page), chance, 3.0)


def _scan(chance: np.random.Generator) -> BGRImage:
    """Paragraphs across the page."""
    width, height, size = 900, 1250, int(chance.integers(17, 22))
    font, pitch = ImageFont.load_default(size), round(size * 1.55)
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    left, y = 80, 90
    while y < height - 120:
        for _ in range(int(chance.integers(2, 6))):
            text = ""
            while font.getlength(text) < width - 2 * left - 60:
                text = f"{text} {_words(chance, 1, LETTERS)}".strip()
            draw.text((left, y), text.capitalize() + ".", fill=INK, font=font)
            y += pitch
        y += 2 * pitch
    return _scanned(np.array(page), chance, 6.0)


def _photo(chance: np.random.Generator) -> BGRImage:
    """Signs on a coloured wall, seen from the side."""
    height, width = 720, 960
    corners = chance.integers(60, 200, (2, 2, 3)).astype(np.float32)
    wall = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 255).astype(np.uint8)
    page = Image.fromarray(wall)
    draw = ImageDraw.Draw(page)
    for place in range(int(chance.integers(3, 8))):
        font = ImageFont.load_default(int(chance.integers(28, 54)))
        at = (int(chance.integers(40, 320)), 60 + 85 * place)
        draw.text(at, _words(chance, int(chance.integers(1, 4))), fill=(255, 250, 235), font=font)
    ends = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    moved = ends + chance.uniform(-0.04, 0.04, (4, 2)).astype(np.float32) * (width, height)
    seen = cv2.warpPerspective(
        np.array(page),
        cv2.getPerspectiveTransform(ends, moved.astype(np.float32)),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
    )
    blurred: BGRImage = np.asarray(cv2.GaussianBlur(seen, (3, 3), 0), np.uint8)
    return _scanned(blurred, chance, 5.0)


def _scanned(page: BGRImage, chance: np.random.Generator, noise: float) -> BGRImage:
    grain = chance.normal(0.0, noise, page.shape[:2]).astype(np.float32)[..., None]
    seen: BGRImage = (page + grain).clip(0, 255).astype(np.uint8)
    return seen


def _words(chance: np.random.Generator, count: int, of: str = GOODS) -> str:
    words = of.split()
    return " ".join(words[int(place)] for place in chance.integers(0, len(words), count))


RENDER: Mapping[str, Callable[[np.random.Generator], BGRImage]] = {"receipt": _receipt, "scan": _scan, "photo": _photo}
