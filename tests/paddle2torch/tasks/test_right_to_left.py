# ruff: noqa: RUF001
"""The order of right-to-left lines: what the network sees from the left becomes what is read."""

from __future__ import annotations

import random

import pytest
from bidi import get_display

from paddle2torch.tasks.right_to_left import logical_order


def read(seen: str) -> str:
    return "".join(character for _, character in logical_order(seen))


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ("٢٠٢٤ ماع", "عام ٢٠٢٤"),
        ("2024 ماع", "عام 2024"),
        ("15,000 لاير", "ريال 15,000"),
        ("١٥٬٠٠٠ لاير", "ريال ١٥٬٠٠٠"),
        ("3.5 دعب", "بعد 3.5"),
        ("12/05/2024 خيرات", "تاريخ 12/05/2024"),
        ("١٢/٠٥/٢٠٢٤ خيرات", "تاريخ ١٢/٠٥/٢٠٢٤"),
        ("12:30 ةعاس", "ساعة 12:30"),
        ("2024-05-12 ךיראת", "תאריך 2024-05-12"),
        # Displayed in Arabic, hyphens divide numbers that come from the right: this is what displays as seen.
        ("2024-05-12 خيرات", "تاريخ 12-05-2024"),
        ("%50 مصخ", "خصم 50%"),
        ("۱۴۰۳ لاس", "سال ۱۴۰۳"),
        ("4567 123 فتاه", "هاتف 123 4567"),
    ],
)
def test_numbers_and_dates_are_read_from_the_left(seen: str, text: str) -> None:
    assert read(seen) == text


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ("a.b@c.com ديرب", "بريد a.b@c.com"),
        ("http://x.com/a?b=1 عقوم", "موقع http://x.com/a?b=1"),
        ("عقوم http://x.com/a?b=1", "http://x.com/a?b=1 موقع"),
        ("iPhone 12 فتاه", "هاتف iPhone 12"),
        ("Hello World ابحرم", "مرحبا Hello World"),
        ("ةحفص Page 3 of 10 يف", "في Page 3 of 10 صفحة"),
    ],
)
def test_addresses_and_words_of_other_scripts_are_read_from_the_left(seen: str, text: str) -> None:
    assert read(seen) == text


@pytest.mark.parametrize("line", ["12,5", "Hello, World!", "12:30 - 14:00", "(a) b", "", "€ 5"])
def test_a_line_without_right_to_left_letters_stays_as_it_is(line: str) -> None:
    assert read(line) == line


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (")2024( ماع", "عام (2024)"),  # as PaddleOCR's labels have it
        ("(2024) ماع", "عام (2024)"),  # as it looks
        (")abc( ماع", "عام (abc)"),
        ("xyz )abc( ماع", "عام (abc) xyz"),
        ("xyz (abc) ماع", "عام xyz (abc)"),
        ("«باتك»", "«كتاب»"),
        ("f(x) ةلاد", "دالة f(x)"),
    ],
)
def test_brackets_close_whether_the_network_gives_what_it_sees_or_what_is_meant(seen: str, text: str) -> None:
    assert read(seen) == text


def test_joiners_and_marks_stay_with_their_letters() -> None:
    assert read("مهاوخ\u200cيم ۱۲") == "۱۲ می‌خواهم".replace("ی", "ي")
    assert read("\u064eم\u064fم") == "م\u064fم\u064e"


def test_each_character_keeps_its_place_and_none_is_lost() -> None:
    seen = "50 12 ]ب[ a1-b, ١٢ \t\u200f ـ"
    order = logical_order(seen)
    assert sorted(place for place, _ in order) == list(range(len(seen)))
    assert all(seen[place] == character for place, character in order)
    # The numbers come from the right, each from its left.
    assert [place for place, _ in logical_order("12 ب 34")] == [5, 6, 4, 3, 2, 0, 1]


def test_what_the_algorithm_displays_is_read_back() -> None:
    draw = random.Random(0)
    words = [
        "عام",
        "ريال",
        "שלום",
        "2024",
        "15,000",
        "12/05/2024",
        "٢٠٢٤",
        "50%",
        "(2024)",
        "«كتاب»",
        "a.b@c.com",
        "Hello",
    ]
    for _ in range(200):
        # Words of the other direction are apart: which of two neighbours came first cannot be seen.
        chosen = [word for _ in range(3) for word in (draw.choice(words[:3]), draw.choice(words))]
        text = " ".join(chosen)
        assert read(str(get_display(text, base_dir="R"))) == text
