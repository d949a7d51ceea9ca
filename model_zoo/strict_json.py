"""Frozen dataclasses to JSON and back, strictly: an unknown, missing or mistyped key raises and names its path.

Files come from outside: they are read whole or not at all, numbers have at most 64 bits and are finite, and what is
said of a value is short. How large a number may be says the class that holds it (`within`).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.files import read_bounded
from paddle2torch.model_zoo.show import MOST, show, show_path, show_text

T = TypeVar("T")

MOST_BYTES = 4 << 20
"""Bytes of a settings file. `model_config.json` with the largest official character set has 0.2 MB."""
_BITS = 64
_DIGITS = 20  # of the largest number of 64 bits, or its sign and one less
_LEVELS = 20


def unknown_key(key: str, known: typing.Iterable[str], where: str) -> ConfigError:
    """The error for an unknown key, with the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(key[:MOST], known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
    return ConfigError(f"{where}: unknown key {show(key)}; {hint}")


def read_json(path: str | os.PathLike[str], what: str = "settings file", at_most: int = MOST_BYTES) -> Any:
    """The JSON in the file at `path`, which is called `what` in messages.

    Raises `Paddle2TorchError` where the file cannot be opened, `FileFormatError` where it has more than `at_most`
    bytes, `ConfigError` where it is not JSON.
    """
    content = read_bounded(path, at_most, what)
    try:
        return decode_json(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{show_path(path)} is not JSON: {show_text(str(error), 200)}") from None


def decode_json(text: str) -> Any:
    """The value of a JSON text; raises `ValueError` or `RecursionError` where it is not JSON, or has a number beyond 64
    bits or double precision.
    """
    return json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_no_number)


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {show_text(digits, 40)} is too large")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def within(settings: Any, **limits: tuple[float, float]) -> None:
    """Raise `ConfigError` unless the numbers of the dataclass `settings` are within their limits, both included.

    `limits` by name of the field. A field that is None is left out, one that is a tuple (of tuples) holds numbers.
    """
    for name, (low, high) in limits.items():
        _check_within(name, getattr(settings, name), low, high)


def _limit(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _check_within(name: str, value: Any, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, tuple | list):
        for item in value:
            _check_within(name, item, low, high)
    elif isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name} is {show(value)}: it must be a number from {_limit(low)} to {_limit(high)}")


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from decoded JSON; `where` (a file name) leads every error message."""
    value: T = _convert(cls, data, where)
    return value


def check_type(kind: Any, value: Any, where: str) -> None:
    """Raise `ConfigError`, led by `where`, unless `value` is of the type `kind`: an annotation of a constructor."""
    _convert(kind, _listed(value), where)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


RARE = "rare"
"""Metadata of a field that few files have: one that holds its default is left out."""


def to_json(value: Any) -> Any:
    """Plain JSON data of a dataclass, in the order of its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        custom = getattr(value, "to_json", None)
        if custom is not None:
            return custom()
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get(RARE) and getattr(value, field.name) == field.default)
        }
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _convert(kind: Any, data: Any, where: str) -> Any:  # noqa: C901, a case for each kind of type
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        check_plain(data, where)
        return data
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, data, where)
    if origin is typing.Literal:
        # A list or an object cannot be compared with all of them, and 1 is not True.
        if not any(type(data) is type(argument) and data == argument for argument in arguments):
            raise ConfigError(f"{where}: {show(data)} is not one of {', '.join(map(repr, arguments))}")
        return data
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, data, where)
    if origin is Sequence:
        origin, arguments = tuple, (arguments[0], ...)
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{where}: expected a list, found {show(data)}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = arguments[:1] * len(data)
        if len(arguments) != len(data):
            raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(data)}")
        return tuple(_convert(a, d, f"{where}[{i}]") for i, (a, d) in enumerate(zip(arguments, data, strict=True)))
    if origin in (dict, Mapping) or kind in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected an object, found {show(data)}")
        item = arguments[1] if arguments else Any
        return {key: _convert(item, value, f"{where}.{show_text(str(key))}") for key, value in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        check_plain(data, where)
        return float(data)
    if kind is type(None) and data is None:
        return None
    if (isinstance(data, bool) and kind is not bool) or not isinstance(data, kind):
        raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {show(data)}")
    check_plain(data, where)
    return data


def check_plain(data: Any, where: str, depth: int = 0) -> None:
    """Raise `ConfigError` for a number that is not finite or has more than 64 bits, and for lists in lists in lists."""
    if isinstance(data, Mapping | list | tuple):
        if depth == _LEVELS:
            raise ConfigError(f"{where}: is nested more than {_LEVELS} levels deep")
        for item in data.values() if isinstance(data, Mapping) else data:
            check_plain(item, where, depth + 1)
    elif isinstance(data, int) and data.bit_length() > _BITS:
        raise ConfigError(f"{where}: {show(data)} is too large a number")
    elif isinstance(data, float) and not math.isfinite(data):
        raise ConfigError(f"{where}: expected a number, found {show(data)}")


def _convert_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return _convert(kinds[0], data, where)
    # Several dataclasses: the one whose fields hold all the keys. The best fit names the mistake.
    tagged = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if tagged and isinstance(data, dict):

        def misfit(kind: Any) -> tuple[int, int]:
            fields = dataclasses.fields(kind)
            names = {field.name for field in fields}
            required = {
                field.name
                for field in fields
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            }
            # A key that is unknown or missing is a mistake; a default that is left out is not.
            return len(data.keys() - names) + len(required - data.keys()), len(names - data.keys())

        return _convert(min(tagged, key=misfit), data, where)
    for kind in kinds:
        try:
            return _convert(kind, data, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where}: {show(data)} is none of {', '.join(str(kind) for kind in kinds)}")


# Resolving annotations costs more than reading the JSON does.
_hints = functools.cache(typing.get_type_hints)


def _convert_dataclass(cls: Any, data: Any, where: str) -> Any:
    custom = getattr(cls, "from_json", None)
    if custom is not None:
        return custom(data, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object with the keys of {cls.__name__}, found {show(data)}")
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise unknown_key(key if isinstance(key, str) else str(show(key)), fields, where)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(
                hints[name], data[name], f"{where}: {name}" if ":" not in where else f"{where}.{name}"
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the key {name!r} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        # What a class checks across its fields does not know the file that they came from.
        raise ConfigError(f"{where}: {error}") from None
