"""Made-up inputs of a program that its operations can take: indices within bounds, boxes with corners in order.

What an input is for is read from the graph: the operands that it reaches, directly or through operations that keep its
values. Sizes that the program leaves free are tried in an order until the program's own module runs with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.programs.config import Feed
from paddle2torch.model_zoo.programs.graph import Graph, Node
from paddle2torch.model_zoo.programs.operations import TABLE

if TYPE_CHECKING:
    from paddle2torch.model_zoo.programs.network import Program

IMAGE_SIZES = (128, 224, 320, 64, 640, 48, 512, 32)
"""Pixels of an image's free sides, in the order in which they are tried."""
OTHER_SIZES = (8, 4, 2, 1, 16)
"""The same of any other free axis."""
ELEMENTS_AT_MOST = 1 << 26
"""Of one made-up input: a shape in a file must not take the memory."""

_KEEPS = """
assign share_data cast reshape squeeze unsqueeze flatten transpose slice strided_slice expand expand_as tile stack
concat split split_with_num unbind unstack flip roll builtin.split builtin.slice repeat_interleave memcpy memcpy_h2d
memcpy_d2h print
"""
_KEEPS_VALUES = frozenset(_KEEPS.split())
"""Operations whose results hold values of their first operand and no others."""

_USES: Mapping[tuple[str, str], str] = {
    **{(kind, "index"): "index" for kind in ("gather", "index_select", "index_add", "index_fill")},
    ("take_along_axis", "indices"): "index",
    ("put_along_axis", "indices"): "index",
    ("index_sample", "index"): "index of columns",
    ("gather_nd", "index"): "index of all axes",
    ("scatter_nd_add", "index"): "index of all axes",
    ("index_put", "indices"): "index of all axes",
    ("scatter", "index"): "places",
    ("embedding", "x"): "row",
    ("one_hot", "x"): "class",
    ("multiplex", "index"): "class",
    ("sequence_mask", "x"): "length",
    ("rnn", "sequence_length"): "length",
    ("topk", "k_tensor"): "count",
    ("top_k", "k_tensor"): "count",
    **{
        (kind, "y"): "divisor" for kind in ("divide", "floor_divide", "remainder", "elementwise_mod", "elementwise_div")
    },
    **{(kind, "x"): "positive" for kind in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "lgamma")},
    **{(kind, "x"): "positive" for kind in ("gammaln", "digamma", "elementwise_pow", "pow")},
    **{(kind, "x"): "above one" for kind in ("acosh",)},
    **{(kind, "x"): "share" for kind in ("logit",)},
    ("searchsorted", "sorted_sequence"): "sorted",
    ("bucketize", "boundaries"): "sorted",
    ("segment_pool", "segment_ids"): "sorted",
    ("bincount", "x"): "class",
    ("yolo_box", "img_size"): "image size",
    ("generate_proposals", "im_shape"): "image size",
    ("generate_proposals", "anchors"): "boxes",
    ("generate_proposals", "variances"): "positive",
    ("generate_proposals", "scores"): "share",
    ("box_clip", "im_info"): "image size",
    ("box_clip", "input"): "boxes",
    ("box_coder", "prior_box"): "boxes",
    ("box_coder", "prior_box_var"): "positive",
    ("iou_similarity", "x"): "boxes",
    ("iou_similarity", "y"): "boxes",
    ("nms", "x"): "boxes",
    **{(kind, "bboxes"): "boxes" for kind in ("multiclass_nms3", "matrix_nms")},
    **{(kind, "scores"): "share" for kind in ("multiclass_nms3", "matrix_nms")},
    **{(kind, "boxes"): "boxes" for kind in ("roi_align", "roi_pool")},
    **{(kind, "boxes_num"): "counts of boxes" for kind in ("roi_align", "roi_pool")},
    ("distribute_fpn_proposals", "fpn_rois"): "boxes",
    ("distribute_fpn_proposals", "rois_num"): "counts of boxes",
    ("collect_fpn_proposals", "multi_level_rois"): "boxes",
}
"""What an operand must be: by kind of operation and the operand's name in the table."""

_NAMES: Mapping[str, str] = {
    "im_shape": "image size",
    "im_size": "image size",
    "img_size": "image size",
    "origin_shape": "image size",
    "scale_factor": "ones",
}
"""PaddleDetection's names of what goes with an image."""


_REALS: Mapping[str, tuple[float, float]] = {
    "positive": (0.1, 2.0),
    "divisor": (0.1, 2.0),
    "above one": (1.1, 3.0),
    "share": (0.01, 0.99),
}
"""Between which bounds reals of a role are; others are between -1 and 1."""


@dataclass
class _Use:
    """What an input is for: roles, and for an index the least size of an axis that it points into."""

    roles: set[str] = field(default_factory=set)
    bound: int | None = None

    def limit(self, size: int) -> None:
        """An index must stay below `size`; an unknown one may be 1."""
        size = max(size, 1)
        self.bound = size if self.bound is None else min(self.bound, size)


@dataclass(frozen=True)
class Sizes:
    """What stands for free sizes: of the first axis, of an image's sides, of any other axis; by how much images are
    wider than high."""

    batch: int = 1
    image: int = IMAGE_SIZES[0]
    other: int = OTHER_SIZES[0]
    wider: int = 0

    def shape(self, feed: Feed) -> tuple[int, ...]:
        """The shape of an input with these sizes."""
        image = len(feed.shape) == 4
        sides = {2: self.image, 3: self.image + self.wider} if image else {}
        return tuple(
            size if size >= 0 else self.batch if axis == 0 else sides.get(axis, self.other)
            for axis, size in enumerate(feed.shape)
        )


def example_inputs(program: Program) -> dict[str, np.ndarray]:
    """Made-up inputs by name, the same ones in every run, with which the module of the program runs.

    Raises `ConfigError` for a type of input that numpy does not have. Where the module runs with none of the sizes that
    are tried, the inputs are those of the first, and whoever runs the program sees its own error.
    """
    uses = _uses(program.program)
    return _made_up(program, _running_sizes(program, uses), uses)


def running_sizes(program: Program) -> Sizes:
    """The first sizes with which the module of the program runs; those that are tried first where it runs with none."""
    return _running_sizes(program, _uses(program.program))


def made_up(program: Program, sizes: Sizes) -> dict[str, np.ndarray]:
    """Made-up inputs by name, of these sizes."""
    return _made_up(program, sizes, _uses(program.program))


def _running_sizes(program: Program, uses: Mapping[str, _Use]) -> Sizes:
    tried = list(_candidates(program))
    return next((sizes for sizes in tried if runs(program, _made_up(program, sizes, uses))), tried[0])


def _made_up(program: Program, sizes: Sizes, uses: Mapping[str, _Use]) -> dict[str, np.ndarray]:
    feeds = program.config.feeds
    sides = next((sizes.shape(feed)[2:] for feed in feeds if len(feed.shape) == 4), (sizes.image, sizes.image))
    boxes = next((sizes.shape(feed)[0] for feed in feeds if "boxes" in uses[feed.name].roles and feed.shape), 1)
    return {feed.name: _values(feed, sizes.shape(feed), uses[feed.name], place, sides, boxes)
            for place, feed in enumerate(feeds)}  # fmt: skip


def _candidates(program: Program) -> Iterator[Sizes]:
    """Sizes to try; one free size changes at a time."""
    feeds = program.config.feeds
    free = [feed for feed in feeds if -1 in feed.shape]
    # Where one input has a fixed first axis, it may be the batch of the others.
    fixed_batches = sorted({feed.shape[0] for feed in feeds if feed.shape and 1 < feed.shape[0] <= 8})
    if free and len(feeds) > 1:
        yield from (Sizes(batch=batch) for batch in fixed_batches)
    yield Sizes()
    if not free:
        return
    if any(-1 in feed.shape[2:] for feed in free if len(feed.shape) == 4):
        yield from (Sizes(image=size) for size in IMAGE_SIZES[1:])
    if any(-1 in (feed.shape[1:2] if len(feed.shape) == 4 else feed.shape[1:]) for feed in free):
        fixed = {size for feed in feeds for size in feed.shape[1:] if 0 < size <= 4096}
        yield from (Sizes(other=size) for size in (*OTHER_SIZES[1:], *sorted(fixed)))
    yield from (Sizes(batch=batch) for batch in (2, 3, 4, 8))
    lengths = sorted({feed.shape[0] for feed in feeds if feed.shape and 8 < feed.shape[0] <= 4096})
    yield from (Sizes(batch=length) for length in lengths)


def runs(program: Program, inputs: Mapping[str, np.ndarray]) -> bool:
    """Whether the module of the program computes something of these inputs."""
    try:
        dtype = next((p.dtype for p in program.parameters() if p.is_floating_point()), torch.float32)
        device = next((p.device for p in program.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            program(*(cast_input(torch.from_numpy(array), dtype).to(device) for array in inputs.values()))
    except Exception:  # what does not fit may be said by any operation, in any words
        return False
    return True


def cast_input(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An input as a module takes it that computes in `dtype` where its program says float32."""
    return x.to(dtype) if x.dtype == torch.float32 else x


def _values(
    feed: Feed, shape: tuple[int, ...], use: _Use, place: int, sides: tuple[int, ...], boxes: int
) -> np.ndarray:
    if math.prod(shape) > ELEMENTS_AT_MOST:
        raise ConfigError(f"input {feed.name!r:.80} of shape {list(shape)} is too large for values to be made up")
    if feed.dtype == "bfloat16":
        raise ConfigError(f"input {feed.name!r:.80} is bfloat16, which numpy does not have: no values can be made up")
    random = np.random.default_rng([place, *shape])
    roles = use.roles | ({_NAMES[feed.name]} if feed.name in _NAMES else set())
    integral = "int" in feed.dtype
    if "ones" in roles:
        return np.ones(shape, feed.dtype)
    if "image size" in roles:
        return np.resize(np.array([*sides, 1] if shape[-1:] == (3,) else sides), shape).astype(feed.dtype)
    if feed.dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if "counts of boxes" in roles:
        counts = np.full(shape, boxes // max(shape[0], 1) if shape else boxes)
        if counts.size:
            counts.flat[-1] += boxes - counts.sum()
        return counts.astype(feed.dtype)
    if "boxes" in roles and shape[-1:] == (4,):
        corners = np.sort(random.uniform(0, max(min(sides) - 1, 2), (*shape[:-1], 2, 2)), axis=-2)
        corners[..., 1, :] += 1.0
        return corners.reshape(shape).astype(feed.dtype)
    if "places" in roles and use.bound is not None and len(shape) >= 1 and shape[0] <= use.bound:
        # A place that is written twice may get either value.
        return np.resize(random.permutation(use.bound)[: shape[0]], shape).astype(feed.dtype)
    values: np.ndarray
    if integral:
        least = 1 if roles & {"length", "count", "divisor"} else 0
        most = 4 if use.bound is None else min(use.bound + least, 1000)
        values = random.integers(least, max(most, least + 1), shape)
    else:
        low, high = next((limits for role, limits in _REALS.items() if role in roles), (-1.0, 1.0))
        values = random.uniform(low, high, shape)
    if "sorted" in roles and shape:
        values = np.sort(values, axis=-1)
    return values.astype(feed.dtype)


def _uses(graph: Graph) -> dict[str, _Use]:
    """What each feed is for, by the name for the caller."""
    found = {name: _Use() for name, _ in graph.feeds}
    origins: dict[str, set[str]] = {value: {name} for name, value in graph.feeds}
    for node in graph.walk():
        definition = TABLE.get(node.kind)
        names = () if definition is None else definition.operands
        for place, operand in enumerate(node.inputs):
            for value in (operand,) if isinstance(operand, str) else operand or ():
                for feed in origins.get(value, ()):
                    if place < len(names):
                        _note(found[feed], node, names[place], graph)
        if node.kind in _KEEPS_VALUES and node.inputs:
            first = node.inputs[0]
            kept: set[str] = set()
            for value in (first,) if isinstance(first, str) else first or ():
                kept |= origins.get(value, set())
            if kept:
                origins.update((name, kept) for name in node.outputs if name)
    return found


def _note(use: _Use, node: Node, operand: str, graph: Graph) -> None:
    """Enter what the operand of an operation must be."""
    role = _USES.get((node.kind, operand))
    if role is None:
        return
    use.roles.add(role)
    limit = _LIMITS.get(role)
    if limit is not None:
        use.limit(limit(node, graph))


def _shape(graph: Graph, node: Node, place: int) -> tuple[int, ...]:
    operand = node.inputs[place] if place < len(node.inputs) else None
    declared = graph.types.get(operand) if isinstance(operand, str) else None
    return () if declared is None else declared.shape


def _axis_size(node: Node, graph: Graph) -> int:
    """Of the axis that an index points into; 1 where it is not known."""
    shape = _shape(graph, node, 0)
    axis: Any = node.attributes.get("axis", 0)
    if node.kind == "gather" and len(node.inputs) > 2 and node.inputs[2] is not None:
        made = next((item for item in graph.walk() if node.inputs[2] in item.outputs), None)
        axis = None if made is None else made.attributes.get("value")
    if not isinstance(axis, int | float) or not -len(shape) <= axis < len(shape):
        return min(shape, default=1)
    return shape[int(axis)]


def _sequence_size(node: Node, graph: Graph) -> int:
    most: Any = node.attributes.get("max_len", -1)
    if node.kind == "rnn":
        shape = _shape(graph, node, 0)
        most = shape[0] if shape else 1
    return most if isinstance(most, int) and most > 0 else 4


def _classes(node: Node, graph: Graph) -> int:
    if node.kind == "multiplex":
        first = node.inputs[0]
        return len(first) if isinstance(first, tuple) else 1
    if node.kind == "bincount":
        return 8
    made = next((item for item in graph.walk() if len(node.inputs) > 1 and node.inputs[1] in item.outputs), None)
    known = node.attributes.get(
        "num_classes", node.attributes.get("depth", made.attributes.get("value") if made else 4)
    )
    return int(known) if isinstance(known, int | float) and known > 0 else 1


_LIMITS: Mapping[str, Callable[[Node, Graph], int]] = {
    "index": _axis_size,
    "places": _axis_size,
    "index of columns": lambda node, graph: (*_shape(graph, node, 0), 1, 1)[1],
    "index of all axes": lambda node, graph: min(_shape(graph, node, 0), default=1),
    "row": lambda node, graph: (*_shape(graph, node, 1), 1)[0],
    "class": _classes,
    "length": _sequence_size,
    "count": lambda node, graph: min(_shape(graph, node, 0)[-1:], default=1),
}
