"""What comes from outside is shown on a terminal, and does nothing to it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from paddle2torch import progress
from paddle2torch.cli import main
from paddle2torch.cli.output import Terminal, escape, print_json, print_table
from paddle2torch.progress import spinner

EVIL = "\x1b]0;TITLE\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, r"\x1b]0;TITLE\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\r\x08\x7f", r"\r\x08\x7f"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("مرحبا بالعالم 12", "مرحبا بالعالم 12"),
        ("שלום \u200f עולם, 中文, ü", "שלום \u200f עולם, 中文, ü"),
    ],
)
def test_what_would_steer_a_terminal_is_shown_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_cell_of_a_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [("a\nb" + EVIL,)])
    assert capsys.readouterr().out == "name\na\\nb\\x1b]0;TITLE\\x07\n"


def test_columns_are_below_each_other_where_characters_are_wide(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("text", "score"), [("中文 [red]", "0.9"), ("long " * 60, "0.8"), ("u", "0.7")])
    lines = capsys.readouterr().out.splitlines()
    assert {cell_len(line.rpartition("0.")[0]) for line in lines[1:]} == {302}
    assert lines[1].startswith("中文 [red]  ")
    assert all(line == line.rstrip() for line in lines)


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": EVIL + "\x9b\u202e" + "مرحبا"})
    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert "\x9b" not in written
    assert "\u202e" not in written
    assert json.loads(written) == {"text": EVIL + "\x9b\u202e" + "مرحبا"}


def test_of_two_displays_the_inner_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download's bar while models are loaded: both at once would overwrite each other."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown() -> list[bool]:
        return [display.live.is_started for display in progress._shown]

    monkeypatch.setattr("sys.stderr", Tty())
    monkeypatch.setenv("TERM", "xterm")
    with spinner("loading"):
        assert shown() == [True]
        with spinner("fetching"):
            assert shown() == [False, True]
        assert shown() == [True]
    assert shown() == []


def test_errors_are_escaped(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["info", str(tmp_path / EVIL)])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


def test_text_that_is_read_goes_to_a_terminal_escaped() -> None:
    stream = io.StringIO()
    Terminal(stream).write(f"read{EVIL}\n")
    assert stream.getvalue() == "read\\x1b]0;TITLE\\x07\n"
