"""Suppression of boxes as ONNX's own operators, beside ours and so Paddle's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import program_cases
import pytest
import torch
from torch import Tensor, nn

from paddle2torch.converters.programs.convert import convert_program
from paddle2torch.exporting.onnx import onnx_bytes
from paddle2torch.exporting.suppression import check_suppression, translations
from paddle2torch.model_zoo.errors import ConversionError
from paddle2torch.model_zoo.programs.graph import Graph
from paddle2torch.model_zoo.programs.operations.suppression import matrix_nms, multiclass_nms3
from paddle2torch.model_zoo.programs.rows import sorted_rows

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "best of each class, best of all": (
        multiclass_nms3,
        {"score_threshold": 0.3, "nms_top_k": 20, "keep_top_k": 15, "nms_threshold": 0.4},
    ),
    "no limits, sides in pixels": (
        multiclass_nms3,
        {"score_threshold": 0.5, "nms_top_k": -1, "keep_top_k": -1, "nms_threshold": 0.6, "background_label": -1}
        | {"normalized": False},
    ),
    "matrix": (matrix_nms, {"score_threshold": 0.3, "nms_top_k": 20, "keep_top_k": 15, "post_threshold": 0.2}),
    "matrix, gaussian": (
        matrix_nms,
        {"score_threshold": 0.3, "nms_top_k": -1, "keep_top_k": -1, "post_threshold": 0.1, "use_gaussian": True}
        | {"background_label": -1, "normalized": False},
    ),
}


class Suppression(nn.Module):
    """One operation with its settings."""

    def __init__(self, function: Callable[..., Any], settings: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, boxes: Tensor, scores: Tensor) -> Any:
        return self.function(boxes, scores, **self.settings)


def boxes_and_scores(images: int, count: int, classes: int, lift: float = 0.0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(count)
    corners, sides = random.uniform(0, 60, (images, count, 2)), random.uniform(4, 40, (images, count, 2))
    boxes = np.concatenate([corners, corners + sides], 2)
    scores = random.uniform(0, 1, (images, classes, count)) + lift
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(scores.astype(np.float32))


SLOW = {"no limits, sides in pixels", "matrix, gaussian"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_rows_are_ours_for_any_number_of_images_and_boxes(name: str, onnx_packages: None) -> None:
    function, settings = CASES[name]
    free = torch.export.Dim.AUTO
    graph = torch.export.export(
        Suppression(function, settings),
        boxes_and_scores(2, 40, 3),
        dynamic_shapes=({0: free, 1: free}, {0: free, 2: free}),
        strict=False,
    )
    content = onnx_bytes(graph, {}, custom_translation_table=translations())
    session = importlib.import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = [item.name for item in session.get_inputs()]
    rows = []
    for images, count, lift in ((2, 40, 0.0), (1, 9, 0.0), (3, 70, 0.0), (2, 40, -1.0)):
        given = boxes_and_scores(images, count, 3, lift)
        expected = [item.numpy() for item in function(*given, **settings)]
        found = session.run(None, dict(zip(inputs, (item.numpy() for item in given), strict=True)))
        assert [(item.shape, item.dtype) for item in found] == [(item.shape, item.dtype) for item in expected]
        np.testing.assert_allclose(*sorted_rows(found[0], expected[0]), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found[2], expected[2])
        assert {*found[1].flatten().tolist()} == {*expected[1].flatten().tolist()}
        rows.append(len(expected[0]))
    assert rows[0] > 0
    assert rows[-1] == 0  # no score is above the threshold


def suppression() -> Graph:
    return convert_program(program_cases.GOLDENS / "boxes_matrix_nms", name="case").graph


@pytest.mark.parametrize(
    ("attributes", "boxes", "scores", "reason"),
    [
        ({"nms_eta": 0.9, "nms_threshold": 0.7}, (1, 8, 4), (1, 2, 8), "shrinks"),
        ({}, (1, 8, 8), (1, 2, 8), "polygons"),
        ({}, (8, 2, 4), (8, 2), "boxes of its own"),
        ({"nms_eta": 1.0}, (1, 8, 4), (1, 2, 8), ""),
    ],
)
def test_what_has_no_form_is_refused_by_name(
    attributes: dict[str, Any], boxes: tuple[int, ...], scores: tuple[int, ...], reason: str
) -> None:
    graph = suppression()
    node = next(item for item in graph.walk() if item.kind == "matrix_nms")
    changed = replace(node, kind="multiclass_nms3", attributes=attributes)
    types = dict(graph.types)
    for name, shape in zip(node.inputs, (boxes, scores), strict=False):
        assert isinstance(name, str)
        types[name] = replace(types[name], shape=shape)
    block = replace(graph.block, nodes=tuple(changed if item is node else item for item in graph.block.nodes))
    graph = replace(graph, block=block, types=types)
    if not reason:
        check_suppression(graph)
        return
    with pytest.raises(ConversionError, match=f"multiclass_nms3: .* no form in ONNX .*{reason}"):
        check_suppression(graph)


def test_no_rows_at_all_can_be_compared() -> None:
    nothing = np.zeros((0, 6), np.float32)
    for found in sorted_rows(nothing, nothing):
        assert found.shape == (0, 6)
