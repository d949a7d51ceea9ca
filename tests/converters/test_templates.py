"""Settings from outside: what is wrong with them is named with its key, shortly, whatever the values are."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from paddle2torch.converters.templates import from_card, from_yml
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ClsPostprocess
from paddle2torch.model_zoo.errors import ConfigError, ConversionError, FileFormatError, Paddle2TorchError

REC = "Architecture: {model_type: rec, Backbone: {name: PPLCNetV3}, Head: {name: MultiHead, head_list: %s}}"
SVTR = "[{CTCHead: {Neck: {name: svtr}}}]"
EXPORT = "PreProcess: {transform_ops: %s}\nPostProcess: {name: CTCLabelDecode, character_dict: [a]}"
DETECTOR = (
    "PreProcess: {transform_ops: [{DetResizeForTest: {resize_long: 960}}]}\nPostProcess: {name: DBPostProcess, %s}"
)
ALIASES = "\n".join(
    ["a0: &a0 [" + "x, " * 10 + "]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES + "\nPreProcess: {}\nPostProcess: {name: *a8}", "stands for 100,000 values and more"),
        ("Architecture: {model_type: %s}" % ("0x" + "f" * 4000), "Architecture.model_type is '0xfff"),
        ("Architecture: {model_type: [rec]}", r"Architecture.model_type is \['rec'\]"),
        (REC % "5", "head_list is 5, which is not a list of heads"),
        (REC % "[5]", r"head_list is \[5\], which is not a list of heads"),
        (REC % "[{CTCHead: 5}]", "the options of CTCHead are no section, but 5"),
        (REC % "[{CTCHead: {Neck: [1, 2]}}]", r"the neck of CTCHead is not svtr, .*: \[1, 2\]"),
        (REC.replace("PPLCNetV3", "PPLCNetV3, scale: x") % SVTR, "Backbone.scale: expected float, found 'x'"),
        (REC.replace("PPLCNetV3", "PPLCNetV3, scale: .inf") % SVTR, "Backbone: expected a number, found inf"),
        (REC.replace("PPLCNetV3", "PPLCNetV3, conv_kxk_num: 100000") % SVTR, "conv_kxk_num is 100000"),
        (REC % "[{CTCHead: {Neck: {name: svtr, depth: 100000}}}]", "ctc.depth is 100000"),
        (REC % SVTR + f"\nGlobal: {{character_dict_path: {'a' * 5000}}}", "Global.character_dict_path names .*aaa…"),
        (REC % SVTR + "\nGlobal: 5", "Global is not a section, but 5"),
        (EXPORT % "5", "PreProcess.transform_ops is not a list of transforms, but 5"),
        (EXPORT % "[5]", "PreProcess.transform_ops: 5 is not a transform"),
        (EXPORT % "[{RecResizeImg: {image_shape: [3, .inf, 320]}}]", "RecResizeImg.image_shape: inf stands where"),
        (EXPORT % "[{RecResizeImg: {image_shape: [3, 100000, 320]}}]", "image_shape is 100000"),
        (EXPORT % "[{RecResizeImg: {image_shape: [3, 48]}}]", "image_shape needs three values, and is"),
        (EXPORT % "[{RecResizeImg: 5}]", "image_shape needs three values, and is None"),
        (EXPORT.replace("[a]", '[a, "\\e[2J"]') % "[]", r"character_dict: '\\x1b\[2J' \(number 2\) has a control"),
        (EXPORT % "[]" + "\nGlobal: {model_name: [1]}", r"Global.model_name is \[1\]"),
        (DETECTOR.replace("960", ".inf") % "thresh: 0.3", "resize_long: inf stands where a number belongs"),
        (DETECTOR.replace("960", "1000000") % "thresh: 0.3", "limit_side_len is 1000000"),
        (DETECTOR % "unclip_ratio: 1.0e+12", "unclip_ratio is 1000000000000.0"),
        (DETECTOR % "thresh: x", "thresh: 'x' stands where a number belongs"),
        (DETECTOR % "box_type: [quad]", r"box_type: \['quad'\] is not one of 'quad', 'poly'"),
        (
            "PreProcess: {}\nPostProcess: {name: [DBPostProcess]}",
            r"the post-processing \['DBPostProcess'\] belongs to no",
        ),
    ],
    ids=range(27),
)
def test_foreign_values_are_named_with_their_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(Paddle2TorchError, match=message) as caught:
        from_yml(path)
    assert time.process_time() - start < 1
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_numbers_written_as_text_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(EXPORT % "[{RecResizeImg: {image_shape: ['3', 32.0, 320]}}]")
    preprocess = from_yml(tmp_path / "a.yml").preprocess
    assert preprocess is not None
    assert preprocess.image_shape == (3, 32, 320)  # type: ignore[union-attr]


def test_a_config_needs_the_network_and_its_classes() -> None:
    """What a card does not say is not guessed: neither a network nor whether a space follows the characters."""
    known = from_card(load_card("ch_PP-OCRv4_rec"))
    assert known.config() == known.config(classes=6625)
    assert known.config("fused").form == "fused"
    with pytest.raises(ConversionError, match="its head has 7 classes, but"):
        known.config(classes=7)
    with pytest.raises(ConfigError, match="its network is not described there"):
        replace(known, architecture=None).config()
    with pytest.raises(ConfigError, match="it names no character set"):
        replace(known, charset=None).config()
    with pytest.raises(ConfigError, match="not known whether a space follows the characters of german_dict"):
        from_card(load_card("german_mobile_v2.0_rec")).config()
    with pytest.raises(ConfigError, match="the network of a model for 'rec', not for 'det'"):
        replace(known, task="det").config()


PADDLECLAS = """
Global: {{model_name: mine}}
PreProcess:
  transform_ops:
  - {resize}
  - NormalizeImage: {{channel_num: 3, mean: [0.485, 0.456, 0.406], order: '', scale: 0.00392156862745098, std: [0.229, 0.224, 0.225]}}
  - ToCHWImage: null
PostProcess:
  Topk: {{label_list: ['0_degree', '180_degree'], topk: 1}}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("resize", "card"),
    [
        ("ResizeImage: {size: [160, 80]}", "PP-LCNet_x1_0_textline_ori"),
        ("ResizeImage: {resize_short: 256}\n  - CropImage: {size: 224}", "PP-LCNet_x1_0_doc_ori"),
    ],
)
def test_a_classifier_of_paddleclas_has_the_transforms_of_its_settings(tmp_path: Path, resize: str, card: str) -> None:
    path = tmp_path / "inference.yml"
    path.write_text(PADDLECLAS.format(resize=resize), encoding="utf-8")
    template = from_yml(path)
    assert template.preprocess == load_card(card).preprocess
    assert template.postprocess == ClsPostprocess(labels=("0_degree", "180_degree"), thresh=None)


def test_transforms_of_paddleclas_without_a_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "inference.yml"
    path.write_text(PADDLECLAS.format(resize="ResizeImage: {resize_short: 256}"), encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"CropImage\.size"):
        from_yml(path)
