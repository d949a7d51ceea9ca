"""ONNX files: every exporter's networks are read back to their tensors, damaged and foreign files are refused."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs onnx, which writes the files that are read here")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")

import onnx_writer  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx_mutations import Mutations, answer, template  # noqa: E402
from onnx_writer import CONFIGS, STYLES, Style, network, proto, save, write  # noqa: E402

from paddle2torch.converters.convert import Converted, convert_onnx  # noqa: E402
from paddle2torch.converters.onnx_files.description import describe_onnx  # noqa: E402
from paddle2torch.converters.onnx_files.graph import Graph  # noqa: E402
from paddle2torch.converters.onnx_files.model import read_onnx  # noqa: E402
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError  # noqa: E402
from paddle2torch.model_zoo.network import build_model, fuse  # noqa: E402
from paddle2torch.zoo.conversion import convert  # noqa: E402

MUTATIONS = 120


def read(path: Path, task: str = "rec") -> Converted:
    return convert_onnx(path, template(task), name="small")


def fused_state(task: str) -> dict[str, torch.Tensor]:
    return fuse(network(task)).state_dict()


def spoilt(
    path: Path, spoil: Callable[[Any], object], task: str = "rec", style: Style = onnx_writer.PADDLE2ONNX
) -> Path:
    model = proto(task, style)
    spoil(model)
    return save(path, model)


# What is read.


@pytest.mark.slow
@pytest.mark.parametrize("task", ["rec", "det", "cls", "sequence", "lstm"])
@pytest.mark.parametrize("style", STYLES)
def test_a_network_comes_back_from_every_style(tmp_path: Path, task: str, style: str) -> None:
    converted = read(write(tmp_path / "a.onnx", task, STYLES[style]), task)
    expected = fused_state(task)
    assert set(converted.state) == set(expected)
    for key, tensor in expected.items():
        held = tensor.half().float() if STYLES[style].halves else tensor
        assert torch.equal(converted.state[key], held), key
    widened = [note for note in converted.notes if "float16 numbers: here they are float32" in note]
    assert len(widened) == STYLES[style].halves


@pytest.mark.parametrize("task", ["rec", "cls"])
def test_normalisations_that_were_folded_come_back_as_biases(tmp_path: Path, task: str) -> None:
    """ONNX Runtime's own optimiser folds them, as PyTorch's exporter does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    plain = write(tmp_path / "a.onnx", task, Style(opset=17))
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    assert "BatchNormalization" not in {node.kind for node in read_onnx(tmp_path / "folded.onnx").nodes}
    converted = read(tmp_path / "folded.onnx", task)
    assert any("normalisations were folded" in note for note in converted.notes)
    model = build_model(converted.config).eval()
    model.load_state_dict(dict(converted.state))
    x = torch.rand(onnx_writer.SHAPES[task], generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours, before = model(x), onnx_writer.captured(task)[0](x)
    ours = ours["maps"] if isinstance(ours, dict) else ours
    assert float((ours - before).abs().max()) < 1e-6


def test_an_affine_that_changes_nothing_is_still_one(tmp_path: Path) -> None:
    """Of a fresh network, whose scales are 1 and biases 0. paddle2onnx writes what is not a layer in the same way."""

    def freshen(model: Any) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith(("lab_scale", "lab_bias")):
                value = np.array([float(tensor.name.endswith("scale"))], np.float32)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    converted = read(spoilt(tmp_path / "a.onnx", freshen))
    scales = [tensor for key, tensor in converted.state.items() if key.endswith("lab.scale")]
    biases = [tensor for key, tensor in converted.state.items() if key.endswith("lab.bias")]
    assert len(scales) == len(biases) > 40
    assert all(torch.equal(scale, torch.ones(1)) for scale in scales)
    assert all(torch.equal(bias, torch.zeros(1)) for bias in biases)


def test_a_convolution_over_a_sequence_comes_back(tmp_path: Path) -> None:
    """PP-OCRv6 tiny has two; exporters make images one pixel high of their sequences and kernels."""
    model = proto("sequence")
    assert [1, 5] in [t.dims[2:] for t in model.graph.initializer if "guide_layer" in t.name]
    state = read(save(tmp_path / "a.onnx", model), "sequence").state
    expected = fused_state("sequence")
    assert any(tensor.dim() == 3 for tensor in expected.values())
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())


def lstm_nodes(model: Any) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == "LSTM"]


def attribute(name: str, value: Any) -> Callable[[Any], object]:
    """What puts an attribute on the first LSTM."""

    def spoil(model: Any) -> None:
        node = lstm_nodes(model)[0]
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return spoil


def state_of_ones(model: Any) -> None:
    expand = next(node for node in model.graph.node if node.op_type == "Expand")
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == expand.input[0])
    zero.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), zero.name))


def last_state_is_read(model: Any) -> None:
    node = lstm_nodes(model)[0]
    node.output.append("states")
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at + 1, helper.make_node("Relu", ["states"], ["more"]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (attribute("direction", "reverse"), "an LSTM of another kind than Paddle's"),
        (attribute("activations", ["Sigmoid", "Relu", "Tanh"] * 2), "an LSTM of another kind than Paddle's"),
        (attribute("clip", 3.0), "an LSTM of another kind than Paddle's"),
        (attribute("direction", [1, 2]), "an LSTM of another kind than Paddle's"),
        (attribute("activations", 7), "an LSTM of another kind than Paddle's"),
        (attribute("hidden_size", "four"), "has no hidden size"),
        (attribute("hidden_size", 5), "where an LSTM has"),
        (lambda m: lstm_nodes(m)[0].input.__setitem__(4, "x"), "an LSTM of another kind than Paddle's"),
        (lambda m: lstm_nodes(m)[0].input.__setitem__(3, ""), "where an LSTM has"),
        (state_of_ones, "begins with a state that is not zero"),
        (last_state_is_read, "gives its last states to another node"),
        (
            lambda m: lstm_nodes(m)[1].input.__setitem__(0, lstm_nodes(m)[0].output[0]),
            "is not followed by what puts its directions beside each other",
        ),
    ],
)  # fmt: skip
def test_an_lstm_that_is_none_of_paddles_is_refused(
    tmp_path: Path, spoil: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(FileFormatError, match=rf"\(LSTM\): .*{message}"):
        read(spoilt(tmp_path / "a.onnx", spoil, "lstm"), "lstm")


@pytest.mark.parametrize("exchanged", [False, True])
def test_an_lstm_computes_what_onnx_runtime_computes(tmp_path: Path, exchanged: bool) -> None:
    """Also where two gates, which have one shape, change places in the file: they are read as it says."""
    import onnxruntime

    def exchange(model: Any) -> None:
        joined = next(node for node in model.graph.node if node.op_type == "Concat" and len(node.input) == 3)
        if exchanged:
            joined.input[0], joined.input[1] = joined.input[1], joined.input[0]

    path = spoilt(tmp_path / "a.onnx", exchange, "lstm", replace(onnx_writer.PADDLE2ONNX, identities=False))
    converted = read(path, "lstm")
    model = build_model(converted.config).eval()
    model.load_state_dict(dict(converted.state))
    same = all(torch.equal(converted.state[key], tensor) for key, tensor in fused_state("lstm").items())
    assert same != exchanged
    x = torch.rand(onnx_writer.SHAPES["lstm"], generator=torch.Generator().manual_seed(1)) * 2 - 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.numpy()})
    with torch.inference_mode():
        assert float((model(x) - torch.from_numpy(expected)).abs().max()) < 1e-6


def test_a_constant_is_cut_along_its_first_axes_where_a_file_names_none(tmp_path: Path) -> None:
    """Steps are no axes, though they may come right behind the ends."""

    def cut(model: Any) -> None:
        graph = model.graph
        for name, value in (("from", 0), ("to", 2), ("step", 1)):
            graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
        joined = next(node for node in graph.node if node.op_type == "Concat" and len(node.input) == 3)
        inputs = [joined.input[0], "from", "to", "", "step"]
        graph.node.insert(list(graph.node).index(joined), helper.make_node("Slice", inputs, ["both"]))
        joined.input[0] = "both"

    style = replace(onnx_writer.PADDLE2ONNX, identities=False)
    state = read(spoilt(tmp_path / "a.onnx", cut, "lstm", style), "lstm").state
    assert all(torch.equal(state[key], tensor) for key, tensor in fused_state("lstm").items())


@pytest.mark.slow
def test_characters_are_those_of_the_file(tmp_path: Path) -> None:
    characters = CONFIGS["rec"].charset
    assert characters is not None
    path = write(tmp_path / "own.onnx", "rec", character="\n".join(characters))
    assert convert("own", weights=path, output=tmp_path / "own").config.charset == characters
    with_space = write(tmp_path / "space.onnx", "rec", character="\n".join(characters[:-1]))
    assert convert("own", weights=with_space, output=tmp_path / "b").config.charset == (*characters[:-1], " ")


@pytest.mark.slow
def test_characters_that_are_given_go_before_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "own.onnx", "rec", character="1\n2\n3\n4\n5\n6\n7")
    (tmp_path / "set.txt").write_text("t\nu\nv\nw\nx\ny\nz\n")
    config = convert("own", weights=path, charset=tmp_path / "set.txt", output=tmp_path / "a").config
    assert config.charset == tuple("tuvwxyz")
    assert config.origin is not None
    assert config.origin.kind == "ONNX file"
    assert list(config.origin.files) == ["own.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("characters", "message"), [(None, "nothing says for which characters"), ("a\nb", "2 characters")]
)
def test_a_recogniser_without_its_characters_says_what_to_give(
    tmp_path: Path, characters: str | None, message: str
) -> None:
    path = write(tmp_path / "own.onnx", "rec", **({} if characters is None else {"character": characters}))
    with pytest.raises(ConversionError, match=message):
        convert("own", weights=path, output=tmp_path / "a")


def test_labels_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "own.onnx", "cls", character="up\ndown")
    described = describe_onnx(path)
    assert described.task == "cls"
    assert getattr(described.postprocess, "labels", None) == ("up", "down")


def test_settings_that_we_wrote_are_read_strictly(tmp_path: Path) -> None:
    config = CONFIGS["rec"].with_form("fused")
    path = write(tmp_path / "a.onnx", "rec", **{"model_config.json": config.dumps()})
    assert convert("own", weights=path, output=tmp_path / "a").config.charset == config.charset
    path = write(tmp_path / "b.onnx", "rec", **{"model_config.json": config.dumps().replace('"task"', '"tusk"')})
    with pytest.raises(ConfigError, match="tusk"):
        convert("own", weights=path, output=tmp_path / "b")
    path = write(tmp_path / "c.onnx", "rec", **{"model_config.json": "[" * 100_000})
    with pytest.raises(FileFormatError, match="is not JSON"):
        convert("own", weights=path, output=tmp_path / "c")


def test_settings_of_a_giant_network_take_no_memory(tmp_path: Path) -> None:
    text = CONFIGS["rec"].with_form("fused").dumps().replace('"hidden_dims": 32', '"hidden_dims": 1000000')
    assert "1000000" in text
    path = write(tmp_path / "a.onnx", "det", **{"model_config.json": text})
    with pytest.raises(ConversionError):
        convert("own", weights=path, output=tmp_path / "a")


# What is refused.


def test_another_network_is_refused_by_its_first_different_layer(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"a\.onnx: layer 3 of the network, backbone\.conv1\.1 \(gelu\)"):
        read(write(tmp_path / "a.onnx", "rec"), "sequence")
    with pytest.raises(ConversionError, match=r"b\.onnx: layer 13 of the network, .* where the program has affine"):
        read(write(tmp_path / "b.onnx", "rec"), "det")


def test_any_network_is_read_from_paddles_files_alone(tmp_path: Path) -> None:
    def without_norms(model: Any) -> None:
        for node in [node for node in model.graph.node if node.op_type == "GlobalAveragePool"][:1]:
            node.op_type = "Relu"

    path = spoilt(tmp_path / "a.onnx", without_norms)
    with pytest.raises(ConversionError, match="converts from its Paddle export, not from ONNX"):
        convert("own", weights=path, output=tmp_path / "own")
    with pytest.raises(ConfigError, match="programs are read from Paddle's files"):
        convert("own", weights=path, output=tmp_path / "own", as_program=True)


def test_a_factor_that_the_network_has_not_is_refused(tmp_path: Path) -> None:
    """A preprocessing that was built in would otherwise be dropped in silence."""

    def scale(model: Any) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 255), "by"))
        model.graph.node.insert(0, helper.make_node("Mul", ["x", "by"], ["y"]))
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        first.input[0] = "y"

    with pytest.raises(ConversionError, match=r"multiplies its values by 0\.00392157, 0\.5, the network by 0\.5"):
        read(spoilt(tmp_path / "a.onnx", scale))


def test_names_that_say_something_else_than_the_structure_are_refused(tmp_path: Path) -> None:
    def rename(model: Any) -> None:
        norm = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
        for tensor in model.graph.initializer:
            for place, name in ((3, "batch_norm2d_0.w_2"), (4, "batch_norm2d_0.w_1")):
                if tensor.name == norm.input[place]:
                    norm.input[place] = tensor.name = name

    with pytest.raises(ConversionError, match="by its name the running_var"):
        read(spoilt(tmp_path / "a.onnx", rename))


def test_a_quantized_file_is_refused_by_name(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    write(tmp_path / "a.onnx", "cls", Style(opset=17))
    quantization.quantize_dynamic(tmp_path / "a.onnx", tmp_path / "q.onnx")
    with pytest.raises(
        FileFormatError, match=r"\(\w+\): the model is quantized, its weights are integers: give the float"
    ):
        read(tmp_path / "q.onnx", "cls")


def test_a_file_with_quantized_values_between_its_layers_is_refused_by_name(tmp_path: Path) -> None:
    """QDQ, as static quantization writes it: each layer reads what was rounded and turned back."""

    def quantize(model: Any) -> None:
        model.graph.initializer.extend(
            [numpy_helper.from_array(np.float32(0.02), "step"), numpy_helper.from_array(np.uint8(128), "zero")]
        )
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        for name, kind, reads in (("q", "QuantizeLinear", "x"), ("d", "DequantizeLinear", "q")):
            model.graph.node.insert(len(name) - 1, helper.make_node(kind, [reads, "step", "zero"], [name]))
        model.graph.node.sort(key=lambda node: {"q": 0, "d": 1}.get(node.output[0], 2))
        first.input[0] = "d"

    with pytest.raises(FileFormatError, match=r"\(QuantizeLinear\): the model is quantized, its weights are integers"):
        read(spoilt(tmp_path / "a.onnx", quantize, "cls", Style(opset=17)), "cls")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: setattr(m.graph.node[5], "domain", "com.microsoft"), "optimised for one runtime"),
        (lambda m: setattr(m.graph.node[5], "op_type", "If"), "loops or conditions"),
        (lambda m: setattr(m.graph.node[5], "op_type", "Tanh"), r"node 5 \(Tanh\): no PP-OCR network"),
        (lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[9].output[0]), "no node before it makes"),
        (lambda m: m.graph.node[0].input.__setitem__(0, m.graph.node[0].output[0]), "no node before it makes"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "which is there already"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "has two constants"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 11), "needs 3,456 bytes and has 1,728"),
        (lambda m: m.graph.initializer[0].dims.append(2**60), "has the shape"),
        (lambda m: m.graph.initializer[0].dims.append(2**30), "is the file truncated"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse constants"),
        (lambda m: m.graph.output.add(name="nobody"), "no node makes the output 'nobody'"),
        (lambda m: m.ClearField("graph"), "it has no graph"),
        (lambda m: m.ClearField("opset_import"), "which version of ONNX's operations"),
        (
            lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(5, np.float32), "left")),
            "constants that nothing reads: 'left'",
        ),
    ],
)  # fmt: skip
def test_what_no_exporter_writes_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(FileFormatError, match=message) as error:
        read(spoilt(tmp_path / "a.onnx", spoil))
    assert str(tmp_path / "a.onnx") in str(error.value)


def test_constants_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    path = onnx_writer.with_external_data(tmp_path / "a.onnx", "cls", "weights.data")
    state = read(path, "cls").state
    assert all(torch.equal(state[key], tensor) for key, tensor in fused_state("cls").items())
    assert [file.name for file in read_onnx(path).external_files] == ["weights.data"]


@pytest.mark.parametrize(
    "location", ["../weights.data", "/etc/passwd", "", "a/../../weights.data", "C:weights.data", "..\\w"]
)
def test_constants_outside_the_folder_are_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = onnx_writer.with_external_data(folder / "a.onnx", "cls", location)
    (tmp_path / "weights.data").write_bytes((folder / "weights.data").read_bytes())
    with pytest.raises(FileFormatError, match="is not in the folder of the model"):
        read(path, "cls")


def test_a_link_out_of_the_folder_is_not_followed_but_for_that_of_a_download(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    folder.mkdir()
    path = onnx_writer.with_external_data(blobs / "a.onnx", "cls", "weights.data")
    os.symlink(blobs / "weights.data", folder / "weights.data")
    (folder / "a.onnx").write_bytes(path.read_bytes())
    with pytest.raises(FileFormatError, match="a link out of the folder"):
        read(folder / "a.onnx", "cls")
    (folder / "a.onnx").unlink()
    os.symlink(path, folder / "a.onnx")
    assert read(folder / "a.onnx", "cls").state


def test_constants_whose_file_is_missing_or_too_short_say_so(tmp_path: Path) -> None:
    path = onnx_writer.with_external_data(tmp_path / "a.onnx", "cls", "weights.data")
    (tmp_path / "weights.data").write_bytes(b"\0" * 100)
    with pytest.raises(FileFormatError, match="which has 100; is it truncated"):
        read(path, "cls")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(FileFormatError, match="belongs beside the model"):
        read(path, "cls")


def bounded(path: Path, limit: int, message: str) -> None:
    """The file is refused soon, and with little memory."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=message):
            Graph(read_onnx(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:,} bytes"
    assert time.process_time() - start < 10


@pytest.mark.slow
def test_a_graph_of_a_million_nodes_is_refused_soon(tmp_path: Path) -> None:
    node = b"\x0a\x0c" + b"\x0a\x01x\x12\x01y\x22\x04Relu"
    graph = node * 1_000_000
    content = b"\x08\x08\x42\x04\x0a\x00\x10\x0b" + b"\x3a" + _length(graph) + graph
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    bounded(path, 48 << 20, "more than 20,000 nodes")


@pytest.mark.slow
def test_a_file_of_empty_fields_is_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x08" * 400_000)
    bounded(path, 1 << 20, "more than 200,000 fields")


def test_a_constant_that_is_turned_around_again_and_again_takes_no_memory(tmp_path: Path) -> None:
    big = np.zeros((1000, 1000), np.float32)
    nodes, value = [], "big"
    for index in range(400):
        nodes.append(helper.make_node("Transpose", [value], [f"t{index}"]))
        nodes.append(helper.make_node("Reshape", [f"t{index}", "shape"], [f"r{index}"]))
        value = f"r{index}"
    nodes.append(helper.make_node("MatMul", ["x", value], ["y"]))
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1000])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1000])
    constants = [numpy_helper.from_array(big, "big"), numpy_helper.from_array(np.array([1000, 1000]), "shape")]
    path = tmp_path / "a.onnx"
    save(path, helper.make_model(helper.make_graph(nodes, "g", [info], [out], constants)))
    bounded(path, 32 << 20, "turns constants around more often")


def _length(content: bytes) -> bytes:
    number, encoded = len(content), bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.slow
def test_damaged_files_end_in_one_error_or_in_a_model(tmp_path: Path) -> None:
    mutations = Mutations(17)
    for _ in range(MUTATIONS):
        task, content = mutations.draw()
        path = tmp_path / "damaged.onnx"
        path.write_bytes(content)
        start = time.process_time()
        answer(path, task)
        assert time.process_time() - start < 10
