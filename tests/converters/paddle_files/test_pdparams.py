"""`.pdparams`: what Paddle and numpy write is read back bit for bit, at every protocol and under both numpys."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError

PROTOCOLS = (2, 3, 4, 5)
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64")
TRAINING = ("en_PP-OCRv4_rec_train", "ch_PP-OCRv4_det_train", "ch_ppocr_mobile_v2.0_cls_train")


def some_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tensors = {f"layer.{dtype}": (random.normal(size=(3, 5)) * 9).astype(dtype) for dtype in DTYPES}
    return tensors | {
        "large": random.normal(size=(70, 300)).astype("float32"),  # its own frame, and more than one text can hold
        "flat": random.normal(size=16).astype("float32"),
        "one": np.ones(1, "float32"),
        "scalar": np.array(7.5, "float32"),
        "empty": np.zeros((0, 3), "float32"),
        "fortran": np.asfortranarray(random.normal(size=(4, 6))),
        "sliced": np.arange(20, dtype="int64")[::2],
        "big_endian": np.arange(4, dtype=">f4"),
    }


def save(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def rename_numpy(data: bytes, prefix: bytes) -> bytes:
    """`data`, a pickle of small arrays, as the other numpy writes it: `prefix` is `numpy.core` or `numpy._core`."""
    for written in (b"numpy._core", b"numpy.core"):
        for module in (b".multiarray", b".numeric"):
            old, new = written + module, prefix + module
            data = data.replace(b"c" + old + b"\n", b"c" + new + b"\n")
            data = data.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
    if data[1] >= 4:  # one frame, whose length has changed
        data = data[:3] + struct.pack("<Q", len(data) - 11) + data[11:]
    return data


def assert_same(read: np.ndarray, written: np.ndarray) -> None:
    native = written.dtype.newbyteorder("=")
    assert read.dtype == native
    assert read.shape == written.shape
    assert read.tobytes() == written.astype(native).tobytes()
    assert not read.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    tensors = some_tensors()
    names = {name: f"static_{index}" for index, name in enumerate(tensors)}
    path = save(tmp_path / "a.pdparams", {**tensors, "StructuredToParameterName@@": names}, protocol)
    checkpoint = read_pdparams(path)
    assert list(checkpoint.tensors) == list(tensors)
    for name, array in tensors.items():
        assert_same(checkpoint.tensors[name], array)
    assert checkpoint.static_names == names
    assert checkpoint.bfloat16 == frozenset()
    assert checkpoint.extras == {}


@pytest.mark.parametrize("prefix", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_numpys(tmp_path: Path, protocol: int, prefix: bytes) -> None:
    tensors = {"w": np.arange(6, dtype="float32").reshape(2, 3), "b": np.arange(10, dtype="float64")[::3]}
    data = rename_numpy(pickle.dumps({**tensors, "score": np.float64(0.5)}, protocol), prefix)
    assert prefix in data
    path = tmp_path / "a.pdparams"
    path.write_bytes(data)
    checkpoint = read_pdparams(path)
    assert_same(checkpoint.tensors["w"], tensors["w"])
    assert_same(checkpoint.tensors["b"], tensors["b"])
    assert checkpoint.extras == {"score": 0.5}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_are_views_of_the_file(tmp_path: Path, protocol: int) -> None:
    stored = np.arange(1, 1001, dtype="float32")
    path = save(tmp_path / "a.pdparams", {"w": stored}, protocol)
    array = read_pdparams(path).tensors["w"]
    position = path.read_bytes().index(stored.tobytes())
    with path.open("r+b") as file:  # a mapping shows what happens to its file, a copy would not
        file.seek(position)
        file.write(np.float32(5).tobytes())
    assert array[0] == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tuples_and_what_lies_beside_the_tensors(tmp_path: Path, protocol: int) -> None:
    weight = np.arange(4, dtype="float32")
    saved = OrderedDict(
        weight=("linear_0.w_0", weight),
        epoch=-70000,
        best=[{"acc": 0.75, "norm_edit_dis": None}, (True, b"raw")],
        steps=2**40,
        note="x" * 5000,
        score=np.float32(0.25),
    )
    checkpoint = read_pdparams(save(tmp_path / "a.pdparams", saved, protocol))
    assert_same(checkpoint.tensors["weight"], weight)
    assert checkpoint.static_names == {"weight": "linear_0.w_0"}
    del saved["weight"]
    assert checkpoint.extras == saved
    assert type(checkpoint.extras["score"]) is float


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bfloat16_is_uint16(tmp_path: Path, protocol: int) -> None:
    saved = {"half": np.array([0x3F80, 0xC000], "uint16"), "full": np.ones(2, "float32")}
    checkpoint = read_pdparams(save(tmp_path / "a.pdparams", saved, protocol))
    assert checkpoint.bfloat16 == {"half"}
    assert_same(checkpoint.tensors["half"], saved["half"])


@pytest.mark.parametrize("protocol", [2, 3])
def test_slices_of_big_tensors_are_joined(tmp_path: Path, protocol: int) -> None:
    whole = np.arange(35, dtype="float32").reshape(5, 7)
    flat = whole.flatten()
    saved = {
        "small": np.ones(3, "float32"),
        "big@@.0": flat[:16],
        "big@@.1": flat[16:32],
        "big@@.2": flat[32:],
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (5, 7), "slices": ["big@@.0", "big@@.1", "big@@.2"]}},
    }
    checkpoint = read_pdparams(save(tmp_path / "a.pdparams", saved, protocol))
    assert list(checkpoint.tensors) == ["small", "big"]
    assert_same(checkpoint.tensors["big"], whole)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"OriginShape": (5, 7), "slices": ["big@@.0", "big@@.9"]}, "missing"),
        ({"OriginShape": (5, 7), "slices": ["big@@.0", "big@@.0"]}, "missing"),
        ({"OriginShape": (5, 7), "slices": []}, "missing"),
        ({"OriginShape": (5, 8), "slices": ["big@@.0"]}, r"shape \(5, 8\)"),
        ({"OriginShape": ("5", 7), "slices": ["big@@.0"]}, "shape"),
        ({"OriginShape": (-1, 7), "slices": ["big@@.0"]}, "shape"),
        ({"OriginShape": (2**70, 7), "slices": ["big@@.0"]}, "shape"),
        ({"OriginShape": (1,) * 40, "slices": ["big@@.0"]}, "unknown way"),
        ({"OriginShape": (5, 7)}, "unknown way"),
        ("big@@.0", "unknown way"),
    ],
)
def test_slices_that_do_not_fit(tmp_path: Path, description: Any, message: str) -> None:
    saved = {"big@@.0": np.arange(35, dtype="float32"), "UnpackBigParamInfor@@": {"big": description}}
    with pytest.raises(FileFormatError, match=message):
        read_pdparams(save(tmp_path / "a.pdparams", saved, 2))


def test_thousands_of_tiny_tensors(tmp_path: Path) -> None:
    """The ratio of objects to bytes is worst here; the guard against bombs must let it pass."""
    for protocol in PROTOCOLS:
        for count in (1, 3000):
            saved = {f"w{index}": np.array([index], "float32") for index in range(count)}
            checkpoint = read_pdparams(save(tmp_path / "a.pdparams", saved, protocol))
            assert [float(array[0]) for array in checkpoint.tensors.values()] == list(range(count))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2], 4), "holds a list"),
        (pickle.dumps(np.ones(3), 4), "holds a tensor"),
        (pickle.dumps({"epoch": 3, "lr": 0.1}, 4), "no tensors, only 'epoch', 'lr'"),
        (pickle.dumps({}, 4), "no tensors, only nothing"),
        (pickle.dumps({"w": np.ones(2), "StructuredToParameterName@@": {"w": 3}}, 4), "does not map names to names"),
        (pickle.dumps({3: np.ones(2)}, 4), "3 is not a name"),
        (pickle.dumps({"\x1b[31m": np.ones(2)}, 4), r"'\\x1b\[31m' is not a name"),
        (pickle.dumps({"w": np.array(["a"])}, 4), "'U1'"),
        (pickle.dumps({"w": np.array([{}], object)}, 4), "'O8'"),
        (pickle.dumps({"w": np.zeros(2, [("a", "f4")])}, 4), "'V4'"),
        (pickle.dumps({"w": {1, 2}}, 4), "EMPTY_SET"),
        (pickle.dumps({"w": np.ones(2)}, 0), "is not a pickle"),
        (pickle.dumps({"w": np.ones(2)}, 4) + b"\0", "1 bytes follow the end"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1f\x8brest of a gzip", "compressed"),
        (struct.pack("<Q", 100) + b'{"a":{}}', "safetensors"),
        (bytes(40), r"is a \.pdiparams"),
        (b"<!DOCTYPE html>", "is not a pickle: it begins with b'<!DO'"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pdparams"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_pdparams(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Paddle2TorchError, match="no such file"):
        read_pdparams(tmp_path / "missing.pdparams")
    with pytest.raises(Paddle2TorchError, match="is a directory"):
        read_pdparams(tmp_path)
    empty = tmp_path / "empty.pdparams"
    empty.touch()
    with pytest.raises(FileFormatError, match="is empty"):
        read_pdparams(empty)


def test_out_of_band_buffers_are_refused(tmp_path: Path) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps({"w": np.ones(4)}, 5, buffer_callback=buffers.append)
    path = tmp_path / "a.pdparams"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="out-of-band"):
        read_pdparams(path)


@pytest.mark.parametrize("name", TRAINING)
def test_real_checkpoints_equal_numpys_own_reading(shared: Path, name: str) -> None:
    path = shared / "models" / name / "best_accuracy.pdparams"
    with path.open("rb") as file:
        expected = pickle.load(file)  # our own file
    names = expected.pop("StructuredToParameterName@@")
    checkpoint = read_pdparams(path)
    assert list(checkpoint.tensors) == list(expected)
    for key, array in expected.items():
        assert_same(checkpoint.tensors[key], array)
    assert checkpoint.static_names == names
    assert checkpoint.extras == {}


def test_count_of_the_english_recogniser(shared: Path) -> None:
    assert len(read_pdparams(shared / "models/en_PP-OCRv4_rec_train/best_accuracy.pdparams").tensors) == 968


WRITE_WITH_PADDLE = """
import inspect, pickle, sys
import numpy as np
import paddle
from paddle.framework import io_utils

folder = sys.argv[1]
values = np.array([[0.5, 1, 2], [3, 4, 5]], "float32")
state = {name: paddle.to_tensor(values).astype(name) for name in
         ("bfloat16", "float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")}
state["scalar"] = paddle.to_tensor(3.0)
state["empty"] = paddle.zeros([0, 3])
for protocol in (2, 3, 4):
    paddle.save(state, f"{folder}/state.{protocol}.pdparams", protocol=protocol)
    paddle.save({**state, "epoch": 5}, f"{folder}/epoch.{protocol}.pdparams", protocol=protocol)

# Paddle's own cutting of big tensors, with the limit of 2^30 bytes lowered to 2^8.
source = inspect.getsource(io_utils._unpack_saved_dict)
assert source.count("2**30") == 1
scope = vars(io_utils).copy()
exec(source.replace("2**30", "2**8"), scope)
big = {"big": np.arange(200, dtype="float32").reshape(8, 25), "small": np.ones(3, "float32")}
np.savez(f"{folder}/big.npz", **big)
with open(f"{folder}/big.pdparams", "wb") as file:
    pickle.dump(scope["_unpack_saved_dict"](dict(big), 2), file, protocol=2)
np.savez(f"{folder}/state.npz", **{name: tensor.numpy() for name, tensor in state.items()})
np.savez(f"{folder}/names.npz", **{name: tensor.name for name, tensor in state.items()})
"""


@pytest.fixture(scope="module")
def written_by_paddle(paddle: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paddle")
    subprocess.run([sys.executable, "-c", WRITE_WITH_PADDLE, str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["state", "epoch"])
def test_what_paddle_writes(written_by_paddle: Path, kind: str, protocol: int) -> None:
    """`state`: arrays and a name table. `epoch`: with a number among the tensors Paddle writes tuples and no table."""
    checkpoint = read_pdparams(written_by_paddle / f"{kind}.{protocol}.pdparams")
    expected = np.load(written_by_paddle / "state.npz")
    assert list(checkpoint.tensors) == expected.files
    for name in expected.files:
        assert_same(checkpoint.tensors[name], expected[name])
    assert checkpoint.bfloat16 == {"bfloat16"}
    names = np.load(written_by_paddle / "names.npz")
    assert checkpoint.static_names == {name: str(names[name]) for name in names.files}
    assert checkpoint.extras == ({"epoch": 5} if kind == "epoch" else {})


def test_paddles_own_slices_are_joined(written_by_paddle: Path) -> None:
    checkpoint = read_pdparams(written_by_paddle / "big.pdparams")
    expected = np.load(written_by_paddle / "big.npz")
    assert set(checkpoint.tensors) == {"big", "small"}
    for name in expected.files:
        assert_same(checkpoint.tensors[name], expected[name])
