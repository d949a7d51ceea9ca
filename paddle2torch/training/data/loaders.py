"""Batches for training and evaluation, from the settings of `config.json`.

    loader = build_loader(settings.data.train, model, training=True, seed=1024)
    loader.set_epoch(3, start_batch=17)
    for batch in loader:
        ...
    print(loader.report)

A sample depends on (seed, epoch, index) alone: not on the number of workers, nor on who loaded what before. What cannot
be used is counted in the report and, as in PaddleOCR, replaced: in training by a sample drawn at random, so that none
stands for a whole gap, in evaluation by the next one that can be used. With `each_once` nothing takes its place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from paddle2torch.device import available_cores
from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, DetPreprocess, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.images import BGRImage
from paddle2torch.training.data.cls_transforms import Turns
from paddle2torch.training.data.datasets import GUIDE_KEYS, Classified, Lines, Loaded, Pages, SampleDataset
from paddle2torch.training.data.det_transforms import NormalizeImage
from paddle2torch.training.data.drops import DataError, Event
from paddle2torch.training.data.encode import LabelEncoder
from paddle2torch.training.data.labels import Samples
from paddle2torch.training.data.rec_transforms import Encode, RecResizeImg
from paddle2torch.training.data.samplers import FixedBatches, MultiScaleBatches, Plan, Request, epoch_size
from paddle2torch.training.data.sources import MixedSamples, open_samples, read_source
from paddle2torch.training.data.steps import (
    CLS_KEYS,
    CLS_STEPS,
    DET_KEYS,
    DET_STEPS,
    NO_TRANSFORM,
    REC_KEYS,
    REC_STEPS,
    check_channels,
    count_for_others,
    read_steps,
)
from paddle2torch.training.settings import LoaderSettings, SplitSettings

Batch: TypeAlias = "dict[str, Tensor]"

LOOKING_SECONDS = 20.0
"""For looking which images are there before training: of a million files on a local disk all, of a slow one a part."""

MOST_CHOSEN = 8
"""Processes that load, where their number is left to us: what the official recipes have."""

_MAKES = {
    "label_gtc": "MultiLabelEncode with gtc_encode NRTRLabelEncode",
    "label_sar": "MultiLabelEncode without gtc_encode",
}


class Loader:
    """The batches of one process. Iterating yields those of the epoch that was set last.

    `report` counts what could not be used: of the labels from the start, of the images as they are read. `dataset` has
    the samples.
    """

    def __init__(self, dataset: SampleDataset, plan: Plan, *, workers: int = 0, pin_memory: bool = False) -> None:
        self.report = dataset.report
        self.dataset = dataset
        self._requests = _Requests(plan)
        self._loader: DataLoader[Loaded] = DataLoader(
            dataset,
            batch_sampler=self._requests,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # PyTorch draws a seed for its workers at each start of an epoch: not from the network's random numbers,
            # which would then depend on how often a run was resumed.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of a whole epoch, the same for each epoch and, in training, for each process."""
        return len(self._requests)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """What the next iteration yields: the epoch (from 0), without its first `start_batch` batches."""
        self._requests.epoch = epoch
        self._requests.start_batch = start_batch

    def requests(self) -> Iterator[list[Request]]:
        """Which samples the batches to come ask for."""
        return iter(self._requests)

    def where(self, index: int) -> str:
        """Where a sample is, for messages: file, line, and image."""
        return self.dataset.samples.where(index)

    def label(self, index: int) -> str:
        """The text, or the JSON of the boxes, of a sample."""
        return self.dataset.label(index)

    def source(self, index: int) -> str:
        """Which label file or database a sample is of."""
        return self.dataset.samples.source(index)

    def picture(self, index: int) -> BGRImage:
        """The image of a sample, uint8 (H, W, 3), BGR; raises `ImageError`."""
        return self.dataset.samples.image(index, np.random.default_rng(0))

    def __iter__(self) -> Iterator[Batch]:
        with _one_opencv_thread():
            batches = iter(self._loader)
        for batch, events, replaced in batches:
            for event in events:
                self.report.add(event)
            self.report.replaced += replaced
            if batch:
                yield batch


class _Requests:
    """The batches to come, as PyTorch's loader asks for them. It does not refer to the loader: a circle would be
    collected in a forked process, where the loader complains about workers that it does not have.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.epoch = 0
        self.start_batch = 0

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[list[Request]]:
        return itertools.islice(self._plan.batches(self.epoch), self.start_batch, None)


def _collate(samples: Sequence[Loaded]) -> tuple[Batch, list[Event], int]:
    there = [sample.values for sample in samples if sample.values is not None]
    keys = there[0] if there else ()
    batch = {key: torch.from_numpy(np.stack([values[key] for values in there])) for key in keys}
    return batch, [event for sample in samples for event in sample.events], sum(sample.replaced for sample in samples)


def _start_worker(worker: int) -> None:
    # A terminal asks all processes of its group to stop, and so do others: the one that trains does, behind its step.
    # SIGTERM is not ignored: by it that one ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    # A process per worker is enough. What forked has one thread already, see `_one_opencv_thread`.
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


@contextlib.contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Workers that fork here get an OpenCV without threads of its own.

    Threads do not fork, but OpenCV's list of them does: a worker that uses them, or only sets their number, would wait
    for them for ever.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def build_loader(
    split: SplitSettings,
    model: ModelConfig,
    *,
    training: bool,
    max_text_length: int = 25,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    each_once: bool = False,
) -> Loader:
    """The batches of a split for one of `world_size` processes, as dicts of tensors.

    Recognisers: `image` float32 (N, 3, H, W), `label_ctc` and `label_gtc` int64 (N, max_text_length), `length` int64
    (N,), `valid_ratio` float32 (N,); `label_sar` in place of `label_gtc` for SAR, neither for CTC alone. Detectors in
    training: `image` float32 (N, 3, H, W), and float32 (N, H, W) `threshold_map`, `threshold_mask`, `shrink_map`,
    `shrink_mask`. In evaluation, one page at a time: `image`, `polys` float32 (1, P, K, 2), `ignore_tags` bool (1, P),
    and `shape` float32 (1, 4): height and width of the page, and by how much both were scaled. Classifiers: `image`
    float32 (N, 3, H, W) and `label` int64 (N,), -1 for one that is no class.

    each_once: nothing takes the place of what cannot be used, and labels may be longer than `max_text_length` or have
    characters that the set lacks; batches, which may be smaller, then have `index` int64 (N,).

    Not to be given to `accelerate`'s `prepare`: it already knows the processes.

    Raises `ConfigError` for transforms that are unknown or do not fit, `DataError` and `FileFormatError` for data that
    is missing, malformed or of no use.
    """
    if seed < 0:
        raise ConfigError(f"the seed of the data must be 0 or more, not {seed}")
    samples = open_samples(split.dataset, model, seed=seed)
    dataset = build_dataset(
        split, model, samples, max_text_length=max_text_length, seed=seed, each_once=each_once, training=training
    )
    plan: Plan
    if split.sampler is not None:
        if not training:
            raise ConfigError("a sampler of several sizes is for training: evaluation has one size")
        sampler = split.sampler
        plan = MultiScaleBatches(
            samples.groups,
            sampler,
            sampler.first_bs or split.loader.batch_size_per_card,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
    else:
        plan = FixedBatches(
            samples.groups,
            split.loader.batch_size_per_card,
            training=training,
            shuffle=split.loader.shuffle,
            drop_last=split.loader.drop_last,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
    if training and not len(plan):
        raise DataError(
            f"an epoch has no batch: {epoch_size(samples.groups)} samples, {world_size} process(es) with "
            f"{split.loader.batch_size_per_card} each per batch, and drop_last leaves out what is not full. Take a "
            f"smaller batch_size_per_card, or set drop_last to false"
        )
    dataset.look(LOOKING_SECONDS)
    dataset.check()
    return Loader(dataset, plan, workers=workers_here(split.loader, world_size), pin_memory=pin_memory)


def workers_here(loader: LoaderSettings, processes: int) -> int:
    """The processes that load data for each of `processes` that train: as set, or those that this machine can spare."""
    if loader.num_workers is not None:
        return loader.num_workers
    # torchrun and accelerate say how many of them are on this machine.
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    cores = available_cores() // (int(here) if here.isdecimal() and int(here) else processes)
    return max(0, min(MOST_CHOSEN, cores - 1))


def build_dataset(
    split: SplitSettings,
    model: ModelConfig,
    samples: Samples,
    *,
    training: bool,
    max_text_length: int = 25,
    seed: int = 0,
    each_once: bool = False,
) -> SampleDataset:
    """The samples of a split with its transforms; see `build_loader`."""
    if model.task == "rec":
        return _lines(split, model, samples, max_text_length, seed=seed, each_once=each_once, training=training)
    make = _pages if model.task == "det" else _classified
    return make(split, model, samples, seed=seed, each_once=each_once, training=training)


def check_transforms(split: SplitSettings, model: ModelConfig, *, training: bool, max_text_length: int = 25) -> None:
    """Raise `ConfigError` where `build_loader` would for the transforms of a split, whose data need not be there."""
    for source in split.dataset.sources:
        read_source(source)
    build_dataset(split, model, MixedSamples(()), max_text_length=max_text_length, training=training)


def _lines(
    split: SplitSettings,
    model: ModelConfig,
    samples: Samples,
    max_text_length: int,
    *,
    seed: int,
    each_once: bool,
    training: bool,
) -> Lines:
    steps = read_steps(split.dataset.transforms, REC_STEPS, REC_KEYS)
    assert isinstance(model.preprocess, RecPreprocess)
    assert model.charset is not None
    check_channels(steps["DecodeImage"], model.preprocess.channel_order, model.name)
    encoders = [name for name in ("MultiLabelEncode", "CTCLabelEncode") if name in steps]
    if len(encoders) != 1:
        raise ConfigError("transforms: one of MultiLabelEncode and CTCLabelEncode encodes the labels")
    encode = steps[encoders[0]]
    encoder = LabelEncoder(model.charset, max_text_length, guide=encode.guide, lower=encode.lower)
    resize: RecResizeImg | None = steps.get("RecResizeImg")
    multi_scale = split.dataset.name == "MultiScaleDataSet"
    if multi_scale != (split.sampler is not None) or multi_scale == (resize is not None):
        raise ConfigError(
            "either a MultiScaleDataSet has a sampler, which says how large its images are, and no RecResizeImg, or "
            f"another dataset has a RecResizeImg and no sampler; found {split.dataset.name} "
            f"{'with' if split.sampler else 'without'} a sampler and {'with' if resize else 'without'} RecResizeImg"
        )
    if resize is not None and resize.eval_mode and split.loader.batch_size_per_card != 1:
        raise ConfigError("RecResizeImg: eval_mode gives each line its own width: set batch_size_per_card to 1")
    if resize is not None and resize.padding != model.preprocess.keep_ratio:
        raise ConfigError(
            f"RecResizeImg: padding is {resize.padding}, keep_ratio in {model.name}'s model_config.json is "
            f"{model.preprocess.keep_ratio}: make both the same"
        )
    if model.preprocess.fixed_width and (resize is None or resize.image_shape != model.preprocess.image_shape):
        raise ConfigError(
            f"transforms: {model.name} takes lines of one size: a SimpleDataSet with RecResizeImg: image_shape "
            f"{list(model.preprocess.image_shape)}"
        )
    keys = steps["KeepKeys"].keep_keys
    for key in {"label_gtc", "label_sar"} & set(keys):
        if key != GUIDE_KEYS.get(encoder.guide):
            raise ConfigError(f"KeepKeys: {encoders[0]} makes no {key}: {_MAKES[key]} does")
    return Lines(
        samples,
        [
            Encode(encoder) if name in encoders else step
            for name, step in steps.items()
            if name not in NO_TRANSFORM and not (each_once and name in encoders)
        ],
        encoder,
        model.preprocess,
        tuple(dict.fromkeys("label_ctc" if key == "label" else key for key in keys)),
        size=(resize.image_shape[2], resize.image_shape[1]) if resize else None,
        whole=resize is not None and resize.eval_mode,
        for_others=count_for_others(split.dataset, steps, "RecConAug", 1),
        seed=seed,
        each_once=each_once,
        training=training,
    )


def _pages(
    split: SplitSettings, model: ModelConfig, samples: Samples, *, seed: int, each_once: bool, training: bool
) -> Pages:
    steps = read_steps(split.dataset.transforms, DET_STEPS, DET_KEYS)
    assert isinstance(model.preprocess, DetPreprocess)
    check_channels(steps["DecodeImage"], model.preprocess.channel_order, model.name)
    if split.sampler is not None or split.dataset.name == "MultiScaleDataSet":
        raise ConfigError(
            "a detector's pages are of one size: name the dataset SimpleDataSet, and leave out the sampler"
        )
    needed = {
        "DetLabelEncode",
        "NormalizeImage",
        "ToCHWImage",
        ("RandomCrop" if "RandomCrop" in steps else "EastRandomCropData") if training else "DetResizeForTest",
    }
    if missing := needed - set(steps):
        raise ConfigError(f"transforms: {', '.join(sorted(missing))} missing")
    if not training and split.loader.batch_size_per_card != 1:
        raise ConfigError("batch_size_per_card: pages are evaluated one at a time, at their own size; set it to 1")
    made = {"image", "polys", "ignore_tags"}
    made |= {"threshold_map", "threshold_mask"} if "MakeBorderMap" in steps else set()
    made |= {"shrink_map", "shrink_mask"} if "MakeShrinkMap" in steps else set()
    made |= {"shape"} if "DetResizeForTest" in steps else set()
    if missing := set(steps["KeepKeys"].keep_keys) - made:
        raise ConfigError(f"KeepKeys: no transform makes {', '.join(sorted(missing))}")
    normalize: NormalizeImage = steps["NormalizeImage"]
    own = (normalize.factor, *normalize.mean, *normalize.std)
    if not np.allclose(own, (model.preprocess.scale, *model.preprocess.mean, *model.preprocess.std)):
        raise ConfigError(
            f"NormalizeImage: scale, mean and std are not those under preprocess in {model.name}'s model_config.json: "
            f"make both the same"
        )
    return Pages(
        samples,
        [step for name, step in steps.items() if name not in NO_TRANSFORM],
        steps["KeepKeys"].keep_keys,
        model.preprocess.channel_order,
        for_others=count_for_others(split.dataset, steps, "CopyPaste", 2),
        seed=seed,
        each_once=each_once,
        training=training,
    )


def _classified(
    split: SplitSettings, model: ModelConfig, samples: Samples, *, seed: int, each_once: bool, training: bool
) -> Classified:
    steps = read_steps(split.dataset.transforms, CLS_STEPS, CLS_KEYS)
    assert isinstance(model.preprocess, ClsPreprocess)
    assert isinstance(model.postprocess, ClsPostprocess)
    check_channels(steps["DecodeImage"], model.preprocess.channel_order, model.name)
    if split.sampler is not None or split.dataset.name == "MultiScaleDataSet":
        raise ConfigError("a classifier's images are of one size: name the dataset SimpleDataSet, without a sampler")
    if missing := {"ClsLabelEncode", "ClsResizeImg"} - set(steps):
        raise ConfigError(f"transforms: {', '.join(sorted(missing))} missing")
    if not training and "RandomRot90" in steps:
        raise ConfigError("RandomRot90 is for training: images are evaluated as they are")
    own = model.preprocess.image_shape
    if steps["ClsResizeImg"].image_shape != own:
        raise ConfigError(
            f"ClsResizeImg: image_shape is {list(steps['ClsResizeImg'].image_shape)}, that under preprocess in "
            f"{model.name}'s model_config.json {list(own)}: make both the same"
        )
    cropped = "RandCropImage" in steps
    return Classified(
        samples,
        [
            Turns(model.postprocess.labels) if name == "RandomRot90" else step
            for name, step in steps.items()
            if name not in NO_TRANSFORM
        ],
        replace(model.preprocess, keep_ratio=False, resize_short=None) if cropped else model.preprocess,
        model.postprocess.labels,
        steps["KeepKeys"].keep_keys,
        seed=seed,
        each_once=each_once,
        training=training,
    )
