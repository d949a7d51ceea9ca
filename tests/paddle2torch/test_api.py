"""`convert`, `load_pretrained` and `list_models` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import paddle2torch
from paddle2torch import convert, list_models, load_pretrained
from paddle2torch.model_zoo.config import CONFIG_NAME, Component, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, Paddle2TorchError, SourceError
from paddle2torch.model_zoo.network import Network, fuse
from paddle2torch.zoo.folder import WEIGHTS_NAME


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    path = tmp_path / "letters.txt"
    path.write_text("a\nb\nc\nd\ne\nf\ng\n")
    return path


@pytest.mark.slow
def test_a_model_of_ones_own(small: Network, small_checkpoint: Path, letters: Path, tmp_path: Path) -> None:
    conversion = convert("own", weights=small_checkpoint, charset=letters, output=tmp_path / "out")
    assert conversion.folder == tmp_path / "out"
    assert conversion.tensors == len(small.state_dict())
    model = load_pretrained(tmp_path / "out")
    assert isinstance(model, torch.nn.Module)
    assert model.config.name == "own"
    assert model.config.charset == tuple("abcdefg")
    origin = model.config.origin
    assert origin is not None
    assert list(origin.files) == ["best_accuracy.pdparams"]
    assert origin.converter == f"paddle2torch {paddle2torch.__version__}"
    x = torch.rand(1, 3, 48, 90)
    with torch.inference_mode():
        assert torch.equal(model(x), small(x))
        assert torch.allclose(load_pretrained(tmp_path / "out", fused=True)(x), small(x), atol=1e-6)


def test_a_fused_conversion_holds_what_reading_needs(
    small: Network, small_checkpoint: Path, letters: Path, tmp_path: Path
) -> None:
    convert("own", weights=small_checkpoint, charset=letters, output=tmp_path / "out", fused=True)
    model = load_pretrained(tmp_path / "out")
    assert model.config.form == "fused"
    assert set(model.state_dict()) == set(fuse(small).state_dict())


@pytest.mark.slow
def test_without_a_folder_the_local_zoo_has_it(small_checkpoint: Path, letters: Path, home: Path) -> None:
    folder = convert("own", weights=small_checkpoint, charset=letters).folder
    assert folder == home / "zoo" / "own"
    assert load_pretrained("own").config.name == "own"
    convert("own", weights=small_checkpoint, charset=letters, fused=True)
    assert load_pretrained("own").config.form == "fused"


def test_dtype_and_settings(small_checkpoint: Path, letters: Path, tmp_path: Path) -> None:
    convert("own", weights=small_checkpoint, charset=letters, output=tmp_path / "out")
    model = load_pretrained(tmp_path / "out", precision="bf16")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


def test_a_yml_beside_an_explicit_set(small_checkpoint: Path, letters: Path, tmp_path: Path) -> None:
    settings = {
        "Global": {"character_dict_path": "gone.txt", "use_space_char": False},
        "Architecture": {
            "model_type": "rec",
            "Backbone": {"name": "PPLCNetV3", "scale": 0.5},
            "Head": {"name": "MultiHead", "head_list": [{"CTCHead": {"Neck": {"name": "svtr", "use_guide": False}}}]},
        },
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"gone.txt.*--charset"):
        convert("own", weights=small_checkpoint, config=tmp_path / "config.yml")
    config = convert("own", weights=small_checkpoint, config=tmp_path / "config.yml", charset=letters).config
    assert config.head.options["ctc"]["use_guide"] is False


def test_the_official_export_by_name(ch_export: Path, home: Path) -> None:
    conversion = convert("PP-OCRv4_mobile_rec", weights=ch_export)
    assert conversion.config.name == "ch_PP-OCRv4_rec"
    assert conversion.config.form == "fused"
    assert conversion.config.backbone == Component("PPLCNetV3", {"scale": 0.95})
    listed = {model.card.name: model for model in list_models()}
    assert listed["ch_PP-OCRv4_rec"].form == "fused"
    assert listed["en_PP-OCRv4_rec"].folder is None


def test_nothing_is_written_where_conversion_fails(small_checkpoint: Path, tmp_path: Path) -> None:
    before = small_checkpoint.read_bytes()
    with pytest.raises(ConversionError, match="--charset"):
        convert("own", weights=small_checkpoint, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert small_checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("en_PP-OCRv4_rek", "did you mean en_PP-OCRv4_rec"), ("../evil", "no model is called")],
)
def test_names_that_nobody_knows(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(name)
    with pytest.raises(ConfigError, match=message):
        load_pretrained(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_names_that_are_no_folder_of_the_zoo(small_checkpoint: Path, letters: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        convert(name, weights=small_checkpoint, charset=letters)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"it has no {CONFIG_NAME}"):
        load_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"it has no {CONFIG_NAME}"):
        load_pretrained(str(tmp_path))


def test_no_source_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="--weights PATH"):
        load_pretrained("en_PP-OCRv4_rec")


def test_everything_public_is_there() -> None:
    for name in paddle2torch.__all__:
        assert getattr(paddle2torch, name) is not None
    assert issubclass(paddle2torch.Paddle2TorchError, Exception)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = paddle2torch.nothing_of_ours


@pytest.mark.slow
def test_settings_say_what_the_files_were(ch_export: Path, tmp_path: Path) -> None:
    convert("ch_PP-OCRv4_rec", weights=ch_export, output=tmp_path / "m")
    data = json.loads((tmp_path / "m" / CONFIG_NAME).read_text(encoding="utf-8"))
    assert set(data["origin"]["files"]) == {"inference.pdmodel", "inference.pdiparams"}
    assert data["charset"][0] == "'"
    assert len(data["charset"]) == 6624
    assert ModelConfig.load(tmp_path / "m").classes == 6625
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([CONFIG_NAME, WEIGHTS_NAME])
    with pytest.raises(Paddle2TorchError, match="overwrite"):
        convert("ch_PP-OCRv4_rec", weights=ch_export, output=tmp_path / "m")
