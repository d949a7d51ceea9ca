"""What is published of a model tells nothing of the machine that it was made on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

# An absolute path within a text, up to its last part: /a/b/, ~/a/, C:\a\, \\host\share\, file:///a/. Names of folders
# may have spaces: rather a word too many goes than one of them stays.
_FOLDERS = re.compile(r"(?<![\w.:/\\~])(?:file://|~|[A-Za-z]:|\\)?[/\\](?=[^\s/\\])(?:[^/\\\n'\"`:;,()]+[/\\]+)+")


def without_folders(value: Any) -> Any:
    """Decoded JSON with the last part alone of every absolute path, on whichever system it was written."""
    if isinstance(value, str):
        return _last_part(value)
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return value


def _last_part(text: str) -> str:
    path = text.removeprefix("file://")
    if path.startswith(("/", "~")) and "\n" not in path:
        return PurePosixPath(path).name
    if PureWindowsPath(path).is_absolute():
        return PureWindowsPath(path).name
    return _FOLDERS.sub("", text)
