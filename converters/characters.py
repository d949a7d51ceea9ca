"""Which characters the classes of a recogniser are, and from which side its lines are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paddle2torch.model_zoo.charsets import CHARSETS, is_right_to_left, read_charset, right_to_left_letters
from paddle2torch.model_zoo.config import CTCDecode
from paddle2torch.model_zoo.errors import CharsetError

Direction = Literal["ltr", "rtl"]


@dataclass(frozen=True)
class Charset:
    """Characters before it is settled whether a space follows.

    `use_space_char` is what settings say, or None; the head's class count overrules settings, but not the user, who was
    `asked`.
    """

    characters: tuple[str, ...]
    use_space_char: bool | None
    source: str
    asked: bool = False


def settle_charset(
    charset: Charset | None, classes: int, name: str, network: str = "the network"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The characters of the classes 1, 2, …, with the space that PaddleOCR appends where it does; and notes.

    The head's number of `classes` decides whether a space follows, whatever settings say. Raises `CharsetError` where
    the set fits neither with a space nor without, or where the user said the other; `network` is named there.
    """
    has = f"{name}: the network is {network}, its head has {classes:,} classes"
    if charset is None:
        raise CharsetError(
            f"{has}, and nothing says for which characters: give the set it was trained with (--charset FILE, one "
            f"character a line) or its settings (--config YML){_bundled(classes)}"
        )
    count = len(charset.characters)
    space = {count + 1: False, count + 2: True}.get(classes)
    said = charset.use_space_char
    if space is None:
        # The same with a character too many or too few is most often a line of the file.
        blank = sum(not character for character in charset.characters)
        lines = f"; {blank} of its lines are empty, which PaddleOCR takes for characters" if blank else ""
        raise CharsetError(
            f"{has}, but {charset.source} has {count:,} characters: {count + 1:,} classes with the blank, "
            f"{count + 2:,} with a space after them{lines}. Give the set this model was trained with, whole "
            f"(--charset FILE){_bundled(classes)}"
        )
    if charset.asked and said is not None and said != space:
        raise CharsetError(
            f"{has}: those of the blank and the {count:,} characters of {charset.source} "
            + (
                "and a space after them: say --use-space-char"
                if space
                else "without a space after them: say --no-use-space-char"
            )
        )
    notes: tuple[str, ...] = ()
    if said != space:
        follows = "a space follows" if space else "no space follows"
        notes = (f"{follows} the {count:,} characters of {charset.source}: the head has {classes:,} classes",)
    return charset.characters + ((" ",) if space else ()), notes


def _bundled(classes: int) -> str:
    """The sets that are bundled and have as many characters, in words."""
    fitting = [
        f"{path.name}{' and a space' if missing == 2 else ''}"
        for path in sorted(CHARSETS.glob("*.txt"))
        if (missing := classes - len(read_charset(path))) in (1, 2)
    ]
    return f". Bundled sets of as many: {', '.join(fitting[:4])}" if fitting else ""


def settle_direction(
    said: Direction | None, known: CTCDecode | None, charset: Sequence[str]
) -> tuple[CTCDecode, tuple[str, ...]]:
    """How lines of a recogniser with this set are read: as was `said`, else by the letters of the set; and notes.

    `known` is what a card says, which may know a set that is not bundled.
    """
    if said is not None:
        right = said == "rtl"
        if right == is_right_to_left(charset):
            return CTCDecode(right), ()
        side = "right to left" if right else "left to right"
        return CTCDecode(right), (f"lines are read from {side}, as asked for; the letters of the set say otherwise",)
    if not is_right_to_left(charset):
        return known or CTCDecode(), ()
    right_letters, letters = right_to_left_letters(charset)
    return CTCDecode(right_to_left=True), (
        f"lines are read from right to left: {right_letters:,} of the set's {letters:,} letters are of such scripts "
        f"(--direction ltr for the other)",
    )
