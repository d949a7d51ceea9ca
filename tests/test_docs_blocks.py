"""Every block of code in the pages is run, or says in its title why not."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doc_blocks import PAGES, Reader, blocks
from material import ROOT

REASONS = (
    "needs ",  # a network, a GPU, the official weights, other packages
    "starts ",  # Paddle, processes
    "runs until it is stopped",
    "installs packages",
    "stands for yours",
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, kernels: Callable[[Path], None]) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    if shutil.which("g++") is not None:
        kernels(folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PADDLE2TORCH_HOME", str(folder / "home"))
        patch.chdir(folder)
        yield Reader(folder)


@pytest.fixture
def at_home(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the reader, and their home in place of a test's own."""
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(reader.folder / "home"))
    monkeypatch.chdir(reader.folder)


@pytest.mark.usefixtures("at_home")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(reader: Reader, page: Path) -> None:
    wrong = reader.read(page)
    assert not wrong, "\n".join(wrong)


def test_a_block_says_what_it_is() -> None:
    unsaid = [f"{block.page.name}, line {block.line}" for page in PAGES for block in blocks(page) if not block.language]
    assert unsaid == [], "sh, python, json, yaml, …; what is printed is text"


def test_what_is_not_run_says_why_and_is_less_than_what_is() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    left = Counter(block.not_run for block in found if block.not_run is not None)
    assert all(str(reason).startswith(REASONS) for reason in left), left
    named = {path for reason in left for path in re.findall(r"(?:tests|docs)/[\w/.-]*\w", str(reason))}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert left.total() < len(found) / 2, left
