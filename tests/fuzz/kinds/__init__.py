"""The kinds of outside files: how an input of each is made, and what of the library reads it.

A new kind is one subclass of `Kind` with `make` and `run` in a module of this package; it is found by itself. `make`
draws from the generator alone, so that a seed and a number are an input. `run` returns for what is accepted and raises
`Paddle2TorchError` for what is refused; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import pkgutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from fuzz.cases import Case
from fuzz.mutate import dumps, json_attacks, mutate_bytes, mutate_tree

from paddle2torch.model_zoo.errors import Paddle2TorchError


class RefusedError(Paddle2TorchError):
    """A command of the command line ended with a message and status 1."""


class BrokenPromiseError(Exception):
    """What no outside file may bring about came about."""


class Kind:
    """One kind of outside file. `folder` has the input; results may go to the folder `out` beside it."""

    name: ClassVar[str]
    short: ClassVar[int] = 12
    """How many inputs of it the test suite tries."""
    seconds: ClassVar[float] = 2.0
    """Of processor time for one input."""
    memory: ClassVar[int] = 300 << 20
    """Bytes that reading one input may take, above what the process had."""

    def prepare(self) -> None:
        """Import and make what inputs have in common, so that none of them is measured with it."""
        import torch

        import paddle2torch.api
        import paddle2torch.cli.convert
        import paddle2torch.cli.read  # noqa: F401

        torch.set_num_threads(1)
        self.make(Random(0))

    def make(self, rng: Random) -> Case:
        """An input."""
        raise NotImplementedError

    def run(self, folder: Path) -> None:
        """Give the input to the library."""
        raise NotImplementedError


def command(*arguments: object) -> str:
    """Run the command line in this process: what it printed, on both streams. Raises `RefusedError`."""
    from click.testing import CliRunner

    from paddle2torch.cli import main

    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    escaped = {character for character in result.output if not character.isprintable()} - {"\n", "\t"}
    if escaped:
        raise BrokenPromiseError(f"control characters on a terminal: {sorted(escaped)!r} in {result.output[:300]!r}")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code != 0:
        raise RefusedError(result.output)
    return result.output


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for making a seed."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@functools.cache
def encoders() -> Any:
    """The encoders of Paddle's formats that the tests of the readers use."""
    path = Path(__file__).parents[2] / "converters" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fuzz_encoders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PaddleFiles


@functools.cache
def small_models() -> dict[str, dict[str, bytes]]:
    """The files of a small recogniser and a small classifier."""
    from small_models import card_network, fill, lstm_config, saved

    from paddle2torch.model_zoo.network import build_model

    config = lstm_config()
    # These strides leave a line of 32 pixels the height of one that the LSTM reads.
    backbone = replace(config.backbone, options={**config.backbone.options, "small_stride": [1, 2, 2, 2]})
    rec = build_model(replace(config, backbone=backbone)).eval()
    fill(rec)
    found = {}
    for name, network in {"rec": rec, "cls": card_network("PP-LCNet_x0_25_textline_ori")}.items():
        with scratch() as folder:
            found[name] = files_of(saved(folder / "m", network))
    return found


def mutate_json(rng: Random, content: bytes) -> bytes:
    """JSON settings damaged as a tree, as bytes or as text."""
    match rng.randrange(10):
        case 0:
            return json_attacks(rng, content)
        case 1:
            return mutate_bytes(rng, content)
    return dumps(mutate_tree(rng, json.loads(content)))


def line_image() -> bytes:
    """A small line image as PNG."""
    import cv2

    return bytes(cv2.imencode(".png", np.tile(np.arange(100, dtype=np.uint8), (32, 1)))[1])


def use_settings(preprocess: Any, postprocess: Any) -> None:
    """Prepare a small image with pre-processing settings that were accepted, and decode with the post-processing."""
    from paddle2torch.model_zoo.config import ClsPreprocess, DBPostprocess, DetPreprocess, RecPreprocess
    from paddle2torch.tasks import detection, orientation, recognition

    image = np.full((40, 120, 3), 200, np.uint8)
    if isinstance(preprocess, RecPreprocess):
        height = preprocess.image_shape[1]
        width = recognition.padded_width(3.0, preprocess)
        row = np.empty((3, height, width), np.float32)
        recognition.resize_norm(image, height, width, preprocess, row)
    elif isinstance(preprocess, DetPreprocess):
        detection.preprocess(image, preprocess)
    elif isinstance(preprocess, ClsPreprocess):
        orientation.preprocess(image, preprocess)
    if isinstance(postprocess, DBPostprocess):
        probabilities = np.zeros((64, 64), np.float32)
        probabilities[20:40, 10:50] = 0.9
        detection.boxes_from_map(probabilities, postprocess, (64, 64))


def find_kinds(base: type[Kind] = Kind) -> dict[str, Kind]:
    """Every kind by its name, but for those that need a package that is not here."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    found: dict[str, Kind] = {}
    for kind in base.__subclasses__():
        if "name" in vars(kind):
            with contextlib.suppress(ImportError):
                found[kind.name] = kind()
        found |= find_kinds(kind)
    return found
