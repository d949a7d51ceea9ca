"""Texts become the rows that PaddleOCR's encoders make, and are refused where those return None."""

from __future__ import annotations

import numpy as np
import pytest

from paddle2torch.training.data.drops import Reason, Rejected
from paddle2torch.training.data.encode import Guide, LabelEncoder

# As in en_dict.txt with use_space_char: the space is there twice.
CHARSET = ("a", "b", " ", "1", " ")


def test_rows() -> None:
    label = LabelEncoder(CHARSET, 8)("b 1b")
    assert label.ctc.tolist() == [2, 5, 4, 2, 0, 0, 0, 0]
    assert label.guide is not None
    assert label.guide.tolist() == [2, 5, 8, 7, 5, 3, 0, 0]
    assert label.length == 4
    assert label.ctc.dtype == label.guide.dtype == np.int64


def test_rows_of_sar() -> None:
    """As PaddleOCR's SARLabelEncode: characters from 0, then unknown (5), start and end (6), padding (7)."""
    label = LabelEncoder(CHARSET, 8, guide="SAR")("b 1b")
    assert label.ctc.tolist() == [2, 5, 4, 2, 0, 0, 0, 0]
    assert label.guide is not None
    assert label.guide.tolist() == [6, 1, 4, 3, 1, 6, 7, 7]


def test_small_letters() -> None:
    encoder = LabelEncoder(CHARSET, 8, lower=True)
    assert encoder("aBA").ctc.tolist() == LabelEncoder(CHARSET, 8)("aba").ctc.tolist()
    assert encoder.outside("ABC") == ["c"]
    assert encoder.text("AB") == "ab"


def test_the_official_english_set(shared: object) -> None:
    lines = (shared / "charsets" / "en_dict.txt").read_text(encoding="utf-8").split("\n")  # type: ignore[operator]
    charset = [*lines[:95], " "]
    label = LabelEncoder(charset)("0 ~")
    assert label.ctc[:3].tolist() == [1, 96, 1 + charset.index("~")]


def test_characters_outside_are_left_out() -> None:
    encoder = LabelEncoder(CHARSET, 8)
    assert encoder("aéb").ctc.tolist() == encoder("ab").ctc.tolist()
    assert encoder.outside("aéb€") == ["é", "€"]


@pytest.mark.parametrize(("guide", "limit"), [("NRTR", 23), ("SAR", 23), (None, 25)])
def test_the_limit(guide: Guide | None, limit: int) -> None:
    encoder = LabelEncoder(CHARSET, guide=guide)
    assert encoder.limit == limit
    longest = encoder("a" * limit)
    assert longest.length == limit
    assert len(longest.ctc) == 25
    assert (longest.guide is None) == (guide is None)
    with pytest.raises(Rejected) as error:
        encoder("a" * (limit + 1))
    assert error.value.reason is Reason.TOO_LONG


def test_the_two_counts() -> None:
    encoder = LabelEncoder(CHARSET)
    # NRTR's limit is on what is left of the text, CTC's on all of it.
    assert encoder("é" * 20 + "ab").length == 2
    with pytest.raises(Rejected, match="the label has 26 characters, max_text_length is 25"):
        encoder("é" * 24 + "ab")
    with pytest.raises(Rejected, match="24 characters, NRTR takes at most 23 at max_text_length 25"):
        encoder("a" * 24)


@pytest.mark.parametrize(("text", "reason"), [("", Reason.EMPTY), ("é€", Reason.OUTSIDE)])
def test_nothing_to_learn(text: str, reason: Reason) -> None:
    with pytest.raises(Rejected) as error:
        LabelEncoder(CHARSET)(text)
    assert error.value.reason is reason
