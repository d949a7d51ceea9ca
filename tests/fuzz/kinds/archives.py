"""Archives: tar and zip."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from random import Random

from fuzz.cases import Case
from fuzz.kinds import (
    Kind,
    command,
    encoders,
)
from fuzz.mutate import (
    mutate_bytes,
)


class Archive(Kind):
    """What `convert --weights` unpacks."""

    def run(self, folder: Path) -> None:
        from paddle2torch.zoo.archives import list_members
        from paddle2torch.zoo.sources import obtain_local

        (path,) = folder.iterdir()
        list_members(path)
        obtained = obtain_local(path)
        command("convert", "fuzzed", "--weights", obtained.path, "-o", folder.parent / "out" / "m")

    @staticmethod
    def members(rng: Random) -> list[tuple[str, bytes]]:
        names = ["m/inference.pdmodel", "m/inference.pdiparams", "m/inference.yml"]
        if rng.random() < 0.4:
            names = ["m/best_accuracy.pdparams"]
        hostile = (
            "../x.pdparams",
            "/tmp/planted",
            "a/../../x",
            "\x1b]0;owned\x07.pdparams",
            "C:\\x",
            "..\\x",
            "m/" * 400 + "x",
            "best_accuracy.pdparams",
            "source.json",
            ".lock",
            "m/inference.json",
            "é" * 200,
            "con",
            "-rf",
            "\udcff.pdparams",
        )
        names += rng.sample(hostile, rng.choice((0, 0, 1, 2)))
        return [(name, encoders().small_pdmodel() if name.endswith("model") else bytes(100)) for name in names]


class Tar(Archive):
    """A tar, plain or compressed."""

    name = "tar"

    def make(self, rng: Random) -> Case:
        out = io.BytesIO()
        kind = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
        with tarfile.open(fileobj=out, mode="w", format=kind, errors="surrogateescape") as tar:
            for name, content in self.members(rng):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                if rng.random() < 0.1:
                    info.type = rng.choice((b"1", b"2", b"3", b"4", b"6", b"7", b"S", b"D", b"x"))
                    info.linkname = rng.choice(("../secret/key.txt", "/etc/passwd", "m"))
                if kind == tarfile.PAX_FORMAT and rng.random() < 0.2:
                    info.pax_headers = rng.choice(
                        (
                            {"size": "1" + "0" * 12},
                            {"path": "../../x"},
                            {"GNU.sparse.realsize": "9" * 15},
                            {"comment": "x" * 100_000},
                            {"size": "-1"},
                        )
                    )
                with contextlib.suppress(ValueError):  # a name that the format cannot hold
                    tar.addfile(info, io.BytesIO(content))
            if rng.random() < 0.1:
                for number in range(rng.choice((1000, 20_000))):
                    tar.addfile(tarfile.TarInfo(f"e{number}"))
        content = out.getvalue()
        match rng.randrange(6):
            case 0:
                return {"a.tar": self._lying(rng, content)}
            case 1:
                content = mutate_bytes(rng, content)
            case 2:
                bomb = io.BytesIO()
                with tarfile.open(fileobj=bomb, mode="w") as tar:
                    info = tarfile.TarInfo("m/best_accuracy.pdparams")
                    info.size = rng.choice((1_000_000, 200_000_000))
                    tar.addfile(info, io.BytesIO(bytes(info.size)))
                return {"a.tar.gz": gzip.compress(bomb.getvalue(), 9, mtime=0)}
        if rng.random() < 0.4:
            packed = gzip.compress(content, mtime=0)
            return {"a.tar.gz": mutate_bytes(rng, packed) if rng.random() < 0.5 else packed}
        return {"a.tar": bz2.compress(content) if rng.random() < 0.05 else content}

    @staticmethod
    def _lying(rng: Random, content: bytes) -> bytes:
        """A header with another size, its checksum right again."""
        header = bytearray(content[:512])
        header[124:136] = rng.choice(
            (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"\x80" + bytes(7) + b"\x7f" * 4)
        )
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + content[512:]


class Zip(Archive):
    """A zip, which only wheels are."""

    name = "zip"

    def make(self, rng: Random) -> Case:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as wheel:
            for name, content in self.members(rng):
                info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
                info.compress_type = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
                if rng.random() < 0.1:
                    info.external_attr = rng.choice((0o120777, 0o020666, 0o040755)) << 16
                wheel.writestr(info, content if rng.random() < 0.9 else bytes(rng.choice((10_000, 30_000_000))))
        content = out.getvalue()
        return {"a.whl": mutate_bytes(rng, content) if rng.random() < 0.6 else content}

    def run(self, folder: Path) -> None:
        from paddle2torch.zoo.archives import choose_export, extract_members, list_members

        members = list_members(folder / "a.whl")
        chosen = choose_export([member.name for member in members], "a.whl")
        extract_members(folder / "a.whl", {path: folder.parent / "out" / name for name, path in chosen.items()})
