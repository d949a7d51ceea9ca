"""Folders of converted models, and goldens."""

from __future__ import annotations

import json
import struct
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz.cases import Case, Entry, Link, Pipe, Sparse
from fuzz.kinds import (
    Kind,
    command,
    line_image,
    mutate_json,
    scratch,
    small_models,
)
from fuzz.mutate import (
    dumps,
    mutate_bytes,
    mutate_tree,
)


def safetensors_parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def mutate_safetensors(rng: Random, content: bytes) -> bytes:
    """A safetensors file with another header: names, types, shapes, places, or lengths."""
    header, data = safetensors_parts(content)
    match rng.randrange(8):
        case 0:
            return mutate_bytes(rng, content)
        case 1:
            return struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, 100_000_001))) + content[8:]
        case 2:
            names = rng.sample(list(header), 2)
            header[names[0]], header[names[1]] = header[names[1]], header[names[0]]
        case 3:
            renamed = rng.choice(list(header))
            header[rng.choice(("\x1b]0;owned\x07", "../x", "x" * 4000, renamed + "x"))] = header.pop(renamed)
        case 4:
            name = rng.choice([name for name in header if name != "__metadata__"])
            header[name]["dtype"] = rng.choice(("I8", "U8", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "I64", "C64"))
        case 5:
            data = np.full(len(data) // 4, rng.choice((np.nan, np.inf, 1e38, 0.0)), "float32").tobytes()
        case _:
            header = mutate_tree(rng, header)
    encoded = dumps(header)
    return struct.pack("<Q", len(encoded)) + encoded + data


class Model(Kind):
    """The folder of a converted model: `info` and `read` of the command line use it."""

    name = "model"
    short = 4
    seconds = 6.0  # three commands

    def make(self, rng: Random) -> Case:
        task = rng.choice(("rec", "rec", "cls"))
        case: dict[str, Entry] = dict(small_models()[task])
        match rng.randrange(6):
            case 0 | 1 | 2:
                config = small_models()[task]["model_config.json"]
                case["model_config.json"] = mutate_json(rng, config)
            case 3 | 4:
                case["model.safetensors"] = mutate_safetensors(rng, small_models()[task]["model.safetensors"])
            case _:
                name = rng.choice(
                    ("model.safetensors", "model_config.json", "int8.safetensors", "README.md", "hub.json")
                )
                case[name] = rng.choice(
                    (Link("../secret/key.txt"), Link("."), Link(name), Pipe(), Sparse(2**40), b"", Link("/dev/zero"))
                )
        return {f"m/{name}": entry for name, entry in case.items()} | {"line.png": line_image()}

    def run(self, folder: Path) -> None:
        info = command("info", folder / "m")
        command("info", folder / "m", "--json")
        if "rec" in info.split():
            command("read", folder / "m", folder / "line.png")
        else:
            from paddle2torch.api import load_pretrained
            from paddle2torch.tasks.images import load_image
            from paddle2torch.tasks.orientation import Classifier

            network = load_pretrained(folder / "m", fused=True)
            Classifier(network, network.config)([load_image(folder / "line.png")])


class Golden(Kind):
    """A stored golden, given to `verify --reference`, and the int8 form of a model."""

    name = "golden"
    short = 4

    @cached_property
    def seed(self) -> bytes:
        from paddle2torch.model_zoo.config import ModelConfig
        from paddle2torch.parity.golden import Golden as Stored
        from paddle2torch.parity.golden import save_golden

        with scratch() as folder:
            (folder / "model_config.json").write_bytes(small_models()["rec"]["model_config.json"])
            ModelConfig.load(folder)
            values = np.ones(12, "float32")
            layers = {"backbone": values, "head": values, "output": values}
            stored = Stored(
                "x",
                "training",
                "3.0",
                {"a": "0" * 64},
                np.ones((1, 3, 32, 100), "float32"),
                layers,
                dict.fromkeys(layers, (1, 12)),
                dict.fromkeys(layers, 1.0),
                np.ones((1, 25), "int64"),
                np.ones((1, 25), "float32"),
            )
            save_golden(stored, folder / "golden.safetensors")
            return (folder / "golden.safetensors").read_bytes()

    def make(self, rng: Random) -> Case:
        case: dict[str, Entry] = {f"m/{name}": content for name, content in small_models()["rec"].items()}
        if rng.random() < 0.3:
            case["m/int8.safetensors"] = mutate_safetensors(rng, self.seed)
        header, data = safetensors_parts(self.seed)
        if rng.random() < 0.6:
            inner = mutate_tree(rng, json.loads(header["__metadata__"]["golden"]))
            header["__metadata__"]["golden"] = dumps(inner).decode("ascii", "replace")
            encoded = json.dumps(header).encode()
            case["golden.safetensors"] = struct.pack("<Q", len(encoded)) + encoded + data
        else:
            case["golden.safetensors"] = mutate_safetensors(rng, self.seed)
        return case

    def run(self, folder: Path) -> None:
        if (folder / "m" / "int8.safetensors").exists():
            from paddle2torch.zoo.folder import load_quantized

            load_quantized(folder / "m")
        command(
            "verify", folder / "m", "--reference", folder / "golden.safetensors", "--report", folder / "../out/r.html"
        )
