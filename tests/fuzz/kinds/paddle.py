"""Paddle's own files: checkpoints, programs, parameters."""

from __future__ import annotations

import copy
import gzip
import io
import json
import pickle
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from fuzz.cases import Case
from fuzz.kinds import (
    Kind,
    encoders,
    scratch,
)
from fuzz.mutate import (
    VALUES,
    dumps,
    json_attacks,
    mutate_bytes,
    mutate_fields,
    mutate_pickle,
    mutate_tree,
)


class Pickle(Kind):
    """A training checkpoint."""

    name = "pickle"

    @cached_property
    def tensors(self) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        tensors: dict[str, Any] = {
            f"layer{i}.weight": generator.normal(size=(2, 3)).astype("float32") for i in range(4)
        }
        tensors |= {"half": np.ones(2, "uint16"), "order": np.asfortranarray(np.ones((2, 3))), "epoch": 3, "acc": 0.5}
        tensors |= {"named": ("linear_0.b_0", np.ones(3, "float32")), "score": np.float64(1.5)}
        return tensors | {"StructuredToParameterName@@": {"layer0.weight": "linear_0.w_0"}}

    @cached_property
    def network(self) -> dict[str, np.ndarray]:
        from small_models import fill, lstm_config

        from paddle2torch.converters.layout import layout_table, to_paddle
        from paddle2torch.model_zoo.network import build_model

        model = build_model(lstm_config()).eval()
        fill(model)
        return to_paddle(layout_table(model), model.state_dict())

    def make(self, rng: Random) -> Case:
        if rng.random() < 0.3:
            return {"best_accuracy.pdparams": pickle.dumps(self._other_tensors(rng), rng.choice((2, 4)))}
        content = pickle.dumps(self.tensors, rng.choice((2, 3, 4, 5)))
        damage = rng.choice((mutate_bytes, mutate_pickle, mutate_pickle))
        return {"best_accuracy.pdparams": damage(rng, content)}

    def _other_tensors(self, rng: Random) -> dict[Any, Any]:
        """A real network's, some of them renamed, of another shape or type, or not there."""
        tensors: dict[Any, Any] = dict(self.network)
        for _ in range(rng.choice((1, 1, 2, 5))):
            name = rng.choice(list(tensors))
            array = np.asarray(self.network.get(name, np.ones(3, "float32")))
            match rng.randrange(7):
                case 0:
                    del tensors[name]
                case 1:
                    tensors[rng.choice(("\x1b[31m", "x" * 900, name + ".x", "Student." + name, "a\nb", ""))] = array
                case 2:
                    tensors[name] = array.astype(
                        rng.choice(("int8", "float16", "bool", "complex64", "float64", "int64"))
                    )
                case 3:
                    tensors[name] = array.reshape(-1)[: rng.choice((0, 1, 3))]
                case 4:
                    tensors[name] = array.reshape(*array.shape, *[1] * rng.choice((1, 20)))
                case 5:
                    tensors[name] = np.full(array.shape, rng.choice((np.nan, np.inf, 1e38)), array.dtype)
                case _:
                    tensors[name] = rng.choice(VALUES)
        return tensors

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.convert import convert_files

        convert_files(folder / "best_accuracy.pdparams", None, name="fuzzed")


class Program(Kind):
    """An exported program with its parameters and settings."""

    @cached_property
    def parameters(self) -> bytes:
        files = encoders()
        record: bytes = files.record(np.ones(4, "float32")) + files.record(np.ones((4, 3, 1, 1), "float32"))
        return record

    def with_parameters(self, rng: Random, name: str, program: bytes) -> Case:
        parameters = mutate_bytes(rng, self.parameters) if rng.random() < 0.1 else self.parameters
        return {name: program, "inference.pdiparams": parameters}

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.convert import convert_files
        from paddle2torch.converters.paddle_files.exports import read_program
        from paddle2torch.converters.paddle_files.pdiparams import read_parameters
        from paddle2torch.converters.templates import from_card
        from paddle2torch.model_zoo.cards import load_card

        program, parameters = read_program(folder)
        read_parameters(program, parameters)
        # One network: all of them take half a second.
        convert_files(folder, from_card(load_card("ch_ppocr_mobile_v2.0_cls")), name="fuzzed")


class Pdmodel(Program):
    """A legacy program."""

    name = "protobuf"

    def make(self, rng: Random) -> Case:
        content = encoders().small_pdmodel()
        damage = rng.choice((mutate_bytes, mutate_fields, mutate_fields))
        return self.with_parameters(rng, "inference.pdmodel", damage(rng, content))


class Pir(Program):
    """A program of Paddle 3."""

    name = "pir"

    def make(self, rng: Random) -> Case:
        content = encoders().small_pir()
        match rng.randrange(8):
            case 0:
                content = json_attacks(rng, content)
            case 1 | 2:
                content = mutate_bytes(rng, content)
            case _:
                content = dumps(mutate_tree(rng, json.loads(content)))
        return self.with_parameters(rng, "inference.json", content)


class Export(Kind):
    """A real export, of which the program says something else: sizes, attributes, operations; the parameters stay."""

    name = "export"
    short = 4
    memory = 500 << 20  # a network that fits is run beside its program, in float64
    card = "PP-LCNet_x1_0_textline_ori"

    @cached_property
    def program(self) -> dict[str, Any]:
        path = Path(__file__).parents[2] / "goldens" / "family" / f"{self.card}.program.json.gz"
        program: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))["program"]
        return program

    @cached_property
    def parameters(self) -> bytes:
        from paddle2torch.converters.paddle_files.pdiparams import write_parameters
        from paddle2torch.converters.paddle_files.pir import read_pir

        with scratch() as folder:
            (folder / "inference.json").write_text(json.dumps(self.program))
            program = read_pir(folder / "inference.json")
        shapes = {name: program.values[name].shape for name in program.parameters}
        out = io.BytesIO()
        write_parameters(out, program, {name: np.full(shape, 0.5, "float32") for name, shape in shapes.items()})
        return out.getvalue()

    def make(self, rng: Random) -> Case:
        program = copy.deepcopy(self.program)
        operations = program["program"]["regions"][0]["blocks"][0]["ops"]
        place = rng.randrange(len(operations))
        match rng.randrange(8):
            case 0:  # as a network of other widths would say
                old, new = rng.choice((16, 32, 64, 512)), rng.choice((0, 1, 30_000, 2**31 - 1, 2**62))
                for operation in operations:
                    for result in operation["O"]:
                        shape = result.get("TT", {}).get("D", [None, []])[1] if isinstance(result, dict) else []
                        if isinstance(shape, list):
                            shape[:] = [new if size == old else size for size in shape]
            case 1:
                del operations[place]
            case 2:
                operations[place:place] = [copy.deepcopy(operations[place])] * rng.choice((1, 1000))
            case 3:
                other = rng.randrange(len(operations))
                operations[place], operations[other] = operations[other], operations[place]
            case 4:
                operations[place]["I"] = operations[place].get("I", [])[1:]
            case _:
                operations[place] = mutate_tree(rng, operations[place])
        return {"inference.json": dumps(program), "inference.pdiparams": self.parameters}

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.convert import convert_files
        from paddle2torch.converters.templates import from_card
        from paddle2torch.model_zoo.cards import load_card

        convert_files(folder, from_card(load_card(self.card)), name="fuzzed")


class Pdiparams(Kind):
    """Parameters of an export whose program is sound."""

    name = "pdiparams"

    def make(self, rng: Random) -> Case:
        files = encoders()
        if rng.random() < 0.5:
            array = np.ones(rng.choice(((4,), (4, 3, 1, 1), ())), "float32")
            description = mutate_fields(rng, files.tensor_desc(rng.choice((0, 1, 2, 4, 5, 6, 22, 23, 99)), array.shape))
            content = files.record(array, description) + files.record(np.ones(4, "float32"))
        else:
            content = files.record(np.ones(4, "float32")) + files.record(np.ones((4, 3, 1, 1), "float32"))
            content = mutate_bytes(rng, content)
        return {"inference.pdiparams": content, "inference.json": files.small_pir()}

    def run(self, folder: Path) -> None:
        from paddle2torch.converters.paddle_files.pdiparams import read_parameters, read_pdiparams
        from paddle2torch.converters.paddle_files.pir import read_pir

        path = folder / "inference.pdiparams"
        read_parameters(read_pir(folder / "inference.json"), path)
        read_pdiparams(path, ["w", "b"])
