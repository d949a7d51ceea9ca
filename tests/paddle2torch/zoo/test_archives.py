"""Archives are read by name and never trusted."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.zoo.archives import choose_checkpoint, choose_export, extract_members, list_members

CONTENT = random.Random(1).randbytes(3000)


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of files (name, content), or of bare headers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                # Not addfile: it asks for the content that the header claims.
                tar.offset += out.write(member.tobuf(form))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def zip_of(*members: tuple[str, bytes], mode: int = 0o100644, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as wheel:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = compression
            wheel.writestr(info, content)
    return out.getvalue()


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def sparse() -> bytes:
    info = header("d/inference.pdiparams", tarfile.GNUTYPE_SPARSE, size=0)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % 2**32  # the size it claims to expand to
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


@pytest.mark.parametrize(
    "make",
    [
        lambda *files: tar_of(*files),
        lambda *files: tar_of(*files, form=tarfile.PAX_FORMAT),
        lambda *files: gzip.compress(tar_of(*files)),
        lambda *files: zip_of(*files),
        lambda *files: zip_of(*files, compression=zipfile.ZIP_STORED),
    ],
    ids=["tar", "pax", "tar.gz", "wheel", "stored"],
)
def test_wanted_members_are_copied(tmp_path: Path, make: Callable[..., bytes]) -> None:
    long = "d/" + "x" * 120 + "/inference.pdiparams"
    archive = tmp_path / "archive"
    archive.write_bytes(
        make(("d/._inference.pdmodel", b"mac"), ("./d/inference.pdmodel", b""), (long, CONTENT), ("é", b"e"))
    )
    assert {(member.name, member.size) for member in list_members(archive)} == {
        ("d/inference.pdmodel", 0),
        (long, 3000),
        ("é", 1),
    }
    extract_members(archive, {long: tmp_path / "parameters", "d/inference.pdmodel": tmp_path / "program"})
    assert (tmp_path / "parameters").read_bytes() == CONTENT
    assert (tmp_path / "program").read_bytes() == b""
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive", "parameters", "program"]
    with pytest.raises(FileFormatError, match=r"has no d/inference\.json"):
        extract_members(archive, {"d/inference.json": tmp_path / "missing"})


HOSTILE = {
    "parent": (tar_of(("d/../../inference.pdiparams", CONTENT)), "leads outside"),
    "absolute": (tar_of(("/tmp/inference.pdiparams", CONTENT)), "leads outside"),
    "backslashes": (tar_of((r"d\..\..\inference.pdiparams", CONTENT)), "leads outside"),
    "drive": (tar_of(("C:inference.pdiparams", CONTENT)), "leads outside"),
    "symbolic link": (tar_of(header("inference.pdiparams", tarfile.SYMTYPE, link="/etc/passwd")), "link"),
    "hard link": (tar_of(header("inference.pdiparams", tarfile.LNKTYPE, link="/etc/passwd")), "link"),
    "link in passing": (tar_of(("inference.pdiparams", CONTENT), header("x", tarfile.SYMTYPE, link="/")), "link"),
    "device": (tar_of(header("inference.pdiparams", tarfile.CHRTYPE)), "device"),
    "pipe": (tar_of(header("inference.pdiparams", tarfile.FIFOTYPE)), "device"),
    "sparse": (sparse(), "sparse"),
    "twice": (tar_of(("d/a.pdparams", CONTENT), ("./d/a.pdparams", b"other")), "twice"),
    "claims 8 GiB": (tar_of(header("inference.pdiparams", size=2**33 - 1)), "claims 8,589,934,591 bytes"),
    "claims 2^60 bytes": (tar_of(header("inference.pdiparams", size=2**60)), "claims 1,152,921,504,606,846,976 bytes"),
    "claims less than nothing": (tar_of(header("inference.pdiparams", size=-(2**40))), "not a readable archive|claims"),
    "cut off": (tar_of(("inference.pdiparams", CONTENT))[:2048], "cut off"),
    "gzip cut off": (gzip.compress(tar_of(("inference.pdiparams", CONTENT)))[:2048], "cut off"),
    "gzip bomb": (gzip.compress(tar_of(("inference.pdiparams", bytes(2**25)))), "claims|unpacks to more"),
    "gzip bomb in a name": (gzip.compress(tar_of(("x" * 2**25, b""))), "unpacks to more"),
    "web page": (b"<!DOCTYPE html><html>" + b" " * 2000, "not a readable archive"),
    "empty": (b"", "not a readable archive"),
    "zip: parent": (zip_of(("d/../../inference.pdiparams", CONTENT)), "leads outside"),
    "zip: absolute": (zip_of(("/inference.pdiparams", CONTENT)), "leads outside"),
    "zip: link": (zip_of(("inference.pdiparams", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "link"),
    "zip: bomb": (zip_of(("inference.pdiparams", bytes(2**25))), "may unpack to"),
    "zip: many small bombs": (zip_of(*((f"{i}", bytes(2**20)) for i in range(32))), "may unpack to"),
    "zip: odd compression": (zip_of(("a", CONTENT), compression=zipfile.ZIP_LZMA), "compressed in a way"),
    "zip: cut off": (zip_of(("inference.pdiparams", CONTENT))[:-30], "not a readable archive"),
    "zip: changed": (
        zip_of(("inference.pdiparams", CONTENT), compression=zipfile.ZIP_STORED).replace(CONTENT, bytes(3000)),
        "Bad CRC",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_broken_archives(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    archive = tmp_path / "box" / "archive.tar"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        extract_members(archive, {"inference.pdiparams": tmp_path / "box" / "out"})
    assert {entry.name for entry in tmp_path.rglob("*")} <= {"box", "archive.tar", "out"}
    out = tmp_path / "box" / "out"
    assert not out.exists() or out.stat().st_size <= len(CONTENT)


@pytest.mark.parametrize("compression", ["tar", "tar.gz", "wheel"])
def test_damaged_archives(tmp_path: Path, compression: str) -> None:
    """Whatever bits flip: the wanted bytes or a clear error."""
    files = (("d/inference.pdmodel", CONTENT), ("d/inference.pdiparams", CONTENT[::-1]))
    whole = zip_of(*files) if compression == "wheel" else tar_of(*files, form=tarfile.PAX_FORMAT)
    if compression == "tar.gz":
        whole = gzip.compress(whole)
    chance = random.Random(3)
    archive, out = tmp_path / "archive", tmp_path / "out"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        # Mostly where the structure is: the contents of a tar have no check of their own.
        position = (
            chance.randrange(len(whole)) if compression != "tar" else chance.choice([0, 3584]) + chance.randrange(512)
        )
        damaged[position] ^= 1 << chance.randrange(8)
        archive.write_bytes(damaged)
        out.unlink(missing_ok=True)
        try:
            extract_members(archive, {"d/inference.pdmodel": out})
        except FileFormatError:
            refused += 1
        else:
            assert out.read_bytes() == CONTENT
    assert refused > 30


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a/anything.pdparams", "a/train.log"], "a/anything.pdparams"),
        (["a/latest.pdparams", "a/best_accuracy.pdparams", "a/iter_epoch_3.pdparams"], "a/best_accuracy.pdparams"),
        (["a/student.pdparams", "a/teacher.pdparams"], "a/student.pdparams"),
        (["latest.pdparams", "iter_epoch_3.pdparams"], "latest.pdparams"),
        (["a/latest.pdparams", "a/best_model/model.pdparams"], "a/best_model/model.pdparams"),
    ],
)
def test_which_checkpoint(names: list[str], chosen: str) -> None:
    assert choose_checkpoint(names, "here") == chosen


def test_which_checkpoint_is_not_guessed() -> None:
    with pytest.raises(FileFormatError, match=r"several checkpoints: a/x\.pdparams, a/y\.pdparams"):
        choose_checkpoint(["a/x.pdparams", "a/y.pdparams"], "here")
    with pytest.raises(FileFormatError, match="several checkpoints"):
        choose_checkpoint(["a/best_accuracy.pdparams", "b/best_accuracy.pdparams", "a/student.pdparams"], "here")
    with pytest.raises(FileFormatError, match=r"has no \.pdparams"):
        choose_checkpoint(["a/best_accuracy.pdopt"], "here")


def test_which_export() -> None:
    legacy = ["m/inference.pdmodel", "m/inference.pdiparams", "m/inference.pdiparams.info"]
    assert choose_export(legacy, "here") == {
        "inference.pdmodel": "m/inference.pdmodel",
        "inference.pdiparams": "m/inference.pdiparams",
    }
    assert set(choose_export(["inference.json", "inference.pdiparams", "inference.yml", "README.md"], "here")) == {
        "inference.json",
        "inference.pdiparams",
        "inference.yml",
    }
    with pytest.raises(FileFormatError, match="several exports: m, n"):
        choose_export([*legacy, "n/inference.pdmodel", "n/inference.pdiparams"], "here")
    with pytest.raises(FileFormatError, match=r"has no inference\.pdiparams with an"):
        choose_export(["m/inference.pdmodel", "n/inference.pdiparams"], "here")
