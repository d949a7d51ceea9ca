"""Official models that are known as programs: their cards, `list`, `info`, and fetching one."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import program_cases
import pytest
import torch
from click.testing import CliRunner
from loopback import Server, running

from paddle2torch import load_pretrained
from paddle2torch.cli import main
from paddle2torch.model_zoo.cards import HubSource, Sources, UrlSource, list_cards
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.programs import cards
from paddle2torch.model_zoo.programs.network import Program
from paddle2torch.zoo import conversion
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.models import own_models, program_models
from paddle2torch.zoo.resolve import resolve

BASE = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_inference_model/paddle3.0.0/"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PADDLE2TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """SLANet_plus, whose card's only source is a tar with a small program, on loopback."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("inference.json", "inference.pdiparams"):
            archive.add(program_cases.GOLDENS / "networks_decoder" / name, f"SLANet_plus_infer/{name}")
    with running(Server()) as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        card = cards.find_program_card("SLANet_plus")
        assert card is not None
        source = server.url("SLANet_plus_infer.tar", content.getvalue())
        here = replace(card, sources=Sources((), (source,)))
        monkeypatch.setattr(conversion, "find_program_card", lambda name: here if name == "SLANet_plus" else None)
        yield server


def test_every_card_has_an_official_address_and_its_repository() -> None:
    found = cards.list_program_cards()
    assert len(found) == 25
    for card in found:
        hub, url = card.sources.inference
        assert isinstance(hub, HubSource)
        assert hub.repo == f"PaddlePaddle/{card.name}"
        assert isinstance(url, UrlSource)
        assert url.url == f"{BASE}{card.name}_infer.tar"
        assert card.preprocess
        assert card.postprocess
        assert any("was not run here" in note for note in card.notes)
        for step in card.preprocess:
            if step.step == "normalise":
                assert set(step.settings) == {"scale", "mean", "std"}
    names = {card.name for card in found}
    assert {"SLANet", "SLANet_plus", "SLANeXt_wired", "SLANeXt_wireless", "UVDoc", "PP-DocLayout_plus-L"} <= names
    assert not names & {card.name for card in list_cards()}


def test_a_name_is_resolved_to_its_program_and_an_unknown_one_gets_near_ones() -> None:
    assert resolve("PP-DocLayout-S").program is not None
    assert resolve("PP-DocLayout-S").converted is None
    with pytest.raises(ConfigError, match="PP-DocLayout-"):
        resolve("PP-DocLayout-XS")
    with pytest.raises(ConfigError, match="SLANet_plus"):
        convert("SLANet_pls")


def test_list_shows_programs_in_a_group_of_their_own() -> None:
    data = json.loads(CliRunner().invoke(main, ["list", "--json"]).output)
    programs = [model for model in data if model["form"] == "program"]
    assert [model["name"] for model in programs] == [card.name for card in cards.list_program_cards()]
    assert data[-len(programs) :] == programs
    shown = CliRunner().invoke(main, ["list"]).output
    assert "SLANet_plus" in shown
    assert "SLANet_plus" not in CliRunner().invoke(main, ["list", "--task", "det"]).output


def test_info_of_a_program_that_is_not_here_shows_its_card() -> None:
    shown = CliRunner().invoke(main, ["info", "PP-DocLayout-S"])
    assert shown.exit_code == 0
    for part in (
        "PicoDet-S",
        "size [480, 480]",
        "paddle2torch convert PP-DocLayout-S",
        f"{BASE}PP-DocLayout-S_infer.tar",
    ):
        assert part in shown.output


def test_convert_fetches_a_program_by_its_name(served: Server) -> None:
    made = convert("SLANet_plus")
    assert served.asked
    assert made.config.form == "program"
    assert made.config.name == "SLANet_plus"
    assert made.folder.name == "SLANet_plus"
    model = load_pretrained("SLANet_plus")
    assert isinstance(model, Program)
    with torch.inference_mode():
        model(torch.zeros(1, *model.config.feeds[0].shape[1:]))
    assert [model.card.name for model in program_models() if model.folder is not None] == ["SLANet_plus"]
    assert not own_models()
    shown = CliRunner().invoke(main, ["info", "SLANet_plus"]).output
    assert "1 while" in shown
    assert "table structure" in shown


def test_a_program_takes_no_settings_of_networks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no settings"):
        convert("SLANet", charset="en_dict.txt")
    with pytest.raises(ConfigError, match="takes no settings"):
        convert("SLANet", weights=program_cases.GOLDENS / "networks_decoder", named_only=True)


def test_own_files_under_a_programs_name_are_taken_as_they_are(tmp_path: Path) -> None:
    made = convert("SLANet", weights=program_cases.GOLDENS / "networks_decoder", output=tmp_path / "out")
    assert made.config.form == "program"
    assert not any("no network that is known here" in note for note in made.notes)
