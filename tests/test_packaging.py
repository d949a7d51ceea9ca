"""The wheel holds every module and every asset: an editable install would hide what was forgotten."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from material import ROOT

FOLDERS = {
    "paddle2torch": "paddle2torch",
    "converters": "paddle2torch/converters",
    "model_zoo": "paddle2torch/model_zoo",
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    # A copy: setuptools leaves its build folder in the source, and takes deleted files from it the next time.
    source.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(source)], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    expected = {
        f"{target}/{path.relative_to(ROOT / folder)}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_runs_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import paddle2torch.cli, paddle2torch.model_zoo.cards as cards; "
        "assert paddle2torch.cli.__file__.startswith(sys.argv[1]); print(len(cards.list_cards()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert int(output.stdout) == len(list((ROOT / "model_zoo" / "cards").glob("*.json")))
