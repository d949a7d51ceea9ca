"""pip, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def run_pip(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run pip with these arguments to its end. Raises `subprocess.TimeoutExpired` where that takes longer."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    # Not from the working folder: a pip.py in there is not pip (Python 3.11 and later).
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment, timeout=seconds
    )
