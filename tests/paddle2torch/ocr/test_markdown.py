"""Markdown that a parser of CommonMark reads back as the headings, paragraphs, lists and tables of the page."""

from __future__ import annotations

import itertools

import pytest
from markdown_it import MarkdownIt
from result_pages import line, page

from paddle2torch.ocr.results import TextLine


def parsed(*lines: TextLine) -> list[tuple[str, str]]:
    """(kind, text) of what a parser finds."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page(*lines).to_markdown())
    found = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "inline":
            text = "".join(
                {"text": child.content, "softbreak": "\n", "text_special": child.content}.get(
                    child.type, f"<{child.type}>"
                )
                for child in token.children or ()
            )
            found.append((before.tag, text))
    return found


def test_large_letters_are_headings_and_rows_flow_into_paragraphs() -> None:
    title, part = line("A title", 10, 0, height=50), line("A part", 10, 60, height=30)
    first = [line("The first row of a text", 10, 110), line("goes on in a sec-", 10, 132), line("ond one.", 10, 154)]
    assert parsed(title, part, *first) == [
        ("h1", "A title"),
        ("h2", "A part"),
        ("p", "The first row of a text goes on in a sec-\nond one."),
    ]


def test_ideographs_flow_without_spaces() -> None:
    assert parsed(line("一行目の文", 10, 0), line("二行目", 10, 22)) == [("p", "一行目の文二行目")]


def test_lists_keep_their_numbers() -> None:
    rows = ["Needed:", "1. flour", "2. water,", "cold", "- salt", "\u2022oil"]
    assert parsed(*(line(text, 10, 22 * place) for place, text in enumerate(rows))) == [
        ("p", "Needed:"),
        ("p", "flour"),
        ("p", "water, cold"),
        ("p", "salt"),
        ("p", "oil"),
    ]
    assert "2. water" in page(*(line(text, 10, 22 * place) for place, text in enumerate(rows))).to_markdown()


def test_columns_that_align_are_a_table() -> None:
    rows = [("Item", "Price"), ("Tea|green", "2.50"), ("Bread", ""), ("Sum", "7.00")]
    lines = [line(name, 10, 22 * place) for place, (name, _) in enumerate(rows)]
    lines += [line(price, 250, 22 * place + 1) for place, (_, price) in enumerate(rows) if price]
    assert parsed(*lines) == [
        *(("th", "Item"), ("th", "Price"), ("td", "Tea|green"), ("td", "2.50")),
        *(("td", "Bread"), ("td", ""), ("td", "Sum"), ("td", "7.00")),
    ]


def test_a_table_close_to_other_rows_is_a_table_still() -> None:
    cells = [("Item", "Price"), ("Tea", "2.50"), ("Bread", "1.00")]
    lines = [line("What we have today, as every day", 10, 0)]
    lines += [
        line(text, 10 + 240 * column, 22 * place)
        for place, row in enumerate(cells, 1)
        for column, text in enumerate(row)
    ]
    lines += [line("and everything else that you may ask for", 10, 88)]
    assert parsed(*lines) == [
        ("p", "What we have today, as every day"),
        *(("th", "Item"), ("th", "Price"), ("td", "Tea"), ("td", "2.50"), ("td", "Bread"), ("td", "1.00")),
        ("p", "and everything else that you may ask for"),
    ]


def test_rows_that_do_not_align_are_no_table() -> None:
    lines = [
        line("left text here", 10, 0),
        line("right", 200, 0),
        line("a longer row that crosses", 60, 22),
        line("x", 380, 22),
    ]
    assert {kind for kind, _ in parsed(*lines)} == {"p"}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "# 1 of 3",
            "a * b * c",
            "*bold*",
            "_under_ `code`",
            "<b>&amp;</b>",
            "[link](http://x)",
            "![x](y)",
            "> quote",
        ),
        *(
            "+ 5",
            "- ",
            "-",
            "---",
            "===",
            "1986. A year",
            "10) ten",
            "~~struck~~",
            "a | b",
            "\\",
            "C:\\new",
            "***",
            "2.50",
        ),
        *("http://example.com", "a  b", "#hash", "1.", "-5", "\u20135"),
    ],
)
def test_no_text_is_taken_for_markup(text: str) -> None:
    ((_, found),) = parsed(line(text, 10, 10))
    plain = " ".join(text.split())
    marker = {"+ 5": "5", "1986. A year": "A year", "10) ten": "ten"}
    assert " ".join(found.split()) == marker.get(plain, plain)


def test_an_empty_page_is_empty() -> None:
    assert page().to_markdown() == ""
