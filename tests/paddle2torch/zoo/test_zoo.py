"""The zoo as it is shown: lists, one model, the models of each language, and README's table."""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import support_table
import torch
from click.testing import CliRunner, Result
from material import SHARED
from rich.cells import cell_len
from rich.console import Console
from small_models import fill, write_pdparams

from paddle2torch import OCR, convert, list_models, load_pretrained
from paddle2torch.cli import main
from paddle2torch.cli.zoo_tables import print_info, print_models
from paddle2torch.converters import convert as convert_module
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.model_zoo import cards
from paddle2torch.model_zoo.cards import Card, list_cards, load_card, read_card
from paddle2torch.model_zoo.config import Component, CTCDecode, ModelConfig, RecPreprocess
from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.languages import ALIASES, LANGUAGES, SCRIPTS, find_language, language_of_tag
from paddle2torch.model_zoo.network import build_model
from paddle2torch.ocr import pipeline as ocr_module
from paddle2torch.zoo.info import cost_of, describe
from paddle2torch.zoo.models import Pipeline, own_models, pipeline_of


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# --- languages ---

V3, V4 = ("ch_PP-OCRv3_det", "ch_ppocr_mobile_v2.0_cls"), ("ch_PP-OCRv4_det", "ch_ppocr_mobile_v2.0_cls")
V5, V6 = (("PP-OCRv5_server_det", TURN := "PP-LCNet_x1_0_textline_ori"), ("PP-OCRv6_medium_det", TURN))
# PaddleOCR's lists, of `parse_lang` (2.x) and `_get_ocr_model_names` (3.x).
LATIN = (
    "af az bs cs cy da de es et fr ga hr hu id is it ku la lt lv mi ms mt nl no oc pi pl pt ro rs_latin sk sl sq sv sw "
    "tl tr uz vi french german fi eu gl lb rm ca qu"
)
CYRILLIC = (
    "rs_cyrillic bg mn abq ady kbd ava dar inh che lbe lez tab kk ky tg mk tt cv ba mhr mo udm kv os bua xal tyv sah "
    "kaa"
)
RECOGNISERS = {
    "PP-OCRv6_medium_rec": (f"ch chinese_cht en japan latin {LATIN.replace(' pi ', ' ')}", V6),
    "latin_PP-OCRv5_mobile_rec": ("pi", V5),
    "korean_PP-OCRv5_mobile_rec": ("korean", V5),
    "th_PP-OCRv5_mobile_rec": ("th", V5),
    "el_PP-OCRv5_mobile_rec": ("el", V5),
    "te_PP-OCRv5_mobile_rec": ("te", V5),
    "ta_PP-OCRv5_mobile_rec": ("ta", V5),
    "ka_PP-OCRv3_rec": ("ka", V3),
    "arabic_PP-OCRv5_mobile_rec": ("arabic ar fa ug ur ps sd bal", V5),
    "eslav_PP-OCRv5_mobile_rec": ("ru be uk", V5),
    "cyrillic_PP-OCRv5_mobile_rec": (f"cyrillic {CYRILLIC}", V5),
    "devanagari_PP-OCRv5_mobile_rec": ("devanagari hi mr ne bh mai ang bho mah sck new gom sa bgc", V5),
}


@pytest.mark.parametrize("rec", RECOGNISERS)
def test_every_language_of_paddleocr_has_its_models(rec: str) -> None:
    languages, (det, cls) = RECOGNISERS[rec]
    generation = 2 if (det, cls) == V3 else 3
    version = load_card(rec).version
    small = Pipeline("PP-OCRv6_small_det", "PP-OCRv6_small_rec", V4[1], 3, version="v6")
    expected = Pipeline(det, rec, cls, generation, None, version, small if version == "v6" else None)  # type: ignore[arg-type]
    assert {lang: pipeline_of(lang) for lang in languages.split()} == dict.fromkeys(languages.split(), expected)
    for name, task in ((det, "det"), (rec, "rec"), (cls, "cls")):
        assert load_card(name).task == task


@pytest.mark.parametrize(
    ("lang", "version", "rec", "parts"),
    [
        ("en", "v6", "PP-OCRv6_medium_rec", V6),
        ("en", "v5", "en_PP-OCRv5_mobile_rec", V5),
        ("ch", "v5", "PP-OCRv5_server_rec", V5),
        ("japan", "v5", "PP-OCRv5_server_rec", V5),
        ("fr", "v5", "latin_PP-OCRv5_mobile_rec", V5),
        ("en", "v4", "en_PP-OCRv4_rec", V4),
        ("ch", "v4", "ch_PP-OCRv4_rec", V4),
        ("fr", "v3", "latin_PP-OCRv3_rec", V3),
    ],
)
def test_a_version_can_be_asked_for(lang: str, version: str, rec: str, parts: tuple[str, str]) -> None:
    found = pipeline_of(lang, version)
    assert (found.rec, found.det, found.cls, found.note, found.stand_in) == (rec, *parts, None, None)
    assert found.generation == (3 if version in ("v5", "v6") else 2)


def test_a_version_that_does_not_read_a_language_says_what_is_taken() -> None:
    found = pipeline_of("arabic", "v6")
    assert found.rec == "arabic_PP-OCRv5_mobile_rec"
    assert found.note == "PP-OCRv6 does not read Arabic (ar): arabic_PP-OCRv5_mobile_rec of PP-OCRv5 is taken"
    assert pipeline_of("fr", "v4").rec == "latin_PP-OCRv3_rec"
    with pytest.raises(ConfigError, match=r"no recogniser of PP-OCRv4 reads 'th'; of v5 does: leave the version out"):
        pipeline_of("th", "v4")
    with pytest.raises(ConfigError, match="version is one of v6, v5, v4, v3, not 'v7'"):
        pipeline_of("en", "v7")


def test_only_the_cards_of_the_versions_that_are_asked_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(path: Path) -> Card:
        read.append(path.stem)
        return read_card(path)

    monkeypatch.setattr(cards, "_read_once", note)
    pipeline_of("en")
    assert set(read) == {f"PP-OCRv6_{tier}_{part}" for tier in ("medium", "small", "tiny") for part in ("det", "rec")}


def test_no_language_is_left_out() -> None:
    listed = {find_language(lang) for languages, _ in RECOGNISERS.values() for lang in languages.split()}
    assert listed == set(LANGUAGES)
    on_cards = {name for card in list_cards() if card.task == "rec" for name in card.languages}
    assert on_cards - {*LANGUAGES, *ALIASES} == {"digits", "pinyin", "special symbols"}
    assert not {*ALIASES, *SCRIPTS} & set(LANGUAGES)


@pytest.mark.parametrize(
    ("name", "code"),
    [("French", "fr"), ("KOREAN", "korean"), ("ja", "japan"), ("zh", "ch"), ("kn", "ka"), ("Goan Konkani", "gom")],
)
def test_names_of_a_language(name: str, code: str) -> None:
    assert find_language(name) == code


@pytest.mark.skipif(importlib.util.find_spec("langcodes") is None, reason="needs langcodes")
@pytest.mark.parametrize(
    ("tag", "code"),
    [
        *(("eng", "en"), ("deu", "de"), ("ger", "de"), ("pt-BR", "pt"), ("chi_sim", "ch"), ("chi_tra", "chinese_cht")),
        *(("zh", "ch"), ("zh-Hant", "chinese_cht"), ("zh-TW", "chinese_cht"), ("jpn", "japan"), ("ko-KR", "korean")),
        *(("kan", "ka"), ("sr", "rs_cyrillic"), ("sr-Latn", "rs_latin"), ("nb", "no"), ("mag", "mah"), ("fil", "tl")),
    ],
)
def test_tags_of_other_programs_name_a_language(tag: str, code: str) -> None:
    assert language_of_tag(tag) == code


@pytest.mark.skipif(importlib.util.find_spec("langcodes") is None, reason="needs langcodes")
@pytest.mark.parametrize("tag", ["kat", "ka", "mah", "my", "x!"])
def test_tags_of_languages_that_are_not_read_are_refused(tag: str) -> None:
    with pytest.raises(ConfigError, match=tag):
        language_of_tag(tag)


def test_an_unknown_language_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no language is called 'frensh'; did you mean french"):
        pipeline_of("frensh")
    with pytest.raises(ConfigError, match=r"'klingon'; known: ch, chinese_cht, en, .*devanagari"):
        OCR(lang="klingon")


def test_ocr_loads_what_the_language_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(model: object, **options: object) -> tuple[torch.nn.Module, None]:
        asked.append(model)
        if len(asked) % 3 == 0:
            raise ConfigError("enough")
        return torch.nn.Identity(), None

    for name in ("Detector", "Classifier"):
        monkeypatch.setattr(ocr_module, name, lambda *_, **__: type("Part", (), {"preprocess": 0, "postprocess": 0})())
    monkeypatch.setattr(ocr_module, "_load", load)
    monkeypatch.setattr(ocr_module, "obtain_pipeline", lambda chosen, wanted: chosen)
    for arguments in ({"lang": "fa"}, {"lang": "fr", "det": "my_det", "cls": "my_cls"}):
        with pytest.raises(ConfigError, match="enough"):
            OCR(**arguments)
    assert asked == [*V5, "arabic_PP-OCRv5_mobile_rec", "my_det", "my_cls", "PP-OCRv6_medium_rec"]


def test_languages_of_right_to_left_scripts_are_turned_around() -> None:
    for lang in ("ar", "fa", "ug", "ur", "ps", "sd", "bal", "arabic"):
        assert load_card(pipeline_of(lang).rec).postprocess == CTCDecode(right_to_left=True)
    assert load_card(pipeline_of("ku").rec).postprocess == CTCDecode()  # in Latin letters


# --- lists ---


def test_list_filters() -> None:
    names = {model.card.name for model in list_models(language="german", version="v5")}
    assert names == {"latin_PP-OCRv5_mobile_rec"}
    assert {model.card.task for model in list_models(task="cls")} == {"cls"}
    assert len(list_models()) == len(list_cards())
    with pytest.raises(ConfigError, match=r"no model is of version 'v7'; there are v2, v2\.0, v3, v3\.x, v4, v5"):
        list_models(version="v7")
    table = run("list", "--task", "det", "--version", "v5").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["name", "PP-OCRv5_mobile_det", "PP-OCRv5_server_det"]
    (found,) = json.loads(run("list", "--language", "Thai", "--json").stdout)
    assert (found["name"], found["parameters"], found["converted"]) == (
        "th_PP-OCRv5_mobile_rec",
        load_card("th_PP-OCRv5_mobile_rec").parameters.fused,
        None,
    )
    refused = run("list", "--language", "frensh")
    assert refused.exit_code == 1
    assert "did you mean french" in refused.output


def test_own_models_are_listed_after_the_released(small_checkpoint: Path, tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("\n".join("abcdefg"))
    assert own_models() == ()
    convert("mine", weights=small_checkpoint, charset=letters)
    (own,) = own_models()
    assert (own.name, own.task, own.form) == ("mine", "rec", "training")
    assert own_models(task="det") == ()
    *_, last = json.loads(run("list", "--task", "rec", "--json").stdout)
    assert (last["name"], last["version"], last["bytes"]) == ("mine", None, own.bytes)
    assert run("list").stdout.splitlines()[-1].split()[:3] == ["mine", "rec", "own"]
    assert "mine" not in run("list", "--version", "v4").stdout
    out = io.StringIO()
    print_models(list_models(), Console(file=out, width=80, color_system=None), own_models())
    assert out.getvalue().endswith("0 converted here, and 1 of your own\n")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(width: int) -> None:
    for name in ("latin_PP-OCRv5_mobile_rec", "PP-LCNet_x1_0_doc_ori", "ka_PP-OCRv4_rec"):
        out = io.StringIO()
        print_info(describe(name), Console(file=out, width=width, color_system=None))
        # Characters may take two cells of a terminal, or none.
        assert max(map(cell_len, out.getvalue().splitlines())) <= width
    out = io.StringIO()
    print_models(list_models(), Console(file=out, width=width, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # Names are never cut: they are what one types. Every model has a line.
    assert [line.split()[0] for line in lines[1:-1]] == [card.name for card in list_cards()]


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys, paddle2torch.cli as cli; cli.main(['list'], standalone_mode=False); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


# --- one model ---


def config(backbone: Component, neck: Component, head: Component, *, height: int) -> ModelConfig:
    return ModelConfig(
        name="counted",
        task="rec",
        form="training",
        backbone=backbone,
        neck=neck,
        head=head,
        preprocess=RecPreprocess(image_shape=(3, height, 64)),
        postprocess=CTCDecode(),
        charset=("a", "b", "c"),
    )


def test_multiply_adds_counted_by_hand() -> None:
    """A LSTM and a linear layer on the backbone's output: the difference of two hidden sizes is known."""
    found = []
    for hidden in (8, 16):
        cost = cost_of(
            config(
                Component("MobileNetV3", {"scale": 0.5, "model_name": "small", "small_stride": [1, 2, 2, 2]}),
                Component("SequenceEncoder", {"encoder_type": "rnn", "hidden_size": hidden}),
                Component("CTCHead", {"classes": 4}),
                height=32,
            )
        )
        # 64 pixels are 16 steps of 288 channels. Four gates of an LSTM, two directions, two layers; then the head.
        first = 16 * 2 * 4 * hidden * (288 + hidden)
        second = 16 * 2 * 4 * hidden * (2 * hidden + hidden)
        found.append(cost.multiply_adds - first - second - 16 * 2 * hidden * 4)
        assert cost.layers["lstm"] == 1
        assert cost.input == (1, 3, 32, 64)
    backbone, same = found
    assert backbone == same > 0


def test_multiply_adds_of_a_classifier_by_hand() -> None:
    """Every convolution and linear layer of the smallest network, from its shapes."""
    cost = describe("PP-LCNet_x0_25_textline_ori").cost
    assert cost is not None
    # Channels in and out, kernel, and the pixels (height, width) of each block's output; a block is a depthwise and a
    # pointwise convolution, two of them with squeeze and excitation.
    height, width = 40, 80
    total = 3 * 8 * 9 * height * width
    blocks = (
        [(8, 8, 3, 1)] + [(8, 16, 3, 2), (16, 16, 3, 1)] + [(16, 32, 3, 2), (32, 32, 3, 1)]
        + [(32, 64, 3, 2)] + [(64, 64, 5, 1)] * 5 + [(64, 128, 5, 2), (128, 128, 5, 1)]
    )  # fmt: skip
    for index, (c_in, c_out, kernel, stride) in enumerate(blocks):
        height = -(-height // stride)  # of the text-line models; the width stays
        total += height * width * c_in * (kernel * kernel + c_out)
        if index >= len(blocks) - 2:
            total += 2 * c_in * (c_in // 4)
    assert cost.multiply_adds == total + 128 * 1280 + 1280 * 2
    assert cost.parameters == load_card("PP-LCNet_x0_25_textline_ori").parameters.fused


@pytest.mark.parametrize("name", ["PP-OCRv4_mobile_rec", "en_ppocr_mobile_v2.0_det", "french_mobile_v2.0_rec"])
def test_info_of_a_name(name: str) -> None:
    card = load_card(name)
    result = run("info", name, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["name"] == card.name
    assert found["parameters"] == {"training": card.parameters.training, "fused": card.parameters.fused}
    assert (found["cost"] is None) == (card.parameters.fused is None)
    text = run("info", name).stdout
    assert card.licence in text
    assert all(str(source) in text for source in card.sources.inference)


def test_info_of_a_converted_model(small_checkpoint: Path, tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("\n".join("abcdefg"))
    convert("own", weights=small_checkpoint, charset=letters, output=tmp_path / "out")
    info = describe(tmp_path / "out")
    assert (info.name, info.card) == ("own", None)
    assert info.parameters.training is not None
    assert info.parameters.fused is not None
    assert info.parameters.training > info.parameters.fused
    assert info.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    text = run("info", tmp_path / "out").stdout
    assert text.splitlines()[:2] == ["name             own", "task             recognition"]
    assert "training checkpoint" in text
    assert str(tmp_path / "out") in text
    refused = run("info", "en_PP-OCRv4_rek")
    assert refused.exit_code == 1
    assert "did you mean en_PP-OCRv4_rec" in refused.output


# --- one more model ---


def test_a_model_of_a_known_architecture_is_a_card_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, described, converted by its name, loaded, chosen by its language."""
    data = json.loads((cards.CARDS / "en_PP-OCRv4_rec.json").read_text(encoding="utf-8"))
    data |= {"name": "eu_PP-OCRv4_mobile_rec", "aliases": ["basque"], "languages": ["eu"]}
    data["architecture"]["Backbone"]["scale"] = 0.35
    data["architecture"]["Head"]["head_list"][1]["NRTRHead"] |= {"nrtr_dim": 32, "num_decoder_layers": 1}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "eu_PP-OCRv4_mobile_rec.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(cards, "CARDS", tmp_path / "cards")
    monkeypatch.setattr(cards, "_index", functools.cache(cards._index.__wrapped__))
    config = describe("basque").config
    assert config is not None
    network = build_model(config)
    fill(network)
    tensors = to_paddle(layout_table(network), network.state_dict())
    convert("basque", weights=write_pdparams(tmp_path / "a.pdparams", tensors))
    (found,) = list_models(language="Basque")
    assert (found.card.name, found.form) == ("eu_PP-OCRv4_mobile_rec", "training")
    assert pipeline_of("eu").rec == found.card.name
    loaded = load_pretrained("basque")
    assert loaded.config.charset == load_card("basque").characters()
    assert torch.equal(loaded.state_dict()["head.ctc_head.fc.bias"], network.state_dict()["head.ctc_head.fc.bias"])


def test_no_code_knows_a_model_by_its_name() -> None:
    """Of the networks and the converters, none has a case for one model."""
    names = {name for card in list_cards() for name in (card.name, *card.aliases)}
    files = [path for module in (cards, convert_module) for path in Path(module.__file__).parent.rglob("*.py")]
    assert len(files) > 40
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path}:{node.lineno}"


# --- PARITY.md ---


def test_the_page_of_parity_has_the_support_table() -> None:
    text = support_table.PAGE.read_text(encoding="utf-8")
    _, _, rest = text.partition(support_table.BEGIN)
    found, end, _ = rest.partition(support_table.END)
    assert end
    assert found == support_table.table(), "PARITY.md is out of date: run `python tests/support_table.py`"
    assert "structure only" not in found


@pytest.mark.skipif(not (SHARED / "reference" / "zoo").is_dir(), reason="../shared is not here")
def test_the_table_knows_the_zoo() -> None:
    manifests = (SHARED / "reference" / "zoo").glob("*.manifest.json")
    assert sorted(support_table.ZOO) == sorted(path.name.removesuffix(".manifest.json") for path in manifests)
