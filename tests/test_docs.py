"""Pages made from the code say what the code says."""

from __future__ import annotations

import importlib.util
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pytest
from doc_blocks import PAGES, PROGRAM, blocks
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


def commands(page: Path) -> list[str]:
    """The commands of this package in a page's blocks of code, those that are not run too."""
    lines = (line for block in blocks(page) if block.language == "sh" for line in block.commands())
    parts = (part.partition(" '>' ")[0].strip() for line in lines for part in line.split("'&&'"))
    return [part for part in parts if part.startswith(f"{PROGRAM} ")]


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES for line in commands(page)], ids=lambda value: str(value)[-60:]
)
def test_the_command_line_takes_what_the_pages_say(page: Path, line: str) -> None:
    _, *arguments = shlex.split(line)
    command: click.Command = cli.main
    context = click.Context(command)
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page.name}: {line}"
        command = found
    # What would be run is only parsed: unknown options, missing arguments and values out of bounds are errors.
    with suppress(click.exceptions.Exit):  # --version and --help are done with that
        command.make_context(line, arguments)
