"""Reads one LMDB database for its parent: `_lmdb_process.py FOLDER IMAGE_BYTES LABEL_BYTES`.

LMDB maps a file into memory and trusts its structure: one that is corrupt, or hostile, ends the process (SIGBUS,
SIGSEGV, SIGABRT). So it is this process, in which nothing else runs. `lmdb.py` beside it starts it, as a file: the
packages around it import PyTorch.

Questions are lines on stdin: `labels`, `image NUMBER` (from 1). Each answer on stdout is a letter, eight bytes with a
length, and as many bytes: `v` a value, `n` no such entry, `e` what is wrong with the database, in UTF-8. Labels are one
value: for each sample four bytes with the length of its label, all ones where it has none, and the label.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

DATA_FILE = "data.mdb"
NO_LABEL = 0xFFFFFFFF
# What an entry takes at least: its key and the header of its node. A number of samples is held to that.
_ENTRY_BYTES = 16


class DatabaseError(Exception):
    """The database is broken, or none; the message is for the user."""


def main(folder: str, image_bytes: int, label_bytes: int) -> None:
    """Answer until there are no more questions."""
    answers = sys.stdout.buffer
    environment: Any = None
    for line in sys.stdin.buffer:
        question, _, number = line.strip().partition(b" ")
        kind, value = b"v", b""
        try:
            environment = environment or _open(folder)
            if question == b"labels":
                value = _labels(environment, folder, label_bytes)
            else:
                found = _image(environment, int(number), image_bytes)
                kind, value = (b"n", b"") if found is None else (b"v", found)
        except DatabaseError as error:
            kind, value = b"e", str(error).encode("utf-8", "replace")
        answers.write(kind + len(value).to_bytes(8, "little"))
        answers.write(value)
        answers.flush()


def _open(folder: str) -> Any:
    import lmdb

    path = os.path.join(folder, DATA_FILE)
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise DatabaseError(f"{path} cannot be opened: it is not a regular file")
    try:
        environment = lmdb.open(
            folder, max_readers=32, readonly=True, lock=False, readahead=False, meminit=False, create=False
        )
    except lmdb.Error as error:
        raise DatabaseError(f"{path} cannot be opened: {error}") from None
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if about.st_size < needed:
        raise DatabaseError(f"{path} is truncated: it has {about.st_size:,} of {needed:,} bytes")
    return environment


def _labels(environment: Any, folder: str, most: int) -> bytes:
    import lmdb

    size = os.stat(os.path.join(folder, DATA_FILE)).st_size
    entries = environment.stat()["entries"]
    out = bytearray()
    try:
        with environment.begin() as transaction:
            count = transaction.get(b"num-samples")
            # An entry per sample at least: a number that the file cannot hold must not make us count to it.
            sound = count is not None and len(count) <= 18 and count.isdigit()
            if not sound or not 0 < int(count) <= min(entries, size // _ENTRY_BYTES):
                found = "no num-samples" if count is None else f"num-samples {count[:20]!r}"
                raise DatabaseError(f"{folder} is not a PaddleOCR database: it has {found} and {entries} entries")
            for key in range(1, int(count) + 1):
                label = transaction.get(b"label-%09d" % key)
                out += (NO_LABEL if label is None else len(label)).to_bytes(4, "little") + (label or b"")
                if len(out) > most + 4 * int(count):
                    raise DatabaseError(f"{folder}: its labels take more than the {most:,} bytes that it can hold")
    except lmdb.Error as error:
        raise DatabaseError(f"{folder} cannot be read: {error}") from None
    return bytes(out)


def _image(environment: Any, number: int, most: int) -> bytes | None:
    import lmdb

    try:
        with environment.begin(buffers=True) as transaction:
            data = transaction.get(b"image-%09d" % number)
            if data is None:
                return None
            if len(data) > most:
                raise DatabaseError(f"image-{number:09d} has {len(data):,} bytes, more than the file can hold")
            return bytes(data)
    except lmdb.Error as error:
        raise DatabaseError(f"image-{number:09d} cannot be read: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
