"""Checkpoints that are written: Python's own unpickler and ours read back what went in."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.converters.paddle_files.pickler import write_pdparams

RANDOM = np.random.Generator(np.random.PCG64(3))
ARRAYS = {
    "weight": RANDOM.normal(size=(3, 5)).astype(np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big endian": np.arange(3, dtype=">f8"),
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.float16),
    "flags": np.array([True, False]),
    "bytes": np.arange(-3, 3, dtype=np.int8),
    "bfloat16": RANDOM.integers(0, 1 << 16, (4,), dtype=np.uint16),
    "not a number": np.array([np.nan, -0.0, np.inf], dtype=np.float32),
    "ключ.权重": np.zeros(1, dtype=np.float64),
}


@pytest.fixture
def written() -> bytes:
    file = io.BytesIO()
    write_pdparams(file, ARRAYS)
    return file.getvalue()


def test_python_reads_it_and_in_order(written: bytes) -> None:
    # The names are numpy 1's, which numpy 2 has kept as an alias.
    found = pickle.loads(written, encoding="latin1")
    table = found.pop("StructuredToParameterName@@")
    assert list(found) == list(ARRAYS)
    assert table == {name: name for name in ARRAYS}
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)
        assert found[name].tobytes() == array.astype(found[name].dtype).tobytes()


def test_we_read_it(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(written)
    found = read_pdparams(path)
    assert list(found.tensors) == list(ARRAYS)
    assert found.bfloat16 == {"bfloat16"}
    assert all(found.tensors[name].shape == array.shape for name, array in ARRAYS.items())


def test_it_names_what_both_numpys_have(written: bytes) -> None:
    named = {argument for code, argument, _ in pickletools.genops(written) if code.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
