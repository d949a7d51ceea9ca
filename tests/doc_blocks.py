"""The code in the pages, and a reader who types it: page by page, with small models under official names.

A block that cannot be run says so where everybody sees it, in its title: `title="Not run in the tests: needs a GPU"`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import program_cases
import torch
import yaml
from click.testing import CliRunner
from material import ROOT
from PIL import Image
from small_models import classifier_config, fill, write_pdparams
from tiny_training import tiny_config, tiny_det_config, tiny_v4_config

from paddle2torch.cache import zoo_dir
from paddle2torch.cli import main
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.model_zoo.cards import list_cards
from paddle2torch.model_zoo.config import ModelConfig
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.zoo.folder import save_model
from paddle2torch.zoo.models import pipeline_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = "Not run in the tests: "
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]*)"')
PROGRAM = "paddle2torch"
LETTERS = tuple("abcdefg")
CONFIGS = {
    "rec": tiny_v4_config(charset=LETTERS),
    "det": tiny_det_config(),
    "cls": classifier_config("classifier"),
}
SHORTER: dict[tuple[str, ...], tuple[str, ...]] = {("bench", "loader"): ("--seconds", "1")}
"""What is added to commands that measure for a while unless one says for how long."""
OWN = ("plates", "mine", "my_model")
"""Models of a reader's own that pages go on with."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: of its fence, from 1. `not_run`: why the tests do not run it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def commands(self) -> list[str]:
        """The lines of a shell, continued ones joined, without comments and empty ones."""
        joined = self.text.replace("\\\n", " ")
        return [command for line in joined.splitlines() if (command := shlex.join(shlex.split(line, comments=True)))]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        title = TITLE.search(match[2])
        reason = title[1].removeprefix(NOT_RUN) if title and title[1].startswith(NOT_RUN) else None
        found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], match[3], reason))
    return found


class Reader:
    """Somebody who types what a page says, in `folder`: with files, and models in the local zoo, as pages name them.

    A command that has run already, of whichever page, is not run again: what it wrote is still there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: set[str] = set()
        _write_files(folder)
        _write_models()
        self._run(f"{PROGRAM} init en_PP-OCRv4_rec -o run")  # where several pages begin
        self._run(f"{PROGRAM} data export label-studio Label.txt -o export.json")

    def read(self, page: Path) -> list[str]:
        """Run all blocks of a page that are not marked; what went wrong."""
        names: dict[str, Any] = {"x": torch.zeros(1, 3, 48, 96)}
        wrong = []
        for block in blocks(page):
            for part in self._parts(block):
                try:
                    if block.language == "sh":
                        self._run(part)
                    elif block.language == "python":
                        exec(compile(part, page.name, "exec"), names)
                    elif block.language in ("json", "yaml"):
                        assert yaml.safe_load(part)
                    else:
                        raise ValueError(f"{block.language!r} cannot be run here: mark the block")
                except (Exception, SystemExit) as error:
                    wrong.append(f"{page.name}, line {block.line}: {part}: {error!r}")
        return wrong

    def _parts(self, block: Block) -> list[str]:
        if block.not_run is not None or block.language == "text":
            return []
        return block.commands() if block.language == "sh" else [block.text]

    def _run(self, command: str) -> None:
        if command in self._done:
            return
        words = shlex.split(command)
        target: Path | None = None
        if ">" in words:
            target = Path(words[-1])
            words = words[:-2]
        if words[0] != PROGRAM:
            raise ValueError("cannot be run here: mark the block")
        self._make_room(words)
        done = CliRunner().invoke(main, [*words[1:], *SHORTER.get(tuple(words[1:3]), ())])
        if done.exit_code != 0:
            raise ValueError(f"{done.output} {done.exception!r}")
        if target is not None:
            target.write_text(done.stdout, encoding="utf-8")
        if words[1] == "init":
            _edit(Path(words[words.index("-o") + 1]) / "config.json")
        self._done.add(command)

    def _make_room(self, words: list[str]) -> None:
        """Pages show several ways to write one thing."""
        output = [words[place + 1] for place, word in enumerate(words[:-1]) if word in ("-o", "--output")]
        if words[1] == "convert" and not output:
            output = [str(zoo_dir() / words[2])]
        for path in map(Path, output):
            if "--resume" not in words and path.is_dir():
                shutil.rmtree(path)
            elif "--resume" not in words:
                path.unlink(missing_ok=True)


def _edit(path: Path) -> None:
    """What a reader changes in `config.json` for the few pictures of these tests."""
    settings = json.loads(path.read_text())
    settings["data"]["train"]["sampler"] = {"first_bs": 4}
    for split in ("train", "eval"):
        settings["data"][split]["loader"] |= {"num_workers": 0}
    settings["training"]["epochs"] = 1
    path.write_text(json.dumps(settings))


def _write_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("receipt.jpg", "page.jpg", "line.png", "line1.png", "line2.png", "scans/a.png", "more/b/c.png"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        shape = (48, 96, 3) if "line" in name else (64, 160, 3)
        cv2.imwrite(str(folder / name), rng.integers(0, 256, shape, dtype=np.uint8))
    for name, count in (("scan.pdf", 1), ("contract.pdf", 2)):
        first, *others = [Image.new("RGB", (160, 64), "white") for _ in range(count)]
        first.save(folder / name, save_all=True, append_images=others)
    for split in ("train_list.txt", "val_list.txt"):
        data = folder / "train_data"
        data.mkdir(exist_ok=True)
        for number in range(4):
            image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(data / f"{split[:3]}{number}.png"), image)
        (data / split).write_text("".join(f"{split[:3]}{number}.png\tabc\n" for number in range(4)), encoding="utf-8")
    for path in (folder / "my_dict.txt", folder / "output" / "my_dict.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{character}\n" for character in LETTERS), encoding="utf-8")
    (folder / "digits.txt").write_text("0\n1\n2\n", encoding="utf-8")
    label = [{"transcription": "abc", "points": [[10, 10], [90, 10], [90, 40], [10, 40]]}]
    (folder / "Label.txt").write_text(f"scans/a.png\t{json.dumps(label)}\n", encoding="utf-8")
    _write_checkpoints(folder)
    _write_exports(folder)


def _write_checkpoints(folder: Path) -> None:
    own = network(tiny_config(charset=LETTERS))
    tensors = to_paddle(layout_table(own), own.state_dict())
    (folder / "det").mkdir()
    write_pdparams(folder / "output" / "best_accuracy.pdparams", tensors)
    neck = {"name": "svtr", "dims": 16, "depth": 1, "hidden_dims": 16, "kernel_size": [1, 3], "use_guide": True}
    nrtr = {"nrtr_dim": 32, "max_text_length": 12}
    architecture = {
        "model_type": "rec",
        "algorithm": "SVTR_LCNet",
        "Transform": None,
        "Backbone": {"name": "MobileNetV1Enhance", "scale": 0.125},
        "Head": {"name": "MultiHead", "head_list": [{"CTCHead": {"Neck": neck}}, {"NRTRHead": nrtr}]},
    }
    settings = {"Global": {"character_dict_path": "my_dict.txt"}, "Architecture": architecture}
    (folder / "output" / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    both = {f"{of}.{key}": value for of in ("Student", "Teacher") for key, value in tensors.items()}
    write_pdparams(folder / "distilled.pdparams", both)
    english = network(tiny_config(charset=tuple(f"{place:02}" for place in range(96))))
    write_pdparams(folder / "english.pdparams", to_paddle(layout_table(english), english.state_dict()))
    det = network(tiny_det_config())
    write_pdparams(folder / "det" / "best_accuracy.pdparams", to_paddle(layout_table(det), det.state_dict()))


def _write_exports(folder: Path) -> None:
    for name in ("picodet_infer", "my_model_infer"):
        shutil.copytree(program_cases.GOLDENS / "networks_convnet", folder / name)
    np.savez(folder / "inputs.npz", x0=np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 20)).astype(np.float32))


def network(config: ModelConfig) -> Network:
    """The network, filled; a detector finds one line, the whole page, a recogniser is sure of what it says."""
    model = build_model(config).eval()
    fill(model)
    with torch.no_grad():
        if config.task == "det":
            model.get_parameter("head.binarize.conv3.bias").fill_(9.0)
        elif config.task == "rec":
            model.get_parameter("head.ctc_head.fc.weight").mul_(50)
    return model


def _write_models() -> None:
    """Small models in the local zoo: under each official name that a page has or means, and a reader's own."""
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    languages = re.findall(r'--lang (\w+)|(?:lang=|OCR\()"(\w+)"', pages)
    chosen = [pipeline_of(a or b, version) for a, b in {*languages, ("en", "")} for version in (None, "v4", "v5")]
    meant = {name for pipeline in chosen for name in (pipeline.det, pipeline.rec, pipeline.cls)}
    networks = {task: network(config) for task, config in CONFIGS.items()}
    for card in list_cards():
        if card.name in meant or card.name in pages:
            _save(card.name, networks[card.task])
    for name in OWN:
        _save(name, networks["rec"])
    _save("pages_det", networks["det"])


def _save(name: str, model: Network) -> None:
    save_model(zoo_dir() / name, replace(model.config, name=name), model.state_dict())
