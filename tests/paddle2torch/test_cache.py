"""Whose the cache is, and whose native code is run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from small_models import saved, small_config

from paddle2torch import cache
from paddle2torch.cache import check_native, make_native_home, make_private, native_home, one_at_a_time, zoo_dir
from paddle2torch.compiled.kernel_library import kernels_path, load_kernels
from paddle2torch.compiled.network import CompiledNetwork, library_path
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.zoo.conversion import convert

needs_modes = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is not there yet."""
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "a" / "home"))
    return tmp_path / "a" / "home"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def folder_modes(home: Path) -> set[int]:
    return {mode(path) for path in (home.parent, home, *home.rglob("*")) if path.is_dir()}


@needs_modes
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o777])
def test_folders_of_the_cache_are_private_whatever_the_umask(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_private(zoo_dir())
        make_native_home()
        with one_at_a_time(home / "downloads" / "x" / "training", progress=False):
            pass
    except PermissionError:
        assert umask == 0o777
    finally:
        os.umask(before)
    assert folder_modes(home) == {0o700}


@needs_modes
def test_a_converted_model_of_the_zoo_is_private(home: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("".join(f"{letter}\n" for letter in "abcdefg"))
    before = os.umask(0)
    try:
        convert("own", weights=small_checkpoint, charset=tmp_path / "letters.txt", use_space_char=False)
        convert("own", weights=small_checkpoint, charset=tmp_path / "letters.txt", use_space_char=False)
    finally:
        os.umask(before)
    assert folder_modes(home) == {0o700}


@needs_modes
def test_a_folder_that_is_there_keeps_its_mode_but_for_native_code(home: Path) -> None:
    native_home().mkdir(parents=True)
    home.chmod(0o775)
    native_home().chmod(0o775)
    make_private(home)
    make_native_home()
    assert (mode(home), mode(native_home())) == (0o775, 0o755)


def native(home: Path) -> Path:
    make_native_home()
    path = native_home() / "code.so"
    path.write_bytes(b"code")
    path.chmod(0o600)
    return path


@needs_modes
def test_native_code_of_this_user_alone_is_run(home: Path) -> None:
    check_native(native(home))


@needs_modes
@pytest.mark.parametrize("where", ["file", "folder"])
@pytest.mark.parametrize("writable", [0o020, 0o002])
def test_native_code_that_others_may_write_is_refused(home: Path, where: str, writable: int) -> None:
    path = native(home)
    place = path if where == "file" else path.parent
    place.chmod(mode(place) | writable)
    with pytest.raises(ConfigError, match=r"can be written by others \(mode .*Remove .* is made again, or set PADDLE"):
        check_native(path)


@needs_modes
@pytest.mark.parametrize("where", ["file", "folder"])
def test_native_code_of_another_user_is_refused(home: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = native(home)
    if os.geteuid() == 0:
        os.chown(path if where == "file" else path.parent, 12345, -1)
    else:
        monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        check_native(path)


@needs_modes
def test_native_code_through_a_link_is_refused(home: Path) -> None:
    path = native(home)
    path.rename(home / "elsewhere.so")
    path.symlink_to(home / "elsewhere.so")
    with pytest.raises(ConfigError, match="is not a regular file"):
        check_native(path)


@needs_modes
def test_planted_kernels_and_packages_are_not_loaded(home: Path, tmp_path: Path) -> None:
    saved(tmp_path / "own", small_config(nrtr=False))
    for path in (kernels_path(), library_path(tmp_path / "own")):
        make_native_home()
        path.write_bytes(b"planted")
        path.chmod(0o666)
    with pytest.raises(ConfigError, match="can be written by others"):
        CompiledNetwork(library_path(tmp_path / "own"), tmp_path / "own")
    # Loaded once by another test, they are not loaded again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddle2torch.compiled.kernel_library.loaded", lambda: False)
        with pytest.raises(ConfigError, match="can be written by others"):
            load_kernels()


def test_files_of_native_code_are_named_by_digests(home: Path, tmp_path: Path) -> None:
    saved(tmp_path / "own", small_config(nrtr=False))
    path = library_path(tmp_path / "own")
    assert path.parent == native_home()
    assert path.suffix == ".so"
    assert len(path.stem) == 32
    assert set(path.stem) <= set("0123456789abcdef")
