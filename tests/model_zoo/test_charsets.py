"""Character sets are read as PaddleOCR reads them."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from material import SHARED

from paddle2torch.model_zoo.charsets import charset_path, read_charset
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError

PUBLISHED = SHARED / "charsets"


def test_the_english_set_ends_with_its_space() -> None:
    characters = read_charset(charset_path("en_dict.txt"))
    assert len(characters) == 95
    assert characters[:3] == ("0", "1", "2")
    assert characters[-3:] == (".", "/", " ")
    assert read_charset(charset_path("en_dict")) == characters


def test_the_chinese_set() -> None:
    characters = read_charset(charset_path("ppocr_keys_v1.txt"))
    assert len(characters) == 6623
    assert all(len(character) == 1 for character in characters)
    # U+3000 is a character of the set, and a space to str.strip.
    assert "\u3000" in characters
    assert (characters[0], characters[-1]) == ("'", "懮")


def test_sets_as_people_save_them(tmp_path: Path) -> None:
    """A byte order mark and Windows' line ends go; repeated, empty, combined and spaced lines are classes in Paddle."""
    path = tmp_path / "set.txt"
    path.write_bytes("\ufeffa\r\n\r\na\r\ne\u0301\r\n \r\n\ufeff\r\n".encode())
    assert read_charset(path) == ("a", "", "a", "e\u0301", " ", "\ufeff")


BUNDLED = sorted(path.name for path in PUBLISHED.glob("*.txt"))


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_set_has_one_character_a_line(name: str) -> None:
    content = (PUBLISHED / name).read_bytes()
    assert content.endswith(b"\n")
    assert not re.search(rb"\r|^\xef\xbb\xbf", content)
    characters = read_charset(charset_path(name))
    assert "" not in characters
    assert tuple(character for character in characters if len(character) > 1) == LONGER.get(name, ())
    assert len(characters) - len(set(characters)) == REPEATED.get(name, 0)


# The files are unchanged, slips included: a tab, an exclamation mark and a space too many. Flags have two code points.
LONGER = {
    "german_dict.txt": ("p\t",),
    "ppocrv4_doc_dict.txt": ("懮!", "龠 "),
    "ppocrv5_dict.txt": ("🇩🇪", "🇬🇧", "🇨🇳", "🇯🇵", "🇫🇷", "🇰🇷", "🇪🇸", "🇮🇹", "🇷🇺", "🇺🇸"),
}
REPEATED = {"ppocrv5_arabic_dict.txt": 31, "ppocrv5_latin_dict.txt": 64}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared is not here")
@pytest.mark.parametrize("name", sorted(path.name for path in PUBLISHED.glob("*.txt")))
def test_bundled_sets_are_the_published_ones(name: str) -> None:
    published = hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest()
    assert hashlib.sha256((PUBLISHED / name).read_bytes()).hexdigest() == published


@pytest.mark.parametrize(
    ("content", "characters"),
    [
        (b"a\nb\n", ("a", "b")),
        (b"a\nb", ("a", "b")),
        (b"a\r\n \r\n\t\r\n", ("a", " ", "\t")),
        (b" \n\n  \n", (" ", "", "  ")),
        ("\u2028\n\u3000\n\u200b\n".encode(), ("\u2028", "\u3000", "\u200b")),
        ("ä\nक्ष\n".encode(), ("ä", "क्ष")),
    ],
    ids=["lines", "no last newline", "windows", "spaces", "what splits lines elsewhere", "several code points"],
)
def test_only_the_ends_of_lines_are_removed(tmp_path: Path, content: bytes, characters: tuple[str, ...]) -> None:
    path = tmp_path / "set.txt"
    path.write_bytes(content)
    assert read_charset(path) == characters


def test_what_is_no_character_set(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    with pytest.raises(ConfigError, match=r"set\.txt: there is no such file"):
        read_charset(path)
    with pytest.raises(ConfigError, match="is a directory"):
        read_charset(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(FileFormatError, match="is empty"):
        read_charset(path)
    path.write_bytes(b"a\nb\n" + b"\xff\xfe")
    with pytest.raises(FileFormatError, match="byte 4 is not UTF-8"):
        read_charset(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileFormatError, match="is larger than"):
        read_charset(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_charset(tmp_path / "pipe")


@pytest.mark.parametrize("control", ["\x00", "\x07", "\x0b", "a\rb", "\x1b[2J", "\x7f", "\x85", "\x9b2J"])
def test_control_characters_are_no_characters_of_a_set(tmp_path: Path, control: str) -> None:
    path = tmp_path / "set.txt"
    path.write_text(f"a\n{control}\nb\n", encoding="utf-8", newline="")
    with pytest.raises(FileFormatError, match=r"\(number 2\) has a control character") as caught:
        read_charset(path)
    assert str(caught.value).isprintable()


def test_a_text_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("a\n" + "b" * 3_000_000, encoding="utf-8")
    with pytest.raises(FileFormatError, match="has 3,000,000 letters") as caught:
        read_charset(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["en_dic.txt", "../charsets/en_dict.txt", "en"])
def test_an_unknown_set_names_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"en_dict\.txt"):
        read_charset(charset_path(name))
