"""Texts to the class indices that CTC, NRTR and SAR are trained on, as PaddleOCR's label encoders make them.

Facts: `ppocr/data/imaug/label_ops.py` (BaseRecLabelEncode, CTCLabelEncode, NRTRLabelEncode, SARLabelEncode,
MultiLabelEncode).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from paddle2torch.training.data.drops import Reason, Rejected

# NRTR's classes before the characters: blank (padding), unknown, start, end.
NRTR_START, NRTR_END, NRTR_FIRST = 2, 3, 4

# CTC's class 0 is the blank.
CTC_FIRST = 1

# SAR's classes behind the characters: unknown, start and end, padding.
SAR_ENDS, SAR_PADDING = 1, 2

Guide: TypeAlias = Literal["NRTR", "SAR"]
"""The head that reads beside CTC in training."""


@dataclass(frozen=True, eq=False)
class EncodedLabel:
    """A text as class indices, int64 (max_text_length,) each: `ctc` padded with 0, and the guide's own row, or None."""

    ctc: NDArray[np.int64]
    guide: NDArray[np.int64] | None
    length: int


class LabelEncoder:
    """Encodes texts with a character set.

    `charset` has the characters of CTC's classes 1, 2, …, as in `ModelConfig.charset`; of one that is there twice
    (the space of `en_dict.txt`) the last class is taken. `max_text_length` is the length of the rows. With a `guide`,
    NRTR or SAR, a text needs two places more, for its start and its end, and PaddleOCR asks for less than that: 23
    characters at 25. `lower` makes capital letters small first.
    """

    def __init__(
        self,
        charset: Sequence[str],
        max_text_length: int = 25,
        *,
        guide: Guide | None = "NRTR",
        lower: bool = False,
    ) -> None:
        self.max_text_length = max_text_length
        self.guide = guide
        self.lower = lower
        self._count = len(charset)
        self._places = {character: place for place, character in enumerate(charset)}

    @property
    def limit(self) -> int:
        """The most characters of the set that a text may have."""
        return self.max_text_length - 2 if self.guide else self.max_text_length

    def text(self, label: str) -> str:
        """The text that a label asks for."""
        return label.lower() if self.lower else label

    def places(self, text: str) -> list[int]:
        """The indices of a text's characters in the set, without those that it lacks.

        Raises `Rejected` for texts for which PaddleOCR's encoders return None.
        """
        text = self.text(text)
        if not text:
            raise Rejected(Reason.EMPTY, "the label is empty")
        # PaddleOCR counts the whole text here, with the characters that it will leave out.
        if len(text) > self.max_text_length:
            raise Rejected(
                Reason.TOO_LONG, f"the label has {len(text)} characters, max_text_length is {self.max_text_length}"
            )
        places = [self._places[character] for character in text if character in self._places]
        if not places:
            raise Rejected(Reason.OUTSIDE, f"none of the characters of {text!r} is in the set")
        if len(places) > self.limit:
            raise Rejected(
                Reason.TOO_LONG,
                f"the label has {len(places)} characters, {self.guide} takes at most {self.limit} at max_text_length "
                f"{self.max_text_length}",
            )
        return places

    def __call__(self, text: str) -> EncodedLabel:
        """Encode a text; characters that the set lacks are left out. Raises `Rejected` as `places` does."""
        places = self.places(text)
        ctc = np.zeros(self.max_text_length, dtype=np.int64)
        ctc[: len(places)] = np.array(places) + CTC_FIRST
        return EncodedLabel(ctc, self._row(places), len(places))

    def _row(self, places: Sequence[int]) -> NDArray[np.int64] | None:
        """What the guide reads: start, characters, end, padding."""
        if self.guide is None:
            return None
        if self.guide == "NRTR":
            start, first, end, padding = NRTR_START, NRTR_FIRST, NRTR_END, 0
        else:
            ends = self._count + SAR_ENDS
            start, first, end, padding = ends, 0, ends, self._count + SAR_PADDING
        row = np.full(self.max_text_length, padding, dtype=np.int64)
        row[0], row[len(places) + 1] = start, end
        row[1 : len(places) + 1] = np.array(places) + first
        return row

    def blank(self) -> EncodedLabel:
        """The label of no text, where a sample is not trained on."""
        empty = np.zeros(self.max_text_length, dtype=np.int64)
        return EncodedLabel(empty, empty if self.guide else None, 0)

    def outside(self, text: str) -> list[str]:
        """The characters of a text that the set lacks, in order."""
        return [character for character in self.text(text) if character not in self._places]
