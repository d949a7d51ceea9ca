"""Figures of answers, and the page that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_training import tiny_config, tiny_det_config

from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.tasks.detection import Box
from paddle2torch.tasks.images import ImageError
from paddle2torch.training import evaluation_report
from paddle2torch.training.answers import Answer, LineAnswer, PageAnswer, ctc_scores
from paddle2torch.training.calibration import calibrate
from paddle2torch.training.evaluation import Evaluation, Examination
from paddle2torch.training.evaluation_report import hard_samples, report_page, write_evaluation_report
from paddle2torch.training.hard_samples import HARD_NAME, HardRow, HardSample, drop_later_rows, read_hard_rows
from paddle2torch.training.line_figures import LineFigures, character_class
from paddle2torch.training.page_figures import PageFaults, PageFigures
from paddle2torch.training.settings import EvaluationSettings


@dataclass
class Data:
    """What a report asks of evaluation data."""

    labels: Sequence[str]
    sources: Sequence[str] = ("val.txt",)
    unread: set[int] = field(default_factory=set)
    size: tuple[int, int] = (20, 60)

    def label(self, index: int) -> str:
        return self.labels[index]

    def where(self, index: int) -> str:
        return f"{self.source(index)}, line {index + 1} ({index}.png)"

    def source(self, index: int) -> str:
        return self.sources[index % len(self.sources)]

    def picture(self, index: int) -> NDArray[np.uint8]:
        if index in self.unread:
            raise ImageError("there is no such file")
        return np.full((*self.size, 3), index % 256, dtype=np.uint8)


def examined(
    pairs: Sequence[tuple[str, str]] = (),
    *,
    answers: Sequence[Answer] | None = None,
    config: ModelConfig | None = None,
    data: Data | None = None,
    settings: EvaluationSettings | None = None,
    score: float = 0.5,
    name: str = "tiny",
) -> Examination:
    """An evaluation of lines with these labels and texts, or of `answers`."""
    data = data or Data([label for label, _ in pairs])
    if answers is None:
        answers = [
            LineAnswer(index, label, text, (score,) * len(text), unread=index in data.unread)
            for index, (label, text) in enumerate(pairs)
        ]
    settings = settings or EvaluationSettings(ignore_space=False)
    evaluation = Evaluation({"acc": 0.5, "norm_edit_dis": 0.75}, len(answers), None, (), tuple(answers))
    return Examination(name, config or tiny_config(), settings, evaluation, data)  # type: ignore[arg-type]


def of_lines(*pairs: tuple[str, str], **options: object) -> LineFigures:
    figures = examined(pairs, **options).figures  # type: ignore[arg-type]
    assert isinstance(figures, LineFigures)
    return figures


class Reader(HTMLParser):
    """Tags, addresses, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_probability_of_a_character_is_that_of_its_first_step() -> None:
    ids = np.array([[0, 1, 1, 0, 1, 2]])
    best = np.array([[0.9, 0.5, 0.6, 0.8, 0.25, 0.75]], dtype=np.float32)
    assert ctc_scores(ids, best) == [(0.5, 0.25, 0.75)]


def test_error_rates_are_edits_by_the_length_of_all_labels() -> None:
    figures = of_lines(("ab cd", "ab ce"), ("abcde", ""))
    assert figures.cer == pytest.approx(6 / 10)
    assert figures.wer == pytest.approx(2 / 3)


def test_mistakes_are_counted_by_pairs_of_characters() -> None:
    figures = of_lines(("abc", "abd"), ("cab", "dab"), ("abcc", "abdx"), ("ab", "aab"), ("abc", "ac"), ("abc", "abc"))
    assert (figures.lines, figures.right, figures.different_confusions) == (6, 1, 4)
    first = figures.confusions[0]
    assert (first.label, first.read, first.count, first.lines, first.alone, first.examples) == (
        "c",
        "d",
        3,
        3,
        2,
        (0, 1, 2),
    )
    assert {str(confusion) for confusion in figures.confusions} == {
        "'c' is read as 'd'",
        "'c' is read as 'x'",
        "'a' is read where nothing is",
        "'b' is not read",
    }


def test_lines_are_grouped_by_length_and_data_set_and_characters_by_kind() -> None:
    data = Data(["ab", "abcdef", "Aж1 "], sources=("one.txt", "two.txt"))
    answers = [
        LineAnswer(0, "ab", "ab", (1, 1)),
        LineAnswer(1, "abcdef", "", ()),
        LineAnswer(2, "Aж1 ", "A1 ", (1,) * 3),
    ]
    figures = of_lines(answers=answers, data=data)
    assert [(group.name, group.count, group.right) for group in figures.by_length] == [
        ("1 to 2", 1, 1),
        ("3 to 4", 1, 0),
        ("5 to 7", 1, 0),
    ]
    assert {group.name: (group.count, group.right) for group in figures.by_source} == {
        "one.txt": (2, 1),
        "two.txt": (1, 0),
    }
    assert {group.name: (group.count, group.right) for group in figures.by_class} == {
        "Latin small letters": (8, 2),
        "Latin capital letters": (1, 1),
        "Cyrillic small letters": (1, 0),
        "digits": (1, 1),
        "spaces": (1, 1),
    }


@pytest.mark.parametrize(
    ("character", "kind"),
    [
        ("漢", "Han letters"),
        ("क", "Devanagari letters"),
        ("ب", "Arabic letters"),
        ("%", "punctuation"),
        ("€", "symbols"),
    ],
)
def test_what_a_character_is(character: str, kind: str) -> None:
    assert character_class(character) == kind


def test_what_is_compared_is_what_the_accuracy_compares() -> None:
    assert of_lines(("A b", "ab"), settings=EvaluationSettings(is_filter=True)).right == 1
    assert of_lines(("a b", "ab"), settings=EvaluationSettings(ignore_space=True)).right == 1
    assert of_lines(("a b", "ab")).right == 0


def test_advice_says_what_keeps_lines_from_being_right() -> None:
    data = Data(["abc", "ab€", "AB", "a b", "abcdef", "aab", "abc"], unread={0})
    texts = ["", "abe", "ab", "ab", "cdef", "ab", "abd"]
    answers = [
        LineAnswer(index, label, text, (0.5,) * len(text), unread=index == 0)
        for index, (label, text) in enumerate(zip(data.labels, texts, strict=True))
    ]
    told = " | ".join(one.text for one in of_lines(answers=answers, data=data).advice)
    for sign in (
        "their images cannot be read",
        "the model's set lacks, '€' (1)",
        "only capital and small letters are mixed up",
        "only spaces differ",
        "but for their first or last characters",
        "one of two equal neighbours is lost",
    ):
        assert sign in told
    assert of_lines(("abc", "abc")).advice == ()


def test_characters_that_the_set_lacks_are_told_in_one_order() -> None:
    """That of a Python set changes from process to process."""
    label = "zyxwvuts"
    told = of_lines((label, "")).advice[0].text
    assert "lacks, " + ", ".join(f"{character!r} (1)" for character in sorted(label)) in told


def test_a_model_that_is_sure_and_wrong_now_and_then_points_to_labels() -> None:
    lines = [("abc", "abc")] * 9 + [("abc", "abd")]
    assert any("look whether the labels are right" in one.text for one in of_lines(*lines, score=0.95).advice)
    assert any("not trained on such lines" in one.text for one in of_lines(*lines[6:], score=0.95).advice)


def test_calibration_compares_confidence_with_accuracy() -> None:
    found = calibrate([(0.95, True), (0.95, False), (0.15, False), (1.0, True)])
    assert [(one.low, one.count, one.accuracy) for one in found.bins] == [(0.1, 1, 0.0), (0.9, 3, pytest.approx(2 / 3))]
    assert found.error == pytest.approx((0.15 + 3 * (2.9 / 3 - 2 / 3)) / 4)
    assert [(one.confidence, one.share) for one in found.limits][-1] == (0.99, 0.25)


def square(left: float, top: float, width: float, height: float) -> list[list[float]]:
    return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]


def page(lines: Sequence[list[list[float]]], boxes: Sequence[tuple[list[list[float]], float]]) -> Examination:
    label = json.dumps([{"transcription": "a", "points": points} for points in lines])
    found = tuple(Box(np.array(points, dtype=np.float32), score) for points, score in boxes)
    answers = [PageAnswer(0, (100, 200), found)]
    return examined(answers=answers, config=tiny_det_config(), data=Data([label], size=(100, 200)))


def faults(one: Examination) -> PageFaults:
    assert isinstance(one.figures, PageFigures)
    return one.figures.faults[0]


def test_each_fault_of_a_page_is_known() -> None:
    found, missed, upper, lower, broken = (square(0, 20 * row, 90, 10) for row in range(5))
    boxes = [
        (found, 0.9),
        (square(0, 40, 90, 30), 0.8),  # upper and lower in one
        (square(0, 80, 40, 10), 0.8),
        (square(50, 80, 40, 10), 0.8),
        (square(120, 0, 40, 20), 0.7),
        (missed, 0.4),  # the model's own threshold leaves it out
    ]
    one = page([found, missed, upper, lower, broken], boxes)
    assert faults(one) == PageFaults(0, missed=(1,), false=(4,), merged=((1, (2, 3)),), split=((4, (2, 3)),))
    figures = one.figures
    assert isinstance(figures, PageFigures)
    assert (figures.wanted, figures.found) == (5, 5)
    by_threshold = {row.box_thresh: row for row in figures.thresholds}
    assert by_threshold[0.6].recall == pytest.approx(1 / 5)
    assert by_threshold[0.3].recall == pytest.approx(2 / 5)
    assert by_threshold[0.95].precision == 0
    assert figures.best.box_thresh == 0.4  # 0.05 would do as well, and is farther from the model's 0.6
    assert figures.to_json()["kinds"] == {"missed": 1, "false": 1, "merged": 1, "split": 1, "loose": 0}


def test_a_box_with_too_much_of_a_line_is_loose() -> None:
    assert faults(page([square(0, 0, 90, 10)], [(square(0, 0, 90, 25), 0.9)])) == PageFaults(0, loose=((0, 0),))


EVIL = "</script><script>alert(1)</script><img src=http://example.com/x>\x1b[31m\u202e'\""


def test_the_page_of_lines_asks_for_nothing_and_stays_text(tmp_path: Path) -> None:
    one = examined([("abc", "abd"), (EVIL, EVIL + "x"), ("ab", "ab")], data=Data(["abc", EVIL, "ab"], sources=(EVIL,)))
    other = replace(examined([("abc", "abc"), (EVIL, EVIL), ("ab", "a")]), name=EVIL, batches=one.batches)
    hard = [HardRow(0, 0.25, (HardSample(1, EVIL, EVIL, EVIL + "y"),))]
    write_evaluation_report(one, tmp_path / "report.html", against=other, hard=hard)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert all(address.startswith(("data:", "#")) for address in read.addresses)
    assert "script" not in read.tags
    assert "\x1b" not in text
    assert "1 lines are better and 2 worse than with" in read.text
    assert "1 lines got better, 2 got worse" in read.text
    assert "The hardest samples" in read.text
    assert re.search(r"c → ?d ?1 ?1", read.text)
    assert json.dumps(one.to_json())


def test_the_page_of_a_detector_draws_its_faults() -> None:
    one = page([square(0, 0, 90, 10), square(0, 30, 90, 10)], [(square(0, 0, 90, 10), 0.9)])
    text = report_page(one, against=page([square(0, 0, 90, 10), square(0, 30, 90, 10)], []))
    assert re.findall(r'<polygon class="(\w+)" points="([^"]*)"', text) == [
        ("right", "0.0,0.0 90.0,0.0 90.0,10.0 0.0,10.0"),
        ("missed", "0.0,30.0 90.0,30.0 90.0,40.0 0.0,40.0"),
    ]
    assert "1 pages got better" in Reader(text).text
    assert "1 missed" in Reader(text).text


def test_pictures_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_report, "PICTURE_BYTES", 1500)
    pairs = [("abc", "abd")] * 20
    text = report_page(examined(pairs))
    assert sum(map(len, Reader(text).addresses)) < 2000
    assert "pictures were left out" in text


def test_a_report_needs_answers_and_models_of_one_task() -> None:
    with pytest.raises(ConfigError, match="no answers to make a report of"):
        report_page(examined(answers=[]))
    with pytest.raises(ConfigError, match="different tasks"):
        report_page(examined([("a", "a")]), against=page([square(0, 0, 9, 9)], []))


def test_pictures_that_cannot_be_read_are_said() -> None:
    data = Data(["abc"], unread={0})
    assert "the image cannot be read" in report_page(examined([("abc", "")], data=data))


def test_rows_of_hard_samples_go_on_where_training_does(tmp_path: Path) -> None:
    rows = [HardRow(step, 0.5, (HardSample(1, "a", "b\n", "ü"),)) for step in (0, 5, 10)]
    (tmp_path / HARD_NAME).write_text("".join(row.line() for row in rows) + '{"step": 1, "val', encoding="utf-8")
    assert read_hard_rows(tmp_path) == rows
    drop_later_rows(tmp_path, 5)
    assert read_hard_rows(tmp_path) == rows[:2]


def test_the_hardest_samples_are_few() -> None:
    assert [sample.index for sample in hard_samples(examined([("abc", "xyz")] * 40))] == [0, 1, 2, 3, 4, 5]
