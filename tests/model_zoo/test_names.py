"""What can be a name, and which files of a folder are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_models import small_config

from paddle2torch.converters.paddle_files.exports import find_export
from paddle2torch.converters.templates import from_yml
from paddle2torch.model_zoo.cards import list_cards, load_card
from paddle2torch.model_zoo.config import CONFIG_NAME, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.names import file_in, is_name, plain_name


@pytest.mark.parametrize(
    "name", ["en_PP-OCRv4_rec", "_own", "1", "车牌", "हिन्दी", "a.b", "console", "com", "com10", "x" * 128]
)
def test_names(name: str) -> None:
    assert is_name(name)
    assert plain_name(name, "other") == name


HOSTILE = [
    *(
        "",
        ".",
        "..",
        "...",
        "a..b",
        "../x",
        "a/b",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "~",
        "~root",
        "$HOME",
        "a b",
        "a\n",
        "\0",
    ),
    *("-o", ".hidden", "dot.", "CON", "nul", "NUL.txt", "com1", "LPT9.tar.gz", "COM¹", "conin$", "x:y", "a*", "x?"),
    *("\u202egnp.x", "a\u200bb", "\u0301a", "é" * 65, "x" * 129, "\ud800", "٪", "a\u2215b", "\uff0e\uff0e"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_name_is_refused_when_settings_are_read(name: str, tmp_path: Path) -> None:
    assert not is_name(name)
    made = plain_name(name, "other")
    assert is_name(made)
    assert (tmp_path / made).parent == tmp_path
    settings = json.loads(small_config().dumps()) | {"name": name}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="cannot be a name"):
        ModelConfig.load(tmp_path)


def test_every_released_model_has_a_name() -> None:
    assert all(is_name(name) for card in list_cards() for name in (card.name, *card.aliases))


def test_a_name_of_megabytes_is_refused_at_once() -> None:
    # The search for the nearest name would take gigabytes.
    with pytest.raises(ConfigError, match="and 7,999,940 more characters"):
        load_card("x" * 8_000_000)


def outside(folder: Path, name: str, target: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def test_links_that_stay_in_the_folder_and_links_that_do_not(tmp_path: Path) -> None:
    folder, secret = tmp_path / "model", tmp_path / "secret"
    secret.write_text("key")
    outside(folder, "inner", Path("real"))
    assert file_in(folder, "inner") == folder / "inner"
    assert file_in(folder, "none") == folder / "none"
    (tmp_path / "link").symlink_to(folder)
    assert file_in(tmp_path / "link", "inner") == tmp_path / "link" / "inner", "the user's own link to a folder"
    outside(folder, "chain", Path("first"))
    outside(folder, "first", secret)
    outside(folder, "gone", tmp_path / "not there")
    outside(folder, "circle", Path("circle"))
    (folder / "up").symlink_to("..")
    for name in ("chain", "first", "gone", "up/secret", "../secret"):
        with pytest.raises(FileFormatError, match="leads out of its folder"):
            file_in(folder, name)


def test_a_snapshot_of_the_hubs_own_cache_is_made_of_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--o--m" / "blobs", tmp_path / "models--o--m" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    (blobs / ("a" * 64)).write_text("{}")
    outside(snapshot, CONFIG_NAME, Path("../../blobs") / ("a" * 64))
    assert file_in(snapshot, CONFIG_NAME).read_text() == "{}"
    outside(blobs, "b" * 64, Path("/etc/passwd"))
    outside(snapshot, "README.md", Path("../../blobs") / ("b" * 64))
    (blobs / "notes").write_text("no digest")
    outside(snapshot, "other", Path("../../blobs/notes"))
    for name in ("README.md", "other"):
        with pytest.raises(FileFormatError, match="leads out of its folder"):
            file_in(snapshot, name)


def test_an_export_whose_files_lead_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"key")
    for linked, given in (
        ("inference.pdiparams", ""),
        ("inference.json", ""),
        ("inference.pdiparams", "inference.json"),
    ):
        folder = tmp_path / f"{linked}-{given}"
        folder.mkdir()
        for name in {"inference.json", "inference.pdiparams"} - {linked}:
            (folder / name).write_text("{}")
        outside(folder, linked, secret)
        with pytest.raises(FileFormatError, match="leads out of its folder"):
            find_export(folder / given)


@pytest.mark.parametrize(
    "dictionary", ["/etc/hosts", "{0}/secret.txt", "../secret.txt", "x/../../secret.txt", "link.txt"]
)
def test_a_yml_opens_no_file_but_those_beside_it(
    dictionary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("a\nb\n")
    monkeypatch.chdir(tmp_path)
    yml = tmp_path / "model" / "config.yml"
    outside(yml.parent, "link.txt", tmp_path / "secret.txt")
    text = yml_of(dictionary.format(tmp_path))
    yml.write_text(text)
    with pytest.raises((ConfigError, FileFormatError), match=r"--charset|leads out of its folder"):
        from_yml(yml)
    if "secret" in dictionary:
        (yml.parent / "secret.txt").write_text("a\nb\nc\n")
        charset = from_yml(yml).charset
        assert charset is not None
        assert charset.characters == ("a", "b", "c"), "the one beside the yml is it"


def test_a_dictionary_below_the_working_folder_is_not_the_ymls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text("a\nb\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yml").write_text(yml_of("secret.txt"))
    with pytest.raises(ConfigError, match="neither in the yml's folder nor bundled"):
        from_yml(tmp_path / "model" / "config.yml")


@pytest.mark.parametrize("name", ["../../planted", "", "a/b c"])
def test_what_a_yml_calls_the_model_becomes_a_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "my model (1)"
    folder.mkdir()
    text = yml_of("en_dict.txt").replace("Global:", f"Global:\n  model_name: {json.dumps(name)}")
    (folder / "config.yml").write_text(text)
    assert is_name(from_yml(folder / "config.yml").name)


def yml_of(dictionary: str) -> str:
    return f"""Global:
  character_dict_path: {json.dumps(dictionary)}
Architecture:
  model_type: rec
  algorithm: SVTR_LCNet
  Transform:
  Backbone: {{name: PPLCNetV3, scale: 0.95}}
  Head: {{name: CTCHead}}
"""
