"""What `data check` found, as one HTML page, with samples as augmentation really makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paddle2torch.html_page import render_page, write_page
from paddle2torch.model_zoo.config import ClsPreprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.check import QUANTILES, DataCheck
from paddle2torch.training.data.datasets import Classified, Lines, Pages, SampleDataset
from paddle2torch.training.data.drops import DataError
from paddle2torch.training.data.samplers import Request
from paddle2torch.training.metrics import label_texts
from paddle2torch.training.pictures import embed
from paddle2torch.training.settings import Settings

TEMPLATE = "data_check.html"

LINES_SHOWN, PAGES_SHOWN = 36, 8
CHARACTERS_SHOWN = 200
"""Characters of the training data that are listed, and of the set that it has not."""

PAGE_SIDE = 480
"""Pixels that a page's sides have at most in the picture."""


@dataclass(frozen=True)
class Shown:
    """A sample after all transforms: JPEG as a data address, its label, and where it comes from."""

    address: str
    label: str
    where: str


def write_check_report(check: DataCheck, settings: Settings, config: ModelConfig, path: Path) -> None:
    """Write the page; it lands whole or not at all."""
    longest = {name: max((count for _, count in figures.lengths), default=1) for name, figures in check.splits.items()}
    page = render_page(
        TEMPLATE,
        {"number": lambda value: f"{value:,}"},
        check=check,
        model=config.name,
        samples=list(augmented_samples(check, settings, config)),
        quantiles=[f"{quantile:.0%}" for quantile in QUANTILES],
        longest=longest,
        most=CHARACTERS_SHOWN,
    )
    write_page(path, page)


def augmented_samples(check: DataCheck, settings: Settings, config: ModelConfig) -> Iterator[Shown]:
    """Samples of the training data, drawn at random, as the first epoch would have them."""
    dataset = check.datasets.get("train")
    if dataset is None or not len(dataset):
        return
    split = settings.data.train
    sizes: Sequence[tuple[int, int] | None] = (None,) if split.sampler is None else split.sampler.sizes
    count = PAGES_SHOWN if isinstance(dataset, Pages) else LINES_SHOWN
    order = np.random.default_rng(settings.training.seed).permutation(len(dataset))[:count]
    for number, index in enumerate(order.tolist()):
        where = dataset.samples.where(index)
        try:
            loaded = dataset[Request(0, index, sizes[number % len(sizes)])]
        except DataError as error:  # no sample can be used: that is told in place of the picture
            yield Shown("", "", f"{where}: {error}")
            continue
        if loaded.values is not None:
            said = f"another sample in place of {where}" if loaded.replaced else where
            yield _shown(dataset, config, loaded.values, said)


def _shown(dataset: SampleDataset, config: ModelConfig, values: dict[str, NDArray[Any]], where: str) -> Shown:
    image = _pixels(values["image"], config.preprocess)
    label = ""
    if isinstance(dataset, Lines):
        assert config.charset is not None
        if "label_ctc" in values and "length" in values:
            (label,) = label_texts(values["label_ctc"][None], values["length"][None], config.charset)
    elif isinstance(dataset, Classified):
        label = dataset.labels[int(values["label"])] if "label" in values else ""
    else:
        image = _with_maps(image, values)
    picture = embed(image, 85, None if isinstance(dataset, Lines) else (PAGE_SIDE, PAGE_SIDE))
    return Shown(picture.address if picture is not None else "", label, where)


def _pixels(values: NDArray[np.float32], preprocess: RecPreprocess | DetPreprocess | ClsPreprocess) -> BGRImage:
    """The network's input as a picture again."""
    image = values.transpose(1, 2, 0) * np.array(preprocess.std) + np.array(preprocess.mean)
    picture = np.clip(np.rint(image / preprocess.scale), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture[:, :, ::-1] if preprocess.channel_order == "RGB" else picture)


def _with_maps(image: BGRImage, values: dict[str, NDArray[Any]]) -> BGRImage:
    """A page with the cores of lines green, and red what is not learnt from."""
    image = image.copy()
    for name, value, colour in (("shrink_map", 1, (0, 200, 0)), ("shrink_mask", 0, (0, 0, 255))):
        if name in values:
            mask = values[name] == value
            tinted = 0.6 * image[mask] + 0.4 * np.array(colour)
            image[mask] = tinted.astype(np.uint8)
    return image
