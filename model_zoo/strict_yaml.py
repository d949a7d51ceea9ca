"""YAML from outside, read within bounds: the one loader for every settings file.

Before anything is built the file's events are counted, each alias as often as it would be written out: a few hundred
bytes of aliases can mean billions of values. The values are those of PyYAML's safe loader (YAML 1.1), with two
exceptions: `1:30` is text and no number to the base 60, `2001-01-01` is text and no date, and so are numbers of more
digits than any setting has.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import Any

import yaml

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.show import show_path, show_text

MOST_BYTES = 8 << 20
"""The `inference.yml` with the largest official character set has 0.3 MB."""
MOST_VALUES = 100_000
"""Aliases written out. That file has 20,000: a character is a value."""
MOST_LEVELS = 50

_MOST_DIRECTIVES = 100
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
# 64 bits have 20 digits: of these not enough fall into one place of a dictionary to slow it down.
_INTEGER = re.compile(r"(?=.{1,20}\Z)[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)\Z")
_REAL = re.compile(
    r"(?=.{1,64}\Z)(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_TAGS = tuple(f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))


class _SettingsLoader(_Loader):
    """PyYAML's safe loader with fewer types."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (tag, {f"{_TAG}int": _INTEGER, f"{_TAG}float": _REAL}.get(tag, pattern))
            for tag, pattern in resolvers
            if tag != f"{_TAG}timestamp"
        ]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: constructor for tag, constructor in _Loader.yaml_constructors.items() if tag in (*_TAGS, None)
    }


def _number(loader: Any, node: Any) -> int | float:
    """A number, also one that its tag says to be one."""
    whole = node.tag.endswith("int")
    if not isinstance(node, yaml.ScalarNode) or not (_INTEGER if whole else _REAL).match(node.value):
        raise yaml.constructor.ConstructorError(None, None, "what is tagged as a number is none", node.start_mark)
    value: int | float = (loader.construct_yaml_int if whole else loader.construct_yaml_float)(node)
    return value


_SettingsLoader.add_constructor(f"{_TAG}int", _number)
_SettingsLoader.add_constructor(f"{_TAG}float", _number)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The sections of the settings file at `path`: plain Python values, text as the names of the sections.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it is larger, deeper or of more
    values than any settings file, is not YAML, or holds no sections.
    """
    content = read_bounded(path, MOST_BYTES, "settings file")
    where = show_path(path)
    try:
        text = content.decode("utf-16" if content[:2] in _UTF16 else "utf-8-sig")
        if text.count("%TAG") > _MOST_DIRECTIVES:  # the parser compares each with all
            raise FileFormatError(f"{where} has more %TAG directives than any settings file")
        _count(text, where)
        data = yaml.load(text, Loader=_SettingsLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{where} is not YAML: {_reason(error)}") from None
    if not isinstance(data, dict):
        raise FileFormatError(f"{where} is not a settings file: it holds no sections")
    if not all(isinstance(name, str) for name in data):
        raise FileFormatError(f"{where} is not a settings file: its sections have no names")
    return data


def _reason(error: Exception) -> str:
    return show_text(" ".join(str(error).split()), 300)


def _count(text: str, where: str) -> None:
    """Raise `FileFormatError` where the document is too deep or means too many values."""
    total = documents = 0
    open_since: list[tuple[str | None, int]] = []  # of each collection that is open: its anchor, the total before it
    values: dict[str, int] = {}  # of each anchor that is complete
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            total += values.get(str(event.anchor), MOST_VALUES)  # an alias of what contains it never ends
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                values[event.anchor] = 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise FileFormatError(f"{where} is not a settings file: it holds several documents")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_since.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_since.pop()
            if anchor is not None:
                values[anchor] = total - before
        if total >= MOST_VALUES:
            raise FileFormatError(f"{where} stands for {MOST_VALUES:,} values and more: no settings file does")
        if len(open_since) > MOST_LEVELS:
            raise FileFormatError(f"{where} is nested more than {MOST_LEVELS} levels deep: no settings file is")
