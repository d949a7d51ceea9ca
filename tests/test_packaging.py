"""The wheel holds every module and every asset: an editable install would hide what was forgotten."""

from __future__ import annotations

import contextlib
import re
import runpy
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from material import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import paddle2torch

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


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 3_000_000


def test_no_extra_brings_a_second_opencv(wheel: Path) -> None:
    """Of what is installed here; `uv pip compile --extra` asks the same of an index."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().split("\n\n")[0].splitlines()
    ours = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    waiting = [line.partition(";")[0] for line in ours]  # with every extra
    seen: set[str] = set()
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name in seen or (needed.marker is not None and not needed.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        with contextlib.suppress(PackageNotFoundError):
            waiting += requires(name) or []
    assert {name for name in seen if name.startswith("opencv")} == {"opencv-python-headless"}
    assert "pip" in seen  # which fetches wheels with weights, in environments that have none of their own


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    used = re.findall(r"uses: *(\S+)", workflow.read_text(encoding="utf-8"))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_a_release_tries_the_rows_of_make_matrix() -> None:
    """A workflow cannot read them there before its jobs begin."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    rows = workflow["jobs"]["matrix"]["strategy"]["matrix"]["row"]
    assert tuple(rows) == runpy.run_path(str(ROOT / ".ci" / "matrix.py"))["ROWS"]


def test_the_page_of_the_index_links_into_the_repository(tmp_path: Path) -> None:
    (tmp_path / "paddle2torch").mkdir()
    for name in ("README.md", "pyproject.toml", "paddle2torch/_version.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    runpy.run_path(str(ROOT / ".ci" / "matrix.py"))["link_to"]("https://host/org/name", tmp_path)
    at_tag = f"https://host/org/name/blob/v{paddle2torch.__version__}/"
    links = re.findall(r"\]\((.+?)\)", (tmp_path / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link.removeprefix(at_tag).partition("#")[0]).is_file()] == []
    assert f'Changelog = "{at_tag}CHANGELOG.md"\n' in (tmp_path / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_says_which_extras_a_python_cannot_have() -> None:
    without = runpy.run_path(str(ROOT / ".ci" / "matrix.py"))["WITHOUT"]
    rows = (ROOT / "docs" / "install.md").read_text(encoding="utf-8").splitlines()
    for extra in {extra for extras in without.values() for extra in extras}:
        assert any(f"`{extra}`" in row and "Python 3." in row for row in rows), extra


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
