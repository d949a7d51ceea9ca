"""Character sets: one character a line, as PaddleOCR publishes them and as users bring them.

The bundled ones are in `charsets/` beside this module, byte for byte PaddleOCR's (see the LICENSE there).
"""

from __future__ import annotations

import codecs
import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from paddle2torch.model_zoo.config import check_characters
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.files import read_bounded

CHARSETS = Path(__file__).parent / "charsets"

_ALPHABET = 22  # letters of the smallest right-to-left alphabets: Hebrew, Syriac
_SHARE = 0.1

MOST_BYTES = 4 << 20
"""Bytes of a character set; the largest official one has 0.1 MB."""


def read_charset(path: Path, what: str = "character set") -> tuple[str, ...]:
    """The characters of a file, one a line, in the order of their classes. what: for messages, if it is another list.

    Only the line's end is removed, and a byte order mark before the first (Windows' editors write one): the last line
    of `en_dict.txt` is a space, and stripping it moves every class after it by one. An empty line is kept, as
    PaddleOCR makes a class of it. The space that `use_space_char` appends is not in the file and not added here.

    Raises `ConfigError` where there is no such file, `FileFormatError` where it is not UTF-8, has no line, or has
    control characters or whole texts in its lines.
    """
    path = Path(path)
    try:
        content = read_bounded(path, MOST_BYTES, what)
    except FileFormatError:
        raise
    except Paddle2TorchError as error:
        raise ConfigError(f"the {what} {error}") from None
    try:
        # Split at \n alone, as PaddleOCR does: str.splitlines also splits at characters that sets contain.
        lines = content.removeprefix(codecs.BOM_UTF8).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}: byte {error.start} is not UTF-8; a {what} is a UTF-8 text file with one of them a line"
        ) from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise FileFormatError(f"{path}: the {what} is empty; it needs one of them a line")
    characters = tuple(line.rstrip("\r") for line in lines)
    try:
        check_characters(characters, str(path))
    except ConfigError as error:
        raise FileFormatError(f"{error}; a {what} has one of them a line") from None
    return characters


def charset_path(name: str) -> Path:
    """The path of a bundled character set, by its file name (`en_dict.txt`, or `en_dict`); unknown: `ConfigError`."""
    bundled = {path.name: path for path in CHARSETS.glob("*.txt")}
    found = bundled.get(name) or bundled.get(f"{name}.txt")
    if found is None:
        near = difflib.get_close_matches(name, bundled, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted(bundled))}"
        raise ConfigError(f"no character set {name!r} is bundled; {hint}")
    return found


def right_to_left_letters(characters: Sequence[str]) -> tuple[int, int]:
    """How many characters are letters of scripts written from right to left (Unicode's bidirectional classes R and AL),
    and how many are letters at all.
    """
    letters = [character for character in characters if character and unicodedata.category(character[0])[0] == "L"]
    return sum(unicodedata.bidirectional(letter[0]) in ("R", "AL") for letter in letters), len(letters)


def is_right_to_left(characters: Sequence[str]) -> bool:
    """Whether a recogniser of this set reads a right-to-left script: one whole alphabet, or a tenth of all letters.

    Single such letters are in sets of symbols (`ppocrv4_doc_dict.txt` has 12), which PaddleOCR does not turn round.
    """
    right, letters = right_to_left_letters(characters)
    return right >= _ALPHABET or (right > 0 and right >= _SHARE * letters)
