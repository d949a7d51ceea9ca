"""One small program type for Paddle's export formats (`.pdmodel` and PIR `inference.json`) and for ONNX.

A program is what inference needs: operations in order, which values they read and write, their attributes. The
readers (`pdmodel.py`, `pir.py`, `onnx_files`) normalise names of operations and the order of their inputs, so that
what aligns a program with a network (`align.py`) does not know which format it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Inputs in this order for each kind that takes parameters, whatever the file calls or orders them.
INPUT_ORDER: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("input", "filter"),
    "depthwise_conv2d": ("input", "filter"),
    "conv2d_transpose": ("input", "filter"),
    "deformable_conv": ("input", "offset", "filter", "mask"),
    "batch_norm": ("x", "mean", "variance", "scale", "bias"),
    "layer_norm": ("x", "scale", "bias"),
    "matmul": ("x", "y"),
    "add": ("x", "y"),
    "multiply": ("x", "y"),
}
# How many of them every program has: the scale and bias of a normalisation may be absent ("" in their place).
REQUIRED_INPUTS: Mapping[str, int] = {kind: len(names) for kind, names in INPUT_ORDER.items()} | {
    "batch_norm": 3,
    "deformable_conv": 3,
    "layer_norm": 1,
}


@dataclass(frozen=True)
class Value:
    """What an operation reads or writes.

    `name` is the variable's name in a `.pdmodel` and the decimal value id in a PIR program (a parameter has
    its Paddle name, `conv2d_0.w_0`, in both). `shape` has -1 where it depends on the input; `dtype` is numpy's
    name of it ("float32"; "bfloat16" for Paddle's BF16).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Operation:
    """One step of a program.

    `kind` is the normalised name: PIR's without its dialect and without a trailing underscore ("conv2d", "add",
    "batch_norm", "hardswish", "hardsigmoid", "swish", "matmul", "layer_norm", "softmax", "pool2d", "scale", …).
    `inputs` and `outputs` are names of values, inputs in the order of `INPUT_ORDER` where the kind is listed there
    and in the file's order elsewhere. `attributes` are plain Python values. `position` is the operation's index
    in the file's own list, by which the reference process finds it again.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    position: int


@dataclass(frozen=True)
class Program:
    """An exported inference program, without the values of its parameters.

    `parameters` in the order in which `.pdiparams` stores them (sorted by name); `feeds` and `fetches` are names
    of values: the images that go in, the results that come out.
    """

    format: Literal["legacy", "pir", "onnx"]
    operations: tuple[Operation, ...]
    values: Mapping[str, Value]
    parameters: tuple[str, ...]
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
