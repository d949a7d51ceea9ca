"""Pages made from the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
from material import ROOT

from paddle2torch import cli

DOCS = ROOT / "docs"


def test_the_page_of_settings_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_settings", DOCS / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = made.page()
    assert "| `lr` | number | must be given |" in page
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page, "run: python docs/make_settings.py"


PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def commands(page: Path) -> list[str]:
    """The commands of this package in a page's blocks of code, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = (line.partition(" #")[0].partition(" > ")[0].strip() for block in blocks for line in block.splitlines())
    parts = (part.strip() for line in lines for part in line.split("&&"))
    return [part for part in parts if part.startswith("paddle2torch ")]


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line in commands(page)], ids=lambda value: str(value)[-60:]
)
def test_the_command_line_takes_what_the_pages_say(page: Path, line: str) -> None:
    _, *arguments = shlex.split(line)
    command: click.Command = cli.main
    context = click.Context(command)
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page.name}: {line}"
        command = found
    # What would be run is only parsed: unknown options, missing arguments and values out of bounds are errors.
    command.make_context(line, arguments)
