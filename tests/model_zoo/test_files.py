"""Opening files from outside."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from paddle2torch.model_zoo.errors import FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.files import open_regular, read_bounded


def test_a_regular_file_is_read_and_links_to_it_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert read_bounded(tmp_path / "a", 3, "settings file") == b"abc"


def test_a_larger_file_than_asked_for_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileFormatError, match="sparse: is larger than 1,000 bytes, which no settings file is"):
        read_bounded(tmp_path / "sparse", 1000, "settings file")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path, "is a directory"),
        (tmp_path / "none", "there is no such file"),
        (tmp_path / "none" / "below", "there is no such file"),
        (tmp_path / ("a" * 5000), "File name too long"),
        (tmp_path / "a\0b", "null (byte|character)"),  # as Python before 3.13 says it, and since
    ]:
        with pytest.raises(Paddle2TorchError, match=message) as caught:
            open_regular(path)
        assert len(str(caught.value)) < 400
        assert "\0" not in str(caught.value)


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    regular = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda path: regular)
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            open_regular(tmp_path / "pipe")
        except Paddle2TorchError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert [str(error) for error in errors] == [f"{tmp_path / 'pipe'}: is not a regular file"]
