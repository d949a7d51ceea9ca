"""What one does with a converted program: info, verify on made-up or own inputs, the form for running, training."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program_cases
import pytest
import torch
from click.testing import CliRunner
from material import TESTS
from torch.nn import functional as F

from paddle2torch import load_pretrained, verify
from paddle2torch.cli import main
from paddle2torch.compiled import program_graphs
from paddle2torch.compiled.kernel_library import load_kernels
from paddle2torch.compiled.program_graphs import capture
from paddle2torch.compiled.programs import native_form
from paddle2torch.exporting.export import Exported, export
from paddle2torch.exporting.programs import export_onnx, export_torch
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.forms.folded import FoldedConv2d, ResidualConv2d
from paddle2torch.model_zoo.forms.folding import drop_denormals
from paddle2torch.model_zoo.forms.native import NativeResidualConv2d
from paddle2torch.model_zoo.forms.packing import PackedConv2d, pack
from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.config import Feed, ProgramConfig
from paddle2torch.model_zoo.programs.graph import Block, Graph, Node, TensorType
from paddle2torch.model_zoo.programs.inputs import example_inputs, runs
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.running import fold_program
from paddle2torch.parity.program_inputs import read_inputs
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.info import describe
from paddle2torch.zoo.program_info import ProgramInfo
from paddle2torch.zoo.programs import load_program, save_program


def converted(name: str, folder: Path) -> Path:
    convert(name, weights=program_cases.GOLDENS / name, output=folder / name, as_program=True)
    return folder / name


def test_info_counts_operations_inputs_parameters_and_blocks_without_building(tmp_path: Path) -> None:
    found = describe(converted("networks_decoder", tmp_path))
    assert isinstance(found, ProgramInfo)
    assert [(value.name, value.dtype) for value in found.inputs] == [("x0", "float32")]
    assert found.blocks == {"while": 1, "if": 1}
    assert found.control == "1 while, 1 if, nested 2 deep"
    model = load_program(found.converted or tmp_path)
    assert found.operations["matmul"] == sum(node.kind == "matmul" for node in model.program.walk())
    assert found.parameters == sum(tensor.numel() for tensor in model.parameters_of_program().values())
    assert len(found.outputs) == len(model.program.fetches)


def test_the_command_info_shows_a_program_as_text_and_as_json(tmp_path: Path) -> None:
    folder = converted("networks_convnet", tmp_path)
    shown = CliRunner().invoke(main, ["info", str(folder)])
    assert shown.exit_code == 0
    assert "float32 (free, 3, 16, 20)" in shown.output
    data = json.loads(CliRunner().invoke(main, ["info", str(folder), "--json"]).output)
    assert data["form"] == "program"
    assert data["operations"]["conv2d"] >= 1
    assert data["config"]["origin"]["kind"] == "PIR export"


@pytest.mark.parametrize("name", program_cases.names(program_cases.GOLDENS))
def test_every_program_runs_on_its_made_up_inputs(name: str, tmp_path: Path) -> None:
    program = load_program(converted(name, tmp_path))
    inputs = example_inputs(program)
    assert runs(program, inputs)
    again = example_inputs(program)
    for feed in program.config.feeds:
        assert inputs[feed.name].dtype.name == feed.dtype
        np.testing.assert_array_equal(inputs[feed.name], again[feed.name])


def test_made_up_boxes_have_their_corners_in_order_and_sizes_are_the_images(tmp_path: Path) -> None:
    boxes = example_inputs(load_program(converted("boxes_matrix_nms", tmp_path)))["x0"]
    assert (boxes[..., :2] < boxes[..., 2:]).all()
    inputs = example_inputs(load_program(converted("boxes_yolo", tmp_path)))
    image, size = inputs["x0"], inputs["x1"]
    assert len(image) == len(size)
    assert (size > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["legacy_boxes_yolo", "boxes_proposals"])
def test_verify_holds_on_made_up_inputs_that_paddle_takes(name: str, tmp_path: Path, paddle: None) -> None:
    found = verify(converted(name, tmp_path))
    assert found.holds, (found.first_failure, found.output)


@pytest.mark.slow
def test_verify_takes_own_inputs_from_a_file(tmp_path: Path, paddle: None) -> None:
    folder = converted("networks_convnet", tmp_path)
    x = np.random.default_rng(3).normal(size=(5, 3, 16, 20)).astype(np.float32)
    np.savez_compressed(tmp_path / "own.npz", x0=x)
    shown = CliRunner().invoke(main, ["verify", str(folder), "--input", str(tmp_path / "own.npz"), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)[0]["input_shape"] == [5, 3, 16, 20]


def test_own_inputs_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    config = load_program(converted("networks_convnet", tmp_path)).config
    good = np.zeros((1, 3, 16, 20), np.float32)
    for arrays, message in (
        ({"y": good}, "takes 'x0'"),
        ({"x0": good, "y": good}, "takes 'x0'"),
        ({"x0": good.astype(np.float64)}, "is float64, the program takes float32"),
        ({"x0": good[:, :2]}, r"is \[1, 2, 16, 20\]"),
        ({"x0": good[0]}, r"is \[3, 16, 20\]"),
    ):
        np.savez(tmp_path / "own.npz", **arrays)
        with pytest.raises(ConfigError, match=message):
            read_inputs(tmp_path / "own.npz", config)
    (tmp_path / "own.npz").write_bytes(b"PK no")
    with pytest.raises(FileFormatError, match=r"not an .npz"):
        read_inputs(tmp_path / "own.npz", config)


def test_an_npz_neither_unpickles_nor_allocates_what_it_does_not_hold(tmp_path: Path) -> None:
    config = load_program(converted("networks_convnet", tmp_path)).config
    np.savez(tmp_path / "pickled.npz", x0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Paddle2TorchError):
        read_inputs(tmp_path / "pickled.npz", config)
    np.savez(tmp_path / "x.npz", x0=np.zeros((1, 3, 16, 20), np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        content = archive.read("x0.npy")
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("x0.npy", content.replace(b"(1, 3, 16, 20)", b"(99999999, 3, 16, 20)"[:21]))
    with pytest.raises(Paddle2TorchError):
        read_inputs(tmp_path / "large.npz", config)


def test_a_network_takes_no_arrays_to_verify(tmp_path: Path) -> None:
    from small_models import saved, small_config

    saved(tmp_path / "small", small_config())
    with pytest.raises(Paddle2TorchError, match="not a program"):
        verify(tmp_path / "small", inputs=tmp_path / "own.npz")


@pytest.mark.parametrize("name", ["networks_convnet", "networks_tokens", "networks_decoder", "convolution_transposed"])
def test_the_form_for_running_computes_the_same(name: str, tmp_path: Path) -> None:
    folder = converted(name, tmp_path)
    model, folded = load_pretrained(folder), load_pretrained(folder, fused=True)
    assert isinstance(folded, Program)
    inputs = [torch.from_numpy(array) for array in example_inputs(load_program(folder)).values()]
    with torch.inference_mode():
        pairs = [(model(*inputs), folded(*inputs))]
    with torch.enable_grad():  # not oneDNN's own operators
        pairs.append((model(*inputs), folded(*inputs)))
    for ours, theirs in pairs:
        listed = [value if isinstance(value, tuple) else (value,) for value in (ours, theirs)]
        for a, b in zip(*listed, strict=True):
            if a.is_floating_point():
                assert (a - b).abs().max() <= 1e-5 * a.abs().max()
            else:
                assert torch.equal(a, b)


def residual_block() -> Program:
    """Two convolutions of `x` added, the later one a stride's, then `y` added, then ReLU and a sum with hardswish."""
    conv = {"padding_algorithm": "EXPLICIT", "dilations": (1, 1), "groups": 1, "data_format": "NCHW"}
    kernels = {"w0": (6, 4, 3, 3), "w1": (6, 4, 1, 1), "w2": (6, 6, 3, 3), "w3": (6, 6, 1, 1)}
    nodes = [
        Node("conv2d", ("x", "w0"), ("a",), {**conv, "strides": (2, 1), "paddings": (1, 1)}),
        Node("conv2d", ("x", "w1"), ("b",), {**conv, "strides": (2, 1), "paddings": (0, 0)}),
        Node("add", ("b", "a"), ("c",)),
        Node("relu", ("c",), ("d",)),
        Node("conv2d", ("d", "w2"), ("e",), {**conv, "strides": (1, 1), "paddings": (1, 1)}),
        Node("add", ("e", "y"), ("f",)),
        Node("relu", ("f",), ("g",)),
        Node("conv2d", ("g", "w3"), ("h",), {**conv, "strides": (1, 1), "paddings": (0, 0)}),
        Node("add", ("d", "h"), ("i",)),
        Node("hardswish", ("i",), ("j",)),
    ]
    types = {name: TensorType((-1, 4 if name == "x" else 6, -1, -1), "float32") for name in "xyabcdefghij"}
    weights = {name: TensorType(shape, "float32") for name, shape in kernels.items()}
    block = Block((), tuple(nodes), ())
    graph = Graph("PIR", block, {**types, **weights}, tuple(kernels), (("x", "x"), ("y", "y")), ("j",))
    feeds = tuple(Feed(name, "float32", types[name].shape) for name in "xy")
    rows = build(graph).rows
    state = {row.key: torch.rand(kernels[row.parameter]) - 0.5 for row in rows}
    return build_program(graph, ProgramConfig("residual", "program", "inference.json", feeds, 1), state)


@pytest.mark.parametrize("size", [(2, 6, 5, 9), (1, 6, 1, 1), (2, 6, 1, 9)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_adds_a_map_of_its_size_and_one_that_is_repeated(
    size: tuple[int, ...], layout: torch.memory_format
) -> None:
    program = residual_block()
    folded = fold_program(program)
    tails = {module.tail.activation for module in folded.modules() if isinstance(module, ResidualConv2d)}
    assert sum(isinstance(module, ResidualConv2d) for module in folded.modules()) == 3
    assert tails == {"relu", "none"}  # hardswish behind a sum is an operation of its own
    assert "arithmetic_add" in program.code
    assert "arithmetic_add" not in folded.code
    x, y = torch.rand(2, 4, 9, 9) - 0.5, (torch.rand(size) - 0.5).contiguous(memory_format=layout)
    expected = program(x, y).detach()
    with torch.inference_mode():
        found = [folded(x, y), folded(x.contiguous(memory_format=torch.channels_last), y)]
    for made in (*found, folded(x, y)):  # the last with gradients: not oneDNN's own operators
        torch.testing.assert_close(made, expected, rtol=0, atol=4e-6 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2, 6, 9, 9), (2, 6, 1, 9)])
def test_what_is_compiled_has_our_kernels_and_adds_the_same_maps(
    size: tuple[int, ...], compiler: None, kernels: Callable[[Path], None], home: Path
) -> None:
    kernels(home)
    load_kernels()
    program = residual_block()
    folded = fold_program(program)
    native = native_form(copy.deepcopy(folded))
    kinds = [type(module) for module in native.modules()]
    assert kinds.count(NativeResidualConv2d) == 2  # the third takes 6 channels, with a larger kernel
    x, y = torch.rand(2, 4, 17, 9) - 0.5, torch.rand(size) - 0.5
    expected = program(x, y).detach()
    with torch.inference_mode():
        torch.testing.assert_close(native(x, y), expected, rtol=0, atol=4e-6 * float(expected.abs().max()))


def test_laid_out_convolutions_that_add_a_map_can_be_exported() -> None:
    program = residual_block()
    x, y = torch.rand(2, 4, 17, 9) - 0.5, torch.rand(2, 6, 9, 9) - 0.5
    packed = pack(
        fold_program(program), [(torch.rand(1, 4, 9, 9), torch.rand(1, 6, 5, 9)), (x, torch.rand(2, 6, 1, 9))]
    )
    assert [type(module) for module in packed.modules()].count(PackedConv2d) == 4
    expected = program(x, y).detach()
    graph = torch.export.export(packed, (x, y), strict=False).module()
    with torch.inference_mode():
        for made in (packed(x, y), graph(x, y)):
            torch.testing.assert_close(made, expected, rtol=0, atol=4e-6 * float(expected.abs().max()))


def test_what_onednn_makes_of_the_weights_is_kept_for_each_size_and_not_copied() -> None:
    folded = fold_program(residual_block())
    plain = copy.deepcopy(folded)
    convolutions = [module for module in folded.modules() if isinstance(module, FoldedConv2d)]
    for module in plain.modules():
        if isinstance(module, FoldedConv2d):
            module.layouts = None
    y = torch.rand(1, 6, 1, 1)
    with torch.inference_mode():
        for size in (9, 32, 33, 9, 224):
            for batch in (1, 3):
                x = torch.rand(batch, 4, size, size)
                torch.testing.assert_close(folded(x, y), plain(x, y), rtol=0, atol=2e-6)
        for module in convolutions:
            assert module.layouts is not None
            size = (1, module.in_channels, 9, 9)
            held = module.layouts.of(module.weight, module.geometry, size)
            assert held is not module.weight
            assert held is module.layouts.of(module.weight, module.geometry, size)
        for other in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded)), folded.bfloat16()):
            dtype = next(other.parameters()).dtype
            assert other(x.to(dtype), y.to(dtype)).dtype == dtype


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, paddle: None) -> Path:
    """The export of a small classifier, and Paddle's gradients of one step."""
    folder = tmp_path_factory.mktemp("classifier")
    done = subprocess.run([sys.executable, TESTS / "program_training.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_folding_takes_normalisations_and_activations_into_convolutions(classifier: Path, tmp_path: Path) -> None:
    convert("classifier", weights=classifier / "export", output=tmp_path / "model", as_program=True)
    model = load_program(tmp_path / "model")
    folded = fold_program(model)
    kinds = [type(module) for module in folded.modules()]
    assert torch.nn.BatchNorm2d in [type(module) for module in model.modules()]
    assert torch.nn.BatchNorm2d not in kinds
    tails = [module.tail.activation for module in folded.modules() if isinstance(module, FoldedConv2d)]
    assert sorted(set(tails)) == ["hardswish", "none", "relu"]
    with np.load(classifier / "training.npz") as values, torch.inference_mode():
        found = folded(torch.from_numpy(values["x"])).numpy()
        assert np.abs(found - values["scores"]).max() <= 1e-5 * np.abs(values["scores"]).max()


@pytest.mark.slow
def test_gradients_of_a_program_are_paddles(classifier: Path, tmp_path: Path) -> None:
    convert("classifier", weights=classifier / "export", output=tmp_path / "model", as_program=True)
    model = load_program(tmp_path / "model").train()
    with np.load(classifier / "training.npz") as values:
        loss = F.cross_entropy(model(torch.from_numpy(values["x"])), torch.from_numpy(values["label"]))
        loss.backward()
        assert loss.item() == pytest.approx(float(values["loss"]), rel=1e-6)
        parameters = dict(model.named_parameters())
        compared = 0
        for row in model.rows:
            name = f"grad:{row.parameter}"
            if name not in values:
                continue
            expected, found = values[name], parameters[row.key].grad
            assert found is not None
            shaped = (found.t() if row.transposed else found).reshape(expected.shape).numpy()
            assert np.abs(shaped - expected).max() <= 1e-4 * np.abs(expected).max(), row.parameter
            compared += 1
        assert compared == sum(name.startswith("grad:") for name in values) == 21


@pytest.mark.slow
def test_a_classifier_learns_and_goes_back_to_paddle(classifier: Path, tmp_path: Path) -> None:
    convert("classifier", weights=classifier / "export", output=tmp_path / "model", as_program=True)
    model = load_pretrained(tmp_path / "model")
    assert isinstance(model, Program)
    with np.load(classifier / "training.npz") as values:
        x, label = torch.from_numpy(values["x"]), torch.from_numpy(values["label"])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    model.eval()
    save_program(tmp_path / "tuned", model, tmp_path / "model" / model.config.file)
    result = export(tmp_path / "tuned", "paddle", tmp_path / "back")
    assert result.worst is not None
    assert result.worst <= 1e-5
    before, after = (folder / "inference.pdiparams" for folder in (classifier / "export", tmp_path / "back"))
    assert before.stat().st_size == after.stat().st_size
    assert before.read_bytes() != after.read_bytes()


def test_the_form_for_running_has_no_denormal_weights_and_keeps_single_numbers(tmp_path: Path) -> None:
    model = load_program(converted("networks_convnet", tmp_path))
    weight = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    with torch.no_grad():
        weight.flatten()[:2] = 1e-40
    floor = torch.nn.Module()
    floor.register_buffer("value", torch.tensor([1e-40]))
    model.add_module("floor", floor)
    with torch.no_grad():
        drop_denormals(model)
    assert weight.flatten()[:2].tolist() == [0.0, 0.0]
    assert float(floor.value) > 0
    with torch.no_grad():
        weight.flatten()[:2] = 1e-40
    tiny = torch.finfo(torch.float32).tiny
    folded = fold_program(model)
    for tensor in (*folded.parameters(), *folded.buffers()):
        if tensor.is_floating_point() and tensor.numel() > 1:
            assert not ((tensor != 0) & (tensor.abs() < tiny)).any()


@pytest.mark.slow
def test_a_program_with_a_loop_is_compiled(
    tmp_path: Path, compiler: None, kernels: Callable[[Path], None], home: Path
) -> None:
    from paddle2torch.compiled.programs import compile_program, load_compiled_program

    kernels(home)
    folder = converted("networks_decoder", tmp_path)
    compile_program(folder)
    compiled, model = load_compiled_program(folder), load_pretrained(folder)
    for batch in (1, 2, 5):
        x = torch.rand(batch, 3, 4, 5)
        assert compiled.takes((x,))
        with torch.inference_mode():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_program_gives_the_same_at_every_size(
    tmp_path: Path, compiler: None, kernels: Callable[[Path], None], home: Path
) -> None:
    from paddle2torch.compiled.programs import CompiledProgram, program_package

    kernels(home)
    folder = converted("networks_convnet", tmp_path)
    with pytest.warns(UserWarning, match="compiled for this CPU now"):
        compiled = load_pretrained(folder, compiled=True)
    assert isinstance(compiled, CompiledProgram)
    assert program_package(folder).is_file()
    model = load_pretrained(folder)
    for batch in (1, 2, 3, 7):
        x = torch.rand(batch, 3, 16, 20)
        assert compiled.takes((x,))
        with torch.inference_mode():
            for a, b in zip(model(x), compiled(x0=x), strict=True):
                assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    again = pickle.loads(pickle.dumps(compiled))
    assert torch.equal(again(x)[0], compiled(x)[0])
    assert not compiled.takes((torch.rand(1, 3, 16, 21),))
    for wrong in ({"x1": x}, {"x0": x.double()}):
        with pytest.raises(ConfigError):
            compiled(**wrong)
    with pytest.raises(ConfigError, match="no tensors"):
        compiled.state_dict()
    with pytest.raises(ConfigError, match="float32"):
        load_pretrained(folder, compiled=True, precision="bf16")


def test_conditions_on_sizes_are_arithmetic_and_nothing_else() -> None:
    from paddle2torch.compiled.guards import Conditions

    shapes = [[["s0", 2, 9], 3, ["s1", 2, 1 << 62], ["s1", 2, 1 << 62]]]
    guards = [
        "(1 + (((-1) + L['inputs'][0].size()[2]) // 4)) != 1",
        "max(1, L['inputs'][0].size()[3] % 32) == 1 or False",
    ]
    conditions = Conditions(json.dumps({"shapes": shapes, "guards": guards}))
    for size, holds in (
        ((2, 3, 64, 64), True),
        ((1, 3, 64, 64), True),
        ((10, 3, 64, 64), False),
        ((2, 4, 64, 64), False),
        ((2, 3, 64, 96), False),
        ((2, 3, 4, 4), False),
        ((2, 3, 40, 40), False),
    ):
        assert conditions.hold([torch.empty(size)], batch_of_one=True) is holds, size
    assert not conditions.hold([torch.empty(1, 3, 64, 64)], batch_of_one=False)
    for text in (
        "__import__('os').getpid() == 0",
        "size_0_0.bit_length() > 0",
        "[1][0]",
        "(lambda: 1)()",
        "1 +",
        "'a' < 'b'",
    ):
        with pytest.raises(Paddle2TorchError, match="cannot be read"):
            Conditions(json.dumps({"shapes": shapes, "guards": [text]}))


def first_column() -> Program:
    """The first column of `x` of any size. PyTorch writes out as many columns as the example has."""
    nodes = (
        Node("unbind", ("x",), ("columns",), {"axis": 2}),
        Node("builtin.slice", ("columns",), ("first",), {"index": 0}),
    )
    types = {"x": TensorType((-1, 2, -1), "float32"), "first": TensorType((-1, 2), "float32")}
    graph = Graph("PIR", Block((), nodes, ()), types, (), (("x", "x"),), ("first",))
    feeds = (Feed("x", "float32", types["x"].shape),)
    return build_program(graph, ProgramConfig("first", "program", "inference.json", feeds, 1), {})


@pytest.mark.parametrize("write", [export_torch, pytest.param(export_onnx, marks=pytest.mark.slow)])
def test_an_export_says_which_sizes_its_graph_is_not_for(write: Callable[..., Exported], tmp_path: Path) -> None:
    result = write(first_column(), tmp_path / "first")
    (note,) = result.notes
    assert note.startswith("not every size fits: PyTorch's graph is not for (3, 2, 12). A .pt2 refuses such sizes")
    assert [check.shape for check in result.checks] == [(2, 2, 8), (1, 2, 8), (3, 2, 8)]


def test_a_graph_is_asked_for_its_sizes_where_its_conditions_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def unread(*arguments: object) -> None:
        raise ConversionError("PyTorch's condition cannot be read")

    program = first_column()
    read = capture(program)
    monkeypatch.setattr(program_graphs, "conditions_of", unread)
    asked = capture(program)
    assert asked.conditions is None
    for size, fits in (((2, 2, 8), True), ((3, 2, 8), True), ((3, 2, 12), False)):
        assert read.fits([torch.rand(size)]) is asked.fits([torch.rand(size)]) is fits
