"""Names that come from outside, before they become paths: of models, and of the files in a model's folder."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PureWindowsPath

from paddle2torch.model_zoo.errors import ConfigError, FileFormatError

NAME_BYTES_AT_MOST = 128
"""Bytes of a name in UTF-8: file systems take 255 bytes, and what is being written has a longer name for a while."""

_MARKS = "._-"
# What Windows opens in place of a file, in every folder and with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin|conout|(com|lpt)[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
_BLOB = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a model or of a file: letters and digits of any script, `.`, `_`, `-`.

    It begins with a letter, a digit or `_`, does not end with a dot, has no `..`, takes at most `NAME_BYTES_AT_MOST`
    bytes, and is not what Windows calls a device (`NUL`, `com1.txt`).
    """
    if not 0 < len(text) <= NAME_BYTES_AT_MOST or len(text.encode("utf-8", "replace")) > NAME_BYTES_AT_MOST:
        return False
    if not all(_belongs(character) for character in text) or unicodedata.category(text[0])[0] == "M":
        return False
    return text[0] not in ".-" and text[-1] != "." and ".." not in text and not _DEVICE.fullmatch(text)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a Hugging Face Hub repository, "org/name"."""
    return len(name) <= 2 * 96 + 1 and _HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def check_name(text: str, where: str) -> None:
    """Raise `ConfigError` unless `text` is a name as `is_name` says; `where` leads the message."""
    if not is_name(text):
        shown = repr(text[:60]) + (f" and {len(text) - 60:,} more characters" if len(text) > 60 else "")
        raise ConfigError(
            f"{where}: {shown} cannot be a name: at most {NAME_BYTES_AT_MOST} bytes of letters, digits, '.', '_' and "
            f"'-', which begin with a letter, a digit or '_', without '..', and not what Windows calls a device"
        )


def plain_name(text: str, otherwise: str) -> str:
    """`text` as a name: `_` in place of what no name has, cut where it is too long; `otherwise` if nothing is left."""
    name = "".join(character if _belongs(character) else "_" for character in text[:NAME_BYTES_AT_MOST])
    name = re.sub(r"\.{2,}", ".", name).encode()[:NAME_BYTES_AT_MOST].decode("utf-8", "ignore")
    name = name.lstrip(".-").rstrip(".")
    return name if name.strip("_") and is_name(name) else otherwise


def leads_out(path: str) -> bool:
    """Whether a path leads out of the folder that it is meant to be in, on any system; links are not looked at."""
    # Windows' rules include the others': a leading slash is a root, and backslashes separate too.
    found = PureWindowsPath(path)
    return bool(found.anchor) or ".." in found.parts


def file_in(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`, which need not exist.

    Raises `FileFormatError` where it is a link that leads out of the folder: what a folder from outside links to is
    not part of it, and must neither be read as if it were, nor sent, nor written over. The one exception is the cache
    of huggingface_hub, where the files of a snapshot are links to its own `blobs`.
    """
    path = Path(folder) / name
    try:
        home, found = Path(folder).resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise FileFormatError(f"{path} is a link that leads nowhere: {error}") from None
    if found.is_relative_to(home) or _is_blob(home, found):
        return path
    raise FileFormatError(
        f"{path} is a link that leads out of its folder, to {found}; only what is in the folder is taken. If the file "
        f"belongs to it, put a copy there"
    )


def _belongs(character: str) -> bool:
    # Letters, the marks that some scripts write them with, decimal digits. A superscript digit is none of these:
    # Windows takes COM¹ for COM1.
    return character in _MARKS or unicodedata.category(character) in ("Ll", "Lu", "Lo", "Lt", "Lm", "Mn", "Mc", "Nd")


def _is_blob(home: Path, found: Path) -> bool:
    """Whether `found` is a file in `blobs` of the repository whose snapshot `home` is, or is in."""
    snapshot = next((folder for folder in (home, *home.parents) if folder.parent.name == "snapshots"), None)
    if snapshot is None or not _BLOB.fullmatch(found.name):
        return False
    return found.parent == snapshot.parent.parent / "blobs"
