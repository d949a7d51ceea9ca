"""What networks are made of: each architecture file says of its backbone, neck or head what there is to know, once.

>>> register(Part("backbone", "PPLCNetV3", PPLCNetV3, signatures=("backbone.blocks2.0.dw_conv.conv_kxk.",)))

A new file in this folder is found by itself; from elsewhere, importing a module that calls `register` is enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import nn

    from paddle2torch.model_zoo.config import Task

Role: TypeAlias = Literal["transform", "backbone", "neck", "head"]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Sizes of a checkpoint's tensors, by Paddle's names."""
Options: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class SeenLayer:
    """A layer of an exported program: its path in the network, its operation's attributes, and what follows it.

    `behind` are kind and attributes of the operations between this layer and the next one; attributes have Paddle's
    names ("strides", "pooling_type", "kernel_size").
    """

    path: str
    attributes: Mapping[str, Any]
    behind: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class Seen:
    """What an exported program says besides the sizes of its tensors: its layers, in order of execution."""

    layers: tuple[SeenLayer, ...]

    def strides(self, path: str) -> tuple[int, int] | None:
        """(height, width) of the convolution at `path`; None where the program does not say them."""
        found = next((layer.attributes.get("strides") for layer in self.layers if layer.path == path), None)
        return (found[0], found[1]) if isinstance(found, tuple) and len(found) == 2 else None

    def behind(self, prefix: str, *kinds: str) -> Mapping[str, Any] | None:
        """Attributes of the first operation of these kinds behind the last layer whose path begins with `prefix`."""
        last = next((layer for layer in reversed(self.layers) if layer.path.startswith(prefix)), None)
        return next((given for kind, given in last.behind if kind in kinds), None) if last is not None else None


def all_seen(seen: Seen, options: Options) -> Options:
    """For parts all of whose options show in the sizes of tensors."""
    return options


def no_options(shapes: Shapes, hint: Mapping[str, Any]) -> Options:
    """For parts whose options leave no trace in tensors: those of the hint."""
    return dict(hint)


@dataclass(frozen=True)
class Part:
    """A transform, backbone, neck or head that networks can be built of.

    Attributes:
        name: as settings name it; Paddle's own name of the class where it has one meaning only.
        build: the class; takes the options of settings as keywords, and `fused` where it has such a form.
        signatures: prefixes of tensor names; a checkpoint that has one of them has this part.
        rank: where signatures of several parts fit, the least rank is right.
        read_options: the options of a checkpoint, from its tensors' shapes and from what settings say besides. Raises
            KeyError, IndexError or ValueError for tensors that are not those of this part.
        variants: options that make other layers of it, and that sizes do not show: tried for exported programs.
        read_seen: those options after what an exported program says besides shapes: strides, poolings, factors.
        ignored: options that official settings give and the class takes no notice of.
        fixed: options that official settings give and that have this value here in any case.
        task: of a head, what its network is for.
        behind_neck: of a head, whether it reads what a neck makes of the backbone's output.
        one_size: networks with it are trained and exported for lines of one size.
    """

    role: Role
    name: str
    build: Callable[..., nn.Module]
    signatures: tuple[str, ...]
    rank: int = 0
    read_options: Callable[[Shapes, Mapping[str, Any]], Options] = no_options
    variants: tuple[Mapping[str, Any], ...] = ()
    read_seen: Callable[[Seen, Options], Options] = all_seen
    ignored: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    behind_neck: bool = False
    one_size: bool = False


_PARTS: dict[tuple[Role, str], Part] = {}


def register(part: Part) -> None:
    """Make `part` known to settings and to the conversion of checkpoints."""
    known = _PARTS.get((part.role, part.name))
    if known is not None and known.build.__module__ != part.build.__module__:
        raise ValueError(f"{part.role} {part.name} is registered by {known.build.__module__} already")
    _PARTS[part.role, part.name] = part


@cache
def _load_all() -> None:
    from paddle2torch import model_zoo

    for module in iter_modules(model_zoo.__path__):
        if not module.ispkg:
            import_module(f"{model_zoo.__name__}.{module.name}")


def parts(role: Role) -> Mapping[str, Part]:
    """All parts of one role, by name."""
    _load_all()
    return {name: part for (kind, name), part in sorted(_PARTS.items()) if kind == role}


def recognise(role: Role, keys: Iterable[str]) -> Part | None:
    """The part that a checkpoint with tensors of these names has; None where none is known."""
    keys = tuple(keys)
    fitting = [part for part in parts(role).values() if any(key.startswith(part.signatures) for key in keys)]
    return min(fitting, key=lambda part: part.rank, default=None)


def count_items(shapes: Shapes, pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)`, … names begin with."""
    before, _, after = pattern.partition("{}")
    numbered = re.compile(f"{re.escape(before)}(0|[1-9][0-9]{{0,8}}){re.escape(after)}")
    found = {int(match[1]) for match in map(numbered.match, shapes) if match is not None}
    return next(count for count in range(len(found) + 1) if count not in found)


def stride_option(found: tuple[int, int], given: int | Sequence[int]) -> int | Sequence[int]:
    """A stride that a program has, as `given` writes it where it is the same."""
    same = (given, given) if isinstance(given, int) else tuple(given)
    if same == found:
        return given
    return found[0] if found[0] == found[1] else list(found)
