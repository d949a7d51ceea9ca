"""Lines of right-to-left scripts: from the order on the page to the order in which they are read and stored.

A recogniser sees a line from the left. Text is stored in logical order, and the Unicode bidirectional algorithm (UAX 9,
here python-bidi) says how it is displayed: letters from the right, numbers and words of other scripts inside them from
the left. The order found here is one that the algorithm displays as the network saw it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from bidi import get_display
from bidi.mirror import MIRRORED

_RIGHT = ("R", "AL")
_BRACKETS = {"Ps": 1, "Pi": 1, "Pe": -1, "Pf": -1}  # general categories: opening and closing

# What the algorithm takes out of a text; it is kept with the character before it.
_TAKEN_OUT = ("BN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_LIKE_THE_ONE_BEFORE = "\u0300"

_LETTERS, _LETTERS_COUNT = 0x4E00, 20_000  # characters of class L, one for each place of a line

# Classes as letters: (L)atin and the like, (R)ight-to-left, (A)rabic and European (N)umbers, separators (S), currency
# and percent signs (T), white space, (O)thers; and brackets.
_SHORT = {"L": "L", "R": "R", "AL": "R", "AN": "A", "EN": "N", "ES": "S", "CS": "S", "ET": "T", "WS": " ", "NSM": "M"}
_NUMBER = "T*N(?:S?N)*T*"
_IN_WORD = re.compile(f"L[^R A]*?({_NUMBER})")
_IN_BRACKETS = re.compile(r"L ?(\([^RA()]*L[^RA()]*\))")
_PHRASE = re.compile(f"(?:^|[ R])L[LMSO]* ({_NUMBER})(?=[ R]|$)")


def logical_order(characters: Sequence[str]) -> list[tuple[int, str]]:
    """The characters of a line in the order in which they are read: each one's place in `characters`, and itself.

    characters: as seen from the left. A line without a letter or digit of a right-to-left script stays as it is. A
    number or bracket to the right of a Latin word is read after it ("iPhone 12", "f(x)"), though the algorithm displays
    the other order alike. Brackets are turned round where that closes more of them: displayed from right to left they
    are mirrored, but PaddleOCR's recognisers are trained on labels in which they are not.
    """
    classes = [unicodedata.bidirectional(character[0]) for character in characters]
    if not any(name in _RIGHT or name == "AN" for name in classes):
        return list(enumerate(characters))
    mirrored = [MIRRORED.get(character, character) if _side(character) else character for character in characters]
    return min((_order(characters, seen, classes) for seen in (characters, mirrored)), key=_unmatched)


def is_right_to_left(text: str) -> bool:
    """Whether a line has a letter of a right-to-left script."""
    return any(unicodedata.bidirectional(character) in _RIGHT for character in text)


def as_displayed(text: str, direction: Literal["R"] | None = "R") -> str:
    """A word of a right-to-left line as it is seen from the left; other words stay as they are.

    direction: None for a whole line, which goes the way of its first letter.
    """
    return str(get_display(text, base_dir=direction)) if is_right_to_left(text) else text


def _order(characters: Sequence[str], seen: Sequence[str], classes: Sequence[str]) -> list[tuple[int, str]]:
    """The order where the brackets between right-to-left letters are those of `seen`."""
    # Read from the right, all is in order but the runs from the left, which the algorithm turns round.
    backwards = "".join(reversed(_stand_ins(seen, classes)))
    forwards = str(get_display(backwards, base_dir="R"))[::-1]
    last = len(characters) - 1
    order = []
    for run in _turned_runs(backwards, forwards):
        from_the_left = any(unicodedata.bidirectional(backwards[place]) in ("L", "EN", "AN") for place in run)
        order += [(last - place, (characters if from_the_left else seen)[last - place]) for place in run]
    return order


def _stand_ins(characters: Sequence[str], classes: Sequence[str]) -> list[str]:
    """One code point for each character, with which the algorithm returns the right order."""
    result = [character[0] for character in characters]
    like_letters = {place for place, name in enumerate(classes) if name == "L"}
    # A letter for each class, so that words and numbers can be looked for.
    sides = {1: "(", -1: ")"}
    short = "".join(
        sides.get(_side(character), _SHORT.get(name, "O")) for character, name in zip(characters, classes, strict=True)
    )
    for found in (found for pattern in (_IN_WORD, _PHRASE, _IN_BRACKETS) for found in pattern.finditer(short)):
        like_letters.update(range(*found.span(1)))
    for place, name in enumerate(classes):
        if place in like_letters:
            result[place] = chr(_LETTERS + place % _LETTERS_COUNT)
        elif name in _TAKEN_OUT:
            result[place] = _LIKE_THE_ONE_BEFORE
        elif name in ("B", "S"):
            result[place] = " "
    return result


def _turned_runs(text: str, shown: str) -> list[range]:
    """The runs that have to be turned round to make `shown` of `text`, and what is between them: places in `text`.

    Where several divisions do it, the longest runs are taken.
    """
    size = len(text)
    # From each place on: where the run that starts there ends, None where no runs lead to the end of the text.
    ends: list[int | None] = [None] * size + [size]
    right = size  # where the next letter from the right is, which no run goes beyond
    for start in range(size - 1, -1, -1):
        right = start if unicodedata.bidirectional(text[start]) in _RIGHT else right
        for end in range(max(right, start + 1), start, -1):
            if ends[end] is not None and shown[start:end] == text[start:end][::-1]:
                ends[start] = end
                break
    runs = []
    start = 0
    while start < size:
        end = ends[start] or start + 1
        runs.append(range(end - 1, start - 1, -1))
        start = end
    return runs


def _side(character: str) -> int:
    """1 for what opens, -1 for what closes: brackets and quotation marks that are mirrored."""
    return _BRACKETS.get(unicodedata.category(character[0]), 0) if character in MIRRORED else 0


def _unmatched(order: Sequence[tuple[int, str]]) -> int:
    """How many brackets are opened and not closed, or closed and not opened."""
    depth = closed = 0
    for _, character in order:
        side = _side(character)
        closed += side < 0 and depth == 0
        depth = max(depth + side, 0)
    return depth + closed
