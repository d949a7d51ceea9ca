"""Classifiers: their loss and changes of images are PaddleOCR's, and a training of one goes from pictures to Paddle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from goldens.make_training_losses import classes, picture
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from small_models import fill, saved
from tiny_training import tiny_v4_config

from paddle2torch import cli, load_pretrained
from paddle2torch.converters.templates import from_card
from paddle2torch.exporting.export import export
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, Component, ModelConfig
from paddle2torch.model_zoo.errors import ConfigError, Paddle2TorchError
from paddle2torch.model_zoo.network import build_model, fuse
from paddle2torch.tasks.orientation import Classifier
from paddle2torch.training.answers import ClassAnswer
from paddle2torch.training.class_figures import class_figures
from paddle2torch.training.config_files import read_settings, write_settings
from paddle2torch.training.data import Reason
from paddle2torch.training.data.check import Kind, check_data
from paddle2torch.training.data.cls_transforms import OPERATIONS, RandCropImage, Turns
from paddle2torch.training.data.loaders import build_loader
from paddle2torch.training.data.rec_transforms import Line, LineRequest
from paddle2torch.training.evaluation import evaluate
from paddle2torch.training.export_best import export_best
from paddle2torch.training.initialisation import adopt, initialise
from paddle2torch.training.losses import losses_of
from paddle2torch.training.official import CLS_RECIPES, official_settings
from paddle2torch.training.optimisation import treatments
from paddle2torch.training.paddleocr_yml import translate
from paddle2torch.training.recipes import init
from paddle2torch.training.settings import ClsLossSettings, OptimizerSettings, Settings, with_classes
from paddle2torch.training.trainer import TrainingResult, train
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.hub_card import hub_card

GOLDENS = Path(__file__).parents[2] / "goldens" / "training_losses.npz"


@pytest.fixture(scope="module")
def goldens() -> dict[str, NDArray[Any]]:
    with np.load(GOLDENS) as found:
        return dict(found)


class Sign:
    """Random numbers that are always the same."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def integers(self, high: int) -> int:
        """Of two numbers that which makes the sign."""
        assert high == 2
        return int(self.sign == 1)


def test_the_loss_is_paddles_in_float64(goldens: dict[str, NDArray[Any]]) -> None:
    values, targets = classes()
    logits, batch = torch.from_numpy(values).requires_grad_(), {"label": torch.from_numpy(targets)}
    loss = losses_of(logits, batch, ClsLossSettings(0.0))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(float(goldens["cls"]), rel=1e-13)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), goldens["cls/logits"], rtol=0, atol=1e-14)
    smooth = losses_of(logits, batch, ClsLossSettings(0.125))["loss"]
    assert smooth.item() == pytest.approx(float(goldens["cls smooth"]), rel=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_changes_of_images_are_paddleocrs(name: str, goldens: dict[str, NDArray[Any]]) -> None:
    for sign in (-1, 1):
        expected = goldens.get(f"image/{name}/{sign}", goldens[f"image/{name}/-1"])
        made = OPERATIONS[name](Image.fromarray(picture()), 0.9, Sign(sign))  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.asarray(made), expected)


def tiny_classifier(labels: tuple[str, ...] = ("0", "180"), **changes: Any) -> ModelConfig:
    """A classifier that is as small as it can be."""
    config = ModelConfig(
        name="tiny_cls",
        task="cls",
        form="training",
        backbone=Component("MobileNetV3", {"scale": 0.35, "model_name": "small", "disable_se": True}),
        neck=None,
        head=Component("ClsHead", {"classes": len(labels)}),
        preprocess=ClsPreprocess((3, 48, 64)),
        postprocess=ClsPostprocess(labels),
    )
    return replace(config, **changes)


def write_images(folder: Path, labels: tuple[str, ...], count: int = 12) -> None:
    """`train.txt` and `val.txt` with images that are dark at the side which their label says, in turn."""
    folder.mkdir(exist_ok=True)
    for part, seed in (("train", 0), ("val", 1)):
        rng, lines = np.random.default_rng(seed), []
        for number in range(count):
            place = number % len(labels)
            image = rng.integers(170, 256, (40, 60, 3), dtype=np.uint8)
            image[:12] //= 8
            name = f"{part}_{number}.png"
            assert cv2.imwrite(str(folder / name), np.rot90(image, -2 * place))
            lines.append(f"{name}\t{labels[place]}\n")
        (folder / f"{part}.txt").write_text("".join(lines))


def settings_for(folder: Path, config: ModelConfig, **training: Any) -> Settings:
    """The official recipe on the images of `folder`, at a rate for few steps."""
    settings = official_settings(config, pretrained=None)

    def split(name: str) -> Any:
        part = getattr(settings.data, name)
        file = str(folder / ("train.txt" if name == "train" else "val.txt"))
        dataset = replace(part.dataset, data_dir=str(folder), label_file_list=(file,))
        return replace(part, dataset=dataset, loader=replace(part.loader, num_workers=0, batch_size_per_card=6))

    return replace(
        settings,
        data=replace(settings.data, train=split("train"), eval=split("eval")),
        optimizer=OptimizerSettings(2e-3),
        training=replace(settings.training, **{"epochs": 4, **training}),
        output=replace(settings.output, dir=str(folder / "run"), print_steps=1),
    )


def request(seed: int = 0) -> LineRequest:
    """What a transform may ask for."""
    return LineRequest(np.random.default_rng(seed), lambda: pytest.fail("no other image is asked for"))


def test_a_classifier_goes_on_bit_for_bit_and_comes_back_from_paddle(tmp_path: Path) -> None:
    config, folder = tiny_classifier(("up", "down")), tmp_path / "images"
    write_images(folder, ("up", "down"))
    settings = settings_for(folder, config)
    constant = replace(settings, schedule=replace(settings.schedule, name="Const"))

    def run(name: str, epochs: int, config: ModelConfig, resume: bool = False) -> dict[str, torch.Tensor]:
        output, training = replace(settings.output, dir=str(tmp_path / name)), replace(settings.training, epochs=epochs)
        train(replace(constant, output=output, training=training), config, resume=resume)
        return load_file(tmp_path / name / "last" / "model.safetensors")

    whole = run("whole", 2, config)
    run("parts", 1, config)
    with pytest.raises(ConfigError, match="has other classes"):
        run("parts", 2, tiny_classifier(("down", "up")), resume=True)
    parts = run("parts", 2, config, resume=True)
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())
    header = (tmp_path / "whole" / "evaluation.csv").read_text().split("\n")[0]
    assert header.split(",")[:2] == ["step", "acc"]
    assert "What is taken for what" in (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    last = load_pretrained(tmp_path / "whole" / "last")
    exported = export(tmp_path / "whole" / "last", "paddle", tmp_path / "own.pdparams")
    assert (tmp_path / "own_labels.txt").read_text() == "up\ndown\n"
    assert any("own_labels.txt" in note for note in exported.notes)
    convert("own", weights=tmp_path / "own.pdparams", output=tmp_path / "back")
    back = load_pretrained(tmp_path / "back")
    assert isinstance(back.config.postprocess, ClsPostprocess)
    assert back.config.postprocess.labels == ("up", "down")
    x = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back(x), last(x))


def test_labels_that_are_no_class_are_left_out_of_training_and_never_right(tmp_path: Path) -> None:
    config, folder = tiny_classifier(), tmp_path / "images"
    write_images(folder, ("0", "180"))
    for name in ("train", "val"):
        with (folder / f"{name}.txt").open("a") as file:
            file.write(f"{name}_0.png\tsideways\n")
    settings = settings_for(folder, config)
    loader = build_loader(settings.data.train, config, training=True)
    assert loader.report.count(Reason.NO_CLASS) == 1
    assert "'sideways' is none of the model's classes: '0', '180'" in str(loader.report)
    network = build_model(config)
    fill(network)
    found = evaluate(settings, network.eval())
    assert found.samples == len(found.answers) == 13
    assert [fault.reason for fault in found.faults] == [Reason.NO_CLASS.value]
    assert not found.answers[-1].right  # type: ignore[union-attr]


def test_data_check_finds_what_is_wrong_with_classes(tmp_path: Path) -> None:
    config, folder = tiny_classifier(("0", "180", "tilted", "unused")), tmp_path / "images"
    write_images(folder, ("0", "180"))
    (folder / "broken.png").write_bytes(b"no picture")
    with (folder / "train.txt").open("a") as file:
        file.write("train_0.png\t180\nbroken.png\t0\ntrain_1.png\t90\n")
    with (folder / "val.txt").open("a") as file:
        file.write("val_2.png\ttilted\n")
    settings = settings_for(folder, config)
    check = check_data(settings, config)
    found = {(one.split, one.kind): one.count for one in check.findings}
    assert found == {
        ("train", Reason.UNREADABLE): 1,
        ("train", Reason.NO_CLASS): 1,
        ("train", Kind.CONFLICT): 2,
        ("eval", Kind.CONFLICT): 1,
        ("eval", Kind.UNTRAINED_CLASS): 1,
    }
    assert check.splits["train"].classes == (("0", 7), ("180", 7))
    assert check.untouched == ("tilted", "unused")
    write_settings(settings, config, tmp_path / "settings")
    command = ["data", "check", "--config", str(tmp_path / "settings" / "config.json"), "--report", str(tmp_path / "p")]
    assert CliRunner().invoke(cli.main, command).exit_code == 1
    page = (tmp_path / "p").read_text(encoding="utf-8")
    assert "2 classes that no training label has" in page


def test_images_are_turned_to_every_class_with_their_labels() -> None:
    labels = ("0_degree", "90_degree", "180_degree", "270_degree")
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    seen = set()
    for seed in range(24):
        for start, label in enumerate(labels):
            line = Turns(labels)(Line(np.rot90(upright, -start), label), request(seed))
            # As the pipeline turns a page of that class.
            np.testing.assert_array_equal(np.rot90(line.image, labels.index(line.text)), upright)
            seen.add(line.text)
    assert seen == set(labels)
    with pytest.raises(ConfigError, match="one of them is 'up'"):
        Turns(("up", "down"))


def test_a_random_part_is_stretched_to_the_size_that_is_asked_for() -> None:
    image = np.full((30, 80, 3), 7, dtype=np.uint8)
    image[:, 40:] = 200
    crops = [RandCropImage((24, 16))(Line(image, "0"), request(seed)).image for seed in range(20)]
    assert {crop.shape for crop in crops} == {(16, 24, 3)}
    assert len({crop.tobytes() for crop in crops}) > 3
    with pytest.raises(ConfigError, match="no size"):
        RandCropImage(0)


@pytest.mark.parametrize("name", CLS_RECIPES)
def test_recipes_are_the_official_ones(name: str, tmp_path: Path) -> None:
    config = from_card(load_card(name)).config()
    settings = official_settings(config, pretrained=None)
    loader = settings.data.train.loader
    found = settings.training.epochs, settings.optimizer.name, settings.optimizer.lr, loader.batch_size_per_card
    assert (
        found
        == {
            "ch_ppocr_mobile_v2.0_cls": (100, "Adam", 1e-3, 512),
            "PP-LCNet_x0_25_textline_ori": (20, "Momentum", 0.8, 256),
            "PP-LCNet_x1_0_textline_ori": (20, "Momentum", 0.8, 256),
            "PP-LCNet_x1_0_doc_ori": (60, "Momentum", 0.14, 256),
        }[name]
    )
    folder = saved(tmp_path / "model", config)
    init(str(folder), tmp_path / "short")
    init(str(folder), tmp_path / "full", full=True)
    assert read_settings(tmp_path / "short" / "config.json") == read_settings(tmp_path / "full" / "config.json")


def test_the_recipe_of_v2_is_the_official_ymls(tmp_path: Path) -> None:
    config = from_card(load_card("ch_ppocr_mobile_v2.0_cls")).config()

    def dataset(name: str, *augment: str) -> dict[str, Any]:
        steps: list[dict[str, Any]] = [{"DecodeImage": {"img_mode": "BGR", "channel_first": False}}]
        steps += [{"ClsLabelEncode": None}, *({step: None} for step in augment)]
        steps += [{"ClsResizeImg": {"image_shape": [3, 48, 192]}}, {"KeepKeys": {"keep_keys": ["image", "label"]}}]
        return {
            "name": "SimpleDataSet",
            "data_dir": "train_data",
            "label_file_list": [f"train_data/{name}.txt"],
            "ext_op_transform_idx": 1,
            "transforms": steps,
        }

    backbone = {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"}
    yml = {
        "Global": {"epoch_num": 100, "eval_batch_step": [0, 1000], "label_list": ["0", "180"], "print_batch_step": 10},
        "Architecture": {
            "model_type": "cls",
            "algorithm": "CLS",
            "Backbone": backbone,
            "Head": {"name": "ClsHead", "class_dim": 2},
        },
        "Loss": {"name": "ClsLoss"},
        "Optimizer": {
            "name": "Adam",
            "lr": {"name": "Cosine", "learning_rate": 0.001},
            "regularizer": {"name": "L2", "factor": 0},
        },
        "PostProcess": {"name": "ClsPostProcess"},
        "Metric": {"name": "ClsMetric", "main_indicator": "acc"},
        "Train": {
            "dataset": dataset("train_list", "BaseDataAugmentation", "RandAugment"),
            "loader": {"shuffle": True, "batch_size_per_card": 512, "drop_last": True, "num_workers": 8},
        },
        "Eval": {
            "dataset": dataset("val_list"),
            "loader": {"shuffle": False, "drop_last": False, "batch_size_per_card": 128, "num_workers": 4},
        },
    }
    path = tmp_path / "cls.yml"
    path.write_text(yaml.safe_dump(yml), encoding="utf-8")
    translation = translate(path, pretrained=None)
    own = official_settings(config, pretrained=None)
    same = replace(own, output=translation.settings.output, training=translation.settings.training)
    assert same == translation.settings
    assert translation.template.config().head == config.head
    assert not [line for line in translation.lines() if "not known here" in line]
    # Before v3 the warping was left out by an option of RecAug.
    yml["Train"]["dataset"]["transforms"][2] = {"RecAug": {"use_tia": False}}  # type: ignore[index]
    path.write_text(yaml.safe_dump(yml), encoding="utf-8")
    steps = translate(path, pretrained=None).settings.data.train.dataset.transforms
    assert [dict(step.options) for step in steps if step.name == "RecAug"] == [{"tia_prob": 0.0}]


def test_own_classes_come_from_a_list_or_a_file_and_keep_what_both_know(tmp_path: Path) -> None:
    config = tiny_classifier()
    other, notes = with_classes(config, "180, 90, 0")
    assert isinstance(other.postprocess, ClsPostprocess)
    assert (other.postprocess.labels, other.classes, notes) == (("180", "90", "0"), 3, ["3 classes: 180, 90, 0"])
    for text in ("invoice\nletter\n", "0 invoice\n1 letter\n"):
        (tmp_path / "labels.txt").write_text(text)
        from_file, _ = with_classes(config, str(tmp_path / "labels.txt"))
        assert from_file.postprocess.labels == ("invoice", "letter")  # type: ignore[union-attr]
    for wrong in ("one", "a,b,a", "a,,b"):
        with pytest.raises(ConfigError, match="two labels or more"):
            with_classes(config, wrong)
    source, network = build_model(config), build_model(other)
    fill(source)
    adopted = adopt(network, source)
    assert adopted.lines() == ["labels: 2 classes keep their rows, 0 are left out, 1 start anew: 90"]
    assert torch.equal(network.head.fc.weight[[2, 0]], source.head.fc.weight)  # type: ignore[union-attr, index]


def test_a_command_sets_own_classes(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tiny_classifier())
    command = ["init", str(model), "-o", str(tmp_path / "own"), "--classes", "front,back,side"]
    assert CliRunner().invoke(cli.main, command).exit_code == 0
    _, config = read_settings(tmp_path / "own" / "config.json")
    assert config.classes == 3
    with pytest.raises(ConfigError, match="each class has one of its own"):
        read_settings(tmp_path / "own" / "config.json", assignments=['model_config.postprocess.labels=["a","b"]'])


def test_figures_tell_what_is_taken_for_what() -> None:
    rows = [("a", "a", 0.9), ("a", "b", 0.8), ("a", "b", 0.7), ("b", "b", 0.99), ("z", "a", 0.95)]
    answers = [ClassAnswer(index, *row) for index, row in enumerate(rows)]
    answers.append(ClassAnswer(5, "b", "", 0.0, unread=True))
    figures = class_figures(answers, source=lambda index: "set", labels=("a", "b"))
    assert figures.labels == ("a", "b", "z")
    assert figures.matrix == ((1, 2), (0, 1), (1, 0))
    assert (figures.images, figures.right, figures.worst) == (6, 2, (4, 1, 2, 5))
    assert [(group.name, group.count, group.right) for group in figures.precision] == [("a", 2, 1), ("b", 3, 1)]
    said = [advice.text for advice in figures.advice]
    assert said[0] == "'a' is taken for 'b'"
    assert any("cannot be read" in text for text in said)
    assert any("'z' is no class of the model" in text for text in said)
    json.dumps(figures.to_json())


def test_a_trained_classifier_is_one_for_the_pipeline(tmp_path: Path) -> None:
    network = load_pretrained(saved(tmp_path / "model", tiny_classifier()))
    (direction,) = Classifier(network, network.config)([np.zeros((20, 60, 3), dtype=np.uint8)])
    assert direction.label in ("0", "180")


def test_the_best_of_a_run_is_exported_beside_it(tmp_path: Path) -> None:
    network = build_model(tiny_classifier())
    fill(network)
    saved(tmp_path / "best", network)
    result = TrainingResult(tmp_path, 9, 4, best=0.9, best_step=7, start=0.5, stopped=None, line="")
    assert export_best(replace(result, best_step=0), "paddle") is None
    exported = export_best(result, "paddle")
    assert exported is not None
    assert exported.target == tmp_path / "best.pdparams"
    assert exported.notes[-1] == "read back bit for bit"
    # It is replaced by what a later run makes, and by nothing else.
    before = exported.target.read_bytes()
    with torch.no_grad():
        network.get_parameter("head.fc.bias").add_(1)
    saved(tmp_path / "best", network, overwrite=True)
    assert export_best(replace(result, best_step=5), "paddle") is None
    assert exported.target.read_bytes() == before
    assert export_best(result, "paddle") is not None
    assert exported.target.read_bytes() != before
    saved(tmp_path / "best", fuse(build_model(tiny_v4_config())), overwrite=True)
    with pytest.raises(Paddle2TorchError, match=r"best is trained, but not exported: .* is in the fused form"):
        export_best(result, "paddle")


def test_pplcnet_starts_and_decays_as_in_paddleclas() -> None:
    network = build_model(from_card(load_card("PP-LCNet_x0_25_textline_ori")).config())
    torch.manual_seed(0)
    initialise(network)
    for name, inputs in (("blocks5.3.dw_conv", 25), ("blocks5.3.pw_conv", 64)):
        weight = network.get_parameter(f"backbone.{name}.conv.weight").detach()
        assert float(weight.std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.1)
    found = treatments(network, OptimizerSettings(0.8, "Momentum", l2=1e-5))
    spared = {name for name, treatment in found.items() if treatment.l2 == 0}
    assert spared == {name for name in found if ".bn." in name}
    assert "backbone.blocks6.0.dw_conv.bn.bias" in spared


def test_the_card_of_own_classes_says_what_they_are() -> None:
    own = hub_card(tiny_classifier(("front", "<back>")), "org/own", "mit", None)
    assert "which tells images apart (front, " in own
    assert "<back>" not in own
    assert 'load_pretrained("org/own")' in own
    assert "which tells which way up a line or page is" in hub_card(tiny_classifier(), "org/own", "mit", None)
