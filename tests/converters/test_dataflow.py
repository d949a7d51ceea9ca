"""Layers are told apart by what they read: files whose nodes stand in another order, and files that were rewired."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs onnx, which writes the files that are read here")

import onnx_writer  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx_mutations import template  # noqa: E402
from onnx_writer import Style, network, proto, save  # noqa: E402

from paddle2torch.converters.align import layers_of  # noqa: E402
from paddle2torch.converters.convert import Converted, convert_onnx  # noqa: E402
from paddle2torch.model_zoo.errors import ConversionError  # noqa: E402
from paddle2torch.model_zoo.network import build_model, fuse  # noqa: E402

TASKS = ("rec", "det", "cls", "sequence", "lstm")


def read(path: Path, task: str) -> Converted:
    return convert_onnx(path, template(task), name="small")


def shuffled(model: Any, seed: int) -> Any:
    """The same graph, its nodes in another order in which they can be carried out, and its constants without names."""
    draw = random.Random(seed)
    names = {tensor.name: f"c{index}" for index, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    waiting = list(model.graph.node)
    known = {"", "x", *names.values()}
    for node in waiting:
        node.input[:] = [names.get(name, name) for name in node.input]
    ordered = []
    while waiting:
        ready = [node for node in waiting if set(node.input) <= known]
        chosen = draw.choice(ready)
        waiting.remove(chosen)
        known |= set(chosen.output)
        ordered.append(chosen)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return model


def swap_inputs(model: Any, a: str, b: str) -> None:
    """Let the convolutions with these weights change their places."""
    found = {name: node for node in model.graph.node for name in node.input if name in (a, b)}
    found[a].input[0], found[b].input[0] = found[b].input[0], found[a].input[0]


def weight_of(model: Any, path: str) -> str:
    return next(t.name for t in model.graph.initializer if t.name.endswith(path.replace(".", "_") + "_weight"))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_nodes_does_not_matter(tmp_path: Path, task: str) -> None:
    expected = fuse(network(task)).state_dict()
    content = proto(task, Style(opset=17)).SerializeToString()
    for seed in range(5):
        path = save(tmp_path / "a.onnx", shuffled(onnx.ModelProto.FromString(content), seed))
        state = read(path, task).state
        wrong = [key for key, tensor in expected.items() if not torch.equal(state[key], tensor)]
        assert not wrong, (seed, wrong)


def test_every_layer_reads_from_layers_before_it_or_from_the_image() -> None:
    for task in TASKS:
        layers = layers_of(fuse(network(task))).layers
        for place, layer in enumerate(layers):
            assert layer.reads, layer.path
            assert all(before < place for before, _ in layer.reads), layer.path


def test_equal_layers_that_changed_places_are_refused(tmp_path: Path) -> None:
    """Two convolutions of the detector's neck have one shape: only what they read tells them apart."""
    model = proto("det", Style(opset=17))
    a, b = (weight_of(model, f"neck.inp_conv.{level}.in_conv") for level in (0, 1))
    shapes = {tuple(t.dims) for t in model.graph.initializer if t.name in (a, b)}
    assert len(shapes) == 1
    swap_inputs(model, a, b)
    # It is told where what they give is put together.
    message = r"head\.binarize\.conv1 \(conv\): of its sizes .* reads what neck\.inp_conv\.3"
    with pytest.raises(ConversionError, match=message):
        read(save(tmp_path / "a.onnx", shuffled(model, 0)), "det")


def test_a_concatenation_in_another_order_is_refused(tmp_path: Path) -> None:
    model = proto("det", Style(opset=17))
    join = next(node for node in model.graph.node if node.op_type == "Concat")
    join.input[0], join.input[1] = join.input[1], join.input[0]
    with pytest.raises(ConversionError, match=r"head\.binarize\.conv1 \(conv\): of its sizes and attributes no layer"):
        read(save(tmp_path / "a.onnx", shuffled(model, 1)), "det")


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("task", TASKS)
def test_what_the_optimiser_of_onnx_runtime_writes_computes_the_same(tmp_path: Path, task: str, level: str) -> None:
    """It folds normalisations, affines and activations into convolutions, changes the order, and moves transposes."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    plain = save(tmp_path / "a.onnx", proto(task, Style(opset=14, split_bias=True, pieces=True)))
    runtime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert ("com.microsoft" in {node.domain for node in nodes}) == (level == "EXTENDED")
    same_function(read(tmp_path / "optimised.onnx", task), task)


def same_function(converted: Converted, task: str) -> None:
    model = build_model(converted.config).eval()
    model.load_state_dict(dict(converted.state))
    x = torch.rand(onnx_writer.SHAPES[task], generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours, before = model(x), onnx_writer.captured(task)[0](x)
    ours = ours["maps"] if isinstance(ours, dict) else ours
    assert float((ours - before).abs().max()) < 2e-6


def change(model: Any, name: str, factor: float | np.ndarray) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))


def bypass(model: Any, node: Any, value: str) -> None:
    """Remove `node`; who read it reads `value`."""
    for other in model.graph.node:
        other.input[:] = [value if name == node.output[0] else name for name in other.input]
    model.graph.node.remove(node)


def numbers(model: Any) -> dict[str, float]:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: float(array.reshape(-1)[0]) for name, array in constants.items() if array.size == 1}


def test_half_of_gelu_in_the_next_weights_comes_back(tmp_path: Path) -> None:
    """As onnxsim writes it; a half is exact."""
    model = proto("sequence", Style(opset=17))
    small = numbers(model)
    halves = [n for n in model.graph.node if n.op_type == "Mul" and any(small.get(name) == 0.5 for name in n.input)]
    assert len(halves) >= 10
    for node in halves:
        product = next(name for name in node.input if name not in small)
        (reader,) = [other for other in model.graph.node if node.output[0] in other.input]
        assert reader.op_type == "Conv"
        change(model, reader.input[1], 0.5)
        bypass(model, node, product)
    state = read(save(tmp_path / "a.onnx", model), "sequence").state
    assert all(torch.equal(state[key], tensor) for key, tensor in fuse(network("sequence")).state_dict().items())


@pytest.mark.parametrize("with_bias", [False, True])
def test_an_affine_in_the_weights_before_it_comes_back_as_one_that_changes_nothing(
    tmp_path: Path, with_bias: bool
) -> None:
    """onnxsim multiplies a convolution by its scale, ONNX Runtime adds its bias as well."""
    model = proto("det", Style(opset=17))
    small = numbers(model)
    made = {node.output[0]: node for node in model.graph.node}
    changed = 0
    for node in [n for n in model.graph.node if n.op_type == "Mul"]:
        scale = next((name for name in node.input if name in small and "lab" in name), None)
        x = next(name for name in node.input if name != scale)
        conv = made.get(x)
        if scale is None or conv is None or conv.op_type != "Conv":
            continue
        change(model, conv.input[1], small[scale])
        change(model, conv.input[2], small[scale])
        bypass(model, node, x)
        if with_bias:
            (added,) = [other for other in model.graph.node if x in other.input]
            bias = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[2])
            shift = small[next(name for name in added.input if name != x)]
            bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(shift), bias.name))
            bypass(model, added, x)
        changed += 1
    assert changed > 10
    left = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in left]:
        model.graph.initializer.remove(tensor)
    converted = read(save(tmp_path / "a.onnx", model), "det")
    same_function(converted, "det")
    scales = [tensor for key, tensor in converted.state.items() if key.endswith("lab.scale")]
    assert sum(bool((scale == 1).all()) for scale in scales) == changed


def in_front(model: Any, nodes: Sequence[Any], value: str) -> None:
    """Put nodes before the network."""
    for node in model.graph.node:
        node.input[:] = [value if name == "x" else name for name in node.input]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


@pytest.mark.parametrize("kind", ["Concat", "Relu"])
def test_long_ways_between_layers_end_soon(tmp_path: Path, kind: str) -> None:
    """A value that is put beside itself again and again has as many sources as 2 to the power of that."""
    model = proto("cls", Style(opset=17))
    count = 60 if kind == "Concat" else 15_000
    nodes, value = [], "x"
    for index in range(count):
        inputs = [value, value] if kind == "Concat" else [value]
        attributes = {"axis": 1} if kind == "Concat" else {}
        nodes.append(helper.make_node(kind, inputs, [f"v{index}"], **attributes))
        value = f"v{index}"
    in_front(model, nodes, value)
    path = save(tmp_path / "a.onnx", model)
    start = time.process_time()
    with pytest.raises(ConversionError, match=r"15000 relu more|more between"):
        read(path, "cls")
    assert time.process_time() - start < 4
