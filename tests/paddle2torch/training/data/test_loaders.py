"""Batches from settings: their form, that they repeat, and what is said of data that cannot be used."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from paddle2torch.model_zoo.config import (
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.training.data import DataError, Loader, Reason, build_loader, datasets, loaders
from paddle2torch.training.data.labels import LabelFiles
from paddle2torch.training.settings import DatasetSettings, LoaderSettings, MultiScaleSampler, SplitSettings, Transform

CHARSET = tuple("0123456789abcdefghij ")
RECOGNISER = ModelConfig(
    name="small_rec",
    task="rec",
    form="training",
    backbone=Component("PPLCNetV3"),
    neck=None,
    head=Component("MultiHead", {"classes": len(CHARSET) + 1}),
    preprocess=RecPreprocess(),
    postprocess=CTCDecode(),
    charset=CHARSET,
)
DETECTOR = replace(
    RECOGNISER,
    name="small_det",
    task="det",
    head=Component("DBHead"),
    preprocess=DetPreprocess(),
    postprocess=DBPostprocess(),
    charset=None,
)

DECODE = Transform("DecodeImage", {"img_mode": "BGR", "channel_first": False})
ENCODE = Transform("MultiLabelEncode", {"gtc_encode": "NRTRLabelEncode"})
RESIZE = Transform("RecResizeImg", {"image_shape": [3, 48, 320]})
KEEP = Transform("KeepKeys", {"keep_keys": ["image", "label_ctc", "label_gtc", "length", "valid_ratio"]})
JOIN = Transform("RecConAug", {"prob": 0.5, "ext_data_num": 2, "image_shape": [48, 320, 3], "max_text_length": 25})
AUGMENTED = (DECODE, JOIN, Transform("RecAug"), ENCODE, KEEP)
PLAIN = (DECODE, ENCODE, RESIZE, KEEP)

NORMALIZE = Transform(
    "NormalizeImage", {"scale": "1./255.", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
)
MAPS = ["threshold_map", "threshold_mask", "shrink_map", "shrink_mask"]
DET_TRAIN = (
    DECODE,
    Transform("DetLabelEncode"),
    Transform("CopyPaste"),
    Transform(
        "IaaAugment",
        {
            "augmenter_args": [
                {"type": "Fliplr", "args": {"p": 0.5}},
                {"type": "Affine", "args": {"rotate": [-10, 10]}},
                {"type": "Resize", "args": {"size": [0.5, 3]}},
            ]
        },
    ),
    Transform("EastRandomCropData", {"size": [128, 96], "max_tries": 50, "keep_ratio": True}),
    Transform("MakeBorderMap", {"shrink_ratio": 0.4, "thresh_min": 0.3, "thresh_max": 0.7, "total_epoch": 500}),
    Transform("MakeShrinkMap", {"shrink_ratio": 0.4, "min_text_size": 8, "total_epoch": 500}),
    NORMALIZE,
    Transform("ToCHWImage"),
    Transform("KeepKeys", {"keep_keys": ["image", *MAPS]}),
)
DET_EVAL = (
    DECODE,
    Transform("DetLabelEncode"),
    Transform("DetResizeForTest"),
    NORMALIZE,
    Transform("ToCHWImage"),
    Transform("KeepKeys", {"keep_keys": ["image", "shape", "polys", "ignore_tags"]}),
)


def rec_set(folder: Path, texts: Sequence[str]) -> Path:
    """Lines of text as images, and their label file."""
    lines = []
    for number, text in enumerate(texts):
        image = np.full((32, 20 + 9 * min(len(text), 20), 3), 40 + number, dtype=np.uint8)
        cv2.putText(image, text[:20], (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (250, 240, 230), 2)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(f"{number}.png\t{text}\n")
    path = folder / "labels.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def det_set(folder: Path, count: int = 5) -> Path:
    lines = []
    for number in range(count):
        image = np.full((150, 200, 3), 60 + number, dtype=np.uint8)
        boxes = []
        for row in range(3):
            cv2.putText(image, "some text", (20, 40 + 40 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
            left, top = 18, 20 + 40 * row
            points = [[left, top], [left + 130, top], [left + 130, top + 26], [left, top + 26]]
            boxes.append({"transcription": "###" if row == 2 else "some text", "points": points})
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
        lines.append(f"{number}.jpg\t{json.dumps(boxes)}\n")
    path = folder / "pages.txt"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def split(
    labels: Path,
    transforms: Sequence[Transform],
    *,
    batch: int = 4,
    workers: int = 0,
    sampler: MultiScaleSampler | None = None,
    loader: dict[str, Any] | None = None,
    **dataset: Any,
) -> SplitSettings:
    dataset = {"name": "MultiScaleDataSet" if sampler else "SimpleDataSet", **dataset}
    return SplitSettings(
        DatasetSettings(str(labels.parent), (str(labels),), transforms=tuple(transforms), **dataset),
        LoaderSettings(batch, num_workers=workers, **({"shuffle": True} if loader is None else loader)),
        sampler,
    )


def augmented(labels: Path, workers: int = 0) -> SplitSettings:
    return split(labels, AUGMENTED, workers=workers, sampler=MultiScaleSampler(first_bs=4))


def same(one: Sequence[dict[str, torch.Tensor]], other: Sequence[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, other, strict=True)
    )


def numbers(count: int) -> list[str]:
    return [f"{37 * number % 1000:03d} {number:02d}" for number in range(count)]


def test_batches_of_lines(tmp_path: Path) -> None:
    loader = build_loader(augmented(rec_set(tmp_path, numbers(20))), RECOGNISER, training=True, seed=1)
    batches = list(loader)
    assert len(batches) == len(loader) == 9
    assert {tuple(batch["image"].shape) for batch in batches} == {(4, 3, 32, 320), (2, 3, 48, 320), (2, 3, 64, 320)}
    for batch in batches:
        count = len(batch["image"])
        assert batch["image"].dtype == batch["valid_ratio"].dtype == torch.float32
        assert batch["label_ctc"].shape == batch["label_gtc"].shape == (count, 25)
        assert batch["label_ctc"].dtype == batch["label_gtc"].dtype == batch["length"].dtype == torch.int64
        assert batch["length"].shape == batch["valid_ratio"].shape == (count,)
        assert -1 <= batch["image"].min() < batch["image"].max() <= 1
        assert torch.equal((batch["label_ctc"] > 0).sum(1), batch["length"])
    assert any((batch["length"] > 6).any() for batch in batches)
    assert loader.report.lines() == ["20 samples, 0 dropped; 0 requests took another sample"]


def test_evaluation_is_in_order(tmp_path: Path) -> None:
    texts = numbers(7)
    loader = build_loader(split(rec_set(tmp_path, texts), PLAIN, batch=3, loader={}), RECOGNISER, training=False)
    batches = list(loader)
    assert [len(batch["image"]) for batch in batches] == [3, 3, 1]
    read = ["".join(CHARSET[i - 1] for i in row if i) for batch in batches for row in batch["label_ctc"].tolist()]
    assert read == texts
    assert same(batches, list(loader))


@pytest.mark.parametrize("task", ["rec", "det"])
def test_a_run_repeats(tmp_path: Path, task: str) -> None:
    if task == "rec":
        labels, config = rec_set(tmp_path, numbers(12)), RECOGNISER
        settings = [augmented(labels, workers) for workers in (0, 2)]
    else:
        labels, config = det_set(tmp_path), DETECTOR
        settings = [split(labels, DET_TRAIN, batch=2, workers=n, ext_op_transform_idx=2) for n in (0, 2)]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    runs: list[list[list[dict[str, torch.Tensor]]]] = []
    for each in settings:
        loader = build_loader(each, config, training=True, seed=5)
        epochs = []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            epochs.append(list(loader))
        # Resumed in the middle of an epoch, and after one that was left in the middle.
        loader.set_epoch(0)
        next(iter(loader))
        loader.set_epoch(1, start_batch=1)
        epochs.append(list(loader))
        runs.append(epochs)
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    assert not same(runs[0][0], runs[0][1])
    assert same(runs[0][1][1:], runs[0][2])
    other = build_loader(settings[0], config, training=True, seed=6)
    assert not same(runs[0][0], list(other))
    # The network's random numbers are its own: what is resumed must find them as they were.
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_processes_share_an_epoch(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(26))
    alone = split(labels, AUGMENTED, sampler=MultiScaleSampler(first_bs=12))
    shared = split(labels, AUGMENTED, sampler=MultiScaleSampler(first_bs=6))
    whole = build_loader(alone, RECOGNISER, training=True)
    parts = [build_loader(shared, RECOGNISER, training=True, rank=rank, world_size=2) for rank in (0, 1)]
    for batch, *halves in zip(whole, *parts, strict=True):
        rows = torch.cat([half["image"] for half in halves])
        assert sorted(row.sum().item() for row in rows) == sorted(row.sum().item() for row in batch["image"])


def test_one_number_is_the_batch_unless_the_sampler_has_its_own(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(12))
    for own, first in ((None, 4), (2, 2)):
        part = split(labels, AUGMENTED, batch=4, sampler=MultiScaleSampler(((320, 48),), own))
        loader = build_loader(part, RECOGNISER, training=True)
        assert {len(requests) for requests in loader.requests()} == {first}


def test_what_is_dropped_is_counted_and_replaced(tmp_path: Path) -> None:
    texts = ["0123", "a" * 24, "b" * 23, "XYZ", "", "12", "1é2", "34"]
    labels = rec_set(tmp_path, texts)
    (tmp_path / "5.png").write_bytes(b"")
    (tmp_path / "7.png").unlink()
    loader = build_loader(split(labels, PLAIN, batch=1, loader={}), RECOGNISER, training=False)
    report = loader.report
    assert {reason: report.count(reason) for reason in Reason if report.count(reason)} == {
        Reason.TOO_LONG: 1,
        Reason.OUTSIDE: 1,
        Reason.EMPTY: 1,
        Reason.LACKING: 1,
        # The file that is not there; of the empty one nothing is known until it is read.
        Reason.UNREADABLE: 1,
    }
    lengths = [int(batch["length"]) for batch in loader]
    # The next good one takes the place: (index + 1) % n.
    assert lengths == [4, 23, 23, 2, 2, 2, 2, 4]
    assert report.count(Reason.UNREADABLE) == 2
    assert report.dropped == 5
    # 3 and 4 each went on over 5: that is one request each.
    assert report.replaced == 5
    text = str(report)
    assert text.splitlines()[0] == "8 samples, 5 dropped; 5 requests took another sample"
    assert "1 x label too long, first:" in text
    assert "line 2 (1.png): the label has 24 characters, NRTR takes at most 23 at max_text_length 25" in text
    assert "1 x label without characters that are not in the set: 'é' 1x" in text
    assert "2 x unreadable image, first:" in text
    assert "line 8 (7.png):" in text
    list(loader)
    assert report.dropped == 5


def test_a_gap_is_said_at_once_and_filled_by_many(tmp_path: Path) -> None:
    """Of 40 images 20 in a row are missing: no neighbour stands for all of them, and each request counts once."""
    labels = rec_set(tmp_path, [f"{number:02}" for number in range(40)])
    for number in range(20):
        (tmp_path / f"{number}.png").unlink()
    loader = build_loader(split(labels, PLAIN, batch=4, loader={}), RECOGNISER, training=True)
    assert loader.report.lines()[0] == "40 samples, 20 dropped; 0 requests took another sample"
    assert loader.report.lines()[1].startswith("  20 x unreadable image, first: ")
    taken = [tuple(row) for batch in loader for row in batch["label_ctc"][:, :2].tolist()]
    assert loader.report.replaced == 20
    assert loader.report.unseen == 0
    counts = Counter(taken)
    assert len(counts) == 20
    assert max(counts.values()) <= 6
    # Another epoch fills it by others, the same one by the same.
    again = [tuple(row) for batch in loader for row in batch["label_ctc"][:, :2].tolist()]
    loader.set_epoch(1)
    other = [tuple(row) for batch in loader for row in batch["label_ctc"][:, :2].tolist()]
    assert taken == again
    assert Counter(other) != counts
    assert loader.report.replaced == 60


def test_looking_for_images_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "LOOKING_SECONDS", -1.0)
    labels = rec_set(tmp_path, numbers(5))
    report = build_loader(split(labels, PLAIN, batch=1, loader={}), RECOGNISER, training=True).report
    assert report.unseen == 4
    assert "of 4 images it was not looked yet whether they are there" in str(report)


def test_other_labels_have_another_digest(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(5))
    settings = split(labels, PLAIN, batch=1, loader={})
    first = build_loader(settings, RECOGNISER, training=True).report.digest
    assert build_loader(settings, RECOGNISER, training=True).report.digest == first
    labels.write_text(labels.read_text() + "0.png\t7\n")
    assert build_loader(settings, RECOGNISER, training=True).report.digest != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_workers_leave_signals_of_their_group_to_the_training(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C, `kill -- -GROUP` SIGTERM, to all processes; a worker itself can still be ended."""
    labels = rec_set(tmp_path, numbers(12))
    loader = build_loader(split(labels, PLAIN, batch=1, workers=2, loader={}), RECOGNISER, training=True)
    seen = 0
    for _ in loader:
        if seen == 1:
            workers = [child.pid or 0 for child in multiprocessing.active_children()]
            assert len(workers) == 2
            assert all(os.getpgid(worker) != os.getpgid(0) for worker in workers)
            for worker in workers:
                os.kill(worker, signal.SIGINT)
        seen += 1
    assert seen == 12
    # As Python ends them when it ends: it would wait for ever for one that takes no notice.
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(timeout=30)
    assert [child.is_alive() for child in children] == [False, False]


def test_drops_are_counted_across_workers(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(8))
    (tmp_path / "3.png").unlink()
    loader = build_loader(split(labels, PLAIN, batch=2, workers=2, loader={}), RECOGNISER, training=False)
    for _ in range(2):
        list(loader)
    assert loader.report.count(Reason.UNREADABLE) == 1
    assert loader.report.replaced == 2


def test_without_nrtr_more_fits(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, ["a" * 25, "b" * 26])
    keep = Transform("KeepKeys", {"keep_keys": ["image", "label", "length"]})
    loader = build_loader(
        split(labels, (DECODE, Transform("CTCLabelEncode"), RESIZE, keep), loader={}), RECOGNISER, training=True
    )
    (batch,) = loader
    assert sorted(batch) == ["image", "label_ctc", "length"]
    assert batch["length"].tolist() == [25, 25]
    assert loader.report.dropped == 1


def test_lines_joined_too_long(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, ["a" * 12] * 4)
    always = Transform("RecConAug", {**JOIN.options, "prob": 1.0, "image_shape": [48, 3200, 3]})
    # 24 characters: RecConAug joins up to 25, NRTR takes 23. Such lines are replaced, as in PaddleOCR, by others that
    # are joined to be as long: here nothing is left.
    loader = build_loader(split(labels, (DECODE, always, ENCODE, RESIZE, KEEP)), RECOGNISER, training=True)
    with pytest.raises(DataError, match=r"none of the 4 samples can be used; the last one: .*24 characters"):
        next(iter(loader))


def test_a_line_joined_too_long_is_used_another_time(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, ["a" * 12] * 4)
    wide = Transform("RecConAug", {**JOIN.options, "image_shape": [48, 3200, 3]})
    loader = build_loader(split(labels, (DECODE, wide, ENCODE, RESIZE, KEEP)), RECOGNISER, training=True)
    for epoch in range(5):
        loader.set_epoch(epoch)
        assert all((batch["length"] == 12).all() for batch in loader)
    assert loader.report.count(Reason.JOINED) == 4
    assert loader.report.dropped == 0
    assert loader.report.replaced >= 4


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["X", "YZ"], "2 x no character of the label is in the set"),
        (["a" * 24, "", "Z"], "1 x empty label"),
        (["12", "34"], "2 x unreadable image, first: .*line 1 .*there is no such file"),
    ],
)
def test_data_of_no_use(tmp_path: Path, texts: list[str], message: str) -> None:
    labels = rec_set(tmp_path, texts)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=f"(?s)not one sample can be used.*{message}"):
        build_loader(split(labels, PLAIN), RECOGNISER, training=True)


def test_strange_images(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(6))
    (tmp_path / "0.png").unlink()
    (tmp_path / "0.png").mkdir()
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_text("no image")
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((48, 30_000, 3), dtype=np.uint8))
    (tmp_path / "4.png").write_bytes((tmp_path / "5.png").read_bytes()[:-40])
    loader = build_loader(split(labels, (DECODE, Transform("RecAug"), ENCODE, RESIZE, KEEP)), RECOGNISER, training=True)
    list(loader)
    report = loader.report
    assert report.count(Reason.UNREADABLE) == 4
    assert report.count(Reason.SQUEEZED) == 1
    assert report.dropped == 4
    text = str(report)
    assert "0.png: is a directory" in text
    assert "(3.png): 30000 x 48 pixels become 320 x 48, 94 times narrower than they are" in text


@pytest.mark.parametrize("each_once", [False, True])
def test_whatever_a_sample_runs_into_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_once: bool
) -> None:
    labels = rec_set(tmp_path, numbers(4))
    load, resize = LabelFiles.image, datasets.resize_line

    def load_or_fail(files: LabelFiles, index: int, rng: np.random.Generator) -> Any:
        if index == 1:
            raise MemoryError
        return load(files, index, rng)

    def resize_or_fail(image: Any, *rest: Any) -> Any:
        if image.shape == (8, 9, 3):
            raise KeyError("a fault of ours")
        return resize(image, *rest)

    monkeypatch.setattr(LabelFiles, "image", load_or_fail)
    monkeypatch.setattr(datasets, "resize_line", resize_or_fail)
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((8, 9, 3), dtype=np.uint8))
    loader = build_loader(split(labels, PLAIN), RECOGNISER, training=not each_once)
    list(loader)
    assert loader.report.indices == {Reason.UNREADABLE: {1, 2}}
    monkeypatch.setattr(LabelFiles, "image", load)
    again = build_loader(split(labels, PLAIN), RECOGNISER, training=not each_once)
    list(again)
    assert "(2.png): KeyError: 'a fault of ours'" in again.report.first[Reason.UNREADABLE]


def test_a_page_for_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.training.data.datasets.LINE_PIXELS", 6400)
    labels = rec_set(tmp_path, ["1", "2"])
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((80, 81, 3), dtype=np.uint8))
    loader = build_loader(split(labels, PLAIN), RECOGNISER, training=True)
    assert "(0.png): the image of 81 x 80 pixels is not a line: at most 6,400 are read" in str(loader.report)


def test_small_sets_and_drop_last(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(5))
    with pytest.raises(DataError, match=r"an epoch has no batch: 5 samples, 1 process\(es\) with 8 each per batch"):
        build_loader(split(labels, PLAIN, batch=8, loader={"drop_last": True}), RECOGNISER, training=True)
    assert len(build_loader(split(labels, PLAIN, batch=8, loader={}), RECOGNISER, training=True)) == 1


def test_a_database(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.open(str(tmp_path / "db"), map_size=2**22)
    texts = numbers(6)
    with environment.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"6")
        for number, text in enumerate(texts, 1):
            image = np.full((32, 100, 3), 10 * number, dtype=np.uint8)
            transaction.put(b"image-%09d" % number, bytes(cv2.imencode(".png", image)[1]) if number != 2 else b"")
            transaction.put(b"label-%09d" % number, text.encode())
    environment.close()
    settings = SplitSettings(
        DatasetSettings(str(tmp_path), name="LMDBDataSet", transforms=PLAIN), LoaderSettings(3, num_workers=2)
    )
    first = build_loader(settings, RECOGNISER, training=False)
    batches = list(first)
    assert [round(float(value)) for batch in batches for value in (batch["image"][:, 0, 0, 0] + 1) * 127.5] == [
        10, 30, 30, 40, 50, 60
    ]  # fmt: skip
    assert "sample 2: the image is empty" in str(first.report)
    # Training and evaluation may read the same database, here and in workers.
    here = replace(settings, loader=LoaderSettings(3, num_workers=0))
    assert same(list(build_loader(here, RECOGNISER, training=False)), batches)
    assert same(list(first), batches)
    with pytest.raises(ConfigError, match="ratio_list is for label files"):
        build_loader(
            replace(settings, dataset=replace(settings.dataset, ratio_list=(0.5,))), RECOGNISER, training=False
        )


def test_batches_of_pages(tmp_path: Path) -> None:
    labels = det_set(tmp_path)
    loader = build_loader(split(labels, DET_TRAIN, batch=2, ext_op_transform_idx=2), DETECTOR, training=True, seed=3)
    batches = list(loader)
    assert [len(batch["image"]) for batch in batches] == [2, 2, 1]
    for batch in batches:
        assert sorted(batch) == sorted(["image", *MAPS])
        assert batch["image"].shape[1:] == (3, 96, 128)
        assert all(batch[key].shape[1:] == (96, 128) and batch[key].dtype == torch.float32 for key in MAPS)
        assert set(batch["shrink_mask"].unique().tolist()) <= {0.0, 1.0}
    assert any(batch["shrink_map"].any() for batch in batches)


def test_shrinking_grows_with_the_epoch(tmp_path: Path) -> None:
    labels = det_set(tmp_path, 1)
    # A line as large as the page leaves no gap to cut in: the crop is not random.
    boxes = [{"transcription": "a", "points": [[0, 0], [200, 0], [200, 150], [0, 150]]}]
    labels.write_text(f"0.jpg\t{json.dumps(boxes)}\n")
    steps = (DECODE, Transform("DetLabelEncode"), *DET_TRAIN[4:])
    loader = build_loader(split(labels, steps, batch=1), DETECTOR, training=True)
    shares = []
    for epoch in (0, 499):
        loader.set_epoch(epoch)
        shares += [float(batch["shrink_map"].mean()) for batch in loader]
    # Ratios of 0.4 and 0.6.
    assert shares == pytest.approx([0.33, 0.47], abs=0.01)


def test_pages_for_evaluation(tmp_path: Path) -> None:
    loader = build_loader(split(det_set(tmp_path), DET_EVAL, batch=1, loader={}), DETECTOR, training=False)
    batches = list(loader)
    assert len(batches) == 5
    assert batches[0]["image"].shape == (1, 3, 736, 992)
    assert batches[0]["polys"].shape == (1, 3, 4, 2)
    assert batches[0]["polys"][0, 0].tolist() == [[18, 20], [148, 20], [148, 46], [18, 46]]
    assert batches[0]["ignore_tags"].tolist() == [[False, False, True]]
    assert batches[0]["shape"][0, :2].tolist() == [150, 200]


def test_pages_of_no_use(tmp_path: Path) -> None:
    labels = det_set(tmp_path, 3)
    lines = labels.read_text().splitlines()
    lines[1] = "1.jpg\t[]"
    cv2.imwrite(str(tmp_path / "2.jpg"), np.zeros((8, 32_800, 3), dtype=np.uint8))
    labels.write_text("\n".join(lines))
    loader = build_loader(split(labels, DET_EVAL, batch=1, loader={}), DETECTOR, training=False)
    assert [batch["image"].shape[3] for batch in loader] == [992] * 3
    assert loader.report.count(Reason.EMPTY) == loader.report.count(Reason.UNREADABLE) == 1
    assert "has a side of more than 32766" in str(loader.report).replace(",", "")
    labels.write_text("0.jpg\tsome text\n")
    with pytest.raises(DataError, match=r"1 x malformed label, first: .*line 1 \(0\.jpg\): the label is not JSON"):
        build_loader(split(labels, DET_EVAL, batch=1, loader={}), DETECTOR, training=False)


def test_a_page_with_a_bad_box_is_left_out_and_said(tmp_path: Path) -> None:
    labels = det_set(tmp_path, 3)
    lines = labels.read_text().splitlines()
    lines[1] = '1.jpg\t[{"transcription": "a", "points": [[0, 0], [9, 0]]}]'
    labels.write_text("\n".join(lines))
    for each_once, pages in ((False, 3), (True, 2)):
        settings = split(labels, DET_EVAL, batch=1, loader={})
        loader = build_loader(settings, DETECTOR, training=False, each_once=each_once)
        assert len(list(loader)) == pages
        assert loader.report.count(Reason.MALFORMED) == 1
        assert 'line 2 (1.jpg): the "points" of box 1' in str(loader.report)


# Evaluation: each once


def test_each_label_is_evaluated_once_and_nothing_takes_its_place(tmp_path: Path) -> None:
    texts = ["0123", "a" * 30, "XYZ", "", "1é2", "34", "56", "78"]
    labels = rec_set(tmp_path, texts)
    for gone in (5, 6, 7):
        (tmp_path / f"{gone}.png").unlink()
    settings = split(labels, PLAIN, batch=2, loader={})
    loader = build_loader(settings, RECOGNISER, training=False, each_once=True)
    batches = list(loader)
    # The last batch has no sample at all. Labels too long to be trained on, or unknown, are read all the same.
    assert [batch["index"].tolist() for batch in batches] == [[0, 1], [2], [4]]
    assert [loader.label(index) for batch in batches for index in batch["index"].tolist()] == [
        *("0123", "a" * 30, "XYZ", "1é2")
    ]
    report = loader.report
    assert {reason: report.count(reason) for reason in Reason if report.count(reason)} == {
        Reason.EMPTY: 1,
        Reason.LACKING: 2,
        Reason.UNREADABLE: 3,
    }
    assert report.replaced == 0
    assert "labels.txt, line 3 (2.png): 'XYZ' has 'X', 'Y', 'Z'" in str(report)
    with_workers = replace(settings, loader=replace(settings.loader, num_workers=2))
    again = list(build_loader(with_workers, RECOGNISER, training=False, each_once=True))
    assert [batch["index"].tolist() for batch in again] == [[0, 1], [2], [4]]


def test_where_a_sample_stands(tmp_path: Path) -> None:
    labels = rec_set(tmp_path, numbers(4))
    loader = build_loader(split(labels, PLAIN, batch=2, loader={}), RECOGNISER, training=True)
    loader.set_epoch(0, start_batch=1)
    assert [request.index for request in next(loader.requests())] == [2, 3]
    assert loader.where(2) == f"{labels}, line 3 (2.png)"


def changed(transforms: Sequence[Transform], **options: dict[str, Any]) -> tuple[Transform, ...]:
    return tuple(replace(step, options={**step.options, **options.get(step.name, {})}) for step in transforms)


def without(transforms: Sequence[Transform], *names: str) -> tuple[Transform, ...]:
    return tuple(step for step in transforms if step.name not in names)


SCALES = MultiScaleSampler()


@pytest.mark.parametrize(
    ("transforms", "options", "message"),
    [
        ((*PLAIN[:3], Transform("KeepKey"), KEEP), {}, "unknown key 'KeepKey'; did you mean 'KeepKeys'"),
        (changed(PLAIN, RecResizeImg={"image_shap": 1}), {}, "RecResizeImg: unknown key 'image_shap'; did you mean"),
        (changed(PLAIN, DecodeImage={"img_mode": "RGB"}), {}, "img_mode is RGB, but small_rec reads BGR"),
        (changed(PLAIN, MultiLabelEncode={"gtc_encode": "SARLabelEncode"}), {}, "gtc_encode: 'SARLabelEncode' is not"),
        (changed(PLAIN, KeepKeys={"keep_keys": ["label_ctcc"]}), {}, "did you mean 'label_ctc'"),
        ((DECODE, RESIZE, ENCODE, KEEP), {}, "their order is DecodeImage, MultiLabelEncode, RecResizeImg, KeepKeys"),
        ((*PLAIN, KEEP), {}, "KeepKeys stands there twice"),
        (without(PLAIN, "DecodeImage"), {}, "DecodeImage is missing"),
        (without(PLAIN, "KeepKeys"), {}, "KeepKeys is missing"),
        (without(PLAIN, "MultiLabelEncode"), {}, "one of MultiLabelEncode and CTCLabelEncode"),
        ((DECODE, Transform("CTCLabelEncode"), RESIZE, KEEP), {}, "CTCLabelEncode makes no label_gtc"),
        (
            changed(PLAIN, MultiLabelEncode={"gtc_encode": None}),
            {},
            "MultiLabelEncode makes no label_gtc: MultiLabelEncode with gtc_enc",
        ),
        (
            changed(PLAIN, RecResizeImg={"image_shape": [3, 48, 64], "eval_mode": True}),
            {},
            "set batch_size_per_card to",
        ),
        (without(PLAIN, "RecResizeImg"), {}, "found SimpleDataSet without a sampler and without RecResizeImg"),
        (PLAIN, {"sampler": SCALES}, "found MultiScaleDataSet with a sampler and with RecResizeImg"),
        (AUGMENTED, {"sampler": SCALES, "name": "SimpleDataSet"}, "found SimpleDataSet with a sampler and without"),
        (AUGMENTED, {"sampler": SCALES, "ext_op_transform_idx": 2}, "RecConAug adds pass the first 1 transforms"),
        (PLAIN, {"ratio_list": (2.0,)}, "one share above 0 and at most 1"),
    ],
)
def test_settings_that_do_not_fit_lines(
    tmp_path: Path, transforms: tuple[Transform, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_loader(split(rec_set(tmp_path, ["1"]), transforms, **options), RECOGNISER, training=True)


@pytest.mark.parametrize(
    ("transforms", "options", "training", "message"),
    [
        (without(DET_TRAIN, "EastRandomCropData"), {}, True, "transforms: EastRandomCropData missing"),
        (without(DET_TRAIN, "MakeShrinkMap"), {}, True, "no transform makes shrink_map, shrink_mask"),
        (changed(DET_TRAIN, NormalizeImage={"mean": [0.5, 0.5, 0.5]}), {}, True, "are not those under preprocess"),
        (changed(DET_TRAIN, NormalizeImage={"order": "chw"}), {}, True, "order"),
        (changed(DET_TRAIN, EastRandomCropData={"keep_ratio": False}), {}, True, "keep_ratio must be true"),
        (changed(DET_TRAIN, IaaAugment={"augmenter_args": [{"type": "Flip"}]}), {}, True, "augmenter_args"),
        (DET_TRAIN, {"ext_op_transform_idx": 1}, True, "CopyPaste adds pass the first 2 transforms"),
        (DET_TRAIN, {"name": "MultiScaleDataSet"}, True, "name the dataset SimpleDataSet"),
        (DET_EVAL, {"batch": 2}, False, "evaluated one at a time"),
    ],
)
def test_settings_that_do_not_fit_pages(
    tmp_path: Path, transforms: tuple[Transform, ...], options: dict[str, Any], training: bool, message: str
) -> None:
    options = {"ext_op_transform_idx": 2, "batch": 1, **options}
    with pytest.raises(ConfigError, match=message):
        build_loader(split(det_set(tmp_path, 1), transforms, **options), DETECTOR, training=training)


def test_a_sampler_is_for_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a sampler of several sizes is for training"):
        build_loader(augmented(rec_set(tmp_path, ["1"])), RECOGNISER, training=False)


def test_a_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be 0 or more, not -1"):
        build_loader(split(rec_set(tmp_path, ["1"]), PLAIN), RECOGNISER, training=True, seed=-1)


def test_the_meters_set(shared: Path) -> None:
    labels = shared / "data" / "meters" / "val.txt"
    charset = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-.")
    config = replace(RECOGNISER, charset=charset, head=Component("MultiHead", {"classes": len(charset) + 1}))
    loader: Loader = build_loader(split(labels, PLAIN, batch=128, loader={}), config, training=False)
    assert [len(batch["image"]) for batch in loader] == [128, 128, 44]
    assert loader.report.dropped == loader.report.count(Reason.LACKING) == 0
