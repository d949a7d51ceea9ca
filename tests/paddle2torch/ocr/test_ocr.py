"""The pipeline: with networks that see coloured bars, in any clone; with the real ones against PaddleOCR's results."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coloured_bars import CELL, UNCLIP, Colours, Ink, Shadow, bar, blank, pipeline, put
from material import TESTS
from PIL import Image
from torch import Tensor, nn

from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    DBPostprocess,
    DetPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.ocr.formats import append_pages, finished_pages
from paddle2torch.ocr.lines import read_lines
from paddle2torch.ocr.pages import Failure, Page, find_sources, read_pages
from paddle2torch.ocr.pipeline import OCR
from paddle2torch.ocr.results import PageText
from paddle2torch.tasks.detection import DetectionError
from paddle2torch.tasks.geometry import sorted_order, turn_points
from paddle2torch.tasks.images import BGRImage, ImageError
from paddle2torch.tasks.recognition import Line, Recognizer
from paddle2torch.tasks.skew import turned_level
from paddle2torch.zoo.conversion import convert


def extent(box: np.ndarray) -> list[float]:
    return [*box.min(axis=0).tolist(), *box.max(axis=0).tolist()]


def texts(result: PageText | Failure) -> list[str]:
    assert isinstance(result, PageText)
    return [line.text for line in result.lines]


def test_lines_words_scores_and_boxes() -> None:
    page = blank()
    places = [put(page, bar("ABC AA"), 20, 100), put(page, bar("CAB"), 30, 20), put(page, bar("BB"), 200, 24)]
    lines = pipeline()(page)
    assert [line.text for line in lines] == ["CAB", "BB", "ABC AA"]
    last = lines[2]
    assert last.score == pytest.approx((0.9 + 0.8 + 0.6 + 0.9 + 0.9 + 0.9) / 6)
    assert last.box.shape == (4, 2)
    # The detector's box is 3 pixels wider than the bar, on all sides.
    np.testing.assert_allclose(extent(last.box), np.add(places[0], [-3, -3, 3, 3]), atol=2)
    assert [word.text for word in last.words] == ["ABC", "AA"]
    assert last.words[0].char_scores == pytest.approx((0.9, 0.8, 0.6))
    assert last.words[0].score == pytest.approx(2.3 / 3)
    left, top, _, bottom = places[0]
    np.testing.assert_allclose(extent(last.words[0].box), [left, top, left + 3 * CELL, bottom], atol=6)
    np.testing.assert_allclose(extent(last.words[1].box), [left + 4 * CELL, top, left + 6 * CELL, bottom], atol=6)


def test_a_line_on_its_head_is_turned_and_its_words_are_where_they_are() -> None:
    page = blank()
    _, top, right, bottom = put(page, np.rot90(bar("AB CC"), 2), 40, 60)
    (line,) = pipeline()(page)
    assert line.text == "AB CC"
    # The first word is on the right.
    np.testing.assert_allclose(extent(line.words[0].box), [right - 2 * CELL, top, right, bottom], atol=6)
    for box in (line.box, *(word.box for word in line.words)):
        # From the corner at the top left of the page, clockwise.
        assert box[0].tolist() == pytest.approx(box.min(axis=0).tolist(), abs=1)
        assert box[2].tolist() == pytest.approx(box.max(axis=0).tolist(), abs=1)
    (unturned,) = pipeline(cls=None)(page)
    assert unturned.text == "CC BA"


def test_how_a_page_stands_is_told_without_reading() -> None:
    page = blank()
    put(page, bar("AB CC"), 40, 60)
    assert pipeline().quarter_turns(page) is None, "one line may stand anyhow"
    put(page, bar("CAB"), 40, 120)
    for turns in range(4):
        assert pipeline().quarter_turns(np.ascontiguousarray(np.rot90(page, -turns))) == turns
    assert [box.shape for box in pipeline().find(page)] == [(4, 2), (4, 2)]


@pytest.mark.parametrize("turns", [1, 3])
def test_a_line_that_runs_down_or_up_the_page(turns: int) -> None:
    page = blank()
    left, top, right, bottom = put(page, np.rot90(bar("AB CC"), turns), 40, 60)
    (line,) = pipeline()(page)
    assert line.text == "AB CC"
    first = [left, top, right, top + 2 * CELL] if turns == 3 else [left, bottom - 2 * CELL, right, bottom]
    np.testing.assert_allclose(extent(line.words[0].box), first, atol=6)
    assert line.words[0].box[0].tolist() == pytest.approx(line.words[0].box.min(axis=0).tolist(), abs=1)


def test_polygons() -> None:
    page = blank()
    place = put(page, bar("ABC"), 40, 60)
    (line,) = pipeline(postprocess=replace(UNCLIP, box_type="poly"))(page)
    assert line.text == "ABC"
    assert len(line.box) > 4
    np.testing.assert_allclose(extent(line.box), np.add(place, [-3, -3, 3, 3]), atol=2)


def test_lines_below_the_score_are_left_out() -> None:
    page = blank()
    put(page, bar("AA"), 20, 20)
    put(page, bar("CC"), 20, 80)
    put(page, np.full((20, 60, 3), 128, np.uint8), 20, 140)  # a line without text has the score 0
    assert [line.text for line in pipeline(drop_score=0.7)(page)] == ["AA"]
    assert [line.text for line in pipeline()(page)] == ["AA", "CC"]
    assert [line.text for line in pipeline(drop_score=0)(page)] == ["AA", "CC", ""]


@pytest.mark.parametrize("kind", ["path", "bytes", "array", "grey", "pil", "alpha"])
def test_images_of_every_kind(kind: str, tmp_path: Path) -> None:
    page = blank()
    put(page, bar("ABC"), 40, 60)
    path = tmp_path / "page.png"
    cv2.imwrite(str(path), page)
    with Image.open(path) as image:
        image.load()
    source = {
        "path": path,
        "bytes": path.read_bytes(),
        "array": page,
        "grey": np.full((64, 64), 255, np.uint8),
        "pil": image,
        "alpha": np.dstack([page, np.full(page.shape[:2], 255, np.uint8)]),
    }[kind]
    assert [line.text for line in pipeline()(source)] == ([] if kind == "grey" else ["ABC"])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (blank(), []),
        (blank(1, 1), []),
        (np.zeros((1, 1, 3), np.uint8), []),
        (np.zeros((224, 320, 3), np.uint8), []),
        (blank(50, 20_000), []),
        (blank(20_000, 50), []),
    ],
    ids=["empty", "1x1", "1x1 black", "black", "20000x50", "50x20000"],
)
def test_pages_without_text(page: BGRImage, expected: list[str], fast: bool) -> None:
    (result,) = pipeline(fast=fast).read_pages([Page("a.png", 1, 1, page)])
    assert texts(result) == expected


def test_a_strip_of_text_is_read() -> None:
    page = blank(50, 20_000)
    for left in (100, 9_000, 19_000):
        put(page, np.asarray(cv2.resize(bar("AB"), (800, 40))), left, 5)
    # At a longest side of 960 a letter has few pixels left; what counts is that it is found and stays in its place.
    lines = pipeline(drop_score=0)(page)
    assert [round(float(line.box[:, 0].mean()), -2) for line in lines] == [500, 9_400, 19_400]


def test_a_truncated_jpeg_is_refused() -> None:
    data = io.BytesIO()
    Image.effect_noise((200, 200), 60).save(data, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        pipeline()(data.getvalue()[:2000])


def numbered(count: int, spoil: frozenset[int] = frozenset()) -> Iterator[Page | Failure]:
    """Pages with as many letters as their number says, and failures."""
    for number in range(1, count + 1):
        if number in spoil:
            yield Failure("in.pdf", number, "broken")
            continue
        page = blank(64, 320)
        put(page, bar("AB"[number % 2] * (1 + number % 9)), 10, 10)
        yield Page("in.pdf", number, count, page)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("workers", [None, 1, 3])
def test_results_come_in_order_with_failures_in_their_place(fast: bool, workers: int | None) -> None:
    spoil = frozenset({1, 5, 6, 20})
    results = list(pipeline(fast=fast, workers=workers).read_pages(numbered(20, spoil)))
    assert [result.number for result in results] == list(range(1, 21))
    for result in results:
        number = result.number
        assert number is not None
        if number in spoil:
            assert result == Failure("in.pdf", number, "broken")
        else:
            assert texts(result) == ["AB"[number % 2] * (1 + number % 9)]


def test_exact_batches_are_paddleocrs_and_fast_ones_tight() -> None:
    page = blank(320, 960)
    for row in range(4):
        put(page, bar("A"), 20, 20 + 60 * row)
        put(page, bar("B" * 16), 200, 20 + 60 * row)
    exact, fast = Colours().eval(), Colours().eval()
    pipeline(rec=exact)(page)
    # Sorted by ratio, six at a time, at least 320 wide, as wide as the widest of the batch.
    (second, first) = sorted(exact.batches)
    assert (first[0], second[0]) == (6, 2)
    assert first[3] == second[3] > 320
    list(pipeline(rec=fast, fast=True).read_pages([Page("a", 1, 2, page), Page("a", 2, 2, page)]))
    # The lines of both pages are sorted together: the short ones stay narrow.
    widths = sorted(batch[3] for batch in fast.batches)
    assert widths == [96, second[3], second[3]]


@pytest.mark.parametrize("fast", [False, True])
def test_few_pages_are_in_memory_at_a_time(fast: bool) -> None:
    alive: weakref.WeakSet[Page] = weakref.WeakSet()
    most = 0

    def pages() -> Iterator[Page | Failure]:
        nonlocal most
        for page in numbered(40):
            assert isinstance(page, Page)
            alive.add(page)
            most = max(most, len(alive))
            yield page

    for result in pipeline(fast=fast).read_pages(pages()):
        del result
    gc.collect()
    assert most <= (12 if fast else 5)
    assert len(alive) <= 1


def test_two_thousand_images_of_which_ten_are_broken(tmp_path: Path) -> None:
    good, folder = tmp_path / "good.png", tmp_path / "in"
    page = blank(32, 64)
    put(page, bar("AB"), 8, 3)
    cv2.imwrite(str(good), page)
    folder.mkdir()
    broken = {f"{number:04}.png" for number in range(7, 2000, 200)}
    for number in range(2000):
        name = f"{number:04}.png"
        if name in broken:
            (folder / name).write_bytes(good.read_bytes()[:60])
        else:
            os.link(good, folder / name)
    read = 0
    failed = set()
    for result in pipeline(cls=None).read([folder]):
        if isinstance(result, Failure):
            failed.add(Path(result.source).name)
        else:
            assert texts(result) == ["AB"]
            read += 1
    assert failed == broken
    assert len(broken) == 10
    assert read == 1990


def test_a_run_that_was_cut_off_reads_the_rest(tmp_path: Path) -> None:
    page = blank(64, 320)
    put(page, bar("AB"), 10, 10)
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), page)
    output = tmp_path / "out.jsonl"

    def cut(results: Iterator[PageText | Failure], after: int) -> Iterator[PageText | Failure]:
        for index, result in enumerate(results):
            if index == after:
                raise KeyboardInterrupt
            yield result

    sources = find_sources([tmp_path / "*.png"])
    with pytest.raises(KeyboardInterrupt):
        append_pages(cut(pipeline().read(sources), 3), output)
    done = finished_pages(output)
    assert len(done) == 3
    opened: list[str] = []

    def rest() -> Iterator[Page | Failure]:
        for found in read_pages(sources, lambda source, number: (source, number) in done):
            opened.append(found.source)
            yield found

    append_pages(pipeline().read_pages(rest()), output)
    assert opened == sources[3:]
    assert [json.loads(row)["source"] for row in output.read_text().splitlines()] == sources


def test_models_that_do_not_fit_are_refused() -> None:
    class Nan(Ink):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"maps": x[:, :1] * math.nan}

    with pytest.raises(ConfigError, match="not a detector"):
        pipeline(det=Colours().eval())
    with pytest.raises(ConfigError, match="not a recogniser"):
        pipeline(rec=Ink().eval())
    with pytest.raises(ConfigError, match="not a direction classifier"):
        pipeline(cls=Ink().eval())
    with pytest.raises(ConfigError, match="Linear has no settings"):
        pipeline(det=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="workers"):
        pipeline(workers=0)
    with pytest.raises(DetectionError, match="training mode"):
        pipeline(det=Ink())(blank())
    with pytest.raises(DetectionError, match="NaN"):
        pipeline(det=Nan().eval())(blank())


class UnforeseenError(Exception):
    """An error that no one thought of."""


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("at", ["detector", "recogniser"])
def test_a_page_that_a_model_fails_on_is_a_failure_and_the_others_are_read(
    at: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ocr = pipeline(fast=fast)
    detect, read = ocr.detector.map, ocr.recognizer._best

    def detect_or_fail(image: BGRImage) -> object:
        if (image[0, 0] == 7).all():
            raise MemoryError
        return detect(image)

    def read_or_fail(batch: Tensor) -> object:
        # The letter C, which is on one page alone: full blue, no red.
        if ((batch[:, 0] > 0.9) & (batch[:, 2] < -0.9)).any():
            raise UnforeseenError("no room\nfor the second line")
        return read(batch)

    if at == "detector":
        monkeypatch.setattr(ocr.detector, "map", detect_or_fail)
    else:
        monkeypatch.setattr(ocr.recognizer, "_best", read_or_fail)
    pages = []
    for number in range(3):
        page = blank()
        put(page, bar("ACA" if number == 1 else "AB"), 20, 60)
        page[0, 0] = 7 if number == 1 else 255
        pages.append(Page("scan.pdf", number + 1, 3, page))
    first, failed, last = ocr.read_pages(pages)
    assert texts(first) == texts(last) == ["AB"]
    reason = "there is not enough memory for it" if at == "detector" else "UnforeseenError: no room"
    assert isinstance(failed, Failure)
    assert (failed.source, failed.number) == ("scan.pdf", 2)
    assert failed.message == f"scan.pdf, page 2 cannot be read: {reason}"


def test_a_line_that_fails_is_named_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("a", "AB"), ("b", "ACA"), ("d", "BA")):
        cv2.imwrite(str(tmp_path / f"{name}.png"), bar(text))
    (tmp_path / "c.png").write_bytes(b"no image")
    recognizer = Recognizer(Colours().eval(), Colours.config)
    read = recognizer._best

    def read_or_fail(batch: Tensor) -> object:
        if ((batch[:, 0] > 0.9) & (batch[:, 2] < -0.9)).any():
            raise UnforeseenError
        return read(batch)

    monkeypatch.setattr(recognizer, "_best", read_or_fail)
    first, failed, broken, last = read_lines(recognizer, sorted(tmp_path.iterdir()))
    assert isinstance(first, Line)
    assert isinstance(last, Line)
    assert (first.text, last.text) == ("AB", "BA")
    assert isinstance(failed, Failure)
    assert failed.message == f"{tmp_path / 'b.png'} cannot be read: UnforeseenError"
    assert isinstance(broken, Failure)
    assert "c.png is not an image" in broken.message


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> dict[str, Path]:
    """The networks of PP-OCRv4, converted from their exports."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls", "en_PP-OCRv4_rec", "ch_PP-OCRv4_rec"):
        convert(name, weights=shared / "models" / f"{name}_infer", output=folder / name, fused=True)
    return {
        "det": folder / "ch_PP-OCRv4_det",
        "cls": folder / "ch_ppocr_mobile_v2.0_cls",
        "en": folder / "en_PP-OCRv4_rec",
        "ch": folder / "ch_PP-OCRv4_rec",
    }


@pytest.mark.parametrize("lang", ["en", "ch"])
def test_pages_are_read_as_by_paddleocr(lang: str, real: dict[str, Path], shared: Path) -> None:
    ocr = OCR(det=real["det"], rec=real[lang], cls=real["cls"])
    results = list(ocr.read([shared / "images" / "pages"]))
    assert len(results) == 4
    for result in results:
        assert isinstance(result, PageText)
        reference = json.loads((shared / f"reference/pages/{Path(result.source).stem}.{lang}.json").read_text())
        assert texts(result) == [line["text"] for line in reference]
        for line, expected in zip(result.lines, reference, strict=True):
            np.testing.assert_allclose(line.box, expected["box"], atol=1)
            assert line.score == pytest.approx(expected["score"], abs=1e-3)
            assert "".join(word.text for word in line.words) == line.text.replace(" ", "")
            for word in line.words:
                inside = [*(line.box.min(axis=0) - 1), *(-line.box.max(axis=0) - 1)]
                assert ([*word.box.min(axis=0), *(-word.box.max(axis=0))] >= np.array(inside)).all()


def test_our_own_page_is_read_by_the_real_networks(real: dict[str, Path]) -> None:
    page = np.load(TESTS / "paddle2torch" / "tasks" / "detection_golden.npz", allow_pickle=False)["page"]
    found = [line.text for line in OCR(det=real["det"], rec=real["en"], cls=real["cls"])(page)]
    # The recogniser made of the Chinese one leaves out some spaces.
    assert [text.replace(" ", "") for text in found] == [
        *("lnvoice2041", "Total12.90", "leftmargin", "paidincash", "smallprint,twowords"),
        *("steep", "widelineoftext", "42", "bottomedge"),
    ]


@pytest.mark.parametrize("fast", [False, True])
def test_the_real_networks_on_pages_without_text(fast: bool, real: dict[str, Path]) -> None:
    ocr = OCR(det=real["det"], rec=real["en"], cls=real["cls"], fast=fast)
    pages = [blank(), blank(1, 1), np.zeros((200, 300, 3), np.uint8), blank(50, 20_000), np.zeros((3, 70, 3), np.uint8)]
    for result in ocr.read_pages(Page("a", 1, 1, page) for page in pages):
        assert texts(result) == []


@pytest.mark.parametrize("values", ["pipeline", "own"])
def test_pages_are_read_as_by_paddleocr_3(
    values: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PP-OCRv6 small, real weights: by name with the pipeline's settings, or with the model's own.

    The crops of OpenCV 5 differ from those of 4 by 1 in one value of 400, which moves scores by up to 0.0006; under
    4.10 they are within 1e-4. Where a box is off by a pixel, by another rounding of its corners, more does.
    """
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path))
    for name in ("PP-OCRv6_small_det", "PP-OCRv6_small_rec"):
        convert(name, weights=shared / "models" / f"{name}_infer")
    own = load_card("PP-OCRv6_small_det")
    settings = {} if values == "pipeline" else {"preprocess": own.preprocess, "postprocess": own.postprocess}
    ocr = OCR(det="PP-OCRv6_small_det", rec="PP-OCRv6_small_rec", cls=None, **settings)  # type: ignore[arg-type]
    assert ocr.detector.postprocess.max_candidates == 3000
    name = "paddle.pages.json" if values == "pipeline" else "paddle.pages.model_values.json"
    pages = json.loads((shared / "reference" / "v6" / name).read_text(encoding="utf-8"))["pages"]
    for page, expected in pages.items():
        rows = expected["rows"]
        lines = ocr(shared / "images" / "pages" / page)
        same = [line.text == row["text"] for line, row in zip(lines, rows, strict=True)]
        # One character, whose probability is next to another's, turns with the crops of OpenCV 5.
        assert same.count(False) <= (0 if cv2.__version__ < "5" else 1)
        for line, row in zip(lines, rows, strict=True):
            off = np.abs(line.box - np.array(row["box"])).max()
            assert off <= 1
            if line.text == row["text"] and off == 0:
                assert line.score == pytest.approx(row["score"], abs=1e-4 if cv2.__version__ < "5" else 1e-3)


# Pages that PaddleOCR's limit makes too small


def test_a_long_strip_is_read_at_its_own_size() -> None:
    strip = blank(44, 3000)
    places = [put(strip, bar("ABC AA"), left, 9) for left in range(20, 2800, 300)]
    ocr = pipeline()
    assert [line.text for line in ocr(strip)] == ["ABC AA"] * len(places)
    tall = np.ascontiguousarray(np.rot90(strip))
    assert [line.text for line in ocr(tall)] == ["ABC AA"] * len(places)


def test_a_page_of_small_lines_is_read_in_tiles_and_no_line_twice() -> None:
    page = blank(2600, 2000)
    # Across the borders between tiles, too.
    places = [put(page, bar("ABCA"), left, top) for top in range(20, 2500, 150) for left in (30, 980, 1800)]
    ocr = pipeline()
    lines = ocr(page)
    assert [line.text for line in lines] == ["ABCA"] * len(places)
    for line, place in zip(lines, places, strict=True):
        np.testing.assert_allclose(extent(line.box), place, atol=6)  # boxes are widened a little


def test_pages_that_paddleocr_reads_are_seen_as_paddleocr_sees_them() -> None:
    page = blank(1920, 1440)
    large = cv2.resize(bar("ABC"), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    put(page, large, 100, 200)
    sizes = []

    class Seen(Ink):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            sizes.append(tuple(x.shape[2:]))
            return super().forward(x)

    ocr = pipeline(det=Seen().eval())
    with pytest.warns(UserWarning, match=r"made 2\.0 times smaller for the detector: small text may be missing"):
        assert [line.text for line in ocr(page)] == ["ABC"]
    with pytest.warns(UserWarning, match="2\\.0 times"):
        assert list(ocr(blank(1920, 1440))) == []
    assert sizes == [(960, 704)] * 2
    # With a limit of the caller's, too, and then nothing is looked at twice.
    put(page, bar("ABC"), 100, 1000)
    with pytest.warns(UserWarning, match="4\\.0 times"):
        pipeline(det=Seen().eval(), det_limit_side_len=480)(page)
    assert sizes[2:] == [(480, 352)]


def test_the_detectors_settings_have_paddleocrs_names() -> None:
    ours = pipeline(
        postprocess=None,
        det_limit_side_len=640,
        det_limit_type="min",
        det_db_thresh=0.2,
        det_db_box_thresh=0.4,
        det_db_unclip_ratio=2.0,
        drop_score=0.1,
    )
    theirs = pipeline(
        postprocess=None,
        text_det_limit_side_len=640,
        text_det_limit_type="min",
        text_det_thresh=0.2,
        text_det_box_thresh=0.4,
        text_det_unclip_ratio=2.0,
        text_rec_score_thresh=0.1,
    )
    for ocr in (ours, theirs):
        assert ocr.detector.preprocess == DetPreprocess(limit_side_len=640, limit_type="min")
        assert ocr.detector.postprocess == DBPostprocess(thresh=0.2, box_thresh=0.4, unclip_ratio=2.0)
        assert ocr.drop_score == 0.1
    with pytest.raises(ConfigError, match="text_det_thresh"):
        pipeline(text_det_tresh=0.2)
    with pytest.raises(ConfigError, match="limit_side_len"):
        pipeline(det_limit_side_len=0)


def test_pages_of_pdfs_have_the_dpi_that_is_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "white").save(tmp_path / "a.pdf", resolution=72)
    sizes = {}
    for dpi in (None, 72, 300):
        (page,) = read_pages([str(tmp_path / "a.pdf")], dpi=dpi)
        assert isinstance(page, Page)
        sizes[dpi] = page.image.shape[:2]
    assert sizes == {None: (400, 600), 72: (200, 300), 300: (834, 1250)}
    with pytest.raises(ConfigError, match="dpi is from 1"):
        list(read_pages([str(tmp_path / "a.pdf")], dpi=1e9))


# Turned pages


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_page_is_read_in_order_and_its_boxes_are_its_own(turns: int) -> None:
    page = blank(240, 320)
    places = [put(page, bar(text), 20, top) for text, top in (("ABC AA", 20), ("CAB B", 90), ("BBA C", 160))]
    upright = pipeline()(page)
    turned = np.ascontiguousarray(np.rot90(page, turns))
    result = next(iter(pipeline().read_pages([Page("", 1, 1, turned)])))
    assert isinstance(result, PageText)
    assert texts(result) == ["ABC AA", "CAB B", "BBA C"]
    assert result.text.split() == ["ABC", "AA", "CAB", "B", "BBA", "C"]
    assert result.quarter_turns == -turns % 4
    for line, other, place in zip(result.lines, upright, places, strict=True):
        corners = np.array([place[:2], place[2:]], np.float32)
        np.testing.assert_allclose(extent(line.box), extent(turn_points(corners, page.shape, turns)), atol=6)
        np.testing.assert_allclose(
            extent(line.words[0].box), extent(turn_points(other.words[0].box, page.shape, turns)), atol=6
        )
        assert line.box[0].sum() == line.box.sum(axis=1).min()  # from the top left


def test_pages_are_left_as_they_are_where_that_is_asked_for() -> None:
    page = blank(240, 320)
    for text, top in (("ABC", 20), ("CAB", 90)):
        put(page, bar(text), 20, top)
    turned = np.ascontiguousarray(np.rot90(page, 2))
    assert [line.text for line in pipeline(turn_pages=False)(turned)] == ["CAB", "ABC"]


def test_a_classifier_of_pages_says_how_they_stand() -> None:
    class Sideways(Shadow):
        config = replace(Shadow.config, postprocess=ClsPostprocess(labels=("0", "90", "180", "270"), thresh=None))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 0.0, 0.0, 1.0]]).repeat(len(x), 1)

    page = blank(240, 320)
    for text, top in (("ABC", 20), ("CAB", 90)):
        put(page, bar(text), 20, top)
    turned = np.ascontiguousarray(np.rot90(page, 1))
    assert [line.text for line in pipeline(orientation=Sideways().eval())(turned)] == ["ABC", "CAB"]


# Pages that lie askew


@pytest.mark.parametrize("angle", [3, -10, 20, -29, 38, -45, 45, 60, 135, 180, -100])
def test_a_page_that_lies_askew_is_read_in_order_and_its_boxes_are_its_own(angle: float) -> None:
    page = blank(260, 420)
    rows = [("ABC AAB", "CC BAC"), ("CAB BAC", "AB CAB"), ("BBA CAA", "BC ACA"), ("CCC ABB", "AAB CC")]
    for row, (left, right) in enumerate(rows):
        put(page, bar(left), 20, 25 + 56 * row)
        put(page, bar(right), 240, 25 + 56 * row)
    upright = pipeline()(page)
    # `turned_level` turns a page that lies askew back; here the other way, to lay one askew.
    askew = turned_level(page, -angle)
    result = next(iter(pipeline().read_pages([Page("", 1, 1, askew.image)])))
    assert texts(result) == [text for row in rows for text in row]
    assert isinstance(result, PageText)
    assert result.text.split("\n") == [" ".join(row) for row in rows]
    for line, other in zip(result.lines, upright, strict=True):
        np.testing.assert_allclose(askew.back(line.box).mean(axis=0), other.box.mean(axis=0), atol=6)
        for word, like in zip(line.words, other.words, strict=True):
            np.testing.assert_allclose(askew.back(word.box).mean(axis=0), like.box.mean(axis=0), atol=8)


def test_a_page_askew_keeps_paddleocrs_order_where_pages_are_not_turned() -> None:
    page = blank(260, 420)
    for row in range(4):
        for left in (20, 240):
            put(page, bar("ABC AAB"), left, 25 + 56 * row)
    askew = turned_level(page, -12).image
    boxes = [line.box for line in pipeline(turn_pages=False)(askew)]
    assert sorted_order(boxes) == list(range(8))
    assert sorted_order([line.box for line in pipeline()(askew)]) != list(range(8))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_very_long_line_is_read_whole_whichever_way_it_runs(turns: int) -> None:
    text = ("ABC CAB BCA CCB BBA ABC " * 5).strip()
    page = blank(80, CELL * len(text) + 80)
    put(page, bar(text), 40, 26)
    shown: list[tuple[int, ...]] = []

    class Looked(Shadow):
        def forward(self, x: Tensor) -> Tensor:
            shown.append(tuple(x.shape))
            return super().forward(x)

    (line,) = pipeline(cls=Looked().eval())(np.ascontiguousarray(np.rot90(page, turns)))
    assert line.text == text
    assert len(line.words) == len(text.split())
    assert shown
