"""Which characters a recogniser's classes are, and from which side its lines are read."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from material import GOLDENS
from small_models import small_config, write_pdparams

from paddle2torch.cli import main
from paddle2torch.converters.characters import Charset, settle_charset
from paddle2torch.converters.convert import convert_files
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.paddle_files.pdiparams import write_parameters
from paddle2torch.converters.paddle_files.pir import read_pir
from paddle2torch.converters.templates import Template, from_card, from_yml
from paddle2torch.model_zoo.cards import list_cards
from paddle2torch.model_zoo.charsets import is_right_to_left
from paddle2torch.model_zoo.config import CTCDecode, ModelConfig
from paddle2torch.model_zoo.errors import CharsetError
from paddle2torch.model_zoo.network import build_model
from paddle2torch.zoo.conversion import convert

HEBREW = "\u05d0\u05d1\u05d2\u05d3\u05d4\u05d5"
CLASSES = 24
"""Of the exported programs among the goldens."""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a recogniser, RepSVTR with MultiHead, with zeros for weights."""
    folder = tmp_path_factory.mktemp("export")
    stored = GOLDENS / "family" / "ch_RepSVTR_rec.fused.program.json.gz"
    program = json.loads(gzip.decompress(stored.read_bytes()))["program"]
    (folder / "inference.json").write_text(json.dumps(program), encoding="utf-8")
    parsed = read_pir(folder / "inference.json")
    zeros = {name: np.zeros(parsed.values[name].shape, np.float32) for name in parsed.parameters}
    with (folder / "inference.pdiparams").open("wb") as file:
        write_parameters(file, parsed, zeros)
    return folder


def lines(path: Path, characters: str) -> Path:
    path.write_text("".join(f"{character}\n" for character in characters), encoding="utf-8")
    return path


def checkpoint(folder: Path, characters: str) -> Path:
    config = small_config(nrtr=False)
    head = replace(config.head, options={**config.head.options, "classes": len(characters) + 1})
    network = build_model(replace(config, head=head, charset=tuple(characters)))
    return write_pdparams(folder / "own.pdparams", to_paddle(layout_table(network), network.state_dict()))


def inference_yml(folder: Path, characters: str) -> Path:
    data = {
        "PreProcess": {"transform_ops": [{"RecResizeImg": {"image_shape": [3, 48, 320]}}]},
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list(characters)},
    }
    path = folder / "inference.yml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize(("characters", "expected"), [("abcd", "abcd"), ("abc", "abc ")])
def test_the_class_count_says_whether_a_space_follows(characters: str, expected: str, said: bool | None) -> None:
    found, notes = settle_charset(Charset(tuple(characters), said, "f"), 5, "m")
    assert found == tuple(expected)
    assert bool(notes) == (said != (expected[-1] == " "))


@pytest.mark.parametrize(
    ("characters", "said", "message"),
    [
        ("abc", False, "the blank and the 3 characters of f and a space after them: say --use-space-char"),
        ("abcd", True, "the 4 characters of f without a space after them: say --no-use-space-char"),
        ("ab", None, "has 5 classes, but f has 2 characters: 3 classes with the blank, 4 with a space"),
        ("abcde", True, "has 5 classes, but f has 5 characters: 6 classes with the blank, 7 with a space"),
    ],
)
def test_what_fits_neither_way_or_is_not_what_was_asked_for_is_refused(
    characters: str, said: bool | None, message: str
) -> None:
    with pytest.raises(CharsetError, match=message):
        settle_charset(Charset(tuple(characters), said, "f", asked=True), 5, "m")


def test_empty_lines_of_a_set_that_does_not_fit_are_named() -> None:
    with pytest.raises(CharsetError, match="2 of its lines are empty, which PaddleOCR takes for characters"):
        settle_charset(Charset(("a", "", "b", ""), None, "f"), 12, "m")


@pytest.mark.slow
@pytest.mark.parametrize("space", [True, False])
@pytest.mark.parametrize("way", ["inference.yml", "charset", "both"])
def test_an_export_says_by_its_classes_whether_a_space_follows(
    export: Path, tmp_path: Path, way: str, space: bool
) -> None:
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + CLASSES - 1 - space)))
    yml = inference_yml(tmp_path, characters) if way != "charset" else None
    charset = lines(tmp_path / "set.txt", characters) if way != "inference.yml" else None
    converted = convert("mine", weights=export, config=yml, charset=charset, output=tmp_path / "out")
    assert isinstance(converted.config, ModelConfig)
    assert converted.config.charset == ((*characters, " ") if space else tuple(characters))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("characters", "message"),
    [
        (None, "its head has 24 classes, and nothing says for which characters: give the set .*--charset FILE"),
        ("abc", "its head has 24 classes, but .*set.txt has 3 characters: 4 classes with the blank, 5 with a space"),
    ],
)
def test_a_wrong_set_is_no_wrong_network(export: Path, tmp_path: Path, characters: str | None, message: str) -> None:
    charset = None if characters is None else lines(tmp_path / "set.txt", characters)
    with pytest.raises(CharsetError, match="the network is RepSVTR with MultiHead, " + message):
        convert("mine", weights=export, charset=charset, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_bundled_sets_of_as_many_characters_are_named() -> None:
    with pytest.raises(CharsetError, match=r"Bundled sets of as many: ppocr_keys_v1\.txt and a space"):
        settle_charset(None, 6625, "m")


def test_a_bundled_set_is_given_by_its_name(tmp_path: Path) -> None:
    english = checkpoint(tmp_path, "x" * 95)
    config = convert("mine", weights=english, charset="en_dict.txt", output=tmp_path / "out").config
    assert isinstance(config, ModelConfig)
    assert config.charset is not None
    assert len(config.charset) == 95


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        ("\u0627\u0628\u062aabc", True),
        (HEBREW, True),
        ("\u0780\u0781abc0123", True),  # Thaana
        ("\u07caabcd", True),  # N'Ko, class R
        ("abcdefghijklmnopqrstuvwxyz\u05d0", False),
        ("".join(map(chr, range(0x4E00, 0x5000))) + "".join(map(chr, range(0x5D0, 0x5EB))), True),
        ("0123456789", False),
        ("", False),
    ],
)
def test_the_letters_of_a_set_say_from_which_side_it_is_read(characters: str, expected: bool) -> None:
    assert is_right_to_left(characters) == expected


def test_cards_say_what_the_letters_of_their_sets_say() -> None:
    for card in list_cards():
        if isinstance(card.postprocess, CTCDecode) and card.charset is not None:
            assert card.postprocess.right_to_left == is_right_to_left(card.bundled_characters()), card.name


@pytest.mark.parametrize("way", ["charset", "yml", "inference.yml", "card"])
def test_the_direction_is_decided_for_every_way_in(tmp_path: Path, way: str) -> None:
    file = checkpoint(tmp_path, HEBREW)
    template = Template("own", "test", charset=Charset(tuple(HEBREW), None, "set"))
    if way == "yml":
        lines(tmp_path / "hebrew.txt", HEBREW)
        settings = {
            "Global": {"character_dict_path": "hebrew.txt", "use_space_char": False},
            "Architecture": {
                "model_type": "rec",
                "Backbone": {"name": "PPLCNetV3", "scale": 0.5},
                "Head": {"name": "MultiHead", "head_list": [{"CTCHead": {"Neck": {"name": "svtr"}}}]},
            },
        }
        (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
        template = from_yml(tmp_path / "config.yml")
        assert template.config().postprocess == CTCDecode(right_to_left=True)
    elif way == "inference.yml":
        template = from_yml(inference_yml(tmp_path, HEBREW))
    elif way == "card":
        english = from_card(next(card for card in list_cards() if card.name == "en_PP-OCRv4_rec"))
        template = replace(english, charset=template.charset)
    converted = convert_files(file, template, name="own")
    assert converted.config.postprocess == CTCDecode(right_to_left=True)
    letters = "6 of the set's 6 letters are of such scripts (--direction ltr for the other)"
    note = f"lines are read from right to left: {letters}"
    assert note in converted.notes
    assert converted.config.origin is not None
    assert note in converted.config.origin.notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("characters", "direction", "right", "said"),
    [
        (HEBREW, "auto", "right to left", "(--direction ltr for the other)"),
        (HEBREW, "ltr", "left to right", "as asked for; the letters of the set say otherwise"),
        ("abcdef", "rtl", "right to left", "as asked for; the letters of the set say otherwise"),
        ("abcdef", "auto", "left to right", ""),
    ],
)
def test_the_direction_is_shown_and_can_be_given(
    tmp_path: Path, characters: str, direction: str, right: str, said: str
) -> None:
    weights, charset = checkpoint(tmp_path, characters), lines(tmp_path / "set.txt", characters)
    arguments = ["convert", "own", "--weights", weights, "--charset", charset, "--direction", direction]
    result = CliRunner().invoke(main, [*map(str, arguments), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert said in result.output
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "out")]).output
    assert next(line for line in shown.splitlines() if line.startswith("direction")).endswith(right)
