"""`make matrix`: the sdist and the wheel, installed into empty environments, oldest and newest of what we depend on.

    python .ci/matrix.py [--wheel FOLDER] [--keep FOLDER] [ROW…]
    python .ci/matrix.py --build FOLDER
    python .ci/matrix.py --extras

A row is PYTHON:RESOLUTION[:REQUIREMENT,…], with uv's resolutions: `lowest-direct` takes the floors of pyproject.toml,
`highest` the newest. Each row runs `.ci/smoke.py`. A Python that uv does not find on this machine, and cannot fetch, is
named and left out. uv is told by its own variables what it is to take: `UV_TORCH_BACKEND=cpu` for PyTorch's CPU builds.

With `REPO_URL`, the repository's address, what was committed is built, and the index's page links there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROWS = (
    "3.10:lowest-direct",
    "3.12:highest:huggingface_hub<2,opencv-python-headless<5",
    "3.10:highest",
    "3.11:highest",
    "3.12:highest",
    "3.13:highest",
    "3.14:highest",
)
# Extras that a Python cannot have: something in them has no wheels for it. docs/install.md and the Makefile say so.
WITHOUT: Mapping[str, tuple[str, ...]] = {"3.10": ("ocrmypdf", "transformers"), "3.14": ("bench", "paddle")}
MOST_BYTES = 3_000_000
"""Of the wheel: weights and pictures of tests do not belong there."""


def main() -> int:
    """Run the rows; 0 where none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="build both there, check them, and run no row")
    parser.add_argument("--extras", action="store_true", help="say which extras have wheels for which Python")
    parser.add_argument("--wheel", type=Path, metavar="FOLDER", help="take the wheel of this folder")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the environments here, and take those there")
    arguments = parser.parse_args()
    if arguments.build is not None:
        build(arguments.build)
        return 0
    if arguments.extras:
        wrong = check_extras()
        print("\n".join(wrong) or "all extras have wheels for the Pythons that they are said to be for")
        return 1 if wrong else 0
    with tempfile.TemporaryDirectory(prefix="paddle2torch-matrix-") as scratch:
        wheel = build(Path(scratch) / "dist") if arguments.wheel is None else next(arguments.wheel.glob("*.whl"))
        home = arguments.keep or Path(scratch)
        results = [run_row(row, wheel.resolve(), home, Path(scratch)) for row in arguments.rows or ROWS]
    print()
    for result in results:
        print(result)
    return 1 if any(": FAILED" in result for result in results) else 0


def build(out: Path) -> Path:
    """The wheel, built from the sdist, so that what the sdist lacks shows; both pass what an index asks of them."""
    with tempfile.TemporaryDirectory() as folder:
        tree = ROOT
        if repository := os.environ.get("REPO_URL", "").rstrip("/"):
            tree = Path(folder)
            committed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=committed, check=True)
            link_to(repository, tree)
        command = [sys.executable, "-m", "build", "--outdir", str(out), str(tree)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], check=True)
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"{wheel.name} has more than {MOST_BYTES:,} bytes")
    return wheel


def link_to(repository: str, tree: Path) -> None:
    """Let the links of the index's page, which is README.md, lead into the repository at the tag of this version."""
    version = runpy.run_path(str(tree / "paddle2torch" / "_version.py"))["__version__"]
    at_tag = f"{repository}/blob/v{version}"
    readme, project = tree / "README.md", tree / "pyproject.toml"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(r"\]\((?!https?:|#)", f"]({at_tag}/", text), encoding="utf-8")
    urls = {"Repository": repository, "Issues": f"{repository}/issues", "Changelog": f"{at_tag}/CHANGELOG.md"}
    lines = "".join(f'{name} = "{address}"\n' for name, address in urls.items())
    project.write_text(f"{project.read_text(encoding='utf-8')}\n[project.urls]\n{lines}", encoding="utf-8")


def check_extras() -> list[str]:
    """What is not as `WITHOUT` says. The index is asked which wheels there are; nothing is installed."""
    import tomllib  # Python 3.11: the rows need no more than 3.10

    extras = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    wrong = []
    for version in sorted({row.split(":")[0] for row in ROWS}):
        without = WITHOUT.get(version, ())
        problem = resolve(version, [extra for extra in extras if extra not in without])
        if problem:
            wrong.append(f"{version}: {problem}")
        wrong += [f"{version}: [{extra}] can be had now" for extra in without if not resolve(version, [extra])]
    return wrong


def resolve(version: str, extras: Sequence[str]) -> str:
    """Why these extras have no wheels for a version of Python; nothing where they have."""
    asked = [word for extra in extras for word in ("--extra", extra)]
    done = uv(
        "pip", "compile", "--python-version", version, "--only-binary", ":all:", *asked, str(ROOT / "pyproject.toml")
    )
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


def run_row(row: str, wheel: Path, home: Path, scratch: Path) -> str:
    """One environment, and what came of it, in a line."""
    version, resolution, *more = row.split(":")
    folder = home / row.replace(":", "-").replace(",", "-").replace("<", "_").replace(">", "_").replace("=", "_")
    python = folder / "bin" / "python"
    if not python.exists():
        made = uv("venv", "--python", version, str(folder))
        if made.returncode != 0:
            return f"{row}: left out, no Python {version} ({last_line(made.stderr)})"
    started = time.monotonic()
    # With pyproject.toml: what it names is asked for directly, so that `lowest-direct` means its floors.
    requirements = [str(wheel), "-r", str(ROOT / "pyproject.toml"), *(more[0].split(",") if more else ())]
    # An environment that was kept may have the same version of another day.
    fresh = ("--reinstall-package", "paddle2torch")
    installed = uv("pip", "install", "--python", str(python), "--resolution", resolution, *fresh, *requirements)
    if installed.returncode != 0:
        return f"{row}: FAILED to install: {last_line(installed.stderr)}"
    print(f"{row}: installed in {time.monotonic() - started:.0f} s", flush=True)
    place = scratch / folder.name
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PADDLE2TORCH_HOME"] = str(place / "home")
    started = time.monotonic()
    smoke = subprocess.run(
        [str(python), "-X", "dev", "-W", "ignore", str(ROOT / ".ci" / "smoke.py"), str(python.parent / "paddle2torch")],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    if smoke.returncode != 0:
        print(smoke.stdout + smoke.stderr, flush=True)
        return f"{row}: FAILED: {last_line(smoke.stderr)}"
    shutil.rmtree(place)
    return f"{row}: {time.monotonic() - started:.0f} s, {versions(json.loads(smoke.stdout.splitlines()[-1]))}"


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """uv, quietly."""
    return subprocess.run(["uv", "--quiet", *arguments], capture_output=True, text=True)


def last_line(text: str) -> str:
    """The last line of a message that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def versions(found: Mapping[str, str]) -> str:
    """Distributions and versions, in a line."""
    return ", ".join(f"{name} {version}" for name, version in found.items())


if __name__ == "__main__":
    sys.exit(main())
