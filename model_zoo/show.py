"""How a value from outside is written in a message: short, on one line, without control characters."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MOST = 80
"""Characters of a value that a message shows."""
_MOST_OF_A_PATH = 300
_BITS_OF_A_NUMBER = 256
_DEPTH = 4


def show(value: Any, most: int = MOST) -> str:
    """`value` as Python would write it, cut after `most` characters with "…" at the end.

    Nothing of it is written out that is not shown: a list that holds itself a billion times costs as little as a short
    one. Control characters of texts are escaped, numbers of thousands of digits are described.
    """
    written = ""
    for piece in _pieces(value, most, 0):
        written += piece
        if len(written) > most:
            return written[:most] + "…"
    return written


def show_all(values: Iterable[Any], most: int = 8) -> str:
    """The first `most` of `values`, each as `show` writes it, and how many more there are."""
    rest = iter(values)
    shown = [show(value) for value in itertools.islice(rest, most)]
    more = sum(1 for _ in rest)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def show_text(text: str, most: int = MOST) -> str:
    """A text without quotation marks (a key, a name), otherwise as `show` writes it."""
    cut = text[:most]
    return (cut if cut.isprintable() else repr(cut)[1:-1]) + ("…" if len(text) > most else "")


def as_text(value: str) -> str:
    """`value` as it can be written: names of files may hold bytes that are not text (lone surrogates)."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def show_path(path: str | os.PathLike[str]) -> str:
    """A path as `show_text`, at more length."""
    return show_text(os.fspath(path), _MOST_OF_A_PATH)


def _pieces(value: Any, most: int, depth: int) -> Iterator[str]:
    """What `show` writes, piece by piece, each made when it is asked for."""
    if isinstance(value, (str, bytes)):
        yield repr(value[: most + 1])
    elif isinstance(value, int):
        big = value.bit_length() > _BITS_OF_A_NUMBER
        yield f"an integer of {value.bit_length():,} bits" if big else repr(value)
    elif isinstance(value, float) or value is None:
        yield repr(value)
    elif isinstance(value, Mapping):
        yield from _members(value.items(), "{}", most, depth)
    elif isinstance(value, list | set | frozenset):
        yield from _members(value, "[]" if isinstance(value, list) else "{}", most, depth)
    elif isinstance(value, tuple):
        yield from _members(value, "()", most, depth)
    else:
        yield f"a {type(value).__name__}"


def _members(members: Iterable[Any], brackets: str, most: int, depth: int) -> Iterator[str]:
    yield brackets[0]
    if depth == _DEPTH:
        yield "…"
    else:
        pairs = brackets == "{}" and not isinstance(members, set | frozenset)
        for index, member in enumerate(members):
            if index:
                yield ", "
            if pairs:
                yield from _pieces(member[0], most, depth + 1)
                yield ": "
                yield from _pieces(member[1], most, depth + 1)
            else:
                yield from _pieces(member, most, depth + 1)
    yield brackets[1]
