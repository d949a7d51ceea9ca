"""Data sets: labels, databases, character sets."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np
from fuzz.cases import Case, Entry, Link, Pipe, Repeat, Sparse
from fuzz.kinds import (
    Kind,
    line_image,
    scratch,
)
from fuzz.mutate import (
    dumps,
    json_attacks,
    mutate_bytes,
    mutate_tree,
)

from paddle2torch.model_zoo.errors import Paddle2TorchError


class Labels(Kind):
    """Label files of PaddleOCR, and the images that they name."""

    name = "labels"

    def make(self, rng: Random) -> Case:
        boxes = [{"transcription": "text", "points": [[1, 1], [30, 1], [30, 20], [1, 20]], "difficult": False}]
        rec = b'line.png\thello\n["line.png", "line.png"]\tworld\n'
        label = dumps(mutate_tree(rng, boxes)) if rng.random() < 0.7 else json_attacks(rng, json.dumps(boxes).encode())
        content: Entry = b"line.png\t" + label.replace(b"\n", b" ") + b"\n"
        match rng.randrange(6):
            case 0:
                content = mutate_bytes(rng, rec)
            case 1:
                content = rng.choice((Pipe(), Sparse(2**40), Link("/dev/zero"), b"", b"\n\n", b"\xff\xfe\t\n"))
            case 2:
                names = (
                    b"pipe",
                    b"/dev/zero",
                    b"\x1b]0;owned\x07",
                    b"x" * 5000,
                    b"",
                    b"[1]",
                    b"[" * 5000,
                    b'["a' + b"x" * 5000 + b'"]',
                    b"nul\0",
                    b"folder",
                )
                content = rng.choice(names) + b"\thello\n" + rec
            case 3:
                content = Repeat(
                    b"", rng.choice((b"a\tb\n", b"\n", b"\t\n", b"line.png\t[]\n")), rng.choice((10, 200_000))
                )
        return {"labels.txt": content, "line.png": line_image(), "pipe": Pipe(), "folder/x": b""}

    def run(self, folder: Path) -> None:
        from paddle2torch.training.data.labels import LabelFiles, parse_boxes

        samples = LabelFiles([str(folder / "labels.txt")], str(folder))
        generator = np.random.default_rng(0)
        refused: Paddle2TorchError | None = None
        for index in range(min(len(samples), 20)):
            try:
                samples.image(index, generator)
                if samples.label(index).startswith(("[", "{")):
                    parse_boxes(samples.label(index), samples.where(index))
            except Paddle2TorchError as error:
                refused = error
        if refused is not None:
            raise refused


class Lmdb(Kind):
    """A database in PaddleOCR's layout."""

    name = "lmdb"

    def __init__(self) -> None:
        import lmdb  # noqa: F401  # without it this kind is left out

    @cached_property
    def seed(self) -> bytes:
        import lmdb

        with scratch() as folder:
            environment = lmdb.open(str(folder), map_size=2**20)
            with environment.begin(write=True) as transaction:
                transaction.put(b"num-samples", b"3")
                for number in range(1, 4):
                    transaction.put(b"label-%09d" % number, b"text")
                    transaction.put(b"image-%09d" % number, line_image() * (20 if number == 3 else 1))
            environment.close()
            return (folder / "data.mdb").read_bytes()

    def make(self, rng: Random) -> Case:
        match rng.randrange(8):
            case 0:
                return {"data.mdb": rng.choice((Pipe(), Sparse(2**40), Link("../secret/key.txt"), b"", Sparse(8192)))}
            case 1:
                digits = rng.choice((b"9", b"0", b"-", b"x", b"\0"))
                place = self.seed.rindex(b"num-samples") + len(b"num-samples")
                return {"data.mdb": self.seed[:place] + digits + self.seed[place + 1 :]}
            case 2:
                return {"data.mdb": self.seed, "deep/link": Link("..")}
        # Most of a database is images; what matters are its pages' first bytes.
        content = bytearray(self.seed)
        for _ in range(rng.choice((1, 2, 4))):
            page = rng.randrange(len(content) // 4096) * 4096
            head = mutate_bytes(rng, bytes(content[page : page + 128]), 1)[:128].ljust(128, b"\0")
            content[page : page + 128] = head
        return {"data.mdb": bytes(content[: len(content) if rng.random() < 0.9 else rng.randrange(len(content))])}

    def run(self, folder: Path) -> None:
        from paddle2torch.training.data import lmdb

        lmdb.ANSWER_SECONDS = 1.5
        try:
            samples = lmdb.LmdbFolders(str(folder))
            for index in range(min(len(samples), 5)):
                samples.label(index)
                samples.image(index, np.random.default_rng(0))
        finally:
            lmdb._close_all()


class Charset(Kind):
    """A character set, given with a checkpoint."""

    name = "charset"

    def make(self, rng: Random) -> Case:
        content: Entry = b"a\nb\nc\n"
        match rng.randrange(5):
            case 0:
                content = mutate_bytes(rng, "0\n1\n中\né\n \n".encode())
            case 1:
                content = rng.choice(
                    (Pipe(), Sparse(2**40), Link("/dev/zero"), Link("."), b"", b"\n", b"\xef\xbb\xbfa\n")
                )
            case 2:
                content = (
                    b"a\n"
                    + rng.choice((b"\x1b]0;x\x07", b"\x9b", "\u202e".encode(), b"\0", b"\r\r", "\u2028".encode()))
                    + b"\nc\n"
                )
            case 3:
                content = Repeat(b"", rng.choice((b"a\n", b"\n", b"a")), rng.choice((7, 3_000_000)))
            case _:
                content = b"".join(rng.choice((b"a", b"\xc3", b"\n", b" ", b"\x7f", b"\r")) for _ in range(20))
        return {"chars.txt": content}

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.characters import Charset as Read
        from paddle2torch.converters.characters import settle_charset
        from paddle2torch.model_zoo.charsets import read_charset

        characters = read_charset(folder / "chars.txt")
        settle_charset(Read(characters, None, "chars.txt"), 4, "fuzzed")
