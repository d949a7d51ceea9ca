"""A pipeline for tests: networks that see coloured bars, each an exact answer to what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.tasks.images import BGRImage

# A letter is a cell of a colour (BGR), 12 pixels wide, with 6 pixels of grey on each side; the lower edge is black.
COLOURS = {"A": (0, 0, 255), "B": (0, 255, 0), "C": (255, 0, 0), " ": (0, 255, 255)}
SCORES = {"A": 0.9, "B": 0.8, "C": 0.6, " ": 0.9}
CELL, HEIGHT = 24, 26
UNCLIP = DBPostprocess(unclip_ratio=0.3)


def bar(text: str) -> BGRImage:
    image = np.full((HEIGHT, CELL * len(text), 3), 128, np.uint8)
    for index, letter in enumerate(text):
        image[:, CELL * index + 6 : CELL * index + 18] = COLOURS[letter]
    image[-6:] = 0
    return image


def blank(height: int = 224, width: int = 320) -> BGRImage:
    return np.full((height, width, 3), 255, np.uint8)


def put(page: BGRImage, image: BGRImage, left: int, top: int) -> tuple[int, int, int, int]:
    page[top : top + image.shape[0], left : left + image.shape[1]] = image
    return left, top, left + image.shape[1], top + image.shape[0]


class Ink(nn.Module):
    """A detector: what is not white is text."""

    config = ModelConfig(
        name="ink",
        task="det",
        form="fused",
        backbone=Component("PPLCNetV3"),
        neck=Component("RSEFPN"),
        head=Component("DBHead"),
        preprocess=DetPreprocess(),
        postprocess=DBPostprocess(),
    )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"maps": (x.amin(dim=1, keepdim=True) < 1.5).float() * 0.95}


class Shadow(nn.Module):
    """A direction classifier: the black edge of a bar is below."""

    config = ModelConfig(
        name="shadow",
        task="cls",
        form="fused",
        backbone=Component("MobileNetV3"),
        neck=None,
        head=Component("ClsHead", {"classes": 2}),
        preprocess=ClsPreprocess(),
        postprocess=ClsPostprocess(),
    )

    def forward(self, x: Tensor) -> Tensor:
        upside_down = x[:, :, :14].mean(dim=(1, 2, 3)) < x[:, :, -14:].mean(dim=(1, 2, 3))
        score = torch.where(upside_down, 0.95, 0.05)
        return torch.stack([1 - score, score], dim=1)


class Colours(nn.Module):
    """A recogniser: a step for four columns, its class by its colour."""

    config = ModelConfig(
        name="colours",
        task="rec",
        form="fused",
        backbone=Component("PPLCNetV3"),
        neck=None,
        head=Component("MultiHead", {"classes": 5}),
        preprocess=RecPreprocess(),
        postprocess=CTCDecode(),
        charset=tuple(COLOURS),
    )

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(tuple(x.shape))
        steps = x[:, :, 14:26, : x.shape[3] // 4 * 4].unflatten(3, (-1, 4)).mean(dim=(2, 4))
        blue, green, red = steps.unbind(1)
        colourful = steps.amax(1) - steps.amin(1) > 1.2
        yellow = (red > 0) & (green > 0)
        letter = torch.stack([red, green, blue], dim=1).argmax(1) + 1
        classes = torch.where(colourful, torch.where(yellow, 4, letter), 0)
        score = torch.tensor([0.9, *SCORES.values()])[classes]
        probabilities = ((1 - score) / 4)[..., None].repeat(1, 1, 5)
        return probabilities.scatter(2, classes[..., None], score[..., None])


def settings(**others: Any) -> dict[str, Any]:
    """Of a pipeline that reads bars."""
    return {"det": Ink().eval(), "rec": Colours().eval(), "cls": Shadow().eval(), "postprocess": UNCLIP, **others}


def pipeline(**options: Any) -> OCR:
    return OCR(**settings(**options))


def page_of(text: str, first: tuple[int, int, int] | None = None) -> BGRImage:
    """A small page with one line. first: another colour of its first letter."""
    page, image = blank(64, 160), bar(text)
    if first is not None:
        image[:-6, 6:18] = first
    put(page, image, 20, 20)
    return page
