"""Checkpoints of distillations and of other people's scripts: one network, whatever is around its tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from small_models import write_pdparams

from paddle2torch.cli import main
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.convert import convert_checkpoint
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.templates import Template, from_yml
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError
from paddle2torch.model_zoo.network import Network
from paddle2torch.training.paddleocr_yml import translate
from paddle2torch.zoo.sources import obtain_local

LETTERS = Template("own", "test", charset=Charset(tuple("abcdefg"), False, "letters"))
BIAS = "head.ctc_head.fc.bias"


def tensors_of(model: Network) -> dict[str, np.ndarray]:
    return to_paddle(layout_table(model), model.state_dict())


def network(depth: int) -> dict[str, object]:
    neck = {"name": "svtr", "dims": 32, "depth": depth, "hidden_dims": 32, "kernel_size": [1, 3], "use_guide": True}
    heads = [{"CTCHead": {"Neck": neck}}, {"NRTRHead": {"nrtr_dim": 64, "max_text_length": 12}}]
    return {
        "model_type": "rec",
        "freeze_params": False,
        "return_all_feats": True,
        "Backbone": {"name": "PPLCNetV3", "scale": 0.5},
        "Head": {"name": "MultiHead", "head_list": heads},
    }


@pytest.fixture
def distillation(tmp_path: Path, small: Network) -> Path:
    """A folder with the settings, characters and checkpoint of a distillation: Student2's biases are 1 larger."""
    (tmp_path / "letters.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    settings = {
        "Global": {"character_dict_path": "letters.txt", "use_space_char": False},
        "Architecture": {
            "model_type": "rec",
            "name": "DistillationModel",
            "Models": {"Teacher": network(2), "Student": network(1), "Student2": network(1)},
        },
        "PostProcess": {"name": "DistillationCTCLabelDecode", "model_name": ["Student", "Student2"]},
    }
    (tmp_path / "config.yml").write_text(yaml.safe_dump(settings))
    own = tensors_of(small)
    tensors = {f"Student.{key}": array for key, array in own.items()}
    tensors |= {f"Student2.{key}": array + (key == BIAS) for key, array in own.items()}
    tensors["Teacher.head.ctc_head.fc.bias"] = np.zeros(3, np.float32)
    write_pdparams(tmp_path / "best.pdparams", tensors)
    return tmp_path


@pytest.mark.parametrize(("asked", "added"), [(None, 0), ("Student", 0), ("Student2", 1)])
def test_a_distillation_is_converted_by_its_networks_section_of_the_yml(
    distillation: Path, small: Network, asked: str | None, added: int
) -> None:
    template = from_yml(distillation / "config.yml", network=asked)
    converted = convert_checkpoint(distillation / "best.pdparams", template, name="own", network=asked)
    assert converted.config.charset == tuple("abcdefg")
    assert converted.config.head.options["nrtr"]["max_text_length"] == 12
    assert torch.equal(converted.state[BIAS], small.state_dict()[BIAS] + added)
    assert f"distillation checkpoint: took {asked or 'Student'}, left out" in converted.notes[0]


def test_the_command_takes_another_network(distillation: Path) -> None:
    weights, config = str(distillation / "best.pdparams"), str(distillation / "config.yml")
    arguments = ["convert", "own", "--weights", weights, "--config", config, "-o", str(distillation / "out")]
    result = CliRunner().invoke(main, [*arguments, "--network", "Student2"])
    assert result.exit_code == 0, result.output
    assert "took Student2, left out" in result.output


def test_networks_that_are_not_there_are_named(distillation: Path, small_checkpoint: Path) -> None:
    settings = yaml.safe_load((distillation / "config.yml").read_text())
    del settings["Architecture"]["Models"]["Student"]
    (distillation / "config.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"no network 'Student', but .*Student2.*--network"):
        from_yml(distillation / "config.yml")
    with pytest.raises(ConversionError, match="one network, not several of a distillation: leave --network out"):
        convert_checkpoint(small_checkpoint, LETTERS, name="own", network="Teacher")


def test_a_distillation_is_trained_with_a_teacher_that_is_named(distillation: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"learns from Teacher, .* convert it, and say its name or folder with --teac"
    ):
        translate(distillation / "config.yml", pretrained=None)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["_layers.", "module.", "model."])
def test_one_prefix_of_all_names_comes_off(tmp_path: Path, small: Network, prefix: str) -> None:
    tensors = {prefix + key: array for key, array in tensors_of(small).items()}
    converted = convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")
    assert torch.equal(converted.state[BIAS], small.state_dict()[BIAS])
    assert converted.notes[0] == f"all names begin with {prefix!r}: took it off"


def test_a_prefix_of_some_names_stays(tmp_path: Path, small: Network) -> None:
    tensors = {("module." if "head" in key else "") + key: array for key, array in tensors_of(small).items()}
    with pytest.raises(ConversionError, match="looks like"):
        convert_checkpoint(write_pdparams(tmp_path / "a.pdparams", tensors), LETTERS, name="own")


@pytest.mark.parametrize(
    ("around", "left"), [(("state_dict",), ""), (("model", "ema"), ", left out 'ema'"), (("ema",), "")]
)
def test_one_level_of_nesting_comes_off(tmp_path: Path, small: Network, around: tuple[str, ...], left: str) -> None:
    own = tensors_of(small)
    saved = {"epoch": 3, **{name: {k: a + (name != around[0]) for k, a in own.items()} for name in around}}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(saved, protocol=4))
    converted = convert_checkpoint(tmp_path / "a.pdparams", LETTERS, name="own")
    assert torch.equal(converted.state[BIAS], small.state_dict()[BIAS])
    assert converted.notes[0] == f"the file has its tensors inside {around[0]!r}: took them{left}"


def test_a_second_level_does_not(tmp_path: Path, small: Network) -> None:
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"model": {"state_dict": tensors_of(small)}}, protocol=4))
    with pytest.raises(FileFormatError, match="holds no tensors, only 'model'"):
        convert_checkpoint(tmp_path / "a.pdparams", LETTERS, name="own")


@pytest.mark.parametrize("given", ["", "model.pdmodel", "model.pdiparams"])
def test_an_export_may_have_another_name(tmp_path: Path, given: str) -> None:
    for name in ("model.pdmodel", "model.pdiparams"):
        (tmp_path / name).write_bytes(name.encode())
    found = obtain_local(tmp_path / given)
    assert (found.path, found.form) == (tmp_path / "model.pdmodel", "inference")
    assert set(found.sha256) == {"model.pdmodel", "model.pdiparams"}


def test_running_sums_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "latest.pdema").write_bytes(b"\x80")
    with pytest.raises(ConfigError, match=r"the averaged weights are in latest\.pdparams"):
        obtain_local(tmp_path / "latest.pdema")
