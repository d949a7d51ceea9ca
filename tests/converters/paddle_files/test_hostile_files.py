"""Hostile and broken files: a clear error or a successful reading, never code, never a hang, never much memory."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle2torch.converters.paddle_files.pdiparams import read_pdiparams
from paddle2torch.converters.paddle_files.pdmodel import read_pdmodel
from paddle2torch.converters.paddle_files.pdparams import read_pdparams
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError

MIB = 1 << 20
FLIPS = 1000  # in each of the four formats
SECONDS = 5.0  # for one file of at most a megabyte: hundreds of times what it needs


@contextmanager
def bounded(limit: int) -> Iterator[None]:
    """What happens inside allocates at most `limit` bytes at any time, and soon ends."""
    start = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak:,} bytes allocated where {limit:,} are allowed"
    assert time.process_time() - start < SECONDS


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: Path, message: str = ".", reader: Callable[[Path], Any] = read_pdparams, limit: int = MIB) -> None:
    """`reader` refuses the file with a message that names it, at no cost, and leaves its folder as it was."""
    before = sorted(path.parent.iterdir())
    with bounded(limit), pytest.raises(FileFormatError, match=message) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert sorted(path.parent.iterdir()) == before


# Code.


class Call:
    """Pickles into a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_calls_are_named_and_not_made(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    path = tmp_path / "a.pdparams"
    for attack, name in [
        (Call(os.system, command), r"(posix|nt)\.system"),
        (Call(eval, f"__import__('os').system({command!r})"), r"(builtins|__builtin__)\.eval"),
        (Call(exec, command), r"(builtins|__builtin__)\.exec"),
        (Call(open, str(marker), "w"), r"_?io\.open"),
        (Call(getattr, "name", "upper"), r"(builtins|__builtin__)\.getattr"),
        (Call(np.load, str(marker), None, True), r"numpy\.load"),
        (Call(np.fromfile, str(marker)), r"numpy(\._?core\.multiarray)?\.fromfile"),
        (Call(print, Call(os.system, command)), r"(builtins\.print|__builtin__\.print|(posix|nt)\.system)"),
        (Call(bytearray, 2**60), r"(builtins|__builtin__)\.bytearray"),
        (Call(np.zeros, 2**60), r"numpy(\._?core\.multiarray)?\.zeros"),
    ]:
        for saved in ({"w": attack}, {"w": np.ones(2), "deep": [{"a": (attack,)}]}, attack):
            write(path, pickle.dumps(saved, protocol))
            refused(path, rf"would call {name}, which no Paddle checkpoint needs. Nothing was run")
    assert not marker.exists()


def test_known_names_in_other_calls(tmp_path: Path) -> None:
    """The tokens are not a way round the limits: each is understood in the one form that numpy writes."""
    path = tmp_path / "a.pdparams"
    tuple_of_range = Call(tuple, range(3))
    for attack, message in [
        (Call(np.ndarray, (2**60,)), "calls numpy.ndarray in a way"),
        (Call(np.dtype, "O"), "calls numpy.dtype in a way"),
        (Call(np.dtype, "O8", False, True), "'O8', which are not numbers"),
        (tuple_of_range, "builtins.range|__builtin__.xrange"),
        (Call(bytes, 2**60), "calls builtins.bytes in a way"),
        (Call(pickle.loads, b"."), r"pickle\.loads"),
    ]:
        for protocol in (2, 4):
            refused(write(path, pickle.dumps({"w": attack}, protocol)), message)


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"ios\nsystem\n(.", r"would call os\.system"),
        (b"(cos\nsystem\no.", r"would call os\.system"),
        (b"c\x1b[2J\nx\n.", r"would call '\\x1b\[2J\.x'"),
        (b"cnumpy\n" + b"n" * 600, "names a function without an end"),
        (b"c" + b"m" * 200 + b"\nname\n.", "would call 'm{80}'"),
        (b"P1\n.", "PERSID"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"}}b.", "gives a value a state"),
        (b"K\x01)R.", "calls something that is not a function"),
        (b"cnumpy\nndarray\n.", "a bare name"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR.", "an unfinished array"),
        (b"K\x01K\x02\x93.", "by something that is not a text"),
        (b"U\x01a.", "Python 2"),
        (b"\xff", "0xff is not a pickle instruction"),
        (b"", "the next pickle instruction needs 1 bytes"),
        (b".", "takes a value that is not there"),
        (b"(K\x01.", "unfinished"),
        (b"(u", "needs a dictionary"),
        (b"u", "closes a value that it never opened"),
        (b"}(K\x01u.", "a key without a value"),
        (b"}]K\x01s.", "a list for a key"),
        (b"}(\x8c\x01aNNNu.", "a NoneType for a key"),
        (b"}(\x8c\x01aN\x8c\x01aNu.", "'a' twice"),
        (b"}\x8a\x08\0\0\0\0\0\0\0\x7fNs.", "an int for a key|a int for a key"),
        (b"h\x05.", "uses value 5, which it never stored"),
        (b"Nq\x01h\x00.", "uses value 0, which it never stored"),
        (b"X\x02\0\0\0\xff\xff.", "not UTF-8"),
    ],
)
def test_instructions_that_no_checkpoint_has(tmp_path: Path, instructions: bytes, message: str) -> None:
    refused(write(tmp_path / "a.pdparams", b"\x80\x04" + instructions), message)


# Claims.

HEADS = {
    "frame": b"\x95" + struct.pack("<Q", 2**60),
    "bytes": b"\x8e" + struct.pack("<Q", 2**60),
    "bytearray": b"\x96" + struct.pack("<Q", 2**60),
    "text": b"\x8d" + struct.pack("<Q", 2**60),
    "short bytes": b"B" + struct.pack("<I", 2**32 - 1),
    "integer": b"\x8b" + struct.pack("<I", 2**32 - 1),
    "memo": b"Nr" + struct.pack("<I", 2**32 - 1),
}


@pytest.mark.parametrize("claim", HEADS)
def test_pickle_lengths_beyond_the_file(tmp_path: Path, claim: str) -> None:
    refused(write(tmp_path / "a.pdparams", b"\x80\x04" + HEADS[claim] + bytes(1000)))


@pytest.mark.parametrize("shape", [(2**60,), (2**40,), (2**20, 2**40), (2**31,) * 30, (0, 2**60), (-1,), (2.0,), [2]])
def test_shapes_beyond_the_data(tmp_path: Path, shape: Any) -> None:
    array = np.ones(2, "float32")
    function, arguments, state = array.__reduce__()
    dtype, data = state[2], state[4]

    class Claim:
        def __reduce__(self) -> Any:
            return function, arguments, (1, shape, dtype, False, data)

    for protocol in (2, 4):
        refused(write(tmp_path / "a.pdparams", pickle.dumps({"w": Claim()}, protocol)), "shape")


def test_claims_of_the_other_formats(tmp_path: Path, paddle_files: Any) -> None:
    files = paddle_files
    record = files.record(np.ones(2, "float32"))
    path = tmp_path / "a"

    def read_one(path: Path) -> Any:
        return read_pdiparams(path, ["w"])

    for content in [
        record[:4] + struct.pack("<Q", 2**60) + record[12:],
        record[:4] + struct.pack("<QQ", 1, 2**60) + record[12:],
        files.record(np.ones(2, "float32"), files.tensor_desc(5, (2**60,))),
        files.record(np.ones(2, "float32"), files.tensor_desc(5, (2**30, 2**30))),
        files.record(np.ones(2, "float32"), files.tensor_desc(5, (2**47,))),
    ]:
        refused(write(path, content), reader=read_one)
    refused(write(path, files.varint(1 << 3 | 2) + files.varint(2**60)), reader=read_pdmodel)
    refused(write(path, files.small_pir().replace(b"[4, 3, 1, 1]", b"[1152921504606846976]")), reader=read_pir)
    refused(write(path, files.small_pir().replace(b"[4, 3, 1, 1]", b"[%s]" % (b"9" * 5000))), reader=read_pir)
    refused(write(path, files.small_pir().replace(b"[4, 3, 1, 1]", b"[1e999]")), reader=read_pir)


# Bombs: small files that would unfold into much.


def test_a_structure_that_doubles(tmp_path: Path) -> None:
    """Fifty lists, each holding the one before twice: 2^50 when written out."""
    for protocol in (2, 4):
        doubled: list[Any] = []
        for _ in range(25):
            doubled = [doubled, doubled]
        saved = {"w": np.ones(2), "bomb": doubled}
        refused(write(tmp_path / "a.pdparams", pickle.dumps(saved, protocol)), "far more objects", limit=4 * MIB)


def test_shared_data_is_not_copied_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "a.pdparams"
    size = 1 << 16
    shared = np.arange(size // 4, dtype=">f4")  # must be copied to be turned round
    function, arguments, state = shared.__reduce__()

    class Again:
        def __reduce__(self) -> Any:
            return function, arguments, state

    saved: dict[str, Any] = {f"w{index}": Again() for index in range(500)}
    refused(write(path, pickle.dumps(saved, 4)), "more memory than the whole file", limit=4 * MIB)

    part = np.ones(size // 4, "float32")
    function, arguments, state = part.__reduce__()
    saved = {f"w@@.{index}": Again() for index in range(500)}
    saved["UnpackBigParamInfor@@"] = {"w": {"OriginShape": (500 * size // 4,), "slices": list(saved)}}
    refused(write(path, pickle.dumps(saved, 4)), "larger than the file", limit=4 * MIB)

    text = bytes(range(128, 256)).decode("latin-1") * 16
    encode = b"c_codecs\nencode\nq\x01X" + struct.pack("<I", len(text.encode())) + text.encode() + b"q\x02"
    again = b"h\x01h\x02X\x06\0\0\0latin1\x86R"
    refused(write(path, b"\x80\x02" + encode + again * 2000 + b"."), "more memory than the whole file", limit=4 * MIB)


@pytest.mark.parametrize("instruction", [b"}", b"]", b"(", b"N", b"K\x07", b"M\x07\x07", b"]\x94", b")\x85", b"N\x85"])
def test_many_objects(tmp_path: Path, instruction: bytes) -> None:
    """The smallest instructions make at most 32 times the size of the file, and a megabyte, before they are refused."""
    content = b"\x80\x04" + instruction * ((MIB >> 3) // len(instruction)) + b"."
    refused(write(tmp_path / "a.pdparams", content), limit=6 * MIB)


def test_deep_nesting(tmp_path: Path, paddle_files: Any) -> None:
    path = tmp_path / "a.pdparams"
    deep = 20_000
    for value in (b"]" * deep + b"a" * (deep - 1), b"N" + b"\x85" * deep):
        refused(write(path, b"\x80\x04}\x8c\x01w" + value + b"s."), "nested more than 32 deep", limit=4 * MIB)
    refused(write(path, b"\x80\x02]q\x00h\x00a."), "nested more than 32 deep")
    refused(write(path, b"[" * MIB), "not JSON|nested deeper", read_pir, 4 * MIB)
    refused(write(path, b'{"a":' * deep), "not JSON|nested deeper", read_pir, 4 * MIB)
    attribute: Any = ("0.a_i32", 1)
    for _ in range(100):
        attribute = [attribute]
    operation = paddle_files.pir_operation("1.op", [], [], {"a": attribute})
    refused(write(path, paddle_files.pir_program([operation])), "0.a_array", read_pir)


def test_lists_read_again_and_again(tmp_path: Path, paddle_files: Any) -> None:
    """A list of a thousand values that a thousand operations read is a million names."""
    operation, tensor = paddle_files.pir_operation, paddle_files.tensor
    vector = {"%": 2, "TT": {"#": "0.t_vec", "D": []}}
    operations = [operation("1.data", [], [tensor(1, [])], {}), operation("0.combine", [1] * 1000, [vector], {})]
    operations += [operation("1.stack", [2], [], {}) for _ in range(1000)]
    path = write(tmp_path / "inference.json", paddle_files.pir_program(operations))
    refused(path, "far more lists", read_pir, 8 * MIB)


def test_files_too_large_for_a_program(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(65 * MIB)
    refused(path, "too many for a program", read_pdmodel)
    refused(path, "too many for a program", read_pir)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for reader in (read_pdparams, read_pdmodel, read_pir):
        with pytest.raises(Paddle2TorchError, match="not a regular file"):
            reader(tmp_path / "pipe")


# Damage.

Formats = dict[str, tuple[bytes, Callable[[Path], Any]]]


@pytest.fixture(scope="module")
def formats(paddle_files: Any) -> Formats:
    """A small file of each format (of the pickle, one for each way in which arrays are stored) and its reader."""
    generator = np.random.default_rng(0)
    tensors: dict[str, Any] = {f"layer{i}.weight": generator.normal(size=(2, 3)).astype("float32") for i in range(4)}
    tensors |= {"half": np.ones(2, "uint16"), "order": np.asfortranarray(np.ones((2, 3))), "epoch": 3, "acc": 0.5}
    tensors |= {"named": ("linear_0.b_0", np.ones(3, "float32")), "score": np.float64(1.5)}
    tensors["StructuredToParameterName@@"] = {"layer0.weight": "linear_0.w_0"}
    records = paddle_files.record(np.ones(4, "float32")) + paddle_files.record(np.ones((4, 3, 1, 1), "float32"))
    found: Formats = {f"pdparams, protocol {n}": (pickle.dumps(tensors, n), read_pdparams) for n in (2, 3, 4, 5)}
    found["pdiparams"] = (records, lambda path: read_pdiparams(path, ["b", "w"]))
    found["pdmodel"] = (paddle_files.small_pdmodel(), read_pdmodel)
    found["pir"] = (paddle_files.small_pir(), read_pir)
    return found


NAMES = (*(f"pdparams, protocol {n}" for n in (2, 3, 4, 5)), "pdiparams", "pdmodel", "pir")


def read_or_refuse(reader: Callable[[Path], Any], path: Path) -> bool:
    """Whether the damaged file was read; anything but that and a refusal fails the test."""
    try:
        reader(path)
    except Paddle2TorchError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bit_flips(tmp_path: Path, formats: Formats, name: str) -> None:
    content, reader = formats[name]
    path = tmp_path / "a"
    random_bits = random.Random(name)
    read = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flips = FLIPS // 4 if name.startswith("pdparams") else FLIPS
    for _ in range(flips):
        flipped = bytearray(content)
        position = random_bits.randrange(8 * len(content))
        flipped[position // 8] ^= 1 << position % 8
        read += read_or_refuse(reader, write(path, flipped))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # kilobytes
    assert 0 < read < flips  # both happen: flips hit values as well as structure
    assert reader(write(path, content))


@pytest.mark.parametrize("name", NAMES)
def test_random_bytes_in_the_middle(tmp_path: Path, formats: Formats, name: str) -> None:
    """Harsher than flips: a run of random bytes, and bytes cut out or doubled."""
    content, reader = formats[name]
    path = tmp_path / "a"
    random_bytes = random.Random(name)
    with bounded(4 * MIB):
        for _ in range(100):
            start = random_bytes.randrange(len(content))
            length = random_bytes.randrange(1, 16)
            inserted = random_bytes.choice([random_bytes.randbytes(length), b"", content[start : start + 2 * length]])
            read_or_refuse(reader, write(path, content[:start] + inserted + content[start + length :]))


@pytest.mark.parametrize("name", NAMES)
def test_truncated_at_every_byte(tmp_path: Path, formats: Formats, name: str) -> None:
    content, reader = formats[name]
    # The version of a ProgramDesc is at its end and is not needed: a file without it is whole.
    needed = len(content) - 7 if name == "pdmodel" else len(content)
    path = write(tmp_path / "a", content)
    for length in range(needed - 1, 0, -1):
        os.truncate(path, length)
        with pytest.raises(FileFormatError):
            reader(path)


@pytest.mark.slow
def test_truncated_at_every_kilobyte(tmp_path: Path, paddle_files: Any) -> None:
    generator = np.random.default_rng(0)
    tensors = {f"w{index}": generator.normal(size=(40, 60)).astype("float32") for index in range(20)}
    path = tmp_path / "a"
    for content, reader in [
        *((pickle.dumps(tensors, protocol), read_pdparams) for protocol in (2, 3, 4, 5)),
        (b"".join(map(paddle_files.record, tensors.values())), lambda path: read_pdiparams(path, list(tensors))),
    ]:
        assert len(content) > 150_000
        write(path, content)
        for length in range(len(content) - 1 & ~1023, 0, -1024):
            os.truncate(path, length)
            with pytest.raises(FileFormatError):
                reader(path)


@pytest.mark.slow
def test_real_files_truncated_and_flipped(tmp_path: Path, shared: Path) -> None:
    """Samples: the files are large, and each truncation or flip is read from the start."""
    random_bits = random.Random(0)
    models = shared / "models"
    program = read_pdmodel(models / "en_PP-OCRv4_rec_infer/inference.pdmodel")
    for source, reader, cuts, flips in [
        (models / "en_PP-OCRv4_rec_train/best_accuracy.pdparams", read_pdparams, 20, 20),
        (models / "ch_ppocr_mobile_v2.0_cls_train/best_accuracy.pdparams", read_pdparams, 20, 40),
        (
            models / "en_PP-OCRv4_rec_infer/inference.pdiparams",
            lambda path: read_pdiparams(path, program.parameters),
            40,
            40,
        ),
        (models / "en_PP-OCRv4_rec_infer/inference.pdmodel", read_pdmodel, 10, 20),
        (models / "en_PP-OCRv4_mobile_rec_infer/inference.json", read_pir, 10, 20),
    ]:
        path = tmp_path / source.name
        shutil.copyfile(source, path)
        size = path.stat().st_size
        for _ in range(flips):
            position = random_bits.randrange(size)
            with path.open("r+b", buffering=0) as file:
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ 1 << random_bits.randrange(8)]))
                read_or_refuse(reader, path)
                file.seek(position)
                file.write(bytes([byte]))
        for kilobyte in sorted(random_bits.sample(range(1, size >> 10), cuts), reverse=True):
            os.truncate(path, kilobyte << 10)
            with pytest.raises(FileFormatError):
                reader(path)
        path.unlink()
