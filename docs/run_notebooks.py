"""Runs the notebooks: `python docs/run_notebooks.py [NAME…]`, `make notebooks`; with --write their outputs are kept.

Each runs from its own folder in a kernel of this interpreter, as a reader runs it. What fails is an error, and so is
what would make the repository large.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent / "notebooks"
SECONDS = 1200
"""For one cell: the training of ten minutes is one, on a slow machine."""
BYTES = 150_000
"""Of an executed notebook, pictures included."""


def run(path: Path, *, write: bool) -> str | None:
    """What went wrong; None where nothing did."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return str(error)
    notebook.metadata.language_info = {"name": "python"}  # the version of who ran it says nothing
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        # Pillow gives each picture as PNG and as JPEG: the smaller one is kept.
        pictures = {kind: value for kind, value in output.get("data", {}).items() if kind.startswith("image/")}
        for kind in sorted(pictures, key=lambda kind: len(pictures[kind]))[1:]:
            del output["data"][kind]
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > BYTES:
        return f"{len(text.encode()):,} bytes with its outputs, more than {BYTES:,}"
    if write:
        path.write_text(text, encoding="utf-8")
    return None


def main() -> int:
    """1 where one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="without .ipynb; all where none is given")
    parser.add_argument("--write", action="store_true", help="keep the outputs")
    options = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in options.names] or sorted(FOLDER.glob("*.ipynb"))
    failed = 0
    for path in paths:
        begun = time.monotonic()
        wrong = run(path, write=options.write)
        failed += wrong is not None
        print(f"{path.name}: {'ran' if wrong is None else wrong} ({time.monotonic() - begun:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
