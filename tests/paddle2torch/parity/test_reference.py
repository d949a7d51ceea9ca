"""The process that runs Paddle: its values, its errors, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from material import SHARED

from paddle2torch.model_zoo.errors import VerificationError
from paddle2torch.parity import reference
from paddle2torch.parity._paddle_reference import (
    RequestError,
    check_place,
    choose_writer,
    compare_operations,
    match_inputs,
    stored_operations,
)
from paddle2torch.parity.reference import ReferenceRun, Wanted, run_program

MODELS = SHARED / "models"
needs_paddle = pytest.mark.skipif(importlib.util.find_spec("paddle") is None, reason="needs paddlepaddle")
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason="the shared models are not here")

# Writes one program in both formats, with an operation that overwrites its input:
# image -> scale(2) -> relu in place -> scale(3). Values at -1: -2 before the relu, 0 after it.
BUILD = """
import sys
from pathlib import Path
import paddle

folder = Path(sys.argv[1])
paddle.enable_static()
program = paddle.static.Program()
with paddle.static.program_guard(program):
    image = paddle.static.data("image", [-1, 3, 48, -1], "float32")
    doubled = paddle.scale(image, 2.0)
    result = paddle.scale(paddle._C_ops.relu_(doubled), 3.0)
executor = paddle.static.Executor(paddle.CPUPlace())
paddle.static.save_inference_model(str(folder / "inference"), [image], [result], executor, program=program)

def legacy(*saved):
    program = paddle.static.Program()
    block = program.global_block()
    types = paddle.base.core.VarDesc.VarType
    block.create_var(name="feed", type=types.FEED_MINIBATCH, persistable=True)
    block.create_var(name="fetch", type=types.FETCH_LIST, persistable=True)
    for name in ("image", "a", "b"):
        block.create_var(name=name, shape=[-1, 3, 48, -1], dtype="float32")
    block.append_op(type="feed", inputs={"X": ["feed"]}, outputs={"Out": ["image"]}, attrs={"col": 0})
    block.append_op(type="scale", inputs={"X": ["image"]}, outputs={"Out": ["a"]}, attrs={"scale": 2.0})
    block.append_op(type="relu", inputs={"X": ["a"]}, outputs={"Out": ["a"]})
    block.append_op(type="scale", inputs={"X": ["a"]}, outputs={"Out": ["b"]}, attrs={"scale": 3.0})
    for path in saved:
        block.append_op(type="save", inputs={"X": ["b"]}, outputs={}, attrs={"file_path": str(path)})
    block.append_op(type="fetch", inputs={"X": ["b"]}, outputs={"Out": ["fetch"]}, attrs={"col": 0})
    return program.desc.serialize_to_string()

with paddle.pir_utils.OldIrGuard():
    (folder / "inference.pdmodel").write_bytes(legacy())
    (folder / "hostile.pdmodel").write_bytes(legacy(folder / "written"))
(folder / "inference.pdiparams").write_bytes(b"")
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the requests go; whatever a test does, nothing is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def image() -> np.ndarray:
    """2 at the first element, -1 at the last."""
    image = np.full((1, 3, 48, 8), -1, dtype=np.float32)
    image[0, 0] = 2
    return image


def ends(array: np.ndarray) -> tuple[float, float]:
    return float(array.flat[0]), float(array.flat[-1])


@needs_paddle
def test_pir_value_is_that_of_its_own_operation(built: Path, image: np.ndarray) -> None:
    files = built / "inference.json", built / "inference.pdiparams"
    run = run_program(*files, image, None)
    operations = stored_operations(json.loads(files[0].read_text()))
    values = {kind: run.values[str(results[0])] for kind, _, results in operations if kind not in ("scale", "fetch")}
    scaled = [run.values[str(results[0])] for kind, _, results in operations if kind == "scale"]
    assert ends(values["data"]) == (2, -1)
    assert ends(scaled[0]) == (4, -2)  # `relu_` has overwritten it since
    assert ends(values["relu_"]) == (4, 0)
    assert ends(scaled[1]) == ends(run.outputs[0]) == (12, 0)
    np.testing.assert_array_equal(values["data"], image)


@needs_paddle
def test_pir_value_fetched_alone(built: Path, image: np.ndarray) -> None:
    files = built / "inference.json", built / "inference.pdiparams"
    operations = stored_operations(json.loads(files[0].read_text()))
    position = next(index for index, (kind, _, _) in enumerate(operations) if kind == "relu_")
    name = str(operations[position][2][0])
    run = run_program(*files, {"image": image}, [Wanted(name, position)])
    assert list(run.values) == [name]
    assert ends(run.values[name]) == (4, 0)


@needs_paddle
def test_legacy_name_written_twice(built: Path, image: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    files = built / "inference.pdmodel", built / "inference.pdiparams"
    run = run_program(*files, image, [Wanted("a", 1), Wanted("b", 99), Wanted("image", 0)])
    assert ends(run.values["a"]) == (4, -2)
    assert ends(run.values["b"]) == ends(run.outputs[0]) == (12, 0)
    assert ends(run.values["image"]) == (2, -1)
    assert capfd.readouterr() == ("", "")


def test_legacy_position_chooses_among_writers() -> None:
    writers = {"a": [1, 2], "b": [3]}
    assert [choose_writer(writers, "a", position) for position in (1, 2)] == [1, 2]
    assert choose_writer(writers, "b", 99) == 3
    with pytest.raises(RequestError, match="'a' is written by operations 1, 2, not by 3"):
        choose_writer(writers, "a", 3)
    with pytest.raises(RequestError, match="no operation of the program computes a value 'c'"):
        choose_writer(writers, "c", 0)


def test_pir_values_must_be_where_they_are_said_to_be() -> None:
    stored = [("data", (), (1,)), ("relu", (1,), (2,))]
    check_place(stored, "2", 1, 0)
    for place in ((0, 0), (1, 1), (1, -1)):
        with pytest.raises(RequestError, match=f"value '2' is not result {place[1]} of operation {place[0]}"):
            check_place(stored, "2", *place)
    for position in (-1, 2):
        with pytest.raises(RequestError, match=f"2 operations, none at position {position}"):
            check_place(stored, "2", position, 0)


@needs_paddle
def test_program_with_a_hand_on_the_disk_is_not_executed(built: Path, image: np.ndarray) -> None:
    with pytest.raises(VerificationError, match=r"hostile.pdmodel: .*that only compute \(save\): not executed"):
        run_program(built / "hostile.pdmodel", built / "inference.pdiparams", image, [])
    assert not (built / "written").exists()


def model_run(name: str, x: np.ndarray) -> ReferenceRun:
    program = MODELS / name / "inference.json"
    if not program.exists():
        program = MODELS / name / "inference.pdmodel"
    return run_program(program, MODELS / name / "inference.pdiparams", x, None)


def large_floats(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The feature maps, in order: the two formats differ in the small values that carry shapes and biases."""
    return [value for value in values.values() if value.dtype == np.float32 and value.ndim >= 3 and value.size > 5000]


@needs_paddle
@needs_models
def test_english_recogniser_in_both_formats() -> None:
    with np.load(SHARED / "reference" / "en_PP-OCRv4_rec.eval.npz") as golden:
        x, expected = golden["x"][:1], golden["output"][:1]
    pir = model_run("en_PP-OCRv4_mobile_rec_infer", x)
    legacy = model_run("en_PP-OCRv4_rec_infer", x)
    np.testing.assert_allclose(pir.outputs[0], legacy.outputs[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pir.outputs[0], expected, rtol=0, atol=1e-5)

    maps = list(zip(large_floats(pir.values), large_floats(legacy.values), strict=True))
    assert len(maps) > 200
    for one, other in maps:
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()

    # Each value is what its own operation makes of its operands.
    compute = {
        "relu": lambda v: np.maximum(v, 0),
        "hardswish": lambda v: v * np.clip(v + 3, 0, 6) / 6,
        "swish": lambda v: v / (1 + np.exp(-v)),
        "hardsigmoid": lambda v: np.clip(v / 6 + 0.5, 0, 1),
    }
    program = json.loads((MODELS / "en_PP-OCRv4_mobile_rec_infer" / "inference.json").read_text())
    checked = 0
    for kind, operands, results in stored_operations(program):
        if kind in compute:
            wanted = compute[kind](pir.values[str(operands[0])].astype(np.float64))
            np.testing.assert_allclose(pir.values[str(results[0])], wanted, rtol=1e-5, atol=1e-5)
            checked += 1
        elif kind == "add" and str(operands[1]) in pir.values:
            total = pir.values[str(operands[0])] + pir.values[str(operands[1])]
            np.testing.assert_array_equal(pir.values[str(results[0])], total)
            checked += 1
    assert checked > 40


@needs_paddle
@needs_models
@pytest.mark.parametrize(
    ("name", "shape", "output", "count"),
    [
        ("ch_PP-OCRv4_rec_infer", (2, 3, 48, 101), (2, 13, 6625), 332),
        ("ch_PP-OCRv4_det_infer", (1, 3, 64, 96), (1, 1, 64, 96), 311),
        ("PP-OCRv4_mobile_det_infer", (1, 3, 64, 96), (1, 1, 64, 96), 432),
        ("ch_ppocr_mobile_v2.0_cls_infer", (3, 3, 48, 192), (3, 2), 183),
    ],
)
def test_every_value_of_the_real_programs(
    name: str, shape: tuple[int, ...], output: tuple[int, ...], count: int
) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    run = model_run(name, x)
    assert [array.shape for array in run.outputs] == [output]
    assert len(run.values) == count
    assert all(np.isfinite(value).all() for value in run.values.values())
    # The output is an intermediate value too, fetched from another copy.
    assert any(np.array_equal(value, run.outputs[0]) for value in run.values.values())


@pytest.fixture
def program(tmp_path: Path) -> tuple[Path, Path]:
    """Files that are never read, for stand-ins of Paddle that end before."""
    (tmp_path / "inference.pdmodel").touch()
    (tmp_path / "inference.pdiparams").touch()
    return tmp_path / "inference.pdmodel", tmp_path / "inference.pdiparams"


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Let `import paddle` in the process run `source`."""
    (tmp_path / "stand_in").mkdir()
    (tmp_path / "stand_in" / "paddle.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))


def test_paddle_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: tuple[Path, Path], image: np.ndarray
) -> None:
    stand_in(tmp_path, monkeypatch, "raise ModuleNotFoundError(\"No module named 'paddle'\", name='paddle')")
    with pytest.raises(VerificationError, match=r"paddlepaddle is not installed: .*\[paddle\].* --reference"):
        run_program(*program, image, [])


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV\n  last words"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL\n  last words"),
        ("os._exit(7)", "failed with status 7\n  last words"),
        ("raise ImportError('libgomp.so.1 is missing')", "libgomp.so.1 is missing"),
        ("sys.exit('torch loaded' if 'torch' in sys.modules else 'no torch')", "last words\n  no torch"),
    ],
)
def test_crash_says_how_and_the_last_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: tuple[Path, Path],
    image: np.ndarray,
    ending: str,
    message: str,
) -> None:
    source = f"import os, signal, sys\nprint('last words', file=sys.stderr, flush=True)\n{ending}\n"
    stand_in(tmp_path, monkeypatch, source)
    with pytest.raises(VerificationError) as caught:
        run_program(*program, image, [])
    assert str(caught.value).startswith(f"{program[0]}: the process that runs Paddle ")
    assert message in str(caught.value)


def test_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: tuple[Path, Path], image: np.ndarray
) -> None:
    stand_in(tmp_path, monkeypatch, "import time\ntime.sleep(60)\n")
    with pytest.raises(VerificationError, match=r"did not finish within 0\.5 s"):
        run_program(*program, image, [], timeout=0.5)


def test_crash_after_the_report_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: tuple[Path, Path], image: np.ndarray
) -> None:
    source = """
import json, os, signal, sys
from safetensors.numpy import load_file, save_file
request = json.load(open(sys.argv[1]))
image = load_file(request["inputs"])["input:0"]
save_file({"value:0": image, "output:0": image + 1}, request["values"])
json.dump({"paddle_version": "0", "values": ["x"], "outputs": 1}, open(request["report"], "w"))
os.kill(os.getpid(), signal.SIGSEGV)
"""
    stand_in(tmp_path, monkeypatch, source.replace("json.dump(", "file = open(request['report'], 'w'); json.dump(", 1))
    run = run_program(*program, image, None)
    np.testing.assert_array_equal(run.values["x"], image)
    np.testing.assert_array_equal(run.outputs[0], image + 1)


def test_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLAGS_use_cinn", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PADDLE_TRAINERS_NUM", "KMP_AFFINITY"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("HOME", "/home/reader")
    environment = reference._environment(legacy=True, threads=3)
    assert environment["HOME"] == "/home/reader"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["FLAGS_enable_pir_api"] == environment["FLAGS_use_cinn"] == "0"
    assert not {"PADDLE_TRAINERS_NUM", "KMP_AFFINITY"} & set(environment)
    assert reference._environment(legacy=False, threads=1)["FLAGS_enable_pir_api"] == "1"


def test_requests_that_start_no_process(program: tuple[Path, Path], image: np.ndarray) -> None:
    with pytest.raises(VerificationError, match=r"nothing.json: no such file"):
        run_program(program[0].with_name("nothing.json"), program[1], image, [])
    with pytest.raises(VerificationError, match="threads must be at least 1"):
        run_program(*program, image, [], threads=0)
    with pytest.raises(VerificationError, match="wanted twice"):
        run_program(*program, image, [Wanted("a", 1), Wanted("a", 2)])


def test_inputs_are_compared_with_the_declaration(image: np.ndarray) -> None:
    declared = {"image": ((-1, 3, 48, -1), "float32")}
    assert match_inputs({"input:0": image}, None, declared) == {"image": image}
    taller = np.zeros((2, 3, 64, 7), np.float32)
    assert match_inputs({"input:0": taller}, ["image"], declared) == {"image": taller}
    wrong = {
        "is float64, the program takes float32": image.astype(np.float64),
        r"has shape \(3, 48, 8\), the program takes \(-1, 3, 48, -1\)": image[0],
        r"has shape \(1, 1, 48, 8\)": image[:, :1],
        r"has shape \(0, 3, 48, 8\)": image[:0],
    }
    for message, array in wrong.items():
        with pytest.raises(RequestError, match=message):
            match_inputs({"input:0": array}, None, declared)
    with pytest.raises(RequestError, match="inputs are image; given were x"):
        match_inputs({"input:0": image}, ["x"], declared)
    with pytest.raises(RequestError, match="2 inputs, give them by name: image, size"):
        match_inputs({"input:0": image}, None, declared | {"size": ((-1, 2), "float32")})


def test_program_that_the_loader_changed() -> None:
    stored = [("data", (), (1,)), ("relu", (1,), (2,)), ("sigmoid", (1,), (3,)), ("add", (2, 3), (4,))]
    compare_operations(stored, list(stored), "3.3.1")
    swapped = [stored[0], ("sigmoid", (1,), (2,)), ("relu", (1,), (3,)), stored[3]]
    with pytest.raises(RequestError, match=r"operation 1 is relu .* in the file and sigmoid .* when loaded"):
        compare_operations(stored, swapped, "3.3.1")
    rewired = [*stored[:3], ("add", (3, 2), (4,))]
    with pytest.raises(RequestError, match="operation 3 is add"):
        compare_operations(stored, rewired, "3.3.1")
    with pytest.raises(RequestError, match="4 operations in the file, 3 when loaded"):
        compare_operations(stored, stored[:3], "3.3.1")


@pytest.mark.parametrize("document", [{}, [], {"program": {"regions": []}}, {"program": None}, 3])
def test_json_that_is_no_program(document: object) -> None:
    with pytest.raises(RequestError, match="no PIR program"):
        stored_operations(document)
