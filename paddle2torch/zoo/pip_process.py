"""pip, in a process of its own: it knows the user's index, proxy and certificates."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from paddle2torch.model_zoo.errors import SourceError
from paddle2torch.zoo.hosts import UnreachableError

SECONDS = 1800.0

# pip waits 15 s for each address of a host, six times over. What it is told first is for finding out that a host is
# not there (which it says with -vv alone); for one that is slow it is asked again as the user has set it.
_FIRST = ("--timeout", "5", "--retries", "0", "-vv")
_NO_CONNECTION = re.compile("NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError")
_SLOW = re.compile("Read timed out|ReadTimeoutError|[Cc]onnection broken|[Cc]onnection aborted|Max retries exceeded")


class IndexUnreachableError(UnreachableError):
    """No connection to the index that pip asks: other distributions need not be asked for."""


def fetch_wheel(distribution: str, version: str, folder: Path) -> Path:
    """The wheel of a distribution, fetched into `folder`, which is empty.

    Raises `IndexUnreachableError` where pip finds no index, `SourceError` with its own words for all else.
    """
    asked = (
        *("download", "--no-deps", "--only-binary=:all:", "--no-input", "--dest", str(folder)),
        "--ignore-requires-python",  # files are taken from it, none of which Python runs
        f"{distribution}=={version}",
    )
    try:
        done = run_pip(*asked, *_FIRST, seconds=SECONDS)
        said = done.stdout + done.stderr
        if done.returncode != 0 and _NO_CONNECTION.search(said):
            raise IndexUnreachableError("pip cannot reach the index")
        if done.returncode != 0 and _SLOW.search(said):
            done = run_pip(*asked, seconds=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"pip did not end within {SECONDS:.0f} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = done.stderr.splitlines() or [f"pip ended with {done.returncode}"]
        said_last = ([line for line in lines if line.startswith("ERROR")] or lines[-1:])[-1]
        raise SourceError(" ".join(said_last.split())[:300])
    return wheels[0]


def run_pip(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run pip with these arguments to its end. Raises `subprocess.TimeoutExpired` where that takes longer."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    # Not from the working folder: a pip.py in there is not pip (Python 3.11 and later).
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=seconds
    )
