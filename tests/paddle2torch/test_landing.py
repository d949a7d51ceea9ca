"""Files and folders land whole or not at all: also when the writer is killed or the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle2torch import atomic as landing
from paddle2torch.atomic import land_file, land_folder, repair_folder
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError

# For each delay (seconds) that it reads, starts a process which lands one generation after another in the same
# folder, and kills it after that time. `no-exchange` takes away the system call that swaps two names in one step, as
# on other systems and some file systems. Processes are killed here, not the machine: no need to wait for the disk.
WRITERS = """
import errno, hashlib, itertools, os, signal, sys, time
from pathlib import Path
from paddle2torch import atomic as landing

def refuse(one, other):
    raise OSError(errno.ENOSYS, "not here")

def write_for_ever(target):
    for number in itertools.count():
        with landing.land_folder(target, overwrite=True) as folder:
            for index in range(3):
                content = f"{number}-{index}-{os.getpid()}".encode() * 4000
                (folder / f"{index}.bin").write_bytes(content)
                (folder / f"{index}.sha256").write_text(hashlib.sha256(content).hexdigest())
            (folder / "generation").write_text(f"{number}-{os.getpid()}")

os.fsync = lambda descriptor: None
if sys.argv[2] == "no-exchange":
    landing._exchange = refuse
for line in sys.stdin:
    writer = os.fork()
    if writer == 0:
        write_for_ever(Path(sys.argv[1]))
    time.sleep(float(line))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    print("killed", flush=True)
"""


def complete_generation(folder: Path) -> str:
    """The generation in a folder that WRITER wrote, after checking that all of it is of that generation."""
    assert len(list(folder.iterdir())) == 7
    generation = (folder / "generation").read_text()
    number, pid = generation.split("-")
    for index in range(3):
        content = (folder / f"{index}.bin").read_bytes()
        assert content.startswith(f"{number}-{index}-{pid}".encode())
        assert hashlib.sha256(content).hexdigest() == (folder / f"{index}.sha256").read_text()
    return generation


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its writers by fork")
@pytest.mark.parametrize("mode", ["exchange", "no-exchange"])
def test_a_folder_survives_fifty_kills_of_its_writer(tmp_path: Path, mode: str) -> None:
    chance = random.Random(7)
    target = tmp_path / "model"
    generations: set[str] = set()
    leftovers, longest = 0, 0.02
    command = [sys.executable, "-c", WRITERS, str(target), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        kills = 0
        # Kills that came too early or too late show nothing: on a busy machine more of them are needed.
        while kills < 50 or (kills < 500 and not (len(generations) > 10 and leftovers > 5)):
            kills += 1
            writers.stdin.write(f"{chance.uniform(0.0, longest)}\n")
            assert writers.stdout.readline() == "killed\n"
            leftovers += len(list(tmp_path.iterdir())) > 1
            if mode == "no-exchange":
                repair_folder(target)
            before = len(generations)
            if generations or target.exists():
                generations.add(complete_generation(target))
            if len(generations) == before:
                # A busy machine: a writer needs longer until it lands something.
                longest = min(longest * 1.5, 1.0)
    assert len(generations) > 10
    assert leftovers > 5
    with land_folder(target, overwrite=True) as folder:
        for name in ("generation", *(f"{index}.{kind}" for index in range(3) for kind in ("bin", "sha256"))):
            (folder / name).write_text("last")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (target / "generation").read_text() == "last"


def test_a_writer_killed_between_the_two_renames_is_repaired(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with land_folder(target) as folder:
        (folder / "weights").write_text("old")
    script = f"""
import errno, os, signal, sys
from pathlib import Path
from paddle2torch import atomic as landing

def refuse(one, other):
    raise OSError(errno.ENOSYS, "not here")

def rename(one, other, real=os.rename):
    if ".former" in str(other):
        real(one, other)
        os.kill(os.getpid(), signal.SIGKILL)
    real(one, other)

landing._exchange, os.rename = refuse, rename
with landing.land_folder(Path({str(target)!r}), overwrite=True) as folder:
    (folder / "weights").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert not target.exists()
    repair_folder(target)
    assert (target / "weights").read_text() == "old"
    with land_folder(target, overwrite=True) as folder:
        (folder / "weights").write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with land_folder(target, overwrite=True) as slow:
        (slow / "weights").write_text("slow")
        with land_folder(target, overwrite=True) as fast:
            (fast / "weights").write_text("fast")
        assert (slow / "weights").read_text() == "slow"
        assert (target / "weights").read_text() == "fast"
    assert (target / "weights").read_text() == "slow"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_without_locks_only_old_leftovers_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "fcntl", None)
    fresh, old = (tmp_path / f".model.{digit * 16}.landing" for digit in "ab")
    fresh.mkdir()
    old.mkdir()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    with land_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("x")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [fresh.name, "model"]


def test_names_that_only_look_alike_are_not_swept(tmp_path: Path) -> None:
    others = [tmp_path / name for name in (".model.landing", f".model.b.{'a' * 16}.landing", ".model.old")]
    for other in others:
        other.write_text("mine")
    with land_file(tmp_path / "model") as temporary:
        temporary.write_text("x")
    assert all(other.read_text() == "mine" for other in others)


def interrupt_while_writing(target: Path) -> None:
    with land_file(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_a_file_replaces_its_older_self_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "card.json"
    with land_file(target) as temporary:
        temporary.write_text("old")
        assert not target.exists()
    with pytest.raises(KeyboardInterrupt):
        interrupt_while_writing(target)
    assert target.read_text() == "old"
    with land_file(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "run5").mkdir()
    (tmp_path / "latest").symlink_to("run5")
    with land_folder(tmp_path / "latest", overwrite=True) as folder:
        (folder / "weights").write_text("x")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "run5" / "weights").read_text() == "x"


def test_what_must_not_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    with land_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(ConfigError, match="exists and is not empty"), land_folder(target):
        pytest.fail("the block must not run: its work would be for nothing")
    (target / "notes").mkdir()
    (target / "notes" / "mine.txt").write_text("dear diary")
    with (
        pytest.raises(ConfigError, match=r"would lose: notes/mine\.txt"),
        land_folder(target, overwrite=True) as folder,
    ):
        (folder / "weights").write_text("new")
    assert (target / "weights").read_text() == "old"
    with pytest.raises(ConfigError, match="is a file"), land_folder(target / "weights", overwrite=True):
        pass
    with pytest.raises(ConfigError, match="is a folder"), land_file(target):
        pass
    monkeypatch.chdir(target / "notes")
    with pytest.raises(ConfigError, match="working folder"), land_folder(target, overwrite=True):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write_two() -> None:
        with land_folder(target) as second:
            (second / "weights").write_text("second")
            with land_folder(target) as first:
                (first / "weights").write_text("first")

    with pytest.raises(ConfigError, match="exists and is not empty"):
        write_two()
    assert (target / "weights").read_text() == "first"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(Paddle2TorchError, match=r"model cannot be written: .*choose another place")
    with refused, land_folder(tmp_path / "file" / "model"):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    target = small_disk / "model"
    with land_folder(target) as folder:
        (folder / "weights").write_bytes(b"old" * 1000)
    full = r"is full: more than [\d.,]+ (bytes|MB) needed, [\d.,]+ (bytes|MB) free"

    def write_much() -> None:
        with land_folder(target, overwrite=True) as folder:
            (folder / "weights").write_bytes(bytes(90_000))
            (folder / "more").write_bytes(bytes(400_000))

    with pytest.raises(Paddle2TorchError, match=full):
        write_much()
    with pytest.raises(Paddle2TorchError, match=full), land_file(small_disk / "page.html") as temporary:
        temporary.write_bytes(bytes(400_000))
    refused = pytest.raises(Paddle2TorchError, match=r"full: 99\.0 MB needed")
    with refused, land_folder(target, overwrite=True, size=99_000_000):
        pytest.fail("what is known not to fit must not be begun")
    assert [entry.name for entry in small_disk.iterdir()] == ["model"]
    assert (target / "weights").read_bytes() == b"old" * 1000


def test_a_mounted_file_system_is_not_replaced(small_disk: Path) -> None:
    with pytest.raises(ConfigError, match="choose a folder in it"), land_folder(small_disk):
        pytest.fail("the renaming would fail at the end")
    with land_folder(small_disk / "model") as folder:
        (folder / "weights").write_text("x")
    assert [entry.name for entry in small_disk.iterdir()] == ["model"]


def test_a_disk_that_fills_up_under_safetensors(small_disk: Path) -> None:
    """Its errors are not OSErrors: the system's number is in their text only."""
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    with pytest.raises(Paddle2TorchError, match="is full"), land_file(small_disk / "model.safetensors") as temporary:
        save_file({"weight": numpy.zeros(200_000, dtype="float32")}, temporary)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write() -> None:
        with land_folder(tmp_path / "model") as folder:
            (folder / "config").write_text("{}")
            if call == "write":
                full()

    if call == "fsync":  # where the disk takes what it is given and only then says that there was no room
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Paddle2TorchError, match="more than 2 bytes needed"):
        write()
    assert list(tmp_path.iterdir()) == []
