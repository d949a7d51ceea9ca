"""Frozen dataclasses to JSON and back, strictly: an unknown, missing or mistyped key raises and names its path."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from paddle2torch.model_zoo.errors import ConfigError

T = TypeVar("T")


def unknown_key(key: str, known: typing.Iterable[str], where: str) -> ConfigError:
    """The error for a key that nobody reads, with the nearest key that somebody does."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
    return ConfigError(f"{where}: unknown key {key!r}; {hint}")


def from_json(cls: type[T], data: Any, where: str) -> T:
    """Build the dataclass `cls` from decoded JSON; `where` (a file name) leads every error message."""
    value: T = _convert(cls, data, where)
    return value


def to_json(value: Any) -> Any:
    """Plain JSON data of a dataclass, in the order of its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        custom = getattr(value, "to_json", None)
        if custom is not None:
            return custom()
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def _convert(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, data, where)
    if origin is typing.Literal:
        if data not in arguments:
            raise ConfigError(f"{where}: {data!r} is not one of {', '.join(map(repr, arguments))}")
        return data
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{where}: expected a list, found {data!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = arguments[:1] * len(data)
        if len(arguments) != len(data):
            raise ConfigError(f"{where}: expected {len(arguments)} values, found {len(data)}")
        return tuple(_convert(a, d, f"{where}[{i}]") for i, (a, d) in enumerate(zip(arguments, data, strict=True)))
    if origin in (dict, Mapping) or kind in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected an object, found {data!r}")
        item = arguments[1] if arguments else Any
        return {key: _convert(item, value, f"{where}.{key}") for key, value in data.items()}
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is type(None) and data is None:
        return None
    if (isinstance(data, bool) and kind is not bool) or not isinstance(data, kind):
        raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {data!r}")
    return data


def _convert_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return _convert(kinds[0], data, where)
    # Several dataclasses: the one whose fields hold all the keys. The best fit names the mistake.
    tagged = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if tagged and isinstance(data, dict):

        def misfit(kind: Any) -> int:
            return len(set(data) ^ {field.name for field in dataclasses.fields(kind)})

        return _convert(min(tagged, key=misfit), data, where)
    for kind in kinds:
        try:
            return _convert(kind, data, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where}: {data!r} is none of {', '.join(str(kind) for kind in kinds)}")


# Resolving annotations costs more than reading the JSON does.
_hints = functools.cache(typing.get_type_hints)


def _convert_dataclass(cls: Any, data: Any, where: str) -> Any:
    custom = getattr(cls, "from_json", None)
    if custom is not None:
        return custom(data, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected an object with the keys of {cls.__name__}, found {data!r}")
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise unknown_key(key, fields, where)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(
                hints[name], data[name], f"{where}: {name}" if ":" not in where else f"{where}.{name}"
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the key {name!r} is missing")
    return cls(**values)
