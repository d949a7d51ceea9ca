"""Programs of any network: converted, loaded, and equal to Paddle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import program_cases
import pytest
import torch
from material import SHARED, TESTS
from torch import nn

from paddle2torch import load_pretrained, verify
from paddle2torch.compiled.program_graphs import capture, less_free
from paddle2torch.converters.paddle_files.pdmodel import Op
from paddle2torch.converters.programs.convert import convert_program, read_graph
from paddle2torch.converters.programs.legacy_file import LegacyFile
from paddle2torch.exporting.export import export
from paddle2torch.exporting.programs import export_onnx, operations_of
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.programs.build import build
from paddle2torch.model_zoo.programs.config import Feed, ProgramConfig
from paddle2torch.model_zoo.programs.graph import Block, Graph, Node, TensorType
from paddle2torch.model_zoo.programs.kinds import check_kinds
from paddle2torch.model_zoo.programs.modules import UNROLLED_AT_MOST, Condition, FixedSizeError, WhileLoop
from paddle2torch.model_zoo.programs.network import Program, build_program
from paddle2torch.model_zoo.programs.numbers import places_of
from paddle2torch.model_zoo.programs.operations.creation import linspace
from paddle2torch.model_zoo.programs.operations.indexing import set_value_with_tensor
from paddle2torch.model_zoo.programs.operations.sorting import topk
from paddle2torch.model_zoo.programs.table import ProgramError
from paddle2torch.parity.programs import compare_program
from paddle2torch.parity.reference import ReferenceRun
from paddle2torch.zoo.conversion import convert

PROGRAMS = SHARED / "programs"
THEMES = (
    "activation arithmetic boxes control convolution indexing linear networks pooling reduction resizing shape sorting"
)


@pytest.fixture
def convnet(tmp_path: Path) -> Path:
    convert("convnet", weights=program_cases.GOLDENS / "networks_convnet", output=tmp_path / "convnet", as_program=True)
    return tmp_path / "convnet"


@pytest.mark.parametrize("name", program_cases.names(program_cases.GOLDENS))
def test_a_program_of_no_known_network_computes_what_paddle_computed(name: str, tmp_path: Path) -> None:
    program_cases.check_case(program_cases.GOLDENS / name, tmp_path / "model")


@pytest.mark.parametrize("name", program_cases.names(PROGRAMS) or ["none here"])
def test_the_programs_beside_the_repository_compute_what_paddle_computed(name: str, tmp_path: Path) -> None:
    if not (PROGRAMS / name).is_dir():
        pytest.skip("../shared/programs is not here")
    program_cases.check_case(PROGRAMS / name, tmp_path / "model")


@pytest.fixture(scope="module")
def exported_now(tmp_path_factory: pytest.TempPathFactory, paddle: None) -> Path:
    """All tiny programs, exported and run by Paddle in one process."""
    folder = tmp_path_factory.mktemp("tiny")
    script = TESTS / "tiny_programs.py"
    done = subprocess.run([sys.executable, script, folder], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("theme", THEMES.split())
def test_every_operation_of_a_theme_computes_what_paddle_computes_now(
    theme: str, exported_now: Path, tmp_path: Path
) -> None:
    found = [name for name in program_cases.names(exported_now) if name.startswith(f"{theme}_")]
    assert len(found) >= 3
    for name in found:
        program_cases.check_case(exported_now / name, tmp_path / name)


def test_device_auto_and_a_wrong_one(convnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle2torch.device._best_and_said", lambda: torch.device("meta"))
    parameters = load_pretrained(convnet, device="auto").parameters()
    assert {parameter.device.type for parameter in parameters} == {"meta"}
    with pytest.raises(ConfigError, match=r"on the CPU, not .* meta"):
        load_pretrained(convnet, compiled=True, device="auto")


def test_layers_are_named_after_paddles_path_and_are_pytorchs_own(convnet: Path) -> None:
    model = load_pretrained(convnet)
    assert isinstance(model, Program)
    kinds = {
        name: type(module) for name, module in model.named_modules() if type(module).__module__.startswith("torch.nn")
    }
    assert nn.BatchNorm2d in kinds.values()
    assert nn.Linear in kinds.values()
    assert nn.ConvTranspose2d in kinds.values()
    assert nn.Dropout in kinds.values()
    assert any(name.endswith("Block.BatchNorm2D") or name.endswith("Block_1.BatchNorm2D") for name in kinds)
    assert "BatchNorm2D" in model.code
    assert not model.training


def test_inputs_go_by_position_or_by_name(convnet: Path) -> None:
    model = load_pretrained(convnet)
    x = torch.rand(1, 3, 16, 20)
    for a, b in zip(model(x), model(x0=x), strict=True):
        assert torch.equal(a, b)


def test_the_folder_holds_data_only_and_says_that_it_is_a_program(convnet: Path) -> None:
    assert sorted(path.name for path in convnet.iterdir()) == [
        "graph.json",
        "inference.json",
        "model.safetensors",
        "model_config.json",
    ]
    settings = json.loads((convnet / "model_config.json").read_text())
    assert settings["form"] == "program"
    assert settings["feeds"] == [{"name": "x0", "dtype": "float32", "shape": [-1, 3, 16, 20]}]
    with pytest.raises(ConfigError, match="program of a network that is not known here"):
        ModelConfig.load(convnet)


def test_a_note_says_that_the_network_is_not_known_and_named_only_refuses_it(tmp_path: Path) -> None:
    source = program_cases.GOLDENS / "networks_convnet"
    made = convert("net", weights=source, output=tmp_path / "a")
    assert any("converted as a program" in note for note in made.notes)
    with pytest.raises(Paddle2TorchError, match="none of the"):
        convert("net", weights=source, output=tmp_path / "b", named_only=True)
    assert not (tmp_path / "b").exists()


def test_training_gives_gradients_to_all_parameters(convnet: Path) -> None:
    model = load_pretrained(convnet)
    model.train()
    scores, maps = model(torch.rand(2, 3, 16, 20))
    (scores.square().sum() + maps.square().mean()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert model.training


def test_weights_come_back_as_paddle_has_them(convnet: Path) -> None:
    model = load_pretrained(convnet)
    from paddle2torch.converters.programs.convert import read_weights

    stored = read_weights(model.program, program_cases.GOLDENS / "networks_convnet" / "inference.pdiparams")
    given = model.parameters_of_program()
    assert set(stored) == set(given)
    for name, tensor in stored.items():
        assert torch.equal(tensor, given[name]), name


def test_a_smaller_type_is_used_throughout(convnet: Path) -> None:
    x = torch.rand(1, 3, 16, 20)
    expected = load_pretrained(convnet)(x)
    found = load_pretrained(convnet, precision="bf16")(x.bfloat16())
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).abs().max() < 0.05 * b.abs().max()


@pytest.mark.parametrize("name", ["networks_decoder", "legacy_pooling_average", "boxes_matrix_nms"])
def test_verify_compares_every_operation_with_paddle(name: str, tmp_path: Path, paddle: None) -> None:
    convert("case", weights=program_cases.GOLDENS / name, output=tmp_path / "model", as_program=True)
    found = verify(tmp_path / "model")
    assert found.holds, found.first_failure
    assert found.form == "program"
    assert found.layers


def test_verify_finds_a_weight_that_is_not_the_exports(convnet: Path, paddle: None) -> None:
    from paddle2torch.zoo.programs import save_program

    model = load_pretrained(convnet)
    assert isinstance(model, Program)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if name.endswith("Conv2D.weight")).mul_(1.01)
    save_program(convnet, model, convnet / "inference.json", overwrite=True)
    assert verify(convnet).holds  # against itself, written back
    found = verify(convnet, reference=program_cases.GOLDENS / "networks_convnet")
    assert not found.holds
    assert found.first_failure is not None
    assert found.first_failure.kind == "conv2d"


def test_a_reference_that_came_with_the_program_is_said(convnet: Path, paddle: None) -> None:
    shutil.copy(program_cases.GOLDENS / "networks_convnet" / "inference.pdiparams", convnet)
    found = verify(convnet, reference=convnet / "inference.json")
    assert found.holds
    assert "came with the model" in found.not_covered[0]


def test_the_way_back_to_paddle_is_byte_for_byte(convnet: Path, tmp_path: Path, paddle: None) -> None:
    result = export(convnet, "paddle", tmp_path / "out")
    source = program_cases.GOLDENS / "networks_convnet"
    for name in ("inference.json", "inference.pdiparams"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert result.checked_by is not None
    assert result.checked_by.startswith("Paddle")


def test_a_program_with_a_loop_becomes_a_graph_with_free_sizes(tmp_path: Path) -> None:
    source = program_cases.GOLDENS / "networks_decoder"
    convert("decoder", weights=source, output=tmp_path / "model", as_program=True)
    result = export(tmp_path / "model", "torch", tmp_path / "decoder.pt2")
    assert {check.shape[0] for check in result.checks} == {1, 2, 3}
    assert not result.notes
    loaded = torch.export.load(tmp_path / "decoder.pt2").module()
    with np.load(source / "io.npz") as values, torch.inference_mode():
        program_cases.check_outputs(loaded(torch.from_numpy(values["in:x0"])), values)


def test_a_program_is_not_exported_to_transformers(convnet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only to paddle, onnx, torch"):
        export(convnet, "transformers", tmp_path / "out")


def edited(folder: Path, change: Callable[[Any], object], target: Path) -> Path:
    """A copy of a golden with its program changed."""
    target.mkdir()
    document = json.loads((folder / "inference.json").read_text())
    change(document["program"]["regions"][0]["blocks"][0]["ops"])
    (target / "inference.json").write_text(json.dumps(document))
    if (folder / "inference.pdiparams").exists():
        (target / "inference.pdiparams").write_bytes((folder / "inference.pdiparams").read_bytes())
    return target


def test_unknown_operations_are_all_named_with_their_counts_and_nothing_is_written(tmp_path: Path) -> None:
    def change(ops: list[dict[str, object]]) -> None:
        for op in ops:
            op["#"] = {"1.hardswish": "1.hardswash", "1.softmax": "1.sharpmax"}.get(str(op["#"]), op["#"])

    source = edited(program_cases.GOLDENS / "networks_convnet", change, tmp_path / "source")
    with pytest.raises(Paddle2TorchError, match=r"hardswash \(2\), sharpmax \(1\)"):
        convert("net", weights=source, output=tmp_path / "out", as_program=True)
    assert not (tmp_path / "out").exists()


def test_random_operations_are_refused_by_name(tmp_path: Path) -> None:
    def change(ops: list[dict[str, object]]) -> None:
        next(op for op in ops if op["#"] == "1.softmax")["#"] = "1.gaussian"

    source = edited(program_cases.GOLDENS / "networks_convnet", change, tmp_path / "source")
    with pytest.raises(Paddle2TorchError, match=r"gaussian \(1\) draws random numbers"):
        convert("net", weights=source, output=tmp_path / "out", as_program=True)


def test_an_attribute_that_is_not_known_is_refused_and_never_left_out(tmp_path: Path) -> None:
    def change(ops: list[dict[str, object]]) -> None:
        attributes = next(op for op in ops if op["#"] == "1.softmax")["A"]
        assert isinstance(attributes, list)
        attributes.append({"N": "temperature", "AT": {"#": "0.a_f32", "D": 2.0}})

    source = edited(program_cases.GOLDENS / "networks_convnet", change, tmp_path / "source")
    with pytest.raises(Paddle2TorchError, match=r"softmax with 'temperature' \(1\)"):
        convert("net", weights=source, output=tmp_path / "out", as_program=True)


def test_names_in_a_graph_never_become_code(convnet: Path, tmp_path: Path) -> None:
    evil = '");__import__("pathlib").Path("owned").touch();("'
    graph = json.loads((convnet / "graph.json").read_text())
    graph["feeds"][0][0] = evil
    for node in graph["block"]["nodes"]:
        if "path" in node:
            node["path"] = f"/{evil}/{node['path']}"
    text = json.dumps(graph)
    (convnet / "graph.json").write_text(text)
    with pytest.raises(Paddle2TorchError):
        load_pretrained(convnet)(torch.rand(1, 3, 16, 20))  # the keys of its weights are others now
    assert not Path("owned").exists()
    from paddle2torch.model_zoo.programs.build import build
    from paddle2torch.model_zoo.programs.graph import load_graph

    built = build(load_graph(text, "graph"))
    assert "__import__(" not in built.module.code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version"),
        ({"format": "else"}, "not a program"),
        ({"fetches": ["nothing"]}, "no operation makes"),
        ({"parameters": [["x"]]}, "name"),
        ({"extra": 1}, "keys"),
    ],
)
def test_a_damaged_graph_is_refused_in_one_sentence(convnet: Path, change: dict[str, object], message: str) -> None:
    graph = json.loads((convnet / "graph.json").read_text())
    graph.update(change)
    (convnet / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(FileFormatError, match=message):
        load_pretrained(convnet)


def test_an_int8_form_of_a_program_does_not_exist(convnet: Path) -> None:
    with pytest.raises(ConfigError, match="quantized"):
        load_pretrained(convnet, quantized=True)


def test_paddle_rounds_half_to_even() -> None:
    with np.load(program_cases.GOLDENS / "arithmetic_round" / "io.npz") as values:
        assert values["in:x0"][:2].tolist() == [-2.5, -1.5]
        assert values["out:0"][:2].tolist() == [-2.0, -2.0]


def test_a_program_for_one_size_of_input_refuses_another(tmp_path: Path) -> None:
    convert(
        "case", weights=program_cases.GOLDENS / "convolution_transposed", output=tmp_path / "model", as_program=True
    )
    model = load_pretrained(tmp_path / "model")
    assert isinstance(model, Program)
    declared = [feed.shape for feed in model.config.feeds]
    inputs = [torch.zeros([3 if size == -1 else size + 4 for size in shape]) for shape in declared]
    with pytest.raises(ProgramError, match="for inputs of another size"):
        model(*inputs)


@pytest.mark.parametrize(("value", "fits"), [(1.0, True), (0.5, False)])
def test_what_old_programs_carry_of_unused_fusions_is_dropped(
    value: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LegacyFile._load_op

    def with_left_over(self: LegacyFile, data: memoryview, position: int) -> Op:
        op = read(self, data, position)
        return replace(op, attributes={**op.attributes, "Scale_in": value, "x_data_format": ""})

    monkeypatch.setattr(LegacyFile, "_load_op", with_left_over)
    if fits:
        program_cases.check_case(program_cases.GOLDENS / "legacy_pooling_average", tmp_path / "model")
        return
    with pytest.raises(Paddle2TorchError, match="Scale_in"):
        convert(
            "case", weights=program_cases.GOLDENS / "legacy_pooling_average", output=tmp_path / "model", as_program=True
        )


@pytest.mark.parametrize(
    ("attribute", "unused", "used"),
    [("fuse_relu", False, True), ("fuse_activation", "", "relu"), ("fuse_brelu_threshold", 6.0, 4.0)],
)
def test_an_activation_that_was_fused_into_a_convolution_is_refused(
    attribute: str, unused: object, used: object, tmp_path: Path, paddle_files: Any
) -> None:
    names = {"x": (1, 3, 4, 4), "o": (1, 4, 4, 4), "conv2d_0.w_0": (4, 3, 1, 1)}
    variables = [paddle_files.variable(name, shape, persistable=name.startswith("c")) for name, shape in names.items()]
    inputs = {"Input": ["x"], "Filter": ["conv2d_0.w_0"]}
    for value in (unused, used):
        operations = [
            paddle_files.operation("feed", {}, {"Out": ["x"]}, {"col": 0}),
            paddle_files.operation("conv2d", inputs, {"Output": ["o"]}, {attribute: value, "groups": 1}),
            paddle_files.operation("fetch", {"X": ["o"]}, {}, {"col": 0}),
        ]
        (tmp_path / f"{value}.pdmodel").write_bytes(paddle_files.program_desc(operations, variables))
    check_kinds(read_graph(tmp_path / f"{unused}.pdmodel"))
    with pytest.raises(ProgramError, match=attribute):
        check_kinds(read_graph(tmp_path / f"{used}.pdmodel"))


@pytest.mark.parametrize("name", ["ch_ppocr_mobile_v2.0_cls", "ch_PP-OCRv4_rec"])
def test_released_exports_of_years_ago_are_programs_too(name: str, tmp_path: Path) -> None:
    folder = SHARED / "models" / f"{name}_infer"
    if not folder.is_dir():
        pytest.skip("../shared/models is not here")
    convert("program", weights=folder, output=tmp_path / "program", as_program=True)
    convert(name, weights=folder, output=tmp_path / "named", named_only=True)
    x = torch.rand(2, 3, 48, 160, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        found, expected = load_pretrained(tmp_path / "program")(x), load_pretrained(tmp_path / "named")(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_statistics_of_several_devices_are_those_of_training_at_inference(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(program_cases.GOLDENS / "networks_convnet", source)
    text = (source / "inference.json").read_text(encoding="utf-8")
    assert ".batch_norm_" in text
    (source / "inference.json").write_text(text.replace(".batch_norm_", ".sync_batch_norm_"), encoding="utf-8")
    program_cases.check_case(source, tmp_path / "model")


def test_a_result_that_is_not_computed_is_refused_where_it_is_read() -> None:
    graph = read_graph(program_cases.GOLDENS / "sorting_topk" / "inference.json")
    _, fed = graph.feeds[0]
    kind = graph.types[fed]
    node = Node("dropout", (fed,), ("kept", "mask"), {"mode": "upscale_in_train"})
    types = {fed: kind, "kept": kind, "mask": kind}
    only = replace(graph, block=Block((), (node,), ()), types=types, feeds=graph.feeds[:1], fetches=("kept",))
    assert "dropout" in build(only).module.code
    with pytest.raises(ProgramError, match=r"dropout.*: its result 1 is read, which is not computed here"):
        build(replace(only, fetches=("kept", "mask")))


def of_one_input(node: Node, fetches: tuple[str, ...]) -> Graph:
    """A program of one operation on `x`: float32 (N, 5)."""
    graph = read_graph(program_cases.GOLDENS / "sorting_topk" / "inference.json")
    name, fed = graph.feeds[0]
    real, whole = TensorType((-1, 5), "float32"), TensorType((-1, 5), "int64")
    types = {fed: real, "kept": real, "place": whole}
    node = replace(node, inputs=(fed,))
    return replace(graph, block=Block((), (node,), ()), types=types, feeds=((name, fed),), fetches=fetches)


def test_a_place_that_a_median_of_two_does_not_have_is_refused_where_it_is_read() -> None:
    for kind in ("median", "nanmedian"):
        for attributes in ({"mode": "avg"}, {}):
            node = Node(kind, (), ("kept", "place"), {"axis": (1,), **attributes})
            with pytest.raises(ProgramError, match=r"its result 1 is read, which is not computed here"):
                build(of_one_input(node, ("kept", "place")))
            assert kind in build(of_one_input(node, ("kept",))).module.code
        node = Node(kind, (), ("kept", "place"), {"axis": (1,), "mode": "min"})
        assert kind in build(of_one_input(node, ("kept", "place"))).module.code


@pytest.mark.parametrize(
    ("kind", "attributes", "places"),
    [
        ("median", {"axis": (1,), "mode": "min"}, [[0], [4]]),
        ("nanmedian", {"axis": (1,), "mode": "min"}, [[0], [4]]),
        ("kthvalue", {"axis": 1, "k": 3, "keepdim": True}, [[0], [4]]),
        ("argsort", {"axis": 1}, [[2, 4, 0, 1, 3], [1, 4, 2, 0, 3]]),
    ],
)
@pytest.mark.parametrize("wrong", [False, True])
def test_verify_takes_any_place_of_equal_values_and_no_other(
    kind: str, attributes: dict[str, Any], places: list[list[int]], wrong: bool
) -> None:
    graph = of_one_input(Node(kind, (), ("kept", "place"), attributes), ("kept", "place"))
    name = graph.feeds[0][0]
    config = ProgramConfig("equals", "program", "inference.json", (Feed(name, "float32", (-1, 5)),), 2)
    program = build_program(graph, config, {})
    x = np.array([[2, 2, 1, 3, 1], [2, 1, 2, 3, 2]], np.float32)
    theirs = np.array(places, np.int64)
    if wrong:
        theirs[0, 0] = 3
    with torch.inference_mode():
        kept, ours = program(torch.from_numpy(x))
    assert not np.array_equal(ours.numpy(), theirs)
    run = ReferenceRun({"kept": kept.numpy(), "place": theirs}, [kept.numpy(), theirs], "0")
    found = compare_program(program, {name: x}, run, "made up")
    assert [layer.local.relative > 0 for layer in found.layers] == [False, wrong]
    assert found.holds is not wrong


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "gone", "size"),
    [
        ([1, -2], [3, 9], [1, 1], [], (2, 2, 5)),
        ([0, 1], [9, 6], [2, 3], [], (5,)),
        ([2, -4], [3, -1], [1, 1], [0], (3, 1)),
        ([-9, 3], [1, 3], [1, 1], [], (1, 1, 1, 5)),
        ([1, 0], [4, 6], [1, 2], [], ()),
    ],
)
def test_an_assignment_at_computed_places_is_that_at_known_ones(
    starts: list[int], ends: list[int], steps: list[int], gone: list[int], size: tuple[int, ...]
) -> None:
    """Both also where an axis goes, where the value has fewer or more axes, and where nothing is in the part."""
    random = torch.Generator().manual_seed(1)
    x, value = torch.rand(4, 6, 5, generator=random), torch.rand(size, generator=random)
    options: dict[str, Any] = {"axes": [0, 1], "decrease_axes": gone}
    known = set_value_with_tensor(x, value, starts, ends, steps, **options)
    computed = set_value_with_tensor(
        x, value, *([torch.tensor(p) for p in at] for at in (starts, ends)), steps, **options
    )
    places = tuple(slice(*part) for part in zip(starts, ends, steps, strict=True))
    expected = x.clone()
    expected[places] = value.unsqueeze(gone[0]) if gone else value
    assert torch.equal(known, expected)
    assert torch.equal(computed, expected)


class GrowingArray(nn.Module):
    """One tensor for each image of a batch, as a loop makes them."""

    def __init__(self, turns: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.loop, self.turns = WhileLoop(Turn()), turns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.zeros((), dtype=torch.int64)
        _, array = self.loop(first < x.shape[0], [first, []], [x], self.turns(x))
        return torch.stack(array)


class Turn(nn.Module):
    def forward(self, i: torch.Tensor, array: list[torch.Tensor], x: torch.Tensor) -> tuple[Any, ...]:
        following = i + 1
        return following < x.shape[0], following, [*array, x * following]


def test_a_loop_that_grows_an_array_is_captured_for_a_known_batch_and_any_other_size() -> None:
    free = torch.export.Dim.AUTO
    module, x = GrowingArray(lambda x: x.shape[0]).eval(), torch.rand(3, 4)
    graph = torch.export.export(module, (x,), dynamic_shapes=({1: free},), strict=False).module()
    for given in (x, torch.rand(3, 9)):
        assert module(given).shape == (3, *given.shape)
        assert torch.equal(graph(given), module(given))
    with pytest.raises(FixedSizeError, match="needs a fixed batch"):
        torch.export.export(module, (x,), dynamic_shapes=({0: free},), strict=False)
    for turns in (lambda _: None, lambda _: UNROLLED_AT_MOST + 1):
        with pytest.raises(ProgramError, match="cannot be exported"):
            torch.export.export(GrowingArray(turns).eval(), (x,), strict=False)


def test_regions_of_each_image_and_rows_that_values_decide_leave_as_a_graph(tmp_path: Path) -> None:
    """A loop over images that grows an array, proposals, pooling, and a condition whose branches differ in rows."""
    folder = program_cases.GOLDENS / "networks_regions"
    network = convert_program(folder, name="regions").network
    captured = capture(network)
    assert operations_of(captured.program)[0].startswith("generate_proposals, roi_align: this package computes them")
    with pytest.raises(ConversionError, match=r"generate_proposals, roi_align: an operation .*without a form in ONNX"):
        export_onnx(network, tmp_path / "regions.onnx")
    graph = captured.program.module()
    with np.load(folder / "io.npz") as values, torch.inference_mode():
        x = torch.from_numpy(values["in:x0"])
        program_cases.check_outputs(graph(x), values)
        for scale, regions, rows in ((-10.0, 5, 5), (5.0, 8, 3), (30.0, 2, 1)):
            found, expected = graph(x * scale), network(x * scale)
            assert [len(item) for item in found] == [rows, regions]
            assert all(map(torch.equal, found, expected))
    assert torch.equal(found[0], torch.full((1, 4), -1.0))  # none of two is sure: the row that says so


class Chosen(nn.Module):
    """The largest five of what is above 0, or all of it where it is no more than five."""

    def __init__(self, effects: bool = False) -> None:
        super().__init__()
        self.condition = Condition(Best(), All(), ((0,), (0,)), 1, effects)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = x[x > 0]
        (made,) = self.condition(above.shape[0] > 5, [above])
        return made  # type: ignore[no-any-return]


class Best(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (topk(x, k=5)[0],)


class All(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x,)


def test_a_branch_that_could_not_be_computed_does_not_stop_the_other() -> None:
    module = Chosen()
    x = torch.arange(-9.0, 1.0)
    graph = torch.export.export(module, (x,), strict=False).module()
    for offset, count in ((0.0, 0), (3.0, 3), (5.0, 5), (8.0, 5)):
        assert graph(x + offset).shape == (count,)
        assert torch.equal(graph(x + offset), module(x + offset))
    with pytest.raises(ProgramError, match="changes an array of tensors cannot be exported"):
        torch.export.export(Chosen(effects=True), (x,), strict=False)


class Masks(nn.Module):
    """As many rows as there are positive values, set into a larger tensor; numbers between -1 and 1 beside them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[x > 0].unsqueeze(1)
        count = torch.full((1,), 1, dtype=torch.int64) * rows.shape[0]
        made = set_value_with_tensor(torch.zeros(x.shape[0], 3), rows, [0], places_of(count), [1], axes=[0])
        return made + linspace(-1.0, 1.0, x.shape[0], dtype=torch.float32)[:, None]


def test_sizes_that_values_decide_and_free_ones_stay_so_in_a_graph() -> None:
    module = Masks()
    free = torch.export.Dim.AUTO
    graph = torch.export.export(module, (torch.arange(-2.0, 4.0),), dynamic_shapes=({0: free},), strict=False).module()
    for first, last in ((-2, 4), (-8, 0), (-8, 1), (1, 12)):
        x = torch.arange(float(first), float(last))
        torch.testing.assert_close(graph(x), module(x), rtol=0, atol=2e-7)


def test_what_is_tried_after_a_graph_has_other_free_sizes(convnet: Path) -> None:
    """The batch alone is free here, so that "batch" would be the graph of "all" again."""
    assert less_free(load_pretrained(convnet), "all") == ["sides", "none"]
    assert less_free(load_pretrained(convnet), "sides") == []
