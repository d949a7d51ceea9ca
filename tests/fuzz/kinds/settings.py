"""Settings: YAML, every JSON, and the names that they and users give."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from fuzz.cases import Case, Entry, Link, Pipe, Repeat, Sparse
from fuzz.kinds import (
    BrokenPromiseError,
    Kind,
    command,
    mutate_json,
    scratch,
    small_models,
    use_settings,
)
from fuzz.kinds.paddle import Pickle
from fuzz.mutate import (
    mutate_bytes,
    mutate_tree,
)

TRAINING_YML: Mapping[str, Any] = {
    "Global": {
        "epoch_num": 2,
        "save_model_dir": "./output",
        "eval_batch_step": [0, 10],
        "character_dict_path": "en_dict.txt",
        "use_space_char": True,
        "max_text_length": 25,
        "model_name": "mine",
        "print_batch_step": 10,
        "use_amp": False,
    },
    "Optimizer": {
        "name": "Adam",
        "beta1": 0.9,
        "beta2": 0.999,
        "lr": {"name": "Cosine", "learning_rate": 0.001, "warmup_epoch": 1},
        "regularizer": {"name": "L2", "factor": 3e-05},
    },
    "Architecture": {
        "model_type": "rec",
        "algorithm": "SVTR_LCNet",
        "Transform": None,
        "Backbone": {"name": "PPLCNetV3", "scale": 0.95},
        "Head": {
            "name": "MultiHead",
            "head_list": [
                {
                    "CTCHead": {
                        "Neck": {
                            "name": "svtr",
                            "dims": 120,
                            "depth": 2,
                            "hidden_dims": 120,
                            "kernel_size": [1, 3],
                            "use_guide": True,
                        },
                        "Head": {"fc_decay": 1e-05},
                    }
                },
                {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}},
            ],
        },
    },
    "Loss": {"name": "MultiLoss", "loss_config_list": [{"CTCLoss": None}, {"NRTRLoss": None}]},
    "PostProcess": {"name": "CTCLabelDecode"},
    "Metric": {"name": "RecMetric", "main_indicator": "acc"},
    "Train": {
        "dataset": {
            "name": "MultiScaleDataSet",
            "ds_width": False,
            "data_dir": "./data",
            "ext_op_transform_idx": 1,
            "label_file_list": ["./train.txt"],
            "transforms": [
                {"DecodeImage": {"img_mode": "BGR", "channel_first": False}},
                {"RecConAug": {"prob": 0.5, "ext_data_num": 2, "image_shape": [48, 320, 3]}},
                {"RecAug": None},
                {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}},
                {"KeepKeys": {"keep_keys": ["image", "label_ctc"]}},
            ],
        },
        "sampler": {
            "name": "MultiScaleSampler",
            "scales": [[320, 32], [320, 48]],
            "first_bs": 8,
            "fix_bs": False,
            "divided_factor": [8, 16],
            "is_training": True,
        },
        "loader": {"shuffle": True, "batch_size_per_card": 8, "drop_last": True, "num_workers": 2},
    },
    "Eval": {
        "dataset": {
            "name": "SimpleDataSet",
            "data_dir": "./data",
            "label_file_list": ["./val.txt"],
            "transforms": [
                {"DecodeImage": {"img_mode": "BGR"}},
                {"MultiLabelEncode": None},
                {"RecResizeImg": {"image_shape": [3, 48, 320]}},
                {"KeepKeys": {"keep_keys": ["image"]}},
            ],
        },
        "loader": {"shuffle": False, "drop_last": False, "batch_size_per_card": 8, "num_workers": 2},
    },
}

DET_YML: Mapping[str, Any] = {
    "Global": {"epoch_num": 2, "model_name": "mine", "save_model_dir": "out", "eval_batch_step": 100},
    "Optimizer": {
        "name": "Adam",
        "lr": {"name": "Piecewise", "decay_epochs": [1], "values": [0.001, 0.0001]},
        "regularizer": {"name": "L2", "factor": 5e-05},
    },
    "Architecture": {
        "model_type": "det",
        "algorithm": "DB",
        "Backbone": {"name": "PPLCNetV3", "scale": 0.75, "det": True},
        "Neck": {"name": "RSEFPN", "out_channels": 96, "shortcut": True},
        "Head": {"name": "DBHead", "k": 50},
    },
    "Loss": {"name": "DBLoss", "balance_loss": True, "main_loss_type": "DiceLoss", "alpha": 5, "beta": 10},
    "PostProcess": {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.6,
        "max_candidates": 1000,
        "unclip_ratio": 1.5,
    },
    "Metric": {"name": "DetMetric"},
    "Train": {
        "dataset": {
            "name": "SimpleDataSet",
            "data_dir": "./data",
            "label_file_list": ["a.txt"],
            "ratio_list": [1.0],
            "transforms": [
                {"DecodeImage": None},
                {"DetLabelEncode": None},
                {"CopyPaste": None},
                {"IaaAugment": {"augmenter_args": [{"type": "Fliplr", "args": {"p": 0.5}}]}},
                {"EastRandomCropData": {"size": [640, 640], "max_tries": 50}},
                {"MakeBorderMap": {"shrink_ratio": 0.4}},
                {"MakeShrinkMap": None},
            ],
        },
        "loader": {"shuffle": True, "batch_size_per_card": 8, "num_workers": 2},
    },
    "Eval": {
        "dataset": {
            "name": "SimpleDataSet",
            "data_dir": "./data",
            "label_file_list": ["b.txt"],
            "transforms": [
                {"DetResizeForTest": {"limit_side_len": 960, "limit_type": "max"}},
                {
                    "NormalizeImage": {
                        "scale": "1./255.",
                        "mean": [0.485, 0.456, 0.406],
                        "std": [0.229, 0.224, 0.225],
                        "order": "hwc",
                    }
                },
            ],
        },
        "loader": {"batch_size_per_card": 1, "num_workers": 1},
    },
}

INFERENCE_YMLS: tuple[Mapping[str, Any], ...] = (
    {
        "Global": {"model_name": "en_PP-OCRv4_mobile_rec"},
        "PreProcess": {
            "transform_ops": [{"DecodeImage": {"img_mode": "BGR"}}, {"RecResizeImg": {"image_shape": [3, 48, 320]}}]
        },
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": list("0123456789abc")},
    },
    {
        "Global": {"model_name": "PP-OCRv4_mobile_det"},
        "PreProcess": {
            "transform_ops": [
                {"DetResizeForTest": {"resize_long": 960}},
                {"NormalizeImage": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "scale": "1/255"}},
            ]
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
    },
    {
        "Global": {"model_name": "PP-LCNet_x1_0_textline_ori"},
        "PreProcess": {
            "transform_ops": [{"ResizeImage": {"size": [160, 80]}}, {"ClsResizeImg": {"image_shape": [3, 48, 192]}}]
        },
        "PostProcess": {"Topk": {"topk": 1, "label_list": ["0_degree", "180_degree"]}},
    },
)


def yaml_text(tree: Any) -> bytes:
    """YAML of a mutated tree. JSON is YAML, but for numbers that only YAML knows."""
    import yaml

    text = yaml.safe_dump(tree, sort_keys=False) if not _has_surrogates(tree) else json.dumps(tree)
    for marker, number in (("'@digits@'", "9" * 5000), ("'@1e400@'", "1e400")):
        text = text.replace(marker, number)
    return text.encode()


def _has_surrogates(tree: Any) -> bool:
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def yaml_attacks(rng: Random, content: bytes) -> Entry:
    """YAML damaged as text: aliases that unfold, numbers of base 60, tags, merges, many small things."""
    key = rng.choice((b"Architecture", b"Global", b"PostProcess", b"PreProcess", b"Train", b"x"))
    layers = b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 10))
    bomb = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + layers
    match rng.randrange(11):
        case 0:
            return bomb + content + b"\n" + key + b": *a9\n"
        case 1:
            return (
                content.replace(rng.choice((b": mine", b": rec", b": CTCLabelDecode", b": true")), b": *a9", 1) + bomb
            )
        case 2:
            place = rng.choice(
                (b"model_type", b"name", b"transforms", b"image_shape", b"character_dict", b"transform_ops")
            )
            return bomb + content.replace(place + b":", place + b": *a9\n    z:", 1)
        case 3:
            return Repeat(key + b": 1", b":1", rng.choice((1_000, 400_000)), b"\n")
        case 4:
            return Repeat(key + b": [", rng.choice((b"a,", b"{},", b"[],", b"1,", b"? ,")), 1_000_000, b"]\n")
        case 5:
            return Repeat(key + b": ", rng.choice((b"[", b"{a: ", b"- ", b"? ")), rng.choice((100, 100_000)))
        case 6:
            tag = rng.choice(
                (
                    b"!!python/object/apply:os.system [id]",
                    b"!!binary x",
                    b"!!timestamp 2001-99-99",
                    b"!!set {a}",
                    b"!!omap [a]",
                    b"!x y",
                    b"!!int 0x",
                    b"!!float x",
                    b"&a *a",
                    b"2001-12-14t21:59:43.10-99:99",
                )
            )
            return content + b"\n" + key + b": " + tag + b"\n"
        case 7:
            return b"z: &z\n  <<: *z\n" + content if rng.random() < 0.5 else content + b"\n<<: [{a: 1}, 2]\n"
        case 8:
            return Repeat(
                content + b"\n", rng.choice((b"? [a]\n: b\n", b"k: &k v\n", b"--- a\n", b"# x\n", b"%YAML 1.2\n")), 2000
            )
        case 9:
            return (
                content
                + b"\n"
                + key
                + b": "
                + rng.choice(
                    (
                        b".inf",
                        b".nan",
                        b"1_0",
                        b"0o7",
                        b"1:30",
                        b"190:20:30.15",
                        b"~",
                        b"9" * 5000,
                        b"1" + b"_" * 9000,
                        b"0x" + b"f" * 9000,
                    )
                )
                + b"\n"
            )
        case _:
            return rng.choice((b"", b"- a", b"x", b"\xff\xfea\0", b"a: b: c", b"\t", b"a: [", b"a:\0b", b"\x85", b"{}"))


class Yaml(Kind):
    """A training configuration, or the settings beside an export."""

    name = "yaml"

    def make(self, rng: Random) -> Case:
        training = rng.random() < 0.6
        tree = rng.choice((TRAINING_YML, DET_YML) if training else INFERENCE_YMLS)
        content: Entry = yaml_text(tree)
        assert isinstance(content, bytes)
        match rng.randrange(8):
            case 0 | 1:
                content = yaml_attacks(rng, content)
            case 2:
                content = mutate_bytes(rng, content)
            case _:
                content = yaml_text(mutate_tree(rng, tree))
        case: dict[str, Entry] = {"config.yml": content}
        if rng.random() < 0.1:
            case["en_dict.txt"] = rng.choice(
                (Link("../secret/key.txt"), Pipe(), Sparse(2**40), b"a\n\x1b\nb\n", b"\xff")
            )
        return case

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.templates import from_yml
        from paddle2torch.training.paddleocr_yml import translate

        path = folder / "config.yml"
        template = from_yml(path)
        use_settings(template.preprocess, template.postprocess)
        translate(path, pretrained=None).lines()


DET_CONFIG: Mapping[str, Any] = {
    "name": "mine",
    "task": "det",
    "form": "training",
    "backbone": {"name": "PPLCNetV3", "scale": 0.75, "det": True},
    "neck": {"name": "RSEFPN", "out_channels": 96, "shortcut": True},
    "head": {"name": "DBHead", "k": 50},
    "preprocess": {
        "limit_side_len": 960,
        "limit_type": "max",
        "channel_order": "BGR",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "postprocess": {
        "thresh": 0.3,
        "box_thresh": 0.6,
        "max_candidates": 1000,
        "unclip_ratio": 1.5,
        "use_dilation": False,
        "score_mode": "fast",
        "box_type": "quad",
    },
    "charset": None,
    "freeze_backbone": False,
    "origin": None,
}


class Settings(Kind):
    """Every JSON that is read as settings: of models, of training, cards, and the cache's and the Hub's own notes."""

    name = "settings"

    @cached_property
    def seeds(self) -> dict[str, bytes]:
        from paddle2torch.model_zoo.cards import CARDS
        from paddle2torch.training.paddleocr_yml import translate

        seeds = {f"{task}/model_config.json": files["model_config.json"] for task, files in small_models().items()}
        seeds["det/model_config.json"] = json.dumps(DET_CONFIG).encode()
        with scratch() as folder:
            for name, tree in (("rec", TRAINING_YML), ("det", DET_YML)):
                (folder / "config.yml").write_bytes(yaml_text(tree))
                seeds[f"{name}/config.json"] = (
                    translate(folder / "config.yml", pretrained=None).settings.dumps().encode()
                )
        seeds["card/en_PP-OCRv4_rec.json"] = (CARDS / "en_PP-OCRv4_rec.json").read_bytes()
        seeds["record/source.json"] = json.dumps(
            {"origin": "x", "source": None, "sha256": {"a.pdparams": "0" * 64}}
        ).encode()
        seeds["part/x.part.json"] = json.dumps({"url": "http://x/", "validator": '"x"', "total": 3}).encode()
        figures = {"model": "crnn", "holds": True, "layers": [{"path": "a", "local": 1e-7}], "reference": "x"}
        seeds["figures/verification.json"] = json.dumps([figures]).encode()
        seeds["results/pages.jsonl"] = b'{"source": "a.png", "page": 1, "lines": []}\n' * 2
        return seeds

    def make(self, rng: Random) -> Case:
        path = rng.choice(list(self.seeds))
        content = self.seeds[path]
        if path.endswith(".jsonl"):
            return {path: mutate_bytes(rng, content) + mutate_json(rng, content.splitlines()[0])}
        case: dict[str, Entry] = {path: mutate_json(rng, content)}
        if path == "part/x.part.json":
            case["part/x.part"] = b"x"
        if path.endswith("/config.json"):
            case[path.replace("config", "model_config")] = self.seeds[path.replace("config", "model_config")]
        return case

    def run(self, folder: Path) -> None:
        import torch

        from paddle2torch.converters.templates import from_card
        from paddle2torch.model_zoo.cards import read_card
        from paddle2torch.model_zoo.config import ModelConfig
        from paddle2torch.model_zoo.network import build_model
        from paddle2torch.ocr.formats import finished_pages
        from paddle2torch.training.config_files import read_settings
        from paddle2torch.zoo import downloads, hub, sources
        from paddle2torch.zoo.hub_card import hub_card

        (inside,) = folder.iterdir()
        match inside.name:
            case "card":
                from_card(read_card(next(inside.iterdir())))
            case "record":
                sources._look_in_cache(inside, "training", None, [])
            case "part":
                downloads._resumable(inside / "x.part", "http://x/")
            case "figures":
                config = ModelConfig.load(self._model(folder))
                hub_card(config, "org/name", "apache-2.0", hub._figures(inside / "verification.json", config))
            case "results":
                # A run that goes on cuts off the line that the last one did not finish.
                finished_pages(Path(shutil.copy(inside / "pages.jsonl", folder.parent / "out")))
            case _ if (inside / "config.json").exists():
                read_settings(inside / "config.json")
            case _:
                config = ModelConfig.load(inside)
                with torch.device("meta"):
                    build_model(config)
                use_settings(config.preprocess, config.postprocess)
                hub_card(config, "org/name", "apache-2.0", None)

    def _model(self, folder: Path) -> Path:
        model = folder.parent / "out" / "model"
        model.mkdir()
        (model / "model_config.json").write_bytes(self.seeds["rec/model_config.json"])
        return model


class Names(Kind):
    """What a user or a file calls a model: names that become paths, addresses or lines on the terminal."""

    name = "names"
    short = 6

    def make(self, rng: Random) -> Case:
        name = rng.choice(
            (
                "../secret",
                "../../x",
                "/tmp/planted",
                "a/b",
                "a/../b",
                ".",
                "..",
                "",
                " ",
                "a\0b",
                "\x1b]0;owned\x07",
                "x" * 5000,
                "~root",
                "-x",
                "C:\\x",
                "zoo",
                ".lock",
                "org/..",
                "org/a--b",
                "\u202etxt",
                "a\nb",
                "%2e%2e/x",
                "en_PP-OCRv4_rec/",
                "../zoo/x",
                "EN_pp-ocrv4_rec",
                "con",
                "@SANDBOX@/secret",
            )
        )
        if rng.random() < 0.3:
            name += rng.choice((".pdparams", "/model_config.json", "\x9b2J", "x" * 300, "/../.."))
        verb = rng.choice(("info", "read", "convert", "convert -o", "verify", "config"))
        return {"name.txt": name.encode(), "verb": verb.encode()}

    def run(self, folder: Path) -> None:
        name = (folder / "name.txt").read_bytes().decode()
        verb = (folder / "verb").read_bytes().decode()
        work = folder.parent / "out"
        checkpoint = work / "x.pdparams"
        if verb.startswith("conv"):
            checkpoint.write_bytes(pickle.dumps(Pickle().network))
            chars = work / "chars.txt"
            chars.write_text("a\nb\nc\n")
            more = ["-o", work / "m"] if verb.endswith("-o") else []
            command("convert", "--weights", checkpoint, "--charset", chars, *more, "--", name)
        elif verb == "config":
            from paddle2torch.compiled.network import library_path
            from paddle2torch.zoo.folder import load_model

            model = work / "m"
            model.mkdir()
            for file, content in small_models()["rec"].items():
                (model / file).write_bytes(content)
            config = json.loads((model / "model_config.json").read_bytes())
            (model / "model_config.json").write_text(json.dumps(config | {"name": name}))
            load_model(model)
            path = library_path(model)
            cache = Path(os.environ["PADDLE2TORCH_HOME"]).resolve()
            if not path.resolve().is_relative_to(cache):
                raise BrokenPromiseError(f"the compiled package would be {path}, outside the cache")
        else:
            command(verb, "--", name, *([folder / "x.png"] if verb == "read" else []))
